"""The browser demo's page in headless Chromium: pictures, the camera, and the design."""

import matplotlib
import numpy as np
import pytest
import tensorflow as tf
from browser import (
    LARGEST,
    NO_WEBGL,
    address,
    assert_same_map,
    browser,
    camera_film,
    expected_map,
    folder,
    live,
    network,
    node,
    page,
    sample,
    slow_address,
    start_browser,
    weights,
)
from conftest import write

from msinet import images, main
from msinet.config import DEMO_SIZES

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
