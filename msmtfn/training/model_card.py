"""The model card: which calls a model was trained on, with which recipe, and how accurate it is."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from huggingface_hub import EvalResult, ModelCardData

from msmtfn.evaluation.labelled import LabelledSplit
from msmtfn.labels import TASKS
from msmtfn.model.base import CallNetwork
from msmtfn.model.settings import settings_of
from msmtfn.training.events import EpochDone
from msmtfn.training.recipe import Recipe

PACKAGES: Final = ("msmtfn", "ray", "torch", "transformers")


def write_card(
    network: CallNetwork,
    recipe: Recipe,
    splits: Sequence[LabelledSplit],
    epochs: Sequence[EpochDone],
    num_workers: int,
    about: str,
) -> str:
    """Return the card as Markdown, with the metadata that the Hugging Face hub reads.

    Args:
        network: the trained network.
        recipe: the recipe of the training.
        splits: the training and the validation calls.
        epochs: the figures of every epoch, in order.
        num_workers: number of processes that trained together.
        about: one line on the origin of the model that training started from.
    """
    best = [epoch for epoch in epochs if epoch.is_best][-1]
    parts = (network.audio_encoder, network.text_encoder)
    encoders = sum(weight.numel() for part in parts for weight in part.parameters())
    config, size = network.config, network.num_parameters()
    lines = [
        f"# {config.title}",
        "",
        f"{size:,} weights, {encoders:,} of them in the two encoders. {about} {config.about_rounds}",
        "",
        "## Data",
        "",
        "| | calls | days | labels |",
        "|---|---|---|---|",
        *(
            f"| {split.name} | {len(split.rows):,} | {split.dates[0]} to {split.dates[-1]} | "
            + ", ".join(f"{intent} {count:,}" for intent, count in split.counts.items())
            + " |"
            for split in splits
        ),
        "",
        "## Validation",
        "",
        f"The best of {len(epochs)} epochs was number {best.epoch}: loss {best.validation_loss:.3f}.",
        "",
        "| task | accuracy, % |",
        "|---|---|",
        *(f"| {task} | {100 * best.accuracy[task]:.1f} |" for task in TASKS),
        "",
        "## Network",
        "",
        *_code_block(settings_of(config)),
        "## Recipe",
        "",
        f"{num_workers} workers.",
        "",
        *_code_block(asdict(recipe)),
        "## Versions",
        "",
        ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES),
        "",
    ]
    return f"---\n{_metadata(config.title, best)}\n---\n\n" + "\n".join(lines)


def _code_block(content: Mapping[str, Any]) -> list[str]:
    return ["```json", json.dumps(content, indent=2), "```", ""]


def _metadata(title: str, best: EpochDone) -> str:
    """Return the metadata as YAML: what the model is for, and its accuracy in each task on the validation calls."""
    results = [
        EvalResult(
            task_type="audio-classification",
            dataset_type="sales-calls",
            dataset_name="validation calls",
            metric_type="accuracy",
            metric_name=f"accuracy in {task} classes",
            metric_value=round(best.accuracy[task], 4),
        )
        for task in TASKS
    ]
    data = ModelCardData(
        model_name=title,
        library_name="msmtfn",
        pipeline_tag="audio-classification",
        tags=["multimodal", "call-center", "sales"],
        eval_results=results,
    )
    return str(data.to_yaml())
