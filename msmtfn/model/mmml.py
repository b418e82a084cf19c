"""MMML, multimodal multi-loss fusion (Wu et al., 2023), the baseline of the paper's table 1.

MMML reads utterances. Here an utterance is a round, which in training has the label of its call; the probabilities of a
call are the mean over its rounds. There is a fused output M for each task, as the four tasks are not of MMML.

Shapes: R rounds of all calls in the batch, C calls, K classes of a task.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from msmtfn.labels import TASKS
from msmtfn.model.base import CallNetwork, load_encoder
from msmtfn.model.config import MmmlConfig
from msmtfn.model.heads import TaskHeads
from msmtfn.model.losses import multi_task_loss
from msmtfn.model.mmml_fusion import MmmlFusion


class FusedHeads(nn.Module):
    """Heads of the fused output, one for each task, each with two hidden layers."""

    def __init__(self, config: MmmlConfig) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(
            {
                task: nn.Sequential(
                    nn.Dropout(config.dropout),
                    nn.Linear(2 * config.hidden_size, config.first_head_size),
                    nn.ReLU(),
                    nn.Linear(config.first_head_size, config.second_head_size),
                    nn.ReLU(),
                    nn.Linear(config.second_head_size, len(classes)),
                )
                for task, classes in TASKS.items()
            }
        )

    def forward(self, fused: Tensor) -> dict[str, Tensor]:
        """Map the [CLS] states of text and audio side by side, (R, 2 D), to the logits (R, K) of each task."""
        return {task: head(fused) for task, head in self.heads.items()}


class Mmml(CallNetwork):
    """MMML network: encoders, fusion of each round, and heads on the fused output M, the text T and the audio A."""

    config: MmmlConfig
    config_class = MmmlConfig
    fusion: MmmlFusion

    def __init__(self, config: MmmlConfig) -> None:
        super().__init__(config)
        self.fusion = MmmlFusion(config)
        self.fused_heads = FusedHeads(config)
        self.text_heads = TaskHeads(config.text.hidden_size, config.dropout)
        self.audio_heads = TaskHeads(config.audio.hidden_size, config.dropout)
        self.post_init()  # type: ignore[no-untyped-call]

    def load_text_encoder(self, name_or_folder: str) -> None:
        """Give the text encoder its pretrained weights, and the pooler those of the encoder's own pooler if it has one.

        Only the states of an encoder can be computed once and kept, so the pooler belongs to the fusion.
        """
        encoder: Any = load_encoder(name_or_folder, self.config.text)
        pooler = getattr(encoder, "pooler", None)
        if pooler is not None:
            self.fusion.text_pooler.dense.load_state_dict(pooler.dense.state_dict())
            encoder.pooler = None
        self.text_encoder.model = encoder

    def classify_calls(self, vectors: Tensor, rounds_per_call: list[int]) -> dict[str, Tensor]:
        """Classify calls from their rounds' vectors.

        Returns:
            For each task the logarithms (C, K) of the mean over a call's rounds of the probabilities of M; they are
            valid logits, since softmax(log p) = p.
        """
        fused, _, _ = self._parts(vectors)
        return {task: _log_mean(logits, rounds_per_call) for task, logits in self.fused_heads(fused).items()}

    def compute_loss(
        self,
        vectors: Tensor,
        rounds_per_call: list[int],
        intents: Tensor,
        *,
        class_weights: Mapping[str, Tensor] | None = None,
        reduction: Literal["mean", "sum"] = "mean",
    ) -> Tensor:
        """Compute the sum of three losses, those of M, T and A, each with weight 1.

        Each is the sum of the cross-entropies of the four tasks, as the mean over a call's rounds. The arguments are
        those of `CallNetwork.compute_loss`.
        """
        fused, text, audio = self._parts(vectors)
        counts = torch.tensor(rounds_per_call, device=vectors.device)
        # The size, which is known here, saves a GPU from being waited for.
        labels, weights = (each.repeat_interleave(counts, output_size=len(vectors)) for each in (intents, 1 / counts))
        outputs = self.fused_heads(fused), self.text_heads(text), self.audio_heads(audio)
        losses = [
            multi_task_loss(logits, labels, class_weights=class_weights, call_weights=weights, reduction="sum")
            for logits in outputs
        ]
        total = torch.stack(losses).sum()
        return total / len(intents) if reduction == "mean" else total

    def _parts(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split the vectors of rounds into the fused [CLS] states (R, 2 D), T and A."""
        text_token, audio_token, text, audio = vectors.split(self.fusion.part_sizes, dim=1)
        return torch.cat([text_token, audio_token], dim=1), text, audio


def _log_mean(logits: Tensor, rounds_per_call: list[int]) -> Tensor:
    """Return the logarithm (C, K) of the mean of the softmax of logits (R, K) over the rounds of each call."""
    calls = torch.log_softmax(logits, dim=1).split(rounds_per_call)
    return torch.stack([rounds.logsumexp(dim=0) - math.log(len(rounds)) for rounds in calls])
