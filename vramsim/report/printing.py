"""Printing answers, and files that they may be written to: what all commands share."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vramsim.errors import VramsimError

if TYPE_CHECKING:
    from rich.console import RenderableType


def print_json(content: object) -> None:
    """Print one JSON object; what JSON has no number for is null.

    content : mappings, lists, texts and numbers. [-]
    """
    print(json.dumps(_finite(content), indent=2, allow_nan=False, ensure_ascii=False))


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if hasattr(content, "item"):
        content = content.item()
    return None if isinstance(content, float) and not math.isfinite(content) else content


def show(content: RenderableType) -> None:
    """Print tables and text, as wide as the terminal.

    content : what rich can draw. [-]
    """
    from rich.console import Console

    Console(highlight=False).print(content)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr while a person waits there; None where nobody would see it.

    what : is counted. [-]
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, size: bar.update(task, completed=done, total=size)


def check_table(out: Path) -> None:
    """Refuse a file that rows could not be written to, before time is spent on them.

    out : .csv or .parquet. [-]
    """
    if out.suffix not in (".csv", ".parquet"):
        raise VramsimError(f"--out must be a .csv or .parquet file, got {str(out)!r}")
    if out.suffix == ".parquet" and not find_spec("pyarrow"):
        raise VramsimError(f"writing {str(out)!r} needs pyarrow: pip install 'vramsim[frames]', or write a .csv file")
    check_file(out, out.suffix)


def check_file(path: Path, suffix: str) -> None:
    """Refuse a file of another kind, or in a folder that is not there.

    path : of the file. [-]   suffix : that it must have. [-]
    """
    if path.suffix != suffix:
        raise VramsimError(f"expected a {suffix} file, got {str(path)!r}")
    if not path.absolute().parent.is_dir():
        raise VramsimError(f"a file can be written only in a folder that exists, got {str(path)!r}")
