import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import s3fs
import torch

from msmtfn.calls.audio import Recording, decode_recording
from msmtfn.features import processor
from msmtfn.features.prepare import PrepareConfig, Preparer
from msmtfn.features.sandbox import UNSETTLED
from tests.features.prepared import CUSTOMER, LIMITS, PASSTHROUGH, SECRET, MakePreparer, calls, prepare_one, ramp, write

# ---- rejects


def missing(folder: Path) -> dict[str, Any]:
    return {"uri": str(folder / "nothing.wav")}


def empty(folder: Path) -> dict[str, Any]:
    (folder / "bad.wav").touch()
    return {"uri": "bad.wav"}


def headerless(folder: Path) -> dict[str, Any]:
    (folder / "bad.wav").write_bytes(ramp(8000).tobytes())
    return {"uri": "bad.wav"}


def half_a_wav(folder: Path) -> dict[str, Any]:
    path = write(folder / "bad.wav")
    path.write_bytes(path.read_bytes()[:8000])
    return {"uri": "bad.wav"}


def half_a_flac(folder: Path) -> dict[str, Any]:
    path = write(folder / "bad.flac", 5.0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return {"uri": "bad.flac"}


def no_samples(folder: Path) -> dict[str, Any]:
    write(folder / "bad.wav", 0.0)
    return {"uri": "bad.wav"}


def eleven_seconds(folder: Path) -> dict[str, Any]:
    write(folder / "bad.wav", 11.0, subtype="ULAW")
    return {"uri": "bad.wav"}


def sixty_four_gigabytes(folder: Path) -> dict[str, Any]:
    with (folder / "bad.wav").open("wb") as file:
        file.truncate(2**36)  # a sparse file: no space on disk, but reading it would take all memory
    return {"uri": "bad.wav"}


def a_folder(folder: Path) -> dict[str, Any]:
    (folder / "bad.wav").mkdir()
    return {"uri": "bad.wav"}


def a_file_as_folder(folder: Path) -> dict[str, Any]:
    write(folder / "bad.wav")
    return {"uri": "bad.wav/a.wav"}


def good(**row: Any) -> Callable[[Path], dict[str, Any]]:
    """Return a function that writes a good recording and makes an invalid row for it."""

    def make(folder: Path) -> dict[str, Any]:
        write(folder / "bad.wav")
        return {"uri": "bad.wav", **row}

    return make


REJECTS: dict[str, tuple[Callable[[Path], dict[str, Any]], str, str]] = {
    "missing": (missing, "audio_not_found", "no file"),
    "a file as folder": (a_file_as_folder, "audio_not_found", "no file"),
    "empty": (empty, "audio_empty", "no bytes"),
    "no samples": (no_samples, "audio_empty", "no samples"),
    "headerless": (headerless, "audio_unreadable", "does not begin"),
    "half a WAV": (half_a_wav, "audio_unreadable", "promises 16000 bytes"),
    "half a FLAC": (half_a_flac, "audio_unreadable", "promises 40000 frames"),
    "a folder": (a_folder, "audio_unreadable", "IsADirectoryError"),
    "NUL in the name": (good(uri="a\0b.wav"), "audio_unreadable", "ValueError"),
    "too long": (eleven_seconds, "audio_too_long", "the limit is 10 s"),
    "too large": (sixty_four_gigabytes, "audio_too_large", "at most 100000"),
    "unknown speaker": (good(turns=[(SECRET, 0, 1, SECRET)]), "bad_row", "turn 0"),
    "turn backwards": (good(turns=[("agent", 0.9, 0.1, SECRET)]), "bad_row", "from 0.9 s to 0.1 s"),
    "turn without a start": (good(turns=[("agent", None, 0.1, SECRET)]), "bad_row", "lacks its start"),
    "turn that never ends": (good(turns=[("agent", 0, math.inf, SECRET)]), "bad_row", "lacks its start or its end"),
    "unknown intent": (good(intent="F"), "bad_row", "'F'"),
    "null uri": (good(uri=None), "bad_row", "uri is empty"),
    "http uri": (good(uri="http://host/a.wav"), "file_outside_allowed_prefixes", "scheme"),
    "outside": (good(uri="/etc/hostname"), "file_outside_allowed_prefixes", "--allowed-prefixes"),
    "duplicate": (good(row_error="call_id is the same as that of row 0"), "bad_row", "that of row 0"),
    "agent_channel 7": (good(agent_channel=7), "bad_row", "agent_channel is neither 0, 1 nor null"),
}


@pytest.mark.parametrize("reason", REJECTS)
def test_a_reject_has_the_code_and_the_detail_of_its_reason(reason: str, preparer: Preparer, tmp_path: Path) -> None:
    make, code, part = REJECTS[reason]
    turns = [("agent", 0.0, 0.5, SECRET)]
    rejected = prepare_one(preparer, **{"turns": turns, "customer_id": CUSTOMER, **make(tmp_path)})
    assert (rejected["status"], rejected["error_code"]) == ("rejected", code)
    assert part in rejected["error_detail"]


@pytest.mark.parametrize("reason", REJECTS)
def test_a_detail_contains_no_transcript_customer_or_path(reason: str, preparer: Preparer, tmp_path: Path) -> None:
    folder = tmp_path / CUSTOMER
    folder.mkdir()
    preparer.manifest_root = str(folder)
    row = {"turns": [("agent", 0.0, 0.5, SECRET)], "customer_id": CUSTOMER, **REJECTS[reason][0](folder)}
    detail = prepare_one(preparer, **row)["error_detail"]
    assert not [secret for secret in (SECRET, CUSTOMER, str(tmp_path), "bad.") if secret in detail]


@pytest.mark.parametrize("reason", REJECTS)
def test_a_rejected_call_has_no_inputs_and_no_duration(reason: str, preparer: Preparer, tmp_path: Path) -> None:
    rejected = prepare_one(preparer, **REJECTS[reason][0](tmp_path))
    assert [rejected[name] for name in ("duration_sec", "num_rounds", "rounds")] == [None] * 3
    assert [rejected[name] for name in ("samples", "round_samples", "tokens", "round_tokens")] == [[]] * 4


def test_every_row_comes_out_once_and_in_order_whatever_its_error(preparer: Preparer, tmp_path: Path) -> None:
    write(tmp_path / "good.wav")
    rows: list[dict[str, Any]] = []
    for number, (make, _, _) in enumerate(REJECTS.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        bad = make(folder)
        relative = bad["uri"] and not bad["uri"].startswith(("/", "http:"))
        rows += [bad | {"uri": f"{number}/{bad['uri']}" if relative else bad["uri"]}, {"uri": "good.wav"}]
    prepared = preparer.prepare_batch(calls(*rows), PASSTHROUGH)
    assert prepared["row_id"].to_pylist() == list(range(len(rows)))
    assert prepared["status"].to_pylist() == ["rejected", None] * len(REJECTS)
    assert prepared["error_code"].to_pylist()[::2] == [code for _, code, _ in REJECTS.values()]
    assert prepared["round_samples"].to_pylist()[1::2] == [[8000]] * len(REJECTS)


@pytest.fixture
def second_call_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the decoding of the second recording raise an unexpected exception."""
    decoded = []

    def decode(data: bytes, **options: Any) -> Recording:
        decoded.append(data)
        if len(decoded) == 2:
            raise ZeroDivisionError(f"{SECRET} of {CUSTOMER}")
        return decode_recording(data, **options)

    monkeypatch.setattr(processor, "decode_recording", decode)


@pytest.mark.parametrize("request_memory", [lambda: np.ones(2**48), lambda: torch.ones(2**45)])
def test_a_call_that_runs_out_of_memory_is_rejected(
    preparer: Preparer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_memory: Callable[[], Any]
) -> None:
    monkeypatch.setattr(processor, "decode_recording", lambda *_, **__: request_memory())
    write(tmp_path / "a.wav")
    prepared = prepare_one(preparer, uri="a.wav")
    assert (prepared["status"], prepared["error_code"]) == ("rejected", "audio_out_of_memory")


def test_a_call_whose_storage_does_not_answer_is_unsettled(
    make_preparer: MakePreparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = make_preparer()
    config = PrepareConfig(audio=LIMITS, allowed_prefixes=("s3://bucket",))
    preparer = Preparer(config, local.processor, local.manifest_root)
    for name, value in {"ENDPOINT_URL": "http://127.0.0.1:1", "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    prepared = prepare_one(preparer, uri="s3://bucket/13800001111.wav")
    s3fs.S3FileSystem.clear_instance_cache()
    assert (prepared["status"], prepared["error_code"]) == (UNSETTLED, "storage_unavailable")
    assert prepared["error_detail"] == "EndpointConnectionError"


@pytest.mark.usefixtures("second_call_fails")
def test_an_unexpected_exception_rejects_only_its_call(preparer: Preparer, tmp_path: Path) -> None:
    write(tmp_path / "a.wav")
    prepared = preparer.prepare_batch(calls(*({"uri": "a.wav"} for _ in range(3))), PASSTHROUGH)
    assert prepared["status"].to_pylist() == [None, "rejected", None]
    assert prepared["error_code"].to_pylist() == [None, "internal_error", None]
    assert prepared["error_detail"][1].as_py() == "ZeroDivisionError while the call was prepared; see the log"


@pytest.mark.usefixtures("second_call_fails")
def test_an_unexpected_exception_is_logged_once_with_its_row(
    preparer: Preparer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "a.wav")
    with caplog.at_level(logging.INFO):
        preparer.prepare_batch(calls(*({"uri": "a.wav", "row_id": 40 + number} for number in range(3))), PASSTHROUGH)
    [record] = caplog.records
    assert record.getMessage().startswith("row 41: could not be prepared: ZeroDivisionError, raised in\n")
    assert f'{Path(__file__).name}", line' in record.getMessage()


@pytest.mark.usefixtures("second_call_fails")
def test_the_log_contains_no_transcript_and_no_customer(
    preparer: Preparer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = []
    for number, (make, _, _) in enumerate(REJECTS.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        bad = make(folder)
        inside = bad["uri"] and not bad["uri"].startswith(("/", "http:"))
        rows.append(
            {
                "turns": [("agent", 0.0, 0.5, SECRET)],
                "customer_id": CUSTOMER,
                **bad,
                **({"uri": f"{number}/{bad['uri']}"} if inside else {}),
            }
        )
    with caplog.at_level(logging.DEBUG):
        prepared = preparer.prepare_batch(calls(*rows), PASSTHROUGH)
    assert "internal_error" in prepared["error_code"].to_pylist()
    logged = "\n".join(logging.Formatter("%(message)s").format(record) for record in caplog.records)
    assert "could not be prepared" in logged
    assert SECRET not in logged.replace(str(tmp_path), "")
    assert CUSTOMER not in logged


def test_a_rejected_call_is_not_logged(preparer: Preparer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        prepare_one(preparer, uri="nothing.wav")
    assert not caplog.records


# ---- locations of recordings


NAMES = [
    "a.wav",
    "two words.wav",
    "a%20b.wav",
    "a#1.wav",
    "a?b=c.wav",
    "[1]*.wav",
    "通话 录音.wav",
    "~a.wav",
    "sub/a.wav",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["{root}/{name}", "file://{root}/{name}", "{name}"], ids=["path", "file", "relative"])
def test_a_uri_may_be_a_path_a_file_uri_or_relative_to_the_manifests_root(
    form: str, name: str, preparer: Preparer, tmp_path: Path
) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path / name)
    prepared = prepare_one(preparer, uri=form.format(root=tmp_path, name=name))
    assert prepared["error_detail"] is None
    assert prepared["round_samples"] == [8000]


def test_a_link_to_a_recording_is_followed(preparer: Preparer, tmp_path: Path) -> None:
    (tmp_path / "link.wav").symlink_to(write(tmp_path / "a.wav"))
    assert prepare_one(preparer, uri="link.wav")["round_samples"] == [8000]


def test_recordings_below_an_allowed_prefix_are_read(
    preparer: Preparer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "manifests").mkdir()
    (tmp_path / "calls").mkdir()
    uri = str(write(tmp_path / "calls" / "a.wav"))
    root = str(tmp_path / "manifests")
    monkeypatch.chdir(tmp_path)  # relative prefixes are relative to the working directory
    for prefixes, code in (
        ((), "file_outside_allowed_prefixes"),
        ((str(tmp_path / "calls"),), None),
        (("calls",), None),
    ):
        config = PrepareConfig(audio=LIMITS, allowed_prefixes=prefixes)
        with_prefixes = Preparer(config, preparer.processor, root)
        assert prepare_one(with_prefixes, uri=uri)["error_code"] == code


@pytest.mark.parametrize("prefix", ["", "s3://", "s3:///", "file://", "http://host/calls"])
def test_an_invalid_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="allowed_prefixes has "):
        PrepareConfig(allowed_prefixes=(prefix,))


@pytest.mark.parametrize("prefix", ["/", "calls", "/mnt/calls/", "file:///mnt", "s3://bucket", "s3://bucket/calls/"])
def test_a_prefix_may_be_a_folder_or_an_address(prefix: str) -> None:
    assert PrepareConfig(allowed_prefixes=(prefix,)).allowed_prefixes == (prefix,)


def test_a_file_exactly_at_the_size_limit_is_read(preparer: Preparer, tmp_path: Path) -> None:
    write(tmp_path / "a.wav", (100_000 - 44) / 16_000)
    assert (tmp_path / "a.wav").stat().st_size == 100_000
    assert prepare_one(preparer, uri="a.wav")["status"] is None
