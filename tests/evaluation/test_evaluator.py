from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import soundfile as sf
import torch
from transformers import BertTokenizer

from msmtfn.calls.audio import AudioConfig
from msmtfn.corpora.manifests import CALLS, write_manifest
from msmtfn.errors import TrainingDataError
from msmtfn.evaluation.evaluator import (
    PREDICTIONS,
    Evaluation,
    evaluate_calls,
)
from msmtfn.evaluation.labelled import LabelledSplit, read_labelled
from msmtfn.evaluation.shuffling import Shuffle, shuffle_rounds
from msmtfn.features.prepare import PREPARED, PrepareConfig, Preparer
from msmtfn.inference.scorer import CallRounds, Scorer, ScorerConfig, split_calls
from msmtfn.labels import INTENTS, TASKS
from msmtfn.leads.schema import HEADS, LINEAGE, parts_schema
from msmtfn.model.calibration import Calibration
from msmtfn.model.checkpoint import Model
from msmtfn.model.network import MsmtFn

DATE = dt.date(2026, 3, 2)
RATE = 8000
LIMITS = PrepareConfig(audio=AudioConfig(max_duration_sec=10.0))
ON_CPU = ScorerConfig(device="cpu")
MODALITIES: list[Literal["audio", "text"]] = ["audio", "text"]


@pytest.fixture
def model(tiny_network: Callable[..., MsmtFn], tiny_tokenizer: BertTokenizer) -> Model:
    return Model(tiny_network(), tiny_tokenizer)


