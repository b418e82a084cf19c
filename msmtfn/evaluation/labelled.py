"""The labelled calls of training: read from manifests, split by customer, and checked before anything runs.

Calls that cannot be used end the job here, with a message, and not in the middle of an epoch.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from msmtfn import storage
from msmtfn.calls.manifest import iter_calls, open_manifest
from msmtfn.daily.transcripts import Transcripts
from msmtfn.errors import TrainingDataError
from msmtfn.labels import INTENTS
from msmtfn.rows import ROW_ID

logger = logging.getLogger(__name__)

COLUMNS: Final = (ROW_ID, "row_error", "call_id", "uri", "agent_channel", "turns", "intent", "customer_id", "language")
MIN_CLASSES: Final = 2
HELD_OUT: Final = "held out"
HASH_RANGE: Final = 2**32


@dataclass(frozen=True, slots=True)
class LabelledSplit:
    """The labelled calls of one split.

    Attributes:
        name: training, validation, test or held out.
        rows: rows of the manifests with `COLUMNS`; every uri is absolute.
        dates: days of the calls.
        root: root folder of the manifests.
    """

    name: str
    rows: pa.Table
    dates: tuple[dt.date, ...]
    root: str

    @property
    def intents(self) -> npt.NDArray[np.int64]:
        """(C,) index of each call's intent in `INTENTS`."""
        return np.array([INTENTS.index(intent) for intent in self.rows["intent"].to_pylist()], dtype=np.int64)

    @property
    def counts(self) -> dict[str, int]:
        """Number of calls by intent, for the intents that occur."""
        return dict(sorted(Counter(self.rows["intent"].to_pylist()).items()))

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that identify the rows and their order."""
        digest = hashlib.sha256()
        for column in self.rows.drop_columns([ROW_ID]).columns:
            digest.update(repr(column.to_pylist()).encode())
        return digest.hexdigest()[:16]

    def of(self, keep: npt.NDArray[np.bool_], name: str) -> LabelledSplit:
        """Return the split of the rows where `keep` is True, under another name."""
        return LabelledSplit(name, self.rows.filter(pa.array(keep)), self.dates, self.root)


def read_labelled(name: str, root: str, dates: Sequence[dt.date], transcripts: str | None = None) -> LabelledSplit:
    """Read the labelled calls of some days, without the calls that have no label.

    Args:
        name: name of the split.
        root: root of the manifests.
        dates: the days.
        transcripts: root of the transcripts, for the calls whose manifest has no turns.

    Raises:
        JobError: the transcripts of a day are not published.
        TrainingDataError: a label is not one of A to E, or no call has a label.
        ManifestError: a manifest cannot be read.
    """
    heard = None if transcripts is None else Transcripts(transcripts)
    tables = [_read_day(root, date, heard) for date in dates]
    rows = pa.concat_tables(tables)
    rows = rows.set_column(0, ROW_ID, pa.array(np.arange(len(rows))))
    broken = rows.filter(pc.is_valid(rows["row_error"]))
    if len(broken):
        logger.warning("%s: %d rows whose call_id is missing or a duplicate are left out", name, len(broken))
    rows = rows.filter(pc.and_(pc.is_null(rows["row_error"]), pc.is_valid(rows["intent"])))
    unknown = rows.filter(pc.invert(pc.is_in(rows["intent"], pa.array(INTENTS))))
    if len(unknown):
        raise TrainingDataError(
            f"{len(unknown)} calls of {root} have an intent outside A to E, the first is call {unknown['call_id'][0]}; "
            "correct the labels, or leave them null"
        )
    if not len(rows):
        raise TrainingDataError(f"none of the calls of {root} from {dates[0]} to {dates[-1]} has an intent to learn")
    return LabelledSplit(name, rows, tuple(dates), root)


def iter_rows(root: str, date: dt.date, transcripts: Transcripts | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a day with `COLUMNS`, labelled or not; the first batch is empty.

    Raises:
        JobError: the transcripts of the day are not published.
        ManifestError: the manifest cannot be read.
    """
    manifest = open_manifest(root, date)
    calls = iter_calls(manifest)
    if transcripts is not None:
        calls = transcripts.open_day(date).fill(calls)
    empty = pa.RecordBatch.from_pylist([], schema=manifest.schema)  # sets the schema of a day without calls
    for batch in chain([empty], calls):
        yield _select_columns(batch, manifest.root)


