from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pytest

from msmtfn.errors import TrainingError, UsageError
from msmtfn.evaluation.labelled import LabelledSplit
from msmtfn.labels import TASKS
from msmtfn.model.checkpoint import Model
from msmtfn.model.small import make_small_model
from msmtfn.training import ablations
from msmtfn.training.ablations import (
    VARIANTS,
    AblationConfig,
    AblationRun,
    Modality,
    VariantName,
    as_markdown,
    as_table,
    explain,
    run_ablations,
    tabulate,
)
from msmtfn.training.recipe import SMALL_RECIPE
from msmtfn.training.trainer import TrainingConfig

READERS = ("text", "both")
CEILINGS = {
    name: {task: dict.fromkeys(READERS, value) for task in TASKS}
    for name, value in (("best_reader_of_split", 0.75), ("best_possible", 0.913))
}


def run_of(variant: VariantName, seed: int, five: float, *, shuffled: float | None = None) -> AblationRun:
    """A run with this accuracy in the five classes, and an accuracy higher by 0.1 in the other tasks."""
    accuracy = {task: five if task == "five" else five + 0.1 for task in TASKS}
    modalities: tuple[Modality, ...] = ("audio", "text")
    return AblationRun(
        variant=variant,
        seed=seed,
        fingerprint=f"{variant}{seed}",
        accuracy=accuracy,
        macro_f1=dict.fromkeys(TASKS, five / 2),
        shuffled={} if shuffled is None else {modality: dict.fromkeys(TASKS, shuffled) for modality in modalities},
        epochs=3,
        seconds=10.0 + seed,
        weights=1234,
        scored=8,
        rejected=0,
        model_version="abc",
    )


TWO_BY_TWO = AblationConfig(seeds=(0, 1), only=("full", "no-mtl"))
FAILS = 7
"""The seed whose first training is interrupted."""
ALL_FOUR = [("full", 0), ("no-mtl", 0), ("full", 1), ("no-mtl", 1)]


class TestVariants:
    @pytest.mark.parametrize(
        ("name", "fields"),
        [
            ("full", {}),
            ("no-mtl", {"multi_task": False}),
            ("no-bf-mtl", {"multi_task": False, "num_bottleneck_layers": 0}),
            ("text-only", {"modalities": "text"}),
            ("audio-only", {"modalities": "audio"}),
            ("no-bigru", {"num_context_layers": 0}),
            ("no-silence", {"silence": "remove"}),
            ("no-outer-silence", {"outer_silence": "drop"}),
            ("speakers", {"speakers": "mark"}),
            ("augment-none", {}),
        ],
    )
    def test_the_network_differs_in_what_the_name_says_and_nothing_else(
        self, name: VariantName, fields: dict[str, Any]
    ) -> None:
        full = make_small_model(0).network.config.to_dict()
        config = make_small_model(0, **VARIANTS[name].network).network.config.to_dict()
        assert {key: value for key, value in config.items() if full[key] != value} == fields

    def test_every_name_has_a_variant(self) -> None:
        assert tuple(VARIANTS) == get_args(VariantName)

    @pytest.mark.parametrize("augment", ["audio", "text", "none"])
    def test_a_variant_of_the_augmentation_changes_nothing_else_of_the_recipe(self, augment: str) -> None:
        recipe = VARIANTS[f"augment-{augment}"].recipe_of(SMALL_RECIPE, 4)  # type: ignore[index]
        assert (recipe.augmentation.augment, recipe.seed) == (augment, 4)
        as_before = replace(recipe.augmentation, augment=SMALL_RECIPE.augmentation.augment)
        assert replace(recipe, seed=SMALL_RECIPE.seed, augmentation=as_before) == SMALL_RECIPE

    def test_variants_with_one_modality_have_no_modality_dropout(self) -> None:
        recipe = replace(SMALL_RECIPE, modality_dropout=0.2)
        dropped = {name: variant.recipe_of(recipe, 0).modality_dropout for name, variant in VARIANTS.items()}
        assert dropped == dict.fromkeys(VARIANTS, 0.2) | {"text-only": 0.0, "audio-only": 0.0}


