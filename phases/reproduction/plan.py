"""The plan of a reproduction: its steps as data, in an order in which each comes after those that it needs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from acquisition import datasets
from config import PARAMS
from phases.submit import BENCHMARKS

PROTOCOLS = ("tuebingen", "mit")

# The networks of the tables, in their order; "published" is called after what stands in its place, if anything does.
NETWORKS = {
    "published": "published network",
    "salicon": "published SALICON network, not fine-tuned",
    "trained": "trained here",
    "ablation": "trained here, without ASPP",
    "baselines": "baselines",
}
CONTEXTS = {"aspp": "trained", "plain": "ablation"}

# What of `config.PARAMS` does not decide a training's result.
FREE = ("device", "results", "gpus", "cache", "tensorboard")

# Where the test photographs of a benchmark may be, below the folder of the datasets; see `phases.submit`.
TEST_FOLDERS = {
    "mit300": ("mit300", "BenchmarkIMAGES"),
    "cat2000": ("cat2000-test/Stimuli", "cat2000-test", "testSet/Stimuli"),
}


@dataclass(frozen=True)
class Options:
    """What to reproduce.

    Attributes:
        names: of the datasets, keys of `datasets.DATASETS`.
        path: the folder that their folders are in.
        params: `config.PARAMS` with the user's flags.
        weights: the network in the place of the published one: "published" itself, "lite", or a path.
        train: whether to train, too.
        contexts: of the networks to train, keys of `CONTEXTS`.
        variant: of the networks to train, a key of `config.VARIANTS`.
        init: what training on SALICON starts from; see `checkpoint.initial_weights`.
        seeds: how many trainings of each network, with seeds that follow one another.
        size: height and width of every network's input; None for each dataset's own.
        reference: a file of numbers from elsewhere; see `reference.read`.
        dry_run: whether only to tell the plan.
    """

    names: Sequence[str]
    path: Path
    params: Mapping
    weights: str = "published"
    train: bool = False
    contexts: Sequence[str] = ("aspp",)
    variant: str = "full"
    init: str = "vgg16"
    seeds: int = 1
    size: tuple[int, int] | None = None
    reference: Path | None = None
    dry_run: bool = False

    @property
    def folder(self) -> Path:
        """Of everything that a reproduction writes."""
        return Path(self.params["results"]) / "reproduction"

    def size_for(self, name: str) -> tuple[int, int]:
        return self.size or datasets.input_size(name)

    def title(self, network: str) -> str:
        """What a network of `NETWORKS` is called in the tables."""
        if network != "published" or self.weights == "published":
            return NETWORKS[network]
        named = "lite network" if self.weights == "lite" else Path(self.weights).name
        return f"{named}, in the published network's place"


@dataclass(frozen=True)
class Step:
    """One thing to do, once.

    Attributes:
        name: in words, unlike that of any other step.
        kind: what does it: "data", "weights", "train", "evaluate" or "submit".
        data: the key of its dataset, or of its benchmark.
        settings: all else that decides its result, beside what comes of the steps that it needs.
        needs: names of those steps.
        network: of `NETWORKS`, where it is about one.
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
    """All steps, each one after those that it needs. What was published comes first, as it takes less time."""
    steps: dict[str, Step] = {}
    for name in options.names:
        for step in _published(name, options):
            steps.setdefault(step.name, step)
    if options.train:
        for step in _trainings(options):
            steps.setdefault(step.name, step)
    for step in _submissions(options, steps):
        steps.setdefault(step.name, step)
    return list(steps.values())


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
    """SALICON from what `init` says, then each dataset from the best SALICON checkpoint; and all are evaluated."""
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
                yield from _evaluations(CONTEXTS[context], data, training, options, seed)


def _submissions(options: Options, steps: Mapping[str, Step]) -> list[Step]:
    """The benchmarks whose test photographs are there, predicted by the published network and by each trained here."""
    found = []
    for benchmark, folder in ((key, test_folder(key, options.path)) for key in TEST_FOLDERS):
        if folder is None:
            continue
        name = BENCHMARKS[benchmark].dataset
        network = fetch_weights(options.weights, name)
        trained = [step for step in steps.values() if step.kind == "train" and step.data == name]
        found += [] if network.name in steps else [network]
        for source, key in ((network, "published"), *((step, step.network) for step in trained)):
            words = [
                f"submit {benchmark}",
                options.title(key),
                *([f"seed {source.seed}"] if key != "published" else []),
            ]
            settings = {"folder": str(folder.resolve()), "size": options.size}
            found.append(Step(", ".join(words), "submit", benchmark, settings, (source.name,), key, source.seed))
    return found


def test_folder(benchmark: str, path: Path) -> Path | None:
    """Where the test photographs of a benchmark are, if they are there."""
    return next((path / name for name in TEST_FOLDERS[benchmark] if (path / name).is_dir()), None)


def fetch_data(name: str) -> Step:
    return Step(f"data of {name}", "data", name)


def fetch_weights(which: str, name: str) -> Step:
    """A file of weights: "published" for a dataset, "vgg16", "lite", or a path."""
    words = {"published": f"published network of {name}", "vgg16": "VGG16", "lite": "lite network"}
    owner = name if which == "published" else ""
    return Step(words.get(which, f"weights {which}"), "weights", owner, {"which": which})


def train_on(data: Step, start: Step | None, context: str, seed: int, options: Options) -> Step:
    """A training; `start` is the step that its initial weights come of."""
    params = {key: value for key, value in options.params.items() if key not in FREE} | {"seed": seed}
    settings = {
        **params,
        "context": context,
        "variant": options.variant,
        "size": options.size_for(data.data),
        "init": options.init if start is None or start.kind == "weights" else "best SALICON checkpoint",
    }
    words = f"train on {data.data}, {context}, seed {seed}"
    needs = (data.name,) if start is None else (data.name, start.name)
    return Step(words, "train", data.data, settings, needs, CONTEXTS[context], seed)


def _evaluations(
    network: str, data: Step, source: Step | None, options: Options, seed: int | None = None
) -> Iterator[Step]:
    for protocol in PROTOCOLS:
        settings = {
            "protocol": protocol,
            "size": options.size,
            "seed": options.params["seed"],
        }
        words = [f"evaluate {options.title(network)} on {data.data}", *([] if seed is None else [f"seed {seed}"])]
        needs = (data.name,) if source is None else (data.name, source.name)
        yield Step(", ".join([*words, protocol]), "evaluate", data.data, settings, needs, network, seed)


def flags_of(params: Mapping, but: Sequence[str] = ()) -> list[str]:
    """The flags by which parameters differ from their defaults."""
    flags = []
    for key, value in params.items():
        if key not in PARAMS or key in but or value == PARAMS[key]:
            continue
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, list | tuple):
            flags += [f"--{flag}", *map(str, value)]
        else:
            flags += [f"--{flag}", str(value)]
    return flags
