"""The modules and the imports between them, including imports inside functions."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What each module may import of the program. A folder's row applies to all its files that have no row of their own.
MAY_IMPORT = {
    "__init__": "engines network attention utils config",
    "config": "",
    "bundled": "",
    "utils": "config terminal",
    "acquisition": "acquisition progress utils config listing",
    "acquisition.datasets": "config",
    "arguments": "parser acquisition.datasets config",
    "download": "acquisition utils config installation",
    "geometry": "",
    "loss": "",
    "layers": "utils",
    "efficientnet": "layers",
    "model": "efficientnet layers utils",
    "architectures": "model efficientnet layers config",
    "precision": "layers utils",
    "data": "download acquisition utils config image_files listing",
    "images": "geometry data image_files map_files",
    "map_files": "utils",
    "vgg16": "model",
    "weight_files": "architectures bundled vgg16 layers utils",
    "checkpoint": "architectures weight_files vgg16 bundled download layers utils config installation listing",
    "scoring": "scoring progress images data acquisition utils config installation image_files",
    "attention": "attention scoring.density scoring.metrics utils",
    "predictor": "checks geometry image_files utils videos",
    "network": "predictor checkpoint architectures bundled images precision model layers acquisition.datasets utils "
    "config image_files checks",
    "litert": "predictor network bundled checks geometry acquisition.datasets utils config image_files map_files "
    "installation listing",
    "engines": "predictor network litert utils",
    "photographs": "litert images map_files data utils config image_files listing videos.reading",
    "phases": "phases.evaluation phases.formats phases.questions phases.training phases.distributed "
    "phases.introduce progress "
    "photographs engines predictor map_files network bundled attention scoring checkpoint images data precision model "
    "loss acquisition.datasets utils config installation image_files listing phases.clips videos",
    "phases.download": "download acquisition.datasets utils",
    # This phase runs other phases, so a user can repeat each row of its page with a command.
    "phases.reproduce": "phases.reproduction phases.train utils",
    "phases.reproduction": "bundled phases.reproduction phases.download phases.evaluate phases.submit phases.train "
    "scoring checkpoint download data acquisition.datasets utils config installation phases.curves",
    "phases.introduce": "bundled acquisition.datasets",
    "phases.evaluation": "phases.introduce phases.evaluation bundled network scoring checkpoint data utils config",
    "phases.distributed": "predictor progress phases.distributed phases.clips photographs network images model utils "
    "config installation image_files listing videos",
    "phases.questions": "phases.questions attention videos photographs network scoring images data utils image_files "
    "listing progress",
    "phases.training": "phases.training checkpoint images data model loss precision utils config image_files geometry "
    "phases.curves progress",
    "phases.formats": "phases.formats bundled network checkpoint images geometry data model layers utils config "
    "installation image_files",
    "installation": "",
    "terminal": "",
    "parser": "installation",
    "progress": "terminal",
    "flags": "arguments acquisition.datasets config installation",
    "listing": "utils",
    "image_files": "utils config",
    "checks": "acquisition.datasets utils config",
    "phases.curves": "utils",
    "videos": "videos image_files utils config",
    "main": "phases arguments flags parser terminal acquisition.datasets utils config installation",
}


def modules() -> dict[str, Path]:
    """Every module of the program by its dotted name."""
    folders = {name.partition(".")[0] for name in MAY_IMPORT}
    files = [*ROOT.glob("*.py"), *(file for folder in folders for file in (ROOT / folder).rglob("*.py"))]
    found = {file.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): file for file in files}
    return {name.removesuffix(".__init__"): file for name, file in found.items()}


def imports(name: str, file: Path, known: set[str]) -> set[str]:
    """The program's modules that a file imports anywhere; `from a import b` counts as a.b if that is a module."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = [] if file.name == "__init__.py" and "." not in name else name.split(".")
            if node.level:  # `from ..a import b` in x.y.z is x.a.
                package = package[: len(package) - node.level + (file.name == "__init__.py")]
            module = ".".join([*(package if node.level else []), *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{module}.{alias.name}".lstrip(".")
                found.add(inner if inner in known else module)
    return (found & known) - {name}


def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: imports(name, file, set(known)) for name, file in known.items()}


def within(name: str, folder: str) -> bool:
    return name == folder or name.startswith(f"{folder}.")


def row(name: str) -> str | None:
    """The row of a module: the longest name that contains it."""
    return max((key for key in MAY_IMPORT if within(name, key)), key=len, default=None)


def test_every_module_has_a_row_and_every_row_a_module():
    without_row = [name for name in modules() if row(name) is None]
    assert not without_row, f"Add a row for {without_row} to MAY_IMPORT, and describe it in docs/architecture.md."
    assert not [key for key in MAY_IMPORT if not any(within(name, key) for name in modules())]


def test_imports_follow_the_table():
    wrong = {
        (name, imported)
        for name, found in graph().items()
        for imported in found
        if not any(within(imported, key) for key in MAY_IMPORT[row(name)].split())
    }
    assert not wrong


def test_imports_have_no_cycle():
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_nothing_imports_the_command_line():
    assert not [name for name, found in graph().items() if "main" in found]


def test_table_has_no_cycle():
    rows = {key: {found for found in MAY_IMPORT[key].split() if found != key} for key in MAY_IMPORT}
    rows["phases"] |= {key for key in MAY_IMPORT if key.startswith("phases.")}
    assert list(TopologicalSorter(rows).static_order())[-1] == "main"


def test_imports_are_found_anywhere_in_a_file(tmp_path):
    file = tmp_path / "module.py"
    file.write_text("import os, a\nfrom b import c, d\ndef f():\n    from e import g\n    import h.i\n")
    known = {"a", "b", "b.c", "e", "h", "h.i", "module"}
    assert imports("module", file, known) == {"a", "b", "b.c", "e", "h.i"}
