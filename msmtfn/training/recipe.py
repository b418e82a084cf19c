"""How the network learns: the paper's recipe (sections 4.1 and 4.2) as defaults, and the optimizer that it means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from msmtfn.evaluation.metrics import class_targets
from msmtfn.labels import TASKS
from msmtfn.model.network import MsmtFn
from msmtfn.model.runtime.precision import Precision
from msmtfn.training.augmentation import AugmentationConfig

START_DIVISOR, END_DIVISOR = 25.0, 1000.0  # of the largest learning rate at the start, and of that one at the end
ROUNDS_AT_ONCE: Final[dict[str, int]] = {"cpu": 2, "cuda": 16}
"""Rounds of the greatest length that go through the network at once, where the recipe leaves it open."""

Frozen = Literal["nothing", "convolutions", "audio", "encoders"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How the network learns; the defaults are the paper's where it says."""

    learning_rate: float = 1e-5
    """Of AdamW; the largest one of the schedule."""
    weight_decay: float = 0.01
    """Of AdamW."""
    schedule: Literal["constant", "one_cycle"] = "constant"
    """Whether the learning rate stays, or rises over the first steps and falls to nearly nothing over the others."""
    warmup_share: float = 0.1
    """Share of the steps over which a one-cycle schedule rises."""
    max_grad_norm: float = 1.0
    """Gradients longer than this are scaled down to it; 0 leaves them as they are."""
    batch_calls: int = 4
    """Calls of a batch, in each worker."""
    accumulation_steps: int = 4
    """Batches whose gradients make one step."""
    samples_per_batch: int = 0
    """Samples, padding included, that go through the network at once: a batch with more is taken in parts, and a call
    with more has its states computed twice to save memory; 0 takes 2 rounds of the greatest length on a CPU, 16 on a
    GPU. Changes no result but by rounding."""
    max_epochs: int = 40
    """Passes over the training calls, at most."""
    patience: int = 8
    """Epochs without a smaller validation loss after which training stops."""
    frozen: Frozen = "convolutions"
    """What does not learn: the convolutions of the audio encoder, that encoder whole, both encoders, or nothing."""
    prosody_epochs: int = 0
    """Passes over the training rounds before all else, in which an audio encoder without a past learns to tell
    loudness, pitch and pace from the samples alone."""
    modality_dropout: float = 0.0
    """Probability that a training round loses its audio, and as much that it loses its text: the network must make do
    with the other side, and cannot learn the calls by heart from one."""
    class_weights: Literal["none", "balanced"] = "none"
    """Whether a call of a rare class counts more: in inverse proportion to its class's share of the training calls."""
    precision: Precision = "auto"
    """Of the matrix products; auto takes bf16 on a GPU that has it."""
    seed: int = 0
    """Of new weights, dropout, order and augmentation."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """What is done to the training calls."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: one is out of range.
        """
        for name in ("learning_rate", "batch_calls", "accumulation_steps", "max_epochs", "patience"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be more than 0")
        for name in ("weight_decay", "max_grad_norm", "samples_per_batch", "prosody_epochs", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")
        if not 0 < self.warmup_share < 1:
            raise ValueError(f"warmup_share is {self.warmup_share}; it must be between 0 and 1")
        if not 0 <= self.modality_dropout <= 0.5:  # noqa: PLR2004
            raise ValueError(f"modality_dropout is {self.modality_dropout}; it must be between 0 and 0.5")
        if self.frozen == "encoders" and self.augmentation.augment != "none":
            raise ValueError(
                f"augment is {self.augmentation.augment!r} with frozen encoders, whose states are computed "
                'once; make it "none"'
            )

    @property
    def embedded(self) -> Literal["nothing", "audio", "encoders"]:
        """Whose states are computed once, before all epochs and without dropout: they would always be the same."""
        if self.frozen == "audio" and self.augmentation.augment in ("none", "text"):
            return "audio"
        return "encoders" if self.frozen == "encoders" else "nothing"

    @property
    def calls_per_step(self) -> int:
        """Calls of one step, in each worker."""
        return self.batch_calls * self.accumulation_steps


SMALL_RECIPE: Final = Recipe(
    learning_rate=2e-3,
    weight_decay=0.05,
    schedule="one_cycle",
    batch_calls=16,
    accumulation_steps=1,
    samples_per_batch=2_000_000,
    max_epochs=14,
    patience=14,
    frozen="audio",
    prosody_epochs=8,
    augmentation=AugmentationConfig(augment="text", tones_respected=False, masked_tokens=0.35, masked_together=4),
)
"""For `model.small`, which learns from scratch, while the paper's recipe fine-tunes what is pretrained."""


def freeze(network: MsmtFn, frozen: Frozen) -> None:
    """Switch off the gradients of what does not learn."""
    parts: dict[Frozen, list[nn.Module]] = {
        "nothing": [],
        "convolutions": [network.audio_encoder.model.feature_extractor],
        "audio": [network.audio_encoder],
        "encoders": [network.audio_encoder, network.text_encoder],
    }
    for part in parts[frozen]:
        part.requires_grad_(False)


def make_optimizer(network: nn.Module, recipe: Recipe, num_steps: int) -> tuple[torch.optim.AdamW, LRScheduler]:
    """AdamW over what learns, and the schedule of its learning rate over `num_steps` steps."""
    learning = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    if recipe.schedule == "constant":
        return optimizer, LambdaLR(optimizer, _unchanged)
    schedule = OneCycleLR(
        optimizer,
        recipe.learning_rate,
        total_steps=num_steps + 1,  # it is told after a step, and once at the start
        pct_start=max(recipe.warmup_share, 2 / (num_steps + 1)),  # a rise of no step would divide by zero
        div_factor=START_DIVISOR,
        final_div_factor=END_DIVISOR,
    )
    return optimizer, schedule


def balanced_weights(intents: npt.NDArray[np.int64]) -> Mapping[str, Tensor]:
    """A weight for each class of each task, so that all classes that occur count alike; one call's mean weight is 1.

    Args:
        intents: (C,) of the training calls, index in `INTENTS`.
    """
    weights = {}
    for task, classes in TASKS.items():
        counts = np.bincount(class_targets(task, intents), minlength=len(classes))
        occurring = np.count_nonzero(counts)
        weights[task] = torch.tensor(len(intents) / (occurring * np.maximum(counts, 1)), dtype=torch.float32)
    return weights


def count_learning(weights: Iterable[nn.Parameter]) -> int:
    """Number of weights that learn."""
    return sum(weight.numel() for weight in weights if weight.requires_grad)


def _unchanged(_step: int) -> float:
    return 1.0
