"""The texts of README.md and of the pages that it links to, and what is in them."""

import re

from places import ROOT

PAGES = {  # by what they are about
    "readme": ROOT / "README.md",
    "drivers": ROOT / "drivers/README.md",
    "moving": ROOT / "tests/compat/README.md",
    "guarantees": ROOT / "tests/guarantees/README.md",
    "processes": ROOT / "tests/cache/README.md",
    "figures": ROOT / "tests/bench/README.md",
    "tests": ROOT / "tests/README.md",
}
TEXTS = {page: path.read_text(encoding="utf-8") for page, path in PAGES.items()}
TEXT = TEXTS["readme"]


def find_blocks(language, text=TEXT):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def find_section(title, text=TEXT):
    """Return what is below a heading of the second level."""
    (section,) = re.findall(
        rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL
    )
    return section


def read_moving_table():
    """Return (module, names, what they have become here) of each row of names."""
    text = TEXTS["moving"]
    rows, module = [], ""
    for cells in re.findall(r"^\| (.*)\| (.*) \| (.*) \|$", text, re.MULTILINE):
        first, names, new = (re.findall("`([^`]+)`", cell) for cell in cells)
        if first and not first[0].startswith("modelkit"):
            break
        module = first[0] if first else module
        if cells[2].startswith("the same"):
            new = names
        if names:
            rows.append((module, names, new))
    return rows
