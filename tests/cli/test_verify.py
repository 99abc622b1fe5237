"""What `verify` finds wrong in a cache's copies, and that it changes nothing."""

import json
import os
from pathlib import Path

import pytest
from commands import MORTAL, ok, publish_as_modelkit, run
from trees import snapshot, write_tree


def verify(code, *args, **settings):
    """Run `verify`, which must change nothing; return stdout and stderr."""
    folder = Path(os.environ["MODELKIT_ASSETS_DIR"])
    before = snapshot(folder)
    done = run("verify", *args, **settings)
    assert done.returncode == code, done
    assert snapshot(folder) == before
    return done.stdout, done.stderr


RIGHT = "right       {}\n"
WRONG = "wrong       {}\n"
UNKNOWN = "no digests  {}\n"


def test_what_is_right_is_called_right(cached):
    specs = ["nlp/bert:0.1", "nlp/bert:0.0", "x:0.0"]
    assert verify(0) == ("".join(map(RIGHT.format, specs)), "")
    assert verify(0, "nlp/bert") == ("".join(map(RIGHT.format, specs[:2])), "")
    assert verify(0, "nlp/bert:0") == (RIGHT.format("nlp/bert:0.1"), "")
    part = "nlp/bert:0.0[vocab.txt]"
    assert verify(0, part, "x") == (RIGHT.format(part) + RIGHT.format(specs[2]), "")
    document = json.loads(verify(0, "x", "--json")[0])
    assert document == [{"spec": "x:0.0", "state": "right", "wrong": []}]


def damage(how, path):
    if how == "another byte":  # and the same size
        path.write_bytes(b"x" + path.read_bytes()[1:])
    elif how == "longer":
        path.write_bytes(path.read_bytes() + b"x")
    elif how == "missing":
        path.unlink()
    elif how == "a folder":
        path.unlink()
        path.mkdir()
    elif how == "a link to elsewhere":
        target = path.rename(path.parents[5] / "elsewhere")
        path.symlink_to(target)


HOW = ["another byte", "longer", "missing", "a folder", "a link to elsewhere"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("offline", [False, True])
def test_what_is_wrong_is_named(cached, monkeypatch, how, offline):
    path = cached / "nlp/bert/0.0/deep/w.bin"
    damage(how, path)
    if offline:
        monkeypatch.delenv("MODELKIT_STORAGE_PROVIDER")
    specs = ["nlp/bert:0.1", "nlp/bert:0.0", "x:0.0"]
    lines = [(WRONG if spec == specs[1] else RIGHT).format(spec) for spec in specs]
    output, errors = verify(6)
    assert output == "".join(lines)
    assert errors == (
        f"modelkit_assets: '{path}' is not what was published: "
        "`fetch --download nlp/bert:0.0` replaces it\n"
    )
    if offline:
        return
    assert verify(6, "nlp/bert:0.0[deep]")[1].startswith(f"modelkit_assets: '{path}'")
    assert verify(0, "nlp/bert:0.0[vocab.txt]")[1] == ""
    document = json.loads(verify(6, "nlp/bert:0.0", "--json")[0])
    wrong = {"spec": "nlp/bert:0.0", "state": "wrong", "wrong": [str(path)]}
    assert document == [wrong]
    run("fetch", "--download", "nlp/bert:0.0")  # as the hint says
    verify(0)


@pytest.mark.parametrize("how", ["link", "marker"])
def test_a_copy_that_cannot_be_looked_at_is_wrong_and_the_others_are_looked_at(
    cached, tmp_path, how
):
    path = cached / "nlp/bert/0.0"
    if how == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        (path / ".SUCCESS").write_bytes(b"rubbish")
    output, errors = verify(6)
    assert output.splitlines()[1] == "wrong       nlp/bert:0.0"
    assert output.count("right ") == 2
    assert str(path) in errors
    assert errors.count("\n") == 1
    assert json.loads(verify(6, "--json")[0])[1]["state"] == "wrong"


def test_of_a_copy_in_part_what_is_there_is_looked_at(published, assets_dir):
    ok("fetch", "nlp/bert:0.0[vocab.txt]")
    assert verify(0, "nlp/bert:0.0")[0] == RIGHT.format("nlp/bert:0.0")
    assert verify(0)[0] == RIGHT.format("nlp/bert:0.0")
    path = assets_dir / "nlp/bert/0.0/vocab.txt"
    path.write_bytes(b"b a")
    assert str(path) in verify(6)[1]
    assert "no such part" in verify(3, "nlp/bert:0.0[nothing]")[1]


def test_what_modelkit_published_has_no_digests(store, source, assets_dir):
    publish_as_modelkit(store, source)
    ok("fetch", "x")  # with a marker of ours, which has the digests that came
    assert verify(0)[0] == RIGHT.format("x:0.0")
    (assets_dir / "x/0.0/.SUCCESS").write_bytes(b"")
    assert verify(1)[0] == UNKNOWN.format("x:0.0")
    write_tree(assets_dir, {"y/0.0": b"1", "y/.0.0.SUCCESS": b""})
    expected = UNKNOWN.format("x:0.0")
    assert verify(1, "x")[0] == expected


def test_modelkits_marker_is_as_good_where_the_store_knows_the_digests(
    cached, monkeypatch
):
    for marker in cached.rglob("*.SUCCESS"):
        marker.write_bytes(b"")
    assert verify(0)[0].count("right ") == 3
    damage("another byte", cached / "nlp/bert/0.1")
    assert verify(6)[0].splitlines()[0] == "wrong       nlp/bert:0.1"
    monkeypatch.delenv("MODELKIT_STORAGE_PROVIDER")
    assert verify(1)[0].count("no digests ") == 3


def test_what_came_with_an_image_may_have_no_marker_and_is_then_unknown(
    tmp_path, monkeypatch
):
    folder = write_tree(tmp_path / "assets", {"x/0.0": b"1"})
    monkeypatch.setenv("MODELKIT_ASSETS_DIR", str(folder))
    assert verify(0) == ("", "")
    assert verify(1, "x:0.0")[0] == UNKNOWN.format("x:0.0")
    assert verify(1, "x")[0] == UNKNOWN.format("x:0.0")
    assert "x" in verify(3, "y")[1]


def test_what_is_not_there_cannot_be_verified(cached):
    assert "has no copy of it" in verify(3, "nlp/bert:0.7")[1]
    assert "is it 'nlp/bert'?" in verify(3, "nlp/brt")[1]
    assert "invalid asset spec" in verify(2, "nlp/bert[")[1]


def test_what_cannot_be_read_is_told_and_not_passed_over(cached):
    copy = cached / "nlp/bert/0.0"
    (cached / "lost+found").mkdir(mode=0)  # of a disk, and of no asset's name
    assert run("verify", command=MORTAL).returncode == 0
    for path, mode in ((copy / "vocab.txt", 0), (copy, 0), (copy.parent, 0)):
        before = path.stat().st_mode
        path.chmod(mode)
        commands = [["verify"], ["verify", "nlp/bert:0.0"]]
        if path == copy.parent:
            commands.append(["list", "--local"])
        try:
            for command in commands:
                done = run(*command, command=MORTAL)
                assert done.returncode == 1, (path, command, done)
                assert "cannot read" in done.stderr
        finally:
            path.chmod(before)
    (cached / "lost+found").chmod(0o700)
    assert run("verify", command=MORTAL).returncode == 0
