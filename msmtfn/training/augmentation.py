"""Augment calls for training, as section 3.2 of the paper does: the audio of their rounds and the tokens of their text.

A round gets noise, another speed, a masked stretch, or none of these, all four equally likely: the paper's table 4 has
about three enhanced versions of each recording. Tokens are replaced by others that sound alike.

Shapes: S samples of a round, T tokens of a round, V ids of the vocabulary.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from itertools import chain
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torchaudio.functional import phase_vocoder
from transformers import PreTrainedTokenizerBase

from msmtfn.errors import UsageError
from msmtfn.homophones import load_homophones
from msmtfn.inference.scorer import CallRounds

Augment = Literal["none", "audio", "text", "both"]
Samples = npt.NDArray[np.int16]
Tokens = npt.NDArray[np.int32]

WINDOW_SEC: Final = 0.032  # holds two or three periods of a low voice, and is shorter than most phones
HOPS_PER_WINDOW: Final = 4  # what a phase vocoder needs with a Hann window
MIN_SPEED, MAX_SPEED = 0.5, 2.0  # beyond these a phase vocoder leaves little of a voice
NUM_AUDIO_KINDS: Final = 4  # noise, speed, mask and none


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentationConfig:
    """What is augmented, and how strongly."""

    augment: Augment = "both"
    """Which modality is changed; the paper's best results are those of audio."""
    snr_db: tuple[float, float] = (10.0, 30.0)
    """Least and greatest level of a round above the Gaussian noise added to it, in dB; the paper names none."""
    speed: tuple[float, float] = (0.9, 1.1)
    """Least and greatest speed, 1.1 being a tenth faster; the pitch is kept."""
    mask_share: float = 0.1
    """Largest share of a round that its one masked stretch silences; the share is drawn uniformly up to it."""
    homophone_probability: float = 0.1
    """How likely a character that has homophones is replaced by one of them."""
    tones_respected: bool = True
    """Whether homophones have the same tone, too."""
    masked_tokens: float = 0.0
    """Share of the tokens, on average, that are hidden behind the tokenizer's mask."""
    masked_together: int = 1
    """Neighbouring tokens that are hidden together: of a phrase that is hidden whole nothing is left to guess it from,
    so that the network must learn from the others."""

    def __post_init__(self) -> None:
        """Check the choices and ranges.

        Raises:
            ValueError: one is not possible.
        """
        if self.augment not in get_args(Augment):
            raise ValueError(f"augment is {self.augment!r}; choose one of {', '.join(get_args(Augment))}")
        if not -math.inf < self.snr_db[0] <= self.snr_db[1] < math.inf:
            raise ValueError(f"snr_db is {self.snr_db}; give two finite numbers of dB, the smaller first")
        if not MIN_SPEED <= self.speed[0] <= self.speed[1] <= MAX_SPEED:
            raise ValueError(
                f"speed is {self.speed}; give two factors from {MIN_SPEED} to {MAX_SPEED}, the smaller first"
            )
        for name in ("mask_share", "homophone_probability", "masked_tokens"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be between 0 and 1")
        if self.masked_together < 1:
            raise ValueError(f"masked_together is {self.masked_together}; it must be at least 1")


class Augmenter:
    """Augments calls; what it draws depends on the seed, the epoch and the call, and on nothing done before."""

    def __init__(
        self,
        config: AugmentationConfig,
        tokenizer: PreTrainedTokenizerBase,
        sample_rate: int,
        max_round_samples: int,
        seed: int,
    ) -> None:
        """Make the table of homophones, if text is augmented.

        Args:
            config: what is augmented, and how strongly.
            tokenizer: of the calls' tokens.
            sample_rate: of the calls' samples, in Hz.
            max_round_samples: the longest that a slowed round may be; what goes beyond is cut off.
            seed: 0 or more.

        Raises:
            UsageError: text is to be augmented, and the tokenizer has no homophones or no mask, or pypinyin is not
                installed.
            ValueError: the seed is negative.
        """
        if seed < 0:
            raise ValueError(f"seed is {seed}; it must be at least 0")
        self.config = config
        self.window_size = 2 ** round(math.log2(WINDOW_SEC * sample_rate))
        self.max_round_samples = max_round_samples
        self.seed = seed
        self.changes_audio = config.augment in ("audio", "both")
        changes_text = config.augment in ("text", "both")
        self.mask = tokenizer.mask_token_id
        self.kept = np.array(tokenizer.all_special_ids)
        if config.masked_tokens and changes_text and self.mask is None:
            raise UsageError("tokens cannot be masked: the tokenizer has no mask; choose masked_tokens=0")
        self.homophones = HomophoneTokens(tokenizer, tones_respected=config.tones_respected) if changes_text else None

    def augment(self, call_id: str, epoch: int, call: CallRounds) -> CallRounds:
        """Augment one call.

        Args:
            call_id: names the call; the same call of the same epoch is always augmented the same.
            epoch: from 0.
            call: is not changed.

        Returns:
            As many rounds with as many tokens; what was not augmented is shared with `call`.
        """
        name = int.from_bytes(hashlib.blake2b(call_id.encode(), digest_size=8).digest())
        # Two generators, so that "audio" and "text" draw what "both" draws, and the ablations differ in nothing else.
        audio_rng, text_rng = np.random.default_rng([self.seed, epoch, name]).spawn(2)
        samples, tokens = call.samples, call.tokens
        if self.changes_audio:
            samples = [self._augment_round(each, audio_rng) for each in samples]
        if self.homophones:
            tokens = self.homophones.substitute(tokens, self.config.homophone_probability, text_rng)
            share, together = self.config.masked_tokens, self.config.masked_together
            tokens = [mask_tokens(each, share, together, self.mask, self.kept, text_rng) for each in tokens]
        return CallRounds(samples=samples, tokens=tokens)

    def _augment_round(self, samples: Samples, rng: np.random.Generator) -> Samples:
        match rng.integers(NUM_AUDIO_KINDS):
            case 0:
                samples = add_noise(samples, rng.uniform(*self.config.snr_db), rng)
            case 1:
                samples = change_speed(samples, rng.uniform(*self.config.speed), self.window_size)
            case 2:
                samples = mask_stretch(samples, rng.uniform(0, self.config.mask_share), rng)
        return samples[: self.max_round_samples]


class HomophoneTokens:
    """The homophones among the tokens of a vocabulary.

    Attributes:
        counts: (V,) how many homophones a token has.
        starts: (V,) where they begin in `ids`.
        ids: the homophones of all tokens, one token's after the other's.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, tones_respected: bool) -> None:
        homophones = load_homophones(tones_respected=tones_respected)
        vocabulary, special = tokenizer.get_vocab(), set(tokenizer.all_special_ids)
        others: list[list[int]] = [[] for _ in range(max(vocabulary.values()) + 1)]
        for token, number in vocabulary.items():
            if number not in special:
                others[number] = [vocabulary[other] for other in homophones.get(token, "") if other in vocabulary]
        self.counts = np.array([len(each) for each in others])
        self.starts = np.cumsum(self.counts) - self.counts
        self.ids = np.array(list(chain.from_iterable(others)), np.int32)
        if not len(self.ids):
            raise UsageError(
                "text cannot be augmented: no token of the tokenizer is a Chinese character with a homophone; "
                'choose augment="audio"'
            )

    def substitute(self, tokens: list[Tokens], probability: float, rng: np.random.Generator) -> list[Tokens]:
        """Replace each token that has homophones, with `probability`, by one of them; all are equally likely.

        Args:
            tokens: (T,) ids of each round.
            probability: between 0 and 1.
            rng: draws.

        Returns:
            As many rounds, as many tokens each.
        """
        if not tokens:
            return []
        ids = np.concatenate(tokens)
        chosen = np.flatnonzero((rng.random(len(ids)) < probability) & (self.counts[ids] > 0))
        replaced = ids[chosen]
        ids[chosen] = self.ids[self.starts[replaced] + rng.integers(self.counts[replaced])]
        return np.split(ids, np.cumsum([len(each) for each in tokens[:-1]]))


def add_noise(samples: Samples, snr_db: float, rng: np.random.Generator) -> Samples:
    """Add Gaussian noise, `snr_db` below the round's own power; a silent round stays silent."""
    if not len(samples):
        return samples
    heard = samples.astype(np.float32)
    level = math.sqrt(float(np.mean(np.square(heard))) / 10 ** (snr_db / 10))
    return _to_int16(heard + np.float32(level) * rng.standard_normal(len(samples), np.float32))


def change_speed(samples: Samples, speed: float, window_size: int) -> Samples:
    """Play a round `speed` times as fast and keep its pitch and its power, with a phase vocoder.

    Args:
        samples: (S,).
        speed: above 1 the round becomes shorter.
        window_size: samples of a spectrum, a multiple of `HOPS_PER_WINDOW`.

    Returns:
        S / speed samples; a round shorter than a window as it is.
    """
    if len(samples) < window_size:
        return samples
    hop, window = window_size // HOPS_PER_WINDOW, torch.hann_window(window_size)
    heard = torch.from_numpy(samples.astype(np.float32))
    spectra = torch.stft(heard, window_size, hop, window=window, return_complex=True)
    # The advance of each bin a hop, without its whole turns: with them the phases, which are summed up over the round,
    # grow so large that float32 loses 30 dB.
    turns = torch.arange(window_size // 2 + 1) % HOPS_PER_WINDOW / HOPS_PER_WINDOW
    spectra = phase_vocoder(spectra, speed, 2 * math.pi * turns[:, None])
    changed = torch.istft(spectra, window_size, hop, window=window, length=round(len(samples) / speed))
    # The vocoder loses the phases between bins, and with them 3 dB of speech: the network would learn to hear that.
    loss = changed.square().mean() / heard.square().mean()
    return _to_int16((changed / loss.sqrt() if loss > 0 else changed).numpy())


def mask_stretch(samples: Samples, share: float, rng: np.random.Generator) -> Samples:
    """Silence one stretch of a round, `share` of it long, anywhere in it."""
    length = int(share * len(samples))
    start = rng.integers(len(samples) - length + 1)
    masked = samples.copy()
    masked[start : start + length] = 0
    return masked


def mask_tokens(
    tokens: Tokens, share: float, together: int, mask: int, kept: npt.NDArray[np.int64], rng: np.random.Generator
) -> Tokens:
    """Hide stretches of `together` tokens, which may overlap, but none of `kept`: (T,) to (T,).

    Each token is hidden with the probability `share`, whichever it is and wherever it stands.
    """
    # A token stays if none of the stretches that would hold it begins.
    begins = rng.random(len(tokens) + together - 1) < 1 - (1 - share) ** (1 / together)
    ends_before = np.concatenate([[0], np.cumsum(begins)])
    hidden = (ends_before[together:] > ends_before[:-together]) & ~np.isin(tokens, kept)
    return np.where(hidden, mask, tokens).astype(tokens.dtype)


def _to_int16(waveform: npt.NDArray[np.float32]) -> Samples:
    limits = np.iinfo(np.int16)
    return np.rint(waveform).clip(limits.min, limits.max).astype(np.int16)
