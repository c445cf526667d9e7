"""The browser demo: its geometry in Node, its server, and the page itself in headless Chromium.

The browser cannot resolve any host name: everything that the page needs comes from the test's loopback server.
"""

import base64
import hashlib
import http.client
import http.server
import json
import shutil
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import matplotlib
import numpy as np
import pytest
import tensorflow as tf
from conftest import write

import checkpoint
import images
import main
import model
import msinet
from config import DEMO_SIZES
from phases import demo
from phases.formats import node as node_packages
from photographs import sample_photograph
from utils import UserError

NO_WEBGL = ("--disable-gpu", "--disable-software-rasterizer")
SOFTWARE_GPU = (
    "--enable-unsafe-swiftshader", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan",
)  # fmt: skip
FAKE_CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
LARGEST, TINY_SIZE = DEMO_SIZES[-1], (24, 32)


# --- Fixtures and helpers ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def node():
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    node_packages.install_node_packages()


def write_weights(path: Path, width: float, seed: int) -> Path:
    """Write the seeded weights of a network, with random biases."""
    network = model.build_model(width=width, seed=seed)
    for i, variable in enumerate(v for v in network.weights if v.name == "bias"):
        variable.assign(np.random.default_rng(i).normal(0, 0.05, variable.shape))
    np.savez(path, **checkpoint.arrays_of(network))
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A lite network in a file."""
    return write_weights(tmp_path_factory.mktemp("weights") / "lite.npz", 0.25, 3)


@pytest.fixture(scope="module")
def network(weights):
    return msinet.load(weights, input_size=LARGEST)


@pytest.fixture(scope="module")
def sample():
    """The sample photograph, uint8 (600, 512, 3)."""
    return images.decode_image(tf.io.read_file(str(sample_photograph())), 3).numpy()


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
    image = sample[100:340, 100:420]
    red, green, blue = np.moveaxis(image.astype(float), -1, 0)
    luma = 16 + 0.2568 * red + 0.5041 * green + 0.0979 * blue
    chroma = [128 - 0.1482 * red - 0.2910 * green + 0.4392 * blue, 128 + 0.4392 * red - 0.3678 * green - 0.0714 * blue]
    chroma = [plane.reshape(120, 2, 160, 2).mean((1, 3)) for plane in chroma]
    planes = b"".join(np.round(plane).astype(np.uint8).tobytes() for plane in (luma, *chroma))
    path = tmp_path_factory.mktemp("camera") / "film.y4m"
    path.write_bytes(b"YUV4MPEG2 W320 H240 F30:1 Ip A1:1 C420\nFRAME\n" + planes)
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

        return WebDriverWait(self.driver, 180, 0.05).until(lambda _: check(), message)

    def wait(self, condition: str):
        """Wait until a JavaScript expression is true, and return its value."""
        return self.until(lambda: self.get(condition), f"{condition} stayed false")

    def frames(self) -> int:
        return int(self.get("map.dataset.frames ?? 0"))

    def wait_for_frames(self, count: int):
        """Wait for so many more maps."""
        self.wait(f"Number(map.dataset.frames ?? 0) >= {self.frames() + count}")

    def choose_size(self, i: int):
        """Press one of the quality buttons, and wait for a map of that size."""
        self.click(f"#sizes input[value='{i}']")
        self.wait(f"map.dataset.size === '{'x'.join(map(str, DEMO_SIZES[i]))}'")

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
    def on_phone(self):
        """Be 390 by 844 points large with a touch screen, as long as the block runs."""
        emulate = self.driver.execute_cdp_cmd
        emulate("Emulation.setTouchEmulationEnabled", {"enabled": True})
        size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
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
    """The map that `test` predicts for an image, rounded, int (H, W)."""
    padded = images.resize_and_pad(image, size, images.IMAGE_PADDING)[None]
    return np.round(images.crop_and_restore(network(padded)[0], image.shape[:2]).numpy()[..., 0]).astype(int)


def assert_same_map(received: np.ndarray, expected: np.ndarray):
    assert received.shape == expected.shape
    assert np.ptp(expected) > 100  # It is a map, not a uniform area.
    assert np.mean(np.abs(received - expected) <= 2) >= 0.99


# --- Pictures ---------------------------------------------------------------------------------------------------------


def test_the_example_is_predicted_at_once_like_test_predicts_it(page, network, sample):
    assert_same_map(page.gray_map(), expected_map(network, sample))
    assert page.text("backend").startswith("WebAssembly (SIMD") and page.text("problem") == ""
    assert page.text("milliseconds").endswith("s")


def test_map_of_an_uploaded_picture_equals_that_of_test(page, weights, photograph, tmp_path):
    source = write(tmp_path / "in" / "my picture.png", tf.io.encode_png(photograph(150, 333, seed=5)))
    flags = ("--weights", str(weights), "--results", str(tmp_path), "--format", "png")
    assert main.main(["test", "-p", str(source), *flags]) == 0
    expected = images.decode_image(tf.io.read_file(str(tmp_path / "images" / "my picture.png")), 1).numpy()[..., 0]
    page.upload(source)
    page.wait("map.width === 333")
    received = page.gray_map()
    assert_same_map(received, expected.astype(int))
    assert np.abs(received - expected).max() <= 2  # All decoders read the same pixels from a PNG, not from a JPEG.


def test_each_quality_button_changes_the_size(page, network, sample):
    for i, size in enumerate(DEMO_SIZES):
        page.choose_size(i)
        assert page.text("shape") == f"{size[0]} × {size[1]} pixels"
        assert_same_map(page.gray_map(), expected_map(network, sample, size))
    names = page.get("[...document.querySelectorAll('#sizes label')].map(label => label.textContent)")
    assert names == ["Very low", "Low", "Medium", "High", "Very high"]


def test_map_and_overlay_are_saved_at_the_pictures_own_size(page, network, photograph, tmp_path):
    image = photograph(150, 333, seed=5)
    page.upload(write(tmp_path / "holiday.png", tf.io.encode_png(image)))
    page.wait("map.width === 333")
    expected = expected_map(network, image)
    page.choose_style("heat")
    page.set_blend(50)
    overlay = page.save("#save-overlay", "holiday_overlay.png")
    page.click("input[value=gray]")
    assert_same_map(page.save("#save-map", "holiday_map.png")[..., 0], expected)
    assert np.mean(np.abs(overlay - images.blend(image, expected.astype(np.float32))) <= 4) >= 0.99


def test_glow_keeps_the_picture_where_nobody_looks_and_heat_blends_like_test(page, network, photograph):
    image = photograph(60, 100, seed=5)
    page.drop(image)
    page.wait("map.width === 100")
    assert page.get("map.dataset.style") == "glow" and page.pixels("map").shape == image.shape
    saliency = expected_map(network, image)
    colors = matplotlib.colormaps["inferno"](saliency, bytes=True)[..., :3].astype(float)
    page.set_blend(80)
    alpha = 0.8 * saliency[..., None] / 255
    glow = page.save("#save-overlay", "A_overlay.png")
    assert np.mean(np.abs(glow - (image * (1 - alpha) + colors * alpha)) <= 4) >= 0.99
    page.choose_style("heat")
    assert page.get("[blend.value, blend.ariaValueText]") == ["50", "50 % map, 50 % picture"]
    assert page.get("getComputedStyle(map).opacity") == "0.5"
    page.choose_style("glow")
    assert page.get("blend.value") == "80"


def test_latest_choice_is_shown_saved_and_named_however_slow_the_network(browser, slow_address, network, photograph):
    browser.open(slow_address)
    browser.run("""
        window.wrong = [];
        const watch = () => {
            if (map.style.visibility === '' && map.width !== photo.naturalWidth) {
                window.wrong.push([map.width, photo.naturalWidth]);
            }
            requestAnimationFrame(watch);
        };
        watch();
    """)
    before = browser.frames()
    first, second = photograph(800, 1200, seed=1), photograph(40, 90, seed=2)
    browser.click("input[value=gray]")
    browser.drop(first, second, name="AB", wait_ms=20)
    saved = browser.save("#save-map", "B_map.png")
    assert_same_map(saved[..., 0], expected_map(network, second))
    assert_same_map(browser.gray_map(), saved[..., 0])
    assert not list(browser.downloads.glob("A_map*"))
    browser.drop(second, first, second, name="CDE", wait_ms=150)  # They arrive while the network is busy.
    browser.wait(f"Number(map.dataset.frames) > {before + 1}")
    browser.wait("photo.alt.endsWith('E.png') && map.style.visibility === ''")
    assert_same_map(browser.gray_map(), saved[..., 0])
    assert browser.get("window.wrong") == []


def test_save_before_the_first_map_waits_for_it(browser, slow_address, network, sample):
    browser.open(slow_address, maps=0)
    browser.wait("!downloads.hidden")
    assert browser.frames() == 0
    browser.click("input[value=gray]")
    saved = browser.save("#save-map", "example_map.png")
    assert_same_map(saved[..., 0], expected_map(network, sample))
    assert browser.text("problem") == ""


def test_film_is_predicted_frame_by_frame_with_its_rate_and_unmirrored(page):
    page.driver.execute_async_script("""
        const done = arguments[0];
        const canvas = Object.assign(document.createElement('canvas'), {width: 160, height: 90});
        const context = canvas.getContext('2d');
        const painting = setInterval(() => {
            context.fillStyle = `hsl(${performance.now() % 360} 80% 50%)`;
            context.fillRect(0, 0, 160, 90);
        }, 20);
        const parts = [];
        const recorder = new MediaRecorder(canvas.captureStream(25));
        recorder.ondataavailable = ({data}) => parts.push(data);
        recorder.onstop = () => {
            clearInterval(painting);
            const transfer = new DataTransfer();
            transfer.items.add(new File(parts, 'film.webm', {type: 'video/webm'}));
            document.dispatchEvent(new DragEvent('drop', {dataTransfer: transfer, cancelable: true}));
            done();
        };
        recorder.start();
        setTimeout(() => recorder.stop(), 600);
    """)
    page.wait("!video.hidden")
    page.wait_for_frames(3)
    assert page.get("[video.videoWidth, video.videoHeight, video.loop]") == [160, 90, True]
    assert page.text("rate").endswith("per second") and page.text("milliseconds").endswith("s")
    assert page.get("getComputedStyle(map).transform") == "none"
    assert page.get("cameras.hidden") and page.text("camera") == "Use the webcam"
    page.drop(np.zeros((30, 50, 3), np.uint8))
    page.wait("map.width === 50")
    assert page.get("video.src") == ""


@pytest.mark.parametrize(
    ("name", "words"),
    [("film.webm", "cannot play this file as a video"), ("text.png", "cannot read this file as a picture")],
)
def test_unreadable_file_is_reported_and_the_picture_stays(page, tmp_path, name, words):
    page.upload(write(tmp_path / name, b"neither a film nor a picture"))
    assert words in page.problem()
    page.choose_size(0)
    assert page.get("map.height") == 600


@pytest.mark.parametrize("paste", [False, True], ids=["dropped", "pasted"])
def test_picture_can_be_dropped_and_pasted(page, photograph, paste):
    page.drop(photograph(40, 90), paste=paste)
    page.wait("map.width === 90")


def test_view_style_and_blend_change_the_page(page):
    opacity = "getComputedStyle(map).opacity"
    page.set_blend(20)
    assert page.get(opacity) == "0.2"
    page.click("input[value=beside]")
    assert page.get(opacity) == "1"
    left, right = page.get("[seen, map].map(element => element.getBoundingClientRect().left)")
    assert right > left + 100
    page.wait("map.dataset.style === 'heat'")
    heat = page.pixels("map")
    np.testing.assert_array_equal(heat, matplotlib.colormaps["inferno"](page.gray_map(), bytes=True)[..., :3])


# --- The camera -------------------------------------------------------------------------------------------------------


def test_live_map_is_that_of_the_cameras_frame(live, network, sample):
    frame = live.pixels("video", "[source.videoWidth, source.videoHeight]")
    resized = tf.image.resize(frame, LARGEST, "area").numpy()
    assert np.abs(resized - sample[100:340, 100:420]).mean() < 8  # The film; the camera's colors are less exact.
    live.choose_size(4)
    padded = images.resize_and_pad(frame, LARGEST, images.IMAGE_PADDING)[None]
    assert_same_map(live.gray_map(), np.round(255 * network(padded).numpy()[0, ..., 0]).astype(int))


def test_live_picture_and_map_are_mirrored_on_the_page_only(live):
    transforms = "[seen, map].map(element => getComputedStyle(element).transform)"
    assert live.get(transforms) == ["matrix(-1, 0, 0, 1, 0, 0)"] * 2
    live.click("#camera")
    live.wait("video.hidden")
    assert live.get(transforms) == ["none"] * 2


def test_rear_camera_is_not_mirrored(page):
    page.run("""
        const {getSettings} = MediaStreamTrack.prototype;
        MediaStreamTrack.prototype.getSettings = function () {
            return {...getSettings.call(this), facingMode: 'environment'};
        };
    """)
    page.click("#camera")
    page.wait("!video.hidden")
    page.wait_for_frames(2)
    assert page.get("getComputedStyle(map).transform") == "none"


def test_camera_shows_its_rate_and_pauses_but_follows_the_quality_buttons(live):
    live.wait_for_frames(3)
    assert live.text("rate").endswith("per second")
    assert live.get("cameras.length") >= 1
    live.click("#pause")
    before, after = live.driver.execute_async_script("""
        const done = arguments[0];
        import('./maps.js').then((maps) => {
            let frames;
            let quiet = 0;
            const watch = () => {
                quiet = maps.busy ? 0 : quiet + 1;
                frames = quiet === 1 ? map.dataset.frames : frames;
                quiet > 30 ? done([frames, map.dataset.frames]) : requestAnimationFrame(watch);
            };
            watch();
        });
    """)
    assert before == after
    for quality in (0, 1):
        live.choose_size(quality)
    assert live.text("pause") == "Resume" and live.get("video.paused")
    live.click("#pause")
    live.wait_for_frames(2)


def test_leaving_the_camera_returns_to_the_picture(live):
    assert live.text("camera") == "Stop the webcam"
    live.click("#camera")
    assert live.text("camera") == "Use the webcam"
    overlay = live.save("#save-overlay", "example_overlay.png")  # Immediately, before its map is back.
    assert overlay.shape == (600, 512, 3) and live.text("problem") == ""
    live.wait("map.height === 600")
    assert live.get("video.srcObject") is None


def test_network_runs_off_the_page_in_constant_memory(live):
    assert live.get("typeof tf") == "undefined"  # TensorFlow.js would block the page for as long as it predicts.
    live.choose_size(0)
    before = live.get("map.dataset.tensors")
    live.wait_for_frames(50)
    assert live.get("map.dataset.tensors") == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--use-fake-ui-for-media-stream"], "No camera was found"),
        (["--use-fake-device-for-media-stream", "--deny-permission-prompts"], "camera was not allowed"),
    ],
    ids=["missing", "denied"],
)
def test_missing_or_denied_camera_is_reported(start_browser, address, flags, words):
    with start_browser(*NO_WEBGL, *flags) as page:
        page.open(address, maps=0)
        page.click("#camera")
        assert words in page.problem()
        page.wait_for_frames(1)


# --- Missing files and backends ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "new", "words"),
    [
        ("network0/model.json", None, "weights are missing"),
        ("network0/group1-shard1of1.bin", None, "weights are missing"),
        ("tensorflow/tf-core.es2017.min.js", "// changed\n", "is not the expected file"),
    ],
)
def test_missing_weights_and_changed_libraries_are_reported(browser, folder, tmp_path, name, new, words):
    with serving_changed(folder, tmp_path / "demo", (name, "", new)) as address:
        browser.open(address, maps=0)
        assert words in browser.problem()


def test_without_webassembly_the_page_computes_in_javascript_and_says_so(browser, folder, tmp_path, network, sample):
    changes = ((name, "", "delete globalThis.WebAssembly;\n") for name in ("page.js", "worker.js"))
    with serving_changed(folder, tmp_path / "demo", *changes) as address:
        browser.open(address)
        assert "no WebAssembly" in browser.text("notice") and browser.backend() == "cpu"
        assert_same_map(browser.gray_map(), expected_map(network, sample, DEMO_SIZES[0]))


@pytest.mark.parametrize(
    ("backend", "missing", "notice"),
    [
        ("webgl", None, "WebGL does not run here."),
        ("cpu", "tensorflow/tf-backend-cpu.es2017.min.js", "JavaScript cannot be used: {missing} is missing (404)."),
    ],
)
def test_backend_that_does_not_run_is_named_and_replaced(browser, folder, tmp_path, backend, missing, notice):
    changes = [(missing, "", None)] if missing else []
    with serving_changed(folder, tmp_path / "demo", *changes) as address:
        browser.open(address + f"?backend={backend}")
        assert browser.text("notice") == notice.format(missing=missing) and browser.backend() == "wasm"


def test_backend_that_cannot_be_fetched_leaves_the_one_that_works(browser, weights, tmp_path):
    demo.write_demo(tmp_path / "demo", [msinet.load(weights)], sample_photograph())
    with serving(tmp_path / "demo") as address:
        browser.open(address)
    browser.choose_backend("cpu")
    assert "cannot be fetched (offline?)" in browser.problem()
    assert browser.get("[backends.value, backend.dataset.backend]") == ["wasm", "wasm"]
    browser.choose_size(0)


@pytest.fixture(scope="module")
def software_gpu(start_browser):
    """A browser with a GPU that is emulated in software, which takes seconds for a map."""
    with start_browser(*SOFTWARE_GPU) as page:
        yield page


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A network that such a GPU can compute."""
    path = write_weights(tmp_path_factory.mktemp("weights") / "tiny.npz", 0.125, 1)
    return msinet.load(path, input_size=TINY_SIZE)


