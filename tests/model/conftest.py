"""Fixtures of the tests of the network and its folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from msmtfn.model.attention import length_mask
from msmtfn.model.fusion import RoundFusion
from tests.model.fusions import MakeConfig, Rounds, make


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """Copy a tiny model to a folder that the test may damage."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture
def rounds() -> Rounds:
    generator = torch.Generator().manual_seed(1)
    return Rounds(
        audio=torch.randn(2, 9, 24, generator=generator),
        audio_mask=length_mask(torch.tensor([9, 5]), 9),
        text=torch.randn(2, 6, 40, generator=generator),
        text_mask=length_mask(torch.tensor([6, 4]), 6),
    )


@pytest.fixture
def fusion(tiny_config: MakeConfig) -> RoundFusion:
    return make(RoundFusion, tiny_config())
