"""The datasets, the benchmarks and the published weights, one row each.

To add a dataset, add a row to `DATASETS` and, if its archive has a new structure, a function to `readers`. The command
line, the downloads, the splits and the printed tables are derived from the rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..config import DIMS

# Your own photographs. They have no row, because nothing is known about them in advance.
CUSTOM = "custom"

GOOGLE_DRIVE = "https://drive.google.com/uc?export=download&id="


@dataclass(frozen=True)
class Archive:
    """A file to download, and which of its members to unpack.

    Attributes:
        file: its name on disk and on a mirror.
        urls: its addresses, tried in order.
        members: the members to unpack and their targets; see `archives.extract`. A dataset's photographs go to
            `stimuli`, finished maps to `saliency`, and files that need conversion to `raw`. Empty for a single file.
        md5: the published checksum, if there is one. Otherwise the checksum is recorded when the file is first used.
        member_md5: published checksums of members, by target.
        certificate_is_invalid: whether the host's certificate is known to be invalid; `md5` is checked instead.
        result: for weights, the resulting file or checkpoint prefix.
    """

    file: str
    urls: tuple[str, ...]
    members: tuple[tuple[str, str], ...] = ()
    md5: str | None = None
    member_md5: Mapping[str, str] = field(default_factory=dict)
    certificate_is_invalid: bool = False
    result: str = ""


@dataclass(frozen=True)
class Dataset:
    """All facts about a dataset.

    Attributes:
        title: the name that its authors use.
        archives: the files to download; all are needed.
        input_size: height and width of the network's input, in pixels, as published; both are divisible by 8. See
            `input_size`.
        train, valid: numbers of training and validation images.
        reader: its fixations are read by the function `read_<reader>` of `readers`.
        observers: number of people who looked at each image, at least approximately.
        terms: the license or terms of use, as far as they are known.
        citation: the paper to cite.
        split: "given" (the archive has folders `train` and `val`), "shuffled", or "per category" (the same shuffled
            positions in each folder of the stimuli).
        categories: number of those folders.
        sigma: standard deviation in pixels of the Gaussian that turns fixations into saliency maps; None if the archive
            contains the maps.
        networks: files with the network that was published for it, best first; one is enough.
        bytes: size of the download, if known.
        mouse: whether the observers looked with the mouse, without an eye tracker.
    """

    title: str
    archives: tuple[Archive, ...]
    input_size: tuple[int, int]
    train: int
    valid: int
    reader: str
    observers: int
    terms: str
    citation: str
    split: str = "shuffled"
    categories: int = 1
    sigma: float | None = None
    networks: tuple[Archive, ...] = ()
    bytes: int | None = None
    mouse: bool = False

    @property
    def images(self) -> int:
        """The number of photographs with fixations."""
        return self.train + self.valid


def _drive(file_id: str) -> tuple[str, ...]:
    return (GOOGLE_DRIVE + file_id,)


def _networks(dataset: str, **layouts: str) -> tuple[Archive, ...]:
    """The zip archives of a network's frozen graphs on Google Drive. Both layouts contain the same weights."""
    keys = {f"model_{dataset}_{layout}": file_id for layout, file_id in layouts.items()}
    return tuple(
        Archive(f"{key}.zip", _drive(file_id), ((rf"{key}\.pb", f"{key}.pb"),), result=f"{key}.pb")
        for key, file_id in keys.items()
    )


SALICON_ON_HUGGING_FACE = Archive(
    "saved_model.pb",
    ("https://huggingface.co/alexanderkroner/MSI-Net/resolve/main/saved_model.pb",),
    result="saved_model.pb",
)

# A file's name inside an archive, without its suffix.
NAME = r"([^/.][^/]*)"

