"""Every code block in README.md and docs/ runs.

Blocks of one file run in order, in a scratch folder that holds a copy of studies/: a page names files as from the top
of the project, and may write some and read them back. What a fence's language means:

- python: executed, all blocks of a file in one namespace; with `>>>` prompts it is a doctest, output included.
- bash, console: lines that start with `vramsim` (after an optional `$ `) go to the command line's `main`, and must exit
  with 0, or with N after a trailing comment `# exit N`. Other lines are not run.
- yaml: a mapping with `model` and `cluster` must be a valid case, one with `base` and `search` a valid search space. A
  first line `# name.yaml` also saves the block under that name.
- anything else (sh, text, json ...): only read.
"""

from __future__ import annotations

import doctest
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

import vramsim

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL_OPERATORS = {"|", "||", "&&", ";", ">", ">>", "<"}


class Block(NamedTuple):
    language: str
    line: int
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """Fenced code blocks of a Markdown file, with the line on which each one's code starts."""
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```\s*$", text, re.MULTILINE | re.DOTALL):
        indent, language, code = match.groups()
        lines = [line.removeprefix(indent) for line in code.splitlines()]
        yield Block(language, text.count("\n", 0, match.start()) + 2, "\n".join(lines) + "\n")


def run_python(block: Block, page: Path, namespace: dict[str, Any]) -> None:
    name = str(page.relative_to(ROOT))
    if ">>>" not in block.text:
        # Blank lines in front make tracebacks show the page's own line numbers.
        exec(compile("\n" * (block.line - 1) + block.text, name, "exec"), namespace)
        return
    # pytest's checker has no public name; it is used for NUMBER: only the digits written down are compared.
    from _pytest.doctest import _get_checker, _get_number_flag

    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | _get_number_flag()
    test = doctest.DocTestParser().get_doctest(block.text, namespace, name, name, block.line - 1)
    runner = doctest.DocTestRunner(_get_checker(), optionflags=flags, verbose=False)
    report: list[str] = []
    runner.run(test, out=report.append, clear_globs=False)
    namespace.update(test.globs)
    assert not runner.failures, "".join(report)


def run_commands(block: Block, page: Path) -> None:
    from vramsim.cli import main

    joined = re.sub(r"\\\n\s*", " ", block.text)
    for line in (raw.strip().removeprefix("$ ") for raw in joined.splitlines()):
        if not re.match(r"vramsim\b", line):
            continue
        expected = int(match.group(1)) if (match := re.search(r"# exit (\d+)\s*$", line)) else 0
        words = shlex.split(line, comments=True)
        where = f"{page.relative_to(ROOT)}:{block.line}: {line}"
        assert not SHELL_OPERATORS & set(words), f"{where}: only plain commands are run, without pipes or redirection"
        assert main(words[1:]) == expected, where


def run_yaml(block: Block) -> None:
    if match := re.match(r"# (\S+\.ya?ml)\s*$", block.text.splitlines()[0]):
        Path(match.group(1)).parent.mkdir(parents=True, exist_ok=True)
        Path(match.group(1)).write_text(block.text, encoding="utf-8")
    content = yaml.safe_load(block.text)
    keys = content.keys() if isinstance(content, dict) else set()
    path = Path("block.yaml")
    path.write_text(block.text, encoding="utf-8")
    if {"model", "cluster"} <= keys:
        vramsim.Case.load(path).resolve()
    elif {"base", "search"} <= keys:
        vramsim.Space.load(path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "studies", tmp_path / "studies", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    namespace: dict[str, Any] = {"__name__": "__page__"}
    for block in blocks(page):
        match block.language:
            case "python":
                run_python(block, page, namespace)
            case "bash" | "console":
                run_commands(block, page)
            case "yaml":
                run_yaml(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_readme_sets_up_with_two_commands() -> None:
    setup = [block.text.strip().splitlines() for block in blocks(ROOT / "README.md") if block.language == "sh"]
    lines = [line for block in setup for line in block]
    assert len(lines) == 2, lines
    assert "venv" in lines[0]
    assert "vramsim estimate studies/cases/llama3_70b_16xa100.yaml" in lines[0]
    assert lines[1].endswith("-m pytest")
