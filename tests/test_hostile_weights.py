"""Hostile weight files: each gives arrays or a one-line error, whatever it holds, and takes little memory."""

import io
import json
import os
import sys
import zipfile
import zlib
from collections import Counter
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import h5py
import numpy as np
import pytest
import tensorflow as tf
from conftest import run_as_program
from test_checkpoint import (
    WIDTH,
    encoder_of,
    write_checkpoint,
    write_frozen_graph,
    write_hed,
    write_imagenet,
    write_saved_model,
)

from msinet import checkpoint, layers, main, model
from msinet.architectures import expected_shapes
from msinet.utils import UserError
from msinet.weight_files import LARGEST_GRAPH

# Bytes that reading may take in addition to the process's memory at the start. The narrow network's arrays take 1.6 MB.
MEMORY = 300_000_000
MUTATIONS = 200


@pytest.fixture(scope="module")
def arrays():
    return checkpoint.arrays_of(model.build_model(width=WIDTH, seed=1))


def refusal(path) -> str:
    """The one-line error for a file."""
    with pytest.raises(UserError) as caught:
        checkpoint.read_arrays(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and len(message) < 2000
    return message


# --- Files that declare more than they hold ---------------------------------------------------------------------------


def write_zip_bomb(path: Path, member: str, start: bytes, size: int = 10 * 2**30) -> None:
    """An archive of one member: `start`, then zeros, compressed to a thousandth of their size."""
    deflate, block = zlib.compressobj(9, zlib.DEFLATED, -15), bytes(2**24)
    stream = deflate.compress(start) + deflate.flush(zlib.Z_FULL_FLUSH)
    stream += (deflate.compress(block) + deflate.flush(zlib.Z_FULL_FLUSH)) * (size // len(block)) + deflate.flush()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, stream)
        # For the directory at the end of the archive.
        archive.filelist[0].compress_type, archive.filelist[0].file_size = zipfile.ZIP_DEFLATED, size + len(start)


def write_constant(path: Path, name: str, **attributes) -> None:
    """Write a graph of one constant."""
    node = tf.compat.v1.NodeDef(name=name, op="Const", attr=attributes)
    path.write_bytes(tf.compat.v1.GraphDef(node=[node]).SerializeToString())


def write_bombs(folder: Path) -> list[Path]:
    """Small files of each format that declare arrays of more than 9 GB, or unpack to as much."""
    tensor = tf.make_tensor_proto(np.float32(1))
    tensor.tensor_shape.CopyFrom(tf.TensorShape((50_000, 50_000)).as_proto())
    write_constant(folder / "splat.pb", "conv1/conv1_1/kernel", value=tf.compat.v1.AttrValue(tensor=tensor))

    for name, options in (("fill", {}), ("deflated", {"chunks": (2**28,), "compression": "gzip"})):
        with h5py.File(folder / f"{name}.weights.h5", "w") as file:
            group = file.create_group("layers/conv2d/vars")
            group.attrs["name"] = "conv1_conv1_1"
            group.create_dataset("0", (2**32,), "f4", fillvalue=1.0, **options)
            group.create_dataset("1", (8,), "f4")

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (50_000, 50_000)})
    write_zip_bomb(folder / "zeros.npz", "conv1/conv1_1/kernel.npy", header.getvalue())
    write_zip_bomb(folder / "header.npz", "conv1/conv1_1/kernel.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\xff")
    write_zip_bomb(folder / "zeros.keras", "model.weights.h5", b"\x89HDF\r\n\x1a\n")
    return sorted(folder.iterdir())


# --- Faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pb", ".npz", ".keras", ".weights.h5", ".ckpt.index"])
@pytest.mark.parametrize("target", ["pipe", "/dev/zero"])
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_and_devices_are_rejected_at_once(tmp_path, suffix, target):
    path = tmp_path / f"x{suffix}"
    if target == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(target)
    assert "not a regular file" in refusal(path)


