"""What all export formats share: their description, and the network as a TensorFlow function and as Keras layers."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from ... import checkpoint, geometry
from ...layers import tensor_convolutions
from ...model import build_model, msi_net
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
            `saliency.f32`); see `fill_example` for its placeholders.
        needs: the example's requirements, in words.
        notes: for users of the export: minimum versions and pitfalls.
        accompany: writes the code for resizing photographs and maps to that folder.
        packages: needed for writing, from `requirements-export.txt`.
        language: of the example, "python" or "js".
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


# Reads the photograph upright, and on white where it is transparent, as the program does.
READ_PHOTOGRAPH = """photograph = ImageOps.exif_transpose(Image.open("photograph.png")).convert("RGBA")
white = Image.new("RGBA", photograph.size, "white")
photograph = np.asarray(Image.alpha_composite(white, photograph).convert("RGB"))
"""

# The end of every Python example.
SAVE_MAP = """np.save("saliency.npy", saliency)
Image.fromarray(np.uint8(np.round(255 * saliency))).save("saliency.png")
"""

# Most Python examples differ only in their imports and in how they predict `maps` from `images`.
PYTHON_EXAMPLE = """import numpy as np
{imports}
from PIL import Image, ImageOps

from geometry import fit, restore  # geometry.py is in this folder

{read}images = fit(photograph{fit_size})[None]  # (1, height, width, 3), 0 to 255
{predict}
saliency = restore(maps[0], photograph.shape[:2])  # float32, 0 to 1, of the photograph's size
{save}"""


def python_example(imports: str, predict: str) -> str:
    return fill(PYTHON_EXAMPLE, imports=imports, read=READ_PHOTOGRAPH, predict=predict, save=SAVE_MAP)


def fill_example(example: str, network: Network) -> str:
    """Complete an example: like the program, it fits the input to each photograph's shape, or always uses one size.

    The placeholders are `{fit_size}` for `geometry.fit`, `{js_size}` for `geometry.js`, and `{load_size}` for
    `network.load`.
    """
    height, width = network.input_size
    if not network.fit_shape:
        size = f"({height}, {width})"
        return fill(example, fit_size=f", {size}", js_size=f"[{height}, {width}]", load_size=f", input_size={size}")
    pixels = height * width
    other = pixels != geometry.PIXELS
    js_size = f"fittedSize(photograph.height, photograph.width{f', {pixels}' if other else ''})"
    return fill(example, fit_size=f", pixels={pixels}" if other else "", js_size=js_size, load_size="")


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
