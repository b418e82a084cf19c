from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from ray.data import DataContext

from msmtfn.evaluation.labelled import LabelledSplit, read_labelled
from msmtfn.features.prepare import PrepareConfig
from msmtfn.model.checkpoint import Model, load_model
from msmtfn.training.datasets import embed_split, open_calls, prepare_split, prepared_folder, read_calls

NUM_CALLS, SAMPLE_RATE = 96, 8_000


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Model:
    return load_model(tiny_model)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> LabelledSplit:
    """Labelled calls of 0.1 to 3 seconds, the last of which has no recording."""
    root, date = tmp_path_factory.mktemp("manifests"), dt.date(2026, 3, 2)
    folder = root / f"date={date}"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(NUM_CALLS - 1):
        sound = rng.normal(scale=0.1, size=int(SAMPLE_RATE * rng.uniform(0.1, 3)))
        soundfile.write(folder / f"{number}.wav", sound, SAMPLE_RATE)
    rows = [
        {"call_id": f"c{number}", "uri": str(folder / f"{number}.wav"), "intent": "ABCDE"[number % 5]}
        for number in range(NUM_CALLS)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "calls.parquet")
    return read_labelled("training", str(root), [date])


@pytest.fixture
def ordered_engine(ray_address: str) -> Iterator[None]:
    """Ray Data with preserved order, as training configures it."""
    options = DataContext.get_current().execution_options
    before, options.preserve_order = options.preserve_order, True
    yield
    options.preserve_order = before


def test_prepared_and_embedded_calls_are_read_in_the_order_of_the_seed(
    ordered_engine: None, split: LabelledSplit, model: Model, tmp_path: Path
) -> None:
    ready = prepare_split(split, model, PrepareConfig(), 7, str(tmp_path))
    expected = [f"c{number}" for number in np.random.default_rng(7).permutation(NUM_CALLS)]
    assert call_ids(prepared_folder(str(tmp_path), "training")) == expected
    expected.remove(f"c{NUM_CALLS - 1}")
    assert ready.rows["call_id"].to_pylist() == expected
    folder = embed_split(split, model, str(tmp_path), with_text=True, num_actors=2, threads=1, gpus=0)
    assert call_ids(folder) == expected
    batches = read_calls(folder).iter_batches(batch_size=7, batch_format="numpy")
    assert [call_id for batch in batches for call_id in batch["call_id"]] == expected


def call_ids(folder: str) -> list[str]:
    ids: list[str] = open_calls(folder).to_table(columns=["call_id"])["call_id"].to_pylist()
    return ids
