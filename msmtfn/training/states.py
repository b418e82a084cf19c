"""States that training resumes from, one per epoch; one that is truncated gives way to the one before it.

Ray Train keeps the last two in the run's folder and a list of them beside, and replaces none of these files atomically.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import ray.train
import torch

from msmtfn import storage
from msmtfn.errors import TrainingError
from msmtfn.storage.untrusted import parse_object, read_text

logger = logging.getLogger(__name__)

RUN_NAME: Final = "ray-train"
"""Folder of Ray Train in the folder of a training run."""
STATE_NAME: Final = "state.pt"
SNAPSHOT_NAME: Final = "checkpoint_manager_snapshot.json"
"""Ray Train's list of checkpoints."""
CHECKPOINT_PREFIX: Final = "checkpoint_"
"""Begin of the name of a checkpoint's folder; the time that follows sorts like the epochs."""
ENTRIES: Final = frozenset({"network", "optimizer", "schedule", "epochs", "best"})
UNREADABLE: Final = (
    FileNotFoundError,
    EOFError,
    RuntimeError,
    ValueError,
    KeyError,
    AttributeError,
    pickle.UnpicklingError,
)
"""What PyTorch raises for a file that is missing, truncated or something else.

Other errors of storage are not among them: they may pass, and workers that do not read the same state would part."""


def save_state(state: dict[str, Any], folder: Path) -> None:
    """Write a state to a folder."""
    torch.save(state, folder / STATE_NAME)


def load_state(checkpoint: ray.train.Checkpoint) -> dict[str, Any]:
    """Read the state of a checkpoint.

    Raises:
        TrainingError: the state cannot be read.
    """
    try:
        with checkpoint.as_directory() as folder:
            state: dict[str, Any] = torch.load(Path(folder) / STATE_NAME, map_location="cpu", weights_only=True)
        missing = ENTRIES - state.keys()
    except UNREADABLE as exc:
        raise TrainingError(f"the checkpoint {checkpoint.path} cannot be read ({type(exc).__name__})") from exc
    if missing:
        raise TrainingError(f"the checkpoint {checkpoint.path} lacks {', '.join(sorted(missing))}")
    return state


def find_state(latest: ray.train.Checkpoint | None, folder: str) -> dict[str, Any] | None:
    """Return the newest state that can be read; None if there is none, so that training starts anew.

    Args:
        latest: checkpoint that Ray Train resumes from; None if it knows of none.
        folder: folder of the training run.
    """
    for checkpoint in _newest_first(latest, folder):
        try:
            return load_state(checkpoint)
        except TrainingError as exc:
            logger.warning("%s; training resumes from the one before, or starts anew", exc)
    return None


def _newest_first(latest: ray.train.Checkpoint | None, folder: str) -> Iterator[ray.train.Checkpoint]:
    """Yield the latest checkpoint, and then those before it; all checkpoints if there is no latest one."""
    if latest is not None:
        yield latest
    filesystem, path = storage.arrow_filesystem_of(storage.join(folder, RUN_NAME))
    names = [each.rpartition("/")[2] for each in storage.list_folders(storage.join(folder, RUN_NAME))]
    last = None if latest is None else latest.path.rstrip("/").rpartition("/")[2]
    for name in sorted(names, reverse=True):
        if name.startswith(CHECKPOINT_PREFIX) and (last is None or name < last):
            yield ray.train.Checkpoint(f"{path}/{name}", filesystem)


def delete_broken_snapshot(folder: str) -> None:
    """Delete Ray Train's list of checkpoints if it is truncated; `find_state` finds the checkpoints without it.

    Args:
        folder: folder of the training run.
    """
    snapshot = storage.join(folder, RUN_NAME, SNAPSHOT_NAME)
    try:
        text = read_text(snapshot)
        if text is not None:
            parse_object(text)
    except ValueError as exc:
        logger.warning("%s cannot be read (%s) and is made again", snapshot, exc)
        storage.delete(snapshot)
