"""Registration of a new model: it becomes a version of the registry, and the current one if it passes the gate."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from msmtfn import storage
from msmtfn.evaluation.evaluator import evaluate_calls
from msmtfn.evaluation.labelled import LabelledSplit
from msmtfn.features.prepare import PrepareConfig
from msmtfn.inference.scorer import ScorerConfig
from msmtfn.model.checkpoint import fetch_model, load_model, model_version
from msmtfn.model.location import read_current
from msmtfn.registry.gate import decide_promotion
from msmtfn.registry.records import Decision, GateConfig, VersionRecord
from msmtfn.registry.versions import add_version, list_records, promote, write_decision
from msmtfn.storage.untrusted import inside

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Registration:
    """The registry for a new model, and the calls and conditions of the gate.

    Attributes:
        root: root folder of the registry.
        run: name of the training run.
        work: folder of the training run.
        held_out: calls that were used neither for training nor for validation.
        prepare: how their recordings are turned into the network's inputs.
        gate: conditions under which the new model replaces the current one.
        seed: seed of the bootstrap.
    """

    root: str
    run: str
    work: str
    held_out: LabelledSplit
    prepare: PrepareConfig
    gate: GateConfig
    seed: int


def find_registered(root: str, run: str) -> VersionRecord | None:
    """Return the record of a run whose model has been compared, or None if there is none.

    If the model passed but the run was interrupted before its promotion, it is promoted now.

    Raises:
        JobError: the registry cannot be read.
    """
    for record in list_records(root):
        if record.run == run and record.decision is not None:
            return _promote_if_passed(root, record, record.decision)
    return None


def register_model(folder: Path, to: Registration) -> VersionRecord:
    """Add a new model to the registry, compare it, and promote it if it passes; Ray must be running.

    Args:
        folder: local folder of the model.
        to: the registry, and the calls and conditions of the gate.

    Returns:
        The version's record, with the decision.

    Raises:
        JobError: the storage failed, or the held-out calls cannot be scored; calling this again resumes.
    """
    record = add_version(to.root, to.run)
    storage.put_folder(folder, inside(to.root, record.version))
    scored = _score_held_out(to, folder)
    while True:
        current = read_current(to.root)
        scored_by_current = None if current is None else _score_with_version(to, current.version)
        decision = decide_promotion(scored, scored_by_current, to.gate, to.seed)
        if read_current(to.root) == current:  # otherwise another run has promoted its model meanwhile
            break
    decision = replace(decision, compared_with=None if current is None else current.version)
    return _promote_if_passed(to.root, write_decision(to.root, record, decision), decision)


def _score_with_version(to: Registration, version: str) -> pa.Table:
    with tempfile.TemporaryDirectory(prefix="msmtfn-") as scratch:
        return _score_held_out(to, fetch_model(storage.join(to.root, version), Path(scratch)))


def _score_held_out(to: Registration, folder: Path) -> pa.Table:
    """Score the held-out calls with the model in a folder; the work folder is named by it, so that this can resume."""
    work = storage.join(to.work, f"held-out-{model_version(folder)}")
    return evaluate_calls(load_model(folder), to.held_out, to.prepare, ScorerConfig(), work=work).calls


def _promote_if_passed(root: str, record: VersionRecord, decision: Decision) -> VersionRecord:
    """Promote a version that passed, unless another version has become current since the comparison."""
    if not decision.passed or decision.promoted:
        return record
    current = read_current(root)
    current_version = None if current is None else current.version
    was_rolled_back = current is not None and record.version in current.left
    if was_rolled_back or current_version not in (decision.compared_with, record.version):
        logger.warning(
            "%s passed in comparison with %s, but now %s is current; promote it by hand with models.py promote",
            record.version,
            decision.compared_with,
            current_version,
        )
        return record
    promote(root, record.version, in_place_of=(current_version,))
    return write_decision(root, record, replace(decision, promoted=True))
