"""A leads folder that others write to as well: their files stay, and what they plant leads nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from msmtfn import storage
from msmtfn.daily import publish as module
from msmtfn.daily.publication import begin, begun, file_name, new_publication
from msmtfn.daily.publish import day_folder, read_earlier_successes, read_leads, read_success, tidy_day
from msmtfn.errors import PublishError, StorageError
from msmtfn.storage.untrusted import LinkError
from tests.daily.parts import DATE, RECORD, SCHEMA, publish, rejected, scored, write_parts, write_success

CALLS = [[scored(0, 10.0), scored(1, 90.0), rejected(2)]]
DAY = f"date={DATE}"
FOREIGN = ("crm.parquet", "leads.parquet", "leads-abc-00000.parquet", "leads-00000000-00000.parquet", "notes.txt")


def no_check() -> None:
    """Hold the day."""


def names_in(folder: str) -> list[str]:
    return [file.rpartition("/")[2] for file in storage.list_files(folder, "")]


def foreign_files(leads: str) -> list[str]:
    """Files of somebody else in the day's folder; their names."""
    storage.make_folder(day_folder(leads, DATE))
    for name in FOREIGN:
        storage.write_text(storage.join(day_folder(leads, DATE), name), "theirs")
    return list(FOREIGN)


def test_files_of_others_stay_when_a_day_is_published_replaced_and_tidied(place: str) -> None:
    theirs = foreign_files(place)
    for run_id in ("run-1", "run-2"):
        success = publish(place, CALLS, run_id)
        assert sorted(names_in(day_folder(place, DATE))) == sorted([*theirs, *success.files])
    tidy_day(place, DATE, no_check)
    assert sorted(names_in(day_folder(place, DATE))) == sorted([*theirs, *success.files])
    assert read_leads(place, DATE).count_rows() == 3


def test_files_of_a_dead_publisher_are_deleted_by_the_next_publication(place: str) -> None:
    publish(place, CALLS)
    orphan = new_publication()
    begin(f"{place}/_runs", DATE, orphan)
    storage.write_text(storage.join(day_folder(place, DATE), file_name(orphan, 0)), "half")
    success = publish(place, CALLS, "run-2")
    assert names_in(day_folder(place, DATE)) == list(success.files)
    assert begun(f"{place}/_runs", DATE) == set()


def test_files_of_a_dead_publisher_are_deleted_even_if_nothing_is_left_to_score(place: str) -> None:
    success = publish(place, CALLS)
    orphan = new_publication()
    for publication in (orphan, success.publication):  # the one died before, the other after its _SUCCESS
        begin(f"{place}/_runs", DATE, publication)
    storage.write_text(storage.join(day_folder(place, DATE), file_name(orphan, 0)), "half")
    tidy_day(place, DATE, no_check)
    assert names_in(day_folder(place, DATE)) == list(success.files)
    assert begun(f"{place}/_runs", DATE) == set()


def test_replaced_files_go_even_if_the_publisher_died_before_it_deleted_them(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(place, CALLS)

    def die(*_: Any) -> None:
        raise StorageError("killed")

    with monkeypatch.context() as dying:
        dying.setattr(module, "delete_files", die)
        with pytest.raises(StorageError, match="killed"):
            publish(place, CALLS, "run-2")
    assert len(names_in(day_folder(place, DATE))) == 2
    tidy_day(place, DATE, no_check)
    success = read_success(place, DATE)
    assert success is not None
    assert names_in(day_folder(place, DATE)) == list(success.files)


def test_a_day_that_the_version_before_published_is_read_and_replaced(place: str) -> None:
    old = publish(place, CALLS)
    assert "replaced" not in old.as_dict()  # as that version wrote it
    new = publish(place, CALLS, "run-2")
    assert new.replaced == (old.publication,)
    assert names_in(day_folder(place, DATE)) == list(new.files)


# ---- planted names


@pytest.mark.parametrize(
    "planted",
    [
        {"files": ["../date=2026-03-01/leads-0123abcd-00000.parquet"]},
        {"files": ["/etc/leads-0123abcd-00000.parquet"]},
        {"files": ["leads-0123abcd-00000.parquet/../../x"]},
        {"files": ["leads-ffffffff-00000.parquet"]},
        {"files": ["leads-0123abcd-00000.parquet\n"]},
        {"files": ["leads-0123abcd-00000.parquet"] * 2},
        {"files": [7]},
        {"files": [None]},
        {"publication": "../../x", "files": []},
        {"publication": None, "files": []},
        {"publication": 12345678, "files": []},
        {"replaced": ["../x"], "files": []},
        {"replaced": "0123abcd", "files": []},
        {"replaced": ["0123abcd"], "files": []},
    ],
)
def test_names_in_a_planted_success_are_refused(tmp_path: Path, planted: dict[str, Any]) -> None:
    write_success(tmp_path, **planted)
    for read in (read_success, read_leads):
        with pytest.raises(PublishError, match=r"_SUCCESS is not what a run writes .*; remove it"):
            read(str(tmp_path), DATE)
    with pytest.raises(PublishError, match="remove it"):
        publish(str(tmp_path), CALLS)


def test_a_success_nested_without_end_is_an_error_in_one_line(tmp_path: Path) -> None:
    storage.write_text(f"{tmp_path}/{DAY}/_SUCCESS", '{"files":' * 100_000)
    with pytest.raises(PublishError, match="nested too deeply"):
        read_success(str(tmp_path), DATE)


# ---- links


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A published day of another tenant."""
    publish(str(tmp_path / "other"), CALLS)
    return tmp_path / "other"


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("linked", [DAY, "_runs", f"{DAY}/_SUCCESS"])
def test_a_link_out_of_the_leads_is_followed_in_no_read_write_or_delete(
    tmp_path: Path, theirs: Path, linked: str
) -> None:
    leads = tmp_path / "leads"
    (leads / linked).parent.mkdir(parents=True)
    run = write_parts(str(tmp_path / "work"), "run-1", CALLS)
    (leads / linked).symlink_to(theirs / linked)
    before = snapshot(theirs)
    with pytest.raises(StorageError, match="symbolic link"):
        module.publish_day(str(leads), DATE, run, SCHEMA, 3, RECORD)
    with pytest.raises(StorageError, match="symbolic link"):
        tidy_day(str(leads), DATE, no_check)
    assert snapshot(theirs) == before


def test_a_published_file_that_is_a_link_is_not_read(tmp_path: Path, theirs: Path) -> None:
    leads = tmp_path / "leads"
    (name,) = publish(str(leads), CALLS).files
    (their_file,) = (theirs / DAY).glob("*.parquet")
    (leads / DAY / name).unlink()
    (leads / DAY / name).symlink_to(their_file)
    with pytest.raises(LinkError, match="is a symbolic link, and no link below"):
        read_leads(str(leads), DATE)
    publish(str(leads), CALLS, "run-2")
    assert their_file.exists()
    assert not (leads / DAY / name).is_symlink()


def test_a_linked_day_tells_nothing_about_other_days(tmp_path: Path, theirs: Path) -> None:
    leads = tmp_path / "leads"
    leads.mkdir()
    (leads / DAY).symlink_to(theirs / DAY)
    assert read_earlier_successes(str(leads), DATE.replace(day=9)) == []
