from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import BertTokenizer

from msmtfn.features.prepare import PrepareConfig, Preparer
from msmtfn.model.checkpoint import make_processor
from msmtfn.model.config import MsmtFnConfig
from tests.features.prepared import LIMITS, MakePreparer


@pytest.fixture
def make_preparer(
    tmp_path: Path, tiny_config: Callable[..., MsmtFnConfig], tiny_tokenizer: BertTokenizer
) -> MakePreparer:
    """Return a function that makes a preparer for a tiny network with rounds of at most 2 s, rooted at `tmp_path`."""

    def make(**options: Any) -> Preparer:
        processor = make_processor(tiny_config(**options), tiny_tokenizer)
        return Preparer(PrepareConfig(audio=LIMITS), processor, str(tmp_path))

    return make


@pytest.fixture
def preparer(make_preparer: MakePreparer) -> Preparer:
    return make_preparer()
