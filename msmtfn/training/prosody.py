"""Prosody pretraining: a new audio encoder learns to predict how a round is spoken, from its samples and no labels.

A few hundred labels do not teach an encoder loudness, pitch and pace; the network memorises the texts of the calls
instead. So a linear layer on the encoder's mean state is first trained, together with the encoder, to predict a few
prosodic features that are computed from the samples. The layer is then discarded.

Shapes: R rounds, S samples, F windows (one every 10 ms), W samples per window, A frames of the encoder, D its width.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from msmtfn.features.processor import FULL_SCALE
from msmtfn.inference.feed import feed_rounds
from msmtfn.model.checkpoint import PackedNetwork, unpack_network

HOP_SEC, WINDOW_SEC = 0.01, 0.025
PITCH_HZ: Final = (70.0, 400.0)
REFERENCE_HZ: Final = 150.0
SEGMENTS: Final = 8  # equal segments of a round
FIGURES_PER_SEGMENT, FIGURES_PER_ROUND = 5, 5
NUM_FIGURES: Final = SEGMENTS * FIGURES_PER_SEGMENT + FIGURES_PER_ROUND
ACTIVE_DB: Final = -22.0  # relative to the round's loudest frames; quieter frames are a pause
VOICED: Final = 0.5  # lowest autocorrelation of a voiced frame at its period
PEAK_SHARE: Final = 0.9  # a peak this close to the highest may be the period
SMOOTHED_FRAMES: Final = 5
ROUNDS_PER_STEP: Final = 16
LEARNING_RATE, WEIGHT_DECAY, MAX_GRAD_NORM, WARMUP_SHARE = 2e-3, 0.01, 1.0, 0.1
Samples = npt.NDArray[np.int16]
Figures = npt.NDArray[np.float32]
ReadSamples = Callable[[], Iterable[list[Samples]]]


def describe_prosody(samples: Samples, sample_rate: int) -> Figures:
    """Compute the prosodic features of a round.

    For each of 8 equal segments: the mean level of the active frames relative to the round's loudest frames, in dB; the
    share of active frames; the mean and standard deviation of the pitch of the voiced frames, in octaves from 150 Hz;
    and the loudness peaks per active frame, which follow the syllables. For the round: the logarithms of its longest
    pause and of its length, both in frames; the difference of the 95th and 75th percentile of the level, in dB; and the
    25th and 10th percentile of the active frames' levels, in dB.

    Args:
        samples: (S,) samples of one round.
        sample_rate: sample rate in Hz.

    Returns:
        (45,) features.
    """
    frames = _frames(samples.astype(np.float32), sample_rate)
    level_db = 10 * np.log10(np.square(frames).mean(axis=1) + 1.0)
    loud_db = np.percentile(level_db, 95)
    relative_db = level_db - loud_db
    is_active = relative_db > ACTIVE_DB
    octaves, correlation = _pitch(frames, sample_rate)
    is_voiced = (correlation > VOICED) & is_active
    half = SMOOTHED_FRAMES // 2
    smooth = np.convolve(level_db, np.ones(SMOOTHED_FRAMES) / SMOOTHED_FRAMES)[half : half + len(level_db)]
    is_peak = np.zeros(len(smooth), np.bool_)
    is_peak[1:-1] = (smooth[1:-1] > smooth[:-2]) & (smooth[1:-1] >= smooth[2:]) & is_active[1:-1]
    figures: list[float] = []
    for part in np.array_split(np.arange(len(frames)), SEGMENTS):
        active, voiced = is_active[part], is_voiced[part]
        figures += [
            relative_db[part][active].mean() if active.any() else ACTIVE_DB,
            active.mean() if len(part) else 0.0,
            octaves[part][voiced].mean() if voiced.any() else 0.0,
            octaves[part][voiced].std() if voiced.any() else 0.0,
            is_peak[part].sum() / max(active.sum(), 10),
        ]
    pauses = np.diff(np.flatnonzero(np.concatenate([[True], is_active, [True]])))
    levels = relative_db[is_active]
    figures += [
        np.log(pauses.max()),
        np.log(len(frames)),
        loud_db - np.percentile(level_db, 75),
        *np.percentile(levels, (25, 10)),
    ]
    return np.array(figures, np.float32)


class ProsodyLearner:
    """The prosody pretraining of a network's audio encoder."""

    def __init__(
        self,
        network: PackedNetwork,
        read_samples: ReadSamples,
        *,
        num_epochs: int,
        seed: int,
        threads: int,
        state: bytes = b"",
    ) -> None:
        """Compute the features of all rounds, and make the optimizer.

        Args:
            network: the network whose audio encoder is trained.
            read_samples: yields the samples of all rounds, some at a time, in the same order whenever it is called.
            num_epochs: planned passes over the rounds, which the learning rate schedule spans.
            seed: seed of the linear layer, the order of the rounds, and dropout.
            threads: number of threads on a CPU.
            state: state of a learner with the same arguments to resume from; empty starts anew.

        Raises:
            ValueError: no round is as long as a frame of the audio encoder.
        """
        torch.set_num_threads(threads)
        torch.manual_seed(seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        unpacked = unpack_network(network)
        self.config = unpacked.config
        self.encoder = unpacked.audio_encoder.to(self.device).train()
        self.read_samples, self.seed, self.epoch = read_samples, seed, 0
        described = [np.stack([self._describe(each) for each in rounds]) for rounds in self._rounds()]
        if not described:
            raise ValueError("no round is as long as a frame of the audio encoder")
        features = np.concatenate(described)
        mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-3
        self.targets = [torch.from_numpy((each - mean) / deviation) for each in described]
        self.head = nn.Linear(self.config.audio.hidden_size, NUM_FIGURES).to(self.device)
        self.weights = [*self.encoder.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.AdamW(self.weights, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
        num_steps = num_epochs * sum(-(-len(each) // ROUNDS_PER_STEP) for each in described)
        self.schedule = OneCycleLR(
            self.optimizer, LEARNING_RATE, total_steps=num_steps + 1, pct_start=max(WARMUP_SHARE, 2 / (num_steps + 1))
        )
        if state:
            self._load_state_dict(load_state(state))

    def run_epoch(self) -> tuple[float, bytes]:
        """Pass over all rounds once.

        Returns:
            The mean squared error of the features, each scaled to variance 1, and the learner's state.
        """
        # The seeds depend on the epoch, so that a resumed learner draws the same numbers as one never interrupted.
        rng = np.random.default_rng([self.seed, self.epoch])
        torch.manual_seed(self.seed * 1009 + self.epoch)
        total, num_rounds = 0.0, 0
        for rounds, targets in zip(self._rounds(), self.targets, strict=True):
            # Groups mix rounds of all lengths: the encoder learns less from groups of equally long rounds.
            order = rng.permutation(len(rounds))
            groups = [order[start : start + ROUNDS_PER_STEP] for start in range(0, len(order), ROUNDS_PER_STEP)]
            texts = [np.zeros(0, np.int32)] * len(rounds)
            for group, batch in zip(groups, feed_rounds(groups, rounds, texts, 0, self.device), strict=True):
                states, mask = self.encoder(batch.samples.float() / FULL_SCALE, batch.num_samples, padded=False)
                error = F.mse_loss(self.head(_means(states, mask)), targets[group].to(self.device))
                self.optimizer.zero_grad(set_to_none=True)
                error.backward()
                nn.utils.clip_grad_norm_(self.weights, MAX_GRAD_NORM)
                self.optimizer.step()
                self.schedule.step()
                total += error.item() * len(group)
                num_rounds += len(group)
        self.epoch += 1
        return total / num_rounds, self._state()

    def _parts(self) -> dict[str, Any]:
        return {"encoder": self.encoder, "head": self.head, "optimizer": self.optimizer, "schedule": self.schedule}

    def _state(self) -> bytes:
        file = io.BytesIO()
        torch.save({"epoch": self.epoch} | {name: part.state_dict() for name, part in self._parts().items()}, file)
        return file.getvalue()

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch = state["epoch"]
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _describe(self, samples: Samples) -> Figures:
        return describe_prosody(samples, self.config.encoder_sample_rate)

    def _rounds(self) -> Iterator[list[Samples]]:
        """Yield the rounds that are as long as a frame of the encoder."""
        shortest = self.config.receptive_field
        for rounds in self.read_samples():
            if long_enough := [each for each in rounds if len(each) >= shortest]:
                yield long_enough


def load_state(state: bytes) -> dict[str, Any]:
    """Load the state that `ProsodyLearner.run_epoch` returns: the weights of the `encoder`, and what resuming needs."""
    content: dict[str, Any] = torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
    return content


def _means(states: Tensor, mask: Tensor) -> Tensor:
    """Average each round's states over its frames: (R, A, D) with the mask (R, A) to (R, D)."""
    return (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)


def _frames(waveform: npt.NDArray[np.float32], sample_rate: int) -> npt.NDArray[np.float32]:
    """Cut a waveform into overlapping windows (F, W), at least one."""
    hop, width = round(HOP_SEC * sample_rate), round(WINDOW_SEC * sample_rate)
    padded = np.pad(waveform, (0, max(0, width - len(waveform))))
    return np.lib.stride_tricks.sliding_window_view(padded, width)[::hop]


def _pitch(frames: npt.NDArray[np.float32], sample_rate: int) -> tuple[Figures, Figures]:
    """Estimate the pitch of each frame (F, W) in octaves from 150 Hz, and the autocorrelation at its period.

    The method is the normalised autocorrelation of Boersma ("Accurate short-term analysis of the fundamental
    frequency", 1993), with a rectangular window.
    """
    width = frames.shape[1]
    centred = frames - frames.mean(axis=1, keepdims=True)
    # Wiener-Khinchin: the autocorrelation is the inverse transform of the power spectrum. Padding to at least twice the
    # width keeps it from wrapping around.
    spectrum = np.fft.rfft(centred, 2 ** (2 * width - 1).bit_length())
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[:, :width]
    lags = np.arange(int(sample_rate / PITCH_HZ[1]), int(sample_rate / PITCH_HZ[0]))
    # At the lag k only W - k products are summed, so the correlation of a periodic signal shrinks by (W - k) / W.
    # Dividing by that undoes it. The small term keeps silence from dividing by zero.
    normed = correlation[:, lags] / (correlation[:, :1] + 1e-3) * (width / (width - lags))
    # A multiple of the period correlates as well as the period, so the first peak that is nearly the highest is taken;
    # without such a peak, the highest value.
    is_peak = np.zeros(normed.shape, np.bool_)
    is_peak[:, 1:-1] = (normed[:, 1:-1] >= normed[:, :-2]) & (normed[:, 1:-1] > normed[:, 2:])
    is_peak &= normed >= PEAK_SHARE * normed.max(axis=1, keepdims=True)
    best = np.where(is_peak.any(axis=1), is_peak.argmax(axis=1), normed.argmax(axis=1))
    octaves = np.log2(sample_rate / lags[best] / REFERENCE_HZ)  # a lag of k samples is a pitch of sample_rate / k
    return octaves.astype(np.float32), normed[np.arange(len(frames)), best].astype(np.float32)
