"""How far the work is, as a terminal shows it."""

import itertools
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time

import attacks
import pytest
from commands import CORE, Terminal, ok
from trees import write_tree

import modelkit_assets as ma

# --------------------------------------------------------------------------- one line

HOSTILE = [
    "nlp/bert:1.0",
    "\x1b[2J\x07\r\n\t",
    "模型/雪" * 40,
    "e\u0301\u200b\U0001f600",
]


@pytest.mark.parametrize("asset", HOSTILE, ids=ascii)
@pytest.mark.parametrize("done", [0, 1, 10**9, 3 * 10**15])
@pytest.mark.parametrize("is_sized", [True, False])
def test_a_line_is_of_the_width_and_of_ascii(asset, done, is_sized):
    size = 4 * 10**15 if is_sized else 0
    progress = ma.Progress("downloading", asset, done, size, 3, 4000)
    for width, rate in itertools.product(range(201), (0.0, 0.1, 12345678.9)):
        text = ma._describe_progress(progress, rate, width)
        assert len(text) <= width
        assert text.isascii()
        assert text.isprintable()


@pytest.mark.parametrize(
    ("width", "text"),
    [
        (3, "25"),
        (5, "25 %"),
        (20, "downloading nl  25 %"),
        (42, "downloading nlp/bert:0.1  25 %"),
        (50, "downloading nlp/bert:0.1  25 %  50.0 MB of 200 MB"),
        (62, "downloading nlp/bert:0.1  25 %  50.0 MB of 200 MB  2.0 MB/s"),
        (72, "downloading nlp/bert:0.1  25 %  50.0 MB of 200 MB  2.0 MB/s  1:15 left"),
        (
            99,
            "downloading nlp/bert:0.1  25 %  50.0 MB of 200 MB  2.0 MB/s  1:15 left"
            "  3 of 12 files",
        ),
    ],
)
def test_a_line_says_what_it_has_room_for(width, text):
    size = 200 * 10**6
    progress = ma.Progress("downloading", "nlp/bert:0.1", size // 4, size, 3, 12)
    assert ma._describe_progress(progress, 2e6, width) == text


def test_a_line_says_what_is_known():
    begun = ma.Progress("hashing", "x", 0, 10, 0, 1)
    assert ma._describe_progress(begun, 0, 80) == "hashing x  0 %  0 B of 10 B"
    unsized = ma.Progress("downloading", "x", 1500, 0, 0, 1)
    assert ma._describe_progress(unsized, 99.7, 80) == "downloading x  1.5 kB  100 B/s"
    unsized = ma.Progress("downloading", "x", 1500, 0, 1, 2)
    assert (
        ma._describe_progress(unsized, 0, 80) == "downloading x  1.5 kB  1 of 2 files"
    )


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (999.6, "1.0 kB"),
        (1000, "1.0 kB"),
        (99_449, "99.4 kB"),
        (99_500, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (16 << 20, "16.8 MB"),
        (5 * 10**9, "5.0 GB"),
        (1.5e12, "1.5 TB"),
        (1.5e16, "15000 TB"),
    ],
)
def test_sizes_read_well(size, text):
    assert ma._show_size(size) == text


@pytest.mark.parametrize(
    ("columns", "width"),
    [("", 80), ("40", 40), ("0", 80), ("-3", 80), ("wide", 80), ("²", 80), (" ", 80)],
)
def test_elsewhere_than_on_a_terminal_the_width_is_that_of_columns(
    monkeypatch, tmp_path, columns, width
):
    monkeypatch.setenv("COLUMNS", columns)
    with open(tmp_path / "file", "w") as file:
        assert ma._get_width(file) == width
    assert ma._get_width(file) == width  # closed
    assert ma._get_width(None) == width


# ------------------------------------------------------------------------- a terminal

pty = pytest.importorskip("pty", reason="there are no pseudo-terminals here")
fcntl = pytest.importorskip("fcntl")
termios = pytest.importorskip("termios")

SLOW = '''
import os, time, modelkit_assets

class Driver(modelkit_assets.LocalDriver):
    """A folder that is as slow as SLOW says, in seconds a piece of 10 kB."""

    def iterate_bytes(self, *args):
        for data in super().iterate_bytes(*args):
            for at in range(0, len(data), 10_000):
                yield data[at : at + 10_000]
                time.sleep(float(os.environ["SLOW"]))

    def upload_object(self, path, name, advance, *, if_match=""):
        for at in range(0, os.path.getsize(path), 10_000):
            advance(min(10_000, os.path.getsize(path) - at))
            time.sleep(float(os.environ["SLOW"]))
        super().upload_object(path, name, lambda size: None, if_match=if_match)
'''
BAR = b"\r\x1b[K"


