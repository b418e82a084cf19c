"""What overlaps, however it is spelled, and that every job refuses it before it writes anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from msmtfn.cli import evaluate, score_daily, train
from msmtfn.errors import UsageError
from msmtfn.model.location import is_in_registry, locations_of_model
from msmtfn.storage.overlap import NamedLocation, contains, refuse_overlaps
from tests.integration.job import DATE, write_short_calls

Job = Callable[[str, Sequence[str]], int]


@pytest.mark.parametrize(
    ("folder", "location", "expected"),
    [
        ("{0}/a", "{0}/a", True),
        ("{0}/a", "{0}/a/", True),
        ("{0}/a", "{0}//a/b", True),
        ("{0}/a", "file://{0}/a/b/c", True),
        ("file://{0}/a/", "{0}/b/../a/new", True),
        ("{0}/a", "{0}/link", True),
        ("{0}/link", "{0}/a/b", True),
        ("{0}/link/b", "{0}/a/b/new", True),
        ("{0}/a", "{0}/ab", False),
        ("{0}/a/b", "{0}/a", False),
        ("{0}/a", "{0}/link/../other", False),
        ("/", "{0}", True),
        ("s3://bucket/a", "s3://bucket/a/", True),
        ("s3://bucket/a", "s3://bucket//a/b", True),
        ("s3://bucket/a", "s3://bucket/b/../a", True),
        ("s3://bucket/a", "s3://bucket/a/../b", True),  # a key that begins with a/, where the server does not fold it
        ("s3://bucket", "s3://bucket/a", True),
        ("s3://bucket/", "s3://bucket/a/./b", True),
        ("s3://bucket/a", "s3://bucket/ab", False),
        ("s3://bucket", "s3://bucket-2/a", False),
        ("{0}/a", "s3://bucket{0}/a", False),
    ],
)
def test_a_place_contains_another_by_where_it_leads(tmp_path: Path, folder: str, location: str, expected: bool) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert contains(folder.format(tmp_path), location.format(tmp_path)) is expected


def test_a_relative_place_counts_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert contains("manifests", str(tmp_path / "manifests" / "leads"))


@pytest.mark.parametrize("name", ["leads?", "leads?day=1", "le\nads", "le\tads", "leads\x1b[2J", "leads\udcff"])
def test_an_output_whose_name_libraries_would_change_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"^--leads .*holds a question mark, a control character or bytes") as refused:
        refuse_overlaps([], [NamedLocation("--leads", f"{tmp_path}/{name}")])
    assert str(refused.value).isprintable()
    refuse_overlaps([NamedLocation("--manifests", f"{tmp_path}/{name}")], [])


def test_an_output_may_have_any_other_name(tmp_path: Path) -> None:
    refuse_overlaps([], [NamedLocation("--leads", f"{tmp_path}/线索　一\xa0二 #1 %3F [a]*;b")])


def test_a_password_is_not_repeated_where_an_output_is_refused() -> None:
    with pytest.raises(UsageError) as refused:
        refuse_overlaps([], [NamedLocation("--leads", "s3://user:tiger@bucket/leads?")])
    assert "tiger" not in str(refused.value)


def test_the_message_names_both_options_and_both_places_as_given(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        refuse_overlaps(
            [NamedLocation("--manifests", f"{tmp_path}/a/")], [NamedLocation("--leads", f"file://{tmp_path}/a/b")]
        )
    assert f"--leads file://{tmp_path}/a/b overlaps --manifests {tmp_path}/a/" in str(refused.value)


def test_inputs_may_overlap_and_an_output_may_stand_inside_another(tmp_path: Path) -> None:
    inputs = [
        NamedLocation("--manifests", f"{tmp_path}/in"),
        NamedLocation("--allowed-prefixes", f"{tmp_path}/in/recordings"),
    ]
    refuse_overlaps(
        inputs, [NamedLocation("--register", f"{tmp_path}/out"), NamedLocation("--work", f"{tmp_path}/out/_work")]
    )
    with pytest.raises(UsageError, match=r"--register .* overlaps --work"):
        refuse_overlaps(
            inputs, [NamedLocation("--register", f"{tmp_path}/out"), NamedLocation("--work", f"{tmp_path}/out/")]
        )


def test_a_model_behind_current_stands_for_its_whole_registry(tmp_path: Path) -> None:
    assert locations_of_model("hfl/chinese-roberta-wwm-ext") == []
    (tmp_path / "v0001").mkdir()
    assert locations_of_model(f"{tmp_path}/v0001") == [f"{tmp_path}/v0001"]
    (tmp_path / "current").write_text('{"version": "v0001", "before": []}')
    assert locations_of_model(f"{tmp_path}/current") == [f"{tmp_path}/v0001", str(tmp_path)]


def test_a_registry_may_be_trained_on_from_its_own_versions_only(tmp_path: Path) -> None:
    for name in ("v0001", "w0001"):
        (tmp_path / name).mkdir()
    (tmp_path / "current").touch()
    for name in ("current", "v0001"):
        assert is_in_registry(f"{tmp_path}/", str(tmp_path / name))
        assert not is_in_registry(f"{tmp_path}/other", str(tmp_path / name))
    assert not is_in_registry(str(tmp_path), str(tmp_path / "w0001"))


# ---- in the jobs


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write_short_calls(tmp_path / "in", 1)
    for name in ("model", "recordings"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / f"date={DATE}").symlink_to(tmp_path / "leads" / "there")
    (tmp_path / "leads" / "there").mkdir(parents=True)
    (tmp_path / "leads" / "there" / "calls.parquet").write_bytes(
        (tmp_path / "in" / f"date={DATE}" / "calls.parquet").read_bytes()
    )
    return tmp_path


def run_refused(job: Job, arguments: list[str], tree: Path, caplog: pytest.LogCaptureFixture) -> str:
    """Run a job that must end with exit code 2 and leave every file as it was; the result is its last log line."""
    before = sorted(str(path) for path in tree.rglob("*"))
    assert job("job", [argument.format(tree) for argument in arguments]) == 2
    assert sorted(str(path) for path in tree.rglob("*")) == before
    return caplog.records[-1].getMessage()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--manifests", "{0}/in", "--leads", "{0}/in"], "--leads {0}/in overlaps --manifests {0}/in"),
        (["--manifests", "{0}/in", "--leads", "file://{0}/in/leads"], "--leads file://{0}/in/leads overlaps"),
        (["--manifests", "{0}/in", "--leads", "{0}/link/"], "--leads {0}/link/ overlaps --manifests {0}/in"),
        (["--manifests", "{0}/in", "--leads", "{0}"], "--leads {0} overlaps --manifests {0}/in"),
        (["--manifests", "{0}/linked", "--leads", "{0}/leads"], "--leads {0}/leads overlaps --manifests {0}/linked/"),
        (
            ["--manifests", "{0}/in", "--leads", "{0}/recordings/leads", "--allowed-prefixes", "{0}/recordings"],
            "overlaps --allowed-prefixes {0}/recordings",
        ),
        (
            ["--manifests", "{0}/in", "--leads", "{0}/leads", "--allowed-prefixes", "{0}/leads/_runs"],
            "overlaps --allowed-prefixes {0}/leads/_runs",
        ),
        (["--manifests", "{0}/in", "--leads", "{0}/model/x", "--model", "{0}/model"], "overlaps --model {0}/model"),
        (["--manifests", "s3://no/m", "--leads", "s3://no//m/leads/"], "overlaps --manifests s3://no/m"),
        (["--manifests", "{0}/in", "--leads", "{0}/leads", "--work", "{0}/link/w"], "--work {0}/link/w overlaps"),
        (["--manifests", "{0}/in.work/m", "--leads", "{0}/in"], "--work {0}/in.work overlaps --manifests"),
        (["--manifests", "{0}/in", "--leads", "{0}/leads", "--work", "{0}/leads/w"], "overlaps --leads {0}/leads"),
        (["--manifests", "s3://no/m", "--leads", "s3://no/l/x", "--work", "s3://no/l"], "overlaps --leads s3://no/l/x"),
    ],
)
def test_score_daily_refuses_leads_that_overlap_what_it_reads(
    tree: Path,
    caplog: pytest.LogCaptureFixture,
    options: list[str],
    said: str,
) -> None:
    arguments = ["--date", str(DATE), *options]
    assert said.format(tree) in run_refused(score_daily.main, arguments, tree, caplog)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--manifests", "{0}/in", "--out", "{0}/in/model"], "--out {0}/in/model overlaps --manifests"),
        (["--corpus", "{0}/in", "--out", "{0}"], "--out {0} overlaps --corpus"),
        (["--manifests", "{0}/in", "--out", "{0}/out", "--work", "{0}/link/w"], "--work {0}/link/w overlaps"),
        (["--manifests", "{0}/in.work/m", "--out", "{0}/in"], "--work {0}/in.work overlaps --manifests"),
        (
            ["--manifests", "{0}/in", "--register", "{0}/model", "--start", "model", "--model", "{0}/model"],
            "--register {0}/model overlaps --model",
        ),
        (
            ["--manifests", "{0}/in", "--out", "{0}/recordings/m", "--allowed-prefixes", "{0}/recordings"],
            "overlaps --allowed-prefixes",
        ),
        (
            ["--manifests", "{0}/in", "--out", "{0}/model/m", "--audio-encoder", "{0}/model"],
            "overlaps --audio-encoder",
        ),
    ],
)
def test_train_refuses_outputs_that_overlap_what_it_reads(
    tree: Path,
    caplog: pytest.LogCaptureFixture,
    options: list[str],
    said: str,
) -> None:
    assert said.format(tree) in run_refused(train.main, ["paper", *options], tree, caplog)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--manifests", "{0}/in", "--out", "{0}/in", "--model", "{0}/model"], "overlaps --manifests"),
        (["--corpus", "{0}/in", "--out", "{0}/model/report", "--model", "{0}/model"], "overlaps --model"),
        (["--ablations", "--corpus", "{0}/in", "--out", "{0}/link/report"], "overlaps --corpus"),
    ],
)
def test_evaluate_refuses_outputs_that_overlap_what_it_reads(
    tree: Path,
    caplog: pytest.LogCaptureFixture,
    options: list[str],
    said: str,
) -> None:
    assert said.format(tree) in run_refused(evaluate.main, options, tree, caplog)
