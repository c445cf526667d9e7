"""Image files without TensorFlow: names, headers, orientation, and pixels as Pillow decodes them."""

import functools
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .config import MAX_PIXELS
from .utils import UserError

JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")
IMAGE_SUFFIXES = (*JPEG_SUFFIXES, ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".avif", ".heic", ".heif")
# Maps are often binary, so formats that only serve for photographs are left out.
MAP_SUFFIXES = (*JPEG_SUFFIXES, ".png", ".bmp", ".tif", ".tiff")
# Pillow's names, the optional ones last.
IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "AVIF", "HEIF")
MAP_FORMATS = ("JPEG", "PNG", "BMP", "TIFF")

# Values of `--orientation`: as the EXIF tag says, or as the pixels are stored.
UPRIGHT, STORED = "upright", "stored"
ORIENTATION_TAG = 0x0112

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Unreadable(Exception):
    """An image file that cannot be read; the message says why in a few words, without the file's name."""


# --- Headers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Header:
    """The header of an image file.

    Attributes:
        size: height and width of the image as it is used, that is after `turn`.
        format: Pillow's name.
        orientation: how the decoded pixels must be turned, as a value of the EXIF tag; 1 for not at all.
        transparent: whether there may be transparent pixels.
    """

    size: tuple[int, int]
    format: str
    orientation: int = 1
    transparent: bool = False


def read_header(
    file: Path,
    formats: tuple[str, ...] = IMAGE_FORMATS,
    most_pixels: int = MAX_PIXELS,
    orientation: str = UPRIGHT,
) -> Header:
    """Read the header of an image file. Every image file is checked here before it is decompressed.

    Args:
        file: a regular file. Pipes and devices, which may never end, are rejected.
        formats: Pillow's names of the accepted formats.
        most_pixels: larger images are rejected, because a file of a few bytes may claim any size.
        orientation: UPRIGHT or STORED.

    Raises:
        Unreadable: the file is rejected; the message says why.
    """
    if file.exists() and not file.is_file():
        raise Unreadable("not a regular file")
    try:
        with open_image(file, formats) as image:
            tag = orientation_tag(image)
            # A JPEG of several pictures, as some phones write, is an MPO for Pillow.
            name = "JPEG" if image.format == "MPO" else image.format or ""
            size, transparent = (image.height, image.width), image.has_transparency_data
    except Unreadable:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if not (found := _read_png_header(file, error)):
            raise Unreadable(why_unreadable(file, error)) from error
        name, size, tag, transparent = "PNG", *found
    code = tag if orientation == UPRIGHT else 1
    if name == "TIFF":  # Pillow turns these files itself, and has already swapped the sides.
        code = 1 if orientation == UPRIGHT else {6: 8, 8: 6}.get(tag, tag)  # the inverse
    height, width = size[::-1] if code >= 5 else size
    if height * width > most_pixels:
        raise Unreadable(f"{width}×{height} pixels, expected at most {most_pixels}: shrink it, or raise --max-pixels")
    return Header((height, width), name, code, transparent)


def image_size(file: Path, formats: tuple[str, ...] = IMAGE_FORMATS, orientation: str = UPRIGHT) -> tuple[int, int]:
    """Height and width of an image, from the file's header; a `UserError` if it cannot be read as one of `formats`."""
    try:
        return read_header(file, formats, orientation=orientation).size
    except Unreadable as error:
        raise UserError(f"{file}: {error}. Expected {' or '.join(formats)}.") from error


@contextmanager
def open_image(file: Path, formats: tuple[str, ...] = IMAGE_FORMATS) -> Iterator[Image.Image]:
    """Open an image file with Pillow. HEIC is read if the package pillow-heif is installed."""
    try:
        image = _open(file, tuple(name for name in formats if name != "HEIF"))
    except (Image.UnidentifiedImageError, KeyError):  # KeyError: this Pillow has no AVIF, the last format.
        if "HEIF" not in formats or _container_of(file) != "HEIC":
            raise Image.UnidentifiedImageError(str(file)) from None
        _register_heif()
        image = _open(file, ("HEIF",))
    with image:
        yield image


