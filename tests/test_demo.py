"""The browser demo: its geometry in Node, its server, and the page itself in headless Chromium.

No test lets the browser resolve any name: all that the page needs comes from the loopback server of the test.
"""

import base64
import hashlib
import http.client
import http.server
import json
import shutil
import subprocess
import threading
import time
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
from phases import demo as serve
from phases.formats import node as node_packages
from utils import UserError

NO_WEBGL = ("--disable-gpu", "--disable-software-rasterizer")
SOFTWARE_GPU = (
    "--enable-unsafe-swiftshader", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan",
)  # fmt: skip
TINY_SIZE = (24, 32)
SLOW = "await new Promise((resolve) => setTimeout(resolve, 400));"
FAKE_CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


# --- What the tests stand on ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def node():
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    node_packages.install_node_packages()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A lite network with seeded weights, in a file."""
    network = model.build_model(width=0.25, seed=3)
    for i, variable in enumerate(v for v in network.weights if v.name == "bias"):
        variable.assign(np.random.default_rng(i).normal(0, 0.05, variable.shape))
    path = tmp_path_factory.mktemp("weights") / "lite.npz"
    np.savez(path, **checkpoint.arrays_of(network))
    return path


@pytest.fixture(scope="module")
def network(weights):
    return msinet.load(weights, input_size=(240, 320))


@pytest.fixture(scope="module")
def sample():
    """The sample photograph, uint8 (600, 512, 3)."""
    return images.decode_image(tf.io.read_file(str(main.sample_photograph())), 3).numpy()


@pytest.fixture(scope="module")
def folder(node, weights, tmp_path_factory):
    """The demo as `--static` writes it."""
    target = tmp_path_factory.mktemp("static") / "demo"
    assert main.main(["demo", "--weights", str(weights), "--static", str(target)]) == 0
    return target


@contextmanager
def serving(folder: Path, handler=serve.Handler):
    """Serve a folder as the command does, or with another handler; yields the address."""
    with serve.make_server(folder, 0, handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def address(folder):
    with serving(folder) as address:
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
    """The page, with the first map on it."""
    browser.open(address)
    browser.wait_for_frames(1)
    return browser


@pytest.fixture(scope="module")
def camera_film(tmp_path_factory, sample):
    """The sample photograph's middle as a film of one frame, 320×240, for the fake camera."""
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
    """The page in a browser, in the words of the tests."""

    def __init__(self, driver, downloads: Path):
        self.driver, self.downloads = driver, downloads

    def open(self, address):
        self.driver.get(address)

    def run(self, script):
        return self.driver.execute_script(script)

    def wait(self, condition: str, seconds: float = 180):
        """Wait until a JavaScript expression is true, and return its value."""
        end = time.monotonic() + seconds
        while not (value := self.run(f"return {condition}")):
            assert time.monotonic() < end, f"{condition} stayed false; the page says: {self.text('problem')}"
            time.sleep(0.05)
        return value

    def frames(self) -> int:
        return int(self.run("return document.getElementById('map').dataset.frames ?? 0"))

    def wait_for_frames(self, count: int):
        """Wait for so many more maps on the page."""
        self.wait(f"Number(document.getElementById('map').dataset.frames ?? 0) >= {self.frames() + count}")

    def wait_for_size(self, size):
        self.wait(f"document.getElementById('map').dataset.size === '{size[0]}x{size[1]}'")

    def click(self, selector: str):
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def text(self, name: str) -> str:
        return self.run(f"return document.getElementById('{name}').textContent").strip()

    def upload(self, path: Path):
        """Choose a file and wait for its map."""
        before = self.frames()
        self.driver.find_element("id", "file").send_keys(str(path))
        self.wait(f"Number(document.getElementById('map').dataset.frames) > {before}")

    def drop(self, *images: np.ndarray, name: str = "ABC", wait_ms: int = 0):
        """Drop images on the page, named by the letters of `name`, one after the other."""
        encoded = [base64.b64encode(tf.io.encode_png(image).numpy()).decode() for image in images]
        files = [[f"{letter}.png", contents] for letter, contents in zip(name, encoded, strict=False)]
        self.driver.execute_async_script(
            """
            const [files, milliseconds, done] = arguments;
            const make = ([name, contents]) => new File(
                [Uint8Array.from(atob(contents), (letter) => letter.charCodeAt(0))], name, {type: 'image/png'});
            const transfers = files.map((file) => {
                const transfer = new DataTransfer();
                transfer.items.add(make(file));
                return transfer;
            });
            const drop = () => {
                document.dispatchEvent(new DragEvent('drop', {dataTransfer: transfers.shift(), cancelable: true}));
                transfers.length ? setTimeout(drop, milliseconds) : done();
            };
            drop();
            """,
            files,
            wait_ms,
        )

    def emulate_phone(self, on: bool = True):
        """Be 390 by 844 points large, with a finger to point with; or as large as before, with a mouse."""
        self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": on})
        size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
        command = "Emulation.setDeviceMetricsOverride" if on else "Emulation.clearDeviceMetricsOverride"
        self.driver.execute_cdp_cmd(command, size if on else {})

    def violations(self) -> list[str]:
        """What axe-core finds wrong for people who cannot see, hear or point well."""
        axe = serve.DEMO_FOLDER / "node_modules" / "axe-core" / "axe.min.js"
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
        self.driver.find_element("css selector", button).click()  # Browsers want downloads to be the user's wish.
        for _ in range(200):
            if (self.downloads / name).exists():
                break
            time.sleep(0.05)
        return images.decode_image(tf.io.read_file(str(self.downloads / name)), 3).numpy().astype(int)

    def pixels(self, source: str, size: str) -> np.ndarray:
        """What an element shows, uint8 (H, W, 3); `size` is its size as a JavaScript expression."""
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
        self.click("input[value=gray]")
        self.wait("document.getElementById('map').dataset.style === 'gray'")
        return self.pixels("map", "[source.width, source.height]")[..., 0].astype(int)


