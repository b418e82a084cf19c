"""Check a model's folder before transformers reads it: a model may come from anywhere.

transformers follows what the files say: to a kernel or an adapter on a hub, to files elsewhere, to any size. Here only
regular files of the folder are read, all of them count towards the model's version, and sizes are bounded.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from transformers import PreTrainedTokenizerBase
from transformers.utils import PROCESSOR_NAME

from msmtfn.errors import ModelError
from msmtfn.storage.untrusted import parse_object, printable

CONFIG_FILE: Final = "config.json"
FILE_PATTERNS: Final = ("*.json", "*.safetensors", "*.txt", "*.model")
"""Files of a model folder that are read: none that can contain code, and not the card."""

INDEX_FILE: Final = "model.safetensors.index.json"
TOKENIZER_CONFIG_FILE: Final = "tokenizer_config.json"
ADAPTER_FILE: Final = "adapter_config.json"
VOCABULARY_FIELDS: Final = ("vocab_file", "tokenizer_file", "merges_file", "spm_file")
MAX_JSON_BYTES: Final = 2**24
ATTENTION: Final = ("eager", "sdpa")
"""Implementations of attention that are part of transformers and PyTorch; any other name may be a kernel on a hub."""

FOREIGN_FIELDS: Final = ("transformers_weights", "quantization_config")
"""Fields of a configuration that name other weights or other libraries; no model of ours has them."""

MAX_LAYERS: Final = 1_000
MAX_WIDTH: Final = 2**16
MAX_NUMBER: Final = 2**21  # of entries in a vocabulary, which is the largest number in a configuration
MAX_LIST: Final = 1_000


def model_files(folder: Path) -> list[Path]:
    """Return the files of a model folder that are read, sorted.

    Raises:
        ModelError: one is a folder, a pipe or a device.
    """
    files = sorted(path for pattern in FILE_PATTERNS for path in folder.glob(pattern))
    for path in files:
        _check_regular(path)
    return files


def read_config(folder: Path) -> dict[str, Any]:
    """Read the configuration of a model folder as it is.

    Raises:
        ModelError: it cannot be read.
    """
    path = folder / CONFIG_FILE
    try:
        return read_json(path)
    except (OSError, ValueError) as exc:
        reason = " ".join(str(exc).split())[:300]
        raise ModelError(f"{path} cannot be read; --model must name the folder of an MSMT-FN model: {reason}") from exc


def check_folder(folder: Path) -> None:
    """Check that the files of a model lead nowhere else and describe a network of a possible size.

    Raises:
        ModelError: they do not; the message names the file and the field.
    """
    model_files(folder)
    if (folder / ADAPTER_FILE).exists():
        raise ModelError(
            f"{folder / ADAPTER_FILE} names another model; merge the adapter, and save the model without it"
        )
    _check_config(folder / CONFIG_FILE, read_config(folder))
    try:
        shards = _shards(folder)
        path = folder / TOKENIZER_CONFIG_FILE
        tokenizer = read_json(path) if path.exists() else {}
        if (folder / PROCESSOR_NAME).exists():
            read_json(folder / PROCESSOR_NAME)
    except (OSError, ValueError) as exc:
        raise ModelError(f"the model in {folder} cannot be read: {printable(exc, 300)}") from exc
    for name in shards:
        if Path(name).name != name or not name.endswith(".safetensors") or not (folder / name).is_file():
            cure = "it must name *.safetensors files of its own folder"
            raise ModelError(f"{folder / INDEX_FILE} names {printable(name)!r}; {cure}")
    for name in VOCABULARY_FIELDS:
        if tokenizer.get(name):
            cure = "remove it, since the folder's own file is read"
            raise ModelError(f"{path} has {name} {printable(tokenizer[name])!r}; {cure}")


def check_vocabulary(folder: Path, vocabulary: int, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that the text encoder knows every token of the tokenizer.

    Raises:
        ModelError: the tokenizer has more tokens, or one with a larger id.
    """
    largest = max(tokenizer.get_vocab().values(), default=0)
    if len(tokenizer) > vocabulary:
        problem = f"has {len(tokenizer)} tokens"
    elif largest >= vocabulary:
        problem = f"has a token with the id {largest}"
    else:
        return
    raise ModelError(
        f"the tokenizer in {folder} {problem} and the text encoder knows {vocabulary}; they must be of one model"
    )


def _check_regular(path: Path) -> None:
    try:
        is_regular = stat.S_ISREG(path.stat().st_mode)  # links are followed: the hub's cache consists of them
    except OSError as exc:
        raise ModelError(f"{path} cannot be read: {exc.strerror}; copy the model again") from exc
    if not is_regular:
        raise ModelError(f"{path} is not a regular file; copy the model's files into the folder")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: it is none, or too large.
        OSError: there is no such file, or it is a pipe.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path.name} is not a regular file")
    if status.st_size > MAX_JSON_BYTES:
        raise ValueError(f"{path.name} has {status.st_size} bytes; at most {MAX_JSON_BYTES} are read")
    return parse_object(path.read_text(encoding="utf-8"))


def _shards(folder: Path) -> list[str]:
    """Return the names of files that the index of the weights gives; none if there is no index."""
    if not (folder / INDEX_FILE).exists():
        return []
    weight_map = read_json(folder / INDEX_FILE).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError(f"{INDEX_FILE} has no weight_map")
    return sorted({str(name) for name in weight_map.values()})


def _check_config(path: Path, config: dict[str, Any]) -> None:
    for name, value in _fields(config):
        if name in FOREIGN_FIELDS and value is not None:
            raise ModelError(f"{path} has {name}, which names other weights or libraries; save the model without it")
        if "attn_implementation" in name or "experts_implementation" in name:
            named = [item for _, item in _fields(value)] if isinstance(value, dict) else [value]
            if not all(item is None or item in ATTENTION for item in named):
                raise ModelError(f"{path} has {name} {printable(value)!r}; it must be one of {', '.join(ATTENTION)}")
        limit = _limit_of(name)
        if isinstance(value, int) and not -limit <= value <= limit:
            raise ModelError(f"{path} has {name} {printable(value, 30)}; at most {limit} is supported")
        if isinstance(value, list) and len(value) > MAX_LIST:
            raise ModelError(f"{path} has {len(value)} values for {name}; at most {MAX_LIST} are supported")
        if name in ("conv_kernel", "conv_stride") and not _are_positive(value):
            raise ModelError(f"{path} has {name} {printable(value)}; each must be a whole number of at least 1")


def _fields(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the names and values of all fields, however deeply nested; an item of a list has the list's name."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key, item
            yield from _fields(item, key)
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, dict | list):
                yield from _fields(item, name)
            else:
                yield f"{name}[]", item


def _limit_of(name: str) -> int:
    if "layers" in name:
        return MAX_LAYERS
    is_width = name != "vocab_size" and name.removesuffix("[]").endswith(("_size", "_dim", "_heads", "_tokens"))
    return MAX_WIDTH if is_width else MAX_NUMBER


def _are_positive(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, int) and item >= 1 for item in value)
