"""The browser demo in headless Chromium, for its tests.

The browser cannot resolve any host name: everything that the page needs comes from the test's loopback server.
"""

import base64
import http.server
import json
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import msinet
from msinet import checkpoint, images, main, model
from msinet.config import DEMO_SIZES
from msinet.geometry import fitted_size
from msinet.phases import demo
from msinet.phases.formats import node as node_packages
from msinet.photographs import sample_photograph

NO_WEBGL = ("--disable-gpu", "--disable-software-rasterizer")
SOFTWARE_GPU = (
    "--enable-unsafe-swiftshader", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan",
)  # fmt: skip
FAKE_CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
LARGEST, TINY_SIZE = DEMO_SIZES[-1], (24, 32)


@pytest.fixture(scope="module")
def node():
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    node_packages.install_node_packages()


def write_weights(path: Path, width: float, seed: int) -> Path:
    """Write the seeded weights of a network, with random biases, whose input takes each photograph's shape."""
    network = model.build_model(width=width, seed=seed)
    for i, variable in enumerate(v for v in network.weights if v.name == "bias"):
        variable.assign(np.random.default_rng(i).normal(0, 0.05, variable.shape))
    np.savez(path, **checkpoint.arrays_of(network))
    checkpoint.write_knowledge(path, checkpoint.Knowledge(LARGEST, "aspp", f"width {width}", fit_shape=True))
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A narrow network in a file."""
    return write_weights(tmp_path_factory.mktemp("weights") / "narrow.npz", 0.25, 3)


@pytest.fixture(scope="module")
def network(weights):
    return msinet.load(weights)


@pytest.fixture(scope="module")
def sample():
    """The sample photograph, uint8 (600, 512, 3), decoded like in browsers: TensorFlow decodes JPEG less exactly."""
    return np.asarray(Image.open(sample_photograph()).convert("RGB"))


@pytest.fixture(scope="module")
def folder(node, weights, tmp_path_factory):
    """The demo that `--static` writes."""
    target = tmp_path_factory.mktemp("static") / "demo"
    assert main.main(["demo", "--weights", str(weights), "--static", str(target)]) == 0
    return target


@contextmanager
def serving(folder: Path, handler=demo.Handler):
    """Serve a folder like the command does, or with another handler; yields the address."""
    with demo.make_server(folder, 0, handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def serving_changed(folder: Path, target: Path, *changes: tuple[str, str, str | None]):
    """Serve a copy of the demo; yields the address.

    Each change is (file, old, new): the first occurrence of a text is replaced, or with None the file is removed.
    """
    shutil.copytree(folder, target)
    for name, old, new in changes:
        if new is None:
            (target / name).unlink()
            continue
        text = (target / name).read_text(encoding="utf-8")
        assert old in text
        (target / name).write_text(text.replace(old, new, 1), encoding="utf-8")
    with serving(target) as address:
        yield address


def delayed(milliseconds: int, condition: str = "true") -> tuple[str, str, str]:
    """A change that makes the network slower."""
    wait = f"  if ({condition}) await new Promise((resolve) => setTimeout(resolve, {milliseconds}));\n"
    return "worker.js", "  const maps = network", f"{wait}  const maps = network"


@pytest.fixture(scope="module")
def address(folder):
    with serving(folder) as address:
        yield address


@pytest.fixture(scope="module")
def slow_address(folder, tmp_path_factory):
    """The demo with a network that takes 400 ms longer."""
    with serving_changed(folder, tmp_path_factory.mktemp("slow") / "demo", delayed(400)) as address:
        yield address


@pytest.fixture(scope="module")
def start_browser(tmp_path_factory):
    """Make a headless Chromium that can reach this computer only: `start_browser("--flag", ...)`."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    for name, program in programs.items():
        if program is None:
            pytest.skip(f"{name} is not installed")

    @contextmanager
    def start(*flags):
        options = webdriver.ChromeOptions()
        options.binary_location = programs["chromium"]
        fixed = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900")
        for flag in (*fixed, "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", *flags):
            options.add_argument(flag)
        downloads = tmp_path_factory.mktemp("downloads")
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
        driver = webdriver.Chrome(options, webdriver.ChromeService(programs["chromedriver"]))
        driver.set_script_timeout(180)
        try:
            yield Page(driver, downloads)
        finally:
            driver.quit()

    return start


