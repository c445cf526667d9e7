"""Weight files: every published format becomes arrays by published name, checked before a value of them is read.

A file may be damaged, or made to do harm. Nothing that it contains is executed; what it announces is compared with the
network before memory is taken for it; and whatever a library raises at it ends as one `UserError` (see `reading`).
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
import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from config import VARIANTS
from model import msi_net, published_name, scaled_filters
from utils import UserError

# In bytes, more than any file that is read: the full network with its optimizer's state takes 300 MB.
LARGEST_FILE = 2**30

# In bytes, of what a file says about itself: the names of a hundred thousand images.
LARGEST_NOTE = 2**25

# Where that stands, as JSON: a dataset of this name in HDF5 files, a file of the second name in archives and folders.
NOTE, NOTE_FILE = "msinet", "msinet.json"

# Bytes from which the header of an array in an `.npz` is read; NumPy itself takes headers of up to 10,000.
HEADER_BYTES = 12_000

# A SavedModel repeats a constant in each function that uses it; there are never more than a few.
MOST_COPIES = 100

# Variables of Keras layers in the order in which Keras stores them.
CONVOLUTION_VARIABLES = ("kernel", "bias")
NORM_VARIABLES = ("gamma", "beta", "moving_mean", "moving_variance")

# A published name, possibly behind a prefix; VGG16's checkpoint calls kernels "weights".
PUBLISHED_NAME = re.compile(
    r"(?:^|/)((?:conv[1-5]|aspp|decoder)/conv\w+)/(kernel|bias|weights|biases|gamma|beta|moving_mean|moving_variance)$"
)
PUBLISHED_VARIABLES = {"weights": "kernel", "biases": "bias"}


@dataclass(frozen=True)
class Architecture:
    """The network that a set of arrays belongs to.

    Attributes:
        width: factor on the filter counts.
        context: "aspp" or "plain"; None for an encoder alone, as VGG16's weights are.
        batch_norm: whether the arrays hold a batch normalisation that is not folded in.
    """

    width: float
    context: str | None
    batch_norm: bool

    @property
    def variant(self) -> str:
        """The name of its width in `config.VARIANTS`."""
        names = {row["width"]: name for name, row in VARIANTS.items()}
        return names.get(self.width, f"width {self.width:g}")


@dataclass(frozen=True)
class Announced:
    """An array as its file announces it.

    Attributes:
        shape, dtype: of the values.
        read: reads the values; it is called only when both are as the network has them.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


def read_arrays(path: Path, advice: str = "Fetch or export it again.") -> dict[str, np.ndarray]:
    """Read the weights in a file of any known format.

    Args:
        path: a frozen graph or bare `saved_model.pb`, a SavedModel folder, a TensorFlow checkpoint (its prefix, or its
            `.index`), Keras' `.weights.h5` or `.keras`, Keras' ImageNet VGG16 (`..._notop.h5`), or `.npz`.
        advice: what to do about a damaged file.

    Returns:
        Arrays by published name, complete: of the whole network, or of the encoder alone.

    Raises:
        UserError: the file is missing, damaged, or of another network; it lists the arrays at fault.
    """
    path = existing(Path(path))
    with reading(path, "is damaged, or no file of weights", advice), _opened(path) as found:
        announced = _by_name(found)
        _complain(path, _differences(announced))
        with np.errstate(over="ignore"):  # What does not fit into float32 becomes infinite, and is refused for that.
            arrays = {name: np.asarray(array.read(), np.float32) for name, array in announced.items()}
    _complain(path, (f"{name} holds values that are not numbers" for name in arrays if not _is_finite(arrays[name])))
    return arrays


@contextlib.contextmanager
def reading(path: Path, fault: str, advice: str) -> Iterator[None]:
    """Turn whatever is raised while a file is read into one `UserError`.

    What the libraries raise at a damaged file is written down nowhere: errors of zlib and of Python's tokenizer, of
    HDF5 as RuntimeError, and any that follows from a value of another type than theirs.

    Args:
        path: the file.
        fault, advice: what the error says of it, before the library's own words and after them.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} {fault}: {reason.rstrip('.')}. {advice}") from error


def existing(path: Path) -> Path:
    """A path of weights, or of a TensorFlow checkpoint by its prefix.

    Raises:
        UserError: there is nothing.
    """
    if path.exists() or _is_checkpoint(path):
        return path
    raise UserError(
        f"No weights at {path}: expected a .pb, .weights.h5, .keras, .h5 or .npz file, a SavedModel "
        f"folder, or the prefix of a TensorFlow checkpoint."
    )


def files_of(path: Path) -> list[Path]:
    """The files that weights consist of: the one, or those of a folder or a TensorFlow checkpoint in their order."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if _is_checkpoint(path):
        prefix = path.with_suffix("") if path.suffix == ".index" else path
        return sorted(file for file in path.parent.iterdir() if file.name.startswith(f"{prefix.name}."))
    return [path]


