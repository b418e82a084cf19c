from __future__ import annotations

import datetime
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from msmtfn.calls.audio import AudioConfig, Recording, decode_recording
from msmtfn.calls.checks import check_call, parse_turns
from msmtfn.calls.manifest import iter_calls, open_manifest
from msmtfn.calls.rounds import RoundsConfig, find_rounds
from msmtfn.corpora.simulation.ceilings import compute_ceilings
from msmtfn.corpora.simulation.corpus import CorpusError, make_call, write_corpus
from msmtfn.corpora.simulation.latents import RoundLatents
from msmtfn.corpora.simulation.plan import SPLITS, SimulationConfig, plan_corpus
from msmtfn.errors import UsageError

pytest.importorskip("espeakng_loader")

CONFIG = SimulationConfig(calls=24, split=(12, 6, 6))
SMALL = SimulationConfig(calls=10, brief=True)


def ignore_progress(_done: int) -> None:
    """Do nothing: a stand-in for a progress bar."""


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, CONFIG, num_workers=1, report=ignore_progress)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    write_corpus(folder, SMALL, num_workers=1, report=ignore_progress)
    return folder


@pytest.fixture(scope="module")
def calls(corpus: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of every split as the scoring job reads them."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for split in SPLITS:
        days = sorted(path.name.removeprefix("date=") for path in (corpus / split).glob("date=*"))
        manifests = [open_manifest(str(corpus / split), datetime.date.fromisoformat(day)) for day in days]
        rows[split] = [row for manifest in manifests for batch in iter_calls(manifest) for row in batch.to_pylist()]
    return rows


@pytest.fixture(scope="module")
def latents(corpus: Path) -> dict[str, dict[str, Any]]:
    return {row["call_id"]: row for row in pq.read_table(corpus / "latents.parquet").to_pylist()}


def decode(corpus: Path, split: str, row: dict[str, Any]) -> Recording:
    return decode_recording((corpus / split / row["uri"]).read_bytes(), sample_rate=8_000, config=AudioConfig())


def test_every_split_is_a_root_of_manifests_without_a_bad_row(calls: dict[str, list[dict[str, Any]]]) -> None:
    assert {split: len(rows) for split, rows in calls.items()} == {"training": 12, "validation": 6, "test": 6}
    for rows in calls.values():
        for row in rows:
            check_call(row["uri"], row["intent"], row["agent_channel"], row["row_error"])
            assert parse_turns(row["turns"])


def test_the_manifest_does_not_reveal_the_latents(corpus: Path) -> None:
    names = pq.read_schema(next((corpus / "test").glob("date=*/*.parquet"))).names
    assert names == [
        *("call_id", "uri", "started_at", "domain", "language", "agent_id", "customer_id", "agent_channel"),
        *("turns", "intent"),
    ]


def test_every_recording_decodes_and_has_the_planned_number_of_rounds(
    corpus: Path, calls: dict[str, list[dict[str, Any]]], latents: dict[str, dict[str, Any]]
) -> None:
    for split, rows in calls.items():
        for row in rows:
            recording = decode(corpus, split, row)
            rounds = find_rounds(
                recording.channels, 8_000, parse_turns(row["turns"]), row["agent_channel"], RoundsConfig()
            )
            assert len(rounds) == len(latents[row["call_id"]]["rounds"])
            assert max(each.end_sec - each.start_sec for each in rounds) < 25
            assert recording.duration_sec == pytest.approx(latents[row["call_id"]]["duration_sec"])


def test_a_call_lasts_about_a_minute(latents: dict[str, dict[str, Any]]) -> None:
    assert 50 < np.mean([row["duration_sec"] for row in latents.values()]) < 75


def test_recordings_are_8_khz_mu_law_and_pcm_with_one_and_two_channels(corpus: Path) -> None:
    infos = [soundfile.info(path) for path in corpus.rglob("*.wav")]
    assert {(info.format, info.samplerate) for info in infos} == {("WAV", 8_000)}
    assert {(info.subtype, info.channels) for info in infos} == {(s, c) for s in ("ULAW", "PCM_16") for c in (1, 2)}


def test_no_recording_is_clipped(corpus: Path) -> None:
    assert all(np.mean(np.abs(soundfile.read(path)[0]) > 0.97) < 1e-4 for path in corpus.rglob("*.wav"))


def test_about_10_percent_of_the_recognised_characters_are_wrong(
    calls: dict[str, list[dict[str, Any]]], latents: dict[str, dict[str, Any]]
) -> None:
    wrong = []
    for row in (row for rows in calls.values() for row in rows):
        rounds = latents[row["call_id"]]["rounds"]
        true = "".join(texts["agent_text"] + texts["customer_text"] for texts in rounds)
        recognised = "".join(turn["text"] for turn in row["turns"])
        wrong += [a != b for a, b in zip(true, recognised, strict=True) if a not in "，。"]
    assert np.mean(wrong) == pytest.approx(0.1, abs=0.015)


def test_the_latents_equal_those_of_the_plan(latents: dict[str, dict[str, Any]]) -> None:
    for plan in plan_corpus(CONFIG):
        row = latents[plan.call_id]
        assert (row["split"], row["intent"], row["evidence"]) == (
            plan.split,
            plan.latents.intent,
            plan.latents.evidence,
        )
        assert tuple(RoundLatents(each["words"], each["sound"]) for each in row["rounds"]) == plan.latents.rounds
        assert row["customer_id"] == plan.customer.customer_id


def test_the_ceilings_are_written_with_the_corpus(corpus: Path) -> None:
    ceilings = json.loads((corpus / "ceilings.json").read_text())
    assert ceilings["best_possible"] == compute_ceilings()
    assert set(ceilings["best_reader_of"]) == set(SPLITS)


def test_success_holds_the_counts_of_the_corpus(corpus: Path, calls: dict[str, list[dict[str, Any]]]) -> None:
    success = json.loads((corpus / "_SUCCESS").read_text())
    assert success["calls"] == 24
    assert success["splits"]["test"]["intents"] == dict(sorted(Counter(row["intent"] for row in calls["test"]).items()))
    assert success["fresh_test_turns"] > 0.5


def test_the_same_options_give_the_same_bytes_with_any_number_of_workers(small: Path, tmp_path: Path) -> None:
    reported: list[int] = []
    write_corpus(tmp_path, SMALL, num_workers=2, report=reported.append)
    assert bytes_of(tmp_path) == bytes_of(small)
    assert reported == list(range(1, 11))


def test_a_call_made_alone_equals_the_call_in_the_corpus(tmp_path: Path, corpus: Path) -> None:
    plan = plan_corpus(CONFIG)[17]
    call = make_call(plan, tmp_path)
    uri = Path(plan.split) / call.manifest["uri"]
    assert (tmp_path / uri).read_bytes() == (corpus / uri).read_bytes()


def test_a_different_seed_gives_a_different_corpus(tmp_path: Path) -> None:
    first, other = (make_call(plan_corpus(SimulationConfig(calls=10, seed=seed))[0], tmp_path) for seed in (0, 1))
    assert first.manifest["turns"] != other.manifest["turns"]


def test_a_brief_call_is_about_half_as_long(small: Path, latents: dict[str, dict[str, Any]]) -> None:
    brief = pq.read_table(small / "latents.parquet").to_pylist()
    sec_per_round = [
        sum(row["duration_sec"] for row in rows) / sum(len(row["rounds"]) for row in rows)
        for rows in (brief, list(latents.values()))
    ]
    assert 0.4 < sec_per_round[0] / sec_per_round[1] < 0.7


def test_an_existing_corpus_is_not_made_again(small: Path) -> None:
    reported: list[int] = []
    success = write_corpus(small, SMALL, num_workers=1, report=reported.append)
    assert reported == []
    assert success == json.loads((small / "_SUCCESS").read_text())


def test_an_unfinished_corpus_is_completed(small: Path, tmp_path: Path) -> None:
    complete = bytes_of(small)
    recording = "training/recordings/2026-01-05/20260105-0001.wav"
    (tmp_path / recording).parent.mkdir(parents=True)
    (tmp_path / recording).write_bytes(complete[recording][:20])
    (tmp_path / "options.json").write_bytes(complete["options.json"])

    write_corpus(tmp_path, SMALL, num_workers=1, report=ignore_progress)
    assert bytes_of(tmp_path) == complete


def test_a_folder_with_other_content_is_rejected(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    for folder in (tmp_path, corpus):
        with pytest.raises(UsageError, match="holds something other than a corpus with these options"):
            write_corpus(folder, SMALL, num_workers=1, report=ignore_progress)


def test_the_error_names_the_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(CorpusError, match=r"cannot be written to .*/file/corpus"):
        write_corpus(tmp_path / "file" / "corpus", SMALL, num_workers=1, report=ignore_progress)


def test_the_latents_file_has_its_schema(corpus: Path) -> None:
    schema = pq.read_schema(corpus / "latents.parquet")
    assert schema.field("is_telling").type == pa.list_(pa.bool_())
    assert {"words", "sound", "delay_sec", "customer_text"} <= {
        each.name for each in schema.field("rounds").type.value_type
    }
