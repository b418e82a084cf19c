from __future__ import annotations

import datetime
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from numpy.typing import NDArray

from msmtfn.corpora.demo import plan_day, write_demo_day
from msmtfn.corpora.demo_scripts import NUM_ROUNDS, OFFERS, write_script
from msmtfn.labels import INTENTS

pytest.importorskip("espeakng_loader")

DATE = datetime.date(2026, 3, 2)
MANIFEST = "date=2026-03-02/calls.parquet"


@dataclass(frozen=True)
class DemoDay:
    root: Path
    rows: list[dict[str, Any]]

    def recordings(self) -> list[tuple[dict[str, Any], NDArray[np.float64]]]:
        """The rows whose recording is whole, with its (channels, samples)."""
        return [(row, read(self.root / row["uri"])) for row in self.rows if not is_broken(self.root / row["uri"])]


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> DemoDay:
    root = write_demo_day(tmp_path_factory.mktemp("demo"), DATE)
    return DemoDay(root, pq.ParquetFile(root / MANIFEST).read().to_pylist())


def read(path: Path) -> NDArray[np.float64]:
    samples: NDArray[np.float64] = soundfile.read(path, always_2d=True)[0]
    return samples.T


def is_broken(path: Path) -> bool:
    try:
        soundfile.info(path)
    except soundfile.LibsndfileError:
        return True
    return False


def level_db(samples: NDArray[np.float64]) -> float:
    return float(10 * np.log10(np.mean(samples**2) + 1e-20))


def cut(samples: NDArray[np.float64], start_sec: float, end_sec: float) -> NDArray[np.float64]:
    return samples[..., round(start_sec * 8_000) : round(end_sec * 8_000)]


def gaps(turns: list[dict[str, Any]], duration_sec: float) -> list[tuple[float, float]]:
    """Where nobody speaks, less 30 ms at each end for the ringing of the line's filter."""
    ends = [0.0, *(turn["end_sec"] for turn in turns)]
    starts = [*(turn["start_sec"] for turn in turns), duration_sec]
    return [(end + 0.03, start - 0.03) for end, start in zip(ends, starts, strict=True)]


def test_the_manifest_has_the_columns_and_types_of_the_contract(day: DemoDay) -> None:
    turn = pa.struct([("speaker", "string"), ("start_sec", "double"), ("end_sec", "double"), ("text", "string")])
    expected = pa.schema(
        [
            ("call_id", "string"),
            ("uri", "string"),
            ("started_at", pa.timestamp("us", "UTC")),
            ("domain", "string"),
            ("language", "string"),
            ("agent_id", "string"),
            ("customer_id", "string"),
            ("agent_channel", "int64"),
            ("turns", pa.list_(turn)),
            ("intent", "string"),
            ("campaign", "string"),
        ]
    )
    assert pq.read_schema(day.root / MANIFEST).equals(expected)


def test_the_root_is_the_manifests_folder(day: DemoDay) -> None:
    assert day.root.name == "manifests"
    assert sorted(path.name for path in day.root.iterdir()) == ["date=2026-03-02", "recordings"]


def test_every_call_has_an_id_of_its_own_and_a_recording_below_the_root(day: DemoDay) -> None:
    assert len({row["call_id"] for row in day.rows}) == len(day.rows) == 24
    assert len({row["uri"] for row in day.rows}) == 24
    assert all(row["uri"].startswith("recordings/") and (day.root / row["uri"]).is_file() for row in day.rows)


def test_all_intents_and_domains_occur(day: DemoDay) -> None:
    assert Counter(row["intent"] for row in day.rows) == {"A": 5, "B": 5, "C": 5, "D": 5, "E": 4}
    assert {row["domain"] for row in day.rows} == {"dental", "beauty", "courses"}


def test_calls_start_within_the_day(day: DemoDay) -> None:
    assert all(row["started_at"].date() == DATE for row in day.rows)


def test_exactly_one_recording_is_broken_and_named_like_the_others(day: DemoDay) -> None:
    (broken,) = (row for row in day.rows if is_broken(day.root / row["uri"]))

    assert broken["uri"] == f"recordings/2026-03-02/{broken['call_id']}.wav"
    assert (day.root / broken["uri"]).read_bytes().startswith(b"RIFF")


def test_recordings_are_8_khz_in_three_formats(day: DemoDay) -> None:
    infos = [soundfile.info(day.root / row["uri"]) for row, _ in day.recordings()]

    assert {info.samplerate for info in infos} == {8_000}
    formats = Counter((info.format, info.subtype) for info in infos)
    assert formats[("FLAC", "PCM_16")] == 2
    assert formats[("WAV", "ULAW")] >= 8
    assert formats[("WAV", "PCM_16")] >= 8


