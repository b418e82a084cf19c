"""Benchmarks: every stage is measured against a simple baseline in the same run. Faults: no call may be lost."""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table

from msmtfn.cli.command import run_command
from msmtfn.errors import UsageError, require
from msmtfn.inference.classifier import load_model
from msmtfn.inference.scorer import Device
from msmtfn.model.checkpoint import Model
from msmtfn.model.config import MsmtFnConfig
from msmtfn.model.network import MsmtFn
from msmtfn.model.runtime.precision import ScoringPrecision
from msmtfn.model.small import make_small_model, small_config
from msmtfn.scoring.pipeline import PipelineConfig
from msmtfn.transcription.graph import TranscriptionConfig
from tests.benchmarks.encode import measure_encode
from tests.benchmarks.evidence import measure_evidence
from tests.benchmarks.leads import measure_leads
from tests.benchmarks.machine import ROOT, about_this_machine
from tests.benchmarks.mix import LONGEST_SEC, SHORTEST_SEC
from tests.benchmarks.prepare import measure_prepare
from tests.benchmarks.scale import measure_scale
from tests.benchmarks.score import measure_score
from tests.benchmarks.train import measure_train
from tests.benchmarks.transcribe import measure_transcribe
from tests.faults.readers import ReadersConfig, run_readers
from tests.faults.trial import FaultsConfig, run_faults

logger = logging.getLogger("msmtfn.benchmark")

CHARACTERS: Final = 21_128
Sizes = Literal["base", "demo"]

WIDTH_OF_FILES: Final = 240
"""Columns of the table if the output is not a terminal, where 80 columns would make it unreadable."""

