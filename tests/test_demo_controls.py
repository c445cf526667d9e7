"""The browser demo's page in headless Chromium: areas, values, the slider, outputs, and the design."""

import numpy as np
import pytest

from msinet.attention.regions import regions

# --- Questions --------------------------------------------------------------------------------------------------------


def drag(page, start, end, pointer="mouse"):
    """Drag between two points of the picture, in shares of its sides."""
    page.driver.execute_script("""
        const [start, end, pointerType] = arguments;
        panes.setPointerCapture = () => {};
        const box = map.getBoundingClientRect();
        const send = (type, [x, y]) => map.dispatchEvent(new PointerEvent(type, {bubbles: true, pointerType,
            clientX: box.left + x * box.width, clientY: box.top + y * box.height}));
        send('pointerdown', start);
        send('pointermove', end);
        send('pointerup', end);
    """, list(start), list(end), pointer)  # fmt: skip


def test_area_shows_its_share_and_lift_by_mouse_keyboard_and_touch(page, photograph):
    page.drop(photograph(60, 100, seed=5))
    page.wait("map.width === 100")
    saliency = page.gray_map()

    def expected():
        sides = page.get("['left', 'top', 'width', 'height'].map((side) => Number(window[`area-${side}`].value))")
        (region,) = regions(saliency, {"area": sides})
        return sides, f"{100 * region.share_of_attention:.0f} % of the attention on ", f"lift {region.lift:.2f}."

    drag(page, (0.2, 0.1), (0.7, 0.9))
    sides, share, lift = expected()
    assert sides == pytest.approx([20, 6, 50, 48], abs=1)
    assert page.text("answer").startswith(share) and page.text("answer").endswith(lift)
    for side, value in (("left", 30), ("width", 65)):  # As the keyboard does it.
        page.run(f"window['area-{side}'].value = {value}; window['area-{side}'].onchange()")
    sides, share, lift = expected()
    assert sides[0] == 30 and sides[2] == 65
    assert page.text("answer").startswith(share) and page.text("answer").endswith(lift)
    drag(page, (0.5, 0.5), (0.5, 0.5))  # A click.
    assert page.get("box.hidden && sides.hidden") and page.text("answer") == "Drag over the picture."
    drag(page, (0.2, 0.1), (0.7, 0.9), "touch")
    assert page.get("box.hidden")  # The finger scrolls the page, until an area exists.
    page.click("#mark")
    assert expected()[0] == [25, 15, 50, 30]
    drag(page, (0.2, 0.1), (0.5, 0.9), "touch")
    sides, share, lift = expected()
    assert sides[2] == pytest.approx(30, abs=1)
    assert page.text("answer").startswith(share) and page.text("answer").endswith(lift)


def test_value_under_the_pointer_is_that_of_the_map(page, photograph):
    page.drop(photograph(60, 100, seed=5))
    page.wait("map.width === 100")
    saliency = page.gray_map()
    drag(page, (0.305, 0.505), (0.305, 0.505))
    assert page.text("reading") == f"x 30, y 30: {saliency[30, 30] / 255:.2f} of 1"


def test_line_between_picture_and_map_follows_the_slider_and_the_pointer(page):
    page.click("input[value=slider]")
    clip = "getComputedStyle(map).clipPath"
    assert page.get(clip) == "inset(0px 0px 0px 50%)"
    drag(page, (0.5, 0.5), (0.25, 0.5))
    assert page.get(clip) == "inset(0px 0px 0px 25%)" and page.get("blend.value") == "75"
    page.set_blend(10)
    assert page.get(clip) == "inset(0px 0px 0px 90%)"
    page.click("input[value=over]")
    assert page.get("blend.value") == "90" and page.get(clip) == "none"


def test_reset_restores_the_example_and_all_settings(page, photograph):
    before = page.get("[...document.querySelectorAll('form input:not([type=number])')].map((one) => one.checked)")
    page.drop(photograph(40, 90))
    page.wait("map.width === 90")
    page.choose_size(0)
    page.click("input[value=beside]")
    page.choose_style("gray")
    page.set_blend(10)
    page.click("#mark")
    page.run("problem.hidden = false; problem.textContent = 'A problem.'")
    page.click("#start-over")
    page.wait("map.height === 600")
    after = page.get("[...document.querySelectorAll('form input:not([type=number])')].map((one) => one.checked)")
    assert after == before and page.get("[blend.value, problem.hidden, box.hidden]") == ["90", True, True]


# --- Outputs ----------------------------------------------------------------------------------------------------------


