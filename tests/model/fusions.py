"""Rounds and recorders for the tests of the fusion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from msmtfn.model.config import MsmtFnConfig
from msmtfn.model.fusion import Fusion

MakeConfig = Callable[..., MsmtFnConfig]
Part = TypeVar("Part", bound=nn.Module)


@dataclass(frozen=True)
class Rounds:
    """Encoder states of two rounds, with 6 and 4 tokens and 9 and 5 frames."""

    audio: Tensor
    audio_mask: Tensor
    text: Tensor
    text_mask: Tensor

    def through(self, fusion: Fusion) -> Tensor:
        vectors: Tensor = fusion(self.audio, self.audio_mask, self.text, self.text_mask)
        return vectors


@dataclass(frozen=True)
class Step:
    """Inputs and output of one forward pass of a module."""

    inputs: tuple[Tensor, ...]
    output: Tensor


def make(kind: Callable[..., Part], *arguments: Any) -> Part:
    torch.manual_seed(0)
    part = kind(*arguments)
    part.train(False)
    return part


def record_steps(module: Any) -> list[Step]:
    """Return a list to which every later forward pass of the module is appended."""
    steps: list[Step] = []
    module.register_forward_hook(lambda _, inputs, output: steps.append(Step(inputs, output)))
    return steps


def changes(before: Tensor, after: Tensor) -> bool:
    return (before - after).abs().max().item() > 1e-4
