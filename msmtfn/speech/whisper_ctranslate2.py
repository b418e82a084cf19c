"""Recogniser engine `ctranslate2`: models of the Whisper family by faster-whisper, in int8 on CPUs.

Shapes: S samples of a clip.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from msmtfn.errors import ModelError
from msmtfn.speech.recogniser import SAMPLE_RATE, Segment, Waveform, Word

WEIGHTS_FILE: Final = "model.bin"
"""Weights in CTranslate2's own format, which holds arrays and no code."""

WINDOW_SEC: Final = 30.0
PROMPTS: Final = {"zh": "以下是普通话的句子。"}
"""Text that comes before a clip, by language: Whisper then writes simplified characters, with marks."""


class CTranslate2Whisper:
    """Recogniser of the Whisper family that runs on CTranslate2."""

    max_clip_sec: float = WINDOW_SEC
    fixed_clip_sec: float | None = WINDOW_SEC

    def __init__(self, folder: Path, *, device: str, threads: int, beam_size: int) -> None:
        """Load a model.

        Args:
            folder: folder of the model.
            device: `cpu` or `cuda`.
            threads: threads on a CPU.
            beam_size: number of hypotheses that the decoder follows; 1 decodes greedily.

        Raises:
            ModelError: faster-whisper is not installed, or the model cannot be loaded.
        """
        try:
            from faster_whisper import BatchedInferencePipeline, WhisperModel  # noqa: PLC0415 - an extra
        except ImportError as exc:
            raise ModelError(
                f"the engine ctranslate2 needs the extra: pip install 'msmtfn[asr]' on every machine ({exc})"
            ) from exc
        logging.getLogger("faster_whisper").setLevel(logging.WARNING)
        try:
            self.model = WhisperModel(
                str(folder),
                device=device,
                compute_type="int8" if device == "cpu" else "int8_float16",
                cpu_threads=threads,
                local_files_only=True,
            )
        except (RuntimeError, ValueError, OSError) as exc:
            raise ModelError(f"the recogniser in {folder} cannot be loaded: {' '.join(str(exc).split())}") from exc
        self.pipeline = BatchedInferencePipeline(self.model)
        self.beam_size = beam_size

    def find_language(self, clip: Waveform) -> str | None:
        """Return the language spoken in a clip; see `Recogniser`."""
        if not self.model.model.is_multilingual:
            return None
        language, _, _ = self.model.detect_language(clip)
        return str(language)

    def recognise(self, clips: Sequence[Waveform], languages: Sequence[str | None]) -> list[list[Segment]]:
        """Recognise a batch of clips; see `Recogniser`."""
        found: list[list[Segment]] = [[] for _ in clips]
        known = [self._check_language(language) for language in languages]
        for language in dict.fromkeys(known):
            numbers = [number for number, each in enumerate(known) if each == language]
            segments = self._recognise_in([clips[number] for number in numbers], language)
            for number, heard in zip(numbers, segments, strict=True):
                found[number] = heard
        return found

    def _check_language(self, language: str | None) -> str | None:
        return language if language in self.model.supported_languages else None

    def _recognise_in(self, clips: Sequence[Waveform], language: str | None) -> list[list[Segment]]:
        """Recognise clips of one language, end to end, which is how faster-whisper takes a batch."""
        edges = np.cumsum([0, *map(len, clips)]) / SAMPLE_RATE
        segments, _ = self.pipeline.transcribe(
            np.concatenate(clips),
            language=language,
            beam_size=self.beam_size,
            batch_size=len(clips),
            word_timestamps=True,
            vad_filter=False,
            clip_timestamps=[
                {"start": start, "end": end} for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
            ],
            initial_prompt=PROMPTS.get(language or ""),
        )
        found: list[list[Segment]] = [[] for _ in clips]
        for segment in segments:
            if segment.words:
                number = bisect_right(edges[1:-1].tolist(), (segment.words[0].start + segment.words[-1].end) / 2)
                found[number].append(_as_segment(segment, float(edges[number])))
        return found


def _as_segment(segment: Any, offset_sec: float) -> Segment:
    words = tuple(
        Word(
            word.word,
            float(max(word.start - offset_sec, 0.0)),
            float(max(word.end - offset_sec, 0.0)),
            float(word.probability),
        )
        for word in segment.words
    )
    return Segment(words, float(np.exp(segment.avg_logprob)), float(segment.no_speech_prob))
