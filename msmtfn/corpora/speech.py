"""Text-to-speech with libespeak-ng, so that the demo needs no recordings of real people.

Shape letters: S samples.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
import threading
from _ctypes import dlclose
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from msmtfn.errors import JobError, UsageError

RATES_WPM: Final = range(80, 451)
PITCHES: Final = range(100)
PITCH_RANGES: Final = range(100)
VOLUMES: Final = range(101)
"""Ranges of espeak-ng, which silently clamps values outside them. A volume above 100 would only clip."""

_AUDIO_OUTPUT_SYNCHRONOUS: Final = 2
_INITIALIZE_DONT_EXIT: Final = 0x8000  # without it the library exits the process when its data is missing
_CHARS_UTF8: Final = 1
_PARAMETER_RATE: Final = 1
_PARAMETER_VOLUME: Final = 2
_PARAMETER_PITCH: Final = 3
_PARAMETER_PITCH_RANGE: Final = 4
_RANDOM_SEED: Final = 1
_MAX_PATH_BYTES: Final = 150  # espeak-ng's buffer has 160; virtual environments of Ray have longer paths
_BYTES_PER_SAMPLE: Final = np.dtype(np.int16).itemsize
_FULL_SCALE: Final = np.float32(2**15)

_SamplesCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)

# libespeak-ng keeps its state in globals, so a process can synthesise only one utterance at a time.
_library_lock = threading.Lock()


@dataclass(frozen=True, kw_only=True, slots=True)
class Voice:
    """A person's voice; the fields are the arguments of `Synthesizer.speak`."""

    voice: str = "cmn"
    rate_wpm: int = 175
    pitch: int = 50
    pitch_range: int = 50
    volume: int = 100


class SpeechError(JobError):
    """A failure to load libespeak-ng or to synthesise an utterance."""


class Synthesizer:
    """A speech synthesiser: the libespeak-ng that comes with the wheel `espeakng_loader`.

    The same arguments give the same samples, whatever was spoken before. libespeak-ng does not guarantee this: the
    phase of its pitch flutter (`Flutter_ix` in wavegen.c) and its noise generator are globals that neither a new voice
    nor `espeak_Terminate` resets. Every utterance therefore reloads the library, which takes a few milliseconds. This
    works only while nothing else in the process keeps the same library loaded.

    Raises:
        UsageError: `espeakng_loader` is not installed.
    """

    sample_rate: Final = 22_050

    def __init__(self) -> None:
        self._library_path, self._data_path = _find_library()

    def speak(
        self,
        text: str,
        *,
        voice: str = "cmn",
        rate_wpm: int = 175,
        pitch: int = 50,
        pitch_range: int = 50,
        volume: int = 100,
    ) -> NDArray[np.float32]:
        """Synthesise `text`.

        Args:
            text: text to speak; text without words gives a few samples of silence.
            voice: language of espeak-ng, optionally with a variant after a plus sign: `cmn`, `cmn+f3`, `cmn+m2`.
            rate_wpm: words per minute, 80 to 450.
            pitch: base pitch, 0 to 99.
            pitch_range: variation of the pitch, from 0 (monotone) through 50 (normal) to 99 (twice that).
            volume: loudness, 0 to 100.

        Returns:
            (S,) at `sample_rate`, in [-1, 1], including the pause after the sentence.

        Raises:
            ValueError: an argument is out of range, or the voice or variant does not exist.
            SpeechError: the library failed.
        """
        _check_range("rate_wpm", rate_wpm, RATES_WPM)
        _check_range("pitch", pitch, PITCHES)
        _check_range("pitch_range", pitch_range, PITCH_RANGES)
        _check_range("volume", volume, VOLUMES)
        self._check_variant(voice)
        parameters = {
            _PARAMETER_RATE: rate_wpm,
            _PARAMETER_PITCH: pitch,
            _PARAMETER_PITCH_RANGE: pitch_range,
            _PARAMETER_VOLUME: volume,
        }
        with _library_lock, self._fresh_library() as library:
            samples = _synthesize(library, text, voice, parameters)
        return np.frombuffer(samples, dtype=np.int16).astype(np.float32) / _FULL_SCALE

    @contextmanager
    def _fresh_library(self) -> Iterator[ctypes.CDLL]:
        try:
            library = ctypes.CDLL(str(self._library_path))
        except OSError as exc:
            raise SpeechError(f"libespeak-ng cannot be loaded from {self._library_path}: {exc}") from exc
        with _shorten(self._data_path) as data_path:
            try:
                self._start(library, data_path)
                yield library
            finally:
                library.espeak_Terminate()
                dlclose(library._handle)

    def _start(self, library: ctypes.CDLL, data_path: Path) -> None:
        sample_rate = library.espeak_Initialize(
            _AUDIO_OUTPUT_SYNCHRONOUS, 0, str(data_path).encode(), _INITIALIZE_DONT_EXIT
        )
        if sample_rate != self.sample_rate:
            raise SpeechError(
                f"libespeak-ng did not start with the data in {self._data_path}: "
                f"espeak_Initialize returned {sample_rate}; check that the folder is complete"
            )
        library.espeak_ng_SetRandSeed(ctypes.c_long(_RANDOM_SEED))

    def _check_variant(self, voice: str) -> None:
        # espeak-ng silently falls back to the plain voice if it does not know the variant.
        _, plus, variant = voice.partition("+")
        if plus and not (self._data_path / "voices" / "!v" / variant).is_file():
            raise ValueError(f"voice is {voice!r}; espeak-ng has no variant {variant!r} (f1 to f5, m1 to m8, ...)")


