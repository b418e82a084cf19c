from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf

from msmtfn.calls.audio import AudioConfig, decode_recording
from msmtfn.calls.checks import parse_turns
from msmtfn.calls.fetch import fetch_recording
from msmtfn.calls.manifest import iter_calls, open_manifest
from msmtfn.calls.rounds import RoundsConfig, find_rounds
from msmtfn.corpora.published.corpus import CorpusFormatError, PublishedCorpus
from msmtfn.corpora.published.emodb import read_emodb
from msmtfn.corpora.published.importing import DATES, import_corpus
from msmtfn.corpora.published.market_calls import read_market_calls
from msmtfn.corpora.published.meld import read_meld
from msmtfn.corpora.published.sentiment import read_mosi
from msmtfn.errors import UsageError
from tests.corpora.published.layouts import (
    CLIP_SEC,
    RATE,
    pitch,
    write_emodb,
    write_market_calls,
    write_meld,
    write_sentiment,
)

REAL_EMODB = Path(__file__).parents[4] / "shared" / "emodb"


def run(corpus: PublishedCorpus, out: Path, *, text_only: bool = False) -> dict[str, Any]:
    return import_corpus(corpus, out, text_only=text_only, num_workers=2, report=lambda _: None)


def rows_of(root: Path) -> dict[str, dict[str, Any]]:
    """Rows of a split's manifest by call."""
    manifest = open_manifest(str(root), DATES[root.name])
    return {row["call_id"]: row for batch in iter_calls(manifest) for row in batch.to_pylist()}


def rounds_of(row: Mapping[str, Any], root: Path, unit: Any, prefixes: tuple[str, ...] = ()) -> list[tuple[float, str]]:
    """Pitch and text of each round, as the jobs would cut the call."""
    data = fetch_recording(row["uri"], str(root), prefixes, 10**9)
    recording = decode_recording(data, sample_rate=RATE, config=AudioConfig(), name=row["uri"])
    config = RoundsConfig(round_unit=unit)
    rounds = find_rounds(recording.channels, RATE, parse_turns(row["turns"]), row["agent_channel"], config)
    samples = recording.channels[0]
    return [(pitch(samples[round(r.start_sec * RATE) : round(r.end_sec * RATE)]), r.text) for r in rounds]


def test_the_utterances_of_a_video_are_the_rounds_of_a_call(tmp_path: Path) -> None:
    write_sentiment(tmp_path / "in")
    success = run(read_mosi(tmp_path / "in"), tmp_path / "out")
    row = rows_of(tmp_path / "out" / "training")["vid-A"]

    assert row["sentiment"] == [3.0, -1.25]
    assert row["utterances"] == ["2", "10"]
    assert row["intent"] is None
    rounds = rounds_of(row, tmp_path / "out" / "training", "turn")
    assert [text for _, text in rounds] == ['GOOD MOVIE, "very" good', "valid words"]
    assert [frequency for frequency, _ in rounds] == pytest.approx([200, 100], abs=3)  # AAC delays by part of a frame
    assert success["splits"] == {"": {"training": 2, "validation": 1, "test": 1}}
    assert success["utterances"] == {"broken": 1, "imported": 5, "missing": 1}
    assert json.loads((tmp_path / "out" / "_SUCCESS").read_text()) == success


def test_labels_stay_with_their_utterances_where_a_clip_cannot_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_meld(tmp_path / "in")
    (tmp_path / "in" / "train" / "train_splits" / "dia0_utt1.mp4").write_bytes(b"broken")
    with caplog.at_level(logging.WARNING):
        success = run(read_meld(tmp_path / "in"), tmp_path / "out")
    row = rows_of(tmp_path / "out" / "training")["train-dia0"]

    assert (row["utterances"], row["emotion"]) == (["0", "3"], ["joy", "anger"])
    assert [turn["speaker"] for turn in row["turns"]] == ["speaker_1", "speaker_2"]
    assert [frequency for frequency, _ in rounds_of(row, tmp_path / "out" / "training", "turn")] == pytest.approx(
        [100, 400], abs=3
    )
    assert success["utterances"]["unreadable"] == 1
    assert "train-dia0, utterance 1 is left out" in caplog.text
    assert "MELD: 3 training utterances are here, 9,989 were published" in caplog.text
    assert "words" not in caplog.text


