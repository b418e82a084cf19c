from __future__ import annotations

from pathlib import Path

import pytest

from msmtfn.corpora.published.corpus import CorpusFormatError
from msmtfn.corpora.published.sentiment import BROKEN, read_mosei, read_mosi
from tests.corpora.published.layouts import write_csv, write_sentiment

ROW = {"video_id": "v", "clip_id": "1", "text": "a", "label": "1.0", "mode": "train"}


def test_a_video_is_a_conversation_of_its_clips_in_order(tmp_path: Path) -> None:
    write_sentiment(tmp_path)
    corpus = read_mosi(tmp_path)
    first = next(each for each in corpus.conversations if each.call_id == "vid-A")

    assert [each.name for each in first.utterances] == ["2", "10"]
    assert [each.labels["sentiment"] for each in first.utterances] == [3.0, -1.25]
    assert first.utterances[0].text == 'GOOD MOVIE, "very" good'
    assert first.utterances[0].clip == tmp_path / "Raw" / "vid-A" / "2.mp4"
    assert corpus.folds[""] == {
        "vid-A": "training",
        "94ULum9MYX0": "training",
        "_vidB": "validation",
        "vidC": "test",
    }


def test_the_broken_clips_are_left_out(tmp_path: Path) -> None:
    write_sentiment(tmp_path)
    corpus = read_mosei(tmp_path)
    broken = next(each for each in corpus.conversations if each.call_id == "94ULum9MYX0")

    assert [each.name for each in broken.utterances] == ["3"]
    assert corpus.num_broken == 1
    assert len(BROKEN) == 6


def test_numbers_that_differ_from_the_published_ones_are_named(tmp_path: Path) -> None:
    write_sentiment(tmp_path)
    assert read_mosi(tmp_path).differences == [
        "CMU-MOSI: 2 training videos are here, 52 were published",
        "CMU-MOSI: 1 validation videos are here, 10 were published",
        "CMU-MOSI: 1 test videos are here, 31 were published",
    ]
    assert read_mosei(tmp_path).differences[0] == "CMU-MOSEI: 2 training videos are here, 2,249 were published"


def test_a_recording_is_preferred_to_the_video(tmp_path: Path) -> None:
    for suffix in (".mp4", ".wav"):
        write_sentiment(tmp_path, suffix)
    utterances = [each for call in read_mosi(tmp_path).conversations for each in call.utterances]
    assert {each.clip.suffix for each in utterances if each.clip} == {".wav"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW | {"label": "3.5"}], "has the label '3.5'; it must be a number from -3 to 3"),
        ([ROW | {"label": "nan"}], "it must be a number"),
        ([ROW | {"mode": "dev"}], "has the mode 'dev'; it must be train, valid, test"),
        ([ROW | {"clip_id": "1.5"}], "has clip_id '1.5', which is no whole number"),
        ([ROW | {"video_id": "../v"}], "has the id '../v', which is no file name"),
        ([ROW, ROW], "has clip 1 of v twice"),
        ([ROW, ROW | {"clip_id": "2", "mode": "test"}], "v is in training and in test"),
        ([{"video_id": "v"}], "has no column 'clip_id'"),
    ],
)
def test_another_layout_is_an_error_with_its_cure(tmp_path: Path, rows: list[dict[str, str]], message: str) -> None:
    write_csv(tmp_path / "label.csv", rows)
    with pytest.raises(CorpusFormatError, match=message):
        read_mosi(tmp_path)


def test_a_folder_without_labels_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusFormatError, match=r"label\.csv cannot be read"):
        read_mosi(tmp_path)
