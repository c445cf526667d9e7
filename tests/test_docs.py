"""The README and its chapters: their examples run, their commands parse, their links exist."""

import csv
import doctest
import importlib.util
import re
import shlex
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib import cbook

import msinet
from msinet import bundled, main
from msinet.attention.measured import MEASURED

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PAGES.append(ROOT / "weights" / "README.md")


def code_blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """The page without code blocks, where brackets are not links and `#` does not start a heading."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What a link may have after `#`: headings in lower case, without punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> list[str]:
    """The arguments of every `python main.py` and every `msinet` command on a page, in code blocks and in prose."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    return [found.strip() for found in re.findall(r"(?:python main\.py|(?:^|[`/])msinet)(?= )([^`'\n]*)", text, re.M)]


def test_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("name", bundled.BUNDLED)
def test_readme_states_the_scores_of_the_included_networks(name):
    (row,) = re.findall(rf"^\| {name} \|(.*)\|$", prose(README), re.M)
    facts = bundled.facts(name)
    by_shape = [facts["scores"][dataset][bundled.BY_SHAPE]["network"] for dataset in ("osie", "mit1003")]
    expected = [f"{network[metric]['mean']:.3f}" for network in by_shape for metric in ("NSS", "CC")]
    assert re.findall(r"\d\.\d+", row) == [*expected, f"{facts['bytes'] / 1e6:.1f}"]


def test_chapters_are_short():
    assert sum(len(page.read_text(encoding="utf-8").split()) for page in (ROOT / "docs").glob("*.md")) <= 11_000


def test_readme_links_to_every_chapter():
    links = set(re.findall(r"\]\(([^)#]+)", prose(README)))
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_exist(page):
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)) if "://" not in link]
    for link in links:
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_parse(page):
    for command in commands(page):
        arguments = shlex.split(command, comments=True)
        try:
            main.parse(arguments)
        except SystemExit as stop:
            assert stop.code == 0, command


def test_commands_are_found():
    assert {command.split()[0] for page in PAGES for command in commands(page)} >= {
        "train", "download", "test", "evaluate", "regions", "compare", "crop", "submit", "export", "demo",
    }  # fmt: skip


def test_readmes_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    section = README.read_text(encoding="utf-8").split("\n## From Python\n")[1].split("\n## ")[0]
    names = {}
    exec(re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1), names)
    network, shape, *means = capsys.readouterr().out.splitlines()
    assert network == repr(names["network"]) and "medium" in network
    assert shape == "(600, 512) float32"
    expected = msinet.load("medium").predict(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).mean()
    np.testing.assert_allclose([float(mean) for mean in means], [expected] * 3, rtol=1e-5)


def test_picture_from_python_is_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (example,) = code_blocks(ROOT / "docs" / "python.md", "python")
    names = {}
    exec(example, names)
    assert names["saliency"].shape == (600, 512) and names["saliency"].dtype == np.float32
    left, middle, right = np.array_split(matplotlib.image.imread(tmp_path / "saliency.png")[..., :3], 3, axis=1)
    assert left.std() > 0.1 and middle.std() > 0.1
    # Only the map's contours distinguish the two pictures of the photograph.
    assert 0 < np.abs(left - right).mean() < np.abs(left - middle).mean()
    x, y = (int(digits) for digits in re.findall(r"\d+", capsys.readouterr().out))
    assert names["saliency"][y, x] == names["saliency"].max()


def test_architecture_chapter_shows_the_shapes_of_each_step():
    (session,) = code_blocks(ROOT / "docs" / "architecture.md", "pycon")
    example = doctest.DocTestParser().get_doctest(session, {}, "architecture.md", None, 0)
    failures = []
    results = doctest.DocTestRunner().run(example, out=failures.append)
    assert results.attempted > 20 and not results.failed, "".join(failures)


def test_example_of_custom_data_trains_to_the_documented_loss(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "training.md"
    (script,) = re.findall(r"^python - <<'EOF'\n(.*?)^EOF$", "\n".join(code_blocks(page, "bash")), re.M | re.S)
    exec(script, {})
    (command,) = [command for command in commands(page) if command.startswith("train -d custom")]
    assert main.main([*shlex.split(command), "--epochs", "1"]) == 0
    assert re.search(r"\b35 images\b.*\b5\b", capsys.readouterr().out)
    (epoch,) = csv.DictReader(Path("results/history/custom.csv").read_text(encoding="utf-8").splitlines())
    assert float(epoch["loss"]) == pytest.approx(0.45, abs=0.05)
    assert float(epoch["val_loss"]) == pytest.approx(0.15, abs=0.05)


def test_tables_of_errors_are_those_that_were_measured():
    spec = importlib.util.spec_from_file_location("areas", ROOT / "benchmarks" / "areas.py")
    areas = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(areas)
    chapter = areas.CHAPTER.read_text(encoding="utf-8")
    assert chapter.partition(areas.BEGIN)[2].partition(areas.END)[0].strip() == areas.tables(MEASURED)


def test_example_of_questions_runs(capsys):
    names = {}
    (example,) = code_blocks(ROOT / "docs" / "attention.md", "python")
    exec(example, names)
    share, lift, low, high = map(float, capsys.readouterr().out.split())
    assert (share, lift) == (pytest.approx(0.5), pytest.approx(1)) and low < share < high
    assert len(names["spots"]) == 1 and (names["box"].width, names["box"].height) == (60, 34)