def trim_silence(waveform: NDArray[np.float32], *, threshold: float = 0.005) -> NDArray[np.float32]:
    """Trim the (S,) `waveform` to the span from the first to the last sample louder than `threshold`."""
    (loud,) = np.nonzero(np.abs(waveform) > threshold)
    return waveform[loud[0] : loud[-1] + 1] if loud.size else waveform[:0]


def _find_library() -> tuple[Path, Path]:
    try:
        import espeakng_loader  # noqa: PLC0415
    except ImportError as exc:
        raise UsageError("speech needs espeakng-loader, which is not installed: pip install -e '.[demo]'") from exc
    return Path(espeakng_loader.get_library_path()), Path(espeakng_loader.get_data_path())


@contextmanager
def _shorten(path: Path) -> Iterator[Path]:
    """Yield a path of at most `_MAX_PATH_BYTES` that leads to `path`: itself, or a symbolic link."""
    if len(os.fsencode(path)) <= _MAX_PATH_BYTES:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="espeak-") as folder:
        link = Path(folder) / "data"
        link.symlink_to(path)
        yield link


def _check_range(name: str, value: int, allowed: range) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value}; it must be a whole number from {allowed[0]} to {allowed[-1]}")


def _synthesize(library: ctypes.CDLL, text: str, voice: str, parameters: dict[int, int]) -> bytes:
    """Return the samples of `text` as bytes of 16-bit integers."""
    samples = bytearray()

    def collect(wave: ctypes._Pointer[ctypes.c_short], num_samples: int, _events: int | None) -> int:
        if wave and num_samples > 0:
            samples.extend(ctypes.string_at(wave, num_samples * _BYTES_PER_SAMPLE))
        return 0

    callback = _SamplesCallback(collect)
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise ValueError(f"voice is {voice!r}; espeak-ng has no such voice (Mandarin is 'cmn')")
    # Parameters come after the voice, because selecting a voice resets the rate.
    for parameter, value in parameters.items():
        _check_status(library.espeak_SetParameter(parameter, value, 0), "espeak_SetParameter")
    encoded = text.encode()
    size = ctypes.c_size_t(len(encoded) + 1)
    _check_status(library.espeak_Synth(encoded, size, 0, 1, 0, _CHARS_UTF8, None, None), "espeak_Synth")
    _check_status(library.espeak_Synchronize(), "espeak_Synchronize")
    return bytes(samples)


def _check_status(status: int, function: str) -> None:
    if status != 0:
        raise SpeechError(f"libespeak-ng refused an utterance: {function} returned {status}")
