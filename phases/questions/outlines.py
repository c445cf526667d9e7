"""Outlines, names and shares drawn on photographs, legible on dark and on light ones, whatever their size."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_erosion

from ...attention.areas import Pixels
from ...attention.hot_spots import HotSpot

# Sides of a photograph to the thickness of lines and the height of letters.
LINE, LETTERS = 400, 40
LEAST_LETTERS = 11

# Yellow between black borders contrasts with everything.
INK, BORDER = (255, 220, 0), (0, 0, 0)


def draw_areas(photograph: Image.Image, areas: Mapping[str, Pixels], shares: Mapping[str, float]) -> Image.Image:
    """Outline areas, each with its name and share of attention, 0 to 1; a new RGB image of the same size."""
    image = photograph.convert("RGB")
    pixels = np.array(image)
    line = max(1, round(max(image.size) / LINE))
    for area in areas.values():
        for thickness, color in ((3 * line, BORDER), (2 * line, INK), (line, BORDER)):
            pixels[area.window][_border(area.inside, thickness)] = color
    image = Image.fromarray(pixels)
    _write(image, {f"{name}  {shares[name]:.0%}": (area.left, area.top) for name, area in areas.items()})
    return image


def draw_spots(photograph: Image.Image, spots: Sequence[HotSpot]) -> Image.Image:
    """Circle hot spots on a photograph, each with its rank and share; a new RGB image."""
    image = photograph.convert("RGB")
    draw, line = ImageDraw.Draw(image), max(1, round(max(image.size) / LINE))
    for spot in spots:
        radius = max(spot.radius, 4 * line)
        for width, inset, color in ((3 * line, 0, BORDER), (line, line, INK)):
            edge = radius - inset
            box = (spot.x - edge, spot.y - edge, spot.x + edge, spot.y + edge)
            draw.ellipse(box, outline=color, width=width)
    _write(image, {f"{i + 1}: {spot.share:.0%}": (int(spot.x), int(spot.y)) for i, spot in enumerate(spots)})
    return image


def side_by_side(first: Image.Image, second: Image.Image) -> Image.Image:
    """Two pictures next to each other at the height of the first, on gray."""
    height = first.height
    second = second.resize((max(1, round(second.width * height / second.height)), height))
    gap = max(2, round(max(first.size) / 100))
    both = Image.new("RGB", (first.width + gap + second.width, height), (128, 128, 128))
    both.paste(first, (0, 0))
    both.paste(second, (first.width + gap, 0))
    return both


def _border(inside: np.ndarray, thickness: int) -> np.ndarray:
    """The pixels of an area within `thickness` of its outside."""
    return inside & ~binary_erosion(np.pad(inside, 1), iterations=thickness)[1:-1, 1:-1]


def _write(image: Image.Image, labels: Mapping[str, tuple[int, int]]) -> None:
    """Write labels near positions (x, y), on plates that stay inside the image and do not cover each other."""
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(max(LEAST_LETTERS, round(max(image.size) / LETTERS)))
    taken: list[tuple[float, float, float, float]] = []
    for label, (x, y) in labels.items():
        left, top, right, bottom = draw.textbbox((0, 0), label, font=font)
        margin = max(1, (bottom - top) // 4)
        width, height = right - left + 2 * margin, bottom - top + 2 * margin
        x = max(0, min(x, int(image.width - width)))
        places = [max(0, min(y + step * height, image.height - height)) for step in (0, -1, 1, -2, 2, 3, -3, 4)]
        free = (place for place in places if not any(_cover((x, place, x + width, place + height), t) for t in taken))
        place = next(free, places[0])
        plate = (x, place, x + width, place + height)
        taken.append(plate)
        draw.rectangle(plate, fill=BORDER)
        draw.text((x + margin - left, place + margin - top), label, font=font, fill=INK)


def _cover(first: Sequence[float], second: Sequence[float]) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]
