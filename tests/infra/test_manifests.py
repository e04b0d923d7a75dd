"""Image, compose file, manifests and schedules: checked as far as that goes without Docker, a cluster and Airflow.

Kubernetes kinds against the Kubernetes project's own schemas, unknown fields refused; the service's part of the
RayService against Ray Serve's schema, its pods as pods (the schema of the rest comes with KubeRay); the compose file
against what its parts say of each other; the Airflow DAG by its syntax tree. Every `pagewise` command is parsed, and
its settings are read, by Pagewise.
"""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import re
import shlex
import tomllib
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from features.store.config import StoreConfig
from features.stream.config import StreamConfig
from pagewise import invocation
from pagewise.main import VERBS
from pagewise.settings import Settings
from serving.access import ENVIRONMENT as KEYS
from serving.cluster import ClusterArguments
from serving.config import ServeConfig
from serving.gate import ENVIRONMENT as GATE
from serving.gate import GateSettings
from serving.metrics import SHARED_FOLDER

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
KUBERNETES = INFRA / "kubernetes"
DAG = INFRA / "airflow/pagewise_daily.py"
VERSIONS = ("1.28", "1.37")
"""The oldest Kubernetes that the manifests are for, and the newest whose schemas there are."""


def documents(path: Path) -> list[dict]:
    return list(yaml.safe_load_all(path.read_text()))


@functools.cache
def everything() -> dict[str, dict]:
    named = (path for path in sorted(KUBERNETES.glob("*.yaml")) if path.name != "kustomization.yaml")
    return {f"{one['kind']}/{one['metadata']['name']}": one for path in named for one in documents(path)}


def ray_service() -> dict:
    return everything()["RayService/pagewise"]["spec"]


def ray_pods() -> list[dict]:
    cluster = ray_service()["rayClusterConfig"]
    return [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def pods() -> dict[str, dict]:
    """Every pod template."""
    found = {f"RayService/{place}": pod for place, pod in enumerate(ray_pods())}
    for name, one in everything().items():
        spec = one.get("spec", {}).get("jobTemplate", one).get("spec", {})
        if "template" in spec:
            found[name] = spec["template"]
    return found


def compose() -> dict:
    return yaml.safe_load((INFRA / "compose.yaml").read_text())


def parsed(words: list[str]) -> tuple[argparse.Namespace, Settings]:
    """Parse `pagewise VERB ...` as Pagewise does; inside a container its settings are `infra/settings.yaml`."""
    assert words[0] == "pagewise"
    verb = next(verb for verb in VERBS if verb.name == words[1])
    args = invocation.parse(
        verb.name, verb.help, importlib.import_module(f"pagewise.commands.{verb.module}"), words[2:]
    )
    args.config = args.config and INFRA / "settings.yaml"
    return args, invocation.load_settings(args)


def commands() -> dict[str, list[str]]:
    found = {f"compose/{name}": one.get("command", []) for name, one in compose()["services"].items()}
    found |= {name: pod["spec"]["containers"][0].get("args", []) for name, pod in pods().items()}
    for line in (INFRA / "crontab").read_text().splitlines():
        if " pagewise " in line and not line.startswith("#"):
            found[f"cron/{line[:12]}"] = shlex.split(line[line.index(" pagewise ") :])
    for task in calls("BashOperator"):
        program, *arguments = shlex.split(literal(task["bash_command"]))
        found[f"airflow/{literal(task['task_id'])}"] = [Path(program).name, *arguments]
    return {name: words for name, words in found.items() if words and words[0] == "pagewise"}


def calls(name: str) -> list[dict[str, ast.expr]]:
    """The keyword arguments of all calls of a name in the DAG's file."""
    found = [node for node in ast.walk(ast.parse(DAG.read_text())) if isinstance(node, ast.Call)]
    named = [node for node in found if isinstance(node.func, ast.Name) and node.func.id == name]
    assert not any(node.args for node in named)
    return [{one.arg: one.value for one in node.keywords} for node in named]


def literal(node: ast.expr) -> object:
    return ast.literal_eval(node)


def test_every_manifest_is_applied():
    (kustomization,) = documents(KUBERNETES / "kustomization.yaml")
    files = {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == files


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", [name for name in everything() if not name.startswith("RayService")])
def test_kinds_follow_kubernetes_schemas(name, version):
    kubernetes_validate.validate(everything()[name], version, strict=True)


@pytest.mark.parametrize("place", range(len(ray_pods())))
def test_pods_of_the_ray_cluster_follow_kubernetes_schemas(place):
    template = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "ray"}, "template": ray_pods()[place]}
    kubernetes_validate.validate(template, VERSIONS[-1], strict=True)


def test_an_unknown_field_would_be_found():
    wrong = {**everything()["Deployment/stream"], "replica": 2}
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


