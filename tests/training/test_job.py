"""The training job called from Python; `tests/integration/test_train.py` trains with the command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import msmtfn
from msmtfn import storage
from msmtfn.errors import TrainingDataError, UsageError
from msmtfn.model.location import read_current
from msmtfn.registry.records import Decision, GateConfig
from msmtfn.registry.versions import add_version, write_decision
from msmtfn.training.job import (
    TRAINING_CONFIGS,
    TrainingJob,
    _clean_up,
    _initial_model,
    _read_splits,
    _start_fingerprint,
)
from msmtfn.training.trainer import fingerprint


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    """Write a manifest of 40 customers' calls, whose recordings are missing."""
    folder = tmp_path / "manifests" / "date=2026-03-01"
    folder.mkdir(parents=True)
    rows = [
        {"call_id": f"{number}", "uri": "a.wav", "intent": "AB"[number % 2], "customer_id": f"c-{number}"}
        for number in range(40)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "calls.parquet")
    return folder.parent


def run_name(job: TrainingJob) -> str:
    """Return the name under which a job's run is registered."""
    model, _ = _initial_model(job)
    return f"train-{fingerprint(_read_splits(job), _start_fingerprint(job, model), job.training)}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either --out or --register"),
        ({"out": "a", "register": "b"}, "either --out or --register"),
        ({"out": "a"}, "either --corpus or --manifests"),
        ({"out": "a", "corpus": "c", "manifests": "m"}, "either --corpus or --manifests"),
        ({"out": "a", "corpus": "c", "start": "model"}, "--model and --start model require each other"),
        ({"out": "a", "corpus": "c", "model": "m", "start": "small"}, "--model and --start model require each other"),
        (
            {"out": "a", "corpus": "c", "start": "scratch"},
            "--start is 'scratch'; it must be one of small, enc",
        ),
        ({"recipe": "tiny", "out": "a", "corpus": "c"}, "recipe is 'tiny'; it must be one of paper, small, mmml, or a"),
        ({"recipe": {}, "out": "a", "corpus": "c"}, "recipe is {}; it must be one of paper, small, mmml, or a Tra"),
        ({"out": "a", "corpus": "c", "validation_share": 1.0}, "--validation-share is 1.0; it must be between 0 and 1"),
    ],
)
def test_arguments_that_do_not_go_together_are_a_usage_error(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        msmtfn.train(**{"recipe": "small", **arguments})


def test_a_model_is_not_written_into_what_it_is_trained_on(manifests: Path) -> None:
    with pytest.raises(UsageError, match=r"--out .* overlaps --manifests"):
        msmtfn.train("small", manifests=manifests, out=manifests / "model")


def test_an_existing_model_is_not_replaced(manifests: Path, tiny_model: Path) -> None:
    with pytest.raises(UsageError, match="holds a model already; choose a new folder"):
        msmtfn.train("small", manifests=manifests, out=tiny_model)


def test_calls_that_cannot_be_learned_from_end_the_job_before_ray_starts(manifests: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match="there is no training call"):
        msmtfn.train("small", manifests=manifests, out=tmp_path / "model", validation_share=0.999999)
    assert not (tmp_path / "model").exists()


def test_a_run_that_is_registered_already_is_not_repeated(manifests: Path, tmp_path: Path) -> None:
    root = str(tmp_path / "models")
    config = GateConfig(gate_share=0.3)
    job = TrainingJob(
        manifests=str(manifests), register=root, start="small", gate=config, training=TRAINING_CONFIGS["small"]
    )
    decision = Decision(passed=False, reason="too few calls", calls=3, candidate=0.5, config=config)
    record = write_decision(root, add_version(root, run_name(job)), decision)
    result = msmtfn.train("small", manifests=manifests, register=root, gate=config)
    assert (result.folder, result.epochs, result.version) == (f"{root}/v0001", (), record)
    assert read_current(root) is None


@pytest.mark.parametrize("options", [{"out": "{0}/out"}, {"register": "{0}/out"}])
def test_work_in_progress_goes_and_the_files_of_others_stay(tmp_path: Path, options: dict[str, str]) -> None:
    job = TrainingJob(**{name: value.format(tmp_path) for name, value in options.items()})  # type: ignore[arg-type]
    work = Path(job.work_folder)
    (work / "train-1").mkdir(parents=True)
    (work / "train-1" / "state.pt").touch()
    (work / "somebody.txt").touch()
    _clean_up(job, "train-1")
    assert [path.name for path in work.iterdir()] == ["somebody.txt"]


def test_the_folder_for_work_goes_when_nothing_is_left_in_it(tmp_path: Path) -> None:
    (tmp_path / "out.work" / "train-1").mkdir(parents=True)
    _clean_up(TrainingJob(out=str(tmp_path / "out")), "train-1")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_for_work_that_the_user_named_is_kept(tmp_path: Path) -> None:
    (tmp_path / "train-1").mkdir()
    _clean_up(TrainingJob(out=str(tmp_path / "out"), work=str(tmp_path)), "train-1")
    assert (tmp_path / "train-1").is_dir()


def test_a_link_in_the_place_of_work_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").touch()
    (tmp_path / "out.work").mkdir()
    (tmp_path / "out.work" / "train-1").symlink_to(tmp_path / "theirs")
    storage.delete(str(tmp_path / "out.work" / "train-1"))
    assert (tmp_path / "theirs" / "file").exists()


def test_settings_of_the_network_make_another_network_and_another_run(manifests: Path) -> None:
    plain = TrainingJob(manifests=str(manifests), out="model", start="small")
    chosen = replace(plain, network={"pooling": "mean", "num_context_layers": 2})
    chosen.check()
    config = _initial_model(chosen)[0].network.config

    assert (config.pooling, config.num_context_layers, config.hidden_size) == ("mean", 2, 48)
    assert run_name(replace(plain, network={"pooling": "mean"})) != run_name(plain)
    assert run_name(replace(plain, network={"pooling": "mean"})) != run_name(replace(plain, network={"pooling": "cls"}))


def test_the_architecture_is_that_of_the_recipe_unless_another_is_chosen(manifests: Path, tmp_path: Path) -> None:
    small = TrainingJob(manifests=str(manifests), out="model", start="small", architecture="mmml")
    network = _initial_model(small)[0].network
    assert (network.config.model_type, network.config.hidden_size) == ("mmml", 48)
    with pytest.raises(UsageError, match="MMML has no setting 'pooling'"):
        msmtfn.train("mmml", manifests=manifests, out=tmp_path / "model", network={"pooling": "mean"})
    with pytest.raises(UsageError, match="--architecture is 'gru'; it must be one of msmtfn, mmml"):
        msmtfn.train("small", manifests=manifests, out=tmp_path / "model", architecture="gru")  # type: ignore[arg-type]


def test_a_setting_that_does_not_exist_is_a_usage_error(manifests: Path) -> None:
    with pytest.raises(UsageError, match="MSMT-FN has no setting 'poling'"):
        msmtfn.train("small", manifests=manifests, out=manifests.parent / "model", network={"poling": "mean"})
