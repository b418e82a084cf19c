"""Measure what a stage costs, beside the plain way of doing the same, in one run; and what a fault costs: nothing."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from msmtfn.errors import JobError
from msmtfn.labels import TASKS
from msmtfn.model.config import MsmtFnConfig
from msmtfn.model.network import MsmtFn
from msmtfn.model.small import small_config
from msmtfn.scoring.scorer import CallRounds, Scorer, ScorerConfig
from msmtfn.trials.faults import FaultsConfig, run_faults

logger = logging.getLogger("msmtfn.benchmark")

ROUNDS_PER_CALL: Final = 3.35
MEDIAN_ROUND_SEC, SIGMA = 14.0, 0.6
SHORTEST_SEC, LONGEST_SEC = 1.0, 40.0
TOKENS_PER_ROUND: Final = 60
CHARACTERS: Final = 20_000
MATRIX_SIZE: Final = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Encode:
    """Calls through the scorer: rounds padded to 40 s as the paper has it, and rounds as long as they are.

    The network has random weights and computes in fp32. The mix is that of real calls: 3.35 rounds a call, lengths
    log-normal with median 14 s and sigma 0.6, clipped to 1 and 40 s, 60 tokens a round.
    """

    round_sec: tuple[float, ...] = (5.0, 10.0, 20.0, 40.0)
    """Lengths of single rounds to measure beside the mix, in seconds."""
    network: Literal["base", "demo"] = "base"
    """Sizes: those of HuBERT-base and RoBERTa-base, or the demo's small ones."""
    num_calls: int = 8
    """Calls of the mix."""
    seed: int = 0
    """Of lengths, samples and tokens."""
    json: Path | None = None
    """Write the figures, the versions and the machine to this file."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: one is out of range.
        """
        if self.num_calls < 1:
            raise ValueError(f"num_calls is {self.num_calls}; it must be at least 1")
        if not all(SHORTEST_SEC <= seconds <= LONGEST_SEC for seconds in self.round_sec):
            raise ValueError(
                f"round_sec is {self.round_sec}; each must be between {SHORTEST_SEC:g} and {LONGEST_SEC:g}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Faults:
    """Kill parts of the scoring job at random moments, and count the calls that are lost, doubled or differ.

    The job runs on a Ray cluster of two nodes and an S3 server of its own, all on this machine; it is given again where
    it ends without success. Needs the packages of `pip install -e '.[test]'`. The exit code is 1 where a call was lost.
    """

    trial: Annotated[FaultsConfig, tyro.conf.arg(name="")] = field(default_factory=FaultsConfig)
    """What is killed, and how often."""
    logs: Path | None = None
    """Folder for the jobs' logs; a temporary one that is kept where none is given."""
    json: Path | None = None
    """Write the figures, the versions and the machine to this file."""


def main() -> int:
    """Run a benchmark; the result is the exit code."""
    commands: Any = tyro.extras.subcommand_type_from_defaults({"encode": Encode(), "faults": Faults()})
    options: Encode | Faults = tyro.cli(commands, config=(tyro.conf.OmitArgPrefixes,))
    try:
        if isinstance(options, Encode):
            name, rows, title = "encode", measure_encode(options), "encode: seconds, fp32"
        else:
            name, rows, title = "faults", count_faults(options), "faults: calls after runs that were disturbed"
    except JobError as exc:
        logger.error("%s", exc)
        return 1
    Console().print(table_of(rows, title))
    if options.json is not None:
        options.json.write_text(json.dumps({name: rows, **about_this_machine()}, indent=2) + "\n", encoding="utf-8")
    return int(any(row.get(what) for row in rows for what in ("lost", "doubled", "differing")))


def count_faults(options: Faults) -> list[dict[str, Any]]:
    """Disturb runs of the job; a row for each kind of fault."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logs = options.logs or Path(tempfile.mkdtemp(prefix="msmtfn-faults-"))
    logs.mkdir(parents=True, exist_ok=True)
    logger.info("the jobs' logs are in %s", logs)
    return run_faults(options.trial, Path(__file__).with_name("score_daily.py"), logs)


def measure_encode(options: Encode) -> list[dict[str, Any]]:
    """Time both encodings of the same calls; a row for each length of round and for the mix."""
    rng = np.random.default_rng(options.seed)
    torch.manual_seed(options.seed)
    network = MsmtFn(MsmtFnConfig() if options.network == "base" else small_config(CHARACTERS))
    days = {f"{seconds:g} s": [make_call(rng, [seconds])] for seconds in options.round_sec}
    num_rounds = round(options.num_calls * ROUNDS_PER_CALL)
    lengths = np.clip(rng.lognormal(np.log(MEDIAN_ROUND_SEC), SIGMA, num_rounds), SHORTEST_SEC, LONGEST_SEC)
    days["mix"] = [make_call(rng, part.tolist()) for part in np.array_split(lengths, options.num_calls)]
    return [compare(name, calls, network) for name, calls in days.items()]


def make_call(rng: np.random.Generator, round_sec: Sequence[float]) -> CallRounds:
    """A call of noise, with tokens at random."""
    samples = [rng.integers(-8000, 8000, round(8000 * seconds)).astype(np.int16) for seconds in round_sec]
    return CallRounds(samples, [rng.integers(100, 20_000, TOKENS_PER_ROUND).astype(np.int32) for _ in round_sec])


def compare(name: str, calls: list[CallRounds], network: MsmtFn) -> dict[str, Any]:
    """Time both encodings of some calls, each after a warm-up, and see that they say the same."""
    encodings: tuple[Literal["padded", "unpadded"], ...] = ("padded", "unpadded")
    seconds, results = {}, []
    for encoding in encodings:
        scorer = Scorer(network, ScorerConfig(encoding=encoding), model_version="", run_id="")
        scorer.probabilities(calls[:1])
        elapsed, probabilities = timed(partial(scorer.probabilities, calls))
        seconds[encoding] = elapsed
        results.append(probabilities)
    audio_sec = sum(len(samples) for call in calls for samples in call.samples) / 8000
    return {
        "rounds": name,
        "number": sum(len(call.samples) for call in calls),
        "audio_sec": round(audio_sec, 1),
        "padded_sec": round(seconds["padded"], 3),
        "unpadded_sec": round(seconds["unpadded"], 3),
        "ratio": round(seconds["padded"] / seconds["unpadded"], 2),
        "times_real_time": round(audio_sec / seconds["unpadded"], 1),
        "largest_difference": float(max(abs(results[0][task] - results[1][task]).max() for task in TASKS)),
    }


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that something takes, and its result."""
    started = time.perf_counter()
    result = run()
    return time.perf_counter() - started, result


def about_this_machine() -> dict[str, Any]:
    """What the figures depend on."""
    size = (MATRIX_SIZE, MATRIX_SIZE)
    left, right = torch.randn(size), torch.randn(size)
    left @ right
    elapsed, _ = timed(lambda: left @ right)
    return {
        "versions": {name: importlib.metadata.version(name) for name in ("msmtfn", "torch", "transformers")},
        "machine": {
            "cpus": os.cpu_count(),
            "architecture": platform.machine(),
            "torch_threads": torch.get_num_threads(),
        },
        "fp32_matrix_product_tflops": round(2 * MATRIX_SIZE**3 / elapsed / 1e12, 3),
    }


def table_of(rows: list[dict[str, Any]], title: str) -> Table:
    """The rows as a table for the terminal."""
    table = Table(title=title, title_justify="left")
    for heading in rows[0]:
        table.add_column(heading.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(f"{value:.1e}" if name == "largest_difference" else str(value) for name, value in row.items()))
    return table


if __name__ == "__main__":
    sys.exit(main())
