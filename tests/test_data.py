"""Datasets: pairing, splits, and checks of image files."""

import shutil
from pathlib import Path

import pytest
from conftest import png_that_claims, write
from PIL import Image

from msinet import data
from msinet.acquisition.datasets import DATASETS
from msinet.data import Sample
from msinet.utils import UserError

# First positions of `numpy.random.RandomState(42).shuffle(arange(n))`.
FIRST_TRAINING_INDICES = {
    "mit1003": [626, 629, 847, 514, 365],
    "cat2000": [83, 53, 70, 45, 44],
    "dutomron": [1564, 2916, 3414, 3159, 1397],
    "pascals": [512, 357, 110, 684, 39],
    "osie": [158, 500, 396, 155, 321],
    "fiwi": [73, 18, 117, 78, 76],
}


def samples_named(names) -> list[Sample]:
    return [Sample(name, Path(name), Path(name)) for name in sorted(names)]


# --- Pairs and splits -------------------------------------------------------------------------------------------------


def test_files_are_paired_by_name_through_subfolders(tiny_dataset):
    folder = tiny_dataset(names=["b/1", "a/2", "a/10", "a.b", "a", "a-1"])
    samples = data.pair_files(folder)
    # The published splits count the sorted file names, suffix and all: "-" comes before ".", and "." before "/".
    assert [sample.name for sample in samples] == ["a-1", "a.b", "a", "a/10", "a/2", "b/1"]
    assert samples[3].saliency == folder / "saliency" / "a" / "10.png"
    assert samples[3].fixations == folder / "fixations" / "a" / "10.png"


def test_every_mismatch_is_named_in_one_error(tiny_dataset):
    folder = tiny_dataset(count=4)
    (folder / "saliency" / "0001.png").unlink()
    (folder / "fixations" / "0002.png").unlink()
    (folder / "stimuli" / "0003.png").unlink()
    with pytest.raises(UserError) as error:
        data.pair_files(folder)
    for complaint in ("saliency/0001 is missing", "fixations/0002 is missing", "saliency/0003 has no stimulus"):
        assert complaint in str(error.value)


