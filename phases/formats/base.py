"""What all formats of `export` share: how one is described, and the network that each of them holds."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import checkpoint
import geometry
from model import build_model, msi_net, tensor_convolutions
from msinet import Network


def _copy_geometry(folder: Path) -> None:
    shutil.copyfile(geometry.__file__, folder / "geometry.py")


@dataclass(frozen=True)
class Format:
    """How a format is written, how its own runtime predicts with what was written, and how a user does.

    Attributes:
        runtime: its name.
        file: name of the export's file, or of its main one.
        write: from the network, the folder to write into, the bits of a weight and calibration images.
        predict: from that folder and images (B, H, W, 3) to maps (B, H, W, 1), float32.
        example: a program that makes `saliency.npy` (or, in JavaScript, `saliency.f32`) of `photograph.png`
            (`photograph.ppm`); `{height}` and `{width}` are those of the network's input.
        needs: in words, what the example needs.
        notes: on the runtime, for who uses the export: least versions, and what to look out for.
        accompany: writes into that folder what brings photographs into the network and maps back.
        packages: what must be importable for writing, from `requirements-export.txt`.
        language: of the example, "python" or "js".
        needs_program: whether the example imports this program.
    """

    runtime: str
    file: str
    write: Callable[[Network, Path, int, Sequence[np.ndarray]], None]
    predict: Callable[[Path, np.ndarray], np.ndarray]
    example: str
    needs: str
    notes: str
    accompany: Callable[[Path], None] = _copy_geometry
    packages: tuple[str, ...] = ()
    language: str = "python"
    needs_program: bool = False


# The examples of Python's runtimes differ in what is imported, and in how `images` becomes `maps`.
PYTHON_EXAMPLE = """import numpy as np
{imports}
from PIL import Image

from geometry import fit, restore  # geometry.py is beside this text

photograph = np.asarray(Image.open("photograph.png").convert("RGB"))
images = fit(photograph, ({height}, {width}))[None]  # (1, {height}, {width}, 3), 0 to 255
{predict}
saliency = restore(maps[0], photograph.shape[:2])  # float32, 0 to 1, of the photograph's size
np.save("saliency.npy", saliency)
Image.fromarray(np.uint8(np.round(255 * saliency))).save("saliency.png")
"""


def python_example(imports: str, predict: str) -> str:
    return fill(PYTHON_EXAMPLE, imports=imports, predict=predict)


def fill(text: str, **values) -> str:
    """Put values into the places of a text that are called like them; other braces, as programs have, stay."""
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", str(value))
    return text


def named_graph(network: Network) -> tf.types.experimental.PolymorphicFunction:
    """The network as a compiled function with the input "input" and the output "output", of any batch and size."""
    conv = tensor_convolutions(network.arrays)
    signature = [tf.TensorSpec((None, None, None, 3), tf.float32, name="input")]
    context = network.architecture.context
    assert context  # A `Network` is never an encoder alone.
    return tf.function(lambda images: {"output": msi_net(images, conv, context=context)}, signature, autograph=False)


def keras_model(network: Network) -> keras.Model:
    """The network as Keras layers: what every export is compared with."""
    context = network.architecture.context
    assert context  # A `Network` is never an encoder alone.
    model = build_model(context=context, width=network.architecture.width)
    checkpoint.assign(model, network.arrays)
    return model
