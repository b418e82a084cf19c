"""`jobs/score_daily.py` as run by a user: a separate process, a real Ray instance and real files."""

from __future__ import annotations

import datetime as dt
import json
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from msmtfn.calls.columns import TURN
from msmtfn.daily.publish import read_leads
from msmtfn.labels import TASKS
from msmtfn.model.checkpoint import save_model
from msmtfn.model.config import MsmtFnConfig
from msmtfn.model.network import MsmtFn
from tests.integration.job import DATE, read_day, run_job, start_job, write_manifest, write_short_calls


@pytest.fixture(scope="module")
def real_day(
    recordings: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[object], subprocess.CompletedProcess[str], Path]:
    """Score the real recordings; return the job's arguments, its result and the folder of the leads."""
    root = tmp_path_factory.mktemp("real")
    turns = json.loads((recordings / "auto_repairs_40.turns.json").read_text())
    two_channels = str(recordings / "auto_repairs_40.flac")
    rows: list[dict[str, Any]] = [
        {"call_id": "two-channels-turns", "uri": two_channels, "agent_channel": 0, "turns": turns, "seller": "S 1"},
        {"call_id": "two-channels", "uri": two_channels, "agent_channel": 0},
        {"call_id": "one-channel", "uri": f"file://{recordings}/auto_repairs_mono_u8.wav"},
        {"call_id": "mu-law", "uri": "weather_mulaw.wav"},
        {"call_id": "mandarin", "uri": str(recordings / "mandarin_short.wav")},
        {"call_id": "headerless", "uri": str(recordings / "headerless.wav"), "seller": "S 2"},
    ]
    schema = pa.schema(
        [("call_id", pa.string()), ("uri", pa.string()), ("agent_channel", pa.int64()), ("seller", pa.string())]
    )
    manifests = write_manifest(root / "manifests", rows, schema.append(pa.field("turns", pa.list_(TURN))))
    shutil.copy(recordings / "weather_mulaw.wav", manifests)
    arguments = ["--date", DATE, "--manifests", manifests, "--leads", root / "leads", "--model", tiny_model]
    arguments += ["--allowed-prefixes", recordings]
    return arguments, run_job(*arguments), root / "leads"