def test_dataset_is_found_in_its_folder_and_in_the_one_above(tiny_dataset):
    folder = tiny_dataset("osie")
    assert data.find_dataset("osie", folder) == data.find_dataset("osie", folder.parent) == folder
    with pytest.raises(UserError, match="No custom dataset"):
        data.find_dataset("custom", folder.parent)


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "salicon"])
def test_published_split_of_shuffled_datasets(name):
    spec = DATASETS[name]
    folders = [f"category{i:02d}/" for i in range(spec.categories)] if spec.split == "per category" else [""]
    samples = samples_named(
        f"{folder}{i:05d}" for folder in folders for i in range((spec.train + spec.valid) // spec.categories)
    )
    train, valid = data.split(samples, spec)
    assert (len(train), len(valid)) == (spec.train, spec.valid)
    assert {s.name for s in train}.isdisjoint(s.name for s in valid)
    positions = [[int(s.name.removeprefix(folder)) for s in train if s.name.startswith(folder)] for folder in folders]
    assert all(each == positions[0] for each in positions) and positions[0][:5] == FIRST_TRAINING_INDICES[name]


def test_salicon_is_split_as_its_folders_say():
    samples = samples_named([f"train/{i}" for i in range(10_000)] + [f"val/{i}" for i in range(5_000)])
    train, valid = data.split(samples, DATASETS["salicon"])
    assert {s.name[:5] for s in train} == {"train"} and {s.name[:3] for s in valid} == {"val"}
    assert (len(train), len(valid)) == (10_000, 5_000)


def test_incomplete_dataset_is_an_error_with_the_numbers():
    with pytest.raises(UserError, match="Found 699 images, expected 700"):
        data.split(samples_named(f"{i:04d}" for i in range(699)), DATASETS["osie"])


def test_custom_split_depends_on_each_name_alone():
    samples = samples_named(f"{i:03d}" for i in range(400))
    train, valid = data.split_custom(samples, 0.3)
    assert sorted(train + valid, key=lambda s: s.name) == samples
    assert len(valid) == 111  # The same on every machine.
    half = data.split_custom(samples[::2], 0.3)
    assert set(half[0]) <= set(train) and set(half[1]) <= set(valid)
    more = data.split_custom(samples_named([*(f"{i:03d}" for i in range(400)), "new", "résumé"]), 0.3)
    assert set(train) <= set(more[0]) and set(valid) <= set(more[1])
    assert set(valid) <= set(data.split_custom(samples, 0.4)[1])
    assert data.position_of_name("re\u0301sume\u0301") == data.position_of_name("résumé")


@pytest.mark.parametrize(
    ("names", "fraction", "counts"),
    [
        *(("abcd"[:count], 0.2, (count - 1, 1)) for count in (2, 3, 4)),
        ("abcd", 0.99, (1, 3)),
        ("abcd", 0.0, (4, 0)),
        ("a", 0.2, (1, 0)),
        (["train/a", "train/b", "train/c"], 0.3, (2, 1)),  # Without `val`, folders do not matter.
    ],
)
def test_custom_split_of_few_images(names, fraction, counts):
    train, valid = data.split_custom(samples_named(names), fraction)
    assert (len(train), len(valid)) == counts


def test_custom_split_by_folders_overrides_the_fraction():
    train, valid = data.split_custom(samples_named(["train/a", "train/b", "val/c"]), 0.9)
    assert ([s.name for s in train], [s.name for s in valid]) == (["train/a", "train/b"], ["val/c"])


def test_images_outside_the_folders_of_the_split_are_an_error():
    with pytest.raises(UserError, match="neither in its folder 'train' nor in 'val': test/d, x"):
        data.split_custom(samples_named(["train/a", "val/c", "test/d", "x"]), 0.2)


def test_hashes_detect_other_names_and_changed_files_but_not_copies(tiny_dataset, tmp_path):
    assert data.names_hash("ab", "c") == data.names_hash("ba", "c") != data.names_hash("a", "bc")
    samples = data.pair_files(tiny_dataset(count=3))
    before = data.files_hash(samples)
    copy = shutil.copytree(samples[0].stimulus.parents[1], tmp_path / "copy")
    assert data.files_hash(data.pair_files(copy)) == before
    for sample in (samples[2].stimulus, samples[1].saliency):
        contents = sample.read_bytes()
        write(sample, contents[:-20] + bytes([contents[-20] ^ 1]) + contents[-19:])
        assert data.files_hash(samples) != before
        write(sample, contents)
    assert data.files_hash(samples) == before


# --- Files of the user, checked by their headers ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "contents", "words"),
    [
        ("stimuli/0001.png", b"", ["stimuli", "0001.png", "the file is empty"]),
        ("stimuli/0001.png", b"no image", ["stimuli", "0001.png", "not a readable image"]),
        ("saliency/0001.png", b"no image", ["saliency", "0001.png", "Expected JPEG or PNG"]),
        ("saliency/0001.png", (64, 49), ["saliency", "0001.png", "64×49", "64×48"]),
        ("stimuli/0001.bmp", (64, 48), ["Two files for one image", "0001.bmp", "0001.png"]),
    ],
)
def test_faulty_files_of_the_user_are_one_clear_line(tiny_dataset, file, contents, words):
    folder = tiny_dataset(count=3)
    if isinstance(contents, bytes):
        write(folder / file, contents)
    else:
        Image.new("L", contents).save(folder / file)
    with pytest.raises(UserError) as error:
        data.load_groups("custom", folder, (48, 64))
    message = str(error.value)
    assert all(word in message for word in words) and "\n" not in message, message


def test_first_few_of_many_faults_are_listed(tiny_dataset):
    folder = tiny_dataset(count=9)
    for i in range(8):
        Image.new("L", (9, 9)).save(folder / "saliency" / f"{i:04d}.png")
    with pytest.raises(UserError, match=r"0004.*and 3 more") as error:
        data.load_groups("custom", folder, (48, 64))
    assert "0005" not in str(error.value)


def test_huge_photographs_are_measured_without_decoding_them(tmp_path):
    assert data.image_size(write(tmp_path / "huge.png", png_that_claims(15_000, 10_000))) == (10_000, 15_000)
