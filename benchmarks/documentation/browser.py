"""Pages looked at by a headless Chromium, TensorBoard's own of a run among them: the documents' pictures.

python -m benchmarks.documentation.browser runs/first docs/tensorboard.png
python -m benchmarks.documentation.browser report.html docs/benchmarks.png 1280 1660
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

PATIENCE = 120  # seconds, for a loaded machine
QUIET = ("disable-gpu", "disable-quic", "no-first-run", "disable-sync", "disable-component-update")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISSING = not (CHROMIUM and DRIVER)


@contextlib.contextmanager
def tensorboard(logdir: str) -> Iterator[str]:
    """The address of a TensorBoard over `logdir`, while the block lasts."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", logdir, "--host", "localhost", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            yield next(line.split()[3] for line in process.stderr if line.startswith("TensorBoard "))
        finally:
            process.terminate()


@contextlib.contextmanager
def chromium(width: int = 1280, height: int = 960, dark: bool = False) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    with tempfile.TemporaryDirectory() as profile:
        arguments = ("headless=new", "no-sandbox", "disable-background-networking", *QUIET)
        for argument in (*arguments, f"window-size={width},{height}", f"user-data-dir={profile}"):
            options.add_argument(f"--{argument}")
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        try:
            # A window is never narrower than 500 pixels.
            screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
            looks = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": looks})
            yield driver
        finally:
            driver.quit()


def gradient_histograms(logdir: str, picture: str | os.PathLike) -> list[str]:
    """Opens the page on its gradient histograms, saves it as a PNG and returns the tags whose histograms are drawn."""
    with tensorboard(logdir) as address, chromium() as driver:
        driver.get(f"{address}?tagFilter=gradients.*kernel#timeseries")
        drawn = "histogram-card tb-histogram path"
        WebDriverWait(driver, PATIENCE).until(lambda d: len(d.find_elements(By.CSS_SELECTOR, drawn)) >= 2)
        WebDriverWait(driver, PATIENCE).until(lambda d: not d.find_elements(By.CSS_SELECTOR, "mat-spinner"))
        driver.save_screenshot(str(picture))
        cards = driver.find_elements(By.CSS_SELECTOR, "histogram-card")
        with_paths = [card for card in cards if card.find_elements(By.CSS_SELECTOR, "tb-histogram path")]
        return [
            "".join(card.find_element(By.CSS_SELECTOR, "tb-truncated-path, .tag").text.split()) for card in with_paths
        ]


def screenshot(page: str | os.PathLike, picture: str | os.PathLike, width: int, height: int) -> None:
    """The top of a page in a file, as a PNG of that size."""
    with chromium(width, height) as driver:
        driver.get(f"file://{os.path.abspath(page)}")
        driver.save_screenshot(str(picture))


if __name__ == "__main__":
    if len(sys.argv) == 5:
        screenshot(*sys.argv[1:3], *map(int, sys.argv[3:]))
    else:
        print("\n".join(gradient_histograms(sys.argv[1], sys.argv[2])))
