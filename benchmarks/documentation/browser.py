"""Takes screenshots of pages, such as TensorBoard on a run, in headless Chromium: pictures for the documents.

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

TIMEOUT_SECONDS = 120  # enough for a loaded machine
QUIET_OPTIONS = ("disable-gpu", "disable-quic", "no-first-run", "disable-sync", "disable-component-update")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
CHROMIUM_MISSING = not (CHROMIUM and DRIVER)


def capture_page(page: str | os.PathLike, picture: str | os.PathLike, width: int, height: int) -> None:
    """Saves the top of an HTML file as a PNG of `width` x `height` pixels."""
    with open_chromium(width, height) as driver:
        driver.get(f"file://{os.path.abspath(page)}")
        driver.save_screenshot(str(picture))


def capture_gradient_histograms(logdir: str, picture: str | os.PathLike) -> list[str]:
    """Saves TensorBoard's gradient histograms of a run as a PNG and returns the tags of the drawn histograms."""
    with run_tensorboard(logdir) as address, open_chromium() as driver:
        driver.get(f"{address}?tagFilter=gradients.*kernel#timeseries")
        paths = "histogram-card tb-histogram path"
        WebDriverWait(driver, TIMEOUT_SECONDS).until(lambda d: len(d.find_elements(By.CSS_SELECTOR, paths)) >= 2)
        WebDriverWait(driver, TIMEOUT_SECONDS).until(lambda d: not d.find_elements(By.CSS_SELECTOR, "mat-spinner"))
        driver.save_screenshot(str(picture))
        cards = driver.find_elements(By.CSS_SELECTOR, "histogram-card")
        with_paths = [card for card in cards if card.find_elements(By.CSS_SELECTOR, "tb-histogram path")]
        return [
            "".join(card.find_element(By.CSS_SELECTOR, "tb-truncated-path, .tag").text.split()) for card in with_paths
        ]


@contextlib.contextmanager
def run_tensorboard(logdir: str) -> Iterator[str]:
    """Runs TensorBoard on `logdir` inside the block and yields its address."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", logdir, "--host", "localhost", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            yield next(line.split()[3] for line in process.stderr if line.startswith("TensorBoard "))
        finally:
            process.terminate()


@contextlib.contextmanager
def open_chromium(width: int = 1280, height: int = 960, dark: bool = False) -> Iterator[webdriver.Chrome]:
    """Runs headless Chromium inside the block, with a screen of `width` x `height` pixels, and yields its driver."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    with tempfile.TemporaryDirectory() as profile:
        arguments = ("headless=new", "no-sandbox", "disable-background-networking", *QUIET_OPTIONS)
        for argument in (*arguments, f"window-size={width},{height}", f"user-data-dir={profile}"):
            options.add_argument(f"--{argument}")
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        try:
            # A Chromium window is at least 500 pixels wide; the emulated screen can be narrower.
            screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
            features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            yield driver
        finally:
            driver.quit()


if __name__ == "__main__":
    if len(sys.argv) == 5:
        capture_page(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        print("\n".join(capture_gradient_histograms(sys.argv[1], sys.argv[2])))
