"""The benchmark still works: one round of tiny work, with stand-ins for the rivals."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from places import ROOT

from bench.report import judge, show_seconds
from bench.rows import SCALES, Check, make_rows

RIVALS = {name: f"{name} is not installed" for name in ("s5cmd", "obstore")}
MANAGER = "from modelkit_assets import AssetsManager"
REMOTE = """
import modelkit_assets

class StorageProvider(modelkit_assets.StorageProvider):
    pass
"""


@pytest.fixture(scope="module")
def modelkit_python(tmp_path_factory):
    """Return a Python whose `modelkit` is this program under that name."""
    folder = tmp_path_factory.mktemp("modelkit")
    package = folder / "package" / "modelkit" / "assets"
    package.mkdir(parents=True)
    (package / "manager.py").write_text(MANAGER)
    (package / "remote.py").write_text(REMOTE)
    venv.create(folder / "venv", symlinks=True)
    context = {"base": str(folder / "venv"), "platbase": str(folder / "venv")}
    packages = Path(sysconfig.get_path("purelib", "posix_prefix", context))
    paths = [folder / "package", ROOT, sysconfig.get_path("purelib")]
    (packages / "modelkit.pth").write_text("\n".join(map(str, paths)))
    command = folder / "venv" / "bin" / "modelkit"
    command.write_text("#!/bin/sh\nexec true\n")
    command.chmod(0o755)
    return folder / "venv" / "bin" / "python"


@pytest.fixture(scope="module")
def outcome(modelkit_python, tmp_path_factory):
    """Return the benchmark's figures, its picture, its Markdown and its table."""
    folder = tmp_path_factory.mktemp("bench")
    files = [folder / name for name in ("json", "svg", "markdown")]
    command = [sys.executable, ROOT / "tests" / "bench", "--scale", "small"]
    command += [
        "--rounds",
        "1",
        "--growth",
        "--rows",
        "*",
        "--modelkit-python",
        modelkit_python,
    ]
    command += [part for file in files for part in (f"--{file.name}", file)]
    command += ["--folder", folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    left = [path.name for path in folder.iterdir() if path not in files]
    assert left == [], "the temporary folder is gone"
    document, picture, markdown = (file.read_text("utf-8") for file in files)
    return json.loads(document), picture, markdown, done.stdout


def iterate_cells(document):
    rows = [*document["rows"]]
    rows += [point for series in document["growth"] for point in series["points"]]
    for row in rows:
        for tool, cell in row["tools"].items():
            yield row, tool, cell


@pytest.mark.attack
@pytest.mark.server
def test_each_row_is_measured_with_each_tool(outcome):
    document = outcome[0]
    expected = [row.id for row in make_rows(SCALES["small"])]
    assert [row["id"] for row in document["rows"]] == expected
    assert len(document["growth"]) == 4
    for row, tool, cell in iterate_cells(document):
        if cell["missing"]:
            assert _may_be_missing(tool, cell), (row["id"], tool, cell)
        else:
            assert cell["seconds"] > 0 and cell["peak"] > 0, (row["id"], tool)
            assert len(cell["seconds_rounds"]) == 1


def _may_be_missing(tool, cell):
    no_azurite = "azurite is not installed" in cell["missing"]
    return RIVALS.get(tool) == cell["missing"] or (
        no_azurite and os.environ.get("CI") != "true"
    )


@pytest.mark.attack
@pytest.mark.server
def test_each_check_is_computed(outcome):
    for row in outcome[0]["rows"]:
        for check in row["checks"]:
            sides = [row["tools"][tool] for tool in ("ours", check["rival"]) if tool]
            if not any(side["missing"] for side in sides):
                assert check["value"] > 0, (row["id"], check)
                judged = check["reached"] is not None
                assert judged == (check["limit"] is not None), (row["id"], check)


@pytest.mark.attack
@pytest.mark.server
def test_the_picture_and_the_tables_show_every_row(outcome):
    document, picture, markdown, table = outcome
    texts = "".join(ElementTree.fromstring(picture).itertext())
    for row in document["rows"]:
        title = row["title"]
        assert title in markdown and title in table
        is_drawn = row["id"] not in ("hit", "packed-part")
        assert not is_drawn or title.replace("`", "") in texts
    assert document["machine"]["processor"] in markdown
    assert document["versions"]["ours"]["python"] in markdown


@pytest.mark.parametrize(
    ("seconds", "rival", "limit", "value", "reached"),
    [
        (1.0, 4.0, 0.5, 0.25, True),
        (2.0, 4.0, 0.5, 0.5, True),
        (3.0, 4.0, 0.5, 0.75, False),
        (3.0, 4.0, None, 0.75, None),
        (None, 4.0, 0.5, None, None),
        (1.0, None, 0.5, None, None),
    ],
)
def test_a_ratio_is_judged(seconds, rival, limit, value, reached):
    tools = {"ours": {"seconds": seconds}, "modelkit": {"seconds": rival}}
    judged = judge(Check("seconds", limit, "modelkit"), tools)
    assert (judged["value"], judged["reached"]) == (value, reached)


def test_times_are_shown_with_their_unit():
    shown = [show_seconds(seconds) for seconds in (51.2, 1.0, 0.0123, 16.6e-6)]
    assert shown == ["51.2 s", "1 s", "12.3 ms", "16.6 µs"]
