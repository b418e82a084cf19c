"""A model's folder: `config.json`, `model.safetensors`, the tokenizer's files and a model card; and how it travels."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from msmtfn import storage
from msmtfn.errors import ModelError, StorageError
from msmtfn.model.config import MsmtFnConfig
from msmtfn.model.network import MsmtFn
from msmtfn.model.registry import resolve_model

TOKENIZER_FILES: Final = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model")
HUB_NAME: Final = re.compile(r"[\w.-]+(/[\w.-]+)?")
CARD_FILE: Final = "README.md"
FILE_PATTERNS: Final = ("*.json", "*.safetensors", "*.txt", "*.model")
"""The files of a model that are read: nothing that can carry code, and not the card."""


@dataclass(frozen=True, slots=True)
class Model:
    """A network with the tokenizer it was trained with.

    Attributes:
        network: in evaluation mode.
        tokenizer: of the network's text encoder.
    """

    network: MsmtFn
    tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class PackedNetwork:
    """A network as plain arrays, which Ray hands to every process of a node without a copy.

    Attributes:
        config: of the network, as in `config.json`.
        weights: one array a weight.
    """

    config: dict[str, Any]
    weights: Mapping[str, npt.NDArray[np.generic]]


def save_model(network: MsmtFn, tokenizer: PreTrainedTokenizerBase, folder: Path, card: str) -> None:
    """Write a model's folder; `card` is the text of its model card, in Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    transformers_logging.disable_progress_bar()
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / CARD_FILE).write_text(card, encoding="utf-8")


def fetch_model(name: str, download_folder: Path) -> Path:
    """Bring a model to this machine.

    Args:
        name: a local folder, an S3 address or the name of a model on the hub; the first two may be the `current` of
            a registry's root.
        download_folder: where a model from S3 is put.

    Returns:
        The model's folder.

    Raises:
        ModelError: there is no such model, or it cannot be had.
    """
    name = locate_model(name)
    if name.startswith("s3://"):
        try:
            storage.fetch_folder(name, download_folder, lambda file: any(fnmatch(file, kind) for kind in FILE_PATTERNS))
        except StorageError as exc:
            raise ModelError(f"the model {name} cannot be fetched: {exc}") from exc
        return download_folder
    folder = Path(name.removeprefix("file://")).expanduser()
    if name and folder.is_dir():
        return folder.absolute()
    if not HUB_NAME.fullmatch(name):
        raise ModelError(f"--model {name} is no folder; give a model's folder, an s3:// address or a name on the hub")
    try:
        return Path(snapshot_download(name, allow_patterns=list(FILE_PATTERNS)))
    except (OSError, ValueError, HfHubHTTPError, HFValidationError) as exc:
        raise ModelError(
            f"--model {name} is no folder, and the hub cannot give a model of that name: {_one_line(exc)}"
        ) from exc


def locate_model(name: str) -> str:
    """The place of a model by its name: of `<root>/current` the version's.

    Raises:
        ModelError: `current` does not name a version, or cannot be read.
    """
    try:
        return resolve_model(name) if storage.is_absolute(name) or Path(name).exists() else name
    except StorageError as exc:
        raise ModelError(f"the model {name} cannot be found: {exc}") from exc


def is_trained(folder: Path) -> bool:
    """Whether the model in a folder was trained; the scores of one that was not mean nothing."""
    return bool(_read_config(folder).get("is_trained", False))