def labelled_calls(root: Path, number: int, **changes: dict[str, Any]) -> LabelledSplit:
    """Calls of two rounds with noise and different texts, labelled A, B, … E, A, …; `changes` replace fields by id."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(number):
        name = f"call{index}"
        sf.write(root / f"{name}.wav", 0.1 * rng.standard_normal(2 * RATE), RATE)
        texts = [" ".join(rng.choice(list("abcdefghij"), 3)) for _ in range(2)]
        turns = [
            {"speaker": speaker, "start_sec": 0.5 * step, "end_sec": 0.5 * step + 0.4, "text": texts[step // 2]}
            for step, speaker in enumerate(("agent", "customer") * 2)
        ]
        row = {"call_id": name, "uri": f"{name}.wav", "turns": turns, "intent": INTENTS[index % 5]}
        rows.append(row | changes.get(name, {}))
    write_manifest(root, DATE, rows, CALLS)
    return read_labelled("test", str(root), [DATE])


def evaluate(model: Model, split: LabelledSplit, shuffle: Shuffle = "none", seed: int = 0) -> Evaluation:
    return evaluate_calls(model, split, LIMITS, ON_CPU, shuffle=shuffle, seed=seed)


def prepared(model: Model, split: LabelledSplit) -> list[pa.Table]:
    """The prepared calls in batches of two."""
    preparer = Preparer(LIMITS, model.processor, split.root)
    return [preparer.prepare_batch(split.rows.slice(start, 2), ["call_id"]) for start in range(0, len(split.rows), 2)]


def rounds_of(batches: list[pa.Table]) -> tuple[list[bytes], list[bytes]]:
    """The audio and the tokens of all rounds in order."""
    calls: list[CallRounds] = []
    for batch in batches:
        calls += split_calls(batch)
    audio = [each.tobytes() for call in calls for each in call.samples]
    return audio, [each.tobytes() for call in calls for each in call.tokens]


def certain(labels: str, predicted: str) -> Evaluation:
    """Calls a, b, c … with these labels, and with a probability of 1 for these intents; "-" is a reject."""
    rows: list[dict[str, Any]] = []
    for call_id, intent, guess in zip("abcdefg", labels, predicted, strict=False):
        row: dict[str, Any] = {"call_id": call_id, "intent": intent, "status": "rejected", "error_code": "audio_empty"}
        if guess != "-":
            row |= {"status": "scored", "error_code": None, "intent_predicted": guess}
            for prefix in ("", "heads_"):
                row |= {f"{prefix}{task}": _certain_of(guess, classes) for task, classes in TASKS.items()}
        rows.append(row)
    parts = parts_schema([pa.field("call_id", pa.string()), pa.field("intent", pa.string())])
    return Evaluation("manifests", pa.Table.from_pylist(rows, pa.schema([*parts, *HEADS])))


def _certain_of(guess: str, classes: tuple[str, ...]) -> dict[str, float]:
    return {name: float(guess in name) for name in classes}


# ---- calls, labels and probabilities


def test_calls_have_labels_and_probabilities_in_the_order_of_the_manifest(model: Model, tmp_path: Path) -> None:
    found = evaluate(model, labelled_calls(tmp_path, 18))  # more than one batch
    assert found.call_ids == [f"call{index}" for index in range(18)]
    assert found.intents.tolist() == [index % 5 for index in range(18)]
    assert {task: each.shape for task, each in found.probabilities.items()} == {
        "five": (18, 5),
        "four": (18, 4),
        "three": (18, 3),
        "two": (18, 2),
    }
    for each in found.probabilities.values():
        np.testing.assert_allclose(each.sum(axis=1), 1, atol=1e-5)
    assert found.rejected == {}


def test_the_heads_stay_available_as_the_network_gives_them(model: Model, tmp_path: Path) -> None:
    split = labelled_calls(tmp_path, 3)
    calibrated = replace(model, calibration=Calibration(temperature=3.0))
    found, plain = evaluate(calibrated, split), evaluate(model, split)
    calls = list(split_calls(pa.concat_tables(prepared(model, split))))
    expected = Scorer(model.network, ON_CPU).probabilities(calls)
    for task in TASKS:
        np.testing.assert_allclose(found.heads[task], expected[task], atol=1e-5)
    assert found.probabilities["five"].max() < plain.probabilities["five"].max()
    assert found.head_metrics()["two"].log_loss == pytest.approx(plain.head_metrics()["two"].log_loss)


def test_the_metrics_agree_with_counts_by_hand(model: Model, tmp_path: Path) -> None:
    found = evaluate(model, labelled_calls(tmp_path, 7))
    predicted = found.probabilities["five"].argmax(axis=1).tolist()
    hits = [guess == index % 5 for index, guess in enumerate(predicted)]
    five = found.metrics()["five"]
    assert five.accuracy == pytest.approx(sum(hits) / 7)
    assert np.sum(five.confusion) == 7
    assert np.trace(five.confusion) == sum(hits)


def test_metrics_of_known_predictions() -> None:
    found = certain("ABCDA", "ACCE-")
    accuracy = {task: each.accuracy for task, each in found.metrics().items()}
    assert accuracy == {"five": 0.5, "four": 0.75, "three": 1.0, "two": 1.0}
    assert found.metrics()["five"].calibration_error == pytest.approx(
        0.5, abs=1e-5
    )  # fully confident, and correct half of the time


def test_the_table_has_labels_probabilities_and_predictions() -> None:
    table = certain("ADA", "BD-").as_table()
    assert table.schema == PREDICTIONS
    assert table.to_pylist()[0] == {
        "call_id": "a",
        "intent": "A",
        "five": {"A": 0, "B": 1, "C": 0, "D": 0, "E": 0},
        "four": {"A": 0, "B": 1, "C": 0, "DE": 0},
        "three": {"A": 0, "BC": 1, "DE": 0},
        "two": {"ABC": 1, "DE": 0},
        "intent_predicted": "B",
        "prediction_set": None,
        "heads_five": {"A": 0, "B": 1, "C": 0, "D": 0, "E": 0},
        "heads_four": {"A": 0, "B": 1, "C": 0, "DE": 0},
        "heads_three": {"A": 0, "BC": 1, "DE": 0},
        "heads_two": {"ABC": 1, "DE": 0},
    }
    assert (table["intent"][1].as_py(), table["intent_predicted"][1].as_py()) == ("D", "D")


def test_the_progress_is_reported_after_every_batch(model: Model, tmp_path: Path) -> None:
    reported: list[tuple[str, int, int]] = []
    split = labelled_calls(tmp_path, 18)
    evaluate_calls(model, split, LIMITS, ON_CPU, report=lambda *progress: reported.append(progress))
    assert reported == [("prepared", 16, 18), ("scored", 16, 18), ("prepared", 18, 18), ("scored", 18, 18)]


# ---- rejects


def test_calls_that_cannot_be_prepared_are_counted_by_reason(
    model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone, no_channel = {"uri": "gone.wav"}, {"agent_channel": 7}
    split = labelled_calls(tmp_path, 5, call0=gone, call2=gone, call3=no_channel)
    found = evaluate(model, split)
    assert found.rejected == {"audio_not_found": 2, "bad_row": 1}
    assert found.call_ids == ["call1", "call4"]
    assert found.intents.tolist() == [1, 4]
    assert "3 of 5 calls cannot be evaluated" in caplog.text


def test_calls_of_which_none_can_be_scored_are_an_error(model: Model, tmp_path: Path) -> None:
    split = labelled_calls(tmp_path, 1, call0={"uri": "gone.wav"})
    with pytest.raises(TrainingDataError, match=r"none of the 1 calls .* \{'audio_not_found': 1\}"):
        evaluate(model, split).metrics()


# ---- in this process and on the cluster


@pytest.mark.usefixtures("ray_address")
def test_the_cluster_gives_the_same_table_as_this_process(model: Model, tmp_path: Path) -> None:
    split = labelled_calls(tmp_path, 7, call3={"uri": "gone.wav"})
    here = evaluate(model, split)
    there = evaluate_calls(model, split, LIMITS, ON_CPU, work=str(tmp_path / "work"))
    assert there.rejected == here.rejected == {"audio_not_found": 1}
    assert there.calls.drop_columns(LINEAGE.names).schema == here.calls.drop_columns(LINEAGE.names).schema
    assert there.call_ids == here.call_ids
    assert there.calls["error_detail"].to_pylist() == here.calls["error_detail"].to_pylist()
    for task, probabilities in here.probabilities.items():
        np.testing.assert_allclose(there.probabilities[task], probabilities, atol=1e-5)


def test_a_modality_cannot_be_shuffled_on_the_cluster(model: Model, tmp_path: Path) -> None:
    split = labelled_calls(tmp_path, 2)
    with pytest.raises(ValueError, match="shuffling takes all rounds in this process"):
        evaluate_calls(model, split, LIMITS, ON_CPU, work="work", shuffle="text")


# ---- shuffling


@pytest.mark.parametrize("modality", MODALITIES)
def test_every_round_receives_one_modality_of_another_round_and_keeps_the_other(
    model: Model, tmp_path: Path, modality: Literal["audio", "text"]
) -> None:
    split = labelled_calls(tmp_path, 5, call3={"uri": "gone.wav"})
    before = prepared(model, split)
    after = list(shuffle_rounds(before, modality, seed=0))
    old, new = rounds_of(before), rounds_of(after)
    changed, kept = (0, 1) if modality == "audio" else (1, 0)
    assert new[kept] == old[kept]
    assert sorted(new[changed]) == sorted(old[changed])
    assert len(set(old[changed])) == 8  # all rounds differ, so the next line means something
    assert all(before != after for before, after in zip(old[changed], new[changed], strict=True))


@pytest.mark.parametrize("modality", MODALITIES)
def test_shuffling_leaves_all_other_columns_unchanged(
    model: Model, tmp_path: Path, modality: Literal["audio", "text"]
) -> None:
    before = prepared(model, labelled_calls(tmp_path, 3, call1={"uri": "gone.wav"}))
    changed = {"audio": {"samples", "round_samples"}, "text": {"tokens", "round_tokens"}}[modality]
    for old, new in zip(before, shuffle_rounds(before, modality, seed=0), strict=True):
        assert new.schema == old.schema == pa.schema([pa.field("call_id", pa.string()), *PREPARED])
        kept = [name for name in old.schema.names if name not in changed]
        assert new.select(kept).equals(old.select(kept))
        assert pc.list_value_length(new["round_samples"]).equals(pc.list_value_length(old["round_samples"]))


def test_the_evaluated_model_is_not_changed(model: Model, tmp_path: Path) -> None:
    before = {name: weight.clone() for name, weight in model.network.state_dict().items()}
    evaluate(model, labelled_calls(tmp_path, 2))
    after = model.network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


@pytest.mark.parametrize("shuffle", MODALITIES)
def test_shuffling_a_modality_changes_the_predictions(
    model: Model, tmp_path: Path, shuffle: Literal["audio", "text"]
) -> None:
    split = labelled_calls(tmp_path, 6, call5={"uri": "gone.wav"})
    plain, shuffled = evaluate(model, split), evaluate(model, split, shuffle)
    assert shuffled.call_ids == plain.call_ids
    assert shuffled.intents.tolist() == plain.intents.tolist()
    assert shuffled.rejected == plain.rejected == {"audio_not_found": 1}
    assert not np.array_equal(shuffled.probabilities["five"], plain.probabilities["five"])


def test_the_shuffling_depends_on_the_seed(model: Model, tmp_path: Path) -> None:
    batches = prepared(model, labelled_calls(tmp_path, 4))
    first, again, other = (rounds_of(list(shuffle_rounds(batches, "audio", seed)))[0] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_single_round_cannot_be_shuffled(model: Model, tmp_path: Path) -> None:
    split = labelled_calls(tmp_path, 1, call0={"turns": None})  # one channel without turns, shorter than a window
    with pytest.raises(TrainingDataError, match="one round only"):
        evaluate(model, split, "audio")
