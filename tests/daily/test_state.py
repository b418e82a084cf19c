"""The states of a run: every edge, and what a crash in each state leaves to the next command."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from msmtfn import storage
from msmtfn.daily.day import count_done, finish_run, open_run, tidy_up
from msmtfn.daily.publish import read_leads, read_success
from msmtfn.daily.state import AFTER_CRASH, NEXT, RunFolder, RunState
from msmtfn.errors import ManifestError, ScoringError, StorageError
from msmtfn.storage.untrusted import LinkError
from tests.daily.parts import DATE, write_success
from tests.daily.plain_graph import Killed, PlainGraph, plan, write_manifest

PLANNED, COPIED, RUNNING, LEFT_OVER, COMPLETE, PUBLISHED = RunState
ALL = {0, 1, 2}
Walk = tuple[int, list[Collection[int]], list[RunState]]

WALKS: dict[str, Walk] = {
    "one pass": (3, [ALL], [PLANNED, COPIED, RUNNING, COMPLETE, PUBLISHED]),
    "two passes": (3, [{0}, {1, 2}], [PLANNED, COPIED, RUNNING, LEFT_OVER, RUNNING, COMPLETE, PUBLISHED]),
    "a pass for nothing": (3, [[], ALL], [PLANNED, COPIED, RUNNING, COPIED, RUNNING, COMPLETE, PUBLISHED]),
    "two calls crash": (3, [{0}, []], [PLANNED, COPIED, RUNNING, LEFT_OVER, RUNNING, LEFT_OVER, COMPLETE, PUBLISHED]),
    "all calls crash": (3, [[], []], [PLANNED, COPIED, RUNNING, COPIED, RUNNING, COPIED, COMPLETE, PUBLISHED]),
    "no call": (0, [], [PLANNED, COMPLETE, PUBLISHED]),
}
"""Number of calls, ids that each pass commits, and the states that the run goes through."""

TAKEN_BACK = {(COMPLETE, LEFT_OVER), (COMPLETE, COPIED)}
"""Edges that a second command goes."""


def no_report(done: int, rejected: int, resumed: int) -> None:
    """Show nothing."""


def die() -> None:
    raise Killed


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    write_manifest(tmp_path / "manifests", 3)
    return tmp_path / "manifests"


def state_of(manifests: Path, leads: str) -> RunState:
    return plan(manifests, leads).find_state()


def finish(manifests: Path, leads: str, graph: PlainGraph | None = None) -> None:
    """Do what the next command does."""
    planned = plan(manifests, leads, graph)
    if planned.published is None:
        finish_run(open_run(planned), no_report)
    else:
        tidy_up(planned)


def assert_published_once(leads: str) -> None:
    rows = read_leads(leads, DATE).to_table().to_pylist()
    assert sorted(row["call_id"] for row in rows) == ["c0", "c1", "c2"]
    for folder in map(RunFolder, storage.list_folders(f"{leads}.work")):  # on S3 an empty one may be listed
        assert folder.read_num_calls() is None
        assert not any(storage.list_files(inner, "") for inner in (folder.calls, folder.parts, folder.checkpoint))


@pytest.mark.parametrize("name", WALKS)
def test_a_run_goes_through_its_states(tmp_path: Path, place: str, name: str) -> None:
    num_calls, passes, expected = WALKS[name]
    write_manifest(tmp_path / "manifests", num_calls)
    walk: list[RunState] = []

    def look(state: RunState | None = None) -> None:
        walk.append(state or state_of(tmp_path / "manifests", place))

    look()
    run = open_run(plan(tmp_path / "manifests", place, PlainGraph(list(passes), look=look)))
    look()
    finish_run(run, no_report)
    look()
    assert [state for state, before in zip(walk, [None, *walk], strict=False) if state != before] == expected


def test_the_walks_go_along_every_edge() -> None:
    walked = {edge for _, _, walk in WALKS.values() for edge in itertools.pairwise(walk)}
    assert walked | TAKEN_BACK == {(state, after) for state in RunState for after in NEXT[state]}


@pytest.mark.parametrize(("committed", "expected"), [({0}, LEFT_OVER), ([], COPIED)])
def test_the_next_command_takes_back_the_rejects_of_crashed_calls(
    manifests: Path, place: str, committed: Collection[int], expected: RunState
) -> None:
    run = open_run(plan(manifests, place, PlainGraph([committed, []])))
    with pytest.raises(Killed):
        finish_run(run, no_report, die)
    assert state_of(manifests, place) is COMPLETE
    open_run(plan(manifests, place))
    assert state_of(manifests, place) is expected
    finish(manifests, place)
    success = read_success(place, DATE)
    assert success is not None
    assert (success.scored, success.calls_resumed) == (3, len(committed))


def test_a_day_whose_manifest_is_replaced_before_it_is_copied_runs_under_no_id(tmp_path: Path) -> None:
    write_manifest(tmp_path / "manifests", 3)
    planned = plan(tmp_path / "manifests", str(tmp_path / "leads"))
    shutil.rmtree(tmp_path / "manifests")
    write_manifest(tmp_path / "manifests", 4)
    with pytest.raises(ManifestError, match="was changed while it was read"):
        open_run(planned)
    assert planned.find_state() is RunState.PLANNED
    assert open_run(plan(tmp_path / "manifests", str(tmp_path / "leads"))).task.num_calls == 4


# ---- crashes


def crash_while_copying(manifests: Path, leads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunFolder, "write_num_calls", lambda *_: die())
    open_run(plan(manifests, leads))


def crash_when_copied(manifests: Path, leads: str, _: Any) -> None:
    open_run(plan(manifests, leads))
    die()


def crash_in_pass(number: int, *passes: Collection[int]) -> Callable[..., None]:
    def crash(manifests: Path, leads: str, _: Any) -> None:
        finish(manifests, leads, PlainGraph(list(passes), dies_in=number))

    return crash


def crash_before_it_publishes(manifests: Path, leads: str, _: Any) -> None:
    finish_run(open_run(plan(manifests, leads)), no_report, die)


def crash_while_it_publishes(manifests: Path, leads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("msmtfn.daily.publish._install", lambda *_: die())
    finish(manifests, leads)


def crash_before_it_cleans_up(manifests: Path, leads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run(plan(manifests, leads))
    monkeypatch.setattr(storage, "delete", lambda _: die())
    finish_run(run, no_report)


CRASHES: list[tuple[RunState, Callable[..., None], RunState]] = [
    (PLANNED, crash_while_copying, PLANNED),
    (COPIED, crash_when_copied, COPIED),
    (RUNNING, crash_in_pass(0, []), COPIED),
    (RUNNING, crash_in_pass(0, {0}), LEFT_OVER),
    (RUNNING, crash_in_pass(0, ALL), COMPLETE),
    (RUNNING, crash_in_pass(1, {0}, {1}), LEFT_OVER),
    (LEFT_OVER, crash_in_pass(1, {0}, []), LEFT_OVER),
    (COMPLETE, crash_before_it_publishes, COMPLETE),
    (COMPLETE, crash_while_it_publishes, COMPLETE),
    (PUBLISHED, crash_before_it_cleans_up, PUBLISHED),
]
"""State that the run is in, the crash, and the state that the next command finds."""


@pytest.mark.parametrize(("crash", "expected"), [crash[1:] for crash in CRASHES])
def test_after_a_crash_the_next_command_finds_the_state_and_publishes_every_call_once(
    manifests: Path, place: str, crash: Callable[..., None], expected: RunState
) -> None:
    with pytest.MonkeyPatch.context() as dying, pytest.raises(Killed):
        crash(manifests, place, dying)
    assert state_of(manifests, place) is expected
    finish(manifests, place)
    assert state_of(manifests, place) is PUBLISHED
    assert_published_once(place)


def test_the_crashes_leave_every_state_that_they_can() -> None:
    assert {(state, found) for state, _, found in CRASHES} == {
        (state, found) for state in RunState for found in AFTER_CRASH[state]
    }


# ---- other runs of the day


def test_a_forced_run_has_states_of_its_own(manifests: Path, place: str) -> None:
    finish(manifests, place)
    forced = plan(manifests, place, force=True)
    assert forced.find_state() is PLANNED
    with pytest.raises(Killed):
        finish_run(open_run(forced), no_report, die)
    assert plan(manifests, place, force=True).find_state() is COMPLETE
    finish_run(open_run(plan(manifests, place, force=True)), no_report)
    assert forced.find_state() is PUBLISHED
    assert_published_once(place)


def test_a_day_that_another_run_published_is_planned(manifests: Path, place: str) -> None:
    write_success(place, run_id="another")
    assert state_of(manifests, place) is PLANNED


def test_a_run_in_which_too_many_calls_crash_stays_left_over(manifests: Path, place: str) -> None:
    with pytest.raises(ScoringError, match="2 calls failed even alone"):
        finish(manifests, place, PlainGraph([{0}, []], max_crashed_share=0.1))
    assert state_of(manifests, place) is LEFT_OVER
    assert count_done(plan(manifests, place)) == 1


@pytest.mark.parametrize("text", ["", "[]", "{", '{"calls": "3"}', '{"calls": -1}', '{"calls": true}', "[" * 60_000])
def test_a_marker_that_cannot_be_read_is_named_with_its_cure(manifests: Path, tmp_path: Path, text: str) -> None:
    leads = str(tmp_path / "leads")
    storage.write_text(open_run(plan(manifests, leads)).folder.marker, text)
    with pytest.raises(StorageError, match=r"calls\.json is not what a run writes \(.*\); remove .*, and run"):
        state_of(manifests, leads)


def test_a_folder_of_a_run_that_is_a_link_is_refused(manifests: Path, tmp_path: Path) -> None:
    leads = str(tmp_path / "leads")
    folder = Path(open_run(plan(manifests, leads)).folder.path)
    folder.rename(tmp_path / "theirs")
    folder.symlink_to(tmp_path / "theirs")
    with pytest.raises(LinkError):
        state_of(manifests, leads)