@pytest.fixture
def slow(tmp_path, local, assets_dir, monkeypatch):
    """A copy of the core whose store takes 1.2 s for the asset `slow`; its command."""
    folder = tmp_path / "program"
    (folder / "drivers").mkdir(parents=True)
    shutil.copy(CORE, folder)
    (folder / "drivers" / "slow.py").write_text(SLOW)
    (tmp_path / "slow").write_bytes(bytes(10_000 * 100))
    ok("new", tmp_path / "slow", "slow", "--yes")
    monkeypatch.setenv("MODELKIT_STORAGE_PROVIDER", "slow")
    monkeypatch.setenv("SLOW", "0.012")
    monkeypatch.setenv("TERM", "xterm")
    return [sys.executable, "-I", "-S", str(folder / "modelkit_assets.py")]


def has_bars(number):
    return lambda text: len(find_bars(text)) >= number


def find_bars(text):
    """Return what was drawn, each time."""
    return re.findall(rb"\r\x1b\[[JK]([^\r\x1b\n]+)\r", text)


def test_a_fetch_shows_how_far_it_is_and_leaves_nothing_of_it(slow, assets_dir):
    with Terminal([*slow, "fetch", "slow"]) as terminal:
        assert terminal.end() == (0, f"{assets_dir}/slow/0.0\n")
    bars = [bar.decode() for bar in find_bars(terminal.text)]
    assert len(bars) > 3
    done = [int(re.search(r"(\d+) %", bar)[1]) for bar in bars]
    assert done == sorted(done)
    for bar in bars[3:]:
        form = r"downloading slow:0.0  \d+ %  [\d.]+ .B of 1.0 MB  \d+ kB/s  0:0\d left"
        assert re.fullmatch(form, bar), bar
    assert terminal.text.endswith(BAR)  # wiped off, and nothing after that
    assert terminal.text.count(b"\x1b[J") == 1  # which would fill tmux's history


def test_a_publication_shows_how_far_it_is(slow, tmp_path):
    with Terminal([*slow, "new", tmp_path / "slow", "x", "--yes"]) as terminal:
        assert terminal.end() == (0, "x:0.0\n")
    bars = find_bars(terminal.text)
    assert len(bars) > 3
    assert {bar.split(b"  ")[0] for bar in bars} == {b"uploading x:0.0"}
    assert terminal.text.endswith(BAR)


def test_it_is_redrawn_at_most_ten_times_a_second(slow, monkeypatch):
    monkeypatch.setenv("SLOW", "0.015")
    begun = time.monotonic()
    with Terminal([*slow, "fetch", "slow"]) as terminal:
        terminal.read(has_bars(1))
        first = time.monotonic()
        assert terminal.end()[0] == 0
        elapsed = time.monotonic() - first
    drawn = len(find_bars(terminal.text))
    assert 3 < drawn <= 10 * elapsed + 2
    assert first - begun > 0.5  # what is done soon shows nothing


def test_what_is_done_soon_shows_nothing(slow, monkeypatch):
    monkeypatch.setenv("SLOW", "0")
    with Terminal([*slow, "fetch", "slow"]) as terminal:
        assert terminal.end()[0] == 0
    assert terminal.text == b""


@attacks.parametrize("how", ["quiet", "dumb", "file", "pipe"])
def test_only_who_wants_it_sees_it(slow, monkeypatch, tmp_path, how):
    """Its stdout is a terminal all the while."""
    settings, options = {}, []
    if how == "quiet":
        options = ["-q"]
    elif how == "dumb":
        monkeypatch.setenv("TERM", "dumb")
    with open(tmp_path / "errors", "wb") as file:
        if how in ("file", "pipe"):
            settings["stderr"] = file if how == "file" else subprocess.PIPE
        command = [*slow, "fetch", "slow", *options]
        with Terminal(command, both=True, **settings) as terminal:
            assert terminal.end()[0] == 0
            if how == "pipe":
                assert terminal.process.stderr.read() == b""
                terminal.process.stderr.close()
    assert terminal.text.endswith(b"/slow/0.0\r\n")
    assert b"\x1b" not in terminal.text
    assert (tmp_path / "errors").read_bytes() == b""


