"""The pooling of a fused round, worked by hand."""

from __future__ import annotations

import pytest
import torch

from msmtfn.model.config import MsmtFnConfig
from msmtfn.model.fusion import RoundPooling
from tests.model.fusions import MakeConfig, make


def pooling_by_hand(config: MsmtFnConfig) -> RoundPooling:
    """Make a pooling layer whose projection returns the first two features of the pooled vector."""
    pooling = make(RoundPooling, config)
    with torch.no_grad():
        pooling.projection.weight.zero_()
        pooling.projection.weight[0, 0] = 1.0
        pooling.projection.weight[1, 1] = 1.0
        pooling.projection.bias.zero_()
    return pooling


FUSED = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [50.0, 70.0]]])
"""One round of [CLS] and one token, followed by one token of padding."""


FUSED_MASK = torch.tensor([[True, True, False]])


@pytest.mark.parametrize(
    ("pooling", "expected"), [("cls", [1.0, 2.0]), ("mean", [2.0, 4.0]), ("max", [3.0, 6.0]), ("flatten", [1.0, 2.0])]
)
@torch.no_grad()
def test_pooling_returns_the_class_vector_the_mean_the_maximum_or_all_tokens(
    tiny_config: MakeConfig, pooling: str, expected: list[float]
) -> None:
    config = tiny_config(pooling=pooling, hidden_size=2, max_text_tokens=3)
    assert pooling_by_hand(config)(FUSED, FUSED_MASK)[0].tolist() == expected


@torch.no_grad()
def test_max_pooling_takes_each_features_maximum_over_the_real_tokens(tiny_config: MakeConfig) -> None:
    pooling = pooling_by_hand(tiny_config(pooling="max", hidden_size=2, max_text_tokens=3))
    fused = torch.tensor([[[-1.0, -6.0], [-3.0, -2.0], [0.0, 0.0]]])
    assert pooling(fused, FUSED_MASK)[0].tolist() == [-1.0, -2.0]


@torch.no_grad()
def test_flatten_concatenates_the_tokens_with_zeros_for_the_padding(tiny_config: MakeConfig) -> None:
    pooling = pooling_by_hand(tiny_config(pooling="flatten", hidden_size=2, max_text_tokens=3))
    # [CLS] and three tokens with two features each: every feature becomes a decimal digit.
    pooling.projection.weight[0] = torch.tensor([10.0**index for index in range(8)])
    assert pooling(FUSED, FUSED_MASK)[0, 0] == 6321
    assert pooling(FUSED[:, :2], FUSED_MASK[:, :2])[0, 0] == 6321


@pytest.mark.parametrize("pooling", ["flatten", "cls", "mean", "max"])
@torch.no_grad()
def test_pooling_does_not_depend_on_the_padding_of_the_text(tiny_config: MakeConfig, pooling: str) -> None:
    part = make(RoundPooling, tiny_config(pooling=pooling, hidden_size=2, max_text_tokens=9))
    wide = torch.cat([FUSED, torch.full((1, 6, 2), 99.0)], dim=1)
    wide_mask = torch.cat([FUSED_MASK, torch.zeros(1, 6, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(part(wide, wide_mask), part(FUSED, FUSED_MASK), atol=1e-6, rtol=0)
