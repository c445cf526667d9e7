"""From what the archives of the datasets hold to fixation maps, saliency maps and one table of fixations."""

import contextlib
import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from acquisition.gaze import gaussian_blur
from utils import DownloadError, parallel_map, whole_file


def convert(
    stimuli: Mapping[str, Path],
    folder: Path,
    raw: Path,
    reader: Callable[[Path], Mapping[str, Callable]],
    sigma: float | None,
) -> list[str]:
    """Make `fixations/`, `saliency/` and `fixations.csv` of a dataset. Maps that an earlier run has made stay.

    Args:
        stimuli: the photographs by name.
        folder: of the dataset.
        raw: folder with the raw files that `reader` reads.
        reader: see `readers`.
        sigma: of the Gaussian in pixels, or None where the archive has its own saliency maps.

    Returns:
        A sentence for each oddity of the archive.

    Raises:
        DownloadError: a file is damaged, or photographs and fixations are not of the same images.
        OSError: the disk is full, or the folder cannot be written to.
    """
    with _damage_reported(raw):
        fixations = reader(raw)
    _check_names(stimuli, fixations)

    def convert_one(name: str) -> tuple[str, np.ndarray, int, bool]:
        with _damage_reported(raw / name):
            points, size = fixations[name]()
        with _damage_reported(stimuli[name]), Image.open(stimuli[name]) as image:
            width, height = image.size  # As stored: CAT2000's Pattern/134.jpg has a wrong EXIF rotation.
        inside = (points[:, :2] >= 0).all(axis=1) & (points[:, 0] < width) & (points[:, 1] < height)
        write_maps(folder, name, points[inside], (height, width), sigma)
        return name, points[inside], int(np.count_nonzero(~inside)), size not in (None, (height, width))

    outside, resized = 0, []
    with whole_file(folder / "fixations.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "x", "y", "observer"])
        rows = parallel_map(convert_one, sorted(stimuli))
        bar = tqdm(rows, total=len(stimuli), unit="image", desc="Converting", leave=False, disable=None)
        for name, points, count, differs in bar:
            writer.writerows((name, *point) for point in points.tolist())
            outside += count
            resized += [name] if differs else []
    notes = [f"{outside} fixations are outside of their photographs and were left out."] if outside else []
    if resized:
        notes.append(
            f"The archive says another size than that of the photograph for {len(resized)} images, {resized[0]} among "
            f"them; their maps have the photograph's."
        )
    return notes


def write_maps(folder: Path, name: str, points: np.ndarray, size: tuple[int, int], sigma: float | None) -> None:
    """Write an image's binary fixation map, and its saliency map when a Gaussian is given; 8-bit PNG, 0 to 255."""
    paths = [folder / kind / f"{name}.png" for kind in ("fixations", "saliency")]
    fixations = np.zeros(size, np.uint8)  # (H, W)
    fixations[points[:, 1], points[:, 0]] = 255
    if not _is_there(paths[0]):
        _write_png(paths[0], fixations)
    if sigma and not _is_there(paths[1]):
        # As published, the binary map is blurred: what was fixated twice counts once.
        saliency = gaussian_blur(fixations / 255, sigma)
        _write_png(paths[1], np.round(255 * saliency / max(saliency.max(), 1e-12)).astype(np.uint8))


def _check_names(stimuli: Mapping, fixations: Mapping) -> None:
    missing, surplus = sorted(stimuli.keys() - fixations.keys()), sorted(fixations.keys() - stimuli.keys())
    complaints = [f"no fixations for {', '.join(missing[:5])}"] if missing else []
    complaints += [f"no photograph for the fixations of {', '.join(surplus[:5])}"] if surplus else []
    if complaints:
        raise DownloadError(
            f"Photographs and fixations are not of the same images: {'; '.join(complaints)} "
            f"({len(missing)} and {len(surplus)} in all)."
        )


def _is_there(path: Path) -> bool:
    """Whether an earlier run has written the file; an empty one is what a power failure leaves."""
    return path.exists() and path.stat().st_size > 0


def _write_png(path: Path, pixels: np.ndarray) -> None:
    with whole_file(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


@contextlib.contextmanager
def _damage_reported(path: Path) -> Iterator[None]:
    """Whatever goes wrong while a stranger's file is parsed is the file's fault."""
    try:
        yield
    except DownloadError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DownloadError(f"{path} is damaged, or not in the expected format ({reason}).") from error
