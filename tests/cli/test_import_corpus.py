from __future__ import annotations

import json
from pathlib import Path

import pytest

from msmtfn.cli import main
from tests.corpora.published.layouts import write_emodb


def test_a_corpus_is_imported_by_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_emodb(tmp_path / "in")
    assert main(["import", "emodb", str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    output = capsys.readouterr().out

    assert "WARNING   EmoDB: 8 utterances are here, 535 were published" in output
    assert json.loads(output.splitlines()[-1]) == {"job": "import", "exit_code": 0}
    assert (tmp_path / "out" / "_SUCCESS").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["emodb", "missing", "out"], "missing is no folder"),
        (["emodb", ".", "out"], "which is only read"),
        (["emodb", ".", "/tmp/out", "--workers", "-1"], "--workers is -1"),
        (["iemocap", ".", "/tmp/out"], "the command line cannot be used"),
    ],
)
def test_wrong_usage_is_said_before_anything_is_read(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", *arguments]) == 2
    assert message in json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