def expected_map(network, image: np.ndarray, size) -> np.ndarray:
    """What `test` predicts for an image, rounded, int (H, W)."""
    padded = images.resize_and_pad(image, size, images.IMAGE_PADDING)[None]
    return np.round(images.crop_and_restore(network(padded)[0], image.shape[:2]).numpy()[..., 0]).astype(int)


@contextmanager
def serving_changed(folder: Path, target: Path, **replacements: tuple[str, str]):
    """Serve a copy of the demo in which scripts are changed: `worker=("old", "new")`; yields the address."""
    shutil.copytree(folder, target)
    for script, (old, new) in replacements.items():
        original = (target / f"{script}.js").read_text(encoding="utf-8")
        assert old in original
        (target / f"{script}.js").write_text(original.replace(old, new), encoding="utf-8")
    with serving(target) as address:
        yield address


@pytest.fixture(scope="module")
def slow_address(folder, tmp_path_factory):
    """The demo with a network that takes 400 ms longer."""
    target = tmp_path_factory.mktemp("slow") / "demo"
    with serving_changed(
        folder, target, worker=("  const maps = network", f"  {SLOW}\n  const maps = network")
    ) as address:
        yield address


def assert_same_map(received: np.ndarray, expected: np.ndarray):
    assert received.shape == expected.shape
    assert np.ptp(expected) > 100  # It is a map, and no even surface.
    assert np.mean(np.abs(received - expected) <= 2) >= 0.99


# --- Pictures ---------------------------------------------------------------------------------------------------------


def test_the_example_is_predicted_at_once_as_test_predicts_it(page, network, sample):
    assert_same_map(page.gray_map(), expected_map(network, sample, (240, 320)))
    assert page.text("backend").startswith("WebAssembly (SIMD") and page.text("problem") == ""
    assert page.text("milliseconds").endswith("s")


def test_uploaded_pictures_map_equals_that_of_test(page, weights, photograph, tmp_path):
    source = write(tmp_path / "in" / "my picture.png", tf.io.encode_png(photograph(150, 333, seed=5)))
    fixed = ("--weights", str(weights), "--results", str(tmp_path), "--format", "png")
    assert main.main(["test", "-p", str(source), *fixed]) == 0
    expected = images.decode_image(tf.io.read_file(str(tmp_path / "images" / "my picture.png")), 1).numpy()[..., 0]
    page.upload(source)
    received = page.gray_map()
    assert_same_map(received, expected.astype(int))
    assert np.abs(received - expected).max() <= 2  # A PNG has the same pixels for everyone; JPEG decoders differ.


def test_each_quality_button_changes_the_size(page, network, sample):
    for i, size in enumerate(DEMO_SIZES):
        page.click(f"#sizes input[value='{i}']")
        page.wait_for_size(size)
        assert page.text("shape") == f"{size[0]} × {size[1]} pixels"
        assert_same_map(page.gray_map(), expected_map(network, sample, size))
    names = page.run("return [...document.querySelectorAll('#sizes label')].map(label => label.textContent)")
    assert names == ["Very low", "Low", "Medium", "High", "Very high"]


def test_map_and_overlay_are_saved_at_the_pictures_own_size(page, network, photograph, tmp_path):
    image = photograph(150, 333, seed=5)
    page.upload(write(tmp_path / "holiday.png", tf.io.encode_png(image)))
    expected = expected_map(network, image, (240, 320))
    page.click("input[value=heat]")
    page.run("const blend = document.getElementById('blend'); blend.value = 50; blend.oninput()")
    overlay = page.save("#save-overlay", "holiday_overlay.png")
    page.click("input[value=gray]")
    assert_same_map(page.save("#save-map", "holiday_map.png")[..., 0], expected)
    assert np.mean(np.abs(overlay - images.blend(image, expected.astype(np.float32))) <= 4) >= 0.99


