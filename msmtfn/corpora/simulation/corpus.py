"""Generate a corpus of simulated calls in parallel.

```
<folder>/training/date=YYYY-MM-DD/calls.parquet     every split is a root of manifests with its own range of days:
<folder>/training/recordings/YYYY-MM-DD/*.wav       training first, then validation, then test
<folder>/validation/...
<folder>/test/...
<folder>/latents.parquet     latent variables, cues and true words of every call: for tests, never as features
<folder>/ceilings.json       accuracy of the best possible readers
<folder>/options.json        options of the corpus; written first
<folder>/_SUCCESS            counts, as JSON; written last: a folder without it is incomplete
```
"""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import msmtfn
from msmtfn.corpora.manifests import CALLS, write_manifest
from msmtfn.corpora.simulation.acoustics import AGENTS, draw_cues, record_call, speak_rounds
from msmtfn.corpora.simulation.ceilings import compute_ceilings, score_best_readers
from msmtfn.corpora.simulation.plan import SPLITS, CallPlan, SimulationConfig, plan_corpus
from msmtfn.corpora.simulation.wording import share_of_fresh_turns, write_rounds
from msmtfn.corpora.speech import Synthesizer
from msmtfn.corpora.telephone import SAMPLE_RATE, write_recording
from msmtfn.errors import JobError, UsageError
from msmtfn.homophones import load_homophones, substitute_homophones

OPTIONS_NAME, CEILINGS_NAME, LATENTS_NAME, SUCCESS_NAME = "options.json", "ceilings.json", "latents.parquet", "_SUCCESS"
RECOGNISER_ERRORS: Final = 0.1  # share of characters that are replaced by homophones

ROUND: Final = pa.struct(
    [
        ("words", pa.string()),
        ("sound", pa.string()),
        ("delay_sec", pa.float64()),
        ("loudness_db", pa.float64()),
        ("rate_wpm", pa.int64()),
        ("pitch_range", pa.int64()),
        ("agent_text", pa.string()),
        ("customer_text", pa.string()),
    ]
)
LATENTS: Final = pa.schema(
    [
        ("call_id", pa.string()),
        ("split", pa.string()),
        ("customer_id", pa.string()),
        ("domain", pa.string()),
        ("intent", pa.string()),
        ("evidence", pa.string()),
        ("pair", pa.string()),
        ("early_intent", pa.string()),
        ("change_after", pa.int64()),
        ("is_telling", pa.list_(pa.bool_())),
        ("snr_db", pa.float64()),
        ("duration_sec", pa.float64()),
        ("rounds", pa.list_(ROUND)),
    ]
)
"""Columns of `latents.parquet`, a row per call: `CallLatents`, and per round `RoundLatents`, `Cues` and true words."""


class CorpusError(JobError):
    """A failure to write the corpus, or the death of a worker process."""


@dataclass(frozen=True, slots=True)
class MadeCall:
    """The rows of a call whose recording has been written."""

    manifest: dict[str, Any]
    latents: dict[str, Any]


def write_corpus(
    folder: Path, config: SimulationConfig, *, num_workers: int, report: Callable[[int], None]
) -> dict[str, Any]:
    """Generate the corpus, unless it already exists.

    Args:
        folder: folder of the corpus: new, empty, or with this same corpus, complete or unfinished.
        config: options of the corpus.
        num_workers: number of processes that synthesise speech; it does not change the corpus.
        report: called after every call with the number of calls made so far.

    Returns:
        The content of `_SUCCESS`.

    Raises:
        UsageError: the folder holds something else, or a package is missing.
        CorpusError: a file cannot be written, or a worker process died.
    """
    try:
        if (success := _open_folder(folder, config)) is not None:
            return success
        plans = plan_corpus(config)
        calls = []
        for call in _make_calls(plans, folder, num_workers):
            calls.append(call)
            report(len(calls))
        return _write_tables(folder, plans, calls)
    except OSError as exc:
        raise CorpusError(
            f"the corpus cannot be written to {folder}: {exc}; check its permissions and the free space"
        ) from exc
    except BrokenProcessPool as exc:
        raise CorpusError("a worker process died, perhaps for lack of memory; try fewer --workers") from exc


