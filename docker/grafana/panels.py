"""What the three dashboards show: every panel with its queries and its unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FAILED = 'status=~"5.."'
IN_SCOPE, MAYBE = 'decision="in"', 'decision="maybe"'
QUANTILES = (0.5, 0.9, 0.99)
RATE = "$__rate_interval"


@dataclass(frozen=True)
class Panel:
    """One panel.

    Args:
        queries: legend to PromQL.
        unit: Grafana's name of it.
        about: what the panel tells, in its corner.
        gpu: it has data only where the model is on a CUDA device.
    """

    title: str
    queries: dict[str, str]
    unit: str
    kind: Literal["timeseries", "stat", "heatmap"] = "timeseries"
    about: str = ""
    gpu: bool = False


def rate(metric: str, selector: str = "", by: str = "") -> str:
    """Per second."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{f'{{{selector}}}' if selector else ''}[{RATE}]))"


def quantile(q: float, histogram: str, selector: str = "", by: str = "") -> str:
    """A quantile of a histogram."""
    return f"histogram_quantile({q}, {rate(f'{histogram}_bucket', selector, f'le, {by}' if by else 'le')})"


def quantiles(histogram: str, selector: str = "") -> dict[str, str]:
    return {f"p{q * 100:g}": quantile(q, histogram, selector) for q in QUANTILES}


def phases(operation: str, q: float) -> dict[str, str]:
    return {"{{phase}}": quantile(q, "larimar_update_seconds", f'operation="{operation}"', "phase")}


def total(operation: str) -> str:
    return f'operation="{operation}", phase="total"'


UPDATES = [
    Panel("Updates per second", {"updates": rate("larimar_update_seconds_count", 'phase="total"')}, "ops", "stat"),
    Panel("Write, p99", {"p99": quantile(0.99, "larimar_update_seconds", total("write"))}, "s", "stat"),
    Panel("Forget, p99", {"p99": quantile(0.99, "larimar_update_seconds", total("forget"))}, "s", "stat"),
    Panel("Largest residual", {"residual": "max(larimar_residual_max)"}, "sci", "stat", "Relative, of the last 256 updates"),
    Panel("Write latency", quantiles("larimar_update_seconds", total("write")), "s", about="From the request to the durable answer"),
    Panel("Forget latency", quantiles("larimar_update_seconds", total("forget")), "s", about="From the request to the receipt"),
    *(Panel(f"Write by phase, p{q * 100:g}", phases("write", q), "s") for q in QUANTILES),
    Panel("Forget by phase, p99", phases("forget", 0.99), "s"),
    Panel(
        "Write latency, heat map",
        {"{{le}}": f"sum by (le) (increase(larimar_update_seconds_bucket{{{total('write')}}}[{RATE}]))"},
        "s",
        "heatmap",
    ),
    Panel("Updates by operation", {"{{operation}}": rate("larimar_update_seconds_count", 'phase="total"', "operation")}, "ops"),
    Panel("Facts by what became of them", {"{{change}}": rate("larimar_fact_changes_total", by="change")}, "cps"),
    Panel(
        "Batch sizes, mean",
        {"{{kind}}": f"{rate('larimar_batch_size_sum', by='kind')} / ({rate('larimar_batch_size_count', by='kind')} > 0)"},
        "short",
        about="Items that shared one pass of the model or one commit",
    ),
    Panel("Residual", {"largest": "max(larimar_residual_max)"}, "sci", about="A page is solved again when drift passes 1e-8"),
]

