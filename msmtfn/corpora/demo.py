"""Write a day of invented sales calls, manifest and recordings, to try the scoring job on.

The voices are espeak-ng's and the sentences stand in `demo_scripts.py`; the day is the same in every run with the
same seed. Shape letters: C channels, S samples.
"""

from __future__ import annotations

import datetime
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from msmtfn.calls.rounds import Speaker, Turn
from msmtfn.corpora.conversation import SPEAKERS, SpokenLine, lay_out_channels, speak_lines
from msmtfn.corpora.demo_scripts import OFFERS, Line, write_script
from msmtfn.corpora.manifests import CALLS, OPEN_SEC, opening_time, write_manifest
from msmtfn.corpora.speech import Synthesizer, Voice
from msmtfn.corpora.telephone import SAMPLE_RATE, RecordingFormat, add_line_noise, write_recording
from msmtfn.labels import INTENTS

MANIFEST_SCHEMA: Final = CALLS.append(pa.field("campaign", pa.string()))
"""The manifest's contract, and `campaign`, a column of the company's own that is passed through."""

MIN_CALLS: Final = 6  # the first six calls of a plan show every kind of recording
BROKEN_BYTES: Final = 30  # a WAV's header has 44 or more
NOISE_DB: Final = -60.0
LEVELS_DB: Final[dict[Speaker, tuple[float, float]]] = {"agent": (-23.0, -21.0), "customer": (-27.0, -23.0)}
RING_SEC: Final = (0.5, 1.2)  # before the first turn, and after the last
PAUSE_SEC: Final = (0.4, 1.0)  # between two turns


AGENTS: Final[dict[str, Voice]] = {
    "agent-01": Voice(voice="cmn+f3", rate_wpm=215, pitch=55),
    "agent-02": Voice(voice="cmn+m3", rate_wpm=205, pitch=45),
    "agent-03": Voice(voice="cmn+f2", rate_wpm=220, pitch=60),
}
CUSTOMER_VARIANTS: Final = ("f1", "f4", "f5", "m1", "m2", "m7")
CUSTOMER_RATES_WPM: Final = (170, 205)
CUSTOMER_PITCHES: Final = (30, 70)


@dataclass(frozen=True, kw_only=True)
class CallPlan:
    """What kind of recording and manifest row a call gets."""

    call_id: str
    domain: str
    intent: str
    agent_channel: int | None
    """None in a one-channel recording, where both voices are mixed."""
    recording_format: RecordingFormat
    has_turns: bool
    is_broken: bool


def write_demo_day(folder: Path, date: datetime.date, *, num_calls: int = 24, seed: int = 0) -> Path:
    """Write a day's manifest and recordings.

    Each call is a Mandarin sales call of 2 to 4 rounds. About a third of the recordings have one channel; most calls
    have their turns; one recording is broken.

    Args:
        folder: where `manifests/` is made.
        date: the day of the calls.
        num_calls: 6 or more.
        seed: the same seed gives the same bytes.

    Returns:
        The manifests' root folder: `<folder>/manifests`, with the recordings below it.

    Raises:
        ValueError: `num_calls` is too small.
        UsageError: `espeakng_loader` is not installed.
    """
    if num_calls < MIN_CALLS:
        raise ValueError(
            f"num_calls is {num_calls}; give {MIN_CALLS} or more, so that every kind of recording is there"
        )
    synthesizer = Synthesizer()
    manifests = folder / "manifests"
    recordings = manifests / "recordings" / date.isoformat()
    recordings.mkdir(parents=True, exist_ok=True)
    rows = []
    for index, plan in enumerate(plan_day(date, num_calls, seed)):
        rng = np.random.default_rng([seed, index])
        row, waveform = make_call(plan, date, synthesizer, rng)
        path = recordings / f"{plan.call_id}.{plan.recording_format.partition('_')[0]}"
        write_recording(path, waveform, SAMPLE_RATE, plan.recording_format)
        if plan.is_broken:
            path.write_bytes(path.read_bytes()[:BROKEN_BYTES])
        rows.append(row | {"uri": path.relative_to(manifests).as_posix()})
    write_manifest(manifests, date, rows, MANIFEST_SCHEMA)
    return manifests


