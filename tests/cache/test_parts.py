"""A part of an asset alone: it lies where the whole would put it, and never is that."""

from __future__ import annotations

import functools
import itertools
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import attacks
import harness
import pytest
from harness import NAME
from stores import MotoStore
from trees import PARTIAL, File, Tree, read_bytes, read_files, write_tree

import modelkit_assets as ma

SPEC = f"{NAME}:0.0"
OBJECT = f"modelkit-assets/{NAME}/0.0"
TREE: Tree = {
    "a": File(b"a" * 3000),
    "b/c": File(b"c" * 2000, executable=True),
    "b/d/e": File(b"e" * 1000),
    "b/d/hollow/": None,
    "b2": File(b"no part of b"),
    "empty.txt": File(b""),
    "hollow/": None,
    "x/y/z": File(b"z"),
}
ONE_WORKER = {"MODELKIT_STORAGE_WORKERS": "1"}
PARTS = ["a", "b", "b/c", "b/d", "b/d/hollow", "hollow", "x", "x/y/z", "empty.txt"]
WAYS = ("unpacked", "packed", "modelkit")


@pytest.fixture
def source(tmp_path):
    return write_tree(tmp_path / "source", TREE)


@pytest.fixture(params=WAYS)
def published(request, local, source):
    """A store that has the tree, in one of three ways."""
    publish(local.bucket, source, request.param)
    return local


def publish(store, source, way="unpacked"):
    provider = harness.make_provider(store)
    provider.new(source, NAME, pack=way == "packed")
    if way == "modelkit":  # which knows no sizes, nor empty folders
        meta = store / f"{OBJECT}.meta"
        document = json.loads(meta.read_bytes())
        del document["files"], document["format"], document["empty_directories"]
        meta.write_text(json.dumps(document))


@pytest.fixture
def manager(local, assets_dir, log):
    provider = harness.make_recording_provider(local.bucket, log)
    return ma.AssetsManager(assets_dir, 10, provider)


@pytest.fixture
def offline(assets_dir, monkeypatch):
    """A manager without a provider."""
    monkeypatch.delenv("MODELKIT_STORAGE_PROVIDER", raising=False)
    return ma.AssetsManager(assets_dir)


def list_downloads(log):
    """Return what was downloaded since the last time, by part; `""` of a pack."""
    moved = harness.read_log(log)
    log.write_text("")
    return sorted(one.name[len(OBJECT) + 1 :] for one in moved)


def select(part):
    """Return what of the tree a part is, by its path in the asset."""
    return {name: TREE[name] for name in TREE if ma._is_below(name.rstrip("/"), part)}


def is_packed(store):
    return "pack" in json.loads(store.read_object(f"{OBJECT}.meta"))


def read_copy(assets_dir):
    """Return what lies in the copy, its marker left out."""
    return read_files(assets_dir / NAME / "0.0")


def strip(tree):
    """Return what comes of a tree in all ways."""
    return read_bytes(tree)


# ------------------------------------------------------------------- what comes


@pytest.mark.parametrize("part", PARTS)
def test_a_part_comes_alone_and_lies_where_the_whole_would_put_it(
    published, manager, assets_dir, log, part
):
    wanted = select(part)
    document = json.loads(published.read_object(f"{OBJECT}.meta"))
    if not strip(wanted) and "files" not in document:
        with pytest.raises(ma.AssetDoesNotExistError):
            manager.fetch_asset(f"{SPEC}[{part}]")
        return
    info = manager.fetch_asset(f"{SPEC}[{part}]", return_info=True)
    assert info["path"] == str(assets_dir / NAME / "0.0" / part)
    assert not info["from_cache"] and info["object_name"] == OBJECT
    found = read_copy(assets_dir)
    assert strip(found) == strip(wanted)
    if "files" in document:
        assert found == wanted
    asked = list_downloads(log)
    if is_packed(published):
        assert len(asked) == any(strip(wanted).values())
    else:
        assert set(asked) <= set(wanted)
        assert len(asked) >= sum(map(bool, strip(wanted).values()))
    info = manager.fetch_asset(f"{SPEC}[{part}]", return_info=True)
    assert info["from_cache"] and list_downloads(log) == []