def test_nothing_is_shown_to_nobody(slow, assets_dir):
    """Not even where stderr is closed, and a print would take stdout for it."""
    command = " ".join([*slow, "fetch", "slow", "2>&-"])
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{assets_dir}/slow/0.0\n")
    command = " ".join([*slow, "fetch", "missing", "2>&-"])
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "")


@pytest.mark.parametrize("command", ["fetch", "new"])
def test_an_interrupt_wipes_it_off(slow, local, tmp_path, assets_dir, command):
    args = ["fetch", "slow"]
    if command == "new":
        args = ["new", tmp_path / "slow", "x", "--yes"]
    with Terminal([*slow, *args], both=True) as terminal:
        terminal.read(has_bars(2))
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end()[0] == 130
    message = b"modelkit_assets: error: interrupted\r\n"
    assert terminal.text.endswith(BAR + message)
    assert {path.name for path in assets_dir.iterdir()} <= {".cache"}
    assert "modelkit-assets/x.versions" not in local.list_objects()


def test_an_error_wipes_it_off(slow, local, assets_dir):
    manifest = "modelkit-assets/slow/0.0.meta"
    changed = local.read_object(manifest)
    digest = json.loads(changed)["files"][0]["sha256"].encode()
    local.write_object(manifest, changed.replace(digest, b"0" * 64))
    with Terminal([*slow, "fetch", "slow"], both=True) as terminal:
        assert terminal.end()[0] == 6
    shown = terminal.text.split(BAR)
    assert shown[-1].startswith(b"modelkit_assets: error: the content of ")
    assert shown[-1].count(b"\n") == 1


# ------------------------------------------------- a terminal, as its user looks at it


class Screen:
    """What a terminal shows, as an emulator has it."""

    def __init__(self, columns, text=b""):
        pyte = pytest.importorskip("pyte")
        self.screen = pyte.Screen(columns, 24)
        self._stream = pyte.ByteStream(self.screen)
        self.feed(text)

    def feed(self, text):
        """Go on with more text; return the lines shown, without the empty ones."""
        self._stream.feed(text)
        return [line.rstrip() for line in self.screen.display if line.strip()]


def show(text, columns):
    return Screen(columns).feed(text)


