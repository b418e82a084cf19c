from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertTokenizer

from msmtfn.calls.activity import ActivityConfig
from msmtfn.corpora import demo_model
from msmtfn.errors import ModelError
from msmtfn.model.checkpoint import (
    PackedNetwork,
    fetch_model,
    is_trained,
    load_model,
    model_version,
    pack_network,
    save_model,
    unpack_network,
)
from msmtfn.model.network import MsmtFn

MakeNetwork = Callable[..., MsmtFn]
TINY_AUDIO: dict[str, Any] = {
    "model_type": "wav2vec2",
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
ROBERTA = {
    "model_type": "roberta",
    "hidden_size": 40,
    "vocab_size": 25,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "hubert and bert": {},
    "wav2vec2 and roberta": {"audio_config": TINY_AUDIO, "text_config": ROBERTA},
    "frontend": {"audio_frontend": "wav2vec2", "frontend_config": TINY_AUDIO},
    "options": {"pooling": "mean", "overlong_rounds": "split", "num_cross_layers": 2, "is_trained": True},
}


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """Copy a tiny model to a folder that the test may damage."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture(params=VARIANTS)
def network(request: pytest.FixtureRequest, tiny_network: MakeNetwork) -> MsmtFn:
    return tiny_network(seed=3, **VARIANTS[request.param])


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def five_of(network: MsmtFn) -> Tensor:
    """Return the five-class logits of a call of two rounds."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        output = network(
            waveforms=torch.randn(2, 9000, generator=generator),
            num_samples=torch.tensor([9000, 5000]),
            input_ids=torch.randint(5, 25, (2, 7), generator=generator),
            num_tokens=torch.tensor([7, 4]),
            rounds_per_call=[2],
        )
    logits: Tensor = output.logits["five"]
    return logits


def loading_error(folder: Path) -> str:
    """Return the message of the error raised by loading a folder."""
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    return str(caught.value)


# ---- saved and loaded


def test_a_loaded_network_has_the_weights_of_the_saved_one(
    tmp_path: Path, network: MsmtFn, tiny_tokenizer: BertTokenizer
) -> None:
    save_model(network, tiny_tokenizer, tmp_path, "# Card\n")
    loaded, saved = load_model(tmp_path).network.state_dict(), network.state_dict()
    assert list(loaded) == list(saved)
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)


def test_a_loaded_network_gives_the_logits_of_the_saved_one(
    tmp_path: Path, network: MsmtFn, tiny_tokenizer: BertTokenizer
) -> None:
    save_model(network.train(), tiny_tokenizer, tmp_path, "# Card\n")
    loaded = load_model(tmp_path).network
    assert not loaded.training
    # The weights are bitwise equal (tested above), but their memory layout affects the last bit of a matrix product.
    torch.testing.assert_close(five_of(loaded), five_of(network.train(False)), atol=1e-6, rtol=0)


def test_a_loaded_network_has_the_configuration_of_the_saved_one(
    tmp_path: Path, network: MsmtFn, tiny_tokenizer: BertTokenizer
) -> None:
    save_model(network, tiny_tokenizer, tmp_path, "# Card\n")
    loaded = load_model(tmp_path).network.config
    for field in ("pooling", "overlong_rounds", "num_cross_layers", "audio_frontend", "is_trained", "max_round_sec"):
        assert getattr(loaded, field) == getattr(network.config, field)
    for field in ("audio_config", "text_config", "frontend_config"):
        ours, theirs = getattr(loaded, field).to_dict(), getattr(network.config, field).to_dict()
        assert ours | {"dtype": None} == theirs | {"dtype": None}  # saving adds the dtype


def test_a_loaded_tokenizer_gives_the_tokens_of_the_saved_one(tiny_model: Path) -> None:
    # The ids are 2 for [CLS], 3 for [SEP] and 5 to 14 for a to j.
    assert load_model(tiny_model).tokenizer("a b j")["input_ids"] == [2, 5, 6, 14, 3]


def test_a_model_is_saved_and_loaded_with_its_processor(
    tmp_path: Path, network: MsmtFn, tiny_tokenizer: BertTokenizer
) -> None:
    activity = ActivityConfig(open_db=20.0)
    save_model(network, tiny_tokenizer, tmp_path, "# Card\n", activity)
    loaded = load_model(tmp_path)
    assert loaded.activity == loaded.processor.config.activity == activity
    assert loaded.processor.config.overlong_rounds == network.config.overlong_rounds


