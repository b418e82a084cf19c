from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from msmtfn.cli import score_daily
from msmtfn.daily.keep_table import open_table
from msmtfn.errors import UsageError
from msmtfn.storage.untrusted import LinkError


def test_a_table_without_the_extra_is_one_clear_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "deltalake" else find_spec(name))
    options = ["--manifests", f"{tmp_path}/in", "--leads", f"{tmp_path}/leads", "--table", "delta"]
    assert score_daily.main("job", options) == UsageError.exit_code == 2
    assert "--table delta needs the package deltalake: pip install 'msmtfn[delta]'" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_leads_that_have_a_table_are_not_published_without_it(tmp_path: Path) -> None:
    assert open_table(str(tmp_path), None) is None
    (tmp_path / "_delta_log").mkdir()
    with pytest.raises(UsageError, match="has a Delta table, which would name deleted files after this run"):
        open_table(str(tmp_path), None)


@pytest.mark.parametrize(("kind", "days", "said"), [("iceberg", 7, "--table"), ("delta", -1, "--table-retention-days")])
def test_options_out_of_range_are_named(tmp_path: Path, kind: str, days: int, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        open_table(str(tmp_path), kind, days)


def test_a_log_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "leads").mkdir()
    (tmp_path / "leads" / "_delta_log").symlink_to(tmp_path)
    for kind in (None, "delta"):
        with pytest.raises(LinkError):
            open_table(str(tmp_path / "leads"), kind)
