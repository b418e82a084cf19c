"""Write the page of a day: one HTML file that asks nobody for anything but the recordings that are played.

All that calls say is data: Jinja2 escapes it in the markup, JSON in a data block carries it to the script, and the
script puts it into text nodes only. A content security policy allows the page's own script and style, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any, Final

from jinja2 import Environment, PackageLoader, Template
from markupsafe import Markup

from msmtfn import storage
from msmtfn.daily.publish import read_success
from msmtfn.delivery.outcome_view import read_outcomes_view
from msmtfn.delivery.published import PublishedDay, open_day
from msmtfn.delivery.recordings import scheme_of
from msmtfn.delivery.view import MAX_LISTED, MAX_TEXT, SIDES, Call, DayView, read_view
from msmtfn.delivery.words import LANGUAGES, Language, read_words, say, say_day
from msmtfn.errors import PublishError
from msmtfn.labels import INTENTS
from msmtfn.leads.drift import describe_drift
from msmtfn.storage.untrusted import inside, printable

PAGE_FILE: Final = "index.html"
MAX_BYTES: Final = 5_000_000
STATIC_ROWS: Final = 100
"""Leads in the markup itself, for a browser without scripts."""
MAX_ATTEMPTS: Final = 5
NO_DRIFT: Final[Mapping[str, Any]] = {"moved": []}


@dataclass(frozen=True, kw_only=True, slots=True)
class PageOptions:
    """Options of a page.

    Attributes:
        language: language in which it opens.
        max_leads: number of ranked leads that it holds.
        num_days: days to look at for refusals, the day included.
        template: checked template of the recordings' addresses; None for a page without a player.
        outcomes: folder that `msmtfn outcomes` wrote to; None for a page without outcomes.
    """

    language: Language
    max_leads: int
    num_days: int
    template: str | None
    outcomes: str | None = None


def write_page(leads: str, day: PublishedDay, root: str, options: PageOptions) -> str:
    """Write the page of a published day, whole or not at all, and return its location.

    Pages of the same day written at once end as the page of what is published: whoever has written looks whether the
    day was replaced meanwhile, and if so writes again.

    Args:
        leads: root of all leads.
        day: the day, as it was published when it was opened.
        root: root of the pages.
        options: what it shows.

    Raises:
        JobError: the leads cannot be read, or the page cannot be written.
    """
    location = storage.join(inside(storage.absolute(root), f"{storage.DAY_PREFIX}{day.date}"), PAGE_FILE)
    for _ in range(MAX_ATTEMPTS):
        view = read_view(day, options.max_leads, options.num_days, options.template)
        if options.outcomes is not None:
            view = replace(view, outcomes=read_outcomes_view(options.outcomes))
        storage.write_text(location, render(view, options), content_type="text/html; charset=utf-8")
        now = read_success(day.root, day.date)
        if now is not None and now.publication == day.success.publication:
            return location
        day = open_day(leads, day.date)
    raise PublishError(
        f"the leads of {day.date} were replaced {MAX_ATTEMPTS} times while their page was written; run it again"
    )


def render(view: DayView, options: PageOptions) -> str:
    """Return the page of a day, with as many leads as fit into `MAX_BYTES`."""
    while True:
        text = _render(view, options)
        size = len(text.encode())
        if size <= MAX_BYTES or not view.leads:
            return text
        kept = int(len(view.leads) * min(MAX_BYTES / size, 0.98) * 0.98)
        view = replace(view, leads=view.leads[:kept])


def _render(view: DayView, options: PageOptions) -> str:
    style, script = _asset("page.css"), _asset("page.js")
    success, language = view.success, options.language

    def tell(key: str, **values: Any) -> Markup:
        """Return a text that the page can switch to another language."""
        filled = Markup(' data-v="{}"').format(json.dumps(values, ensure_ascii=False)) if values else ""
        return Markup('<span data-t="{}"{}>{}</span>').format(key, filled, say(language, key, **values))

    return _template().render(
        view=view,
        options=options,
        language=language,
        languages=LANGUAGES,
        title=f"{say(language, 'title')} · {success.date.isoformat()}",
        day=say_day(language, success.date),
        tell=tell,
        say=lambda key, **values: say(language, key, **values),
        clock=_clock,
        hours=f"{success.audio_hours:,.1f}",
        rows=view.leads[:STATIC_ROWS],
        moved=list(_moved(success.drift or NO_DRIFT, tell)),
        drift_error=_printable((success.drift or {}).get("error")),
        reasons=_sorted_counts(view.counts.unranked),
        codes=_sorted_counts(success.rejected_by_reason),
        unranked=[*view.suppressed, *view.unranked][:MAX_LISTED],
        num_unranked=sum(view.counts.unranked.values()) + len(view.suppressed),
        outcomes=view.outcomes,
        before=[(day, _printable(describe_drift(day.drift or NO_DRIFT))) for day in reversed(view.before)],
        model=printable(success.model),
        version=printable(success.model_version),
        published=printable(success.published_at),
        policy=_policy(style, script, options.template),
        style=Markup(style),  # noqa: S704 - the package's own files
        script=Markup(script),  # noqa: S704
        data=embed(_data_of(view, options)),
    )


def embed(data: Mapping[str, Any]) -> Markup:
    """Return data as JSON for a script element, in which nothing can end the element or begin markup."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\N{LINE SEPARATOR}\N{PARAGRAPH SEPARATOR}":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - escaped just above


