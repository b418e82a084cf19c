"""MSMT-FN, the multi-segment multi-task fusion network (paper, section 3, figure 1).

Shapes: R rounds of all calls in the batch, C calls, D width of the fusion.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from msmtfn.labels import TASKS
from msmtfn.model.base import CallNetwork
from msmtfn.model.config import MsmtFnConfig
from msmtfn.model.context import RoundContext
from msmtfn.model.fusion import RoundFusion
from msmtfn.model.heads import TaskHeads
from msmtfn.model.losses import multi_task_loss


class MsmtFn(CallNetwork):
    """MSMT-FN network: encoders, fusion of each round, context across rounds, classification heads."""

    config: MsmtFnConfig
    config_class = MsmtFnConfig
    fusion: RoundFusion

    def __init__(self, config: MsmtFnConfig) -> None:
        super().__init__(config)
        self.fusion = RoundFusion(config)
        self.context = RoundContext(config.hidden_size, config.context_size, config.num_context_layers, config.dropout)
        self.heads = TaskHeads(self.context.output_size, config.dropout, multi_task=config.multi_task)
        self.post_init()  # type: ignore[no-untyped-call]

    def encode_sides(
        self, waveforms: Tensor, num_samples: Tensor, input_ids: Tensor, num_tokens: Tensor, *, padded: bool = True
    ) -> Tensor:
        """Encode rounds as `encode_rounds` does, and their sound alone; encoders and fusion run once.

        Returns:
            (R, 2, D): the vectors of the whole rounds, and those of the same rounds without their text.
        """
        return self.fusion.forward_sides(
            *self.embed_rounds(waveforms, num_samples, input_ids, num_tokens, padded=padded)
        )

    def classify_calls(self, vectors: Tensor, rounds_per_call: list[int]) -> dict[str, Tensor]:
        """Classify calls from their rounds' vectors (R, D); returns logits (C, number of classes) for each task."""
        logits: dict[str, Tensor] = self.heads(self.context(vectors, rounds_per_call))
        return logits

    def compute_loss(
        self,
        vectors: Tensor,
        rounds_per_call: list[int],
        intents: Tensor,
        *,
        class_weights: Mapping[str, Tensor] | None = None,
        reduction: Literal["mean", "sum"] = "mean",
    ) -> Tensor:
        """Compute the multi-task loss (equation 6); the arguments are those of `CallNetwork.compute_loss`."""
        tasks = tuple(TASKS) if self.config.multi_task else ("five",)
        logits = self.classify_calls(vectors, rounds_per_call)
        return multi_task_loss(logits, intents, tasks=tasks, class_weights=class_weights, reduction=reduction)
