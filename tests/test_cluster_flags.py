"""The flags of `test --cluster` that need no Ray."""

import subprocess
import sys

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


COMPLAINTS = {
    "--shards": "--shards: only with --cluster",
    "--workers 2 --restart": "--workers and --restart: only with --cluster",
    "-p s3://bucket/photographs": "with --cluster only",
    "-p nowhere.jpg": "No such file or folder: nowhere.jpg",
    "--cluster --gpus 2": "--gpus works only without --cluster",
    "--cluster -p rtsp://camera/1": "rtsp://camera/1 is a camera or a stream: repeat the command without --cluster.",
    "--cluster -p /dev/video0": "/dev/video0 is a camera or a stream: repeat the command without --cluster.",
}


def test_wrong_flags_are_one_line_before_tensorflow_is_imported(tmp_path):
    script = """
import sys
from msinet import main
for flags in sys.stdin:
    assert main.main(["test", "--results", sys.argv[1], *flags.split()]) == 2
assert "tensorflow" not in sys.modules
"""
    command, flags = [sys.executable, "-c", script, str(tmp_path)], "\n".join(COMPLAINTS)
    finished = subprocess.run(command, input=flags, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    for line, complaint in zip(finished.stderr.splitlines(), COMPLAINTS.values(), strict=True):
        assert complaint in line
