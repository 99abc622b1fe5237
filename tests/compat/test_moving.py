"""What README.md here says of modelkit 0.1.3, shown on modelkit and on this program.

Its table of names is held against both, and each difference is made to happen.
"""

import fcntl
import importlib
import inspect
import json
import os
import pkgutil
import re
import shutil
import threading
import time
from pathlib import Path

import pytest
from readme import find_section, read_moving_table
from stores import AzuriteStore, LocalStore, MotoStore
from stub_server import Answer, Faulty, nth
from trees import read_tree, write_tree

import modelkit_assets as ma

pytest.importorskip("modelkit.assets.manager", reason="it is the group `modelkit`")

import modelkit.assets.cli  # noqa: E402
from azure.core.exceptions import HttpResponseError  # noqa: E402
from modelkit.assets import errors  # noqa: E402
from modelkit.assets.manager import AssetFetchError  # noqa: E402
from modelkit.assets.settings import AssetSpec  # noqa: E402
from modelkit.assets.versioning import simple_date, versioning  # noqa: E402
from sides import (  # noqa: E402
    MODELKIT,
    NAME,
    OURS,
    PREFIX,
    fetch,
    list_versions,
    make_content,
    put_in_store,
    read,
    run_command,
    write,
)

WAIT_S = 60
OLD, NEW = {"a": b"old", "b": b"old"}, {"a": b"new"}
INTERNAL = {  # what no program that uses modelkit's assets imports
    "modelkit.assets.cli.new_",
    "modelkit.assets.cli.parse_remote_url",
    "modelkit.assets.cli.update_",
    "modelkit.assets.drivers.retry.log_after_retry",
    "modelkit.assets.drivers.retry.retry_policy",
    "modelkit.assets.remote.get_size",
}
NOT_HERE = {"set_latest_version", "get_update_cli_params"}  # as README.md here says


@pytest.fixture
def store(make_store):
    return make_store(LocalStore)


@pytest.fixture
def folder(tmp_path):
    """A source, `old`, another one, `new`, and a file."""
    write(tmp_path / "old", OLD)
    write(tmp_path / "new", NEW)
    write(tmp_path / "file", b"file")
    return tmp_path


def publish(side, method, source, version, name=NAME):
    return getattr(side.StorageProvider(), method)(str(source), name, version)


def read_version(store, version):
    """Return a version's objects, by their parts, past both programs."""
    objects, path = store.read_objects(), f"{PREFIX}/{NAME}/{version}"
    return {
        name[len(path) + 1 :]: data
        for name, data in objects.items()
        if name == path or name.startswith(path + "/")
    }


# ------------------------------------------------------------------- names


def test_the_table_has_the_names_of_modelkits_assets_and_no_other():
    found = set()
    package = importlib.import_module("modelkit.assets")
    for module in pkgutil.walk_packages(package.__path__, "modelkit.assets."):
        for name, value in vars(importlib.import_module(module.name)).items():
            is_own = getattr(value, "__module__", None) == module.name
            is_kind = inspect.isclass(value) or inspect.isfunction(value)
            if is_own and is_kind and name[0] != "_":
                found.add(f"{module.name}.{name}")
    named = {
        f"{module}.{name}"
        for module, names, _ in read_moving_table()
        for name in names
        if " " not in module
    }
    assert found - INTERNAL == named


def test_the_table_has_the_commands_of_modelkits_assets_and_no_other():
    (names,) = [names for module, names, _ in read_moving_table() if " " in module]
    assert set(names) == set(modelkit.assets.cli.assets_cli.commands)


def test_the_environment_variables_of_modelkits_assets_are_settings_here():
    folder = Path(importlib.import_module("modelkit.assets").__path__[0])
    sources = "".join(path.read_text() for path in folder.rglob("*.py"))
    used = set(
        re.findall(r"\"((?:MODELKIT|AWS|S3|AZURE|GOOGLE)_[A-Z0-9_]+)\"", sources)
    )
    assert len(used) > 10
    tables = find_section("Stores and permissions") + find_section("Settings")
    assert used <= set(re.findall("`([A-Z0-9_]+)`", tables))


SAME = [
    (MODELKIT.AssetsManager, ma.AssetsManager),
    (MODELKIT.StorageProvider, ma.StorageProvider),
    (AssetSpec, ma.AssetSpec),
    (versioning.AssetsVersioningSystem, ma.AssetsVersioningSystem),
]


