from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from msmtfn import storage
from msmtfn.delivery import page as module
from msmtfn.delivery.page import PageOptions, embed, render, write_page
from msmtfn.delivery.published import open_day
from msmtfn.delivery.view import read_view
from tests.daily.parts import DATE
from tests.delivery.days import lead, open_leads, publish_leads, reject

OPTIONS = PageOptions(language="en", max_leads=100, num_days=1, template=None)
HOSTILE = "</script><img src=x onerror=alert(1)>'\"&\u2028\u202e\x00=1+1"
SHOWN = HOSTILE.replace("\u2028", "\\u2028").replace("\u202e", "\\u202e").replace("\x00", "\\x00")


class Page(HTMLParser):
    """What a browser makes of a page: its elements, and the text in each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.is_open = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.texts.setdefault(tag, []).append("")
        self.is_open = True

    def handle_endtag(self, tag: str) -> None:
        self.is_open = False

    def handle_data(self, data: str) -> None:
        if self.is_open:
            self.texts[self.elements[-1][0]][-1] += data

    def find(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def data(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.texts["script"][0])
        return content


def page_of(root: Path, rows: list[Any], **options: Any) -> Page:
    outcomes = options.pop("outcomes", None)
    chosen = replace(OPTIONS, **options)
    day = open_leads(str(root), rows)
    view = read_view(day, chosen.max_leads, chosen.num_days, chosen.template)
    return Page(render(replace(view, outcomes=outcomes), chosen))


def test_what_calls_say_is_neither_markup_nor_script(tmp_path: Path) -> None:
    hostile = dict.fromkeys(("customer_id", "agent_id", "domain", "language"), HOSTILE)
    rows = [lead(HOSTILE, 1, 90.0, **hostile), reject(HOSTILE, HOSTILE, **hostile)]
    rows += [lead(HOSTILE, None, 9.0, unranked_reason=HOSTILE, **hostile)]
    page = page_of(tmp_path, rows, template="https://calls.example/{call_id}")
    assert page.find("img") == []
    assert len(page.find("script")) == 2
    assert page.data["calls"]["customer"] == [SHOWN]
    assert SHOWN in page.texts["bdi"]
    assert not {"\u202e", "\x00", "\u2028"} & set("".join(itertools.chain(*page.texts.values())))


def test_embedded_data_cannot_end_its_element() -> None:
    text = embed({"a": "</script><!--&\u2028\u2029"})
    assert not re.search("[<>&\u2028\u2029]", text)
    assert json.loads(text) == {"a": "</script><!--&\u2028\u2029"}


def test_the_policy_allows_the_pages_own_script_and_style_and_no_request(tmp_path: Path) -> None:
    page = page_of(tmp_path, [lead("c1", 1, 90.0)])
    policy = next(each["content"] for each in page.find("meta") if "http-equiv" in each) or ""
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    for name, text in (("script-src", page.texts["script"][1]), ("style-src", page.texts["style"][0])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"
    assert (rules["default-src"], rules["media-src"], rules["form-action"]) == ("'none'", "'none'", "'none'")
    sources = [
        value for _, attributes in page.elements for name, value in attributes.items() if name in ("src", "href")
    ]
    assert all((source or "").startswith(("#", "data:")) for source in sources)


def test_media_may_come_from_the_scheme_of_the_template_alone(tmp_path: Path) -> None:
    page = page_of(tmp_path, [lead("c1", 1, 90.0)], template="https://calls.example/{call_id}")
    policy = next(each["content"] for each in page.find("meta") if "http-equiv" in each) or ""
    assert "media-src https:;" in policy
    assert page.data["url_start"] + page.data["calls"]["url"][0] == "https://calls.example/c1"


def test_without_a_script_the_first_hundred_leads_are_in_the_markup(tmp_path: Path) -> None:
    moment = {"start_sec": 12.0, "end_sec": 20.0, "change": 14.0, "side": "words"}
    rows = [lead(f"c{rank}", rank, 50.0, evidence=[moment]) for rank in range(1, 121)]
    page = page_of(tmp_path, rows, max_leads=200, template="https://calls.example/{call_id}")
    assert [each.get("class") for each in page.find("tr")].count("lead") == 100
    assert len(page.data["calls"]["call"]) == 120
    assert {"href": "https://calls.example/c1#t=12.0,20.0"} in page.find("a")


def test_the_day_is_told_in_one_line(tmp_path: Path) -> None:
    rows = [lead("c1", 1, 90.0), lead("c2", 2, 20.0, intent_predicted="C"), reject("c3")]
    spans = page_of(tmp_path, rows).texts["span"]
    assert {"3 calls", "2 ranked", "1 likely to buy (A or B)", "1 rejected"} <= set(spans)


def test_the_page_opens_in_chinese_on_demand(tmp_path: Path) -> None:
    page = page_of(tmp_path, [reject("c1", "audio_empty")], language="zh")
    assert page.find("html") == [{"lang": "zh"}]
    assert "录音为空" in page.texts["span"]


def test_what_moved_is_told_in_words(tmp_path: Path) -> None:
    drift = {"figures": {"has_text": {"psi": 0.463, "threshold": 0.215, "moved": True}}, "moved": ["has_text"]}
    publish_leads(str(tmp_path), [lead("c1", 1, 90.0)], drift=drift)
    spans = Page(render(read_view(open_day(str(tmp_path), DATE), 10, 1), OPTIONS)).texts["span"]
    assert {"Share of calls with a transcript", "PSI 0.46, usual up to 0.21"} <= set(spans)


def test_a_page_that_would_be_too_large_holds_fewer_leads_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [lead(f"c{rank}", rank, 50.0) for rank in range(1, 1001)]
    view = read_view(open_leads(str(tmp_path), rows), 1000, 1)
    limit = len(render(view, OPTIONS).encode()) - 20_000
    monkeypatch.setattr(module, "MAX_BYTES", limit)
    text = render(view, OPTIONS)
    kept = len(Page(text).data["calls"]["call"])
    assert len(text.encode()) <= limit
    assert 100 < kept < 1000
    assert f"The page holds the best {kept} leads of 1,000" in text


def test_the_page_is_written_whole_and_again(place: str) -> None:
    leads, report = f"{place}/leads", f"{place}/report"
    for rows in ([lead("c1", 1, 90.0)], [lead("c2", 1, 90.0)]):
        location = write_page(leads, open_leads(leads, rows), report, OPTIONS)
    assert location == f"{report}/date={DATE}/index.html"
    text = storage.read_text(location) or ""
    assert Page(text).data["calls"]["call"] == ["c2"]
    if place.startswith("s3://"):
        filesystem, path = storage.filesystem_of(location)
        assert filesystem.info(path)["ContentType"] == "text/html; charset=utf-8"


def test_a_day_that_is_replaced_while_its_page_is_written_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leads, write = str(tmp_path / "leads"), storage.write_text
    day = open_leads(leads, [lead("c1", 1, 90.0)])

    def write_slowly(location: str, text: str, content_type: str | None = None) -> None:
        write(location, text, content_type)
        if '"call":["c1"]' in text:
            publish_leads(leads, [lead("c2", 1, 90.0)])

    monkeypatch.setattr(storage, "write_text", write_slowly)
    location = write_page(leads, day, str(tmp_path / "report"), OPTIONS)
    assert Page(Path(location).read_text()).data["calls"]["call"] == ["c2"]
