"""The card of the demo's recogniser: what it learned from, and how often it is wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import torch

import msmtfn
from msmtfn.corpora.recogniser_data import FRAMES_PER_SEC, Track
from msmtfn.corpora.recogniser_training import RecogniserTraining
from msmtfn.speech.conv_ctc import ConvCtc

CARD_FILE: Final = "README.md"
TEXT: Final = """\
# Recogniser of the simulated calls

A convolutional CTC network over characters with {num_weights:,} weights.
It is for the demo and for tests: it knows the {num_characters} characters of the simulated calls and their voices only.

## Data

Simulated Mandarin sales calls (`simulate-calls`), spoken by espeak-ng over a telephone line, and their true words.

| | channels | turns | hours | characters |
|---|---|---|---|---|
{data}

## Character error rate

By turn, with the turns' true times, without punctuation, the likeliest character of each frame.

| epoch | validation, % |
|---|---|
{rates}

## Recipe

```json
{recipe}
```

## Versions

msmtfn {version}, torch {torch}
"""


def write_card(
    folder: Path,
    network: ConvCtc,
    training: Sequence[Track],
    validation: Sequence[Track],
    options: RecogniserTraining,
    rates: Sequence[float],
) -> None:
    """Write the card into a recogniser's folder.

    Args:
        folder: the folder.
        network: the trained network.
        training: what it learned from.
        validation: what its error rates are of.
        options: options of the training.
        rates: share of wrong characters after each epoch.
    """
    text = TEXT.format(
        num_weights=sum(weight.numel() for weight in network.parameters()),
        num_characters=len(network.config.characters),
        data="\n".join([_describe("training", training), _describe("validation", validation)]),
        rates="\n".join(f"| {epoch} | {100 * rate:.1f} |" for epoch, rate in enumerate(rates, start=1)),
        recipe=json.dumps(asdict(options), indent=2),
        version=msmtfn.__version__,
        torch=torch.__version__.partition("+")[0],
    )
    (folder / CARD_FILE).write_text(text, encoding="utf-8")


def _describe(name: str, tracks: Sequence[Track]) -> str:
    turns = [turn for track in tracks for turn in track]
    hours = sum(len(turn.mels) for turn in turns) / FRAMES_PER_SEC / 3600
    return f"| {name} | {len(tracks)} | {len(turns):,} | {hours:.1f} | {sum(len(turn.text) for turn in turns):,} |"