def _data_of(view: DayView, options: PageOptions) -> dict[str, Any]:
    """Return what the script reads: the leads column by column, and the words of all languages."""
    calls = view.leads
    urls = [call.url for call in calls]
    start = "" if options.template is None else options.template.partition("{")[0]
    return {
        "language": options.language,
        "words": {language: dict(read_words(language)) for language in LANGUAGES},
        "day": {language: say_day(language, view.success.date) for language in LANGUAGES},
        "intents": list(INTENTS),
        "url_start": start,
        "calls": {
            "rank": [call.rank for call in calls],
            "call": [call.call_id for call in calls],
            "customer": [call.customer_id for call in calls],
            "agent": _coded([call.agent_id for call in calls]),
            "domain": _coded([call.domain for call in calls]),
            "language": _coded([call.language for call in calls]),
            "uri": [call.uri for call in calls],
            "url": [None if url is None else url.removeprefix(start) for url in urls],
            "started": [call.started for call in calls],
            "score": [call.score for call in calls],
            "intent": _coded([call.intent for call in calls]),
            "five": [[round(1000 * value) for value in call.five] for call in calls],
            "set": ["".join(call.prediction_set) for call in calls],
            "evidence": [_evidence_of(call) for call in calls],
            "facts": [list(call.facts) for call in calls],
            "seconds": [call.seconds for call in calls],
            "rounds": [call.rounds for call in calls],
        },
    }


def _coded(values: Sequence[str | None]) -> dict[str, Any]:
    """Return a column of few values as these and each call's place among them; -1 for none."""
    names = sorted({value for value in values if value is not None})
    places = {name: place for place, name in enumerate(names)}
    return {"names": names, "at": [-1 if value is None else places[value] for value in values]}


def _evidence_of(call: Call) -> list[list[float]]:
    return [
        [each.start_sec, each.end_sec, each.change, -1 if each.side is None else SIDES.index(each.side)]
        for each in call.evidence
    ]


def _moved(drift: Mapping[str, Any], tell: Callable[..., Markup]) -> list[tuple[Markup, Markup]]:
    """Return what has moved and by how much, in words."""
    found = []
    for name in drift["moved"]:
        if name == "rejected":
            rejects = drift["rejected"]
            share, before = (f"{100 * rejects[key]:.1f}" for key in ("share", "share_before"))
            how = tell("moved.share", share=share, before=before, n=rejects["days"])
        else:
            figure = drift["figures"][name]
            how = tell("moved.psi", psi=f"{figure['psi']:.2f}", threshold=f"{figure['threshold']:.2f}")
        found.append((tell(f"figure.{printable(name)}"), how))
    return found


def _sorted_counts(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted((printable(name), number) for name, number in counts.items())


def _printable(text: str | None) -> str | None:
    return None if text is None else printable(text, MAX_TEXT)


def _policy(style: str, script: str, template: str | None) -> str:
    media = scheme_of(template) if template is not None else "'none'"
    return (
        f"default-src 'none'; script-src {_hash_of(script)}; style-src {_hash_of(style)}; img-src data:; "
        f"media-src {media}; base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _hash_of(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _clock(seconds: float) -> str:
    """Return seconds as minutes and seconds, such as 1:05."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


@cache
def _asset(name: str) -> str:
    return (resources.files(__package__) / "assets" / name).read_text(encoding="utf-8")


@cache
def _template() -> Template:
    loader = PackageLoader(str(__package__), "assets")
    return Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template("page.html")