def _open(file: Path, formats: tuple[str, ...]) -> Image.Image:
    with _silenced():
        return Image.open(file, formats=formats)


@contextmanager
def _silenced() -> Iterator[None]:
    """Without Pillow's warnings about damaged metadata, and about many pixels, which `read_header` checks."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


@functools.cache
def _register_heif() -> None:
    try:
        import pillow_heif
    except ImportError:
        raise Unreadable("HEIC: install pillow-heif (python -m pip install pillow-heif)") from None
    pillow_heif.register_heif_opener()


def orientation_tag(image: Image.Image) -> int:
    """The EXIF orientation of an opened image, 1 to 8, without decoding it."""
    try:
        with _silenced():
            # The method of PNG files would decode the pixels, to search for the tag behind them.
            tag = Image.Image.getexif(image).get(ORIENTATION_TAG, 1)
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, struct.error):
        return 1  # The metadata is damaged, but not the image.
    return tag if tag in range(1, 9) else 1


def _read_png_header(file: Path, error: Exception) -> tuple[tuple[int, int], int, bool] | None:
    """Size, orientation and transparency of a PNG whose text or color profile is too long for Pillow, else None."""
    if not isinstance(error, ValueError) or isinstance(error, Image.DecompressionBombError) or not file.exists():
        return None
    with file.open("rb") as png:
        start = png.read(33)
        if start[:8] != PNG_SIGNATURE or len(start) < 33:
            return None
        width, height, _, color = struct.unpack(">IIBB", start[16:26])
        transparent = color in (4, 6)
        while len(chunk := png.read(8)) == 8 and chunk[4:] != b"IDAT":
            transparent |= chunk[4:] == b"tRNS"
            png.seek(int.from_bytes(chunk[:4], "big") + 4, 1)
    return ((height, width), 1, transparent) if width and height else None


# --- Pixels -----------------------------------------------------------------------------------------------------------


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels, (H, W, ...), as a value of the EXIF orientation says; a view."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels[::-1] if orientation in (3, 4, 7, 8) else pixels


def read_pixels(file: Path) -> np.ndarray:
    """Decode an image file with Pillow: the first frame, without `turn`; uint8 (H, W, 3)."""
    with open_image(file) as image:
        return to_rgb(image)


def to_rgb(image: Image.Image) -> np.ndarray:
    """The pixels of a Pillow image of any mode, without `turn`, on white where it is transparent; uint8 (H, W, 3).

    Values of more than 8 bits are scaled: 0 to 65535 by keeping the upper 8 bits as for PNG, 0 to 1 by 255.

    Raises:
        Unreadable: the values have no known scale.
    """
    tiles = getattr(image, "tile", None)
    extents = tiles[0][1] if image.format == "GIF" and tiles else None
    if image.mode.startswith(("I", "F")):
        return np.repeat(_to_eight_bits(np.asarray(image))[..., None], 3, axis=2)
    if image.has_transparency_data:
        # Pillow has no direct conversion from La.
        rgb = on_white(np.asarray((image.convert("LA") if image.mode == "La" else image).convert("RGBA")))
    else:
        rgb = np.asarray(image.convert("RGB"))
    if extents and tuple(extents) != (0, 0, *image.size):  # The first frame covers only a part of the GIF's canvas.
        left, top, right, bottom = extents
        canvas = np.full_like(rgb, 255)
        canvas[top:bottom, left:right] = rgb[top:bottom, left:right]
        return canvas
    return rgb


def as_pixels(photograph: np.ndarray | Image.Image, orientation: str = UPRIGHT) -> np.ndarray:
    """RGB pixels of a photograph in memory, uint8 (H, W, 3); see `network.Network.predict`.

    Raises:
        UserError: the dtype or shape is wrong.
    """
    if isinstance(photograph, Image.Image):
        image, photograph = photograph, to_rgb(photograph)
        photograph = turn(photograph, orientation_tag(image) if orientation == UPRIGHT else 1)
    pixels = np.asarray(photograph)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or 0 in pixels.shape:
        raise UserError(
            f"received an array of {pixels.dtype} {pixels.shape}, expected uint8, 0 to 255, of shape (height, width, "
            f"3), or (height, width) for grayscale"
        )
    if pixels.shape[2] == 4:
        return on_white(pixels)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def on_white(pixels: np.ndarray) -> np.ndarray:
    """Composite RGBA, uint8 (H, W, 4), on white: uint8 (H, W, 3). Opaque pixels stay exactly as they are."""
    rgb, alpha = pixels[..., :3], pixels[..., 3:]
    if alpha.size and alpha.min() == 255:
        return rgb
    weight = alpha.astype(np.uint16)
    return ((rgb * weight + 255 * (255 - weight) + 127) // 255).astype(np.uint8)  # at most 65152


def _to_eight_bits(values: np.ndarray) -> np.ndarray:
    """Values of 16 or 32 bits, or floats, as uint8."""
    if values.dtype.itemsize == 2:
        return (values >> 8).astype(np.uint8)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not 0 <= low <= high <= 65535:  # not for NaN
        raise Unreadable(f"values from {low:g} to {high:g}, expected 0 to 1, 0 to 255 or 0 to 65535")
    if values.dtype.kind == "f" and high <= 1:
        return np.round(values * 255).astype(np.uint8)
    return (values if high <= 255 else values // 256).astype(np.uint8)


def read_gray(file: Path, formats: tuple[str, ...] = MAP_FORMATS) -> np.ndarray:
    """A map's values at full depth, (H, W), 0 to 255 for 8 bits and as stored for more; transparency is dropped."""
    with open_image(file, formats) as image:
        if image.mode.startswith(("I", "F")):
            return np.asarray(image)
        return np.asarray(image.convert("RGB").convert("L") if image.mode != "L" else image)