def describe(arrays: Mapping[str, np.ndarray | Announced]) -> Architecture:
    """The architecture that arrays by published name belong to, or that they resemble most."""
    first = arrays["conv1/conv1_1/bias"].shape if "conv1/conv1_1/bias" in arrays else ()
    # The widest that there is bounds what a file may ask for.
    widest = max(row["width"] for row in VARIANTS.values())
    width = first[0] / 64 if len(first) == 1 and 0 < first[0] <= 64 * widest else widest
    context = None
    if any(name.startswith(("aspp/", "decoder/")) for name in arrays):
        context = "plain" if "aspp/conv1/kernel" in arrays else "aspp"
    return Architecture(width, context, any(name.endswith("/gamma") for name in arrays))


@functools.cache
def expected_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """The shape of every array of a network, by published name and in the network's order."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(x, name, filters, size=3, dilation=1, relu=True):
        """A convolution that computes nothing and notes the shapes of its variables."""
        filters = scaled_filters(filters, architecture.width)
        shapes[f"{name}/kernel"] = (size, size, x.shape[-1], filters)
        shapes[f"{name}/bias"] = (filters,)
        if architecture.batch_norm and relu:
            shapes.update({f"{name}/{variable}": (filters,) for variable in NORM_VARIABLES})
        return keras.KerasTensor((*x.shape[:-1], filters))

    msi_net(keras.KerasTensor((1, 64, 64, 3)), conv, context=architecture.context or "aspp")
    if architecture.context is None:
        return {name: shape for name, shape in shapes.items() if not name.startswith(("aspp/", "decoder/"))}
    return shapes


# --- Checks -----------------------------------------------------------------------------------------------------------


def _differences(announced: Mapping[str, Announced]) -> Iterator[str]:
    """What is wrong with announced arrays, compared with the architecture that they seem to be of."""
    expected = expected_shapes(describe(announced))
    yield from (f"{name} is missing" for name in expected if name not in announced)
    yield from (f"{_printable(name)} is surplus" for name in announced if name not in expected)
    for name, shape in expected.items():
        if name in announced:
            array = announced[name]
            if array.shape != shape:
                yield f"{name} has shape {_printable(str(array.shape))}, expected {shape}"
            elif array.dtype.kind != "f" or array.dtype.itemsize > 8:
                yield f"{name} is of type {_printable(str(array.dtype))}, expected float32"


def _complain(path: Path, complaints: Iterable[str]) -> None:
    complaints = iter(complaints)
    if first := list(itertools.islice(complaints, 12)):
        others = sum(1 for _ in complaints)
        more = [f"and {others} more"] if others else []
        raise UserError(f"{path} does not hold MSI-Net's weights: {'; '.join(first + more)}.")


def _is_finite(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).all())


def _printable(text: str) -> str:
    """A text from a file, as one short line."""
    return text[:80].encode("unicode_escape").decode()


def _regular(path: Path) -> Path:
    """A file that ends: no pipe, which would wait for ever, and no device."""
    if not path.is_file():
        raise ValueError("no regular file" if path.exists() else f"there is no {path.name}")
    if not 0 < path.stat().st_size <= LARGEST_FILE:
        raise ValueError(f"a size of {path.stat().st_size} bytes, expected 1 to {LARGEST_FILE}")
    return path


# --- Formats: each gives its arrays by published name, a name perhaps several times -----------------------------------


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Iterable[tuple[str, Announced]]]:
    """What a file announces, readable as long as it is open."""
    if _is_checkpoint(path):
        for file in files_of(path):
            _regular(file)
        yield _in_checkpoint(path)
    elif path.is_dir():
        # An export holds the SavedModel in a folder of its own.
        inner = path / "saved_model"
        yield _in_protobuf(_regular((inner if inner.is_dir() else path) / "saved_model.pb").read_bytes())
    elif _regular(path).suffix == ".pb":
        yield _in_protobuf(path.read_bytes())
    elif path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            yield _in_npz(archive)
    elif path.suffix in (".keras", ".h5"):
        with _hdf5(path) as content:
            yield _in_hdf5(content) if "layers" in content else _in_imagenet(content)
    else:
        raise ValueError(f"received the suffix '{path.suffix}', expected .pb, .h5, .keras, .npz or .index")


def _by_name(found: Iterable[tuple[str, Announced]]) -> dict[str, Announced]:
    """Arrays by published name; those that a file holds several times must be equal."""
    copies: dict[str, list[Announced]] = {}
    for name, array in found:
        copies.setdefault(name, []).append(array)
    return {name: _equal(name, arrays) for name, arrays in copies.items()}


def _equal(name: str, copies: list[Announced]) -> Announced:
    first, *others = copies
    if not others:
        return first
    if len(others) > MOST_COPIES or any((other.shape, other.dtype) != (first.shape, first.dtype) for other in others):
        raise ValueError(f"{_printable(name)} occurs {len(copies)} times with different values")

    def read():
        values = first.read()
        if not all(np.array_equal(other.read(), values) for other in others):
            raise ValueError(f"{name} occurs {len(copies)} times with different values")
        return values

    return Announced(first.shape, first.dtype, read)


def _split_name(full_name: str) -> str | None:
    """The published name at the end of a longer one, if there is one."""
    match = PUBLISHED_NAME.search(full_name)
    return match and f"{match[1]}/{PUBLISHED_VARIABLES.get(match[2], match[2])}"


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
    for member in archive.infolist():
        if member.filename == NOTE_FILE:
            continue
        _check_member(member, LARGEST_FILE)
        with archive.open(member) as file:
            header = io.BytesIO(file.read(HEADER_BYTES))
        version = np.lib.format.read_magic(header)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, dtype = read_header[version](header)
        if dtype.hasobject:
            raise ValueError(f"{_printable(member.filename)} holds objects instead of numbers")
        if member.file_size != header.tell() + math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{_printable(member.filename)} has another size than its header says")
        yield (
            member.filename.removesuffix(".npy"),
            Announced(shape, dtype, functools.partial(_npz_values, archive, member)),
        )


def _npz_values(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _check_member(member: zipfile.ZipInfo, most: int) -> None:
    """Check what would be unpacked: no more than `most` bytes, by the one method that NumPy and Keras write."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.file_size > most:
        raise ValueError(
            f"{_printable(member.filename)} unpacks to {member.file_size} bytes with method {member.compress_type}, "
            f"expected at most {most} with deflate"
        )


