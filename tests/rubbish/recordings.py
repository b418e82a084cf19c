"""Malformed recordings, recordings with false headers or odd names: random mutations, the same for the same seed."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import av
import numpy as np
import soundfile as sf

from tests.ffmpeg import encode_media

RATE: Final = 8000
SCORED: Final = "scored"
UNREADABLE: Final = frozenset({"audio_unreadable"})
OUTSIDE: Final = frozenset({"file_outside_allowed_prefixes"})
ANYTHING: Final = frozenset({SCORED, "audio_unreadable", "audio_empty", "audio_too_long"})
"""Possible outcomes of a mutated recording that may or may not be readable."""

BROKEN: Final = ANYTHING - {SCORED}
LIES: Final = (0, 1, 2, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFF0, 0xFFFF_FFFF)
KNOW_THEIR_LENGTH: Final = ("wav", "flac", "m4a")

LIBSNDFILE: Final = {
    "wav": ("WAV", "PCM_16"),
    "u8.wav": ("WAV", "PCM_U8"),
    "24.wav": ("WAV", "PCM_24"),
    "float.wav": ("WAV", "FLOAT"),
    "alaw.wav": ("WAV", "ALAW"),
    "ulaw.wav": ("WAV", "ULAW"),
    "gsm.wav": ("WAV", "GSM610"),
    "ima.wav": ("WAV", "IMA_ADPCM"),
    "ms.wav": ("WAV", "MS_ADPCM"),
    "ex.wav": ("WAVEX", "PCM_16"),
    "rf64.wav": ("RF64", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "vorbis.ogg": ("OGG", "VORBIS"),
    "opus.ogg": ("OGG", "OPUS"),
    "au.wav": ("AU", "PCM_16"),  # not an accepted container
}
FFMPEG: Final[dict[str, tuple[str, int, dict[str, str]]]] = {
    "m4a": ("m4a", RATE, {}),
    "first.m4a": ("m4a", 44_100, {"moov_size": "5000"}),
    "fragments.m4a": ("m4a", RATE, {"movflags": "frag_keyframe+empty_moov", "frag_duration": "200000"}),
    "alac.m4a": ("alac", RATE, {}),
    "3gp": ("3gp", RATE, {}),
    "aac": ("aac", 16_000, {}),
    "amr": ("amr", RATE, {}),
    "g722": ("g722", 16_000, {}),
}
NAMES: Final = (
    "it's.wav", 'say "hi".wav', "two\nlines.wav", "tab\there.wav", "通话 录音.wav", "é\u0301.wav", "\u202egnp.wav",
    "😀.wav", "a..b.wav", "...wav", "-rf.wav", "--force.wav", "*.wav", "[a]?.wav", "{a,b}.wav", "$HOME.wav",
    "`id`.wav", "a;b.wav", "a|b.wav", "a&b.wav", "a\\b.wav", "a%2e%2e%2fb.wav", "%00.wav", "a#b.wav", "a?b=c.wav",
    "~.wav", "~root.wav", " .wav", "a .wav ", "\x01\x1b[31m.wav", "x" * 240 + ".wav", "con.wav", "a:b.wav",
    "file:a.wav", "date=2026-11-21.wav", "_SUCCESS", ".hidden.wav", "\ufeffa.wav", "\r\n.wav",
)  # fmt: skip
"""Names for good recordings, which must be scored."""


@dataclass(frozen=True, slots=True)
class Rubbish:
    """A recording in the day of malformed input.

    Attributes:
        kind: description of the fault.
        uri: path, absolute or relative to the root of the manifests.
        outcomes: allowed outcomes, `scored` or error codes.
    """

    kind: str
    uri: str
    outcomes: frozenset[str]


def base_recordings() -> dict[str, bytes]:
    """Return one second of a noisy tone in every format, by the suffix of the file name."""
    rng = np.random.default_rng(0)

    def samples(rate: int) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
        seconds = np.arange(rate) / rate
        wave = 0.3 * np.sin(2 * np.pi * 440 * seconds) + 0.05 * rng.standard_normal(rate)
        return (32767 * np.clip(wave, -1, 1)).astype(np.int16)

    made = {}
    for name, (container, subtype) in LIBSNDFILE.items():
        file = io.BytesIO()
        sf.write(file, samples(RATE), RATE, format=container, subtype=subtype)
        made[name] = _without_random_fields(file.getvalue())
    for name, (kind, rate, options) in FFMPEG.items():
        made[name] = encode_media(kind, samples(rate)[None], rate, options)
    return made


def _without_random_fields(data: bytes) -> bytes:
    """Remove the time from a WAV's PEAK chunk, and the random serial number from an OGG stream."""
    start = data.find(b"PEAK")
    if data.startswith(b"RIFF") and start > 0:
        return data[: start + 12] + bytes(4) + data[start + 16 :]
    if not data.startswith(b"OggS"):
        return data
    target = io.BytesIO()
    with (
        av.open(io.BytesIO(data), "r", format="ogg") as file,
        av.open(target, "w", format="ogg", options={"fflags": "bitexact"}) as copy,
    ):
        stream = copy.add_stream_from_template(file.streams.audio[0])
        for packet in file.demux():
            if packet.size:
                packet.stream = stream
                copy.mux(packet)
    return target.getvalue()


