"""Write a published corpus as manifests and recordings of ours.

```
<out>/training/date=2000-01-01/calls.parquet     every split is a root of manifests with a day of its own
<out>/training/recordings/<call_id>.flac         the clips of the call's utterances, one after the other
<out>/validation/..., <out>/test/...
<out>/<fold>/training/..., <out>/recordings/...   of a corpus with several folds, which share the recordings
<out>/options.json                               what is imported; written first
<out>/_SUCCESS                                   counts, as JSON; written last: a folder without it is incomplete
```
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import soundfile as sf

import msmtfn
from msmtfn.calls.audio import AudioConfig, decode_recording
from msmtfn.calls.media import decode_video_sound
from msmtfn.corpora.manifests import CALLS, write_manifest
from msmtfn.corpora.published.corpus import Conversation, CorpusFormatError, PublishedCorpus, Utterance
from msmtfn.corpora.simulation.plan import SPLITS
from msmtfn.errors import CallError, RejectCode, UsageError

logger = logging.getLogger(__name__)

RECORDINGS, OPTIONS_NAME, SUCCESS_NAME = "recordings", "options.json", "_SUCCESS"
FIRST_DATE: Final = dt.date(2000, 1, 1)
DATES: Final = {split: FIRST_DATE + dt.timedelta(days=place) for place, split in enumerate(SPLITS)}
"""A corpus has no dates, but manifests do: one for each split."""

FULL_SCALE: Final = 2.0**15
CHARACTERS_PER_SEC: Final = 15.0
SHORTEST_SEC: Final = 0.1

Sound = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class _WrittenCall:
    """Row of a call, or None if none of its clips can be read, and what became of its utterances."""

    row: dict[str, Any] | None
    outcomes: Counter[str]


def import_corpus(
    corpus: PublishedCorpus, out: Path, *, text_only: bool, num_workers: int, report: Callable[[int], None]
) -> dict[str, Any]:
    """Write manifests and recordings of a corpus, unless they are there already.

    Utterances without a readable clip are left out, with a warning.

    Args:
        corpus: content of the corpus.
        out: folder to write: new, empty, or with this same corpus, complete or unfinished.
        text_only: whether to read no clip and write silence instead, for networks that read only text.
        num_workers: number of threads that decode.
        report: called after every call with the number of calls done.

    Returns:
        The content of `_SUCCESS`.

    Raises:
        UsageError: the folder holds something else.
        CorpusFormatError: no clip can be read, or a file cannot be written.
    """
    try:
        if (success := _open_folder(out, corpus, text_only=text_only)) is not None:
            return success
        for difference in corpus.differences:
            logger.warning("%s", difference)
        calls = list(_write_recordings(corpus, out, text_only, num_workers, report))
        return _write_tables(corpus, out, calls)
    except OSError as exc:
        raise CorpusFormatError(f"the corpus cannot be written to {out}: {exc}") from exc


def read_clip(path: Path, sample_rate: int) -> Sound:
    """Return the (S,) samples of a recording or of a video's sound, mixed down to one channel.

    Raises:
        CallError: it cannot be read, or is empty.
    """
    data = path.read_bytes()
    if path.suffix.lower() == ".mp4":
        sound = decode_video_sound(memoryview(data), sample_rate)
    else:
        mono = decode_recording(data, sample_rate=sample_rate, config=AudioConfig(), name=path.name).mono()
        sound = np.clip(np.rint(mono * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
    if not len(sound):
        raise CallError(RejectCode.AUDIO_EMPTY, "the clip has no samples")
    return sound


def silent_clip(utterance: Utterance, sample_rate: int) -> Sound:
    """Return silence as long as an utterance lasts by the corpus's times, else as its text would last."""
    length_sec = utterance.length_sec or len(utterance.text) / CHARACTERS_PER_SEC
    return np.zeros(round(max(length_sec, SHORTEST_SEC) * sample_rate), np.int16)


def _open_folder(out: Path, corpus: PublishedCorpus, *, text_only: bool) -> dict[str, Any] | None:
    """Claim the folder for this corpus; return the content of `_SUCCESS` if it is complete."""
    options = {"version": msmtfn.__version__, "corpus": corpus.title, "text_only": text_only, "found": corpus.found}
    options_file, success_file = out / OPTIONS_NAME, out / SUCCESS_NAME
    out.mkdir(parents=True, exist_ok=True)
    if not any(out.iterdir()):
        options_file.write_text(json.dumps(options, indent=2) + "\n")
    elif not options_file.is_file() or json.loads(options_file.read_text()) != options:
        raise UsageError(f"{out} holds something other than this corpus with these options; give an empty folder")
    elif success_file.is_file():
        success: dict[str, Any] = json.loads(success_file.read_text())
        return success
    return None


