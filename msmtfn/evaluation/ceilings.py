"""Ceilings of a simulated corpus: the highest accuracies that a reader of its calls can reach."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import chain
from typing import Any

from msmtfn import storage
from msmtfn.corpora.simulation.corpus import CEILINGS_NAME
from msmtfn.errors import TrainingDataError
from msmtfn.labels import TASKS


def read_ceilings(corpus: str) -> dict[str, Any] | None:
    """Read the highest accuracies that any reader of a simulated corpus can reach; None for another kind of corpus.

    Args:
        corpus: a folder or an s3:// address.

    Returns:
        `best_possible` with the accuracies on all calls that could be drawn, and `best_reader_of` with those on each
        split; both by task and reader.

    Raises:
        TrainingDataError: the file does not hold such accuracies.
        StorageError: the file cannot be read.
    """
    path = storage.join(storage.absolute(corpus), CEILINGS_NAME)
    text = storage.read_text(path)
    if text is None:
        return None
    try:
        content: dict[str, Any] = json.loads(text)
        for ceilings in (content["best_possible"], *content["best_reader_of"].values()):
            _check_ceilings(ceilings)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise TrainingDataError(
            f"{path} does not hold the ceilings of a simulated corpus; make the corpus again, or remove the file"
        ) from exc
    return content


def read_split_ceilings(corpus: str, split: str) -> dict[str, Any] | None:
    """Read the accuracies that any reader can reach on a split, and on all calls; None if the corpus has no ceilings.

    Args:
        corpus: a folder or an s3:// address.
        split: name of the split.

    Returns:
        `best_possible` and `best_reader_of_split`, by task and reader.

    Raises:
        TrainingDataError: the file does not hold such accuracies.
        StorageError: the file cannot be read.
    """
    content = read_ceilings(corpus)
    if content is None or split not in content["best_reader_of"]:
        return None
    return {"best_possible": content["best_possible"], "best_reader_of_split": content["best_reader_of"][split]}


def _check_ceilings(ceilings: Mapping[str, Mapping[str, float]]) -> None:
    for accuracy in chain.from_iterable(ceilings[task].values() for task in TASKS):
        float(accuracy)
