from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from transformers import AutoProcessor, BertTokenizer

import msmtfn  # noqa: F401 - registers the processor
from msmtfn.calls.activity import ActivityConfig
from msmtfn.calls.audio import AudioConfig
from msmtfn.errors import CallError, ModelError, UsageError
from msmtfn.features.prepare import PrepareConfig, Preparer
from msmtfn.features.processor import CallProcessor
from msmtfn.features.processor_config import ActivityOptions, ProcessorConfig, read_processor_config
from msmtfn.inference.calibration import calibrate
from msmtfn.inference.classifier import CallClassifier
from msmtfn.inference.scorer import ScorerConfig
from msmtfn.model.calibration import Calibration
from msmtfn.model.checkpoint import SHARED_SETTINGS, load_model
from msmtfn.model.config import MsmtFnConfig
from msmtfn.model.network import MsmtFn

RATE = 8000
TURNS = [
    {"speaker": "agent", "start_sec": 0.0, "end_sec": 1.0, "text": "a b"},
    {"speaker": "agent", "start_sec": 1.5, "end_sec": 2.0, "text": ""},
    {"speaker": "customer", "start_sec": 1.2, "end_sec": 1.4, "text": "c"},
]
CLS, SEP, A, B, C = 2, 3, 5, 6, 7  # ids of the tiny tokenizer
UNUSUAL = ActivityConfig(open_db=20.0, crosstalk_db=float("inf"))


