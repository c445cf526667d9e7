"""Train MSI-Net or EfficientNet-Lite in PyTorch, alone or taught by others, for a given time or number of steps.

    python benchmarks/distillation/train.py NAME --pack PACK --out OUT --seconds 230 --init vgg16.npz ...

`run.sh` trains the teachers; the model card has the commands of the networks that ship. Every validation writes
`OUT/NAME_last` and `_best` (of the highest score): for MSI-Net arrays (`.npz`) with batch normalization folded in, for
EfficientNet its state (`.pt`). It appends NSS, CC, IG and KLD of each dataset to `OUT/NAME.jsonl`. `finish.py` makes a
file of weights of them. It needs PyTorch, NumPy and Pillow.
"""

import argparse
import contextlib
import json
import math
import time
from pathlib import Path

import effnet
import port
import torch
from batches import Batches, Validation, read_pack
from prune import prune

START = time.time()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("name", help="of the run's files")
    add("--pack", default="pack", help="folder from pack.py")
    add("--out", default="out", help="folder for the run's files")
    add("--seconds", type=float, default=math.inf, help="of training; the learning rate ends then")
    add("--steps", type=int, default=10**9, help="at most so many")
    add("--limit", type=int, default=None, help="use about so many images, for a trial")
    # One value for all networks that are trained side by side on the same batches, or one for each of them.
    add("--init", nargs="+", default=["scratch"], help="scratch, FILE.npz or .pt, prune:FILE.npz, efficientnet:FILE")
    add("--width", nargs="+", type=float, default=[1.0], help="factor on the filter counts")
    add("--seeds", nargs="+", type=int, default=[42], help="of initial weights and filters; the first of the data too")
    add("--norm", nargs="*", default=[], help="beginnings of the layers that get a batch normalization")
    add("--dropout", type=float, default=0.0, help="share of the context's channels")
    add("--drop", type=float, default=0.2, help="share of EfficientNet's deep blocks and of its decoder's channels")
    add("--teachers", nargs="*", default=[], help="arrays of full networks (.npz), or of EfficientNet (.pt)")
    add("--mirrored", action="store_true", help="average the teachers' maps with those of the mirrored images")
    add("--human", type=float, default=1.0, help="weight of the loss on human maps, where there are teachers")
    add("--crops", type=float, default=0.5, help="share of a batch that is cropped, where there are teachers")
    add("--batch", type=int, default=16)
    add("--lr", type=float, default=1e-4)
    add("--encoder-lr", type=float, default=None, help="of the encoder; as the others' by default")
    add("--early-lr", type=float, default=None, help="of the encoder's first two blocks; as the encoder's by default")
    add("--weight-decay", type=float, default=0.0)
    add("--warmup", type=int, default=200, help="steps")
    add("--constant", action="store_true", help="no warm-up and no decay of the learning rate")
    add("--clip", type=float, default=10.0, help="greatest norm of the gradient; 0 for none")
    add("--ema", type=float, default=0.998, help="share that the average of the weights keeps at a step; 0 for none")
    add("--cc", type=float, default=1.0, help="weight of 1 - CC in the loss")
    add("--nss", type=float, default=0.1, help="weight of -NSS in the loss")
    add("--color", type=float, default=0.3, help="greatest change of brightness, contrast and saturation")
    add("--scales", nargs="+", type=float, default=[1.0], help="factors on the input's sides, one drawn at each step")
    add("--plain", action="store_true", help="no augmentation at all")
    add("--padded", action="store_true", help="fit every photograph into 240x320")
    add("--precision", default="bfloat16", choices=("bfloat16", "tf32", "float32"))
    add("--epochs-between", type=float, default=4, help="validations")
    args = parser.parse_args()
    if args.seconds == math.inf and args.steps == parser.get_default("steps"):
        parser.error("add --seconds or --steps")
    count = max(len(args.init), len(args.width), len(args.seeds))
    for key in ("init", "width", "seeds"):
        values = getattr(args, key)
        if len(values) not in (1, count):
            parser.error(f"--{key} has {len(values)} values, expected 1 or {count}")
        setattr(args, key, values * count if len(values) == 1 else values)
    return args


