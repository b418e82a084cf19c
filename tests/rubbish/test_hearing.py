"""What is heard of damaged recordings, compared with FFmpeg."""

import pytest

from tests.rubbish.damage import DAMAGES, make_cases, problem_of

SEEDS = (0, 1)
DEFAULT_STEP = 5
"""The default tests take every fifth case, another one of each format for each damage."""


def test_a_damaged_recording_is_heard_whole_or_rejected_and_a_forgivable_one_is_scored() -> None:
    cases = list(make_cases(seed=0))[::DEFAULT_STEP]
    assert len(cases) >= 100
    assert [problem for case in cases if (problem := problem_of(case))] == []


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("seed", SEEDS)
def test_no_damaged_recording_is_heard_in_part(seed: int) -> None:
    cases = list(make_cases(seed))
    assert len(cases) >= 300
    assert {case.name.split(", ")[1] for case in cases} == set(DAMAGES)
    assert [problem for case in cases if (problem := problem_of(case))] == []
