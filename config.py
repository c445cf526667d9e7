"""All defaults of the program. You may edit them here; flags override them."""

from dataclasses import dataclass
from typing import Any

# Program version, stored in every record and checkpoint. CHANGELOG.md describes the changes.
VERSION = "2.0.0"

# What a parameter affects. MAPS: predictions and scores, and therefore training too. TRAINING: only the weights that
# training produces. SPEED: only speed and files, never results.
MAPS, TRAINING, SPEED = "maps", "training", "speed"

# Limits of the network's input. Sides must be divisible by 8. The most pixels, such as 1448×1448, need 10 GB.
INPUT_SIDES = (8, 4096)
MOST_INPUT_PIXELS = 2**21

BELOW_1 = 1 - 2**-53  # the greatest float below 1


@dataclass(frozen=True)
class Param:
    """One parameter of the program. Its flag, its checks and every record are derived from this row.

    Attributes:
        value: the default.
        help: what `--help` says.
        affects: MAPS, TRAINING or SPEED. A resumed training run must match all parameters but SPEED.
        limits: lowest and highest number.
        choices: allowed words.
        phases: phases that have the flag, in addition to `train` and `reproduce`, which have all.
        may_change: whether a resumed training run may use another value although it affects training.
    """

    value: Any
    help: str
    affects: str
    limits: tuple[float, float] | None = None
    choices: tuple[str, ...] | None = None
    phases: tuple[str, ...] = ()
    may_change: bool = False


# Phases that answer questions about photographs, see docs/attention.md.
QUESTIONS = ("regions", "compare", "crop")

PARAMS = {
    # Shared by several phases.
    "device": Param(
        "auto",
        "layout of the network: cpu (channels-last), gpu (channels-first), or auto to choose by the available devices",
        SPEED,
        choices=("auto", "cpu", "gpu"),
        phases=("test", "evaluate", "submit", *QUESTIONS),
    ),
    "orientation": Param(
        "upright",
        "upright turns photographs as their EXIF orientation says; stored uses the pixels as they are in the file. The "
        "published datasets are always used as stored",
        MAPS,
        choices=("upright", "stored"),
        phases=("test", "evaluate"),
    ),
    "max_dropped": Param(
        0.05,
        "largest share of the fixations in your table that may be dropped because they are outside their image or "
        "have no position; more are an error",
        SPEED,
        limits=(0, 1),
        phases=("evaluate",),
    ),
    "precision": Param(
        "float32",
        "compute dtype of the convolutions: float32 as published; bfloat16 or, on GPUs, float16 is faster and less "
        "exact",
        MAPS,
        choices=("float32", "bfloat16", "float16"),
        phases=("test", "evaluate", *QUESTIONS),
    ),
    "gpus": Param(
        0,
        "number of GPUs of this machine to use, which share each batch; 0 for all that TensorFlow finds",
        SPEED,
        limits=(0, 256),
        phases=("test", "evaluate", *QUESTIONS),
    ),
    "results": Param(
        "results",
        "folder for everything that a run produces",
        SPEED,
        phases=("test", "evaluate", "submit", "export", "demo", *QUESTIONS),
    ),
    "seed": Param(
        42,
        "seed of everything random, so that a repeated command gives the same numbers",
        MAPS,
        limits=(0, 2**32 - 1),
        phases=("evaluate",),
    ),
    "batch_size": Param(
        1,
        "images that go through the network together",
        TRAINING,
        limits=(1, 1_000_000),
        phases=("test", "evaluate", "submit", *QUESTIONS),
    ),
    # The training setup of the paper (section 3.3).
    "epochs": Param(
        10,
        "total number of passes over the training set, including those before a run is resumed",
        TRAINING,
        limits=(1, 1_000_000),
        may_change=True,
    ),
    "learning_rate": Param(1e-5, "learning rate of Adam", TRAINING, limits=(1e-15, 1000)),
    # Not in the paper; see RECIPES.
    "warmup_steps": Param(
        0, "training steps over which the learning rate rises from zero", TRAINING, limits=(0, 1_000_000)
    ),
    "cosine_decay": Param(False, "let the learning rate fall to zero along a cosine", TRAINING),
    "weight_decay": Param(
        0.0, "weight decay of the kernels, decoupled from the gradient", TRAINING, limits=(0, BELOW_1)
    ),
    "mirror": Param(False, "swap left and right in half of the training images", TRAINING),
    "color": Param(
        0.0, "maximum relative change of brightness, contrast and saturation in training", TRAINING, limits=(0, BELOW_1)
    ),
    "crop": Param(0.0, "maximum share of each side that training crops away", TRAINING, limits=(0, BELOW_1)),
    "scales": Param(
        (1.0,), "factors on the network's input size; each training step draws one", TRAINING, limits=(0.05, 8)
    ),
    "weight_average": Param(
        0.0,
        "share that a running average of the weights keeps at each step, such as 0.998; unless it is 0, the average is "
        "validated and saved as the best checkpoint",
        TRAINING,
        limits=(0, BELOW_1),
    ),
    "cc_weight": Param(
        0.0,
        "weight of 1 - CC (correlation with the true map) in the loss, in addition to the paper's KLD",
        TRAINING,
        limits=(0, 1000),
    ),
    "nss_weight": Param(
        0.0,
        "weight of -NSS (with the true map instead of fixations) in the loss, in addition to the paper's KLD",
        TRAINING,
        limits=(0, 1000),
    ),
    "tensorboard": Param(False, "also write losses and learning rate for TensorBoard", SPEED),
}


