from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from msmtfn.cli import score_daily, train
from tests.cluster import checks, commands
from tests.cluster.checks import KUBERAY_FILES, KUBERNETES_FILES, Files

Check = Callable[[Files], None]


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    return checks.read_files()


@pytest.mark.parametrize("name", KUBERAY_FILES)
def test_kuberay_accepts_the_file(files: Files, name: str) -> None:
    checks.check_kuberay(files, name)


@pytest.mark.parametrize("name", KUBERNETES_FILES)
def test_kubernetes_accepts_the_file(files: Files, name: str) -> None:
    checks.check_kubernetes(files, name)


@pytest.mark.parametrize(
    "check",
    [
        checks.check_launcher,
        checks.check_runtime_env,
        checks.check_dockerfile,
        checks.check_versions,
        checks.check_images,
        checks.check_accounts,
        checks.check_nights,
        checks.check_prometheus,
        checks.check_dashboard,
    ],
)
def test_the_files_are_accepted_by_their_programs_and_agree_with_the_project(files: Files, check: Check) -> None:
    check(files)


def test_every_file_is_checked_and_has_an_opening_comment(files: Files) -> None:
    known = {*KUBERAY_FILES, *KUBERNETES_FILES, "Dockerfile", "aws.yaml", "runtime-env.yaml"}
    known |= {"prometheus.yaml", "prometheus-rules.yaml"}
    assert set(files) == known | {"Dockerfile.dockerignore", "grafana-dashboard.json", "README.md"}
    for name in known:
        checks.check_opening(files, name)


def kuberay(name: str) -> Check:
    return lambda files: checks.check_kuberay(files, name)


def kubernetes(name: str) -> Check:
    return lambda files: checks.check_kubernetes(files, name)


