"""The browser demo's files: missing ones, backends, static hosting, and the command."""

import base64
import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from browser import (
    DEMO_SIZES,
    SOFTWARE_GPU,
    TINY_SIZE,
    Plain,
    assert_same_map,
    delayed,
    expected_map,
    serving,
    serving_changed,
    write_weights,
)
from conftest import write

import msinet
from msinet import bundled, checkpoint, geometry, images, main
from msinet.phases import demo
from msinet.phases.formats import node as node_packages
from msinet.photographs import sample_photograph
from msinet.utils import UserError


def read_config(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


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
    (folder / "config.json").write_text(json.dumps({**read_config(folder), "sizes": [TINY_SIZE] * len(DEMO_SIZES)}))
    script = (folder / "network.js").read_text(encoding="utf-8")
    script = script.replace('["wasm", "webgl", "webgpu"]', '["wasm", "webgl"]').replace("15_000", "150_000")
    (folder / "network.js").write_text(script, encoding="utf-8")
    return folder


def test_emulated_webgl_and_webgpu_are_used_only_on_request(software_gpu, tiny_folder, tiny, sample):
    with serving(tiny_folder) as address:
        software_gpu.open(address)
        software_gpu.wait("measured.textContent")
        assert software_gpu.text("measured").startswith("Measured at 32 × 24: WebGL ")
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


# --- The folder ----------------------------------------------------------------------------------------


def test_geometry_equals_that_of_test(node, tmp_path):
    script = """
        import { readFileSync, writeFileSync } from "node:fs";
        import { cropAndRestore, fittedSize, resizeAndPad } from "./geometry.js";
        const [folder, height, width, ...size] = process.argv.slice(1).map((x, i) => (i ? Number(x) : x));
        const read = (name) => new Uint8Array(readFileSync(`${folder}/${name}`));
        const write = (name, values) => writeFileSync(`${folder}/${name}`, new Uint8Array(values.buffer));
        write("padded", resizeAndPad({ data: read("image"), height, width }, size));
        write("restored", cropAndRestore(new Float32Array(read("map").buffer), size, height, width));
        write("fitted", Int32Array.from(fittedSize(height, width, size[0] * size[1])));
    """
    random = np.random.default_rng(0)
    for height, width, *size in (
        (600, 512, 240, 320), (480, 640, 48, 64), (61, 83, 240, 320), (240, 320, 240, 320), (100, 1000, 72, 96),
        (1000, 7, 72, 96), (120, 161, 120, 160), (5, 5, 48, 64), (1, 900, 168, 224), (340, 300, 120, 160),
    ):  # fmt: skip
        image = random.integers(0, 256, (height, width, 4), dtype=np.uint8)
        saliency = random.random((*size, 1), dtype=np.float32)
        image.tofile(tmp_path / "image")
        saliency.tofile(tmp_path / "map")
        numbers = [str(number) for number in (height, width, *size)]
        command = ["node", "--input-type=module", "--eval", script, "--", str(tmp_path), *numbers]
        subprocess.run(command, cwd=node_packages.DEMO_FOLDER, check=True)
        padded = np.fromfile(tmp_path / "padded", np.float32).reshape(*size, 3)
        fitted = np.fromfile(tmp_path / "fitted", np.int32)
        assert tuple(fitted) == geometry.fitted_size((height, width), size[0] * size[1])
        restored = np.fromfile(tmp_path / "restored", np.float32).reshape(height, width, 1)
        np.testing.assert_allclose(padded, images.resize_and_pad(image[..., :3], size, images.IMAGE_PADDING), atol=1e-3)
        np.testing.assert_allclose(restored, images.crop_and_restore(saliency, (height, width)), atol=1e-3)


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


def test_folder_has_only_the_pages_files_and_the_network_with_16_bits(folder, network):
    assert not [file.name for file in folder.iterdir() if file.suffix == ".mjs" or file.name.startswith("package")]
    floats = sum(values.size for values in network.arrays.values())
    shards = sum(file.stat().st_size for file in (folder / "network0").glob("*.bin"))
    assert shards == pytest.approx(2 * floats, rel=0.01)


def test_best_network_is_a_choice_next_to_the_lite_one(node, weights, tmp_path, monkeypatch):
    monkeypatch.setitem(bundled.BUNDLED, "lite", weights)
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
    assert rows[0]["name"] == "MSI-Net narrow" and rows[1]["bytes"] < rows[0]["bytes"]


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
