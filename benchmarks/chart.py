"""A chart of the results: horizontal bars on a logarithmic scale, as hand-written SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

WIDTH: Final = 920
LABEL_WIDTH: Final = 250
VALUE_WIDTH: Final = 200
BAR_HEIGHT: Final = 18
ROW_HEIGHT: Final = 25
PANEL_GAP: Final = 58
MARGIN: Final = 24
DIGIT_WIDTH: Final = 7.6
"""Width of the widest common sans-serif at 12 px, so that a note never touches its figure."""
_OURS, _PEER, _BARE, _TEXT, _FAINT, _PAPER = "#0b7a75", "#a3b1bf", "#d99a2b", "#1f2933", "#6b7785", "#ffffff"


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of a panel.

    `value` is None for a contender without a figure; `kind` selects the colour; `note` follows the
    figure in small type.
    """

    label: str
    value: float | None
    kind: str = "peer"
    note: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One scale with its bars, the longest first if `descending`."""

    title: str
    unit: str
    bars: Sequence[Bar]
    descending: bool = True
    decimals: int = 0


def svg(title: str, subtitle: str, panels: Sequence[Panel]) -> str:
    """Return the whole chart; its own background keeps it readable on light and dark pages."""
    y = MARGIN + 78.0
    parts: list[str] = []
    for panel in panels:
        drawn, height = _panel(panel, y)
        parts.append(drawn)
        y += height + PANEL_GAP
    height = y - PANEL_GAP + MARGIN
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'font-family="ui-sans-serif, system-ui, Helvetica, Arial, sans-serif" role="img" aria-label="{escape(title, {chr(34): "&quot;"})}">\n'
        f'<rect width="100%" height="100%" fill="{_PAPER}"/>\n'
        + _text(MARGIN, MARGIN + 14, title, 20, weight="600")
        + _text(MARGIN, MARGIN + 36, subtitle, 12, fill=_FAINT)
    )
    return head + "".join(parts) + "</svg>\n"


def _panel(panel: Panel, top: float) -> tuple[str, float]:
    measured = [bar for bar in panel.bars if bar.value]
    ordered = sorted(measured, key=lambda bar: bar.value or 0.0, reverse=panel.descending)
    ordered += [bar for bar in panel.bars if not bar.value]
    values = [bar.value for bar in measured if bar.value]
    low, high = _decades(values)
    body = top + 16
    height = 16 + ROW_HEIGHT * len(ordered) + 18
    parts = [
        _text(MARGIN, top, f"{panel.title} ({panel.unit}, logarithmic)", 14, weight="600"),
        _grid(low, high, body, ROW_HEIGHT * len(ordered)),
    ]
    parts += [_bar(bar, panel, low, high, body + row * ROW_HEIGHT) for row, bar in enumerate(ordered)]
    return "".join(parts), height


def _bar(bar: Bar, panel: Panel, low: int, high: int, y: float) -> str:
    text_y = y + BAR_HEIGHT - 4
    parts = [
        _text(
            MARGIN + LABEL_WIDTH - 8, text_y, bar.label, 12, anchor="end", weight="600" if bar.kind == "ours" else "400"
        )
    ]
    if bar.value:
        length = max(1.0, _x(bar.value, low, high) - _x(10.0**low, low, high))
        colour = {"ours": _OURS, "bare": _BARE}.get(bar.kind, _PEER)
        parts.append(
            f'<rect x="{MARGIN + LABEL_WIDTH}" y="{y:.1f}" width="{length:.1f}" height="{BAR_HEIGHT}" rx="2" fill="{colour}"/>\n'
        )
        shown, x = f"{bar.value:,.{panel.decimals}f}", MARGIN + LABEL_WIDTH + length + 6
        parts.append(_text(x, text_y, shown, 12))
        parts.append(_text(x + DIGIT_WIDTH * (len(shown) + 1), text_y, bar.note, 10, fill=_FAINT))
    else:
        parts.append(_text(MARGIN + LABEL_WIDTH + 6, text_y, bar.note or "no figure", 12, fill=_FAINT))
    return "".join(parts)


def _grid(low: int, high: int, top: float, height: float) -> str:
    parts = []
    for decade in range(low, high + 1):
        x = _x(10.0**decade, low, high)
        parts.append(f'<line x1="{x:.1f}" y1="{top - 4:.1f}" x2="{x:.1f}" y2="{top + height:.1f}" stroke="#e4e9ee"/>\n')
        parts.append(_text(x, top + height + 12, f"{10.0**decade:,g}", 10, anchor="middle", fill=_FAINT))
    return "".join(parts)


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """Return the powers of ten that enclose all values, at least one decade apart."""
    if not values:
        return 0, 1
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _x(value: float, low: int, high: int) -> float:
    left, right = MARGIN + LABEL_WIDTH, WIDTH - MARGIN - VALUE_WIDTH
    return left + (math.log10(value) - low) / (high - low) * (right - left)


def _text(
    x: float, y: float, text: str, size: int, *, anchor: str = "start", weight: str = "400", fill: str = _TEXT
) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" fill="{fill}">{escape(text)}</text>\n'