@pytest.fixture
def processor(tiny_tokenizer: BertTokenizer) -> CallProcessor:
    return CallProcessor(tiny_tokenizer, ProcessorConfig(max_round_sec=2.0, max_text_tokens=20, activity=UNUSUAL))


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Two seconds in two channels of 16 bits, louder in the second one."""
    path = tmp_path / "call.wav"
    sf.write(path, np.random.default_rng(0).integers(-3000, 3000, (2 * RATE, 2)).astype(np.int16), RATE)
    return path


# ---- inputs of the network


def test_a_call_becomes_the_arguments_of_the_network(processor: CallProcessor, recording: Path) -> None:
    inputs = processor(recording, TURNS, agent_channel=0)
    assert inputs["rounds_per_call"] == [2]
    assert inputs["num_samples"].tolist() == [12000, 4000]  # from the agent's turn at 0 s to that at 1.5 s, to 2 s
    assert inputs["waveforms"].shape == (2, 12000)
    assert not inputs["waveforms"][1, 4000:].any()
    assert inputs["num_tokens"].tolist() == [5, 0]
    assert inputs["input_ids"].tolist() == [[CLS, A, B, C, SEP], [0] * 5]


def test_the_network_gives_a_processed_call_the_scores_of_the_classifier(tiny_model: Path, recording: Path) -> None:
    processor, network = CallProcessor.from_pretrained(tiny_model), MsmtFn.from_pretrained(tiny_model)
    with torch.inference_mode():
        logits = network.train(False)(**processor(recording, TURNS, 0)).logits
    classifier = CallClassifier(load_model(tiny_model), config=ScorerConfig(device="cpu", precision="fp32"))
    score = classifier.score_file(recording, TURNS, 0)
    expected = calibrate({task: torch.softmax(values, dim=1).numpy() for task, values in logits.items()}, Calibration())
    for task, probabilities in score.probabilities.items():
        assert list(probabilities.values()) == pytest.approx(expected[task][0].tolist(), abs=1e-5)


def test_a_path_its_bytes_and_its_samples_give_the_same_inputs(processor: CallProcessor, recording: Path) -> None:
    from_path = processor.process(recording, TURNS, 0)
    samples, rate = sf.read(recording, dtype="int16")
    for given, sample_rate in ((str(recording), None), (recording.read_bytes(), None), (samples.T, rate)):
        call = processor.process(given, TURNS, 0, sample_rate=sample_rate)
        assert (call.rounds, call.input_ids, call.round_samples) == (
            from_path.rounds,
            from_path.input_ids,
            from_path.round_samples,
        )
        np.testing.assert_array_equal(call.samples, from_path.samples)


def test_a_call_without_text_has_no_tokens(processor: CallProcessor, recording: Path) -> None:
    inputs = processor(recording)
    assert (inputs["num_tokens"].tolist(), inputs["input_ids"].tolist()) == ([0], [[0]])


def test_what_is_no_call_is_refused(processor: CallProcessor, recording: Path) -> None:
    with pytest.raises(CallError, match="no file"):
        processor(recording.with_name("none.wav"))
    with pytest.raises(CallError, match="the limit is 1 s"):
        processor.process(recording, limits=AudioConfig(max_duration_sec=1.0))
    with pytest.raises(ValueError, match="sample_rate is missing"):
        processor(np.zeros(RATE, np.int16))


# ---- the file


@pytest.mark.parametrize("load", [CallProcessor.from_pretrained, AutoProcessor.from_pretrained])
def test_a_processor_is_saved_and_loaded(
    load: Callable[..., CallProcessor], processor: CallProcessor, recording: Path, tmp_path: Path
) -> None:
    processor.save_pretrained(tmp_path / "saved")
    loaded = load(tmp_path / "saved")
    assert type(loaded) is CallProcessor
    assert loaded.config == processor.config
    assert loaded(recording, TURNS)["input_ids"].tolist() == processor(recording, TURNS)["input_ids"].tolist()


@pytest.mark.parametrize("load", [CallProcessor.from_pretrained, AutoProcessor.from_pretrained])
def test_the_processor_of_an_older_folder_comes_from_the_networks_configuration(
    load: Callable[..., CallProcessor], tiny_model: Path, tmp_path: Path
) -> None:
    for file in tiny_model.iterdir():
        if file.name != "processor_config.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    assert load(tmp_path).config == ProcessorConfig(max_round_sec=2.0, max_text_tokens=20)


@pytest.mark.parametrize("content", ["no JSON", "[]", '{"activity": {"loudness": 1}}', '{"activity": {"open_db": -1}}'])
def test_a_broken_file_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "processor_config.json").write_text(content)
    with pytest.raises(ModelError, match=r"^processor_config\.json of .* cannot be read"):
        read_processor_config(tmp_path)


def test_a_folder_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has neither processor_config\.json nor config\.json"):
        CallProcessor.from_pretrained(tmp_path)


def test_a_setting_of_a_later_version_is_ignored(processor: CallProcessor) -> None:
    content = json.loads(json.dumps(processor.config.to_dict()))
    assert ProcessorConfig.from_dict(content | {"later": 1}) == processor.config


# ---- defaults and options


def test_the_defaults_are_those_of_the_network() -> None:
    network, processor = MsmtFnConfig(), ProcessorConfig()
    assert {name: getattr(processor, name) for name in SHARED_SETTINGS} == {
        name: getattr(network, name) for name in SHARED_SETTINGS
    }
    assert processor.max_round_samples == network.max_round_samples == 320_000


def test_options_that_were_given_replace_those_of_the_model(processor: CallProcessor) -> None:
    def used_with(**options: Any) -> ActivityConfig:
        prepare = PrepareConfig(activity=ActivityOptions(**options))
        return Preparer(prepare, processor, "/").processor.config.activity

    assert used_with() == UNUSUAL
    assert used_with(max_gap_sec=1.0) == replace(UNUSUAL, max_gap_sec=1.0)
    assert used_with(open_db=15.0) == replace(UNUSUAL, open_db=15.0)
    assert used_with(open_db=12.0) == replace(UNUSUAL, open_db=12.0)  # the default of a model, but not this model's
    assert processor.config.activity == UNUSUAL


def test_an_option_that_does_not_go_with_the_models_thresholds_is_wrong_usage(processor: CallProcessor) -> None:
    with pytest.raises(UsageError, match=r"--open-db 5 cannot be used .* close_db is 6\.0; it must be between 1 and 5"):
        processor.with_options(ActivityOptions(open_db=5.0))


def test_the_options_have_the_names_of_the_thresholds() -> None:
    assert [each.name for each in fields(ActivityOptions)] == [each.name for each in fields(ActivityConfig)]


def test_an_option_that_was_not_given_stands_in_a_runs_identity_as_its_default_always_did() -> None:
    assert PrepareConfig().identity()["activity"] == asdict(ActivityConfig())
    assert PrepareConfig().identity().keys() == {each.name for each in fields(PrepareConfig)}
    repeated = PrepareConfig(activity=ActivityOptions(open_db=12.0)).identity()
    assert repeated != PrepareConfig().identity()
