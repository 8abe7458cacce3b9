"""Which device, which dtype, and the stream scope in which a request's update runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


def pick(name: str = "auto") -> torch.device:
    """`auto` is the GPU when there is one; otherwise any device string of torch.

    Raises:
        ValueError: the named device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device {name!r}: use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} was asked for, but torch sees no CUDA device")
    return device


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU and on a CPU with AMX tiles, else float32.

    Measured on an AVX-512 CPU without AMX: bfloat16 multiplies matrices no faster than float32 and vectors (decoding) at
    half the bandwidth, so decoding is slower in spite of half the bytes.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if torch.cpu.get_capabilities().get("amx_bf16", False) else torch.float32


def training_dtype(device: torch.device) -> torch.dtype:
    """As `fast_dtype`; on a CPU bfloat16 also where it multiplies matrices of a training step's size twice as fast: measured,
    since no flag tells (some CPUs with AVX-512 bfloat16 products gain nothing, others a factor of 4.7).
    """
    if device.type == "cuda":
        return fast_dtype(device)
    usual = _product_s(torch.float32)
    if _product_s(torch.bfloat16, 1) > 8 * usual:  # made of other instructions: seconds each, and no second look is needed
        return torch.float32
    return torch.bfloat16 if 2 * _product_s(torch.bfloat16) < usual else torch.float32


def _product_s(dtype: torch.dtype, tries: int = 5) -> float:
    """Best of so many products (512, 576) x (576, 1536), in seconds."""
    a, b = torch.ones(512, 576, dtype=dtype), torch.ones(576, 1536, dtype=dtype)
    best = float("inf")
    for _ in range(tries):
        started = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - started)
    return best


@dataclass(frozen=True)
class RequestStream:
    """The scope of one request's update; `stream` is None on the CPU."""

    stream: torch.cuda.Stream | None = None

    def record(self, *tensors: Tensor) -> None:
        """Tell the allocator that these tensors, made on another stream, are used on this one."""
        if self.stream is not None:
            for tensor in tensors:
                if tensor.is_cuda:
                    tensor.record_stream(self.stream)


@contextmanager
def request_stream(device: torch.device) -> Iterator[RequestStream]:
    """Run a request's update in its own CUDA stream, behind the caller's stream and before whatever follows on it.

    The stream comes from torch's pool. Never hold this scope across an `await`: another task would inherit the stream.
    On the CPU the scope does nothing.
    """
    if device.type != "cuda":
        yield RequestStream()
        return
    outer = torch.cuda.current_stream(device)
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_event(outer.record_event())
    with torch.cuda.stream(stream):
        yield RequestStream(stream)
    outer.wait_event(stream.record_event())
