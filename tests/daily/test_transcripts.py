from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from msmtfn import storage
from msmtfn.calls.manifest import iter_calls, open_manifest
from msmtfn.daily.day import count_done, plan_day
from msmtfn.daily.publish import PARTS_FOLDER, publish_day
from msmtfn.daily.tables import DayTable, order_by_row, without_row_id
from msmtfn.daily.transcripts import Transcripts
from msmtfn.daily.work import default_work, run_folder
from msmtfn.errors import JobError, PublishError
from msmtfn.speech.transcript import PARTS
from tests.calls.manifests import DATE, turn, write
from tests.daily.parts import RECORD, publish, scored
from tests.daily.plain_graph import PlainGraph

HEARD = {"speaker": "speaker_1", "start_sec": 0.5, "end_sec": 1.5, "text": "heard", "confidence": 0.75}
FILLED = {"speaker": "speaker_1", "start_sec": 0.5, "end_sec": 1.5, "text": "heard"}


def table(rows_per_file: int = 2) -> DayTable:
    return DayTable("transcripts", "transcribed", rows_per_file, (), order_by_row, without_row_id)


def publish_transcripts(root: Path, *rows: dict[str, Any], date: dt.date = DATE) -> None:
    run = run_folder(default_work(str(root)), "run-1")
    storage.make_folder(storage.join(run, PARTS_FOLDER))
    numbered = [{"row_id": number, "status": "transcribed", **row} for number, row in enumerate(rows)]
    part = pa.Table.from_pylist(numbered[::-1], schema=PARTS)
    storage.write_parquet(storage.join(run, PARTS_FOLDER, "0.parquet"), part)
    publish_day(str(root), date, run, PARTS, len(rows), replace(RECORD, date=date), kind=table())


def filled(manifests: Path, transcripts: Path) -> list[Any]:
    batches = iter_calls(open_manifest(str(manifests), DATE))
    day = Transcripts(str(transcripts)).open_day(DATE)
    return [turns for batch in day.fill(batches) for turns in batch.column("turns").to_pylist()]


def heard(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "call_id": f"c{number}",
        "uri": f"c{number}.wav",
        "turns": [{**HEARD, "text": f"heard {number}"}],
        **changes,
    }


def write_calls(root: Path, number: int, turns: list[Any] | None = None) -> None:
    columns: dict[str, Any] = {
        "call_id": [f"c{each}" for each in range(number)],
        "uri": [f"c{each}.wav" for each in range(number)],
    }
    write(root, {**columns, "turns": turns} if turns is not None else columns)


def test_transcripts_are_published_in_the_order_of_the_manifest(tmp_path: Path) -> None:
    publish_transcripts(tmp_path, *(heard(number) for number in range(5)))
    files = sorted(path.name for path in (tmp_path / f"date={DATE}").glob("*.parquet"))
    assert [name.partition("-")[0] for name in files] == ["transcripts"] * 3
    assert [name[-13:] for name in files] == ["00000.parquet", "00001.parquet", "00002.parquet"]
    rows = [row for name in files for row in pa.parquet.read_table(tmp_path / f"date={DATE}" / name).to_pylist()]
    assert [row["call_id"] for row in rows] == ["c0", "c1", "c2", "c3", "c4"]


def test_calls_without_turns_get_those_of_their_transcript(tmp_path: Path) -> None:
    write_calls(tmp_path / "calls", 5)
    publish_transcripts(tmp_path / "heard", *(heard(number) for number in (3, 0, 4, 1)), heard(2, turns=None))
    assert filled(tmp_path / "calls", tmp_path / "heard") == [
        None if number == 2 else [{**FILLED, "text": f"heard {number}"}] for number in range(5)
    ]


def test_turns_of_the_manifest_win_and_empty_ones_do_not(tmp_path: Path) -> None:
    own = [[turn(text="own")], [], None]
    write_calls(tmp_path / "calls", 3, own)
    publish_transcripts(tmp_path / "heard", *(heard(number) for number in range(3)))
    assert filled(tmp_path / "calls", tmp_path / "heard") == [
        [turn(text="own")],
        [{**FILLED, "text": "heard 1"}],
        [{**FILLED, "text": "heard 2"}],
    ]


def test_a_transcript_of_another_recording_under_the_same_id_is_not_taken(tmp_path: Path) -> None:
    write_calls(tmp_path / "calls", 2)
    publish_transcripts(tmp_path / "heard", heard(0, uri="other.wav"), heard(1))
    assert [turns is None for turns in filled(tmp_path / "calls", tmp_path / "heard")] == [True, False]


def test_a_day_that_is_not_transcribed_is_an_error_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"are not published in .*; run transcribe-daily first"):
        Transcripts(str(tmp_path)).open_day(DATE)


def test_leads_are_not_taken_for_transcripts(tmp_path: Path) -> None:
    write_calls(tmp_path / "calls", 1)
    publish(str(tmp_path / "leads"), [[scored(0, 50.0)]])
    with pytest.raises(PublishError, match="check --transcripts"):
        filled(tmp_path / "calls", tmp_path / "leads")


def test_a_day_scored_with_other_transcripts_is_another_run(tmp_path: Path) -> None:
    write_calls(tmp_path / "calls", 1)
    runs = []
    for text in ("one", "other"):
        publish_transcripts(tmp_path / "heard", heard(0, turns=[{**HEARD, "text": text}]))
        plan = plan_day(
            DATE,
            str(tmp_path / "calls"),
            str(tmp_path / "leads"),
            PlainGraph(),
            transcripts=Transcripts(str(tmp_path / "heard")),
        )
        assert count_done(plan) == 0
        runs.append(plan.run_id)
    runs.append(plan_day(DATE, str(tmp_path / "calls"), str(tmp_path / "leads"), PlainGraph()).run_id)
    assert len(set(runs)) == 3
