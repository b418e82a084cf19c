"""Two simple readers of the transcript that a model has to beat: rules, and a bag of words.

Rules count the customer's questions and look for refusals; they know nothing of the labels. The bag of words is a
logistic regression on character n-grams of the customer's words, which needs no word segmentation.

Shapes: C calls.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from msmtfn.errors import TrainingDataError, UsageError
from msmtfn.labels import INTENTS

REFUSALS: Final = re.compile(
    r"不需要|不用了|不考虑|不感兴趣|没兴趣|没有兴趣|不想|不要再?打|别再?打|挂了|不买"
    r"|\bnot interested\b|\bno,? thank|\b(?:do not|don't|stop) call|\bremove me\b|\bdon't need\b",
    re.IGNORECASE,
)
QUESTIONS: Final = re.compile(
    r"[?？]|[吗呢么]|多少|怎么|什么|哪|几|\b(?:how|what|when|where|which|who|why)\b",
    re.IGNORECASE,
)
MANY_QUESTIONS: Final = 2
"""Number of the customer's turns with a question from which on the rules take a call for an A."""
NGRAMS: Final = (1, 3)
SEED: Final = 0

Turns = Sequence[Mapping[str, Any]] | None
"""Turns of a call as a manifest has them; None for a call without a transcript."""


def predict_by_rules(calls: Sequence[Turns]) -> npt.NDArray[np.float32]:
    """Return the certainties (C, 5) of the five intents by rules.

    A refusal is D; else two turns with a question are A and one is B; else the call is C, or E if the customer says
    nothing. Most of the certainty is the class's; the rest goes to A with the number of questions, so that calls of a
    class are ranked by it.
    """
    five = np.zeros((len(calls), len(INTENTS)), np.float32)
    for row, turns in enumerate(calls):
        texts = customer_texts(turns)
        questions = sum(bool(QUESTIONS.search(text)) for text in texts)
        bonus = min(questions, 9) / 100
        five[row, INTENTS.index(_intent_by_rules(texts, questions))] += 1 - bonus
        five[row, 0] += bonus
    return five


def predict_by_words(
    training: Sequence[Turns], intents: npt.NDArray[np.int64], calls: Sequence[Turns]
) -> npt.NDArray[np.float32]:
    """Fit the bag of words to labelled calls, and return its probabilities (C, 5) for others.

    Args:
        training: turns of the calls to learn from.
        intents: index of each such call's label in `INTENTS`.
        calls: turns of the calls to classify.

    Raises:
        TrainingDataError: no customer says a word in the training calls, or they have one intent only.
    """
    # Imported here, since only this baseline needs it, and importing it takes seconds.
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415

    texts, others = ([" ".join(customer_texts(turns)) for turns in each] for each in (training, calls))
    if not any(text.strip() for text in texts):
        raise TrainingDataError("no customer says a word in the training calls; the bag of words needs transcripts")
    if len(np.unique(intents)) < 2:  # noqa: PLR2004
        raise TrainingDataError("the training calls of the bag of words have one intent only; it takes two or more")
    model = make_pipeline(
        TfidfVectorizer(analyzer="char", ngram_range=NGRAMS, sublinear_tf=True),
        LogisticRegression(C=10.0, max_iter=1000, random_state=SEED),
    )
    model.fit(texts, intents)
    five = np.zeros((len(calls), len(INTENTS)), np.float32)
    if len(calls):
        five[:, model.classes_] = model.predict_proba(others)
    return five


def require_scikit_learn() -> None:
    """Check that scikit-learn is installed, before anything takes time.

    Raises:
        UsageError: it is not.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise UsageError("the bag of words needs scikit-learn; install msmtfn[train], or leave --baseline-calls out")


def customer_texts(turns: Turns) -> list[str]:
    """Return the texts of the customer's turns that have one."""
    return [turn["text"] for turn in turns or () if turn and turn["speaker"] == "customer" and turn["text"]]


def _intent_by_rules(texts: Sequence[str], questions: int) -> str:
    if any(REFUSALS.search(text) for text in texts):
        return "D"
    if questions:
        return "A" if questions >= MANY_QUESTIONS else "B"
    return "C" if texts else "E"
