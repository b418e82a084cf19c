"""The cost of preparing a call on one core, step by step: the CPU side of scoring."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import torch

from msmtfn.calls.checks import parse_turns
from msmtfn.calls.fetch import fetch_recording
from msmtfn.calls.manifest import iter_calls, open_manifest
from msmtfn.calls.rounds import find_rounds
from msmtfn.features.prepare import PREPARED, PrepareConfig, Preparer
from msmtfn.features.sandbox import SandboxedPreparer
from msmtfn.inference.scorer import BATCH_CALLS
from msmtfn.model.small import make_small_model
from tests.benchmarks.mix import DATE, draw_lengths, write_day

RECORDINGS: Final = {"PCM": "PCM_16", "mu-law": "ULAW"}
STEPS: Final = ("fetch", "decode", "rounds", "cut", "tokens")
WHOLE, SANDBOXED = "all, in this process", "all, in a child of its own"
PASSED: Final = ("row_id", "call_id")


def measure_prepare(num_calls: int, seed: int) -> list[dict[str, Any]]:
    """Time the preparation of the same calls: each step, all steps at once, and all steps in the sandbox.

    Args:
        num_calls: number of calls in the mix; their 8 kHz WAV files are in the page cache.
        seed: random seed of lengths, samples and text.

    Returns:
        A row for every step and for both ways of running all of them, with the milliseconds per call and the seconds
        of audio that one core prepares per second.
    """
    torch.set_num_threads(1)
    lengths = draw_lengths(num_calls, np.random.default_rng(seed))
    audio_sec = sum(map(sum, lengths))
    seconds = {}
    with tempfile.TemporaryDirectory(prefix="msmtfn-") as folder:
        for kind, subtype in RECORDINGS.items():
            root = write_day(Path(folder) / kind, lengths, np.random.default_rng(seed), subtype)
            seconds[kind] = _seconds_of(root)
    return [
        {
            "step": step,
            **{f"{kind}, ms a call": round(1000 * seconds[kind][step] / num_calls, 3) for kind in RECORDINGS},
            **{f"{kind}, times real time": round(audio_sec / seconds[kind][step]) for kind in RECORDINGS},
        }
        for step in (*STEPS, WHOLE, SANDBOXED)
    ]


def _seconds_of(root: Path) -> Mapping[str, float]:
    model = make_small_model(0)
    preparer = Preparer(PrepareConfig(), model.processor, str(root))
    sandboxed = SandboxedPreparer(preparer, preparer.config.guard, PASSED, PREPARED)
    batches = [pa.Table.from_batches([batch]) for batch in _batches(root)]
    sandboxed.prepare_batch(batches[0])  # starts the child process, whose imports take long
    seconds: dict[str, float] = defaultdict(float)
    for batch in batches:
        _step_by_step(preparer, batch, seconds)
        with _timed(seconds, WHOLE):
            preparer.prepare_batch(batch, PASSED)
        with _timed(seconds, SANDBOXED):
            sandboxed.prepare_batch(batch)
    return seconds


def _step_by_step(preparer: Preparer, batch: pa.Table, seconds: dict[str, float]) -> None:
    processor = preparer.processor
    for row in batch.to_pylist():
        with _timed(seconds, "fetch"):
            data = fetch_recording(row["uri"], preparer.manifest_root, preparer.allowed_prefixes, max_file_bytes=2**30)
        with _timed(seconds, "decode"):
            recording = processor.decode(data, preparer.config.audio, row["uri"])
        with _timed(seconds, "rounds"):
            turns = parse_turns(row["turns"])
            rounds = find_rounds(recording.channels, recording.sample_rate, turns, None, processor.config.rounds)
        with _timed(seconds, "cut"):
            processor.cut_rounds(recording, rounds)
        with _timed(seconds, "tokens"):
            processor.tokenize_rounds(rounds)


def _batches(root: Path) -> Iterator[pa.RecordBatch]:
    """Read the manifest's rows in batches of the job's size."""
    for batch in iter_calls(open_manifest(str(root), DATE)):
        size = BATCH_CALLS
        yield from (batch.slice(start, size) for start in range(0, len(batch), size))


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[step] += time.perf_counter() - started
