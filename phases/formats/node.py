"""Node and npm: install the TensorFlow.js that `demo/package-lock.json` pins, and run exports with it."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...installation import PACKAGE, download_folder
from ...utils import UserError, check_writable

DEMO_FOLDER = PACKAGE / "demo"

# Receives `node_modules`. Node searches for packages in a program's parent folders, so the program lies there too.
NODE_FOLDER = download_folder("demo")
NODE_FILES = ("package.json", "package-lock.json", "predict.mjs")


def install_node_packages() -> None:
    """Install the packages that `demo/package-lock.json` pins into `NODE_FOLDER`, unless they are there.

    Raises:
        UserError: Node or npm is missing, the folder is not writable, or `npm ci` failed.
    """
    stale = [name for name in NODE_FILES if not _same(DEMO_FOLDER / name, NODE_FOLDER / name)]
    installed = NODE_FOLDER / "node_modules" / ".package-lock.json"
    locked = DEMO_FOLDER / "package-lock.json"
    if not stale and installed.exists() and installed.stat().st_mtime >= locked.stat().st_mtime:
        return
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise UserError(f"TensorFlow.js needs {program}, which is not installed: install Node.js 18 or later.")
    check_writable(NODE_FOLDER)
    for name in stale:
        shutil.copyfile(DEMO_FOLDER / name, NODE_FOLDER / name)
    print(f"Installing TensorFlow.js into {NODE_FOLDER / 'node_modules'}.", flush=True)
    command = [str(shutil.which("npm")), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"]
    finished = subprocess.run(command, cwd=NODE_FOLDER, capture_output=True, text=True, encoding="utf-8")
    if finished.returncode:
        raise UserError(
            f"'npm ci' failed in {NODE_FOLDER}: {(finished.stderr.strip().splitlines() or ['?'])[-1][:200]}"
        )


def _same(file: Path, copy: Path) -> bool:
    return copy.exists() and copy.read_bytes() == file.read_bytes()


def package_versions() -> dict[str, str]:
    """The versions of TensorFlow.js' packages, by name."""
    return json.loads((DEMO_FOLDER / "package.json").read_text(encoding="utf-8"))["dependencies"]


def run_in_node(
    folder: Path, batches: Sequence[np.ndarray], backend: str = "wasm", repetitions: int = 1
) -> tuple[list[np.ndarray], list[float]]:
    """Predict with TensorFlow.js in Node; returns the maps of each batch, and the median milliseconds it took."""
    with tempfile.TemporaryDirectory() as temporary:
        tasks: list[dict] = []
        for i, images in enumerate(batches):
            source, target = Path(temporary) / f"images{i}", Path(temporary) / f"maps{i}"
            source.write_bytes(images.astype("<f4").tobytes())
            tasks.append({"input": str(source), "output": str(target), "shape": images.shape})
        command = ["node", str(NODE_FOLDER / "predict.mjs"), str(folder / "model.json"), backend, str(repetitions)]
        finished = subprocess.run(command, input=json.dumps(tasks), capture_output=True, text=True, encoding="utf-8")
        if finished.returncode:
            raise UserError(f"TensorFlow.js failed in Node: {last_error(finished.stderr)}")
        maps = [np.fromfile(task["output"], "<f4").reshape(*task["shape"][:3], 1) for task in tasks]
    return maps, json.loads(finished.stdout)


def last_error(text: str) -> str:
    """The line of Node's output that names the error; the other lines show the source code."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "Error" in line.split(" ")[0]), lines[-1] if lines else "no output")[:200]
