"""Reproduction: from empty folders to the page, killed and gone on, with faults and without, and every row again alone."""

import csv
import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import write
from loopback import cut, status
from test_checkpoint import encoder_of, write_checkpoint, write_frozen_graph
from tiny_archives import zip_of

import checkpoint
import main
import model
from acquisition import datasets
from acquisition.datasets import DATASETS
from phases import evaluate, reproduce, submit, train
from phases.reproduction import measure, plan, reference
from phases.reproduction.ledger import Ledger, brief
from scoring import pictures
from utils import DownloadError, UserError

ROOT = Path(__file__).parents[1]


def arrays_of(seed, width=0.125):
    return checkpoint.arrays_of(model.build_model(width=width, seed=seed))


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """The archives of small published networks, one for each dataset and unlike each other."""
    folder, archives = tmp_path_factory.mktemp("networks"), {}
    base = arrays_of(1)
    for number, name in enumerate(DATASETS):
        arrays = base | {"decoder/conv4/kernel": np.roll(base["decoder/conv4/kernel"], number, axis=2)}
        write_frozen_graph(folder / name, arrays, model.CHANNELS_LAST)
        archives[name] = zip_of({f"model_{name}_cpu.pb": (folder / name).read_bytes()})
    return archives


@pytest.fixture
def internet(server, tiny, networks, tmp_path, monkeypatch):
    """All archives and published networks at the loopback server, tiny, and nothing fetched yet."""
    for name, archive in networks.items():
        tiny(name)
        file = f"model_{name}_cpu.zip"
        row = datasets.Archive(
            file, (server.serve(f"/{file}", archive),), ((rf"model_{name}_cpu\.pb", f"model_{name}_cpu.pb"),)
        )
        monkeypatch.setitem(
            DATASETS, name, replace(DATASETS[name], networks=(replace(row, result=f"model_{name}_cpu.pb"),))
        )
    monkeypatch.setattr(checkpoint, "WEIGHTS_FOLDER", tmp_path / "weights")
    (tmp_path / "weights").mkdir()
    monkeypatch.setattr(measure, "measure", lambda options: measure.Speed(1e-5, 1e-4, *[dict.fromkeys(plan.PROTOCOLS, 0.1)] * 2))
    return server


@pytest.fixture
def run(tmp_path, capsys):
    """`reproduce` with folders of its own: the exit status. `page()`, `rows()` and `printed` are of the last run."""

    def reproduce_some(*flags, results=tmp_path / "results"):
        capsys.readouterr()
        fixed = ["-p", tmp_path / "data", "--results", results]
        reproduce_some.folder = results / "reproduction"
        code = main.main([str(a) for a in ("reproduce", *fixed, *flags)])
        reproduce_some.printed = capsys.readouterr().out
        return code

    reproduce_some.page = lambda: (reproduce_some.folder / "README.md").read_text(encoding="utf-8")
    reproduce_some.json = lambda: json.loads((reproduce_some.folder / "results.json").read_text(encoding="utf-8"))
    reproduce_some.rows = lambda: {
        (row["network"], row["title"], row["dataset"], row["protocol"]): row for row in reproduce_some.json()["rows"]
    }
    return reproduce_some


def test_seven_datasets_go_from_empty_folders_to_the_page(internet, run, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "draw_distributions", lambda *_: None)  # Its own tests draw it; here it takes time.
    assert run() == 0
    print(run.printed[-6000:])
    print(run.page())
    assert 0