def defaults() -> dict[str, Any]:
    """The value of each parameter by its name."""
    return {name: row.value for name, row in PARAMS.items()}


# Larger images are rejected: a file of a few bytes may claim any size, and each pixel takes up to 15 bytes of memory.
# The value is Pillow's own decompression-bomb limit.
MAX_PIXELS = 178_956_970

# Named changes to PARAMS. "scratch" suits a few thousand photographs or fewer, without VGG16 weights.
RECIPES = {
    "paper": {},
    "scratch": {
        "epochs": 30,
        "batch_size": 8,
        "learning_rate": 2e-3,
        "warmup_steps": 200,
        "cosine_decay": True,
        "weight_decay": 1e-2,
        "mirror": True,
        "color": 0.3,
        "crop": 0.2,
        "scales": (0.2, 0.5, 0.7, 1.0),
    },
}

# Height and width of the network's input in pixels, to override the published sizes in acquisition/datasets.py. For
# example, "osie": (360, 480) changes OSIE's. All must be divisible by 8.
DIMS = {
    "custom": (240, 320),  # your own photographs
}

# Share of your own photographs that validates, unless folders `train` and `val` or `--valid-fraction` say otherwise.
VALID_FRACTION = 0.2

# Fewer validation images than this get a warning.
FEW = 5

# Networks to train: a factor on every filter count, and whether training uses batch normalization. A network as
# narrow as "narrow" does not learn from random initial weights without it. Those with a context are in efficientnet.py;
# they start from the included networks.
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {"width": 1.0, "batch_norm": False},
    "narrow": {"width": 0.25, "batch_norm": True},
    "medium": {"width": 1.0, "batch_norm": False, "context": "efficientnet-lite2"},
    "lite": {"width": 1.0, "batch_norm": False, "context": "efficientnet-lite0"},
}

# How the network combines features at 1/8 resolution: with the ASPP module, or without it, as in the paper's ablation.
CONTEXTS = ("aspp", "plain")

# The definitions of the metrics to choose from; see scoring/protocols.py.
PROTOCOLS = {
    "tuebingen": "the MIT/Tübingen Saliency Benchmark",
    "mit": "the original MIT benchmark",
}

# The formats that `export` writes and the bits per weight that each offers, the default first. 32 means float32; 16
# means float16 in ONNX and LiteRT, and uint16 with a scale in TensorFlow.js; 8 means int8, calibrated on photographs.
EXPORTS = {
    "keras": (32,),
    "weights": (32,),
    "savedmodel": (32,),
    "onnx": (32, 16),
    "tflite": (32, 16, 8),
    "tfjs": (32, 16),
    "hub": (32,),
}

# Height and width of the network's input for the demo's five quality buttons, "very low" to "very high".
DEMO_SIZES = ((48, 64), (72, 96), (120, 160), (168, 224), (240, 320))