@pytest.fixture(scope="module")
def tiny_folder(node, tiny, tmp_path_factory):
    """The demo of that network, at tiny sizes only, without measuring WebGPU, which starts slowly in software."""
    folder = tmp_path_factory.mktemp("tiny") / "demo"
    demo.write_demo(folder, [tiny], sample_photograph())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "sizes": [TINY_SIZE] * len(DEMO_SIZES)}))
    script = (folder / "network.js").read_text(encoding="utf-8")
    script = script.replace('["wasm", "webgl", "webgpu"]', '["wasm", "webgl"]').replace("15_000", "150_000")
    (folder / "network.js").write_text(script, encoding="utf-8")
    return folder


def test_emulated_webgl_and_webgpu_are_used_only_on_request(software_gpu, tiny_folder, tiny, sample):
    with serving(tiny_folder) as address:
        software_gpu.open(address)
        software_gpu.wait("measured.textContent")
        assert software_gpu.text("measured").startswith("Measured at 24 × 32: WebGL ")
        assert software_gpu.text("measured").count(" ms") + software_gpu.text("measured").count(" s") == 2
        assert software_gpu.backend() == "wasm"
        for backend in ("webgl", "webgpu"):
            software_gpu.choose_backend(backend)
            software_gpu.wait(f"backend.dataset.backend === '{backend}' || !notice.hidden")
            if software_gpu.backend() != backend:
                pytest.skip(f"{backend} does not start in this Chromium: {software_gpu.text('notice')}")
            software_gpu.wait_for_frames(1)
            assert_same_map(software_gpu.gray_map(), expected_map(tiny, sample, TINY_SIZE))