# --- HDF5 -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _hdf5(path: Path) -> Iterator[h5py.File]:
    """The HDF5 file at a path, or inside Keras' archive, once it is known to hold all that it announces."""
    with contextlib.ExitStack() as stack:
        source: Path | io.BytesIO = path
        if path.suffix == ".keras":
            archive = stack.enter_context(zipfile.ZipFile(path))
            member = archive.getinfo("model.weights.h5")
            # Keras does not compress. Packed again, weights shrink by a tenth, the zeros of a new optimizer by more.
            _check_member(member, max(4 * member.compress_size, 10**6))
            source = io.BytesIO(archive.read(member))
        content = stack.enter_context(h5py.File(source, "r"))
        check_stored(content)
        yield content


def check_stored(content: h5py.File) -> None:
    """Check that the values of every dataset are in the file itself, in their full size.

    A dataset may instead have values that were never written, be compressed without bound, or lie in other files.

    Raises:
        ValueError: it names the first that is not.
    """

    links: dict[str, object] = {}
    content.visititems_links(lambda name, link: links.update({name: link}))
    for name, link in links.items():
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f"{_printable(name)} is a link to elsewhere")
        item = content[name]
        if isinstance(item, h5py.Dataset):
            properties = item.id.get_create_plist()
            in_one_piece = properties.get_layout() in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT)
            if not in_one_piece or properties.get_external_count() or item.id.get_storage_size() < item.nbytes:
                raise ValueError(f"{_printable(name)}, {item.dtype} {item.shape}, is not stored in full, in one piece")


def _in_hdf5(content: h5py.File) -> Iterator[tuple[str, Announced]]:
    """Weights as Keras 3 writes them. It calls the groups after the layers' classes; names are an attribute."""
    for group in (layer["vars"] for layer in content["layers"].values() if len(layer["vars"])):
        layer = group.attrs["name"]
        if not isinstance(layer, str):
            raise ValueError("the name of a layer is no text")
        variables = NORM_VARIABLES if layer.endswith("_norm") else CONVOLUTION_VARIABLES
        for variable, dataset in zip(variables, group.values(), strict=True):
            yield f"{published_name(layer.removesuffix('_norm'))}/{variable}", _in_dataset(dataset)