@pytest.mark.parametrize(
    ("name", "good", "bad", "check", "message"),
    [
        ("rayjob-score.yaml", "mode: token", "mode: tokens", kuberay("rayjob-score.yaml"), "'tokens' is not one of"),
        ("rayjob-score.yaml", "backoffLimit: 2", "backoffLimit: two", kuberay("rayjob-score.yaml"), "'two' is not of"),
        (
            "rayjob-score.yaml",
            "rayStartParams: {}",
            "start: {}",
            kuberay("rayjob-score.yaml"),
            "'start' was unexpected",
        ),
        ("rayjob-train.yaml", "minReplicas: 4", "", kuberay("rayjob-train.yaml"), "'minReplicas' is a required"),
        ("rayjob-train.yaml", "tolerations:", "toleration:", kuberay("rayjob-train.yaml"), "'toleration' was unexp"),
        ("rayjob-train.yaml", "runAsNonRoot: true", "runAsNonRoot: false", kuberay("rayjob-train.yaml"), "as root"),
        (
            "rayjob-score.yaml",
            "Filesystem: true",
            "Filesystem: false",
            kuberay("rayjob-score.yaml"),
            "change its image",
        ),
        ("rayjob-train.yaml", "mountPath: /tmp", "mountPath: /var", kuberay("rayjob-train.yaml"), "no folder to write"),
        ("rayjob-train.yaml", 'ENABLED, value: "0"', 'ENABLED, value: "1"', kuberay("rayjob-train.yaml"), "statistics"),
        ("access.yaml", "[Ingress, Egress]", "[Ingress]", checks.check_accounts, "leaves a direction open"),
        ("access.yaml", "    - from: [{podSelector: {}}]\n", "    - {}\n", checks.check_accounts, "anybody may reach"),
        ("raycronjob-score.yaml", "timeZone:", "timezone:", kuberay("raycronjob-score.yaml"), "'timezone' was unexp"),
        (
            "raycronjob-score.yaml",
            "  schedule:",
            "  cron:",
            kuberay("raycronjob-score.yaml"),
            "'schedule' is a required",
        ),
        ("cronjob-score.yaml", "  schedule:", "  cron:", kubernetes("cronjob-score.yaml"), "'schedule' is a required"),
        ("cronjob-score.yaml", "limits:", "limit:", kubernetes("cronjob-score.yaml"), "'limit' was unexpected"),
        ("cronjob-score.yaml", "readOnly: true", "readOnly: 1", kubernetes("cronjob-score.yaml"), "1 is not of type"),
        ("access.yaml", "[create, delete, get, list]", "create", kubernetes("access.yaml"), "'create' is not of type"),
        ("access.yaml", "roleRef:", "role:", kubernetes("access.yaml"), "'roleRef' is a required"),
        ("aws.yaml", "upscaling_speed:", "upscale_speed:", checks.check_launcher, "'upscale_speed' was unexpected"),
        ("aws.yaml", "  container_name: msmtfn\n", "", checks.check_launcher, "provide a container"),
        (
            "aws.yaml",
            "max_workers: 4 # CHANGE\nup",
            "max_workers: all\nup",
            checks.check_launcher,
            "'all' is not of type",
        ),
        ("aws.yaml", "InstanceMarketOptions: {MarketType: spot}", "", checks.check_launcher, "workers be spot"),
        ("aws.yaml", "RAY_AUTH_MODE=token ray start --address", "ray start --address", checks.check_launcher, "token"),
        ("runtime-env.yaml", "working_dir:", "workingdir:", checks.check_runtime_env, "unknown fields"),
        ("runtime-env.yaml", "us-east-1", "1", checks.check_runtime_env, "env_vars"),
        ("Dockerfile", "USER 1000", "USER root", checks.check_dockerfile, "DL3002"),
        ("Dockerfile", "--no-install-recommends", "", checks.check_dockerfile, "DL3015"),
        ("Dockerfile", "README.md LICENSE", "README.rst LICENSE", checks.check_dockerfile, "there is no README.rst"),
        ("Dockerfile.dockerignore", "!jobs\n", "", checks.check_dockerfile, "jobs is left out"),
        ("Dockerfile", "requirement requirements.txt", "requirement pyproject.toml", checks.check_versions, "no lock"),
        ("Dockerfile", "cuda:13.0.1", "cuda:12.8.1", checks.check_versions, "another CUDA"),
        ("rayjob-train.yaml", '"2.60.0"', '"2.59.0"', checks.check_versions, "another Ray in rayjob-train.yaml"),
        ("rayjob-train.yaml", "msmtfn:0.2.0", "msmtfn:0.0.9", checks.check_images, "msmtfn:0.0.9"),
        ("aws.yaml", "msmtfn:0.2.0", "msmtfn:latest", checks.check_images, "msmtfn:latest"),
        ("cronjob-score.yaml", "namespace: msmtfn", "namespace: default", checks.check_accounts, "another namespace"),
        ("rayjob-score.yaml", "Name: msmtfn\n", "Name: ray\n", checks.check_accounts, "no service account ray"),
        ("cronjob-score.yaml", "timeZone: Asia/Shanghai", "timeZone: Etc/UTC", checks.check_nights, "time zones"),
        ("raycronjob-score.yaml", "ttlSecondsAfterFinished: 600", "", checks.check_nights, "starts another job"),
        ("prometheus.yaml", "relabel_configs:", "relabels:", checks.check_prometheus, "relabels"),
        ("prometheus.yaml", "role: pod", "role: pods", checks.check_prometheus, "other pods"),
        ("prometheus-rules.yaml", "unless sum(rate(", "unless sum(rates(", checks.check_prometheus, "rates"),
        ("rayjob-train.yaml", "8080, name: metrics", "8080, name: ray", checks.check_prometheus, "no metrics port"),
        ("grafana-dashboard.json", '"gridPos"', '"grid"', checks.check_dashboard, "drops or changes"),
        (
            "grafana-dashboard.json",
            "sum by (outcome) (",
            "sum by outcome (",
            checks.check_dashboard,
            "invalid promql",
        ),
        ("grafana-dashboard.json", "msmtfn_calls_left", "msmtfn_calls_gone", checks.check_dashboard, "no code exports"),
    ],
)
def test_a_broken_field_is_caught(files: Files, name: str, good: str, bad: str, check: Check, message: str) -> None:
    assert good in files[name]
    broken = {**files, name: files[name].replace(good, bad)}
    with pytest.raises(Exception, match=message.replace("[", r"\[")):
        check(broken)


