"""Prosody pretraining on Ray: from the prepared calls, before the actual training, and resumable after each epoch."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import os
import time
from dataclasses import replace
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from msmtfn import storage
from msmtfn.errors import TrainingDataError, TrainingError
from msmtfn.model.base import CallNetwork
from msmtfn.model.checkpoint import Model, pack_network, weights_digest
from msmtfn.training.datasets import longest_round, read_samples
from msmtfn.training.prosody import ProsodyLearner, load_state

logger = logging.getLogger(__name__)


def learn_prosody(
    model: Model, calls: str, folder: str, *, num_epochs: int, seed: int, cpus: int, gpus: float, max_failures: int
) -> Model:
    """Train a model's audio encoder on prosody, or resume from the last finished epoch.

    Args:
        model: the model whose audio encoder is trained; it is not changed.
        calls: folder of the prepared training calls.
        folder: folder for the states after each epoch; models with the same audio encoder may share it.
        num_epochs: passes over the training rounds.
        seed: seed of all random draws.
        cpus: CPUs of the process; without a GPU, also its number of threads.
        gpus: GPUs of the process, which may be a fraction.
        max_failures: how often the training resumes after its process has died.

    Returns:
        A copy of the model with the trained audio encoder.

    Raises:
        TrainingDataError: no round is as long as a frame of the audio encoder.
        TrainingError: the process died more than `max_failures` times, or raised an error.
    """
    shortest = model.network.config.receptive_field
    if (longest := longest_round(calls)) < shortest:
        raise TrainingDataError(f"the longest training round has {longest} samples; the audio encoder needs {shortest}")
    identity = [weights_digest(model.network.audio_encoder), num_epochs, seed]
    name = f"prosody-{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]}"
    remote: Any = ray.remote(ProsodyLearner)
    make_learner = partial(
        remote.options(num_cpus=cpus, num_gpus=gpus).remote,
        read_samples=partial(read_samples, calls),
        num_epochs=num_epochs,
        seed=seed,
        threads=min(cpus, os.cpu_count() or 1),
    )
    failures = 0
    while True:
        try:
            state = _run_epochs(model.network, storage.join(folder, name), num_epochs, make_learner)
            break
        except RayActorError as exc:
            failures += 1
            if failures > max_failures:
                raise TrainingError(
                    "the process that learns prosody died more often than --max-failures allows; run the same command "
                    "again to resume from its last epoch"
                ) from exc
            logger.warning("the process that learns prosody has died; it resumes from its last epoch")
        except RayTaskError as exc:
            logger.exception("prosody could not be learned")
            raise TrainingError(
                f"prosody could not be learned: {type(exc.cause).__name__}; the log above has its traceback"
            ) from exc
    network = copy.deepcopy(model.network)
    network.audio_encoder.load_state_dict(load_state(state)["encoder"])
    return replace(model, network=network)


def _run_epochs(network: CallNetwork, name: str, num_epochs: int, make_learner: Any) -> bytes:
    """Run the epochs that are missing and return the learner's last state.

    The state of an epoch is kept until that of the next one is written, and the file with the errors names the last.
    """
    marker = f"{name}.json"
    errors: list[float] = json.loads(storage.read_text(marker) or "[]")
    state = storage.read_bytes(_state_path(name, errors)) if errors else b""
    if len(errors) == num_epochs:
        return state
    learner = make_learner(ray.put(pack_network(network)), state=state)
    while len(errors) < num_epochs:
        started = time.monotonic()
        error, state = ray.get(learner.run_epoch.remote())
        if not math.isfinite(error):
            raise TrainingError(
                f"the prosody error is {error} in epoch {len(errors)}; turn the pretraining off with --prosody-epochs 0"
            )
        previous = _state_path(name, errors)
        errors.append(error)
        storage.write_bytes(_state_path(name, errors), state)
        storage.write_text(marker, json.dumps(errors))
        storage.delete(previous)
        seconds = time.monotonic() - started
        logger.info("prosody, epoch %d in %.0f s: mean squared error %.2f", len(errors) - 1, seconds, error)
    return state


def _state_path(name: str, errors: list[float]) -> str:
    return f"{name}-{len(errors)}.pt"
