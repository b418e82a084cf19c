from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from msmtfn.cli import main
from msmtfn.cli.network_options import NetworkOptions, given_options
from msmtfn.cli.train import RECIPES, Arguments
from msmtfn.model.settings import SETTINGS


def test_every_setting_of_the_network_has_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["train", "small", "--help"])
    shown = capsys.readouterr().out
    assert [each.option for each in SETTINGS.values() if not re.search(rf"{each.option}[ ,]", shown)] == []
    assert "Number of BiGRU layers" in shown


def test_only_what_is_given_replaces_a_setting() -> None:
    assert {each.name for each in fields(NetworkOptions)} == set(SETTINGS)
    given = NetworkOptions(pooling="mean", multi_task=False)
    assert given_options(given) == {"pooling": "mean", "multi_task": False}
    assert Arguments(network_options=given).complete().network == {"pooling": "mean", "multi_task": False}


def test_the_recipe_and_the_architecture_are_chosen_apart() -> None:
    recipes = {name: (arguments.start, arguments.architecture) for name, (_, arguments) in RECIPES.items()}
    assert recipes == {
        "paper": ("encoders", "msmtfn"),
        "small": ("small", "msmtfn"),
        "mmml": ("encoders", "mmml"),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--network.dropout", "1.5"], "--network.dropout 1.5 cannot be used: dropout is 1.5"),
        (["--start", "model", "--model", "demo", "--network.pooling", "cls"], "--network.pooling cannot be used with"),
        (["--network.audio-frontend", "wav2vec2"], "a wav2vec 2.0 frontend needs --start encoders"),
        (
            ["--start", "encoders", "--network.audio-frontend", "wav2vec2"],
            "--network.audio-frontend wav2vec2 and --network.frontend-encoder require each other",
        ),
        (["--architecture", "mmml", "--network.pooling", "cls"], "MMML has no setting 'pooling'"),
        (["--network.first-head-size", "20"], "MSMT-FN has no setting 'first_head_size'"),
        (["--network.pooling", "sum"], "the command line cannot be used"),
    ],
)
def test_a_wrong_setting_is_said_before_any_call_is_read(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert (
        main(["train", "small", "--corpus", str(tmp_path / "missing"), "--out", str(tmp_path / "out"), *options]) == 2
    )
    assert message in json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
