"""The figures of a batch, as the live metrics show them."""

from __future__ import annotations

import pyarrow as pa

from msmtfn.scoring.pipeline import figures_of


def test_calls_are_counted_by_outcome_and_those_without_a_rank_by_reason() -> None:
    scored = pa.table(
        {
            "error_code": pa.array(["bad_row", None, None, None], pa.string()),
            "unranked_reason": pa.array([None, "refused", "refused", None], pa.string()),
            "duration_sec": pa.array([None, 10.0, 20.0, 30.0], pa.float64()),
        }
    )
    figures = figures_of(scored, num_unavailable=2, seconds=1.5)
    assert figures.outcomes == {"bad_row": 1, "scored": 3}
    assert figures.unranked == {"refused": 2}
    assert (figures.audio_sec, figures.unavailable, figures.seconds) == (60.0, 2, 1.5)
