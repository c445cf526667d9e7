"""The phase `crop`: files, formats, ratios and areas to keep."""

import numpy as np
import pytest
from conftest import exif
from PIL import Image, ImageCms
from test_questions_cli import HEAD, MAPS, SHAPE, areas, crop, record, run, table, work

import msinet
from msinet.attention.density import MEANING
from msinet.phases.questions.originals import save_crop


def test_crops_are_the_photographs_own_pixels(work, capsys):
    assert crop("--ratio", "1:1", "--ratio", "2:1", "--ratio", "1:1") == 0
    rows = table(work, "crops/crops.csv")
    files = [f"{name}_{ratio}.png" for name in MAPS for ratio in ("1x1", "2x1")]
    assert [row["file"] for row in rows] == files
    for row in rows:
        best = msinet.crop(MAPS[row["image"]], row["ratio"])
        assert (int(row["x"]), int(row["y"]), int(row["width"]), int(row["height"])) == (
            best.x, best.y, best.width, best.height,
        )  # fmt: skip
        assert float(row["share"]) == pytest.approx(best.share, rel=1e-4)
        assert float(row["center_share"]) == pytest.approx(best.center_share, rel=1e-4)
        original = np.asarray(Image.open(work / "photos" / f"{row['image']}.png"))
        cropped = np.asarray(Image.open(work / "results" / "crops" / row["file"]))
        np.testing.assert_array_equal(cropped, original[best.y : best.y + best.height, best.x : best.x + best.width])
    assert record(work, "crops/crops.json")["domain"] == "photographs"
    assert MEANING in capsys.readouterr().out


def test_crops_apply_the_orientation_and_keep_the_color_profile(work, photograph):
    pixels = photograph(*SHAPE)
    upright = Image.fromarray(pixels)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    stored.save("turned.jpg", quality=95, exif=exif(6), icc_profile=profile)
    assert run("crop", "-p", "turned.jpg", "--maps", "maps/a.npy") == 0
    (row,) = table(work, "crops/crops.csv")
    with Image.open(work / "results" / "crops" / "turned_1x1.jpg") as cropped:
        assert cropped.size == (40, 40) and cropped.info["icc_profile"] == profile
        assert cropped.getexif().get(0x0112, 1) == 1
        x = int(row["x"])
        assert np.abs(np.asarray(cropped).astype(int) - pixels[:, x : x + 40]).mean() < 8


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [("png", mode) for mode in ("RGBA", "L", "P", "1", "I;16")] + [("webp", "RGBA"), ("gif", "P"), ("bmp", "RGB")],
)
def test_crops_of_every_kind_of_file_are_reduced_to_a_size(work, photograph, mode, suffix):
    pixels = photograph(*SHAPE)
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 256)
    (deep if mode == "I;16" else Image.fromarray(pixels).convert(mode)).save(f"odd.{suffix}")
    assert run("crop", "-p", f"odd.{suffix}", "--maps", "maps/a.npy", "--ratio", "3:2", "--size", "30") == 0
    (row,) = table(work, "crops/crops.csv")
    with Image.open(work / "results" / "crops" / row["file"]) as cropped:
        assert cropped.size == (30, 20)
        assert row["file"] == ("odd_3x2.webp" if suffix == "webp" else "odd_3x2.png")
        values = np.asarray(cropped.convert("RGB") if cropped.mode in "P1" else cropped)
        assert len(np.unique(values)) > 50
    assert run("crop", "-p", f"odd.{suffix}", "--maps", "maps/a.npy", "--size", "3000") == 0
    with Image.open(work / "results" / "crops" / row["file"].replace("3x2", "1x1")) as cropped:
        assert cropped.size == (40, 40)


def test_crops_with_channels_that_png_does_not_store_become_rgb(tmp_path):
    original = Image.new("CMYK", (40, 20), (255, 0, 0, 0))
    original.info["icc_profile"] = b"of CMYK"
    assert save_crop(original, msinet.crop(np.ones((20, 40)), "1:1"), tmp_path, "a", None) == "a.png"
    with Image.open(tmp_path / "a.png") as cropped:
        assert cropped.getpixel((3, 3)) == (0, 255, 255) and "icc_profile" not in cropped.info


def test_areas_to_keep_are_never_cut_and_min_scale_allows_smaller_crops(work, areas):
    def box(*flags):
        assert crop("--ratio", "1:1", *flags) == 0
        return [(int(row["x"]), int(row["x"]) + int(row["width"])) for row in table(work, "crops/crops.csv")]

    assert box()[0][0] < 10 and box()[1][0] > 10
    kept = box("--keep", "logo:0,0,5,5", "--keep", "other:30,5,5,5")
    assert all(left == 0 for left, _ in kept)
    (work / "areas.csv").write_text(f"{HEAD}\na,edge,55,0,5,5\n", encoding="utf-8")
    assert box("--keep", "edge", "--areas", areas)[0][1] == 60
    left, right = box("--min-scale", "0.4")[0]
    assert right - left < 40
