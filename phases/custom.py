"""Your own photographs (`-d custom`), as `train` and `evaluate` prepare them."""

from collections.abc import Mapping
from pathlib import Path

from ..scoring import fixations


def make_missing_maps(folder: Path, params: Mapping, blur: fixations.Blur | None = None) -> None:
    """Make saliency maps if the dataset only has fixations; see `fixations.make_saliency`."""
    if made := fixations.make_saliency(folder, blur, params["orientation"], params["max_dropped"]):
        print(f"Made saliency maps from the fixations, with a sigma of {made}: {folder / 'saliency'}.")
