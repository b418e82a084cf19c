"""Prosody learned on Ray, from the prepared calls and before the training proper; it goes on from its last epoch."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import os
import time
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from msmtfn import storage
from msmtfn.errors import TrainingDataError, TrainingError
from msmtfn.model.checkpoint import Model, pack_network, weights_digest
from msmtfn.model.network import MsmtFn
from msmtfn.training.datasets import longest_round, read_rounds
from msmtfn.training.prosody import ProsodyLearner, load_state

logger = logging.getLogger(__name__)


def learn_prosody(
    model: Model, calls: str, place: str, *, num_epochs: int, seed: int, cpus: int, gpus: float, max_failures: int
) -> Model:
    """Let a model's audio encoder learn prosody, or go on with it; what is done already is not done again.

    Args:
        model: whose audio encoder learns; it stays as it is.
        calls: where the prepared training calls stand.
        place: folder for what was learned so far; models with the same audio encoder may share it.
        num_epochs: passes over the rounds.
        seed: of all that is drawn.
        cpus: that the process takes, and its threads where it has no GPU.
        gpus: share of a GPU that it takes.
        max_failures: times that it goes on after its process has died.

    Returns:
        The model with what was learned.

    Raises:
        TrainingDataError: no round is as long as a frame of the audio encoder.
        TrainingError: the process died more often, or failed.
    """
    shortest = model.network.config.receptive_field
    if (longest := longest_round(calls)) < shortest:
        raise TrainingDataError(f"the longest training round has {longest} samples; the audio encoder hears {shortest}")
    start = [weights_digest(model.network.audio_encoder), num_epochs, seed]
    name = f"prosody-{hashlib.sha256(json.dumps(start).encode()).hexdigest()[:12]}"
    remote: Any = ray.remote(ProsodyLearner)
    make_learner = partial(
        remote.options(num_cpus=cpus, num_gpus=gpus).remote,
        read_rounds=partial(read_rounds, calls),
        num_epochs=num_epochs,
        seed=seed,
        threads=min(cpus, os.cpu_count() or 1),
    )
    failures = 0
    while True:
        try:
            state = _run_epochs(model.network, storage.join(place, name), num_epochs, make_learner)
            break
        except RayActorError as exc:
            failures += 1
            if failures > max_failures:
                raise TrainingError(
                    "the process that learns prosody died more often than --max-failures allows; the same command goes "
                    "on from its last epoch"
                ) from exc
            logger.warning("the process that learns prosody has died; it goes on from its last epoch")
        except RayTaskError as exc:
            logger.exception("prosody could not be learned")
            raise TrainingError(f"prosody could not be learned ({type(exc.cause).__name__}, above)") from exc
    network = copy.deepcopy(model.network)
    network.audio_encoder.load_state_dict(load_state(state)["encoder"])
    return Model(network, model.tokenizer)


def _run_epochs(network: MsmtFn, name: str, num_epochs: int, make_learner: Any) -> bytes:
    """The learner's state after the last epoch; each epoch's is kept until the next one's is."""
    marker = f"{name}.json"
    left: list[float] = json.loads(storage.read_text(marker) or "[]")
    state = storage.read_bytes(_state_of(name, left)) if left else b""
    if len(left) == num_epochs:
        return state
    learner = make_learner(ray.put(pack_network(network)), state=state)
    while len(left) < num_epochs:
        started = time.monotonic()
        error, state = ray.get(learner.run_epoch.remote())
        if not math.isfinite(error):
            raise TrainingError(f"the error of the prosody is {error} in epoch {len(left)}; nothing is learned from it")
        before = _state_of(name, left)
        left.append(error)
        storage.write_bytes(_state_of(name, left), state)
        storage.write_text(marker, json.dumps(left))
        storage.delete(before)
        seconds = time.monotonic() - started
        logger.info("prosody, epoch %d in %.0f s: %.2f of its variance is not told yet", len(left) - 1, seconds, error)
    return state


def _state_of(name: str, left: list[float]) -> str:
    return f"{name}-{len(left)}.pt"