def test_a_second_part_joins_the_first_and_the_whole_completes_them(
    published, manager, assets_dir, log
):
    manager.fetch_asset(f"{SPEC}[a]")
    manager.fetch_asset(f"{SPEC}[b/d]")
    assert strip(read_copy(assets_dir)) == strip({**select("a"), **select("b/d")})
    list_downloads(log)
    manager.fetch_asset(f"{SPEC}[b]")
    assert ("" if is_packed(published) else "b/c") in list_downloads(log)
    path = manager.fetch_asset(SPEC)
    assert strip(read_files(path)) == strip(TREE)
    assert not os.path.exists(os.path.join(path, PARTIAL))
    downloads = list_downloads(log)
    if is_packed(published):
        assert len(downloads) == 1
    elif "files" in json.loads(published.read_object(f"{OBJECT}.meta")):
        assert downloads == ["b2", "x/y/z"]
    assert manager.fetch_asset(f"{SPEC}[x]", return_info=True)["from_cache"]


def test_a_part_that_lacks_its_empty_folder_is_not_there(
    local, source, manager, assets_dir
):
    publish(local.bucket, source)
    manager.fetch_asset(f"{SPEC}[b/d/e]")
    manager.fetch_asset(f"{SPEC}[b/d]")
    assert read_copy(assets_dir) == select("b/d")


def test_what_is_no_part_is_an_error_and_shows_nothing(published, manager, assets_dir):
    for part in ("c", "b/c/f", "b/x", PARTIAL, ".SUCCESS"):
        with pytest.raises(ma.AssetDoesNotExistError):
            manager.fetch_asset(f"{SPEC}[{part}]")
        assert not (assets_dir / "nlp").exists()
    manager.fetch_asset(f"{SPEC}[a]")
    for part in ("c", PARTIAL, ".SUCCESS"):
        with pytest.raises(ma.AssetDoesNotExistError):
            manager.fetch_asset(f"{SPEC}[{part}]")


@pytest.mark.server
@pytest.mark.parametrize("pack", [False, True], ids=["unpacked", "packed"])
def test_a_file_of_an_asset_takes_two_requests(
    make_proxied_store, stub, source, assets_dir, pack
):
    make_proxied_store(MotoStore)
    ma.StorageProvider().new(source, NAME, pack=pack)
    stub.requests.clear()
    path = ma.AssetsManager().fetch_asset(f"{SPEC}[b/c]")
    assert read_files(path) == {"": TREE["b/c"]}
    below = [one.target.rpartition(NAME)[2] for one in stub.requests]
    assert below == ["/0.0.meta", "/0.0" if pack else "/0.0/b/c"]
    assert stub.methods == ["GET", "GET"]


# ------------------------------------------------------------------- never a whole


def test_a_partial_copy_is_no_whole_one_to_anybody(
    published, manager, assets_dir, log, offline
):
    manager.fetch_asset(f"{SPEC}[b]")
    assert harness.read_assets_dir_as_modelkit(assets_dir) == {}
    path = assets_dir / NAME / "0.0"
    for spec in (SPEC, f"{SPEC}[a]", f"{SPEC}[missing]", f"{SPEC}[{PARTIAL}]"):
        with pytest.raises(ma.LocalAssetDoesNotExistError):
            offline.fetch_asset(spec)
    for spec in (NAME, f"{NAME}/0.0", str(path), f"{NAME}[a]"):
        with pytest.raises((FileNotFoundError, ma.InvalidNameError)):
            offline.fetch_asset(spec)
    assert offline.fetch_asset(f"{SPEC}[b]") == str(path / "b")
    assert offline.fetch_asset(f"{NAME}[b/c]") == str(path / "b/c")
    with pytest.raises(ma.LocalAssetDoesNotExistError):
        ma._find_copy(offline, ma.AssetSpec(NAME, version="0.0"))
    assert ma._find_copy(manager, ma.AssetSpec(NAME, version="0.0"))[0] is None
    list_downloads(log)
    assert strip(read_files(manager.fetch_asset(SPEC))) == strip(TREE)
    assert list_downloads(log)


