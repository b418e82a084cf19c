"""Published transcripts as the turns of a day's calls: they fill in where the manifest has none.

A transcript belongs to a call if both have the same `call_id` and the same `uri`. Turns that are in the manifest win.
The published files are in the order of the manifest: each is read about once, and one is in memory at a time.
"""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from msmtfn import storage
from msmtfn.calls.columns import INTERPRETED
from msmtfn.daily.publish import day_folder, read_success
from msmtfn.errors import JobError, PublishError
from msmtfn.speech.transcript import HEARD_TURN
from msmtfn.storage.untrusted import inside

TURNS: pa.DataType = INTERPRETED.field("turns").type


@dataclass(frozen=True, slots=True)
class Transcripts:
    """Transcripts of all days.

    Attributes:
        root: root of the transcripts.
    """

    root: str

    def open_day(self, date: dt.date) -> DayTranscripts:
        """Open the transcripts of a day.

        Raises:
            JobError: they are not published, or are not transcripts.
        """
        root = storage.absolute(self.root)
        success = read_success(root, date)
        if success is None:
            raise JobError(
                f"the transcripts of {date} are not published in {self.root}; run transcribe-daily first, or give "
                "--recogniser to score-daily"
            )
        folder = day_folder(root, date)
        files = tuple(inside(root, folder.rpartition("/")[2], name) for name in success.files)
        return DayTranscripts(files, f"{success.run_id}-{success.publication}")


@dataclass(frozen=True)
class DayTranscripts:
    """Transcripts of one day.

    Attributes:
        files: the published files.
        fingerprint: identity of the publication.
    """

    files: tuple[str, ...]
    fingerprint: str
    read: Callable[[int], pa.Table] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Keep the file that was read last."""
        object.__setattr__(self, "read", functools.lru_cache(maxsize=1)(lambda number: _read_turns(self.files[number])))

    @functools.cached_property
    def places(self) -> dict[tuple[str, str], tuple[int, int]]:
        """File and row of each transcript, by call_id and uri; about 200 MB per million calls."""
        places: dict[tuple[str, str], tuple[int, int]] = {}
        for number, file in enumerate(self.files):
            keys = _read_columns(file, ["call_id", "uri"])
            pairs = zip(keys["call_id"].to_pylist(), keys["uri"].to_pylist(), strict=True)
            for row, pair in enumerate(pairs):
                places.setdefault(pair, (number, row))
        return places

    def fill(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield batches of a manifest with turns for the calls that have none of their own."""
        for batch in batches:
            turns = batch.column("turns")
            has_own = pc.fill_null(pc.greater(pc.list_value_length(turns), 0), False).to_pylist()
            pairs = zip(batch.column("call_id").to_pylist(), batch.column("uri").to_pylist(), strict=True)
            wanted = [None if own else self.places.get(pair) for own, pair in zip(has_own, pairs, strict=True)]
            filled = pa.concat_arrays([self._turns_at(wanted), turns.cast(TURNS)])
            chosen = [row if place is not None else len(wanted) + row for row, place in enumerate(wanted)]
            yield batch.set_column(batch.schema.get_field_index("turns"), "turns", filled.take(pa.array(chosen)))

    def _turns_at(self, places: list[tuple[int, int] | None]) -> pa.Array:
        """Return the turns at some places, null where there is no place."""
        arrays: list[pa.Array] = []
        order: dict[int, int] = {}
        offset = 0
        for number in sorted({place[0] for place in places if place is not None}):
            rows = [row for row, place in enumerate(places) if place is not None and place[0] == number]
            table = self.read(number)
            arrays.append(table["turns"].take(pa.array([places[row][1] for row in rows])).combine_chunks())  # type: ignore[index]
            order |= {row: offset + index for index, row in enumerate(rows)}
            offset += len(rows)
        everything = pa.concat_arrays([*arrays, pa.nulls(1, TURNS)])
        return everything.take(pa.array([order.get(row, offset) for row in range(len(places))]))


def _read_turns(file: str) -> pa.Table:
    """Read the turns of a file in the form of the manifest's, without confidences."""
    table = _read_columns(file, ["turns"])
    if table.schema.field("turns").type != pa.list_(HEARD_TURN):
        raise PublishError(f"{file} holds no transcripts; check --transcripts")
    names = [each.name for each in TURNS.value_type]
    columns = []
    for chunk in table["turns"].chunks:
        flat = chunk.flatten()
        struct = pa.StructArray.from_arrays([flat.field(name) for name in names], fields=list(TURNS.value_type))
        lengths = pc.fill_null(pc.list_value_length(chunk), 0)
        offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(lengths).cast(pa.int32())])
        columns.append(pa.ListArray.from_arrays(offsets, struct, mask=chunk.is_null()))
    return pa.table({"turns": pa.chunked_array(columns, TURNS)})


def _read_columns(file: str, columns: list[str]) -> pa.Table:
    try:
        with storage.open_for_reading(file) as handle:
            return pq.read_table(handle, columns=columns)
    except (pa.ArrowException, OSError, KeyError) as exc:
        raise PublishError(
            f"{file} cannot be read as transcripts ({type(exc).__name__}); check --transcripts, or transcribe the day "
            "again with --force"
        ) from exc
