"""The shape of the house: floors, sizes, names, docstrings, and what `import vramsim` costs."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import vramsim

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "vramsim"
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST_MODULE = 350
TOP_LEVEL = {"pyproject.toml", "README.md", "LICENSE", "vramsim", "studies", "tests", "docs", "uv.lock"}
BUILD_PRODUCTS = re.compile(r"\..*|build|dist|__pycache__|.*\.egg-info")
FORBIDDEN_WORDS = {"util", "utils", "helper", "helpers", "manager", "managers"}

PUBLIC_NAMES = {
    "Case",
    "Estimate",
    "Graph",
    "Result",
    "Space",
    "Timeline",
    "VramsimError",
    "__version__",
    "assemble",
    "calibrate",
    "convert",
    "recommend",
    "replay",
    "search",
    "simulate",
}
"""Frozen: a new public name is a decision, not a by-product. Twenty at most."""

module_cases = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def words(name: str) -> set[str]:
    """Words of a snake_case or CamelCase name."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)}


# Floors ---------------------------------------------------------------------------------------------------------------


def test_imports_go_down_only() -> None:
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_module_stands_on_a_floor() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    floors = next(c for c in config["tool"]["importlinter"]["contracts"] if c["id"] == "floors")
    named = {name for layer in floors["layers"] for name in re.findall(r"\w+", layer)}
    there = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert there - named == {"__init__"}


# What importing costs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import vramsim", {"numpy", "scipy", "pydantic", "optuna", "networkx", "pandas", "rich", "cyclopts", "yaml"}),
        ("import vramsim.simulate", {"pydantic", "optuna", "networkx", "pandas", "rich", "cyclopts", "yaml", "plotly"}),
        ("import vramsim.cli", {"optuna", "networkx", "pandas", "plotly", "matplotlib", "jinja2"}),
    ],
)
def test_imports_are_lazy(statement: str, absent: set[str]) -> None:
    code = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert absent & set(run.stdout.split()) == set()


# Names ----------------------------------------------------------------------------------------------------------------


def test_public_names_are_frozen() -> None:
    assert set(vramsim.__all__) == PUBLIC_NAMES
    assert len(PUBLIC_NAMES) <= 20


@pytest.mark.parametrize("name", sorted(PUBLIC_NAMES))
def test_public_names_load(name: str) -> None:
    assert getattr(vramsim, name) is not None


@pytest.mark.parametrize("name", ["search", "simulate"])
def test_functions_are_not_hidden_by_their_modules(name: str) -> None:
    module = importlib.import_module(f"vramsim.{name}")
    assert getattr(vramsim, name) is getattr(module, name)


def test_a_function_is_not_hidden_by_the_package_of_its_name() -> None:
    machine = importlib.import_module("vramsim.calibrate.machine")
    assert vramsim.calibrate is machine.calibrate


def test_unknown_attribute_names_what_there_is() -> None:
    with pytest.raises(AttributeError, match=r"'simulat'.*simulate"):
        vramsim.simulat  # noqa: B018


@module_cases
def test_names_say_something(path: Path) -> None:
    names = [*path.relative_to(PACKAGE).with_suffix("").parts]
    names += [node.name for node in ast.walk(parse(path)) if isinstance(node, ast.ClassDef)]
    assert not {name: found for name in names if (found := words(name) & FORBIDDEN_WORDS)}


# Sizes and places -----------------------------------------------------------------------------------------------------


@module_cases
def test_modules_are_chapters(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_MODULE


def test_top_level_holds_only_what_belongs_there() -> None:
    try:
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        there = {line.partition("/")[0] for line in listed.splitlines()}
    except (OSError, subprocess.CalledProcessError):  # not a git checkout
        there = {path.name for path in ROOT.iterdir()}
    assert {name for name in there if not BUILD_PRODUCTS.fullmatch(name)} - TOP_LEVEL == set()


# Docstrings -----------------------------------------------------------------------------------------------------------


def public(tree: Documented) -> Iterator[Documented]:
    """The public classes, functions and methods of a module."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node)


@module_cases
def test_public_things_are_documented(path: Path) -> None:
    tree = parse(path)
    assert ast.get_docstring(tree), "the module itself"
    assert [node.name for node in public(tree) if not ast.get_docstring(node)] == []  # type: ignore[union-attr]


def parameters(function: ast.FunctionDef) -> list[str]:
    """Parameter names, without `self`."""
    given = function.args
    names = [arg.arg for arg in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    names += [arg.arg for arg in (given.vararg, given.kwarg) if arg is not None]
    return [name for name in names if name not in ("self", "cls")]


def documented(docstring: str) -> dict[str, str]:
    """Parameters that a docstring lists as `name : meaning. [unit]`, several to a line if three spaces part them."""
    listed: dict[str, str] = {}
    current: list[str] = []
    for piece in re.split(r"\n|(?<=\S) {3,}(?=\w)", docstring):
        if match := re.match(r"\s*(\w+(?:, \w+)*) : (.*)", piece):
            current = match.group(1).split(", ")
            listed.update(dict.fromkeys(current, match.group(2)))
        elif not piece.strip() or piece.startswith("Returns"):
            current = []
        else:
            listed.update({name: f"{listed[name]} {piece.strip()}" for name in current})
    return listed


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if path.parent.name == "equations" or path.name == "units.py"],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_equations_document_each_parameter_with_its_unit(path: Path) -> None:
    for function in public(parse(path)):
        if not isinstance(function, ast.FunctionDef):
            continue
        listed = documented(ast.get_docstring(function) or "")
        assert set(listed) == set(parameters(function)), function.name
        assert [name for name, text in listed.items() if not re.search(r"\[[^\]]+\]", text)] == [], function.name


@module_cases
def test_listed_parameters_exist(path: Path) -> None:
    for function in public(parse(path)):
        if isinstance(function, ast.FunctionDef):
            listed = documented(ast.get_docstring(function) or "")
            assert not listed or set(listed) == set(parameters(function)), function.name


def test_docstring_entries_are_read_as_meant() -> None:
    entries = "a : first. [-]   b, c : others,\n    on two lines. [B]\nd : last: one. [1/s]\nReturns it. [B]"
    others = "others, on two lines. [B]"
    assert documented(f"Sum.\n\n{entries}\n\n>>> 1\n") == {
        "a": "first. [-]",
        "b": others,
        "c": others,
        "d": "last: one. [1/s]",
    }