def test_glow_leaves_the_picture_where_nobody_would_look_and_heat_blends_as_test_does(page, network, photograph):
    image = photograph(60, 100, seed=5)
    page.drop(image)
    page.wait("document.getElementById('map').width === 100")
    values = page.pixels("map", "[100, 60]")  # RGB only: a glow's colours are those of the heat.
    assert page.run("return document.getElementById('map').dataset.style") == "glow"
    saliency = expected_map(network, image, (240, 320))
    colors = matplotlib.colormaps["inferno"](saliency, bytes=True)[..., :3].astype(float)
    page.run("const blend = document.getElementById('blend'); blend.value = 80; blend.oninput()")
    alpha = 0.8 * saliency[..., None] / 255
    glow = page.save("#save-overlay", "A_overlay.png")
    assert np.mean(np.abs(glow - (image * (1 - alpha) + colors * alpha)) <= 4) >= 0.99
    assert values.shape == image.shape
    page.click("input[value=heat]")
    page.wait("document.getElementById('map').dataset.style === 'heat'")
    assert page.run("return [blend.value, blend.ariaValueText]") == ["50", "50 % map, 50 % picture"]
    assert page.run("return getComputedStyle(document.getElementById('map')).opacity") == "0.5"
    page.click("input[value=glow]")
    page.wait("blend.value === '80'")


def test_what_was_chosen_last_is_shown_saved_and_named_however_slow_the_network(
    browser, slow_address, network, photograph
):
    browser.open(slow_address)
    browser.wait_for_frames(1)
    browser.run("""
        window.wrong = [];
        const watch = () => {
            const [map, photo] = ['map', 'photo'].map((id) => document.getElementById(id));
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
    assert_same_map(saved[..., 0], expected_map(network, second, (240, 320)))
    assert_same_map(browser.gray_map(), saved[..., 0])
    assert not list(browser.downloads.glob("A_map*"))
    browser.drop(second, first, second, name="CDE", wait_ms=150)  # The network is busy with one while others come.
    browser.wait(f"Number(document.getElementById('map').dataset.frames) > {before + 1}")
    browser.wait("document.getElementById('photo').alt.endsWith('E.png') && map.style.visibility === ''")
    assert_same_map(browser.gray_map(), saved[..., 0])
    assert browser.run("return window.wrong") == []


def test_save_before_the_first_map_waits_for_it(browser, slow_address, network, sample):
    browser.open(slow_address)
    browser.wait("!document.getElementById('downloads').hidden")
    assert browser.frames() == 0
    browser.click("input[value=gray]")
    saved = browser.save("#save-map", "example_map.png")
    assert_same_map(saved[..., 0], expected_map(network, sample, (240, 320)))
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
    page.wait("!document.getElementById('video').hidden")
    page.wait_for_frames(3)
    assert page.run("return [video.videoWidth, video.videoHeight, video.loop]") == [160, 90, True]
    assert page.text("rate").endswith("a second") and page.text("milliseconds").endswith("s")
    assert page.run("return getComputedStyle(map).transform") == "none"
    assert page.run("return document.getElementById('cameras').hidden") and page.text("camera") == "Use the webcam"
    page.drop(np.zeros((30, 50, 3), np.uint8))
    page.wait("document.getElementById('map').width === 50")
    assert page.run("return document.getElementById('video').src") == ""


def test_what_is_no_film_is_a_sentence_and_the_picture_stays(page, tmp_path):
    page.driver.find_element("id", "file").send_keys(str(write(tmp_path / "film.webm", b"no film")))
    page.wait("!document.getElementById('problem').hidden")
    assert "no video that this browser can play" in page.text("problem")
    page.wait("document.getElementById('map').height === 600")


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_picture_can_be_dropped_and_pasted(page, photograph, way):
    encoded = base64.b64encode(tf.io.encode_png(photograph(40, 90)).numpy()).decode()
    event = {
        "drop": "new DragEvent('drop', {dataTransfer: transfer, cancelable: true})",
        "paste": "new ClipboardEvent('paste', {clipboardData: transfer})",
    }[way]
    page.run(f"""
        const bytes = Uint8Array.from(atob('{encoded}'), letter => letter.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], 'new.png', {{type: 'image/png'}}));
        document.dispatchEvent({event});
    """)
    page.wait("document.getElementById('map').width === 90")


def test_view_style_and_blend_change_what_is_seen(page):
    opacity = "return getComputedStyle(document.getElementById('map')).opacity"
    page.run("const blend = document.getElementById('blend'); blend.value = 20; blend.oninput()")
    assert page.run(opacity) == "0.2"
    page.click("input[value=beside]")
    assert page.run(opacity) == "1"
    left, right = page.run("return ['seen', 'map'].map(id => document.getElementById(id).getBoundingClientRect().left)")
    assert right > left + 100
    page.wait("document.getElementById('map').dataset.style === 'heat'")
    heat = page.pixels("map", "[source.width, source.height]")
    gray = page.gray_map()
    np.testing.assert_array_equal(heat, matplotlib.colormaps["inferno"](gray, bytes=True)[..., :3])


def test_what_is_no_picture_is_a_sentence_and_the_last_map_stays(page, tmp_path):
    page.driver.find_element("id", "file").send_keys(str(write(tmp_path / "text.png", b"no picture")))
    page.wait("!document.getElementById('problem').hidden")
    assert "no picture that this browser can read" in page.text("problem")
    page.click("#sizes input[value='0']")
    page.wait_for_size(DEMO_SIZES[0])


# --- The camera -------------------------------------------------------------------------------------------------------


@pytest.fixture
def live(page):
    """The page with a map of the camera's picture on it."""
    page.click("#camera")
    page.wait("document.getElementById('panes').hasAttribute('data-mirrored')")
    page.wait_for_frames(2)
    return page


