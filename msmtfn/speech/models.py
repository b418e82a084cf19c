"""Find, fetch and load the model of a recogniser: a folder, an s3:// address or a name on the Hugging Face hub."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final, Literal, get_args

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from msmtfn import storage
from msmtfn.errors import ModelError, StorageError, require
from msmtfn.speech.recogniser import OWN_ARCHITECTURE, Recogniser
from msmtfn.speech.whisper_ctranslate2 import WEIGHTS_FILE, CTranslate2Whisper
from msmtfn.storage.untrusted import read_object

PATTERNS: Final = ("*.json", "*.safetensors", "*.txt", "*.model", WEIGHTS_FILE)
"""Files of a recogniser that are fetched: none that can contain code."""

HUB_NAME: Final = re.compile(r"[\w.-]+(/[\w.-]+)?")
CONFIG_FILE: Final = "config.json"
MAX_BEAMS: Final = 20
CTC: Final = "ForCTC"

NamedEngine = Literal["ctranslate2", "transformers", "msmtfn"]
Engine = Literal["auto", "ctranslate2", "transformers", "msmtfn"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RecogniserConfig:
    """Options of running a recogniser."""

    engine: Engine = "auto"
    """Library that runs the recogniser; auto takes what the files in its folder are for."""
    beam_size: int = 1
    """Number of hypotheses that a decoder follows; 1 decodes greedily, and 5 is twice as slow."""
    recogniser_device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the recognisers; auto takes GPUs where the cluster has some."""

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: an option is out of range.
        """
        is_known = self.engine in get_args(Engine)
        require(is_known, "engine", self.engine, "'auto', 'ctranslate2', 'transformers' or 'msmtfn'")
        require(1 <= self.beam_size <= MAX_BEAMS, "beam_size", self.beam_size, f"between 1 and {MAX_BEAMS}")


def fetch_recogniser(name: str, download_folder: Path) -> Path:
    """Return the local folder of a recogniser, downloaded if necessary.

    Args:
        name: a local folder, an s3:// address or the name of a model on the Hugging Face hub.
        download_folder: where to put a model downloaded from S3.

    Raises:
        ModelError: there is no such model, or it cannot be downloaded.
    """
    if name.startswith("s3://"):
        try:
            storage.fetch_folder(name, download_folder, lambda file: any(fnmatch(file, kind) for kind in PATTERNS))
        except StorageError as exc:
            raise ModelError(f"the recogniser {name} cannot be downloaded: {exc}") from exc
        return download_folder
    folder = Path(name.removeprefix("file://")).expanduser()
    if name and folder.is_dir():
        return folder.absolute()
    if not HUB_NAME.fullmatch(name):
        raise ModelError(
            f"--recogniser {name} is no folder; give a model's folder, an s3:// address or a name on the hub"
        )
    try:
        return Path(snapshot_download(name, allow_patterns=list(PATTERNS)))
    except (OSError, ValueError, HfHubHTTPError, HFValidationError) as exc:
        raise ModelError(
            f"--recogniser {name} is no folder, and the hub cannot give a model of that name: "
            f"{' '.join(str(exc).split())}"
        ) from exc


def recogniser_version(folder: Path) -> str:
    """Return a recogniser's version: 12 hexadecimal digits of a hash over its files.

    Raises:
        ModelError: the folder holds no model.
    """
    _read_config(folder)
    digest = hashlib.sha256()
    for path in sorted({path for pattern in PATTERNS for path in folder.glob(pattern)}):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while chunk := file.read(2**22):
                digest.update(chunk)
    return digest.hexdigest()[:12]


def choose_engine(folder: Path, engine: Engine) -> NamedEngine:
    """Return the engine that runs the recogniser in a folder.

    Raises:
        ModelError: the folder holds no model, or one of another engine.
    """
    is_own = OWN_ARCHITECTURE in _architectures_of(folder)
    has_own_weights = (folder / WEIGHTS_FILE).exists()
    if engine == "ctranslate2" and not has_own_weights:
        raise ModelError(
            f"{folder} has no {WEIGHTS_FILE}, which the engine ctranslate2 needs; convert the model by "
            "ct2-transformers-converter, or choose --engine transformers"
        )
    if engine != "auto" and (engine == "msmtfn") != is_own:
        belongs = "is one of the engine msmtfn" if is_own else "is none of the engine msmtfn"
        raise ModelError(f"the recogniser in {folder} {belongs}; choose --engine auto")
    if is_own:
        return "msmtfn"
    return "ctranslate2" if engine == "ctranslate2" or (engine == "auto" and has_own_weights) else "transformers"


def load_recogniser(folder: Path, config: RecogniserConfig, *, device: str, threads: int) -> Recogniser:
    """Load the recogniser in a folder.

    Args:
        folder: local folder of the model.
        config: how it is run.
        device: `cpu` or `cuda`.
        threads: threads on a CPU.

    Raises:
        ModelError: it cannot be loaded, or what runs it is not installed.
    """
    engine = choose_engine(folder, config.engine)
    if engine == "ctranslate2":
        return CTranslate2Whisper(folder, device=device, threads=threads, beam_size=config.beam_size)
    try:
        if engine == "msmtfn":
            return _load_own(folder, device)
        return _load_with_transformers(folder, config, device)
    except Exception as exc:  # several libraries, each with its own exceptions for a broken file
        raise ModelError(f"the recogniser in {folder} cannot be loaded: {' '.join(str(exc).split())}") from exc


def _load_own(folder: Path, device: str) -> Recogniser:
    # PyTorch takes seconds to import, which ctranslate2 does not need.
    from msmtfn.speech.conv_ctc_recogniser import ConvCtcRecogniser  # noqa: PLC0415

    return ConvCtcRecogniser(folder, device=device)


def _load_with_transformers(folder: Path, config: RecogniserConfig, device: str) -> Recogniser:
    # transformers takes seconds to import, which the other engines do not need.
    from msmtfn.speech.transformers_ctc import CtcRecogniser  # noqa: PLC0415
    from msmtfn.speech.transformers_seq2seq import Seq2SeqRecogniser  # noqa: PLC0415

    if any(name.endswith(CTC) for name in _architectures_of(folder)):
        return CtcRecogniser(folder, device=device)
    return Seq2SeqRecogniser(folder, device=device, beam_size=config.beam_size)


def _architectures_of(folder: Path) -> list[str]:
    """Return the names of the classes that a recogniser's configuration names."""
    names = _read_config(folder).get("architectures")
    return [str(name) for name in names] if isinstance(names, list) else []


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        return read_object(folder / CONFIG_FILE)
    except (OSError, ValueError) as exc:
        raise ModelError(f"{folder} holds no recogniser: its {CONFIG_FILE} cannot be read ({exc})") from exc
