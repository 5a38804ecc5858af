"""The report in a browser, offline: every chart is drawn, hovering and zooming work, and nothing is asked for."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest

import skipscope
from skipscope import charts, report, studies
from skipscope.summary import summarise

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome to open the report with")

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--v=0",
    "--proxy-server=127.0.0.1:9",  # a request that is made all the same finds nobody
    "--virtual-time-budget=20000",  # milliseconds on the page's own clock, which does not wait for a slow machine
    "--window-size=1200,900",
]

# What a reader would do. Whatever it finds is left in an element of the page, which the browser prints at the end.
PROBE = """
<script>
(async () => {  // the page's own scripts have names of their own
addEventListener("error", (event) => { (window.failures ??= []).push(String(event.message)); });
addEventListener("securitypolicyviolation", (event) => { (window.failures ??= []).push(event.violatedDirective); });
const wait = (time) => new Promise((go) => setTimeout(go, time));
const drawn = () => document.documentElement.dataset.state === "drawn";
const at = (node, type, Kind, more) => {
  const box = node.getBoundingClientRect();
  const place = { clientX: box.x + box.width / 2, clientY: box.y + box.height / 2, bubbles: true, cancelable: true };
  node.dispatchEvent(new Kind(type, { ...place, view: window, ...more }));
};
const texts = (chart) => [...chart.querySelectorAll(".role-axis-label text")].map((x) => x.textContent);
const labels = (chart) => texts(chart).sort().join(" ");
  while (!drawn()) await wait(50);
  const found = { failures: window.failures ?? [], requests: performance.getEntriesByType("resource").length };
  found.charts = [...document.querySelectorAll(".chart")].map((chart) => ({
    id: chart.id, state: chart.dataset.state, role: chart.getAttribute("role"),
    label: chart.getAttribute("aria-label"), marks: chart.querySelectorAll("svg path, svg rect").length,
    panels: chart.querySelectorAll(".role-scope .background").length,
    fits: chart.querySelector("svg").getAttribute("width") <= chart.clientWidth + 2,
  }));
  const chart = document.querySelector(".chart");
  chart.scrollIntoView();
  const point = chart.querySelector(".mark-symbol.role-mark path");
  at(point, "pointerover", PointerEvent);
  at(point, "pointermove", PointerEvent);
  await wait(300);
  found.tooltip = document.getElementById("vg-tooltip-element")?.innerText ?? "";
  const before = labels(chart);
  at(point, "wheel", WheelEvent, { deltaY: -400 });
  await wait(300);
  found.scrolled = labels(chart) !== before; // the wheel is the page's until the chart was clicked into
  at(point, "pointerdown", PointerEvent);
  at(point, "pointerup", PointerEvent);
  at(point, "wheel", WheelEvent, { deltaY: -400 });
  await wait(300);
  found.zoomed = labels(chart) !== before;
  at(chart.querySelector(".mark-symbol.role-mark path"), "dblclick", MouseEvent);
  await wait(300);
  found.reset = labels(chart) === before;
  const ink = () => getComputedStyle(chart.querySelector(".role-axis-label text")).fill;
  const paper = () => getComputedStyle(document.body).backgroundColor;
  const button = document.getElementById("theme");
  found.light = [button.textContent, paper(), ink()];
  button.click();
  found.dark = [button.textContent, paper(), ink()];
  HTMLAnchorElement.prototype.click = function () { found.saved = [this.download, this.href]; };
  chart.parentElement.querySelector(".tools button").click();
  while (!found.saved) await wait(50);
  const told = document.createElement("pre");
  told.id = "found";
  told.textContent = JSON.stringify(found);
  document.body.append(told);
})();
</script>
"""

NARROW = """
<style>body { max-width: 360px !important; }</style>
<script>
(async () => {
  while (document.documentElement.dataset.state !== "drawn") await new Promise((go) => setTimeout(go, 50));
  const chart = document.querySelector(".chart");
  const told = document.createElement("pre");
  told.id = "found";
  told.textContent = JSON.stringify({
    width: chart.clientWidth, page: document.body.scrollWidth,
    panel: chart.querySelector(".role-scope .background").getBoundingClientRect().width,
  });
  document.body.append(told);
})();
</script>
"""

WITNESS = """
<script>
addEventListener("unhandledrejection", () => setTimeout(() => {
  const told = document.createElement("pre");
  told.id = "found";
  told.textContent = JSON.stringify({ texts: [...document.querySelectorAll(".chart")].map((x) => x.textContent) });
  document.body.append(told);
}, 900));
</script>
"""


@dataclass(frozen=True)
class Visit:
    """What opening the page gave: what the probe found, and what the browser said."""

    found: dict[str, Any]
    console: list[str]


def opened(path: Path, folder: Path) -> Visit:
    assert BROWSER is not None
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    told = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert told, "the charts were not drawn in time"
    return Visit(
        found=json.loads(html.unescape(told[1])),
        console=[line for line in done.stderr.splitlines() if "CONSOLE" in line],
    )


@pytest.fixture(scope="module")
def readings() -> skipscope.Readings:
    flow = studies.flow(depth=8, width=12, features=6, seeds=range(30))
    # Of its panels some have a law and some have none.
    highway = studies.highway(depth=8, width=12, features=6, seeds=range(30))
    return flow + studies.notebook(seeds=range(30), depths=(5, 10)) + highway


@pytest.fixture(scope="module")
def visit(readings: skipscope.Readings, tmp_path_factory: pytest.TempPathFactory) -> Visit:
    folder = tmp_path_factory.mktemp("page")
    path = report.write(folder, report.sections_of(readings), title="A report", command="skipscope demo")
    probed = folder / "probed.html"
    probed.write_text(path.read_text(encoding="utf-8").replace("</head>", PROBE + "</head>", 1), encoding="utf-8")
    return opened(probed, folder)


def test_every_chart_is_drawn_and_fits(visit: Visit) -> None:
    assert len(visit.found["charts"]) == 9
    for chart in visit.found["charts"]:
        assert chart["state"] == "drawn", chart
        assert chart["role"] == "img", chart
        assert re.search(r"\d", chart["label"]), chart
        assert chart["marks"] > 20, chart
        assert chart["panels"] >= 2, chart
        assert chart["fits"], chart


def test_nothing_is_asked_for_and_nothing_goes_wrong(visit: Visit) -> None:
    assert visit.found["requests"] == 0
    assert visit.found["failures"] == []
    assert visit.console == []


def test_hovering_names_site_and_value(visit: Visit, readings: skipscope.Readings) -> None:
    told = visit.found["tooltip"]
    table = charts.flow_data(summarise(readings.select(study="flow")), "backward_gain")
    first = table.row(0, named=True)
    assert first["site"] in told
    assert skipscope.words.number(first["q50"]) in told
    assert "5 to 95 %" in told


def test_the_wheel_zooms_a_chart_that_was_clicked_into(visit: Visit) -> None:
    assert not visit.found["scrolled"]
    assert visit.found["zoomed"]
    assert visit.found["reset"]


def test_the_dark_page_has_light_charts(visit: Visit) -> None:
    def brightness(colour: str) -> float:
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3

    for name, paper, ink in (visit.found["light"], visit.found["dark"]):
        dark = name == "Light page"  # the button says what it leads to
        assert (brightness(paper) < 64) is dark
        assert (brightness(ink) > 192) is dark
    assert visit.found["light"][0] != visit.found["dark"][0]


def test_a_saved_svg_says_in_words_what_it_shows(visit: Visit) -> None:
    name, address = visit.found["saved"]
    kind, _, text = address.partition(",")
    root = ElementTree.fromstring(unquote(text))
    space = "{http://www.w3.org/2000/svg}"
    assert (name, kind) == ("flow-4.svg", "data:image/svg+xml;charset=utf-8")
    assert [child.tag for child in root][:2] == [f"{space}title", f"{space}desc"]
    assert root.findtext(f"{space}title") == "Gradient norm, relative to the output\u2019s, by depth"
    assert root.findtext(f"{space}desc") == visit.found["charts"][0]["label"]


def test_on_a_telephone_a_legend_leaves_the_panels_their_width(tmp_path: Path) -> None:
    """No browser opens a window of 360 pixels, so the page's body is made as narrow."""
    designs = ("plain", "residual", "residual, pre-activation", "residual, 1/sqrt(L)")
    readings = studies.correlation(depths=(3, 6), width=8, designs=designs, seeds=range(20))
    page = report.write(tmp_path / "page.html", report.sections_of(readings), title="T", command="c")
    probed = page.read_text(encoding="utf-8").replace("</head>", NARROW + "</head>", 1)
    page.write_text(probed, encoding="utf-8")
    found = opened(page, tmp_path).found
    assert found["width"] <= 360
    assert found["page"] <= 360  # nothing makes the page scroll sideways
    assert found["panel"] > 0.7 * found["width"]


def test_a_chart_that_fails_says_where_its_numbers_are(readings: skipscope.Readings, tmp_path: Path) -> None:
    """And what goes wrong on a page does reach the console that the tests above find empty."""
    text = report.render(report.sections_of(readings.select(study="flow")), title="T", command="c")
    assert '"type":"area"' in text
    path = tmp_path / "broken.html"
    broken = text.replace('"type":"area"', '"type":"arena"').replace("</head>", WITNESS + "</head>", 1)
    path.write_text(broken, encoding="utf-8")
    visited = opened(path, tmp_path)
    assert any("could not be drawn; its numbers are in the table below" in words for words in visited.found["texts"])
    assert visited.console
