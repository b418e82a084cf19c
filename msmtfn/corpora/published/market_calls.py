"""MarketCalls: sales calls in Mandarin, the paper's own corpus, with an intent for each call.

```
<folder>/*.csv                                       phone, Audio_id, Segment_number, text, label
<folder>/**/<Audio_id>_<Segment_number>.wav          or <Audio_id>/<Segment_number>.wav
```

A recording's name or id may hold a phone number, so neither is kept: calls and customers are numbered in the order of
the table.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from msmtfn.corpora.published.corpus import (
    TEST,
    TRAINING,
    VALIDATION,
    Conversation,
    CorpusFormatError,
    PublishedCorpus,
    Utterance,
    find_clips,
    only_fold,
    parse_whole,
    read_rows,
)
from msmtfn.labels import INTENTS

COLUMNS: Final = ("phone", "Audio_id", "Segment_number", "text", "label")
ENCODINGS: Final = ("utf-8-sig", "gb18030")  # as Chinese spreadsheets write them
SAMPLE_RATE: Final = 8000
LABELS: Final = pa.schema([("utterances", pa.list_(pa.string()))])
PUBLISHED: Final = {
    "calls": 877,
    "segments": 2942,
    "training calls": 701,
    "validation calls": 88,
    "test calls": 88,
    "calls of A": 137,
    "calls of B": 271,
    "calls of C": 379,
    "calls of D": 90,
}
"""Sizes and labels of the paper's tables 4 and 5."""

HELD_OUT_SHARE: Final = 88 / 877
SPLIT_SEED: Final = 0


def read_market_calls(folder: Path) -> PublishedCorpus:
    """Read MarketCalls; the intent of a call is the label of its first row.

    Raises:
        CorpusFormatError: the folder has another layout, or a label is none.
    """
    source = _find_table(folder)
    calls: defaultdict[str, dict[int, dict[str, str]]] = defaultdict(dict)
    for row in read_rows(source, COLUMNS, ENCODINGS):
        segment = parse_whole(row["Segment_number"], "Segment_number", source)
        if segment in calls[row["Audio_id"]]:
            raise CorpusFormatError(f"{source} has segment {segment} of the {len(calls)}th call twice")
        calls[row["Audio_id"]][segment] = row
    first_rows = [next(iter(rows.values())) for rows in calls.values()]
    # A call without a phone is a customer of its own.
    phones = [row["phone"].strip() or f"none {number}" for number, row in enumerate(first_rows)]
    numbers = {phone: number for number, phone in enumerate(dict.fromkeys(phones), 1)}
    splits = split_by_phone(phones)
    clips = {name: path for path in find_clips(folder) for name in (path.stem, f"{path.parent.name}_{path.stem}")}
    conversations, found = [], Counter({"calls": len(calls)})
    for number, (audio, rows) in enumerate(calls.items(), 1):
        intent = first_rows[number - 1]["label"].strip().upper()
        if intent not in INTENTS:
            raise CorpusFormatError(f"{source} has a label other than A to E in the first row of its {number}th call")
        columns = {"language": "zh", "intent": intent, "customer_id": f"customer-{numbers[phones[number - 1]]:04}"}
        utterances = [
            Utterance(str(segment), clips.get(f"{audio}_{row['Segment_number']}"), row["text"].strip(), labels=labels)
            for segment, row in sorted(rows.items())
            for labels in [{"utterances": str(segment)}]
        ]
        conversations.append(Conversation(f"call-{number:04}", utterances, columns))
        found.update({"segments": len(rows), f"{splits[number - 1]} calls": 1, f"calls of {intent}": 1})
    return PublishedCorpus(
        title="MarketCalls",
        conversations=conversations,
        labels=LABELS,
        folds=only_fold(zip((call.call_id for call in conversations), splits, strict=True)),
        found=found,
        published=PUBLISHED,
        sample_rate=SAMPLE_RATE,
    )


def split_by_phone(phones: Sequence[str]) -> list[str]:
    """Return the split of each call; all calls of a phone are in one, and a tenth of the calls in each held-out one.

    Which calls the paper tested on is not published, so the phones are drawn at random, always in the same way.
    """
    sizes = Counter(phones)
    target = round(len(phones) * HELD_OUT_SHARE)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(sizes))
    left = [list(sizes)[index] for index in order]
    split_of: dict[str, str] = {}
    for split in (TEST, VALIDATION):
        drawn = draw_phones(left, sizes, target)
        split_of |= dict.fromkeys(drawn, split)
        left = [phone for phone in left if phone not in drawn]
    return [split_of.get(phone, TRAINING) for phone in phones]


def draw_phones(phones: Sequence[str], sizes: Mapping[str, int], target: int) -> set[str]:
    """Return phones that have `target` calls together, or as many below it as is possible; the first ones are drawn."""
    last: dict[int, tuple[int, str]] = {}  # for each number of calls: that without the phone drawn last, and the phone
    for phone in phones:
        for number in sorted({0, *last}, reverse=True):
            if number + sizes[phone] <= target:
                last.setdefault(number + sizes[phone], (number, phone))
    number, drawn = max(last, default=0), set()
    while number:
        number, phone = last[number]
        drawn.add(phone)
    return drawn


def _find_table(folder: Path) -> Path:
    found = sorted(folder.glob("*.csv"))
    if len(found) != 1:
        raise CorpusFormatError(f"{folder} has {len(found)} CSV files; it must have one, with {', '.join(COLUMNS)}")
    return found[0]
