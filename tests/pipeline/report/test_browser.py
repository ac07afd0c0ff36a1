"""The page in a real browser: no console error, every figure there, nothing fetched."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.report import write_html
from pipeline.report.blocks import Details, PageTable, Section, from_rows
from pipeline.report.html import text_of
from tests.pipeline.report import synthetic

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium with chromedriver on PATH (Debian: chromium, chromium-driver)"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium that logs its console and its requests."""
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,1000"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium refuses to start its sandbox as root
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def requests(driver: Any) -> list[str]:
    """Every URL that the page asked for."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


@pytest.mark.parametrize("runs", [("full", "lora_r8"), ("<script>document.title='owned'</script>",)])
def test_the_page_opens_whole(browser: Any, tmp_path: Path, runs: tuple[str, ...]) -> None:
    path = write_html(synthetic.tree(runs=runs, matrices=10, steps=tuple(range(0, 100, 10))), tmp_path / "report.html")
    browser.get(path.as_uri())
    assert browser.get_log("browser") == []
    assert browser.title == "varve report: synthetic"
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    images = browser.execute_script(
        "return [...document.images].map("
        "i => [i.complete, i.naturalWidth, i.naturalHeight, i.clientWidth, i.clientHeight])"
    )
    assert len(images) >= 12
    for complete, natural_width, natural_height, width, height in images:
        assert complete and min(natural_width, natural_height) > 0 and width > 200 and height > 80
    outside = [url for url in requests(browser) if not url.startswith(("data:", path.as_uri()))]
    assert outside == []


LONG_NAME = "archive/" + "a_run_name_without_a_break_" * 6
CUT = """
const cut = [], width = document.documentElement.clientWidth;
if (document.documentElement.scrollWidth > width) cut.push('the page is wider than the window');
for (const element of document.querySelectorAll('p, li, h1, h2, h3, figcaption, summary, img'))
  if (element.getBoundingClientRect().right > width + 1) cut.push(element.tagName + ' ' + element.textContent);
for (const table of document.querySelectorAll('.table')) {
  const scrolls = table.scrollWidth > table.clientWidth + 1, edge = table.getBoundingClientRect().right;
  const hinted = getComputedStyle(table.querySelector('.more')).display !== 'none';
  if (scrolls && !(hinted && arguments[0])) cut.push('scrolls without a hint, or on paper: ' + table.ariaLabel);
  for (const cell of table.querySelectorAll('th, td'))
    if (cell.scrollWidth > cell.clientWidth + 1 || (!scrolls && cell.getBoundingClientRect().right > edge + 1))
      cut.push('cell ' + cell.textContent);
}
return cut;
"""


def table_of(columns: int) -> PageTable:
    """Numbers of every length, long names in every fifth column, short ones in the next."""
    row = {
        f"c{i}": LONG_NAME
        if i % 5 == 0
        else "archive/run_of_30_characters/x"
        if i % 5 == 1
        else 10.0 ** (i % 9 - 4) / 3
        for i in range(columns)
    }
    return from_rows("A long caption. " * 20, [row] * 3, {f"c{i}": f"quantity number {i}" for i in range(columns)})


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A report with long run names, and tables of up to thirty columns, in the open, in a notice and folded away."""
    folder = tmp_path_factory.mktemp("pages")
    report = write_html(
        synthetic.tree((f"{LONG_NAME}a", f"{LONG_NAME}b"), (0, 10), 5, intruders=False), folder / "report.html"
    )
    sections = [Section(f"s{n}", f"{n} columns", (table_of(n),)) for n in (1, 2, 4, 7, 10, 14, 30)]
    sections.append(Section("notice", "Notice", (table_of(6), Details("Folded", (table_of(9),))), "notice"))
    wide = folder / "wide.html"
    wide.write_text(text_of("wide", "", sections), encoding="utf-8")
    return [report, wide]


@pytest.mark.parametrize("width", [320, 412, 720, 721, 900, 1280, 1920, 3840])
def test_no_column_is_cut_off_at_any_width(browser: Any, pages: list[Path], width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    for path in pages:
        browser.get(path.as_uri())
        browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
        browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        assert browser.execute_script(CUT, True) == []


def test_nothing_is_cut_off_on_paper(browser: Any, pages: list[Path]) -> None:
    paper = {"width": 717, "height": 1000, "deviceScaleFactor": 1, "mobile": False}  # A4 less Chromium's margins
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", paper)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        for path in pages:
            browser.get(path.as_uri())
            assert browser.execute_script(CUT, False) == []
            hidden = "return [...document.querySelectorAll('details td')].filter(c => !c.checkVisibility()).length"
            assert browser.execute_script(hidden) == 0
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