DATASETS = {
    "salicon": Dataset(
        "SALICON",
        (
            Archive(
                "salicon-stimuli.zip",
                _drive("1g8j-hTT-51IG1UFwP0xTGhLdgIUCW5e5"),
                ((rf"images/(train|val)/{NAME}\.jpg", r"stimuli/\1/\2.jpg"),),
                "eb2a1bb706633d1b31fc2e01422c5757",
            ),
            Archive(
                "salicon-fixations.zip",
                _drive("1P-jeZXCsjoKO79OhFUgnj6FGcyvmLDPj"),
                ((rf"(train|val)/{NAME}\.mat", r"raw/\1/\2.mat"),),
                "462b70f4f9e8ea446ac628e46cea8d3d",
            ),
            Archive(
                "salicon-maps.zip",
                _drive("1PnO7szbdub1559LfjYHMy65EDC4VhJC8"),
                ((rf"(train|val)/{NAME}\.png", r"saliency/\1/\2.png"),),
            ),
        ),
        input_size=(240, 320),
        train=10_000,
        valid=5_000,
        split="given",
        reader="salicon",
        networks=(
            SALICON_ON_HUGGING_FACE,
            *_networks("salicon", cpu="1Xy9C72pcA8DO4CY0rc6B7wsuE9L9DDZY", gpu="1Th7fqVYx25ePMZz4LYsjNQWgAu8tJqwL"),
        ),
        observers=60,
        mouse=True,
        terms="not known, see salicon.net; the photographs are from MS COCO, under the terms of Flickr",
        citation="Jiang, Huang, Duan, Zhao: SALICON: Saliency in Context. CVPR 2015. doi:10.1109/CVPR.2015.7298710",
        bytes=2_300_000_000,
    ),
    "mit1003": Dataset(
        "MIT1003",
        (
            Archive(
                "ALLSTIMULI.zip",
                ("https://people.csail.mit.edu/tjudd/WherePeopleLook/ALLSTIMULI.zip",),
                ((rf"{NAME}\.jpeg", r"stimuli/\1.jpeg"),),
                "0d7df8b954ecba69b6796e77b9afe4b6",
            ),
            Archive(
                "ALLFIXATIONMAPS.zip",
                ("https://people.csail.mit.edu/tjudd/WherePeopleLook/ALLFIXATIONMAPS.zip",),
                # The stray file "...p1010764fixPts.jpg", without the underscore, belongs to no photograph.
                (
                    (rf"{NAME}_fixMap\.jpg", r"saliency/\1.jpg"),
                    (rf"{NAME}_fixPts\.jpg", r"raw/\1.jpg"),
                ),
            ),
        ),
        input_size=(360, 360),
        train=803,
        valid=200,
        reader="maps",
        networks=_networks("mit1003", cpu="1jsESjYtsTvkMqKftA4rdstfB7mSYw5Ec", gpu="1P_tWxBl3igZlzcHGp5H3T3kzsOskWeG6"),
        observers=15,
        terms="not known; the photographs are from Flickr and LabelMe",
        citation="Judd, Ehinger, Durand, Torralba: Learning to Predict Where Humans Look. ICCV 2009. "
        "doi:10.1109/ICCV.2009.5459462",
    ),
    "cat2000": Dataset(
        "CAT2000, training part",
        (
            Archive(
                "trainSet.zip",
                ("http://saliency.mit.edu/trainSet.zip",),
                # One level of folders only: each category also contains a folder "Output".
                (
                    (rf"Stimuli/{NAME}/{NAME}\.jpg", r"stimuli/\1/\2.jpg"),
                    (rf"FIXATIONLOCS/{NAME}/(?!allFixData){NAME}\.mat", r"raw/\1/\2.mat"),
                    (rf"FIXATIONMAPS/{NAME}/{NAME}\.(jpg|png)", r"saliency/\1/\2.\3"),
                ),
                "56ad5c77e6c8f72ed9ef2901628d6e48",
            ),
        ),
        input_size=(216, 384),
        train=1_600,
        valid=400,
        split="per category",
        categories=20,
        reader="cat2000",
        networks=_networks("cat2000", cpu="1XxaEx7xxD6rHasQTa-VY7T7eVpGhMxuV", gpu="1T6ChEGB6Mf02gKXrENjdeD6XXJkE_jHh"),
        observers=18,
        terms="not known",
        citation="Borji, Itti: CAT2000: A Large Scale Fixation Dataset for Boosting Saliency Research. 2015. "
        "arXiv:1505.03581",
    ),
    "dutomron": Dataset(
        "DUT-OMRON",
        (
            Archive(
                "DUT-OMRON-image.zip",
                ("http://saliencydetection.net/dut-omron/download/DUT-OMRON-image.zip",),
                ((rf"{NAME}\.jpg", r"stimuli/\1.jpg"),),
                "a8951db9297afacf78bc0e5079103cf1",
            ),
            Archive(
                "DUT-OMRON-eye-fixations.zip",
                ("http://saliencydetection.net/dut-omron/download/DUT-OMRON-eye-fixations.zip",),
                ((rf"{NAME}\.mat", r"raw/\1.mat"),),
                "d9f4f83fcc78b1e5efb579ae9fb0edc2",
            ),
        ),
        input_size=(360, 360),
        train=4_168,
        valid=1_000,
        reader="dutomron",
        networks=_networks(
            "dutomron", cpu="14tuRZpKi8LMDKRHNVUylu6RuAaXLjHTa", gpu="15LG_M45fpYC1pTwnwmArNTZw_Z3BOIA-"
        ),
        observers=5,
        terms="not known",
        citation="Yang, Zhang, Lu, Ruan, Yang: Saliency Detection via Graph-Based Manifold Ranking. CVPR 2013. "
        "doi:10.1109/CVPR.2013.407",
        sigma=16,
    ),
    "pascals": Dataset(
        "PASCAL-S",
        (
            Archive(
                "salObj.zip",
                ("http://cbs.ic.gatech.edu/salobj/download/salObj.zip",),
                (
                    (r"[^/]*imgs/pascal/(\d+)\.jpg", r"stimuli/\1.jpg"),
                    (r"[^/]*pascal/humanFix/(\d+)\.png", r"saliency/\1.png"),
                    (r"(pascalFix|pascalSize)\.mat", r"raw/\1.mat"),
                ),
                "e48b4e5deac08bddcaec55ce56e4d420",
                certificate_is_invalid=True,
            ),
        ),
        input_size=(360, 360),
        train=650,
        valid=200,
        reader="pascals",
        networks=_networks("pascals", cpu="1af9IvBqFamKWx64Ror6ALivuKNioOVIf", gpu="1C-T-RQzX2SaiY9Nw1HmaSx6syyCt01Z0"),
        observers=8,
        terms="not known; the photographs are from PASCAL VOC 2010, under the terms of Flickr",
        citation="Li, Hou, Koch, Rehg, Yuille: The Secrets of Salient Object Segmentation. CVPR 2014. "
        "doi:10.1109/CVPR.2014.43",
    ),
    "osie": Dataset(
        "OSIE",
        (
            Archive(
                "predicting-human-gaze-beyond-pixels-master.zip",
                ("https://github.com/NUS-VIP/predicting-human-gaze-beyond-pixels/archive/master.zip",),
                (
                    (rf"data/stimuli/{NAME}\.jpg", r"stimuli/\1.jpg"),
                    (r"data/eye/fixations\.mat", r"raw/fixations.mat"),
                ),
                member_md5={"raw/fixations.mat": "8efdf6fe66f38b6e70f854c7ff45aa70"},
            ),
        ),
        input_size=(240, 320),
        train=500,
        valid=200,
        reader="osie",
        networks=_networks("osie", cpu="1JD1tvAqZGxj_gEGmIfoxb9dTe5HOaHj1", gpu="1g8UPr1hGpUdOSWerRb751pZqiWBOZOCh"),
        observers=15,
        terms="MIT license",
        citation="Xu, Jiang, Wang, Kankanhalli, Zhao: Predicting Human Gaze Beyond Pixels. Journal of Vision 14(1), "
        "2014. doi:10.1167/14.1.28",
        sigma=16,
        bytes=73_000_000,
    ),
    "fiwi": Dataset(
        "FIWI",
        (
            Archive(
                "webpage_dataset.zip",
                ("https://www.dropbox.com/s/30nxg2uwd1wpb80/webpage_dataset.zip?dl=1",),
                (
                    (rf"[^/]*stimuli/{NAME}\.png", r"stimuli/\1.png"),
                    (rf"[^/]*all5/{NAME}\.png", r"raw/\1.png"),
                ),
            ),
        ),
        input_size=(216, 384),
        train=99,
        valid=50,
        reader="maps",
        networks=_networks("fiwi", cpu="19qj9nAjd5gVHLB71oRn_YfYDw5n4Uf2X", gpu="12OpIMIi2IyDVaxkE2d37XO9uUsSYf1Ec"),
        observers=11,
        terms="not known; screenshots of web pages",
        citation="Shen, Zhao: Webpage Saliency. ECCV 2014. doi:10.1007/978-3-319-10584-0_3",
        sigma=30,
    ),
}

