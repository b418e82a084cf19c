"""The scoring graph as a day's run sees it: its model, its options, its columns, and one pass over the calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads

from msmtfn.calls.conversation import ConversationConfig
from msmtfn.daily.counter import RunFigures
from msmtfn.daily.graph import Task
from msmtfn.daily.success import Success
from msmtfn.daily.tables import LEADS, DayTable
from msmtfn.features.prepare import INPUTS, PrepareConfig, Preparer
from msmtfn.inference.scorer import ScorerConfig
from msmtfn.leads.drift import compare_day
from msmtfn.leads.schema import RESERVED, parts_schema
from msmtfn.model.checkpoint import Model, PackedNetwork, load_model, model_version, pack_network
from msmtfn.scoring.pipeline import PipelineConfig, score_calls


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringConfig:
    """All options of scoring a day."""

    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    """How recordings become the network's inputs."""
    scorer: ScorerConfig = field(default_factory=ScorerConfig)
    """How the network is run."""
    conversation: ConversationConfig = field(default_factory=ConversationConfig)
    """Which calls are scored, but not ranked."""
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)
    """How the work is spread."""

    def fingerprint(self) -> str:
        """Return the options that change a result, as JSON."""
        options: dict[str, Any] = {
            "prepare": self.prepare.identity(),
            "conversation": asdict(self.conversation),
            "lead_weights": asdict(self.scorer.lead_weights),
            "max_refusal_probability": self.scorer.max_refusal_probability,
            "precision": self.scorer.precision,
        }
        if not self.scorer.evidence:  # only then, so that days keep the run ids that older versions gave them
            options["evidence"] = False
        return json.dumps(options, sort_keys=True)


@dataclass(frozen=True)
class ScoringPass:
    """One pass of the scoring graph over the calls that are not committed.

    Attributes:
        model: model that scores them.
        config: the scoring options.
        root: root of the manifests, which relative names of recordings refer to.
    """

    model: Model
    config: ScoringConfig
    root: str

    @cached_property
    def network(self) -> PackedNetwork:
        """The network, packed once for all passes."""
        return pack_network(self.model.network, self.model.calibration)

    def __call__(self, task: Task, report: Callable[[int, int], None], *, alone: bool, num_left: int) -> RunFigures:
        """Score the calls; see `daily.graph.RunPass`."""
        preparer = Preparer(self.config.prepare, self.model.processor, self.root, self.config.conversation)
        return score_calls(
            task,
            preparer,
            self.network,
            self.config.scorer,
            self.config.pipeline,
            report,
            alone=alone,
            num_left=num_left,
        )


@dataclass(frozen=True)
class ScoringGraph:
    """Scoring graph with its model and its options.

    Attributes:
        folder: local folder of the model.
        config: the scoring options.
        model: name of the model as the caller gave it; by default that of its folder.
    """

    folder: Path
    config: ScoringConfig
    model: str = ""

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.model or self.folder.name

    @cached_property
    def version(self) -> str:
        """Fingerprint of the model's content."""
        return model_version(self.folder)

    @property
    def options(self) -> str:
        """Options that change a result, as JSON."""
        return self.config.fingerprint()

    @property
    def reserved(self) -> frozenset[str]:
        """Names of the columns of the leads and of the network's inputs."""
        return RESERVED | set(INPUTS.names)

    @property
    def table(self) -> DayTable:
        """Leads."""
        return LEADS

    @property
    def max_crashed_share(self) -> float:
        """Maximum share of the day's calls that may be rejected because their processes died."""
        return self.config.pipeline.max_crashed_share

    def schema(self, passed: Iterable[pa.Field]) -> pa.Schema:
        """Return the schema of the parts, given the columns of the manifest that pass through."""
        return parts_schema(passed)

    def load(self, manifests: str) -> ScoringPass:
        """Load the model."""
        return ScoringPass(load_model(self.folder), self.config, manifests)

    def compare(self, parts: pads.Dataset, earlier: Iterable[Success]) -> dict[str, Any]:
        """Compare a day's scores with those of the model's own calls, and its rejects with those of earlier days."""
        return compare_day(parts, self.folder, earlier)
