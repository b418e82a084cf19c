"""The network's configuration, as `config.json` keeps it."""

# No `from __future__ import annotations` here: `@strict` checks the values against the real types.
import math
from typing import Any, ClassVar, Final, Literal, cast

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

CHINESE_VOCABULARY_SIZE: Final = 21128  # of hfl/chinese-roberta-wwm-ext, which is a BERT by its architecture


@strict
class MsmtFnConfig(PreTrainedConfig):
    """Sizes of the network; the defaults are the paper's (sections 3.3 to 3.7 and 4.2).

    Attributes:
        audio_encoder: hub name or folder that the audio encoder's weights start from.
        text_encoder: hub name or folder that the text encoder's weights and the tokenizer start from.
        audio_config: configuration of the audio encoder, a HuBERT or wav2vec 2.0.
        text_config: configuration of the text encoder, a BERT, RoBERTa or RoFormer.
        audio_frontend: "encoder" for the audio encoder's own convolutions, "wav2vec2" for those of
            `frontend_config` before the audio encoder's transformer (paper, section 3.3).
        frontend_config: configuration of the wav2vec 2.0 model that lends its convolutions.
        encoder_sample_rate: samples a second that the audio encoder is given.
        max_round_sec: seconds of a round that the network hears.
        overlong_rounds: "truncate" drops what is beyond `max_round_sec`, "split" makes it further rounds.
        max_text_tokens: tokens of a round that the network reads, special tokens included.
        modalities: what the network is given of a round: "both", or one side, the other being its [CLS] vector alone.
        silence: "keep" hears rounds as they are, "remove" only what is speech in them (paper, table 6, Rm-silence).
        hidden_size: width of the fusion.
        num_attention_heads: heads of each attention of the fusion.
        feed_forward_size: inner width of the fusion's feed-forward layers.
        num_text_layers: self-attention layers of the text pathway.
        num_cross_layers: layers of the complementary pathway.
        num_bottleneck_layers: layers of the bottleneck fusion; with 0 the two pathways' mean is the fused text.
        num_bottleneck_tokens: learned tokens through which the two pathways speak.
        pooling: how the fused text becomes a round's vector: "flatten" as published, "cls", "mean" or "max".
        context_size: width of the BiGRU in each direction.
        num_context_layers: layers of the BiGRU; with 0 a call is the mean of its rounds.
        multi_task: whether each task has its head; without, the coarser tasks follow from the five-class one.
        dropout: probability, in the fusion and before each head.
        attention_dropout: probability, of the fusion's attention weights; with more than 0 training on a CPU is slow,
            since the fast kernel of `scaled_dot_product_attention` knows none.
        is_trained: set by training; the jobs warn that the scores of a model without it mean nothing.
    """

    model_type = "msmtfn"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "audio_config": SubConfigSpec(config_class=AutoConfig, model_type="hubert"),
        "text_config": SubConfigSpec(
            config_class=AutoConfig, model_type="bert", init_kwargs={"vocab_size": CHINESE_VOCABULARY_SIZE}
        ),
        "frontend_config": SubConfigSpec(config_class=AutoConfig, model_type="wav2vec2"),
    }

    audio_encoder: str = "TencentGameMate/chinese-hubert-base"
    text_encoder: str = "hfl/chinese-roberta-wwm-ext"
    audio_config: PreTrainedConfig | dict[str, Any] | None = None
    text_config: PreTrainedConfig | dict[str, Any] | None = None
    audio_frontend: Literal["encoder", "wav2vec2"] = "encoder"
    frontend_config: PreTrainedConfig | dict[str, Any] | None = None
    encoder_sample_rate: int = 8000
    max_round_sec: int | float = 40.0
    overlong_rounds: Literal["truncate", "split"] = "truncate"
    max_text_tokens: int = 199
    modalities: Literal["both", "text", "audio"] = "both"
    silence: Literal["keep", "remove"] = "keep"
    hidden_size: int = 768
    num_attention_heads: int = 12
    feed_forward_size: int = 3072
    num_text_layers: int = 1
    num_cross_layers: int = 4
    num_bottleneck_layers: int = 2
    num_bottleneck_tokens: int = 4
    pooling: Literal["flatten", "cls", "mean", "max"] = "flatten"
    context_size: int = 128
    num_context_layers: int = 2
    multi_task: bool = True
    dropout: int | float = 0.3
    attention_dropout: int | float = 0.3
    is_trained: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Make the encoders' configurations and check what the types do not say.

        Raises:
            ValueError: a field is out of range or two do not fit; the message names the field, its value and the cure.
        """
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        for name in ("audio_config", "frontend_config"):
            _switch_off_training_tricks(getattr(self, name))
        self._check_model_types()
        self._check_sizes()

    @property
    def max_round_samples(self) -> int:
        """Samples of the longest round: 320,000 are 40 s at 8 kHz."""
        return round(self.max_round_sec * self.encoder_sample_rate)

    @property
    def convolutions(self) -> PreTrainedConfig:
        """Configuration whose convolutions turn samples into frames."""
        return cast(PreTrainedConfig, self.frontend_config if self.audio_frontend == "wav2vec2" else self.audio_config)

    @property
    def audio(self) -> PreTrainedConfig:
        """Configuration of the audio encoder."""
        return cast(PreTrainedConfig, self.audio_config)

    @property
    def text(self) -> PreTrainedConfig:
        """Configuration of the text encoder."""
        return cast(PreTrainedConfig, self.text_config)

    @property
    def receptive_field(self) -> int:
        """Samples that one frame of the audio encoder is computed from: 400 for HuBERT and wav2vec 2.0."""
        samples = 1
        for kernel, stride in reversed(
            list(zip(self.convolutions.conv_kernel, self.convolutions.conv_stride, strict=True))
        ):
            samples = (samples - 1) * stride + kernel
        return int(samples)

    def num_frames(self, num_samples: int) -> int:
        """Frames that lie wholly in a round of `num_samples`: 999 in 320,000, none below the receptive field."""
        frames = num_samples
        for kernel, stride in zip(self.convolutions.conv_kernel, self.convolutions.conv_stride, strict=True):
            frames = (frames - kernel) // stride + 1
        return max(int(frames), 0)

    def _check_model_types(self) -> None:
        for name, allowed in MODEL_TYPES.items():
            model_type = getattr(self, name).model_type
            _require(model_type in allowed, f"{name}.model_type", model_type, f"one of {', '.join(allowed)}")

    def _check_sizes(self) -> None:
        for name in POSITIVE_FIELDS:
            _require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "more than 0, and finite")
        for name in ("num_bottleneck_layers", "num_context_layers"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        for name in ("dropout", "attention_dropout"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "at least 0 and less than 1")
        has_adapter = bool(getattr(self.audio, "add_adapter", False))
        _require(not has_adapter, "audio_config.add_adapter", has_adapter, "False, since an adapter drops frames")
        has_norm = bool(getattr(self.audio, "conv_pos_batch_norm", False))
        cure = "False, since what it makes of silence, trained, would depend on the padding"
        _require(not has_norm, "audio_config.conv_pos_batch_norm", has_norm, cure)
        heads = self.num_attention_heads
        _require(
            self.hidden_size % heads == 0,
            "hidden_size",
            self.hidden_size,
            f"a multiple of num_attention_heads ({heads})",
        )
        _require(
            self.max_round_samples >= self.receptive_field,
            "max_round_sec",
            self.max_round_sec,
            f"at least the audio encoder's receptive field of {self.receptive_field} samples",
        )
        # RoBERTa numbers its positions from the padding's id on, so that many of its embeddings are never used.
        offset = self.text.pad_token_id + 1 if self.text.model_type == "roberta" else 0
        positions = self.text.max_position_embeddings - offset
        _require(
            self.max_text_tokens <= positions,
            "max_text_tokens",
            self.max_text_tokens,
            f"at most the text encoder's {positions}",
        )


MODEL_TYPES: Final[dict[str, tuple[str, ...]]] = {
    "audio_config": ("hubert", "wav2vec2"),
    "text_config": ("bert", "roberta", "roformer"),
    "frontend_config": ("wav2vec2",),
}
POSITIVE_FIELDS: Final = (
    "encoder_sample_rate",
    "max_round_sec",
    "max_text_tokens",
    "hidden_size",
    "num_attention_heads",
    "feed_forward_size",
    "num_text_layers",
    "num_cross_layers",
    "num_bottleneck_tokens",
    "context_size",
)


def _require(holds: bool, field: str, value: object, cure: str) -> None:
    if not holds:
        raise ValueError(f"{field} is {value!r}; it must be {cure}")


def _switch_off_training_tricks(config: PreTrainedConfig) -> None:
    """No masked frames and no dropped layers: the paper has neither, and both leave weights without a gradient."""
    config.apply_spec_augment = False
    config.mask_time_prob = 0.0
    config.mask_feature_prob = 0.0
    config.layerdrop = 0.0
