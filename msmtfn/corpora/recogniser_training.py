"""Train the recogniser of the demo, a small CTC network, on the sound and the true words of simulated calls.

Shapes: B clips, T frames of the network, V characters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.text import char_error_rate

from msmtfn.corpora.recogniser_data import FRAMES_PER_SEC, SpokenText, Track
from msmtfn.errors import require
from msmtfn.speech.conv_ctc import BLANK, ConvCtc, normalise
from msmtfn.speech.conv_ctc_recogniser import read_characters

BUCKETS: Final = 8
"""Groups of batches within which clips are sorted by length, so that batches are mixed and little is padding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecogniserTraining:
    """Options of training a recogniser."""

    epochs: int = 3
    """Number of times that every turn is heard."""
    learning_rate: float = 0.002
    """Highest learning rate, which is reached after a tenth of the steps and falls to nothing (one-cycle)."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    batch_sec: float = 60.0
    """Seconds of sound in a batch, padding included."""
    max_turns: int = 3
    """Most turns of a channel that are heard as one clip, as the detector of speech joins them; at first it is one."""
    max_grad_norm: float = 1.0
    """Length that a gradient is cut to."""
    seed: int = 0
    """Random seed."""

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: one is out of range.
        """
        for name in ("epochs", "max_turns"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("learning_rate", "batch_sec", "max_grad_norm"):
            require(getattr(self, name) > 0, name, getattr(self, name), "more than 0")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "at least 0")


def find_characters(tracks: Sequence[Track]) -> str:
    """Return all characters of the texts, sorted."""
    return "".join(sorted({character for track in tracks for turn in track for character in turn.text}))


def train_recogniser(
    network: ConvCtc,
    tracks: Sequence[Track],
    options: RecogniserTraining,
    report: Callable[[int, int, float], None],
) -> Iterator[int]:
    """Train a network in place, and yield the number of each epoch after it.

    Args:
        network: the network; it knows all characters of the texts.
        tracks: what it learns from.
        options: options of the training.
        report: called after every step with the number of steps done, the number of all, and the loss.
    """
    generator = np.random.default_rng(options.seed)
    torch.manual_seed(options.seed)
    epochs = [
        make_batches(tracks, 1 if epoch == 0 else options.max_turns, options.batch_sec, generator)
        for epoch in range(options.epochs)
    ]
    num_steps = sum(map(len, epochs))
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.learning_rate, num_steps, pct_start=0.1, cycle_momentum=False
    )
    done = 0
    for number, batches in enumerate(epochs, start=1):
        network.train()
        for batch in batches:
            loss = ctc_loss(network, batch)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), options.max_grad_norm)
            optimizer.step()
            schedule.step()
            done += 1
            report(done, num_steps, float(loss.detach()))
        network.eval()
        yield number


def make_batches(
    tracks: Sequence[Track], max_turns: int, batch_sec: float, generator: np.random.Generator
) -> list[list[Track]]:
    """Return batches of clips, each a run of one to `max_turns` turns of a track, in random order.

    Args:
        tracks: the tracks.
        max_turns: most turns of a clip.
        batch_sec: seconds of a batch, padding included.
        generator: source of randomness.
    """
    clips: list[Track] = []
    for track in tracks:
        place = 0
        while place < len(track):
            size = int(generator.integers(1, max_turns, endpoint=True))
            clips.append(track[place : place + size])
            place += size
    lengths = np.array([sum(len(turn.mels) for turn in clip) for clip in clips])
    order = generator.permutation(len(clips))
    batches: list[list[Track]] = []
    for bucket in np.array_split(order, BUCKETS):
        batch: list[Track] = []
        for number in bucket[np.argsort(lengths[bucket], kind="stable")].tolist():
            # In ascending order the last clip of a batch is its longest, to which all others are padded.
            if batch and lengths[number] * (len(batch) + 1) > batch_sec * FRAMES_PER_SEC:
                batches.append(batch)
                batch = []
            batch.append(clips[number])
        if batch:
            batches.append(batch)
    return [batches[number] for number in generator.permutation(len(batches)).tolist()]


def ctc_loss(network: ConvCtc, batch: Sequence[Track]) -> Tensor:
    """Return the mean CTC loss a character of a batch of clips."""
    numbers = {character: number for number, character in enumerate(network.config.characters, start=1)}
    log_probs, lengths = network([features_of(clip) for clip in batch])
    targets = [[numbers[character] for turn in clip for character in turn.text] for clip in batch]
    return F.ctc_loss(
        log_probs.transpose(0, 1),
        torch.tensor([number for target in targets for number in target]),
        lengths,
        torch.tensor([len(target) for target in targets]),
        blank=BLANK,
        zero_infinity=True,
    )


def features_of(clip: Sequence[SpokenText]) -> Tensor:
    """Return the features of a clip, as the recogniser makes them."""
    return normalise(torch.cat([turn.mels for turn in clip]).float())


@torch.inference_mode()
def measure_error_rate(network: ConvCtc, tracks: Sequence[Track], batch_sec: float = 120.0) -> float:
    """Return the share of characters that a network hears wrong, turn by turn; marks do not count."""
    found: list[str] = []
    said: list[str] = []
    for batch in make_batches(tracks, 1, batch_sec, np.random.default_rng(0)):
        log_probs, lengths = network([features_of(clip) for clip in batch])
        for rows, length, clip in zip(log_probs, lengths.tolist(), batch, strict=True):
            heard = "".join(each.text for each in read_characters(rows[:length], network.config.characters))
            found.append(without_marks(heard))
            said.append(without_marks("".join(turn.text for turn in clip)))
    return float(char_error_rate(found, said))


def without_marks(text: str) -> str:
    """Return a text without punctuation and spaces."""
    return "".join(filter(str.isalnum, text))
