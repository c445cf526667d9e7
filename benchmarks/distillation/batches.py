"""The photographs, maps and fixations of a pack on the GPU: batches with augmentation, and validation."""

import io
import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import port as N
import torch
import torch.nn.functional as F
from PIL import Image

PADDING = 126
PADDED = (240, 320)


def read_pack(folder, limit=None):
    """Rows of the pack with decoded pixels: `image` (h, w, 3) and `map` (h, w), uint8, as fitted and not yet padded."""
    folder = Path(folder)
    meta = json.loads((folder / "meta.json").read_text())
    fixations = dict(np.load(folder / "fixations.npz"))  # Read now: the archive is not for several threads.

    def pieces(file, sizes):
        data, ends = (folder / file).read_bytes(), np.cumsum(sizes)
        return [data[end - size : end] for end, size in zip(ends, sizes, strict=True)]

    rows = meta["rows"]
    images, maps = pieces("images.bin", meta["image_bytes"]), pieces("maps.bin", meta["map_bytes"])

    def decode(i):
        row = dict(rows[i])
        row["image"] = np.asarray(Image.open(io.BytesIO(images[i])).convert("RGB"))
        row["map"] = np.asarray(Image.open(io.BytesIO(maps[i])).convert("L"))
        if row["part"] == "valid":
            row["fixations"] = fixations[f"{row['dataset']}/{row['name']}"]
        return row

    chosen = range(len(images))
    if limit:
        chosen = [i for i in chosen if i % max(1, len(rows) // limit) == 0]
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(decode, chosen))


def placed(pixels, size, padding):
    """Pixels (h, w, c) in the middle of a canvas, (c, H, W)."""
    canvas = np.full((*size, pixels.shape[2]), padding, np.uint8)
    top, left = ((size[i] - pixels.shape[i]) // 2 for i in (0, 1))
    canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return torch.from_numpy(canvas.transpose(2, 0, 1).copy())


def refit(pixels, size):
    """Pixels (h, w, c) resized to fit into a size; as they are where they fit."""
    ratio = min(size[0] / pixels.shape[0], size[1] / pixels.shape[1])
    if ratio == 1:
        return pixels
    h, w = (max(1, round(side * ratio)) for side in pixels.shape[:2])
    x = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float()[None]
    x = F.interpolate(x, (h, w), mode="bilinear", antialias=True)
    return x[0].round().clamp(0, 255).byte().numpy().transpose(1, 2, 0)


class Batches:
    """Training images of one part in buckets of equal size; see `draw`.

    Args:
        rows: of `read_pack`.
        padded: whether every photograph is fitted into 240x320, instead of a size of its own shape.
        seed: of the order and of the augmentation.
    """

    def __init__(self, rows, device, padded=False, seed=0):
        rows = [row for row in rows if row["part"] == "train"]
        self.count, self.device = len(rows), device
        self.random = np.random.default_rng(seed)
        self.generator = torch.Generator(device).manual_seed(seed)
        by_size = {}
        for row in rows:
            by_size.setdefault(PADDED if padded else tuple(row["size"]), []).append(row)
        self.buckets = []
        for size, group in sorted(by_size.items()):
            half = (size[0] // 2, size[1] // 2)
            images = torch.stack([placed(refit(row["image"], size), size, PADDING) for row in group])
            maps = torch.stack([placed(refit(row["map"][..., None], half), half, 0) for row in group])
            self.buckets.append((images.to(device), maps.to(device)))
        self.sizes = np.array([len(images) for images, _ in self.buckets])
        self.queues = [[] for _ in self.buckets]

    def draw(self, batch):
        """Images (B, 3, H, W), 0 to 255, and maps (B, 1, H, W), float32, of one size; B at most `batch`."""
        bucket = self.random.choice(len(self.sizes), p=self.sizes / self.sizes.sum())
        images, maps = self.buckets[bucket]
        queue, count = self.queues[bucket], min(batch, len(images))
        if len(queue) < count:
            rest = [i for i in self.random.permutation(len(images)) if i not in queue]
            queue.extend(rest)
        index = torch.tensor([queue.pop(0) for _ in range(count)], device=self.device)
        x, y = images[index].float(), maps[index].float()
        return x, F.interpolate(y, scale_factor=2, mode="bicubic", align_corners=False).clamp(min=0)

    def uniform(self, count, low, high):
        return torch.rand(count, generator=self.generator, device=self.device) * (high - low) + low

    def augment(self, x, y, color=0.3, crops=0, crop=0.5, aspect=0.15):
        """Mirror half of the images, change the colors of all, and crop and stretch the last `crops` of them."""
        b = len(x)
        mirrored = (self.uniform(b, 0, 1) < 0.5)[:, None, None, None]
        x, y = torch.where(mirrored, x.flip(3), x), torch.where(mirrored, y.flip(3), y)
        if crops:
            side = self.uniform(crops, 1 - crop, 1)
            stretch = torch.exp(self.uniform(crops, -aspect, aspect))
            wide, high = (side * stretch).clamp(max=1), (side / stretch).clamp(max=1)
            theta = torch.zeros(crops, 2, 3, device=x.device)
            theta[:, 0, 0], theta[:, 1, 1] = wide, high
            theta[:, 0, 2] = self.uniform(crops, -1, 1) * (1 - wide)
            theta[:, 1, 2] = self.uniform(crops, -1, 1) * (1 - high)
            grid = F.affine_grid(theta, (crops, 3, *x.shape[2:]), align_corners=False)
            cropped = F.grid_sample(x[-crops:], grid, mode="bilinear", padding_mode="border", align_corners=False)
            x = torch.cat([x[:-crops], cropped])
        if color:
            brightness, contrast, saturation = (
                self.uniform(b, 1 - color, 1 + color)[:, None, None, None] for _ in range(3)
            )
            x = x * brightness
            mean = x.mean((2, 3), keepdim=True)
            x = (x - mean) * contrast + mean
            gray = (x * torch.tensor([0.2989, 0.5870, 0.1140], device=x.device).view(1, 3, 1, 1)).sum(1, keepdim=True)
            x = (gray + (x - gray) * saturation).clamp(0, 255)
        return x, y

    def scaled(self, x, y, scales):
        """Both at one size drawn from factors on their own, with sides divisible by 8."""
        scale = self.random.choice(scales)
        if scale == 1:
            return x, y
        size = [max(8, round(side * scale / 8) * 8) for side in x.shape[2:]]
        x = F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
        return x, F.interpolate(y, size, mode="bilinear", antialias=True, align_corners=False)


class Validation:
    """Validation images, and the scores of a network on them by the rules of `evaluate`.

    Args:
        rows: of `read_pack`.
        padded: a size that every photograph is fitted into, or None for sizes of their own shapes.
    """

    def __init__(self, rows, device, padded=None):
        self.rows = [row for row in rows if row["part"] == "valid"]
        by_size = {}
        for i, row in enumerate(self.rows):
            by_size.setdefault(tuple(padded or row["size"]), []).append(i)
        self.groups = []
        for size, indices in by_size.items():
            for start in range(0, len(indices), 16):
                part = indices[start : start + 16]
                images = torch.stack([placed(refit(self.rows[i]["image"], size), size, PADDING) for i in part])
                self.groups.append((part, images.to(device)))
        self.maps = [torch.from_numpy(np.array(row["map"])).to(device).float() for row in self.rows]
        self.fixations = [torch.from_numpy(row["fixations"]).to(device) for row in self.rows]

    @torch.no_grad()
    def scores(self, net, mirrored=False):
        """Means by dataset of NSS, CC, IG and KLD; CC and KLD at the network's resolution.

        Args:
            net: a function from images to maps.
        """
        values = {}
        for part, images in self.groups:
            images = images.float()
            maps = net(images).float()
            if mirrored:
                maps = N.normalize(maps + net(images.flip(3)).flip(3).float())
            for i, saliency in zip(part, maps, strict=True):
                values[i] = self.score(self.rows[i], saliency, self.maps[i], self.fixations[i])
        table = torch.stack([values[i] for i in range(len(self.rows))]).cpu().numpy()
        sets = np.array([row["dataset"] for row in self.rows])
        return {str(name): table[sets == name].mean(0).round(4).tolist() for name in dict.fromkeys(sets)}

    def score(self, row, saliency, truth, fixations):
        shape, inner = row["shape"], saliency.shape[1:]
        full = restored(saliency[None], shape)
        rows, columns = fixations[:, 0].long(), fixations[:, 1].long()
        at = full[rows, columns]
        nss = (at.mean() - full.mean()) / full.std(unbiased=False)
        density = full / full.sum() + 1e-8
        ig = ((density / density.sum()).log()[rows, columns] - fixations[:, 2]).mean() / math.log(2)
        small = restored(saliency[None], truth.shape) if tuple(truth.shape) != tuple(inner) else saliency[0]
        pair = truth[None, None], small[None, None]
        return torch.stack([nss, N.cc(*pair)[0], ig, N.kld(*pair)[0]])


def restored(saliency, shape):
    """A map (1, 1, h, w) at the size of its photograph, (H, W): larger by bicubic interpolation, then cropped."""
    saliency = saliency.reshape(1, 1, *saliency.shape[-2:])
    ratio = max(shape[0] / saliency.shape[2], shape[1] / saliency.shape[3])
    size = [round(side * ratio) for side in saliency.shape[2:]]
    if size != list(saliency.shape[2:]):
        saliency = F.interpolate(saliency, size, mode="bicubic", align_corners=True).clamp(0, 1)
    top, left = ((size[i] - shape[i]) // 2 for i in (0, 1))
    return saliency[0, 0, top : top + shape[0], left : left + shape[1]]
