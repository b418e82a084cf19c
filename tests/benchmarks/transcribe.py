"""The speed of transcription: the job, and a bare loop over the same recogniser, on stretches of real recordings."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf
from rich.console import Console

from msmtfn.calls.audio import AudioConfig, decode_recording
from msmtfn.daily.success import Success
from msmtfn.engine import start_engine
from msmtfn.speech.clips import batch_clips, padding_share
from msmtfn.speech.hearing import HearingConfig, find_language, listen, recognise_clips, understand
from msmtfn.speech.models import RecogniserConfig, load_recogniser
from msmtfn.speech.recogniser import SAMPLE_RATE, Recogniser
from msmtfn.transcription.day import transcribe_day
from msmtfn.transcription.graph import TranscriptionConfig
from msmtfn.transcription.recognising import RecognisingConfig
from tests.benchmarks.mix import DATE


@dataclass(frozen=True, slots=True)
class Loop:
    """What the bare loop took.

    Attributes:
        seconds: of all steps, after the model was loaded.
        listen_sec: of these, without the recogniser.
        clips_of_calls: length of each clip of each call.
    """

    seconds: float
    listen_sec: float
    clips_of_calls: list[list[float]]


def measure_transcribe(
    recogniser: Path, recordings: Sequence[Path], num_calls: int, call_sec: float, config: TranscriptionConfig
) -> list[dict[str, Any]]:
    """Time the job and a bare loop, call by call, on the same calls.

    Args:
        recogniser: folder of the recogniser.
        recordings: real recordings, of which stretches are the calls.
        num_calls: number of calls.
        call_sec: length of a call.
        config: options of transcription.
    """
    with tempfile.TemporaryDirectory(prefix="msmtfn-") as scratch:
        root = Path(scratch)
        seconds = write_calls(root / "manifests", recordings, num_calls, call_sec)
        loaded = load_recogniser(
            recogniser,
            RecogniserConfig(beam_size=config.recogniser.beam_size),
            device="cpu",
            threads=os.cpu_count() or 1,
        )
        loop = run_loop(root / "manifests", loaded, config)
        with start_engine(show_workers=False):
            success = transcribe_day(
                DATE,
                manifests=root / "manifests",
                transcripts=root / "transcripts",
                recogniser=recogniser,
                config=config,
                console=Console(quiet=True),
            )
    padding = _padding_of(loop.clips_of_calls, loaded, config)
    took = success.seconds - (success.startup_seconds or 0.0)
    return [
        _row("bare loop, call by call", loop.seconds, seconds, loop.listen_sec, padding[0], loop.seconds),
        _row("job", took, seconds, _listen_sec(success), padding[1], loop.seconds),
    ]


def write_calls(root: Path, recordings: Sequence[Path], num_calls: int, call_sec: float) -> float:
    """Write a day of calls, each another stretch of a recording; return their total length in seconds."""
    root.mkdir(parents=True)
    sources = []
    for path in recordings:
        decoded = decode_recording(path.read_bytes(), sample_rate=8_000, config=AudioConfig(), name=path.name)
        sources.append(decoded.channels)
    size, rows, total = round(call_sec * 8_000), [], 0
    for number in range(num_calls):
        channels = sources[number % len(sources)]
        first = (number // len(sources) * 7_919 * 8) % max(channels.shape[1] - size, 1)
        part = channels[:, first : first + size]
        sf.write(root / f"call-{number}.wav", part.T, 8_000, subtype="PCM_16")
        rows.append({"call_id": f"call-{number}", "uri": f"call-{number}.wav", "language": "en"})
        total += part.shape[1]
    folder = root / f"date={DATE}"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "calls.parquet")
    return total / 8_000


def run_loop(root: Path, recogniser: Recogniser, config: TranscriptionConfig) -> Loop:
    """Transcribe the calls one after the other, in this process."""
    hearing: HearingConfig = config.listen.hearing
    started, listen_sec, clips = time.perf_counter(), 0.0, []
    for path in sorted(root.glob("*.wav")):
        begun = time.perf_counter()
        recording = decode_recording(path.read_bytes(), sample_rate=SAMPLE_RATE, config=AudioConfig())
        call = listen(recording.channels, recording.duration_sec, hearing)
        listen_sec += time.perf_counter() - begun
        language = find_language(call, recogniser, "en", hearing)
        languages = [language] * len(call.clips)
        found = recognise_clips(call.waveforms, languages, recogniser, config.recognising.batch_sec)
        understand(call, found, language, hearing)
        clips.append([clip.duration_sec for clip in call.clips])
    return Loop(time.perf_counter() - started, listen_sec, clips)


def _padding_of(clips: Sequence[Sequence[float]], recogniser: Recogniser, config: TranscriptionConfig) -> list[float]:
    """Return the share of padding call by call, and in the job's batches of calls."""
    options: RecognisingConfig = config.recognising
    size, fixed = config.spread.batch_calls, recogniser.fixed_clip_sec
    together = [list(chain.from_iterable(clips[first : first + size])) for first in range(0, len(clips), size)]
    shares = []
    for groups in (clips, together):
        computed = [padding_share(group, batch_clips(group, options.batch_sec, fixed), fixed) for group in groups]
        weights = [sum(group) / max(1 - share, 1e-9) for group, share in zip(groups, computed, strict=True)]
        shares.append(float(np.average(computed, weights=weights)) if sum(weights) else 0.0)
    return shares


def _listen_sec(success: Success) -> float:
    return (success.stage_seconds or {}).get("listen", 0.0)


def _row(name: str, took: float, seconds: float, listen_sec: float, padding: float, loop_sec: float) -> dict[str, Any]:
    return {
        "what": name,
        "seconds": round(took, 1),
        "recording_sec_per_sec": round(seconds / took, 2),
        "listening_sec": round(listen_sec, 1),
        "padding_share": round(padding, 3),
        "relative_to_loop": round(took / loop_sec, 3),
    }
