"""Run the example programs of MODEL.md unchanged, in processes that cannot import this program."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ...installation import copied_modules
from ...network import Network
from ...utils import UserError
from .base import Format, fill_example
from .node import NODE_FOLDER, last_error

# Runs the example in `sys.argv[1]` for each photograph. One process is enough, because importing TensorFlow takes long.
FOR_EACH_PHOTOGRAPH = """import os, sys
for i in range(int(sys.argv[2])):
    os.replace(f"photograph{i}.png", "photograph.png")
    exec(compile(sys.argv[1], "example", "exec"), {"__name__": "__main__"})
    os.replace("saliency.npy", f"saliency{i}.npy")
"""


def run_example(form: Format, folder: Path, photographs: Sequence[np.ndarray], network: Network) -> list[np.ndarray]:
    """Run a format's example on a copy of an export.

    Photographs are uint8, (H, W, 3), or (H, W, 4) with transparency; the maps that it wrote float32 (H, W), 0 to 1.

    Raises:
        UserError: the example failed.
    """
    example = fill_example(form.example, network)
    # Node searches for packages in the program's parent folders.
    above = NODE_FOLDER / "node_modules" if form.language == "js" else None
    with tempfile.TemporaryDirectory(dir=above) as temporary:
        copy = shutil.copytree(folder, Path(temporary) / "export")
        if form.language == "js":
            (copy / "predict.mjs").write_text(example, encoding="utf-8")
            return [_run_in_node(copy, photograph) for photograph in photographs]
        for i, photograph in enumerate(photographs):
            Image.fromarray(photograph).save(copy / f"photograph{i}.png")
        command = [sys.executable, "-c", FOR_EACH_PHOTOGRAPH, example, str(len(photographs))]
        _run(command, copy, needs_program="import msinet" in example)
        return [np.load(copy / f"saliency{i}.npy") for i in range(len(photographs))]


def _run_in_node(copy: Path, photograph: np.ndarray) -> np.ndarray:
    Image.fromarray(photograph).save(copy / "photograph.ppm")
    _run(["node", "predict.mjs"], copy)
    return np.fromfile(copy / "saliency.f32", "<f4").reshape(photograph.shape[:2])


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