def test_backend_that_is_measured_to_be_faster_takes_over(software_gpu, tiny_folder, tmp_path, tiny, sample):
    slow_wasm = delayed(5000, "tf.getBackend() === 'wasm'")
    with serving_changed(tiny_folder, tmp_path / "demo", slow_wasm) as address:
        software_gpu.open(address)
        assert software_gpu.backend() == "wasm"
        software_gpu.wait("backend.dataset.backend === 'webgl'")
        software_gpu.click("#sizes input[value='0']")
        software_gpu.wait_for_frames(1)
        assert_same_map(software_gpu.gray_map(), expected_map(tiny, sample, TINY_SIZE))


# --- Design -----------------------------------------------------------------------------------------------------------


def test_no_text_is_cut_or_wrapped(page):
    cut = """
        const fields = [...document.querySelectorAll('.choices span, .primary span, .row button')];
        return fields.filter((field) => {
            const range = document.createRange();
            range.selectNodeContents(field);
            const [text, box] = [range.getBoundingClientRect(), field.closest('label, button').getBoundingClientRect()];
            const line = 1.6 * parseFloat(getComputedStyle(field).fontSize);
            return text.left < box.left || text.right > box.right || text.height > line;
        }).map((field) => field.textContent);
    """
    assert page.get("[network, backend].every((field) => field.scrollWidth <= field.clientWidth)")
    assert page.text("network") == "lite: lite.npz"
    assert page.run(cut) == []
    with page.on_phone():
        assert page.run(cut) == []