def test_live_map_is_that_of_the_cameras_frame(live, network, sample):
    frame = live.pixels("video", "[source.videoWidth, source.videoHeight]")
    original = sample[100:340, 100:420]
    resized = tf.image.resize(frame, (240, 320), "area").numpy()
    assert np.abs(resized - original).mean() < 8  # It is the film, but for the camera's loss of colour.
    live.click("#sizes input[value='4']")
    live.wait_for_size((240, 320))
    received = live.gray_map()
    padded = images.resize_and_pad(frame, (240, 320), images.IMAGE_PADDING)[None]
    assert_same_map(received, np.round(255 * network(padded).numpy()[0, ..., 0]).astype(int))


def test_live_picture_and_map_are_mirrored_alike_and_only_on_the_page(live):
    transforms = "return ['seen', 'map'].map(id => getComputedStyle(document.getElementById(id)).transform)"
    assert live.run(transforms) == ["matrix(-1, 0, 0, 1, 0, 0)"] * 2
    live.click("#camera")
    live.wait("document.getElementById('video').hidden")
    assert live.run(transforms) == ["none"] * 2


def test_rear_camera_is_not_mirrored(page):
    page.run("""
        const {getSettings} = MediaStreamTrack.prototype;
        MediaStreamTrack.prototype.getSettings = function () {
            return {...getSettings.call(this), facingMode: 'environment'};
        };
    """)
    page.click("#camera")
    page.wait("!document.getElementById('video').hidden")
    page.wait_for_frames(2)
    assert page.run("return getComputedStyle(document.getElementById('map')).transform") == "none"


def test_paused_camera_heeds_the_quality_buttons(live):
    live.click("#pause")
    for quality in (0, 1):
        live.click(f"#sizes input[value='{quality}']")
        live.wait_for_size(DEMO_SIZES[quality])
    assert live.text("pause") == "Go on" and live.run("return document.getElementById('video').paused")


def test_camera_shows_rate_and_choice_and_can_pause(live):
    live.wait_for_frames(3)
    assert live.text("rate").endswith("a second")
    assert live.run("return document.getElementById('cameras').length") >= 1
    live.click("#pause")
    time.sleep(1)
    before = live.frames()
    time.sleep(0.5)
    assert live.frames() == before
    live.click("#pause")
    live.wait_for_frames(2)


def test_leaving_the_camera_returns_to_the_picture(live):
    assert live.text("camera") == "Stop the webcam"
    live.click("#camera")
    assert live.text("camera") == "Use the webcam"
    overlay = live.save("#save-overlay", "example_overlay.png")  # At once, before its map is there again.
    assert overlay.shape == (600, 512, 3) and live.text("problem") == ""
    live.wait("document.getElementById('map').height === 600")
    assert live.run("return document.getElementById('video').srcObject") is None


def test_page_stays_responsive_and_memory_constant_while_the_network_runs(live):
    live.click("#sizes input[value='4']")
    live.wait_for_size((240, 320))
    live.run("""
        window.longest = 0;
        new PerformanceObserver(list => list.getEntries().forEach(
            entry => { window.longest = Math.max(window.longest, entry.duration); }
        )).observe({type: 'longtask'});
    """)
    live.wait_for_frames(5)
    duration = float(live.run("return document.getElementById('map').dataset.milliseconds"))
    live.click("#sizes input[value='0']")
    live.wait_for_size(DEMO_SIZES[0])
    tensors = "return document.getElementById('map').dataset.tensors"
    before = live.run(tensors)
    live.wait_for_frames(50)
    assert live.run(tensors) == before
    # Where other programs take the processor, all takes longer; a network on the page's thread would take it all.
    assert live.run("return window.longest") <= max(200, duration / 2)


def test_without_a_camera_the_page_says_so(start_browser, address):
    with start_browser(*NO_WEBGL, "--use-fake-ui-for-media-stream") as page:
        page.open(address)
        page.click("#camera")
        page.wait("!document.getElementById('problem').hidden")
        assert "No camera was found" in page.text("problem")
        page.wait_for_frames(1)


def test_when_the_camera_is_denied_the_page_says_so(start_browser, address):
    with start_browser(*NO_WEBGL, "--use-fake-device-for-media-stream", "--deny-permission-prompts") as page:
        page.open(address)
        page.click("#camera")
        page.wait("!document.getElementById('problem').hidden")
        assert "camera was not allowed" in page.text("problem")


