"""What was measured, as figures, as text and as Markdown."""

import statistics

QUANTITIES = ("seconds", "peak", "requests")
PEERS = ("modelkit", "s5cmd", "rclone", "obstore")  # each has a column of its own
OTHERS = ("cp", "bare", "botocore", "in-turn")  # of few rows: these share one
TOOLS = ("ours", *PEERS, *OTHERS)


def summarize(row, samples, missing):
    """Return a row as JSON holds it: each tool's rounds and medians, and the checks.

    samples and missing are by tool: what was measured, or why nothing was.
    """
    tools = {}
    for tool in row.tools:
        taken = samples.get(tool, [])
        cell = tools[tool] = {"missing": missing.get(tool)}
        for quantity in QUANTITIES:
            rounds = [getattr(sample, quantity) for sample in taken]
            if rounds and None not in rounds:
                cell[quantity] = statistics.median(rounds)
                cell[f"{quantity}_rounds"] = rounds
    return {
        "id": row.id,
        "title": row.title,
        "tools": tools,
        "checks": [judge(check, tools) for check in row.checks],
    }


def judge(check, tools):
    """Return a check with its value; None where a side of it was not measured."""
    value = tools["ours"].get(check.quantity)
    if check.rival and value is not None:
        other = tools[check.rival].get(check.quantity)
        value = value / other if other else None
    judged = None not in (value, check.limit)
    reached = value <= check.limit if judged else None
    return {**check._asdict(), "value": value, "reached": reached}


# ------------------------------------------------------------------------- as text


def show_seconds(seconds):
    """Return a time with the unit that suits it."""
    for unit, factor in (("s", 1), ("ms", 1e3)):
        if seconds * factor >= 0.9995:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def show_cell(cell):
    """Return what a tool took: its time and peak memory, and its requests."""
    if "seconds" not in cell:
        return "-" if cell["missing"] else ""
    parts = [show_seconds(cell["seconds"])]
    if "peak" in cell:
        parts.append(f"{cell['peak'] / 1e6:.0f} MB")
    if "requests" in cell:
        parts.append(f"{cell['requests']:g} requests")
    return ", ".join(parts)


def show_value(check, value):
    """Return a check's value, or its limit, with its unit or rival."""
    if value is None:
        return "?"
    if check["rival"]:
        return f"{value:.3g} × {check['rival']}"
    if check["quantity"] == "seconds":
        return show_seconds(value)
    if check["quantity"] == "peak":
        return f"{value / 1e6:.3g} MB"
    return f"{value:g} {check['quantity']}"


def show_check(check):
    """Return a check's value, its limit, and whether that is reached."""
    text = show_value(check, check["value"])
    if check["limit"] is None:
        return text
    verdicts = {True: "reached", False: "NOT REACHED", None: "not measured"}
    limit = {**check, "rival": None, "quantity": ""} if check["rival"] else check
    shown = show_value(limit, round(check["limit"], 9)).strip()
    if check["rival"]:
        shown = f"{check['limit']:.3g}"
    return f"{text} (at most {shown}): {verdicts[check['reached']]}"


def make_table(document):
    """Return the table's header and lines, each a list of cells."""
    rows = document["rows"]
    peers = [tool for tool in PEERS if any(tool in row["tools"] for row in rows)]
    lines = [["work", "ours", *peers, "other", "ours by comparison"]]
    for row in rows:
        tools = ("ours", *peers)
        cells = [show_cell(row["tools"].get(tool, {"missing": None})) for tool in tools]
        others = [tool for tool in OTHERS if tool in row["tools"]]
        cells.append("; ".join(f"{o}: {show_cell(row['tools'][o])}" for o in others))
        checks = "; ".join(map(show_check, row["checks"]))
        lines.append([row["title"], *cells, checks])
    return lines


def make_growth_tables(document):
    """Return a title and a table for each series of growing work."""
    for series in document["growth"]:
        tools = list(next(iter(series["points"]))["tools"])
        lines = [[series["unit"], *tools]]
        for point in series["points"]:
            cells = [show_cell(point["tools"][tool]) for tool in tools]
            lines.append([f"{point['size']:g}", *cells])
        yield series["title"], lines


def write_text(document):
    """Return everything as a person reads it on a terminal."""
    parts = [_align(make_table(document))]
    for title, lines in make_growth_tables(document):
        parts.append(f"{title}\n{_align(lines)}")
    reasons = sorted(
        {
            f"{tool}: {cell['missing']}"
            for row in _iterate_rows(document)
            for tool, cell in row["tools"].items()
            if cell["missing"]
        }
    )
    parts += [describe(document), *(f"not measured: {text}" for text in reasons)]
    return "\n\n".join(parts)


def write_markdown(document, picture=None):
    """Return the tables, the machine and the picture's link, for README.md here."""
    parts = [f"![times by tool]({picture})"] if picture else []
    parts.append(_write_markdown_table(make_table(document)))
    for title, lines in make_growth_tables(document):
        parts.append(f"{title[0].upper()}{title[1:]}:")
        parts.append(_write_markdown_table(lines))
    return "\n\n".join([*parts, describe(document)]) + "\n"


def describe(document):
    """Return one line about the machine, the versions and the rounds."""
    machine = document["machine"]
    versions = []
    for tool, about in document["versions"].items():
        if isinstance(about, dict):
            own = {"ours": about.get("commit"), "modelkit": about.get("modelkit")}[tool]
            under = [f"Python {about['python']}"]
            under += [f"{name} {about[name]}" for name in about if name in _LIBRARIES]
            about = f"{own} on {', '.join(under)}"
        versions.append(f"{tool} {about}")
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory']}, "
        f"Linux {machine['kernel']}; {'; '.join(versions)}; medians of "
        f"{document['rounds']} rounds."
    )


_LIBRARIES = ("boto3", "azure-storage-blob", "obstore")


def _iterate_rows(document):
    yield from document["rows"]
    for series in document["growth"]:
        yield from series["points"]


def _align(lines):
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
        for line in lines
    )


def _write_markdown_table(lines):
    rows = [f"| {' | '.join(cell or ' ' for cell in line)} |" for line in lines]
    rows.insert(1, "|" + "---|" * len(lines[0]))
    return "\n".join(rows)