class TestRealRecordings:
    def test_every_call_is_in_the_leads_once_and_only_the_headerless_one_is_rejected(self, real_day: Any) -> None:
        _, job, leads = real_day
        assert job.returncode == 0, job.stderr
        success, rows = read_day(leads)
        assert (success["calls"], success["scored"]) == (6, 5)
        assert success["rejected_by_reason"] == {"audio_unreadable": 1}
        assert len({row["call_id"] for row in rows}) == len(rows) == 6
        assert {row["call_id"]: row["error_code"] for row in rows if row["status"] == "rejected"} == {
            "headerless": "audio_unreadable"
        }

    def test_the_probabilities_of_each_task_sum_to_one(self, real_day: Any) -> None:
        _, rows = read_day(real_day[2])
        sums = [sum(row[task].values()) for row in rows if row["status"] == "scored" for task in TASKS]
        assert sums == pytest.approx([1.0] * 20, abs=1e-5)

    def test_the_rows_are_sorted_by_rank(self, real_day: Any) -> None:
        _, rows = read_day(real_day[2])
        assert [row["lead_rank"] for row in rows] == [1, 2, 3, 4, 5, None]
        scores = [row["lead_score"] for row in rows[:5]]
        assert scores == sorted(scores, reverse=True)

    def test_a_two_channel_call_has_rounds_with_and_without_turns(self, real_day: Any) -> None:
        _, rows = read_day(real_day[2])
        by_id = {row["call_id"]: row for row in rows}
        for call_id in ("two-channels-turns", "two-channels"):
            assert 8 <= by_id[call_id]["num_rounds"] <= 40
            assert len(by_id[call_id]["rounds"]) == by_id[call_id]["num_rounds"]
            assert by_id[call_id]["duration_sec"] == pytest.approx(245.38, abs=0.01)

    def test_other_columns_pass_through_and_the_transcript_does_not(self, real_day: Any) -> None:
        _, rows = read_day(real_day[2])
        sellers = {row["call_id"]: row["seller"] for row in rows}
        assert (sellers["two-channels-turns"], sellers["headerless"], sellers["mu-law"]) == ("S 1", "S 2", None)
        assert all("turns" not in row for row in rows)

    def test_the_summary_reports_the_outcome_of_the_day(self, real_day: Any) -> None:
        _, job, leads = real_day
        for text in ("calls     6", "scored    5", "rejected  1 (audio_unreadable 1)", str(leads), "5 best leads"):
            assert text in job.stdout
        assert "untrained" in job.stdout

    def test_the_last_line_is_json_for_log_collectors(self, real_day: Any) -> None:
        _, job, leads = real_day
        summary = json.loads(job.stdout.splitlines()[-1])
        (day,) = summary["days"]
        assert (summary["exit_code"], day["date"], day["exit_code"]) == (0, str(DATE), 0)
        success, _ = read_day(leads)
        assert {name: success[name] for name in day.keys() - {"exit_code"}} == {
            name: value for name, value in day.items() if name != "exit_code"
        }

    def test_the_log_shows_progress_and_no_transcript(self, real_day: Any) -> None:
        _, job, _ = real_day
        assert "6 of 6 calls done (100 %), 1 rejected" in job.stderr
        assert "platinum" not in job.stderr + job.stdout

    def test_the_same_command_again_does_nothing(self, real_day: Any) -> None:
        arguments, _, leads = real_day
        before = {path: path.stat().st_mtime_ns for path in (leads / f"date={DATE}").rglob("*")}
        again = run_job(*arguments)
        assert again.returncode == 0, again.stderr
        assert {path: path.stat().st_mtime_ns for path in (leads / f"date={DATE}").rglob("*")} == before
        assert "calls done" not in again.stderr
        assert "nothing was done" in again.stdout

    def test_no_work_in_progress_remains(self, real_day: Any) -> None:
        assert list(real_day[2].with_name("leads.work").iterdir()) == []


@pytest.mark.slow
def test_the_same_command_resumes_a_killed_run(tiny_model: Path, tmp_path: Path, ray_address: str) -> None:
    leads, manifests = tmp_path / "leads", write_short_calls(tmp_path / "manifests", 60)
    arguments = ["--date", DATE, "--manifests", manifests, "--leads", leads, "--model", tiny_model]
    arguments += ["--block-calls", 2, "--batch-calls", 2]
    job = start_job(*arguments, RAY_ADDRESS=ray_address)
    while _count_committed(leads) < 30:
        assert job.poll() is None, job.communicate()
        time.sleep(0.02)
    job.send_signal(signal.SIGKILL)
    job.communicate()
    assert not (leads / f"date={DATE}").exists()
    _wait_until_idle(leads)
    killed_at, committed = dt.datetime.now(dt.UTC), _count_committed(leads)
    assert 30 <= committed < 60, "the day was over before it could be killed"

    again = run_job(*arguments, RAY_ADDRESS=ray_address)
    assert again.returncode == 0, again.stderr
    success, rows = read_day(leads)
    assert sorted(row["call_id"] for row in rows) == [f"call-{index:03d}" for index in range(60)]
    assert sum(row["scored_at"] < killed_at for row in rows) == committed == success["calls_resumed"]


