"""The ablations of the paper's tables 1 and 6: the full network, and variants that lack one of its parts.

Every variant is trained and evaluated once per seed. A finished run leaves its metrics in its folder, so the same
command resumes with the runs that are missing.
"""

from __future__ import annotations

import json
import logging
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal, get_args

import pyarrow as pa

from msmtfn import storage
from msmtfn.errors import UsageError
from msmtfn.evaluation.evaluator import evaluate_calls
from msmtfn.evaluation.labelled import LabelledSplit
from msmtfn.inference.scorer import ScorerConfig
from msmtfn.labels import TASKS
from msmtfn.model.checkpoint import Model, load_model, model_version, weights_digest
from msmtfn.model.small import make_small_model
from msmtfn.training.augmentation import Augment
from msmtfn.training.events import EpochDone, TrainingEvent, parse_epochs
from msmtfn.training.recipe import SMALL_RECIPE, Recipe
from msmtfn.training.trainer import EPOCHS_NAME, TrainingConfig, TrainingRun, fingerprint, train_model

logger = logging.getLogger(__name__)

VariantName = Literal[
    "full",
    "no-mtl",
    "no-bf-mtl",
    "text-only",
    "audio-only",
    "no-bigru",
    "no-silence",
    "no-outer-silence",
    "speakers",
    "augment-audio",
    "augment-text",
    "augment-none",
]
Modality = Literal["audio", "text"]

MODALITIES: Final[tuple[Modality, ...]] = get_args(Modality)
METRICS_NAME: Final = "metrics.json"
NO_FIGURE: Final = "–"

RUNS: Final = pa.schema(
    [
        ("variant", pa.string()),
        ("seed", pa.int64()),
        *((f"accuracy_{task}", pa.float64()) for task in TASKS),
        *((f"macro_f1_{task}", pa.float64()) for task in TASKS),
        *((f"accuracy_{task}_{modality}_shuffled", pa.float64()) for modality in MODALITIES for task in TASKS),
        ("epochs", pa.int64()),
        ("seconds", pa.float64()),
        ("weights", pa.int64()),
        ("scored", pa.int64()),
        ("rejected", pa.int64()),
        ("model_version", pa.string()),
    ]
)
"""One row per run with the fields of `AblationRun`; the shuffled accuracies of a single-modality variant are null."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """A variant's differences from the full network and its recipe.

    Attributes:
        network: fields of `MsmtFnConfig` that differ.
        augment: the modality that is augmented; None keeps the recipe's.
    """

    network: Mapping[str, Any] = field(default_factory=dict)
    augment: Augment | None = None

    @property
    def uses_both_modalities(self) -> bool:
        """True if the network has audio and text as its inputs."""
        return "modalities" not in self.network

    def recipe_of(self, recipe: Recipe, seed: int) -> Recipe:
        """Return the recipe that the variant is trained with."""
        if self.augment is not None:
            recipe = replace(recipe, augmentation=replace(recipe.augmentation, augment=self.augment))
        if not self.uses_both_modalities:  # a round without its only modality would leave nothing to learn from
            recipe = replace(recipe, modality_dropout=0.0)
        return replace(recipe, seed=seed)


VARIANTS: Final[Mapping[VariantName, Variant]] = {
    "full": Variant(),
    "no-mtl": Variant(network={"multi_task": False}),
    "no-bf-mtl": Variant(network={"num_bottleneck_layers": 0, "multi_task": False}),
    "text-only": Variant(network={"modalities": "text"}),
    "audio-only": Variant(network={"modalities": "audio"}),
    "no-bigru": Variant(network={"num_context_layers": 0}),
    "no-silence": Variant(network={"silence": "remove"}),
    "no-outer-silence": Variant(network={"outer_silence": "drop"}),
    "speakers": Variant(network={"speakers": "mark"}),
    "augment-audio": Variant(augment="audio"),
    "augment-text": Variant(augment="text"),
    "augment-none": Variant(augment="none"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class AblationConfig:
    """The variants of the small network to train, and the options of their training."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Random seeds; every variant is trained once with each."""
    only: tuple[VariantName, ...] = get_args(VariantName)
    """The variants to train: the full network; without multi-task learning (MTL); without bottleneck fusion (BF) and
    MTL; with text or audio only; without the BiGRU; with silence removed, and without that before the first turn and
    after the last; with the speakers marked in the text; and the full network with each kind of augmentation, which
    replaces --augment."""
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(recipe=SMALL_RECIPE))
    """Options of the training, by default those of train.py small; variants with one modality have no modality
    dropout."""

    def __post_init__(self) -> None:
        """Check the seeds, the variants and their recipe.

        Raises:
            UsageError: an option is out of range, or has no meaning for ablations.
        """
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise UsageError(f"--seeds are {self.seeds}; give one or more different seeds of at least 0")
        if not self.only or len(set(self.only)) < len(self.only):
            raise UsageError(f"--only is {self.only}; give one or more different variants")
        if self.training.recipe.seed != SMALL_RECIPE.seed:
            raise UsageError("--seed sets the seed of a single training; use --seeds for --ablations")
        if self.training.recipe.frozen == "encoders":
            raise UsageError("--frozen encoders needs pretrained encoders; those of --ablations are new and must learn")


