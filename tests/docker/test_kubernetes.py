"""The Kubernetes base: valid by the schemas of the API, and consistent with the image and the metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from app.server.settings import PREFIX, Settings

FOLDER = Path(__file__).parents[2] / "docker" / "kubernetes"
NAMES: list[str] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
RESOURCES: dict[str, dict[str, Any]] = {name: yaml.safe_load((FOLDER / name).read_text()) for name in NAMES}
VERSION = "1.33"


def test_every_file_is_in_the_base() -> None:
    assert {path.name for path in FOLDER.glob("*.yaml")} == {*NAMES, "kustomization.yaml"}


@pytest.mark.parametrize("name", [name for name in NAMES if name != "monitor.yaml"])
def test_resources_are_valid(name: str) -> None:
    kubernetes_validate.validate(RESOURCES[name], VERSION, strict=True)


def test_a_wrong_field_would_be_found() -> None:
    wrong = RESOURCES["service.yaml"] | {"spek": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


def test_the_deployment_is_hardened_and_drains() -> None:
    pod = RESOURCES["deployment.yaml"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] and container["securityContext"]["readOnlyRootFilesystem"]
    assert pod["enableServiceLinks"] is False, "links would set LARIMAR_PORT"
    assert pod["terminationGracePeriodSeconds"] > 30 + 5
    assert {item["name"] for item in container["env"]} <= {PREFIX + name.upper() for name in Settings.model_fields}


def test_ports_and_labels_agree() -> None:
    (container,) = RESOURCES["deployment.yaml"]["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert all(port["targetPort"] in ports for port in RESOURCES["service.yaml"]["spec"]["ports"])
    admitted = {port["port"] for rule in RESOURCES["network.yaml"]["spec"]["ingress"] for port in rule["ports"]}
    assert admitted == set(ports.values())
    assert RESOURCES["monitor.yaml"]["spec"]["endpoints"][0]["port"] in ports
    (metric,) = RESOURCES["autoscaling.yaml"]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == "larimar_queue_depth"
