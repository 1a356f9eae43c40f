"""The house: imports point one way and never in a circle, and nothing in it is too long to be read."""

import ast
import configparser
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Each may import those after it. Files that lie in training/ itself are programs where they have a `main`, else ground.
PROGRAMS, GROUND = "training: programs", "training: ground"
ROOMS = ["run", "serving", "view", "planning", "optimization", "data"]
ORDER = [
    *("tests", "benchmarks", "hub_upload", "publishing"),
    *(PROGRAMS, *(f"training/{room}" for room in ROOMS), GROUND),
    *("configuration", "modeling_gpt_scratch"),
]
FILES = sorted(
    path
    for place in {re.split("[/:]", place)[0] for place in ORDER}
    for path in [*(ROOT / place).rglob("*.py"), ROOT / f"{place}.py"]
    if path.is_file() and "__pycache__" not in path.parts
)
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
FOLDERS = sorted({path.parent for path in FILES if ROOT / "tests" not in path.parents} - {ROOT})
MODELING = ROOT / "modeling_gpt_scratch" / "modeling_gpt_scratch.py"  # one file, because the library copies it as one
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def place_of(path: Path) -> str:
    top, *rest = path.relative_to(ROOT).parts
    if top != "training":
        return top.removesuffix(".py")
    if len(rest) > 1:
        return f"training/{rest[0]}"
    is_program = any(isinstance(node, FUNCTIONS) and node.name == "main" for node in TREES[path].body)
    return PROGRAMS if is_program else GROUND


def file_of(module: list[str]) -> Path | None:
    place = ROOT.joinpath(*module)
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path in TREES), None)


def imports_of(path: Path, tree: ast.Module) -> dict[Path, int]:
    """The project's files that a file imports, wherever in it and whatever for, and the line of each."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parent.parts
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            base += node.module.split(".") if node.module else []
            # What is imported from a folder is a file of it, or a name in its __init__.py.
            modules = [[*base, alias.name] if file_of([*base, alias.name]) else base for alias in node.names]
        else:
            continue
        found |= {file: node.lineno for module in modules if (file := file_of(module))}
    return found


IMPORTS = {path: imports_of(path, tree) for path, tree in TREES.items()}


@pytest.mark.parametrize("path", FILES, ids=named)
def test_imports_point_one_way(path):
    allowed = ORDER[ORDER.index(place_of(path)) :]
    for imported, line in IMPORTS[path].items():
        assert place_of(imported) in allowed, f"line {line} imports {named(imported)}"


def test_no_file_imports_itself_through_others():
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(named(path) for path in error.args[1]))


def test_publishing_needs_nothing_that_trains():
    used = {
        named(imported): place_of(imported)
        for path in FILES
        if place_of(path) == "publishing"
        for imported in IMPORTS[path]
        if place_of(imported).startswith("training")
    }
    assert set(used.values()) <= {GROUND}, used


def test_nothing_is_too_long_to_be_read():
    lines = {named(path): path.read_text(encoding="utf-8").count("\n") for path in FILES if path != MODELING}
    functions = {
        f"{named(path)}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, FUNCTIONS)
    }
    too_long = {
        name: n for lengths, limit in ((lines, 300), (functions, 60)) for name, n in lengths.items() if n > limit
    }
    assert not too_long, "\n".join(f"{name}: {n} lines" for name, n in too_long.items())


@pytest.mark.parametrize("path", FILES, ids=named)
def test_every_file_says_what_it_is(path):
    assert ast.get_docstring(TREES[path])


@pytest.mark.parametrize("folder", FOLDERS, ids=named)
def test_every_folder_says_what_lives_there(folder):
    assert ast.get_docstring(TREES[folder / "__init__.py"])


def normalized(package: str) -> str:
    return package.lower().replace("_", "-")


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-floor.txt"])
def test_every_declared_dependency_is_pinned(name):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lists = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    declared = {normalized(re.split(r"[>\[]", requirement)[0]) for text in lists for requirement in text.split()}
    pinned = {normalized(line.split("==")[0]) for line in (ROOT / name).read_text().splitlines() if "==" in line}
    assert declared - pinned == set()
