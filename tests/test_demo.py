"""The browser demo's page in headless Chromium: pictures, the camera, and the design."""

import matplotlib
import numpy as np
import pytest
import tensorflow as tf
from browser import LARGEST, NO_WEBGL, assert_same_map, expected_map
from conftest import exif, write
from PIL import Image

from msinet import images, main
from msinet.config import DEMO_SIZES
from msinet.geometry import fitted_size

# --- Pictures ---------------------------------------------------------------------------------------------------------


def test_the_example_is_predicted_at_once_like_test_predicts_it(page, network, sample):
    assert_same_map(page.gray_map(), expected_map(network, sample))
    assert page.text("backend").startswith("WebAssembly (SIMD") and page.text("problem") == ""
    assert page.text("milliseconds").endswith("s")


@pytest.mark.parametrize("shape", [(150, 200), (200, 133), (80, 333)], ids=["landscape", "portrait", "panorama"])
def test_map_of_an_uploaded_picture_equals_that_of_test_without_flags(page, weights, photograph, tmp_path, shape):
    source = write(tmp_path / "in" / "my picture.png", tf.io.encode_png(photograph(*shape, seed=5)))
    flags = ("--weights", str(weights), "--results", str(tmp_path), "--format", "png")
    assert main.main(["test", "-p", str(source), *flags]) == 0
    expected = images.decode_image(tf.io.read_file(str(tmp_path / "images" / "my picture.png")), 1).numpy()[..., 0]
    page.upload(source)
    page.wait(f"map.width === {shape[1]}")
    received = page.gray_map()
    assert_same_map(received, expected.astype(int))
    assert np.abs(received - expected).max() <= 2  # All decoders read the same pixels from a PNG, not from a JPEG.


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ((200, 133), ["48×64", "72×96", "120×160", "168×224", "240×320"]),
        ((80, 333), ["72×40", "112×64", "184×104", "256×144", "368×208"]),
    ],
    ids=["portrait", "panorama"],
)
def test_each_quality_predicts_in_the_pictures_shape_and_names_its_size(page, network, photograph, shape, names):
    image = photograph(*shape, seed=5)
    page.drop(image)
    page.wait(f"map.width === {shape[1]}")
    sizes = [fitted_size(shape, height * width) for height, width in DEMO_SIZES]
    found = page.get("[...document.querySelectorAll('#sizes label')].map(label => label.textContent)")
    assert found == [f"{width}×{height}" for height, width in sizes]
    for i, (height, width) in enumerate(sizes):
        page.choose_size(i)
        assert page.text("shape") == f"{width} × {height}"
        assert page.text("saved") == f"{shape[1]} × {shape[0]} pixels"
        assert_same_map(page.gray_map(), expected_map(network, image, DEMO_SIZES[i]))


def test_transparent_picture_that_is_pasted_is_seen_on_white(page, network, photograph):
    image, alpha = photograph(90, 90, seed=5), np.zeros((90, 90, 1), np.uint8)
    alpha[:45] = 255
    page.drop(np.concatenate([image, alpha], axis=2), paste=True)
    page.wait("map.width === 90")
    assert_same_map(page.gray_map(), expected_map(network, np.where(alpha, image, 255).astype(np.uint8)))


def test_picture_of_a_phone_is_upright(page, network, photograph, tmp_path):
    image, path = photograph(60, 90, seed=5), tmp_path / "phone.jpg"
    Image.fromarray(image).save(path, exif=exif(6), quality=100, subsampling=0)
    page.upload(path)
    page.wait("map.height === 90")
    expected = expected_map(network, np.rot90(image, -1))
    assert np.corrcoef(page.gray_map().ravel(), expected.ravel())[0, 1] > 0.99


def test_examples_and_several_pictures_are_a_click_away(page, photograph, tmp_path):
    shown = "[...document.querySelectorAll('.strip button')].findIndex((one) => one.ariaPressed === 'true')"
    assert page.get("strip.children.length") == 3 and page.get(shown) == 0
    page.click(".strip button:nth-child(2)")
    page.wait("map.width === 451")
    files = [write(tmp_path / f"{width}.png", tf.io.encode_png(photograph(40, width))) for width in (50, 60)]
    page.driver.find_element("id", "file").send_keys("\n".join(map(str, files)))
    page.wait("map.width === 50 && strip.children.length === 5")
    page.click(".strip button:nth-child(5)")
    page.wait("map.width === 60")
    assert page.get(shown) == 4 and page.get("photo.alt").endswith("60.png")


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


def test_glow_keeps_unsalient_areas_and_heat_blends_like_test(page, network, photograph):
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
    assert page.get("cameras.parentElement.hidden") and page.text("camera") == "Use the webcam"
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