def test_picture_with_its_map_is_copied_and_shared(page, photograph):
    permissions = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    page.driver.execute_cdp_cmd("Browser.grantPermissions", permissions)
    page.drop(photograph(40, 90))
    page.wait("map.width === 90")
    page.driver.find_element("id", "copy").click()
    page.wait("copy.textContent === 'Copied'")
    size = page.driver.execute_async_script("""
        const done = arguments[0];
        const read = async () => createImageBitmap(await (await navigator.clipboard.read())[0].getType('image/png'));
        read().then(({width, height}) => done([width, height]), (error) => done(error.message));
    """)
    assert size == [90, 40]
    page.run("""
        navigator.canShare = () => true;
        navigator.share = async ({files}) => { window.shared = [files[0].name, files[0].size > 100]; };
        share.click();
    """)
    page.wait("window.shared")
    assert page.get("window.shared") == ["A_overlay.png", True]


def test_recorded_video_plays_on_the_page(live):
    live.click("#record")
    assert live.text("record") == "Stop and save"
    live.wait_for_frames(3)
    live.driver.find_element("id", "record").click()
    saved = live.until(lambda: [*live.downloads.glob("camera_overlay.*[4m]")], "no video was saved")
    live.upload(saved[0])
    live.wait("video.src && video.videoWidth")
    assert live.get("[video.videoWidth / video.videoHeight, problem.hidden]") == [pytest.approx(4 / 3), True]
    live.wait_for_frames(1)


# --- Design, phones and accessibility ---------------------------------------------------------------------------------


def test_no_text_is_cut_or_wrapped(page):
    cut = """
        const kinds = '.choices span, .primary span, .row button, .actions button, .legend';
        const fields = [...document.querySelectorAll(kinds)];
        return fields.filter((field) => {
            const range = document.createRange();
            range.selectNodeContents(field);
            const text = range.getBoundingClientRect();
            const box = field.closest('label, button, p').getBoundingClientRect();
            const line = 1.6 * parseFloat(getComputedStyle(field).fontSize);
            return text.left < box.left || text.right > box.right || text.height > line;
        }).map((field) => field.textContent);
    """
    assert page.get("[network, backend].every((field) => field.scrollWidth <= field.clientWidth)")
    assert page.text("network") == "MSI-Net narrow (narrow.npz)"
    assert page.run(cut) == []
    for size in ((390, 844), (320, 568)):
        with page.on_phone(*size):
            assert page.run(cut) == []
            assert page.get("document.documentElement.scrollWidth") <= size[0]
            assert page.get("Math.min(map.clientWidth, map.clientHeight)") > 170


def test_message_covers_the_picture_and_moves_nothing(page):
    places = "[...document.querySelectorAll('.controls *, .actions *')].map((one) => one.getBoundingClientRect().top)"
    before = page.get(places)
    page.run("problem.hidden = false; problem.textContent = 'Something went wrong. '.repeat(20)")
    assert page.get(places) == before
    page.click("#dismiss")
    assert page.get("problem.hidden")


def test_chosen_segment_is_the_lightest_in_both_themes(page):
    light = """
        const sum = (color) => color.match(/[0-9.]+/g).slice(0, 3).map(Number).reduce((a, b) => a + b);
        const chosen = document.querySelector('input[name=view]:checked + span');
        return sum(getComputedStyle(chosen).backgroundColor) >
            sum(getComputedStyle(chosen.closest('.choices')).backgroundColor) + 20;
    """
    for scheme in ("dark", "light"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        assert page.run(light)
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("shape", [(60, 90), (90, 60)], ids=["landscape", "portrait"])
def test_phone_shows_the_main_controls_on_the_first_screen_large_enough_for_fingers(page, shape):
    hint = "document.querySelector('.sources + .hint').checkVisibility()"
    with page.on_phone():
        page.drop(np.zeros((*shape, 3), np.uint8))
        page.wait(f"map.width === {shape[1]}")
        for view in ("beside", "over"):
            page.click(f"input[value={view}]")
            bottoms = """
                ['#camera', '#choose', '#sizes', 'input[name=view]', 'input[name=style]', '#blend', '#map', '#save-map']
                    .map((name) => document.querySelector(name).getBoundingClientRect().bottom)
            """
            assert max(page.get(bottoms.strip())) <= 844
        assert page.get("document.documentElement.scrollWidth") <= 390
        page.run("document.querySelector('details').open = true")
        small = """
            const kinds = 'button, select, summary, .choices label, input[type=range], input[type=number]';
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
