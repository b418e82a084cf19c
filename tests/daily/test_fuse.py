"""When a pass gives up, and when it goes on."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError, RayActorError, WorkerCrashedError

from msmtfn.daily.counter import Batch, RunCounter, RunFigures
from msmtfn.daily.day import finish_run, open_run
from msmtfn.daily.fuse import MAX_REFUSED_BLOCKS, MAX_ROW, Fuse, cause_of, kind_of
from msmtfn.daily.graph import Task
from msmtfn.errors import BatchesFailedError, JobError, ScoringError, StorageError
from tests.daily.plain_graph import Figures, PlainGraph, plan, write_manifest

DEATH = ActorDiedError()


def make_fuse(*, alone: bool = False, begun: bool = False, allowed: int = 1, patience_sec: float = 0.0) -> Fuse:
    return Fuse("leads.work/run", 2, 4, allowed, alone, begun, patience_sec)


def refused(number: int, file: str = "/leads/parts/1.parquet") -> OSError:
    return OSError(number, os.strerror(number), file)


def fail(fuse: Fuse, *errors: Exception, committed: int = 0) -> JobError | None:
    for error in errors:
        fuse.add_failed_block(error)
    return fuse.find_failure(committed)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EFBIG])
def test_storage_that_takes_no_more_files_ends_the_pass_at_the_third_block(number: int) -> None:
    fuse = make_fuse(patience_sec=3600)
    for block in range(MAX_REFUSED_BLOCKS):
        assert fuse.find_failure(block) is None  # small files may still find room
        fuse.add_failed_block(refused(number, f"/leads/parts/{block}.parquet"))
    error = fuse.find_failure(MAX_REFUSED_BLOCKS)
    assert isinstance(error, StorageError)
    assert os.strerror(number) in str(error)


def test_storage_that_refuses_a_block_now_and_then_does_not_end_the_pass() -> None:
    fuse = make_fuse(patience_sec=3600)
    for block in range(0, 200, 20):
        assert fail(fuse, refused(errno.EACCES), committed=block + 1) is None


def test_blocks_that_fail_alike_in_a_row_end_a_first_pass_only() -> None:
    errors = [RuntimeError(f"stack trace of {block}\nValueError: row {block} is odd") for block in range(MAX_ROW)]
    fuse = make_fuse()
    assert fail(fuse, *errors[1:]) is None
    error = fail(fuse, errors[0])
    assert isinstance(error, BatchesFailedError)
    assert str(error) == "8 blocks of calls in a row failed in the same way (ValueError: row 0 is odd)"


def test_an_outage_does_not_end_a_pass_at_once() -> None:
    for alone in (False, True):
        assert fail(make_fuse(alone=alone, patience_sec=3600), *[OSError("timeout")] * 100) is None


def test_blocks_that_fail_now_and_then_do_not_end_a_pass() -> None:
    for alone in (False, True):
        fuse = make_fuse(alone=alone, allowed=2)
        assert [fail(fuse, DEATH, committed=block // 2) for block in range(10 * MAX_ROW)] == [None] * 10 * MAX_ROW


def test_blocks_that_fail_in_different_ways_do_not_end_a_first_pass() -> None:
    kinds = [ValueError, TypeError, KeyError, OSError, IndexError]
    assert fail(make_fuse(), *[kinds[block % 5]("x" * (block % 5)) for block in range(4 * MAX_ROW)]) is None


@pytest.mark.parametrize(("allowed", "begun", "most"), [(1, False, 1), (500, False, 8), (500, True, 500)])
def test_calls_that_kill_their_processes_alone_end_the_run_where_they_cannot_be_to_blame(
    allowed: int, begun: bool, most: int
) -> None:
    fuse = make_fuse(alone=True, allowed=allowed, begun=begun)
    assert fail(fuse, *[DEATH] * most) is None
    error = fail(fuse, DEATH)
    assert type(error) is ScoringError
    assert f"{most + 1} calls in a row" in str(error)
    assert "its process died" in str(error)


def test_as_many_calls_as_may_be_rejected_may_kill_their_processes_once_others_are_done() -> None:
    fuse = make_fuse(alone=True, allowed=500)
    fuse.find_failure(1)
    assert fail(fuse, *[DEATH] * 500, committed=1) is None


def test_a_model_that_kills_every_process_that_loads_it_ends_the_run() -> None:
    fuse = make_fuse()
    fuse.see(RunFigures(starts=6))  # of both actors, and four more
    assert fuse.find_failure(0) is None
    fuse.see(RunFigures(starts=7, ready=1))
    assert fuse.find_failure(0) is None
    fuse.see(RunFigures(starts=7))
    assert "died 5 times before any had loaded it" in str(fuse.find_failure(0))


def test_an_error_that_hardly_a_call_escapes_ends_a_first_pass() -> None:
    fuse, counter = make_fuse(), RunCounter(1000, metrics=None)
    counter.add(Batch({"scored": 6, "bad_row": 100}, 0, 1.0, 1.0))
    counter.add(Batch({"scored": 1, "scoring_failed": 70}, 0, 1.0, 1.0, failure="scoring_failed: out of memory"))
    fuse.see(counter.read())
    assert fuse.find_failure(1) is None
    counter.add(Batch({"internal_error": 1}, 0, 1.0, 1.0))
    fuse.see(counter.read())
    error = str(fuse.find_failure(1))
    assert "71 of the first 178 calls failed" in error
    assert "(scoring_failed: out of memory)" in error
    assert "remove leads.work/run" in error
    alone = make_fuse(alone=True)
    alone.see(counter.read())
    assert alone.find_failure(1) is None


def test_rejects_that_are_the_calls_own_fault_do_not_end_a_pass() -> None:
    fuse, counter = make_fuse(), RunCounter(1000, metrics=None)
    counter.add(Batch({"audio_not_found": 900, "bad_row": 100}, 0, 0.0, 1.0))
    fuse.see(counter.read())
    assert fuse.find_failure(1) is None


def test_storage_that_delivers_too_few_recordings_for_the_run_to_succeed_ends_the_pass() -> None:
    fuse = make_fuse(allowed=100)
    fuse.see(RunFigures(done=31, unavailable=100))
    assert fuse.find_failure(1) is None
    fuse.see(RunFigures(done=101, unavailable=101))
    assert fuse.find_failure(1) is None
    fuse.see(RunFigures(done=31, unavailable=101))
    assert "recordings of 101 of the first 132 calls" in str(fuse.find_failure(1))


def test_a_failure_that_repeats_is_logged_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    fuse = make_fuse()
    logged = [fuse.add_failed_block(ValueError(f"row {number} is odd")) for number in range(5)]
    assert logged == [True, False, False, False, False]
    assert fuse.add_failed_block(TypeError("no row"))
    with caplog.at_level(logging.WARNING):
        fuse.log_repeated()
    assert caplog.messages == ["5 blocks of calls failed in the same way: row … is odd"]


def test_the_cause_is_the_last_line_of_the_first_error_of_a_chain() -> None:
    first = "Traceback\n  a line\nOSError: no disk\n"
    handled = "\nDuring handling of the above exception, another exception occurred:\n\nUserError: a hint"
    assert cause_of(RuntimeError(first + handled)) == "OSError: no disk"
    chained = "\nThe above exception was the direct cause of the following exception:\n\nUserError: a hint"
    assert cause_of(RuntimeError(first)) == cause_of(RuntimeError(first + chained)) == "OSError: no disk"
    assert cause_of(ValueError()) == "ValueError"
    assert cause_of(ActorDiedError()) == "ActorDiedError: its process died"
    raised = "The actor died because of an error raised in its creation task, ray::Actor.__init__()\n…\nModelError: no"
    assert cause_of(RayActorError(error_msg=raised)) == "ModelError: no"


def test_causes_that_differ_in_names_and_numbers_are_of_the_same_kind() -> None:
    assert kind_of("Cannot open 'a b.parquet': row 17") == kind_of("Cannot open 'c.parquet': row 4711")
    assert kind_of("lacks /a/b") == kind_of("lacks s3://bucket/c")
    assert kind_of("lacks memory") != kind_of("lacks a disk")
    assert kind_of(cause_of(ActorDiedError())) == kind_of(cause_of(WorkerCrashedError()))


class FailingGraph(PlainGraph):
    """Graph whose batches fail, but not its single calls."""

    def run_pass(self, task: Task, report: Callable[[int, int], None], *, alone: bool, num_left: int) -> Figures:
        if not alone:
            raise BatchesFailedError("8 blocks of calls in a row failed in the same way (its process died)")
        return super().run_pass(task, report, alone=alone, num_left=num_left)


def test_where_batch_after_batch_fails_the_calls_are_tried_one_by_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_manifest(tmp_path / "manifests", 3)
    run = open_run(plan(tmp_path / "manifests", str(tmp_path / "leads"), FailingGraph()))
    assert finish_run(run, lambda *_: None).scored == 3
    assert any("its process died); the calls are tried one by one" in message for message in caplog.messages)
