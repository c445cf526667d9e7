"""Image files as people have them: every format and mode, orientation, transparency, and why a file cannot be read."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
from conftest import exif, write
from PIL import Image, ImageOps, PngImagePlugin

from msinet import image_files, images
from msinet.image_files import STORED, UPRIGHT, Unreadable, as_pixels, read_header, to_rgb

HEIGHT, WIDTH = 32, 64
SECTORS = [(224, 32, 32), (32, 224, 32), (32, 32, 224), (224, 224, 32)]


@pytest.fixture
def corners():
    """A picture whose four quarters have four colors, so every orientation of it differs."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for i, color in enumerate(SECTORS):
        y, x = (i // 2) * HEIGHT // 2, (i % 2) * WIDTH // 2
        pixels[y : y + HEIGHT // 2, x : x + WIDTH // 2] = color
    return Image.fromarray(pixels)


def read(path, orientation=UPRIGHT) -> np.ndarray:
    header = read_header(path, orientation=orientation)
    pixels = np.asarray(images.read_image(path, header))
    assert pixels.shape == (*header.size, 3) and pixels.dtype == np.uint8
    return pixels


# --- Orientation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_photographs_are_turned_as_their_exif_tag_says(corners, tmp_path, orientation, suffix):
    path = tmp_path / f"a.{suffix}"
    corners.save(path, exif=exif(orientation), **({"lossless": True} if suffix == "webp" else {}))
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)
    assert np.abs(read(path) - expected).mean() < 6
    assert np.abs(read(path, STORED) - np.asarray(corners).astype(int)).mean() < 6
    with Image.open(path) as image:
        assert np.abs(as_pixels(image) - expected).mean() < 6


def test_damaged_metadata_does_not_hide_the_image(corners, tmp_path):
    corners.save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    np.testing.assert_array_equal(read(tmp_path / "a.png"), np.asarray(corners))


# --- Formats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_bmp_files_of_any_depth_have_the_pixels_of_pillow(corners, tmp_path, mode):
    image = corners.convert(mode)
    image.save(tmp_path / "a.bmp")
    np.testing.assert_array_equal(read(tmp_path / "a.bmp"), np.asarray(image.convert("RGB")))


def test_first_frame_of_a_gif_is_composed_on_its_canvas_in_white(tmp_path):
    frame = Image.new("P", (8, 6), 1)
    frame.putpalette([255, 0, 0, 0, 0, 255])
    frame.putpixel((0, 0), 0)
    buffer = io.BytesIO()
    frame.save(buffer, "GIF", transparency=0)
    contents = bytearray(buffer.getvalue())
    contents[6:10] = struct.pack("<HH", 20, 10)  # The canvas is larger than the frame.
    pixels = read(write(tmp_path / "a.gif", bytes(contents)))
    assert pixels.shape == (10, 20, 3)
    assert pixels[0, 0].tolist() == pixels[0, 8].tolist() == pixels[9, 19].tolist() == [255, 255, 255]
    assert pixels[5, 7].tolist() == [0, 0, 255]


def test_only_the_first_frame_of_an_animation_is_decoded(tmp_path):
    frames = [Image.new("L", (8, 8), value) for value in (200, 10, 100)]
    for suffix in ("gif", "webp", "png"):
        path = tmp_path / f"a.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
        if suffix == "gif":
            path.write_bytes(path.read_bytes()[:-30] + b"damaged behind the first frame")
        assert read(path).min() == read(path).max() == 200


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "tif", "avif", "heic"])
def test_further_formats_are_read(corners, tmp_path, suffix):
    if suffix == "heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    corners.save(tmp_path / f"a.{suffix}")
    assert np.abs(read(tmp_path / f"a.{suffix}") - np.asarray(corners).astype(int)).mean() < 6


def test_png_with_more_text_than_pillow_accepts_is_read(corners, tmp_path):
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    image = corners.copy()
    image.putalpha(Image.new("L", corners.size, 0))
    image.save(tmp_path / "a.png", pnginfo=text)
    with pytest.raises(ValueError, match="too large"), Image.open(tmp_path / "a.png") as opened:
        opened.load()
    assert read(tmp_path / "a.png").min() == 255  # It is transparent everywhere.


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_transparent_photographs_are_composited_on_white(corners, tmp_path, suffix):
    image = corners.copy()
    image.putalpha(Image.linear_gradient("L").resize(corners.size))
    white = Image.new("RGBA", corners.size, "white")
    expected = np.asarray(Image.alpha_composite(white, image).convert("RGB")).astype(int)
    image.save(tmp_path / f"a.{suffix}", **({"lossless": True, "exact": True} if suffix == "webp" else {}))
    for pixels in (read(tmp_path / f"a.{suffix}"), as_pixels(image), as_pixels(np.asarray(image))):
        assert np.abs(pixels - expected).max() <= 1
    opaque = np.dstack([np.asarray(corners), np.full((HEIGHT, WIDTH), 255, np.uint8)])
    np.testing.assert_array_equal(as_pixels(opaque), np.asarray(corners))