def test_lines_of_stdout_are_not_mixed_into_it(slow, tmp_path, assets_dir, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("MODELKIT_STORAGE_PROVIDER", "local")
        ok("new", tmp_path / "slow", "b", "--yes")
    command = [*slow, "fetch", "slow", "b", "slow:0.0"]
    with Terminal(command, columns=200, both=True) as terminal:
        assert terminal.end()[0] == 0
    paths = [f"{assets_dir}/{name}/0.0" for name in ("slow", "b", "slow")]
    assert show(terminal.text, 200) == paths
    bars = b"".join(find_bars(terminal.text))
    assert b"downloading 3 assets" in bars
    screen, whole = Screen(200), "".join(paths)
    for at in range(0, len(terminal.text), 23):  # and at no time in between
        lines = screen.feed(terminal.text[at : at + 23])
        shown = "".join(line for line in lines if line.startswith("/"))
        assert whole.startswith(shown), lines


@attacks.parametrize("columns", [1, 10, 20])
def test_a_narrow_terminal_has_it_in_one_line(slow, columns):
    with Terminal([*slow, "fetch", "slow"], columns) as terminal:
        terminal.read(has_bars(3) if columns > 1 else lambda text: False)
        shown = show(terminal.text, columns)
        assert len(shown) == (columns > 1)
        assert columns < 10 or "%" in shown[0]
        assert terminal.end()[0] == 0
    assert show(terminal.text, columns) == []
    assert all(len(bar) < columns for bar in find_bars(terminal.text))


def test_a_terminal_without_a_size_is_taken_for_one_of_80_columns(slow):
    with Terminal([*slow, "fetch", "slow"], columns=0) as terminal:
        assert terminal.end()[0] == 0
    assert 50 < max(map(len, find_bars(terminal.text))) < 80


def test_its_width_is_the_terminals_and_not_what_columns_once_was(slow, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with Terminal([*slow, "fetch", "slow"], columns=30) as terminal:
        assert terminal.end()[0] == 0
    assert max(map(len, find_bars(terminal.text))) < 30


def rewrap(text, before, after):
    """Show text, then make the terminal another width, as today's wrap lines again."""
    old, new, row = Screen(before, text).screen, Screen(after), 0
    for number, line in enumerate(old.display):
        if number == old.cursor.y:
            where = row + old.cursor.x // after, old.cursor.x % after
        line = line.rstrip()
        for at in range(0, max(len(line), 1), after):
            if row < 24:
                new.screen.cursor_position(row + 1, 1)
                new.screen.draw(line[at : at + after])
            row += 1
    new.screen.cursor_position(where[0] + 1, where[1] + 1)
    return new


@attacks.parametrize("after", [10, 25, 120])
def test_a_terminal_that_is_resized_shows_no_rest_of_it(slow, monkeypatch, after):
    monkeypatch.setenv("SLOW", "0.02")
    first = b"what was there before\r\n"
    with Terminal([*slow, "fetch", "slow"]) as terminal:
        terminal.read(has_bars(3))
        before = first + terminal.text
        terminal.resize(after)
        terminal.process.send_signal(signal.SIGWINCH)
        count = len(find_bars(terminal.text))
        terminal.read(has_bars(count + 3))
        more = terminal.text[len(before) - len(first) :]
        late = find_bars(more)[-1]
        assert len(late) < after
        assert terminal.end()[0] == 0
    more = terminal.text[len(before) - len(first) :]
    expected = first.decode().strip()
    pieces = [expected[at : at + after] for at in range(0, len(expected), after)]
    assert rewrap(before, 80, after).feed(more) == [piece.rstrip() for piece in pieces]


def test_a_warning_comes_above_it_and_stays(slow, tmp_path):
    write_tree(tmp_path / "many", {f"f{n:02}": bytes(10_000) for n in range(60)})
    (tmp_path / "many" / "large").write_bytes(bytes(1_000_000))
    command = [*slow, "new", tmp_path / "many", "many", "--yes", "-v"]
    with Terminal(command, columns=100, both=True) as terminal:
        assert terminal.end()[0] == 0
    assert show(terminal.text, 100) == [
        "modelkit_assets: 61 files take a request each: "
        "--pack makes one object of them",
        "many:0.0",
    ]
    assert find_bars(terminal.text)


@pytest.mark.parametrize("is_closed", [False, True])
def test_a_warning_in_the_middle_wipes_it_off_and_it_comes_again(is_closed):
    """In process, as the moment is to be known."""
    mine, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        patch.setenv("TERM", "xterm")
        patch.setattr(ma, "_PATIENCE_S", 0)
        patch.setattr(ma, "_REDRAW_S", 0)
        screen = ma._Screen()
        screen.show(ma.Progress("hashing", "x", 1, 2, 0, 1))
        screen.write("a warning\n")
        screen.show(ma.Progress("hashing", "x", 2, 2, 1, 1))
        if is_closed:
            screen.close()
    text = b""
    while select.select([mine], [], [], 0.2)[0]:
        try:
            text += os.read(mine, 1 << 16)
        except OSError:  # the other end is closed, and all was read
            break
    os.close(mine)
    assert find_bars(text)[0].startswith(b"hashing x  50 %")
    drawn = show(text, 80)
    assert drawn[0] == "a warning"
    rest = [line[:16] for line in drawn[1:]]
    assert rest == ([] if is_closed else ["hashing x  100 %"])


def test_where_nothing_is_drawn_long_work_says_how_far_it_is(capsys, monkeypatch):
    """Work of less than ten seconds says nothing."""
    screen, now = ma._Screen(), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for now[0] in range(26):
        progress = ma.Progress("downloading", "nlp/bert:0.1", 42, 100, 0, 1)
        screen.show(progress._replace(done=4 * int(now[0])))
    said = "modelkit_assets: downloading nlp/bert:0.1"
    lines = [f"{said}  40 %  40 B of 100 B", f"{said}  80 %  80 B of 100 B"]
    assert capsys.readouterr().err.splitlines() == lines


def test_a_command_without_a_terminal_says_it_in_lines(
    published, assets_dir, call, monkeypatch
):
    monkeypatch.setattr(ma, "_TELL_S", 0.0)
    code, _, err = call("fetch", "nlp/bert:0.0")
    assert code == 0
    assert "modelkit_assets: downloading nlp/bert:0.0  0 %" in err
    assert "\r" not in err and "\x1b" not in err
    code, _, err = call("fetch", "nlp/bert:0.0", "--download", "-q")
    assert (code, err) == (0, "")
