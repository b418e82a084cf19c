"""Small networks that can be trained from scratch: the same architectures, smaller, with one token per character.

Their encoders are a small HuBERT and a small RoFormer with new weights. The audio encoder produces 5 frames a second
instead of 25, at a fifth of the cost: the cues to a customer's mood last longer than a frame.
"""

from __future__ import annotations

import string
from typing import Any, Final

import torch
from transformers import BertTokenizer

from msmtfn.model.architectures import make_network
from msmtfn.model.checkpoint import Model
from msmtfn.model.config import CONFIGS, Architecture, MsmtFnConfig

HIDDEN_SIZE: Final = 48
NUM_HEADS: Final = 4
INNER_SIZE: Final = 96
WINDOW_SAMPLES: Final = 160  # 20 ms at 8 kHz, with a hop of 10 ms
SPECIAL_TOKENS: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


SMALL_FUSIONS: Final[dict[Architecture, dict[str, Any]]] = {
    "msmtfn": {
        "feed_forward_size": INNER_SIZE,
        "num_cross_layers": 1,
        "num_bottleneck_layers": 2,  # with one, the streams would exchange nothing
        "pooling": "max",
        "context_size": 48,
        "num_context_layers": 1,
    },
    "mmml": {
        "feed_forward_size": 4 * HIDDEN_SIZE,
        "num_cross_layers": 2,
        "first_head_size": 48,
        "second_head_size": 32,
    },
}
"""Fields of each configuration that make the fusion small, and what follows it."""


def make_small_model(seed: int, architecture: Architecture = "msmtfn", **options: Any) -> Model:
    """Build a new small network with its tokenizer.

    Args:
        seed: random seed; with the same version of PyTorch the same seed gives the same weights.
        architecture: the network.
        **options: fields of its configuration that override those of `small_fields`.
    """
    vocabulary = character_vocabulary()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fields = small_fields(len(vocabulary), architecture)
        network = make_network(CONFIGS[architecture](**(fields | options)))
    return Model(network, BertTokenizer(vocab=vocabulary, do_lower_case=True))


def small_config(vocabulary_size: int, **options: Any) -> MsmtFnConfig:
    """Return the configuration of the small MSMT-FN; `options` override fields of `MsmtFnConfig`."""
    return MsmtFnConfig(**(small_fields(vocabulary_size) | options))


def small_fields(vocabulary_size: int, architecture: Architecture = "msmtfn") -> dict[str, Any]:
    """Return the fields of a configuration that make the small network; encoders and rounds are the same in all."""
    sizes = {"hidden_size": HIDDEN_SIZE, "num_attention_heads": NUM_HEADS, "intermediate_size": INNER_SIZE}
    return {
        "audio_encoder": "",
        "text_encoder": "",
        "audio_config": {
            "model_type": "hubert",
            "num_hidden_layers": 2,
            "conv_dim": [32, 48, 48],
            "conv_kernel": [WINDOW_SAMPLES, 8, 7],
            "conv_stride": [WINDOW_SAMPLES // 2, 4, 5],
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 4,
            "hidden_dropout": 0.0,
            "activation_dropout": 0.0,
            "attention_dropout": 0.0,
            "feat_proj_dropout": 0.0,
            # Layer normalisation would remove how loud a frame is relative to the others.
            "feat_proj_layer_norm": False,
            **sizes,
        },
        "text_config": {
            "model_type": "roformer",  # its rotary attention has relative positions built in, with nothing to learn
            "vocab_size": vocabulary_size,
            "num_hidden_layers": 1,
            "hidden_dropout_prob": 0.2,
            "attention_probs_dropout_prob": 0.0,
            **sizes,
        },
        "hidden_size": HIDDEN_SIZE,
        "num_attention_heads": NUM_HEADS,
        "encoder_sample_rate": 8000,
        "max_round_sec": 40.0,
        "max_text_tokens": 199,
        "dropout": 0.3,
        "attention_dropout": 0.0,
        **SMALL_FUSIONS[architecture],
    }


def character_vocabulary() -> dict[str, int]:
    """Return a WordPiece vocabulary of single characters: ASCII and the Chinese of GB 2312, levels 1 and 2."""
    ascii_characters = sorted(set(string.printable) - set(string.whitespace) - set(string.ascii_uppercase))
    inner = [f"##{character}" for character in string.ascii_lowercase + string.digits]
    rows = [bytes([high, low]) for high in range(0xA1, 0xF8) for low in range(0xA1, 0xFF)]
    chinese = [character for row in rows if (character := row.decode("gb2312", errors="ignore")).strip()]
    tokens = dict.fromkeys([*SPECIAL_TOKENS, *ascii_characters, *inner, *chinese])
    return {token: index for index, token in enumerate(tokens)}
