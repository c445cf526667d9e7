"""Speed of the browser demo in headless Chromium, and the bytes that it loads before the first map.

    python benchmarks/demo.py [--variants lite full] [--backends wasm webgl] [--weights PATH] [--repetitions 5]

A time is the median over repetitions, from the picture's pixels to its map, as the page shows it. It depends on the
machine, and on what else that does.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from utils import quiet_stderr  # noqa: E402

with quiet_stderr():
    import numpy as np
    from selenium import webdriver

    import checkpoint
    import main
    from config import DEMO_SIZES, VARIANTS
    from model import build_model
    from phases import demo as serve

BACKENDS = ("wasm", "webgl", "webgpu", "cpu")
CHROMIUM_FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--enable-unsafe-swiftshader")


class CountingHandler(serve.Handler):
    """The demo's server, which counts what it sends."""

    sent = 0

    def send_header(self, keyword, value):
        if keyword == "Content-Length":
            CountingHandler.sent += int(value)
        super().send_header(keyword, value)


def wait(driver, condition: str):
    """Wait until a JavaScript expression is true."""
    while not driver.execute_script(f"return {condition}"):
        problem = driver.execute_script("return document.getElementById('problem').textContent")
        if problem:
            sys.exit(problem)
        time.sleep(0.02)


def predict_again(driver, quality: int) -> float:
    """Press a quality button; returns the milliseconds that the page shows for the new map."""
    frames = int(driver.execute_script("return document.getElementById('map').dataset.frames"))
    driver.execute_script(
        f"const button = document.querySelector('#sizes input[value=\"{quality}\"]');"
        "button.checked = true; button.onchange();"
    )
    wait(driver, f"Number(document.getElementById('map').dataset.frames) > {frames}")
    return float(driver.execute_script("return document.getElementById('map').dataset.milliseconds"))


def measure(driver, address: str, backend: str, repetitions: int) -> tuple[str, list[float], float, int]:
    """One backend on the page: its name, the time of each size, and the seconds and bytes until the first map."""
    CountingHandler.sent, start = 0, time.monotonic()
    driver.get(f"{address}?backend={backend}")
    wait(driver, "Number(document.getElementById('map').dataset.frames ?? 0) > 0")
    seconds, sent = time.monotonic() - start, CountingHandler.sent
    times = []
    for quality in range(len(DEMO_SIZES)):
        predict_again(driver, quality)  # Some backends compile for each size anew.
        times.append(statistics.median(predict_again(driver, quality) for _ in range(repetitions)))
    return driver.execute_script("return document.getElementById('backend').textContent"), times, seconds, sent


def weights_of(variant: str, folder: Path, given: str | None) -> checkpoint.Choice:
    """Weights for a variant: speed does not depend on their values, so that seeded ones will do."""
    if given:
        return checkpoint.Choice(Path(given), "named by --weights")
    path = folder / f"{variant}.npz"
    np.savez(path, **checkpoint.arrays_of(build_model(width=VARIANTS[variant]["width"], seed=1)))
    return checkpoint.Choice(path, "seeded")


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["lite"])
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=["wasm"])
    parser.add_argument("--weights", metavar="PATH", help="instead of seeded ones; then name one variant")
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    chromium = webdriver.ChromeOptions()
    chromium.binary_location = shutil.which("chromium")
    for flag in CHROMIUM_FLAGS:
        chromium.add_argument(flag)
    driver = webdriver.Chrome(chromium, webdriver.ChromeService(shutil.which("chromedriver")))
    columns = " | ".join(f"{height}×{width}" for height, width in DEMO_SIZES)
    rows = [f"| network | backend | {columns} | first map | loaded before it |", "| --- " * (len(DEMO_SIZES) + 4) + "|"]
    with tempfile.TemporaryDirectory() as temporary:
        for variant in options.variants:
            folder = Path(temporary) / variant
            choice = weights_of(variant, Path(temporary), options.weights)
            serve.write_demo(folder, [choice], main.sample_photograph())
            with serve.make_server(folder, 0, CountingHandler) as server:
                threading.Thread(target=server.serve_forever, daemon=True).start()
                for backend in options.backends:
                    address = f"http://127.0.0.1:{server.server_address[1]}/"
                    name, times, seconds, sent = measure(driver, address, backend, options.repetitions)
                    cells = " | ".join(f"{milliseconds:.0f} ms" for milliseconds in times)
                    rows.append(f"| {variant} | {name} | {cells} | {seconds:.1f} s | {sent / 1e6:.1f} MB |")
                server.shutdown()
    version = driver.capabilities["browserVersion"]
    driver.quit()
    print(f"\n{os.cpu_count()} processor cores, Chromium {version}\n\n" + "\n".join(rows))


if __name__ == "__main__":
    run()
