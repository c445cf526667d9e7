"""From the raw files of an archive to fixation maps, saliency maps and one table of fixations."""

import contextlib
import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ..progress import ProgressBar
from ..utils import DownloadError, name_some, parallel_map, whole_file
from .readers import Reading


def convert(stimuli: Mapping[str, Path], folder: Path, reader: Callable[[Path], Reading], sigma: float | None) -> None:
    """Make `fixations/`, `saliency/` and `fixations.csv` of a dataset. Maps of an earlier run are kept.

    Oddities of the archive are printed.

    Args:
        stimuli: the photographs by name.
        folder: of the dataset.
        reader: reads the raw files in its folder `raw`, see `readers`.
        sigma: of the Gaussian in pixels, or None if the archive has its own saliency maps.

    Raises:
        DownloadError: a file is damaged, or photographs and fixations belong to different images.
        OSError: the disk is full, or the folder is not writable.
    """
    raw = folder / "raw"
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
        for name, points, count, differs in ProgressBar(rows, total=len(stimuli), unit="image", desc="Converting"):
            writer.writerows((name, *point) for point in points.tolist())
            outside += count
            resized += [name] if differs else []
    if outside:
        print(f"{outside} fixations are outside their photographs and were skipped.")
    if resized:
        print(
            f"The archive states another size than the photograph's for {len(resized)} images, such as {resized[0]}; "
            f"their maps have the photograph's size."
        )


def write_maps(folder: Path, name: str, points: np.ndarray, size: tuple[int, int], sigma: float | None) -> None:
    """Write an image's binary fixation map, and its saliency map if a sigma is given; 8-bit PNG, 0 to 255."""
    paths = [folder / kind / f"{name}.png" for kind in ("fixations", "saliency")]
    fixations = np.zeros(size, np.uint8)  # (H, W)
    fixations[points[:, 1], points[:, 0]] = 255
    if not _is_there(paths[0]):
        _write_png(paths[0], fixations)
    if sigma and not _is_there(paths[1]):
        # As published, the binary map is blurred: a pixel that was fixated twice counts once.
        saliency = gaussian_blur(fixations / 255, sigma)
        _write_png(paths[1], np.round(255 * saliency / max(saliency.max(), 1e-12)).astype(np.uint8))


def gaussian_blur(counts: np.ndarray, sigma: float) -> np.ndarray:
    """Blur a map of fixations. Every saliency map made of fixations is a multiple of the result.

    Args:
        counts: number of fixations of each pixel, float32 or float64, (H, W).
        sigma: standard deviation in pixels.

    Returns:
        The result of `scipy.ndimage.gaussian_filter` up to rounding, with the dtype of `counts`, (H, W).
    """
    from scipy.ndimage import gaussian_filter1d

    # Few rows have a fixation. Blurring only those, and spreading them over the others with one matrix product, takes
    # a fraction of the time.
    rows = np.flatnonzero(counts.any(axis=1))
    if not len(rows):
        return np.zeros_like(counts)
    impulses = np.zeros((len(rows), len(counts)), counts.dtype)
    impulses[np.arange(len(rows)), rows] = 1
    across, down = gaussian_filter1d(counts[rows], sigma), gaussian_filter1d(impulses, sigma)  # (rows, W), (rows, H)
    return down.T @ across  # (H, W)


def _check_names(stimuli: Mapping, fixations: Mapping) -> None:
    missing, surplus = sorted(stimuli.keys() - fixations.keys()), sorted(fixations.keys() - stimuli.keys())
    complaints = [f"no fixations for {name_some(missing)}"] if missing else []
    complaints += [f"no photograph for the fixations of {name_some(surplus)}"] if surplus else []
    if complaints:
        raise DownloadError(f"Photographs and fixations belong to different images: {'; '.join(complaints)}.")


def _is_there(path: Path) -> bool:
    """Whether an earlier run has written the file; a power failure may leave an empty one."""
    return path.exists() and path.stat().st_size > 0


def _write_png(path: Path, pixels: np.ndarray) -> None:
    with whole_file(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


@contextlib.contextmanager
def _damage_reported(path: Path) -> Iterator[None]:
    """Any exception while a downloaded file is parsed means that the file is damaged."""
    try:
        yield
    except DownloadError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DownloadError(f"{path} is damaged, or not in the expected format ({reason}).") from error
