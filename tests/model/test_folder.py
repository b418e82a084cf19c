"""Model folders that lead elsewhere, or describe something impossible, are refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from msmtfn.errors import ModelError
from msmtfn.model.checkpoint import load_model, model_version


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """Copy a tiny model to a folder that the test may damage."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def change(path: Path, **fields: Any) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | fields))


def change_encoder(folder: Path, name: str, **fields: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(folder / "config.json", **{name: config[name] | fields})


def assert_refused(folder: Path, match: str) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation", "_attn_implementation_internal"])
@pytest.mark.parametrize("value", ["someone/kernel", "paged|someone/kernel@main", {"text_config": "someone/kernel"}])
def test_an_attention_kernel_of_a_hub_is_refused(folder: Path, name: str, value: Any) -> None:
    change(folder / "config.json", **{name: value})
    assert_refused(folder, rf"config\.json has {name} .*someone/kernel.*; it must be one of eager, sdpa")


def test_an_attention_kernel_of_an_encoder_is_refused(folder: Path) -> None:
    change_encoder(folder, "text_config", attn_implementation="someone/kernel")
    assert_refused(folder, "has attn_implementation 'someone/kernel'")


def test_an_attention_of_our_list_is_taken(folder: Path) -> None:
    change_encoder(folder, "text_config", attn_implementation="eager")
    assert load_model(folder).network.config.text.model_type == "bert"


@pytest.mark.parametrize("name", ["transformers_weights", "quantization_config"])
def test_a_field_that_names_other_weights_is_refused(folder: Path, name: str) -> None:
    change(folder / "config.json", **{name: "../other.safetensors"})
    assert_refused(folder, f"has {name}, which names other weights or libraries")


@pytest.mark.parametrize("shard", ["../other/model.safetensors", "/tmp/m.safetensors", "missing.safetensors", "a.bin"])
def test_an_index_that_names_a_file_outside_the_folder_is_refused(folder: Path, shard: str) -> None:
    shutil.copytree(folder, folder.parent / "other")
    (folder / "a.bin").touch()
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {"w": shard}}))
    assert_refused(folder, f"index.json names '{shard}'; it must name")


@pytest.mark.parametrize("name", ["vocab_file", "tokenizer_file"])
def test_a_tokenizer_that_names_a_file_elsewhere_is_refused(folder: Path, name: str) -> None:
    change(folder / "tokenizer_config.json", **{name: "/etc/hostname"})
    assert_refused(folder, rf"tokenizer_config\.json has {name} '/etc/hostname'; remove it")


def test_an_adapter_is_refused(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/model"}')
    assert_refused(folder, "names another model; merge the adapter")


def test_a_token_with_a_larger_id_than_the_encoder_knows_is_refused(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary[max(vocabulary, key=vocabulary.get)] = 1_000
    path.write_text(json.dumps(content))
    assert_refused(folder, "has a token with the id 1000 and the text encoder knows 25; they must be of one model")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "vocab.txt"])
@pytest.mark.timeout(60)
def test_a_pipe_is_refused_and_not_waited_for(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert_refused(folder, f"{name}.* is not a regular file")
    with pytest.raises(ModelError, match="is not a regular file"):
        model_version(folder)


def test_a_model_of_links_as_in_the_cache_of_the_hub_is_taken(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    for path in folder.iterdir():
        (tmp_path / "linked" / path.name).symlink_to(path)
    load_model(tmp_path / "linked")
    assert model_version(tmp_path / "linked") == model_version(folder)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"num_cross_layers": 10**7}, "num_cross_layers 10000000; at most 1000"),
        ({"hidden_size": 10**7}, "hidden_size 10000000; at most 65536"),
        ({"num_bottleneck_tokens": 10**6}, "num_bottleneck_tokens 1000000; at most 65536"),
        ({"max_text_tokens": 10**9}, "max_text_tokens 1000000000; at most"),
        ({"context_size": -(10**7)}, "context_size -10000000; at most"),
    ],
)
def test_impossible_sizes_are_refused_at_once(folder: Path, fields: dict[str, int], problem: str) -> None:
    change(folder / "config.json", **fields)
    assert_refused(folder, problem)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"num_hidden_layers": 10**7}, "num_hidden_layers 10000000; at most 1000"),
        ({"conv_dim": [1] * 10_000}, "10000 values for conv_dim; at most 1000"),
        ({"conv_stride": [0] * 7}, r"conv_stride \[0, .*; each must be a whole number of at least 1"),
        ({"conv_kernel": [3, -1]}, r"conv_kernel \[3, -1\]; each must be"),
    ],
)
def test_impossible_sizes_of_the_audio_encoder_are_refused(folder: Path, fields: dict[str, Any], problem: str) -> None:
    change_encoder(folder, "audio_config", **fields)
    assert_refused(folder, problem)


def test_a_configuration_of_many_megabytes_is_refused(folder: Path) -> None:
    with (folder / "config.json").open("ab") as file:
        file.truncate(2**24 + 1)
    assert_refused(folder, rf"config\.json has {2**24 + 1} bytes; at most {2**24} are read")


@pytest.mark.parametrize("text", ["[]", '{"a":' * 100_000, '{"activity": 5}', '{"activity": {"another": 1}}'])
def test_broken_settings_of_a_processor_are_refused_and_have_no_version(folder: Path, text: str) -> None:
    (folder / "processor_config.json").write_text(text)
    assert_refused(folder, "cannot be")
    with pytest.raises(ModelError, match=r"^processor_config\.json of .* cannot be read: "):
        model_version(folder)


def test_a_configuration_with_broken_settings_of_a_processor_has_no_version(folder: Path) -> None:
    change(folder / "config.json", activity=5)
    with pytest.raises(ModelError, match=r"^config\.json of .* cannot be read: "):
        model_version(folder)


def test_huge_settings_of_a_processor_are_refused(folder: Path) -> None:
    os.truncate(folder / "processor_config.json", 2**24 + 1)
    assert_refused(folder, r"processor_config\.json has 16777217 bytes; at most 16777216 are read")
