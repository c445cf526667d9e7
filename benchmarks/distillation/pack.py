"""Pack the photographs, maps and fixations of OSIE, MIT1003, crowd and scene into files of 62 MB for the GPU.

    python benchmarks/distillation/pack.py PACK [--data data]

It needs `data/osie`, `data/mit1003`, and crowd and scene together in `data/custom`. Photographs are fitted to 76,800
pixels in their own shapes, as `test` does by default. The splits are the program's. OSIE's training image 1279 is left
out: it is the validation image 1374 once more. The program runs here and PyTorch there, so the pack needs neither.
"""

import argparse
import io
import json
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from msinet import (
    data,
    geometry,
    images,
)
from msinet.acquisition.datasets import DATASETS
from msinet.scoring.ground_truth import GroundTruth, load_cases

ROOT = Path(__file__).parents[2]

PIXELS = 240 * 320
DUPLICATES = {("osie", "1279")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--data", type=Path, default=ROOT / "data")
    args = parser.parse_args()
    args.pack.mkdir(parents=True, exist_ok=True)
    rows, photographs, maps, fixations = [], [], [], {}
    for dataset in ("osie", "mit1003", "custom"):
        folder = data.find_dataset(dataset, args.data)
        samples = data.pair_files(folder)
        train, valid = (samples, []) if dataset == "custom" else data.split(samples, DATASETS[dataset])
        for part, group in (("train", train), ("valid", valid)):
            for sample in group:
                if (dataset, sample.name) not in DUPLICATES:
                    row, photograph, saliency = pack_one(sample, part == "train")
                    rows.append({"dataset": dataset, "name": sample.name, "part": part, **row})
                    photographs.append(photograph)
                    maps.append(saliency)
        fixations |= {f"{dataset}/{name}": points for name, points in fixations_of(folder, valid).items()}
    (args.pack / "images.bin").write_bytes(b"".join(photographs))
    (args.pack / "maps.bin").write_bytes(b"".join(maps))
    np.savez_compressed(args.pack / "fixations.npz", **fixations)
    sizes = {"image_bytes": [*map(len, photographs)], "map_bytes": [*map(len, maps)]}
    (args.pack / "meta.json").write_text(json.dumps({"rows": rows, **sizes}), encoding="utf-8")


def pack_one(sample: data.Sample, trains: bool) -> tuple[dict, bytes, bytes]:
    """An image's sizes, its photograph and its map. Training maps have half the sides: their blur hides the loss."""
    pixels = images.decode_image(tf.io.read_file(str(sample.stimulus)), 3)
    shape = tuple(int(side) for side in pixels.shape[:2])
    size = geometry.fitted_size(shape, PIXELS)
    photograph = np.round(images.resize_to_fit(pixels, size).numpy()).astype(np.uint8)
    truth = images.decode_image(tf.io.read_file(str(sample.saliency)), 1)
    saliency = images.resize_to_fit(truth, size).numpy()[..., 0]
    if trains:
        height, width = saliency.shape
        saliency = np.asarray(Image.fromarray(saliency).resize((width // 2, height // 2), Image.Resampling.BOX))
    saliency = np.round(saliency * (255 / max(saliency.max(), 1e-6))).astype(np.uint8)
    return (
        {"shape": shape, "size": size},
        webp(photograph, quality=88 if trains else 94, method=3),
        webp(saliency, lossless=True, method=2, quality=60),
    )


def fixations_of(folder: Path, valid: list[data.Sample]) -> dict[str, np.ndarray]:
    """By name, the row and column of each fixation, and the log density of the center bias there; (N, 3) float32."""
    cases = load_cases(folder, valid)
    truth = GroundTruth(cases) if cases else None
    return {
        case.sample.name: np.column_stack(
            [case.fixations, truth.log_center_bias(case)[tuple(case.fixations.T)]]
        ).astype(np.float32)
        for case in cases
    }


def webp(pixels: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", **options)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
