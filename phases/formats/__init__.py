"""The formats of `export`, one file each: how the network is written, read back and used."""

from . import hub, keras, litert, onnx, savedmodel, tfjs, weights
from .base import Format

# The choices of `--format` and their bits are in `config.EXPORTS`. Most formats hold the network once.
FORMATS: dict[str, tuple[Format, ...]] = {
    "keras": (keras.FORMAT,),
    "weights": (weights.FORMAT,),
    "savedmodel": (savedmodel.FORMAT,),
    "onnx": (onnx.FORMAT,),
    "tflite": (litert.FORMAT,),
    "tfjs": (tfjs.FORMAT,),
    "hub": hub.PARTS,
}