def plan_day(date: datetime.date, num_calls: int, seed: int) -> list[CallPlan]:
    """Share out domains, intents and kinds of recording among the day's calls, in an order that the seed decides."""
    rng = np.random.default_rng(seed)
    return [
        _plan_call(f"{date:%Y%m%d}-{number:04d}", int(kind), rng)
        for number, kind in enumerate(rng.permutation(num_calls), start=1)
    ]


def make_call(
    plan: CallPlan, date: datetime.date, synthesizer: Synthesizer, rng: np.random.Generator
) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """Make one call: its manifest row without the uri, and its recording (C, S) at 8 kHz."""
    agent_id = str(rng.choice(list(AGENTS)))
    voices: dict[Speaker, Voice] = {"agent": AGENTS[agent_id], "customer": _draw_customer_voice(rng)}
    turns, voice_tracks = speak_script(write_script(plan.domain, plan.intent, rng), voices, synthesizer, rng)
    row = {
        "call_id": plan.call_id,
        "started_at": opening_time(date) + datetime.timedelta(seconds=int(rng.integers(OPEN_SEC))),
        "domain": plan.domain,
        "language": "zh",
        "agent_id": agent_id,
        "customer_id": f"customer-{rng.integers(10_000):04d}",
        "agent_channel": plan.agent_channel,
        "turns": [asdict(turn) for turn in turns] if plan.has_turns else None,
        "intent": plan.intent,
        "campaign": f"{plan.domain}-{date:%Y-%m}",
    }
    return row, add_line_noise(lay_out_channels(voice_tracks, plan.agent_channel), NOISE_DB, rng)


def speak_script(
    script: list[Line], voices: dict[Speaker, Voice], synthesizer: Synthesizer, rng: np.random.Generator
) -> tuple[list[Turn], NDArray[np.float32]]:
    """Speak the lines one after the other, with pauses between.

    Returns:
        The turns, and (2, S) at 8 kHz: the agent's voice alone, and the customer's.
    """
    levels_db = {speaker: rng.uniform(*LEVELS_DB[speaker]) for speaker in SPEAKERS}
    lead_in_sec = rng.uniform(*RING_SEC)
    pauses_sec = [rng.uniform(*PAUSE_SEC) for _ in script]
    pauses_sec[-1] = rng.uniform(*RING_SEC)
    lines = [
        SpokenLine(speaker=speaker, text=text, voice=voices[speaker], level_db=levels_db[speaker], pause_sec=pause_sec)
        for (speaker, text), pause_sec in zip(script, pauses_sec, strict=True)
    ]
    return speak_lines(lines, lead_in_sec, synthesizer)


def _plan_call(call_id: str, kind: int, rng: np.random.Generator) -> CallPlan:
    """Kinds 0 to 5 hold one of everything; above, the remainders alone decide."""
    is_one_channel = kind % 3 == 1
    wav_format: RecordingFormat = "wav_pcm16" if kind % 2 else "wav_mulaw"
    return CallPlan(
        call_id=call_id,
        domain=list(OFFERS)[kind // len(INTENTS) % len(OFFERS)],
        intent=INTENTS[kind % len(INTENTS)],
        agent_channel=None if is_one_channel else int(rng.integers(2)),
        recording_format="flac" if kind in {2, 4} else wav_format,
        has_turns=kind != 1 and kind % 6 != 5,  # noqa: PLR2004
        is_broken=kind == 0,
    )


def _draw_customer_voice(rng: np.random.Generator) -> Voice:
    return Voice(
        voice=f"cmn+{rng.choice(CUSTOMER_VARIANTS)}",
        rate_wpm=int(rng.integers(*CUSTOMER_RATES_WPM)),
        pitch=int(rng.integers(*CUSTOMER_PITCHES)),
    )
