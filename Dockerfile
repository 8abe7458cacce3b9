# syntax=docker/dockerfile:1
# Larimar Server. Two targets: `cpu` (the last, so the default) and `cuda`.
#   docker build --target cpu  --build-arg TORCH_INDEX=<index of PyTorch's CPU wheels> -t larimar:cpu .
#   docker build --target cuda -t larimar:cuda .
# PyPI's Linux wheel of torch carries CUDA; without TORCH_INDEX the cpu target takes it too, works, and is larger.

FROM python:3.11-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/larimar/bin:$PATH

# Dependencies alone: this layer changes only when the lock does. Every wheel is binary, so no stage holds a compiler, and every
# file but torch's is checked against its hash.
FROM base AS dependencies
ARG TORCH_INDEX=""
WORKDIR /build
COPY requirements.lock docker/requirements.txt ./
RUN --mount=type=cache,target=/root/.cache/pip python -m venv /opt/larimar \
    && pip install --only-binary :all: --no-deps --require-hashes -r requirements.txt \
    && pip install --only-binary :all: ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -c requirements.lock torch

# The server itself.
FROM dependencies AS server
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY memory memory
COPY models models
RUN --mount=type=cache,target=/root/.cache/pip pip install --no-deps .

# Weights in a layer of their own: downloaded, checked against their hashes and converted once, at build time.
FROM server AS weights
ENV LARIMAR_MODELS_DIR=/models
RUN --mount=type=cache,target=/root/.cache/pip larimar models fetch

FROM base AS runtime
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="Larimar Server" \
      org.opencontainers.image.description="An episodic memory for language models, over HTTP" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --system --uid 10001 --no-create-home --home-dir /data larimar \
    && install -d -o larimar -g larimar -m 0700 /data
COPY --from=weights /models /models
COPY --from=server /opt/larimar /opt/larimar
ENV LARIMAR_HOST=0.0.0.0 LARIMAR_PORT=8080 LARIMAR_DATA_DIR=/data LARIMAR_MODELS_DIR=/models HF_HUB_OFFLINE=1
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ['LARIMAR_PORT']}/health/live\", timeout=2)"]
ENTRYPOINT ["larimar"]
CMD ["serve"]

FROM runtime AS cuda
ENV LARIMAR_DEVICE=cuda NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM runtime AS cpu
ENV LARIMAR_DEVICE=cpu