SERVICE = [
    Panel("Requests per second", {"{{route}}": rate("larimar_requests_total", by="route")}, "reqps"),
    Panel(
        "Share of failed requests",
        {"5xx": f"({rate('larimar_requests_total', FAILED)} or vector(0)) / {rate('larimar_requests_total')}"},
        "percentunit",
    ),
    Panel("Request duration, p50", {"{{route}}": quantile(0.5, "larimar_request_seconds", by="route")}, "s"),
    Panel("Request duration, p99", {"{{route}}": quantile(0.99, "larimar_request_seconds", by="route")}, "s"),
    Panel("Answers by status", {"{{status}}": rate("larimar_requests_total", by="status")}, "reqps"),
    Panel("Errors by code", {"{{code}}": rate("larimar_errors_total", by="code")}, "cps"),
    Panel(
        "Queue",
        {"waiting": "sum(larimar_queue_depth)", "room": "sum(larimar_queue_size)", "look-ups waiting": "sum(larimar_lookup_queue_depth)"},
        "short",
    ),
    Panel("Wait in the queue", quantiles("larimar_queue_seconds"), "s"),
    Panel("Tokens", {"generated": rate("larimar_generated_tokens_total"), "prompts": rate("larimar_prompt_tokens_total")}, "cps"),
    Panel("Time to first token", quantiles("larimar_time_to_first_token_seconds"), "s"),
    Panel("Generation", quantiles("larimar_generate_seconds"), "s"),
    Panel("Encoding", quantiles("larimar_encode_seconds"), "s"),
    Panel(
        "Process memory",
        {"resident": "sum(process_resident_memory_bytes)", "index of data keys": "sum(larimar_key_index_bytes)"},
        "bytes",
    ),
    Panel("Processor", {"cores": rate("process_cpu_seconds_total")}, "short"),
    Panel("GPU memory", {"{{kind}}": "sum by (kind) (larimar_gpu_memory_bytes)"}, "bytes", gpu=True),
]

MEMORY = [
    Panel("Facts", {"facts": "sum(larimar_facts)"}, "short", "stat"),
    Panel("Pages", {"pages": "sum(larimar_pages)"}, "short", "stat"),
    Panel("Tenants in memory", {"tenants": "sum(larimar_loaded_tenants)"}, "short", "stat"),
    Panel("Bytes per fact", {"bytes": "sum(larimar_memory_bytes) / (sum(larimar_facts) > 0)"}, "bytes", "stat"),
    Panel("Facts over time", {"facts": "sum(larimar_facts)"}, "short"),
    Panel("Bytes of pages", {"bytes": "sum(larimar_memory_bytes)"}, "bytes"),
    Panel(
        "Scope hit rate",
        {
            name: f"{rate('larimar_scope_total', decision)} / ({rate('larimar_scope_total')} > 0)"
            for name, decision in (("in scope", IN_SCOPE), ("maybe", MAYBE))
        },
        "percentunit",
        about="Share of prompts that a fact answers, and that one may answer",
    ),
    Panel("Reader", quantiles("larimar_reader_seconds"), "s", about="One pass over a prompt's pairs of question and fact; a prompt takes one or two"),
    Panel(
        "Pairs read",
        {
            "per second": rate("larimar_reader_pairs_total"),
            "per pass": f"{rate('larimar_reader_pairs_total')} / ({rate('larimar_reader_seconds_count')} > 0)",
        },
        "short",
    ),
    Panel("Reader is calibrated", {"calibrated": "min(larimar_reader_calibrated)"}, "bool", about="No: run `larimar calibrate`"),
    Panel("Reading a memory", quantiles("larimar_read_seconds"), "s"),
    Panel("Age of the oldest change in no snapshot", {"age": "max(larimar_snapshot_age_seconds)"}, "s"),
    Panel("Changes in no snapshot", {"log lag": "sum(larimar_log_lag)"}, "short"),
    Panel("Snapshots", {"{{outcome}}": rate("larimar_snapshots_total", by="outcome")}, "ops"),
    Panel("Store latency, p99", {"{{operation}}": quantile(0.99, "larimar_store_seconds", by="operation")}, "s"),
    Panel("Store faults", {"{{operation}}": rate("larimar_store_faults_total", by="operation")}, "cps"),
    Panel("Store retries", {"retries": rate("larimar_store_retries_total")}, "cps"),
    Panel("Audit entries lost", {"lost": rate("larimar_audit_lost_total")}, "cps"),
    Panel("Store answers", {"up": "min(larimar_store_up)"}, "bool"),
]

DASHBOARDS = {"updates": UPDATES, "service": SERVICE, "memory": MEMORY}
