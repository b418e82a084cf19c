from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from msmtfn.corpora import demo_model, is_demo, replace_demo
from msmtfn.corpora.demo import write_demo_day
from msmtfn.corpora.simulation.corpus import make_call
from msmtfn.corpora.simulation.plan import SimulationConfig, plan_corpus
from msmtfn.model.checkpoint import is_trained, load_model

pytest.importorskip("espeakng_loader")

DATE = datetime.date(2026, 3, 2)
MANIFEST = "date=2026-03-02/calls.parquet"
NUM_CALLS = 14


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo_day(tmp_path_factory.mktemp("demo"), DATE, num_calls=NUM_CALLS, seed=3)


def rows_of(day: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.ParquetFile(day / MANIFEST).read().to_pylist()
    return rows


def is_broken(path: Path) -> bool:
    try:
        soundfile.info(path)
    except soundfile.LibsndfileError:
        return True
    return False


def test_the_manifest_has_the_columns_and_types_of_the_contract(day: Path) -> None:
    turn = pa.struct([("speaker", "string"), ("start_sec", "double"), ("end_sec", "double"), ("text", "string")])
    schema = pq.read_schema(day / MANIFEST)
    assert schema.field("call_id").type == pa.string()
    assert schema.field("started_at").type == pa.timestamp("us", "UTC")
    assert schema.field("agent_channel").type == pa.int64()
    assert schema.field("turns").type == pa.list_(turn)
    assert schema.names[-2:] == ["intent", "campaign"]


def test_every_call_has_a_unique_id_and_a_recording_below_the_root(day: Path) -> None:
    rows = rows_of(day)
    assert len({row["call_id"] for row in rows}) == len({row["uri"] for row in rows}) == NUM_CALLS
    assert all(row["uri"].startswith("recordings/") and (day / row["uri"]).is_file() for row in rows)


def test_calls_start_within_the_day(day: Path) -> None:
    assert all(row["started_at"].date() == DATE for row in rows_of(day))


def test_one_recording_is_broken_and_one_call_has_no_turns(day: Path) -> None:
    rows = rows_of(day)
    assert sum(is_broken(day / row["uri"]) for row in rows) == 1
    assert [number for number, row in enumerate(rows, start=1) if row["turns"] is None] == [12]


def test_a_day_without_transcripts_has_the_same_calls_in_one_and_two_channels(day: Path, tmp_path: Path) -> None:
    heard = write_demo_day(tmp_path, DATE, num_calls=NUM_CALLS, seed=3, with_transcripts=False)
    rows = rows_of(heard)
    assert {row["turns"] for row in rows} == {None}
    assert {row["agent_channel"] for row in rows} == {None, 0, 1}
    assert [row | {"turns": None} for row in rows_of(day)] == rows
    assert all((heard / row["uri"]).read_bytes() == (day / row["uri"]).read_bytes() for row in rows)


def test_the_calls_equal_those_of_the_simulation(day: Path, tmp_path: Path) -> None:
    plan = plan_corpus(SimulationConfig(calls=NUM_CALLS, seed=3))[0]
    call = make_call(plan, tmp_path)
    row = rows_of(day)[0]
    assert (row["intent"], row["turns"]) == (call.manifest["intent"], call.manifest["turns"])
    assert (day / row["uri"]).read_bytes() == (tmp_path / plan.split / call.manifest["uri"]).read_bytes()


def test_too_few_calls_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="calls is 5; it must be at least 10"):
        write_demo_day(tmp_path, DATE, num_calls=5)


def test_the_model_that_comes_with_the_package_is_small_and_trained() -> None:
    folder = demo_model()
    encoders = [load_model(folder).network.audio_encoder, load_model(folder).network.text_encoder]
    assert is_trained(folder)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 10_000_000
    assert all(sum(weight.numel() for weight in encoder.parameters()) < 3_000_000 for encoder in encoders)


def test_the_name_demo_means_the_model_in_the_package_unless_a_models_folder_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()  # of something else
    assert (is_demo("demo"), replace_demo("demo")) == (True, str(demo_model()))
    assert (is_demo("./demo"), replace_demo("./demo")) == (False, "./demo")
    (tmp_path / "demo" / "config.json").touch()
    assert (is_demo("demo"), replace_demo("demo")) == (False, "demo")
