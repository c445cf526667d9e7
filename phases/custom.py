"""Your own photographs (`-d custom`), as `train` and `evaluate` prepare them."""

from pathlib import Path

from ..scoring import fixations


def make_missing_maps(folder: Path, blur: fixations.Blur | None = None) -> None:
    """Make saliency maps if the dataset only has fixations; see `fixations.make_saliency`."""
    if made := fixations.make_saliency(folder, blur):
        print(f"Made saliency maps from the fixations, with a sigma of {made}: {folder / 'saliency'}.")
