"""CMU-MOSI and CMU-MOSEI: monologues in English whose utterances have a sentiment from -3 to 3.

```
<folder>/label.csv                            video_id, clip_id, text, label, annotation, mode (train, valid, test)
<folder>/Raw/<video_id>/<clip_id>.mp4         or .wav; the folder above those of the videos may have any name
```
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
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
    check_name,
    find_clips,
    only_fold,
    parse_whole,
    read_rows,
)

LABEL_FILE: Final = "label.csv"
COLUMNS: Final = ("video_id", "clip_id", "text", "label", "mode")
MODES: Final = {"train": TRAINING, "valid": VALIDATION, "test": TEST}
STRONGEST: Final = 3.0
LABELS: Final = pa.schema([("utterances", pa.list_(pa.string())), ("sentiment", pa.list_(pa.float64()))])

BROKEN: Final = frozenset(
    {
        ("3aIQUQgawaI", 12),
        ("94ULum9MYX0", 2),
        ("94ULum9MYX0", 11),
        ("mRnEJOLkhp8", 24),
        ("mRnEJOLkhp8", 26),
        ("aE-X_QdDaqQ", 3),
    }
)
"""Video and clip of the clips whose sound is known to be broken."""

PUBLISHED: Final[Mapping[str, Mapping[str, int]]] = {
    "CMU-MOSI": {"training videos": 52, "validation videos": 10, "test videos": 31},
    "CMU-MOSEI": {"training videos": 2249, "validation videos": 300, "test videos": 678},
}
"""Sizes of the folds of the CMU Multimodal SDK."""


def read_mosi(folder: Path) -> PublishedCorpus:
    """Read CMU-MOSI; see `read_sentiment`."""
    return read_sentiment(folder, "CMU-MOSI")


def read_mosei(folder: Path) -> PublishedCorpus:
    """Read CMU-MOSEI; see `read_sentiment`."""
    return read_sentiment(folder, "CMU-MOSEI")


def read_sentiment(folder: Path, title: str) -> PublishedCorpus:
    """Read one of the two corpora; a video is a conversation.

    Args:
        folder: folder of the corpus.
        title: key of `PUBLISHED`.

    Raises:
        CorpusFormatError: the folder has another layout, or a label or split is none.
    """
    source = folder / LABEL_FILE
    clips = {(path.parent.name, path.stem): path for path in find_clips(folder)}
    videos: defaultdict[str, dict[int, Utterance]] = defaultdict(dict)
    splits, num_broken = [], 0
    for row in read_rows(source, COLUMNS):
        video, number = check_name(row["video_id"], source), parse_whole(row["clip_id"], "clip_id", source)
        if row["mode"] not in MODES:
            raise CorpusFormatError(f"{source} has the mode {row['mode'][:40]!r}; it must be {', '.join(MODES)}")
        splits.append((video, MODES[row["mode"]]))
        if number in videos[video]:
            raise CorpusFormatError(f"{source} has clip {number} of {video} twice")
        if (video, number) in BROKEN:
            num_broken += 1
            continue
        name = str(number)
        clip = clips.get((video, row["clip_id"])) or clips.get((video, name))
        labels = {"utterances": name, "sentiment": _parse_sentiment(row["label"], source)}
        videos[video][number] = Utterance(name, clip, row["text"].strip(), labels=labels)
    return PublishedCorpus(
        title=title,
        conversations=[
            Conversation(video, [each for _, each in sorted(utterances.items())], {"language": "en"})
            for video, utterances in videos.items()
        ],
        labels=LABELS,
        folds=(folds := only_fold(splits)),
        found={f"{split} videos": count for split, count in Counter(folds[""].values()).items()},
        published=PUBLISHED[title],
        num_broken=num_broken,
    )


def _parse_sentiment(text: str, source: Path) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not -STRONGEST <= value <= STRONGEST:
        raise CorpusFormatError(f"{source} has the label {text[:40]!r}; it must be a number from -3 to 3")
    return value