def split_by_customer(
    split: LabelledSplit, validation_share: float, seed: int, held_out_share: float = 0.0
) -> tuple[LabelledSplit, LabelledSplit, LabelledSplit]:
    """Split calls into training, validation and held-out calls, with all calls of a customer in one split.

    A customer's split depends on the customer's id and the seed only, so it stays the same when there are more calls
    later. Which customers are held out does not depend on the seed either, so that no model of any seed has learned
    from them. A call without a customer counts as a customer of its own.
    """
    customers = [
        customer or call_id
        for customer, call_id in zip(
            split.rows["customer_id"].to_pylist(), split.rows["call_id"].to_pylist(), strict=True
        )
    ]
    if anonymous := sum(not customer for customer in split.rows["customer_id"].to_pylist()):
        logger.warning(
            "%d of %d calls have no customer_id; calls of one customer may be in training and in validation",
            anonymous,
            len(customers),
        )
    is_held_out = np.array([_hash_to_unit(customer, HELD_OUT) < held_out_share for customer in customers])
    is_validation = ~is_held_out & np.array(
        [_hash_to_unit(customer, seed) < validation_share for customer in customers]
    )
    return (
        split.of(~is_validation & ~is_held_out, "training"),
        split.of(is_validation, "validation"),
        split.of(is_held_out, HELD_OUT),
    )


def check_splits(training: LabelledSplit, *others: LabelledSplit) -> None:
    """Check that there is something to learn, and that the other splits can measure how well it was learned.

    Args:
        training: the calls to learn from.
        others: the validation calls and, if any, the held-out calls.

    Raises:
        TrainingDataError: a split is empty, two splits share customers, or there are fewer than two classes.
    """
    for split in (training, *others):
        if not len(split.rows):
            raise TrainingDataError(
                f"there is no {split.name} call; give more days, or change the shares of the customers in each split"
            )
    for one, other in combinations((training, *others), 2):
        customers, other_customers = (set(split.rows["customer_id"].to_pylist()) for split in (one, other))
        if shared := (customers & other_customers) - {None, ""}:
            raise TrainingDataError(
                f"{one.name} and {other.name} share {len(shared)} customers, so the accuracy on the {other.name} calls "
                "would be too high; split the calls by customer"
            )
    if len(training.counts) < MIN_CLASSES:
        raise TrainingDataError(
            f"the training calls have the intents {', '.join(training.counts)} only; it takes {MIN_CLASSES} or more"
        )


def keep_ready(batch: pa.Table) -> pa.Table:
    """Keep the prepared rows that are ready; embedded rows have no status and are all ready."""
    return batch.filter(pc.is_null(batch["status"])) if "status" in batch.schema.names else batch


def _read_day(root: str, date: dt.date, transcripts: Transcripts | None) -> pa.Table:
    return pa.Table.from_batches(iter_rows(root, date, transcripts))


def _select_columns(batch: pa.RecordBatch, root: str) -> pa.RecordBatch:
    columns = {name: batch.column(name) for name in COLUMNS if name in batch.schema.names}
    for name in ("customer_id", "language"):
        columns[name] = _as_text(columns.get(name, pa.nulls(len(batch), pa.string())))
    uris = columns["uri"].to_pylist()
    columns["uri"] = pa.array(
        [uri if not uri or storage.is_absolute(uri) else storage.join(root, uri) for uri in uris], pa.string()
    )
    return pa.record_batch([columns[name] for name in COLUMNS], names=list(COLUMNS))


def _as_text(values: pa.Array) -> pa.Array:
    if pa.types.is_nested(values.type):  # a list or struct names no customer or language
        return pa.nulls(len(values), pa.string())
    if pa.types.is_floating(values.type):  # pandas turns integers with nulls into floats; other days have integers
        values = pc.if_else(pc.is_nan(values), None, values).cast(pa.int64(), safe=False)
    return values.cast(pa.string())


def _hash_to_unit(customer: str, seed: int | str) -> float:
    """Map a customer to a number from 0 to 1, uniformly distributed and different for each seed."""
    digest = hashlib.blake2b(f"{seed}/{customer}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") / HASH_RANGE