@dataclass(frozen=True, slots=True)
class AblationRun:
    """The metrics of one variant trained with one seed.

    Attributes:
        variant: name of the variant.
        seed: seed of the recipe.
        fingerprint: identifies everything that decides what is learned and how it is evaluated.
        accuracy: accuracy on the test calls, by task.
        macro_f1: macro F1 on the test calls, by task.
        shuffled: accuracy by task after every round has received the audio, or the text, of another round; empty for
            a variant with one modality.
        epochs: epochs of training, including those after the best one.
        seconds: duration of all epochs with their validation.
        weights: number of weights of the network.
        scored: test calls that the metrics are computed on.
        rejected: test calls that could not be scored.
        model_version: version of the trained model.
    """

    variant: VariantName
    seed: int
    fingerprint: str
    accuracy: dict[str, float]
    macro_f1: dict[str, float]
    shuffled: dict[Modality, dict[str, float]]
    epochs: int
    seconds: float
    weights: int
    scored: int
    rejected: int
    model_version: str

    def as_row(self) -> dict[str, Any]:
        """Return the run as a row of `RUNS`."""
        row = {name: getattr(self, name) for name in RUNS.names if name in self.__slots__}
        row |= {f"accuracy_{task}": value for task, value in self.accuracy.items()}
        row |= {f"macro_f1_{task}": value for task, value in self.macro_f1.items()}
        for modality, accuracy in self.shuffled.items():
            row |= {f"accuracy_{task}_{modality}_shuffled": value for task, value in accuracy.items()}
        return row


def run_ablations(splits: Sequence[LabelledSplit], out: str, config: AblationConfig) -> list[AblationRun]:
    """Train and evaluate all variants with all seeds, or resume doing so; Ray must be running.

    The model and the metrics of each run are written below `<out>/runs`. Work in progress is kept in `<out>/work` until
    a seed is done; the variants of a seed share the prepared calls there, except those whose calls are prepared in
    another way.

    Args:
        splits: training, validation and test calls.
        out: a folder or an s3:// address that all machines can reach.
        config: the variants, the seeds and the options of training.

    Returns:
        The runs, grouped by variant.

    Raises:
        JobError: the calls cannot be used, or training failed; the same command resumes where it stopped.
    """
    done: dict[str, AblationRun] = {}
    runs: list[AblationRun] = []
    for seed in config.seeds:
        work = _work_of(out, splits, seed, config)
        for name in config.only:
            model = make_small_model(seed, **VARIANTS[name].network)
            training = replace(config.training, recipe=VARIANTS[name].recipe_of(config.training.recipe, seed))
            identity = _identify(splits, model, training)
            folder = storage.join(out, "runs", f"{name}-{seed}")
            run = _read_run(folder, identity)
            if run is None:
                number, total = len(runs) + 1, len(config.seeds) * len(config.only)
                logger.info("run %d of %d: %s, seed %d", number, total, name, seed)
                storage.delete(storage.join(folder, METRICS_NAME))
                if identity in done:  # the full network already has this kind of augmentation
                    run = replace(done[identity], variant=name)
                else:
                    run = train_and_evaluate(name, identity, splits, model, training, work, folder)
                storage.write_text(storage.join(folder, METRICS_NAME), json.dumps(asdict(run), indent=2) + "\n")
            done[identity] = run
            runs.append(run)
        storage.delete(work)  # only this seed's: an interrupted run may have left work of a later seed to resume
    storage.remove_empty_folder(storage.join(out, "work"))
    return sorted(runs, key=lambda run: config.only.index(run.variant))


