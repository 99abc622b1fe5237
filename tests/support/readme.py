"""The README's text, and what is in it."""

import re

from places import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def find_blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def read_moving_table():
    """Return (module, names, what they have become here) of each row of names."""
    section = TEXT.partition("## Moving from modelkit\n")[2].partition("\n## ")[0]
    rows, module = [], ""
    for cells in re.findall(r"^\| (.*)\| (.*) \| (.*) \|$", section, re.MULTILINE):
        first, names, new = (re.findall("`([^`]+)`", cell) for cell in cells)
        if first and not first[0].startswith("modelkit"):
            break
        module = first[0] if first else module
        if cells[2].startswith("the same"):
            new = names
        if names:
            rows.append((module, names, new))
    return rows
