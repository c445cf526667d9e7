"""The plan of a reproduction: its steps as data, each after the steps that it needs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ... import download
from ...acquisition import datasets
from ...acquisition.datasets import BENCHMARKS, DATASETS
from ...bundled import BUNDLED, facts
from ...config import MAPS, PARAMS, PROTOCOLS, SPEED, VARIANTS
from ...scoring.report import aligned
from ...utils import count

# The networks of the tables, in order. If another network replaces "published", its name is used instead.
NETWORKS = {
    "published": "published network",
    "salicon": "published SALICON network, not fine-tuned",
    "trained": "trained here",
    "ablation": "trained here, without ASPP",
    "baselines": "baselines",
}
TRAINED = {"aspp": "trained", "plain": "ablation"}  # by context


@dataclass(frozen=True)
class Options:
    """The flags of `reproduce`, whose help describes them, and all parameters by name."""

    data: Sequence[str]
    path: Path
    params: Mapping
    weights: str = "published"
    train: bool = False
    context: str = "aspp"
    variant: str = "full"
    init: str = "vgg16"
    seeds: int = 1
    input_size: tuple[int, int] | None = None
    reference: Path | None = None
    dry_run: bool = False

    @property
    def names(self) -> list[str]:
        """The datasets, each once."""
        return list(dict.fromkeys(DATASETS if "all" in self.data else self.data))

    @property
    def contexts(self) -> list[str]:
        """The contexts of the networks to train."""
        return list(dict.fromkeys(("aspp", self.context)))

    @property
    def folder(self) -> Path:
        """The folder of everything that a reproduction writes."""
        return Path(self.params["results"]) / "reproduction"

    def size_for(self, name: str) -> tuple[int, int]:
        return self.input_size or datasets.input_size(name)

    def title(self, network: str) -> str:
        """The name of a network of `NETWORKS` in the tables."""
        if network != "published" or self.weights == "published":
            return NETWORKS[network]
        named = f"{self.weights} network" if self.weights in BUNDLED else Path(self.weights).name
        return f"{named}, instead of the published network"


@dataclass(frozen=True)
class Step:
    """One step, which is done once.

    Attributes:
        name: a unique phrase.
        kind: "data", "weights", "train", "evaluate" or "submit".
        data: the key of its dataset, or of its benchmark.
        settings: everything else that determines its result, except the results of the steps that it needs.
        needs: names of those steps.
        network: a key of `NETWORKS`, if the step is about one.
        seed: of its training.
    """

    name: str
    kind: str
    data: str
    settings: Mapping = field(default_factory=dict)
    needs: Sequence[str] = ()
    network: str = ""
    seed: int | None = None

    @property
    def protocol(self) -> str:
        return self.settings["protocol"]


def make_plan(options: Options) -> list[Step]:
    """All steps, each after the steps that it needs. Published networks come first, because they take less time."""
    steps = [step for name in options.names for step in _published(name, options)]
    if options.train:
        steps += _trainings(options)
    steps += _submissions(options, [step for step in steps if step.kind == "train"])
    return list({step.name: step for step in steps}.values())


def _published(name: str, options: Options) -> Iterator[Step]:
    data, network = fetch_data(name), fetch_weights(options.weights, name)
    yield data
    yield from _evaluations("baselines", data, None, options)
    yield network
    yield from _evaluations("published", data, network, options)
    if options.weights == "published" and name != "salicon":
        untuned = fetch_weights("published", "salicon")
        yield untuned
        yield from _evaluations("salicon", data, untuned, options)


def _trainings(options: Options) -> Iterator[Step]:
    """SALICON from the initial weights, then each dataset from the best SALICON checkpoint, and all evaluations."""
    salicon, first = fetch_data("salicon"), None
    yield salicon
    if options.init != "scratch":
        first = fetch_weights(options.init, "salicon")
        yield first
    for context in options.contexts:
        for seed in range(options.params["seed"], options.params["seed"] + options.seeds):
            start = train_on(salicon, first, context, seed, options)
            yield start
            for name in options.names:
                data = fetch_data(name)
                training = start if name == "salicon" else train_on(data, start, context, seed, options)
                yield training
                yield from _evaluations(TRAINED[context], data, training, options, seed)


def _submissions(options: Options, trainings: Sequence[Step]) -> Iterator[Step]:
    """The benchmarks with test photographs, predicted by the published network and by each network trained here."""
    for key, benchmark in BENCHMARKS.items():
        folder = next((options.path / name for name in benchmark.places if (options.path / name).is_dir()), None)
        if folder is None:
            continue
        settings = {"folder": str(folder.resolve()), "size": options.input_size, **decisive("submit", options.params)}
        published = fetch_weights(options.weights, benchmark.dataset)
        yield published
        for source in (published, *(step for step in trainings if step.data == benchmark.dataset)):
            network = source.network or "published"
            words = [f"submit {key}", options.title(network), *([f"seed {source.seed}"] if source.network else [])]
            yield Step(", ".join(words), "submit", key, settings, (source.name,), network, source.seed)


def fetch_data(name: str) -> Step:
    return Step(f"data of {name}", "data", name)


def fetch_weights(which: str, name: str) -> Step:
    """A file of weights: "published" for a dataset, "vgg16", a bundled network, or a path."""
    words = {"published": f"published network of {name}", "vgg16": "VGG16"}
    words |= {bundled: f"{bundled} network" for bundled in BUNDLED}
    owner = name if which == "published" else ""
    return Step(words.get(which, f"weights {which}"), "weights", owner, {"which": which})


def train_on(data: Step, start: Step | None, context: str, seed: int, options: Options) -> Step:
    """A training; `start` is the step that provides its initial weights."""
    settings = {
        **decisive("train", options.params),
        "seed": seed,
        "context": context,
        "variant": options.variant,
        "size": options.size_for(data.data),
        "init": options.init if start is None or start.kind == "weights" else "best SALICON checkpoint",
    }
    words = f"train on {data.data}, {context}, seed {seed}"
    needs = (data.name,) if start is None else (data.name, start.name)
    return Step(words, "train", data.data, settings, needs, TRAINED[context], seed)


def _evaluations(
    network: str, data: Step, source: Step | None, options: Options, seed: int | None = None
) -> Iterator[Step]:
    for protocol in PROTOCOLS:
        settings = {"protocol": protocol, "size": options.input_size, **decisive("evaluate", options.params)}
        words = [f"evaluate {options.title(network)} on {data.data}", *([] if seed is None else [f"seed {seed}"])]
        needs = (data.name,) if source is None else (data.name, source.name)
        yield Step(", ".join([*words, protocol]), "evaluate", data.data, settings, needs, network, seed)


def decisive(phase: str, params: Mapping) -> dict:
    """The parameters that determine the result of a step of a phase, so it is redone when one of them changes."""
    affecting = (MAPS,) if phase != "train" else tuple({row.affects for row in PARAMS.values()} - {SPEED})
    return {key: params[key] for key, row in PARAMS.items() if row.affects in affecting and has_flag(phase, key)}


def has_flag(phase: str, key: str) -> bool:
    """Whether a phase has the flag of a parameter."""
    return phase == "train" or phase in PARAMS[key].phases


# --- What the steps need ----------------------------------------------------------------------------------------------


def table(options: Options, steps: Sequence[Step]) -> str:
    """The plan for people: every step with its download and disk space, and the sums."""
    needs = [needs_of(step, options) for step in steps]
    rows = [["", "step", "download", "disk"]]
    for number, (step, need) in enumerate(zip(steps, needs, strict=True), 1):
        rows.append([str(number), step.name, *map(in_gb, need)])
    fetched, kept = (sum(size or 0 for size in column) for column in zip(*needs, strict=True))
    unknown = sum(size is None for size, _ in needs)
    more = f", plus {count(unknown, 'download')} of unknown size" if unknown else ""
    total = f"Together: {fetched / 1e9:.2f} GB to download and {kept / 1e9:.2f} GB of disk space{more}."
    return f"{aligned(rows)}\n\n{total}"


def needs_of(step: Step, options: Options) -> tuple[int | None, int | None]:
    """Bytes that a step downloads, and bytes that it writes; None if not known. Archives are kept while unpacking."""
    if step.kind == "data":
        there = any((folder / "stimuli").is_dir() for folder in (options.path / step.data, options.path))
        size = 0 if there else DATASETS[step.data].bytes
        return size, None if size is None else 2 * size
    if step.kind == "weights":
        which = step.settings["which"]
        key = {"vgg16": "vgg16_hybrid", "published": f"model_{step.data}_cpu"}.get(which)
        there = key is None or download.present(key, download.WEIGHTS_FOLDER) is not None
        size = 0 if there else datasets.ENCODER_BYTES if which == "vgg16" else datasets.NETWORK_BYTES
        return size, 2 * size
    if step.kind == "train":  # The best checkpoint, and two with the optimizer's state while one replaces the other.
        if options.variant in BUNDLED:
            return 0, 7 * 4 * facts(options.variant)["parameters"]
        return 0, round(7 * datasets.NETWORK_BYTES * float(VARIANTS[options.variant]["width"]) ** 2)
    return 0, 0


def in_gb(size: int | None) -> str:
    return "not known" if size is None else f"{size / 1e9:.2f} GB" if size else ""
