from __future__ import annotations

import logging

import pytest

from msmtfn.cli.command import run_command
from msmtfn.errors import JobError, LockedError, StorageError, UsageError


@pytest.mark.parametrize(("error", "code"), [(JobError, 1), (StorageError, 1), (UsageError, 2), (LockedError, 4)])
def test_a_job_error_ends_the_job_with_its_exit_code_and_one_line(
    error: type[JobError], code: int, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise error("fix this")

    with caplog.at_level(logging.ERROR):
        assert run_command(fail) == code
    assert [record.getMessage() for record in caplog.records] == ["fix this"]


def test_a_finished_job_returns_its_own_exit_code_or_zero() -> None:
    assert run_command(lambda: None) == 0
    assert run_command(lambda: 3) == 3


def test_an_unexpected_exception_is_not_hidden() -> None:
    def fail() -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        run_command(fail)
