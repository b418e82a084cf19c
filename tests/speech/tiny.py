"""Tiny recognisers built from a configuration, with random weights that say something all the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)
from transformers.models.whisper import WhisperTokenizerFast  # type: ignore[attr-defined]

LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefg"]
SIZES: dict[str, Any] = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 16}
SPECIAL = [
    *("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|zh|>", "<|transcribe|>", "<|translate|>"),
    *("<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"),
]


def write_tiny_ctc(folder: Path, *, blank_bias: float = 0.0) -> Path:
    """Write a CTC model of five frames a second or so; a high bias of the blank makes it hear nothing."""
    torch.manual_seed(0)
    (folder / "vocabulary").mkdir(parents=True)
    vocabulary = folder / "vocabulary" / "vocab.json"
    vocabulary.write_text(json.dumps({letter: number for number, letter in enumerate(LETTERS)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(vocabulary), pad_token="<pad>", unk_token="<unk>", word_delimiter_token="|")
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=16_000, do_normalize=True, return_attention_mask=False)
    config = Wav2Vec2Config(
        vocab_size=len(LETTERS),
        pad_token_id=0,
        conv_dim=(8, 8, 8),
        conv_stride=(10, 16, 20),
        conv_kernel=(10, 16, 20),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        **SIZES,
    )
    network = Wav2Vec2ForCTC(config).eval()
    with torch.no_grad():
        network.lm_head.bias[0] = blank_bias
        network.lm_head.bias[1:4] = -100.0
        network.lm_head.weight *= 20
    network.save_pretrained(folder)
    Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
    return folder


def write_tiny_whisper(folder: Path) -> Path:
    """Write a multilingual Whisper with one layer a side and a vocabulary of letters."""
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    words = ["a", "b", "Ġc", "d", "Ġe", "f"]
    vocabulary = {token: number for number, token in enumerate([*words, *SPECIAL])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(SPECIAL)
    backend.save(str(folder / "raw.json"))
    end = "<|endoftext|>"
    tokenizer = WhisperTokenizerFast(
        tokenizer_file=str(folder / "raw.json"), unk_token=end, bos_token=end, eos_token=end, pad_token=end
    )
    (folder / "raw.json").unlink()
    config = WhisperConfig(
        vocab_size=len(vocabulary),
        num_mel_bins=80,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_target_positions=64,
        pad_token_id=vocabulary[end],
        bos_token_id=vocabulary[end],
        eos_token_id=vocabulary[end],
        decoder_start_token_id=vocabulary["<|startoftranscript|>"],
    )
    network = WhisperForConditionalGeneration(config).eval()
    network.generation_config = GenerationConfig(
        bos_token_id=vocabulary[end],
        eos_token_id=vocabulary[end],
        pad_token_id=vocabulary[end],
        decoder_start_token_id=vocabulary["<|startoftranscript|>"],
        no_timestamps_token_id=vocabulary["<|notimestamps|>"],
        max_length=64,
        is_multilingual=True,
        lang_to_id={"<|en|>": vocabulary["<|en|>"], "<|zh|>": vocabulary["<|zh|>"]},
        task_to_id={"transcribe": vocabulary["<|transcribe|>"], "translate": vocabulary["<|translate|>"]},
        alignment_heads=[[0, 0]],
        suppress_tokens=[vocabulary[name] for name in SPECIAL if name != end],
        return_timestamps=False,
    )
    network.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(feature_size=80), tokenizer).save_pretrained(folder)
    return folder
