"""Speed of the browser demo in headless Chromium and the bytes that it loads before the first map; or its agreement.

    python benchmarks/demo.py [--variants lite full] [--backends wasm webgl] [--weights PATH] [--repetitions 5]
    python benchmarks/demo.py --photographs FOLDER [--count 12] [--weights lite]

A time is the median over repetitions from the photograph's pixels to its map, as the page shows it. It depends on the
machine and its load. Agreement compares the page's maps with those of `test`, for the original files, usually JPEG, and
for the same photographs as PNG, which every program decodes to the same pixels.
"""

import argparse
import base64
import io
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]

from msinet.utils import quiet_stderr  # noqa: E402

with quiet_stderr():
    import numpy as np
    from PIL import Image
    from selenium import webdriver

    import msinet
    from msinet import checkpoint
    from msinet.bundled import BUNDLED
    from msinet.config import DEMO_SIZES, VARIANTS
    from msinet.data import list_images
    from msinet.model import build_model
    from msinet.phases import demo as serve
    from msinet.photographs import sample_photograph

BACKENDS = ("wasm", "webgl", "webgpu", "cpu")
CHROMIUM_FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--enable-unsafe-swiftshader")


class CountingHandler(serve.Handler):
    """The demo's server, counting the bytes that it sends."""

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
        predict_again(driver, quality)  # Some backends compile for each size.
        times.append(statistics.median(predict_again(driver, quality) for _ in range(repetitions)))
    return driver.execute_script("return document.getElementById('backend').textContent"), times, seconds, sent


def map_on_page(driver, file: Path) -> np.ndarray:
    """Open a photograph on the page; returns its map, int (H, W), 0 to 255."""
    frames = int(driver.execute_script("return document.getElementById('map').dataset.frames"))
    driver.find_element("id", "file").send_keys(str(file))
    wait(driver, f"Number(document.getElementById('map').dataset.frames) > {frames}")
    url = driver.execute_script("""
        const map = document.getElementById('map');
        const canvas = Object.assign(document.createElement('canvas'), {width: map.width, height: map.height});
        canvas.getContext('2d').drawImage(map, 0, 0);
        return canvas.toDataURL();
    """)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"))[..., 0].astype(
        int
    )


def compare(driver, address: str, network: msinet.Network, photographs: list[Path], folder: Path) -> list[str]:
    """Compare the page's maps with those of `test`, for the original files and as PNG; returns table rows."""
    driver.get(f"{address}?backend=wasm")
    wait(driver, "Number(document.getElementById('map').dataset.frames ?? 0) > 0")
    driver.execute_script("document.querySelector('input[value=gray]').click()")
    lines = ["| photographs | within 2 levels: worst | mean | greatest difference |", "| --- | --- | --- | --- |"]
    for kind in ("original", "as PNG"):
        shares, greatest = [], []
        for photograph in photographs:
            file = photograph
            if kind == "as PNG":
                file = folder / f"{photograph.stem}.png"
                Image.open(photograph).convert("RGB").save(file)
            expected = np.round(255 * network.predict(file)).astype(int)
            difference = np.abs(map_on_page(driver, file) - expected)
            shares.append(100 * np.mean(difference <= 2))
            greatest.append(difference.max())
        least, mean = min(shares), np.mean(shares)
        lines.append(f"| {len(photographs)} {kind} | {least:.2f} % | {mean:.2f} % | {max(greatest)} |")
    return lines


def start_browser():
    """A headless Chromium."""
    chromium = webdriver.ChromeOptions()
    chromium.binary_location = shutil.which("chromium")
    for flag in CHROMIUM_FLAGS:
        chromium.add_argument(flag)
    return webdriver.Chrome(chromium, webdriver.ChromeService(shutil.which("chromedriver")))


def network_of(variant: str, folder: Path, given: str | None) -> msinet.Network:
    """A network of a variant; speed does not depend on the weights' values, so they are random if it is not bundled."""
    if given or variant in BUNDLED:
        return msinet.load(given or variant)
    path = folder / f"{variant}.npz"
    np.savez(path, **checkpoint.arrays_of(build_model(**{**VARIANTS[variant], "batch_norm": False}, seed=1)))
    return msinet.load(path)


def measure_agreement(driver, options: argparse.Namespace) -> list[str]:
    network = msinet.load(options.weights or "lite")
    every = list_images(options.photographs)
    chosen = every[:: max(1, len(every) // options.count)][: options.count]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "demo"
        serve.write_demo(folder, [network], sample_photograph())
        with serve.make_server(folder, 0) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_address[1]}/"
            lines = compare(driver, address, network, chosen, Path(temporary))
            server.shutdown()
    return lines


def measure_speed(driver, options: argparse.Namespace) -> list[str]:
    columns = " | ".join(f"{height}×{width}" for height, width in DEMO_SIZES)
    rows = [f"| network | backend | {columns} | first map | loaded before it |", "| --- " * (len(DEMO_SIZES) + 4) + "|"]
    with tempfile.TemporaryDirectory() as temporary:
        for variant in options.variants:
            folder = Path(temporary) / variant
            serve.write_demo(folder, [network_of(variant, Path(temporary), options.weights)], sample_photograph())
            with serve.make_server(folder, 0, CountingHandler) as server:
                threading.Thread(target=server.serve_forever, daemon=True).start()
                for backend in options.backends:
                    address = f"http://127.0.0.1:{server.server_address[1]}/"
                    name, times, seconds, sent = measure(driver, address, backend, options.repetitions)
                    cells = " | ".join(f"{milliseconds:.0f} ms" for milliseconds in times)
                    rows.append(f"| {variant} | {name} | {cells} | {seconds:.1f} s | {sent / 1e6:.1f} MB |")
                server.shutdown()
    return rows


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["lite"])
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=["wasm"])
    parser.add_argument("--weights", metavar="PATH", help="instead of random weights; requires a single variant")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--photographs", type=Path, metavar="FOLDER", help="measure agreement on these, not speed")
    parser.add_argument("--count", type=int, default=12, help="photographs, spread evenly over the folder")
    options = parser.parse_args()
    driver = start_browser()
    try:
        rows = measure_agreement(driver, options) if options.photographs else measure_speed(driver, options)
        version = driver.capabilities["browserVersion"]
    finally:
        driver.quit()
    print(f"\n{os.cpu_count()} processor cores, Chromium {version}\n\n" + "\n".join(rows))


if __name__ == "__main__":
    run()
