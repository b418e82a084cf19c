"""State of a day's run, told from what is on storage alone, and the paths of its work.

    planned ──> copied ──> running ──> complete ──> published
                            │   ^
                            v   │
                          left over

The table of the states is in this folder's `README.md`; `NEXT` and `AFTER_CRASH` are its edges.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as pads

from msmtfn import storage
from msmtfn.daily.publish import PARTS_FOLDER, read_success
from msmtfn.daily.work import run_folder, work_roots
from msmtfn.errors import StorageError
from msmtfn.rows import ROW_ID
from msmtfn.storage.untrusted import inside, parse_object, read_text

PENDING: Final = ".pending.parquet"
MAX_MARKER_BYTES: Final = 2**16


class RunState(StrEnum):
    """State of a run."""

    PLANNED = "planned"
    """Nothing is on storage, or a copy of the manifest without its marker."""
    COPIED = "copied"
    """The manifest is copied; no call is committed."""
    RUNNING = "running"
    """A pass of the graph is at work. Only its own process knows: what a crash leaves is one of the other states."""
    LEFT_OVER = "left over"
    """Some calls are committed; the others await another pass."""
    COMPLETE = "complete"
    """Every call is committed, or rejected because its process died in every pass."""
    PUBLISHED = "published"
    """The day's `_SUCCESS` names the run."""


NEXT: Final[Mapping[RunState, frozenset[RunState]]] = {
    RunState.PLANNED: frozenset({RunState.COPIED, RunState.COMPLETE}),
    RunState.COPIED: frozenset({RunState.RUNNING, RunState.COMPLETE}),
    RunState.RUNNING: frozenset({RunState.COPIED, RunState.LEFT_OVER, RunState.COMPLETE}),
    RunState.LEFT_OVER: frozenset({RunState.RUNNING, RunState.COMPLETE}),
    RunState.COMPLETE: frozenset({RunState.PUBLISHED, RunState.COPIED, RunState.LEFT_OVER}),
    RunState.PUBLISHED: frozenset(),
}
"""States that a run may enter from a state.

A day without calls is complete once it is copied. A pass that commits nothing leaves the run as it was copied. From
copied or left over, a run is complete without another pass if the calls that remain are rejected; the next command
takes these rejects back.
"""

