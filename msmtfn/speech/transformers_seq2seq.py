"""Recogniser engine `transformers` for sequence-to-sequence models (`AutoModelForSpeechSeq2Seq`), above all Whisper.

Whisper tells when each token was said, from its cross-attention. Of models that do not, the words are spread over
their clip by their number of characters.
Shapes: B clips, S samples, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

from msmtfn.speech.recogniser import SAMPLE_RATE, Segment, Waveform
from msmtfn.speech.tokens import TimedToken, group_words, mean_probability

WINDOW_SEC: Final = 30.0
WHISPER: Final = "whisper"
TOKENS_PER_SEC: Final = 12
"""Far more than anybody says, in any language; it ends a decoder that repeats itself without end."""
MIN_TOKENS: Final = 16
MAX_NEW_TOKENS: Final = 400


class Seq2SeqRecogniser:
    """Recogniser that writes the text of a clip token by token."""

    max_clip_sec: float = WINDOW_SEC

    def __init__(self, folder: Path, *, device: str, beam_size: int) -> None:
        self.processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        network = AutoModelForSpeechSeq2Seq.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float16 if device == "cuda" else torch.float32,
        )
        self.network: Any = network.eval().to(device)
        self.tokenizer: Any = self.processor.tokenizer
        self.beam_size = beam_size
        self.is_whisper = self.network.config.model_type == WHISPER
        generation = self.network.generation_config
        self.languages = {
            token.strip("<|>"): token_id for token, token_id in (getattr(generation, "lang_to_id", None) or {}).items()
        }
        self.has_times = self.is_whisper and getattr(generation, "alignment_heads", None) is not None

    @property
    def fixed_clip_sec(self) -> float | None:
        """Seconds that it computes for a clip; see `Recogniser`."""
        return WINDOW_SEC if self.is_whisper else None

    @torch.inference_mode()
    def find_language(self, clip: Waveform) -> str | None:
        """Return the language spoken in a clip; see `Recogniser`."""
        if not self.languages:
            return None
        found = int(self.network.detect_language(self._features([clip])["input_features"])[0])
        return next((code for code, token_id in self.languages.items() if token_id == found), None)

    @torch.inference_mode()
    def recognise(self, clips: Sequence[Waveform], languages: Sequence[str | None]) -> list[list[Segment]]:
        """Recognise a batch of clips; see `Recogniser`."""
        inputs = self._features(clips)
        longest_sec = max(map(len, clips)) / SAMPLE_RATE
        options: dict[str, Any] = {}
        if self.languages:
            known = [language if language in self.languages else None for language in languages]
            found = [language or self.find_language(clip) for language, clip in zip(known, clips, strict=True)]
            options |= {"language": found, "task": "transcribe"}
        if self.has_times:
            options["return_token_timestamps"] = True
        output = self.network.generate(
            **inputs,
            **options,
            num_beams=self.beam_size,
            do_sample=False,
            max_new_tokens=min(MAX_NEW_TOKENS, round(MIN_TOKENS + TOKENS_PER_SEC * longest_sec)),
            return_dict_in_generate=True,
            output_scores=True,
        )
        log_probs = self.network.compute_transition_scores(
            output["sequences"], output["scores"], output.get("beam_indices"), normalize_logits=True
        )
        return [self._segments_of(number, clip, output, log_probs[number]) for number, clip in enumerate(clips)]

    def _features(self, clips: Sequence[Waveform]) -> Any:
        extractor = self.processor.feature_extractor
        options = {} if self.is_whisper else {"padding": True}
        inputs = extractor(
            list(clips), sampling_rate=SAMPLE_RATE, return_tensors="pt", return_attention_mask=True, **options
        )
        for name, value in inputs.items():
            if torch.is_floating_point(value):
                inputs[name] = value.to(self.network.dtype)
        return inputs.to(self.network.device)

    def _segments_of(self, number: int, clip: Waveform, output: Any, log_probs: Tensor) -> list[Segment]:
        """Return one segment with the words of a clip, or none."""
        sequence = output["sequences"][number].tolist()
        first = len(sequence) - len(log_probs)  # what was given to the decoder has no probability
        special = set(self.tokenizer.all_special_ids)
        places = [place for place in range(first, len(sequence)) if sequence[place] not in special]
        duration_sec = len(clip) / SAMPLE_RATE
        if self.has_times:
            stamps = output["token_timestamps"][number].tolist()
            times = [(stamps[max(place - 1, 0)], stamps[place]) for place in places]
        else:
            step = duration_sec / max(len(places), 1)
            times = [(step * index, step * (index + 1)) for index in range(len(places))]
        tokens = [
            TimedToken(
                sequence[place], min(start, duration_sec), min(end, duration_sec), float(log_probs[place - first])
            )
            for place, (start, end) in zip(places, times, strict=True)
        ]
        words = group_words(tokens, self._decode)
        return [Segment(words, mean_probability(tokens))] if words else []

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))
