"""Checks of the files in `cluster/` against the schemas of the programs that read them, and against the project.

Every check takes the texts of the files by name, so that a test can pass a broken one.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import sysconfig
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jsonschema
import kubernetes_validate
import promql_parser
import pytest
import torch
import yaml
from dockerfile_parse import DockerfileParser
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from jsonschema.exceptions import best_match
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.runtime_env import RuntimeEnv

import msmtfn
from tests.integration.job import ROOT

CLUSTER: Final = ROOT / "cluster"
SCHEMAS: Final = ROOT.parent / "shared" / "schemas"
KUBERAY: Final = "1.7.0"
KUBERNETES: Final = "1.34"
GRAFANA: Final = "11.6"
METRICS_PORT: Final = 8080
IMAGE: Final = f"registry.example.com/msmtfn:{msmtfn.__version__}"
PYTHON_OF_UBUNTU: Final = {"24.04": "3.12"}
KUBERAY_FILES: Final = ("rayjob-score.yaml", "rayjob-train.yaml", "raycronjob-score.yaml")
KUBERNETES_FILES: Final = ("access.yaml", "cronjob-score.yaml")
HEADINGS: Final = ("What it is:", "What to change:", "How to apply it", "How to see that it works")

Files = Mapping[str, str]


def read_files() -> dict[str, str]:
    """Read the text of every file in `cluster/`."""
    return {path.name: path.read_text() for path in sorted(CLUSTER.iterdir())}


def resources(files: Files, name: str) -> list[dict[str, Any]]:
    """Parse the documents of a YAML file."""
    return list(yaml.safe_load_all(files[name]))


def resource(files: Files, name: str) -> dict[str, Any]:
    """Parse the only document of a YAML file."""
    (document,) = resources(files, name)
    return dict(document)


def ray_job(files: Files, name: str) -> dict[str, Any]:
    """Return the specification of the RayJob in a RayJob or RayCronJob file."""
    spec: dict[str, Any] = resource(files, name)["spec"]
    return dict(spec.get("jobTemplate", spec))


def pod_templates(files: Files, name: str) -> list[dict[str, Any]]:
    """Return the templates of all pods that Kubernetes or KubeRay makes from a file."""
    if name in KUBERAY_FILES:
        cluster = ray_job(files, name)["rayClusterSpec"]
        return [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    jobs = [document for document in resources(files, name) if document["kind"] == "CronJob"]
    return [job["spec"]["jobTemplate"]["spec"]["template"] for job in jobs]


def check_kuberay(files: Files, name: str) -> None:
    """Check a KubeRay resource and its pods against the schemas, without unknown fields, which would be dropped."""
    document = resource(files, name)
    assert document["apiVersion"] == "ray.io/v1"
    _refuse(best_match(_kuberay_validator(document["kind"]).iter_errors(document)), name)
    check_pods(files, name)


def check_kubernetes(files: Files, name: str) -> None:
    """Check Kubernetes resources against the schemas, without unknown fields, which would be dropped."""
    for document in resources(files, name):
        _validate_kubernetes(document, name)
    check_pods(files, name)


def check_pods(files: Files, name: str) -> None:
    """Check that the pods are valid, do not run as root, write to volumes only, and have resource limits."""
    for template in pod_templates(files, name):
        pod = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {"name": "pod", **template["metadata"]}}
        _validate_kubernetes(pod, name)
        assert pod["spec"]["securityContext"]["runAsNonRoot"], "a pod may run as root"
        for container in pod["spec"]["containers"]:
            assert not container["securityContext"]["allowPrivilegeEscalation"], "a container may become root"
            assert {"cpu", "memory"} <= set(container["resources"]["limits"]), "a container has no limits"
            assert container["securityContext"]["readOnlyRootFilesystem"], "a container may change its image"
            mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            empty = {volume["name"] for volume in pod["spec"]["volumes"] if "emptyDir" in volume}
            assert {mounted.get("/tmp"), mounted.get("/home/msmtfn")} <= empty, "a container has no folder to write to"
            statistics = {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}
            assert name not in KUBERAY_FILES or statistics in container["env"], "Ray sends usage statistics"


def check_launcher(files: Files) -> None:
    """Check that Ray's cluster launcher accepts the file, and that exactly the workers are spot machines."""
    config = prepare_config(resource(files, "aws.yaml"))
    validate_config(config)
    types = config["available_node_types"]
    spot = {name for name, node_type in types.items() if "InstanceMarketOptions" in node_type["node_config"]}
    assert spot == set(types) - {config["head_node_type"]}, (
        "the head must not be a spot machine, and the workers be spot machines"
    )
    for command in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in command[-1], "Ray starts without a token"