@pytest.fixture(scope="module")
def browser(start_browser, camera_film):
    """One browser for most tests: with a camera that shows one frame, and without a GPU."""
    with start_browser(*NO_WEBGL, *FAKE_CAMERA, f"--use-file-for-fake-video-capture={camera_film}") as page:
        yield page


@pytest.fixture
def page(browser, address):
    """The page with its first map."""
    return browser.open(address)


@pytest.fixture
def live(page):
    """The page with a map of the camera's picture."""
    page.start_camera()
    page.wait_for_frames(2)
    return page


@pytest.fixture(scope="module")
def camera_film(tmp_path_factory, sample):
    """The center of the sample photograph as a film of one frame, 320×240, for the fake camera."""
    path = tmp_path_factory.mktemp("camera") / "film.mjpeg"
    limited = sample[100:340, 100:420] * (219 / 255) + 16  # Cameras send this range.
    Image.fromarray(limited.astype(np.uint8)).save(path, "JPEG", quality=95)
    return path


class Page:
    """The page in a browser. In its scripts, an element's id is the name of a variable."""

    def __init__(self, driver, downloads: Path):
        self.driver, self.downloads = driver, downloads

    def open(self, address: str, maps: int = 1) -> "Page":
        """Open an address, and wait for so many maps."""
        self.driver.get(address)
        self.wait_for_frames(maps)
        return self

    def run(self, script: str):
        return self.driver.execute_script(script)

    def get(self, expression: str):
        return self.run(f"return {expression}")

    def until(self, check, message: str):
        """Wait until a function returns something true, and return it."""
        from selenium.webdriver.support.wait import WebDriverWait

        return WebDriverWait(self.driver, 60, 0.05).until(lambda _: check(), message)

    def wait(self, condition: str):
        """Wait until a JavaScript expression is true, and return its value."""
        return self.until(lambda: self.get(condition), f"{condition} stayed false")

    def frames(self) -> int:
        return int(self.get("map.dataset.frames ?? 0"))

    def wait_for_frames(self, count: int):
        """Wait for so many more maps."""
        self.wait(f"Number(map.dataset.frames ?? 0) >= {self.frames() + count}")

    def choose_size(self, i: int):
        """Press one of the quality buttons, and wait for a map of the size that it names."""
        self.click(f"#sizes input[value='{i}']")
        name = f"document.querySelectorAll('#sizes span')[{i}].textContent"
        self.wait(f"map.dataset.size === {name}.split('×').reverse().join('x')")

    def choose_backend(self, name: str):
        self.run(f"backends.value = '{name}'; backends.onchange()")

    def choose_style(self, style: str):
        self.click(f"input[value={style}]")
        self.wait(f"map.dataset.style === '{style}'")

    def set_blend(self, percent: int):
        self.run(f"blend.value = {percent}; blend.oninput()")

    def start_camera(self):
        self.click("#camera")
        self.wait("panes.hasAttribute('data-mirrored')")

    def click(self, selector: str):
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def text(self, name: str) -> str:
        return self.get(f"document.getElementById('{name}').textContent").strip()

    def backend(self) -> str:
        return self.get("backend.dataset.backend")

    def problem(self) -> str:
        """Wait for an error on the page, and return its text."""
        self.wait("!problem.hidden")
        return self.text("problem")

    def upload(self, path: Path):
        self.driver.find_element("id", "file").send_keys(str(path))

    def drop(self, *images: np.ndarray, name: str = "ABC", wait_ms: int = 0, paste: bool = False):
        """Drop or paste images on the page, named by the letters of `name`, one after the other."""
        encoded = [base64.b64encode(tf.io.encode_png(image).numpy()).decode() for image in images]
        files = [[f"{letter}.png", contents] for letter, contents in zip(name, encoded, strict=False)]
        event = "ClipboardEvent('paste', {clipboardData" if paste else "DragEvent('drop', {dataTransfer"
        self.driver.execute_async_script(
            f"""
            const [files, milliseconds, done] = arguments;
            const drop = () => {{
                const [name, contents] = files.shift();
                const transfer = new DataTransfer();
                const bytes = Uint8Array.from(atob(contents), (letter) => letter.charCodeAt(0));
                transfer.items.add(new File([bytes], name, {{type: 'image/png'}}));
                document.dispatchEvent(new {event}: transfer, cancelable: true}}));
                files.length ? setTimeout(drop, milliseconds) : done();
            }};
            drop();
            """,
            files,
            wait_ms,
        )

    @contextmanager
    def on_phone(self, width: int = 390, height: int = 844):
        """Be a phone of this size in points, with a touch screen, as long as the block runs."""
        emulate = self.driver.execute_cdp_cmd
        emulate("Emulation.setTouchEmulationEnabled", {"enabled": True})
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": True}
        emulate("Emulation.setDeviceMetricsOverride", size)
        try:
            yield
        finally:
            emulate("Emulation.setTouchEmulationEnabled", {"enabled": False})
            emulate("Emulation.clearDeviceMetricsOverride", {})

    def violations(self) -> list[str]:
        """The problems that axe-core finds for people who cannot see, hear or point well."""
        axe = demo.DEMO_FOLDER / "node_modules" / "axe-core" / "axe.min.js"
        self.run(f"if (!window.axe) {{ {axe.read_text(encoding='utf-8')} }}")
        return self.driver.execute_async_script(
            """
            const done = arguments[0];
            axe.run().then(({violations}) => done(
                violations.map(({id, nodes}) => `${id}: ${nodes.map((node) => node.html).join(' ')}`)));
            """
        )

    def save(self, button: str, name: str) -> np.ndarray:
        """Press a button that downloads an image; returns it, int (H, W, 3)."""
        self.driver.find_element("css selector", button).click()  # Browsers require a real click for downloads.
        self.until((self.downloads / name).exists, f"{name} was not downloaded")
        return images.decode_image(tf.io.read_file(str(self.downloads / name)), 3).numpy().astype(int)

    def pixels(self, source: str, size: str = "[source.width, source.height]") -> np.ndarray:
        """The pixels of an element, uint8 (H, W, 3); `size` is its size as a JavaScript expression."""
        url = self.run(f"""
            const source = document.getElementById('{source}');
            const canvas = document.createElement('canvas');
            [canvas.width, canvas.height] = {size};
            canvas.getContext('2d').drawImage(source, 0, 0);
            return canvas.toDataURL();
        """)
        return images.decode_image(tf.constant(base64.b64decode(url.partition(",")[2])), 3).numpy()

    def gray_map(self) -> np.ndarray:
        """The map on the page, int (H, W), 0 to 255."""
        self.choose_style("gray")
        return self.pixels("map")[..., 0].astype(int)


def expected_map(network, image: np.ndarray, size=LARGEST) -> np.ndarray:
    """The map that `test` predicts for an image, rounded, int (H, W); `size` is a quality of the demo."""
    if network.fit_shape:
        size = fitted_size(image.shape[:2], size[0] * size[1])
    padded = images.resize_and_pad(image, size, images.IMAGE_PADDING)[None]
    return np.round(images.crop_and_restore(network(padded)[0], image.shape[:2]).numpy()[..., 0]).astype(int)


def assert_same_map(received: np.ndarray, expected: np.ndarray):
    assert received.shape == expected.shape
    assert np.ptp(expected) > 100  # It is a map, not a uniform area.
    assert np.mean(np.abs(received - expected) <= 2) >= 0.99


class Plain(http.server.SimpleHTTPRequestHandler):
    """Any web server, without the headers of the demo."""

    def log_message(self, *arguments):
        pass