def write_recordings(folder: Path, outside: Path, address: str, number: int, seed: int) -> list[Rubbish]:
    """Write the recordings to the folder `recordings` below the root of the manifests.

    Args:
        folder: root of the manifests.
        outside: a recording outside the root, which must not be opened.
        address: address of a server that must receive no request.
        number: number of recordings.
        seed: random seed.

    Returns:
        The recordings with their allowed outcomes.
    """
    (folder / "recordings").mkdir()
    good = base_recordings()["wav"]
    planted = [*_odd_names(folder, good), *_ways_out(folder, outside), *_long_silences(folder)]
    planted = [*planted, *_playlists(folder, outside, address)][:number]
    for index, (kind, name, data) in enumerate(mutate_recordings(number - len(planted), seed)):
        uri = f"recordings/{index:05d}.{name}"
        (folder / uri).write_bytes(data)
        is_truncated = kind == "cut short" and name in KNOW_THEIR_LENGTH
        planted.append(Rubbish(kind, uri, BROKEN if is_truncated else ANYTHING))
    return planted


def mutate_recordings(number: int, seed: int) -> Iterator[tuple[str, str, bytes]]:
    """Cycle through all mutations and formats; yield the kind of mutation, the suffix and the bytes."""
    rng = np.random.default_rng(seed)
    bases = base_recordings()
    mutations = list(MUTATIONS.items())
    for index in range(number):
        kind, mutate = mutations[index % len(mutations)]
        name = list(bases)[(index // len(mutations)) % len(bases)]
        yield kind, name, mutate(bases[name], rng, bases)


Mutate = Callable[[bytes, np.random.Generator, dict[str, bytes]], bytes]


def _flip_bits(data: bytes, rng: np.random.Generator, _: dict[str, bytes]) -> bytes:
    changed = bytearray(data)
    for bit in rng.integers(0, 8 * len(data), rng.integers(1, 65)).tolist():
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _flip_header(data: bytes, rng: np.random.Generator, _: dict[str, bytes]) -> bytes:
    changed = bytearray(data)
    for index in rng.integers(0, min(len(data), 100), rng.integers(1, 5)).tolist():
        changed[index] = int(rng.integers(256))
    return bytes(changed)


def _falsify_fields(data: bytes, rng: np.random.Generator, _: dict[str, bytes]) -> bytes:
    """Falsify sizes, rates and counts: two or four bytes in either order, in the first or the last 600 bytes."""
    changed = bytearray(data)
    for _repetition in range(rng.integers(1, 4)):
        lie = struct.pack("<I" if rng.random() < 0.5 else ">I", int(rng.choice(LIES)))[: int(rng.choice([2, 4]))]
        reach = min(600, len(data) - 4)
        offset = int(rng.integers(0, reach))
        offset = offset if rng.random() < 0.7 else len(data) - 4 - offset
        changed[offset : offset + len(lie)] = lie
    return bytes(changed)


def _cut_short(data: bytes, rng: np.random.Generator, _: dict[str, bytes]) -> bytes:
    return data[: int(rng.integers(0, len(data)))]


def _splice(data: bytes, rng: np.random.Generator, bases: dict[str, bytes]) -> bytes:
    other = bases[str(rng.choice(list(bases)))]
    return data[: int(rng.integers(1, len(data)))] + other[int(rng.integers(0, len(other))) :]


def _zero(data: bytes, rng: np.random.Generator, _: dict[str, bytes]) -> bytes:
    start, end = sorted(rng.integers(0, len(data), 2).tolist())
    return data[:start] + bytes(end - start) + data[end:]


def _repeat(data: bytes, rng: np.random.Generator, _: dict[str, bytes]) -> bytes:
    start, end = sorted(rng.integers(0, len(data), 2).tolist())
    return data[:end] + data[start:end] * int(rng.integers(1, 50)) + data[end:]


def _noise_behind_a_header(data: bytes, rng: np.random.Generator, _: dict[str, bytes]) -> bytes:
    return data[: int(rng.choice([4, 12, 44, 100]))] + rng.bytes(int(rng.integers(0, 5000)))


MUTATIONS: Final[dict[str, Mutate]] = {
    "bits flipped": _flip_bits,
    "header overwritten": _flip_header,
    "sizes and rates that lie": _falsify_fields,
    "cut short": _cut_short,
    "two files in one": _splice,
    "zeros inside": _zero,
    "parts repeated": _repeat,
    "noise behind a header": _noise_behind_a_header,
}


def _odd_names(folder: Path, good: bytes) -> Iterator[Rubbish]:
    for name in NAMES:
        (folder / "recordings" / name).write_bytes(good)
        yield Rubbish("odd name", f"recordings/{name}", frozenset({SCORED}))
        yield Rubbish("odd name", f"{folder}/recordings/../recordings/./{name}", frozenset({SCORED}))


def _ways_out(folder: Path, outside: Path) -> Iterator[Rubbish]:
    """Make links and paths that lead out of the root to a good recording, and things that are not regular files."""
    links = folder / "recordings" / "links"
    links.mkdir()
    (links / "file.wav").symlink_to(outside)
    (links / "folder").symlink_to(outside.parent)
    (links / "twice.wav").symlink_to("file.wav")
    (links / "passwd.wav").symlink_to("/etc/passwd")
    (links / "zero.wav").symlink_to("/dev/zero")
    (links / "proc.wav").symlink_to("/proc/self/environ")
    (links / "loop.wav").symlink_to("loop.wav")
    os.mkfifo(links / "pipe.wav")
    (links / "folder.wav").mkdir()
    for name in ("file.wav", f"folder/{outside.name}", "twice.wav", "passwd.wav", "zero.wav", "proc.wav"):
        yield Rubbish("a way out", f"recordings/links/{name}", OUTSIDE)
    for name in ("loop.wav", "pipe.wav", "folder.wav"):
        yield Rubbish("no file", f"recordings/links/{name}", UNREADABLE)
    up = os.path.relpath(outside, folder)
    for uri in (up, f"recordings/../{up}", str(outside), f"file://{outside}", f"{folder}/{up}", f"//{outside}"):
        yield Rubbish("a way out", uri, OUTSIDE)


def _long_silences(folder: Path) -> Iterator[Rubbish]:
    """Make small files with hours of audio, with and without a header that gives the duration."""
    too_long = frozenset({"audio_too_long"})
    minute = np.zeros(60 * RATE, np.int16)
    for end, container, subtype, minutes in (("flac", "FLAC", "PCM_16", 180), ("ogg", "OGG", "OPUS", 60)):
        uri = f"recordings/silence.{end}"
        with sf.SoundFile(folder / uri, "w", RATE, 1, format=container, subtype=subtype) as file:
            for _ in range(minutes):
                file.write(minute)
        yield Rubbish("hours of silence", uri, too_long)
    flac = bytearray((folder / "recordings/silence.flac").read_bytes())
    flac[21:26] = bytes([flac[21] & 0xF0, 0, 0, 0, 0])  # a total number of samples of 0 means unknown
    mp3 = io.BytesIO()
    sf.write(mp3, minute, RATE, format="MP3", subtype="MPEG_LAYER_III")
    frame = mp3.getvalue()[-2000:]
    frame = frame[frame.index(b"\xff\xe3") :]
    size = frame.index(b"\xff\xe3", 2)
    streams = {"flac": bytes(flac), "mp3": frame[:size] * 300_000}
    streams["aac"] = encode_media("aac", np.zeros((1, 16_000), np.int16), 16_000) * 2000
    streams["amr"] = b"#!AMR\n" + b"\x7c" * 4_000_000  # "no data" frames: 20 ms of silence per byte
    streams["m4a"] = encode_media("m4a", np.zeros((1, 3600 * RATE), np.int16))
    for end, data in streams.items():
        uri = f"recordings/hours.{end}"
        (folder / uri).write_bytes(data)
        yield Rubbish("hours of silence", uri, too_long)


def _playlists(folder: Path, outside: Path, address: str) -> Iterator[Rubbish]:
    """Make playlists, whose entries a media player would open, and texts, with the names of recordings."""
    names = ["wav", "mp3", "flac", "ogg", "m4a", "aac", "amr", "g722", "m3u8"]
    number = 0
    for target in (f"{address}/canary.wav", f"file://{outside}", str(outside), "http://169.254.169.254/latest/"):
        for text in (
            f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
            f"ffconcat version 1.0\nfile '{target}'\n",
            f"[playlist]\nFile1={target}\nNumberOfEntries=1\n",
            f'<?xml version="1.0"?><MPD><BaseURL>{target}</BaseURL></MPD>',
            f"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\na=control:{target}\n",
            f'FILE "{target}" WAVE\n  TRACK 01 AUDIO\n',
            f"<html><audio src='{target}'></html>",
            f'{{"uri": "{target}"}}',
            f"\ufeff{target}\n",
        ):
            end = names[number % len(names)]
            uri = f"recordings/list-{number:03d}.{end}"
            (folder / uri).write_text(text, encoding="utf-8")
            # Any bytes are valid G.722 except plain text, and a text with a byte order mark is not plain.
            is_audio = end == "g722" and text.startswith("\ufeff")
            yield Rubbish("a playlist or a text", uri, ANYTHING if is_audio else UNREADABLE)
            number += 1
