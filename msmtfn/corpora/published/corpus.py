"""What the files of a published corpus say, before any sound is read: conversations of utterances with labels."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from msmtfn.corpora.simulation.plan import SPLITS
from msmtfn.errors import JobError

TRAINING, VALIDATION, TEST = SPLITS
FILE_NAME: Final = re.compile(r"[\w-][\w.-]*")
SOUND_SUFFIXES: Final = (".wav", ".flac", ".mp4")
"""Suffixes of clips; where there are several files of a name, the first of these is read."""


class CorpusFormatError(JobError):
    """Error of a corpus that does not have the layout in which it is distributed."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """Stretch of a conversation that has a clip of its own.

    Attributes:
        name: its name in the corpus.
        clip: file with its sound, a recording or a video; None if it is missing.
        text: what is said.
        speaker: `speaker_1` to `speaker_9`.
        labels: values of the columns that have a label for each utterance.
        length_sec: length by the corpus's own times, in seconds; None where it has none that can be true.
    """

    name: str
    clip: Path | None
    text: str
    speaker: str = "speaker_1"
    labels: Mapping[str, Any] = field(default_factory=dict)
    length_sec: float | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """Utterances that become one call, in order.

    Attributes:
        call_id: id of the call, which is a file name, too.
        utterances: the utterances.
        columns: further columns of the call's row in the manifest.
    """

    call_id: str
    utterances: Sequence[Utterance]
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedCorpus:
    """Content of a corpus.

    Attributes:
        title: the corpus's name as it is written.
        conversations: all conversations.
        labels: types of the columns with labels; a list has a value for each utterance.
        folds: for each fold the split of every call by its id; an only fold has the name "".
        found: numbers of what the corpus holds here, by what is counted.
        published: the same numbers as they were published.
        sample_rate: sample rate of the recordings to write, in Hz.
        num_broken: number of utterances that are left out because their clips are known to be broken.
    """

    title: str
    conversations: Sequence[Conversation]
    labels: pa.Schema
    folds: Mapping[str, Mapping[str, str]]
    found: Mapping[str, int]
    published: Mapping[str, int]
    sample_rate: int = 16_000
    num_broken: int = 0

    @property
    def differences(self) -> list[str]:
        """A sentence for each number that is not the published one."""
        return [
            f"{self.title}: {self.found.get(name, 0):,} {name} are here, {number:,} were published"
            for name, number in self.published.items()
            if self.found.get(name, 0) != number
        ]


def read_rows(path: Path, columns: Sequence[str], encodings: Sequence[str] = ("utf-8-sig",)) -> list[dict[str, str]]:
    """Read the rows of a CSV file.

    Args:
        path: the file.
        columns: the columns that it must have.
        encodings: encodings to try, in this order.

    Raises:
        CorpusFormatError: the file cannot be read, or lacks a column.
    """
    for encoding in encodings:
        try:
            with path.open(newline="", encoding=encoding) as file:
                reader = csv.DictReader(file)
                rows = [{name: row[name] or "" for name in columns} for row in reader]
        except UnicodeDecodeError:
            continue
        except KeyError as exc:
            raise CorpusFormatError(f"{path} has no column {exc.args[0]!r}; it needs {', '.join(columns)}") from exc
        except (OSError, csv.Error) as exc:
            raise CorpusFormatError(f"{path} cannot be read: {exc}") from exc
        if not rows:
            raise CorpusFormatError(f"{path} has no rows")
        return rows
    raise CorpusFormatError(f"{path} is not encoded as {' or '.join(encodings)}")


def check_name(name: str, source: Path) -> str:
    """Return an id of a corpus that is to be a file's name.

    Raises:
        CorpusFormatError: it has other characters than letters, digits, `_`, `-` and `.`, or begins with a dot.
    """
    if not FILE_NAME.fullmatch(name):
        raise CorpusFormatError(f"{source} has the id {name[:40]!r}, which is no file name")
    return name


def find_clips(folder: Path) -> list[Path]:
    """Return all recordings and videos below a folder, those with the preferred suffix last, without hidden files."""
    found = [path for path in folder.rglob("*") if path.suffix.lower() in SOUND_SUFFIXES and path.name[0] != "."]
    return sorted(found, key=lambda path: (-SOUND_SUFFIXES.index(path.suffix.lower()), str(path)))


def parse_whole(text: str, column: str, source: Path) -> int:
    """Return a whole number of a CSV file, which may be written as `3.0`.

    Raises:
        CorpusFormatError: it is none.
    """
    try:
        number = float(text)
        if number.is_integer():
            return int(number)
    except (ValueError, OverflowError):
        pass
    raise CorpusFormatError(f"{source} has {column} {text[:40]!r}, which is no whole number")


def only_fold(splits: Iterable[tuple[str, str]]) -> dict[str, dict[str, str]]:
    """Return the only fold of a corpus, from pairs of a call's id and its split.

    Raises:
        CorpusFormatError: a call is in two splits.
    """
    fold: dict[str, str] = {}
    for call_id, split in splits:
        if fold.setdefault(call_id, split) != split:
            raise CorpusFormatError(f"{call_id} is in {fold[call_id]} and in {split}; a call has only one split")
    return {"": fold}
