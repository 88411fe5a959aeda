"""Answers to 36 questions that people asked in public threads, each computed: a page of Markdown.

    python studies/questions.py [--out DIR]

writes questions.md beside this file, or into DIR. questions.yaml holds the questions, their links, and what the thread
itself answers or measured; _questions_*.py the cases and the words. An answer agrees with its thread if it points the
same way (fits or not, faster or not); where the thread measured, within the tolerance that the code states. What
vramsim cannot express is said. The output is committed: after a change to the model run this again and read it.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import _questions_choice
import _questions_fit
import _questions_scale
import yaml
from _questions import ANSWERS, Reply

from vramsim.procure.words import table

HERE = Path(__file__).parent
MODULES = (_questions_fit, _questions_scale, _questions_choice)
"""Importing them registers the answers."""


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to (default: this file's)")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    (out / "questions.md").write_text(page(questions(), replies()), encoding="utf-8")


def questions() -> list[dict[str, Any]]:
    """The questions, in order."""
    found: list[dict[str, Any]] = yaml.safe_load((HERE / "questions.yaml").read_text(encoding="utf-8"))
    return found


def replies() -> dict[int, Reply]:
    """Number of each question -> its answer."""
    return {question["number"]: ANSWERS[question["number"]]() for question in questions()}


def page(asked: Sequence[Mapping[str, Any]], given: Mapping[int, Reply]) -> str:
    """The page: an overview, then a paragraph for each question."""
    import _render as render

    counts = Counter(reply.check for reply in given.values())
    agreed, stated = counts["agrees"], counts["agrees"] + counts["differs"]
    parts = [
        "# Thirty-six questions, answered",
        "What people asked about memory, speed and money of LLM training in public threads, and what vramsim "
        f"answers. {stated} threads state an answer that can be compared: {agreed} of these point the same way. "
        f"{counts['cannot express']} questions are about something that vramsim does not express, and "
        f"{counts['not stated']} threads state no answer. What a thread leaves out (lengths, batches, networks) is "
        "assumed, and said. GB is 10^9 bytes, GiB is 2^30. `studies/questions.py` writes this page.",
        table(
            ["#", "question", "answer", "thread"],
            [(q["number"], q["text"], given[q["number"]].short, given[q["number"]].check) for q in asked],
        ),
    ]
    group = ""
    for question in asked:
        if question["group"] != group:
            group = question["group"]
            parts.append(f"## {group}")
        reply = given[question["number"]]
        links = ", ".join(f"[{name(link)}]({link})" for link in question["links"])
        parts.append(f"### {question['number']}. {question['text']}")
        parts.append(f"Asked in {links}. " + (f"The thread: {question['thread']}." if question.get("thread") else ""))
        parts.append(reply.paragraph)
        if reply.cannot:
            parts.append(f"Not expressed: {reply.cannot}.")
    return render.wrapped("\n\n".join(parts))


def name(link: str) -> str:
    """Short name of a link: owner/repository#number, or the site."""
    words = link.split("/")
    if words[2] == "github.com":
        return f"{words[4]}#{words[6]}"
    return words[2].removeprefix("www.")


if __name__ == "__main__":
    main()
