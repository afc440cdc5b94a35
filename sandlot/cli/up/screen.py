"""What `sandlot up` shows: progress, the panel with what runs and what to try, and a line for everything that happens after.

Knows: words, colours, terminals. Does not know: how anything is started.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

_MARKS: Final = {
    "ok": ("✓", "green"),
    "same": ("=", "dim"),
    "bad": ("✗", "bold red"),
    "note": ("·", "yellow"),
    "log": ("│", "dim"),
}


@dataclass(frozen=True, slots=True)
class Summary:
    """What the panel says."""

    url: str
    facts: Sequence[tuple[str, str]]
    warnings: Sequence[str]
    commands: Sequence[tuple[str, str]]


class Screen:
    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, mark: str, line: str) -> None:
        sign, style = _MARKS[mark]
        self._console.print(f"[{style}]{sign}[/] {escape(line)}", highlight=False, soft_wrap=True)

    def summary(self, summary: Summary) -> None:
        """A panel on a terminal; plain lines in a file or a pipe, where nobody admires a frame."""
        if not self._console.is_terminal:
            self._plain(summary)
            return
        title = "[bold]Sandlot is running[/]"
        self._console.print(
            Panel(_body(summary), title=title, title_align="left", border_style="green", padding=(1, 2), expand=False)
        )
        # Outside the frame and never wrapped: these lines are there to be copied.
        for command, purpose in summary.commands:
            self._console.print(
                f"  [dim]# {escape(purpose)}[/]\n  [cyan]{escape(command)}[/]", highlight=False, soft_wrap=True
            )
        self._console.print("\n[dim]Ctrl+C stops everything. A function that is saved is deployed at once.[/]")

    def _plain(self, summary: Summary) -> None:
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
