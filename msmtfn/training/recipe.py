"""The training recipe, with the paper's (sections 4.1 and 4.2) as defaults, and the optimizer that it describes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from msmtfn.errors import require
from msmtfn.evaluation.metrics import class_targets
from msmtfn.labels import TASKS
from msmtfn.model.base import CallNetwork
from msmtfn.model.runtime.precision import Precision
from msmtfn.training.augmentation import AugmentationConfig

START_DIVISOR, END_DIVISOR = 25.0, 1000.0  # the peak learning rate by the initial one, and that by the final one
ROUNDS_AT_ONCE: Final[dict[str, int]] = {"cpu": 2, "cuda": 16}
"""Rounds of the maximum length that pass through the network at once if the recipe sets no `samples_per_batch`."""

Frozen = Literal["nothing", "convolutions", "audio", "encoders"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """The hyperparameters of training; the defaults are the paper's where it gives them."""

    learning_rate: float = 1e-5
    """Learning rate of AdamW; the peak of a one-cycle schedule."""
    weight_decay: float = 0.01
    """Weight decay of the weight matrices; biases, norms and learned tokens have none."""
    weight_decay_form: Literal["decoupled", "l2"] = "decoupled"
    """How weights decay: decoupled from the gradient as in AdamW, or as an L2 regularization added to the gradient."""
    schedule: Literal["constant", "one_cycle"] = "constant"
    """Learning rate schedule: constant, or one cycle of a warmup and a decay to almost zero."""
    cycle_momentum: bool = False
    """Whether a one-cycle schedule also cycles beta1 of the optimizer, from 0.95 down to 0.85 and back."""
    warmup_share: float = 0.1
    """Share of the steps over which the learning rate of a one-cycle schedule rises."""
    max_grad_norm: float = 1.0
    """Gradients with a larger norm are scaled down to this norm; 0 turns clipping off."""
    batch_calls: int = 4
    """Calls per batch in each worker."""
    accumulation_steps: int = 4
    """Batches whose gradients are accumulated for one step."""
    samples_per_batch: int = 0
    """Maximum number of samples, with padding, that pass through the network at once. A larger batch is split, and a
    larger call has its activations computed twice to save memory; apart from rounding this changes no result. 0 means
    2 rounds of the maximum length on a CPU and 16 on a GPU."""
    max_epochs: int = 40
    """Maximum number of passes over the training calls."""
    patience: int = 8
    """Training stops after this many epochs without a lower validation loss."""
    frozen: Frozen = "convolutions"
    """Weights that are not trained: nothing, the audio encoder's convolutions, the audio encoder, or both encoders."""
    prosody_epochs: int = 0
    """Passes over the training rounds before training, in which a new audio encoder learns loudness, pitch and pace
    from the samples; 0 leaves this pretraining out."""
    modality_dropout: float = 0.0
    """Probability that a training round loses its audio, and the same for its text, from 0 to 0.5; it keeps the network
    from memorising calls by one modality."""
    class_weights: Literal["none", "balanced"] = "none"
    """Weights of the classes in the loss; balanced weights are inversely proportional to the number of training
    calls."""
    precision: Precision = "auto"
    """Precision of the matrix products; auto means bf16 on a GPU that supports it."""
    seed: int = 0
    """Random seed of new weights, dropout, the order of the calls, and augmentation."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """Augmentation of the training calls."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: a number is out of range, or frozen encoders are combined with augmentation.
        """
        for name in ("learning_rate", "batch_calls", "accumulation_steps", "max_epochs", "patience"):
            require(getattr(self, name) > 0, name, getattr(self, name), "more than 0")
        for name in ("weight_decay", "max_grad_norm", "samples_per_batch", "prosody_epochs", "seed"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        require(0 < self.warmup_share < 1, "warmup_share", self.warmup_share, "more than 0 and less than 1")
        dropout, augment = self.modality_dropout, self.augmentation.augment
        require(0 <= dropout <= 0.5, "modality_dropout", dropout, "between 0 and 0.5")  # noqa: PLR2004
        cure = "'none' with frozen encoders, whose states are computed only once"
        require(augment == "none" or self.frozen != "encoders", "augment", augment, cure)

    @property
    def embedded(self) -> Literal["nothing", "audio", "encoders"]:
        """The encoders whose states are computed once, before the first epoch, because no epoch would change them."""
        if self.frozen == "audio" and self.augmentation.augment in ("none", "text"):
            return "audio"
        return "encoders" if self.frozen == "encoders" else "nothing"

    @property
    def calls_per_step(self) -> int:
        """Number of calls per step in each worker."""
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
"""The recipe for `model.small`, which is trained from scratch; the paper's recipe fine-tunes pretrained encoders."""

