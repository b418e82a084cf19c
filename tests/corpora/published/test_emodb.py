from __future__ import annotations

from pathlib import Path

import pytest

from msmtfn.corpora.published.corpus import CorpusFormatError
from msmtfn.corpora.published.emodb import read_emodb
from tests.corpora.published.layouts import write_emodb

REAL = Path(__file__).parents[4] / "shared" / "emodb"


def test_the_name_of_a_recording_tells_speaker_sentence_and_emotion(tmp_path: Path) -> None:
    write_emodb(tmp_path)
    corpus = read_emodb(tmp_path)
    last = corpus.conversations[-1]

    assert last.call_id == "10b10Nb"
    assert last.columns == {"language": "de", "customer_id": "speaker-10", "emotion": "neutral"}
    assert last.utterances[0].text == "Die wird auf dem Platz sein, wo wir sie immer hinlegen."
    assert len(corpus.conversations) == 8


def test_each_speaker_is_the_test_of_one_fold_and_the_next_one_its_validation(tmp_path: Path) -> None:
    write_emodb(tmp_path)
    folds = read_emodb(tmp_path).folds

    assert list(folds) == ["speaker-03", "speaker-08", "speaker-09", "speaker-10"]
    for test, validation in (("03", "08"), ("08", "09"), ("09", "10"), ("10", "03")):
        assert {name[:2]: split for name, split in folds[f"speaker-{test}"].items()} == {
            speaker: {test: "test", validation: "validation"}.get(speaker, "training")
            for speaker in ("03", "08", "09", "10")
        }


def test_a_folder_without_recordings_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusFormatError, match=r"recordings of 0 speakers, such as 03a01Fa\.wav or \.flac"):
        read_emodb(tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason="EmoDB is not here")
def test_the_real_corpus_has_the_published_numbers() -> None:
    corpus = read_emodb(REAL)
    assert corpus.differences == []
    assert len(corpus.conversations) == 535
    assert all(call.utterances[0].clip for call in corpus.conversations)