def test_text_alone_has_silence_as_long_as_the_utterances(tmp_path: Path) -> None:
    write_meld(tmp_path / "in")
    run(read_meld(tmp_path / "in"), tmp_path / "out", text_only=True)
    row = rows_of(tmp_path / "out" / "training")["train-dia0"]
    samples, rate = sf.read(tmp_path / "out" / "training" / row["uri"])

    lengths = [turn["end_sec"] - turn["start_sec"] for turn in row["turns"]]
    assert lengths == pytest.approx([2.5, len("words 1") / 15, 2.5], abs=1e-4)
    assert len(samples) == pytest.approx(sum(lengths) * rate)
    assert not samples.any()


def test_a_sales_call_keeps_its_intent_and_its_customer(tmp_path: Path) -> None:
    write_market_calls(tmp_path / "in")
    success = run(read_market_calls(tmp_path / "in"), tmp_path / "out")
    splits = {split: rows_of(tmp_path / "out" / split) for split in ("training", "validation", "test")}
    customers = [{row["customer_id"] for row in rows.values()} for rows in splits.values()]

    assert success["splits"][""] == {"training": 16, "validation": 2, "test": 2}
    assert sum(map(len, customers)) == len(set.union(*customers)) == 10
    rows = {call_id: row for split in splits.values() for call_id, row in split.items()}
    assert rows["call-0002"]["intent"] == "B"
    assert [turn["end_sec"] for turn in rows["call-0002"]["turns"]] == [CLIP_SEC, 2 * CLIP_SEC]
    names = [str(path) for path in (tmp_path / "out").rglob("*")]
    assert not any("1390000" in name for name in names)


def test_the_folds_share_their_recordings(tmp_path: Path) -> None:
    write_emodb(tmp_path / "in")
    run(read_emodb(tmp_path / "in"), tmp_path / "out")
    root = tmp_path / "out" / "speaker-08" / "test"
    rows = rows_of(root)

    assert {call_id: row["emotion"] for call_id, row in rows.items()} == {"08a01Wa": "anger", "08b10Nb": "neutral"}
    ((frequency, text),) = rounds_of(rows["08a01Wa"], root, "exchange", (str(tmp_path / "out" / "recordings"),))
    assert (round(frequency), text) == (200, "Der Lappen liegt auf dem Eisschrank.")
    assert len(list((tmp_path / "out").rglob("*.flac"))) == 8


def test_an_import_continues_and_does_nothing_the_second_time(tmp_path: Path) -> None:
    write_emodb(tmp_path / "in")
    first = run(read_emodb(tmp_path / "in"), tmp_path / "out")
    (tmp_path / "out" / "_SUCCESS").unlink()
    assert run(read_emodb(tmp_path / "in"), tmp_path / "out") == first
    for recording in (tmp_path / "out" / "recordings").iterdir():
        recording.unlink()
    assert run(read_emodb(tmp_path / "in"), tmp_path / "out") == first
    assert not list((tmp_path / "out" / "recordings").iterdir())
    with pytest.raises(UsageError, match="something other than this corpus"):
        run(read_emodb(tmp_path / "in"), tmp_path / "out", text_only=True)


def test_a_corpus_without_clips_is_an_error(tmp_path: Path) -> None:
    write_meld(tmp_path / "in")
    for clip in (tmp_path / "in").rglob("*.mp4"):
        clip.unlink()
    with pytest.raises(CorpusFormatError, match=r"5 utterances without a clip .* import with --text-only"):
        run(read_meld(tmp_path / "in"), tmp_path / "out")


@pytest.mark.slow
@pytest.mark.skipif(not REAL_EMODB.is_dir(), reason="EmoDB is not here")
def test_the_whole_of_emodb_is_imported(tmp_path: Path) -> None:
    success = run(read_emodb(REAL_EMODB), tmp_path)

    assert success["utterances"] == {"imported": 535}
    assert success["differences"] == []
    assert [sum(sizes.values()) for sizes in success["splits"].values()] == [535] * 10
    assert sum(sizes["test"] for sizes in success["splits"].values()) == 535
    seconds = {path: sf.info(path).duration for path in (tmp_path / "recordings").iterdir()}
    assert len(seconds) == 535
    assert 0.5 < min(seconds.values()) <= max(seconds.values()) < 10  # one sentence each
