"""Records of the registry: the conditions of a comparison, the decision that it led to, and what is known of a version.

Each reads what earlier versions of this package have written, and keeps the fields that later versions have added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from msmtfn.errors import require
from msmtfn.storage.fields import read_field, read_items, read_optional, read_unknown
from msmtfn.storage.untrusted import printable

METRIC: Final = "accuracy_five"
MAX_DESCRIPTION: Final = 1000
NO_MIN_CALLS: Final = 1
"""The `gate_min_calls` of the first versions, which had no such condition."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GateConfig:
    """The conditions under which a new model replaces the current one."""

    gate_share: float = 0.1
    """Share of the customers of --manifests whose calls are held out to compare the models, from 0 to 1."""
    gate_margin: float = 0.02
    """Largest accepted drop of the accuracy in the five intents below the current model's, from 0 to 1."""
    gate_confidence: float = 0.9
    """Confidence level of the interval of the difference, whose lower end must be at least minus the margin."""
    gate_min_calls: int = 50
    """Minimum number of held-out calls for a comparison; with fewer, the current model stays."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: a number is out of range.
        """
        for name in ("gate_share", "gate_confidence"):
            require(0 < getattr(self, name) < 1, name, getattr(self, name), "more than 0 and less than 1")
        require(self.gate_min_calls >= 1, "gate_min_calls", self.gate_min_calls, "at least 1")
        require(0 <= self.gate_margin < 1, "gate_margin", self.gate_margin, "at least 0 and less than 1")

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> GateConfig:
        """Read the conditions of a decision.

        Raises:
            ValueError: a field is missing, has the wrong type or is out of range.
        """
        return cls(
            gate_share=read_field(content, "gate_share", float),
            gate_margin=read_field(content, "gate_margin", float),
            gate_confidence=read_field(content, "gate_confidence", float),
            gate_min_calls=read_optional(content, "gate_min_calls", int) or NO_MIN_CALLS,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """The outcome of a comparison of a new model with the current one.

    Attributes:
        metric: name of the metric, of which there is one.
        passed: True if the candidate may replace the current model.
        reason: explanation in one line.
        calls: number of calls that the models were compared on.
        candidate: accuracy of the candidate.
        present: accuracy of the current model, by its name in the file; None if there is none.
        difference: candidate minus the current model.
        interval: confidence interval of the difference.
        config: the conditions.
        compared_with: name of the version that was current; None if there was none.
        promoted: True once the candidate has become the current version because of this decision.
        unknown: fields of a newer version, those of the conditions in `config`; they are kept.
    """

    metric: str = METRIC
    passed: bool
    reason: str
    calls: int
    candidate: float
    present: float | None = None
    difference: float | None = None
    interval: tuple[float, float] | None = None
    config: GateConfig
    compared_with: str | None = None
    promoted: bool = False
    unknown: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the fields for the version's record."""
        content = asdict(self)
        unknown = content.pop("unknown")
        return {**content, **unknown, "config": {**content["config"], **unknown.get("config", {})}}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Decision:
        """Read a decision from a version's record.

        Raises:
            ValueError: a field is missing or has the wrong type.
        """
        interval = None
        if content.get("interval") is not None:
            bounds = read_items(content, "interval", float)
            if len(bounds) != 2:  # noqa: PLR2004
                raise ValueError(f"the field 'interval' has {len(bounds)} items; it must have 2")
            interval = bounds[0], bounds[1]
        config, unknown = read_field(content, "config", dict), read_unknown(content, cls)
        if unknown_conditions := read_unknown(config, GateConfig):
            unknown["config"] = unknown_conditions
        return cls(
            metric=read_field(content, "metric", str),
            passed=read_field(content, "passed", bool),
            reason=read_field(content, "reason", str),
            calls=read_field(content, "calls", int),
            candidate=read_field(content, "candidate", float),
            present=read_optional(content, "present", float),
            difference=read_optional(content, "difference", float),
            interval=interval,
            config=GateConfig.from_json(config),
            compared_with=read_optional(content, "compared_with", str),
            promoted=read_field(content, "promoted", bool),
            unknown=unknown,
        )

    def describe(self) -> str:
        """Return the verdict, the figures and the reason in one line, with control characters escaped."""
        verdict = "passed" if self.passed else "did not pass"
        figures = f"{100 * self.candidate:.1f} % of {self.calls:,} held-out calls classified correctly"
        if self.compared_with is not None and self.present is not None:
            figures += f", {self.compared_with} {100 * self.present:.1f} %"
        return printable(f"{verdict}: {figures}; {self.reason}", MAX_DESCRIPTION)


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionRecord:
    """Record of a version, as in `<root>/v0001.json`.

    Attributes:
        version: name of the version.
        run: identifier of the training run that made it.
        added_at: when the version was added, in UTC.
        decision: the decision about it; None until its model has been compared.
        decided_at: when the decision was last written, in UTC; None until then.
        unknown: fields of a newer version; they are kept.
    """

    version: str
    run: str = ""
    added_at: str = ""
    decision: Decision | None = None
    decided_at: str | None = None
    unknown: dict[str, Any] = field(default_factory=dict)

    def describe(self) -> str:
        """Return what is known of the version in one line, with control characters escaped."""
        if self.decision is None:
            return "not finished"
        return f"{printable(self.added_at)}  {self.decision.describe()}"

    def as_json(self) -> dict[str, Any]:
        """Return the content of the file."""
        decision = None if self.decision is None else self.decision.as_json()
        content = {"version": self.version, "run": self.run, "added_at": self.added_at, "decision": decision}
        decided_at = {} if self.decided_at is None else {"decided_at": self.decided_at}
        return {**content, **decided_at, **self.unknown}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> VersionRecord:
        """Read the content of the file.

        Raises:
            ValueError: a field is missing or has the wrong type.
        """
        decision = read_optional(content, "decision", dict)
        return cls(
            version=read_field(content, "version", str),
            run=read_optional(content, "run", str) or "",
            added_at=read_optional(content, "added_at", str) or "",
            decision=None if decision is None else Decision.from_json(decision),
            decided_at=read_optional(content, "decided_at", str),
            unknown=read_unknown(content, cls),
        )
