"""The engines that predict: TensorFlow, or LiteRT, which starts in a second."""

from .predictor import Predictor
from .utils import UserError, quiet_stderr


def load(weights=None, *, engine: str = "tensorflow", **options) -> Predictor:
    """Load a trained network.

    Args:
        weights, options: see `network.load`.
        engine: "tensorflow", which returns a `network.Network`; or "litert" for the bundled networks on a processor
            without importing TensorFlow, which returns a `litert.LiteNetwork`.

    Raises:
        UserError: see `network.load`; or the engine is unknown, or not available, or cannot do what the options say.
    """
    if engine == "litert":
        from . import litert

        return litert.load(weights, **options)
    if engine != "tensorflow":
        raise UserError(f"Received the engine {engine!r}, expected tensorflow or litert.")
    with quiet_stderr():
        from . import network
    return network.load(weights, **options)