@pytest.mark.slow
@pytest.mark.long
def test_force_and_a_new_model_replace_the_day(
    tiny_model: Path, tmp_path: Path, ray_address: str, tiny_network: Any, tiny_tokenizer: Any
) -> None:
    leads, manifests = tmp_path / "leads", write_short_calls(tmp_path / "manifests", 3)
    save_model(tiny_network(seed=1), tiny_tokenizer, tmp_path / "other", "# Other\n")
    arguments = ["--date", DATE, "--manifests", manifests, "--leads", leads]
    days = []
    for more in (["--model", tiny_model], ["--model", tiny_model, "--force"], ["--model", tmp_path / "other"]):
        job = run_job(*arguments, *more, RAY_ADDRESS=ray_address)
        assert job.returncode == 0, job.stderr
        days.append(read_day(leads))
    (first, _), (forced, _), (replaced, rows) = days
    assert forced["run_id"] == first["run_id"] != replaced["run_id"]
    assert first["files"] != forced["files"] != replaced["files"]
    assert {row["model_version"] for row in rows} == {replaced["model_version"]}
    assert read_leads(str(leads), DATE).count_rows() == 3
    assert len(list((leads / f"date={DATE}").glob("*.parquet"))) == 1


@pytest.mark.slow
def test_a_day_with_too_many_rejects_is_published_with_exit_code_3(
    tiny_model: Path, tmp_path: Path, ray_address: str
) -> None:
    rows = [{"call_id": f"call-{index}", "uri": "missing.wav"} for index in range(3)]
    manifests = write_manifest(tmp_path / "manifests", rows)
    arguments = ["--date", DATE, "--manifests", manifests, "--leads", tmp_path / "leads", "--model", tiny_model]
    job = run_job(*arguments, RAY_ADDRESS=ray_address)
    assert job.returncode == 3, job.stderr
    assert "--max-rejected-share" in job.stderr.splitlines()[-1]
    success, _ = read_day(tmp_path / "leads")
    assert success["rejected_by_reason"] == {"audio_not_found": 3}
    assert run_job(*arguments, "--max-rejected-share", 1).returncode == 0


def test_a_day_without_calls_is_published_empty(tiny_model: Path, tmp_path: Path) -> None:
    schema = pa.schema([("call_id", pa.string()), ("uri", pa.string()), ("seller", pa.int16())])
    manifests = write_manifest(tmp_path / "manifests", [], schema)
    arguments = ["--date", DATE, "--manifests", manifests, "--leads", tmp_path / "leads", "--model", tiny_model]
    job = run_job(*arguments)
    assert job.returncode == 0, job.stderr
    success, rows = read_day(tmp_path / "leads")
    assert (success["calls"], rows) == (0, [])
    assert read_leads(str(tmp_path / "leads"), DATE).schema.field("seller").type == pa.int16()


