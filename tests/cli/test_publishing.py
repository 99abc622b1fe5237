"""What `new` and `update` say before they publish, and what they say of a version."""

import json

import pytest
from commands import answer, fails, ok, run

import modelkit_assets as ma

COMMIT = ["--meta", "commit=3f2a1c", "--meta", "licence=MIT = free"]


def test_a_question_says_what_becomes_what(source, store):
    done = answer("n\n", "new", source, "nlp/bert")
    assert done.returncode == 1
    shown = done.stderr
    where = f"{store.bucket}/modelkit-assets"
    assert f"Publish {source} (2 files, 2.0 kB) as nlp/bert:0.0 in {where}? " in shown
    ok("new", source, "nlp/bert", "--yes")
    shown = answer("n\n", "update", source / "vocab.txt", "nlp/bert").stderr
    assert "vocab.txt (1 file, 3 B) as nlp/bert:0.1 in " in shown
    shown = answer("n\n", "update", source, "nlp/bert", "--bump-major").stderr
    assert " as nlp/bert:1.0 in " in shown


@pytest.mark.parametrize("args", [["no/such"], ["nlp/bert", "--versioning", "x"]])
def test_what_cannot_be_is_not_asked_about(source, store, args):
    fails(3 if len(args) == 1 else 2, "update", source, *args)
    assert "No such file" in fails(2, "new", source / "missing", "x")


def test_a_dry_run_says_what_it_would_do(source, store):
    done = run("new", source, "x", "--dry-run")
    assert (done.returncode, done.stdout) == (0, "x:0.0\n")
    said = f"would publish {source} (2 files, 2.0 kB) as x:0.0 in {store.bucket}"
    assert f"modelkit_assets: {said}" in done.stderr
    assert store.list_objects() == []


def test_metadata_is_kept_and_shown(source, store, assets_dir):
    ok("new", source, "x", "--yes", *COMMIT)
    metadata = {"commit": "3f2a1c", "licence": "MIT = free"}
    manifest = json.loads(store.read_object("modelkit-assets/x/0.0.meta"))
    assert manifest["metadata"] == metadata
    shown = ok("info", "x")
    assert "metadata commit: 3f2a1c\nmetadata licence: MIT = free\n" in shown
    (document,) = json.loads(ok("list", "--long", "--json"))
    assert document["metadata"] == metadata
    ma.StorageProvider().update(source, "x", metadata={"run": "7"})
    assert ma.StorageProvider().get_asset_meta("x", "0.1")["metadata"] == {"run": "7"}
    info = ma.AssetsManager().fetch_asset("x", return_info=True)
    assert info["meta"]["metadata"] == {"run": "7"}


@pytest.mark.parametrize("pair", ["commit", "=x", ""])
def test_metadata_that_is_none_is_refused(source, store, pair):
    assert "KEY=VALUE" in fails(2, "new", source, "x", "--yes", "--meta", pair)
    assert store.list_objects() == []
    with pytest.raises(ma.ConfigurationError, match="metadata is texts by name"):
        ma.StorageProvider().new(source, "x", metadata={"a": 1})
    assert store.list_objects() == []


@pytest.mark.parametrize("value", ["x", [1], {"a": {"b": 1}}, None, 3])
def test_metadata_of_others_may_be_anything(source, store, assets_dir, value):
    ok("new", source, "x", "--yes")
    name = "modelkit-assets/x/0.0.meta"
    manifest = {**json.loads(store.read_object(name)), "metadata": value}
    store.write_object(name, json.dumps(manifest).encode())
    for args in (["info", "x"], ["list", "--long"], ["fetch", "x"]):
        ok(*args)


@pytest.mark.parametrize("name", [".git/HEAD", ".DS_Store", "a/__pycache__/b.pyc"])
def test_what_is_hardly_meant_is_warned_of(source, store, name):
    (source / name).parent.mkdir(parents=True, exist_ok=True)
    (source / name).write_text("1")
    done = run("new", source, "x", "--yes")
    assert done.returncode == 0
    segment = next(one for one in name.split("/") if one in ma._UNWANTED)
    assert f"{segment!r} is published too, as it lies in {str(source)!r}" in done.stderr


@pytest.mark.server
def test_a_bucket_that_a_url_names_is_named(source, make_store, call):
    from stores import MotoStore

    make_store(MotoStore)
    code, _, err = call("new", "s3://no-such-bucket/x", "y", "--yes")
    assert code == 2
    assert "cannot publish 's3://no-such-bucket/x': " in err
    assert "is there a bucket 'no-such-bucket'?" in err
