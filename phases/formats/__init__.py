"""The formats of `export`, one file each: how the network is written, read back, and used by who has the export."""

from phases.formats import hub, keras, litert, onnx, savedmodel, tfjs, weights
from phases.formats.base import Format

# The choices of `--format`, and the bits that each offers, are `config.EXPORTS`. Most hold the network once.
FORMATS: dict[str, tuple[Format, ...]] = {
    "keras": (keras.FORMAT,),
    "weights": (weights.FORMAT,),
    "savedmodel": (savedmodel.FORMAT,),
    "onnx": (onnx.FORMAT,),
    "tflite": (litert.FORMAT,),
    "tfjs": (tfjs.FORMAT,),
    "hub": hub.PARTS,
}
