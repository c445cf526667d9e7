"""A folder as a repository of models on Hugging Face holds it, ready to be pushed; nothing is pushed from here."""

import json
import re
import shutil
from pathlib import Path

from images import IMAGE_PADDING
from msinet import Network
from phases.formats import keras, onnx
from phases.formats.card import Provenance, provenance

# What the repository holds the network as.
PARTS = (keras.FORMAT, onnx.FORMAT)

LICENCE_FILE = Path(__file__).parents[2] / "LICENSE"

# Without this, files beyond 10 MB are refused.
ATTRIBUTES = "".join(f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in ("keras", "onnx"))


def write_repository(network: Network, folder: Path, text: str) -> None:
    """Write what goes beside the network: the model card, sizes as `config.json`, the licence, and Git's attributes.

    Args:
        network: what was exported.
        folder: with the files of `PARTS`.
        text: from `card.describe_export`.
    """
    origin = provenance(network)
    # The network's own card, if there is one, follows as a chapter.
    own = "\n" + re.sub("^#", "##", origin.card, flags=re.MULTILINE) if origin.card else ""
    (folder / "README.md").write_text(front_matter(network, origin) + text + own, encoding="utf-8")
    config = {
        "model_type": "msinet",
        "variant": network.architecture.variant,
        "context": network.architecture.context,
        "input_size": list(network.input_size),
        "divisible_by": 8,
        "channels": "RGB, 0 to 255",
        "padding": IMAGE_PADDING,
        "files": [part.file for part in PARTS],
        "weights_sha256": network.sha256,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / ".gitattributes").write_text(ATTRIBUTES, encoding="utf-8")
    if origin.spdx == "mit":
        shutil.copyfile(LICENCE_FILE, folder / "LICENSE")


def front_matter(network: Network, origin: Provenance) -> str:
    """What the hub shows and searches: licence, tags, and metrics with the images that they were measured on."""
    lines = ["---", f"license: {origin.spdx}", "library_name: keras", "pipeline_tag: image-to-image", "tags:"]
    lines += [f"- {tag}" for tag in ("saliency-prediction", "eye-tracking", "msi-net", "keras", "onnx")]
    if origin.scores:
        lines += ["model-index:", f"- name: MSI-Net {network.architecture.variant}", "  results:"]
        lines += ["  - task:", "      type: image-to-image", "      name: Saliency prediction", "    dataset:"]
        lines += [f"      name: {json.dumps(origin.scored_on)}", "      type: osie", "    metrics:"]
        for metric, value in origin.scores.items():
            lines += [f"    - type: {metric.lower()}", f"      name: {metric}", f"      value: {value}"]
    return "\n".join([*lines, "---", "", ""])
