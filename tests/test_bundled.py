"""The networks that ship: their facts match the weights files, and the model card matches the facts."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from msinet import bundled, checkpoint
from msinet.architectures import Architecture


def test_model_card_is_generated_from_the_facts():
    card = bundled.CARD.read_text(encoding="utf-8")
    assert bundled.updated_card(card) == card, "The card is stale: run 'python bundled.py'."
    changed = card.replace("3.416 [3.282, 3.556]", "4").replace("| OSIE | 499 |", "| OSIE | 5 |")
    assert changed != card and bundled.updated_card(changed) == card


@pytest.mark.parametrize("name", bundled.BUNDLED)
def test_facts_are_those_of_the_weights_file(name):
    facts, path = bundled.facts(name), bundled.BUNDLED[name]
    contents, arrays = path.read_bytes(), checkpoint.read_arrays(path)
    assert facts["sha256"] == hashlib.sha256(contents).hexdigest() and facts["bytes"] == len(contents)
    assert facts["parameters"] == sum(values.size for values in arrays.values())
    assert facts["name"] == facts["variant"] == checkpoint.describe(arrays).variant == name
    assert bundled.name_of(path) == name and bundled.name_of(path.with_name("other.npz")) is None
    trained_on = checkpoint.read_knowledge(path).datasets.values()
    assert sum(row["images"] for row in facts["data"]) == sum(len(images.train) for images in trained_on)


def test_lite_network_is_small():
    found = checkpoint.describe(checkpoint.read_arrays(bundled.BUNDLED["lite"]))
    assert found == Architecture(1.0, "efficientnet-lite0", False)
    assert bundled.facts("lite")["bytes"] <= 4_000_000


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """Copies of the lite network's files and of the card, for `bundled` to update; returns the weights file's path."""
    for file in (bundled.CARD, *bundled.FOLDER.glob("msinet_lite.*")):
        shutil.copyfile(file, tmp_path / file.name)
    monkeypatch.setattr(bundled, "BUNDLED", {"lite": tmp_path / "msinet_lite.npz"})
    monkeypatch.setattr(bundled, "CARD", tmp_path / "README.md")
    return tmp_path / "msinet_lite.npz"


def write_summary(path, *, fit_shape, mean, sha256):
    """Write what `evaluate --baselines` writes, as far as it is read."""
    score = {"NSS": {"mean": mean, "low": 0.5, "high": 0.9, "images": 200}}
    summary = {
        "data": "osie",
        "models": {"msinet_lite": {"sha256": sha256, "input_size": [120, 160], "fit_shape": fit_shape}},
        "contenders": {"msinet_lite": {}, "uniform": {"baseline": "uniform"}},
        "scores": {"msinet_lite": score, "uniform": score},
    }
    path.write_text(json.dumps(summary))
    return path


def test_scores_are_updated_from_summaries_of_the_same_weights(copies, tmp_path):
    sha256 = bundled.facts("lite")["sha256"]
    bundled.update(
        [
            write_summary(tmp_path / "0.json", fit_shape=True, mean=0.71234, sha256=sha256),
            write_summary(tmp_path / "1.json", fit_shape=False, mean=0.6, sha256=sha256),
            write_summary(tmp_path / "2.json", fit_shape=True, mean=0.1, sha256="another"),
        ]
    )
    scores = bundled.facts("lite")["scores"]["osie"]
    assert scores[bundled.BY_SHAPE]["network"]["NSS"]["mean"] == 0.712 and "uniform" in scores[bundled.BY_SHAPE]
    assert scores["120x160"] == {"network": {"NSS": {"mean": 0.6, "low": 0.5, "high": 0.9, "images": 200}}}
    assert "| NSS | 0.712 [0.500, 0.900] |" in bundled.CARD.read_text(encoding="utf-8")


def test_update_measures_the_weights_file_and_refuses_stale_scores(copies):
    before = copies.with_suffix(".json").read_bytes()
    content = bundled.facts("lite") | {"parameters": 0, "bytes": 0}
    copies.with_suffix(".json").write_text(json.dumps(content))
    bundled.update([])
    assert copies.with_suffix(".json").read_bytes() == before
    np.savez(copies, **{"conv1/conv1_1/bias": np.zeros(16)})
    with pytest.raises(SystemExit, match="has changed"):
        bundled.update([])