def check_runtime_env(files: Files) -> None:
    """Check that Ray accepts the runtime environment, without unknown fields, which Ray would ignore."""
    environment = resource(files, "runtime-env.yaml")
    unknown = set(environment) - RuntimeEnv.known_fields
    assert not unknown, f"unknown fields {unknown}"
    RuntimeEnv(**environment)


def check_dockerfile(files: Files) -> None:
    """Check the Dockerfile with a linter, its sources against the ignore file, and that the user is not root."""
    linter = subprocess.run(
        [Path(sysconfig.get_path("scripts")) / "hadolint", "-"],
        input=files["Dockerfile"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert linter.returncode == 0, linter.stdout
    for source in _copied(files):
        assert (ROOT / source).exists(), f"there is no {source} to copy"
        assert f"!{source.partition('/')[0]}" in files["Dockerfile.dockerignore"].split("\n"), f"{source} is left out"
    assert _instructions(files, "USER")[-1] == "1000", "the image's user is not 1000"


def check_versions(files: Files) -> None:
    """Check that the image has the project's Python, Ray and CUDA, and the packages of the lock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = _instructions(files, "FROM")[-1]
    ubuntu = base.partition("ubuntu")[2]
    assert SpecifierSet(project["requires-python"]).contains(PYTHON_OF_UBUNTU[ubuntu]), "another Python"
    if torch.version.cuda is not None:
        assert base.startswith(f"nvidia/cuda:{torch.version.cuda}."), "another CUDA than PyTorch's"
    assert "RUN pip install --no-cache-dir --requirement requirements.txt\n" in files["Dockerfile"], "no lock"
    requirements = map(Requirement, project["dependencies"])
    (pin,) = [requirement.specifier for requirement in requirements if requirement.name == "ray"]
    for name in KUBERAY_FILES:
        assert pin.contains(ray_job(files, name)["rayClusterSpec"]["rayVersion"]), f"another Ray in {name}"


def check_images(files: Files) -> None:
    """Check that every pod and machine uses the image of this version."""
    named = {image for text in files.values() for image in re.findall(r"registry\.example\.com/[\w./:-]+", text)}
    used = {container["image"] for _, container in _containers(files)} | {
        resource(files, "aws.yaml")["docker"]["image"]
    }
    assert named == used == {IMAGE}, f"images {named | used}, not {IMAGE}"


def check_accounts(files: Files) -> None:
    """Check that there is one namespace, and that every service account exists and has its role."""
    access = resources(files, "access.yaml")
    (namespace,) = [document["metadata"]["name"] for document in access if document["kind"] == "Namespace"]
    accounts = {document["metadata"]["name"] for document in access if document["kind"] == "ServiceAccount"}
    for name in (*KUBERAY_FILES, *KUBERNETES_FILES):
        for document in resources(files, name):
            assert document["kind"] == "Namespace" or document["metadata"]["namespace"] == namespace, (
                "another namespace"
            )
        for template in pod_templates(files, name):
            account = template["spec"]["serviceAccountName"]
            assert account in accounts, f"there is no service account {account}"
    binding, role = (
        next(document for document in access if document["kind"] == kind) for kind in ("RoleBinding", "Role")
    )
    (network,) = [document["spec"] for document in access if document["kind"] == "NetworkPolicy"]
    assert network["podSelector"] == {}, "the network policy spares pods"
    assert set(network["policyTypes"]) == {"Ingress", "Egress"}, "the network policy leaves a direction open"
    assert all(rule.get("from") for rule in network["ingress"]), "anybody may reach the pods"
    assert binding["roleRef"]["name"] == role["metadata"]["name"], "another role"
    assert [subject["name"] for subject in binding["subjects"]] == [
        template["spec"]["serviceAccountName"] for template in pod_templates(files, "cronjob-score.yaml")
    ], "the scheduler has no rights"


def check_nights(files: Files) -> None:
    """Check that the CronJob and the RayCronJob start the same job at the same time."""
    night, by_kuberay = ray_job(files, "rayjob-score.yaml"), ray_job(files, "raycronjob-score.yaml")
    assert night == by_kuberay, "the RayCronJob starts another job"
    schedules = [resource(files, name)["spec"] for name in ("cronjob-score.yaml", "raycronjob-score.yaml")]
    assert len({spec["timeZone"] for spec in schedules}) == 1, "the time zones differ"
    assert len({spec["schedule"] for spec in schedules}) == 1, "the schedules differ"
    job = schedules[0]["jobTemplate"]["spec"]
    assert job["activeDeadlineSeconds"] > night["activeDeadlineSeconds"], "the scheduler times out before the job"
    (volume,) = [volume for volume in job["template"]["spec"]["volumes"] if "configMap" in volume]
    (submit,) = job["template"]["spec"]["containers"]
    (mount,) = [mount for mount in submit["volumeMounts"] if mount["name"] == volume["name"]]
    assert f"{mount['mountPath']}/rayjob-score.yaml" in submit["args"][0], "the RayJob file is mounted elsewhere"
    assert (
        f"configmap {volume['configMap']['name']} --from-file=cluster/rayjob-score.yaml" in files["cronjob-score.yaml"]
    )


def scraping(files: Files, targets: Sequence[str]) -> str:
    """Return Prometheus' configuration with static targets instead of the pods that it would discover on Kubernetes.

    The targets have the labels that Prometheus would give to the ports of a container. Debian's Prometheus is built
    without Kubernetes discovery, so it accepts the file in this form only.
    """
    config = resource(files, "prometheus.yaml")
    (job,) = config["scrape_configs"]
    (discovery,) = job.pop("kubernetes_sd_configs")
    (namespace,) = [document for document in resources(files, "access.yaml") if document["kind"] == "Namespace"]
    assert discovery == {"role": "pod", "namespaces": {"names": [namespace["metadata"]["name"]]}}, "other pods"
    pod = pod_templates(files, "rayjob-score.yaml")[0]
    ports = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
    labels = {
        f"__meta_kubernetes_pod_label_{re.sub(r'[^a-zA-Z0-9]', '_', name)}": value
        for name, value in pod["metadata"]["labels"].items()
    }
    job["static_configs"] = [
        {"targets": list(targets), "labels": {**labels, "__meta_kubernetes_pod_container_port_name": port}}
        for port in ports
    ]
    return str(yaml.safe_dump(config))


def check_prometheus(files: Files) -> None:
    """Check the configuration and the alerts with promtool, and that every pod has the port that is scraped."""
    for name in KUBERAY_FILES:
        for template in pod_templates(files, name):
            (container,) = template["spec"]["containers"]
            ports = {port["name"]: port["containerPort"] for port in container["ports"]}
            assert ports.get("metrics") == METRICS_PORT, f"a pod of {name} has no metrics port"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "prometheus-rules.yaml").write_text(files["prometheus-rules.yaml"])
        (Path(folder) / "prometheus.yaml").write_text(scraping(files, ["127.0.0.1:8080"]))
        tool = subprocess.run(
            [find_program("promtool"), "check", "config", Path(folder) / "prometheus.yaml"],
            capture_output=True,
            text=True,
            check=False,
        )
    assert tool.returncode == 0, tool.stdout + tool.stderr


def check_dashboard(files: Files) -> None:
    """Check the dashboard against Grafana's own model, and that its metrics exist."""
    content = json.loads(files["grafana-dashboard.json"])
    round_trip = json.loads(JSONEncoder().encode(Dashboard.from_json(content)))
    assert round_trip == content, f"Grafana {GRAFANA} drops or changes a field"
    check_expressions(expressions(files))


def expressions(files: Files) -> list[str]:
    """Return the PromQL expressions of the dashboard and the alerts."""
    panels = json.loads(files["grafana-dashboard.json"])["panels"]
    queries = [target["expr"].replace("$__rate_interval", "1m") for panel in panels for target in panel["targets"]]
    rules = resource(files, "prometheus-rules.yaml")["groups"][0]["rules"]
    return queries + [rule["expr"] for rule in rules]


def check_expressions(queries: Sequence[str]) -> None:
    """Check that the expressions are valid PromQL and use only metrics that the project exports."""
    source = (ROOT / "msmtfn" / "daily" / "counter.py").read_text()
    ours = {f"ray_{name}" for name in re.findall(r'"(msmtfn_\w+)"', source)}
    for expression in queries:
        promql_parser.parse(expression)
        for name in re.findall(r"ray_msmtfn_\w+", expression):
            assert re.sub(r"_(total|bucket|sum|count)$", "", name) in ours, f"no code exports {name}"


def find_program(name: str) -> str:
    """Return the path of a Prometheus program, or skip the test: it is not a Python package."""
    path: str | None = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed; it is in Debian's package prometheus")
    return str(path)


def check_opening(files: Files, name: str) -> None:
    """Check that the file begins with the four headings of the opening comment."""
    opening = re.split(r"^(?!#)", files[name], maxsplit=1, flags=re.M)[0]
    missing = [heading for heading in HEADINGS if f"# {heading}" not in opening]
    assert not missing, f"the opening comment of {name} lacks {missing}"


def _validate_kubernetes(document: dict[str, Any], name: str) -> None:
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        _refuse(error, name)


def _refuse(error: jsonschema.ValidationError | None, name: str) -> None:
    """Fail with a short message: the error's own text contains the whole schema."""
    assert error is None, f"{name}, {'.'.join(map(str, error.absolute_path))}: {error.message}"


@functools.cache
def _kuberay_validator(kind: str) -> Any:
    schema = SCHEMAS / f"kuberay-{KUBERAY}.{kind}.v1.json"
    if not schema.exists():
        pytest.skip(f"there is no KubeRay schema at {schema}")
    return jsonschema.Draft202012Validator(_strict(json.loads(schema.read_text())))


def _strict(schema: Any) -> Any:
    """Make a schema reject unknown fields, which Kubernetes would silently drop."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {name: _strict(value) for name, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        strict.setdefault("additionalProperties", False)
    return strict


def _containers(files: Files) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in (*KUBERAY_FILES, *KUBERNETES_FILES):
        for template in pod_templates(files, name):
            for container in template["spec"]["containers"]:
                yield name, container


def _instructions(files: Files, instruction: str) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        parser = DockerfileParser(path=folder)
        parser.content = files["Dockerfile"]
        return [item["value"] for item in parser.structure if item["instruction"] == instruction]


def _copied(files: Files) -> list[str]:
    """Return the sources of all COPY instructions from the build context."""
    copies = [copy.split() for copy in _instructions(files, "COPY") if "--from" not in copy]
    return [source for words in copies for source in words[:-1] if not source.startswith("--")]


def workdir(files: Files) -> str:
    """Return the project's folder in the image."""
    return _instructions(files, "WORKDIR")[-1]
