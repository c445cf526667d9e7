"""MSI-Net in PyTorch: the same network, losses and arrays as the TensorFlow program's, for training on a GPU.

Arrays go in and out by published name, kernels as (height, width, in, out), as everywhere in the program.
"""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

CHANNEL_MEANS = (103.939, 116.779, 123.68)
NORM_EPSILON, NORM_MOMENTUM = 1e-3, 0.03
EPSILON = 1e-7

# Name, filters, side of the kernel, dilation; in the network's order.
LAYERS = [
    ("conv1/conv1_1", 64, 3, 1),
    ("conv1/conv1_2", 64, 3, 1),
    ("conv2/conv2_1", 128, 3, 1),
    ("conv2/conv2_2", 128, 3, 1),
    ("conv3/conv3_1", 256, 3, 1),
    ("conv3/conv3_2", 256, 3, 1),
    ("conv3/conv3_3", 256, 3, 1),
    ("conv4/conv4_1", 512, 3, 1),
    ("conv4/conv4_2", 512, 3, 1),
    ("conv4/conv4_3", 512, 3, 1),
    ("conv5/conv5_1", 512, 3, 2),
    ("conv5/conv5_2", 512, 3, 2),
    ("conv5/conv5_3", 512, 3, 2),
    ("aspp/conv1_1", 256, 1, 1),
    ("aspp/conv1_2", 256, 3, 4),
    ("aspp/conv1_3", 256, 3, 8),
    ("aspp/conv1_4", 256, 3, 12),
    ("aspp/conv1_5", 256, 1, 1),
    ("aspp/conv2", 256, 1, 1),
    ("decoder/conv1", 128, 3, 1),
    ("decoder/conv2", 64, 3, 1),
    ("decoder/conv3", 32, 3, 1),
    ("decoder/conv4", 1, 3, 1),
]
NAMES = [row[0] for row in LAYERS]

# The layers whose outputs each layer reads, where it is not the one before it alone.
SOURCES = {name: [NAMES[i - 1]] for i, name in enumerate(NAMES) if i}
FEATURES = ["conv3/conv3_3", "conv4/conv4_3", "conv5/conv5_3"]
BRANCHES = [f"aspp/conv1_{i}" for i in range(1, 6)]
SOURCES |= dict.fromkeys(BRANCHES, FEATURES) | {"aspp/conv2": BRANCHES}


def scaled_filters(filters, width):
    return filters if filters == 1 else max(8, round(filters * width / 8) * 8)


def safe(name):
    return name.replace("/", "_")


class Conv(nn.Module):
    """A "same" convolution with a bias, an optional batch normalization, and ReLU after it."""

    def __init__(self, inputs, outputs, size, dilation, norm, relu):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, padding=dilation * (size // 2), dilation=dilation)
        self.norm = nn.BatchNorm2d(outputs, NORM_EPSILON, NORM_MOMENTUM) if norm else None
        self.relu = relu
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_in")
        nn.init.zeros_(self.conv.bias)

    def forward(self, x):
        if self.norm is not None:  # It would take the bias out again.
            conv = self.conv
            x = self.norm(F.conv2d(x, conv.weight, None, 1, conv.padding, conv.dilation))
        else:
            x = self.conv(x)
        return F.relu(x, inplace=True) if self.relu else x


class MSINet(nn.Module):
    """RGB (B, 3, H, W), 0 to 255, to maps (B, 1, H, W), float32, 0 to 1; H and W divisible by 8.

    Args:
        width: factor on the filter counts.
        norm: beginnings of the names of the layers that get a batch normalization; it is folded in at the end.
        dropout: share of channels of the context features that are dropped in training.
    """

    def __init__(self, width=1.0, norm=(), dropout=0.0):
        super().__init__()
        self.width, self.dropout = width, dropout
        channels = {"image": 3}
        for name, filters, size, dilation in LAYERS:
            inputs = sum(channels[source] for source in SOURCES.get(name, ["image"]))
            channels[name] = scaled_filters(filters, width)
            relu = name != "decoder/conv4"
            # Not over the mean of a whole image, of which a batch has too few.
            norms = relu and name != "aspp/conv1_5" and name.startswith(tuple(norm))
            self.add_module(safe(name), Conv(inputs, channels[name], size, dilation, norms, relu))
        self.register_buffer("means", torch.tensor(CHANNEL_MEANS).view(1, 3, 1, 1), persistent=False)

    def layer(self, name):
        return getattr(self, safe(name))

    def features(self, images):
        """The encoder's three depths, (B, 1280 * width, H/8, W/8)."""
        x = images - self.means
        x = x.contiguous(memory_format=torch.channels_last)
        taken = []
        for name in NAMES[:13]:
            x = self.layer(name)(x)
            if name in ("conv1/conv1_2", "conv2/conv2_2", "conv3/conv3_3"):
                x = F.max_pool2d(x, 2, 2)
            elif name in FEATURES:  # TensorFlow pads below and to the right.
                x = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=float("-inf")), 2, 1)
            if name in FEATURES:
                taken.append(x)
        return torch.cat(taken, 1)

    def forward(self, images):
        x = self.features(images)
        mean = self.layer("aspp/conv1_5")(x.mean((2, 3), keepdim=True))
        branches = [self.layer(name)(x) for name in BRANCHES[:4]]
        x = torch.cat([*branches, mean.expand(-1, -1, *x.shape[2:]).to(branches[0].dtype)], 1)
        if self.dropout:
            x = F.dropout2d(x, self.dropout, self.training)
        x = self.layer("aspp/conv2")(x)
        for name in ("decoder/conv1", "decoder/conv2", "decoder/conv3"):
            x = self.layer(name)(double(x))
        with torch.autocast(x.device.type, enabled=False):
            return normalize(self.layer("decoder/conv4")(x.float()))


