"""The rooms and the arrows between them: who imports whom, also inside functions."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What each room may import of ours. A folder's row holds for all of its files, but for those with a row of their own.
MAY_IMPORT = {
    "config": "",
    "bundled": "",
    "utils": "config",
    "acquisition": "acquisition utils config",
    "acquisition.datasets": "acquisition.readers config",
    "download": "acquisition utils config",
    "geometry": "",
    "loss": "",
    "model": "utils",
    "precision": "model utils",
    "data": "download acquisition utils config",
    "images": "geometry data utils config",
    "weight_files": "model utils config",
    "checkpoint": "weight_files bundled download model utils config",
    "scoring": "scoring images data acquisition utils config",
    "msinet": "checkpoint images data precision model acquisition.datasets utils config",
    "photographs": "images data utils config",
    "phases": "phases.formats phases.training phases.distributed photographs msinet scoring checkpoint images data "
    "precision model loss utils config",
    "phases.download": "download utils config",
    # A phase made of phases: the function that a phase's command calls does each of its steps, so that every row of its
    # page can be repeated alone. It is the one arrow between phases: nothing but the command line imports `reproduce`.
    "phases.reproduce": "phases.reproduction phases.evaluate phases.train phases.submit checkpoint download data utils",
    "phases.reproduction": "phases.reproduction phases.submit msinet scoring checkpoint download data model loss "
    "acquisition.datasets utils config",
    "phases.distributed": "phases.distributed photographs msinet model data utils config",
    "phases.training": "phases.training checkpoint images data model utils config",
    "phases.formats": "phases.formats bundled msinet checkpoint images geometry data model utils config",
    "main": "phases scoring data download acquisition.datasets utils config",
}


def modules() -> dict[str, Path]:
    """Every module of the program by its dotted name."""
    rooms = {name.partition(".")[0] for name in MAY_IMPORT}
    files = [*ROOT.glob("*.py"), *(file for room in rooms for file in (ROOT / room).rglob("*.py"))]
    found = {file.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): file for file in files}
    return {name.removesuffix(".__init__"): file for name, file in found.items()}


def imports(name: str, file: Path, known: set[str]) -> set[str]:
    """The modules of ours that a file imports, wherever in it; `from a import b` is a.b where that is a module."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: a relative import hides the room it is from"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in known else node.module)
    return (found & known) - {name}


def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: imports(name, file, set(known)) for name, file in known.items()}


def within(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def row(name: str) -> str | None:
    """The row of the table for a module: the longest room that it is within."""
    return max((room for room in MAY_IMPORT if within(name, room)), key=len, default=None)


def test_every_module_has_a_room():
    homeless = [name for name in modules() if row(name) is None]
    assert not homeless, f"Give {homeless} a row in MAY_IMPORT, and describe the room in docs/architecture.md."


def test_imports_follow_the_arrows():
    wrong = {
        (name, imported)
        for name, found in graph().items()
        for imported in found
        if not any(within(imported, room) for room in MAY_IMPORT[row(name)].split())
    }
    assert not wrong


def test_imports_make_no_circle():
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_nothing_imports_the_command_line():
    assert not [name for name, found in graph().items() if "main" in found]


def test_table_makes_no_circle():
    """The rows themselves go one way, or the table would allow what the house does not."""
    rows = {room: {found for found in MAY_IMPORT[room].split() if found != room} for room in MAY_IMPORT}
    # A folder's row stands for its files, of which those with rows of their own come first.
    rows["phases"] |= {room for room in MAY_IMPORT if room.startswith("phases.")}
    assert list(TopologicalSorter(rows).static_order())[-1] == "main"


def test_imports_are_found_wherever_they_stand(tmp_path):
    file = tmp_path / "room.py"
    file.write_text("import os, a\nfrom b import c, d\ndef f():\n    from e import g\n    import h.i\n")
    known = {"a", "b", "b.c", "e", "h", "h.i", "room"}
    assert imports("room", file, known) == {"a", "b", "b.c", "e", "h.i"}
