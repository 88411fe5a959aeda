"""Shapes that reports are made of: plain tables, lists, and how they stand on a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text


def plain_table(title: str, first: str, *others: str, words: Iterable[str] = ()) -> Table:
    """A table without lines: words to the left, numbers to the right, headings folded where they must be.

    title : heading. [-]   first : heading of the first column, which holds words. [-]
    others : headings of the others. [-]   words : those of them that hold words. [-]
    """
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    table.add_column(Text(first), overflow="fold")
    for name in others:
        left = not name or name in words
        table.add_column(Text(name), justify="left" if left else "right", overflow="fold")
    return table


def bullets(title: str, lines: Iterable[str]) -> RenderableType:
    """A heading and a list of sentences.

    title : heading. [-]   lines : sentences. [-]
    """
    items = Table.grid(padding=(0, 1))
    for line in lines:
        items.add_row("-", Text(line))
    return Group(Text(title, style="bold"), Padding(items, (0, 0, 0, 1)))


def stacked(sections: Iterable[RenderableType]) -> Group:
    """Sections below one another, a blank line between them.

    sections : what to show. [-]
    """
    spaced = [part for section in sections for part in (Text(), section)]
    return Group(*spaced[1:])


class SideBySide:
    """Two tables beside each other where the terminal is wide enough, else below each other."""

    gap = 4

    def __init__(self, left: Table, right: Table) -> None:
        self.left, self.right = left, right

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = [Measurement.get(console, options, table).maximum for table in (self.left, self.right)]
        if sum(widths) + self.gap > options.max_width:
            yield stacked([self.left, self.right])
            return
        grid = Table.grid(padding=(0, self.gap, 0, 0))
        grid.add_row(self.left, self.right)
        yield grid