MMML_RECIPE: Final = Recipe(
    learning_rate=1e-5,
    batch_calls=8,
    accumulation_steps=1,
    max_epochs=100,
    patience=8,
    max_grad_norm=0.0,
    frozen="convolutions",
    seed=1,
    augmentation=AugmentationConfig(augment="none"),
)
"""The recipe of MMML for Chinese: it ends by its patience, and has neither augmentation nor clipping."""


def freeze(network: CallNetwork, frozen: Frozen) -> list[nn.Module]:
    """Turn off the gradients of the frozen weights, and return the modules that hold them.

    These modules must also stay in evaluation mode, or their dropout would disturb what is not trained.
    """
    parts: dict[Frozen, list[nn.Module]] = {
        "nothing": [],
        "convolutions": [network.audio_encoder.model.feature_extractor],
        "audio": [network.audio_encoder],
        "encoders": [network.audio_encoder, network.text_encoder],
    }
    for part in parts[frozen]:
        part.requires_grad_(False)
    return parts[frozen]


def make_optimizer(network: nn.Module, recipe: Recipe, num_steps: int) -> tuple[torch.optim.Adam, LRScheduler]:
    """Make the optimizer of the weights that are not frozen, and its learning rate schedule over `num_steps` steps."""
    trainable = [(name, weight) for name, weight in network.named_parameters() if weight.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [weight for name, weight in trainable if _decays(name, weight)]},
        {"params": [weight for name, weight in trainable if not _decays(name, weight)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.Adam(
        groups,
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        decoupled_weight_decay=recipe.weight_decay_form == "decoupled",
        fused=True,
    )
    if recipe.schedule == "constant":
        return optimizer, LambdaLR(optimizer, _constant_factor)
    schedule = OneCycleLR(
        optimizer,
        recipe.learning_rate,
        total_steps=num_steps + 1,  # the schedule counts the initial rate as a step of its own
        pct_start=max(recipe.warmup_share, 2 / (num_steps + 1)),  # OneCycleLR divides by the steps of its warmup less 1
        div_factor=START_DIVISOR,
        final_div_factor=END_DIVISOR,
        cycle_momentum=recipe.cycle_momentum,
    )
    return optimizer, schedule


def balanced_weights(intents: npt.NDArray[np.int64]) -> Mapping[str, Tensor]:
    """Compute class weights for each task, with which all classes that occur have the same total weight.

    A class with n of N calls, of K classes that occur, weighs N / (K n), so that the mean weight of a call is 1.

    Args:
        intents: (C,) index of each training call's label in `INTENTS`.
    """
    weights = {}
    for task, classes in TASKS.items():
        counts = np.bincount(class_targets(task, intents), minlength=len(classes))
        occurring = np.count_nonzero(counts)
        weights[task] = torch.tensor(len(intents) / (occurring * np.maximum(counts, 1)), dtype=torch.float32)
    return weights


def count_trainable(weights: Iterable[nn.Parameter]) -> int:
    """Count the weights that are not frozen."""
    return sum(weight.numel() for weight in weights if weight.requires_grad)


def _decays(name: str, weight: Tensor) -> bool:
    return weight.ndim > 1 and not name.endswith("bottleneck.tokens")  # each token is a vector of its own


def _constant_factor(_step: int) -> float:
    return 1.0
