"""Fixtures of the tests of `reproduce`: the internet, small and at a loopback server, and quick phases."""

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import write
from test_checkpoint import encoder_of, write_checkpoint, write_frozen_graph
from tiny_archives import zip_of

from msinet import checkpoint, download, layers, main, model
from msinet.acquisition import datasets
from msinet.acquisition.datasets import DATASETS
from msinet.phases import evaluate, train


def arrays_of(seed, width=0.125):
    return checkpoint.arrays_of(model.build_model(width=width, seed=seed))


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """The archives of small published networks, one for each dataset and unlike each other."""
    folder, archives = tmp_path_factory.mktemp("networks"), {}
    base = arrays_of(1)
    for number, name in enumerate(DATASETS):
        arrays = base | {"decoder/conv4/kernel": np.roll(base["decoder/conv4/kernel"], number, axis=2)}
        write_frozen_graph(folder / name, arrays, layers.CHANNELS_LAST)
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
    for module in (checkpoint, download):
        monkeypatch.setattr(module, "WEIGHTS_FOLDER", tmp_path / "weights")
    (tmp_path / "weights").mkdir()
    return server


@pytest.fixture
def run(tmp_path, capsys):
    """`reproduce` in its own folders: the exit status. `page()`, `rows()` and `printed` are of the last run."""

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


@pytest.fixture
def quick(monkeypatch):
    """`evaluate` and `train` in a moment, with numbers that depend on what they get: how often each was done."""
    calls = Counter()

    def score(options):
        calls[options.name] += 1
        words = [options.data, options.protocol, str(options.params["seed"]), options.params["precision"]]
        words += [checkpoint.file_sha256(Path(path)) for path in options.weights or []]
        value = int.from_bytes(hashlib.sha256(" ".join(words).encode()).digest()[:4], "big") / 2**32
        column = {"NSS": {"mean": value, "low": value - 0.1, "high": value + 0.1, "images": 4}, "CC": None}
        names = ["uniform", "center bias"] if options.baselines else []
        summary = {
            "scores": dict.fromkeys(("it", *names), column),
            "contenders": {"it": {}},
            "images": 4,
            "fixations": 9,
            "saliency": None,
        }
        write(options.folder_of_runs / options.name / "per_image.csv", b"")
        write(options.folder_of_runs / options.name / "summary.json", json.dumps(summary).encode())

    def learn(options):
        (name,), seed, results = options.data, options.params["seed"], Path(options.params["results"])
        calls[f"train {name} {options.context} {seed}"] += 1
        contents = f"{name} {options.context} {seed} {options.init}".encode()
        for kind in ("best", "latest"):
            write(results / "ckpts" / kind / f"{name}.weights.h5", contents)
        rows = "epoch,loss,val_loss,learning_rate,seconds\n1,2.0,1.5,1e-05,1\n2,1.0,1.25,1e-05,1\n"
        write(results / "history" / f"{name}.csv", rows.encode())

    monkeypatch.setattr(evaluate, "run", score)
    monkeypatch.setattr(train, "run", learn)
    return calls


@pytest.fixture
def vgg16(internet, tmp_path, monkeypatch):
    """The published encoder, as narrow as the network of --variant narrow."""
    write_checkpoint(tmp_path / "vgg16_hybrid.ckpt", encoder_of(arrays_of(3, width=0.25)))
    files = {file.name: file.read_bytes() for file in tmp_path.glob("vgg16_hybrid.ckpt.*")}
    row = replace(datasets.VGG16[0], urls=(internet.serve("/vgg16_hybrid.zip", zip_of(files)),))
    monkeypatch.setattr(datasets, "VGG16", (row,))
