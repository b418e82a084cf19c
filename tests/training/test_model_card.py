from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
from typing import Any

import pyarrow as pa
import pytest
from huggingface_hub import ModelCard

from msmtfn.evaluation.labelled import LabelledSplit
from msmtfn.training.events import EpochDone
from msmtfn.training.model_card import write_card
from msmtfn.training.recipe import Recipe
from tests.conftest import make_tiny_mmml, make_tiny_network

DAYS = (dt.date(2026, 3, 2), dt.date(2026, 3, 9))
RECIPE = Recipe(learning_rate=0.002, seed=17)


def split_of(name: str, intents: str) -> LabelledSplit:
    return LabelledSplit(name, pa.table({"intent": list(intents)}), DAYS, "/manifests")


def epoch(number: int, validation_loss: float, accuracy_of_five: float, *, is_best: bool) -> EpochDone:
    accuracy = {"five": accuracy_of_five, "four": 0.25, "three": 0.5, "two": 0.875}
    return EpochDone(number, 1.0, validation_loss, accuracy, 10.0, 60.0, is_best)


EPOCHS = [
    epoch(0, 2.0, 0.1, is_best=True),
    epoch(1, 1.234, 0.625, is_best=True),
    epoch(2, 1.5, 0.75, is_best=False),
]


@pytest.fixture(scope="module")
def card() -> str:
    splits = [split_of("training", "A" * 1200 + "CCE"), split_of("validation", "BBD")]
    return write_card(make_tiny_network(), RECIPE, splits, EPOCHS, 3, "It started from nothing.")


def test_the_card_has_the_calls_days_and_labels_of_both_splits(card: str) -> None:
    assert "| training | 1,203 | 2026-03-02 to 2026-03-09 | A 1,200, C 2, E 1 |" in card
    assert "| validation | 3 | 2026-03-02 to 2026-03-09 | B 2, D 1 |" in card


def test_the_card_has_the_metrics_of_the_best_epoch_only(card: str) -> None:
    assert "The best of 3 epochs was number 1: loss 1.234." in card
    assert "| five | 62.5 |\n| four | 25.0 |\n| three | 50.0 |\n| two | 87.5 |" in card


def test_the_card_has_all_settings_of_the_network(card: str) -> None:
    written = json.loads(card.partition("## Network")[2].partition("```json\n")[2].partition("```")[0])
    assert (written["hidden_size"], written["pooling"], written["audio_frontend"]) == (32, "flatten", "encoder")


def test_the_card_has_the_whole_recipe(card: str) -> None:
    written = json.loads(card.partition("## Recipe")[2].partition("```json\n")[2].partition("```")[0])
    assert (written["learning_rate"], written["seed"], written["frozen"]) == (0.002, 17, "convolutions")
    assert written["augmentation"]["augment"] == "both"
    assert "3 workers." in card


def test_the_card_of_mmml_says_what_it_makes_of_rounds() -> None:
    splits = [split_of("training", "ABC"), split_of("validation", "BBD")]
    card = write_card(make_tiny_mmml(), RECIPE, splits, EPOCHS, 1, "It started from nothing.")
    assert "# MMML" in card
    assert "a call's probabilities are the mean over its rounds" in card
    assert '"first_head_size": 20' in card
    assert "pooling" not in card


def test_the_card_has_the_versions_of_the_packages(card: str) -> None:
    for package in ("torch", "transformers", "ray", "msmtfn"):
        assert f"{package} {importlib.metadata.version(package)}" in card


def test_the_card_has_the_size_and_the_origin_of_the_model(card: str) -> None:
    assert f"{make_tiny_network().num_parameters():,} weights" in card
    assert "It started from nothing." in card


def test_the_hub_reads_what_the_model_is_for_and_its_accuracy(card: str) -> None:
    metadata: Any = ModelCard(card).data
    data = metadata.to_dict()
    assert (data["library_name"], data["pipeline_tag"]) == ("msmtfn", "audio-classification")
    (model,) = data["model-index"]
    accuracy = {metric["name"]: metric["value"] for result in model["results"] for metric in result["metrics"]}
    assert accuracy["accuracy in five classes"] == 0.625
    assert len(accuracy) == 4