# Keras' own weights; the address and checksum are from keras/applications/vgg16.py.
KERAS_VGG16 = Archive(
    "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
    (
        "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
        "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
    ),
    md5="6d6bbae143d832006294945121d1f1fc",
    result="vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
)

# Sizes of float32 weights: of a published network, and of the encoder alone.
NETWORK_BYTES, ENCODER_BYTES = 99_700_000, 58_900_000

# The encoder that training starts from, best source first; one is enough.
VGG16 = (
    Archive(
        "vgg16_hybrid.zip",
        _drive("1ff0va472Xs1bvidCwRlW3Ctf7Hbyyn7p"),
        tuple((rf"(vgg16_hybrid\.ckpt\.{suffix})", r"\1") for suffix in (r"data-\d{5}-of-\d{5}", "index")),
        result="vgg16_hybrid.ckpt",
    ),
    KERAS_VGG16,
)


@dataclass(frozen=True)
class Benchmark:
    """A test set whose fixations are not public.

    Attributes:
        dataset: whose weights and input size are used; the paper fine-tuned on the training set of the same authors.
        images: number of photographs.
        places: folders below that of the datasets where `reproduce` looks for the photographs.
        folders: number of folders that the photographs are in, equally many in each; 0 for none.
    """

    dataset: str
    images: int
    places: tuple[str, ...] = ()
    folders: int = 0


