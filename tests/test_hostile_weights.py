"""Hostile files of weights: each ends in arrays or in one line, whatever it holds, and takes little memory."""

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import h5py
import numpy as np
import pytest
import tensorflow as tf
from test_checkpoint import WIDTH, encoder_of, write_checkpoint, write_frozen_graph, write_imagenet, write_saved_model

import checkpoint
import main
import model
from utils import UserError

ROOT = Path(__file__).parents[1]

# Bytes that reading may take beyond what the process has when it begins. The narrow network's arrays have 1.6 MB.
MEMORY = 300_000_000
MUTATIONS = 200


@pytest.fixture(scope="module")
def arrays():
    return checkpoint.arrays_of(model.build_model(width=WIDTH, seed=1))


def refusal(path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(UserError) as caught:
        checkpoint.read_arrays(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and len(message) < 2000
    return message


# --- Files that announce more than they hold --------------------------------------------------------------------------


def write_zip_bomb(path: Path, member: str, start: bytes, size: int = 10 * 2**30) -> None:
    """An archive of one member, which begins with `start` and is zeros from there on: a thousandth of their size."""
    deflate, block = zlib.compressobj(9, zlib.DEFLATED, -15), bytes(2**24)
    stream = deflate.compress(start) + deflate.flush(zlib.Z_FULL_FLUSH)
    stream += (deflate.compress(block) + deflate.flush(zlib.Z_FULL_FLUSH)) * (size // len(block)) + deflate.flush()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, stream)
        # What is written of it at the end of the archive, which is what counts.
        archive.filelist[0].compress_type, archive.filelist[0].file_size = zipfile.ZIP_DEFLATED, size + len(start)


def write_bombs(folder: Path) -> list[Path]:
    """A file of each format that announces arrays of more than 9 GB, or unpacks to as much, and is small itself."""
    node = tf.compat.v1.NodeDef(name="conv1/conv1_1/kernel", op="Const")
    tensor = node.attr["value"].tensor
    tensor.dtype = tf.float32.as_datatype_enum
    tensor.float_val.append(1.0)
    for side in (50_000, 50_000):
        tensor.tensor_shape.dim.add(size=side)
    (folder / "splat.pb").write_bytes(tf.compat.v1.GraphDef(node=[node]).SerializeToString())

    for name, options in {
        "fill.weights.h5": {},
        "deflated.weights.h5": {"chunks": (2**28,), "compression": "gzip"},
    }.items():
        with h5py.File(folder / name, "w") as file:
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


# --- Files of other kinds than they should be -------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pb", ".npz", ".keras", ".weights.h5", ".ckpt.index"])
@pytest.mark.parametrize("target", ["pipe", "/dev/zero"])
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, suffix, target):
    path = tmp_path / f"x{suffix}"
    if target == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(target)
    assert "no regular file" in refusal(path)


@pytest.fixture(scope="module")
def intact(tmp_path_factory, arrays):
    """Files of the narrow network that tests change: `x.npz` and `x.weights.h5`."""
    folder = tmp_path_factory.mktemp("intact")
    np.savez_compressed(folder / "x.npz", **arrays)
    checkpoint.save_checkpoint(model.build_model(width=WIDTH, seed=1), folder / "x.weights.h5", {})
    return folder


def damage_deflate(contents: bytes) -> bytes:
    """Overwrite the middle of the largest array."""
    with zipfile.ZipFile(io.BytesIO(contents)) as archive:
        member = max(archive.infolist(), key=lambda member: member.compress_size)
    at = member.header_offset + member.compress_size // 2
    return contents[:at] + bytes(200) + contents[at + 200 :]


def replace_member(contents: bytes, values: bytes, method: int = zipfile.ZIP_STORED, flags: int = 0) -> bytes:
    """Put other bytes, and what the archive says of them, in the place of the first bias."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(contents)) as source, zipfile.ZipFile(result, "w") as target:
        for name in source.namelist():
            is_wanted = name == "conv1/conv1_1/bias.npy"
            target.writestr(name, values if is_wanted else source.read(name))
            if is_wanted:
                target.filelist[-1].compress_type, target.filelist[-1].flag_bits = method, flags
    return result.getvalue()


def npy(values) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
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
        (lambda c: replace_member(c, b"no array"), "damaged"),
        (lambda c: replace_member(c, npy(np.float32(1))), "conv1/conv1_1/bias has shape (), expected (64,)"),
        (lambda c: replace_member(c, BIAS[:-4]), "another size than its header says"),
        (lambda c: replace_member(c, npy(np.zeros(8, "S9"))), "bias is of type |S9, expected float32"),
        (lambda c: replace_member(c, npy(np.full(8, 1e300))), "bias holds values that are not numbers"),
    ],
)
def test_faults_of_an_archive_of_arrays_are_one_line(tmp_path, intact, change, words):
    path = tmp_path / "x.npz"
    path.write_bytes(change((intact / "x.npz").read_bytes()))
    assert words in refusal(path)


def layers_as_values(file):
    del file["layers"]
    file["layers"] = 1.0


def name_as_number(file):
    file["layers/dilated_conv2d/vars"].attrs["name"] = 7


def one_variable_more(file):
    file["layers/dilated_conv2d/vars/2"] = np.zeros(3)


def link_to_another_file(file):
    del file["layers/dilated_conv2d"]
    file["layers/dilated_conv2d"] = h5py.ExternalLink("/dev/zero", "/")


def values_of_another_file(file):
    del file["layers/dilated_conv2d/vars/1"]
    file["layers/dilated_conv2d/vars"].create_dataset("1", (8,), "f4", external=[("/dev/zero", 0, 32)])


def values_never_written(file):
    del file["layers/dilated_conv2d/vars/1"]
    file["layers/dilated_conv2d/vars"].create_dataset("1", (8,), "f4", fillvalue=1.0)


def optimizer_of_gigabytes(file):
    file.require_group("optimizer/vars").create_dataset("0", (2**32,), "f4", fillvalue=1.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (layers_as_values, "damaged"),
        (name_as_number, "the name of a layer is no text"),
        (one_variable_more, "damaged"),
        (link_to_another_file, "is a link to elsewhere"),
        (values_of_another_file, "is not stored in full"),
        (values_never_written, "is not stored in full"),
        (optimizer_of_gigabytes, "is not stored in full"),
    ],
)
def test_faults_of_keras_weights_are_one_line(tmp_path, intact, change, words):
    path = tmp_path / "x.weights.h5"
    shutil.copyfile(intact / "x.weights.h5", path)
    with h5py.File(path, "a") as file:
        change(file)
    assert words in refusal(path)


def test_constant_without_a_value_is_one_line(tmp_path):
    node = tf.compat.v1.NodeDef(name="conv1/conv1_1/bias", op="Const")
    (tmp_path / "x.pb").write_bytes(tf.compat.v1.GraphDef(node=[node]).SerializeToString())
    assert "damaged" in refusal(tmp_path / "x.pb")


def test_copies_of_a_constant_must_be_equal(tmp_path, arrays):
    path = tmp_path / "x.pb"
    write_frozen_graph(path, arrays, model.CHANNELS_LAST)
    once = path.read_bytes()
    path.write_bytes(once + once)  # Two messages, one after the other, are one with the nodes of both.
    assert checkpoint.read_arrays(path).keys() == arrays.keys()
    other = {**arrays, "conv1/conv1_1/bias": arrays["conv1/conv1_1/bias"] + 1}
    write_frozen_graph(path, other, model.CHANNELS_LAST)
    path.write_bytes(once + path.read_bytes())
    assert "conv1/conv1_1/bias occurs 2 times with different values" in refusal(path)


def test_names_in_a_file_do_not_reach_the_terminal_as_they_are(tmp_path, arrays):
    np.savez(tmp_path / "x.npz", **arrays, **{"a\n\x1b[31m" + "b" * 500: np.zeros(1, np.float32)})
    message = refusal(tmp_path / "x.npz")
    assert r"a\n\x1b[31mbbb" in message and "b" * 80 not in message


def test_encoder_alone_is_no_network_to_predict_with(tmp_path, arrays, capsys):
    write_imagenet(tmp_path / "vgg16_notop.h5", encoder_of(arrays))
    assert main.main(["test", "--weights", str(tmp_path / "vgg16_notop.h5"), "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "holds an encoder alone" in error


def test_training_that_cannot_continue_from_a_damaged_checkpoint_is_one_line(tmp_path, tiny_dataset, capsys):
    folder, results = tiny_dataset(count=3), tmp_path / "results"
    command = ["train", "-d", "custom", "-p", str(folder), "--variant", "lite", "--init", "scratch"]
    command += ["--input-size", "48", "64", "--results", str(results)]
    assert main.main([*command, "--epochs", "1"]) == 0
    latest = results / "ckpts" / "latest" / "custom.weights.h5"
    intact = latest.read_bytes()

    def without_note(file):
        del file["msinet"]

    def without_history(file):
        del file["msinet"]
        file["msinet"] = "{}"

    def without_moment(file):
        del file["optimizer/vars/3"]

    for change in (without_note, without_history, without_moment, optimizer_of_gigabytes, layers_as_values):
        latest.write_bytes(intact)
        with h5py.File(latest, "a") as file:
            if change is optimizer_of_gigabytes:
                del file["optimizer/vars/0"]
            change(file)
        capsys.readouterr()
        assert main.main([*command, "--epochs", "2"]) == 2, change
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and str(latest) in error and "--restart" in error, error


# --- Mutations --------------------------------------------------------------------------------------------------------


def write_formats(folder: Path) -> dict[str, Path]:
    """A narrow network's weights in every format; for each, the file that is to be mutated."""
    network = model.build_model(width=WIDTH, batch_norm=True, seed=1)
    normalised = checkpoint.arrays_of(network)
    arrays = checkpoint.fold_batch_norm(normalised)
    known = checkpoint.Knowledge((48, 64), "aspp", "width 0.125")
    write_frozen_graph(folder / "frozen.pb", arrays, model.CHANNELS_LAST)
    write_saved_model(folder / "saved", arrays, "prefix")
    write_checkpoint(folder / "vgg16.ckpt", encoder_of(arrays))
    write_imagenet(folder / "notop.h5", encoder_of(arrays))
    checkpoint.save_checkpoint(network, folder / "run.weights.h5", {"history": [], "start": "", **known.to_json()})
    checkpoint.save_arrays(folder / "half.npz", arrays, known)
    network.save(folder / "model.keras")
    checkpoint.write_knowledge(folder / "model.keras", known)
    return {
        "frozen graph": folder / "frozen.pb",
        "SavedModel": folder / "saved" / "saved_model.pb",
        "checkpoint's index": folder / "vgg16.ckpt.index",
        "ImageNet": folder / "notop.h5",
        "Keras weights": folder / "run.weights.h5",
        "NumPy": folder / "half.npz",
        "Keras": folder / "model.keras",
    }


def mutate(contents: bytes, random: np.random.Generator) -> bytes:
    """Change a few places of a file, cut it, repeat a part or leave one out; half of the time near its ends."""
    changed = bytearray(contents)
    for _ in range(random.integers(1, 6)):
        near = random.integers(0, min(4096, len(changed)))
        at = int(
            random.choice([near, len(changed) - 1 - near, random.integers(len(changed)), random.integers(len(changed))])
        )
        span = int(2 ** random.uniform(0, 10))
        kind = random.integers(6)
        if kind == 0:
            changed[at] ^= 1 << int(random.integers(8))
        elif kind == 1:
            changed[at : at + span] = random.bytes(span)
        elif kind == 2:  # Sizes and addresses at which programs stumble.
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
    """What comes of reading a file: "arrays", or "refused" with one line."""
    try:
        arrays = checkpoint.read_arrays(path)
        checkpoint.read_knowledge(path)
    except UserError as error:
        return "refused" if "\n" not in str(error) else "refused in several lines"
    known = all(values.dtype == np.float32 and np.isfinite(values).all() for values in arrays.values())
    return (
        "arrays" if known and arrays.keys() == checkpoint.expected_shapes(checkpoint.describe(arrays)).keys() else "?"
    )


def limit_memory() -> None:
    """From here on, this process may take `MEMORY` more than it has."""
    import resource  # Unknown on Windows.

    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    used = next(int(line.split()[1]) for line in lines if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (used * 1024 + MEMORY,) * 2)


def program(folder: Path) -> dict:
    """Read the bombs and the mutations in a process of limited memory."""
    (folder / "bombs").mkdir()
    bombs, formats = write_bombs(folder / "bombs"), write_formats(folder)
    for path in formats.values():  # Whatever TensorFlow builds once.
        assert outcome(path) == "arrays", path
    if sys.platform == "linux":
        limit_memory()
    found = {path.name: {outcome(path): 1} for path in bombs}
    for name, path in formats.items():
        random, contents = np.random.default_rng(0), path.read_bytes()
        counts = found[name] = {"arrays": 0, "refused": 0}
        for _ in range(MUTATIONS):
            path.write_bytes(mutate(contents, random))
            result = outcome(path)
            counts[result] = counts.get(result, 0) + 1
    return found


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, "-X", "faulthandler", __file__, str(folder)]
    finished = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    return json.loads(finished.stdout.splitlines()[-1])


def test_files_that_announce_gigabytes_are_refused_in_little_memory(outcomes):
    names = ["deflated.weights.h5", "fill.weights.h5", "header.npz", "splat.pb", "zeros.keras", "zeros.npz"]
    assert {name: outcomes[name] for name in names} == {name: {"refused": 1} for name in names}


def test_mutated_files_give_arrays_or_one_line_in_little_memory(outcomes):
    formats = {name: counts for name, counts in outcomes.items() if "." not in name}
    assert len(formats) == 7
    for name, counts in formats.items():
        assert counts.keys() == {"arrays", "refused"}, (name, counts)
        assert counts["refused"] > MUTATIONS / 10 and sum(counts.values()) == MUTATIONS, (name, counts)


if __name__ == "__main__":
    print(json.dumps(program(Path(sys.argv[1]))))
