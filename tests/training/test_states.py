"""What training resumes from if files of its last checkpoint are truncated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray.train
import torch

from msmtfn import storage
from msmtfn.errors import TrainingError
from msmtfn.training.states import RUN_NAME, SNAPSHOT_NAME, delete_broken_snapshot, find_state, load_state, save_state

NAMES = [f"checkpoint_2026-12-01_10-00-0{second}.000000" for second in range(3)]


def state_of(epoch: int) -> dict[str, Any]:
    weights = {"weight": torch.arange(1000.0) + epoch}
    return {"network": weights, "optimizer": {}, "schedule": {}, "epochs": [{"epoch": epoch}], "best": weights}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return the folder of a run with the checkpoints of three epochs, as Ray Train names them."""
    for epoch, name in enumerate(NAMES):
        folder = tmp_path / RUN_NAME / name
        folder.mkdir(parents=True)
        save_state(state_of(epoch), folder)
    (tmp_path / RUN_NAME / "another").mkdir()
    return tmp_path


def checkpoint(run: Path, epoch: int) -> ray.train.Checkpoint:
    filesystem, path = storage.arrow_filesystem_of(str(run / RUN_NAME / NAMES[epoch]))
    return ray.train.Checkpoint(path, filesystem)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def leave_out_the_optimizer(file: Path) -> None:
    torch.save({name: value for name, value in state_of(9).items() if name != "optimizer"}, file)


DAMAGES: list[Callable[[Path], Any]] = [
    cut,
    lambda file: file.write_bytes(b""),
    lambda file: file.write_bytes(b"no state at all"),
    lambda file: torch.save([1, 2], file),
    leave_out_the_optimizer,
    Path.unlink,
]


def test_training_resumes_from_the_checkpoint_that_ray_train_names(run: Path) -> None:
    state = find_state(checkpoint(run, 1), str(run))
    assert state is not None
    assert state["epochs"] == [{"epoch": 1}]
    assert torch.equal(state["network"]["weight"], torch.arange(1000.0) + 1)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(run: Path, damage: Callable[[Path], Any]) -> None:
    damage(run / RUN_NAME / NAMES[1] / "state.pt")
    with pytest.raises(TrainingError, match=f"checkpoint .*{NAMES[1]}"):
        load_state(checkpoint(run, 1))
    state = find_state(checkpoint(run, 1), str(run))
    assert state is not None
    assert state["epochs"] == [{"epoch": 0}]  # and not the one after it, which Ray Train does not know of


def test_training_starts_anew_where_no_checkpoint_can_be_read(run: Path, tmp_path: Path) -> None:
    for name in NAMES:
        cut(run / RUN_NAME / name / "state.pt")
    assert find_state(checkpoint(run, 2), str(run)) is None
    assert find_state(None, str(tmp_path / "another")) is None


@pytest.mark.parametrize("text", ["", '{"checkpoint_res', "[]"])
def test_a_truncated_list_of_checkpoints_is_deleted_and_the_newest_checkpoint_is_found(run: Path, text: str) -> None:
    snapshot = run / RUN_NAME / SNAPSHOT_NAME
    snapshot.write_text(text)
    delete_broken_snapshot(str(run))
    assert not snapshot.exists()
    state = find_state(None, str(run))
    assert state is not None
    assert state["epochs"] == [{"epoch": 2}]


def test_a_whole_list_of_checkpoints_stays(run: Path) -> None:
    snapshot = run / RUN_NAME / SNAPSHOT_NAME
    delete_broken_snapshot(str(run))
    snapshot.write_text("{}")
    delete_broken_snapshot(str(run))
    assert snapshot.read_text() == "{}"


def test_an_error_of_storage_that_may_pass_is_no_reason_to_resume_from_an_older_state(run: Path) -> None:
    state = run / RUN_NAME / NAMES[2] / "state.pt"
    state.unlink()
    state.mkdir()  # reading it is an error of the operating system
    with pytest.raises(IsADirectoryError):
        find_state(checkpoint(run, 2), str(run))