def make_call(plan: CallPlan, folder: Path) -> MadeCall:
    """Generate one call: write its texts, synthesise its speech, and write the recording below `folder`."""
    rng = np.random.default_rng(plan.seed)
    latents, voice = plan.latents, plan.customer.voice
    texts = write_rounds(latents, rng, is_brief=plan.is_brief)
    cues = [draw_cues(round_latents.sound, voice, rng) for round_latents in latents.rounds]
    rounds = list(zip(texts, cues, strict=True))
    turns, voice_tracks, level_db = speak_rounds(rounds, AGENTS[plan.agent_id], voice, Synthesizer(), rng)
    recording = record_call(voice_tracks, plan.agent_channel, level_db - plan.snr_db, rng)
    uri = f"recordings/{plan.date}/{plan.call_id}.wav"
    path = folder / plan.split / uri
    path.parent.mkdir(parents=True, exist_ok=True)
    write_recording(path, recording, SAMPLE_RATE, plan.recording_format)
    recognised_turns = [asdict(turn) | {"text": _recognise(turn.text, rng)} for turn in turns]
    manifest = {
        "call_id": plan.call_id,
        "uri": uri,
        "started_at": plan.started_at,
        "domain": latents.domain,
        "language": "zh",
        "agent_id": plan.agent_id,
        "customer_id": plan.customer.customer_id,
        "agent_channel": plan.agent_channel,
        "turns": recognised_turns,
        "intent": latents.intent,
    }
    round_rows = [
        asdict(round_latents) | asdict(cue) | {"agent_text": text.agent, "customer_text": text.customer}
        for round_latents, (text, cue) in zip(latents.rounds, rounds, strict=True)
    ]
    duration_sec = recording.shape[1] / SAMPLE_RATE
    details = {"split": plan.split, "snr_db": plan.snr_db, "duration_sec": duration_sec, "rounds": round_rows}
    ids = {name: manifest[name] for name in ("call_id", "customer_id")}
    return MadeCall(manifest, asdict(latents) | details | ids)


def _recognise(text: str, rng: np.random.Generator) -> str:
    """Return the text with the errors of a recogniser: homophones, also with another tone."""
    return substitute_homophones(text, RECOGNISER_ERRORS, rng, tones_respected=False)


def _make_calls(plans: Sequence[CallPlan], folder: Path, num_workers: int) -> Iterator[MadeCall]:
    """Generate the calls in the order of their plans."""
    # A missing package is reported here, not from a worker process.
    Synthesizer()
    load_homophones(tones_respected=False)
    make = partial(make_call, folder=folder)
    if num_workers == 1:
        yield from map(make, plans)
        return
    # Forking a process with threads may copy a lock that one of them holds.
    with ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield from pool.map(make, plans, chunksize=4)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _open_folder(folder: Path, config: SimulationConfig) -> dict[str, Any] | None:
    """Claim the folder for this corpus.

    Returns:
        The content of `_SUCCESS` if the corpus is complete, else None.
    """
    options = json.loads(json.dumps({"version": msmtfn.__version__, **asdict(config), "split": config.split_sizes}))
    options_file, success_file = folder / OPTIONS_NAME, folder / SUCCESS_NAME
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        _write_json(options_file, options)
    elif not options_file.is_file() or json.loads(options_file.read_text()) != options:
        raise UsageError(f"{folder} holds something other than a corpus with these options; give an empty folder")
    elif success_file.is_file():
        success: dict[str, Any] = json.loads(success_file.read_text())
        return success
    return None


def _write_tables(folder: Path, plans: Sequence[CallPlan], calls: Sequence[MadeCall]) -> dict[str, Any]:
    for (split, date), day in groupby(
        zip(plans, calls, strict=True), key=lambda planned: (planned[0].split, planned[0].date)
    ):
        write_manifest(folder / split, date, [call.manifest for _, call in day], CALLS)
    latents = [call.latents for call in calls]
    pq.write_table(pa.Table.from_pylist(latents, schema=LATENTS), folder / LATENTS_NAME)
    splits = {split: [plan.latents for plan in plans if plan.split == split] for split in SPLITS}
    ceilings = {
        "best_possible": compute_ceilings(),
        "best_reader_of": {split: score_best_readers(drawn) for split, drawn in splits.items()},
    }
    _write_json(folder / CEILINGS_NAME, ceilings)
    success = _count(plans, latents) | {"ceilings": ceilings}
    _write_json(folder / SUCCESS_NAME, success)
    return success


def _count(plans: Sequence[CallPlan], latents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    customer_turns = {
        split: [round_["customer_text"] for row in latents if row["split"] == split for round_ in row["rounds"]]
        for split in SPLITS
    }
    return {
        "calls": len(plans),
        "rounds": sum(len(texts) for texts in customer_turns.values()),
        "customers": len({plan.customer.customer_id for plan in plans}),
        "audio_hours": sum(row["duration_sec"] for row in latents) / 3600,
        "splits": {
            split: {
                "dates": sorted({str(plan.date) for plan in plans if plan.split == split}),
                "intents": dict(sorted(Counter(plan.latents.intent for plan in plans if plan.split == split).items())),
            }
            for split in SPLITS
        },
        "fresh_test_turns": share_of_fresh_turns(customer_turns["test"], customer_turns["training"]),
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