def test_a_model_folder_contains_no_pickle(tiny_model: Path) -> None:
    assert {path.suffix for path in tiny_model.iterdir()} <= {".json", ".safetensors", ".txt", ".md"}
    assert {"config.json", "model.safetensors", "README.md"} <= {path.name for path in tiny_model.iterdir()}


def test_the_model_card_is_the_given_text(tiny_model: Path) -> None:
    assert (tiny_model / "README.md").read_text() == "# Tiny\n"


@pytest.mark.parametrize("trained", [True, False])
def test_is_trained_reads_whether_the_model_was_trained(
    tmp_path: Path, tiny_network: MakeNetwork, tiny_tokenizer: BertTokenizer, trained: bool
) -> None:
    save_model(tiny_network(is_trained=trained), tiny_tokenizer, tmp_path, "# Card\n")
    assert is_trained(tmp_path) is trained


# transformers 5 loads weights in the dtype they were saved in, while the inputs are float32.
def test_a_network_saved_in_half_precision_can_be_run(
    tmp_path: Path, tiny_network: MakeNetwork, tiny_tokenizer: BertTokenizer
) -> None:
    save_model(tiny_network().bfloat16(), tiny_tokenizer, tmp_path, "# Card\n")
    assert five_of(load_model(tmp_path).network).isfinite().all()


# ---- packed and unpacked


def test_an_unpacked_network_equals_the_packed_one(network: MsmtFn) -> None:
    unpacked = unpack_network(pack_network(network.train()))
    weights = network.state_dict()
    assert list(unpacked.state_dict()) == list(weights)
    assert all(torch.equal(weight, weights[name]) for name, weight in unpacked.state_dict().items())
    assert not unpacked.training
    assert torch.equal(five_of(unpacked), five_of(network.train(False)))


def test_a_network_is_unpacked_from_read_only_memory(tiny_network: MakeNetwork) -> None:
    packed = pack_network(tiny_network())
    weights = {name: np.array(weight) for name, weight in packed.weights.items()}
    for weight in weights.values():
        weight.flags.writeable = False
    unpacked = unpack_network(PackedNetwork(packed.config, weights))
    with torch.no_grad():
        unpacked.fusion.bottleneck.tokens.zero_()
    assert weights["fusion.bottleneck.tokens"].any()


def test_a_packed_network_consists_of_json_and_arrays(tiny_network: MakeNetwork) -> None:
    packed = pack_network(tiny_network())
    assert json.loads(json.dumps(packed.config))["model_type"] == "msmtfn"
    assert {type(weight) for weight in packed.weights.values()} == {np.ndarray}


# ---- folders that are refused


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
    message = f"{folder / 'config.json'} is of a 'bert' model; --model must name the folder of an 'msmtfn' one"
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


# ---- versions


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


# ---- fetching


def test_a_local_folder_is_used_in_place(tiny_model: Path, tmp_path: Path) -> None:
    for name in (str(tiny_model), f"file://{tiny_model}"):
        assert fetch_model(name, tmp_path / "download") == tiny_model
    assert not (tmp_path / "download").exists()


def test_a_relative_folder_is_made_absolute(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_model.parent)
    assert fetch_model(tiny_model.name, tmp_path) == tiny_model


@pytest.mark.parametrize("name", ["no such model", "/no/such/folder", "a/b/c", "gs://bucket/model", "nobody?"])
def test_an_invalid_name_is_refused_with_the_cure(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError) as caught:
        fetch_model(name, tmp_path)
    cure = "is no folder; give a model's folder, an s3:// address or a name on the hub"
    assert str(caught.value) == f"--model {name} {cure}"


@pytest.mark.parametrize("name", ["nobody/no-such-model", "no-such-model", "x" * 200, "../x", "-/-"])
def test_a_name_unknown_to_the_hub_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as caught:
        fetch_model(name, tmp_path / "download")
    assert str(caught.value).startswith(f"--model {name} is no folder, and the hub cannot give a model of that name: ")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None
