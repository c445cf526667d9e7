"""The README and its chapters: their examples run, their commands parse, their links lead somewhere."""

import doctest
import re
import shlex
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

import data
import main
import msinet
from config import VALID_FRACTION
from phases.custom import make_missing_maps
from photographs import sample_photograph

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PAGES.append(ROOT / "weights" / "README.md")


def code_blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """The page without its blocks of code, in which brackets are no links and `#` begins no heading."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What a link may name after `#`: headings in lower case, without punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> list[str]:
    """The arguments of every `python main.py` on a page, in blocks and in lines of prose."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    return [found.strip() for found in re.findall(r"python main\.py\b([^`'\n]*)", text)]


def test_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_readme_leads_to_every_chapter():
    links = set(re.findall(r"\]\(([^)#]+)", prose(README)))
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)) if "://" not in link]
    for link in links:
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_parse(page):
    for command in commands(page):
        # What a command may leave out stands in brackets, and must parse like the rest.
        arguments = shlex.split(re.sub(r"[\[\]]", "", command), comments=True)
        try:
            main.parse(arguments)
        except SystemExit as stop:
            assert stop.code == 0, f"python main.py {command}"


def test_commands_are_found():
    assert {command.split()[0] for page in PAGES for command in commands(page)} >= {
        "train", "download", "test", "evaluate", "submit", "export", "demo",
    }  # fmt: skip


def test_readmes_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    section = README.read_text(encoding="utf-8").split("\n## From Python\n")[1].split("\n## ")[0]
    names = {}
    exec(re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1), names)
    network, shape, *means = capsys.readouterr().out.splitlines()
    assert network == repr(names["network"]) and "lite" in network
    assert shape == "(600, 512) float32"
    expected = msinet.load("lite").predict(sample_photograph()).mean()
    np.testing.assert_allclose([float(mean) for mean in means], [expected] * 3, rtol=1e-5)


def test_picture_from_python_is_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (example,) = code_blocks(ROOT / "docs" / "python.md", "python")
    names = {}
    exec(example, names)
    assert names["saliency"].shape == (600, 512) and names["saliency"].dtype == np.float32
    left, middle, right = np.array_split(matplotlib.image.imread(tmp_path / "saliency.png")[..., :3], 3, axis=1)
    assert left.std() > 0.1 and middle.std() > 0.1
    # The contours of the map are all that distinguishes the photograph's two pictures.
    assert 0 < np.abs(left - right).mean() < np.abs(left - middle).mean()
    x, y = (int(digits) for digits in re.findall(r"\d+", capsys.readouterr().out))
    assert names["saliency"][y, x] == names["saliency"].max()


def test_photographs_way_through_the_code_has_the_shapes_that_the_chapter_says():
    (session,) = code_blocks(ROOT / "docs" / "architecture.md", "pycon")
    example = doctest.DocTestParser().get_doctest(session, {}, "architecture.md", None, 0)
    complaints = []
    results = doctest.DocTestRunner().run(example, out=complaints.append)
    assert results.attempted > 20 and not results.failed, "".join(complaints)


def test_example_of_ones_own_data_can_be_trained_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (script,) = re.findall(
        r"^python - <<'EOF'\n(.*?)^EOF$", "\n".join(code_blocks(ROOT / "docs" / "training.md", "bash")), re.M | re.S
    )
    exec(script, {})
    make_missing_maps(Path("my_photos"))
    train, valid = data.load_groups("custom", Path("my_photos"), (240, 320), valid_fraction=VALID_FRACTION)
    assert len(train.samples) + len(valid.samples) == 10 and valid.samples
    maps = [matplotlib.image.imread(sample.saliency) for sample in train.samples]
    assert all(saliency.shape == (320, 320) and saliency.max() == 1 and saliency.min() == 0 for saliency in maps)
