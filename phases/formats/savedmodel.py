"""The network as a TensorFlow SavedModel, with a signature that takes photographs of any size."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from ... import checkpoint
from ...geometry import candidate_sizes
from ...images import IMAGE_PADDING, crop_and_restore, resize_and_pad
from ...network import Network
from .base import READ_PHOTOGRAPH, SAVE_MAP, Format, named_graph

FOLDER = "saved_model"


def write_savedmodel(network: Network, folder: Path, bits: int, calibration=()) -> None:
    """Write both signatures. They call one function, so the file holds the weights once."""
    graph = named_graph(network).get_concrete_function()
    signatures = {
        "serving_default": tf.function(lambda input: graph(input), graph.structured_input_signature[0]),
        "photograph": photograph_graph(graph, network),
    }
    concrete = {name: function.get_concrete_function() for name, function in signatures.items()}
    tf.saved_model.save(tf.Module(), str(folder / FOLDER), signatures=concrete)
    checkpoint.write_knowledge(folder / FOLDER, checkpoint.knowledge_of(network))


def photograph_graph(graph, network: Network):
    """From a photograph, uint8 (H, W, 3) of any size, to its map, float32 (H, W), 0 to 1: `Network.predict`."""

    def predict(photograph):
        size = _size_for(tf.shape(photograph)[:2], network)
        maps = graph(resize_and_pad(photograph, size, IMAGE_PADDING)[None])["output"]  # (1, h, w, 1)
        saliency = crop_and_restore(maps[0], tf.shape(photograph)[:2])  # (H, W, 1), 0 to 255
        return {"saliency": saliency[..., 0] / 255}

    return tf.function(predict, [tf.TensorSpec((None, None, 3), tf.uint8, name="photograph")], autograph=False)


def _size_for(shape, network: Network):
    """`Network.size_for` as a graph, (2,) int32."""
    height, width = network.input_size
    if not network.fit_shape:
        return tf.constant((height, width))
    sizes = tf.constant(candidate_sizes(height * width), tf.float64)  # (N, 2)
    sides = tf.cast(shape, tf.float64)
    ratios = tf.reduce_min(sizes / sides, axis=1)
    filled = tf.reduce_prod(sides) * tf.square(ratios) / tf.reduce_prod(sizes, axis=1)
    return tf.cast(sizes[tf.argmax(filled)], tf.int32)


def predict_savedmodel(folder: Path, images: np.ndarray) -> np.ndarray:
    signature = tf.saved_model.load(str(folder / FOLDER)).signatures["serving_default"]
    return signature(input=tf.constant(images))["output"].numpy()


NOTES = """There are two signatures. `photograph` includes resizing, so TensorFlow Serving and C++ can use it directly:
its input `photograph` is uint8 (H, W, 3), RGB, of any size, its output `saliency` float32 (H, W), 0 to 1.
`serving_default` is the network alone, with the input and output above: `geometry.py` resizes photographs for it and
restores its maps. From the command line, with a photograph saved by NumPy,

```bash
saved_model_cli run --dir saved_model --tag_set serve --signature_def photograph \\
    --inputs photograph=photograph.npy --outdir maps
```

writes `maps/saliency.npy`."""

FORMAT = Format(
    runtime="TensorFlow",
    file=FOLDER,
    write=write_savedmodel,
    predict=predict_savedmodel,
    example="""import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

"""
    + READ_PHOTOGRAPH
    + """predict = tf.saved_model.load("saved_model").signatures["photograph"]
saliency = predict(photograph=tf.constant(photograph))["saliency"].numpy()  # float32, 0 to 1, of the photograph's size
"""
    + SAVE_MAP,
    needs="numpy, pillow and tensorflow",
    notes=NOTES,
)
