"""What all export formats share: their description, and the network as a TensorFlow function and as Keras layers."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from ... import checkpoint, geometry
from ...model import build_model, msi_net, tensor_convolutions
from ...network import Network


def _copy_geometry(folder: Path) -> None:
    shutil.copyfile(geometry.__file__, folder / "geometry.py")


@dataclass(frozen=True)
class Format:
    """How to write a format, how to predict with it in its own runtime, and what to tell users.

    Attributes:
        runtime: its name.
        file: name of the export's (main) file.
        write: takes the network, the folder to write to, the bits of a weight, and calibration images.
        predict: takes that folder and images (B, H, W, 3), and returns maps (B, H, W, 1), float32.
        example: a program that turns `photograph.png` into `saliency.npy` (in JavaScript `photograph.ppm` into
            `saliency.f32`); `{height}` and `{width}` stand for the network's input.
        needs: the example's requirements, in words.
        notes: for users of the export: minimum versions and pitfalls.
        accompany: writes the code for resizing photographs and maps to that folder.
        packages: needed for writing, from `requirements-export.txt`.
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


# The end of every Python example.
SAVE_MAP = """np.save("saliency.npy", saliency)
Image.fromarray(np.uint8(np.round(255 * saliency))).save("saliency.png")
"""

# Most Python examples differ only in their imports and in how they predict `maps` from `images`.
PYTHON_EXAMPLE = """import numpy as np
{imports}
from PIL import Image

from geometry import fit, restore  # geometry.py is in this folder

photograph = np.asarray(Image.open("photograph.png").convert("RGB"))
images = fit(photograph, ({height}, {width}))[None]  # (1, {height}, {width}, 3), 0 to 255
{predict}
saliency = restore(maps[0], photograph.shape[:2])  # float32, 0 to 1, of the photograph's size
{save}"""


def python_example(imports: str, predict: str) -> str:
    return fill(PYTHON_EXAMPLE, imports=imports, predict=predict, save=SAVE_MAP)


def fill(text: str, **values) -> str:
    """Replace `{name}` by each value in turn; unlike `str.format`, it leaves other braces alone, such as code."""
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", str(value))
    return text


def named_graph(network: Network) -> tf.types.experimental.PolymorphicFunction:
    """The network as a compiled function with the input "input" and the output "output", for any batch and size."""
    conv = tensor_convolutions(network.arrays)
    signature = [tf.TensorSpec((None, None, None, 3), tf.float32, name="input")]
    context = network.architecture.context
    assert context  # A `Network` is never an encoder alone.
    return tf.function(lambda images: {"output": msi_net(images, conv, context=context)}, signature, autograph=False)


def keras_model(network: Network) -> keras.Model:
    """The network as Keras layers: the reference for every export."""
    context = network.architecture.context
    assert context  # A `Network` is never an encoder alone.
    model = build_model(context=context, width=network.architecture.width)
    checkpoint.assign(model, network.arrays)
    return model