def test_offline_a_partial_copy_hides_no_older_whole_one(
    local, source, manager, assets_dir, offline
):
    publish(local.bucket, source)
    harness.make_provider(local.bucket).update(source, NAME)
    whole = manager.fetch_asset(SPEC)
    manager.fetch_asset(f"{NAME}:0.1[a]")
    assert offline.fetch_asset(NAME) == whole
    assert offline.fetch_asset(f"{NAME}[x]") == os.path.join(whole, "x")
    newer = os.path.join(os.path.dirname(whole), "0.1", "a")
    assert offline.fetch_asset(f"{NAME}[a]") == newer


@pytest.mark.parametrize("marker", [b"", b"{", b"[]", b'{"contents": 1}', b"\xff"])
def test_a_partial_copy_whose_marker_is_spoilt_holds_nothing(
    local, source, manager, assets_dir, offline, marker
):
    publish(local.bucket, source)
    manager.fetch_asset(f"{SPEC}[b/c]")
    (assets_dir / NAME / "0.0" / PARTIAL).write_bytes(marker)
    for spec in (SPEC, f"{SPEC}[b]"):
        with pytest.raises(ma.LocalAssetDoesNotExistError):
            offline.fetch_asset(spec)
    assert read_files(manager.fetch_asset(SPEC)) == TREE


@pytest.mark.parametrize("size", [0, 1, 5000])
def test_a_damaged_part_is_fetched_again(
    local, source, manager, assets_dir, log, offline, size
):
    publish(local.bucket, source)
    path = manager.fetch_asset(f"{SPEC}[a]")
    os.truncate(path, size)
    with pytest.raises(ma.LocalAssetDoesNotExistError):
        offline.fetch_asset(f"{SPEC}[a]")
    list_downloads(log)
    assert read_files(manager.fetch_asset(f"{SPEC}[a]")) == {"": TREE["a"]}
    assert list_downloads(log) == ["a"]


def test_a_partial_copy_is_not_published(local, source, manager):
    publish(local.bucket, source)
    manager.fetch_asset(f"{SPEC}[b]")
    path = os.path.join(manager.assets_dir, NAME, "0.0")
    provider = harness.make_provider(local.bucket)
    before = local.list_objects()
    for publication in (
        lambda: provider.new(path, "other"), lambda: provider.update(path, NAME),
        lambda: provider.new(path, "other", pack=True),
    ):  # fmt: skip
        with pytest.raises(ma.InvalidSourceError, match="not complete"):
            publication()
    assert local.list_objects() == before


@pytest.mark.parametrize("command", ["remove", "prune"])
def test_a_partial_copy_is_deleted_as_any_other(
    local, source, manager, assets_dir, command
):
    publish(local.bucket, source)
    harness.make_provider(local.bucket).update(source, NAME)
    manager.fetch_asset(f"{SPEC}[b]")
    manager.fetch_asset(f"{NAME}:0.1")
    (gone,) = manager.remove(SPEC) if command == "remove" else manager.prune(1)
    assert str(gone) == SPEC
    assert not (assets_dir / NAME / "0.0").exists()
    assert manager.fetch_asset(f"{SPEC}[b]", return_info=True)["from_cache"] is False


