"""Save, fetch, load and pack models.

A model's folder holds `config.json` and `model.safetensors` of the network, `processor_config.json` and the tokenizer's
files of the processor, and a model card. Of a calibrated model it holds `calibration.json`, too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import PROCESSOR_NAME
from transformers.utils import logging as transformers_logging

from msmtfn import storage
from msmtfn.calls.activity import ActivityConfig
from msmtfn.errors import ModelError, StorageError
from msmtfn.features.processor import CallProcessor
from msmtfn.features.processor_config import ProcessorConfig, read_processor_config
from msmtfn.model.architectures import network_class
from msmtfn.model.calibration import Calibration, read_calibration
from msmtfn.model.config import CONFIGS, Architecture, NetworkConfig
from msmtfn.model.folder import CONFIG_FILE, FILE_PATTERNS, check_folder, check_vocabulary, model_files, read_config
from msmtfn.model.location import resolve_model
from msmtfn.storage.untrusted import printable

if TYPE_CHECKING:
    from msmtfn.model.base import CallNetwork

TOKENIZER_FILES: Final = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model")
HUB_NAME: Final = re.compile(r"[\w.-]+(/[\w.-]+)?")
CARD_FILE: Final = "README.md"
SHARED_SETTINGS: Final = tuple(each.name for each in fields(ProcessorConfig) if each.name != "activity")
"""Settings of the processor that the network's configuration has, too."""


@dataclass(frozen=True, slots=True)
class Model:
    """Network with what turns calls into its inputs.

    Attributes:
        network: the network, in evaluation mode.
        tokenizer: the tokenizer of the network's text encoder.
        activity: thresholds of the voice activity detector that the network was trained with.
        calibration: what turns the network's probabilities into those of a lead.
    """

    network: CallNetwork
    tokenizer: PreTrainedTokenizerBase
    activity: ActivityConfig = field(default_factory=ActivityConfig)
    calibration: Calibration = field(default_factory=Calibration)

    @property
    def processor(self) -> CallProcessor:
        """Processor that turns a call into the network's inputs."""
        return make_processor(self.network.config, self.tokenizer, self.activity)


@dataclass(frozen=True, slots=True)
class PackedNetwork:
    """Network as plain arrays, which Ray shares between all processes of a node without copying.

    Attributes:
        config: the network's configuration, as in `config.json`.
        weights: one array per entry of the network's `state_dict`.
        calibration: the calibration of the model that the network belongs to.
    """

    config: dict[str, Any]
    weights: Mapping[str, npt.NDArray[np.generic]]
    calibration: Calibration = field(default_factory=Calibration)


def make_processor(
    config: NetworkConfig, tokenizer: PreTrainedTokenizerBase, activity: ActivityConfig | None = None
) -> CallProcessor:
    """Make the processor of a network.

    Args:
        config: configuration of the network.
        tokenizer: the tokenizer of its text encoder.
        activity: thresholds of the voice activity detector; by default those of `ActivityConfig`.
    """
    settings = {name: getattr(config, name) for name in SHARED_SETTINGS}
    return CallProcessor(tokenizer, ProcessorConfig(**settings, activity=activity or ActivityConfig()))


