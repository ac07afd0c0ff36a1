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


def test_nothing_sticks_out_of_a_narrow_window(browser: Any, tmp_path: Path) -> None:
    path = write_html(synthetic.tree(matrices=5, steps=(0, 10), intruders=False), tmp_path / "report.html")
    browser.set_window_size(700, 900)
    browser.get(path.as_uri())
    overflow = browser.execute_script(
        "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert overflow <= 0