def test_the_command_fetches_a_part(local, source, assets_dir):
    publish(local.bucket, source, "packed")
    command = [sys.executable, ma.__file__, "fetch", f"{NAME}[b/c]", f"{SPEC}[hollow]"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    path = assets_dir / NAME / "0.0"
    assert done.stdout.splitlines() == [str(path / "b/c"), str(path / "hollow")]
    assert read_copy(assets_dir) == {**select("b/c"), **select("hollow")}


# ------------------------------------------------------------------- death and races


def fetch(store, part, assets_dir, force=False):
    make = functools.partial(harness.make_provider, store)
    spec = f"{SPEC}[{part}]" if part else SPEC
    return harness.fetch(make, assets_dir, spec, force)


def check(store, assets_dir, parts):
    """Check that readers see what is right, or nothing, and that parts can be had."""
    for content in harness.read_assets_dir_as_modelkit(assets_dir).values():
        assert content == strip(TREE), "what modelkit takes for whole is not"
    manager = ma.AssetsManager(assets_dir)
    assert manager.storage_provider is None
    for part in ("", *PARTS):
        spec = f"{SPEC}[{part}]" if part else SPEC
        try:
            path = manager.fetch_asset(spec)
        except (ma.LocalAssetDoesNotExistError, ma.AssetDoesNotExistError):
            continue
        check_part(path, part)
    for part in parts:
        check_part(fetch(store, part, assets_dir), part)
    check_part(fetch(store, "", assets_dir), "")
    assert harness.read_assets_dir_as_modelkit(assets_dir) == {
        (NAME, "0.0"): strip(TREE)
    }


def check_part(path, part):
    found, tree = read_files(path), select(part)
    cut = len(part) + 1 if part else 0
    expected = {name[cut:]: one for name, one in tree.items()}
    expected.pop("", None) if list(tree) != [part] else None
    assert found == expected, part


@pytest.fixture
def template(tmp_path, local, source, monkeypatch):
    publish(local.bucket, source)
    monkeypatch.delenv("MODELKIT_STORAGE_PROVIDER")
    folder = tmp_path / "template"
    folder.mkdir()
    return folder


@pytest.mark.attack
@pytest.mark.parametrize("after", [False, True], ids=["just_before", "just_after"])
@pytest.mark.parametrize(("first", "part"), [(None, "b"), ("b/d/e", "b"), ("b", "")])
def test_a_fetch_of_a_part_may_die_at_every_step(local, template, first, part, after):
    if after and first != "b/d/e":
        pytest.skip("just before each step will do")
    if first:
        fetch(local.bucket, first, template)
    operation = functools.partial(fetch, local.bucket, part)
    deaths = 0
    for _, assets_dir in harness.each_death(
        template, operation, after, environ=ONE_WORKER, among=RACING
    ):
        deaths += 1
        check(local.bucket, assets_dir, [part])
    assert deaths > 5


# what is seen by others, and what lies between
RACING = ("mkdir", "rename", "replace", "iterate_bytes")


@pytest.mark.attack
@pytest.mark.parametrize(
    ("part", "other"), [("b", "b/c"), ("b/d", "a"), ("b", ""), ("", "b")]
)
def test_a_fetch_that_another_overtakes_is_right(local, template, part, other):
    count = 0
    for assets_dir, path, outcome in harness.each_overtaking(
        template, functools.partial(fetch, local.bucket, part),
        functools.partial(fetch, local.bucket, other),
        flock=False, environ=ONE_WORKER, among=RACING,
    ):  # fmt: skip
        check_part(path, other)
        check_part(outcome.get(), part)
        check(local.bucket, assets_dir, [part, other])
        count += 1
    assert count > 5


@attacks.parametrize("part", ["b", ""])
def test_a_fetch_whose_copy_is_removed_meanwhile_succeeds(local, template, part):
    """At worst what it fetched is gone again when it returns, as for any reader."""
    fetch(local.bucket, "a", template)

    def overtake(assets_dir):
        with suppress(ma.AssetDoesNotExistError):  # at some steps there is none
            ma.AssetsManager(assets_dir).remove(SPEC)

    count = 0
    for assets_dir, _, outcome in harness.each_overtaking(
        template, functools.partial(fetch, local.bucket, part), overtake,
        flock=False, environ=ONE_WORKER, among=RACING,
    ):  # fmt: skip
        assert outcome.error is None, outcome.trace
        check(local.bucket, assets_dir, [part])
        count += 1
    assert count > 5


def fetch_in_turn(store, folder):
    """Fetch the part that the other process does not."""
    try:
        os.mkdir(folder.with_name(folder.name + "-first"))
        part = "b"
    except FileExistsError:
        part = ""
    return part, fetch(store, part, folder)


@pytest.mark.attack
def test_fetches_of_a_part_and_of_the_whole_that_cross_are_right(local, template):
    fetch(local.bucket, "a", template)
    count = 0
    for assets_dir, outcomes in harness.each_crossing(
        template, functools.partial(fetch_in_turn, local.bucket),
        flock=False, environ=ONE_WORKER, among=("rename", "replace"),
    ):  # fmt: skip
        parts = [outcome.get() for outcome in outcomes]
        assert {part for part, _ in parts} == {"b", ""}
        for part, path in parts:
            check_part(path, part)
        check(local.bucket, assets_dir, ["b"])
        count += 1
    assert count > 10


def fetch_in_threads(store, assets_dir):
    provider = harness.make_provider(store)
    manager = ma.AssetsManager(assets_dir, 30, provider)
    parts = list(itertools.islice(itertools.cycle([*PARTS, ""]), 30))
    specs = [f"{SPEC}[{part}]" if part else SPEC for part in parts]
    with ThreadPoolExecutor(16) as pool:
        return list(zip(parts, pool.map(manager.fetch_asset, specs)))


@attacks.parametrize("flock", [True, False], ids=["flock", "no_flock"])
def test_threads_that_fetch_all_parts_and_the_whole_are_all_right(
    local, template, flock
):
    for number in range(3):
        assets_dir = template.with_name(f"assets-{number}")
        shutil.copytree(template, assets_dir)
        outcome = harness.run(fetch_in_threads, local.bucket, assets_dir, flock=flock)
        for part, path in outcome.get():
            check_part(path, part)
        check(local.bucket, assets_dir, [])


def test_a_hit_whose_copy_is_moved_aside_just_then_looks_again(
    local, source, manager, assets_dir, monkeypatch
):
    """As when another process puts the whole in the place of a partial copy."""
    publish(local.bucket, source)
    manager.fetch_asset(f"{SPEC}[a]")
    look_up, aside = ma._Cache.look_up, [assets_dir / "aside"]

    def look_and_move(cache, path, part=""):
        state = look_up(cache, path, part)
        if aside:
            os.rename(path, aside.pop())
        return state

    monkeypatch.setattr(ma._Cache, "look_up", look_and_move)
    path = manager.fetch_asset(f"{SPEC}[a]")
    assert read_files(path) == {"": TREE["a"]}


def test_what_a_part_costs_does_not_grow_with_the_parts_that_are_there(
    provider, assets_dir, tmp_path, monkeypatch
):
    """Each would be looked for among all files of the version, under the lock."""
    names = [f"f{number:03}" for number in range(40)]
    provider.new(write_tree(tmp_path / "many", dict.fromkeys(names, b"1")), "many")
    manager = ma.AssetsManager(storage_provider=provider)
    for name in names[:-1]:
        manager.fetch_asset(f"many:0.0[{name}]")
    calls, get_part = [], ma.Manifest.get_part

    def count(*about):
        calls.append(about)
        return get_part(*about)

    monkeypatch.setattr(ma.Manifest, "get_part", count)
    manager.fetch_asset(f"many:0.0[{names[-1]}]")
    assert len(calls) < 10


def test_a_resume_beats_for_each_file(tmp_path):
    class Job:
        beats = 0

        def beat(self):
            self.beats += 1

    names = [f"f{number:03}" for number in range(40)]
    files = tuple(ma.ManifestFile(name, 1) for name in names)
    root = write_tree(tmp_path / "data", dict.fromkeys(names, b"1"))
    job = Job()
    found = ma._lay_out(str(root), ma.Manifest(True, files, (), {}), job)
    assert found == set(names) and job.beats >= len(names)
