"""Every default of the program, in one place. Each value can be overridden by a flag of `main.py`."""

# Of the program; every record and checkpoint says which version made it. CHANGELOG.md says what changed.
VERSION = "1.1.0"

PARAMS = {
    # The training set-up of the paper (section 3.3).
    "epochs": 10,  # passes over the training set; the total, also when a run is continued
    "batch_size": 1,  # images in one training step
    "learning_rate": 1e-5,  # of Adam
    # What the paper leaves out; see RECIPES.
    "warmup_steps": 0,  # training steps over which the learning rate rises from zero
    "cosine_decay": False,  # whether the learning rate then falls to zero along a cosine
    "weight_decay": 0.0,  # decoupled from the gradient; kernels only
    "mirror": False,  # swap left and right in half of the images
    "color": 0.0,  # greatest relative change of brightness, contrast and saturation
    "crop": 0.0,  # greatest share of each side that is cut away
    "scales": (1.0,),  # factors on the network's input size, of which each training step draws one
    "weight_average": 0.0,  # share that a running average of the weights keeps at each step; 0 for no average
    "cc_weight": 0.0,  # of 1 - CC (correlation with the true map) in the loss, beside the paper's KLD
    "nss_weight": 0.0,  # of -NSS (with the true map in the place of fixations) in the loss, beside the paper's KLD
    "cache": False,  # whether images are decoded and resized once for all epochs, and kept on the disk
    "tensorboard": False,  # whether losses, speed and a few validation maps are written for TensorBoard
    # What every phase needs.
    "precision": "float32",  # that convolutions compute in; "bfloat16" or, on GPUs, "float16" is faster and less exact
    "gpus": 0,  # of this machine, that share each training step or the batches to predict; 0 for all there are
    "device": "auto",  # layout of the network: "cpu" (channels-last), "gpu" (channels-first), or "auto"
    "seed": 42,  # of shuffling, augmentation and initial weights
    "results": "results",  # folder that receives everything a run produces
}

# An image of more pixels is refused: a file of a few bytes may claim any number, and each takes up to 15 bytes of
# memory. It is where Pillow sees an attack, and its own bound.
MAX_PIXELS = 178_956_970

# Named sets of changes to PARAMS. "scratch" suits a few thousand photographs or fewer and no VGG16 weights.
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

# Height and width of the network's input, in pixels, where they are to be others than the published ones, which stand
# in the rows of acquisition/datasets.py: "osie": (360, 480) would change OSIE's. All must be divisible by 8.
DIMS = {
    "custom": (240, 320),  # one's own photographs
}

# The network's sizes: a factor on every filter count, and whether training normalises over the batch, without which
# a network as narrow as "lite" does not learn from random initial weights.
VARIANTS = {
    "full": {"width": 1.0, "batch_norm": False},
    "lite": {"width": 0.25, "batch_norm": True},
}

# What `export` writes: the bits of a weight that each format offers, the first by default. 32 are float32; 16 are
# float16 in ONNX and LiteRT and uint16 with a scale in TensorFlow.js; 8 are int8, calibrated on photographs.
EXPORTS = {
    "keras": (32,),
    "weights": (32,),
    "savedmodel": (32,),
    "onnx": (32, 16),
    "tflite": (32, 16, 8),
    "tfjs": (32, 16),
    "hub": (32,),
}

# Height and width of the network's input behind the demo's five buttons, "very low" to "very high".
DEMO_SIZES = ((48, 64), (72, 96), (120, 160), (168, 224), (240, 320))
