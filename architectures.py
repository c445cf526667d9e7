"""The network that arrays belong to: its size and its parts, told from their names and shapes."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras

from . import efficientnet
from .config import VARIANTS
from .layers import scaled_filters
from .model import msi_net

# Variables of a batch normalization, in the order in which Keras stores them.
NORM_VARIABLES = ("gamma", "beta", "moving_mean", "moving_variance")


@dataclass(frozen=True)
class Architecture:
    """The network that arrays belong to."""

    width: float  # factor on the filter counts
    context: str | None  # of `model.msi_net`; None for an encoder alone, such as VGG16
    batch_norm: bool  # whether the arrays contain batch normalization that is not folded in

    @property
    def is_symmetric(self) -> bool:
        """Whether the network itself averages the maps of a photograph and its mirror image."""
        return self.context in efficientnet.SIZES and efficientnet.SIZES[self.context].both_sides

    @property
    def variant(self) -> str:
        """The name of this width in `config.VARIANTS`."""
        names = {(row["width"], row.get("context")): name for name, row in VARIANTS.items()}
        context = self.context if self.context in efficientnet.SIZES else None
        return names.get((self.width, context), f"width {self.width:g}")


def describe(arrays: Mapping[str, Any]) -> Architecture:
    """The architecture that arrays by published name, of which only the shapes are read, belong to or resemble most."""
    if "stem/conv/kernel" in arrays:
        sizes = [name for name, size in efficientnet.SIZES.items() if f"mbconv{size.blocks}/project/kernel" in arrays]
        return Architecture(1.0, (sizes or list(efficientnet.SIZES))[0], batch_norm=False)
    first: tuple[int, ...] = arrays["conv1/conv1_1/bias"].shape if "conv1/conv1_1/bias" in arrays else ()
    # Limited to the widest variant, so that a file cannot request more.
    widest = max(row["width"] for row in VARIANTS.values())
    width = first[0] / 64 if len(first) == 1 and 0 < first[0] <= 64 * widest else widest
    context = None
    if any(name.startswith(("aspp/", "decoder/")) for name in arrays):
        context = "plain" if "aspp/conv1/kernel" in arrays else "aspp"
    return Architecture(width, context, any(name.endswith("/gamma") for name in arrays))


@functools.cache
def expected_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """The shape of every array of a network, by published name, in the network's order."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(x, name, filters, size=3, dilation=1, relu=True, stride=1, depthwise=False):
        """Record the shapes of a convolution's variables; compute nothing."""
        filters = scaled_filters(filters, architecture.width)
        shapes[f"{name}/kernel"] = (size, size, x.shape[-1], 1 if depthwise else filters)
        shapes[f"{name}/bias"] = (filters,)
        if architecture.batch_norm and relu:
            shapes.update({f"{name}/{variable}": (filters,) for variable in NORM_VARIABLES})
        return keras.KerasTensor((*x.shape[:-1], filters))

    msi_net(keras.KerasTensor((1, 64, 64, 3)), conv, context=architecture.context or "aspp")
    if architecture.context is None:
        return {name: shape for name, shape in shapes.items() if not name.startswith(("aspp/", "decoder/"))}
    return shapes
