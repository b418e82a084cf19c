from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
import torch
from transformers import BertConfig, BertModel, HubertConfig, HubertModel, Wav2Vec2Config, Wav2Vec2Model

from msmtfn.cli import evaluate
from msmtfn.corpora.simulation.corpus import write_corpus
from msmtfn.corpora.simulation.plan import SimulationConfig
from msmtfn.leads.drift import read_distribution
from msmtfn.model.checkpoint import fetch_model, is_trained, load_model
from msmtfn.model.small import make_small_model
from tests.integration.job import ROOT

pytest.importorskip("espeakng_loader")

NUM_EPOCHS = 3
FEW_STEPS = ("--prosody-epochs", 1, "--batch-calls", 4)
OPTIONS = ("--max-epochs", NUM_EPOCHS, "--num-workers", 2, *FEW_STEPS)


def start_train(*arguments: object) -> subprocess.Popen[str]:
    """Start `train.py small` in its own process group, with its own Ray instance."""
    command = [sys.executable, str(ROOT / "jobs" / "train.py"), "small", *map(str, arguments)]
    return subprocess.Popen(
        command,
        env={**os.environ, "RAY_ADDRESS": "local"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run_train(*arguments: object) -> tuple[int, str]:
    """Run `train.py small`; return its exit code and output."""
    process = start_train(*arguments)
    output, _ = process.communicate(timeout=540)
    return process.returncode, output


def epochs_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()]


def wait_for_epochs(work: Path, number: int, process: subprocess.Popen[str]) -> None:
    """Wait until a run has completed a number of epochs."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        for file in work.glob("train-*/epochs.jsonl"):
            if len(file.read_text().splitlines()) >= number:
                return
        time.sleep(0.1)
    raise AssertionError(f"the run did not complete {number} epochs, exit code {process.poll()}")


def write_day(root: Path, date: str, rows: list[dict[str, Any]]) -> Path:
    folder = root / f"date={date}"
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "calls.parquet")
    return root


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small corpus of brief calls with one missing recording."""
    folder = tmp_path_factory.mktemp("corpus")
    config = SimulationConfig(calls=36, split=(26, 6, 4), brief=True, seed=7)
    write_corpus(folder, config, num_workers=1, report=lambda _: None)
    next((folder / "training" / "recordings").rglob("*.wav")).unlink()
    return folder


@pytest.fixture(scope="module")
def undisturbed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Train a model with two workers; return its folder and the job's output."""
    out = tmp_path_factory.mktemp("undisturbed") / "model"
    code, output = run_train("--corpus", corpus, "--out", out, *OPTIONS)
    assert code == 0, output
    return out, output


@pytest.mark.slow
@pytest.mark.long
def test_two_workers_write_a_model_with_a_card_and_distributions_of_its_data(undisturbed: tuple[Path, str]) -> None:
    out, _ = undisturbed
    model = load_model(out)
    card = (out / "README.md").read_text()
    assert is_trained(out)
    assert model.network.config.pooling == "max"
    assert "| training | 25 |" in card
    assert '"learning_rate"' in card
    distribution = read_distribution(out)
    assert {"duration_sec", "has_text", "language", "probability_A"} <= set(distribution)
    assert sum(distribution["duration_sec"].counts) == 25
    assert sum(distribution["probability_A"].counts) == 6


@pytest.mark.slow
@pytest.mark.long
def test_every_epoch_is_logged_and_the_learning_curves_are_plotted(undisturbed: tuple[Path, str]) -> None:
    out, _ = undisturbed
    assert [epoch["epoch"] for epoch in epochs_of(out)] == list(range(NUM_EPOCHS))
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.long
def test_the_output_reports_epochs_and_unusable_calls(undisturbed: tuple[Path, str]) -> None:
    _, output = undisturbed
    assert "1 calls cannot be learned from: {'audio_not_found': 1}" in output
    assert "2 workers start with epoch 0" in output
    assert all(f"epoch {number} in " in output for number in range(NUM_EPOCHS))


@pytest.mark.slow
@pytest.mark.long
def test_the_work_folder_is_removed_at_the_end(undisturbed: tuple[Path, str]) -> None:
    out, _ = undisturbed
    assert not out.with_name("model.work").exists()


@pytest.mark.slow
@pytest.mark.long
def test_an_existing_model_is_not_overwritten(undisturbed: tuple[Path, str], corpus: Path) -> None:
    out, _ = undisturbed
    code, output = run_train("--corpus", corpus, "--out", out)
    assert code == 2
    assert "holds a model already" in output


@pytest.mark.slow
def test_a_date_range_without_a_day_fails_before_training(tmp_path: Path) -> None:
    root = write_day(tmp_path / "m", "2026-03-01", [{"call_id": "a", "uri": "a.wav", "intent": "A"}])
    code, output = run_train("--manifests", root, "--from", "2026-04-01", "--out", tmp_path / "out")
    assert code == 1
    assert "has no day from 2026-04-01" in output.splitlines()[-1]


def test_a_label_outside_a_to_e_fails_before_training(tmp_path: Path) -> None:
    rows = [{"call_id": name, "uri": "a.wav", "intent": intent} for name, intent in (("a", "A"), ("b", "F"))]
    code, output = run_train("--manifests", write_day(tmp_path / "m", "2026-03-01", rows), "--out", tmp_path / "out")
    assert code == 1
    assert "intent outside A to E, the first is call b" in output


@pytest.mark.slow
def test_splits_that_share_customers_fail_before_training(tmp_path: Path) -> None:
    for split, date in (("training", "2026-03-01"), ("validation", "2026-03-02")):
        row = {"call_id": split, "uri": "a.wav", "intent": "A", "customer_id": "c-1"}
        write_day(tmp_path / "corpus" / split, date, [row])
    code, output = run_train("--corpus", tmp_path / "corpus", "--out", tmp_path / "out")
    assert code == 1
    assert "share 1 customers" in output


@pytest.mark.slow
def test_a_single_class_fails_before_training(tmp_path: Path) -> None:
    rows = [{"call_id": str(number), "uri": "a.wav", "intent": "A", "customer_id": str(number)} for number in range(60)]
    code, output = run_train("--manifests", write_day(tmp_path / "m", "2026-03-01", rows), "--out", tmp_path / "out")
    assert code == 1
    assert "intents A only" in output


@pytest.mark.slow
@pytest.mark.long
def test_after_a_killed_driver_the_same_command_resumes_with_the_same_losses(
    undisturbed: tuple[Path, str], corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    process = start_train("--corpus", corpus, "--out", out, *OPTIONS)
    wait_for_epochs(tmp_path / "model.work", 2, process)  # the first epoch has a checkpoint, the second perhaps
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    code, output = run_train("--corpus", corpus, "--out", out, *OPTIONS)
    assert code == 0, output
    assert any(f"2 workers start with epoch {number}" in output for number in (1, 2)), output
    assert "prosody, epoch" not in output  # the prosody is already trained
    check_same_losses(out, undisturbed[0])


@pytest.mark.slow
@pytest.mark.long
def test_after_a_killed_worker_training_resumes_with_the_same_losses(
    undisturbed: tuple[Path, str], corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    process = start_train("--corpus", corpus, "--out", out, *OPTIONS)
    wait_for_epochs(tmp_path / "model.work", 1, process)
    workers = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "RayTrainWorker" in " ".join(child.cmdline())
    ]
    workers[0].kill()
    output, _ = process.communicate(timeout=540)
    assert process.returncode == 0, output
    assert output.count("2 workers start with epoch") == 2
    check_same_losses(out, undisturbed[0])


@pytest.mark.slow
@pytest.mark.long
def test_a_loss_of_nan_fails_the_job_with_the_reason_and_writes_no_model(corpus: Path, tmp_path: Path) -> None:
    code, output = run_train("--corpus", corpus, "--out", tmp_path / "model", "--learning-rate", 1e30)
    assert code == 1
    assert "the loss is nan in epoch 0; try a smaller learning rate" in output.splitlines()[-1]
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
@pytest.mark.long
def test_frozen_encoders_run_once_and_keep_their_weights(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    options = ("--freeze-encoders", "--max-epochs", 2, "--work", tmp_path / "work", *FEW_STEPS)
    code, output = run_train("--corpus", corpus, "--out", out, *options)
    assert code == 0, output
    assert "prosody, epoch 0 in" in output
    assert "training: 25 calls embedded in" in output
    before, after = make_small_model(0).network.state_dict(), load_model(out).network.state_dict()
    changed = {name.partition(".")[0] for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert changed == {"audio_encoder", "context", "fusion", "heads"}  # the audio encoder by its prosody training
    assert len(list((tmp_path / "work").glob("train-*/training-embedded-*/*.parquet"))) > 0


@pytest.mark.slow
@pytest.mark.long
def test_corpus_work_folder_and_registry_may_all_be_on_s3(corpus: Path, s3: str, tmp_path: Path) -> None:
    root, filesystem = f"{s3}/{uuid.uuid4().hex}", s3fs.S3FileSystem()
    filesystem.put(str(corpus), f"{root}/corpus", recursive=True)
    command = ("--corpus", f"{root}/corpus", "--register", f"{root}/models", "--max-epochs", 2, *FEW_STEPS)
    code, output = run_train(*command)
    assert code == 0, output
    assert "v0001 passed" in output
    folder = tmp_path / "model"
    folder.mkdir()
    assert is_trained(fetch_model(f"{root}/models/current", folder))
    assert len(filesystem.cat(f"{root}/models/v0001/epochs.jsonl").splitlines()) == 2
    assert not [name for name in filesystem.find(f"{root}/models/_work") if "train-" in name]
    code, output = run_train(*command)
    assert code == 0, output
    assert "registered already" in output


@pytest.mark.slow
def test_a_network_with_a_wav2vec2_frontend_is_trained_by_one_command(corpus: Path, tmp_path: Path) -> None:
    folders = write_encoders(tmp_path)
    out = tmp_path / "model"
    command = [sys.executable, str(ROOT / "jobs" / "train.py"), "paper", "--corpus", str(corpus), "--out", str(out)]
    encoders = ["--audio-encoder", folders["hubert"], "--text-encoder", folders["bert"]]
    network = {
        "audio-frontend": "wav2vec2",
        "frontend-encoder": folders["wav2vec2"],
        "encoder-sample-rate": "4000",
        "pooling": "mean",
        "hidden-size": "32",
        "num-attention-heads": "2",
        "feed-forward-size": "64",
        "num-cross-layers": "1",
        "max-round-sec": "2",
        "max-text-tokens": "20",
    }
    settings = [part for name, value in network.items() for part in (f"--network.{name}", value)]
    options = ["--max-epochs", "1", "--augment", "none", "--batch-calls", "8"]
    environment = {**os.environ, "RAY_ADDRESS": "local"}
    command += [*encoders, *settings, *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=540, check=False)
    assert done.returncode == 0, done.stderr
    model = load_model(out)
    assert (model.network.config.audio_frontend, model.network.config.pooling) == ("wav2vec2", "mean")
    convolutions = model.network.audio_encoder.model.feature_extractor.state_dict()  # the recipe freezes them
    expected = Wav2Vec2Model.from_pretrained(folders["wav2vec2"]).feature_extractor.state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in convolutions.items())
    assert f'"frontend_encoder": "{folders["wav2vec2"]}"' in (out / "README.md").read_text()


@pytest.mark.slow
def test_mmml_is_trained_and_evaluated_by_the_same_commands(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folders, out, report = write_encoders(tmp_path), tmp_path / "model", tmp_path / "report"
    command = [sys.executable, str(ROOT / "jobs" / "train.py"), "mmml", "--corpus", str(corpus), "--out", str(out)]
    network = {"max-round-sec": 2, "max-text-tokens": 20, "hidden-size": 24, "num-attention-heads": 2}
    network |= {"feed-forward-size": 96, "num-cross-layers": 1, "first-head-size": 16, "second-head-size": 8}
    command += [part for name, value in network.items() for part in (f"--network.{name}", str(value))]
    command += ["--audio-encoder", folders["hubert"], "--text-encoder", folders["bert"], "--max-epochs", "1"]
    environment = {**os.environ, "RAY_ADDRESS": "local"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=540, check=False)
    assert done.returncode == 0, done.stderr
    assert load_model(out).network.config.model_type == "mmml"
    assert "the mean over its rounds" in (out / "README.md").read_text()
    arguments = ["--model", out, "--corpus", corpus, "--out", report, "--split", "validation"]
    assert evaluate.main("evaluate.py", list(map(str, arguments))) == 0, caplog.text
    metrics = json.loads((report / "metrics.json").read_text())
    assert (metrics["scored"], metrics["network"]) == (6, "MMML")
    assert "the mean over its rounds" in metrics["about_rounds"]


def write_encoders(folder: Path) -> dict[str, str]:
    """Write a tiny HuBERT, BERT with its tokenizer, and wav2vec 2.0."""
    folders = {name: str(folder / name) for name in ("hubert", "bert", "wav2vec2")}
    sizes: dict[str, Any] = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    sound: dict[str, Any] = {"hidden_size": 24, "conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, **sizes}
    sound["num_conv_pos_embedding_groups"] = 2
    HubertModel(HubertConfig(**sound)).save_pretrained(folders["hubert"])
    Wav2Vec2Model(Wav2Vec2Config(**sound)).save_pretrained(folders["wav2vec2"])
    small = make_small_model(0)
    text = BertConfig(hidden_size=24, vocab_size=small.network.config.text.vocab_size, **sizes)
    BertModel(text).save_pretrained(folders["bert"])
    small.tokenizer.save_pretrained(folders["bert"])
    return folders


def check_same_losses(model: Path, reference: Path) -> None:
    """Check that the losses of every epoch are close to a reference run; the assignment of calls to workers varies."""
    for name in ("training_loss", "validation_loss"):
        expected = [epoch[name] for epoch in epochs_of(reference)]
        assert [epoch[name] for epoch in epochs_of(model)] == pytest.approx(expected, rel=0.05)