def _write_recordings(
    corpus: PublishedCorpus, out: Path, text_only: bool, num_workers: int, report: Callable[[int], None]
) -> Iterator[_WrittenCall]:
    write = partial(_write_call, corpus, out, text_only)
    with ThreadPoolExecutor(num_workers) as pool:  # decoding and encoding release Python's lock
        try:
            for done, call in enumerate(pool.map(write, corpus.conversations), 1):
                yield call
                report(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _write_call(corpus: PublishedCorpus, out: Path, text_only: bool, call: Conversation) -> _WrittenCall:
    outcomes: Counter[str] = Counter()
    sounds, spoken = [], []
    for utterance in call.utterances:
        sound = (
            silent_clip(utterance, corpus.sample_rate) if text_only else _try_clip(utterance, call, corpus, outcomes)
        )
        if sound is not None:
            sounds.append(sound)
            spoken.append(utterance)
    outcomes["imported"] = len(spoken)
    if not spoken:
        return _WrittenCall(None, outcomes)
    path = _recording_of(corpus, out, call.call_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    sf.write(unfinished, np.concatenate(sounds), corpus.sample_rate, format="FLAC", subtype="PCM_16")
    unfinished.replace(path)
    ends = np.cumsum([len(sound) for sound in sounds]) / corpus.sample_rate
    turns = [
        {"speaker": each.speaker, "start_sec": start_sec, "end_sec": end_sec, "text": each.text}
        for each, start_sec, end_sec in zip(spoken, [0.0, *ends[:-1].tolist()], ends.tolist(), strict=True)
    ]
    labels = {name: [each.labels[name] for each in spoken] for name in spoken[0].labels}
    return _WrittenCall({"call_id": call.call_id, "turns": turns, **call.columns, **labels}, outcomes)


def _try_clip(
    utterance: Utterance, call: Conversation, corpus: PublishedCorpus, outcomes: Counter[str]
) -> Sound | None:
    if utterance.clip is None:
        outcomes["missing"] += 1
        return None
    try:
        return read_clip(utterance.clip, corpus.sample_rate)
    except CallError as exc:
        logger.warning("%s, utterance %s is left out: %s", call.call_id, utterance.name, exc)
        outcomes["unreadable"] += 1
        return None


def _recording_of(corpus: PublishedCorpus, out: Path, call_id: str) -> Path:
    only = corpus.folds.get("")
    folder = out if only is None else out / only[call_id]
    return folder / RECORDINGS / f"{call_id}.flac"


def _write_tables(corpus: PublishedCorpus, out: Path, calls: Sequence[_WrittenCall]) -> dict[str, Any]:
    outcomes = sum((call.outcomes for call in calls), Counter(broken=corpus.num_broken))
    rows = {call.row["call_id"]: call.row for call in calls if call.row is not None}
    if not rows:
        raise CorpusFormatError(
            f"{corpus.title} has {outcomes['missing']} utterances without a clip and {outcomes['unreadable']} with one "
            "that cannot be read, and no other; see the layout in the documentation, or import with --text-only"
        )
    if missing := outcomes["missing"]:
        logger.warning("%d utterances have no clip and are left out", missing)
    schema = pa.unify_schemas([CALLS, corpus.labels])
    sizes: dict[str, dict[str, int]] = {}
    for fold, split_of in corpus.folds.items():
        sizes[fold] = {}
        for split in SPLITS:
            root = out / fold / split
            mine = [_with_uri(rows[call_id], corpus, out, root) for call_id in rows if split_of[call_id] == split]
            sizes[fold][split] = len(mine)
            write_manifest(root, DATES[split], mine, schema)
    success = {
        "corpus": corpus.title,
        "calls": len(rows),
        "utterances": dict(sorted(outcomes.items())),
        "splits": sizes,
        "differences": corpus.differences,
    }
    (out / SUCCESS_NAME).write_text(json.dumps(success, indent=2) + "\n")
    return success


def _with_uri(row: Mapping[str, Any], corpus: PublishedCorpus, out: Path, root: Path) -> dict[str, Any]:
    recording = _recording_of(corpus, out, row["call_id"])
    return {**row, "uri": os.path.relpath(recording, root)}