def test_palette_with_a_transparent_color_is_composited_on_white(corners, tmp_path):
    image = corners.quantize(4)
    image.info["transparency"] = image.getpixel((0, 0))
    image.save(tmp_path / "a.png")
    for pixels in (read(tmp_path / "a.png"), to_rgb(image)):
        assert pixels[0, 0].tolist() == [255, 255, 255] and pixels[0, -1].tolist() == list(SECTORS[1])


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I", "F"])
def test_values_of_more_than_8_bits_are_scaled_like_the_same_png_file(tmp_path, mode):
    values = np.linspace(0, 65535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    dtype = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4", "F": "<f4"}[mode]
    image = Image.frombytes(mode, (WIDTH, HEIGHT), values.astype(dtype).tobytes())
    np.testing.assert_array_equal(to_rgb(image), read(tmp_path / "a.png"))
    np.testing.assert_array_equal(read(tmp_path / "a.png")[..., 0], values >> 8)


def test_floats_from_0_to_1_and_from_0_to_255_are_scaled_and_others_rejected():
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    assert to_rgb(Image.fromarray(values)).max() == 255
    np.testing.assert_array_equal(to_rgb(Image.fromarray(np.round(values * 255)))[..., 0], np.round(values * 255))
    with pytest.raises(Unreadable, match=r"values from -1 to 0, expected 0 to 1, 0 to 255 or 0 to 65535"):
        to_rgb(Image.fromarray(values - 1))


# --- Maps -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_maps_of_16_bits_are_read_at_full_depth(tmp_path, suffix):
    values = np.arange(256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    np.testing.assert_allclose(images.read_map(tmp_path / f"a.{suffix}"), values / 257, rtol=1e-6)
    Image.fromarray(values.astype(np.uint8)).save(tmp_path / f"b.{suffix}")
    np.testing.assert_array_equal(images.read_map(tmp_path / f"b.{suffix}"), values)


# --- Why a file cannot be read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "contents", "reason"),
    [
        ("a.jpg", b"\n<!DOCTYPE html><html>", "an HTML page named .jpg, not an image"),
        ("a.png", b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS named .png, not an image"),
        ("a.jpg", b"%PDF-1.7 " + bytes(99), "a PDF file named .jpg, not an image"),
        ("a.jpg", b"", "the file is empty"),
        ("a.jpg", b"some text", "not a readable image, or damaged"),
    ],
)
def test_files_that_are_not_images_are_described(tmp_path, name, contents, reason):
    with pytest.raises(Unreadable) as error:
        read(write(tmp_path / name, contents))
    assert str(error.value) == reason


def test_heic_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    image_files._register_heif.cache_clear()
    with pytest.raises(Unreadable, match="HEIC: install pillow-heif"):
        read(write(tmp_path / "a.heic", b"\0\0\0\x18ftypheic" + bytes(99)))


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "bmp"])
def test_truncated_files_say_after_how_many_bytes(tmp_path, suffix):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8))
    noise.save(tmp_path / "whole", {"jpg": "JPEG"}.get(suffix, suffix))
    path = write(tmp_path / f"a.{suffix}", (tmp_path / "whole").read_bytes()[:12_300])
    with pytest.raises(Unreadable, match=r"damaged: truncated after 12 kB"):
        read(path)


def test_checksum_of_a_png_is_not_needed_to_tell_it_is_whole(corners, tmp_path):
    corners.save(tmp_path / "a.png")
    contents = (tmp_path / "a.png").read_bytes()
    position = contents.index(b"IDAT") + 8
    broken = contents[:position] + bytes([contents[position] ^ 0xFF]) + contents[position + 1 :]
    assert zlib.crc32(broken) != zlib.crc32(contents)
    with pytest.raises(Unreadable, match="not a readable image, or damaged"):
        read(write(tmp_path / "a.png", broken))
