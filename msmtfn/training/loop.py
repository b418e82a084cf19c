"""The training loop: epochs of optimizer steps, a validation after each, and a state to resume from.

Nothing here imports Ray. The loop runs in one process, or in several under torch.distributed's process group; then all
of them take the same number of steps and see the same figures, so that all stop after the same epoch.

Shapes: C calls.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from msmtfn.evaluation.metrics import is_correct
from msmtfn.inference.feed import group_rounds
from msmtfn.inference.scorer import CallRounds
from msmtfn.labels import TASKS
from msmtfn.model.base import CallNetwork
from msmtfn.model.runtime.precision import autocast
from msmtfn.training.augmentation import Augmenter
from msmtfn.training.calls import STATES_NDIM, CallBatch, LabelledCall, collate, split_by_budget
from msmtfn.training.events import EpochDone, StepDone
from msmtfn.training.recipe import ROUNDS_AT_ONCE, Recipe, balanced_weights, freeze, make_optimizer

VALIDATION_BATCH_CALLS: Final = 16


class CallSource(Protocol):
    """The source of a process's calls."""

    def training(self, epoch: int, size: int) -> Iterator[list[LabelledCall]]:
        """Yield this process's share of the training calls in the epoch's order, `size` at a time."""

    def validation(self, size: int) -> Iterator[list[LabelledCall]]:
        """Yield this process's share of the validation calls, `size` at a time."""


class NotFiniteError(ArithmeticError):
    """The loss or a gradient is NaN or infinite, so training cannot continue."""


