"""The flags of `test --cluster` that need no Ray."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import write

from msinet import main
from msinet.phases import distributed


def test_without_ray_one_line_says_what_to_install(tmp_path, monkeypatch, capsys):
    write(tmp_path / "a.jpg", b"")
    for module in ("ray", "msinet.phases.distributed.cluster"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delattr(distributed, "cluster", raising=False)
    assert main.main(["test", "-p", str(tmp_path / "a.jpg"), "--results", str(tmp_path / "r"), "--cluster"]) == 2
    assert capsys.readouterr().err == (
        "error: --cluster needs Ray, which is not installed: python -m pip install -r requirements-cluster.txt\n"
    )


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("--shards", "--shards: only with --cluster"),
        ("--workers 2 --restart", "--workers and --restart: only with --cluster"),
        ("-p s3://bucket/photographs", "with --cluster only"),
        ("-p nowhere.jpg", "No such file or folder: nowhere.jpg"),
        ("--cluster --gpus 2", "--gpus works only without --cluster"),
    ],
)
def test_wrong_flags_are_one_line_before_tensorflow_is_imported(tmp_path, flags, complaint):
    script = """
import sys
from msinet import main
sys.exit(main.main(sys.argv[1:]) + 10 * ('tensorflow' in sys.modules))
"""
    command = [sys.executable, "-c", script, "test", "--results", str(tmp_path), *flags.split()]
    finished = subprocess.run(command, cwd=Path(main.__file__).parent, capture_output=True, text=True, check=False)
    assert complaint in finished.stderr and finished.stderr.count("\n") == 1
    assert finished.returncode == 2
