"""The ablations of the paper's tables 1 and 6: the network, and what it is worth without one of its parts.

Every variant is trained and judged once a seed. A run that is done leaves its figures behind, so the same command goes
on with those that are missing.
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
from msmtfn.labels import TASKS
from msmtfn.model.checkpoint import Model, load_model, model_version, weights_digest
from msmtfn.model.small import make_small_model
from msmtfn.scoring.scorer import ScorerConfig
from msmtfn.training.augmentation import Augment
from msmtfn.training.data import LabelledSplit
from msmtfn.training.evaluation import evaluate_calls
from msmtfn.training.recipe import SMALL_RECIPE, Recipe
from msmtfn.training.trainer import EPOCHS_NAME, TrainingConfig, TrainingRun, fingerprint, train

logger = logging.getLogger(__name__)

VariantName = Literal[
    "full",
    "no-mtl",
    "no-bf-mtl",
    "text-only",
    "audio-only",
    "no-bigru",
    "no-silence",
    "augment-audio",
    "augment-text",
    "augment-none",
]
Side = Literal["audio", "text"]

SIDES: Final[tuple[Side, ...]] = get_args(Side)
METRICS_NAME: Final = "metrics.json"
NO_FIGURE: Final = "–"

RUNS: Final = pa.schema(
    [
        ("variant", pa.string()),
        ("seed", pa.int64()),
        *((f"accuracy_{task}", pa.float64()) for task in TASKS),
        *((f"macro_f1_{task}", pa.float64()) for task in TASKS),
        *((f"accuracy_{task}_{side}_shuffled", pa.float64()) for side in SIDES for task in TASKS),
        ("epochs", pa.int64()),
        ("seconds", pa.float64()),
        ("weights", pa.int64()),
        ("scored", pa.int64()),
        ("rejected", pa.int64()),
        ("model_version", pa.string()),
    ]
)
"""A row a run: the fields of `AblationRun`; nothing is shuffled where the network has one side only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """What a variant has in the place of the full network's.

    Attributes:
        network: fields of `MsmtFnConfig`.
        augment: of the recipe; None leaves what the recipe has.
    """

    network: Mapping[str, Any] = field(default_factory=dict)
    augment: Augment | None = None

    @property
    def has_both_sides(self) -> bool:
        """Whether the network hears and reads."""
        return "modalities" not in self.network

    def recipe_of(self, recipe: Recipe, seed: int) -> Recipe:
        """The recipe that the variant is trained by."""
        if self.augment is not None:
            recipe = replace(recipe, augmentation=replace(recipe.augmentation, augment=self.augment))
        if not self.has_both_sides:  # a round that lost its one side would have nothing left to learn from
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
    "augment-audio": Variant(augment="audio"),
    "augment-text": Variant(augment="text"),
    "augment-none": Variant(augment="none"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class AblationConfig:
    """Which variants of the small network are trained, and how."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Every variant is trained once with each: of new weights, dropout, order and augmentation."""
    only: tuple[VariantName, ...] = get_args(VariantName)
    """The variants: the full network; without multi-task learning (MTL); without bottleneck fusion (BF) and MTL; with
    one side of the rounds; without the BiGRU; silence removed; and the full network with each kind of augmentation, in
    the place of --augment."""
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(recipe=SMALL_RECIPE))
    """How they learn, the defaults being those of train.py small; with one side only there is no modality dropout."""

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            UsageError: an option is out of range, or has no meaning here.
        """
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise UsageError(f"--seeds are {self.seeds}; give one or more, 0 or more each, none twice")
        if not self.only or len(set(self.only)) < len(self.only):
            raise UsageError(f"--only is {self.only}; give one variant or more, none twice")
        if self.training.recipe.seed != SMALL_RECIPE.seed:
            raise UsageError("--seed is of one training; name those of --ablations with --seeds")
        if self.training.recipe.frozen == "encoders":
            raise UsageError("--frozen encoders goes with pretrained ones; those of --ablations are new and must learn")


@dataclass(frozen=True, slots=True)
class AblationRun:
    """What one variant is worth with one seed.

    Attributes:
        variant: its name.
        seed: of the recipe.
        fingerprint: of all that decides what is learned and judged.
        accuracy: of the test calls, a task.
        macro_f1: of the test calls, a task.
        shuffled: accuracy a task, after every round got the audio, or the text, of another; empty with one side only.
        epochs: of training, those after the best one included.
        seconds: they took, validation included.
        weights: number of the network's.
        scored: test calls that the figures are of.
        rejected: test calls that could not be scored.
        model_version: of the trained model.
    """

    variant: VariantName
    seed: int
    fingerprint: str
    accuracy: dict[str, float]
    macro_f1: dict[str, float]
    shuffled: dict[Side, dict[str, float]]
    epochs: int
    seconds: float
    weights: int
    scored: int
    rejected: int
    model_version: str

    def as_row(self) -> dict[str, Any]:
        """As a row of `RUNS`."""
        row = {name: getattr(self, name) for name in RUNS.names if name in self.__slots__}
        row |= {f"accuracy_{task}": value for task, value in self.accuracy.items()}
        row |= {f"macro_f1_{task}": value for task, value in self.macro_f1.items()}
        for side, accuracy in self.shuffled.items():
            row |= {f"accuracy_{task}_{side}_shuffled": value for task, value in accuracy.items()}
        return row


def run_ablations(splits: Sequence[LabelledSplit], out: str, config: AblationConfig) -> list[AblationRun]:
    """Train and judge all variants with all seeds, or go on with it; Ray must be up.

    Each run's model and figures are put below `<out>/runs`. Work in progress is in `<out>/work` until a seed is done;
    the variants of a seed share the calls prepared there, which only the removal of silence changes.

    Args:
        splits: training, validation and test calls.
        out: a folder or an s3:// address that all machines see.
        config: which, and how.

    Returns:
        The runs, those of a variant together.

    Raises:
        JobError: the data are no good, or training failed; the same again goes on where it stopped.
    """
    done: dict[str, AblationRun] = {}
    runs: list[AblationRun] = []
    for seed in config.seeds:
        work = _work_of(out, splits, seed, config)
        for name in config.only:
            model = make_small_model(seed, **VARIANTS[name].network)
            training = replace(config.training, recipe=VARIANTS[name].recipe_of(config.training.recipe, seed))
            identity = _identify(splits, model, training)
            place = storage.join(out, "runs", f"{name}-{seed}")
            run = _read_run(place, identity)
            if run is None:
                number, total = len(runs) + 1, len(config.seeds) * len(config.only)
                logger.info("run %d of %d: %s, seed %d", number, total, name, seed)
                storage.delete(storage.join(place, METRICS_NAME))
                if identity in done:  # one kind of augmentation is the full network's own
                    run = replace(done[identity], variant=name)
                else:
                    run = train_and_judge(name, identity, splits, model, training, work, place)
                storage.write_text(storage.join(place, METRICS_NAME), json.dumps(asdict(run), indent=2) + "\n")
            done[identity] = run
            runs.append(run)
        storage.delete(work)  # and no other: of a later seed there may be some, which is to go on
    storage.remove_empty_folder(storage.join(out, "work"))
    return sorted(runs, key=lambda run: config.only.index(run.variant))


def train_and_judge(
    name: VariantName,
    identity: str,
    splits: Sequence[LabelledSplit],
    model: Model,
    config: TrainingConfig,
    work: str,
    place: str,
) -> AblationRun:
    """Train a variant and judge it on the test calls.

    Args:
        name: of the variant.
        identity: fingerprint of the run.
        splits: training, validation and test calls.
        model: the variant, new; it learns.
        config: how it learns.
        work: folder for work in progress of all variants with this configuration and seed.
        place: the run's folder, where the model is put.
    """
    training, validation, test = splits
    seed = config.recipe.seed
    silence = model.network.config.silence
    about = f"Trained from scratch: new weights, small encoders. Ablation {name}."
    calls = storage.join(work, f"calls-silence-{silence}")
    run = TrainingRun(training, validation, model, about, work, name, calls)
    folder = train(run, config, _Narrator(f"{name}, seed {seed}"))
    try:
        trained, version = load_model(folder), model_version(folder)
        epochs = [json.loads(line) for line in (folder / EPOCHS_NAME).read_text().splitlines()]
        storage.put_folder(folder, storage.join(place, "model"))
    finally:
        shutil.rmtree(folder)
    evaluation = evaluate_calls(trained, test, config.prepare, ScorerConfig())
    metrics = evaluation.metrics()
    shuffled = {}
    for side in SIDES if VARIANTS[name].has_both_sides else ():
        without = evaluate_calls(trained, test, config.prepare, ScorerConfig(), shuffle=side, seed=seed)
        shuffled[side] = {task: each.accuracy for task, each in without.metrics().items()}
    return AblationRun(
        variant=name,
        seed=seed,
        fingerprint=identity,
        accuracy={task: each.accuracy for task, each in metrics.items()},
        macro_f1={task: each.macro_f1 for task, each in metrics.items()},
        shuffled=shuffled,
        epochs=len(epochs),
        seconds=sum(each["seconds"] for each in epochs),
        weights=trained.network.num_parameters(),
        scored=len(evaluation.call_ids),
        rejected=sum(evaluation.rejected.values()),
        model_version=version,
    )


def as_table(runs: Sequence[AblationRun]) -> pa.Table:
    """The runs as rows of `RUNS`."""
    return pa.Table.from_pylist([run.as_row() for run in runs], RUNS)


def tabulate(runs: Sequence[AblationRun], ceilings: Mapping[str, Any] | None) -> tuple[list[str], list[list[str]]]:
    """The one table: a row a variant, then a row for each of the best possible readers.

    Args:
        runs: those of a variant together.
        ceilings: `best_reader_of_split` and `best_possible`, accuracies by task and reader; None if nobody knows them.

    Returns:
        The names of the columns, and the rows. Figures are in %, mean ± standard deviation over the seeds; a ceiling is
        that of the best reader of these calls, and in brackets of all possible ones.
    """
    header = ["variant", *TASKS, "macro F1", *(f"{side} shuffled" for side in SIDES), "seconds", "weights"]
    rows = []
    for name in dict.fromkeys(run.variant for run in runs):
        of_name = [run for run in runs if run.variant == name]
        figures = [_percent([run.accuracy[task] for run in of_name]) for task in TASKS]
        figures.append(_percent([run.macro_f1["five"] for run in of_name]))
        figures += [_percent([run.shuffled[side]["five"] for run in of_name if run.shuffled]) for side in SIDES]
        seconds = statistics.mean(run.seconds for run in of_name)
        rows.append([name, *figures, f"{seconds:.0f}", f"{of_name[0].weights:,}"])
    if ceilings is not None:
        of_split, of_all = ceilings["best_reader_of_split"], ceilings["best_possible"]
        for reader in of_split["five"]:
            figures = [f"{100 * of_split[task][reader]:.1f} ({100 * of_all[task][reader]:.1f})" for task in TASKS]
            rows.append(
                [f"ceiling: {reader.replace('_', ' ')}", *figures, *[NO_FIGURE] * (len(header) - 1 - len(figures))]
            )
    return header, rows


def explain(runs: Sequence[AblationRun], ceilings: Mapping[str, Any] | None) -> str:
    """What the table's figures are, in a paragraph."""
    seeds = ", ".join(str(seed) for seed in sorted({run.seed for run in runs}))
    fewest, most = min(run.scored for run in runs), max(run.scored for run in runs)
    lines = [
        f"Accuracy of the four tasks on {fewest if fewest == most else f'{fewest} to {most}'} test calls, and macro F1 "
        f"of the five classes, in %: mean ± standard deviation over the seeds {seeds}.",
        "Shuffled: accuracy in the five classes once every round has the audio, or the text, of another one.",
        "Seconds: of the epochs; calls and prosody are prepared once a seed.",
    ]
    if ceilings is not None:
        lines.append("Ceiling: the best possible reader of these calls (of all possible calls).")
    return " ".join(lines)