class Learner(nn.Module):
    """The network with its loss: maps a batch of calls to the sum of their losses."""

    def __init__(
        self,
        network: CallNetwork,
        samples_per_batch: int,
        class_weights: Mapping[str, Tensor] | None,
        frozen: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.network = network
        self.frozen = tuple(frozen)  # a tuple, so that they are not registered a second time
        self.samples_per_batch = samples_per_batch
        self.class_weights = class_weights

    def train(self, mode: bool = True) -> Learner:
        """Switch to training or evaluation mode; frozen modules stay in evaluation mode, without dropout."""
        super().train(mode)
        for module in self.frozen:
            module.train(False)
        return self

    def forward(self, batch: CallBatch) -> Tensor:
        """Return the sum of the calls' losses."""
        return self.network.compute_loss(
            self.vectors(batch),
            batch.rounds_per_call,
            batch.intents,
            class_weights=self.class_weights,
            reduction="sum",
        )

    def vectors(self, batch: CallBatch) -> Tensor:
        """Return the vectors (R, D) of the rounds, which are encoded in groups under the budget."""
        groups = group_rounds(batch.audio_lengths.cpu().numpy(), self.samples_per_batch)
        # A call over the budget does not fit at once: only the vectors of its rounds are kept, and the activations
        # inside each group are computed again in the backward pass.
        if len(groups) > 1 and torch.is_grad_enabled():
            parts = [
                checkpoint(batch.vectors, self.network, group, use_reentrant=False, determinism_check="none")
                for group in groups
            ]
        else:
            parts = [batch.vectors(self.network, group) for group in groups]
        order = torch.from_numpy(np.argsort(np.concatenate(groups))).to(batch.audio.device)
        return torch.cat(parts)[order]


class Loop:
    """The training of one network."""

    def __init__(
        self,
        network: CallNetwork,
        recipe: Recipe,
        source: CallSource,
        *,
        steps_per_epoch: int,
        training_intents: npt.NDArray[np.int64],
        augmenter: Augmenter | None = None,
        device: torch.device | None = None,
        on_step: Callable[[StepDone], None] = lambda _: None,
    ) -> None:
        """Freeze what does not learn, and make the optimizer.

        Args:
            network: the network, in training or evaluation mode; it is trained in place.
            recipe: hyperparameters.
            source: this process's calls.
            steps_per_epoch: number of steps, which must be the same in all processes.
            training_intents: (C,) intents of the training calls of all processes, for the class weights.
            augmenter: applied to the training calls; None leaves them unchanged.
            device: where the network is trained; the CPU if None.
            on_step: called after every step.
        """
        self.device = device or torch.device("cpu")
        self.recipe, self.source, self.augmenter, self.on_step = recipe, source, augmenter, on_step
        network.to(self.device)  # type: ignore[arg-type]
        self.network = network
        self.steps_per_epoch = steps_per_epoch
        self.is_distributed = dist.is_initialized() and dist.get_world_size() > 1
        self.world_size = dist.get_world_size() if self.is_distributed else 1
        self.rank = dist.get_rank() if self.is_distributed else 0
        self.pad_token_id: int = network.config.text.pad_token_id
        frozen = freeze(network, recipe.frozen)
        self.budget = recipe.samples_per_batch or network.config.max_round_samples * ROUNDS_AT_ONCE[self.device.type]
        if recipe.embedded != "nothing":  # the lengths of embedded rounds are counted in frames
            self.budget = max(1, network.config.num_frames(self.budget))
        weights = balanced_weights(training_intents) if recipe.class_weights == "balanced" else None
        learner = Learner(
            network, self.budget, weights and {task: each.to(self.device) for task, each in weights.items()}, frozen
        )
        self.learner: nn.Module = learner
        if self.is_distributed:
            ids = [self.device] if self.device.type == "cuda" else None
            self.learner = DistributedDataParallel(learner, device_ids=ids)
        self.optimizer, self.schedule = make_optimizer(network, recipe, recipe.max_epochs * steps_per_epoch)
        self.epochs: list[EpochDone] = []
        self.best: dict[str, Tensor] = {}

    @property
    def is_done(self) -> bool:
        """True after the last epoch, or once the validation loss has not fallen for `patience` epochs."""
        best = max((each.epoch for each in self.epochs if each.is_best), default=0)
        return len(self.epochs) >= self.recipe.max_epochs or len(self.epochs) - 1 - best >= self.recipe.patience

    def run(self, after_epoch: Callable[[Loop], None] = lambda _: None) -> None:
        """Train until `is_done`, then load the weights of the best epoch.

        Args:
            after_epoch: called after every epoch, in every process.

        Raises:
            NotFiniteError: the loss or a gradient is NaN or infinite.
        """
        while not self.is_done:
            self.run_epoch()
            after_epoch(self)
        self.network.load_state_dict(self.best)
        self.network.train(False)

    def run_epoch(self) -> EpochDone:
        """Pass over the training calls once, then validate."""
        epoch, started = len(self.epochs), time.monotonic()
        # The seed depends on the epoch, so that a resumed run draws the same numbers as one that was never interrupted.
        torch.manual_seed((self.recipe.seed * 100_003 + epoch) * 1009 + self.rank)
        training_loss, num_rounds = self._train(epoch)
        training_sec = time.monotonic() - started
        validation_loss, accuracy = self._validate()
        if not math.isfinite(validation_loss):
            raise NotFiniteError(
                f"the validation loss is {validation_loss} in epoch {epoch}; try a smaller learning rate"
            )
        is_best = all(validation_loss < each.validation_loss for each in self.epochs)
        seconds = time.monotonic() - started
        result = EpochDone(epoch, training_loss, validation_loss, accuracy, num_rounds / training_sec, seconds, is_best)
        if is_best:
            self.best = {name: weight.detach().cpu().clone() for name, weight in self.network.state_dict().items()}
        self.epochs.append(result)
        return result

    def state_dict(self) -> dict[str, Any]:
        """Return everything that is needed to resume: tensors and plain values."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "epochs": [asdict(each) for each in self.epochs],
            "best": self.best,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a state that `state_dict` returned.

        Raises:
            ValueError: the figures of an epoch lack a field, or have one of the wrong type.
        """
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.epochs = [EpochDone.from_fields(each) for each in state["epochs"]]
        self.best = state["best"]

    def step(self, calls: Sequence[LabelledCall]) -> float:
        """Take one step of the optimizer on this process's calls.

        The loss is the mean over the calls of all processes, however many calls each process has, so the gradient
        equals that of a single process with all the calls.

        Returns:
            The loss.

        Raises:
            NotFiniteError: the loss or a gradient is NaN or infinite; the weights are unchanged.
        """
        chunks = [
            calls[start : start + self.recipe.batch_calls] for start in range(0, len(calls), self.recipe.batch_calls)
        ]
        batches = [batch for chunk in chunks for batch in split_by_budget(chunk, self.budget)]
        num_calls = float(self._sum(torch.tensor(float(len(calls)))))
        total = torch.zeros((), device=self.device)
        self.optimizer.zero_grad(set_to_none=True)
        for number, batch in enumerate(batches):
            # The gradients accumulate locally, and the last batch sums them over the processes.
            with self._no_sync() if number < len(batches) - 1 else contextlib.nullcontext():
                part = self._forward(batch) / num_calls
                (part * self.world_size).backward()  # DDP divides the sum of the gradients by the world size
            total += part.detach()
        loss = float(self._sum(total))
        if not math.isfinite(loss):
            raise NotFiniteError(f"the loss is {loss} in epoch {len(self.epochs)}; try a smaller learning rate")
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.max_grad_norm or math.inf)
        if not torch.isfinite(norm):
            raise NotFiniteError(f"a gradient is not finite in epoch {len(self.epochs)}; try a smaller learning rate")
        self.optimizer.step()
        self.schedule.step()
        return loss

    def _train(self, epoch: int) -> tuple[float, float]:
        """Train on an epoch's calls; return their mean loss and number of rounds over all processes."""
        self.learner.train()
        loss_sum, num_calls, num_rounds = 0.0, 0, 0
        started = time.monotonic()
        for number, calls in enumerate(self._upcoming(epoch), start=1):
            loss_sum += self.step(calls) * len(calls)
            num_calls += len(calls)
            num_rounds += sum(call.num_rounds for call in calls)
            self.on_step(
                StepDone(
                    epoch=epoch,
                    step=number,
                    num_steps=self.steps_per_epoch,
                    loss=loss_sum / num_calls,
                    rounds_per_sec=self.world_size * num_rounds / (time.monotonic() - started),
                )
            )
        sums = self._sum(torch.tensor([loss_sum, num_calls, num_rounds], dtype=torch.float64))
        return float(sums[0] / sums[1]), float(sums[2])

    def _upcoming(self, epoch: int) -> Iterator[list[LabelledCall]]:
        """Yield the epoch's calls step by step; a thread reads and augments those of the next step meanwhile."""
        steps, augmenter = self.source.training(epoch, self.recipe.calls_per_step), self.augmenter

        def read_next() -> list[LabelledCall] | None:
            calls = next(steps, None)
            if calls is None or augmenter is None:
                return calls
            return [_augment(augmenter, epoch, call) for call in calls]

        with ThreadPoolExecutor(1, thread_name_prefix="next-step") as pool:
            upcoming = pool.submit(read_next)
            while (calls := upcoming.result()) is not None:
                upcoming = pool.submit(read_next)
                yield calls

    def _validate(self) -> tuple[float, dict[str, float]]:
        """Return the mean loss and the accuracy of each task over the validation calls of all processes."""
        sums = torch.zeros(2 + len(TASKS), dtype=torch.float64)
        for probabilities, intents, loss in self.predict(self.source.validation(VALIDATION_BATCH_CALLS)):
            sums[0] += len(intents)
            sums[1] += loss
            for index, task in enumerate(TASKS):
                sums[2 + index] += int(is_correct(task, probabilities[task], intents).sum())
        num_calls, loss_sum, *num_correct = self._sum(sums).tolist()
        return loss_sum / num_calls, {task: count / num_calls for task, count in zip(TASKS, num_correct, strict=True)}

    def predict(
        self, steps: Iterator[list[LabelledCall]]
    ) -> Iterator[tuple[dict[str, npt.NDArray[np.float32]], npt.NDArray[np.int64], float]]:
        """Yield, batch by batch, the probabilities (C, number of classes) of each task, the intents (C,) and the loss.

        The loss is the sum over the calls, without class weights.
        """
        self.learner.train(False)
        for calls in steps:
            for part in split_by_budget(calls, self.budget):
                batch = collate(part, self.pad_token_id).to(self.device)
                with torch.inference_mode(), self._autocast():
                    vectors = self._learner.vectors(batch)
                    logits = self.network.classify_calls(vectors, batch.rounds_per_call)
                    loss = self.network.compute_loss(vectors, batch.rounds_per_call, batch.intents, reduction="sum")
                    yield (
                        {task: torch.softmax(logits[task].float(), dim=1).cpu().numpy() for task in TASKS},
                        np.array([call.intent for call in part]),
                        float(loss),
                    )

    @property
    def _learner(self) -> Learner:
        learner = self.learner.module if isinstance(self.learner, DistributedDataParallel) else self.learner
        assert isinstance(learner, Learner)  # noqa: S101 - for mypy
        return learner

    def _forward(self, calls: Sequence[LabelledCall]) -> Tensor:
        batch = _drop_modalities(collate(calls, self.pad_token_id), self.recipe.modality_dropout)
        with self._autocast():
            loss: Tensor = self.learner(batch.to(self.device))
        return loss

    def _autocast(self) -> torch.autocast:
        return autocast(self.recipe.precision, self.device)

    def _no_sync(self) -> contextlib.AbstractContextManager[None]:
        if isinstance(self.learner, DistributedDataParallel):
            return self.learner.no_sync()
        return contextlib.nullcontext()

    def _sum(self, values: Tensor) -> Tensor:
        """Return the sum over all processes."""
        if not self.is_distributed:
            return values
        summed = values.to(self.device)
        dist.all_reduce(summed)
        return summed.cpu()