def train_and_evaluate(
    name: VariantName,
    identity: str,
    splits: Sequence[LabelledSplit],
    model: Model,
    config: TrainingConfig,
    work: str,
    target: str,
) -> AblationRun:
    """Train a variant and evaluate it on the test calls.

    Args:
        name: name of the variant.
        identity: fingerprint of the run.
        splits: training, validation and test calls.
        model: the untrained network of the variant; it is trained in place.
        config: options of the training.
        work: folder for work in progress of all variants with this configuration and seed.
        target: folder of the run, to which the model is written.
    """
    training, validation, test = splits
    seed = config.recipe.seed
    about = f"Trained from scratch: new weights, small encoders. Ablation {name}."
    network = model.network.config
    calls = storage.join(work, f"calls-{network.silence}-{network.outer_silence}-{network.speakers}")
    run = TrainingRun(training, validation, model, about, work, name, calls)
    folder = train_model(run, config, _EpochLogger(f"{name}, seed {seed}"))
    try:
        trained, version = load_model(folder), model_version(folder)
        epochs = parse_epochs((folder / EPOCHS_NAME).read_text(), str(folder / EPOCHS_NAME))
        storage.put_folder(folder, storage.join(target, "model"))
    finally:
        shutil.rmtree(folder)
    evaluation = evaluate_calls(trained, test, config.prepare, ScorerConfig())
    metrics = evaluation.metrics()
    shuffled: dict[Modality, dict[str, float]] = {}
    for modality in MODALITIES if VARIANTS[name].uses_both_modalities else ():
        without = evaluate_calls(trained, test, config.prepare, ScorerConfig(), shuffle=modality, seed=seed)
        shuffled[modality] = {task: each.accuracy for task, each in without.metrics().items()}
    return AblationRun(
        variant=name,
        seed=seed,
        fingerprint=identity,
        accuracy={task: each.accuracy for task, each in metrics.items()},
        macro_f1={task: each.macro_f1 for task, each in metrics.items()},
        shuffled=shuffled,
        epochs=len(epochs),
        seconds=sum(epoch.seconds for epoch in epochs),
        weights=trained.network.num_parameters(),
        scored=len(evaluation.call_ids),
        rejected=sum(evaluation.rejected.values()),
        model_version=version,
    )


def as_table(runs: Sequence[AblationRun]) -> pa.Table:
    """Return the runs as rows of `RUNS`."""
    return pa.Table.from_pylist([run.as_row() for run in runs], RUNS)


