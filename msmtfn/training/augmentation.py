"""Augmentation of calls for training, after section 3.2 of the paper: of the rounds' audio and of the text's tokens.

A round gets noise, another speed, a silenced stretch, or none of these, all four equally likely, because the paper's
table 4 has about three augmented versions of each recording. Characters are replaced by homophones.

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

from msmtfn.errors import UsageError, require
from msmtfn.homophones import load_homophones
from msmtfn.inference.scorer import CallRounds

Augment = Literal["none", "audio", "text", "both"]
Samples = npt.NDArray[np.int16]
Tokens = npt.NDArray[np.int32]

WINDOW_SEC: Final = 0.032  # two or three periods of a low voice, yet shorter than most phones
HOPS_PER_WINDOW: Final = 4  # a phase vocoder with a Hann window needs an overlap of 75 %
MIN_SPEED, MAX_SPEED = 0.5, 2.0  # a phase vocoder distorts a voice too much beyond these
NUM_AUDIO_KINDS: Final = 4  # noise, speed, silenced stretch and none


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentationConfig:
    """The kinds of augmentation and their strength."""

    augment: Augment = "both"
    """Modality that is augmented; the paper's best results augment the audio only."""
    snr_db: tuple[float, float] = (10.0, 30.0)
    """Lowest and highest signal-to-noise ratio of the Gaussian noise added to a round, in dB; the paper gives no
    values."""
    speed: tuple[float, float] = (0.9, 1.1)
    """Lowest and highest speed factor, 1.1 being 10 % faster; the pitch is kept."""
    mask_share: float = 0.1
    """Largest share of a round that its one masked stretch silences; the share is drawn uniformly from 0 to this."""
    homophone_probability: float = 0.1
    """Probability that a character with homophones is replaced by one of them."""
    tones_respected: bool = True
    """Use only homophones with the same tone."""
    masked_tokens: float = 0.0
    """Average share of the tokens that are replaced by the tokenizer's mask token."""
    masked_together: int = 1
    """Number of neighbouring tokens that are masked together; a phrase that is masked whole cannot be guessed from its
    remaining tokens, so the network must learn from the other phrases."""

    def __post_init__(self) -> None:
        """Check the choices and ranges.

        Raises:
            ValueError: a field has an impossible value.
        """
        augments, snr_db, speed = get_args(Augment), self.snr_db, self.speed
        require(self.augment in augments, "augment", self.augment, f"one of {', '.join(augments)}")
        is_finite = -math.inf < snr_db[0] <= snr_db[1] < math.inf
        require(is_finite, "snr_db", snr_db, "two finite numbers of dB, the smaller first")
        is_possible = MIN_SPEED <= speed[0] <= speed[1] <= MAX_SPEED
        require(is_possible, "speed", speed, f"two factors from {MIN_SPEED} to {MAX_SPEED}, the smaller first")
        for name in ("mask_share", "homophone_probability", "masked_tokens"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "between 0 and 1")
        require(self.masked_together >= 1, "masked_together", self.masked_together, "at least 1")


class Augmenter:
    """An augmenter of calls, whose random draws depend on the seed, the epoch and the call's id only."""

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
            config: the kinds of augmentation and their strength.
            tokenizer: the tokenizer that made the calls' tokens.
            sample_rate: sample rate of the calls, in Hz.
            max_round_samples: longest a slowed round may become, in samples; the rest is cut off.
            seed: 0 or more.

        Raises:
            UsageError: text is to be augmented, but the tokenizer has no homophones or no mask token, or pypinyin is
                not installed.
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
            raise UsageError("tokens cannot be masked: the tokenizer has no mask token; choose masked_tokens=0")
        self.homophones = HomophoneTokens(tokenizer, tones_respected=config.tones_respected) if changes_text else None

    def augment(self, call_id: str, epoch: int, call: CallRounds) -> CallRounds:
        """Augment one call.

        Args:
            call_id: id of the call; the same call is augmented in the same way whenever an epoch is repeated.
            epoch: number of the epoch, from 0.
            call: the rounds of the call; they are not changed.

        Returns:
            The same number of rounds and of tokens; arrays that were not augmented are shared with `call`.
        """
        name = int.from_bytes(hashlib.blake2b(call_id.encode(), digest_size=8).digest())
        # Audio and text have generators of their own: each draws the same whether or not the other is augmented, so
        # that the ablations differ in the modality only.
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
        counts: (V,) number of homophones of each token.
        starts: (V,) index of each token's first homophone in `ids`.
        ids: the homophones of all tokens, token by token.
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
        """Replace tokens by one of their homophones, all of which are equally likely.

        Args:
            tokens: (T,) ids of each round.
            probability: probability that a token with homophones is replaced.
            rng: source of the random draws.

        Returns:
            The same number of rounds, with the same number of tokens each.
        """
        if not tokens:
            return []
        ids = np.concatenate(tokens)
        chosen = np.flatnonzero((rng.random(len(ids)) < probability) & (self.counts[ids] > 0))
        replaced = ids[chosen]
        ids[chosen] = self.ids[self.starts[replaced] + rng.integers(self.counts[replaced])]
        return np.split(ids, np.cumsum([len(each) for each in tokens[:-1]]))


