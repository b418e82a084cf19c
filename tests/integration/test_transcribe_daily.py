"""`jobs/transcribe_daily.py` and `jobs/score_daily.py --transcripts` as run by a user: processes, Ray and files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf

from msmtfn.daily.publish import read_leads
from tests.integration.job import DATE, ROOT, run_job, write_manifest
from tests.speech.listening import call_of
from tests.speech.tiny import write_tiny_ctc

LISTENING = ("--detector", "energy", "--num-speakers", "1", "--characters", "as-heard")


def run_script(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "jobs" / name), *map(str, arguments)]
    environment = {**os.environ, "RAY_ADDRESS": "local"}
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=540, check=False)


def last_line(job: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(job.stdout.splitlines()[-1])
    return line


@pytest.mark.slow
@pytest.mark.long
def test_a_night_transcribes_and_scores_and_tells_nobody_what_was_said(tmp_path: Path, tiny_model: Path) -> None:
    recogniser = write_tiny_ctc(tmp_path / "asr")
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    for number in range(3):
        sf.write(manifests / f"c{number}.wav", call_of(9 + number, (0, 1.0, 2.0, 200), (1, 5.0, 2.0, 400)).T, 16_000)
    rows = [{"call_id": f"c{number}", "uri": f"c{number}.wav", "agent_channel": 0} for number in range(3)]
    write_manifest(manifests, rows)
    transcripts, leads = tmp_path / "transcripts", tmp_path / "leads"
    shared = ("--date", DATE, "--manifests", manifests, "--transcripts", transcripts)

    unscored = run_job(*shared, "--leads", leads, "--model", tiny_model)
    assert unscored.returncode == 1
    assert "run transcribe-daily first" in last_line(unscored)["days"][0]["error"]

    heard = run_script("transcribe_daily.py", *shared, "--recogniser", recogniser, *LISTENING)
    assert heard.returncode == 0, heard.stderr
    assert (last_line(heard)["job"], last_line(heard)["days"][0]["scored"]) == ("transcribe_daily", 3)
    texts = [turn["text"] for row in read_leads(str(transcripts), DATE).to_table().to_pylist() for turn in row["turns"]]
    assert texts

    scored = run_job(*shared, "--leads", leads, "--model", tiny_model)
    assert scored.returncode == 0, scored.stderr
    table = read_leads(str(leads), DATE).to_table()
    assert all(tokens > 0 for tokens in table["num_tokens"].to_pylist())

    output = heard.stdout + heard.stderr + scored.stdout + scored.stderr + "".join(map(str, table.to_pylist()))
    long_texts = [text for text in texts if len(text) >= 6]
    assert long_texts
    assert not [text for text in long_texts if text in output]
    for path in leads.rglob("*"):
        assert not path.is_file() or not any(text.encode() in path.read_bytes() for text in long_texts), path
