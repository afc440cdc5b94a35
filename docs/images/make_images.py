"""Draw the pictures of the README: `python docs/images/make_images.py`.

The terminal session is real: the script starts `sandlot up` in a temporary folder, runs each
command of `SESSION` in a shell, and draws what they print. The badges repeat pyproject.toml.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from xml.sax.saxutils import escape

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

FOLDER = Path(__file__).resolve().parent
REPOSITORY = FOLDER.parents[1]
START_LIMIT_S = 60.0
WIDTH = 96

GREET = """\
# /// script
# [tool.sandlot]
# timeout = "2s"
# visibility = "public"
# ///


def handler(event, context):
    return {"message": f"Hello, {event['name']}!"}
"""
SESSION = (
    """curl -d '{"name": "Ada"}' http://127.0.0.1:8000/v1/functions/greet/invoke""",
    """sandlot job --wait $(sandlot invoke side-by-side '{"tea": 0.3, "eggs": 0.4}' --async)""",
    "sandlot functions",
)
EXAMPLES = ("hello.py", "page.py", "side_by_side.py", "sunrise.mjs")
_THEME = TerminalTheme(
    (24, 28, 36), (222, 226, 230), [(24, 28, 36), (240, 110, 110), (120, 210, 140), (230, 190, 100), (110, 170, 240),
    (200, 140, 230), (100, 205, 205), (222, 226, 230)],
)  # fmt: skip
# Rich's own frame loads a font from a content network; this one uses the reader's.
_FRAME = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, monospace; font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def badges(project: dict[str, object]) -> dict[str, tuple[str, str]]:
    """Map each badge's file name to its label and its value, both from pyproject.toml."""
    settings: dict[str, dict[str, object]] = project["tool"]  # type: ignore[assignment]
    described: dict[str, object] = project["project"]  # type: ignore[assignment]
    classifiers: list[str] = described["classifiers"]  # type: ignore[assignment]
    return {
        "python": ("Python", str(described["requires-python"]).removeprefix(">=") + " or newer"),
        "license": ("license", str(described["license"])),
        "platform": ("platform", next(c.rpartition(" :: ")[2] for c in classifiers if "Operating System" in c)),
        "types": ("types", "mypy strict" if settings["mypy"]["strict"] else "mypy"),
    }


def badge(label: str, value: str) -> str:
    """Return one badge as SVG."""
    left, right = (14 + 7 * len(text) for text in (label, value))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img"'
        f' aria-label="{escape(label)}: {escape(value)}">'
        f'<rect width="{left + right}" height="20" rx="3" fill="#0b7a75"/>'
        f'<path d="M3 0h{left - 3}v20H3a3 3 0 0 1-3-3V3a3 3 0 0 1 3-3" fill="#3d4852"/>'
        '<g fill="#fff" font-family="system-ui, sans-serif" font-size="11" text-anchor="middle">'
        f'<text x="{left / 2}" y="14">{escape(label)}</text>'
        f'<text x="{left + right / 2}" y="14">{escape(value)}</text></g></svg>\n'
    )


def shell(command: str, folder: Path, url: str) -> str:
    """Return the output of a command, `WIDTH` columns wide, with the port of the README."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SANDLOT_")}
    environment |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "COLUMNS": str(WIDTH)}
    done = subprocess.run(
        ["bash", "-euc", command.replace("http://127.0.0.1:8000", url)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout.replace(url, "http://127.0.0.1:8000").rstrip()


def start(folder: Path) -> tuple[subprocess.Popen[str], str, str]:
    """Start `sandlot up` in a folder; return the process, its URL and its banner."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sandlot", "up", "--port", "0"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    shown, deadline_s = "", time.monotonic() + START_LIMIT_S
    lines = iter(process.stdout or ())
    while "Ctrl+C stops" not in shown and time.monotonic() < deadline_s:
        line = next(lines, "")
        if not line:
            raise SystemExit(f"sandlot up ended:\n{shown}")
        shown += line
    (url,) = re.findall(r"API +(http://\S+)", shown)
    banner = shown.partition("\nTry:")[0].replace(url, "http://127.0.0.1:8000").rstrip()
    return process, url, banner


def record() -> str:
    """Run the session and return it as SVG."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "functions").mkdir()
        for example in EXAMPLES:
            shutil.copy(REPOSITORY / "functions" / example, folder / "functions")
        (folder / "functions" / "greet.py").write_text(GREET)
        process, url, banner = start(folder)
        try:
            shown = [("make up", banner), *((command, shell(command, folder, url)) for command in SESSION)]
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    for number, (command, output) in enumerate(shown):
        console.print(Text.assemble(("\n" if number else "") + "$ ", (command, "bold cyan")))
        console.print(Text(output))
    return console.export_svg(title="sandlot", theme=_THEME, code_format=_FRAME, unique_id="terminal")


if __name__ == "__main__":
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    for name, (label, value) in badges(project).items():
        (FOLDER / f"{name}.svg").write_text(badge(label, value))
    (FOLDER / "terminal.svg").write_text(record())
