"""What is not there: near names, and the versions that there are."""

import time

import pytest
from commands import MORTAL, fails
from stores import MotoStore
from stub_server import S3, Faulty, is_list, reply


@pytest.mark.parametrize("command", ["fetch", "resolve", "info", "verify"])
def test_a_misspelt_name_suggests_near_ones(published, command):
    text = fails(3, command, "nlp/brt")
    assert "'nlp/brt' does not exist: " in text
    assert text.endswith("; is it 'nlp/bert'?\n")
    assert "is it" not in fails(3, command, "quite/another")


@pytest.mark.parametrize("command", ["fetch", "info"])
def test_a_missing_version_lists_those_there_are(published, command):
    text = fails(3, command, "nlp/bert:0.7")
    assert text.endswith("'nlp/bert:0.7' does not exist: the latest are 0.1, 0.0\n")
    assert "the major versions are: 0\n" in fails(3, command, "nlp/bert:4")
    text = fails(3, command, "nlp/brt:0.0")
    assert text.endswith("the latest are none; is it 'nlp/bert'?\n")


def test_several_near_names_are_suggested(published, source):
    published.new(source, "nlp/berta")
    text = fails(3, "fetch", "nlp/bertx")
    assert {"'nlp/bert'", "'nlp/berta'"} <= set(text.rstrip("?\n").split())


def test_a_missing_part_suggests_no_asset(published):
    text = fails(3, "fetch", "nlp/bert:0.0[vocab]")
    assert text.endswith("the asset has no such part\n")


def test_offline_those_that_are_cached_are_suggested(cached, monkeypatch):
    monkeypatch.delenv("MODELKIT_STORAGE_PROVIDER")
    for command in ("fetch", "resolve", "info", "verify"):
        assert "is it 'nlp/bert'?" in fails(3, command, "nlp/brt")
    assert "whose versions of it are: 0.1, 0.0" in fails(3, "fetch", "nlp/bert:0.7")
    assert "is it 'nlp/bert'?" in fails(3, "fetch", "nlp/brt:0.0")


def test_where_nothing_can_be_listed_the_error_is_the_same(published, store):
    expected = fails(3, "fetch", "quite/another").replace("quite/another", "nlp/brt")
    folder = store.bucket / "modelkit-assets"
    folder.chmod(0o311)
    try:
        assert "was refused" in fails(4, "list", command=MORTAL)
        assert fails(3, "fetch", "nlp/brt", command=MORTAL) == expected
    finally:
        folder.chmod(0o755)


@pytest.mark.server
def test_a_store_that_fails_on_a_listing_is_not_asked_for_long(
    make_proxied_store, stub, assets_dir, call
):
    make_proxied_store(MotoStore)
    stub.script = Faulty(stub.script, reply(S3.fail(503, "SlowDown")), is_list)
    begun = time.monotonic()
    code, _, errors = call("fetch", "nlp/brt")
    assert (code, "does not exist" in errors, "is it" in errors) == (3, True, False)
    assert time.monotonic() - begun < 30


def test_a_folder_that_cannot_be_read_hides_no_error(cached, monkeypatch):
    monkeypatch.delenv("MODELKIT_STORAGE_PROVIDER")
    (cached / "private").mkdir(mode=0)
    try:
        assert "'nope' does not exist" in fails(3, "fetch", "nope", command=MORTAL)
    finally:
        (cached / "private").chmod(0o700)