PROBLEMS: Final = ("lost", "doubled", "differing", "mixed", "missing", "failed")
"""Columns of trials that must hold 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark(ABC):
    """A benchmark with the options that all of them share."""

    json: Path | None = None
    """File for the figures, the versions and a description of the machine, as JSON; not written by default."""

    @abstractmethod
    def measure(self) -> list[dict[str, Any]]:
        """Run the benchmark and return the rows of its table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MixBenchmark(Benchmark):
    """A benchmark on calls with realistic lengths."""

    num_calls: int
    """Number of calls in the mix."""
    seed: int = 0
    """Random seed of lengths, samples and text."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: a value is out of range.
        """
        if self.num_calls < 1:
            raise ValueError(f"num_calls is {self.num_calls}; it must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Encode(MixBenchmark):
    """Score calls with rounds padded to 40 s, as in the paper, and with unpadded rounds.

    The network has random weights. The mix imitates real calls: 3.35 rounds per call with log-normal lengths (median
    14 s, sigma 0.6, clipped to 1 to 40 s) and 60 tokens each.
    """

    round_sec: tuple[float, ...] = (5.0, 10.0, 20.0, 40.0)
    """Lengths of rounds to measure in addition to the mix, in seconds."""
    num_rounds: int = 1
    """Number of rounds of every length; a GPU needs about 64 to be busy."""
    network: Sizes = "base"
    """Size of the network: base is that of HuBERT-base and RoBERTa-base, demo that of the demo model."""
    num_calls: int = 8
    """Number of calls in the mix."""
    bf16: bool = False
    """Measure unpadded rounds in bf16 too, which is slow on a CPU without bf16 instructions."""
    int8: bool = False
    """Measure unpadded rounds in int8 too; needs --device cpu."""
    device: Device = "auto"
    """Device to measure on; auto uses a GPU if there is one."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: a value is out of range.
        """
        MixBenchmark.__post_init__(self)
        if self.num_rounds < 1:
            raise ValueError(f"num_rounds is {self.num_rounds}; it must be at least 1")
        if self.int8 and self.device != "cpu":
            raise ValueError(f"int8 runs on a CPU only and device is {self.device}; set device to cpu")
        if not all(SHORTEST_SEC <= seconds <= LONGEST_SEC for seconds in self.round_sec):
            raise ValueError(
                f"round_sec is {self.round_sec}; every length must be between {SHORTEST_SEC:g} and {LONGEST_SEC:g}"
            )

    def measure(self) -> list[dict[str, Any]]:
        """Measure every length of round and the mix."""
        return measure_encode(
            _network(self.network, self.seed),
            self.round_sec,
            self.num_rounds,
            self.num_calls,
            self.seed,
            bf16=self.bf16,
            int8=self.int8,
            device=self.device,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence(MixBenchmark):
    """Score the mix with and without evidence, in turn."""

    network: Sizes = "base"
    """Size of the network: base is that of HuBERT-base and RoBERTa-base, demo that of the demo model."""
    num_calls: int = 16
    """Number of calls in the mix."""
    num_repeats: int = 3
    """Number of times that the calls are scored in each way."""
    precision: ScoringPrecision = "auto"
    """Precision of the matrix products."""
    device: Device = "auto"
    """Device to measure on; auto uses a GPU if there is one."""

    def measure(self) -> list[dict[str, Any]]:
        """Measure both ways."""
        network = _network(self.network, self.seed)
        return measure_evidence(
            network, self.num_calls, self.num_repeats, self.seed, precision=self.precision, device=self.device
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Leads(Benchmark):
    """Compare the leads of labelled calls with their labels: calibration, prediction sets, ranking and evidence."""

    corpus: str
    """Folder of a corpus that the model has seen nothing of, as simulate-calls writes it."""
    split: str = "test"
    """Split of the corpus."""
    model: str = "demo"
    """Model: demo, a folder, an s3:// address or a name on the Hugging Face hub."""
    num_calls: int = 0
    """Maximum number of calls; 0 takes all."""
    seed: int = 0
    """Random seed of the rounds that are removed at random."""

    def measure(self) -> list[dict[str, Any]]:
        """Score the calls and compute all figures."""
        return measure_leads(load_model(self.model), self.corpus, self.split, self.num_calls, self.seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepare(MixBenchmark):
    """Prepare 8 kHz WAV recordings of the mix for the network on one core, and time every step."""

    num_calls: int = 200
    """Number of calls in the mix."""

    def measure(self) -> list[dict[str, Any]]:
        """Measure every step, and all steps together."""
        return measure_prepare(self.num_calls, self.seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Score(MixBenchmark):
    """Score the mix with the job's graph on its own Ray instance, and with a plain loop over the same scorer."""

    network: Sizes = "base"
    """Size of the network: base is that of HuBERT-base and RoBERTa-base, demo that of the demo model."""
    num_calls: int = 100
    """Number of calls in the mix."""
    num_scorers: int = 0
    """Number of scorer processes, as in the job; 0 lets the job choose."""
    threads_per_scorer: int = 0
    """Number of threads per scorer, as in the job; 0 lets the job choose."""
    batch_calls: int = 0
    """Number of calls per batch of a scorer, as in the job; 0 lets the job choose."""

    def measure(self) -> list[dict[str, Any]]:
        """Measure the graph and the loop."""
        model = Model(_network(self.network, self.seed), make_small_model(self.seed).tokenizer)
        pipeline = PipelineConfig(
            num_scorers=self.num_scorers, threads_per_scorer=self.threads_per_scorer, batch_calls=self.batch_calls
        )
        return measure_score(model, self.num_calls, self.seed, pipeline)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale(Benchmark):
    """Measure how time and memory grow with the calls, and the rate with the scorers.

    First the job scores days of two-second calls with a small network. Then scorers, one per logical CPU, sleep for a
    tenth of a second per call instead of computing, so that the measurement is of the scheduling and not of the cores.
    Needs the packages of `pip install -e '.[test]'`.
    """

    num_calls: tuple[int, ...] = (500, 2_000, 10_000)
    """Numbers of calls of the days."""
    num_scorers: tuple[int, ...] = (1, 2, 4)
    """Numbers of waiting scorers of the runs."""
    seed: int = 0
    """Random seed of samples and text."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: a value is out of range.
        """
        for name in ("num_calls", "num_scorers"):
            if any(number < 1 for number in getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}; every value must be at least 1")

    def measure(self) -> list[dict[str, Any]]:
        """Measure every day and every number of scorers."""
        return measure_scale(self.num_calls, self.num_scorers, ROOT / "jobs" / "score_daily.py", self.seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Train(MixBenchmark):
    """Time a training step of the paper's recipe: on padded rounds, on unpadded rounds, and on cached states."""

    network: Sizes = "base"
    """Size of the network: base is that of HuBERT-base and RoBERTa-base, demo that of the demo model."""
    num_calls: int = 16
    """Number of calls in the step."""

    def measure(self) -> list[dict[str, Any]]:
        """Measure all variants of the step."""
        return measure_train(_network(self.network, self.seed), self.num_calls, self.seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Faults(Benchmark):
    """Kill parts of the scoring job at random moments, and count the calls that are lost, duplicated or different.

    The job runs on its own two-node Ray cluster and S3 server, all on this machine. If it fails, the same command is
    run again. Needs the packages of `pip install -e '.[test]'`. The exit code is 1 if any call was lost, duplicated or
    different.
    """

    trial: Annotated[FaultsConfig, tyro.conf.arg(name="")] = field(default_factory=FaultsConfig)
    """Faults and their number."""
    logs: Path | None = None
    """Folder for the jobs' logs; by default a new temporary folder, which is kept."""

    def measure(self) -> list[dict[str, Any]]:
        """Run the trials of every kind of fault."""
        logs = self.logs or Path(tempfile.mkdtemp(prefix="msmtfn-faults-"))
        logs.mkdir(parents=True, exist_ok=True)
        logger.info("the jobs' logs are in %s", logs)
        return run_faults(self.trial, ROOT / "jobs" / "score_daily.py", logs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Readers(Benchmark):
    """Replace a day while DuckDB, Polars and PyArrow read it, through the Delta table and by the rule of reading.

    Needs the packages of `pip install -e '.[test]'`. The exit code is 1 if a reader saw two publications at once,
    missed a call or failed.
    """

    trial: Annotated[ReadersConfig, tyro.conf.arg(name="")] = field(default_factory=ReadersConfig)
    """Replacements and calls."""
    leads: str | None = None
    """Root of the leads: a folder or an s3:// address; by default a temporary folder."""

    def measure(self) -> list[dict[str, Any]]:
        """Count what the readers saw."""
        with tempfile.TemporaryDirectory(prefix="msmtfn-readers-") as folder:
            return run_readers(self.trial, self.leads or f"{folder}/leads")


@dataclass(frozen=True, kw_only=True, slots=True)
class Transcribe(Benchmark):
    """Transcribe stretches of real recordings with the job, and with a bare loop over the same recogniser.

    Needs the extra asr.
    """

    recogniser: Path | None = None
    """Folder of the recogniser, such as Whisper in CTranslate2's form; required."""
    recordings: tuple[Path, ...] = ()
    """Real recordings, of which stretches are the calls; required."""
    num_calls: int = 24
    """Number of calls."""
    call_sec: float = 120.0
    """Length of a call in seconds."""
    transcription: Annotated[TranscriptionConfig, tyro.conf.arg(name="")] = field(default_factory=TranscriptionConfig)
    """Options of transcription."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: a value is out of range.
        """
        require(self.num_calls >= 1, "num_calls", self.num_calls, "at least 1")
        require(self.call_sec > 0, "call_sec", self.call_sec, "more than 0")

    def measure(self) -> list[dict[str, Any]]:
        """Measure the loop and the job.

        Raises:
            UsageError: there is no recogniser, or no recording.
        """
        if self.recogniser is None or not self.recordings:
            raise UsageError("give --recogniser and --recordings")
        return measure_transcribe(self.recogniser, self.recordings, self.num_calls, self.call_sec, self.transcription)


def main() -> int:
    """Run a benchmark and return the exit code."""
    return run_command(_run)


def _run() -> int:
    commands: Any = tyro.extras.subcommand_type_from_defaults(
        {
            "encode": Encode(),
            "evidence": Evidence(),
            "leads": Leads(corpus=tyro.MISSING),
            "prepare": Prepare(),
            "score": Score(),
            "scale": Scale(),
            "train": Train(),
            "faults": Faults(),
            "readers": Readers(),
            "transcribe": Transcribe(),
        }
    )
    options: Benchmark = tyro.cli(commands, config=(tyro.conf.OmitArgPrefixes,))
    name, rows = type(options).__name__.lower(), options.measure()
    Console(width=None if sys.stdout.isatty() else WIDTH_OF_FILES).print(table_of(rows, name))
    if options.json is not None:
        options.json.write_text(json.dumps({name: rows, **about_this_machine()}, indent=2) + "\n", encoding="utf-8")
    return int(any(row.get(problem) for row in rows for problem in PROBLEMS))


def _network(sizes: Sizes, seed: int) -> MsmtFn:
    """Make a network with random weights."""
    torch.manual_seed(seed)
    return MsmtFn(MsmtFnConfig() if sizes == "base" else small_config(CHARACTERS))


def table_of(rows: list[dict[str, Any]], title: str) -> Table:
    """Format rows as a table for the terminal."""
    table = Table(title=title, title_justify="left")
    headings = list(dict.fromkeys(heading for row in rows for heading in row))
    for heading in headings:
        table.add_column(heading.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(_cell(heading, row.get(heading, "")) for heading in headings))
    return table


def _cell(heading: str, value: Any) -> str:
    return f"{value:.1e}" if heading.endswith("_difference") else str(value)


if __name__ == "__main__":
    sys.exit(main())
