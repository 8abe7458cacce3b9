"""Asks a real Prometheus every dashboard's queries while a real server works: `python docker/observe.py --seconds 60`.

Starts the server and Prometheus on free loopback ports with a folder of their own, sends a bounded, sequential load,
and evaluates each panel's PromQL through Prometheus' HTTP API. With `--picture FILE` it draws the Updates dashboard
from those answers; it is a drawing by matplotlib, not a screenshot of Grafana.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from app.bench.free_port import free_port

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "grafana"))

from panels import DASHBOARDS, UPDATES, Panel  # noqa: E402  # the dashboards' own folder

INTERVAL = "10s"  # stands for $__rate_interval, at a scrape each second
Series = dict[str, list[tuple[float, float]]]


def wait(ready: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    """Until `ready()`; raises RuntimeError when the process ends or the time is over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if ready():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"{process.args!r} did not get ready")


@contextmanager
def running(command: list[str], environment: dict[str, str], ready: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that answers 200 at the address `ready`; ended on leaving."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            wait(lambda: httpx.get(ready, timeout=5).status_code == 200, process)
            yield process
        finally:
            process.terminate()
            process.wait(60)


@contextmanager
def observed(folder: Path, models: Path, **settings: str) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """A server and a Prometheus that scrapes it each second, with the repository's rules: clients of both."""
    port, admin, own = free_port(), free_port(), free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LARIMAR_")} | settings
    environment |= {"LARIMAR_PORT": str(port), "LARIMAR_ADMIN_PORT": str(admin), "LARIMAR_DATA_DIR": str(folder / "data")}
    environment |= {"LARIMAR_MODELS_DIR": str(models), "LARIMAR_SNAPSHOT_S": "2"}
    config: dict[str, Any] = yaml.safe_load((HERE / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"] = [{"job_name": "larimar", "static_configs": [{"targets": [f"127.0.0.1:{admin}"]}]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(HERE / "prometheus" / "rules.yml", folder)
    command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    command += [f"--web.listen-address=127.0.0.1:{own}", "--enable-feature=exemplar-storage", "--log.level=warn"]
    server = running([sys.executable, "-m", "app"], environment, f"http://127.0.0.1:{port}/health/ready", folder / "server.log")
    prometheus = running(command, dict(os.environ), f"http://127.0.0.1:{own}/-/ready", folder / "prometheus.log")
    with (
        server,
        prometheus,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
        httpx.Client(base_url=f"http://127.0.0.1:{own}", timeout=60) as asked,
    ):
        yield client, asked


def load(client: httpx.Client, seconds: float) -> int:
    """Sequential requests of every kind for so many seconds. Returns how many were sent."""
    deadline, number = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        number += 1
        subject = f"ship {number % 40}"
        taught = client.post("/facts", json={"prompt": f"The home port of {subject} is", "target": f"harbour {number}"})
        newest = taught.json()["id"]
        if number % 3 == 0:
            client.delete(f"/facts/{newest}")
        if number % 5 == 0:
            client.post("/query", json={"prompt": f"Where is {subject} at home?"})
            client.get("/facts?limit=10")
        if number % 20 == 0:
            client.post("/generate", json={"prompt": f"Where is {subject} at home?", "max_new_tokens": 6})
            client.post("/query", json={"prompt": "Who wrote Hamlet?"})
        if number % 25 == 0:
            client.get("/facts/unknown")
            client.post("/facts", json={"prompt": " ", "target": "x"})
    return number


def evaluate(asked: httpx.Client, panel: Panel, seconds: float) -> Series:
    """A panel's series over the last seconds, by legend and labels; NaN values are left out."""
    now, found = time.time(), Series()
    for legend, query in panel.queries.items():
        params: dict[str, Any] = {"query": query.replace("$__rate_interval", INTERVAL)}
        params |= {"start": now - seconds, "end": now, "step": max(1, round(seconds / 120))}
        answer = asked.get("/api/v1/query_range", params=params).json()
        assert answer["status"] == "success", (panel.title, answer)
        for series in answer["data"]["result"]:
            name = legend
            for label, value in series["metric"].items():
                name = name.replace(f"{{{{{label}}}}}", value)
            points = [(float(at), float(value)) for at, value in series["values"] if value != "NaN"]
            if points:
                found[name] = points
    return found


def draw(panels: list[tuple[Panel, Series]], file: Path) -> None:
    """The panels as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    shown = [(panel, series) for panel, series in panels if panel.kind != "stat"]
    figure, axes = plt.subplots(-(-len(shown) // 3), 3, figsize=(16, 2.9 * -(-len(shown) // 3)), layout="constrained")
    begin = min(points[0][0] for _, series in shown for points in series.values())
    for axis, (panel, series) in zip(axes.flat, shown, strict=False):
        if panel.kind == "heatmap":
            bounds = sorted(series, key=float)
            times = sorted({at for points in series.values() for at, _ in points})
            table = np.array([[dict(series[bound]).get(at, 0.0) for at in times] for bound in bounds])
            cells = np.diff(table, axis=0, prepend=0.0)
            cells, bounds = cells[: 1 + max(np.nonzero(cells.any(axis=1))[0])], bounds[: 1 + max(np.nonzero(cells.any(axis=1))[0])]
            axis.imshow(cells, aspect="auto", origin="lower", cmap="magma", extent=(0, times[-1] - begin, 0, len(bounds)))
            axis.set_yticks(np.arange(len(bounds)) + 1.0, [f"{float(b):g}" for b in bounds], fontsize=6)
        else:
            for name, points in sorted(series.items()):
                axis.plot([at - begin for at, _ in points], [value for _, value in points], label=name, linewidth=1.2)
            axis.set_yscale("log" if panel.unit in ("s", "sci") else "linear")
            axis.legend(fontsize=7, loc="best")
            axis.grid(alpha=0.3)
        axis.set_title(f"{panel.title} [{panel.unit}]", fontsize=9)
        axis.tick_params(labelsize=7, which="both")
    for axis in list(axes.flat)[len(shown) :]:
        axis.axis("off")
    stats = "   ".join(f"{p.title}: {next(iter(s.values()))[-1][1]:.3g} {p.unit}" for p, s in panels if p.kind == "stat" and s)
    figure.suptitle(f"Updates dashboard, drawn from Prometheus' answers (seconds on the x axis)\n{stats}", fontsize=10)
    figure.savefig(file, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--models", type=Path, required=True, help="folder of converted weights")
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="larimar-observe-") as name, observed(Path(name), arguments.models) as (client, asked):
        print(f"{load(client, arguments.seconds)} rounds of requests")
        time.sleep(2)
        empty = []
        for dashboard, panels in DASHBOARDS.items():
            for panel in panels:
                series = evaluate(asked, panel, arguments.seconds)
                print(f"{dashboard:8} {panel.title:42} {len(series)} series" + (" (GPU only)" if panel.gpu else ""))
                empty += [f"{dashboard}: {panel.title}"] if not series and not panel.gpu else []
        if arguments.picture:
            draw([(panel, evaluate(asked, panel, arguments.seconds)) for panel in UPDATES], arguments.picture)
    if empty:
        raise SystemExit(f"no data: {', '.join(empty)}")


if __name__ == "__main__":
    main()
