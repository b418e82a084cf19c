"""Small corpora in the layouts of the published ones, with tones whose pitch tells which clip is which."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import soundfile as sf

from tests.ffmpeg import encode_video

RATE: Final = 16_000
CLIP_SEC: Final = 0.5


def tone(frequency: float, duration_sec: float = CLIP_SEC, rate: int = RATE) -> npt.NDArray[np.int16]:
    """(S,): a tone of amplitude 0.5."""
    return (16384 * np.sin(2 * np.pi * frequency * np.arange(round(duration_sec * rate)) / rate)).astype(np.int16)


def pitch(samples: npt.NDArray[Any], rate: int = RATE) -> float:
    """Frequency of the strongest component, in Hz."""
    return float(np.argmax(np.abs(np.fft.rfft(samples))) * rate / len(samples))


def write_clip(path: Path, frequency: float, rate: int = RATE) -> None:
    """Write a clip as its suffix says: a recording, or a video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = tone(frequency, rate=rate)
    if path.suffix == ".mp4":
        path.write_bytes(encode_video(samples[np.newaxis], rate, "mono"))
    else:
        sf.write(path, samples, rate)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(text.getvalue().encode(encoding))


def write_sentiment(folder: Path, suffix: str = ".mp4") -> None:
    """Write four videos in the layout of CMU-MOSI: rows out of order, a broken clip and one without sound."""
    clips = [
        ("vid-A", "10", "valid words", "-1.25", "train"),
        ("vid-A", "2", 'GOOD MOVIE, "very" good', "3.0", "train"),
        ("94ULum9MYX0", "2", "broken", "1.0", "train"),
        ("94ULum9MYX0", "3", "whole", "0.0", "train"),
        ("_vidB", "1", "fine", "0.4", "valid"),
        ("vidC", "1", "bad", "-3", "test"),
        ("vidC", "5", "no sound", "-2", "test"),
    ]
    rows = []
    for number, (video, clip, text, label, mode) in enumerate(clips, 1):
        rows.append({"video_id": video, "clip_id": clip, "text": text, "label": label, "annotation": "x", "mode": mode})
        if text != "no sound":
            write_clip(folder / "Raw" / video / f"{clip}{suffix}", 100.0 * number)
    write_csv(folder / "label.csv", rows)


def meld_row(dialogue: int, utterance: int, speaker: str, **fields: str) -> dict[str, Any]:
    return {
        "Sr No.": 1,
        "Utterance": f"words {utterance}",
        "Speaker": speaker,
        "Emotion": "joy",
        "Sentiment": "positive",
        "Dialogue_ID": dialogue,
        "Utterance_ID": utterance,
        "Season": 1,
        "Episode": 2,
        "StartTime": "00:00:01,000",
        "EndTime": "0:00:03,500",
    } | fields


def write_meld(folder: Path) -> None:
    """Write a dialogue for each split; the clips of all three have the same names, as in MELD."""
    write_csv(
        folder / "train_sent_emo.csv",
        [
            meld_row(0, 3, "Ross", Emotion="anger", Sentiment="negative", Utterance="No\u2019, wait"),
            meld_row(0, 0, "Rachel"),
            meld_row(0, 1, "Ross", StartTime="0:12:32,632", EndTime="0:12:32,632"),
        ],
    )
    write_csv(folder / "dev_sent_emo.csv", [meld_row(0, 0, "Ross")])
    write_csv(folder / "test_sent_emo.csv", [meld_row(0, 0, "Ross")])
    for utterance in (0, 1, 3):
        write_clip(folder / "train" / "train_splits" / f"dia0_utt{utterance}.mp4", 100.0 * (utterance + 1))
    write_clip(folder / "dev" / "dev_splits_complete" / "dia0_utt0.mp4", 500)
    write_clip(folder / "test" / "output_repeated_splits_test" / "dia0_utt0.mp4", 600)
    hidden = folder / "test" / "output_repeated_splits_test" / "._dia0_utt0.mp4"
    hidden.write_bytes(b"what macOS leaves in archives")


def write_market_calls(folder: Path, num_calls: int = 20, encoding: str = "utf-8-sig") -> None:
    """Write calls of two segments, two calls of each phone, whose second segment has another label."""
    rows = []
    for call in range(num_calls):
        phone = f"1390000{call // 2:04}"
        for segment, label in ((2, "E"), (1, "ABCD"[call % 4])) if call == 0 else ((1, "ABCD"[call % 4]), (2, "E")):
            name = f"{phone}-{call}"
            text = f"您好 {segment}"
            rows.append({"phone": phone, "Audio_id": name, "Segment_number": segment, "text": text, "label": label})
            write_clip(folder / "wav" / f"{name}_{segment}.wav", 100.0 * segment, 8000)
    write_csv(folder / "labels.csv", rows, encoding)


def write_emodb(folder: Path) -> None:
    """Write two utterances of each of four speakers, and a file that is none."""
    for number, speaker in enumerate(("03", "08", "09", "10"), 1):
        write_clip(folder / "wav" / f"{speaker}a01Wa.wav", 100.0 * number)
        write_clip(folder / "wav" / f"{speaker}b10Nb.wav", 100.0 * number + 50)
    write_clip(folder / "wav" / "silence.wav", 50)