@pytest.mark.parametrize("shape", [(60, 90), (90, 60)], ids=["landscape", "portrait"])
def test_phone_shows_all_controls_on_the_first_screen_large_enough_for_fingers(page, shape):
    hint = "document.querySelector('.hint').checkVisibility()"
    with page.on_phone():
        page.drop(np.zeros((*shape, 3), np.uint8))
        page.wait(f"map.width === {shape[1]}")
        for view in ("beside", "over"):
            page.click(f"input[value={view}]")
            bottoms = """
                ['#camera', '#choose', '#sizes', 'input[name=view]', 'input[name=style]', '#blend', '#map']
                    .map((name) => document.querySelector(name).getBoundingClientRect().bottom)
            """
            assert max(page.get(bottoms.strip())) <= 844
        assert page.get("document.documentElement.scrollWidth") <= 390
        page.run("document.querySelector('details').open = true")
        small = """
            const kinds = 'button, select, summary, .choices label, input[type=range]';
            const targets = [...document.querySelectorAll(kinds)];
            return targets.filter((target) => target.checkVisibility() && target.getBoundingClientRect().height < 44)
                .map((target) => target.outerHTML);
        """
        assert page.run(small) == []
        assert not page.get(hint)  # It suggests to drop files, which fingers cannot.
    assert page.get(hint)


