"""A new model on its way into a registry: a version of its own, and current if it passes the gate."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from msmtfn import storage
from msmtfn.model.checkpoint import fetch_model, load_model, model_version
from msmtfn.model.registry import add_version, list_records, promote, read_current, write_decision
from msmtfn.scoring.prepare import PrepareConfig
from msmtfn.training.data import LabelledSplit
from msmtfn.training.gate import Decision, GateConfig, decide
from msmtfn.training.judge import judge_split
from msmtfn.untrusted import inside

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Registration:
    """Where a new model goes and what it is judged on.

    Attributes:
        root: of the registry.
        run: name of the training run.
        work: the run's folder.
        held_out: calls that neither trained nor validated.
        prepare: how their recordings are read.
        gate: when the new model takes the present one's place.
        seed: of the bootstrap.
    """

    root: str
    run: str
    work: str
    held_out: LabelledSplit
    prepare: PrepareConfig
    gate: GateConfig
    seed: int


def find_registered(root: str, run: str) -> dict[str, Any] | None:
    """The record of a run whose model was judged already, made current if that is all that is missing; None of another.

    Raises:
        JobError: the registry cannot be read.
    """
    found = [record for record in list_records(root) if record["run"] == run and record["decision"] is not None]
    return _promote_if_passed(root, found[0]) if found else None


def register(folder: Path, to: Registration) -> dict[str, Any]:
    """Put a new model into the registry, judge it, and make it current if it passes; Ray must be up.

    Args:
        folder: of the model, on this machine.
        to: where it goes.

    Returns:
        The version's record, with the decision.

    Raises:
        JobError: the storage refused, or the held-out calls cannot be scored; the same again goes on.
    """
    record = add_version(to.root, to.run)
    storage.put_folder(folder, inside(to.root, record["version"]))
    judged = _judge(to, folder)
    while True:
        present = read_current(to.root)
        judged_before = None if present is None else _judge_version(to, present.version)
        decision = decide(judged, judged_before, to.gate, to.seed)
        if read_current(to.root) == present:  # else another run has promoted its model meanwhile
            break
    said = _said(decision, None if present is None else present.version)
    write_decision(to.root, record, said)
    return _promote_if_passed(to.root, {**record, "decision": said})


def _judge_version(to: Registration, version: str) -> pa.Table:
    with tempfile.TemporaryDirectory(prefix="msmtfn-") as scratch:
        return _judge(to, fetch_model(storage.join(to.root, version), Path(scratch)))


def _judge(to: Registration, folder: Path) -> pa.Table:
    """The held-out calls as the model in a folder scores them; they stand under its own name, to go on with."""
    place = storage.join(to.work, f"judged-{model_version(folder)}")
    return judge_split(to.held_out, load_model(folder), to.prepare, place)


def _said(decision: Decision, present: str | None) -> dict[str, Any]:
    return {**decision.as_row(), "compared_with": present, "promoted": False}


def _promote_if_passed(root: str, record: dict[str, Any]) -> dict[str, Any]:
    """Make a version that passed current, unless another one is current by now than it was compared with."""
    decision, current = record["decision"], read_current(root)
    if not decision["passed"] or decision["promoted"]:
        return record
    present = None if current is None else current.version
    is_left = current is not None and record["version"] in current.left
    if is_left or present not in (decision["compared_with"], record["version"]):
        logger.warning(
            "%s passed beside %s, but now %s is current; models.py promote makes it current by hand",
            record["version"],
            decision["compared_with"],
            present,
        )
        return record
    promote(root, record["version"], in_place_of=(present,))
    promoted = {**decision, "promoted": True}
    write_decision(root, record, promoted)
    return {**record, "decision": promoted}
