"""The browser demo's page in headless Chromium: design, phones, and accessibility."""

import numpy as np
import pytest
from browser import (
    address,
    browser,
    camera_film,
    folder,
    live,
    node,
    page,
    sample,
    start_browser,
    weights,
)


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
    assert page.text("network") == "MSI-Net lite (lite.npz)"
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
