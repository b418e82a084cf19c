"""When a pass gives up, and when it goes on."""

from __future__ import annotations

import errno
import logging
import os

import pytest
from ray.exceptions import ActorDiedError

from msmtfn.daily.counter import Batch, RunCounter, RunFigures
from msmtfn.daily.fuse import MAX_CLOSED, MAX_FAILED_BLOCKS, Fuse, cause_of, kind_of
from msmtfn.errors import ScoringError, StorageError


@pytest.fixture
def fuse() -> Fuse:
    return Fuse("leads.work/run", pool_size=2, num_cpus=4, max_retries=1)


def refused(number: int, file: str) -> OSError:
    return OSError(number, os.strerror(number), file)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES])
def test_storage_that_takes_no_more_files_ends_the_pass_at_the_third_block(fuse: Fuse, number: int) -> None:
    for block in range(MAX_CLOSED):
        fuse.check(committed=block)  # small files may still find room
        fuse.add_failed_block(refused(number, f"/leads/parts/{block}.parquet"))
    with pytest.raises(StorageError, match=rf"takes no more files \(.*{os.strerror(number)}.*same command resumes"):
        fuse.check(committed=MAX_CLOSED)


def test_blocks_that_fail_alike_with_none_committed_end_the_pass(fuse: Fuse) -> None:
    for block in range(MAX_FAILED_BLOCKS):
        fuse.check(committed=0)
        fuse.add_failed_block(RuntimeError(f"stack trace of {block}\nValueError: row {block} of '/a/{block}' is odd"))
    with pytest.raises(ScoringError, match=r"8 blocks .* in the same way.*\(ValueError: row 7 of '/a/7' is odd\)"):
        fuse.check(committed=0)


def test_blocks_that_fail_now_and_then_do_not_end_the_pass(fuse: Fuse) -> None:
    for block in range(10 * MAX_FAILED_BLOCKS):
        fuse.add_failed_block(ValueError("this call is odd"))
        fuse.check(committed=block // 2)


def test_blocks_that_fail_in_different_ways_do_not_end_the_pass(fuse: Fuse) -> None:
    for block in range(4 * MAX_FAILED_BLOCKS):
        fuse.add_failed_block((ValueError, TypeError, KeyError, OSError, IndexError)[block % 5](f"{'x' * (block % 5)}"))
        fuse.check(committed=0)


def test_a_pass_over_calls_that_failed_before_goes_on_for_as_many_as_may_be_rejected() -> None:
    fuse = Fuse("leads.work/run", pool_size=1, num_cpus=4, max_retries=1, tolerated=50)
    for _ in range(50):
        fuse.add_failed_block(ActorDiedError())
    fuse.see(RunFigures(starts=100))
    fuse.check(committed=0)
    fuse.add_failed_block(ActorDiedError())
    with pytest.raises(ScoringError):
        fuse.check(committed=0)


def test_a_model_that_kills_its_process_ends_the_pass(fuse: Fuse) -> None:
    fuse.see(RunFigures(starts=6))  # of both actors, and of two batches with one retry each
    fuse.check(committed=0)
    fuse.see(RunFigures(starts=7, ready=7))
    with pytest.raises(ScoringError, match=r"died 5 times in a row, so the calls are not the cause"):
        fuse.check(committed=0)


def test_a_model_that_kills_its_process_while_it_is_loaded_ends_the_pass(fuse: Fuse) -> None:
    fuse.see(RunFigures(starts=7))
    with pytest.raises(ScoringError, match=r"died 5 times in a row before they had loaded the model"):
        fuse.check(committed=0)


def test_once_calls_were_scored_more_processes_may_die(fuse: Fuse) -> None:
    fuse.see(RunFigures(starts=7, ready=7, done=16))
    fuse.check(committed=1)


def test_an_error_that_most_calls_meet_ends_the_pass(fuse: Fuse) -> None:
    counter = RunCounter(1000, metrics=None)
    counter.add(Batch({"scored": 16, "bad_row": 100}, 0, 1.0, 1.0))
    counter.add(Batch({"scored": 16, "scoring_failed": 132}, 0, 1.0, 1.0, failure="scoring_failed: out of memory"))
    fuse.see(counter.read())
    fuse.check(committed=1)
    counter.add(Batch({"internal_error": 17}, 0, 1.0, 1.0))
    fuse.see(counter.read())
    with pytest.raises(ScoringError, match=r"149 of the first 281 calls .*\(scoring_failed: out of memory\).*work/run"):
        fuse.check(committed=1)


def test_rejects_that_are_the_calls_own_fault_do_not_end_the_pass(fuse: Fuse) -> None:
    counter = RunCounter(1000, metrics=None)
    counter.add(Batch({"audio_not_found": 900, "bad_row": 100}, 0, 0.0, 1.0))
    fuse.see(counter.read())
    fuse.check(committed=1)


def test_storage_that_delivers_no_recording_ends_the_pass(fuse: Fuse) -> None:
    fuse.see(RunFigures(done=31, unavailable=31))
    fuse.check(committed=1)
    fuse.see(RunFigures(done=31, unavailable=40))
    with pytest.raises(StorageError, match=r"recordings of 40 of the first 71 calls"):
        fuse.check(committed=1)


def test_the_first_failure_is_the_one_that_is_told(fuse: Fuse) -> None:
    fuse.see(RunFigures(starts=7))
    for block in range(MAX_CLOSED):
        fuse.add_failed_block(refused(errno.ENOSPC, f"{block}"))
    with pytest.raises(ScoringError, match="died"):
        fuse.check(committed=0)


def test_a_failure_that_repeats_is_logged_once_and_counted(fuse: Fuse, caplog: pytest.LogCaptureFixture) -> None:
    logged = [fuse.add_failed_block(ValueError(f"row {number} is odd")) for number in range(5)]
    assert logged == [True, False, False, False, False]
    assert fuse.add_failed_block(TypeError("no row"))
    with caplog.at_level(logging.WARNING):
        fuse.log_repeated()
    assert caplog.messages == ["5 blocks of calls failed in the same way: row … is odd"]


def test_the_cause_is_the_last_line_of_an_error_or_that_its_process_died() -> None:
    assert cause_of(RuntimeError("Traceback\n  a line\nOSError: no disk\n")) == "OSError: no disk"
    assert cause_of(ValueError()) == "ValueError"
    assert cause_of(ActorDiedError()) == "ActorDiedError: its process died"


def test_causes_that_differ_in_names_and_numbers_are_of_the_same_kind() -> None:
    assert kind_of("Cannot open 'a b.parquet': row 17") == kind_of("Cannot open 'c.parquet': row 4711")
    assert kind_of("lacks /a/b") == kind_of("lacks s3://bucket/c")
    assert kind_of("lacks memory") != kind_of("lacks a disk")
