"""Published weights: which source they come from, and what happens without a network."""

from dataclasses import replace

import pytest
from conftest import write
from tiny_archives import zip_of

from msinet import checkpoint, download, main
from msinet.acquisition import datasets, hosts, transfer
from msinet.utils import DownloadError

# --- Published weights ------------------------------------------------------------------------------------------------


@pytest.fixture
def published(server, monkeypatch):
    """Serve the files of weights: `published({"model_osie_cpu.zip": bytes})`; all others are 404."""

    def make(files):
        for name, contents in files.items():
            server.serve(f"/{name}", contents)
        original = datasets.weight_files
        monkeypatch.setattr(
            download,
            "weight_files",
            lambda key: tuple(replace(row, urls=(f"{server.url}/{row.file}",), md5=None) for row in original(key)),
        )

    return make


GRAPHS = {f"model_osie_{kind}.zip": zip_of({f"weights/model_osie_{kind}.pb": b"graph"}) for kind in ("cpu", "gpu")}
KERAS = {datasets.KERAS_VGG16.file: b"\x89HDF..."}
VGG16 = {f"vgg16_hybrid.ckpt.{suffix}": b"graph" for suffix in ("data-00000-of-00001", "index", "meta")}


@pytest.mark.parametrize(
    ("key", "files", "result"),
    [
        ("model_salicon_cpu", {"saved_model.pb": b"graph", "model_salicon_cpu.zip": b"other"}, "saved_model.pb"),
        ("model_osie_cpu", GRAPHS, "model_osie_cpu.pb"),
        ("model_osie_cpu", {"model_osie_gpu.zip": GRAPHS["model_osie_gpu.zip"]}, "model_osie_gpu.pb"),
        ("vgg16_hybrid", {"vgg16_hybrid.zip": zip_of(VGG16), **KERAS}, "vgg16_hybrid.ckpt"),
        ("vgg16_hybrid", {"vgg16_hybrid.zip": zip_of({"readme": b"x"}), **KERAS}, datasets.KERAS_VGG16.file),
    ],
)
def test_weights_come_from_the_first_source_that_has_them(published, server, tmp_path, key, files, result):
    published(files)
    assert download.weights(key, tmp_path) == tmp_path / result
    found = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    names = {f"{result}.index", f"{result}.data-00000-of-00001"} if result.endswith("ckpt") else {result}
    assert found == dict.fromkeys(names, KERAS.get(result, b"graph"))
    server.requests.clear()
    assert download.weights(key, tmp_path) == tmp_path / result and server.requests == []


def test_weights_from_an_archive_by_hand(tmp_path):
    archive = write(tmp_path / "model_fiwi_gpu.zip", zip_of({"model_fiwi_gpu.pb": b"graph"}))
    assert main.main(["download", "-d", "fiwi", "--weights", "-p", str(tmp_path / "w"), "--from", str(tmp_path)]) == 0
    assert (tmp_path / "w" / "model_fiwi_gpu.pb").read_bytes() == b"graph" and archive.exists()


def test_without_a_network_connection_the_way_by_hand_is_told_after_one_check(tmp_path, monkeypatch):
    checks = []
    monkeypatch.setattr(download, "unreachable", lambda urls: checks.append(urls) or hosts.unreachable(urls))
    monkeypatch.setattr(transfer, "unreachable", download.unreachable)
    with pytest.raises(DownloadError) as error:
        download.weights("model_salicon_cpu", tmp_path)
    for word in ("huggingface.co", "as model_salicon_cpu.zip", "is there a network", "-d salicon --weights --from"):
        assert word in str(error.value)
    assert len(checks) == 1
    assert not [file for file in tmp_path.iterdir() if file.name != ".downloads"]


def test_prediction_and_training_fetch_missing_weights(published, tmp_path, monkeypatch):
    published({"saved_model.pb": b"graph", datasets.KERAS_VGG16.file: b"\x89HDF..."})
    monkeypatch.setattr(checkpoint, "WEIGHTS_FOLDER", tmp_path)
    choice = checkpoint.choose_weights("custom", results=tmp_path)
    assert choice == checkpoint.Choice(tmp_path / "saved_model.pb", "the published network for salicon")
    assert checkpoint.vgg16_weights().reason == "Keras' ImageNet VGG16"
