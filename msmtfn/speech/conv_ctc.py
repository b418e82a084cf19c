"""Small convolutional CTC network that reads characters off telephone speech, with its log-mel features.

Two strided convolutions make a frame of 60 ms out of six of 10 ms; residual blocks of dilated convolutions follow, and
a linear layer over the characters. A character is seen with two seconds before and after it, so that the network can
tell from the words around it which of the characters that sound alike it is. Padding changes nothing: whatever lies
beyond a clip's end is zero before each convolution, as it is where the clip is alone.
Shapes: B clips, S samples, F frames of 10 ms, T frames of the network, M mel bands, W channels, V characters.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers.audio_utils import mel_filter_bank

from msmtfn.errors import require
from msmtfn.speech.recogniser import OWN_ARCHITECTURE, SAMPLE_RATE, Waveform
from msmtfn.storage.untrusted import read_object

CONFIG_FILE: Final = "config.json"
WEIGHTS_FILE: Final = "model.safetensors"
BLANK: Final = 0
"""Number of the blank, which stands for no character; the characters follow from 1 on."""

FFT_SAMPLES: Final = SAMPLE_RATE * 25 // 1000
FRAME_SAMPLES: Final = SAMPLE_RATE * 10 // 1000
BAND_HZ: Final = (200.0, 3_800.0)
"""Band of the features: what a telephone carries."""
MIN_POWER: Final = 1e-8
STRIDES: Final = (2, 3)
FRAME_SEC: Final = FRAME_SAMPLES / SAMPLE_RATE * STRIDES[0] * STRIDES[1]
"""Length of a frame of the network."""
FRONT_KERNEL: Final = 5
KERNEL: Final = 3
DILATIONS: Final = (1, 2, 4, 8)
MAX_SIZE: Final = 4_096
MAX_BLOCKS: Final = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvCtcConfig:
    """Size of the network, and the characters that it knows."""

    characters: str
    """Characters, each once; number 1 is the first."""
    num_mels: int = 40
    """Mel bands of the features."""
    width: int = 128
    """Channels of the network."""
    num_blocks: int = 8
    """Residual blocks; `DILATIONS` are theirs in turn."""
    dropout: float = 0.1
    """Share of the channels that are dropped at the end of each block in training."""

    def __post_init__(self) -> None:
        """Check the sizes.

        Raises:
            ValueError: one is out of range.
        """
        for name, highest in {"num_mels": MAX_SIZE, "width": MAX_SIZE, "num_blocks": MAX_BLOCKS}.items():
            value = getattr(self, name)
            is_possible = isinstance(value, int) and 1 <= value <= highest
            require(is_possible, name, value, f"a whole number from 1 to {highest}")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "at least 0 and below 1")
        is_set = isinstance(self.characters, str) and 0 < len(self.characters) == len(set(self.characters))
        require(is_set, "characters", self.characters, "a string in which each character is there once")


class Block(nn.Module):
    """Residual block: a dilated convolution over time."""

    def __init__(self, width: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv1d(width, width, KERNEL, padding=dilation * (KERNEL // 2), dilation=dilation)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Map (B, T, W) to (B, T, W); `mask`, (B, T, 1), is 0 beyond the clips' ends."""
        active = F.gelu(self.norm(hidden)) * mask
        update: Tensor = self.conv(active.transpose(1, 2)).transpose(1, 2)
        updated: Tensor = hidden + self.dropout(update)
        return updated


class ConvCtc(nn.Module):
    """Convolutional CTC network."""

    def __init__(self, config: ConvCtcConfig) -> None:
        super().__init__()
        self.config = config
        width, padding = config.width, FRONT_KERNEL // 2
        self.front = nn.ModuleList(
            nn.Conv1d(inputs, width, FRONT_KERNEL, stride, padding)
            for inputs, stride in zip((config.num_mels, width), STRIDES, strict=True)
        )
        self.blocks = nn.ModuleList(
            Block(width, DILATIONS[number % len(DILATIONS)], config.dropout) for number in range(config.num_blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(config.characters) + 1)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the logarithms of the characters' probabilities.

        Args:
            features: (F, M) of each clip, as `normalise` returns them.

        Returns:
            (B, T, V) and (B,) the number of frames of each clip; beyond them is nothing of meaning.
        """
        lengths = torch.tensor([len(each) for each in features])
        hidden = pad_sequence(list(features), batch_first=True)
        for conv, stride in zip(self.front, STRIDES, strict=True):
            lengths = (lengths + stride - 1) // stride
            hidden = F.gelu(conv(hidden.transpose(1, 2))).transpose(1, 2)
            mask = (torch.arange(hidden.shape[1]) < lengths[:, None]).unsqueeze(-1).to(hidden)
            hidden = hidden * mask
        for block in self.blocks:
            hidden = block(hidden, mask)
        return self.head(self.norm(hidden)).log_softmax(-1), lengths


def log_mels(waveform: Waveform, num_mels: int) -> Tensor:
    """Return the logarithm of the power in mel bands, (F, M), of a waveform (S,) at `SAMPLE_RATE`."""
    samples = F.pad(torch.from_numpy(waveform), (FFT_SAMPLES // 2, FFT_SAMPLES // 2))
    frames = samples.unfold(0, FFT_SAMPLES, FRAME_SAMPLES)
    power = torch.fft.rfft(frames * torch.hann_window(FFT_SAMPLES)).abs().square()
    mels: Tensor = power @ _mel_filters(num_mels)
    return mels.clamp_min(MIN_POWER).log()


def normalise(mels: Tensor) -> Tensor:
    """Return features with a mean of 0 in each band and a variance of 1 over all, whatever the level and the line."""
    centred = mels - mels.mean(dim=0)
    return centred / centred.square().mean().sqrt().clamp_min(MIN_POWER)


def save_conv_ctc(network: ConvCtc, folder: Path) -> None:
    """Write a network to a folder, its weights in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"architectures": [OWN_ARCHITECTURE], **asdict(network.config)}
    (folder / CONFIG_FILE).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    weights = {name: weight.detach().half().contiguous() for name, weight in network.state_dict().items()}
    save_file(weights, folder / WEIGHTS_FILE)


def load_conv_ctc(folder: Path) -> ConvCtc:
    """Load a network from a folder, ready to run in single precision.

    Raises:
        ValueError: the configuration is none, or the weights do not fit it.
        OSError: a file cannot be read.
    """
    content: dict[str, Any] = read_object(folder / CONFIG_FILE)
    content.pop("architectures", None)
    try:
        network = ConvCtc(ConvCtcConfig(**content))
        network.load_state_dict({name: weight.float() for name, weight in load_file(folder / WEIGHTS_FILE).items()})
    except (TypeError, RuntimeError) as exc:
        raise ValueError(f"{folder} does not hold a {OWN_ARCHITECTURE}: {exc}") from exc
    return network.eval()


@lru_cache(maxsize=4)
def _mel_filters(num_mels: int) -> Tensor:
    filters = mel_filter_bank(FFT_SAMPLES // 2 + 1, num_mels, *BAND_HZ, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
    return torch.from_numpy(filters).float()
