"""A real browser, headless, and what can be asked of a page in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# Without these Chromium looks for hosts of its maker at every start.
_QUIET = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"),
)

_CUT_OFF = """
const width = document.documentElement.clientWidth;
const found = [];
for (const element of document.querySelectorAll("body *")) {
  const style = getComputedStyle(element);
  if (element.closest("script") || style.display === "inline") continue;
  const box = element.getBoundingClientRect();
  const cut = style.overflow !== "visible" && element.scrollWidth > element.clientWidth + 1;
  if (box.left < -1 || box.right > width + 1 || cut || element.scrollWidth > Math.ceil(box.width) + 1)
    found.push(element.tagName + ": " + element.textContent.trim().slice(0, 60));
}
if (document.documentElement.scrollWidth > width) found.push("the page scrolls sideways");
return found;
"""


class Browser:
    """Chromium, driven."""

    def __init__(self, driver: Any):
        self.driver = driver

    def open(self, path: Path, width: int, height: int = 900) -> None:
        """Open a file in a window of this size, in CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.get("about:blank")
        for log in ("browser", "performance"):
            self.driver.get_log(log)
        self.driver.get(path.as_uri())

    def ask(self, script: str) -> Any:
        """What a script returns in the page."""
        return self.driver.execute_script(script)

    def cut_off(self) -> list[str]:
        """Elements that do not fit into the window or into their box."""
        return self.ask(_CUT_OFF)

    def fetched(self) -> list[str]:
        """What the page asked for since it was opened, beyond itself."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent"]
        return [address for address in asked if not address.startswith("data:") and address != self.driver.current_url]

    def complaints(self) -> list[str]:
        """What stands in the console."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def photograph(self, path: Path) -> None:
        """Write the whole page as a PNG."""
        height = self.ask("return document.documentElement.scrollHeight")
        width = self.ask("return document.documentElement.clientWidth")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.save_screenshot(str(path))


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """A browser that ends with the block; the test is skipped where Debian's Chromium is not installed."""
    webdriver = pytest.importorskip("selenium.webdriver")
    paths = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in paths:
        pytest.skip("no Chromium with its driver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = paths[0]
    for argument in (*_QUIET, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(paths[1]))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
