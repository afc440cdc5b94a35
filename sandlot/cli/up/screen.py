"""Terminal output of `sandlot up` and `sandlot dev`: the summary and a line for each event."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

Report = Callable[[str, str], None]
"""Shows one line to the user. The first argument is its mark: `ok`, `same`, `bad`, `note` or
`log`."""

_MARKS: Final = {
    "ok": ("✓", "green"),
    "same": ("=", "dim"),
    "bad": ("✗", "bold red"),
    "note": ("·", "yellow"),
    "log": ("│", "dim"),
}


@dataclass(frozen=True, slots=True)
class Summary:
    """Content of the panel: facts as (name, value), suggested commands as (command, purpose)."""

    url: str
    facts: Sequence[tuple[str, str]]
    warnings: Sequence[str]
    commands: Sequence[tuple[str, str]]


class Screen:
    """A console that shows marked lines, and a summary as a panel or as plain text."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def report(self, mark: str, line: str) -> None:
        sign, style = _MARKS[mark]
        self._console.print(f"[{style}]{sign}[/] {escape(line)}", highlight=False, soft_wrap=True)

    def show(self, summary: Summary) -> None:
        """Print a panel on a terminal, plain lines into a file or a pipe."""
        if not self._console.is_terminal:
            self._show_plain(summary)
            return
        title = "[bold]Sandlot is running[/]"
        self._console.print(
            Panel(_body(summary), title=title, title_align="left", border_style="green", padding=(1, 2), expand=False)
        )
        # Outside the frame and never wrapped, so that these lines can be copied.
        for command, purpose in summary.commands:
            self._console.print(
                f"  [dim]# {escape(purpose)}[/]\n  [cyan]{escape(command)}[/]", highlight=False, soft_wrap=True
            )
        self._console.print("\n[dim]Ctrl+C stops everything. Functions are deployed on every save.[/]")

    def _show_plain(self, summary: Summary) -> None:
        lines = ["Sandlot is running", *(f"  {name:<10} {value}" for name, value in summary.facts)]
        lines += [f"  ! {warning}" for warning in summary.warnings]
        lines += ["", "Try:", *(f"  {command}" for command, _ in summary.commands), "", "Ctrl+C stops everything."]
        for line in lines:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def _body(summary: Summary) -> Table:
    facts = Table.grid(padding=(0, 2))
    for name, value in summary.facts:
        facts.add_row(Text(name, style="dim"), Text(value))
    body = Table.grid(padding=(0, 0))
    body.add_row(facts)
    for warning in summary.warnings:
        body.add_row("")
        body.add_row(Text(f"! {warning}", style="yellow"))
    return body
