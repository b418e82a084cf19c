"""`jobs/evaluate.py`, as a separate process like a user's, or by its `main` in this process, which starts faster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from msmtfn.cli import evaluate
from msmtfn.corpora.simulation.corpus import write_corpus
from msmtfn.corpora.simulation.plan import SimulationConfig
from msmtfn.model.checkpoint import load_model, model_version, save_model
from msmtfn.model.small import make_small_model
from tests.integration.job import DATE, write_manifest, write_short_calls

pytest.importorskip("espeakng_loader")

ROOT = Path(__file__).parents[2]
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
NUM_TEST_CALLS = 8


RunMain = Callable[..., tuple[int, str]]


@pytest.fixture
def run_main(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> RunMain:
    """Return a function that runs the job in this process and returns its exit code and last log message."""

    def run(*arguments: object) -> tuple[int, str]:
        code = evaluate.main("evaluate.py", list(map(str, arguments)))
        return code, caplog.messages[-1]

    return run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    config = SimulationConfig(calls=20, split=(10, 2, NUM_TEST_CALLS), brief=True)
    write_corpus(folder, config, num_workers=1, report=lambda _: None)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    small = make_small_model(0)
    save_model(small.network, small.tokenizer, folder, "# Small\n")
    return folder


def read_metrics(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return content


@pytest.mark.slow
def test_a_corpus_is_evaluated_and_compared_with_its_ceilings(corpus: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    command = [sys.executable, "jobs/evaluate.py", *map(str, ["--model", model, "--corpus", corpus, "--out", out])]
    job = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert job.returncode == 0, job.stderr
    assert "never trained" in job.stderr
    for text in ("accuracy", "macro F1", "ECE", "ceiling", "text", "audio", "both", "(91.3)", f"{NUM_TEST_CALLS} of 8"):
        assert text in job.stdout

    metrics = read_metrics(out)
    assert (metrics["labelled"], metrics["scored"], metrics["rejected"]) == (NUM_TEST_CALLS, NUM_TEST_CALLS, {})
    assert metrics["model_version"] == model_version(model)
    ceilings = json.loads((corpus / "ceilings.json").read_text())
    assert metrics["ceilings"]["best_possible"] == ceilings["best_possible"]
    assert metrics["ceilings"]["best_reader_of_split"] == ceilings["best_reader_of"]["test"]

    rows = pq.read_table(out / "predictions.parquet").to_pylist()
    hits = sum(row["intent"] == row["intent_predicted"] for row in rows)
    assert metrics["tasks"]["five"]["accuracy"] == pytest.approx(hits / NUM_TEST_CALLS)
    for name in ("confusions.png", "reliability.png"):
        assert (out / name).read_bytes().startswith(PNG_SIGNATURE)


def test_manifests_are_evaluated_with_shuffled_audio_and_a_reject(
    model: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    write_short_calls(tmp_path / "short", 3)
    rows = [
        {"call_id": f"call-{index}", "uri": str(tmp_path / "short" / f"call-00{index}.wav"), "intent": "A"}
        for index in range(4)  # the last has no recording
    ]
    options = ["--manifests", write_manifest(tmp_path / "in", rows), "--from", DATE, "--out", tmp_path / "out"]
    options += ["--allowed-prefixes", tmp_path / "short"]
    code, _ = run_main("--model", model, *options, "--shuffle", "audio")
    assert code == 0
    output = capsys.readouterr().out
    assert "audio_not_found 1" in output
    assert "shuffled audio" in " ".join(output.split())
    assert "ceiling" not in output
    metrics = read_metrics(tmp_path / "out")
    assert (metrics["scored"], metrics["rejected"]) == (3, {"audio_not_found": 1})
    assert (metrics["shuffle"], metrics["ceilings"], metrics["dates"]) == ("audio", None, [str(DATE)])


@pytest.mark.slow
@pytest.mark.long
def test_two_ablations_are_trained_and_evaluated_once(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--seeds", 3, "--only", "text-only", "no-silence", "--max-epochs", 1, "--prosody-epochs", 1]
    command = [
        sys.executable,
        "jobs/evaluate.py",
        *map(str, ["--ablations", "--corpus", corpus, "--out", out, *options]),
    ]
    environment = {**os.environ, "RAY_ADDRESS": "local"}

    def run() -> str:
        job = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=540, check=False
        )
        assert job.returncode == 0, job.stderr
        return job.stderr

    log = run()
    assert "run 2 of 2: no-silence, seed 3" in log
    assert not (out / "work").exists()
    rows = pq.read_table(out / "ablations.parquet").to_pylist()
    assert [(row["variant"], row["seed"], row["scored"], row["epochs"]) for row in rows] == [
        ("text-only", 3, NUM_TEST_CALLS, 1),
        ("no-silence", 3, NUM_TEST_CALLS, 1),
    ]
    text, both = rows
    assert text["accuracy_five_audio_shuffled"] is None
    assert both["accuracy_five_audio_shuffled"] is not None
    table = (out / "ablations.md").read_text()
    for name in ("text-only", "no-silence", "ceiling: both"):
        assert f"| {name} |" in table

    kept = out / "runs" / "no-silence-3" / "model"
    assert load_model(kept).network.config.silence == "remove"
    assert model_version(kept) == both["model_version"]

    again = run()
    assert "run 1 of 2" not in again
    assert "run 2 of 2" not in again
    assert (out / "ablations.md").read_text() == table


class TestErrors:
    """Errors: the job ends with an exit code and one line that says what to do."""

    def test_a_missing_model_fails_the_job(self, corpus: Path, tmp_path: Path, run_main: RunMain) -> None:
        code, message = run_main("--model", tmp_path / "nothing", "--corpus", corpus, "--out", tmp_path / "out")
        assert code == 1
        assert "is no folder; give a model's folder" in message

    def test_a_missing_split_fails_the_job(self, corpus: Path, model: Path, tmp_path: Path, run_main: RunMain) -> None:
        code, message = run_main("--model", model, "--corpus", corpus, "--split", "dev", "--out", tmp_path / "out")
        assert code == 1
        assert "has no split dev; it has test, training, validation" in message

    @pytest.mark.parametrize(("intent", "problem"), [("F", "outside A to E"), (None, "has an intent")])
    def test_missing_or_invalid_labels_fail_the_job(
        self, model: Path, tmp_path: Path, run_main: RunMain, intent: str | None, problem: str
    ) -> None:
        manifests = write_manifest(tmp_path / "in", [{"call_id": "a", "uri": "a.wav", "intent": intent}])
        code, message = run_main("--model", model, "--manifests", manifests, "--out", tmp_path / "out")
        assert code == 1
        assert problem in message
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        "options",
        [
            [],
            ["--corpus", "a", "--manifests", "b"],
            ["--manifests", "b", "--split", "x"],
            ["--corpus", "a", "--from", str(DATE)],
        ],
    )
    def test_conflicting_inputs_are_a_usage_error(self, tmp_path: Path, run_main: RunMain, options: list[str]) -> None:
        code, message = run_main("--model", tmp_path, "--out", tmp_path / "out", *options)
        assert code == 2
        assert "--manifests" in message

    @pytest.mark.parametrize(
        "arguments", [["--out", "o", "--corpus", "c"], ["--ablations", "--out", "o", "--corpus", "c", "--model", "m"]]
    )
    def test_a_model_is_required_without_ablations_and_refused_with_them(
        self, run_main: RunMain, arguments: list[str]
    ) -> None:
        code, _ = run_main(*arguments)
        assert code == 2

    def test_duplicate_seeds_are_a_usage_error(self, tmp_path: Path, run_main: RunMain) -> None:
        code, message = run_main("--ablations", "--corpus", tmp_path, "--out", tmp_path / "out", "--seeds", 1, 1)
        assert code == 2
        assert "--seeds are (1, 1)" in message

    def test_an_unknown_kind_of_shuffling_is_a_usage_error(self, tmp_path: Path, run_main: RunMain) -> None:
        code, _ = run_main("--model", tmp_path, "--out", tmp_path, "--corpus", tmp_path, "--shuffle", "order")
        assert code == 2
