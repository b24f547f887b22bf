"""The page in a real browser: no overflow, the verdict first, no request, nothing clipped, on a phone and a desk."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fairdeploy.report import Source, render_html

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
)  # fmt: skip
SIZES = pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 800)])

COVERED = """const found = [];
    for (const svg of document.querySelectorAll('svg.chart')) {
        const texts = [...svg.querySelectorAll('text')].map(one => [one.textContent, one.getBoundingClientRect()]);
        const frame = svg.getBoundingClientRect();
        for (const [text, box] of texts) {
            if (box.left < frame.left - 8 || box.right > frame.right + 8 || box.bottom > frame.bottom + 2)
                found.push('outside: ' + text);
            for (const [other, next] of texts)
                if (next !== box && Math.min(box.right, next.right) - Math.max(box.left, next.left) > 1
                    && Math.min(box.bottom, next.bottom) - Math.max(box.top, next.top) > 4)
                    found.push(text + ' over ' + other);
        }
    }
    return found"""


class Chromium:
    """A headless Chromium that is driven over a pipe: messages are JSON that ends with a zero byte."""

    def __init__(self, binary: str, profile: Path) -> None:
        out_read, self._out = os.pipe()
        self._in, in_write = os.pipe()

        def as_3_and_4() -> None:
            os.dup2(out_read, 13), os.dup2(in_write, 14)
            os.dup2(13, 3), os.dup2(14, 4)

        self._process = subprocess.Popen(
            [binary, *FLAGS, f"--user-data-dir={profile}"], preexec_fn=as_3_and_4, close_fds=False,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(out_read), os.close(in_write)
        self._last, self._rest, self.events = 0, b"", list[dict[str, Any]]()
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.send("Page.enable"), self.send("Network.enable"), self.send("Log.enable")

    _session: str | None = None

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._last:
            self.events.append(answer)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = os.read(self._in, 1 << 16)
            assert more, "Chromium ended"
            self._rest += more
        message, self._rest = self._rest.split(b"\0", 1)
        answer: dict[str, Any] = json.loads(message)
        return answer

    def open(self, page: Path, width: int, height: int, theme: str = "light") -> None:
        self.events.clear()
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self.send("Emulation.setEmulatedMedia", media="", features=features)
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.send("Page.navigate", url=page.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def run(self, script: str) -> Any:
        answer = self.send("Runtime.evaluate", expression=f"(() => {{ {script} }})()", returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        with contextlib.suppress(OSError, AssertionError):
            self._session = None
            self.send("Browser.close")
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._out), os.close(self._in)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if binary is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium on this machine: CI must install it (apt-get install chromium)")
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    browser = Chromium(binary, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    conftest = request.config.pluginmanager
    fabricate = next(p.fabricate for p in conftest.get_plugins() if hasattr(p, "fabricate"))
    folder = tmp_path_factory.mktemp("page")
    path: Path = folder / "report.html"
    build, bundles = fabricate(folder)
    path.write_text(render_html(Source(bundles, build)))
    return path


@SIZES
def test_nothing_overflows_to_the_side(chromium: Chromium, page: Path, width: int, height: int) -> None:
    chromium.open(page, width, height)
    chromium.run("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert chromium.run("return document.documentElement.scrollWidth") == width
    outside = """return [...document.querySelectorAll('body *')].filter(one => {
        const box = one.getBoundingClientRect();
        return box.width && !one.closest('.scroll, .hear, .skip, pre') && !one.matches('.stack thead, .stack thead *')
            && (box.right > innerWidth + 1 || box.left < -1) }).map(one => one.outerHTML.slice(0, 120))"""
    assert chromium.run(outside) == []


@SIZES
def test_the_verdict_is_on_the_first_screen(chromium: Chromium, page: Path, width: int, height: int) -> None:
    chromium.open(page, width, height)
    lines = chromium.run("""return [...document.querySelectorAll('.tally li')].map(one =>
        [one.innerText.replace(/\\s+/g, ' '), one.getBoundingClientRect().bottom])""")
    assert [text for text, _ in lines] == [
        "✕ Fail this-host-int8",
        "? Not enough evidence jetson-orin-nano, x86-openvino-int8",
        "✓ Pass this-host, door-cam (fake device)",
    ]
    assert max(bottom for _, bottom in lines) < 300
    cards = chromium.run("""return [...document.querySelectorAll('.verdict')].map(one =>
        one.getBoundingClientRect().bottom)""")
    assert cards[0] < 800
    assert width < 1280 or cards[-1] < 800


@SIZES
def test_three_targets_with_their_sentences_fit_the_first_screen(
    chromium: Chromium, tmp_path: Path, kiosk: Any, width: int, height: int
) -> None:
    build, bundles = kiosk
    path = tmp_path / "three.html"
    path.write_text(render_html(Source(bundles[:3], build)))
    chromium.open(path, width, height)
    bottom = chromium.run("return document.querySelector('.verdicts').getBoundingClientRect().bottom")
    assert bottom < 800


@SIZES
def test_no_label_is_cut_or_covers_another(chromium: Chromium, page: Path, width: int, height: int) -> None:
    chromium.open(page, width, height)
    assert chromium.run(COVERED) == []


@SIZES
def test_long_names_neither_overflow_nor_cover_the_numbers(
    chromium: Chromium, tmp_path: Path, kiosk: Any, make_bundle: Any, width: int, height: int
) -> None:
    tones = tuple(f"{name} people of a rather long description" for name in ("first", "second", "third", "4th", "5th"))
    bundle = make_bundle(
        id="a-target-" * 8 + "end", end="harsh", unknown=True, tones=tones, attribute="a_long_attribute"
    )
    path = tmp_path / "long.html"
    path.write_text(render_html(Source([bundle, *kiosk[1]], kiosk[0].model_copy(update={"project": "project" * 12}))))
    chromium.open(path, width, height)
    assert chromium.run("return document.documentElement.scrollWidth") == width
    assert chromium.run(COVERED) == []


@SIZES
def test_no_text_is_smaller_than_eleven_pixels(chromium: Chromium, page: Path, width: int, height: int) -> None:
    chromium.open(page, width, height)
    smallest = chromium.run("""let least = 99;
        for (const one of document.querySelectorAll('svg.chart text, body *:not(svg *)')) {
            if (!one.textContent.trim() || one.closest('.hear')) continue;
            const svg = one.closest('svg');
            const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
            least = Math.min(least, parseFloat(getComputedStyle(one).fontSize) * scale);
        }
        return least""")
    assert smallest >= 10.5


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_asks_the_network_for_nothing_and_breaks_no_policy(chromium: Chromium, page: Path, theme: str) -> None:
    chromium.open(page, 1280, 800, theme)
    chromium.run("return 1")
    asked = [event["params"]["request"]["url"] for event in chromium.events
             if event.get("method") == "Network.requestWillBeSent"]  # fmt: skip
    assert asked == [page.as_uri()]
    assert [event for event in chromium.events if event.get("method") == "Log.entryAdded"] == []


def test_dark_is_dark_and_paper_shows_what_is_folded_away(chromium: Chromium, page: Path) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    chromium.open(page, 1280, 800, "dark")
    assert chromium.run(ground) == "rgb(16, 22, 29)"
    chromium.open(page, 1280, 800, "light")
    assert chromium.run(ground) == "rgb(255, 255, 255)"
    shown = """return [...document.querySelectorAll('details:not([open])')].filter(one =>
        one.offsetHeight > 2 * one.querySelector('summary').offsetHeight).length"""
    folded = chromium.run("return document.querySelectorAll('details:not([open])').length")
    assert folded > 10
    assert chromium.run(shown) == 0
    chromium.send("Emulation.setEmulatedMedia", media="print")
    assert chromium.run(shown) == folded


def test_the_keyboard_reaches_every_link_and_fold(chromium: Chromium, page: Path) -> None:
    chromium.open(page, 1280, 800)
    wanted = chromium.run("return document.querySelectorAll('a, summary').length")
    seen = set()
    for _ in range(4 * wanted):
        for kind in ("rawKeyDown", "keyUp"):
            chromium.send("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        seen.add(
            chromium.run("""const all = [...document.querySelectorAll('a, summary')];
            return all.indexOf(document.activeElement)""")
        )
    assert seen - {-1} == set(range(wanted))
