"""The two encoders: samples to audio states and token ids to text states (paper, section 3.3).

Shapes: R rounds, S samples, A audio frames, T text tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig

from msmtfn.model.attention import attended, length_mask
from msmtfn.model.config import MsmtFnConfig
from msmtfn.model.runtime.unpadded import unpadded_context, unpadded_features

VARIANCE_FLOOR = 1e-7
"""Added to a round's variance, as transformers' feature extractor for wav2vec 2.0 does; keeps silence finite."""


class AudioEncoder(nn.Module):
    """HuBERT or wav2vec 2.0 over whole rounds.

    Padded, it is the paper's own and the oracle of the other way: transformers' model over rounds that are all as long
    as the longest can be.
    """

    def __init__(self, config: MsmtFnConfig) -> None:
        super().__init__()
        self.config = config
        self.model = AutoModel.from_config(config.audio)
        if config.audio_frontend == "wav2vec2":
            self.use_frontend(AutoModel.from_config(config.frontend_config))

    def use_frontend(self, wav2vec2: nn.Module) -> None:
        """Put the convolutions of a wav2vec 2.0 model before this encoder's transformer.

        Raises:
            ValueError: the two models' convolutions differ in width or stride.
        """
        for field in ("conv_dim", "conv_kernel", "conv_stride"):
            ours, theirs = getattr(self.model.config, field), getattr(wav2vec2.config, field)
            if list(ours) != list(theirs):
                raise ValueError(
                    f"frontend_config.{field} is {list(theirs)}; it must be the audio encoder's {list(ours)}"
                )
        self.model.feature_extractor = wav2vec2.feature_extractor

    def forward(self, waveforms: Tensor, num_samples: Tensor, *, padded: bool = True) -> tuple[Tensor, Tensor]:
        """Encode rounds.

        Args:
            waveforms: (R, S) float, mono at `encoder_sample_rate`, any scale; S is at most `max_round_samples`.
            num_samples: (R,) int, samples of each round; what follows them is not looked at.
            padded: whether each round is padded to the longest, as the paper has it and as transformers' own model
                computes it; without, the same states of the frames of the mask cost as much as the rounds are long.

        Returns:
            Hidden states (R, A, width of the encoder), A being 999 for the paper's sizes where the rounds are padded,
            and a mask (R, A), True for the frames that lie in the round wholly. A round shorter than the receptive
            field has none.
        """
        limit = self.config.max_round_samples
        if waveforms.shape[1] > limit:
            raise ValueError(f"waveforms has {waveforms.shape[1]} samples; cut rounds to at most {limit}")
        width = limit if padded else max(waveforms.shape[1], self.config.receptive_field)
        normalized = F.pad(normalize_waveforms(waveforms, num_samples), (0, width - waveforms.shape[1]))
        # A round without a frame is given one of silence, since attention must have something to look at.
        heard = num_samples.clamp(min=self.config.receptive_field)
        if padded:
            states = self.model(normalized, attention_mask=length_mask(heard, width).long()).last_hidden_state
        else:
            projection = self.model.feature_projection
            dtype = projection.projection.weight.dtype
            projected = projection(unpadded_features(self.model.feature_extractor, normalized, limit, dtype))
            states = projected[0] if isinstance(projected, tuple) else projected  # wav2vec 2.0 gives two, HuBERT one
            mask = length_mask(self._num_frames(heard), states.shape[1])
            states = unpadded_context(self.model.encoder, states, mask)
        return states, length_mask(self._num_frames(num_samples), states.shape[1])

    def _num_frames(self, num_samples: Tensor) -> Tensor:
        frames = num_samples
        config = self.config.convolutions
        for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
            frames = (frames - kernel).div(stride, rounding_mode="floor") + 1
        return frames.clamp(min=0)


class TextEncoder(nn.Module):
    """BERT, RoBERTa or RoFormer over the tokens of rounds."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.model = AutoModel.from_config(config, **without_pooling(config))

    def forward(self, input_ids: Tensor, num_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Encode rounds.

        Args:
            input_ids: (R, T) int, padded with the encoder's own `pad_token_id`.
            num_tokens: (R,) int, tokens of each round; 0 where it has no text.

        Returns:
            Hidden states (R, T, width of the encoder) and their mask (R, T).
        """
        # A round without text is given one token of padding, since attention must have something to look at.
        input_ids = F.pad(input_ids, (0, max(0, 1 - input_ids.shape[1])), value=self.model.config.pad_token_id)
        mask = length_mask(num_tokens, input_ids.shape[1])
        read = length_mask(num_tokens.clamp(min=1), input_ids.shape[1])
        # RoFormer has an attention of its own, which takes a mask of two dimensions.
        seen = read.long() if self.model.config.model_type == "roformer" else attended(read)
        return self.model(input_ids, attention_mask=seen).last_hidden_state, mask


def without_pooling(config: PreTrainedConfig) -> dict[str, bool]:
    """The argument that leaves out a text encoder's pooling layer, which would learn nothing; RoFormer has none."""
    return {} if config.model_type == "roformer" else {"add_pooling_layer": False}


def normalize_waveforms(waveforms: Tensor, num_samples: Tensor) -> Tensor:
    """Give each round zero mean and unit variance over its own samples, and zero after them.

    Args:
        waveforms: (R, S) float.
        num_samples: (R,) int.

    Returns:
        (R, S) float32.
    """
    mask = length_mask(num_samples, waveforms.shape[1])
    count = num_samples.clamp(min=1)[:, None]
    waveforms = waveforms.float().masked_fill(~mask, 0.0)
    centred = (waveforms - waveforms.sum(dim=1, keepdim=True) / count).masked_fill(~mask, 0.0)
    variance = centred.square().sum(dim=1, keepdim=True) / count
    return centred / torch.sqrt(variance + VARIANCE_FLOOR)
