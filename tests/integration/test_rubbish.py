"""A day of malformed and hostile recordings and rows: nothing crashes or hangs, and no other file is opened."""

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
def test_malformed_input_is_scored_or_rejected_and_no_other_file_is_opened(tmp_path: Path) -> None:
    report = run(tmp_path, Options(recordings=250, rows=150, job=False))
    assert report.figures["opened"] > 200
    assert {"scored", "audio_unreadable", "audio_too_long", "bad_row"} < set(report.outcomes.values())


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(7200)
def test_the_job_scores_or_rejects_every_row_of_a_large_malformed_day(tmp_path: Path) -> None:
    report = run(tmp_path, Options())
    assert sum(report.figures["rejected"].values()) + report.figures["scored"] == 2501


def test_the_same_seed_makes_the_same_malformed_input() -> None:
    recordings = [list(mutate_recordings(200, seed)) for seed in (0, 0, 1)]
    rows = [make_rows(200, seed) for seed in (0, 0, 1)]
    for first, same_seed, other_seed in (recordings, rows):
        # Comparing outside the assert keeps pytest from spending minutes on a diff of megabytes.
        equal = [first == same_seed, first == other_seed]
        assert equal == [True, False]