def load_model(folder: Path) -> Model:
    """Read a model's folder, from safetensors only.

    Raises:
        ModelError: a file is missing or broken, or the weights are not those of the configuration.
    """
    _read_config(folder)
    _check_has_tokenizer(folder)
    transformers_logging.disable_progress_bar()
    try:
        loaded: tuple[MsmtFn, dict[str, set[str]]] = MsmtFn.from_pretrained(  # type: ignore[assignment]
            folder,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # they are reported, below
            local_files_only=True,
            output_loading_info=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
        network, info = loaded
        tokenizer = AutoTokenizer.from_pretrained(
            folder, config=network.config.text, trust_remote_code=False, local_files_only=True
        )
    # Behind these stand half a dozen libraries, each with its own errors for a broken file.
    except Exception as exc:
        raise ModelError(f"the model in {folder} cannot be loaded: {_one_line(exc)}") from exc
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if keys := sorted(str(key) for key in info[problem]):
            raise ModelError(
                f"the model in {folder} has {len(keys)} {problem.replace('_', ' ')}, the first is {keys[0]}"
            )
    _check_vocabulary(folder, network.config, tokenizer)
    return Model(network=network.train(False), tokenizer=tokenizer)


def start_from_encoders(audio_encoder: str, text_encoder: str, seed: int) -> Model:
    """A new network around pretrained encoders, with the text encoder's tokenizer.

    Args:
        audio_encoder: folder or hub name of a HuBERT or wav2vec 2.0.
        text_encoder: folder or hub name of a BERT or RoBERTa.
        seed: of the new weights.

    Raises:
        ModelError: an encoder cannot be had, or the two do not fit.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = MsmtFn.from_encoders(audio_encoder=audio_encoder, text_encoder=text_encoder)
        tokenizer = AutoTokenizer.from_pretrained(text_encoder, trust_remote_code=False)
    except (OSError, ValueError, HfHubHTTPError, HFValidationError) as exc:
        raise ModelError(
            f"the encoders {audio_encoder} and {text_encoder} cannot be loaded: {_one_line(exc)}; --audio-encoder and "
            "--text-encoder name others, by folder or hub name"
        ) from exc
    return Model(network, tokenizer)


def model_version(folder: Path) -> str:
    """Name a model by the content of the files that are read of it: 12 hexadecimal digits.

    Raises:
        ModelError: the folder is not a model's.
    """
    _read_config(folder)
    digest = hashlib.sha256()
    for path in sorted(path for pattern in FILE_PATTERNS for path in folder.glob(pattern)):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while chunk := file.read(2**22):
                digest.update(chunk)
    return digest.hexdigest()[:12]


def pack_network(network: MsmtFn) -> PackedNetwork:
    """Take a network apart into plain arrays."""
    weights = {name: weight.detach().cpu().numpy() for name, weight in network.state_dict().items()}
    return PackedNetwork(config=network.config.to_dict(), weights=weights)


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of a network's weights, or of a part's, and their names."""
    digest = hashlib.sha256()
    for name, weight in sorted(module.state_dict().items()):
        digest.update(name.encode() + weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def unpack_network(packed: PackedNetwork) -> MsmtFn:
    """Put a packed network together again, in evaluation mode."""
    transformers_logging.disable_progress_bar()
    weights = {name: torch.from_numpy(np.array(weight)) for name, weight in packed.weights.items()}
    network: MsmtFn = MsmtFn.from_pretrained(None, config=MsmtFnConfig.from_dict(packed.config), state_dict=weights)
    network.train(False)
    return network


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        model_type = config.get("model_type")
    except (OSError, ValueError, AttributeError) as exc:
        raise ModelError(
            f"{path} cannot be read; --model must name the folder of an MSMT-FN model: {_one_line(exc)}"
        ) from exc
    if model_type != MsmtFnConfig.model_type:
        raise ModelError(
            f"{path} is of a {model_type!r} model; --model must name the folder of an {MsmtFnConfig.model_type!r} one"
        )
    return config


def _check_vocabulary(folder: Path, config: MsmtFnConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    vocabulary = config.text.vocab_size
    if len(tokenizer) > vocabulary:
        raise ModelError(
            f"the tokenizer in {folder} has {len(tokenizer)} tokens and the text encoder knows {vocabulary}; "
            "they must be of one model"
        )


def _check_has_tokenizer(folder: Path) -> None:
    """Refuse a folder without one, for which transformers would make an empty tokenizer up."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(f"{folder} has no tokenizer; a model's folder needs one of {', '.join(TOKENIZER_FILES)}")


def _one_line(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:300] or type(exc).__name__
