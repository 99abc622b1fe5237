"""Every command and option has help, which fits any terminal."""

import os
import re
import shlex
import sys

import pytest
from commands import BARE, COMMANDS, Terminal, ok, run

import modelkit_assets as ma


def find_parsers(chosen=None):
    parser = ma._get_main_parser(chosen)
    (commands,) = (one for one in parser._actions if isinstance(one.choices, dict))
    return parser, commands.choices


def test_every_option_of_every_command_has_help():
    parser, commands = find_parsers()
    assert sorted(commands) == sorted(COMMANDS)
    for name, command in commands.items():
        for action in (*command._actions, *parser._actions[:2]):
            assert action.help, (name, action)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_each_command_is_one_of_it(name):
    parser, commands = find_parsers()
    program, *args = shlex.split(commands[name].epilog.partition("example: ")[2])
    args = args[: args.index(">")] if ">" in args else args
    options = parser.parse_args(args)
    assert (program, args[0]) == ("modelkit_assets", name)
    assert options.run.__name__ == f"_run_{name}"


def test_a_command_makes_its_own_arguments_alone():
    _, commands = find_parsers("fetch")
    sizes = {name: len(command._actions) for name, command in commands.items()}
    assert {name for name, size in sizes.items() if size > 1} == {"fetch"}
    _, commands = find_parsers(None)
    assert all(len(command._actions) > 1 for command in commands.values())


@pytest.mark.parametrize("columns", [1, 20, 80, 300])
def test_help_fits_any_terminal(columns):
    for args in (["--help"], ["list", "--help"]):
        with Terminal([*BARE, *args], columns, both=True) as terminal:
            assert terminal.end()[0] == 0
        text = re.sub(r"\x1b\[[\d;]*m", "", terminal.text.decode())  # Python 3.14's
        lines = text.splitlines()
        assert "usage: modelkit_assets" in " ".join(" ".join(lines).split())
        assert columns < 80 or max(map(len, lines)) <= columns


def test_options_come_after_the_command():
    for args in (["-v", "fetch", "x"], ["--json", "list"], ["fetsh", "x"], ["--", "x"]):
        done = run(*args)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("usage: modelkit_assets")
    assert "'fetch'" in run("fetsh", "x").stderr  # all that there are
    assert run("fetch", "x", "-v", "--provider").returncode == 2


def test_the_main_help_names_all_commands_and_exit_codes():
    text = ok("--help")
    assert all(f"\n    {name} " in text for name in COMMANDS)
    assert "130 interrupted" in " ".join(text.split())


def test_main_takes_the_arguments_of_the_process(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["x", "list", "--local"])
    monkeypatch.setenv("MODELKIT_ASSETS_DIR", str(tmp_path))
    assert ma.main() == 0
    assert "no such copies" in capsys.readouterr().err


OPTIONS = {
    "--assets-dir": "MODELKIT_ASSETS_DIR",
    "--provider": "MODELKIT_STORAGE_PROVIDER",
    "--bucket": "MODELKIT_STORAGE_BUCKET",
    "--prefix": "MODELKIT_STORAGE_PREFIX",
    "--versioning": "MODELKIT_ASSETS_VERSIONING_SYSTEM",
}


@pytest.mark.parametrize(
    "args",
    [
        ["new", "SOURCE", "y", "--yes"],
        ["update", "SOURCE", "x", "--yes"],
        ["list"],
        ["list", "--local"],
        ["fetch", "x"],
        ["resolve", "x"],
        ["info", "x"],
        ["verify"],
        ["remove", "z", "--yes"],
        ["doctor", "--write"],
    ],
    ids=" ".join,
)
def test_options_never_go_through_the_environment(
    published, store, source, assets_dir, call, monkeypatch, args
):
    """What is set there is beaten, and stays as it is."""
    values = [assets_dir, "local", store.bucket, "modelkit-assets", "major_minor"]
    command = find_parsers()[1][args[0]]
    known = {name for action in command._actions for name in action.option_strings}
    given = [(name, value) for name, value in zip(OPTIONS, values) if name in known]
    for name, _ in given:
        monkeypatch.setenv(OPTIONS[name], "/nothing/../that is there")
    before = dict(os.environ)
    args = [source if arg == "SOURCE" else arg for arg in args]
    code, _, errors = call(*args, *(part for pair in given for part in pair))
    assert dict(os.environ) == before
    assert (code, "no copy" in errors) == ((3, True) if "z" in args else (0, False))
