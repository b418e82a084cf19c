from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from msmtfn import storage
from msmtfn.errors import ModelError
from msmtfn.speech.models import (
    RecogniserConfig,
    choose_engine,
    fetch_recogniser,
    load_recogniser,
    recogniser_version,
)
from msmtfn.speech.recogniser import SAMPLE_RATE, Recogniser, Segment
from tests.speech.tiny import write_tiny_ctc, write_tiny_whisper


@pytest.fixture(scope="module")
def ctc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_ctc(tmp_path_factory.mktemp("ctc") / "model")


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_whisper(tmp_path_factory.mktemp("whisper") / "model")


def clips(*seconds: float) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [0.1 * generator.standard_normal(round(sec * SAMPLE_RATE)).astype(np.float32) for sec in seconds]


def load(folder: Path) -> Recogniser:
    return load_recogniser(folder, RecogniserConfig(), device="cpu", threads=1)


def check_times(segments: list[Segment], duration_sec: float) -> None:
    words = [word for segment in segments for word in segment.words]
    assert words
    assert all(0 <= word.start_sec <= word.end_sec <= duration_sec + 0.3 for word in words)
    assert [word.start_sec for word in words] == sorted(word.start_sec for word in words)
    assert all(0 < (word.confidence or 0) <= 1 for word in words)


def test_a_ctc_model_gives_words_with_times_alone_as_in_a_batch(ctc: Path) -> None:
    recogniser, (short, long) = load(ctc), clips(2.0, 4.0)
    together = recogniser.recognise([short, long], [None, "en"])
    for segments, clip in zip(together, (short, long), strict=True):
        check_times(segments, len(clip) / SAMPLE_RATE)
    (alone,) = recogniser.recognise([long], [None])
    assert [word.text for word in alone[0].words] == [word.text for word in together[1][0].words]
    assert recogniser.find_language(short) is None


def test_a_ctc_model_that_hears_blanks_writes_nothing(tmp_path: Path) -> None:
    recogniser = load(write_tiny_ctc(tmp_path / "model", blank_bias=1000.0))
    assert recogniser.recognise(clips(2.0), [None]) == [[]]


def test_whisper_in_transformers_gives_words_with_times(whisper: Path) -> None:
    recogniser = load(whisper)
    found = recogniser.recognise(clips(2.0, 3.0), ["zh", None])
    for segments, seconds in zip(found, (2.0, 3.0), strict=True):
        check_times(segments, seconds)
    assert recogniser.find_language(clips(2.0)[0]) in ("en", "zh")
    assert (recogniser.max_clip_sec, recogniser.fixed_clip_sec) == (30.0, 30.0)


def test_the_engine_follows_from_the_files_of_the_model(ctc: Path, tmp_path: Path) -> None:
    assert choose_engine(ctc, "auto") == "transformers"
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.bin").write_bytes(b"no weights")
    assert choose_engine(tmp_path, "auto") == "ctranslate2"
    with pytest.raises(ModelError, match="convert the model by ct2-transformers-converter"):
        choose_engine(ctc, "ctranslate2")


def test_broken_weights_are_one_model_error(tmp_path: Path) -> None:
    pytest.importorskip("faster_whisper", reason="needs the extra asr")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.bin").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(tmp_path)


def test_the_version_changes_with_the_content_and_not_with_the_folder(ctc: Path, tmp_path: Path) -> None:
    copy = write_tiny_ctc(tmp_path / "copy")
    assert recogniser_version(copy) == recogniser_version(ctc)
    (copy / "preprocessor_config.json").write_text("{}")
    assert recogniser_version(copy) != recogniser_version(ctc)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no recogniser"):
        recogniser_version(tmp_path)
    with pytest.raises(ModelError, match="is no folder"):
        fetch_recogniser(str(tmp_path / "no such folder"), tmp_path)


def test_a_recogniser_is_fetched_from_s3_without_what_could_be_code(ctc: Path, s3: str, tmp_path: Path) -> None:
    for file in ctc.glob("*.*"):
        storage.write_bytes(f"{s3}/asr/{file.name}", file.read_bytes())
    storage.write_bytes(f"{s3}/asr/modeling.py", b"raise SystemExit")
    folder = fetch_recogniser(f"{s3}/asr", tmp_path)
    assert recogniser_version(folder) == recogniser_version(ctc)
    assert not (folder / "modeling.py").exists()