def test_a_third_has_one_channel_and_the_rest_names_the_agents(day: DemoDay) -> None:
    num_channels = Counter(len(samples) for _, samples in day.recordings())

    assert num_channels == {1: 8, 2: 15}
    assert all((row["agent_channel"] is None) == (len(samples) == 1) for row, samples in day.recordings())
    assert {row["agent_channel"] for row in day.rows} == {None, 0, 1}


def test_one_one_channel_call_and_some_others_have_no_turns(day: DemoDay) -> None:
    without = Counter(row["agent_channel"] is None for row in day.rows if row["turns"] is None)

    assert without[True] == 1
    assert 2 <= without[False] <= 6


def test_a_call_lasts_about_15_to_35_seconds(day: DemoDay) -> None:
    durations_sec = [samples.shape[1] / 8_000 for _, samples in day.recordings()]

    assert min(durations_sec) > 12
    assert max(durations_sec) < 40


def test_turns_alternate_in_order_and_end_within_the_recording(day: DemoDay) -> None:
    for row, samples in day.recordings():
        turns = row["turns"] or []
        times = [time for turn in turns for time in (turn["start_sec"], turn["end_sec"])]
        assert times == sorted(times)
        assert all(0 < time < samples.shape[1] / 8_000 for time in times)
        assert [turn["speaker"] for turn in turns] == ["agent", "customer"] * (len(turns) // 2)
        assert len(turns) in {0, 4, 6, 8}


def test_speech_stands_where_the_turns_are_and_near_silence_between(day: DemoDay) -> None:
    for row, samples in day.recordings():
        turns = row["turns"] or []
        speech_db = [level_db(cut(samples, turn["start_sec"], turn["end_sec"])) for turn in turns]
        silence_db = [level_db(cut(samples, *gap)) for gap in gaps(turns, samples.shape[1] / 8_000) if turns]
        assert all(level > -33 for level in speech_db)
        assert all(level < -50 for level in silence_db)


def test_a_turn_begins_and_ends_with_sound(day: DemoDay) -> None:
    for row, samples in day.recordings():
        for turn in row["turns"] or []:
            first = cut(samples, turn["start_sec"], turn["start_sec"] + 0.15)
            last = cut(samples, turn["end_sec"] - 0.15, turn["end_sec"])
            assert min(level_db(first), level_db(last)) > -50


def test_each_speaker_is_on_the_channel_of_the_manifest(day: DemoDay) -> None:
    for row, samples in day.recordings():
        for turn in row["turns"] or [] if len(samples) == 2 else []:
            channel = row["agent_channel"] if turn["speaker"] == "agent" else 1 - row["agent_channel"]
            spoken = cut(samples, turn["start_sec"], turn["end_sec"])
            assert level_db(spoken[channel]) > level_db(spoken[1 - channel]) + 20


def test_the_line_is_never_digitally_silent(day: DemoDay) -> None:
    for _, samples in day.recordings():
        assert -70 < level_db(samples[:, :2_400]) < -50


def test_nothing_is_clipped(day: DemoDay) -> None:
    assert all(np.mean(np.abs(samples) > 0.97) < 1e-3 for _, samples in day.recordings())


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write_demo_day(tmp_path / name, DATE, num_calls=6, seed=3) for name in ("first", "second"))

    files = [path.relative_to(first) for path in sorted(first.rglob("*")) if path.is_file()]
    assert len(files) == 7
    assert all((first / file).read_bytes() == (second / file).read_bytes() for file in files)


def test_two_seeds_give_two_days(tmp_path: Path) -> None:
    first, second = (write_demo_day(tmp_path / str(seed), DATE, num_calls=6, seed=seed) for seed in (1, 2))

    tables = [pq.ParquetFile(root / MANIFEST).read() for root in (first, second)]
    assert tables[0].column("call_id") == tables[1].column("call_id")
    assert tables[0].column("turns") != tables[1].column("turns")


def test_six_calls_hold_every_kind_of_recording() -> None:
    plans = plan_day(DATE, num_calls=6, seed=0)

    assert sum(plan.is_broken for plan in plans) == 1
    assert {plan.recording_format for plan in plans} == {"wav_mulaw", "wav_pcm16", "flac"}
    assert {(plan.agent_channel is None, plan.has_turns) for plan in plans} == {
        (True, True),
        (True, False),
        (False, True),
        (False, False),
    }


def test_too_few_calls_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_calls is 5"):
        write_demo_day(tmp_path, DATE, num_calls=5)


@pytest.mark.parametrize("domain", OFFERS)
@pytest.mark.parametrize("intent", INTENTS)
def test_a_script_has_its_rounds_and_no_open_slot(domain: str, intent: str) -> None:
    for seed in range(20):
        script = write_script(domain, intent, np.random.default_rng(seed))
        assert len(script) / 2 in NUM_ROUNDS[intent]
        assert [speaker for speaker, _ in script] == ["agent", "customer"] * (len(script) // 2)
        assert not any(bracket in text for _, text in script for bracket in "{}")