# --- Why a file cannot be read ----------------------------------------------------------------------------------------

SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    PNG_SIGNATURE: "PNG",
    b"GIF8": "GIF",
    b"RIFF": "WebP",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
OTHER_FILES = {
    b"<!doctype html": "an HTML page",
    b"<html": "an HTML page",
    b"%pdf": "a PDF file",
    b"<svg": "an SVG drawing",
    b"<?xml": "an XML file",
    b"version https://git-lfs": "a pointer of Git LFS",
    b"pk\x03\x04": "a ZIP archive",
}


def why_unreadable(file: Path, error: Exception) -> str:
    """Why a file could not be read as an image, in a few words; `error` is the exception of the attempt."""
    if not file.exists():
        return "no such file"
    size = file.stat().st_size
    if size == 0:
        return "the file is empty"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, Image.DecompressionBombError):
        return "more pixels than Pillow's limit"
    try:
        with file.open("rb") as contents:
            start = contents.read(512)
            contents.seek(max(0, size - 64))
            end = contents.read()
    except OSError:
        return "not a readable image, or damaged"
    text = start.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    for beginning, kind in OTHER_FILES.items():
        if text.startswith(beginning):
            return f"{kind} named {file.suffix or file.name}, not an image"
    if _container_of(file) == "AVIF" and "AVIF" not in Image.OPEN:
        return "AVIF: needs Pillow 11.3 or later"
    known = next((name for signature, name in SIGNATURES.items() if start.startswith(signature)), "")
    cut = (known == "JPEG" and b"\xff\xd9" not in end) or (known == "PNG" and b"IEND" not in end)
    cut |= known == "WebP" and int.from_bytes(start[4:8], "little") + 8 > size
    if cut or (known and "truncated" in str(error).lower()):
        kept = f"{size / 1000:.0f} kB" if size >= 1000 else f"{size} bytes"
        return f"damaged: truncated after {kept}"
    return "not a readable image, or damaged"


def _container_of(file: Path) -> str:
    """HEIC or AVIF, which share a container and differ in its brand; "" for other files."""
    try:
        with file.open("rb") as contents:
            start = contents.read(12)
    except OSError:
        return ""
    if start[4:8] != b"ftyp":
        return ""
    if start[8:12] in (b"avif", b"avis"):
        return "AVIF"
    heic = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
    return "HEIC" if start[8:12] in heic else ""
