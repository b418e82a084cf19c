"""Folders that hold no model that can be loaded are refused with the reason."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertTokenizer

from msmtfn.errors import ModelError
from msmtfn.model.checkpoint import load_model
from msmtfn.model.network import MsmtFn

MakeNetwork = Callable[..., MsmtFn]


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def loading_error(folder: Path) -> str:
    """Return the message of the error raised by loading a folder."""
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    return str(caught.value)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    assert str(tmp_path / "none" / "config.json") in loading_error(tmp_path / "none")


def test_a_folder_without_a_configuration_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    message = loading_error(folder)
    assert message.startswith(f"{folder / 'config.json'} cannot be read; --model must name the folder of an MSMT-FN")


@pytest.mark.parametrize("text", ["{", "[]", "7", ""])
def test_an_invalid_configuration_file_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    assert loading_error(folder).startswith(f"{folder / 'config.json'} cannot be read; --model must name the folder")


def test_a_model_of_another_type_is_refused(folder: Path) -> None:
    change_config(folder, model_type="bert")
    message = (
        f"{folder / 'config.json'} is of a 'bert' model; --model must name the folder of one of type msmtfn or mmml"
    )
    assert loading_error(folder) == message


def test_a_configuration_out_of_range_is_refused_with_the_cure(folder: Path) -> None:
    change_config(folder, context_size=-16)
    assert "context_size is -16; it must be more than 0" in loading_error(folder)


def test_a_configuration_of_a_wrong_type_is_refused_with_the_cure(folder: Path) -> None:
    change_config(folder, pooling="sum")
    message = loading_error(folder)
    assert "'pooling'" in message
    assert "max" in message.replace(str(folder), "")
    assert "'flatten', 'cls', 'mean'" in message


def test_truncated_weights_are_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    assert loading_error(folder).startswith(f"the model in {folder} cannot be loaded: ")


def test_missing_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "model.safetensors" in loading_error(folder)


def test_weights_in_a_pickle_are_refused(folder: Path, tiny_network: MakeNetwork) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(tiny_network().state_dict(), folder / "pytorch_model.bin")
    message = loading_error(folder)
    assert str(folder) in message
    assert "model.safetensors" in message


# transformers would make up a tokenizer of five special tokens, which maps every text to [UNK].
def test_a_folder_without_its_tokenizer_is_refused(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()
    message = loading_error(folder)
    assert str(folder) in message
    assert "tokenizer" in message


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(21))]
    BertTokenizer(vocab={token: number for number, token in enumerate(vocabulary)}).save_pretrained(folder)
    message = f"the tokenizer in {folder} has 26 tokens and the text encoder knows 25; they must be of one model"
    assert loading_error(folder) == message


@pytest.mark.parametrize(("num_cross_layers", "problem"), [(5, "missing keys"), (3, "unexpected keys")])
def test_weights_of_another_depth_are_refused(folder: Path, num_cross_layers: int, problem: str) -> None:
    change_config(folder, num_cross_layers=num_cross_layers)
    message = loading_error(folder)
    assert problem in message
    assert f"fusion.complementary_pathway.layers.{max(num_cross_layers - 1, 3)}." in message


def test_weights_of_another_width_are_refused(folder: Path) -> None:
    change_config(folder, context_size=8)
    assert loading_error(folder).startswith(f"the model in {folder} ")


def test_weights_of_another_width_are_named(folder: Path) -> None:
    change_config(folder, context_size=8)
    message = loading_error(folder)
    assert "mismatched" in message
    assert "context.gru." in message


def test_one_missing_weight_is_named(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["fusion.audio_token.token"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "1 missing keys, the first is fusion.audio_token.token" in loading_error(folder)


def test_a_processor_of_another_network_is_refused(folder: Path) -> None:
    path = folder / "processor_config.json"
    path.write_text(path.read_text().replace('"max_text_tokens": 20', '"max_text_tokens": 30'))
    problem = f"max_text_tokens is 30 in processor_config.json of {folder} and 20 in config.json; they must be equal"
    assert loading_error(folder) == problem


def test_an_error_is_one_line_with_its_cause(folder: Path) -> None:
    change_config(folder, context_size=0)
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None


def test_no_code_in_a_folder_is_run(folder: Path, tmp_path: Path) -> None:
    (folder / "evil.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n")
    change_config(folder, auto_map={"AutoConfig": "evil.A", "AutoModel": "evil.B", "AutoTokenizer": "evil.C"})
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": ["evil.C", "evil.C"]}}))
    with contextlib.suppress(ModelError):
        load_model(folder)
    assert not (tmp_path / "ran").exists()
