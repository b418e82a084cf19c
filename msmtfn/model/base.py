"""The part that all networks share: encoders, calls as rounds one after the other, and a vector for each round.

Shapes: R rounds of all calls in the batch, C calls, S samples, T text tokens, D size of a round's vector.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils.generic import ModelOutput

from msmtfn.model.config import NetworkConfig
from msmtfn.model.encoders import AudioEncoder, TextEncoder, no_pooling
from msmtfn.model.fusion import EMBEDDING_STD, BottleneckFusion, ClassToken, Fusion


@dataclass
class CallOutput(ModelOutput):
    """Output of a network for a batch of calls.

    Attributes:
        loss: the loss, a scalar; None if no intents were given.
        logits: for each task a tensor (C, number of classes).
    """

    loss: Tensor | None = None
    logits: dict[str, Tensor] | None = None


class CallNetwork(PreTrainedModel):
    """Network that classifies calls from their rounds.

    A batch holds the rounds of its calls one after the other, call by call. The two halves can be used separately:
    `encode_rounds` treats rounds independently, in any order and grouping; `classify_calls` and `compute_loss` need the
    rounds of each call together and in order. A network has a fusion, which maps the encoders' states of rounds to
    their vectors, and whatever the two last need.
    """

    config: NetworkConfig
    config_class: type[NetworkConfig] = NetworkConfig
    base_model_prefix = ""
    main_input_name = "waveforms"
    _supports_sdpa = True
    fusion: Fusion

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        self.audio_encoder = AudioEncoder(config)
        self.text_encoder = TextEncoder(config.text, marks_speakers=config.speakers == "mark")

    @abstractmethod
    def classify_calls(self, vectors: Tensor, rounds_per_call: list[int]) -> dict[str, Tensor]:
        """Classify calls from their rounds' vectors (R, D); returns logits (C, number of classes) for each task."""

    @abstractmethod
    def compute_loss(
        self,
        vectors: Tensor,
        rounds_per_call: list[int],
        intents: Tensor,
        *,
        class_weights: Mapping[str, Tensor] | None = None,
        reduction: Literal["mean", "sum"] = "mean",
    ) -> Tensor:
        """Compute the loss of calls from their rounds' vectors.

        Args:
            vectors: (R, D), as `encode_rounds` returns them.
            rounds_per_call: C numbers that sum to R.
            intents: (C,) int, index in `labels.INTENTS`.
            class_weights: for each task a tensor (number of classes,) of factors; None weighs all classes alike.
            reduction: "mean" or "sum" over the calls.

        Returns:
            A scalar.
        """

    @classmethod
    def from_encoders(cls, **options: Any) -> Self:
        """Build a network with pretrained encoders and new weights elsewhere.

        Args:
            **options: fields of the configuration; `audio_frontend="wav2vec2"` needs `frontend_encoder`.

        Raises:
            ValueError: an option is out of range or does not fit the encoders.
        """
        names = {
            "audio_config": options.get("audio_encoder", cls.config_class.audio_encoder),
            "text_config": options.get("text_encoder", cls.config_class.text_encoder),
        }
        frontend_encoder = options.get("frontend_encoder")
        if frontend_encoder:
            names["frontend_config"] = frontend_encoder
            options["audio_frontend"] = "wav2vec2"
        elif options.get("audio_frontend") == "wav2vec2":
            raise ValueError("frontend_encoder is None; it must name the wav2vec 2.0 model whose convolutions to use")
        configs = {
            field: transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
            for field, name in names.items()
        }
        network = cls(cls.config_class(**(options | configs)))
        network.audio_encoder.model = load_encoder(names["audio_config"], network.config.audio)
        network.load_text_encoder(names["text_config"])
        if frontend_encoder:
            network.audio_encoder.use_frontend(load_encoder(frontend_encoder, network.config.convolutions))
        return network

    def load_text_encoder(self, name_or_folder: str) -> None:
        """Give the text encoder its pretrained weights."""
        config = self.config.text
        self.text_encoder.model = load_encoder(name_or_folder, config, **no_pooling(config))

    def forward(
        self,
        waveforms: Tensor,
        num_samples: Tensor,
        input_ids: Tensor,
        num_tokens: Tensor,
        rounds_per_call: list[int],
        intents: Tensor | None = None,
    ) -> CallOutput:
        """Classify calls.

        Args:
            waveforms: (R, S) float, mono at `config.encoder_sample_rate`, any scale, padded at the end.
            num_samples: (R,) int, number of samples of each round.
            input_ids: (R, T) int, padded with the text encoder's `pad_token_id`.
            num_tokens: (R,) int, number of tokens of each round; 0 for a round without text.
            rounds_per_call: C numbers that sum to R.
            intents: (C,) int, index in `labels.INTENTS`; needed for the loss only.

        Returns:
            The logits and, given `intents`, the loss.
        """
        vectors = self.encode_rounds(waveforms, num_samples, input_ids, num_tokens)
        logits = self.classify_calls(vectors, rounds_per_call)
        if intents is None:
            return CallOutput(logits=logits)
        return CallOutput(loss=self.compute_loss(vectors, rounds_per_call, intents), logits=logits)

    def encode_rounds(
        self, waveforms: Tensor, num_samples: Tensor, input_ids: Tensor, num_tokens: Tensor, *, padded: bool = True
    ) -> Tensor:
        """Encode rounds as vectors (R, D); for the arguments see `forward` and `AudioEncoder.forward`."""
        vectors: Tensor = self.fusion(*self.embed_rounds(waveforms, num_samples, input_ids, num_tokens, padded=padded))
        return vectors

    def encode_sides(
        self, waveforms: Tensor, num_samples: Tensor, input_ids: Tensor, num_tokens: Tensor, *, padded: bool = True
    ) -> Tensor:
        """Encode rounds as `encode_rounds` does, and their sound alone; the encoders run once.

        The words alone would cost five times as much: the fusion works on text tokens, and the sound alone has none
        but the [CLS] vector.

        Returns:
            (R, 2, D): the vectors of the whole rounds, and those of the same rounds without their text.
        """
        audio, audio_mask, text, text_mask = self.embed_rounds(
            waveforms, num_samples, input_ids, num_tokens, padded=padded
        )
        whole = self.fusion(audio, audio_mask, text, text_mask)
        return torch.stack([whole, self.fusion(audio, audio_mask, text[:, :0], text_mask[:, :0])], dim=1)

    def embed_rounds(
        self, waveforms: Tensor, num_samples: Tensor, input_ids: Tensor, num_tokens: Tensor, *, padded: bool = True
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run the two encoders without the fusion; the arguments are those of `encode_rounds`.

        Returns:
            Audio states (R, A, width of the audio encoder) and their mask (R, A), text states (R, T, width of the text
            encoder) and their mask (R, T). The mask of a modality that `config.modalities` excludes is all False.
        """
        return *self.encode_audio(waveforms, num_samples, padded=padded), *self.encode_text(input_ids, num_tokens)

    def encode_audio(self, waveforms: Tensor, num_samples: Tensor, *, padded: bool = True) -> tuple[Tensor, Tensor]:
        """Run the audio encoder, returning audio states and their mask as `embed_rounds` does."""
        if self.config.modalities == "text":  # unpadded, since even an empty round would be padded to the maximum
            waveforms, num_samples, padded = waveforms[:, :0], torch.zeros_like(num_samples), False
        states: tuple[Tensor, Tensor] = self.audio_encoder(waveforms, num_samples, padded=padded)
        return states

    def encode_text(self, input_ids: Tensor, num_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Run the text encoder, returning text states and their mask as `embed_rounds` does."""
        if self.config.modalities == "audio":
            input_ids, num_tokens = input_ids[:, :0], torch.zeros_like(num_tokens)
        states: tuple[Tensor, Tensor] = self.text_encoder(input_ids, num_tokens)
        return states

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise new weights with PyTorch's defaults; the encoders initialise their own."""
        if isinstance(module, nn.Linear | nn.LayerNorm | nn.GRU):
            module.reset_parameters()
        elif isinstance(module, ClassToken):
            nn.init.normal_(module.token, std=EMBEDDING_STD)
        elif isinstance(module, BottleneckFusion) and module.text_layers:
            nn.init.normal_(module.tokens, std=EMBEDDING_STD)


def load_encoder(name_or_folder: str, config: PreTrainedConfig, **options: Any) -> PreTrainedModel:
    """Load pretrained weights in fp32 into a model with the network's own configuration.

    Many encoders on the hub, including the default ones, have no safetensors. Those are read with PyTorch's
    weights-only unpickler, which runs no code.
    """
    encoder: PreTrainedModel = transformers.AutoModel.from_pretrained(
        name_or_folder, config=config, dtype=torch.float32, trust_remote_code=False, **options
    )
    return encoder
