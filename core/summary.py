"""Print the closing summary of a verb: a small table whose counts add up."""

import sys
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from biomlm.core.errors import printable


def summary(title: str, rows: Mapping[str, object]) -> None:
    """Print a two-column table to standard output.

    Args:
        title: The verb and its output folder.
        rows: Name → number or text; integers are grouped by thousands, floats shown to four decimals.
    """
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    for name, value in rows.items():
        table.add_row(printable(name), printable(shown(value)))
    console = Console(
        file=sys.stdout, highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 120
    )
    console.print(
        printable(title), style="bold", soft_wrap=True
    )  # a table's own title would be broken at the table's width
    console.print(table)


def shown(value: object) -> str:
    """Format a value for a table."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4f}"
