"""The page in a real browser: Chromium, driven by Playwright, with recordings from a server on this machine."""

from __future__ import annotations

import functools
import http.server
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from msmtfn.delivery.page import PageOptions, write_page
from tests.delivery.days import at, lead, open_leads, reject

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required"),
)
HOSTILE = "</script><img src=x onerror=alert(1)>{{7*7}}\x00\u202e=1+1"
SHOWN = "</script><img src=x onerror=alert(1)>{{7*7}}\\x00\\u202e=1+1"
WIDTHS = (1280, 800, 390)


class Recordings(http.server.SimpleHTTPRequestHandler):
    """A folder of recordings, served in ranges, as a browser needs to seek."""

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, end = (int(found[1]), int(found[2] or len(content) - 1)) if found else (0, len(content) - 1)
        self.send_response(206 if found else 200)
        self.send_header("Content-Type", "audio/wav")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
        self.send_header("Content-Length", str(end - start + 1))
        self.end_headers()
        self.wfile.write(content[start : end + 1])


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of a server with one recording of 40 seconds, `c1.wav`."""
    folder = tmp_path_factory.mktemp("recordings")
    soundfile.write(folder / "c1.wav", np.zeros(40 * 8000, dtype=np.int16), 8000)
    handler = functools.partial(Recordings, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Yield Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium on this machine; install Debian's package chromium")
    with sync_api.sync_playwright() as playwright:
        chrome = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS), headless=True)
        yield chrome
        chrome.close()


MOMENTS = [
    {"start_sec": 12.0, "end_sec": 13.0, "change": 14.0, "side": "words"},
    {"start_sec": 30.0, "end_sec": 35.0, "change": -4.0, "side": "sound"},
]
FACTS = {
    "agent_talk_share": 0.5,
    "longest_monologue_sec": 9.0,
    "customer_reply_delay_sec": 0.4,
    "interruptions": 2,
    "silence_share": 0.1,
    "turns_per_min": 8.0,
}
ROWS = [
    lead("c1", 1, 95.0, customer_id="anna", agent_id="a1", domain="beauty", evidence=MOMENTS, facts=FACTS)
    | {"prediction_set": ["A", "B"], "started_at": at(9)},
    lead("c2", 2, 80.0, customer_id="bo", agent_id="a2", domain="dental", intent_predicted="B"),
    lead("c3", 3, 70.0, customer_id="anna", agent_id="a2", domain="dental"),
    lead("c4", 4, 60.0, **dict.fromkeys(("customer_id", "agent_id", "domain", "language"), HOSTILE)),
    lead("c5", None, 50.0, customer_id="carl", unranked_reason="do_not_call"),
    reject("c6", "audio_not_found", customer_id="dora"),
    *(lead(f"d{number}", number, 40.0, customer_id=f"many-{number}") for number in range(5, 65)),
]


class Reader:
    """A page that is open, and what went wrong on it."""

    def __init__(self, browser: Any, address: str, width: int = 1280, **context: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **context)
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("dialog", self._dismiss)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)

    def wait_until(self, expression: str, seconds: float = 30.0) -> None:
        """Wait until an expression is true; Playwright's own way evaluates text, which the page's policy forbids."""
        deadline = time.monotonic() + seconds
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, expression
            self.page.wait_for_timeout(50)

    def _dismiss(self, dialog: Any) -> None:
        self.problems.append("a dialog opened")
        dialog.dismiss()

    @property
    def names(self) -> list[str]:
        """Names of the leads that are shown."""
        names: list[str] = self.page.locator("#rows .who button").all_inner_texts()
        return names


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, recordings: str) -> str:
    """Return the address of the page of a day."""
    root = tmp_path_factory.mktemp("page")
    leads = str(root / "leads")
    template = f"{recordings}/{{call_id}}.wav"
    options = PageOptions(language="en", max_leads=1000, num_days=14, template=template)
    return Path(write_page(leads, open_leads(leads, ROWS), str(root / "report"), options)).as_uri()


@pytest.fixture
def reader(browser: Any, address: str) -> Iterator[Reader]:
    """Yield the open page; nothing may have gone wrong on it, and nothing but recordings was asked for."""
    opened = Reader(browser, address)
    yield opened
    opened.context.close()
    assert opened.problems == []
    assert [url for url in opened.requests if not url.startswith((address, "data:", "http://127.0.0.1:"))] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_every_width_in_light_and_dark(browser: Any, address: str, width: int, scheme: str) -> None:
    reader = Reader(browser, address, width, color_scheme=scheme)
    reader.page.locator("#rows .who button").first.click()
    assert reader.page.evaluate("document.documentElement.scrollWidth") <= width
    paper = reader.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (min(map(int, re.findall(r"\d+", paper))) > 200) == (scheme == "light")
    assert reader.problems == []
    reader.context.close()


def test_two_clicks_lead_to_the_sound_of_the_best_lead(reader: Reader) -> None:
    reader.page.locator("#rows .who button").first.click()
    reader.page.locator("tr.detail .moment").first.click()
    reader.wait_until("document.getElementById('audio').currentTime >= 12")
    assert reader.page.evaluate("document.getElementById('audio').currentTime") < 20
    assert "anna" in reader.page.locator("#playing").inner_text()
    reader.wait_until("document.getElementById('audio').paused")  # at the end of the round
    assert reader.page.evaluate("document.getElementById('audio').currentTime") == pytest.approx(13, abs=1)


def test_a_recording_that_cannot_be_played_is_said_to_be_so(browser: Any, address: str) -> None:
    reader = Reader(browser, address)
    reader.page.locator("#rows tr.lead").nth(1).locator("button.moment").click()
    reader.page.locator("#failed").wait_for()
    assert "/c2.wav" in reader.page.locator("#failed").inner_text()
    reader.context.close()


def test_one_click_leads_to_what_was_rejected(reader: Reader) -> None:
    reader.page.locator("nav a[href='#rejected']").click()
    assert "There is no recording at this address" in reader.page.locator("#rejected").inner_text()
    assert not reader.page.locator("#leads").is_visible()


def test_a_customer_has_one_row_until_all_are_wanted(reader: Reader) -> None:
    assert reader.names[:3] == ["anna", "bo", SHOWN]
    reader.page.locator("#one").uncheck()
    assert reader.names[:4] == ["anna", "bo", "anna", SHOWN]
    assert "carl" not in reader.page.locator("#leads").inner_text()


def test_filters_and_orders_choose_the_rows(reader: Reader) -> None:
    page = reader.page
    page.select_option("#domain", "dental")
    assert reader.names == ["bo", "anna"]
    page.locator("#intents .iB").click()
    assert reader.names == ["bo"]
    page.locator("button[type=reset]").click()
    reader.wait_until("document.querySelectorAll('#rows .who button').length === 50")
    page.fill("#search", "many-1")
    assert reader.names == [f"many-{number}" for number in range(10, 20)]
    page.select_option("#sort", "customer")
    page.locator("#order").click()
    assert reader.names[0] == "many-19"
    page.fill("#search", "nobody")
    assert page.locator("#empty").is_visible()


def test_hostile_text_stays_text(reader: Reader) -> None:
    reader.page.fill("#search", "onerror")
    reader.page.locator("#rows .who button").click()
    assert reader.names == [SHOWN]
    assert reader.page.locator("img").count() == 0
    assert SHOWN in reader.page.locator("#domain option").all_inner_texts()


def test_the_page_is_used_by_keyboard(reader: Reader) -> None:
    page = reader.page
    page.keyboard.press("/")
    page.keyboard.type("an")
    page.locator("#rows .who button").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.locator("tr.lead.open .who button").inner_text() == "many-5"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("p")
    reader.wait_until("document.getElementById('audio').currentTime >= 12")


def test_the_reader_switches_the_language(reader: Reader) -> None:
    reader.page.locator("[data-language=zh]").click()
    assert reader.page.locator("h1").inner_text() == "今日回访"
    assert reader.page.evaluate("document.documentElement.lang") == "zh"
    assert "66 通电话" in reader.page.locator(".line").inner_text()


def test_without_a_script_the_leads_are_there(browser: Any, address: str) -> None:
    reader = Reader(browser, address, java_script_enabled=False)
    assert reader.page.locator("tr.lead").count() == 64
    assert reader.page.locator("#rejected").is_visible()
    reader.context.close()
