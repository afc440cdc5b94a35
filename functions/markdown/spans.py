"""Emphasis, code and links inside a line.

The text is escaped first, so that HTML from a caller does not become markup.
"""

import re
from html import escape

RULES = (
    (re.compile(r"`([^`]+)`"), r"<code>\1</code>"),
    (re.compile(r"\*\*([^*]+)\*\*"), r"<strong>\1</strong>"),
    (re.compile(r"\*([^*]+)\*"), r"<em>\1</em>"),
    (re.compile(r"\[([^\]]+)\]\((https?://[^)\s]+)\)"), r'<a href="\2">\1</a>'),
)


def spans(text):
    html = escape(text)
    for pattern, markup in RULES:
        html = pattern.sub(markup, html)
    return html
