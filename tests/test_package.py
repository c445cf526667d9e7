"""The program as people get it: a wheel, and a clone that is not installed, in a folder with any name."""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import write
from PIL import Image

from msinet import installation
from msinet.config import VERSION
from msinet.phases.formats import node
from msinet.phases.reproduction import provenance
from msinet.utils import UserError

ROOT = Path(__file__).parents[1]

# What a clone contains in addition to its modules, without tests and chapters.
FILES = (
    "pyproject.toml", "requirements*.txt", "README.md", "LICENSE", "py.typed", "attention/*.json", "demo/*.*",
    "docs/cluster.yaml", "docs/reference.csv", "weights/README.md", "weights/msinet_*",
)  # fmt: skip

# Files of a user in the clone. None of them may leave it.
PRIVATE = (".env", "photos/private.png", "data/private.py", "results/private.json", "weights/model_private.pb")

# The networks have 3 and 6.5 MB. Raise the limit if a larger one ships.
MOST_BYTES = 12_000_000

SIZE = ("--input-size", "48", "64")


def modules(folder: Path) -> set[str]:
    return {
        file.relative_to(folder).as_posix()
        for package in installation.packages(folder)
        for file in package.glob("*.py")
    }


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone in a folder whose name is not a module's."""
    folder = tmp_path_factory.mktemp("clone") / "my clone-2"
    names = [file.relative_to(ROOT) for pattern in FILES for file in ROOT.glob(pattern)]
    for name in [*names, *modules(ROOT)]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    for name in PRIVATE:
        write(folder / name, b"private")
    Image.new("RGB", (80, 60), (9, 99, 199)).save(folder / "photos" / "private.png")
    return folder


@pytest.fixture(scope="module")
def wheel(clone, tmp_path_factory):
    """A wheel of a clone that also has tests and benchmarks."""
    folder = tmp_path_factory.mktemp("wheel")
    source = shutil.copytree(clone, folder / "clone")
    for name in ("tests/test_x.py", "benchmarks/x.py", "environment/lib/x.py"):
        write(source / name, b"")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture
def run(tmp_path):
    """Run a program in an empty folder, where only the named folder provides `msinet`."""
    write(tmp_path / "other" / "msinet" / "__init__.py", b"raise ImportError('this is another msinet')")

    def run_program(*arguments, path=tmp_path / "other", cwd=tmp_path, **variables):
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(path), **variables}
        command = [sys.executable, *map(str, arguments)]
        finished = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished.stdout

    return run_program


# --- The wheel --------------------------------------------------------------------------------------------------------


def test_wheel_has_every_module_and_no_file_of_the_user(wheel):
    assert wheel.stat().st_size < MOST_BYTES
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        about = f"msinet-{VERSION}.dist-info"
        metadata = archive.read(f"{about}/METADATA").decode()
        assert "msinet = msinet.main:entry_point" in archive.read(f"{about}/entry_points.txt").decode()
    package = {name.removeprefix("msinet/") for name in names if not name.startswith(about)}
    assert {name for name in package if name.endswith(".py")} == modules(ROOT)
    assert not package & {*PRIVATE, "tests/test_x.py", "benchmarks/x.py", "environment/lib/x.py"}
    demo = {f"demo/{file.name}" for file in (ROOT / "demo").iterdir() if file.is_file()}
    others = {"py.typed", "LICENSE", "attention/measured.json", "docs/cluster.yaml", "docs/reference.csv"}
    weights = {"weights/README.md", "weights/msinet_lite.npz", "weights/msinet_lite.json"}
    assert demo | others | weights <= package
    assert f"Version: {VERSION}\n" in metadata
    for requirement in ("tensorflow<3,>=2.21", 'onnx>=1.17; extra == "export"', 'fsspec>=2024.6; extra == "cluster"'):
        assert f"Requires-Dist: {requirement}\n" in metadata


def test_installed_package_works_next_to_modules_of_the_same_names_and_writes_nothing_into_itself(
    wheel, run, tmp_path, photograph
):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    before = set(tmp_path.glob("installed/**/*"))
    for name in ("config", "utils", "data", "model"):
        write(tmp_path / "mine" / f"{name}.py", b"raise ImportError('this module is not of the program')")
    Image.fromarray(photograph()).save(tmp_path / "mine" / "a.png")
    script = """
import sys
import numpy as np
import msinet
sys.argv[0] = "msinet"
from msinet import main
assert main.main(["test", "-p", "a.png", "--weights", "lite", "--format", "npy"]) == 0
assert np.array_equal(msinet.load("lite").predict("a.png"), np.load("results/images/a.npy"))
assert main.main(["export", "--format", "weights", "--weights", "lite", "--input-size", "48", "64"]) == 0
assert main.main(["download", "--weights", "--from", "nowhere.pb"]) == 2
main.main(["--help"])
"""
    write(tmp_path / "mine" / "script.py", script.encode())
    variables = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "LOCALAPPDATA": str(tmp_path / "cache")}
    printed = run("script.py", path=tmp_path / "installed", cwd=tmp_path / "mine", **variables)
    assert "usage: msinet " in printed
    assert set(tmp_path.glob("installed/**/*")) == before
    assert list((tmp_path / "cache").rglob("weights/.downloads"))


def test_version_is_the_same_everywhere():
    assert f"\nversion: {VERSION}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## {VERSION}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


# --- A clone ----------------------------------------------------------------------------------------------------------


