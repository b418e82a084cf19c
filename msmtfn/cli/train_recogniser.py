"""Train the demo's recogniser, a small CTC network, on a simulated corpus."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import torch
import tyro

from msmtfn.cli.command import PARSER_OPTIONS, SafeConsole, run_command
from msmtfn.corpora.recogniser_card import write_card
from msmtfn.corpora.recogniser_data import Track, read_tracks
from msmtfn.corpora.recogniser_training import RecogniserTraining, find_characters, measure_error_rate, train_recogniser
from msmtfn.errors import UsageError
from msmtfn.progress import LineLog
from msmtfn.speech.conv_ctc import ConvCtc, ConvCtcConfig, save_conv_ctc

NUM_MELS: Final = 40

logger = logging.getLogger("msmtfn.train_recogniser")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Train a small recogniser of the simulated calls on their sound and their true words.

    Writes a folder that --recogniser of transcribe-daily and of score-daily takes. It knows the characters of the
    corpus only, so it is for the demo and for tests, not for real calls.

    It learns from the split training; the split validation gives the error rate in its card.

    Exit codes: 0 done, 1 failed, 2 wrong usage.
    """

    corpus: Path
    """Folder of a corpus, as simulate-calls writes it."""
    out: Path
    """Folder of the recogniser, new or empty; its weights are written after every epoch."""
    width: int = 128
    """Channels of the network."""
    num_blocks: int = 8
    """Residual blocks of the network."""
    training: Annotated[RecogniserTraining, tyro.conf.arg(name="")] = field(default_factory=RecogniserTraining)
    """Options of the training."""


def main(program: str, arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Args:
        program: name of the command in its help.
        arguments: command-line arguments, without the name of the command.
    """
    return run_command(partial(_train, program, arguments), job="train_recogniser")


def _train(program: str, arguments: Sequence[str]) -> None:
    options = tyro.cli(Arguments, prog=program, args=arguments, config=PARSER_OPTIONS)
    if options.out.exists() and any(options.out.iterdir()):
        raise UsageError(f"--out is {options.out}, which holds something; give a new folder")
    started, log = time.monotonic(), LineLog(logger)
    training = _read(options.corpus, "training", log)
    validation = _read(options.corpus, "validation", log)
    torch.manual_seed(options.training.seed)
    characters = find_characters(training)
    network = ConvCtc(
        ConvCtcConfig(characters=characters, num_mels=NUM_MELS, width=options.width, num_blocks=options.num_blocks)
    )
    rates = []
    for epoch in train_recogniser(network, training, options.training, partial(_show_step, log)):
        save_conv_ctc(network, options.out)
        rates.append(measure_error_rate(network, validation))
        logger.info("epoch %d: %.1f %% of the characters of validation are wrong", epoch, 100 * rates[-1])
    write_card(options.out, network, training, validation, options.training, rates)
    SafeConsole().print(
        f"Recogniser in {options.out}: {100 * rates[-1]:.1f} % of the characters of validation are wrong, "
        f"{time.monotonic() - started:.0f} s"
    )


def _read(corpus: Path, split: str, log: LineLog) -> list[Track]:
    tracks = read_tracks(corpus, [split], NUM_MELS, lambda done: log.show(f"{done} calls of {split} read"))
    if not any(tracks):
        raise UsageError(f"--corpus is {corpus}, whose split {split} has no calls; make it by simulate-calls")
    return tracks


def _show_step(log: LineLog, done: int, total: int, loss: float) -> None:
    log.show(f"{done} of {total} steps ({done / total:.0%}), loss {loss:.2f}", is_last=done == total)