def tabulate(runs: Sequence[AblationRun], ceilings: Mapping[str, Any] | None) -> tuple[list[str], list[list[str]]]:
    """Format one table: a row per variant, then a row per reader with the highest accuracy that it can reach.

    Args:
        runs: the runs, grouped by variant.
        ceilings: `best_reader_of_split` and `best_possible`, accuracies by task and reader; None if unknown.

    Returns:
        The names of the columns, and the rows. Metrics are percentages, as mean ± standard deviation over the seeds. A
        ceiling is the accuracy of the best possible reader on these calls, and in brackets on all possible calls.
    """
    header = ["variant", *TASKS, "macro F1", *(f"{modality} shuffled" for modality in MODALITIES), "seconds", "weights"]
    rows = []
    for name in dict.fromkeys(run.variant for run in runs):
        group = [run for run in runs if run.variant == name]
        figures = [_percent([run.accuracy[task] for run in group]) for task in TASKS]
        figures.append(_percent([run.macro_f1["five"] for run in group]))
        figures += [
            _percent([run.shuffled[modality]["five"] for run in group if run.shuffled]) for modality in MODALITIES
        ]
        seconds = statistics.mean(run.seconds for run in group)
        rows.append([name, *figures, f"{seconds:.0f}", f"{group[0].weights:,}"])
    if ceilings is not None:
        of_split, of_all = ceilings["best_reader_of_split"], ceilings["best_possible"]
        for reader in of_split["five"]:
            figures = [f"{100 * of_split[task][reader]:.1f} ({100 * of_all[task][reader]:.1f})" for task in TASKS]
            rows.append(
                [f"ceiling: {reader.replace('_', ' ')}", *figures, *[NO_FIGURE] * (len(header) - 1 - len(figures))]
            )
    return header, rows


def explain(runs: Sequence[AblationRun], ceilings: Mapping[str, Any] | None) -> str:
    """Return a paragraph that explains the figures of the table."""
    seeds = ", ".join(str(seed) for seed in sorted({run.seed for run in runs}))
    fewest, most = min(run.scored for run in runs), max(run.scored for run in runs)
    lines = [
        f"Accuracy in the four tasks on {fewest if fewest == most else f'{fewest} to {most}'} test calls, and macro F1 "
        f"over the five classes, in %: mean ± standard deviation over the seeds {seeds}.",
        "Shuffled: accuracy in the five classes after every round has received the audio, or the text, of another one.",
        "Seconds: duration of the epochs; preparing calls and learning prosody, once per seed, are not included.",
    ]
    if ceilings is not None:
        lines.append("Ceiling: accuracy of the best possible reader on these calls (on all possible calls).")
    return " ".join(lines)


def as_markdown(header: Sequence[str], rows: Sequence[Sequence[str]], explanation: str) -> str:
    """Return the table and its explanation as Markdown."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"# Ablations\n\n{table}\n\n{explanation}\n"


def _identify(splits: Sequence[LabelledSplit], model: Model, training: TrainingConfig) -> str:
    start = weights_digest(model.network) + model.network.config.to_json_string()
    return fingerprint(splits, start, training)


def _work_of(out: str, splits: Sequence[LabelledSplit], seed: int, config: AblationConfig) -> str:
    """Return the folder for work in progress of a seed's variants; every configuration has its own."""
    training = replace(config.training, recipe=replace(config.training.recipe, seed=seed))
    return storage.join(out, "work", _identify(splits, make_small_model(seed), training))


def _read_run(folder: str, identity: str) -> AblationRun | None:
    """Read a finished run from its folder; None if there is none, or one with another fingerprint."""
    text = storage.read_text(storage.join(folder, METRICS_NAME))
    if text is None:
        return None
    content = json.loads(text)
    return AblationRun(**content) if content["fingerprint"] == identity else None


class _EpochLogger:
    """A reporter of training events that logs a line per epoch."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, event: TrainingEvent) -> None:
        if isinstance(event, EpochDone):
            logger.info(
                "%s: epoch %d in %.0f s, validation loss %.3f, accuracy in the five classes %.1f %%",
                self.name,
                event.epoch,
                event.seconds,
                event.validation_loss,
                100 * event.accuracy["five"],
            )


def _percent(values: Sequence[float]) -> str:
    """Format the mean in percent, with the sample's standard deviation if there are two values or more."""
    if not values:
        return NO_FIGURE
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"