class TestTable:
    def test_a_row_has_mean_and_standard_deviation_over_the_seeds(self) -> None:
        runs = [run_of("full", 0, 0.5, shuffled=0.25), run_of("full", 1, 0.7, shuffled=0.25)]
        header, rows = tabulate([*runs, run_of("text-only", 0, 0.6)], None)
        full, text = (dict(zip(header, row, strict=True)) for row in rows)
        assert full == {
            "variant": "full",
            "five": "60.0 ± 14.1",
            **dict.fromkeys(["four", "three", "two"], "70.0 ± 14.1"),
            "macro F1": "30.0 ± 7.1",
            "audio shuffled": "25.0 ± 0.0",
            "text shuffled": "25.0 ± 0.0",
            "seconds": "10",
            "weights": "1,234",
        }
        assert (text["variant"], text["five"], text["audio shuffled"]) == ("text-only", "60.0", "–")

    def test_the_ceilings_are_the_last_rows(self) -> None:
        header, rows = tabulate([run_of("full", 0, 0.5)], CEILINGS)
        assert [row[0] for row in rows] == ["full", "ceiling: text", "ceiling: both"]
        last = dict(zip(header, rows[-1], strict=True))
        assert (last["five"], last["two"], last["macro F1"], last["weights"]) == (
            "75.0 (91.3)",
            "75.0 (91.3)",
            "–",
            "–",
        )

    def test_the_markdown_has_the_table_and_its_explanation(self) -> None:
        runs = [run_of("full", seed, 0.5, shuffled=0.25) for seed in (0, 2)]
        lines = as_markdown(*tabulate(runs, None), explain(runs, None)).splitlines()
        table = [line for line in lines if line.startswith("|")]
        assert len(table) == 3
        assert len({line.count("|") for line in table}) == 1
        assert "on 8 test calls" in lines[-1]
        assert "seeds 0, 2." in lines[-1]
        assert "eiling" not in lines[-1]

    def test_the_parquet_table_has_one_row_per_run(self) -> None:
        rows = as_table([run_of("full", 1, 0.5, shuffled=0.25), run_of("text-only", 0, 0.6)]).to_pylist()
        assert [(row["variant"], row["seed"], row["model_version"]) for row in rows] == [
            ("full", 1, "abc"),
            ("text-only", 0, "abc"),
        ]
        assert (rows[0]["accuracy_five"], rows[0]["macro_f1_two"], rows[0]["accuracy_two_audio_shuffled"]) == (
            0.5,
            0.25,
            0.25,
        )
        assert rows[1]["accuracy_five_text_shuffled"] is None


