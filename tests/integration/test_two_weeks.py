"""Two weeks of an installation, night by night: after every step, what is published is what is documented."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf

from msmtfn.labels import INTENTS
from tests.integration.job import ROOT, SAMPLE_RATE

pytestmark = [pytest.mark.slow, pytest.mark.long]

LOGGER = logging.getLogger(__name__)
FIRST = dt.date(2026, 11, 1)
HISTORY = [dt.date(2026, 10, day) for day in (24, 25)]
SAYINGS = {"A": "好的马上报名", "B": "听起来还可以", "C": "现在有点忙呢", "D": "不要再打来了", "E": "您打错电话啦"}
CALLS_OF_HISTORY, CALLS_A_DAY = 150, 24
BARELY_TRAINED = ("--max-epochs", 1, "--learning-rate", 1e-9)


class Company:
    """A company that records calls, and runs the jobs on them as its schedulers and operators would.

    Args:
        folder: folder for all data.
        ray_address: address of the Ray instance that the jobs join.
    """

    def __init__(self, folder: Path, ray_address: str) -> None:
        self.manifests, self.leads, self.models = folder / "manifests", folder / "leads", folder / "models"
        self.environment = {**os.environ, "RAY_ADDRESS": ray_address}
        self.nights: list[str] = []

    def receive(self, date: dt.date, number: int, *, loudness: float = 0.1, has_text: bool = True) -> list[Path]:
        """Write the calls of a day, whose text reveals their intent; return the recordings."""
        rng = np.random.default_rng(date.toordinal())
        folder = self.manifests / "recordings" / str(date)
        folder.mkdir(parents=True)
        rows, recordings = [], []
        for index in range(number):
            seconds = float(rng.uniform(1.0, 2.0))
            recordings.append(folder / f"{index:03d}.wav")
            sf.write(recordings[-1], loudness * rng.standard_normal(int(seconds * SAMPLE_RATE)), SAMPLE_RATE)
            intent = INTENTS[int(rng.choice(5, p=[0.2, 0.2, 0.3, 0.2, 0.1]))]
            turns = [
                {"speaker": "agent", "start_sec": 0.0, "end_sec": 0.4, "text": "您好"},
                {"speaker": "customer", "start_sec": 0.5, "end_sec": seconds, "text": SAYINGS[intent]},
            ]
            rows.append(
                {
                    "call_id": f"{date:%m%d}-{index:03d}",
                    "uri": str(recordings[-1].relative_to(self.manifests)),
                    "customer_id": f"{date:%m%d}-{index:03d}",
                    "language": "zh",
                    "intent": intent,
                    "turns": turns if has_text else None,
                }
            )
        day = self.manifests / f"date={date}"
        day.mkdir()
        pq.write_table(pa.Table.from_pylist(rows), day / "calls.parquet")
        return recordings

    def start(self, job: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, str(ROOT / "jobs" / job), *map(str, arguments)]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, job: str, *arguments: object, code: int = 0) -> tuple[str, str]:
        """Run a job that must end with exit code `code`; return its output and log."""
        process = self.start(job, *arguments)
        output, log = process.communicate(timeout=540)
        assert process.returncode == code, log
        return output, log

    @property
    def options(self) -> Sequence[object]:
        locations = ("--manifests", self.manifests, "--leads", self.leads, "--model", self.models / "current")
        return (*locations, "--max-rejected-share", 0.25)

    def night(self, *arguments: object) -> tuple[dict[str, Any] | None, str]:
        """Run the nightly job; return its summary of the day that it scored, if any, and its whole output."""
        output, log = self.run("score_daily.py", *self.options, *arguments)
        days = json.loads(output.splitlines()[-1])["days"]
        (summary,) = days or [None]
        return summary, output + log

    def train(self, *arguments: object) -> str:
        """Retrain on all labelled days; return the last line of the output."""
        shares = ("--validation-share", 0.2, "--gate-share", 0.3, "--gate-margin", 0.05)
        options = (*shares, "--prosody-epochs", 1, "--batch-calls", 4, "--masked-tokens", 0)
        output, _ = self.run(
            "train.py", "small", "--manifests", self.manifests, "--register", self.models, *options, *arguments
        )
        return output.splitlines()[-1]

    def published(self, date: dt.date) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        folder = self.leads / f"date={date}"
        success: dict[str, Any] = json.loads((folder / "_SUCCESS").read_text())
        return success, [
            row for name in success["files"] for row in pq.read_table(folder / name, partitioning=None).to_pylist()
        ]

    def days(self) -> list[dt.date]:
        return sorted(dt.date.fromisoformat(path.name.removeprefix("date=")) for path in self.leads.glob("date=*"))


def day(number: int) -> dt.date:
    return FIRST + dt.timedelta(days=number - 1)


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory, ray_address: str) -> Company:
    """Return one company for all nights; every night continues from those before."""
    return Company(tmp_path_factory.mktemp("company"), ray_address)


def test_before_the_first_night_a_model_is_trained_and_history_is_scored(company: Company) -> None:
    for date in HISTORY:
        company.receive(date, CALLS_OF_HISTORY)
    first = company.train("--to", HISTORY[-1], *BARELY_TRAINED)
    assert re.search(r"v0001 passed: .* there is no current model\. Current: v0001\.", first), first
    output, _ = company.run("score_daily.py", *company.options, "--to", HISTORY[-1])
    assert [day_summary["scored"] for day_summary in json.loads(output.splitlines()[-1])["days"]] == [
        CALLS_OF_HISTORY
    ] * len(HISTORY)


def test_night_1_scores_the_newest_day_with_the_current_model(company: Company) -> None:
    company.receive(day(1), CALLS_A_DAY)
    summary, _ = company.night()
    assert summary is not None
    assert (summary["date"], summary["scored"], summary["model"]) == (
        str(day(1)),
        CALLS_A_DAY,
        f"{company.models}/v0001",
    )
    assert summary["drift"]["moved"] == []


def test_night_2_takes_about_as_long_as_planned_and_its_summary_equals_success(company: Company) -> None:
    company.receive(day(2), 2 * CALLS_A_DAY)
    plan, _ = company.run("score_daily.py", *company.options, "--dry-run")
    expected = float(re.search(rf"{day(2)} .* (\d+) s ", plan)[1])  # type: ignore[index]
    summary, _ = company.night()
    assert summary is not None
    LOGGER.info("expected %.0f s, took %.1f s", expected, summary["seconds"])
    assert expected == pytest.approx(summary["seconds"], rel=0.4)
    success, _ = company.published(day(2))
    assert summary.pop("exit_code") == 0
    assert {name: success[name] for name in summary} == summary
    assert set(success["stage_seconds"]) == {"prepare", "score"}


def test_night_4_finds_no_manifest_and_does_nothing(company: Company) -> None:
    company.receive(day(3), CALLS_A_DAY)
    company.night()
    summary, output = company.night()
    assert summary is None
    assert "nothing was done" in output


def test_night_5_scores_the_newest_day_and_then_the_late_one(company: Company) -> None:
    company.receive(day(4), CALLS_A_DAY)
    company.receive(day(5), CALLS_A_DAY)
    summary, output = company.night()
    assert summary is not None
    assert summary["date"] == str(day(5))
    assert f"{day(4)} have manifests and no leads too" in output
    summary, _ = company.night()
    assert summary is not None
    assert summary["date"] == str(day(4))


def test_night_6_is_started_twice_and_scored_once(company: Company) -> None:
    company.receive(day(6), CALLS_A_DAY)
    twice = [company.start("score_daily.py", *company.options) for _ in range(2)]
    outputs = [process.communicate(timeout=540)[0] for process in twice]
    assert sorted(process.returncode for process in twice) == [0, 4], outputs
    assert company.published(day(6))[0]["scored"] == CALLS_A_DAY


def test_night_7_rejects_missing_recordings_and_scores_them_once_they_have_arrived(company: Company) -> None:
    missing = company.receive(day(7), CALLS_A_DAY)[:5]
    contents = [recording.read_bytes() for recording in missing]
    for recording in missing:
        recording.unlink()
    summary, output = company.night()
    assert summary is not None
    assert summary["rejected_by_reason"] == {"audio_not_found": 5}
    assert summary["drift"]["moved"] == ["rejected"]
    assert "share of rejects 20.8 %, 0.0 % in the" in output
    before = {row["call_id"]: row["lead_score"] for row in company.published(day(7))[1] if row["status"] == "scored"}
    for recording, content in zip(missing, contents, strict=True):
        recording.write_bytes(content)
    summary, _ = company.night("--date", day(7), "--retry-rejected")
    assert summary is not None
    assert (summary["scored"], summary["rejected"], summary["retried"]) == (CALLS_A_DAY, 0, 5)
    after = {row["call_id"]: row["lead_score"] for row in company.published(day(7))[1]}
    assert {call_id: after[call_id] for call_id in before} == before


def test_night_8_warns_of_drift_to_quieter_calls_without_text(company: Company) -> None:
    company.receive(day(8), CALLS_A_DAY, loudness=0.003, has_text=False)
    summary, output = company.night()
    assert summary is not None
    assert {"loudness_dbfs", "has_text"} <= set(summary["drift"]["moved"])
    assert re.search(r"Drift: .*loudness_dbfs \(PSI", output)


def test_night_9_scores_with_a_better_model_after_retraining(company: Company) -> None:
    better = company.train("--to", day(7), "--max-epochs", 2)
    assert re.search(r"v0002 passed: .*Current: v0002\.", better), better
    company.receive(day(9), CALLS_A_DAY)
    summary, _ = company.night()
    assert summary is not None
    assert summary["model"] == f"{company.models}/v0002"
    hits = [row["intent"] == row["intent_predicted"] for row in company.published(day(9))[1]]
    assert np.mean(hits) > 0.8


def test_night_10_keeps_the_model_after_a_worse_one_was_trained(company: Company) -> None:
    worse = company.train("--to", day(7), *BARELY_TRAINED)
    assert re.search(r"v0003 did not pass: .*Current: v0002\.", worse), worse
    company.receive(day(10), CALLS_A_DAY)
    summary, _ = company.night()
    assert summary is not None
    assert summary["model"] == f"{company.models}/v0002"


def test_nights_11_and_12_score_with_the_model_that_an_operator_chose(company: Company) -> None:
    assert f"{company.models}/v0001 is current" in company.run("models.py", "rollback", "--models", company.models)[0]
    company.receive(day(11), CALLS_A_DAY)
    summary, _ = company.night()
    assert summary is not None
    assert summary["model"] == f"{company.models}/v0001"
    company.run("models.py", "promote", "--models", company.models, "--version", "v0002")
    company.receive(day(12), CALLS_A_DAY)
    summary, _ = company.night()
    assert summary is not None
    assert summary["model"] == f"{company.models}/v0002"
    listed, _ = company.run("models.py", "list", "--models", company.models)
    assert [name in listed for name in ("v0001", "v0002 (current)", "v0003")] == [True] * 3


def test_nights_13_and_14_are_caught_up_in_one_run_that_skips_published_days(company: Company) -> None:
    for number in (13, 14):
        company.receive(day(number), CALLS_A_DAY)
    output, _ = company.run("score_daily.py", *company.options, "--from", day(12), "--to", day(14))
    summaries = json.loads(output.splitlines()[-1])["days"]
    assert [summary["date"] for summary in summaries] == [str(day(number)) for number in (12, 13, 14)]
    assert output.count("nothing was done") == 1


def test_after_two_weeks_every_call_of_every_day_is_published_once(company: Company) -> None:
    assert company.days() == [*HISTORY, *map(day, range(1, 15))]
    for number in range(1, 15):
        rows = company.published(day(number))[1]
        expected = pq.read_table(company.manifests / f"date={day(number)}")["call_id"].to_pylist()
        assert sorted(row["call_id"] for row in rows) == sorted(expected)
    assert [path.name for path in company.leads.with_name(f"{company.leads.name}.work").iterdir()] == []
