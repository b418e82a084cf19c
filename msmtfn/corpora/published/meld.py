"""MELD: dialogues of a television series in English whose utterances have an emotion and a sentiment.

```
<folder>/**/train_sent_emo.csv, dev_sent_emo.csv, test_sent_emo.csv
<folder>/**/dia<dialogue>_utt<utterance>.mp4      below folders with train, dev or test in their names
```
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

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

COLUMNS: Final = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "StartTime", "EndTime")
SPLIT_OF: Final = {"train": TRAINING, "dev": VALIDATION, "test": TEST}
EMOTIONS: Final = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
SENTIMENTS: Final = ("negative", "neutral", "positive")
MAX_SPEAKERS: Final = 9
LABELS: Final = pa.schema(
    [
        ("utterances", pa.list_(pa.string())),
        ("emotion", pa.list_(pa.string())),
        ("sentiment", pa.list_(pa.string())),
    ]
)
PUBLISHED: Final = {
    "training utterances": 9989,
    "validation utterances": 1109,
    "test utterances": 2610,
    "training dialogues": 1038,
    "validation dialogues": 114,
    "test dialogues": 280,
}
TIME: Final = re.compile(r"(\d{1,2}):(\d\d):(\d\d)[,.](\d{1,3})")
CLIP: Final = re.compile(r"dia(\d+)_utt(\d+)")


def read_meld(folder: Path) -> PublishedCorpus:
    """Read MELD; a dialogue is a conversation, whose speakers are numbered in the order in which they speak.

    Raises:
        CorpusFormatError: the folder has another layout, or a label is none.
    """
    clips = dict(_find_clips(folder))
    conversations, splits, found = [], [], Counter[str]()
    for part, split in SPLIT_OF.items():
        source = _find_table(folder, part)
        dialogues: defaultdict[int, dict[int, dict[str, str]]] = defaultdict(dict)
        for row in read_rows(source, COLUMNS):
            dialogue, number = (parse_whole(row[name], name, source) for name in ("Dialogue_ID", "Utterance_ID"))
            if number in dialogues[dialogue]:
                raise CorpusFormatError(f"{source} has utterance {number} of dialogue {dialogue} twice")
            dialogues[dialogue][number] = row
        found[f"{split} dialogues"] = len(dialogues)
        for dialogue, rows in sorted(dialogues.items()):
            found[f"{split} utterances"] += len(rows)
            call_id = f"{part}-dia{dialogue}"
            splits.append((call_id, split))
            files = {number: clips.get((part, dialogue, number)) for number in rows}
            conversations.append(Conversation(call_id, _read_dialogue(rows, files, source), {"language": "en"}))
    return PublishedCorpus(
        title="MELD",
        conversations=conversations,
        labels=LABELS,
        folds=only_fold(splits),
        found=found,
        published=PUBLISHED,
    )


def parse_time(text: str) -> float | None:
    """Return the seconds of a time such as `00:14:38,127`, `0:10:44,769` or `00:06:47,28`; None if it is none."""
    match = TIME.fullmatch(text.strip())
    if match is None:
        return None
    hours, minutes, seconds, fraction = match.groups()
    return 3600 * int(hours) + 60 * int(minutes) + float(f"{seconds}.{fraction}")


def _read_dialogue(
    rows: Mapping[int, Mapping[str, str]], files: Mapping[int, Path | None], source: Path
) -> list[Utterance]:
    """Return the utterances in the order of their numbers, which may have gaps."""
    names = list(dict.fromkeys(row["Speaker"] for _, row in sorted(rows.items())))
    if len(names) > MAX_SPEAKERS:
        raise CorpusFormatError(f"{source} has a dialogue of {len(names)} speakers; at most {MAX_SPEAKERS} can be")
    utterances = []
    for number, row in sorted(rows.items()):
        for column, allowed in (("Emotion", EMOTIONS), ("Sentiment", SENTIMENTS)):
            if row[column] not in allowed:
                raise CorpusFormatError(f"{source} has the {column} {row[column][:40]!r}, which is none of MELD's")
        start_sec, end_sec = parse_time(row["StartTime"]), parse_time(row["EndTime"])
        length_sec = math.nan if start_sec is None or end_sec is None else end_sec - start_sec
        labels = {"utterances": str(number), "emotion": row["Emotion"], "sentiment": row["Sentiment"]}
        speaker = f"speaker_{names.index(row['Speaker']) + 1}"
        known_sec = length_sec if length_sec > 0 else None  # an utterance may end at or before its start
        utterances.append(Utterance(str(number), files[number], row["Utterance"].strip(), speaker, labels, known_sec))
    return utterances


def _find_table(folder: Path, part: str) -> Path:
    name = f"{part}_sent_emo.csv"
    found = sorted(folder.rglob(name))
    if len(found) != 1:
        raise CorpusFormatError(f"{folder} has {len(found)} files {name}; MELD has one, in it or in a folder of it")
    return found[0]


def _find_clips(folder: Path) -> Iterator[tuple[tuple[str, int, int], Path]]:
    """Yield split, dialogue and utterance of each clip; the splits number their dialogues independently."""
    for path in find_clips(folder):
        # The innermost folder decides; the archives have names such as output_repeated_splits_test.
        folders = reversed(path.relative_to(folder).parts[:-1])
        parts = [part for name in folders for part in SPLIT_OF if part in name.lower()]
        match = CLIP.fullmatch(path.stem)
        if match and parts:
            yield (parts[0], int(match[1]), int(match[2])), path