# --- What may be missing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.json", "group1-shard1of1.bin"])
def test_missing_weights_are_a_sentence(browser, folder, tmp_path, name):
    copy = tmp_path / "demo"
    shutil.copytree(folder, copy)
    (copy / "network0" / name).unlink()
    with serving(copy) as address:
        browser.open(address)
        browser.wait("!document.getElementById('problem').hidden")
        assert "weights are missing" in browser.text("problem")


def test_changed_library_is_refused(browser, folder, tmp_path):
    copy = tmp_path / "demo"
    shutil.copytree(folder, copy)
    with (copy / "tensorflow" / "tf-core.es2017.min.js").open("a") as file:
        file.write("// changed")
    with serving(copy) as address:
        browser.open(address)
        browser.wait("!document.getElementById('problem').hidden")
        assert "is not the file it should be" in browser.text("problem")


def test_without_webassembly_the_page_computes_in_javascript_and_says_so(browser, folder, tmp_path, network, sample):
    copy = tmp_path / "demo"
    shutil.copytree(folder, copy)
    for script in ("page.js", "worker.js"):
        original = (copy / script).read_text(encoding="utf-8")
        (copy / script).write_text("delete globalThis.WebAssembly;\n" + original, encoding="utf-8")
    with serving(copy) as address:
        browser.open(address)
        browser.wait_for_frames(1)
        assert "no WebAssembly" in browser.text("notice")
        assert browser.run("return document.getElementById('backend').dataset.backend") == "cpu"
        assert_same_map(browser.gray_map(), expected_map(network, sample, DEMO_SIZES[0]))


