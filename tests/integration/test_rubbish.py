"""A day of broken, lying and hostile recordings and rows: nothing dies, hangs or is opened that the manifest hides."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rubbish.recordings import mutate_recordings
from tests.rubbish.rows import make_rows
from tests.rubbish.run import Options, Report, run_rubbish


def run(folder: Path, options: Options) -> Report:
    report = run_rubbish(options, folder)
    assert report.wrong == []
    assert sorted(report.outcomes) == list(range(1 + options.recordings + options.rows))
    return report


@pytest.mark.slow
def test_rubbish_is_prepared_or_rejected_and_nothing_else_is_opened(tmp_path: Path) -> None:
    report = run(tmp_path, Options(recordings=250, rows=150, job=False))
    assert report.figures["opened"] > 200
    assert {"scored", "audio_unreadable", "audio_too_long", "bad_row"} < set(report.outcomes.values())


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(7200)
def test_two_thousand_recordings_and_five_hundred_rows_of_rubbish_go_through_the_job(tmp_path: Path) -> None:
    report = run(tmp_path, Options())
    assert sum(report.figures["rejected"].values()) + report.figures["scored"] == 2501


def test_the_same_seed_makes_the_same_rubbish() -> None:
    recordings = [list(mutate_recordings(200, seed)) for seed in (0, 0, 1)]
    rows = [make_rows(200, seed) for seed in (0, 0, 1)]
    for made in (recordings, rows):
        same, other = made[0] == made[1], made[0] == made[2]  # pytest would explain a difference of megabytes for long
        assert (same, other) == (True, False)
