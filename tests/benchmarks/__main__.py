"""Measure what a stage costs, beside the plain way of doing the same, in one run; and what a fault costs: nothing."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import platform
import subprocess
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
from msmtfn.inference.scorer import Device
from msmtfn.model.checkpoint import Model
from msmtfn.model.config import MsmtFnConfig
from msmtfn.model.network import MsmtFn
from msmtfn.model.small import make_small_model, small_config
from msmtfn.scoring.pipeline import PipelineConfig
from tests.benchmarks.encode import measure_encode
from tests.benchmarks.flops import matrix_rate
from tests.benchmarks.mix import LONGEST_SEC, SHORTEST_SEC
from tests.benchmarks.prepare import measure_prepare
from tests.benchmarks.scale import measure_scale
from tests.benchmarks.score import measure_score
from tests.benchmarks.train import measure_train
from tests.faults.trial import FaultsConfig, run_faults

logger = logging.getLogger("msmtfn.benchmark")

CHARACTERS: Final = 21_128
Sizes = Literal["base", "demo"]

WIDTH_OF_FILES: Final = 240

ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark(ABC):
    """What every benchmark is told."""

    json: Path | None = None
    """Write the figures, the versions and the machine to this file."""

    @abstractmethod
    def measure(self) -> list[dict[str, Any]]:
        """The rows of the table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OfTheMix(Benchmark):
    """A benchmark on calls of the mix of real calls."""

    num_calls: int
    """Calls of the mix."""
    seed: int = 0
    """Of lengths, samples and text."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: one is out of range.
        """
        if self.num_calls < 1:
            raise ValueError(f"num_calls is {self.num_calls}; it must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Encode(OfTheMix):
    """Calls through the scorer: rounds padded to 40 s as the paper has it, and rounds as long as they are.

    The network has random weights. The mix is that of real calls: 3.35 rounds a call, lengths
    log-normal with median 14 s and sigma 0.6, clipped to 1 and 40 s, 60 tokens a round.
    """

    round_sec: tuple[float, ...] = (5.0, 10.0, 20.0, 40.0)
    """Lengths of rounds to measure beside the mix, in seconds."""
    num_rounds: int = 1
    """Rounds of each of these lengths; a GPU needs some 64 to have enough to do."""
    network: Sizes = "base"
    """Sizes: those of HuBERT-base and RoBERTa-base, or the demo's small ones."""
    num_calls: int = 8
    """Calls of the mix."""
    bf16: bool = False
    """Measure the unpadded way in bf16 too; it takes long on a processor without instructions for it."""
    int8: bool = False
    """Measure it in int8 too; for CPUs."""
    device: Device = "auto"
    """Where to measure; auto takes a GPU where there is one."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: one is out of range.
        """
        OfTheMix.__post_init__(self)
        if self.num_rounds < 1:
            raise ValueError(f"num_rounds is {self.num_rounds}; it must be at least 1")
        if self.int8 and self.device != "cpu":
            raise ValueError(f"int8 is measured on a CPU only and device is {self.device}; say cpu with it")
        if not all(SHORTEST_SEC <= seconds <= LONGEST_SEC for seconds in self.round_sec):
            raise ValueError(
                f"round_sec is {self.round_sec}; each must be between {SHORTEST_SEC:g} and {LONGEST_SEC:g}"
            )

    def measure(self) -> list[dict[str, Any]]:
        """A row for each length of round, and for the mix."""
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
class Prepare(OfTheMix):
    """Recordings of the mix of real calls, 8 kHz WAV, on their way to the network: each step, on one core."""

    num_calls: int = 200
    """Calls of the mix."""

    def measure(self) -> list[dict[str, Any]]:
        """A row for each step, and for all of them."""
        return measure_prepare(self.num_calls, self.seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Score(OfTheMix):
    """The job's graph on a Ray of its own beside a bare loop over the same scorer, on the same calls of the mix."""

    network: Sizes = "base"
    """Sizes: those of HuBERT-base and RoBERTa-base, or the demo's small ones."""
    num_calls: int = 100
    """Calls of the mix."""
    num_scorers: int = 0
    """As of the job: processes that hold the network; 0 lets the job choose."""
    threads_per_scorer: int = 0
    """As of the job: threads of each of them; 0 lets the job choose."""
    batch_calls: int = 0
    """As of the job: calls that are scored together; 0 lets the job choose."""

    def measure(self) -> list[dict[str, Any]]:
        """One row."""
        model = Model(_network(self.network, self.seed), make_small_model(self.seed).tokenizer)
        pipeline = PipelineConfig(
            num_scorers=self.num_scorers, threads_per_scorer=self.threads_per_scorer, batch_calls=self.batch_calls
        )
        return measure_score(model, self.num_calls, self.seed, pipeline)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale(Benchmark):
    """How the job grows: seconds and memory with the calls, and the rate with the scorers.

    Days of calls of two seconds are scored by the job with a small network. Then as many scorers as logical CPUs wait a
    tenth of a second a call instead of computing, so that the schedule is measured and not the cores. Needs the
    packages of `pip install -e '.[test]'`.
    """

    num_calls: tuple[int, ...] = (500, 2_000, 10_000)
    """Calls of each day."""
    num_scorers: tuple[int, ...] = (1, 2, 4)
    """Waiting scorers of each run."""
    seed: int = 0
    """Of samples and text."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: one is out of range.
        """
        for name in ("num_calls", "num_scorers"):
            if any(number < 1 for number in getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}; each must be at least 1")

    def measure(self) -> list[dict[str, Any]]:
        """A row a day, and a row for each number of scorers."""
        return measure_scale(self.num_calls, self.num_scorers, ROOT / "jobs" / "score_daily.py", self.seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Train(OfTheMix):
    """A step of the paper's recipe: end to end on padded rounds and on rounds as they are, and on cached states."""

    network: Sizes = "base"
    """Sizes: those of HuBERT-base and RoBERTa-base, or the demo's small ones."""
    num_calls: int = 16
    """Calls of the step."""

    def measure(self) -> list[dict[str, Any]]:
        """A row for each way."""
        return measure_train(_network(self.network, self.seed), self.num_calls, self.seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Faults(Benchmark):
    """Kill parts of the scoring job at random moments, and count the calls that are lost, doubled or differ.

    The job runs on a Ray cluster of two nodes and an S3 server of its own, all on this machine; it is given again where
    it ends without success. Needs the packages of `pip install -e '.[test]'`. The exit code is 1 where a call was lost.
    """

    trial: Annotated[FaultsConfig, tyro.conf.arg(name="")] = field(default_factory=FaultsConfig)
    """What is killed, and how often."""
    logs: Path | None = None
    """Folder for the jobs' logs; a temporary one that is kept where none is given."""

    def measure(self) -> list[dict[str, Any]]:
        """A row for each kind of fault."""
        logs = self.logs or Path(tempfile.mkdtemp(prefix="msmtfn-faults-"))
        logs.mkdir(parents=True, exist_ok=True)
        logger.info("the jobs' logs are in %s", logs)
        return run_faults(self.trial, ROOT / "jobs" / "score_daily.py", logs)


def main() -> int:
    """Run a benchmark; the result is the exit code."""
    return run_command(_run)


def _run() -> int:
    commands: Any = tyro.extras.subcommand_type_from_defaults(
        {
            "encode": Encode(),
            "prepare": Prepare(),
            "score": Score(),
            "scale": Scale(),
            "train": Train(),
            "faults": Faults(),
        }
    )
    options: Benchmark = tyro.cli(commands, config=(tyro.conf.OmitArgPrefixes,))
    name, rows = type(options).__name__.lower(), options.measure()
    # A file or a pipe has no width; a table that is squeezed into 80 columns cannot be read.
    Console(width=None if sys.stdout.isatty() else WIDTH_OF_FILES).print(table_of(rows, name))
    if options.json is not None:
        options.json.write_text(json.dumps({name: rows, **about_this_machine()}, indent=2) + "\n", encoding="utf-8")
    return int(any(row.get(what) for row in rows for what in ("lost", "doubled", "differing")))


def _network(sizes: Sizes, seed: int) -> MsmtFn:
    """A network of new weights."""
    torch.manual_seed(seed)
    return MsmtFn(MsmtFnConfig() if sizes == "base" else small_config(CHARACTERS))


def about_this_machine() -> dict[str, Any]:
    """What the figures depend on."""
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "commit": commit.stdout.strip() or None,
        "versions": {name: importlib.metadata.version(name) for name in ("msmtfn", "ray", "torch", "transformers")},
        "machine": {
            "cpus": os.cpu_count(),
            "architecture": platform.machine(),
            "processor": _processor(),
            "instructions": sorted(name for name, has in torch.cpu.get_capabilities().items() if has is True),
            "torch_threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        },
        "matrix_product_tflops": {
            device: {
                name: round(matrix_rate(dtype, torch.device(device)), 4)
                for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
            }
            for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else []))
        },
    }


def _processor() -> str:
    """Its name, where the system tells."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def table_of(rows: list[dict[str, Any]], title: str) -> Table:
    """The rows as a table for the terminal."""
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
