"""The labelled calls of training: found in manifests, checked before anything runs, split by customer.

What can be wrong with them ends the job here, with a message, and not in the middle of an epoch.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from msmtfn import storage
from msmtfn.calls.manifest import iter_calls, open_manifest
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
    """The calls of one side of the split.

    Attributes:
        name: training, validation or test.
        rows: of the manifests, with `COLUMNS`; every uri stands for itself.
        dates: of the calls' days.
        root: of the manifests.
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
        """Calls of each intent that occurs."""
        return dict(sorted(Counter(self.rows["intent"].to_pylist()).items()))

    def fingerprint(self) -> str:
        """Of the rows, 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for column in self.rows.drop_columns([ROW_ID]).columns:
            digest.update(repr(column.to_pylist()).encode())
        return digest.hexdigest()[:16]

    def of(self, keep: npt.NDArray[np.bool_], name: str) -> LabelledSplit:
        """Some of the rows, under another name."""
        return LabelledSplit(name, self.rows.filter(pa.array(keep)), self.dates, self.root)


def find_days(root: str, first: dt.date | None = None, last: dt.date | None = None) -> list[dt.date]:
    """The days that have a folder in a root of manifests, in order.

    Raises:
        TrainingDataError: none lies between the two dates, both included.
    """
    days = storage.list_days(storage.absolute(root))
    chosen = [day for day in days if (first is None or day >= first) and (last is None or day <= last)]
    if not chosen:
        held = f"it has {days[0]} to {days[-1]}" if days else "it has no folder date=YYYY-MM-DD"
        asked = f" from {first or 'the first'} to {last or 'the last'}"
        raise TrainingDataError(f"{root} has no day{asked}; {held}; check the place and the dates")
    return chosen


def read_labelled(name: str, root: str, dates: Sequence[dt.date]) -> LabelledSplit:
    """Read the labelled calls of some days; those without a label are left out.

    Raises:
        TrainingDataError: a label is none of A to E, or no call has one.
        ManifestError: a manifest cannot be read.
    """
    tables = [_read_day(root, date) for date in dates]
    rows = pa.concat_tables(tables)
    rows = rows.set_column(0, ROW_ID, pa.array(np.arange(len(rows))))
    broken = rows.filter(pc.is_valid(rows["row_error"]))
    if len(broken):
        logger.warning("%s: %d rows without an id of their own are left out", name, len(broken))
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


def split_by_customer(
    split: LabelledSplit, validation_share: float, seed: int, held_out_share: float = 0.0
) -> tuple[LabelledSplit, LabelledSplit, LabelledSplit]:
    """Split calls in training, validation and held-out ones, all calls of a customer on one side.

    A customer's side follows from their id and the seed alone, so it is the same next week, with more calls. Who is
    held out does not depend on the seed, so that no model of any seed has learned from them. A call without a customer
    is its own.
    """
    customers = [
        customer or call_id
        for customer, call_id in zip(
            split.rows["customer_id"].to_pylist(), split.rows["call_id"].to_pylist(), strict=True
        )
    ]
    is_held_out = np.array([_place(customer, HELD_OUT) < held_out_share for customer in customers])
    is_validation = ~is_held_out & np.array([_place(customer, seed) < validation_share for customer in customers])
    return (
        split.of(~is_validation & ~is_held_out, "training"),
        split.of(is_validation, "validation"),
        split.of(is_held_out, HELD_OUT),
    )


def check_splits(training: LabelledSplit, *others: LabelledSplit) -> None:
    """See that there is something to learn, and that the other calls say how well it was learned.

    Args:
        training: the calls to learn from.
        others: the validation calls, and those that are held out, if any.

    Raises:
        TrainingDataError: a side is empty, two share customers, or there are fewer than two classes.
    """
    for split in (training, *others):
        if not len(split.rows):
            raise TrainingDataError(
                f"there is no {split.name} call; give more days, or other shares of the customers for each side"
            )
    for one, other in combinations((training, *others), 2):
        known, asked = (set(split.rows["customer_id"].to_pylist()) for split in (one, other))
        if shared := (known & asked) - {None, ""}:
            raise TrainingDataError(
                f"{one.name} and {other.name} share {len(shared)} customers, so the {other.name} calls would praise "
                "what is known by heart; split the calls by customer"
            )
    if len(training.counts) < MIN_CLASSES:
        raise TrainingDataError(
            f"the training calls have the intents {', '.join(training.counts)} only; it takes {MIN_CLASSES} or more"
        )


def keep_ready(batch: pa.Table) -> pa.Table:
    """Of prepared rows those that are ready; embedded ones all are."""
    return batch.filter(pc.is_null(batch["status"])) if "status" in batch.schema.names else batch


def _read_day(root: str, date: dt.date) -> pa.Table:
    manifest = open_manifest(root, date)
    nothing = pa.RecordBatch.from_pylist([], schema=manifest.schema)  # a day may have no call
    return pa.Table.from_batches(_chosen(batch, manifest.root) for batch in chain([nothing], iter_calls(manifest)))


def _chosen(batch: pa.RecordBatch, root: str) -> pa.RecordBatch:
    columns = {name: batch.column(name) for name in COLUMNS if name in batch.schema.names}
    for name in ("customer_id", "language"):
        columns[name] = _as_text(columns.get(name, pa.nulls(len(batch), pa.string())))
    uris = columns["uri"].to_pylist()
    columns["uri"] = pa.array(
        [uri if not uri or storage.is_absolute(uri) else storage.join(root, uri) for uri in uris], pa.string()
    )
    return pa.record_batch([columns[name] for name in COLUMNS], names=list(COLUMNS))


def _as_text(values: pa.Array) -> pa.Array:
    if pa.types.is_nested(values.type):  # whatever it is, it is no name
        return pa.nulls(len(values), pa.string())
    if pa.types.is_floating(values.type):  # how pandas keeps integers beside nulls, and another day has them plain
        values = pc.if_else(pc.is_nan(values), None, values).cast(pa.int64(), safe=False)
    return values.cast(pa.string())


def _place(customer: str, seed: int | str) -> float:
    """A number from 0 to 1 of a customer's own."""
    digest = hashlib.blake2b(f"{seed}/{customer}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") / HASH_RANGE
