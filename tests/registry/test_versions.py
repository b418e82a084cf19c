from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from msmtfn import storage
from msmtfn.errors import ModelError, StorageError
from msmtfn.model.checkpoint import fetch_model, locate_model, model_version
from msmtfn.model.location import read_current, resolve_model
from msmtfn.registry import versions as registry
from msmtfn.registry.records import Decision, GateConfig
from msmtfn.registry.versions import add_version, list_records, promote, roll_back, write_decision

DECISION = Decision(passed=True, reason="better", calls=60, candidate=0.75, config=GateConfig())


def finish(root: str, run: str) -> str:
    """A version of a run that was decided."""
    record = write_decision(root, add_version(root, run), DECISION)
    storage.make_folder(storage.join(root, record.version))
    storage.write_text(storage.join(root, record.version, "config.json"), "{}")
    return record.version


def test_each_run_has_one_version_in_order_of_arrival(place: str) -> None:
    assert [finish(place, run) for run in ("a", "b", "a", "c")] == ["v0001", "v0002", "v0001", "v0003"]
    assert [record.run for record in list_records(place)] == ["a", "b", "c"]


def test_concurrent_runs_get_different_versions(place: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        versions = [record.version for record in pool.map(lambda run: add_version(place, run), "abcdef")]
    assert sorted(versions) == [f"v000{number}" for number in range(1, 7)]


def test_current_leads_to_what_was_promoted_and_back(place: str) -> None:
    first, second, third = (finish(place, run) for run in "abc")
    current = storage.join(place, "current")
    assert read_current(place) is None
    for version in (first, second, third, third):
        assert promote(place, version).version == version
        assert resolve_model(current) == storage.join(place, version)
    assert roll_back(place).version == second
    assert roll_back(place).version == first
    with pytest.raises(ModelError, match="no version that was current before"):
        roll_back(place)
    assert resolve_model(current) == storage.join(place, first)


def test_the_record_keeps_what_was_decided(place: str) -> None:
    written = write_decision(place, add_version(place, "a"), DECISION)
    (kept,) = list_records(place)
    assert kept == written
    assert (kept.decision, kept.run) == (DECISION, "a")


def test_a_missing_or_unfinished_version_cannot_be_promoted(place: str) -> None:
    add_version(place, "a")
    with pytest.raises(ModelError, match=r"v0001 of .* was never finished"):
        promote(place, "v0001")
    with pytest.raises(ModelError, match="has no version v0002; it has v0001"):
        promote(place, "v0002")
    with pytest.raises(ModelError, match="no version that was current before"):
        roll_back(place)


def test_a_version_whose_folder_is_gone_is_not_made_current(place: str) -> None:
    first, second = (finish(place, run) for run in "ab")
    for version in (first, second):
        promote(place, version)
    storage.delete(storage.join(place, first))
    for make_current in (roll_back, lambda root: promote(root, first)):
        with pytest.raises(ModelError, match="v0001 holds no model any more"):
            make_current(place)
    assert resolve_model(storage.join(place, "current")) == storage.join(place, second)


def test_a_rolled_back_version_is_remembered_until_it_is_promoted_by_hand(place: str) -> None:
    first, second = (finish(place, run) for run in "ab")
    for version in (first, second):
        promote(place, version)
    assert roll_back(place).left == (second,)
    assert promote(place, second).left == ()


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", '{"version": "v0001"}', '{"version":' * 100_000),
        *('{"version": "../elsewhere", "before": []}', '{"version": "v0001", "before": ["../v0002"]}'),
        *(
            '{"version": "v٠٠٠١", "before": []}',
            '{"version": ["v0001"], "before": []}',
            '{"version": "v0001", "before": 3}',
        ),
    ],
)
def test_a_current_that_names_no_version_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "current").write_text(text)
    with pytest.raises(ModelError, match="does not name a version"):
        locate_model(str(tmp_path / "current"))


@pytest.mark.parametrize("text", ["", "{}", "[" * 100_000, '{"version": "v0002"}'])
def test_a_broken_record_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "v0001.json").write_text(text)
    with pytest.raises(ModelError, match=r"v0001\.json is no record of a version"):
        list_records(str(tmp_path))


def test_a_folder_that_is_called_current_is_the_model_itself(tmp_path: Path, tiny_model: Path) -> None:
    folder = tmp_path / "current"
    folder.symlink_to(tiny_model)
    assert fetch_model(str(folder), tmp_path) == folder


def test_a_model_is_fetched_by_current(place: str, tiny_model: Path, tmp_path: Path) -> None:
    version = finish(place, "a")
    storage.put_folder(tiny_model, storage.join(place, version))
    promote(place, version)
    folder = fetch_model(storage.join(place, "current"), tmp_path)
    assert model_version(folder) == model_version(tiny_model)


def test_current_says_since_when(tmp_path: Path) -> None:
    promote(str(tmp_path), finish(str(tmp_path), "a"))
    said: dict[str, Any] = json.loads((tmp_path / "current").read_text())
    assert said["since"].startswith("20")


def test_a_registry_is_not_followed_through_links(tmp_path: Path, tiny_model: Path) -> None:
    root = tmp_path / "models"
    first, second = (finish(str(root), run) for run in "ab")
    promote(str(root), first)
    storage.delete(str(root / second))
    (root / second).symlink_to(tiny_model)
    with pytest.raises(StorageError, match="v0002 is a symbolic link"):
        promote(str(root), second)
    storage.delete(str(root / first))
    (root / first).symlink_to(tiny_model)
    with pytest.raises(StorageError, match="v0001 is a symbolic link"):
        resolve_model(str(root / "current"))
    (root / "current").rename(tmp_path / "elsewhere")
    (root / "current").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="current cannot be read: it is a symbolic link"):
        resolve_model(str(root / "current"))


def test_of_promotions_at_the_same_instant_one_wins_and_the_others_get_an_error(place: str) -> None:
    versions = [finish(place, run) for run in "abcd"]
    promote(place, versions[0])
    ready = threading.Barrier(3)

    def make_current(version: str) -> str:
        ready.wait()
        try:
            return promote(place, version).version
        except ModelError as exc:
            return "" if "at the same time" in str(exc) else "another error"

    for _ in range(5):
        before = read_current(place)
        assert before is not None
        others = [version for version in versions if version != before.version]
        with ThreadPoolExecutor(3) as pool:
            won = [version for version in pool.map(make_current, others) if version]
        after = read_current(place)
        assert after is not None
        assert after.version in won
        assert len(after.before) == len(before.before) + len(won)  # none was overwritten unseen


def test_a_version_that_was_compared_with_another_is_not_made_current(place: str) -> None:
    first, second, third = (finish(place, run) for run in "abc")
    promote(place, first, in_place_of=(None,))
    promote(place, second, in_place_of=(first,))
    with pytest.raises(ModelError, match=r"changed .*current at the same time, to v0002; nothing was done"):
        promote(place, third, in_place_of=(first,))
    assert promote(place, second, in_place_of=(first,)).version == second  # the same again


def test_going_back_loses_against_a_promotion_at_the_same_time(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = (finish(place, run) for run in "abc")
    for version in (first, second):
        promote(place, version)
    check = registry._check_folder

    def promote_meanwhile(root: str, version: str) -> None:
        check(root, version)
        monkeypatch.setattr(registry, "_check_folder", check)
        promote(root, third)

    monkeypatch.setattr(registry, "_check_folder", promote_meanwhile)
    with pytest.raises(ModelError, match="at the same time, to v0003"):
        roll_back(place)
    assert resolve_model(storage.join(place, "current")) == storage.join(place, third)
