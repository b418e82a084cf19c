"""Metrics of a run, scraped by a real Prometheus with the configuration of `cluster/` and queried as by Grafana."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from msmtfn.daily.counter import Batch, open_counter
from tests.cluster import checks
from tests.faults.s3_server import free_ports

pytestmark = pytest.mark.slow

NUM_CALLS = 100


@pytest.fixture
def prometheus(ray_address: str, tmp_path: Path) -> Iterator[str]:
    """Run a Prometheus that scrapes the Ray instance of this test session, and yield its address."""
    (node,) = ray.nodes()
    files = checks.read_files()
    config = checks.scraping(files, [f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"])
    (tmp_path / "prometheus.yaml").write_text(
        config.replace("scrape_interval: 15s", "scrape_interval: 1s\n  evaluation_interval: 1s")
    )
    (tmp_path / "prometheus-rules.yaml").write_text(files["prometheus-rules.yaml"])
    address = f"127.0.0.1:{free_ports(1)[0]}"
    server = subprocess.Popen(
        [
            checks.find_program("prometheus"),
            f"--config.file={tmp_path / 'prometheus.yaml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address={address}",
        ],
        stdout=(tmp_path / "log").open("w"),
        stderr=subprocess.STDOUT,
    )
    yield f"http://{address}"
    server.terminate()
    server.wait(30)


def ask(prometheus: str, expression: str) -> list[dict[str, Any]]:
    query = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"{prometheus}/api/v1/query?{query}", timeout=10) as answer:
        content = json.load(answer)
    assert content["status"] == "success", content
    results: list[dict[str, Any]] = content["data"]["result"]
    return results


def wait_for(prometheus: str, expression: str, expected: float) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            results = ask(prometheus, expression)
        except OSError:  # Prometheus is still starting
            results = []
        if [float(result["value"][1]) for result in results] == [expected]:
            return
        time.sleep(0.5)
    raise AssertionError(f"{expression} is {results}, not {expected}")


STALLED = """
rule_files: [prometheus-rules.yaml]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series: [{series: ray_msmtfn_calls_left, values: 100+0x60}]
    alert_rule_test:
      - {eval_time: 10m, alertname: MsmtfnStalled}
      - eval_time: 20m
        alertname: MsmtfnStalled
        exp_alerts: &stalled
          - exp_labels: {severity: page}
            exp_annotations: {summary: "100 calls are left, and none was done in 15 minutes; see the log of the RayJob"}
  - interval: 1m
    input_series:
      - {series: ray_msmtfn_calls_left, values: 100+0x60}
      - {series: 'ray_msmtfn_calls_total{outcome="scored"}', values: 0+10x20 200+0x40}
    alert_rule_test:
      - {eval_time: 30m, alertname: MsmtfnStalled}
      - {eval_time: 55m, alertname: MsmtfnStalled, exp_alerts: *stalled}
  - interval: 1m
    input_series:
      - {series: 'ray_msmtfn_calls_total{outcome="scored"}', values: 0+600x30}
      - {series: 'ray_msmtfn_calls_total{outcome="audio_not_found"}', values: 0+200x30}
    alert_rule_test:
      - {eval_time: 1m, alertname: MsmtfnManyRejects}
      - eval_time: 20m
        alertname: MsmtfnManyRejects
        exp_alerts:
          - exp_labels: {severity: warning}
            exp_annotations: {summary: "25% of the calls are rejected; see the dashboard for the reasons"}
"""


def test_the_alerts_fire_when_they_should(tmp_path: Path) -> None:
    (tmp_path / "prometheus-rules.yaml").write_text(checks.read_files()["prometheus-rules.yaml"])
    (tmp_path / "tests.yaml").write_text(STALLED)
    tool = subprocess.run(
        [checks.find_program("promtool"), "test", "rules", "tests.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert tool.returncode == 0, tool.stdout + tool.stderr


def test_prometheus_has_the_metrics_of_the_dashboard(prometheus: str) -> None:
    with open_counter("2026-11-21-abc", NUM_CALLS) as counter:
        # Metrics of earlier runs in this Ray session are still exported, so queries select those of this counter.
        worker = ray.get(counter.__ray_call__.remote(lambda _: ray.get_runtime_context().get_worker_id()))
        own = f'WorkerId="{worker}"'
        for _ in range(2):
            ray.get(counter.add.remote(Batch({"scored": 30, "bad_row": 1}, unavailable=0, audio_sec=90.0, seconds=2.0)))
            ray.get(counter.add_prepared.remote("a", 31, 0.5))
        wait_for(prometheus, f'sum(ray_msmtfn_calls_total{{{own}, outcome="scored"}})', 60)
        ray.get(counter.add.remote(Batch({"scored": 20}, 0, audio_sec=60.0, seconds=1.0, unranked={"refused": 3})))
        ray.get(counter.add_prepared.remote("a", 20, 0.5))
        wait_for(prometheus, f'sum(ray_msmtfn_calls_total{{{own}, outcome="scored"}})', 80)
        wait_for(prometheus, f'sum(ray_msmtfn_calls_total{{{own}, outcome="bad_row", component="head"}})', 2)
        wait_for(prometheus, f'sum(ray_msmtfn_calls_unranked_total{{{own}, reason="refused"}})', 3)
        wait_for(prometheus, f"sum(ray_msmtfn_calls_left{{{own}}})", NUM_CALLS - 82)
        wait_for(prometheus, f"sum(ray_msmtfn_audio_seconds_total{{{own}}})", 240)
        wait_for(prometheus, f'sum(ray_msmtfn_work_seconds_total{{{own}, stage="score"}})', 5)
        wait_for(prometheus, f'sum(ray_msmtfn_stage_seconds_count{{{own}, stage="prepare"}})', 3)
        files = checks.read_files()
        unanswered = [
            expression
            for expression in checks.expressions(files)
            if "gpu" not in expression and " > " not in expression and not ask(prometheus, expression)
        ]
        assert not unanswered
        with urllib.request.urlopen(f"{prometheus}/api/v1/rules", timeout=10) as answer:
            (group,) = json.load(answer)["data"]["groups"]
        assert [rule["health"] for rule in group["rules"]] == ["ok", "ok"]
