"""Measure this program beside modelkit, s5cmd, rclone, obstore and cp, on this machine.

    python tests/bench --rounds 5 --growth --json bench.json --svg bench.svg
    python tests/bench --rows fetch-object 'list*'

Needs the extra `test` and the dependency group `bench` (and, for Azurite, `npm ci` in
tests/); modelkit is put into a temporary venv by pip, or is in that of
`--modelkit-python`. Servers run on loopback, and everything lies in a temporary folder,
gone at the end: on a memory disk where one has 6 GB free, as disks drown the rest. Each
measurement is a process of its own; the tools take turns within each round, after a
warm-up that is not counted (but where there is only one round). What came is checked in
the first. A tool that is missing leaves its cells empty, and the report says why.
Progress goes to stderr, the table to stdout.
"""

import argparse
import fnmatch
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
MEMORY_DISK = 6 << 30  # bytes that all rows but `fetch-4gib` have room in
sys.path[:1] = [str(TESTS), str(TESTS / "support")]  # `bench`, `servers`

from servers import ServerError  # noqa: E402

from bench import chart, machine, report  # noqa: E402
from bench.rig import MissingError, Rig  # noqa: E402
from bench.rows import SCALES, make_growth, make_rows  # noqa: E402


def main(args=None):
    options = _get_main_parser().parse_args(args)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all is cleared up
    try:
        document = run(options)
    except KeyboardInterrupt:
        return 130
    print(report.write_text(document))
    if options.json:
        text = json.dumps(document, indent=1, ensure_ascii=False)
        Path(options.json).write_text(text + "\n", encoding="utf-8")
    if options.svg:
        Path(options.svg).write_text(chart.draw(document), encoding="utf-8")
    if options.markdown:
        text = report.write_markdown(document, options.svg)
        Path(options.markdown).write_text(text, encoding="utf-8")
    return 0


def run(options):
    """Measure all rows chosen, and return the document that `--json` writes."""
    sizes = SCALES[options.scale]
    rows = _choose(make_rows(sizes), options.rows)
    parent = options.folder or machine.find_memory_disk(MEMORY_DISK)
    with tempfile.TemporaryDirectory(dir=parent, prefix="bench-") as folder:
        python, reason = machine.find_modelkit(options.modelkit_python, folder)
        if reason:
            _say(reason)
        pythons = {"ours": sys.executable, "modelkit": python}
        names = ("s5cmd", "rclone", "cp")
        found = {name: machine.find_program(name, pythons.values()) for name in names}
        document = {
            "machine": machine.describe_machine(),
            "versions": machine.describe_versions(
                python, found["s5cmd"], found["rclone"]
            ),
            "scale": options.scale,
            "rounds": options.rounds,
            "rows": [],
            "growth": [],
        }
        with Rig(folder, pythons, found) as rig:
            for row in rows:
                document["rows"].append(_measure(row, rig, options.rounds))
            for series in make_growth(sizes) if options.growth else ():
                points = [
                    {"size": size, **_measure(row, rig, options.rounds)}
                    for size, row in series.rows.items()
                ]
                about = {**series._asdict(), "points": points}
                del about["rows"]
                document["growth"].append(about)
    return document


def _choose(rows, globs):
    """Return the rows that are asked for; without globs, all that are not too large."""
    if not globs:
        return [row for row in rows if not row.is_large]
    chosen = [row for row in rows if any(fnmatch.fnmatch(row.id, g) for g in globs)]
    if not chosen:
        sys.exit(f"no such row; there are {' '.join(row.id for row in rows)}")
    return chosen


def _measure(row, rig, rounds):
    """Let each tool take its turn in each round; the first of several is a warm-up."""
    samples, missing = {}, {}
    start = time.monotonic()
    warm_ups = min(rounds - 1, 1)
    for index in range(rounds + warm_ups):
        for tool in row.tools:
            if tool in missing:
                continue
            if rounds > 1:
                os.sync()  # what was written before is not this one's to write
            try:
                sample = row.work(rig, tool, index == 0)
            except (MissingError, ServerError) as error:
                missing[tool] = str(error)
            else:
                samples.setdefault(tool, []).append(sample)
    samples = {tool: taken[warm_ups:] for tool, taken in samples.items()}
    figures = report.summarize(row, samples, missing)
    taken = [f"{tool} {report.show_cell(figures['tools'][tool])}" for tool in row.tools]
    _say(f"{row.id} ({time.monotonic() - start:.0f} s): {'; '.join(taken)}")
    return figures


def _say(text):
    print(text, file=sys.stderr, flush=True)


def _get_main_parser():
    parser = argparse.ArgumentParser(
        prog="python tests/bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--rounds", type=int, default=5, metavar="N", help="rounds counted (5)")
    add("--scale", choices=SCALES, default="full", help="small: to try the benchmark")
    add("--rows", nargs="+", metavar="GLOB", help="rows by id, such as 'fetch-*'")
    add("--growth", action="store_true", help="also how the cost grows with the work")
    add("--modelkit-python", metavar="PATH", help="a Python that has modelkit 0.1.3")
    add("--folder", metavar="DIR", help="where the temporary folder is made")
    add("--json", metavar="FILE", help="write all figures, each round's too")
    add("--svg", metavar="FILE", help="draw them")
    add("--markdown", metavar="FILE", help="write the tables for its README.md")
    return parser


if __name__ == "__main__":
    sys.exit(main())
