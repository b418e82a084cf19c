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
import pyarrow.parquet as pq
from numpy.typing import NDArray

from msmtfn.calls.manifest import TURN
from msmtfn.calls.rounds import Speaker, Turn
from msmtfn.corpora.demo_scripts import OFFERS, Line, write_script
from msmtfn.corpora.speech import Synthesizer, trim_silence
from msmtfn.corpora.telephone import SAMPLE_RATE, RecordingFormat, telephone_band, write_recording
from msmtfn.labels import INTENTS

MANIFEST_SCHEMA: Final = pa.schema(
    [
        ("call_id", pa.string()),
        ("uri", pa.string()),
        ("started_at", pa.timestamp("us", tz="UTC")),
        ("domain", pa.string()),
        ("language", pa.string()),
        ("agent_id", pa.string()),
        ("customer_id", pa.string()),
        ("agent_channel", pa.int64()),
        ("turns", pa.list_(TURN)),
        ("intent", pa.string()),
        ("campaign", pa.string()),
    ]
)
"""The manifest's contract, and `campaign`, a column of the company's own that is passed through."""

MIN_CALLS: Final = 6  # the first six calls of a plan show every kind of recording
BROKEN_BYTES: Final = 30  # a WAV's header has 44 or more
OPENS_AT_UTC: Final = datetime.time(hour=1, tzinfo=datetime.UTC)  # 9 in the morning in China
OPEN_SEC: Final = 9 * 3600
NOISE_DB: Final = -60.0
LEVELS_DB: Final[dict[Speaker, tuple[float, float]]] = {"agent": (-23.0, -21.0), "customer": (-27.0, -23.0)}
RING_SEC: Final = (0.5, 1.2)  # before the first turn, and after the last
PAUSE_SEC: Final = (0.4, 1.0)  # between two turns


@dataclass(frozen=True, kw_only=True)
class Voice:
    """How one person sounds; the fields are those of `Synthesizer.speak`."""

    voice: str
    rate_wpm: int
    pitch: int


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
    _write_manifest(manifests / f"date={date.isoformat()}", rows)
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
    opens_at = datetime.datetime.combine(date, OPENS_AT_UTC)
    row = {
        "call_id": plan.call_id,
        "started_at": opens_at + datetime.timedelta(seconds=int(rng.integers(OPEN_SEC))),
        "domain": plan.domain,
        "language": "zh",
        "agent_id": agent_id,
        "customer_id": f"customer-{rng.integers(10_000):04d}",
        "agent_channel": plan.agent_channel,
        "turns": [asdict(turn) for turn in turns] if plan.has_turns else None,
        "intent": plan.intent,
        "campaign": f"{plan.domain}-{date:%Y-%m}",
    }
    return row, add_line_noise(_lay_out_channels(voice_tracks, plan.agent_channel), rng)


def speak_script(
    script: list[Line], voices: dict[Speaker, Voice], synthesizer: Synthesizer, rng: np.random.Generator
) -> tuple[list[Turn], NDArray[np.float32]]:
    """Speak the lines one after the other, with pauses between.

    Returns:
        The turns, and (2, S) at 8 kHz: the agent's voice alone, and the customer's.
    """
    speakers: tuple[Speaker, ...] = ("agent", "customer")
    levels_db = {speaker: rng.uniform(*LEVELS_DB[speaker]) for speaker in speakers}
    turns: list[Turn] = []
    pieces = [_silence(RING_SEC, rng)]
    for speaker, text in script:
        start = sum(piece.shape[1] for piece in pieces)
        speech = _speak_line(text, voices[speaker], levels_db[speaker], synthesizer)
        end = start + len(speech)
        turns.append(Turn(speaker=speaker, start_sec=start / SAMPLE_RATE, end_sec=end / SAMPLE_RATE, text=text))
        is_speaking = np.array([[name == speaker] for name in speakers], dtype=np.float32)
        pieces += [is_speaking * speech, _silence(PAUSE_SEC, rng)]
    pieces[-1] = _silence(RING_SEC, rng)
    return turns, np.concatenate(pieces, axis=1)


def add_line_noise(waveform: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Add white noise in the telephone band at `NOISE_DB` to each channel of a (C, S) waveform."""
    noise = rng.standard_normal(waveform.shape, dtype=np.float32)
    return waveform + np.stack([_set_level(telephone_band(channel, SAMPLE_RATE), NOISE_DB) for channel in noise])


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


def _speak_line(text: str, voice: Voice, level_db: float, synthesizer: Synthesizer) -> NDArray[np.float32]:
    speech = synthesizer.speak(text, **asdict(voice))
    return _set_level(telephone_band(trim_silence(speech), synthesizer.sample_rate), level_db)


def _set_level(waveform: NDArray[np.float32], level_db: float) -> NDArray[np.float32]:
    """Scale to a root mean square of `level_db`, in dB of full scale."""
    root_mean_square: np.float32 = np.sqrt(np.mean(np.square(waveform)))
    gain = np.float32(10 ** (level_db / 20)) / root_mean_square
    return waveform * gain


def _silence(range_sec: tuple[float, float], rng: np.random.Generator) -> NDArray[np.float32]:
    return np.zeros((2, round(rng.uniform(*range_sec) * SAMPLE_RATE)), dtype=np.float32)


def _lay_out_channels(voice_tracks: NDArray[np.float32], agent_channel: int | None) -> NDArray[np.float32]:
    """From (agent, customer) to the recording's channels: mixed in one, or the agent's at `agent_channel`."""
    if agent_channel is None:
        return voice_tracks[:1] + voice_tracks[1:]
    return voice_tracks if agent_channel == 0 else voice_tracks[::-1]


def _write_manifest(folder: Path, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA), folder / "calls.parquet")