class Student:
    """A network with its optimizer, its running average, and its scores."""

    def __init__(self, name, width, init, seed, args, device):
        torch.manual_seed(seed)
        self.name, self.args, self.init, self.seed, self.device = name, args, init, seed, device
        if init.startswith("efficientnet:"):
            self.net = effnet.fresh(init.removeprefix("efficientnet:"), args.drop)
        elif init.endswith(".pt"):
            self.net = effnet.restored(init, args.drop)
        else:
            self.net = port.MSINet(width, args.norm, args.dropout)
            if init != "scratch" and not init.startswith("prune:"):
                port.assign(self.net, port.load(init))
        self.net = to_device(self.net, device).train()
        self.best, self.losses = -math.inf, []

    def prepare(self, some, autocast):
        """Make what training needs; `some` are batches that choose filters."""
        if self.init.startswith("prune:"):
            prune(load_network(self.init.removeprefix("prune:"), self.device), self.net, some, autocast, self.seed)
        groups, fused = parameter_groups(self.net, self.args), self.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(groups, eps=1e-8, fused=fused)
        self.average = port.Average(self.net, self.args.ema) if self.args.ema else None

    def step(self, x, loss_of, autocast, factor):
        """One training step, with the learning rates times a factor."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        with autocast():
            predicted = self.net(x)
        loss = loss_of(predicted)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.args.clip:
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.args.clip, foreach=True)
        self.optimizer.step()
        if self.average:
            self.average.update(self.net)
        self.losses.append(loss.detach())

    def validate(self, validation, autocast, epoch, out):
        network = self.average.net if self.average else self.net
        network.eval()

        def maps(x):
            with autocast():
                return network(x)

        scores = validation.scores(maps)
        value = sum(nss / 3 + cc + ig / 2 for nss, cc, ig, _ in scores.values()) / len(scores)
        self.save(out, "last", network)
        if value > self.best:
            self.best = value
            self.save(out, "best", network)
        self.net.train()
        loss = torch.stack(self.losses).mean().item() if self.losses else math.nan
        self.losses = []
        seconds = round(time.time() - START, 1)
        row = {
            "run": self.name,
            "epoch": round(epoch, 2),
            "seconds": seconds,
            "training_loss": round(loss, 4),
            **scores,
        }
        with (out / f"{self.name}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)

    def save(self, out, kind, network):
        if isinstance(network, effnet.EffNet):
            effnet.save(out / f"{self.name}_{kind}.pt", network)
        else:
            port.save(out / f"{self.name}_{kind}.npz", port.to_arrays(network))


def parameter_groups(network, args):
    """Learning rates by depth; weight decay for kernels only."""
    encoder = args.lr if args.encoder_lr is None else args.encoder_lr
    early = encoder if args.early_lr is None else args.early_lr
    groups = {}
    for name, parameter in network.named_parameters():
        rate = encoder if name.startswith(("conv", "encoder")) else args.lr
        rate = early if name.startswith(("conv1", "conv2")) else rate
        decay = args.weight_decay if name.endswith("conv.weight") else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": p, "lr": rate, "peak": rate, "weight_decay": d} for (rate, d), p in groups.items()]


def to_device(network, device):
    # Depthwise convolutions are quick with channels first only.
    layout = torch.contiguous_format if isinstance(network, effnet.EffNet) else torch.channels_last
    return network.to(device, memory_format=layout)


def load_network(path, device):
    if path.endswith(".pt"):
        network = effnet.restored(path)
    else:
        arrays = port.load(path)
        network = port.MSINet(arrays["conv1/conv1_1/bias"].shape[0] / 64)
        port.assign(network, arrays)
    return to_device(network, device)


@torch.no_grad()
def teach(teachers, x, autocast, mirrored):
    """The mean of the teachers' distributions, with `mirrored` also of those for the mirror images."""
    with autocast():
        maps = [port.as_distribution(teacher(x)) for teacher in teachers]
        if mirrored:
            maps += [port.as_distribution(teacher(x.flip(3))).flip(3) for teacher in teachers]
        return sum(maps) / len(maps)


def loss_for(args, y, taught, plain):
    """The loss of a batch whose first `plain` images have human maps that fit; the teachers' maps fit every image."""

    def loss_of(predicted):
        human = port.combined(y[:plain], predicted[:plain], args.cc, args.nss).sum() / len(predicted)
        return human if taught is None else args.human * human + port.combined(taught, predicted, args.cc, 0).mean()

    return loss_of


def main():
    args = arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # Not cudnn.benchmark: the trials of kernels take minutes for so many sizes of input.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.precision != "float32"
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)

    def autocast():
        if args.precision == "bfloat16":
            return torch.autocast(device.type, torch.bfloat16)
        return contextlib.nullcontext()

    rows = read_pack(args.pack, args.limit)
    batches = Batches(rows, device, args.padded, args.seeds[0])
    validation = Validation(rows, device, (240, 320) if args.padded else None)
    teachers = [load_network(path, device).eval() for path in args.teachers]
    students = [
        Student(args.name if len(args.init) == 1 else f"{args.name}-w{width:g}-{seed}", width, init, seed, args, device)
        for width, init, seed in zip(args.width, args.init, args.seeds, strict=True)
    ]
    prunes = any(student.init.startswith("prune:") for student in students)
    some = [batches.augment(*batches.draw(min(16, args.batch))) for _ in range(24 if prunes else 0)]
    for student in students:
        student.prepare(some, autocast)

    begin, images, steps, validated = time.time(), 0, 0, 0.0
    while time.time() - begin < args.seconds and steps < args.steps:
        x, y = batches.draw(args.batch)
        crops = int(len(x) * args.crops) if teachers else 0
        if not args.plain:
            x, y = batches.augment(x, y, args.color, crops)
            x, y = batches.scaled(x, y, args.scales)
        x = x.contiguous(memory_format=torch.channels_last)
        taught = teach(teachers, x, autocast, args.mirrored) if teachers else None
        loss_of = loss_for(args, y, taught, len(x) - crops)
        share = min(1.0, max((time.time() - begin) / args.seconds, steps / args.steps))
        factor = 1.0 if args.constant else min(1, (steps + 1) / args.warmup) * 0.5 * (1 + math.cos(math.pi * share))
        for student in students:
            student.step(x, loss_of, autocast, factor)
        images, steps = images + len(x), steps + 1
        if steps % 10 == 0 and device.type == "cuda":
            torch.cuda.synchronize()  # The clock decides the learning rate, so the queue must not run ahead.
        epoch = images / batches.count
        if epoch >= validated + args.epochs_between:
            validated = epoch
            for student in students:
                student.validate(validation, autocast, epoch, out)
    for student in students:
        student.validate(validation, autocast, images / batches.count, out)
    seconds = time.time() - begin
    print(f"{args.name}: {steps} steps, {images} images, {images / seconds:.0f} images/s", flush=True)


if __name__ == "__main__":
    main()