def save_model(
    network: CallNetwork,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    card: str,
    activity: ActivityConfig | None = None,
) -> None:
    """Save a model to a folder.

    Args:
        network: the network.
        tokenizer: the tokenizer of its text encoder.
        folder: is made if it is missing.
        card: text of the model card, in Markdown.
        activity: thresholds of the voice activity detector that the network was trained with; by default those of
            `ActivityConfig`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    transformers_logging.disable_progress_bar()
    network.save_pretrained(folder)
    make_processor(network.config, tokenizer, activity).save_pretrained(folder)
    (folder / CARD_FILE).write_text(card, encoding="utf-8")


def fetch_model(name: str, download_folder: Path) -> Path:
    """Return the local folder of a model, downloaded if necessary.

    Args:
        name: a local folder, an s3:// address or the name of a model on the Hugging Face hub; for the first two also
            `<root>/current` of a registry.
        download_folder: where to put a model downloaded from S3.

    Raises:
        ModelError: there is no such model, or it cannot be downloaded.
    """
    name = locate_model(name)
    if name.startswith("s3://"):
        try:
            storage.fetch_folder(name, download_folder, lambda file: any(fnmatch(file, kind) for kind in FILE_PATTERNS))
        except StorageError as exc:
            raise ModelError(f"the model {name} cannot be downloaded: {exc}") from exc
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
    """Return the location of a model; `<root>/current` of a registry resolves to the current version.

    Raises:
        ModelError: `current` cannot be read or does not name a version.
    """
    try:
        return resolve_model(name) if storage.is_absolute(name) or Path(name).exists() else name
    except StorageError as exc:
        raise ModelError(f"the model {name} cannot be found: {exc}") from exc


def is_trained(folder: Path) -> bool:
    """Return whether the model in a folder was trained; the scores of an untrained model are meaningless."""
    return bool(_read_config(folder).get("is_trained", False))


def load_model(folder: Path) -> Model:
    """Load a model from a folder; weights are read from safetensors only.

    Raises:
        ModelError: a file is missing or broken, or the weights do not match the configuration.
    """
    network_type = _read_config(folder)["model_type"]
    check_folder(folder)
    _check_has_tokenizer(folder)
    transformers_logging.disable_progress_bar()
    try:
        loaded: tuple[CallNetwork, dict[str, set[str]]] = network_class(network_type).from_pretrained(  # type: ignore[assignment]
            folder,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # reported below
            local_files_only=True,
            output_loading_info=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
        network, info = loaded
        processor = CallProcessor.from_pretrained(folder, text_config=network.config.text)
    # These calls go through half a dozen libraries, each with its own exceptions for a broken file.
    except Exception as exc:
        raise ModelError(f"the model in {folder} cannot be loaded: {_one_line(exc)}") from exc
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if keys := sorted(str(key) for key in info[problem]):
            raise ModelError(
                f"the model in {folder} has {len(keys)} {problem.replace('_', ' ')}, the first is {keys[0]}"
            )
    check_vocabulary(folder, network.config.text.vocab_size, processor.tokenizer)
    _check_settings(folder, network.config, processor.config)
    return Model(network.train(False), processor.tokenizer, processor.config.activity, read_calibration(folder))


def build_model_from_encoders(
    audio_encoder: str, text_encoder: str, seed: int, architecture: Architecture = "msmtfn", **settings: Any
) -> Model:
    """Build a network from pretrained encoders and new weights elsewhere, with the text encoder's tokenizer.

    Args:
        audio_encoder: folder or hub name of a HuBERT or wav2vec 2.0.
        text_encoder: folder or hub name of a BERT or RoBERTa.
        seed: random seed for the new weights.
        architecture: the network.
        **settings: fields of its configuration.

    Raises:
        ModelError: an encoder cannot be loaded, or the two do not fit together.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = network_class(architecture).from_encoders(
                audio_encoder=audio_encoder, text_encoder=text_encoder, **settings
            )
        tokenizer = AutoTokenizer.from_pretrained(text_encoder, trust_remote_code=False)
    except (OSError, ValueError, HfHubHTTPError, HFValidationError) as exc:
        raise ModelError(
            f"the encoders {audio_encoder} and {text_encoder} cannot be loaded: {_one_line(exc)}; --audio-encoder and "
            "--text-encoder take a folder or a hub name"
        ) from exc
    return Model(network, tokenizer)


def model_version(folder: Path) -> str:
    """Return a model's version: 12 hexadecimal digits of a hash over the files in `FILE_PATTERNS`.

    A `processor_config.json` that says what its absence would mean does not count, so that a model of an older version
    stays the same version once it has the file.

    Raises:
        ModelError: the folder holds no model.
    """
    _read_config(folder)
    implied = read_processor_config(folder, [CONFIG_FILE])
    digest = hashlib.sha256()
    for path in model_files(folder):
        if path.name == PROCESSOR_NAME and read_processor_config(folder) == implied:
            continue
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while chunk := file.read(2**22):
                digest.update(chunk)
    return digest.hexdigest()[:12]


def pack_network(network: CallNetwork, calibration: Calibration | None = None) -> PackedNetwork:
    """Convert a network to plain arrays, with the calibration of its model if it is to score."""
    weights = {name: weight.detach().cpu().numpy() for name, weight in network.state_dict().items()}
    return PackedNetwork(network.config.to_dict(), weights, calibration or Calibration())


def weights_digest(module: nn.Module) -> str:
    """Return the SHA-256 of the names and values of all weights of a network or of a part of one."""
    digest = hashlib.sha256()
    for name, weight in sorted(module.state_dict().items()):
        digest.update(name.encode() + weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def unpack_network(packed: PackedNetwork) -> CallNetwork:
    """Rebuild a packed network, in evaluation mode."""
    transformers_logging.disable_progress_bar()
    weights = {name: torch.from_numpy(np.array(weight)) for name, weight in packed.weights.items()}
    kind = network_class(packed.config["model_type"])
    config = kind.config_class.from_dict(packed.config)
    network: CallNetwork = kind.from_pretrained(None, config=config, state_dict=weights)
    network.train(False)
    return network


def _read_config(folder: Path) -> dict[str, Any]:
    config = read_config(folder)
    model_type = config.get("model_type")
    if str(model_type) not in CONFIGS:
        raise ModelError(
            f"{folder / CONFIG_FILE} is of a {printable(model_type)!r} model; --model must name the folder of one of "
            f"type {' or '.join(CONFIGS)}"
        )
    return config


def _check_settings(folder: Path, config: NetworkConfig, settings: ProcessorConfig) -> None:
    for name in SHARED_SETTINGS:
        said, used = getattr(settings, name), getattr(config, name)
        if said != used:
            raise ModelError(
                f"{name} is {said!r} in {PROCESSOR_NAME} of {folder} and {used!r} in config.json; they must be equal"
            )


def _check_has_tokenizer(folder: Path) -> None:
    """Raise if a folder has no tokenizer; transformers would silently make an empty one."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(f"{folder} has no tokenizer; a model's folder needs one of {', '.join(TOKENIZER_FILES)}")


def _one_line(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:300] or type(exc).__name__
