"""Split Markdown into headings, lists and paragraphs."""

import re

HEADING = re.compile(r"^(#{1,6})\s+(.*)$")


def blocks(text):
    for block in re.split(r"\n\s*\n", text.strip()):
        heading = HEADING.match(block)
        if heading:
            yield f"h{len(heading[1])}", heading[2]
        elif all(line.startswith(("- ", "* ")) for line in block.split("\n")):
            yield "li", "\n".join(line[2:] for line in block.split("\n"))
        else:
            yield "p", block.replace("\n", " ")
