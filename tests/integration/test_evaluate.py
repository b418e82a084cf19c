"""`jobs/evaluate.py`: once as a person runs it, in a process of its own, then its `main` alone, which starts sooner."""

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
    """Run the job in this process; the results are its exit code and its last message."""

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
def test_a_corpus_is_judged_beside_its_ceilings(corpus: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    command = [sys.executable, "jobs/evaluate.py", *map(str, ["--model", model, "--corpus", corpus, "--out", out])]
    job = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert job.returncode == 0, job.stderr
    assert "never trained" in job.stderr
    for said in ("accuracy", "macro F1", "ECE", "ceiling", "text", "audio", "both", "(91.3)", f"{NUM_TEST_CALLS} of 8"):
        assert said in job.stdout

    found = read_metrics(out)
    assert (found["labelled"], found["scored"], found["rejected"]) == (NUM_TEST_CALLS, NUM_TEST_CALLS, {})
    assert found["model_version"] == model_version(model)
    ceilings = json.loads((corpus / "ceilings.json").read_text())
    assert found["ceilings"]["best_possible"] == ceilings["best_possible"]
    assert found["ceilings"]["best_reader_of_split"] == ceilings["best_reader_of"]["test"]

    rows = pq.read_table(out / "predictions.parquet").to_pylist()
    hits = sum(row["intent"] == row["intent_predicted"] for row in rows)
    assert found["tasks"]["five"]["accuracy"] == pytest.approx(hits / NUM_TEST_CALLS)
    for name in ("confusions.png", "reliability.png"):
        assert (out / name).read_bytes().startswith(PNG_SIGNATURE)


def test_days_of_manifests_with_shuffled_audio_and_a_reject(
    model: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    write_short_calls(tmp_path / "short", 3)
    rows = [
        {"call_id": f"call-{index}", "uri": str(tmp_path / "short" / f"call-00{index}.wav"), "intent": "A"}
        for index in range(4)  # the last has no recording
    ]
    places = ["--manifests", write_manifest(tmp_path / "in", rows), "--from", DATE, "--out", tmp_path / "out"]
    places += ["--allowed-prefixes", tmp_path / "short"]
    code, _ = run_main("--model", model, *places, "--shuffle", "audio")
    assert code == 0
    shown = capsys.readouterr().out
    assert "audio_not_found 1" in shown
    assert "shuffled audio" in " ".join(shown.split())
    assert "ceiling" not in shown
    found = read_metrics(tmp_path / "out")
    assert (found["scored"], found["rejected"]) == (3, {"audio_not_found": 1})
    assert (found["shuffle"], found["ceilings"], found["dates"]) == ("audio", None, [str(DATE)])


@pytest.mark.slow
@pytest.mark.long
def test_ablations_of_two_variants(corpus: Path, tmp_path: Path) -> None:
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

    said = run()
    assert "run 2 of 2: no-silence, seed 3" in said
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
    """Each ends with its exit code and one line that tells what to do."""

    def test_a_model_that_is_not_there(self, corpus: Path, tmp_path: Path, run_main: RunMain) -> None:
        code, said = run_main("--model", tmp_path / "nothing", "--corpus", corpus, "--out", tmp_path / "out")
        assert code == 1
        assert "is no folder; give a model's folder" in said

    def test_a_corpus_without_that_split(self, corpus: Path, model: Path, tmp_path: Path, run_main: RunMain) -> None:
        code, said = run_main("--model", model, "--corpus", corpus, "--split", "dev", "--out", tmp_path / "out")
        assert code == 1
        assert "has no split dev; it has test, training, validation" in said

    @pytest.mark.parametrize(("intent", "problem"), [("F", "outside A to E"), (None, "has an intent")])
    def test_calls_without_a_label_or_with_another(
        self, model: Path, tmp_path: Path, run_main: RunMain, intent: str | None, problem: str
    ) -> None:
        manifests = write_manifest(tmp_path / "in", [{"call_id": "a", "uri": "a.wav", "intent": intent}])
        code, said = run_main("--model", model, "--manifests", manifests, "--out", tmp_path / "out")
        assert code == 1
        assert problem in said
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        "places",
        [
            [],
            ["--corpus", "a", "--manifests", "b"],
            ["--manifests", "b", "--split", "x"],
            ["--corpus", "a", "--from", str(DATE)],
        ],
    )
    def test_places_that_do_not_go_together(self, tmp_path: Path, run_main: RunMain, places: list[str]) -> None:
        code, said = run_main("--model", tmp_path, "--out", tmp_path / "out", *places)
        assert code == 2
        assert "--manifests" in said

    @pytest.mark.parametrize(
        "arguments", [["--out", "o", "--corpus", "c"], ["--ablations", "--out", "o", "--corpus", "c", "--model", "m"]]
    )
    def test_a_model_goes_without_ablations_and_only_so(self, run_main: RunMain, arguments: list[str]) -> None:
        with pytest.raises(SystemExit) as stop:
            run_main(*arguments)
        assert stop.value.code == 2

    def test_seeds_that_there_are_not(self, tmp_path: Path, run_main: RunMain) -> None:
        code, said = run_main("--ablations", "--corpus", tmp_path, "--out", tmp_path / "out", "--seeds", 1, 1)
        assert code == 2
        assert "--seeds are (1, 1)" in said

    def test_a_kind_of_shuffling_that_there_is_not(self, tmp_path: Path, run_main: RunMain) -> None:
        with pytest.raises(SystemExit) as stop:
            run_main("--model", tmp_path, "--out", tmp_path, "--corpus", tmp_path, "--shuffle", "order")
        assert stop.value.code == 2
