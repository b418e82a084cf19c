"""Versions of models: what changes them and what does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import BertTokenizer

from msmtfn.calls.activity import ActivityConfig
from msmtfn.corpora import demo_model
from msmtfn.errors import ModelError
from msmtfn.model.checkpoint import (
    load_model,
    model_version,
    save_model,
)
from msmtfn.model.network import MsmtFn

MakeNetwork = Callable[..., MsmtFn]


def test_a_version_has_twelve_hexadecimal_digits(tiny_model: Path) -> None:
    version = model_version(tiny_model)
    assert len(version) == 12
    assert set(version) <= set("0123456789abcdef")


def test_a_copy_of_a_model_has_the_same_version(tiny_model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "other name"
    copy.mkdir()
    for path in sorted(tiny_model.iterdir(), reverse=True):
        (copy / path.name).write_bytes(path.read_bytes())
    assert model_version(copy) == model_version(tiny_model)


def test_a_network_saved_twice_has_the_same_version(
    tmp_path: Path, tiny_network: MakeNetwork, tiny_tokenizer: BertTokenizer
) -> None:
    for name in ("one", "two"):
        save_model(tiny_network(), tiny_tokenizer, tmp_path / name, f"# {name}\n")
    assert model_version(tmp_path / "one") == model_version(tmp_path / "two")


def test_a_changed_weight_changes_the_version(folder: Path, tiny_model: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["heads.heads.two.1.bias"][0] += 1e-6
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert (folder / "model.safetensors").stat().st_size == (tiny_model / "model.safetensors").stat().st_size
    assert model_version(folder) != model_version(tiny_model)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_changed_configuration_or_tokenizer_changes_the_version(folder: Path, tiny_model: Path, name: str) -> None:
    path = folder / name
    path.write_text(path.read_text() + " ")
    assert model_version(folder) != model_version(tiny_model)


def test_a_model_of_an_older_version_stays_the_same_version_with_a_processor(folder: Path, tiny_model: Path) -> None:
    (folder / "processor_config.json").unlink()
    assert model_version(folder) == model_version(tiny_model)
    assert model_version(demo_model()) == "af2a0a15034f"  # as before it had the file


def test_another_detector_of_speech_changes_the_version(folder: Path, tiny_model: Path) -> None:
    path = folder / "processor_config.json"
    path.write_text(path.read_text().replace('"open_db": 12.0', '"open_db": 13.0'))
    assert load_model(folder).activity == ActivityConfig(open_db=13.0)
    assert model_version(folder) != model_version(tiny_model)


def test_the_model_card_does_not_affect_the_version(folder: Path, tiny_model: Path) -> None:
    (folder / "README.md").write_text("# Another card\n")
    assert model_version(folder) == model_version(tiny_model)


def test_a_file_that_is_not_read_does_not_affect_the_version(folder: Path, tiny_model: Path) -> None:
    (folder / "optimizer.bin").write_bytes(b"7")
    assert model_version(folder) == model_version(tiny_model)


def test_a_folder_without_a_model_has_no_version(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config.json cannot be read"):
        model_version(tmp_path)
