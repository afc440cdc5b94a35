"""Markdown to HTML with a table of contents: a function of more than one file.

curl http://127.0.0.1:8000/v1/functions/markdown/invoke \
    -d '{"markdown": "# Hello\\n\\nThis is *real*."}'
"""

import os

from blocks import blocks
from spans import spans


def handler(event, context):
    offset = int(os.environ["HEADING_OFFSET"])
    contents, html = [], []
    for kind, text in blocks(event["markdown"]):
        if kind.startswith("h"):
            level = min(6, int(kind[1:]) + offset)
            contents.append({"level": level, "title": text})
            html.append(f"<h{level}>{spans(text)}</h{level}>")
        elif kind == "li":
            html.append("<ul>" + "".join(f"<li>{spans(item)}</li>" for item in text.split("\n")) + "</ul>")
        else:
            html.append(f"<p>{spans(text)}</p>")
    return {"html": "\n".join(html), "contents": contents}
