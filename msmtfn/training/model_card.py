"""The card of a trained model: what it learned from, how, and how good it is."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from msmtfn.evaluation.labelled import LabelledSplit
from msmtfn.labels import TASKS
from msmtfn.model.network import MsmtFn
from msmtfn.training.recipe import Recipe

PACKAGES: Final = ("msmtfn", "ray", "torch", "transformers")


def write_card(
    network: MsmtFn,
    recipe: Recipe,
    splits: Sequence[LabelledSplit],
    epochs: Sequence[Mapping[str, Any]],
    num_workers: int,
    about: str,
) -> str:
    """The card, in Markdown.

    Args:
        network: as it was trained.
        recipe: how.
        splits: training and validation.
        epochs: `Epoch.as_row` of each.
        num_workers: processes that trained it.
        about: a line on what the model started from.
    """
    best = [each for each in epochs if each["is_best"]][-1]
    encoders = sum(
        weight.numel() for part in (network.audio_encoder, network.text_encoder) for weight in part.parameters()
    )
    lines = [
        "# MSMT-FN",
        "",
        f"{network.num_parameters():,} weights, {encoders:,} of them in the two encoders. {about}",
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
        f"The best of {len(epochs)} epochs was number {best['epoch']}: loss {best['validation_loss']:.3f}.",
        "",
        "| task | accuracy, % |",
        "|---|---|",
        *(f"| {task} | {100 * best[f'accuracy_{task}']:.1f} |" for task in TASKS),
        "",
        "## Recipe",
        "",
        f"{num_workers} workers.",
        "",
        "```json",
        json.dumps(asdict(recipe), indent=2),
        "```",
        "",
        "## Versions",
        "",
        ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES),
        "",
    ]
    return "\n".join(lines)