class TestErrors:
    """Errors: before Ray starts, the job ends with an exit code and one line that says what to do."""

    @pytest.fixture
    def manifests(self, tmp_path: Path) -> Path:
        return write_manifest(tmp_path / "manifests", [{"call_id": "a", "uri": "a.wav"}])

    def test_a_date_without_a_manifest_fails_the_job(self, manifests: Path, tmp_path: Path) -> None:
        job = run_job("--date", "2026-11-20", "--manifests", manifests, "--leads", tmp_path / "leads")
        assert job.returncode == 1
        assert _last_line(job).endswith(
            f"there is no manifest for 2026-11-20: {manifests}/date=2026-11-20 holds no *.parquet; "
            "check --manifests and --date"
        )

    @pytest.mark.slow
    def test_a_manifest_without_uris_fails_the_job(self, tmp_path: Path) -> None:
        manifests = write_manifest(tmp_path / "manifests", [{"call_id": "a"}])
        job = run_job("--date", DATE, "--manifests", manifests, "--leads", tmp_path / "leads")
        assert job.returncode == 1
        assert f"{manifests}/date={DATE}/calls.parquet has no column 'uri'" in _last_line(job)

    @pytest.mark.slow
    def test_an_unreadable_model_fails_the_job(self, manifests: Path, tmp_path: Path, tiny_model: Path) -> None:
        model = shutil.copytree(tiny_model, tmp_path / "model")
        weights = model / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1000])
        job = run_job("--date", DATE, "--manifests", manifests, "--leads", tmp_path / "leads", "--model", model)
        assert job.returncode == 1
        assert f"the model in {model} cannot be loaded" in _last_line(job)

    @pytest.mark.slow
    def test_an_unwritable_leads_folder_fails_the_job(self, manifests: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("no folder")
        job = run_job("--date", DATE, "--manifests", manifests, "--leads", tmp_path / "file" / "leads")
        assert job.returncode == 1
        assert "check the location, its permissions" in _last_line(job)

    def test_a_missing_option_is_a_usage_error(self, manifests: Path) -> None:
        job = run_job("--date", DATE, "--manifests", manifests)
        assert job.returncode == 2
        assert "--leads is missing" in _last_line(job)

    @pytest.mark.slow
    def test_an_option_out_of_range_is_a_usage_error(self) -> None:
        job = run_job("--demo", "--block-calls", 0)
        assert job.returncode == 2
        assert "block_calls is 0; it must be at least 1" in job.stdout + job.stderr


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--with-transcripts",)], ids=["heard", "with transcripts"])
def test_the_demo_scores_its_own_day_and_compares_the_ranking_with_the_labels(options: tuple[str, ...]) -> None:
    job = run_job("--demo", *options, HF_HUB_OFFLINE="1")
    assert job.returncode == 0, job.stderr
    assert job.stdout.count("Transcripts of 2026-01-05") == (0 if options else 1)
    assert ("transcribed  47" in job.stdout) == (not options)
    assert "rejected  1 (audio_unreadable 1)" in job.stdout
    assert "The 10 best leads" in job.stdout
    compared = r"By their labels, (\d+) of the 10 best leads are A or B, against 20 of all 47"
    found = re.search(compared, job.stdout)
    assert found is not None
    assert int(found[1]) >= 7


@pytest.mark.slow
@pytest.mark.long
def test_the_full_size_network_scores_a_real_call(
    recordings: Path, tmp_path: Path, tiny_tokenizer: Any, ray_address: str
) -> None:
    save_model(MsmtFn(MsmtFnConfig()), tiny_tokenizer, tmp_path / "full", "# Full size, random weights\n")
    turns = json.loads((recordings / "auto_repairs_40.turns.json").read_text())
    uri = str(recordings / "auto_repairs_40.flac")
    manifests = write_manifest(
        tmp_path / "manifests", [{"call_id": "a", "uri": uri, "agent_channel": 0, "turns": turns}]
    )
    arguments = ["--date", DATE, "--manifests", manifests, "--leads", tmp_path / "leads", "--model", tmp_path / "full"]
    arguments += ["--allowed-prefixes", recordings]
    job = run_job(*arguments, RAY_ADDRESS=ray_address)
    assert job.returncode == 0, job.stderr
    _, (row,) = read_day(tmp_path / "leads")
    assert (row["status"], row["num_rounds"]) == ("scored", 12)
    assert sum(row["five"].values()) == pytest.approx(1.0, abs=1e-5)


def _last_line(job: subprocess.CompletedProcess[str]) -> str:
    """Return the last line of the log, which must be the error in the JSON for log collectors."""
    assert "Traceback" not in job.stderr
    last = job.stderr.splitlines()[-1]
    summary = json.loads(job.stdout)
    assert summary["exit_code"] == job.returncode
    assert last.endswith(summary["days"][0]["error"])
    return last


def _count_committed(leads: Path) -> int:
    files = [
        path for path in leads.with_name("leads.work").glob("*/checkpoint/*.parquet") if ".pending." not in path.name
    ]
    return sum(pq.ParquetFile(path).metadata.num_rows for path in files)


def _wait_until_idle(leads: Path) -> None:
    """Wait for the tasks that the killed driver had started on the cluster."""
    count = -1
    while count != _count_committed(leads):
        count = _count_committed(leads)
        time.sleep(3)