@pytest.fixture(scope="module")
def software_gpu(start_browser):
    """A browser with a GPU that is emulated in software, which takes seconds for a map."""
    with start_browser(*SOFTWARE_GPU) as page:
        page.driver.set_script_timeout(180)
        yield page


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A network that such a GPU can compute."""
    path = tmp_path_factory.mktemp("weights") / "tiny.npz"
    np.savez(path, **checkpoint.arrays_of(model.build_model(width=0.125, seed=1)))
    return msinet.load(path, input_size=TINY_SIZE)


@pytest.fixture(scope="module")
def tiny_folder(node, tiny, tmp_path_factory):
    """The demo of that network, at tiny sizes only, and without measuring WebGPU, which starts slowly in software."""
    folder = tmp_path_factory.mktemp("tiny") / "demo"
    serve.write_demo(folder, [tiny], main.sample_photograph())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["sizes"] = [TINY_SIZE for _ in DEMO_SIZES]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    script = (folder / "network.js").read_text(encoding="utf-8")
    script = script.replace('["wasm", "webgl", "webgpu"]', '["wasm", "webgl"]').replace("15_000", "150_000")
    (folder / "network.js").write_text(script, encoding="utf-8")
    return folder


BACKEND = "document.getElementById('backend').dataset.backend"


def test_software_webgl_is_used_only_on_request(software_gpu, tiny_folder, tiny, sample):
    with serving(tiny_folder) as address:
        software_gpu.open(address)
        software_gpu.wait("document.getElementById('measured').textContent")
        assert software_gpu.text("measured").startswith("Measured at 24 × 32: WebGL ")
        assert software_gpu.text("measured").count(" ms") + software_gpu.text("measured").count(" s") == 2
        assert software_gpu.run(f"return {BACKEND}") == "wasm"
        software_gpu.run("backends.value = 'webgl'; backends.onchange()")
        software_gpu.wait(f"{BACKEND} === 'webgl'")
        software_gpu.wait_for_frames(1)
        assert_same_map(software_gpu.gray_map(), expected_map(tiny, sample, TINY_SIZE))


def test_backend_that_is_measured_to_be_faster_takes_over(software_gpu, tiny_folder, tmp_path, tiny, sample):
    maps = "  const maps = network"
    slow_wasm = f"  if (tf.getBackend() === 'wasm') {SLOW.replace('400', '5000')}\n{maps}"
    with serving_changed(tiny_folder, tmp_path / "demo", worker=(maps, slow_wasm)) as address:
        software_gpu.open(address)
        software_gpu.wait_for_frames(1)
        assert software_gpu.run(f"return {BACKEND}") == "wasm"
        software_gpu.wait(f"{BACKEND} === 'webgl'")
        software_gpu.click("#sizes input[value='0']")
        software_gpu.wait_for_frames(1)
        assert_same_map(software_gpu.gray_map(), expected_map(tiny, sample, TINY_SIZE))


def test_webgpu_gives_the_same_map(software_gpu, tiny_folder, tiny):
    height, width = TINY_SIZE
    with serving(tiny_folder) as address:
        software_gpu.open(address + "?backend=wasm")
        answer = software_gpu.driver.execute_async_script(f"""
            const done = arguments[0];
            const predict = async () => {{
                if (!(await navigator.gpu?.requestAdapter())) {{
                    return null;
                }}
                const {{Network}} = await import('./network.js');
                const network = new Network();
                const config = await (await fetch('config.json')).json();
                await network.load(config, config.networks[0], ['webgpu']);
                const photograph = await (await fetch('example.jpg')).blob();
                const [resizeWidth, resizeHeight] = [{width}, {height}];
                const small = await createImageBitmap(photograph, {{resizeWidth, resizeHeight}});
                const context = new OffscreenCanvas({width}, {height}).getContext('2d');
                context.drawImage(small, 0, 0);
                const pixels = context.getImageData(0, 0, {width}, {height}).data;
                const content = {{source: small, size: [{height}, {width}], style: 'gray', live: true}};
                const {{result}} = await network.ask('predict', content, [small]);
                return [network.backend, [...pixels], [...result.values]];
            }};
            predict().then(done, (error) => done(String(error)));
        """)
    if answer is None:
        pytest.skip("WebGPU does not start in this Chromium: untried")
    backend, pixels, values = answer
    image = np.array(pixels, np.uint8).reshape(*TINY_SIZE, 4)[..., :3]
    expected = np.round(255 * tiny(image[None].astype(np.float32)).numpy()[0, ..., 0]).astype(int)
    assert backend == "webgpu"
    assert_same_map(np.array(values).reshape(TINY_SIZE), expected)


def test_backend_that_does_not_run_here_is_named_and_replaced(browser, address):
    browser.open(address + "?backend=webgl")
    browser.wait_for_frames(1)
    assert browser.text("notice") == "WebGL does not run here."
    assert browser.run("return document.getElementById('backend').dataset.backend") == "wasm"


def test_backend_whose_file_is_missing_is_named_with_it(browser, folder, tmp_path):
    copy = tmp_path / "demo"
    shutil.copytree(folder, copy)
    (copy / "tensorflow" / "tf-backend-cpu.es2017.min.js").unlink()
    with serving(copy) as address:
        browser.open(address + "?backend=cpu")
        browser.wait_for_frames(1)
    assert browser.text("notice") == (
        "JavaScript cannot be used: tensorflow/tf-backend-cpu.es2017.min.js is missing (404)."
    )
    assert browser.run("return document.getElementById('backend').dataset.backend") == "wasm"


def test_backend_that_cannot_be_fetched_leaves_the_one_that_works(browser, folder, tmp_path, weights):
    serve.write_demo(tmp_path / "demo", [msinet.load(weights)], main.sample_photograph())
    with serving(tmp_path / "demo") as address:
        browser.open(address)
        browser.wait_for_frames(1)
    browser.run("backends.value = 'cpu'; backends.onchange()")
    browser.wait("!document.getElementById('problem').hidden")
    assert "cannot be fetched (offline?)" in browser.text("problem")
    assert browser.run("return [backends.value, backend.dataset.backend]") == ["wasm", "wasm"]
    browser.click("#sizes input[value='0']")
    browser.wait_for_size(DEMO_SIZES[0])


# --- Design -----------------------------------------------------------------------------------------------------------


def test_no_words_are_cut_or_wrapped(page):
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
    for name in ("network", "backend"):
        assert page.run(f"return {name}.scrollWidth <= {name}.clientWidth")
    assert page.text("network") == "lite: lite.npz"
    assert page.run(cut) == []
    page.emulate_phone()
    try:
        assert page.run(cut) == []
    finally:
        page.emulate_phone(False)


@pytest.mark.parametrize("shape", [(60, 90), (90, 60)], ids=["landscape", "portrait"])
def test_phone_has_room_for_fingers_and_the_controls_on_the_first_screen(page, shape):
    page.emulate_phone()
    try:
        page.drop(np.zeros((*shape, 3), np.uint8))
        page.wait(f"document.getElementById('map').width === {shape[1]}")
        for view in ("beside", "over"):
            page.click(f"input[value={view}]")
            places = """
                return ['#camera', '#choose', '#sizes', 'input[name=view]', 'input[name=style]', '#blend', '#map']
                    .map((name) => document.querySelector(name).getBoundingClientRect().bottom);
            """
            assert max(page.run(places)) <= 844
        assert page.run("return document.documentElement.scrollWidth") <= 390
        small = """
            const kinds = 'button, select, summary, .choices label, input[type=range]';
            const targets = [...document.querySelectorAll(kinds)];
            return targets.filter((target) => target.checkVisibility() && target.getBoundingClientRect().height < 44)
                .map((target) => target.outerHTML);
        """
        page.run("document.querySelector('details').open = true")
        assert page.run(small) == []
        assert not page.run("return document.querySelector('.hint').checkVisibility()")  # Fingers drop nothing.
    finally:
        page.emulate_phone(False)
    assert page.run("return document.querySelector('.hint').checkVisibility()")


def test_axe_finds_nothing_in_any_state(page):
    page.run("document.querySelector('details').open = true")
    assert page.violations() == []
    page.click("input[value=beside]")
    page.run("document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: new DataTransfer()}))")
    page.driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    assert page.violations() == []
    page.click("#camera")
    page.wait("document.getElementById('panes').hasAttribute('data-mirrored')")
    page.click("#pause")
    page.emulate_phone()
    try:
        assert page.violations() == []
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        page.run("document.getElementById('notice').hidden = false; notice.textContent = 'WebGL does not run here.'")
        page.run("document.getElementById('problem').hidden = false; problem.textContent = 'No camera was found.'")
        assert page.violations() == []
    finally:
        page.emulate_phone(False)


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
        "/network0/",
        "/tensorflow/",
        "/../secret",
        "/%2e%2e/secret",
        "/main.py",
        "/predict.mjs",
        "/config.json%00.html",
        "/%ff",
    ):
        assert get(path).status == 404


def test_static_folder_works_on_any_web_server(browser, folder, network, sample):
    with serving(folder, Plain) as address:
        browser.open(address)
        browser.wait_for_frames(1)
        assert_same_map(browser.gray_map(), expected_map(network, sample, (240, 320)))


class Plain(http.server.SimpleHTTPRequestHandler):
    """Any web server: no headers of ours."""

    def log_message(self, *arguments):
        pass


def test_browsers_that_leave_early_are_no_trouble(folder, capfd):
    with serve.make_server(folder, 0) as server:
        for error, words in ((ConnectionResetError("gone"), ""), (ZeroDivisionError("a fault"), "a fault")):
            try:
                raise error
            except Exception:
                server.handle_error(None, ("127.0.0.1", 1))
            written = capfd.readouterr().err
            assert words in written and bool(words) == bool(written)


def test_static_folder_works_behind_a_path_and_in_a_frame(browser, folder, tmp_path, network, sample):
    shutil.copytree(folder, tmp_path / "site" / "saliency")
    with serving(tmp_path / "site", Plain) as address:
        frames = "".join(f"<iframe id={name} src={address}saliency/ {rights} width=800 height=700></iframe>"
                         for name, rights in (("with", "allow=camera"), ("without", "")))  # fmt: skip
        write(tmp_path / "blog" / "index.html", f"<!doctype html>{frames}".encode())
        with serving(tmp_path / "blog", Plain) as blog:
            browser.open(blog)
            browser.driver.switch_to.frame("with")
            browser.wait_for_frames(1)
            assert_same_map(browser.gray_map(), expected_map(network, sample, (240, 320)))
            browser.click("#camera")
            browser.wait("document.getElementById('panes').hasAttribute('data-mirrored')")
            browser.driver.switch_to.default_content()
            browser.driver.switch_to.frame("without")
            browser.wait("document.getElementById('map').dataset.frames")
            browser.click("#camera")
            browser.wait("!document.getElementById('problem').hidden")
            assert 'its frame needs allow="camera"' in browser.text("problem")
            browser.open("about:blank")


def test_static_folder_opens_offline_on_the_second_visit(browser, folder, tmp_path, network, sample):
    shutil.copytree(folder, tmp_path / "saliency")
    with serving(tmp_path, Plain) as address:
        browser.open(f"{address}saliency/")
        browser.wait_for_frames(1)
        browser.driver.execute_async_script("navigator.serviceWorker.ready.then(() => arguments[0]())")
        browser.open("about:blank")
    browser.open(f"{address}saliency/?backend=wasm")
    browser.wait_for_frames(1)
    assert_same_map(browser.gray_map(), expected_map(network, sample, (240, 320)))
    browser.run("backends.value = 'cpu'; backends.onchange()")
    browser.wait("document.getElementById('backend').dataset.backend === 'cpu'")


def test_served_page_is_not_kept_offline_and_static_keeps_its_first_network_only(folder, weights, tmp_path):
    both = [msinet.load(weights), msinet.load(weights)]
    for offline in (False, True):
        serve.write_demo(tmp_path / "demo", both, main.sample_photograph(), offline=offline)
        config = json.loads((tmp_path / "demo" / "config.json").read_text(encoding="utf-8"))
        assert ("offline" in config) == offline
    assert {"config.json", "index.html", "network0/model.json"} < set(config["offline"])
    assert not [name for name in config["offline"] if name.startswith("network1/")]


def test_folder_of_something_else_is_never_replaced(node, weights, tmp_path, capsys):
    kept = write(tmp_path / "mine" / "thesis.txt", b"years of work")
    assert main.main(["demo", "--weights", str(weights), "--static", str(kept.parent)]) == 2
    assert "did not write" in capsys.readouterr().err
    assert kept.read_bytes() == b"years of work"


def test_lite_network_needs_at_most_4_megabytes(folder):
    assert sum(file.stat().st_size for file in (folder / "network0").iterdir()) <= 4e6


def test_best_network_is_a_choice_beside_the_lite_one(node, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "LITE_PATH", weights)
    narrow = tmp_path / "narrow.npz"
    np.savez(narrow, **checkpoint.arrays_of(model.build_model(width=0.125, seed=1)))
    choices = [checkpoint.Choice(weights, "lite"), checkpoint.Choice(narrow, "best")]
    monkeypatch.setattr(
        checkpoint, "choose_weights", lambda data, weights=None, results=None: choices[0 if weights == "lite" else 1]
    )
    networks = serve.choose_networks("salicon", None, tmp_path)
    assert [network.weights for network in networks] == choices
    assert [network.weights for network in serve.choose_networks("salicon", str(narrow), tmp_path)] == choices[1:]
    serve.write_demo(tmp_path / "demo", networks, main.sample_photograph())
    config = json.loads((tmp_path / "demo" / "config.json").read_text(encoding="utf-8"))
    assert [network["url"] for network in config["networks"]] == ["network0/model.json", "network1/model.json"]
    assert (
        config["networks"][0]["name"] == "lite: lite.npz"
        and config["networks"][1]["bytes"] < config["networks"][0]["bytes"]
    )


def test_without_npm_libraries_come_from_the_cdn_with_their_hashes(weights, tmp_path, monkeypatch, capsys):
    def no_npm():
        raise UserError("TensorFlow.js needs npm.")

    monkeypatch.setattr(serve, "install_node_packages", no_npm)
    serve.write_demo(tmp_path / "demo", [msinet.load(weights)], main.sample_photograph())
    libraries = json.loads((tmp_path / "demo" / "config.json").read_text(encoding="utf-8"))["libraries"]
    assert libraries["tf-core"]["url"] == f"{serve.CDN}/@tensorflow/tfjs-core@4.22.0/dist/tf-core.es2017.min.js"
    assert all(row["integrity"].startswith("sha384-") for row in libraries.values())
    assert not (tmp_path / "demo" / "tensorflow").exists()
    assert "needs npm" in capsys.readouterr().out


def test_page_computes_with_libraries_from_another_server(browser, node, weights, tmp_path, monkeypatch):
    class Cdn(http.server.SimpleHTTPRequestHandler):
        """Serves the installed packages, under the addresses and with the headers that a CDN has."""

        requested: ClassVar = []

        def translate_path(self, path):
            self.requested.append(path)
            return super().translate_path(path.replace("@4.22.0", ""))

        def end_headers(self):
            self.send_header("Access-Control-Allow-Origin", "*")
            super().end_headers()

        def log_message(self, *arguments):
            pass

    with serving(serve.DEMO_FOLDER / "node_modules", Cdn) as cdn:
        policy = serve.HEADERS["Content-Security-Policy"].replace(f"{serve.CDN}/", cdn)
        monkeypatch.setitem(serve.HEADERS, "Content-Security-Policy", policy)
        monkeypatch.setattr(serve, "CDN", cdn.rstrip("/"))
        monkeypatch.setattr(serve, "_install_libraries", lambda: False)
        serve.write_demo(tmp_path / "demo", [msinet.load(weights)], main.sample_photograph())
        with serving(tmp_path / "demo") as address:
            browser.open(address)
            browser.wait_for_frames(1)
    assert browser.text("problem") == ""
    assert "/@tensorflow/tfjs-core@4.22.0/dist/tf-core.es2017.min.js" in Cdn.requested


def test_hashes_are_those_of_the_pinned_packages(node):
    libraries = json.loads((serve.DEMO_FOLDER / "libraries.json").read_text(encoding="utf-8"))
    pinned = json.loads((serve.DEMO_FOLDER / "package.json").read_text(encoding="utf-8"))["dependencies"]
    for library in libraries.values():
        assert pinned[library["package"]] == library["version"]
        contents = (serve.DEMO_FOLDER / "node_modules" / library["package"] / library["file"]).read_bytes()
        digest = base64.b64encode(hashlib.sha384(contents).digest()).decode()
        assert library["integrity"] == f"sha384-{digest}"


def test_lock_file_names_no_registry():
    lock = (serve.DEMO_FOLDER / "package-lock.json").read_text(encoding="utf-8")
    assert "http" not in lock and "resolved" not in lock and lock.count("sha512-") >= 6


def test_taken_port_is_a_clear_error(folder, weights, tmp_path, capsys):
    config = write(tmp_path / "demo" / "config.json", b"of the server that has the port")
    with serve.make_server(folder, 0) as server:
        port = str(server.server_address[1])
        arguments = ["demo", "--weights", str(weights), "--port", port, "--no-browser", "--results", str(tmp_path)]
        assert main.main(arguments) == 2
    assert port in capsys.readouterr().err
    assert [file.name for file in config.parent.iterdir()] == ["config.json"]
    assert config.read_bytes() == b"of the server that has the port"


def test_every_control_has_a_name_and_takes_the_keyboard(page):
    nameless = page.run("""
        const controls = [...document.querySelectorAll('button, input, select')];
        return controls.filter(
            (control) => !(control.textContent.trim() || control.ariaLabel || control.labels?.[0]?.textContent.trim())
              || control.tabIndex < 0
        ).map((control) => control.outerHTML);
    """)
    assert nameless == []