def test_axe_finds_no_violation_in_any_state_and_every_control_takes_the_keyboard(page):
    controls = "[...document.querySelectorAll('button, input, select')]"
    assert page.get(f"{controls}.filter((control) => control.tabIndex < 0).map((control) => control.outerHTML)") == []
    page.run("document.querySelector('details').open = true")
    assert page.violations() == []
    page.click("input[value=beside]")
    page.run("document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: new DataTransfer()}))")
    emulate_media = "Emulation.setEmulatedMedia"
    page.driver.execute_cdp_cmd(emulate_media, {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    assert page.violations() == []
    page.start_camera()
    page.click("#pause")
    with page.on_phone():
        assert page.violations() == []
        page.driver.execute_cdp_cmd(emulate_media, {"features": []})
        page.run("notice.hidden = false; notice.textContent = 'WebGL does not run here.'")
        page.run("problem.hidden = false; problem.textContent = 'No camera was found.'")
        assert page.violations() == []


# --- The folder and the server ----------------------------------------------------------------------------------------


def test_geometry_equals_that_of_test(node, tmp_path):
    script = """
        import { readFileSync, writeFileSync } from "node:fs";
        import { cropAndRestore, resizeAndPad } from "./geometry.js";
        const [folder, height, width, ...size] = process.argv.slice(1).map((x, i) => (i ? Number(x) : x));
        const read = (name) => new Uint8Array(readFileSync(`${folder}/${name}`));
        const write = (name, values) => writeFileSync(`${folder}/${name}`, new Uint8Array(values.buffer));
        write("padded", resizeAndPad({ data: read("image"), height, width }, size, 126));
        write("restored", cropAndRestore(new Float32Array(read("map").buffer), size, height, width));
    """
    random = np.random.default_rng(0)
    for height, width, *size in (
        (600, 512, 240, 320), (480, 640, 48, 64), (61, 83, 240, 320), (240, 320, 240, 320), (100, 1000, 72, 96),
        (1000, 7, 72, 96), (120, 161, 120, 160), (5, 5, 48, 64),
    ):  # fmt: skip
        image = random.integers(0, 256, (height, width, 4), dtype=np.uint8)
        saliency = random.random((*size, 1), dtype=np.float32)
        image.tofile(tmp_path / "image")
        saliency.tofile(tmp_path / "map")
        numbers = [str(number) for number in (height, width, *size)]
        command = ["node", "--input-type=module", "--eval", script, "--", str(tmp_path), *numbers]
        subprocess.run(command, cwd=node_packages.DEMO_FOLDER, check=True)
        padded = np.fromfile(tmp_path / "padded", np.float32).reshape(*size, 3)
        restored = np.fromfile(tmp_path / "restored", np.float32).reshape(height, width, 1)
        np.testing.assert_allclose(padded, images.resize_and_pad(image[..., :3], size, images.IMAGE_PADDING), atol=1e-3)
        np.testing.assert_allclose(restored, images.crop_and_restore(saliency, (height, width)), atol=1e-3)


def test_server_names_types_isolates_the_page_and_serves_only_the_folder(address, folder):
    port = int(address.rsplit(":", 1)[1].strip("/"))

    def get(path):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        connection.close()
        return response

    for path, kind in (
        ("/", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css"),
        ("/config.json", "application/json"), ("/example.jpg", "image/jpeg"), ("/icon.svg", "image/svg+xml"),
        ("/tensorflow/tfjs-backend-wasm-simd.wasm", "application/wasm"),
        ("/network0/group1-shard1of1.bin", "application/octet-stream"),
    ):  # fmt: skip
        response = get(path)
        assert (response.status, response.headers.get_content_type()) == (200, kind)
        assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    (folder.parent / "secret").write_text("x")
    for path in (
        "/network0/", "/tensorflow/", "/../secret", "/%2e%2e/secret", "/main.py", "/predict.mjs",
        "/config.json%00.html", "/%ff",
    ):  # fmt: skip
        assert get(path).status == 404


class Plain(http.server.SimpleHTTPRequestHandler):
    """Any web server, without the headers of the demo."""

    def log_message(self, *arguments):
        pass


def test_only_disconnected_browsers_are_not_reported(folder, capfd):
    with demo.make_server(folder, 0) as server:
        for error, words in ((ConnectionResetError("gone"), ""), (ZeroDivisionError("a fault"), "a fault")):
            try:
                raise error
            except Exception:
                server.handle_error(None, ("127.0.0.1", 1))
            written = capfd.readouterr().err
            assert words in written and bool(words) == bool(written)


def test_static_folder_works_on_any_web_server_behind_a_path_and_in_a_frame(browser, folder, tmp_path, network, sample):
    shutil.copytree(folder, tmp_path / "site" / "saliency")
    with serving(tmp_path / "site", Plain) as address:
        frames = "".join(f"<iframe id={name} src={address}saliency/ {rights} width=800 height=700></iframe>"
                         for name, rights in (("with", "allow=camera"), ("without", "")))  # fmt: skip
        write(tmp_path / "blog" / "index.html", f"<!doctype html>{frames}".encode())
        with serving(tmp_path / "blog", Plain) as blog:
            browser.driver.get(blog)
            browser.driver.switch_to.frame("with")
            browser.wait_for_frames(1)
            assert_same_map(browser.gray_map(), expected_map(network, sample))
            browser.start_camera()
            browser.driver.switch_to.default_content()
            browser.driver.switch_to.frame("without")
            browser.wait("map.dataset.frames")
            browser.click("#camera")
            assert 'its frame needs allow="camera"' in browser.problem()
            browser.driver.get("about:blank")


def test_static_folder_opens_offline_on_the_second_visit(browser, folder, tmp_path, network, sample):
    shutil.copytree(folder, tmp_path / "saliency")
    with serving(tmp_path, Plain) as address:
        browser.open(f"{address}saliency/")
        browser.driver.execute_async_script("navigator.serviceWorker.ready.then(() => arguments[0]())")
        browser.driver.get("about:blank")
    browser.open(f"{address}saliency/?backend=wasm")
    assert_same_map(browser.gray_map(), expected_map(network, sample))
    browser.choose_backend("cpu")
    browser.wait("backend.dataset.backend === 'cpu'")


def read_config(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def test_only_the_static_page_is_cached_with_its_first_network(node, weights, tmp_path):
    for offline in (False, True):
        demo.write_demo(tmp_path / "demo", [msinet.load(weights)] * 2, sample_photograph(), offline=offline)
        config = read_config(tmp_path / "demo")
        assert ("offline" in config) == offline
    assert {"config.json", "index.html", "network0/model.json"} < set(config["offline"])
    assert not [name for name in config["offline"] if name.startswith("network1/")]


def test_folder_with_other_files_is_never_replaced(weights, tmp_path, capsys):
    kept = write(tmp_path / "mine" / "thesis.txt", b"years of work")
    assert main.main(["demo", "--weights", str(weights), "--static", str(kept.parent)]) == 2
    assert "did not write" in capsys.readouterr().err
    assert kept.read_bytes() == b"years of work"


def test_lite_network_needs_at_most_4_megabytes(folder):
    assert sum(file.stat().st_size for file in (folder / "network0").iterdir()) <= 4e6


def test_best_network_is_a_choice_next_to_the_lite_one(node, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "LITE_PATH", weights)
    narrow = write_weights(tmp_path / "narrow.npz", 0.125, 1)
    lite, best = checkpoint.Choice(weights, "lite"), checkpoint.Choice(narrow, "best")
    monkeypatch.setattr(
        checkpoint, "choose_weights", lambda data, weights=None, results=None: lite if weights == "lite" else best
    )
    networks = demo.choose_networks("salicon", None, tmp_path)
    assert [network.weights for network in networks] == [lite, best]
    assert [network.weights for network in demo.choose_networks("salicon", str(narrow), tmp_path)] == [best]
    demo.write_demo(tmp_path / "demo", networks, sample_photograph())
    rows = read_config(tmp_path / "demo")["networks"]
    assert [row["url"] for row in rows] == ["network0/model.json", "network1/model.json"]
    assert rows[0]["name"] == "lite: lite.npz" and rows[1]["bytes"] < rows[0]["bytes"]


def test_without_npm_libraries_come_from_the_cdn_with_their_hashes(weights, tmp_path, monkeypatch, capsys):
    def no_npm():
        raise UserError("TensorFlow.js needs npm.")

    monkeypatch.setattr(demo, "install_node_packages", no_npm)
    demo.write_demo(tmp_path / "demo", [msinet.load(weights)], sample_photograph())
    libraries = read_config(tmp_path / "demo")["libraries"]
    assert libraries["tf-core"]["url"] == f"{demo.CDN}/@tensorflow/tfjs-core@4.22.0/dist/tf-core.es2017.min.js"
    assert all(row["integrity"].startswith("sha384-") for row in libraries.values())
    assert not (tmp_path / "demo" / "tensorflow").exists()
    assert "needs npm" in capsys.readouterr().out


class Cdn(Plain):
    """Serves the installed packages, with the addresses and headers of a CDN."""

    requested: ClassVar = []

    def translate_path(self, path):
        self.requested.append(path)
        return super().translate_path(path.replace("@4.22.0", ""))

    def end_headers(self):
        self.send_header("Access-Control-Allow-Origin", "*")
        super().end_headers()


def test_page_computes_with_libraries_from_another_server(browser, node, weights, tmp_path, monkeypatch):
    with serving(demo.DEMO_FOLDER / "node_modules", Cdn) as cdn:
        policy = demo.HEADERS["Content-Security-Policy"].replace(f"{demo.CDN}/", cdn)
        monkeypatch.setitem(demo.HEADERS, "Content-Security-Policy", policy)
        monkeypatch.setattr(demo, "CDN", cdn.rstrip("/"))
        monkeypatch.setattr(demo, "_install_libraries", lambda: False)
        demo.write_demo(tmp_path / "demo", [msinet.load(weights)], sample_photograph())
        with serving(tmp_path / "demo") as address:
            browser.open(address)
    assert browser.text("problem") == ""
    assert "/@tensorflow/tfjs-core@4.22.0/dist/tf-core.es2017.min.js" in Cdn.requested


def test_hashes_are_those_of_the_pinned_packages(node):
    libraries = json.loads((demo.DEMO_FOLDER / "libraries.json").read_text(encoding="utf-8"))
    pinned = json.loads((demo.DEMO_FOLDER / "package.json").read_text(encoding="utf-8"))["dependencies"]
    for library in libraries.values():
        assert pinned[library["package"]] == library["version"]
        contents = (demo.DEMO_FOLDER / "node_modules" / library["package"] / library["file"]).read_bytes()
        digest = base64.b64encode(hashlib.sha384(contents).digest()).decode()
        assert library["integrity"] == f"sha384-{digest}"


def test_lock_file_names_no_registry():
    lock = (demo.DEMO_FOLDER / "package-lock.json").read_text(encoding="utf-8")
    assert "http" not in lock and "resolved" not in lock and lock.count("sha512-") >= 6


def test_taken_port_is_a_clear_error_and_leaves_the_other_servers_folder(folder, weights, tmp_path, capsys):
    config = write(tmp_path / "demo" / "config.json", b"of the server that has the port")
    with demo.make_server(folder, 0) as server:
        port = str(server.server_address[1])
        flags = ["--port", port, "--no-browser", "--results", str(tmp_path)]
        assert main.main(["demo", "--weights", str(weights), *flags]) == 2
    assert port in capsys.readouterr().err
    assert [file.name for file in config.parent.iterdir()] == ["config.json"]
    assert config.read_bytes() == b"of the server that has the port"