def double(x):
    """TensorFlow 1's `resize_bilinear` to twice the size: new pixels are means of their neighbors before and after."""
    kind = x.dtype
    x = F.pad(x, (0, 1, 0, 1), mode="replicate")
    right = (x[:, :, :, :-1] + x[:, :, :, 1:]) / 2
    across = torch.stack([x[:, :, :, :-1], right], 4).flatten(3)  # (B, C, h + 1, 2w)
    below = (across[:, :, :-1] + across[:, :, 1:]) / 2
    both = torch.stack([across[:, :, :-1], below], 3).flatten(2, 3)
    return both.to(kind).contiguous(memory_format=torch.channels_last)


def normalize(x):
    x = x - x.amin((1, 2, 3), keepdim=True)
    return x / (EPSILON + x.amax((1, 2, 3), keepdim=True))


# --- Losses, with the formulas of loss.py -----------------------------------------------------------------------------


def as_distribution(maps):
    return maps / (EPSILON + maps.sum((1, 2, 3), keepdim=True))


def kld(true, predicted):
    true, predicted = as_distribution(true), as_distribution(predicted)
    return (true * torch.log(EPSILON + true / (EPSILON + predicted))).sum((1, 2, 3))


def _centered(maps):
    return maps - maps.mean((1, 2, 3), keepdim=True)


def _deviation(maps):
    return torch.sqrt(maps.var((1, 2, 3), unbiased=False) + EPSILON**2)


def cc(true, predicted):
    covariance = (_centered(true) * _centered(predicted)).mean((1, 2, 3))
    return covariance / (EPSILON + _deviation(true) * _deviation(predicted))


def nss(true, predicted):
    standardized = _centered(predicted) / (EPSILON + _deviation(predicted))[:, None, None, None]
    return (as_distribution(true) * standardized).sum((1, 2, 3))


def combined(true, predicted, cc_weight=1.0, nss_weight=0.1):
    """Of each image, (B,)."""
    loss = kld(true, predicted)
    if cc_weight:
        loss = loss + cc_weight * (1 - cc(true, predicted))
    if nss_weight:
        loss = loss - nss_weight * nss(true, predicted)
    return loss


# --- Arrays -----------------------------------------------------------------------------------------------------------


def to_arrays(net):
    """Arrays by published name, with each batch normalization folded in; float32."""
    arrays = {}
    for name in NAMES:
        layer = net.layer(name)
        kernel = layer.conv.weight.detach().double().cpu().numpy().transpose(2, 3, 1, 0)
        bias = layer.conv.bias.detach().double().cpu().numpy()
        if layer.norm is not None:
            norm = layer.norm
            gamma, beta, mean, variance = (
                x.detach().double().cpu().numpy() for x in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
            )
            scale = gamma / np.sqrt(variance + norm.eps)
            kernel, bias = kernel * scale, beta - mean * scale
        arrays[f"{name}/kernel"] = np.ascontiguousarray(kernel, np.float32)
        arrays[f"{name}/bias"] = np.ascontiguousarray(bias, np.float32)
    return arrays


def assign(net, arrays):
    """Put arrays into the convolutions of a network; those of an encoder alone leave the rest as it is."""
    for name in NAMES:
        if f"{name}/kernel" in arrays:
            layer = net.layer(name)
            kernel = torch.from_numpy(np.array(arrays[f"{name}/kernel"], np.float32).transpose(3, 2, 0, 1).copy())
            if kernel.shape != layer.conv.weight.shape:
                raise ValueError(f"{name}: {tuple(kernel.shape)}, expected {tuple(layer.conv.weight.shape)}")
            with torch.no_grad():
                layer.conv.weight.copy_(kernel)
                layer.conv.bias.copy_(torch.from_numpy(np.array(arrays[f"{name}/bias"], np.float32)))


def save(path, arrays):
    np.savez(path, **{name: values.astype(np.float16) for name, values in arrays.items()})


def load(path):
    with np.load(path) as content:
        return {name: content[name].astype(np.float32) for name in content.files if name != "msinet.json"}


class Average:
    """A running average of a network's weights and of the statistics of its batch normalization."""

    def __init__(self, net, decay):
        self.net, self.decay, self.steps = copy.deepcopy(net).eval(), decay, 0
        for parameter in self.net.parameters():
            parameter.requires_grad_(False)

    @torch.no_grad()
    def update(self, net):
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10))
        mine = [x for x in self.net.state_dict().values() if x.dtype.is_floating_point]
        others = [x for x in net.state_dict().values() if x.dtype.is_floating_point]
        torch._foreach_lerp_(mine, others, 1 - decay)