def test_clone_runs_from_any_folder(clone, run, tmp_path):
    assert run(clone / "main.py", "--version", cwd=clone) == f"MSI-Net {VERSION}\n"
    run(clone / "main.py", "test", "-p", clone / "photos", "--weights", "lite", *SIZE, "--format", "npy")
    assert np.load(tmp_path / "results" / "images" / "private.npy").shape == (60, 80)


def test_clone_trains_writes_the_demo_and_predicts_in_a_spawned_process(clone, run, tmp_path, tiny_dataset):
    dataset = tiny_dataset(count=4)
    script = f"""
import functools
import multiprocessing
import pickle
import sys
from concurrent.futures import ProcessPoolExecutor

sys.path.insert(0, {str(clone)!r})
import main
import msinet
import keras
import numpy as np

def predict(pickled):
    return pickle.loads(pickled).predict({str(clone / "photos" / "private.png")!r})

if __name__ == "__main__":
    data = ["-d", "custom", "-p", {str(dataset)!r}, "--input-size", "48", "64"]
    keras.Model.compile = functools.partialmethod(keras.Model.compile, run_eagerly=True)  # This is faster here.
    assert main.main(["train", *data, "--variant", "narrow", "--init", "scratch", "--epochs", "1"]) == 0
    assert main.main(["demo", "--static", "page", "--weights", "results/ckpts/best/custom.weights.h5"]) == 0
    network = msinet.load("lite", input_size=(48, 64))
    pickled = pickle.dumps(network)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert np.array_equal(pool.submit(predict, pickled).result(), predict(pickled))
"""
    write(tmp_path / "script.py", script.encode())
    run("script.py", PATH="")  # Without npm, the page loads TensorFlow.js from the network.
    assert (tmp_path / "page" / "index.html").exists()


@pytest.mark.cluster
def test_clone_predicts_photographs_inside_it_with_ray_and_copies_none_of_its_other_files(clone, run):
    pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-cluster.txt")
    with tempfile.TemporaryDirectory() as folder:  # Ray's sockets need a short path.
        variables = {"RAY_TMPDIR": folder, "TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0"}
        flags = ("--weights", "lite", *SIZE, "--format", "npy", "--results", f"{folder}/maps")
        run("main.py", "test", "-p", "photos/", *flags, "--cluster", "--workers", "1", cwd=clone, **variables)
        assert np.load(f"{folder}/maps/images/private.npy").shape == (60, 80)
        copied = {Path(*file.relative_to(folder).parts[1:]).name for file in Path(folder).rglob("*")}
        assert not copied & {".env", "private.png", "private.py", "main.py", "pyproject.toml"}


def test_copy_of_the_modules_is_small_and_importable(clone, run, monkeypatch):
    monkeypatch.setattr(installation, "PACKAGE", clone)
    with installation.copied_modules() as package:
        files = {file.relative_to(package).as_posix(): file.stat().st_size for file in package.rglob("*.*")}
        assert files.keys() == modules(ROOT) | {"attention/measured.json"}
        assert sum(files.values()) < 1_000_000
        printed = run("-c", "from msinet.attention import errors; print(errors.__file__)", path=package.parent)
        assert Path(printed.strip()) == package / "attention" / "errors.py"
    assert not package.exists()


# --- What depends on the installation ---------------------------------------------------------------------------------


def test_messages_and_folders_fit_the_installation(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    assert installation.command() == "python main.py"
    assert installation.install_command("export") == "python -m pip install -r requirements-export.txt"
    assert installation.download_folder("weights") == installation.PACKAGE / "weights"
    monkeypatch.setattr(sys, "argv", ["/usr/bin/msinet"])
    assert installation.command() == "msinet"
    monkeypatch.setattr(sys, "argv", ["script.py"])
    monkeypatch.setattr(installation, "IN_CLONE", False)
    monkeypatch.setattr(provenance, "IN_CLONE", False)
    assert installation.command() == "msinet"
    assert installation.install_command("export") == "python -m pip install 'msinet[export]'"
    assert "msinet" in (folder := installation.download_folder("weights")).relative_to(tmp_path).parts
    assert folder.name == "weights"
    assert provenance.machine()["MSI-Net"] == VERSION  # The package may lie in a repository of the user.


def test_node_packages_are_installed_once_into_the_users_cache(monkeypatch, tmp_path):
    calls = []

    def npm(command, cwd, **options):
        calls.append(cwd)
        write(cwd / "node_modules" / ".package-lock.json", b"")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(node, "NODE_FOLDER", tmp_path / "cache" / "demo")
    monkeypatch.setattr(node.shutil, "which", lambda name: name)
    monkeypatch.setattr(node.subprocess, "run", npm)
    for _ in range(2):
        node.install_node_packages()
    assert calls == [node.NODE_FOLDER]
    for name in node.NODE_FILES:
        assert (node.NODE_FOLDER / name).read_bytes() == (ROOT / "demo" / name).read_bytes()
    (node.NODE_FOLDER / "package-lock.json").write_text("of an earlier version")
    node.install_node_packages()
    assert len(calls) == 2
    monkeypatch.setattr(node, "NODE_FOLDER", write(tmp_path / "file", b"") / "demo")
    with pytest.raises(UserError, match="is not writable"):
        node.install_node_packages()


def test_shell_completes_phases_and_flags(run, tmp_path):
    pytest.importorskip("argcomplete", reason="argcomplete is not installed: pip install argcomplete")
    for line, expected in (("main.py down", "download"), ("main.py export --for", "--format")):
        script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import main; main.main()"
        variables = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line))}
        variables["_ARGCOMPLETE_STDOUT_FILENAME"] = str(tmp_path / "completions")
        run("-c", script, **variables)
        assert expected in (tmp_path / "completions").read_text().strip()
