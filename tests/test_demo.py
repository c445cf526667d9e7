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
    assert_same_map(page.gray_map(), expected.astype(int))


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
    page.run("const blend = document.getElementById('blend'); blend.value = 50; blend.oninput()")
    overlay = page.save("#save-overlay", "holiday_overlay.png")
    page.click("input[value=gray]")
    assert_same_map(page.save("#save-map", "holiday_map.png")[..., 0], expected)
    assert np.mean(np.abs(overlay - images.blend(image, expected.astype(np.float32))) <= 4) >= 0.99


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
    live.click("#camera")
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


def test_software_webgl_is_used_only_on_request(start_browser, address, network, sample):
    with start_browser("--enable-unsafe-swiftshader") as page:
        page.open(address)
        page.wait_for_frames(1)
        assert page.run("return document.getElementById('backend').dataset.backend") == "wasm"
        page.click("#sizes input[value='1']")
        page.wait_for_size(DEMO_SIZES[1])
        page.run("backends.value = 'webgl'; backends.onchange()")
        page.wait("document.getElementById('backend').dataset.backend === 'webgl'")
        page.wait_for_frames(1)
        assert_same_map(page.gray_map(), expected_map(network, sample, DEMO_SIZES[1]))


def test_backend_that_does_not_run_here_is_named_and_replaced(browser, address):
    browser.open(address + "?backend=webgl")
    browser.wait_for_frames(1)
    assert browser.text("notice") == "WebGL does not run here."
    assert browser.run("return document.getElementById('backend').dataset.backend") == "wasm"


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
    for path in ("/network0/", "/tensorflow/", "/../secret", "/%2e%2e/secret", "/main.py", "/predict.mjs"):
        assert get(path).status == 404


def test_static_folder_works_on_any_web_server(browser, folder, network, sample):
    class Plain(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    with serving(folder, Plain) as address:
        browser.open(address)
        browser.wait_for_frames(1)
        assert_same_map(browser.gray_map(), expected_map(network, sample, (240, 320)))


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
    with serve.make_server(folder, 0) as server:
        port = str(server.server_address[1])
        arguments = ["demo", "--weights", str(weights), "--port", port, "--no-browser", "--results", str(tmp_path)]
        assert main.main(arguments) == 2
    assert port in capsys.readouterr().err


def test_every_control_has_a_name_and_takes_the_keyboard(page):
    nameless = page.run("""
        const controls = [...document.querySelectorAll('button, input, select')];
        return controls.filter(
            (control) => !(control.textContent.trim() || control.ariaLabel || control.labels?.[0]?.textContent.trim())
              || control.tabIndex < 0
        ).map((control) => control.outerHTML);
    """)
    assert nameless == []
