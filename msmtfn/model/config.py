"""Configurations of the networks, stored as `config.json`."""

# No `from __future__ import annotations` here: `@strict` checks the values against the real types.
import math
from typing import Any, ClassVar, Final, Literal, cast

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from msmtfn.errors import require

CHINESE_VOCABULARY_SIZE: Final = 21128  # vocabulary of hfl/chinese-roberta-wwm-ext, whose architecture is BERT


@strict
class NetworkConfig(PreTrainedConfig):
    """Configuration that all networks share: their encoders, what a round is, and the width of the fusion.

    Attributes:
        audio_encoder: hub name or folder of the pretrained audio encoder.
        text_encoder: hub name or folder of the pretrained text encoder and its tokenizer.
        audio_config: configuration of the audio encoder, a HuBERT or wav2vec 2.0.
        text_config: configuration of the text encoder, a BERT, RoBERTa or RoFormer.
        audio_frontend: "encoder" uses the audio encoder's own convolutions, "wav2vec2" puts those of `frontend_config`
            before the audio encoder's transformer (paper, section 3.3).
        frontend_encoder: hub name or folder of the wav2vec 2.0 model whose convolutions are the frontend.
        frontend_config: configuration of the wav2vec 2.0 model whose convolutions are the frontend.
        encoder_sample_rate: sample rate of the audio encoder's input in Hz.
        max_round_sec: maximum length of a round in seconds.
        overlong_rounds: "truncate" cuts a round at `max_round_sec`, "split" turns the rest into further rounds.
        round_unit: what a round is: "exchange" is one of agent and customer, "turn" is one turn, whoever speaks, as in
            corpora of utterances.
        max_text_tokens: maximum number of tokens in a round, special tokens included.
        modalities: "both", or the only modality that is used, "text" or "audio"; the other is its [CLS] vector alone.
        silence: "keep" encodes rounds as they are, "remove" only the speech in them (paper, table 6, Rm-silence).
        outer_silence: "keep" makes what precedes the first turn and follows the last part of their rounds (the
            paper's), "drop" leaves it out. A folder whose `config.json` lacks the field was trained with "drop".
        speakers: "ignore" reads a round as one text, "mark" separates who speaks: [SEP] whenever the speaker changes
            and, for text encoders that have them, the token types 0 for the agent and 1 for the customer.
        hidden_size: width of the fusion.
        num_attention_heads: number of heads in each attention layer of the fusion.
        feed_forward_size: inner width of the fusion's feed-forward layers.
        num_cross_layers: number of layers in which the modalities are joined by cross-attention.
        dropout: dropout probability in the fusion and before each head.
        attention_dropout: dropout probability of the fusion's attention weights; above 0, training on a CPU is slow,
            because the fast kernel of `scaled_dot_product_attention` does not support it.
        is_trained: set by training; the jobs warn that the scores of an untrained model are meaningless.
    """

    title: ClassVar[str] = "Network"
    """Name of the network in cards and messages."""
    about_rounds: ClassVar[str] = ""
    """How a call follows from its rounds, in a sentence for the model card."""
    positive_fields: ClassVar[tuple[str, ...]] = (
        "encoder_sample_rate",
        "max_round_sec",
        "max_text_tokens",
        "hidden_size",
        "num_attention_heads",
        "feed_forward_size",
        "num_cross_layers",
    )
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
    frontend_encoder: str = ""
    frontend_config: PreTrainedConfig | dict[str, Any] | None = None
    encoder_sample_rate: int = 8000
    max_round_sec: int | float = 40.0
    overlong_rounds: Literal["truncate", "split"] = "truncate"
    round_unit: Literal["exchange", "turn"] = "exchange"
    max_text_tokens: int = 199
    modalities: Literal["both", "text", "audio"] = "both"
    silence: Literal["keep", "remove"] = "keep"
    outer_silence: Literal["keep", "drop"] = "keep"
    speakers: Literal["ignore", "mark"] = "ignore"
    hidden_size: int = 768
    num_attention_heads: int = 12
    feed_forward_size: int = 3072
    num_cross_layers: int = 4
    dropout: int | float = 0.3
    attention_dropout: int | float = 0.3
    is_trained: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Build the encoders' configurations and check what the types cannot express.

        Raises:
            ValueError: a field is out of range or contradicts another; the message names it, its value and the cure.
        """
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        for name in ("audio_config", "frontend_config"):
            _disable_masking_and_layerdrop(getattr(self, name))
        self._check_model_types()
        self._check_sizes()

    @property
    def max_round_samples(self) -> int:
        """Maximum number of samples in a round: 320,000 for 40 s at 8 kHz."""
        return round(self.max_round_sec * self.encoder_sample_rate)

    @property
    def convolutions(self) -> PreTrainedConfig:
        """Configuration of the model whose convolutions turn samples into frames."""
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
        """Number of samples that one frame is computed from: 400 for HuBERT and wav2vec 2.0."""
        # n consecutive frames of a layer are computed from (n - 1) * stride + kernel frames of the layer below. Start
        # with n = 1 at the last layer and go down to the samples.
        samples = 1
        for kernel, stride in reversed(
            list(zip(self.convolutions.conv_kernel, self.convolutions.conv_stride, strict=True))
        ):
            samples = (samples - 1) * stride + kernel
        return int(samples)

    def num_frames(self, num_samples: int) -> int:
        """Return the number of frames entirely within `num_samples`: 999 for 320,000, 0 below the receptive field."""
        frames = num_samples
        for kernel, stride in zip(self.convolutions.conv_kernel, self.convolutions.conv_stride, strict=True):
            frames = (frames - kernel) // stride + 1
        return max(int(frames), 0)

    def _check_model_types(self) -> None:
        for name, allowed in MODEL_TYPES.items():
            model_type = getattr(self, name).model_type
            require(model_type in allowed, f"{name}.model_type", model_type, f"one of {', '.join(allowed)}")

    def _check_sizes(self) -> None:
        for name in self.positive_fields:
            require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "more than 0, and finite")
        for name in ("dropout", "attention_dropout"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "at least 0 and less than 1")
        has_adapter = bool(getattr(self.audio, "add_adapter", False))
        require(not has_adapter, "audio_config.add_adapter", has_adapter, "False, since an adapter removes frames")
        has_norm = bool(getattr(self.audio, "conv_pos_batch_norm", False))
        cure = "False, since the batch norm's statistics would depend on the padding"
        require(not has_norm, "audio_config.conv_pos_batch_norm", has_norm, cure)
        heads = self.num_attention_heads
        require(
            self.hidden_size % heads == 0,
            "hidden_size",
            self.hidden_size,
            f"a multiple of num_attention_heads ({heads})",
        )
        require(
            self.max_round_samples >= self.receptive_field,
            "max_round_sec",
            self.max_round_sec,
            f"at least the audio encoder's receptive field of {self.receptive_field} samples",
        )
        # RoBERTa numbers positions from pad_token_id + 1 on and never uses the position embeddings before.
        offset = self.text.pad_token_id + 1 if self.text.model_type == "roberta" else 0
        positions = self.text.max_position_embeddings - offset
        require(
            self.max_text_tokens <= positions,
            "max_text_tokens",
            self.max_text_tokens,
            f"at most the text encoder's {positions}",
        )


@strict
class MsmtFnConfig(NetworkConfig):
    """Configuration of MSMT-FN; the defaults are the paper's (sections 3.3 to 3.7 and 4.2).

    Attributes:
        num_text_layers: number of self-attention layers in the text pathway.
        num_bottleneck_layers: number of bottleneck layers; with 0 the fused text is the mean of the two pathways.
        num_bottleneck_tokens: number of learned tokens through which the two pathways exchange information.
        fused: what the bottleneck hands on: "text" is the text stream T (the paper's), "mean" the mean of T and T_m. A
            folder whose `config.json` lacks the field was trained with "mean".
        pooling: how the fused text becomes a round's vector: "flatten" (the paper's), "cls", "mean" or "max".
        context_size: width of the BiGRU in each direction.
        num_context_layers: number of BiGRU layers; with 0 a call's vector is the mean of its rounds.
        multi_task: whether each task has its own head; if not, the coarser tasks are derived from the five classes.
    """

    model_type = "msmtfn"
    title: ClassVar[str] = "MSMT-FN"
    about_rounds: ClassVar[str] = "A BiGRU reads the rounds of a call in order."
    positive_fields: ClassVar[tuple[str, ...]] = (
        *NetworkConfig.positive_fields,
        "num_text_layers",
        "num_bottleneck_tokens",
        "context_size",
    )

    num_text_layers: int = 1
    num_bottleneck_layers: int = 2
    num_bottleneck_tokens: int = 4
    fused: Literal["text", "mean"] = "text"
    pooling: Literal["flatten", "cls", "mean", "max"] = "flatten"
    context_size: int = 128
    num_context_layers: int = 2
    multi_task: bool = True

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build a configuration from the contents of a `config.json`, also from those that lack newer fields."""
        return super().from_dict({"fused": "mean", "outer_silence": "drop"} | config_dict, **kwargs)

    def _check_sizes(self) -> None:
        super()._check_sizes()
        for name in ("num_bottleneck_layers", "num_context_layers"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        if self.fused == "text":
            # The tokens that the first layer averages are read by the second: with one, T would never hear the audio.
            cure = 'at least 2, or 0, with fused="text"'
            require(self.num_bottleneck_layers != 1, "num_bottleneck_layers", self.num_bottleneck_layers, cure)


@strict
class MmmlConfig(NetworkConfig):
    """Configuration of MMML, multimodal multi-loss fusion (Wu et al., 2023), for Chinese; `feed_forward_size` is 4 d.

    Attributes:
        first_head_size: width of the first hidden layer of the heads of the fused output, of MMML only.
        second_head_size: width of their second hidden layer, of MMML only.
    """

    model_type = "mmml"
    title: ClassVar[str] = "MMML"
    about_rounds: ClassVar[str] = (
        "Each round is an input of its own, with the label of its call; a call's probabilities are the mean over its "
        "rounds, and its loss is the mean of theirs. Fused output, text and audio have a head for each task."
    )
    positive_fields: ClassVar[tuple[str, ...]] = (
        *NetworkConfig.positive_fields,
        "first_head_size",
        "second_head_size",
    )

    encoder_sample_rate: int = 16_000
    max_round_sec: int | float = 6.0
    max_text_tokens: int = 64
    num_cross_layers: int = 5
    first_head_size: int = 768
    second_head_size: int = 512

    def _check_sizes(self) -> None:
        super()._check_sizes()
        require(
            self.modalities == "both", "modalities", self.modalities, "'both', since a loss is that of each modality"
        )


Architecture = Literal["msmtfn", "mmml"]
CONFIGS: Final[dict[Architecture, type[NetworkConfig]]] = {"msmtfn": MsmtFnConfig, "mmml": MmmlConfig}
"""The configuration of each architecture, which is its `model_type` in `config.json`."""


MODEL_TYPES: Final[dict[str, tuple[str, ...]]] = {
    "audio_config": ("hubert", "wav2vec2"),
    "text_config": ("bert", "roberta", "roformer"),
    "frontend_config": ("wav2vec2",),
}


def _disable_masking_and_layerdrop(config: PreTrainedConfig) -> None:
    """Disable SpecAugment masking and LayerDrop: the paper has neither, and both leave weights without a gradient."""
    config.apply_spec_augment = False
    config.mask_time_prob = 0.0
    config.mask_feature_prob = 0.0
    config.layerdrop = 0.0


for config_class in CONFIGS.values():
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
