from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile as sf
from transformers import AutoConfig, AutoModel

import msmtfn
from msmtfn import CallClassifier, MsmtFn, MsmtFnConfig, Turn, load_model
from msmtfn.calls.conversation import ConversationConfig
from msmtfn.calls.manifest import iter_calls, open_manifest
from msmtfn.errors import ModelError
from msmtfn.features.prepare import PrepareConfig, Preparer
from msmtfn.inference.scorer import Scorer, ScorerConfig
from msmtfn.labels import TASKS
from msmtfn.leads.schema import parts_schema
from msmtfn.model.calibration import Calibration
from msmtfn.model.checkpoint import Model, save_model, weights_digest
from tests.integration.job import DATE, write_manifest

RATE = 8000
TURNS = [
    {"speaker": "agent", "start_sec": 0.0, "end_sec": 1.0, "text": "a b"},
    {"speaker": "customer", "start_sec": 1.2, "end_sec": 2.0, "text": "c"},
    {"speaker": "agent", "start_sec": 2.0, "end_sec": 2.5, "text": "d d"},
]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Model:
    return load_model(tiny_model)


@pytest.fixture(scope="module")
def classifier(model: Model) -> CallClassifier:
    return CallClassifier(model, config=ScorerConfig(device="cpu"))


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Three seconds in two channels."""
    path = tmp_path / "call.wav"
    sf.write(path, 0.1 * np.random.default_rng(0).standard_normal((3 * RATE, 2)), RATE)
    return path


def test_a_file_is_scored_as_the_nightly_job_scores_it(
    classifier: CallClassifier, model: Model, recording: Path
) -> None:
    root = write_manifest(
        recording.parent, [{"call_id": "c", "uri": str(recording), "turns": TURNS, "agent_channel": 0}]
    )
    (batch,) = iter_calls(open_manifest(str(root), DATE))
    preparer = Preparer(PrepareConfig(), model.processor, str(root))
    prepared = preparer.prepare_batch(pa.Table.from_batches([batch]), ["row_id", "call_id"])
    schema = parts_schema([pa.field("call_id", pa.string())])
    (row,) = Scorer(model.network, ScorerConfig(device="cpu")).score_batch(prepared, schema).to_pylist()
    score = classifier.score_file(recording, turns=TURNS, agent_channel=0)
    assert (score.intent, score.lead_score) == (row["intent_predicted"], row["lead_score"])
    assert score.probabilities == {task: row[task] for task in TASKS}
    assert [{"start_sec": start, "end_sec": end} for start, end in score.rounds] == row["rounds"]
    assert list(score.prediction_set) == row["prediction_set"]
    assert [asdict(each) for each in score.evidence] == [
        each | {"change": pytest.approx(each["change"])} for each in row["evidence"]
    ]
    assert len(score.evidence) == len(score.rounds) == 2
    assert score.facts is not None
    assert asdict(score.facts) == pytest.approx(row["facts"])
    assert score.unranked_reason == row["unranked_reason"]
    assert score.duration_sec == row["duration_sec"] == 3.0
    assert score.error_code is None


def test_samples_are_scored_as_the_file_that_holds_them(classifier: CallClassifier, recording: Path) -> None:
    samples, rate = sf.read(recording, dtype="int16")
    from_file = classifier.score_file(recording, TURNS, 0)
    assert classifier.score_waveform(samples.T, rate, TURNS, 0) == from_file
    assert classifier.score_waveform((samples.T / 32768).astype(np.float32), rate, TURNS, 0) == from_file
    turns = [Turn(turn["speaker"], turn["start_sec"], turn["end_sec"], turn["text"]) for turn in TURNS]  # type: ignore[arg-type]
    assert classifier.score_waveform(samples.T, rate, turns, 0) == from_file


def test_files_are_scored_in_order_and_a_bad_one_says_why(classifier: CallClassifier, recording: Path) -> None:
    broken = recording.with_name("broken.wav")
    broken.write_bytes(recording.read_bytes()[:30])
    link = recording.with_name("link.wav")
    link.symlink_to(recording)
    scores = classifier.score_files([recording, broken, recording.with_name("none.wav"), link])
    assert [score.error_code for score in scores] == [None, "audio_unreadable", "audio_not_found", None]
    alone = classifier.score_file(str(recording))
    for score in (scores[0], scores[3]):  # in a batch, numbers are the same to rounding
        assert (score.intent, score.prediction_set, score.rounds) == (alone.intent, alone.prediction_set, alone.rounds)
        assert score.lead_score == pytest.approx(alone.lead_score, abs=1e-3)
        assert score.probabilities["five"] == pytest.approx(alone.probabilities["five"], abs=1e-6)
    assert (scores[1].intent, scores[1].lead_score, scores[1].probabilities, scores[1].rounds) == (None, None, {}, ())
    assert scores[1].error_detail


def test_the_calibration_of_the_model_is_applied(model: Model, recording: Path) -> None:
    config = ScorerConfig(device="cpu")
    plain, flat = (
        CallClassifier(replace(model, calibration=calibration), config=config).score_file(recording)
        for calibration in (Calibration(), Calibration(temperature=20.0, set_threshold=1.0))
    )
    assert max(flat.probabilities["five"].values()) < max(plain.probabilities["five"].values())
    assert sorted(flat.prediction_set) == list("ABCDE")


def test_turns_that_break_the_contract_say_so(classifier: CallClassifier, recording: Path) -> None:
    score = classifier.score_file(recording, turns=[{"speaker": "boss", "start_sec": 0, "end_sec": 1, "text": ""}])
    assert score.error_code == "bad_row"
    assert classifier.score_file(recording, agent_channel=7).error_code == "bad_row"


@pytest.mark.parametrize("waveform", [np.zeros((3, 100)), np.zeros(100, np.int32), np.zeros((2, 2, 2))])
def test_an_array_that_is_no_waveform_is_refused(classifier: CallClassifier, waveform: np.ndarray) -> None:
    with pytest.raises(ValueError, match="waveform has the"):
        classifier.score_waveform(waveform, RATE)


def test_the_network_stays_as_it_is_and_can_be_saved(model: Model, recording: Path, tmp_path: Path) -> None:
    before = weights_digest(model.network)
    first = CallClassifier(model, config=ScorerConfig(device="cpu", precision="bf16")).score_file(recording)
    again = CallClassifier(model, config=ScorerConfig(device="cpu", precision="bf16")).score_file(recording)
    assert first == again
    assert weights_digest(model.network) == before
    save_model(model.network, model.tokenizer, tmp_path / "saved", "# Saved\n")
    assert weights_digest(load_model(tmp_path / "saved").network) == before


def test_the_demo_is_a_model_and_what_is_none_is_told(recording: Path) -> None:
    score = CallClassifier.from_pretrained("demo", device="cpu").score_file(recording)
    assert score.intent in TASKS["five"]
    assert all(sum(each.values()) == pytest.approx(1) for each in score.probabilities.values())
    with pytest.raises(ModelError, match="no/such/folder"):
        CallClassifier.from_pretrained("/no/such/folder")


def test_transformers_knows_the_network(tiny_model: Path) -> None:
    assert isinstance(AutoConfig.from_pretrained(tiny_model), MsmtFnConfig)
    assert isinstance(AutoModel.from_pretrained(tiny_model), MsmtFn)


def test_the_public_names_are_there_and_imported_on_first_use() -> None:
    program = (
        "import sys, msmtfn; print('torch' in sys.modules or 'transformers' in sys.modules); "
        "msmtfn.Turn; print('msmtfn.calls.rounds' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["False", "True"]
    assert all(hasattr(msmtfn, name) for name in msmtfn.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = msmtfn.nothing  # type: ignore[attr-defined]


def test_a_call_that_nobody_should_ring_about_says_why(model: Model, recording: Path) -> None:
    alone = [{"speaker": "agent", "start_sec": 0.0, "end_sec": 2.0, "text": "a b"}]
    config = ScorerConfig(device="cpu", max_refusal_probability=0.0)
    strict = CallClassifier(model, config=config, conversation=ConversationConfig(min_customer_sec=0.5))
    assert strict.score_file(recording, alone, 0).unranked_reason == "no_conversation"
    score = strict.score_file(recording, TURNS, 0)
    assert score.unranked_reason == "refused"  # D is never less probable than 0
    assert score.facts is not None
    # 1 s and 0.5 s of the agent, 0.8 s of the customer
    assert score.facts.agent_talk_share == pytest.approx(1.5 / 2.3)


def test_a_recording_that_cannot_be_read_has_no_facts(classifier: CallClassifier, tmp_path: Path) -> None:
    score = classifier.score_file(tmp_path / "missing.wav")
    assert (score.facts, score.unranked_reason) == (None, None)
