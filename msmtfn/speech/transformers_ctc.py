"""Recogniser engine `transformers` for CTC models (`AutoModelForCTC`): wav2vec 2.0, HuBERT, Parakeet and others.

Shapes: B clips, S samples, F frames, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from transformers import AutoModelForCTC, AutoProcessor

from msmtfn.speech.recogniser import SAMPLE_RATE, Segment, Waveform, Word
from msmtfn.speech.tokens import TimedToken, group_words, mean_probability

MAX_CLIP_SEC: Final = 30.0
SPACE: Final = "▁"
"""What SentencePiece writes for the space before a word."""


class CtcRecogniser:
    """Recogniser that reads tokens off the frames of a CTC model, the likeliest in each frame."""

    max_clip_sec: float = MAX_CLIP_SEC
    fixed_clip_sec: float | None = None

    def __init__(self, folder: Path, *, device: str) -> None:
        self.processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        network = AutoModelForCTC.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
        self.network: Any = network.eval().to(device)
        self.tokenizer: Any = self.processor.tokenizer
        self.blank = _blank_of(self.network.config)
        self.special = set(self.tokenizer.all_special_ids) | {self.blank}
        self.delimiter = getattr(self.tokenizer, "word_delimiter_token", None)

    def find_language(self, clip: Waveform) -> str | None:  # noqa: ARG002 - a CTC model knows one language
        """Return None; see `Recogniser`."""
        return None

    @torch.inference_mode()
    def recognise(
        self,
        clips: Sequence[Waveform],
        languages: Sequence[str | None],  # noqa: ARG002 - it has one
    ) -> list[list[Segment]]:
        """Recognise a batch of clips; see `Recogniser`."""
        extractor = self.processor.feature_extractor
        inputs = extractor(list(clips), sampling_rate=SAMPLE_RATE, padding=True, return_tensors="pt")
        logits = self.network(**inputs.to(self.network.device)).logits
        log_probs, ids = logits.float().log_softmax(-1).max(-1)
        longest = max(map(len, clips))
        frame_sec = longest / SAMPLE_RATE / max(logits.shape[1], 1)
        found = []
        for number, clip in enumerate(clips):
            frames = round(logits.shape[1] * len(clip) / longest)
            found.append(self._segments_of(ids[number, :frames], log_probs[number, :frames], frame_sec))
        return found

    def _segments_of(self, ids: Tensor, log_probs: Tensor, frame_sec: float) -> list[Segment]:
        """Return one segment with the words of (F,) tokens, or none."""
        tokens, place = [], 0
        for token_id, run in groupby(ids.tolist()):
            length = len(list(run))
            if token_id not in self.special or self._is_delimiter(token_id):
                sure = float(log_probs[place : place + length].max())
                tokens.append(TimedToken(token_id, place * frame_sec, (place + length) * frame_sec, sure))
            place += length
        words = tuple(self._without_edge(word) for word in group_words(tokens, self._decode))
        spoken = [token for token in tokens if not self._is_delimiter(token.token_id)]
        return [Segment(words, mean_probability(spoken))] if words else []

    def _is_delimiter(self, token_id: int) -> bool:
        return self.delimiter is not None and self.tokenizer.convert_ids_to_tokens(token_id) == self.delimiter

    def _decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens as they stand, with spaces; a delimiter is the space before the next word."""
        tokens = self.tokenizer.convert_ids_to_tokens(list(ids))
        text = "".join(" " if token == self.delimiter else token.replace(SPACE, " ") for token in tokens)
        return "" if text.isspace() else text  # a space alone waits for the word that it precedes

    @staticmethod
    def _without_edge(word: Word) -> Word:
        """Return a word with one space before it at most."""
        return Word(
            (" " if word.text[0].isspace() else "") + word.text.strip(), word.start_sec, word.end_sec, word.confidence
        )


def _blank_of(config: Any) -> int:
    """Return the number of the blank: the padding token, as in all CTC models of transformers."""
    blank = getattr(config, "pad_token_id", None)
    return int(blank) if blank is not None else int(config.vocab_size) - 1