@pytest.mark.parametrize(("theirs", "ours"), SAME, ids=lambda kind: kind.__module__)
def test_the_methods_of_modelkit_are_there_with_its_arguments(theirs, ours):
    checked = 0
    for name, value in vars(theirs).items():
        is_method = isinstance(value, (classmethod, staticmethod)) or callable(value)
        is_public = name == "__init__" or name[0] != "_"
        if is_method and is_public and name not in NOT_HERE:
            arguments, given = (
                [one for one in inspect.signature(method).parameters if one != "self"]
                for method in (getattr(theirs, name), getattr(ours, name))
            )
            if theirs is AssetSpec and name != "__init__":
                assert len(given) == len(arguments), name  # they have other names
            else:
                assert set(arguments) <= set(given), name
            checked += 1
    assert checked >= 2


# ------------------------------------------------------------------- publishing


def test_modelkit_publishes_a_folder_over_a_version_and_we_do_not(store, folder):
    put_in_store(store, "directory", ["0.0"])
    before = read_version(store, "0.0")
    with pytest.raises(ma.AssetAlreadyExistsError):
        publish(OURS, "update", folder / "new", "0.0")
    assert read_version(store, "0.0") == before
    write(folder / "other", {"config.json": b"other"})
    publish(MODELKIT, "update", folder / "other", "0.0")
    assert read_version(store, "0.0") == {**before, "config.json": b"other"}
    assert list_versions(store) == ["0.0", "0.0"]


def test_modelkit_deletes_a_folder_where_it_publishes_a_file_and_we_do_not(
    store, folder
):
    put_in_store(store, "directory", ["0.0"])
    before = read_version(store, "0.0")
    with pytest.raises(ma.AssetAlreadyExistsError):
        publish(OURS, "update", folder / "file", "0.0")
    assert read_version(store, "0.0") == before
    publish(MODELKIT, "update", folder / "file", "0.0")
    assert read_version(store, "0.0") == {"": b"file"}


def test_modelkit_deletes_a_version_where_an_asset_is_called_like_it_and_we_refuse(
    store, folder
):
    put_in_store(store, "file", ["0.0"])
    with pytest.raises(ma.InvalidNameError):
        publish(OURS, "new", folder / "file", "0.0", f"{NAME}/0.0")
    assert read_version(store, "0.0") == {"": make_content("file", "0.0")}
    publish(MODELKIT, "new", folder / "file", "0.0", f"{NAME}/0.0")
    assert "" not in read_version(store, "0.0")


