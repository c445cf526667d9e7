"""The flags of `test --cluster` that work without Ray."""

import sys

import pytest
from conftest import write

import main
import phases


def test_without_ray_one_line_says_what_to_install(tmp_path, monkeypatch, capsys):
    write(tmp_path / "a.jpg", b"")
    for module in ("ray", "phases.cluster"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delattr(phases, "cluster", raising=False)
    assert main.main(["test", "-p", str(tmp_path / "a.jpg"), "--results", str(tmp_path / "r"), "--cluster"]) == 2
    printed = capsys.readouterr()
    assert printed.err == (
        "error: --cluster needs Ray, which is not installed: python -m pip install -r requirements-cluster.txt\n"
    )


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--shards"], "--shards: only with --cluster"),
        (["--workers", "2", "--restart"], "--workers and --restart: only with --cluster"),
        (["-p", "s3://bucket/photographs"], "with --cluster only"),
    ],
)
def test_flags_that_cannot_be_followed_are_clear_errors(tmp_path, monkeypatch, capsys, flags, complaint):
    monkeypatch.chdir(tmp_path)
    assert main.main(["test", "--results", str(tmp_path / "r"), *flags]) == 2
    assert complaint in capsys.readouterr().err