BENCHMARKS = {
    "mit300": Benchmark("mit1003", 300, ("mit300", "BenchmarkIMAGES")),
    "cat2000": Benchmark("cat2000", 2000, ("cat2000-test/Stimuli", "cat2000-test", "testSet/Stimuli"), folders=20),
}


def is_unpacked(folder: Path) -> bool:
    """Whether a folder has the structure of SALICON's own archives: `images`, `maps` and `fixations`."""
    return (folder / "images").is_dir() and (folder / "maps").is_dir() and not (folder / "stimuli").exists()


def names() -> list[str]:
    """The values of `-d`: every dataset, and your own photographs."""
    return [*DATASETS, CUSTOM]


def input_size(name: str) -> tuple[int, int]:
    """Height and width of the network's input for a dataset: from `config.DIMS`, else from its row."""
    return DIMS[name] if name in DIMS else DATASETS[name].input_size


def weight_files(key: str) -> tuple[Archive, ...]:
    """The files that contain the published weights, best first; one is enough. See `download.weights`."""
    if key == "vgg16_hybrid":
        return VGG16
    dataset, _, layout = key.removeprefix("model_").rpartition("_")
    # The other layout comes last, in case the download quota of the first is used up.
    other = {"cpu": "gpu", "gpu": "cpu"}[layout]
    return tuple(sorted(DATASETS[dataset].networks, key=lambda file: file.file == f"model_{dataset}_{other}.zip"))
