"""Dashboards and alerts: they are what the code says, name what the server exports, and return data when it works."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from observe import evaluate, load, observed
from panels import DASHBOARDS, Panel
from render import FOLDER, render

from app.server.gauges import Gauges
from app.server.metrics import Metrics
from app.server.settings import Settings

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "docker" / "prometheus"
RULES = [rule for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"] for rule in group["rules"]]
PANELS = [(name, panel) for name, panels in DASHBOARDS.items() for panel in panels]
needs_prometheus = pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus")


def exported() -> set[str]:
    """Names of series that the server can export."""
    source = Path(Gauges.__module__.replace(".", "/")).with_suffix(".py")
    gauges = re.findall(r'"(larimar_[a-z_]+)"', (ROOT / source).read_text())
    counted = Metrics(tenants=1).registry.collect()
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    return {"larimar_model_info", *gauges} | {m.name + suffix for m in counted for suffix in suffixes.get(m.type, ())}


def families(names: set[str]) -> set[str]:
    return {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in names if name.startswith("larimar_")}


def named(query: str) -> set[str]:
    return set(re.findall(r"\b(?:larimar|process)_[a-z_]+", query))


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_json_is_what_the_code_says(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text() == render(name), "run `make dashboards`"
    ids = [panel["title"] for panel in json.loads(render(name))["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(("name", "panel"), PANELS, ids=[f"{name}: {panel.title}" for name, panel in PANELS])
def test_panels_name_what_is_exported_and_have_units(name: str, panel: Panel) -> None:
    queried = {metric for query in panel.queries.values() for metric in named(query)}
    assert queried and queried <= exported() | {"process_resident_memory_bytes", "process_cpu_seconds_total"}, name
    assert panel.unit


def test_what_dashboards_do_not_show_is_known() -> None:
    shown = {metric for _, panel in PANELS for query in panel.queries.values() for metric in named(query)}
    assert families(exported()) - families(shown) == {"larimar_model", "larimar_model_info", "larimar_tenant_requests"}


def test_provisioning_leads_to_the_dashboards() -> None:
    source = yaml.safe_load((ROOT / "docker/grafana/provisioning/datasources/larimar.yml").read_text())["datasources"][0]
    used = {panel["datasource"]["uid"] for name in DASHBOARDS for panel in json.loads(render(name))["panels"]}
    assert used == {source["uid"]}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alerts_name_what_is_exported_and_have_a_runbook(rule: dict[str, object]) -> None:
    assert named(str(rule["expr"])) <= exported()
    assert f"### {rule['alert']}\n" in (ROOT / "docs" / "operations.md").read_text()


@pytest.mark.parametrize("path", [ROOT / "README.md", *(ROOT / "docs").glob("*.md")], ids=lambda path: path.name)
def test_metrics_that_documents_name_exist(path: Path) -> None:
    assert families(set(re.findall(r"\blarimar_[a-z_]+(?:seconds|total|bytes|depth|max|lag)\b", path.read_text()))) <= families(exported())


@needs_prometheus
@pytest.mark.parametrize("check", ["check rules rules.yml", "check config prometheus.yml", "test rules rules_test.yml"])
def test_promtool(check: str) -> None:
    done = subprocess.run(["promtool", *check.split()], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_prometheus
@pytest.mark.model
def test_every_panel_has_data_while_a_server_works(tmp_path: Path) -> None:
    with observed(tmp_path, Settings().weights_dir) as (client, asked):
        load(client, 12)
        time.sleep(1.5)
        empty = [f"{name}: {panel.title}" for name, panel in PANELS if not panel.gpu and not evaluate(asked, panel, 12)]
        rules = asked.get("/api/v1/rules").json()["data"]["groups"][0]["rules"]
        assert {rule["health"] for rule in rules} == {"ok"} and len(rules) == len(RULES)
        span = {"query": "larimar_update_seconds_bucket", "start": time.time() - 60, "end": time.time()}
        exemplars = asked.get("/api/v1/query_exemplars", params=span).json()["data"]
        assert exemplars[0]["exemplars"][0]["labels"]["request_id"] in (tmp_path / "server.log").read_text()
    assert not empty
