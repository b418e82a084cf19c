from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from msmtfn.corpora.published.corpus import CorpusFormatError
from msmtfn.corpora.published.meld import parse_time, read_meld
from tests.corpora.published.layouts import meld_row, write_csv, write_meld

REAL = Path(__file__).parents[4] / "shared" / "meld"


def test_a_dialogue_is_a_conversation_in_the_order_of_the_ids_which_may_have_gaps(tmp_path: Path) -> None:
    write_meld(tmp_path)
    corpus = read_meld(tmp_path)
    utterances = corpus.conversations[0].utterances

    assert [(each.name, each.speaker) for each in utterances] == [
        ("0", "speaker_1"),
        ("1", "speaker_2"),
        ("3", "speaker_2"),
    ]
    assert utterances[2].labels == {"utterances": "3", "emotion": "anger", "sentiment": "negative"}
    assert utterances[2].text == "No\u2019, wait"
    assert [each.length_sec for each in utterances] == [2.5, None, 2.5]


def test_clips_of_equal_names_belong_to_the_split_of_their_folder(tmp_path: Path) -> None:
    write_meld(tmp_path)
    corpus = read_meld(tmp_path)
    clips = {call.call_id: call.utterances[0].clip for call in corpus.conversations}
    assert {call_id: clip and clip.parent.name for call_id, clip in clips.items()} == {
        "train-dia0": "train_splits",
        "dev-dia0": "dev_splits_complete",
        "test-dia0": "output_repeated_splits_test",
    }
    assert corpus.folds[""] == {"train-dia0": "training", "dev-dia0": "validation", "test-dia0": "test"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("00:14:38,127", 878.127), ("0:10:44,769", 644.769), ("00:06:47,28", 407.28), ("14:38", None), ("", None)],
)
def test_times_have_one_or_two_digits_of_hours(text: str, seconds: float | None) -> None:
    assert parse_time(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"Emotion": "bliss"}, "has the Emotion 'bliss'"), ({"Sentiment": "0"}, "has the Sentiment '0'")],
)
def test_an_unknown_label_is_an_error(tmp_path: Path, fields: dict[str, str], message: str) -> None:
    write_meld(tmp_path)
    write_csv(tmp_path / "dev_sent_emo.csv", [meld_row(0, 0, "Ross", **fields)])
    with pytest.raises(CorpusFormatError, match=message):
        read_meld(tmp_path)


def test_a_missing_table_is_an_error(tmp_path: Path) -> None:
    write_meld(tmp_path)
    (tmp_path / "dev_sent_emo.csv").unlink()
    with pytest.raises(CorpusFormatError, match=r"has 0 files dev_sent_emo\.csv"):
        read_meld(tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason="MELD's tables are not here")
def test_the_real_tables_have_the_published_numbers() -> None:
    corpus = read_meld(REAL)
    utterances = [each for call in corpus.conversations for each in call.utterances]

    assert corpus.differences == []
    assert len(utterances) == 13_708
    assert Counter(each.labels["emotion"] for each in utterances)["neutral"] == 4710 + 470 + 1256
    ids = [[int(each.name) for each in call.utterances] for call in corpus.conversations]
    assert sum(numbers != list(range(len(numbers))) for numbers in ids) == 72 + 2 + 2
    assert all(numbers == sorted(numbers) for numbers in ids)
    assert [each.length_sec for each in utterances].count(None) == 1  # test, dialogue 155, utterance 3
