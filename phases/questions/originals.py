"""Crops at a photograph's full resolution, upright, with its color profile."""

from pathlib import Path

from PIL import Image, ImageOps

from ...attention.crops import Crop
from ...image_files import Unreadable, open_image, read_header, why_unreadable
from .maps import Mapped, check_size

# Formats that crops are written in, by that of the photograph. Others become PNG.
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16")
QUALITY = 95


def open_original(item: Mapped) -> Image.Image:
    """The photograph with its EXIF orientation applied; `format` and the color profile are those of the file.

    Raises:
        Unreadable, UserError: it is damaged, or its map has another size.
    """
    header = read_header(item.file)
    try:
        with open_image(item.file) as file:
            original = ImageOps.exif_transpose(file)
        original.format = header.format
    except (OSError, ValueError, SyntaxError) as error:
        raise Unreadable(why_unreadable(item.file, error)) from error
    check_size(item, original)
    return original


def save_crop(original: Image.Image, box: Crop, folder: Path, name: str, side: int | None) -> str:
    """Write a crop in the photograph's own format; returns the file's name below the folder.

    `name` has no suffix and may contain subfolders. The longer side is reduced to `side`; None keeps all pixels.
    """
    picture = original.crop((box.x, box.y, box.x + box.width, box.y + box.height))
    if side and max(picture.size) > side:
        if picture.mode in ("P", "1"):  # Neighboring numbers of a palette are not neighboring colors.
            picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
        width, height = (max(1, round(length * side / max(picture.size))) for length in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    suffix, profile = SUFFIXES.get(original.format or "", ".png"), original.info.get("icc_profile")
    if suffix == ".png" and picture.mode not in PNG_MODES:
        picture, profile = picture.convert("RGB"), None  # The profile describes the former channels.
    path = folder / f"{name}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, icc_profile=profile, quality=QUALITY)  # PNG has no quality.
    return path.relative_to(folder).as_posix()