def test_graph_beyond_the_size_limit_is_not_parsed(tmp_path):
    with (tmp_path / "x.pb").open("wb") as file:
        file.truncate(LARGEST_GRAPH + 1)
    assert f"expected 1 to {LARGEST_GRAPH}" in refusal(tmp_path / "x.pb")


@pytest.fixture
def npz(tmp_path, arrays):
    """A file of the narrow network for tests to change."""
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    return tmp_path / "x.npz"


def damage_deflate(contents: bytes) -> bytes:
    """Overwrite the middle of the largest array."""
    with zipfile.ZipFile(io.BytesIO(contents)) as archive:
        member = max(archive.infolist(), key=lambda member: member.compress_size)
    at = member.header_offset + member.compress_size // 2
    return contents[:at] + bytes(200) + contents[at + 200 :]


def replace_member(contents: bytes, values: bytes, method: int = zipfile.ZIP_STORED, flags: int = 0) -> bytes:
    """Replace the bytes of the first bias, and its compression method and flags in the archive."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(contents)) as source, zipfile.ZipFile(result, "w") as target:
        for name in source.namelist():
            is_wanted = name == "conv1/conv1_1/bias.npy"
            target.writestr(name, values if is_wanted else source.read(name))
            if is_wanted:
                target.filelist[-1].compress_type, target.filelist[-1].flag_bits = method, flags
    return result.getvalue()


def npy(values) -> bytes:
    np.save(file := io.BytesIO(), values)
    return file.getvalue()


BIAS, HEADER = npy(np.zeros(8, np.float32)), b"\x93NUMPY\x01\x00\x0c\x00"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (damage_deflate, "damaged"),
        (lambda c: replace_member(c, BIAS, method=99), "method 99"),
        (lambda c: replace_member(c, BIAS, method=zipfile.ZIP_LZMA), "method 14"),
        (lambda c: replace_member(c, BIAS, flags=1), "encrypted"),
        (lambda c: replace_member(c, HEADER + b"{'descr': '''"), "damaged"),
        (lambda c: replace_member(c, HEADER + b"(" * 12), "damaged"),
        (lambda c: replace_member(c, b"not an array"), "damaged"),
        (lambda c: replace_member(c, npy(np.float32(1))), "conv1/conv1_1/bias has shape (), expected (64,)"),
        (lambda c: replace_member(c, BIAS[:-4]), "differs from the size in its header"),
        (lambda c: replace_member(c, npy(np.zeros(8, "S9"))), "bias has dtype |S9, expected float32"),
        (lambda c: replace_member(c, npy(np.full(8, 1e300))), "bias has values that are not finite"),
    ],
)
def test_faults_in_an_npz_file_are_one_line(npz, change, words):
    npz.write_bytes(change(npz.read_bytes()))
    assert words in refusal(npz)


def test_array_that_occurs_twice_is_one_line(npz):
    with zipfile.ZipFile(npz, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("conv1/conv1_1/bias.npy", BIAS)
    assert "an array occurs more than once" in refusal(npz)


VARIABLES = "layers/dilated_conv2d/vars"


def put(file, path: str, value=None, **options) -> None:
    """Replace an item of an HDF5 file by a value or a link, or by a dataset with these options."""
    if path in file:
        del file[path]
    if options:
        file.create_dataset(path, dtype="f4", **options)
    else:
        file[path] = value


def optimizer_of_gigabytes(file):
    put(file, "optimizer/vars/0", shape=(2**32,), fillvalue=1.0)


def layers_as_values(file):
    put(file, "layers", 1.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (layers_as_values, "damaged"),
        (lambda file: file[VARIABLES].attrs.create("name", 7), "the name of a layer is not text"),
        (lambda file: put(file, f"{VARIABLES}/2", np.zeros(3)), "damaged"),
        (lambda file: put(file, "layers/dilated_conv2d", h5py.ExternalLink("x", "/")), "a link out of the file"),
        (lambda file: put(file, f"{VARIABLES}/1", shape=(8,), external=[("/dev/zero", 0, 32)]), "not stored in full"),
        (lambda file: put(file, f"{VARIABLES}/1", shape=(8,), fillvalue=1.0), "not stored in full"),
        (optimizer_of_gigabytes, "not stored in full"),
    ],
)
def test_faults_of_keras_weights_are_one_line(tmp_path, change, words):
    path = tmp_path / "x.weights.h5"
    model.build_model(width=WIDTH).save_weights(path)
    with h5py.File(path, "a") as file:
        change(file)
    assert words in refusal(path)


def test_constant_without_a_value_is_one_line(tmp_path):
    write_constant(tmp_path / "x.pb", "conv1/conv1_1/bias")
    assert "damaged" in refusal(tmp_path / "x.pb")


def test_copies_of_a_constant_must_be_equal(tmp_path, arrays):
    path = tmp_path / "x.pb"
    write_frozen_graph(path, arrays, layers.CHANNELS_LAST)
    once = path.read_bytes()
    path.write_bytes(once + once)  # Two concatenated messages are one message with the nodes of both.
    assert checkpoint.read_arrays(path).keys() == arrays.keys()
    other = {**arrays, "conv1/conv1_1/bias": arrays["conv1/conv1_1/bias"] + 1}
    write_frozen_graph(path, other, layers.CHANNELS_LAST)
    path.write_bytes(once + path.read_bytes())
    assert "conv1/conv1_1/bias occurs more than once, with different values" in refusal(path)


def test_control_characters_in_names_are_escaped(tmp_path, arrays):
    np.savez(tmp_path / "x.npz", **arrays, **{"a\n\x1b[31m" + "b" * 500: np.zeros(1, np.float32)})
    message = refusal(tmp_path / "x.npz")
    assert r"a\n\x1b[31mbbb" in message and "b" * 80 not in message


def test_training_that_cannot_continue_from_a_damaged_checkpoint_is_one_line(tmp_path, tiny_dataset, capsys, eager):
    folder, results = tiny_dataset(count=3), tmp_path / "results"
    command = ["train", "-d", "custom", "-p", str(folder), "--variant", "narrow", "--init", "scratch"]
    command += ["--input-size", "48", "64", "--batch-size", "2", "--results", str(results)]
    assert main.main([*command, "--epochs", "1"]) == 0
    latest = results / "ckpts" / "latest" / "custom.weights.h5"
    intact = latest.read_bytes()

    changes = (
        lambda file: file.__delitem__("msinet"),
        lambda file: put(file, "msinet", "{}"),
        lambda file: file.__delitem__("optimizer/vars/3"),
        optimizer_of_gigabytes,
        layers_as_values,
    )
    for change in changes:
        latest.write_bytes(intact)
        with h5py.File(latest, "a") as file:
            change(file)
        capsys.readouterr()
        assert main.main([*command, "--epochs", "2"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and str(latest) in error and "--restart" in error, error


# --- Mutations --------------------------------------------------------------------------------------------------------


def write_formats(folder: Path) -> list[Path]:
    """Write a narrow network's weights in every format; return the files to mutate."""
    network = model.build_model(width=WIDTH, batch_norm=True, seed=1)
    arrays = checkpoint.fold_batch_norm(checkpoint.arrays_of(network))
    known = checkpoint.Knowledge((48, 64), "aspp", "width 0.125")
    write_frozen_graph(folder / "frozen.pb", arrays, layers.CHANNELS_LAST)
    write_saved_model(folder / "saved", arrays, "prefix")
    write_checkpoint(folder / "vgg16.ckpt", encoder_of(arrays))
    write_imagenet(folder / "notop.h5", encoder_of(arrays))
    write_hed(folder / "hed.h5", encoder_of(arrays))
    checkpoint.save_checkpoint(network, folder / "run.weights.h5", {"history": [], "start": "", **known.to_json()})
    checkpoint.save_arrays(folder / "half.npz", arrays, known)
    network.save(folder / "model.keras")
    checkpoint.write_knowledge(folder / "model.keras", known)
    names = ["frozen.pb", "saved/saved_model.pb", "vgg16.ckpt.index", "notop.h5", "hed.h5", "run.weights.h5"]
    return [folder / name for name in [*names, "half.npz", "model.keras"]]


