"""The network as Keras' `.weights.h5`, for this program."""

from pathlib import Path

import numpy as np

from ... import checkpoint
from ...model import build_model
from ...network import Network
from .base import SAVE_MAP, Format, keras_model

FILE = "msinet.weights.h5"


def write_weights(network: Network, folder: Path, bits: int, calibration=()) -> None:
    keras_model(network).save_weights(folder / FILE)
    checkpoint.write_knowledge(folder / FILE, checkpoint.knowledge_of(network))


def predict_weights(folder: Path, images: np.ndarray) -> np.ndarray:
    architecture = checkpoint.describe(checkpoint.read_arrays(folder / FILE))
    assert architecture.context  # The export holds a whole network.
    model = build_model(context=architecture.context, width=architecture.width)
    model.load_weights(folder / FILE)
    return model.predict_on_batch(images)


FORMAT = Format(
    runtime="Keras",
    file=FILE,
    write=write_weights,
    predict=predict_weights,
    example="""import msinet
import numpy as np
from PIL import Image

network = msinet.load("msinet.weights.h5"{load_size})
saliency = network.predict("photograph.png")  # float32, 0 to 1, of the photograph's size
"""
    + SAVE_MAP,
    needs="the package `msinet` (`pip install .` in a clone of MSI-Net)",
    notes="The file holds weights without the network: `msinet.model.build_model` creates it, and all "
    "commands of MSI-Net accept the file with `--weights`.",
    accompany=lambda folder: None,  # The example imports the program, which includes the geometry.
)
