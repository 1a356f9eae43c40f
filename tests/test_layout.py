"""The house: imports point one way, and each place holds what the map says."""

import ast
import configparser
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Each may import those after it.
ORDER = ["tests", "benchmarks", "hub_upload", "publishing", "training", "configuration", "modeling_gpt_scratch"]
FILES = sorted(
    path
    for place in ORDER
    for path in [*(ROOT / place).rglob("*.py"), ROOT / f"{place}.py"]
    if path.is_file() and "__pycache__" not in path.parts
)


def place_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_one_way(path):
    allowed = ORDER[ORDER.index(place_of(path)) :]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        else:
            continue
        for name in names:
            assert name.split(".")[0] not in set(ORDER) - set(allowed), f"line {node.lineno} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_file_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


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
