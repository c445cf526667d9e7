"""Training elsewhere: the pack has the photographs, maps, splits and fixations of the datasets."""

import importlib.util
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from msinet.acquisition.datasets import DATASETS

SOURCE = Path(__file__).parents[1] / "benchmarks" / "distillation" / "pack.py"


def test_a_pack_has_every_photograph_its_map_and_its_fixations(tiny_dataset, tmp_path, monkeypatch):
    for name in ("osie", "mit1003"):
        monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], train=3, valid=1))
        tiny_dataset(name)
    tiny_dataset("custom", count=2, height=64, width=48)
    spec = importlib.util.spec_from_file_location("pack", SOURCE)
    pack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    monkeypatch.setattr("sys.argv", ["pack.py", str(tmp_path / "pack"), "--data", str(tmp_path / "data")])
    pack.main()

    meta = json.loads((tmp_path / "pack" / "meta.json").read_text(encoding="utf-8"))
    found = [(row["dataset"], row["part"], tuple(row["size"])) for row in meta["rows"]]
    landscape = [(name, part, (240, 320)) for name in ("osie", "mit1003") for part in ("train",) * 3 + ("valid",)]
    assert found == [*landscape, *[("custom", "train", (320, 240))] * 2]
    photographs = (tmp_path / "pack" / "images.bin").read_bytes()
    assert Image.open(io.BytesIO(photographs[: meta["image_bytes"][0]])).size == (320, 240)
    assert len(photographs) == sum(meta["image_bytes"])
    with np.load(tmp_path / "pack" / "fixations.npz") as fixations:
        valid = [f"{row['dataset']}/{row['name']}" for row in meta["rows"] if row["part"] == "valid"]
        assert fixations.files == valid
        assert all(points.shape == (1, 3) for points in fixations.values())