def add_noise(samples: Samples, snr_db: float, rng: np.random.Generator) -> Samples:
    """Add Gaussian noise whose power lies `snr_db` below the round's; a silent round stays silent."""
    if not len(samples):
        return samples
    waveform = samples.astype(np.float32)
    # SNR in dB = 10 log10(power of the signal / power of the noise), solved for the noise's standard deviation.
    level = math.sqrt(float(np.mean(np.square(waveform))) / 10 ** (snr_db / 10))
    return _to_int16(waveform + np.float32(level) * rng.standard_normal(len(samples), np.float32))


def change_speed(samples: Samples, speed: float, window_size: int) -> Samples:
    """Change the speed of a round with a phase vocoder, and keep its pitch and power.

    Args:
        samples: (S,) samples.
        speed: speed factor; above 1 the round becomes shorter.
        window_size: samples per spectrum, a multiple of `HOPS_PER_WINDOW`.

    Returns:
        S / speed samples; a round shorter than a window is returned unchanged.
    """
    if len(samples) < window_size:
        return samples
    hop, window = window_size // HOPS_PER_WINDOW, torch.hann_window(window_size)
    waveform = torch.from_numpy(samples.astype(np.float32))
    spectra = torch.stft(waveform, window_size, hop, window=window, return_complex=True)
    # The phase of bin k of N advances by 2 pi k hop / N per hop. Whole turns are left out: the vocoder sums the phases
    # over the round, and with whole turns they grow so large that rounding in float32 costs 30 dB.
    turns = torch.arange(window_size // 2 + 1) % HOPS_PER_WINDOW / HOPS_PER_WINDOW
    spectra = phase_vocoder(spectra, speed, 2 * math.pi * turns[:, None])
    changed = torch.istft(spectra, window_size, hop, window=window, length=round(len(samples) / speed))
    # The vocoder does not keep the phases of neighbouring bins aligned, which costs speech 3 dB of power. The network
    # would learn to recognise augmented rounds by that, so the power is restored.
    loss = changed.square().mean() / waveform.square().mean()
    return _to_int16((changed / loss.sqrt() if loss > 0 else changed).numpy())


def mask_stretch(samples: Samples, share: float, rng: np.random.Generator) -> Samples:
    """Silence one stretch of a round at a random position; its length is `share` of the round's."""
    length = int(share * len(samples))
    start = rng.integers(len(samples) - length + 1)
    masked = samples.copy()
    masked[start : start + length] = 0
    return masked


def mask_tokens(
    tokens: Tokens, share: float, together: int, mask: int, kept: npt.NDArray[np.int64], rng: np.random.Generator
) -> Tokens:
    """Mask stretches of `together` tokens, which may overlap; those in `kept` are never masked: (T,) to (T,).

    Every other token is masked with the probability `share`, wherever it stands.
    """
    # A token is in `together` possible stretches, and stays if none of them begins. With the probability p that one
    # begins, 1 - share = (1 - p) ** together, solved for p. Stretches may begin before the first token.
    begins = rng.random(len(tokens) + together - 1) < 1 - (1 - share) ** (1 / together)
    ends_before = np.concatenate([[0], np.cumsum(begins)])
    hidden = (ends_before[together:] > ends_before[:-together]) & ~np.isin(tokens, kept)
    return np.where(hidden, mask, tokens).astype(tokens.dtype)


def _to_int16(waveform: npt.NDArray[np.float32]) -> Samples:
    limits = np.iinfo(np.int16)
    return np.rint(waveform).clip(limits.min, limits.max).astype(np.int16)