@dataclass(frozen=True, slots=True)
class InMemoryCalls:
    """A source of calls that one process holds in memory."""

    training_calls: Sequence[LabelledCall]
    validation_calls: Sequence[LabelledCall]
    seed: int

    def training(self, epoch: int, size: int) -> Iterator[list[LabelledCall]]:
        """Yield all training calls, in an order that depends on the seed and the epoch."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.training_calls))
        for start in range(0, len(order), size):
            yield [self.training_calls[index] for index in order[start : start + size]]

    def validation(self, size: int) -> Iterator[list[LabelledCall]]:
        """Yield all validation calls in their order."""
        for start in range(0, len(self.validation_calls), size):
            yield list(self.validation_calls[start : start + size])


def _drop_modalities(batch: CallBatch, probability: float) -> CallBatch:
    """Drop the audio of some rounds and the text of others, each with this probability and never both of a round."""
    if not probability:
        return batch
    drawn = torch.rand(len(batch.audio_lengths))  # one number decides both, so that a round keeps a modality
    return replace(
        batch,
        audio_lengths=batch.audio_lengths.masked_fill(drawn < probability, 0),
        text_lengths=batch.text_lengths.masked_fill(drawn > 1 - probability, 0),
    )


def _augment(augmenter: Augmenter, epoch: int, call: LabelledCall) -> LabelledCall:
    rounds = call.rounds
    if isinstance(rounds, CallRounds):
        return replace(call, rounds=augmenter.augment(call.call_id, epoch, rounds))
    if any(each.ndim == STATES_NDIM for each in rounds.text):  # the text is embedded already
        return call
    texts = CallRounds(samples=[], tokens=cast(list[npt.NDArray[np.int32]], rounds.text))
    return replace(call, rounds=replace(rounds, text=augmenter.augment(call.call_id, epoch, texts).tokens))
