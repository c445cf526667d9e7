"""Turn arrays from `train.py` into a weight file that records its training data.

    python benchmarks/distillation/finish.py PACK FILE [FILE SHARE ...] weights/msinet_lite.npz

Several files, each but the first with its share of the mean, are averaged: networks of one line of training only.
"""

import json
import sys
from pathlib import Path

import effnet
import numpy as np

from msinet import architectures, checkpoint
from msinet.checkpoint import Knowledge, TrainedOn
from msinet.data import names_hash


def main(pack: Path, sources: list[str], target: Path) -> None:
    files, shares = [sources[0], *sources[1::2]], [float(share) for share in sources[2::2]]
    shares = [1 - sum(shares), *shares]
    parts = [effnet.to_arrays(effnet.restored(file)) if file.endswith(".pt") else dict(np.load(file)) for file in files]
    arrays = {name: np.zeros(values.shape, np.float32) for name, values in parts[0].items()}
    for share, part in zip(shares, parts, strict=True):
        arrays = {name: values + share * part[name].astype(np.float32) for name, values in arrays.items()}
    architecture = checkpoint.describe(arrays)
    ordered = {name: arrays[name] for name in architectures.expected_shapes(architecture)}
    names: dict[str, dict[str, list[str]]] = {}
    for row in json.loads((pack / "meta.json").read_text(encoding="utf-8"))["rows"]:
        names.setdefault(row["dataset"], {"train": [], "valid": []})[row["part"]].append(row["name"])
    datasets = {
        dataset: TrainedOn((240, 320), tuple(n["train"]), tuple(n["valid"]), names_hash(n["train"], n["valid"]))
        for dataset, n in names.items()
    }
    settings = {"program": "benchmarks/distillation", "runs": [Path(file).stem for file in files], "shares": shares}
    context, variant = architecture.context, architecture.variant
    knowledge = Knowledge((240, 320), context, variant, datasets, 0.0, True, settings=settings)
    checkpoint.save_arrays(target, ordered, knowledge, bits=8)
    print(f"{target}: {target.stat().st_size} bytes, SHA-256 {checkpoint.file_sha256(target)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:-1], Path(sys.argv[-1]))