def mutate(contents: bytes, random: np.random.Generator) -> bytes:
    """Change, truncate, repeat or delete a few parts of a file, half of the time near its ends."""
    changed = bytearray(contents)
    for _ in range(random.integers(1, 6)):
        size, near = len(changed), random.integers(0, min(4096, len(changed)))
        at = int(random.choice([near, size - 1 - near, random.integers(size), random.integers(size)]))
        span = int(2 ** random.uniform(0, 10))
        kind = random.integers(6)
        if kind == 0:
            changed[at] ^= 1 << int(random.integers(8))
        elif kind == 1:
            changed[at : at + span] = random.bytes(span)
        elif kind == 2:  # Sizes and addresses that often cause overflows.
            width = int(random.choice([1, 2, 4, 8]))
            number = int(random.choice([0, 1, 2**7, 2**15, 2**31 - 1, 2**31, 2**40, 2**63, 2**64 - 1]))
            changed[at : at + width] = (number % 256**width).to_bytes(width, "little")
        elif kind == 3:
            changed[at:at] = changed[at : at + span]
        elif kind == 4:
            del changed[at : at + span]
        elif random.integers(10) == 0:
            del changed[max(1, at) :]
    return bytes(changed)


def outcome(path: Path) -> str:
    """Read a file; return "arrays", or "rejected" if the error is one line."""
    try:
        arrays = checkpoint.read_arrays(path)
        checkpoint.read_knowledge(path)
    except UserError as error:
        return "rejected" if "\n" not in str(error) else "rejected in several lines"
    known = all(values.dtype == np.float32 and np.isfinite(values).all() for values in arrays.values())
    return "arrays" if known and arrays.keys() == expected_shapes(checkpoint.describe(arrays)).keys() else "?"


