"""The command `vramsim convert`: other programs' configurations as a case, and a case as their configurations.

`register(app)` adds it to the command line.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from vramsim.convert.assignments import assigned

if TYPE_CHECKING:
    from cyclopts import App

Sets = Annotated[
    list[str],
    Parameter(name="--set", negative="", help="Say what no file says, or otherwise: key=value; may be repeated."),
]
Json = Annotated[bool, Parameter(name="--json", negative="", show_default=False, help="Print JSON instead of YAML.")]


def register(app: App) -> None:
    """Add the command of this module to a command line.

    app : the command line. [-]
    """
    app.command(convert)


def convert(files: list[Path], /, *, to: str = "case", sets: Sets | None = None, as_json: Json = False) -> None:
    """Read configurations of other programs as one case; or write a case as theirs.

    Parameters
    ----------
    files
        Files that describe one run together, in any order: DeepSpeed, accelerate, Hugging Face TrainingArguments, TRL,
        LLaMA-Factory, Axolotl, XTuner v0.1 (.py), torchtitan, torchtune, Megatron-LM (script or YAML), ms-swift, PEFT,
        a model's config.json, vramsim's own cases. Nothing in them is executed.
    to
        case | deepspeed | accelerate | trainer (Hugging Face TrainingArguments) | megatron (arguments).
    """
    from vramsim.convert.conversion import convert as understood
    from vramsim.convert.export import export

    found = understood(files, assigned(sets))
    if to == "case":
        _print(found.to_dict(), as_json)
        return
    content, notes = export(found, to)
    for note in notes:
        print(f"vramsim: {note}", file=sys.stderr)
    if to == "megatron" and not as_json:
        print(" \\\n".join(f"--{key}" + ("" if value is True else f" {value}") for key, value in content.items()))
        return
    _print(content, as_json or to == "deepspeed")


def _print(content: object, as_json: bool) -> None:
    if as_json:
        print(json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False))
        return
    import yaml

    print(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110), end="")
