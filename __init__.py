"""MSI-Net: where people look in photographs.

import msinet

network = msinet.load("lite")
saliency = network.predict("photograph.jpg")  # float32, (height, width), 0 to 1
msinet.regions(saliency, {"sign": (40, 60, 120, 32)})
"""

import importlib
from typing import TYPE_CHECKING

from . import utils as utils  # First of all modules, for its settings of TensorFlow.
from .config import VERSION as __version__

if TYPE_CHECKING:
    from .attention.crops import crop as crop
    from .attention.hot_spots import hot_spots as hot_spots
    from .attention.regions import regions as regions
    from .engines import load as load
    from .network import Network as Network
    from .utils import UserError as UserError

# Imported when they are used: TensorFlow takes seconds, and `msinet --help` and questions about maps do not need it.
MODULES = {
    "Network": "network",
    "UserError": "utils",
    "load": "engines",
    "regions": "attention.regions",
    "hot_spots": "attention.hot_spots",
    "crop": "attention.crops",
}

__all__ = ["Network", "UserError", "__version__", "crop", "hot_spots", "load", "regions"]


def __getattr__(name: str):
    if name in MODULES:
        with utils.quiet_stderr():
            module = importlib.import_module(f".{MODULES[name]}", __name__)
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