@pytest.mark.parametrize("name", ["rayjob-score.yaml", "raycronjob-score.yaml"])
def test_a_night_scores_the_newest_day_with_the_current_model(files: Files, name: str, tmp_path: Path) -> None:
    words = commands.through_the_shells(checks.ray_job(files, name)["entrypoint"], tmp_path)
    arguments = commands.parse(files, words)
    assert isinstance(arguments, score_daily.Arguments)
    assert (arguments.date, arguments.model) == (None, "s3://company-models/msmtfn/current")
    assert (arguments.manifests, arguments.leads) == ("s3://company-calls/manifests", "s3://company-calls/leads")
    assert arguments.scoring.prepare.allowed_prefixes == ("s3://company-calls/recordings",)


def test_retraining_starts_from_the_current_model_and_registers_the_new_one(files: Files, tmp_path: Path) -> None:
    words = commands.through_the_shells(checks.ray_job(files, "rayjob-train.yaml")["entrypoint"], tmp_path)
    arguments = commands.parse(files, words)
    assert isinstance(arguments, train.Arguments)
    assert (arguments.start, arguments.model) == ("model", f"{arguments.register}/current")
    assert arguments.training.prepare.allowed_prefixes == ("s3://company-calls/recordings",)


@pytest.mark.parametrize(("name", "number"), [("Dockerfile", 1), ("aws.yaml", 2), ("runtime-env.yaml", 1)])
def test_the_jobs_accept_the_commands_in_the_comments(files: Files, name: str, number: int) -> None:
    documented = commands.documented(files, name)
    assert len(documented) == number
    for words in documented:
        commands.parse(files, words)


@pytest.mark.parametrize("name", KUBERAY_FILES)
def test_the_job_asks_for_the_machines_of_the_cluster(files: Files, name: str, tmp_path: Path) -> None:
    commands.check_sizes(files, name, tmp_path)


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        ("--num-scorers 4", "--num-scorers 8", "other GPUs"),
        ("--num-scorers", "--scorers", "2"),
        ("jobs/score_daily.py", "jobs/score.py", "there is no"),
        ("--device cuda", "--device gpu", "2"),
        ("maxReplicas: 4", "maxReplicas: 2", "other GPUs"),
    ],
)
def test_a_broken_command_is_caught(files: Files, good: str, bad: str, message: str, tmp_path: Path) -> None:
    name = "rayjob-score.yaml"
    assert good in files[name]
    with pytest.raises((AssertionError, SystemExit), match=message):
        commands.check_sizes({**files, name: files[name].replace(good, bad)}, name, tmp_path)


KUBECTL = """#!/bin/bash
echo "$*" >> {log}
case "$1 $2" in
  "get rayjobs") printf 'rayjob.ray.io/old-%s\\n' $(seq 15) ;;
  create*) echo rayjob.ray.io/msmtfn-score-x ;;
  "get rayjob.ray.io/msmtfn-score-x")
    if [[ $* == *reason* ]]; then echo "$4: AppFailed"; else
      state=$(head -n 1 {states}); sed -i 1d {states}; [[ $state == gone ]] && exit 1; echo "$state"; fi ;;
esac
"""


@pytest.mark.parametrize(
    ("states", "code", "last_line"),
    [
        (["/", "gone", "Running/RUNNING", "Complete/SUCCEEDED"], 0, "Complete/SUCCEEDED"),
        (["Running/RUNNING", "Retrying/", "Failed/FAILED"], 1, "Failed/FAILED"),
        (["Complete/STOPPED"], 1, "Complete/STOPPED"),
    ],
)
def test_the_scheduler_waits_for_the_rayjob_and_takes_over_its_result(
    files: Files, states: list[str], code: int, last_line: str, tmp_path: Path
) -> None:
    (template,) = checks.pod_templates(files, "cronjob-score.yaml")
    (container,) = template["spec"]["containers"]
    (tmp_path / "states").write_text("".join(f"{state}\n" for state in states))
    for name, script in (
        ("kubectl", KUBECTL.format(log=tmp_path / "log", states=tmp_path / "states")),
        ("sleep", "#!/bin/bash\n"),
    ):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    job = subprocess.run(
        [*container["command"], *container["args"]],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert job.returncode == code, job.stderr
    assert job.stdout.startswith("rayjob.ray.io/msmtfn-score-x\n")
    assert last_line in job.stdout.splitlines()[-1]
    kubectl_calls = (tmp_path / "log").read_text().splitlines()
    assert kubectl_calls[1:3] == [
        "delete rayjob.ray.io/old-1 rayjob.ray.io/old-2",
        "create --filename /etc/msmtfn/rayjob-score.yaml --output name",
    ]