def test_the_service_is_what_serve_and_pagewise_understand():
    config = ServeDeploySchema.model_validate(yaml.safe_load(ray_service()["serveConfigV2"]))
    (application,) = config.applications
    module, name = application.import_path.split(":")
    assert callable(getattr(importlib.import_module(module), name))
    arguments = ClusterArguments.model_validate(application.args)
    serve = ServeConfig(**arguments.serve)
    assert (StoreConfig(**arguments.store).url, StreamConfig(**arguments.stream)) == (
        settings().store.url,
        StreamConfig(),
    )
    assert arguments.tracking_uri == settings().tracking.uri
    for pod in ray_pods():
        told = {one["name"]: one.get("value") for one in pod["spec"]["containers"][0]["env"]}
        gate = GateSettings.from_json(told[GATE])
        assert (gate.serve.max_batch, gate.serve.max_in_flight) == (serve.max_batch, serve.max_in_flight)
        assert gate.folder == arguments.folder == Path(told[SHARED_FOLDER])
        assert KEYS in told
        module, name = told["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"].split(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_ray_has_the_version_that_is_installed():
    requirement = re.search(r"^ray\[serve\]==(.+)$", (INFRA / "requirements/runtime.txt").read_text(), flags=re.M)
    assert ray_service()["rayClusterConfig"]["rayVersion"] == requirement.group(1)


@pytest.mark.parametrize("name", pods())
def test_pods_run_as_nobody_in_particular_and_find_their_volumes(name):
    spec = pods()[name]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    claims = {
        claim["metadata"]["name"]
        for claim in everything().get(name, {}).get("spec", {}).get("volumeClaimTemplates", [])
    }
    for container in spec["containers"]:
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {*volumes} | claims
    for volume in volumes.values():
        if "persistentVolumeClaim" in volume:
            assert f"PersistentVolumeClaim/{volume['persistentVolumeClaim']['claimName']}" in everything()
        if "configMap" in volume:
            assert f"ConfigMap/{volume['configMap']['name']}" in everything()


def test_selectors_find_their_pods():
    for name, one in everything().items():
        if one["kind"] in ("Deployment", "StatefulSet"):
            assert one["spec"]["selector"]["matchLabels"] == one["spec"]["template"]["metadata"]["labels"], name
        if one["kind"] == "Service":
            assert one["spec"]["selector"] in [
                pod["metadata"]["labels"] for pod in pods().values() if "metadata" in pod
            ]


def settings() -> Settings:
    return parsed(["pagewise", "serve", "--config", "/settings.yaml"])[1]


def test_settings_are_the_same_in_containers_and_pods():
    inline = everything()["ConfigMap/pagewise-settings"]["data"]["settings.yaml"]
    assert yaml.safe_load(inline) == yaml.safe_load((INFRA / "settings.yaml").read_text())


@pytest.mark.parametrize("name", commands())
def test_commands_and_settings_are_pagewises_own(name):
    args, found = parsed(commands()[name])
    assert args.workspace in ("/workspace", "/var/lib/pagewise")
    assert found.store.url == (None if name.startswith(("cron/", "airflow/")) else "redis://redis:6379/0")


def test_what_is_to_be_started_is():
    assert {name.split("/")[1] for name in commands() if name.startswith("compose/")} == {"serve", "stream", "daily"}
    assert {"Deployment/stream", "CronJob/daily", "CronJob/check-features"} < set(commands())
    for scheduler in ("cron/", "airflow/"):
        assert [words[1] for name, words in commands().items() if name.startswith(scheduler)] == [
            "run",
            "check-features",
        ]


def test_the_dag_runs_at_the_same_hour_and_never_twice_at_once():
    (dag,) = calls("DAG")
    cron = next(line for line in (INFRA / "crontab").read_text().splitlines() if " pagewise run " in line)
    schedule = everything()["CronJob/daily"]["spec"]["schedule"]
    assert literal(dag["schedule"]) == schedule == " ".join(cron.split()[:5])
    assert (literal(dag["max_active_runs"]), literal(dag["catchup"])) == (1, False)
    tree = ast.parse(DAG.read_text())
    order = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Expr)]
    assert "daily >> check_features" in order
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"__future__", "airflow.sdk", "airflow.providers.standard.operators.bash"}
    compile(tree, str(DAG), "exec")


def test_compose_parts_name_each_other():
    found = compose()
    assert set(found) == {"name", "services", "volumes", "x-image", "x-pagewise"}
    for name, service in found["services"].items():
        assert set(service.get("depends_on", {})) <= set(found["services"])
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (INFRA / source).exists() if source.startswith(".") else source in found["volumes"], volume
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} is open to the network"
        for needed, how in service["depends_on"].items() if isinstance(service.get("depends_on"), dict) else ():
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in found["services"][needed]


def test_what_prometheus_and_settings_ask_for_is_there():
    services = compose()["services"]
    jobs = yaml.safe_load((INFRA / "prometheus/prometheus.yaml").read_text())["scrape_configs"]
    hosts = {target for job in jobs for group in job["static_configs"] for target in group["targets"]}
    assert hosts == {f"serve:{settings().serve.port}", f"stream:{settings().stream.metrics_port}"}
    assert {host.split(":")[0] for host in hosts} <= set(services)
    for url in (settings().store.url, settings().tracking.uri):
        host = re.match(r"\w+://(\w+):\d+", url).group(1)
        assert host in services
        assert f"Service/{host}" in everything()


def test_the_image_is_built_in_the_order_of_the_set_up():
    def steps(path: Path) -> list[str]:
        return re.findall(r"-r \S*?(torchrec|torch|runtime)\b", path.read_text())

    assert steps(INFRA / "Dockerfile") == steps(INFRA / "setup.sh") == ["torch", "runtime", "torch", "torchrec"]
    text = (INFRA / "Dockerfile").read_text()
    assert re.search(r"^USER 10001$", text, flags=re.M)
    for source in re.findall(r"^COPY (?!--from)(\S+) ", text, flags=re.M):
        assert (ROOT / source).exists()


def test_the_image_gets_every_package_and_its_data():
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    packages = {pattern.rstrip("*") for pattern in tools["setuptools"]["packages"]["find"]["include"]}
    assert packages <= kept
    assert all((ROOT / path).exists() for path in kept)
    data = {
        path.relative_to(ROOT)
        for package in packages
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
    }
    globs = tools["setuptools"]["package-data"]
    assert data == {
        found.relative_to(ROOT)
        for package, ones in globs.items()
        for one in ones
        for found in (ROOT / package).glob(one)
    }
