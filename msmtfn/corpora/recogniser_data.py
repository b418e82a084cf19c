"""Turns of a simulated corpus as a recogniser's training needs them: features of what is spoken, and the true words.

Shapes: F frames of 10 ms, M mel bands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq
import torch
from torch import Tensor

from msmtfn.calls.audio import AudioConfig, decode_recording
from msmtfn.corpora.simulation.acoustics import AGENT_PAUSE_SEC
from msmtfn.corpora.simulation.corpus import LATENTS_NAME
from msmtfn.corpora.simulation.plan import SPLITS
from msmtfn.errors import UsageError
from msmtfn.speech.conv_ctc import FRAME_SAMPLES, log_mels
from msmtfn.speech.recogniser import SAMPLE_RATE

PADDING_SEC: Final = 0.15
"""Sound that is kept around a turn, as `speech.clips` keeps it around what a detector finds."""
FRAMES_PER_SEC: Final = SAMPLE_RATE // FRAME_SAMPLES


@dataclass(frozen=True, slots=True, eq=False)
class SpokenText:
    """A stretch of one channel of a call, with its words.

    Attributes:
        mels: (F, M) logarithms of the power in mel bands, in half precision.
        text: the words as they were spoken.
    """

    mels: Tensor
    text: str


Track = list[SpokenText]
"""The turns of one channel of a call, in order."""


def read_tracks(
    corpus: Path, splits: Sequence[str], num_mels: int, report: Callable[[int], None] = lambda _done: None
) -> list[Track]:
    """Read the turns of a simulated corpus, in half precision: 30 MB an hour of sound.

    Args:
        corpus: folder of the corpus.
        splits: which of its splits.
        num_mels: mel bands of the features.
        report: called after every call with the number of calls read.

    Raises:
        UsageError: the folder holds no simulated corpus.
    """
    try:
        latents = pq.read_table(corpus / LATENTS_NAME).to_pylist()
        manifests = {split: pq.ParquetDataset(sorted((corpus / split).glob("date=*/*.parquet"))) for split in SPLITS}
        rows = {
            (split, row["call_id"]): row
            for split, dataset in manifests.items()
            for row in dataset.read(columns=["call_id", "uri", "agent_channel", "turns"]).to_pylist()
        }
    except (OSError, KeyError, ValueError) as exc:
        raise UsageError(f"{corpus} is no corpus of simulate-calls: {exc}") from exc
    tracks: list[Track] = []
    for number, call in enumerate((call for call in latents if call["split"] in splits), start=1):
        row = rows[call["split"], call["call_id"]]
        tracks += _read_call(corpus / call["split"] / row["uri"], row, call, num_mels)
        report(number)
    return tracks


def _read_call(path: Path, row: Mapping[str, Any], latents: Mapping[str, Any], num_mels: int) -> Iterator[Track]:
    """Yield the tracks of a call: one for each channel."""
    recording = decode_recording(path.read_bytes(), sample_rate=SAMPLE_RATE, config=AudioConfig(), name=str(path))
    channels = [log_mels(channel, num_mels) for channel in recording.channels]
    texts = [text for each in latents["rounds"] for text in (each["agent_text"], each["customer_text"])]
    tracks: list[Track] = [[] for _ in channels]
    for turn, text in zip(row["turns"], texts, strict=True):
        is_agent = turn["speaker"] == "agent"
        channel = 0 if row["agent_channel"] is None else row["agent_channel"] if is_agent else 1 - row["agent_channel"]
        # A customer's turn lasts until the agent's next one, after a pause of at least this length.
        silent_sec = 0.0 if is_agent else AGENT_PAUSE_SEC[0]
        first = max(round((turn["start_sec"] - PADDING_SEC) * FRAMES_PER_SEC), 0)
        last = round((turn["end_sec"] - silent_sec + PADDING_SEC) * FRAMES_PER_SEC)
        tracks[channel].append(SpokenText(channels[channel][first:last].to(torch.float16), text))
    yield from tracks