def limit_memory() -> None:
    """Limit this process to `MEMORY` more than it has now."""
    import resource  # Not on Windows.

    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    used = next(int(line.split()[1]) for line in lines if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (used * 1024 + MEMORY,) * 2)


def program(folder: Path) -> dict:
    """Read the bombs and the mutations in a process of limited memory; count the outcomes by file."""
    (folder / "bombs").mkdir()
    bombs, formats = write_bombs(folder / "bombs"), write_formats(folder)
    for path in formats:  # For everything that TensorFlow builds once.
        assert outcome(path) == "arrays", path
    if sys.platform == "linux":
        limit_memory()
    mutated = {}
    for path in formats:
        random, contents, mutated[path.name] = np.random.default_rng(0), path.read_bytes(), Counter()
        for _ in range(MUTATIONS):
            path.write_bytes(mutate(contents, random))
            mutated[path.name][outcome(path)] += 1
    return {"bombs": {path.name: outcome(path) for path in bombs}, "mutated": mutated}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    return run_as_program(__file__, folder, PYTHONFAULTHANDLER="1")


def test_files_that_declare_gigabytes_are_rejected_in_little_memory(outcomes):
    names = ["deflated.weights.h5", "fill.weights.h5", "header.npz", "splat.pb", "zeros.keras", "zeros.npz"]
    assert outcomes["bombs"] == dict.fromkeys(names, "rejected")


def test_mutated_files_give_arrays_or_one_line_in_little_memory(outcomes):
    assert len(outcomes["mutated"]) == 8
    for name, counts in outcomes["mutated"].items():
        assert counts.keys() == {"arrays", "rejected"}, (name, counts)
        assert counts["rejected"] > MUTATIONS / 10 and sum(counts.values()) == MUTATIONS, (name, counts)


if __name__ == "__main__":
    print(json.dumps(program(Path(sys.argv[1]))))
