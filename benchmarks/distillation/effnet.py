"""EfficientNet-Lite, and a decoder that joins four depths of it: teacher C and medium (Lite2), and lite (Lite0)."""

import port as N
import torch
import torch.nn.functional as F
from torch import nn

# First strides of the stages, each of which begins where the number of output channels changes.
STRIDES = (1, 2, 2, 2, 1, 2, 1)

# Filters of the decoder's steps, by the channels of the encoder's last stage: those of Lite2, and of Lite0.
DECODERS = {352: (256, 128, 64), 320: (128, 64, 32)}


def same(x, conv):
    """A convolution with TensorFlow's "same" padding, the larger half of which is below and to the right."""
    k, s = conv.kernel_size[0], conv.stride[0]
    pads = [max(0, (-(-side // s) - 1) * s + k - side) for side in x.shape[2:]]
    return conv(F.pad(x, (pads[1] // 2, pads[1] - pads[1] // 2, pads[0] // 2, pads[0] - pads[0] // 2)))


def norm(channels):
    return nn.BatchNorm2d(channels, 1e-3, 0.01)


class Block(nn.Module):
    def __init__(self, inputs, hidden, outputs, kernel, stride):
        super().__init__()
        if hidden != inputs:
            self._expand_conv, self._bn0 = nn.Conv2d(inputs, hidden, 1, bias=False), norm(hidden)
        self._depthwise_conv = nn.Conv2d(hidden, hidden, kernel, stride, groups=hidden, bias=False)
        self._bn1, self._bn2 = norm(hidden), norm(outputs)
        self._project_conv = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.skip, self.drop = inputs == outputs and stride == 1, 0.0

    def forward(self, x):
        y = x
        if hasattr(self, "_expand_conv"):
            y = F.relu6(self._bn0(self._expand_conv(y)))
        y = F.relu6(self._bn1(same(y, self._depthwise_conv)))
        y = self._bn2(self._project_conv(y))
        if self.skip:
            if self.training and self.drop:  # stochastic depth
                keep = torch.rand(len(y), 1, 1, 1, device=y.device) >= self.drop
                y = y * keep / (1 - self.drop)
            y = y + x
        return y


class Encoder(nn.Module):
    """EfficientNet-Lite without its classifier; the architecture is read off the shapes of the state."""

    def __init__(self, state, drop):
        super().__init__()
        stem = state["_conv_stem.weight"].shape[0]
        self._conv_stem, self._bn0 = nn.Conv2d(3, stem, 3, 2, bias=False), norm(stem)
        blocks, inputs, stage, i = [], stem, -1, 0
        self.last = {}  # The last block of each stage.
        while f"_blocks.{i}._project_conv.weight" in state:
            hidden, _, kernel, _ = state[f"_blocks.{i}._depthwise_conv.weight"].shape
            outputs = state[f"_blocks.{i}._project_conv.weight"].shape[0]
            starts = outputs != inputs or i == 0
            stage += starts
            blocks.append(Block(inputs, hidden, outputs, kernel, STRIDES[stage] if starts else 1))
            self.last[stage], inputs, i = i, outputs, i + 1
        for j, block in enumerate(blocks):
            block.drop = drop * j / len(blocks)
        self._blocks = nn.ModuleList(blocks)
        self.channels = [self._blocks[self.last[s]]._project_conv.out_channels for s in (1, 2, 4, 6)]

    def forward(self, x):
        x = F.relu6(self._bn0(same(x, self._conv_stem)))
        taken = []
        for i, block in enumerate(self._blocks):
            x = block(x)
            if i in (self.last[1], self.last[2], self.last[4], self.last[6]):
                taken.append(x)
        return taken  # at 1/4, 1/8, 1/16 and 1/32


class Fuse(nn.Module):
    """Two ordinary convolutions."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.a, self.b = (
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        )
        self.na, self.nb = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)

    def forward(self, x):
        return F.relu(self.nb(self.b(F.relu(self.na(self.a(x))))))


class EffNet(nn.Module):
    """RGB (B, 3, H, W), 0 to 255, to maps (B, 1, H, W), 0 to 1, like `net.MSINet`."""

    def __init__(self, state, drop=0.2):
        super().__init__()
        self.encoder = Encoder(state, drop)
        c4, c8, c16, c32 = self.encoder.channels
        deep, middle, fine = DECODERS[c32]
        self.deep = Fuse(c32 + c16, deep)
        self.globe = nn.Conv2d(c32, deep, 1)
        self.middle, self.fine = Fuse(deep + c8, middle), Fuse(middle + c4, fine)
        self.last = nn.Conv2d(fine, 1, 3, padding=1)
        self.dropout = drop

    def forward(self, images):
        f4, f8, f16, f32 = self.encoder(((images - 127) / 128).contiguous())

        def up(x, like):
            return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)

        x = self.deep(torch.cat([up(f32, f16), f16], 1)) + self.globe(f32.mean((2, 3), keepdim=True))
        x = F.dropout2d(x, self.dropout, self.training)
        x = self.middle(torch.cat([up(x, f8), f8], 1))
        x = self.fine(torch.cat([up(x, f4), f4], 1))
        with torch.autocast(x.device.type, enabled=False):
            return N.normalize(up(self.last(x.float()), images))


def fresh(path, drop=0.2):
    """A network over pretrained features, its decoder with random weights; `drop` as in `restored`."""
    state = {k: v.float() for k, v in torch.load(path, map_location="cpu", weights_only=True).items()}
    network = EffNet(state, drop)
    missing, _ = network.encoder.load_state_dict(state, strict=False)
    assert not [k for k in missing if not k.endswith("num_batches_tracked")], missing
    return network


def restored(path, drop=0.2):
    """A network from what `save` wrote; `drop` is the share of deep blocks, and of the decoder's channels, left out."""
    state = {
        k: v.float() if v.is_floating_point() else v
        for k, v in torch.load(path, map_location="cpu", weights_only=True).items()
    }
    network = EffNet({k[8:]: v for k, v in state.items() if k.startswith("encoder.")}, drop)
    network.load_state_dict(state)
    return network


def to_arrays(network):
    """The program's arrays by name, with batch normalization folded in; see `msinet.efficientnet`."""
    arrays = {}

    def put(name, conv, norm=None):
        kernel = conv.weight.detach().double()
        bias = torch.zeros(len(kernel)) if conv.bias is None else conv.bias.detach().double()
        if norm is not None:
            scale = norm.weight.detach().double() / torch.sqrt(norm.running_var.double() + norm.eps)
            kernel = kernel * scale[:, None, None, None]
            bias = (bias - norm.running_mean.double()) * scale + norm.bias.detach().double()
        kernel = kernel.permute(2, 3, 0, 1) if conv.groups > 1 else kernel.permute(2, 3, 1, 0)
        arrays[f"{name}/kernel"], arrays[f"{name}/bias"] = kernel.float().contiguous().numpy(), bias.float().numpy()

    encoder = network.encoder
    put("stem/conv", encoder._conv_stem, encoder._bn0)
    for i, block in enumerate(encoder._blocks, 1):
        if hasattr(block, "_expand_conv"):
            put(f"mbconv{i}/expand", block._expand_conv, block._bn0)
        put(f"mbconv{i}/depthwise", block._depthwise_conv, block._bn1)
        put(f"mbconv{i}/project", block._project_conv, block._bn2)
    for i, fuse in enumerate((network.deep, network.middle, network.fine), 1):
        put(f"decoder/conv{i}_1", fuse.a, fuse.na)
        put(f"decoder/conv{i}_2", fuse.b, fuse.nb)
    put("decoder/conv1_3", network.globe)
    put("decoder/conv4", network.last)
    return arrays


def save(path, network):
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}, path)