def open_once_read(fifo):
    """Open a pipe to write to it, once somebody reads from it."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            return os.fdopen(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK), "wb")
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize("other", [MODELKIT, OURS], ids=["modelkit", "ours"])
def test_modelkit_drops_what_is_published_while_it_publishes(store, folder, other):
    put_in_store(store, "file", ["0.0"])
    os.mkfifo(folder / "slow")  # it reads the list, then waits for the data
    arguments = (MODELKIT, "update", folder / "slow", "0.1")
    thread = threading.Thread(target=publish, args=arguments, daemon=True)
    thread.start()
    with open_once_read(folder / "slow") as slow:
        publish(other, "update", folder / "file", "0.2")
        assert list_versions(store) == ["0.2", "0.0"]
        slow.write(b"data")
    thread.join(WAIT_S)
    assert list_versions(store) == ["0.1", "0.0"]
    if other is OURS:  # whose data are all there, and are listed again
        publish(OURS, "update", folder / "file", "0.2")
        assert list_versions(store) == ["0.2", "0.1", "0.0"]


@pytest.mark.server
def test_we_keep_what_is_published_while_we_publish(make_proxied_store, stub, folder):
    store = make_proxied_store(MotoStore)
    put_in_store(store, "file", ["0.0"])
    listing = f"{PREFIX}/{NAME}.versions"

    def let_another_list(request, script):
        store.write_object(listing, b'{"versions": ["0.2", "0.0"]}')
        return script(request)

    def is_listing(request):
        return request.method == "PUT" and request.target.endswith(listing)

    stub.script = Faulty(stub.script, let_another_list, nth(1, is_listing))
    publish(OURS, "update", folder / "file", "0.1")
    assert list_versions(store) == ["0.2", "0.1", "0.0"]


def test_modelkit_overwrites_a_folder_that_we_are_publishing(store, folder):
    put_in_store(store, "directory", ["0.0"])
    ma.StorageProvider().push(folder / "old", NAME, "0.1")  # all but the listing
    run_command(MODELKIT, "update", str(folder / "new"), NAME)
    assert list_versions(store) == ["0.1", "0.0"]
    assert read_version(store, "0.1") == {**OLD, **NEW}


def test_we_pass_over_a_version_that_modelkit_is_publishing(store, folder):
    put_in_store(store, "directory", ["0.0"])
    store.write_object(f"{PREFIX}/{NAME}/0.1/a", b"of modelkit's")
    run_command(OURS, "update", str(folder / "new"), NAME)
    assert list_versions(store) == ["0.2", "0.0"]
    assert read_version(store, "0.1") == {"a": b"of modelkit's"}


def test_modelkit_is_stuck_where_a_publication_was_interrupted_and_we_are_not(
    store, folder
):
    put_in_store(store, "file", ["0.0"])
    store.write_object(f"{PREFIX}/{NAME}/0.1", b"file")
    for _ in range(2):
        with pytest.raises(errors.AssetAlreadyExistsError):
            run_command(MODELKIT, "update", str(folder / "file"), NAME)
    run_command(OURS, "update", str(folder / "file"), NAME)
    assert list_versions(store) == ["0.2", "0.0"]


@pytest.mark.server
def test_modelkit_takes_a_refusal_for_absence_and_we_do_not(
    make_proxied_store, stub, folder, monkeypatch
):
    monkeypatch.setenv("MODELKIT_STORAGE_TIMEOUT_S", "5")
    store = make_proxied_store(MotoStore)
    put_in_store(store, "file", ["0.0"])
    let_through = stub.script

    def refuse_list(request):
        is_read = request.method in ("GET", "HEAD")
        refused = is_read and request.target.endswith(".versions")
        return Answer(403) if refused else let_through(request)

    stub.script = refuse_list
    with pytest.raises(ma.StorageAccessError):
        publish(OURS, "new", folder / "file", "0.1")
    assert list_versions(store) == ["0.0"]
    with pytest.raises(errors.ObjectDoesNotExistError):
        MODELKIT.StorageProvider().get_versions_info(NAME)
    publish(MODELKIT, "new", folder / "file", "0.1")
    assert list_versions(store) == ["0.1"]


@pytest.mark.server
def test_modelkit_deletes_the_list_of_versions_before_it_writes_it_to_azure(
    make_proxied_store, stub, folder
):
    store = make_proxied_store(AzuriteStore)
    put_in_store(store, "file", ["0.0"])
    let_through = stub.script

    def refuse_list(request):
        refused = request.method == "PUT" and request.target.endswith(".versions")
        return Answer(403) if refused else let_through(request)

    stub.script = refuse_list
    with pytest.raises(ma.StorageAccessError):
        publish(OURS, "update", folder / "file", "0.1")
    assert list_versions(store) == ["0.0"]
    with pytest.raises(HttpResponseError):
        publish(MODELKIT, "update", folder / "file", "0.2")
    assert f"{PREFIX}/{NAME}.versions" not in store.list_objects()


def test_modelkit_deletes_an_object_before_it_writes_it_to_a_folder(store, folder):
    put_in_store(store, "file", ["0.0"])
    listing = f"{PREFIX}/{NAME}.versions"
    with pytest.raises(FileNotFoundError):
        driver = OURS.StorageProvider().driver
        driver.upload_object(str(folder / "none"), listing, lambda size: None)
    assert list_versions(store) == ["0.0"]
    with pytest.raises(FileNotFoundError):
        MODELKIT.StorageProvider().driver.upload_object(str(folder / "none"), listing)
    assert listing not in store.list_objects()


def test_modelkit_drops_dot_files_and_we_publish_all(store, folder, assets_dir):
    tree = {".env": b"1", ".git/config": b"2", "a/.b": b"3", "a/c": b"4", "empty/": b""}
    source = write(folder / "dots", tree)
    publish(OURS, "new", source, "0.0")
    assert read(fetch(OURS, assets_dir, NAME)["path"]) == tree
    files = {path: data for path, data in tree.items() if path != "empty/"}
    shutil.rmtree(assets_dir / "nlp")
    assert read(fetch(MODELKIT, assets_dir, NAME)["path"]) == files
    publish(MODELKIT, "update", source, "0.1")
    assert read_version(store, "0.1") == {"a/c": b"4"}


def test_modelkit_publishes_nothing_of_a_folder_called_like_a_pattern(store, folder):
    source = write(folder / "model[1]", OLD)
    publish(OURS, "new", source, "0.0")
    assert read_version(store, "0.0") == OLD
    publish(MODELKIT, "update", source, "0.1")
    assert list_versions(store) == ["0.1", "0.0"]
    assert read_version(store, "0.1") == {}


def test_modelkit_drops_a_broken_link_and_we_refuse_it(store, folder):
    (folder / "old" / "link").symlink_to("nowhere")
    with pytest.raises(ma.InvalidSourceError):
        publish(OURS, "new", folder / "old", "0.0")
    publish(MODELKIT, "new", folder / "old", "0.0")
    assert read_version(store, "0.0") == OLD


@pytest.mark.server
def test_modelkit_publishes_a_folder_that_changes_meanwhile_and_we_do_not(
    make_proxied_store, stub, folder
):
    store = make_proxied_store(MotoStore)
    put_in_store(store, "directory", ["0.0"])
    let_through = stub.script

    def change_source(request):
        if request.method == "PUT":
            (folder / "old" / "b").write_bytes(b"new")
        return let_through(request)

    stub.script = change_source
    with pytest.raises(ma.SourceChangedError):
        publish(OURS, "update", folder / "old", "0.1")
    write(folder / "old", OLD)
    publish(MODELKIT, "update", folder / "old", "0.2")
    assert read_version(store, "0.2") == {"a": b"old", "b": b"new"}
    assert list_versions(store) == ["0.2", "0.0"]


def test_modelkit_forgets_what_is_executable_and_we_do_not(store, folder, assets_dir):
    (folder / "file").chmod(0o755)
    for side, version, is_kept in [(OURS, "0.0", True), (MODELKIT, "0.1", False)]:
        method = "new" if side is OURS else "update"
        publish(side, method, folder / "file", version)
        path = fetch(side, assets_dir, f"{NAME}:{version}")["path"]
        assert os.access(path, os.X_OK) == is_kept


# ------------------------------------------------------------------- fetching


def test_modelkit_deletes_a_copy_before_it_downloads_again_and_we_after(
    store, assets_dir
):
    put_in_store(store, "file", ["0.0"])
    path = Path(fetch(OURS, assets_dir, NAME)["path"])
    os.remove(store.bucket / PREFIX / NAME / "0.0")
    with pytest.raises(ma.ObjectDoesNotExistError):
        fetch(OURS, assets_dir, NAME, force_download=True)
    assert path.read_bytes() == make_content("file", "0.0")
    with pytest.raises(errors.ObjectDoesNotExistError):
        fetch(MODELKIT, assets_dir, NAME, force_download=True)
    assert not path.exists()


def test_modelkit_serves_half_a_download_in_pre_downloaded_mode_and_we_leave_none(
    store, assets_dir, monkeypatch
):
    put_in_store(store, "directory", ["0.0"])
    os.remove(store.bucket / PREFIX / NAME / "0.0" / "nested" / "deep" / "vocab.txt")

    def fetch_offline(side):
        with monkeypatch.context() as patch:
            patch.delenv("MODELKIT_STORAGE_PROVIDER")
            return fetch(side, assets_dir, f"{NAME}:0.0")["path"]

    with pytest.raises(ma.ObjectDoesNotExistError):
        fetch(OURS, assets_dir, NAME)
    with pytest.raises(ma.LocalAssetDoesNotExistError):
        fetch_offline(OURS)
    with pytest.raises(errors.ObjectDoesNotExistError):
        fetch(MODELKIT, assets_dir, NAME)
    half = read(fetch_offline(MODELKIT))
    assert 0 < len(half) < len(make_content("directory", "0.0"))


def test_modelkit_overwrites_what_a_manifest_names_and_we_stay_inside(
    store, tmp_path, assets_dir
):
    put_in_store(store, "directory", ["0.0"])
    path, outside = f"{PREFIX}/{NAME}/0.0.meta", tmp_path / "outside"
    meta = json.loads(store.read_object(path))
    meta["contents"] = ["../../../../outside"]
    store.write_object(path, json.dumps(meta).encode())
    store.write_object("outside", b"overwritten")
    outside.write_bytes(b"mine")
    with pytest.raises(ma.AssetIntegrityError):
        fetch(OURS, assets_dir, NAME)
    assert outside.read_bytes() == b"mine"
    (assets_dir / NAME / "0.0").mkdir(parents=True, exist_ok=True)
    fetch(MODELKIT, assets_dir, NAME)
    assert outside.read_bytes() == b"overwritten"


@pytest.mark.parametrize("spoilt", [b"bad", b"ol", b""], ids=["other", "cut", "empty"])
def test_modelkit_serves_what_is_spoilt_in_the_store_and_we_do_not(
    store, folder, assets_dir, spoilt
):
    publish(OURS, "new", folder / "old", "0.0")
    store.write_object(f"{PREFIX}/{NAME}/0.0/a", spoilt)
    with pytest.raises(ma.AssetIntegrityError):
        fetch(OURS, assets_dir, NAME)
    path = fetch(MODELKIT, assets_dir, NAME)["path"]
    assert read_tree(path)["a"] == spoilt


def test_modelkit_serves_a_copy_that_was_cut_short_and_we_repair_it(
    store, folder, assets_dir
):
    publish(OURS, "new", folder / "old", "0.0")
    path = Path(fetch(OURS, assets_dir, NAME)["path"])
    (path / "a").write_bytes(b"o")
    assert read(fetch(MODELKIT, assets_dir, NAME)["path"])["a"] == b"o"
    assert read(fetch(OURS, assets_dir, NAME)["path"]) == OLD


def test_modelkit_finds_10_0_for_the_major_1_and_we_do_not(store, folder, assets_dir):
    put_in_store(store, "file", ["1.0", "10.0"])
    assert fetch(OURS, assets_dir, f"{NAME}:1")["version"] == "1.0"
    assert fetch(MODELKIT, assets_dir, f"{NAME}:1")["version"] == "10.0"
    run_command(OURS, "update", str(folder / "file"), f"{NAME}:1")
    assert list_versions(store) == ["10.0", "1.1", "1.0"]
    run_command(MODELKIT, "update", str(folder / "file"), f"{NAME}:1")
    assert list_versions(store) == ["10.1", "10.0", "1.1", "1.0"]


def test_modelkit_gives_a_date_twice_and_we_the_next_second():
    theirs = simple_date.SimpleDateAssetsVersioningSystem
    ours = ma.SimpleDateAssetsVersioningSystem
    for latest in (theirs.get_initial_version(), "2999-01-01T00-00-00Z"):
        assert ours.increment_version([latest]) > latest
    assert theirs.increment_version(["2999-01-01T00-00-00Z"]) < "2999"
    given = [theirs.increment_version([]) for _ in range(100)]  # in a second or two
    assert len(set(given)) < 100


def test_modelkit_reads_false_as_true_and_we_do_not(store, monkeypatch):
    monkeypatch.setenv("MODELKIT_STORAGE_FORCE_DOWNLOAD", "false")
    assert OURS.StorageProvider().force_download is False
    assert MODELKIT.StorageProvider().force_download is True


def test_modelkit_changes_the_spec_that_it_is_given_and_we_do_not(store, assets_dir):
    put_in_store(store, "file", ["0.0"])
    theirs, ours = AssetSpec(NAME), ma.AssetSpec(NAME)
    fetch(OURS, assets_dir, ours)
    fetch(MODELKIT, assets_dir, theirs)
    assert (theirs.version, ours.version) == ("0.0", None)
    assert str(ma.AssetsManager().resolve(ours)) == f"{NAME}:0.0"


def test_modelkit_counts_versions_that_only_the_assets_dir_has_and_we_do_not(
    store, assets_dir
):
    put_in_store(store, "file", ["0.0"])
    write_tree(assets_dir / NAME, {"7.0": b"local", ".7.0.SUCCESS": b""})
    assert fetch(OURS, assets_dir, NAME)["version"] == "0.0"
    assert fetch(OURS, assets_dir, f"{NAME}:7.0")["from_cache"]
    assert fetch(MODELKIT, assets_dir, NAME)["version"] == "7.0"


def test_modelkit_fetches_the_whole_for_a_part_and_we_the_part(store, assets_dir):
    put_in_store(store, "directory", ["0.0"])
    part, whole = f"{NAME}:0.0[config.json]", make_content("directory", "0.0")
    fetch(OURS, assets_dir, part)
    folder = assets_dir / NAME / "0.0"
    assert (folder / ".modelkit-assets.partial").is_file()
    assert read_tree(folder) == {"config.json": b"{}"}
    fetch(MODELKIT, assets_dir, part)
    assert read_tree(assets_dir / NAME / "0.0") == whole


def test_modelkit_takes_a_part_for_the_whole_in_pre_downloaded_mode_and_we_do_not(
    store, assets_dir, monkeypatch
):
    put_in_store(store, "directory", ["0.0"])
    fetch(OURS, assets_dir, f"{NAME}:0.0[config.json]")
    monkeypatch.delenv("MODELKIT_STORAGE_PROVIDER")
    with pytest.raises(ma.LocalAssetDoesNotExistError):
        fetch(OURS, assets_dir, f"{NAME}:0.0")
    taken = fetch(MODELKIT, assets_dir, f"{NAME}:0.0")["path"]
    assert read(taken) == {"config.json": b"{}"}


def test_modelkit_takes_a_lock_for_what_is_cached_and_we_do_not(store, assets_dir):
    put_in_store(store, "file", ["0.0"])
    fetch(OURS, assets_dir, NAME)
    with open(assets_dir / ".cache" / f"{NAME}.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert OURS.AssetsManager().fetch_asset(f"{NAME}:0.0")
        with pytest.raises(MODELKIT.lock_error):
            MODELKIT.AssetsManager(timeout=1).fetch_asset(f"{NAME}:0.0")


def test_modelkit_cannot_list_one_of_two_prefixes_of_a_folder_and_we_can(store, folder):
    publish(OURS, "new", folder / "file", "0.0")
    for prefix in (PREFIX, "other"):
        provider = ma.StorageProvider(prefix=prefix)
        if prefix == "other":
            provider.new(folder / "file", "b")
            assert dict(provider.iterate_assets()) == {"b": ["0.0"]}
    with pytest.raises(errors.ObjectDoesNotExistError):
        dict(MODELKIT.StorageProvider().iterate_assets())


@pytest.mark.parametrize(
    ("spec", "theirs", "ours"),
    [
        ("nlp/none", errors.ObjectDoesNotExistError, ma.AssetDoesNotExistError),
        (f"{NAME}:7.7", errors.ObjectDoesNotExistError, ma.AssetDoesNotExistError),
        (f"{NAME}:7", IndexError, ma.MajorVersionDoesNotExistError),
        (f"{NAME}[none]", AssetFetchError, ma.AssetDoesNotExistError),
    ],
)
def test_what_is_not_there_is_another_error(store, assets_dir, spec, theirs, ours):
    put_in_store(store, "directory", ["0.0"])
    with pytest.raises(theirs):
        fetch(MODELKIT, assets_dir, spec)
    with pytest.raises(ours):
        fetch(OURS, assets_dir, spec)


def test_specs_are_made_by_keywords_alone():
    assert AssetSpec(NAME, "major_minor", "1.0").version == "1.0"
    with pytest.raises(TypeError):
        ma.AssetSpec(NAME, "major_minor", "1.0")
    assert ma.AssetSpec(NAME, versioning="major_minor", version="1.0").version == "1.0"


def test_paths_that_we_return_are_absolute(store, assets_dir, monkeypatch):
    put_in_store(store, "file", ["0.0"])
    monkeypatch.chdir(assets_dir.parent)
    for side, is_absolute in ((OURS, True), (MODELKIT, False)):
        path = fetch(side, assets_dir.name, NAME)["path"]
        assert os.path.isabs(path) == is_absolute


# ------------------------------------------------------------------- what is not read


@pytest.mark.server
def test_modelkit_keeps_the_slash_of_a_prefix_and_we_do_not(
    make_store, folder, monkeypatch
):
    store = make_store(MotoStore)
    monkeypatch.setenv("MODELKIT_STORAGE_PREFIX", "prefix/")
    publish(MODELKIT, "new", folder / "file", "0.0")
    assert f"prefix//{NAME}/0.0" in store.list_objects()
    publish(OURS, "new", folder / "file", "0.0")
    assert f"prefix/{NAME}/0.0" in store.list_objects()


def test_modelkit_has_versions_that_are_a_major_alone_and_we_do_not(
    store, folder, assets_dir
):
    publish(MODELKIT, "new", folder / "file", "1")
    assert fetch(MODELKIT, assets_dir, NAME)["version"] == "1"
    with pytest.raises(ma.InvalidVersionError):
        fetch(OURS, assets_dir, NAME)
    assert publish(OURS, "update", folder / "file", None) == "1.1"
    assert fetch(OURS, assets_dir, NAME)["version"] == "1.1"


@pytest.mark.parametrize("name", ["a//b", "a/./b", "a/../b", "a\\b", "CON/b"])
def test_modelkit_has_names_that_are_none_here(name):
    assert AssetSpec(name).name == name
    with pytest.raises(ma.InvalidNameError):
        ma.AssetSpec(name)
