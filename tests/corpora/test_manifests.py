from __future__ import annotations

import datetime
from pathlib import Path

from msmtfn.calls.manifest import iter_calls, open_manifest
from msmtfn.corpora.manifests import CALLS, opening_time, write_manifest

DATE = datetime.date(2026, 3, 2)


def test_a_manifest_is_read_back_as_written(tmp_path: Path) -> None:
    turns = [{"speaker": "agent", "start_sec": 0.5, "end_sec": 1.5, "text": "您好。"}]
    write_manifest(tmp_path, DATE, [{"call_id": "a", "uri": "a.wav", "turns": turns, "intent": "B"}], CALLS)

    (batch,) = iter_calls(open_manifest(str(tmp_path), DATE))
    (row,) = batch.to_pylist()
    assert (row["call_id"], row["uri"], row["turns"], row["intent"]) == ("a", "a.wav", turns, "B")
    assert row["row_error"] is row["started_at"] is None


def test_the_call_centre_opens_at_nine_in_china() -> None:
    china = datetime.timezone(datetime.timedelta(hours=8))
    assert opening_time(DATE).astimezone(china) == datetime.datetime(2026, 3, 2, 9, tzinfo=china)
