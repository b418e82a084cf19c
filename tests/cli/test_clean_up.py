"""What training deletes at its end: what it wrote, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from msmtfn import storage
from msmtfn.cli import train


@pytest.mark.parametrize("options", [{"out": "{0}/out"}, {"register": "{0}/out"}])
def test_work_in_progress_goes_and_the_files_of_others_stay(tmp_path: Path, options: dict[str, str]) -> None:
    arguments = train.Arguments(**{name: value.format(tmp_path) for name, value in options.items()})  # type: ignore[arg-type]
    work = Path(train._work_place(arguments))
    (work / "train-1").mkdir(parents=True)
    (work / "train-1" / "state.pt").touch()
    (work / "somebody.txt").touch()
    train._clean_up(arguments, str(work), "train-1")
    assert [path.name for path in work.iterdir()] == ["somebody.txt"]


def test_the_folder_for_work_goes_when_nothing_is_left_in_it(tmp_path: Path) -> None:
    arguments = train.Arguments(out=str(tmp_path / "out"))
    (tmp_path / "out.work" / "train-1").mkdir(parents=True)
    train._clean_up(arguments, train._work_place(arguments), "train-1")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_named_by_the_user_is_kept(tmp_path: Path) -> None:
    (tmp_path / "train-1").mkdir()
    train._clean_up(train.Arguments(out=str(tmp_path / "out"), work=str(tmp_path)), str(tmp_path), "train-1")
    assert (tmp_path / "train-1").is_dir()


def test_a_link_in_the_place_of_work_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").touch()
    (tmp_path / "out.work").mkdir()
    (tmp_path / "out.work" / "train-1").symlink_to(tmp_path / "theirs")
    storage.delete(str(tmp_path / "out.work" / "train-1"))
    assert (tmp_path / "theirs" / "file").exists()