class TestResuming:
    @pytest.fixture
    def trained(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[VariantName, int]]:
        """The variants and seeds that were trained, by a replacement for the training that takes no time."""
        trained: list[tuple[VariantName, int]] = []

        def pretend_to_train(
            name: VariantName,
            identity: str,
            splits: list[LabelledSplit],
            model: Model,
            config: TrainingConfig,
            work: str,
            target: str,
        ) -> AblationRun:
            trained.append((name, config.recipe.seed))
            if config.recipe.seed == FAILS:
                Path(work).mkdir(parents=True, exist_ok=True)
                (Path(work) / f"step-{len(trained)}").touch()
                raise TrainingError("the training was interrupted")
            return replace(run_of(name, config.recipe.seed, 0.5, shuffled=0.25), fingerprint=identity)

        monkeypatch.setattr(ablations, "train_and_evaluate", pretend_to_train)
        return trained

    @pytest.fixture
    def splits(self) -> list[LabelledSplit]:
        return [
            LabelledSplit(name, pa.table({"row_id": [0], "call_id": [name]}), (dt.date(2026, 3, 2),), "manifests")
            for name in ("training", "validation", "test")
        ]

    def test_finished_runs_are_not_repeated(
        self, trained: list[tuple[VariantName, int]], splits: list[LabelledSplit], tmp_path: Path
    ) -> None:
        first = run_ablations(splits, str(tmp_path), TWO_BY_TWO)
        assert trained == ALL_FOUR
        assert [(run.variant, run.seed) for run in first] == [("full", 0), ("full", 1), ("no-mtl", 0), ("no-mtl", 1)]
        (tmp_path / "runs" / "no-mtl-0" / "metrics.json").unlink()
        trained.clear()
        assert run_ablations(splits, str(tmp_path), TWO_BY_TWO) == first
        assert trained == [("no-mtl", 0)]

    def test_an_interrupted_run_finds_its_work_in_progress(
        self, trained: list[tuple[VariantName, int]], splits: list[LabelledSplit], tmp_path: Path
    ) -> None:
        for _ in range(2):
            with pytest.raises(TrainingError):
                run_ablations(splits, str(tmp_path), replace(TWO_BY_TWO, seeds=(0, FAILS)))
        assert trained == [*ALL_FOUR[:2], ("full", FAILS), ("full", FAILS)]
        assert {file.name for file in tmp_path.glob("work/*/*")} == {"step-3", "step-4"}

    def test_another_configuration_reuses_no_run(
        self, trained: list[tuple[VariantName, int]], splits: list[LabelledSplit], tmp_path: Path
    ) -> None:
        before = run_ablations(splits, str(tmp_path), TWO_BY_TWO)
        trained.clear()
        other = TrainingConfig(recipe=replace(SMALL_RECIPE, weight_decay=0.5))
        after = run_ablations(splits, str(tmp_path), replace(TWO_BY_TWO, training=other))
        assert trained == ALL_FOUR
        assert not {run.fingerprint for run in before} & {run.fingerprint for run in after}

    def test_other_test_calls_reuse_no_run(
        self, trained: list[tuple[VariantName, int]], splits: list[LabelledSplit], tmp_path: Path
    ) -> None:
        run_ablations(splits, str(tmp_path), TWO_BY_TWO)
        trained.clear()
        other = replace(splits[2], rows=pa.table({"row_id": [0], "call_id": ["another"]}))
        run_ablations([*splits[:2], other], str(tmp_path), TWO_BY_TWO)
        assert trained == ALL_FOUR

    def test_the_full_networks_own_augmentation_is_not_trained_twice(
        self, trained: list[tuple[VariantName, int]], splits: list[LabelledSplit], tmp_path: Path
    ) -> None:
        recipe = replace(SMALL_RECIPE, augmentation=replace(SMALL_RECIPE.augmentation, augment="audio"))
        names: tuple[VariantName, ...] = ("full", "augment-audio", "augment-text")
        config = AblationConfig(seeds=(0,), only=names, training=TrainingConfig(recipe=recipe))
        runs = run_ablations(splits, str(tmp_path), config)
        assert trained == [("full", 0), ("augment-text", 0)]
        assert [run.variant for run in runs] == list(names)
        assert runs[1].accuracy == runs[0].accuracy


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"seeds": ()}, "--seeds"),
        ({"seeds": (1, 1)}, "--seeds"),
        ({"seeds": (-1,)}, "--seeds"),
        ({"only": ("full", "full")}, "--only"),
        ({"training": TrainingConfig(recipe=replace(SMALL_RECIPE, seed=3))}, "--seeds"),
        (
            {
                "training": TrainingConfig(
                    recipe=replace(
                        SMALL_RECIPE,
                        frozen="encoders",
                        augmentation=replace(SMALL_RECIPE.augmentation, augment="none"),
                    )
                )
            },
            "--frozen",
        ),
    ],
)
def test_meaningless_options_are_rejected_by_name(options: dict[str, Any], option: str) -> None:
    with pytest.raises(UsageError, match=option):
        AblationConfig(**options)
