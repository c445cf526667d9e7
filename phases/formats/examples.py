"""Run the example programs of MODEL.md unchanged, in processes that cannot import this program."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from ...installation import copied_modules
from ...utils import UserError
from .base import Format, fill
from .node import NODE_FOLDER, last_error


def run_example(form: Format, folder: Path, photograph: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Run a format's example on a copy of an export; returns the map that it wrote, float32 (H, W), 0 to 1.

    Args:
        form: the format.
        folder: the export.
        photograph: uint8, (H, W, 3).
        size: height and width of the network's input.

    Raises:
        UserError: the example failed.
    """
    example = fill(form.example, height=size[0], width=size[1])
    # Node searches for packages in the program's parent folders.
    above = NODE_FOLDER / "node_modules" if form.language == "js" else None
    with tempfile.TemporaryDirectory(dir=above) as temporary:
        copy = shutil.copytree(folder, Path(temporary) / "export")
        image = Image.fromarray(photograph)
        if form.language == "js":
            image.save(copy / "photograph.ppm")
            (copy / "predict.mjs").write_text(example, encoding="utf-8")
            _run(["node", "predict.mjs"], copy)
            return np.fromfile(copy / "saliency.f32", "<f4").reshape(photograph.shape[:2])
        image.save(copy / "photograph.png")
        _run([sys.executable, "-c", example], copy, needs_program=form.needs_program)
        return np.load(copy / "saliency.npy")


def _run(command: list[str], folder: Path, needs_program: bool = False) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment |= {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}  # GPUs may round products to TF32.
    with copied_modules() as package:
        if needs_program:
            environment["PYTHONPATH"] = str(package.parent)
        finished = subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True)
    if finished.returncode:
        error = last_error(finished.stderr.decode("utf-8", "replace"))
        raise UserError(f"The example in the export's MODEL.md failed: {error}. The export was discarded.")
