"""The small model of the demo: the whole network with tiny encoders and a vocabulary of characters, from a seed.

It is not trained: its scores exercise the job and rank nothing.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any, Final

import torch
from transformers import BertTokenizer

from msmtfn.model.checkpoint import save_model
from msmtfn.model.config import MsmtFnConfig
from msmtfn.model.network import MsmtFn

SEED: Final = 20260101
HIDDEN_SIZE: Final = 64
SIZES: Final[dict[str, Any]] = {
    "hidden_size": HIDDEN_SIZE,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
}
SPECIAL_TOKENS: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CARD: Final = """# MSMT-FN demo model

Random weights from a seed, tiny encoders (HuBERT and BERT shapes, 64 wide), one token a character.
**Not trained**: it shows that the job works, and its scores mean nothing.
"""


def write_demo_model(folder: Path) -> Path:
    """Write the demo's model; the same files every time, for one version of PyTorch.

    Returns:
        The folder.
    """
    vocabulary = character_vocabulary()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = MsmtFn(demo_config(len(vocabulary)))
    save_model(network, BertTokenizer(vocab=vocabulary, do_lower_case=True), folder, CARD)
    return folder


def demo_config(vocabulary_size: int) -> MsmtFnConfig:
    """The paper's network, narrow."""
    return MsmtFnConfig(
        audio_encoder="",
        text_encoder="",
        audio_config={
            "model_type": "hubert",
            "conv_dim": [32] * 7,
            "num_conv_pos_embeddings": 32,
            "num_conv_pos_embedding_groups": 4,
            **SIZES,
        },
        text_config={"model_type": "bert", "vocab_size": vocabulary_size, **SIZES},
        hidden_size=HIDDEN_SIZE,
        num_attention_heads=2,
        feed_forward_size=128,
        context_size=32,
    )


def character_vocabulary() -> dict[str, int]:
    """A WordPiece vocabulary of single characters: ASCII, and the Chinese characters of GB 2312, level 1 and 2."""
    ascii_characters = sorted(set(string.printable) - set(string.whitespace) - set(string.ascii_uppercase))
    inner = [f"##{character}" for character in string.ascii_lowercase + string.digits]
    rows = [bytes([high, low]) for high in range(0xA1, 0xF8) for low in range(0xA1, 0xFF)]
    chinese = [character for row in rows if (character := row.decode("gb2312", errors="ignore")).strip()]
    tokens = dict.fromkeys([*SPECIAL_TOKENS, *ascii_characters, *inner, *chinese])
    return {token: number for number, token in enumerate(tokens)}
