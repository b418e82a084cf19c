"""The two encoders, which turn samples into audio states and token ids into text states (paper, section 3.3).

Shapes: R rounds, S samples, A audio frames, T text tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import PreTrainedConfig

from msmtfn.model.attention import length_mask, to_attention_mask
from msmtfn.model.config import NetworkConfig
from msmtfn.model.runtime.unpadded import run_convolutions, run_transformer

VARIANCE_FLOOR = 1e-7
"""Added to a round's variance so that silence stays finite; the value of transformers' `Wav2Vec2FeatureExtractor`."""


class AudioEncoder(nn.Module):
    """HuBERT or wav2vec 2.0 over whole rounds.

    The padded encoding is the paper's: transformers' own model over rounds padded to the maximum length. It is also the
    reference that the unpadded encoding (`unpadded`) is tested against.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.model = transformers.AutoModel.from_config(config.audio)
        if config.audio_frontend == "wav2vec2":
            self.use_frontend(transformers.AutoModel.from_config(config.frontend_config))

    def use_frontend(self, wav2vec2: nn.Module) -> None:
        """Replace this encoder's convolutions by those of a wav2vec 2.0 model.

        Raises:
            ValueError: the convolutions of the two models differ in width, kernel or stride.
        """
        for field in ("conv_dim", "conv_kernel", "conv_stride"):
            ours, theirs = getattr(self.model.config, field), getattr(wav2vec2.config, field)
            if list(ours) != list(theirs):
                raise ValueError(
                    f"frontend_config.{field} is {list(theirs)}; it must be the audio encoder's {list(ours)}"
                )
        self.model.feature_extractor = wav2vec2.feature_extractor

    def forward(self, waveforms: Tensor, num_samples: Tensor, *, padded: bool = True) -> tuple[Tensor, Tensor]:
        """Encode the audio of rounds.

        Args:
            waveforms: (R, S) float, mono at `encoder_sample_rate`, any scale; S is at most `max_round_samples`.
            num_samples: (R,) int, number of samples of each round; samples after them are ignored.
            padded: True pads each round to `max_round_samples`, as in the paper. False computes the same states for
                all frames in the mask at a cost that follows the length of the rounds.

        Returns:
            Hidden states (R, A, width of the encoder) and a mask (R, A) that is True for the frames lying entirely
            within the round. With padding and the paper's sizes A is 999. A round shorter than the receptive field has
            no frame.
        """
        limit = self.config.max_round_samples
        if waveforms.shape[1] > limit:
            raise ValueError(f"waveforms has {waveforms.shape[1]} samples; cut rounds to at most {limit}")
        width = limit if padded else max(waveforms.shape[1], self.config.receptive_field)
        normalized = F.pad(normalize_waveforms(waveforms, num_samples), (0, width - waveforms.shape[1]))
        # A round without a frame gets one frame of silence, since attention needs at least one key.
        encoded_samples = num_samples.clamp(min=self.config.receptive_field)
        if padded:
            states = self.model(normalized, attention_mask=length_mask(encoded_samples, width).long()).last_hidden_state
        else:
            projection = self.model.feature_projection
            dtype = projection.projection.weight.dtype
            projected = projection(run_convolutions(self.model.feature_extractor, normalized, limit, dtype))
            # The projection of wav2vec 2.0 returns a pair, that of HuBERT a tensor.
            states = projected[0] if isinstance(projected, tuple) else projected
            mask = length_mask(self._num_frames(encoded_samples), states.shape[1])
            states = run_transformer(self.model.encoder, states, mask)
        return states, length_mask(self._num_frames(num_samples), states.shape[1])

    def _num_frames(self, num_samples: Tensor) -> Tensor:
        frames = num_samples
        config = self.config.convolutions
        for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
            frames = (frames - kernel).div(stride, rounding_mode="floor") + 1
        return frames.clamp(min=0)


class TextEncoder(nn.Module):
    """BERT, RoBERTa or RoFormer over the tokens of whole rounds."""

    def __init__(self, config: PreTrainedConfig, *, marks_speakers: bool = False) -> None:
        """Build the encoder.

        Args:
            config: configuration of the encoder.
            marks_speakers: whether [SEP] stands where the speaker changes. An encoder that knows two types of tokens
                is then told them; RoBERTa knows one, and has the separators alone.
        """
        super().__init__()
        self.model = transformers.AutoModel.from_config(config, **no_pooling(config))
        self.has_types = marks_speakers and config.type_vocab_size > 1

    def forward(self, input_ids: Tensor, num_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Encode the text of rounds.

        Args:
            input_ids: (R, T) int, padded with the encoder's `pad_token_id`.
            num_tokens: (R,) int, number of tokens of each round; 0 for a round without text.

        Returns:
            Hidden states (R, T, width of the encoder) and their mask (R, T), True for real tokens.
        """
        # A round without text gets one padding token, since attention needs at least one key.
        input_ids = F.pad(input_ids, (0, max(0, 1 - input_ids.shape[1])), value=self.model.config.pad_token_id)
        mask = length_mask(num_tokens, input_ids.shape[1])
        keys = length_mask(num_tokens.clamp(min=1), input_ids.shape[1])
        # RoFormer has its own attention implementation, which takes a two-dimensional mask.
        attention_mask = keys.long() if self.model.config.model_type == "roformer" else to_attention_mask(keys)
        types = {"token_type_ids": _token_types(input_ids, num_tokens)} if self.has_types else {}
        return self.model(input_ids, attention_mask=attention_mask, **types).last_hidden_state, mask


def _token_types(input_ids: Tensor, num_tokens: Tensor) -> Tensor:
    """Return for each token (R, T) 0 if it is the agent's and 1 if not; a [SEP] belongs to the speaker before it.

    The last token of a round is always a [SEP], so that its id need not be known.
    """
    last = input_ids.gather(1, (num_tokens - 1).clamp(min=0)[:, None])
    is_separator = (input_ids == last).long()
    return (is_separator.cumsum(dim=1) - is_separator) % 2


def no_pooling(config: PreTrainedConfig) -> dict[str, bool]:
    """Return the argument that omits a text encoder's own pooling layer; RoFormer has none."""
    return {} if config.model_type == "roformer" else {"add_pooling_layer": False}


def normalize_waveforms(waveforms: Tensor, num_samples: Tensor) -> Tensor:
    """Scale each round to zero mean and unit variance over its own samples, and set the padding to zero.

    Args:
        waveforms: (R, S) float.
        num_samples: (R,) int, number of samples of each round.

    Returns:
        (R, S) float32.
    """
    mask = length_mask(num_samples, waveforms.shape[1])
    count = num_samples.clamp(min=1)[:, None]
    waveforms = waveforms.float().masked_fill(~mask, 0.0)
    centred = (waveforms - waveforms.sum(dim=1, keepdim=True) / count).masked_fill(~mask, 0.0)
    variance = centred.square().sum(dim=1, keepdim=True) / count
    return centred / torch.sqrt(variance + VARIANCE_FLOOR)
