"""MSI-Net: where people look in photographs.

import msinet

network = msinet.load("lite")
saliency = network.predict("photograph.jpg")  # float32, (height, width), 0 to 1
"""

from typing import TYPE_CHECKING

from . import utils as utils  # First of all modules, for its settings of TensorFlow.
from .config import VERSION as __version__

if TYPE_CHECKING:
    from .network import Network as Network
    from .network import load as load

__all__ = ["Network", "__version__", "load"]


def __getattr__(name: str):
    # TensorFlow takes seconds to import, so `import msinet` and `msinet --help` wait for it only when it is needed.
    if name in ("Network", "load"):
        from . import network

        return getattr(network, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