def as_markdown(header: Sequence[str], rows: Sequence[Sequence[str]], explanation: str) -> str:
    """The table and what its figures are, in Markdown."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"# Ablations\n\n{table}\n\n{explanation}\n"


def _identify(splits: Sequence[LabelledSplit], model: Model, training: TrainingConfig) -> str:
    start = weights_digest(model.network) + model.network.config.to_json_string()
    return fingerprint(splits, start, training)


def _work_of(out: str, splits: Sequence[LabelledSplit], seed: int, config: AblationConfig) -> str:
    """The folder for work in progress of the variants of a seed; of another configuration it is another one."""
    training = replace(config.training, recipe=replace(config.training.recipe, seed=seed))
    return storage.join(out, "work", _identify(splits, make_small_model(seed), training))


def _read_run(place: str, identity: str) -> AblationRun | None:
    """The run that has left its figures at a place; None if it is not there, or another one."""
    text = storage.read_text(storage.join(place, METRICS_NAME))
    if text is None:
        return None
    content = json.loads(text)
    return AblationRun(**content) if content["fingerprint"] == identity else None


class _Narrator:
    """Logs a line an epoch."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, said: Mapping[str, Any]) -> None:
        if "done" in said:
            epoch = said["done"]
            logger.info(
                "%s: epoch %d in %.0f s, validation loss %.3f, accuracy of five %.1f %%",
                self.name,
                epoch["epoch"],
                epoch["seconds"],
                epoch["validation_loss"],
                100 * epoch["accuracy_five"],
            )


def _percent(values: Sequence[float]) -> str:
    """Mean and, of two values or more, the sample's standard deviation."""
    if not values:
        return NO_FIGURE
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"