def _in_imagenet(content: h5py.File) -> Iterator[tuple[str, Announced]]:
    """Keras' ImageNet VGG16: layers "block1_conv1" to "block5_conv3". They expect B, G, R, and ours R, G, B."""
    found: dict[str, h5py.Dataset] = {}
    content.visititems(lambda path, item: found.update({path: item}) if isinstance(item, h5py.Dataset) else None)
    for path, dataset in found.items():
        if block := re.search(r"block(\d)_conv(\d)/[^/]*$", path):
            name = "conv{0}/conv{0}_{1}".format(*block.groups())
            array = _in_dataset(dataset)
            if dataset.ndim == 4 and name == "conv1/conv1_1":
                array = Announced(array.shape, array.dtype, functools.partial(_swapped, dataset))
            yield f"{name}/{'kernel' if dataset.ndim == 4 else 'bias'}", array


def _swapped(kernel: h5py.Dataset) -> np.ndarray:
    return kernel[()][:, :, ::-1]


def _in_dataset(dataset: h5py.Dataset) -> Announced:
    return Announced(dataset.shape, dataset.dtype, lambda: dataset[()])


# --- Protocol buffers -------------------------------------------------------------------------------------------------


def _in_protobuf(contents: bytes) -> Iterator[tuple[str, Announced]]:
    """Constants of a frozen graph or a SavedModel, straight from the message: no graph is built, nothing runs."""
    for part in _nodes(memoryview(contents)):
        node = NodeDef.FromString(part)
        name = _split_name(node.name)
        if name and node.op == "Const":
            tensor = node.attr["value"].tensor
            shape = tuple(side.size for side in tensor.tensor_shape.dim)
            dtype = np.dtype(tf.dtypes.as_dtype(tensor.dtype).as_numpy_dtype)
            yield name, Announced(shape, dtype, functools.partial(tf.make_ndarray, tensor))


def _nodes(message: memoryview) -> Iterator[memoryview]:
    """The nodes of a graph, one after the other: as objects, all of them together may take fifty times the file."""
    # The first field of a SavedModel is a number, its version; that of a graph is never one.
    is_saved_model = any(number == 1 and part is None for number, part in _fields(message))
    for graph in [graph for meta in _parts(message, 2) for graph in _parts(meta, 2)] if is_saved_model else [message]:
        yield from _parts(graph, 1)
        # TensorFlow 2 puts what a SavedModel computes into library functions.
        for library in _parts(graph, 2):
            for function in _parts(library, 1):
                yield from _parts(function, 3)


def _parts(message: memoryview, wanted: int) -> Iterator[memoryview]:
    return (part for number, part in _fields(message) if number == wanted and part is not None)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | None]]:
    """The fields of a message: their numbers, and the bytes of those that are messages or texts.

    Source: "Encoding" in the documentation of protocol buffers.
    """
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, kind = key >> 3, key & 7
        part = None
        if kind == 0:
            _, position = _varint(message, position)
        elif kind == 2:
            length, start = _varint(message, position)
            position = start + length
            part = message[start:position]
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4
        else:
            raise ValueError("not a graph")
        if position > len(message):
            raise ValueError("the file ends too early")
        yield number, part


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number of seven bits a byte, the least first, and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[position + shift // 7]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position + shift // 7 + 1
    raise ValueError("not a graph")


# --- What a file says about itself ------------------------------------------------------------------------------------


def read_note(path: Path, advice: str = "Fetch or export it again.") -> dict | None:
    """What `write_note` wrote; None where there is nothing.

    Raises:
        UserError: the file is damaged; it ends with the advice.
    """
    with reading(path, "is damaged", advice):
        text = _note(path)
        return None if text is None else _object(text)


def _object(text: str | bytes) -> dict:
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError(f"{NOTE_FILE} is no JSON object")
    return content


def _note(path: Path) -> str | bytes | None:
    if path.is_dir():
        file = path / NOTE_FILE
        return _regular(file).read_text(encoding="utf-8") if file.exists() else None
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
    """Add what is worth knowing to an `.h5`, `.npz` or `.keras` file, or to a folder, as JSON; once in each.

    Keras and NumPy pass it over.
    """
    text = json.dumps(content)
    if path.is_dir():
        (path / NOTE_FILE).write_text(text, encoding="utf-8")
    elif path.suffix == ".h5":
        with h5py.File(path, "a") as file:
            # A dataset, as HDF5 limits what it calls attributes to 64 kB.
            file[NOTE] = text
    else:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(NOTE_FILE, text, zipfile.ZIP_DEFLATED)
