"""The transcription graph as a day's run sees it: its recogniser, its options, its columns, and one pass."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from msmtfn.daily.counter import RunFigures
from msmtfn.daily.graph import Task
from msmtfn.daily.success import Success
from msmtfn.daily.tables import DayTable, order_by_row, without_row_id
from msmtfn.leads.drift import compare_rejects
from msmtfn.leads.schema import REJECTED
from msmtfn.speech.hanzi import check_characters
from msmtfn.speech.models import RecogniserConfig, choose_engine, load_recogniser, recogniser_version
from msmtfn.speech.recogniser import Recogniser
from msmtfn.speech.transcript import PARTS, TRANSCRIBED
from msmtfn.speech.voice import check_detector
from msmtfn.transcription.cache import TranscriptCache
from msmtfn.transcription.listening import LISTENED, ListenConfig, Listener
from msmtfn.transcription.pipeline import PackedRecogniser, SpreadConfig, transcribe_calls
from msmtfn.transcription.recognising import BatchRecogniser, Lineage, RecognisingConfig

TABLE: Final = DayTable("transcripts", TRANSCRIBED, 5_000, (), order_by_row, without_row_id)
"""Transcripts in the order of the manifest; a file takes about 100 MB in memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TranscriptionConfig:
    """All options of transcribing a day."""

    listen: ListenConfig = field(default_factory=ListenConfig)
    """How recordings become clips."""
    recogniser: RecogniserConfig = field(default_factory=RecogniserConfig)
    """How the recogniser is run."""
    recognising: RecognisingConfig = field(default_factory=RecognisingConfig)
    """How clips become transcripts."""
    spread: SpreadConfig = field(default_factory=SpreadConfig)
    """How the work is spread."""

    def fingerprint_of_hearing(self) -> str:
        """Return the options that decide what is heard in a recording, as JSON."""
        options = {
            "hearing": asdict(self.listen.hearing),
            "audio": asdict(self.listen.audio),
            "engine": self.recogniser.engine,
            "beam_size": self.recogniser.beam_size,
        }
        return json.dumps(options, sort_keys=True)

    def fingerprint(self) -> str:
        """Return the options that change a transcript or a reject, as JSON."""
        options = {
            "listen": asdict(self.listen),
            "engine": self.recogniser.engine,
            "beam_size": self.recogniser.beam_size,
            "roles": asdict(self.recognising.roles),
        }
        return json.dumps(options, sort_keys=True)


@dataclass(frozen=True)
class TranscriptionPass:
    """One pass of the transcription graph over the calls that are not committed.

    Attributes:
        folder: folder of the recogniser.
        name: its name as the caller gave it.
        version: its fingerprint.
        config: the options.
        manifests: root of the manifests.
        cache: what was heard in earlier recordings.
    """

    folder: Path
    name: str
    version: str
    config: TranscriptionConfig
    manifests: str
    cache: TranscriptCache

    @cached_property
    def packed(self) -> PackedRecogniser:
        """The recogniser, packed once for all passes."""
        return PackedRecogniser.of(self.folder, self.config.recogniser)

    def __call__(self, task: Task, report: Callable[[int, int], None], *, alone: bool, num_left: int) -> RunFigures:
        """Transcribe the calls; see `daily.graph.RunPass`."""
        lineage = Lineage(self.name, self.version, task.run_id)
        make = partial(
            make_batch_recogniser,
            hearing=self.config.listen.hearing,
            config=self.config.recognising,
            cache=self.cache,
            lineage=lineage,
        )
        return transcribe_calls(
            task,
            Listener(self.config.listen, self.manifests, self.cache),
            self.packed,
            make,
            self.config.spread,
            report,
            alone=alone,
            num_left=num_left,
        )


def make_batch_recogniser(recogniser: Recogniser, **options: Any) -> BatchRecogniser:
    """Return what recognises batches of calls, out of a loaded recogniser."""
    return BatchRecogniser(recogniser, **options)


@dataclass(frozen=True)
class TranscriptionGraph:
    """Transcription graph with its recogniser and its options.

    Attributes:
        folder: local folder of the recogniser.
        config: the options.
        transcripts: root of the transcripts, which the cache lies below.
        recogniser: name of the recogniser as the caller gave it.
    """

    folder: Path
    config: TranscriptionConfig
    transcripts: str
    recogniser: str

    @property
    def name(self) -> str:
        """Name of the recogniser."""
        return self.recogniser

    @cached_property
    def version(self) -> str:
        """Fingerprint of the recogniser's files."""
        return recogniser_version(self.folder)

    @property
    def options(self) -> str:
        """Options that change a result, as JSON."""
        return self.config.fingerprint()

    @property
    def reserved(self) -> frozenset[str]:
        """Names of the columns that listening adds."""
        return frozenset(LISTENED.names)

    @property
    def table(self) -> DayTable:
        """Transcripts."""
        return TABLE

    @property
    def max_crashed_share(self) -> float:
        """Maximum share of the day's calls that may be rejected because their processes died."""
        return self.config.spread.max_crashed_share

    def schema(self, _passed: Iterable[pa.Field]) -> pa.Schema:
        """Return the schema of the parts; of the manifest's columns only call_id and uri pass through."""
        return PARTS

    def load(self, manifests: str) -> TranscriptionPass:
        """Check that the recogniser and what it needs can be loaded here.

        Raises:
            ModelError: something is missing or broken.
        """
        choose_engine(self.folder, self.config.recogniser.engine)
        check_detector(self.config.listen.hearing.voice)
        if self.config.listen.hearing.characters == "simplified":
            check_characters()
        if self.config.recogniser.recogniser_device != "cuda":  # a driver without a GPU cannot try one
            load_recogniser(self.folder, self.config.recogniser, device="cpu", threads=1)
        fingerprint = json.dumps([self.version, self.config.fingerprint_of_hearing()])
        cache = TranscriptCache.below(self.transcripts, fingerprint)
        return TranscriptionPass(self.folder, self.recogniser, self.version, self.config, manifests, cache)

    def compare(self, parts: pads.Dataset, earlier: Iterable[Success]) -> dict[str, Any]:
        """Compare a day's share of rejects with that of earlier days."""
        status = parts.to_table(columns=["status"], cache_metadata=False)["status"]
        rejects = compare_rejects(len(status), pc.sum(pc.equal(status, REJECTED)).as_py() or 0, earlier)
        return {"figures": {}, "rejected": rejects, "moved": ["rejected"] if rejects["moved"] else []}