AFTER_CRASH: Final[Mapping[RunState, frozenset[RunState]]] = {
    state: NEXT[state] if state is RunState.RUNNING else frozenset({state}) for state in RunState
}
"""States that the next command may find after a crash in a state: a pass that is killed leaves what one that ends may
leave; nothing else is left half done."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Folder of a run's work in progress.

    Attributes:
        path: location of the folder.
    """

    path: str

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.rpartition("/")[2]

    @property
    def calls(self) -> str:
        """Folder of the copy of the manifest."""
        return storage.join(self.path, "calls")

    @property
    def parts(self) -> str:
        """Folder of the rows that the graph has made."""
        return storage.join(self.path, PARTS_FOLDER)

    @property
    def checkpoint(self) -> str:
        """Folder where the engine records the committed calls."""
        return storage.join(self.path, "checkpoint")

    @property
    def crashed(self) -> str:
        """Part with the calls that were rejected because their processes died."""
        return storage.join(self.parts, "crashed.parquet")

    @property
    def marker(self) -> str:
        """File that is written when the copy of the manifest is whole."""
        return storage.join(self.path, "calls.json")

    def read_num_calls(self) -> int | None:
        """Return the number of calls in the copy of the manifest; None if there is no whole copy.

        Raises:
            StorageError: the marker is not what a run writes.
        """
        text = read_text(self.marker, MAX_MARKER_BYTES)
        if text is None:
            return None
        try:
            num_calls = parse_object(text).get("calls")
        except ValueError as exc:
            raise StorageError(self._bad_marker(str(exc))) from exc
        if type(num_calls) is not int or num_calls < 0:
            raise StorageError(self._bad_marker("calls is not a whole number of 0 or more"))
        return num_calls

    def write_num_calls(self, num_calls: int) -> None:
        """Mark the copy of the manifest as whole."""
        storage.write_text(self.marker, json.dumps({"calls": num_calls}) + "\n")

    def committed_ids(self) -> npt.NDArray[np.int64]:
        """Return the row ids of the committed calls, from the engine's checkpoint; 8 MB per million calls."""
        files = storage.list_files(self.checkpoint, ".parquet")
        return _read_ids([file for file in files if not file.endswith(PENDING)], self.checkpoint)

    def uncommitted_ids(self, num_calls: int) -> npt.NDArray[np.int64]:
        """Return the row ids of the calls that are not committed."""
        return np.setdiff1d(np.arange(num_calls), self.committed_ids())

    def finish_commits(self) -> None:
        """Finish the commits that a killed process had begun.

        S3 has no rename, so Ray Data commits a checkpoint file by a copy and a deletion. Between them, the file is both
        pending and committed: Ray Data would delete the calls' part as pending, and skip the calls as committed.
        """
        files = set(storage.list_files(self.checkpoint, ".parquet"))
        for file in files:
            if file.endswith(PENDING) and file.removesuffix(PENDING) + ".parquet" in files:
                storage.delete(file)

    def delete_crashed_rejects(self) -> None:
        """Delete the rejects of calls whose processes died, so that these calls are tried again."""
        storage.delete(self.crashed)

    def find_state(self) -> RunState:
        """Return the state of a run that is not published."""
        num_calls = self.read_num_calls()
        if num_calls is None:
            return RunState.PLANNED
        left = self.uncommitted_ids(num_calls)
        if 0 < len(left) == num_calls and not storage.exists(self.crashed):
            return RunState.COPIED
        if len(left) and storage.exists(self.crashed):
            left = np.setdiff1d(left, _read_ids([self.crashed], self.parts))
        return RunState.LEFT_OVER if len(left) else RunState.COMPLETE

    def _bad_marker(self, reason: str) -> str:
        return f"{self.marker} is not what a run writes ({reason}); remove {self.path}, and run the same command again"


def open_folder(leads: str, work: str, name: str) -> RunFolder:
    """Return a run's folder, after checking that no symbolic link in it leads elsewhere.

    It lies below the root of all work, or below the leads if an older version has begun the run there.

    Args:
        leads: root of all leads.
        work: root of all work in progress.
        name: name of the run's folder.

    Raises:
        LinkError: the folder, or one in it, is a link.
    """
    folders = [_open_checked(root, name) for root in work_roots(leads, work)]
    return next((folder for folder in reversed(folders) if storage.exists(folder.marker)), folders[0])


def _open_checked(root: str, name: str) -> RunFolder:
    folder = RunFolder(run_folder(root, name))
    for inner in (folder.calls, folder.parts, folder.checkpoint):
        inside(root, name, inner.rpartition("/")[2])
    return folder


def find_state(leads: str, date: dt.date, run_id: str, folder: RunFolder) -> RunState:
    """Return the state of a run, as the holder of the day's lock finds it.

    Args:
        leads: root of all leads.
        date: the day.
        run_id: id of the run.
        folder: its folder, whose name ends with the publication that it is to replace if it replaces its own.
    """
    success = read_success(leads, date)
    replaces = folder.name.removeprefix(run_id).rpartition("-")[2]
    if success is not None and success.run_id == run_id and success.publication != replaces:
        return RunState.PUBLISHED
    return folder.find_state()


def _read_ids(files: list[str], folder: str) -> npt.NDArray[np.int64]:
    filesystem, _ = storage.arrow_filesystem_of(folder)
    paths = [storage.arrow_filesystem_of(file)[1] for file in files]
    schema = pa.schema([(ROW_ID, pa.int64())])
    dataset = pads.dataset(paths, schema=schema, filesystem=filesystem, format="parquet")
    ids: npt.NDArray[np.int64] = dataset.to_table(cache_metadata=False)[ROW_ID].to_numpy()
    return ids
