"""Voice encoder: turns windows of speech into vectors that are close for one speaker and far apart for two.

The network is the GE2E encoder (Wan et al., 2018) with the public weights of Resemblyzer; README.md says how they came
here. The vectors live as long as the diarisation of one call; they are not stored.
Shapes: S samples, F frames of 10 ms, W windows, D width of a vector.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

from msmtfn.speech.recogniser import SAMPLE_RATE, Waveform

WEIGHTS: Final = Path(__file__).parent / "voice_encoder.safetensors"
NUM_MELS: Final = 40
WIDTH: Final = 256
NUM_LAYERS: Final = 3
FFT_SAMPLES: Final = SAMPLE_RATE * 25 // 1000
FRAME_SAMPLES: Final = SAMPLE_RATE * 10 // 1000
FRAMES_PER_SEC: Final = SAMPLE_RATE // FRAME_SAMPLES
QUIET_POWER: Final = 1e-3
"""Mean power up to which a call is amplified: -30 dB, as in the encoder's training."""
BATCH_WINDOWS: Final = 256
BLOCK_FRAMES: Final = 6_000
"""Frames whose spectra are in memory at once: a minute."""
MIN_POWER: Final = 1e-12


class VoiceEncoder(nn.Module):
    """Network that maps windows of mel spectrograms to vectors of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(NUM_MELS, WIDTH, NUM_LAYERS, batch_first=True)
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, mels: Tensor) -> Tensor:
        """Map windows (W, F, NUM_MELS) to vectors (W, D)."""
        _, (hidden, _) = self.lstm(mels)
        return nn.functional.normalize(torch.relu(self.linear(hidden[-1])), dim=1)


@lru_cache(maxsize=1)
def load_voice_encoder() -> VoiceEncoder:
    """Load the encoder, once in a process."""
    encoder = VoiceEncoder()
    encoder.load_state_dict({name: weight.float() for name, weight in load_file(WEIGHTS).items()})
    return encoder.eval()


@torch.inference_mode()
def embed_windows(
    waveform: Waveform, centers_sec: npt.NDArray[np.float64], window_sec: float
) -> npt.NDArray[np.float32]:
    """Return the vectors (W, D) of windows of a channel.

    Args:
        waveform: (S,) samples in [-1, 1] at `SAMPLE_RATE`.
        centers_sec: (W,) middles of the windows; at the edges of the call they are moved inwards.
        window_sec: length of the windows.
    """
    encoder, mels = load_voice_encoder(), _mel_spectrogram(waveform)
    num_frames = round(window_sec * FRAMES_PER_SEC)
    if len(mels) < num_frames:
        mels = nn.functional.pad(mels, (0, 0, 0, num_frames - len(mels)))
    starts = np.clip(
        np.rint(centers_sec * FRAMES_PER_SEC).astype(np.int64) - num_frames // 2, 0, len(mels) - num_frames
    )
    windows = mels.unfold(0, num_frames, 1).transpose(1, 2)
    vectors = [
        encoder(windows[torch.from_numpy(starts[first : first + BATCH_WINDOWS])])
        for first in range(0, len(starts), BATCH_WINDOWS)
    ]
    return torch.cat(vectors).numpy() if vectors else np.empty((0, WIDTH), np.float32)


def _mel_spectrogram(waveform: Waveform) -> Tensor:
    """Return the power of a channel in mel bands, (F, NUM_MELS), without a logarithm, as the encoder was trained."""
    power = float(np.mean(np.square(waveform, dtype=np.float64))) if len(waveform) else 0.0
    gain = np.sqrt(QUIET_POWER / max(power, MIN_POWER)) if power < QUIET_POWER else 1.0
    samples = nn.functional.pad(torch.from_numpy(waveform * np.float32(gain)), (FFT_SAMPLES // 2, FFT_SAMPLES // 2))
    frames, window = samples.unfold(0, FFT_SAMPLES, FRAME_SAMPLES), torch.hann_window(FFT_SAMPLES)
    filters = torch.from_numpy(
        mel_filter_bank(
            FFT_SAMPLES // 2 + 1, NUM_MELS, 0.0, SAMPLE_RATE / 2, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
        )
    ).float()
    blocks = [torch.fft.rfft(block * window).abs().square() @ filters for block in frames.split(BLOCK_FRAMES)]
    return torch.cat(blocks)
