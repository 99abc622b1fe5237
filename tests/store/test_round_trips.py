"""What is published comes back to the byte, under the right version."""

import json
import os
import stat

import pytest
from trees import read_tree, write_tree

import modelkit_assets as ma

AWKWARD = {
    ".dot-file": b"dot",
    ".hidden/.deep": b"deep",
    "empty.bin": b"",
    "empty-folder/": b"",
    "nested/empty-too/": b"",
    "name with  spaces .txt": b"spaces",
    "glob*[a-z]?.txt": b"glob",
    "run[1]/weights.bin": bytes(range(256)) * 5000,
    "naïve-模型.txt": "über".encode(),
    "two\nlines.txt": b"newline",
    "x.versions": b"not a list of versions",
    "x.meta": b"not a manifest",
    "a/b/c/d/e/f": b"deep",
}


def test_a_file_comes_back_to_the_byte(tmp_path, provider, manager):
    source = tmp_path / "model.bin"
    source.write_bytes(bytes(range(256)) * 10_000)
    assert provider.new(str(source), "nlp/model") == "0.0"
    path = manager.fetch_asset("nlp/model")
    assert path == os.path.join(manager.assets_dir, "nlp", "model", "0.0")
    with open(path, "rb") as file:
        assert file.read() == source.read_bytes()


@pytest.mark.parametrize("data", [b"", b"x"])
def test_a_tiny_file_comes_back(tmp_path, provider, manager, data):
    (tmp_path / "file").write_bytes(data)
    provider.new(tmp_path / "file", "tiny")
    with open(manager.fetch_asset("tiny:0.0"), "rb") as file:
        assert file.read() == data


def test_a_folder_comes_back_with_every_awkward_name(
    tmp_path, store, provider, manager
):
    names = AWKWARD.keys() - set(store.excluded_names)
    source = write_tree(tmp_path / "run[1]", {name: AWKWARD[name] for name in names})
    provider.new(str(source), "nlp/run")
    found = read_tree(manager.fetch_asset("nlp/run"))
    assert found == {name: AWKWARD[name] for name in names}
    part = manager.fetch_asset("nlp/run:0.0[run[1]/weights.bin]")
    assert part.endswith("weights.bin")
    assert os.path.getsize(part) == 256 * 5000


def test_executable_bits_come_back(tmp_path, provider, manager):
    source = write_tree(tmp_path / "source", {"run.sh": b"#!/bin/sh", "data": b"1"})
    (source / "run.sh").chmod(0o755)
    provider.new(source, "tool")
    path = manager.fetch_asset("tool")
    assert os.stat(os.path.join(path, "run.sh")).st_mode & stat.S_IXUSR
    assert not os.stat(os.path.join(path, "data")).st_mode & stat.S_IXUSR
    provider.new(source / "run.sh", "script")
    assert os.access(manager.fetch_asset("script"), os.X_OK)


def test_symbolic_links_are_followed(tmp_path, provider, manager):
    source = write_tree(tmp_path / "source", {"real.bin": b"real"})
    write_tree(tmp_path / "elsewhere", {"deep/file": b"linked"})
    (source / "link.bin").symlink_to("real.bin")
    (source / "folder").symlink_to(tmp_path / "elsewhere")
    provider.new(source, "linked")
    assert read_tree(manager.fetch_asset("linked")) == {
        "real.bin": b"real",
        "link.bin": b"real",
        "folder/deep/file": b"linked",
    }


def test_a_cached_copy_can_be_published_again_without_its_marker(
    tmp_path, provider, manager
):
    provider.new(write_tree(tmp_path / "source", {"a": b"1"}), "first")
    path = manager.fetch_asset("first")
    assert os.path.exists(os.path.join(path, ".SUCCESS"))
    provider.new(path, "second")
    assert provider.get_asset_meta("second", "0.0")["contents"] == ["a"]


def test_the_store_is_laid_out_as_modelkit_does(tmp_path, store, provider):
    provider.new(write_tree(tmp_path / "source", {"b/c": b"2", "a": b"1"}), "x/dir")
    (tmp_path / "file").write_bytes(b"3")
    provider.new(tmp_path / "file", "x/file")
    provider.update(tmp_path / "file", "x/file")
    objects = store.read_objects()
    assert sorted(objects) == [
        "modelkit-assets/x/dir.versions",
        "modelkit-assets/x/dir/0.0.meta",
        "modelkit-assets/x/dir/0.0/a",
        "modelkit-assets/x/dir/0.0/b/c",
        "modelkit-assets/x/file.versions",
        "modelkit-assets/x/file/0.0",
        "modelkit-assets/x/file/0.0.meta",
        "modelkit-assets/x/file/0.1",
        "modelkit-assets/x/file/0.1.meta",
    ]
    versions = json.loads(objects["modelkit-assets/x/file.versions"])
    assert versions == {"versions": ["0.1", "0.0"]}
    manifest = json.loads(objects["modelkit-assets/x/dir/0.0.meta"])
    assert manifest["is_directory"] is True
    assert manifest["contents"] == ["a", "b/c"]
    assert manifest["format"] == 1
    assert manifest["files"][0] == {
        "path": "a",
        "size": 1,
        "sha256": "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b",
    }


def test_versions_resolve_as_asked(tmp_path, provider, manager):
    file = tmp_path / "file"
    for version, how in [
        ("0.0", {}), ("0.1", {}), ("1.0", {"bump_major": True}), ("1.1", {}),
        ("10.0", {"version": "10.0"}), ("1.2", {"version": "1"}), ("10.1", {}),
    ]:  # fmt: skip
        file.write_text(version)
        publish = provider.update if version != "0.0" else provider.new
        assert publish(file, "a", **how) == version
    for spec, version in [
        ("a", "10.1"), ("a:0", "0.1"), ("a:1", "1.2"), ("a:10", "10.1"),
        ("a:1.1", "1.1"),
    ]:  # fmt: skip
        info = manager.fetch_asset(spec, return_info=True)
        assert info["version"] == version
        with open(info["path"]) as read:
            assert read.read() == version
    with pytest.raises(ma.MajorVersionDoesNotExistError, match="are: 0, 1, 10"):
        manager.fetch_asset("a:2")
    with pytest.raises(ma.MajorVersionDoesNotExistError):
        provider.update(file, "a", "2")
    assert provider.get_versions_info("a") == [
        "10.1", "10.0", "1.2", "1.1", "1.0", "0.1", "0.0",
    ]  # fmt: skip


def test_two_date_versions_within_a_second_differ(tmp_path, provider, monkeypatch):
    monkeypatch.setenv("MODELKIT_ASSETS_VERSIONING_SYSTEM", "simple_date")
    (tmp_path / "file").write_text("1")
    first = provider.new(tmp_path / "file", "dated")
    monkeypatch.delenv("MODELKIT_ASSETS_VERSIONING_SYSTEM")
    (tmp_path / "file").write_text("2")
    second = provider.update(tmp_path / "file", "dated")  # inferred from the first
    assert provider.get_versions_info("dated") == [second, first]
    assert second > first


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ("x:3", ma.MajorVersionDoesNotExistError),
        ("missing:3", ma.AssetDoesNotExistError),
        ("no spec:3", ma.InvalidAssetSpecError),
    ],
)
def test_a_text_with_a_version_is_never_taken_for_a_path(
    tmp_path, provider, manager, monkeypatch, spec, error
):
    (tmp_path / "file").write_text("1")
    provider.new(tmp_path / "file", "x")
    (tmp_path / spec).write_text("a file of that name")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error):
        manager.fetch_asset(spec)


def test_versions_of_several_systems_are_an_error_and_no_path(
    tmp_path, store, provider, manager
):
    (tmp_path / "file").write_text("1")
    provider.new(tmp_path / "file", "x")
    manager.fetch_asset("x")
    mixed = b'{"versions": ["2021-11-14T18-00-00Z", "0.0"]}'
    store.write_object("modelkit-assets/x.versions", mixed)
    with pytest.raises(ma.InvalidVersionError, match="VERSIONING_SYSTEM"):
        manager.fetch_asset("x")


def test_an_update_never_mixes_versioning_systems(
    tmp_path, store, provider, monkeypatch
):
    (tmp_path / "file").write_text("1")
    provider.new(tmp_path / "file", "x")
    before = store.read_objects()
    with pytest.raises(ma.InvalidVersionError):
        provider.update(tmp_path / "file", "x", "2021-11-14T18-00-00Z")
    monkeypatch.setenv("MODELKIT_ASSETS_VERSIONING_SYSTEM", "simple_date")
    with pytest.raises(ma.InvalidVersionError):
        provider.update(tmp_path / "file", "x")
    assert store.read_objects() == before


@pytest.mark.parametrize("version", ["0", None])
def test_a_push_takes_a_complete_version(tmp_path, store, provider, version):
    (tmp_path / "file").write_text("1")
    with pytest.raises(ma.InvalidVersionError):
        provider.push(tmp_path / "file", "x", version)
    assert store.read_objects() == {}


def test_contents_are_sorted_as_modelkits(tmp_path, provider):
    files = {"a/b": b"1", "a-b": b"2", "a.txt": b"3"}
    provider.new(write_tree(tmp_path / "source", files), "x")
    assert provider.get_asset_meta("x", "0.0")["contents"] == sorted(files)


@pytest.mark.parametrize("change", ["added", "gone"])
def test_a_folder_that_changes_during_its_push_is_not_published(
    tmp_path, provider, change
):
    source = write_tree(tmp_path / "source", {"a": b"1", "b": b"2"})
    upload = provider.driver.upload_object

    def upload_and_change(path, name, *args, **kwargs):
        upload(path, name, *args, **kwargs)
        if name.endswith("/b"):
            (source / "c").write_text("3")
            if change == "gone":
                source.rename(tmp_path / "elsewhere")

    provider.driver.upload_object = upload_and_change
    provider.workers = 1
    with pytest.raises(ma.SourceChangedError):
        provider.new(source, "x")
    with pytest.raises(ma.ObjectDoesNotExistError):
        provider.get_versions_info("x")


def test_info_tells_where_an_asset_came_from(tmp_path, provider, manager):
    provider.new(write_tree(tmp_path / "source", {"a": b"1"}), "x")
    info = manager.fetch_asset("x", return_info=True)
    assert info["from_cache"] is False
    assert info["object_name"] == "modelkit-assets/x/0.0"
    assert info["meta_object_name"] == "modelkit-assets/x/0.0.meta"
    assert info["versions_object_name"] == "modelkit-assets/x.versions"
    assert info["meta"]["push_date"].tzinfo
    again = manager.fetch_asset("x", return_info=True)
    assert again == {"path": info["path"], "version": "0.0", "from_cache": True}


def test_a_forced_download_replaces_what_is_cached(tmp_path, provider, manager):
    provider.new(write_tree(tmp_path / "source", {"a": b"1"}), "x")
    provider.new(tmp_path / "source" / "a", "y")
    for spec, part in [("x", "a"), ("y", "")]:
        path = os.path.join(manager.fetch_asset(spec), part).rstrip("/")
        with open(path, "wb") as file:
            file.write(b"2")  # of the same size, which is all that a hit looks at
        assert manager.fetch_asset(spec, True)["from_cache"]
        assert not manager.fetch_asset(spec, True, force_download=True)["from_cache"]
        with open(path, "rb") as file:
            assert file.read() == b"1"


def test_a_dry_run_writes_nothing(tmp_path, store, provider):
    (tmp_path / "file").write_text("1")
    assert provider.new(tmp_path / "file", "x", dry_run=True) == "0.0"
    assert store.read_objects() == {}
    provider.new(tmp_path / "file", "x")
    before = store.read_objects()
    assert provider.update(tmp_path / "file", "x", dry_run=True) == "0.1"
    assert store.read_objects() == before


def test_what_is_published_is_never_replaced(tmp_path, store, provider):
    file = tmp_path / "file"
    file.write_text("1")
    provider.new(file, "x")
    before = store.read_objects()
    file.write_text("2")
    for publish in [
        lambda: provider.new(file, "x"),
        lambda: provider.new(file, "x", "3.0"),
        lambda: provider.update(file, "x", "0.0"),
        lambda: provider.push(file, "x", "0.0"),
    ]:
        with pytest.raises(ma.AssetAlreadyExistsError):
            publish()
    assert store.read_objects() == before


def test_data_that_modelkit_is_uploading_is_never_replaced(tmp_path, store, provider):
    (tmp_path / "file").write_text("1")
    provider.new(tmp_path / "file", "x")
    # it uploads the data first: a file as x/0.1, a folder below x/0.2/
    store.write_object("modelkit-assets/x/0.1", b"theirs")
    store.write_object("modelkit-assets/x/0.2/part", b"theirs")
    with pytest.raises(ma.AssetAlreadyExistsError):
        provider.update(tmp_path / "file", "x", "0.1")
    assert provider.update(tmp_path / "file", "x") == "0.3"
    objects = store.read_objects()
    assert objects["modelkit-assets/x/0.1"] == b"theirs"
    assert "modelkit-assets/x/0.2.meta" not in objects


def test_a_push_is_seen_by_pinned_specs_alone(tmp_path, provider, manager):
    (tmp_path / "file").write_text("1")
    provider.new(tmp_path / "file", "x")
    provider.push(tmp_path / "file", "x", "0.1")
    assert manager.fetch_asset("x", True)["version"] == "0.0"
    assert manager.fetch_asset("x:0.1", True)["version"] == "0.1"


def test_unknown_keys_of_the_versions_object_are_kept(tmp_path, store, provider):
    (tmp_path / "file").write_text("1")
    provider.new(tmp_path / "file", "x")
    name = "modelkit-assets/x.versions"
    store.write_object(name, b'{"versions": ["0.0"], "theirs": 1}')
    provider.update(tmp_path / "file", "x")
    assert json.loads(store.read_objects()[name]) == {
        "versions": ["0.1", "0.0"],
        "theirs": 1,
    }


def test_assets_are_listed_and_nothing_else(tmp_path, store, provider):
    (tmp_path / "file").write_text("1")
    source = write_tree(tmp_path / "source", {"x.versions": b"{}", "y.meta": b""})
    provider.new(source, "b/dir")
    provider.new(tmp_path / "file", "a")
    provider.update(tmp_path / "file", "a")
    staging = ma.StorageProvider(prefix="modelkit-assets-staging")
    staging.new(tmp_path / "file", "other")
    assert list(provider.iterate_assets()) == [
        ("a", ["0.1", "0.0"]),
        ("b/dir", ["0.0"]),
    ]


@pytest.mark.parametrize("mode", [0o644, 0o755])
@pytest.mark.parametrize("data", [b"12345678", b"123", b""])
def test_a_body_of_another_length_is_never_served(
    tmp_path, store, provider, manager, mode, data
):
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "file").chmod(mode)
    provider.new(tmp_path / "file", "x")
    store.write_object("modelkit-assets/x/0.0", data)
    with pytest.raises(ma.AssetIntegrityError, match="x/0.0"):
        manager.fetch_asset("x")
    assert not os.path.exists(os.path.join(manager.assets_dir, "x", "0.0"))


def test_a_wrong_byte_in_the_store_is_never_served(tmp_path, store, provider, manager):
    provider.new(write_tree(tmp_path / "source", {"a": b"1", "b": b"2"}), "x")
    store.write_object("modelkit-assets/x/0.0/b", b"3")
    with pytest.raises(ma.AssetIntegrityError, match="x/0.0/b") as caught:
        manager.fetch_asset("x")
    assert caught.value.exit_code == 6
    assert not os.path.exists(os.path.join(manager.assets_dir, "x", "0.0"))


def test_a_download_goes_where_it_is_told(tmp_path, provider):
    files = {"a": b"1", "b/c": b"", "empty/": b""}
    source = write_tree(tmp_path / "source", files)
    provider.new(source, "nlp/run")
    provider.new(source / "a", "file")
    for name, expected in [("nlp/run", files), ("file", {"": b"1"})]:
        result = provider.download(name, "0.0", tmp_path / "there")
        assert result["path"] == str(tmp_path / "there" / name / "0.0")
        assert read_tree(result["path"]) == expected
        assert result["meta"]["is_directory"] is (name != "file")
    assert sorted(os.listdir(tmp_path / "there" / "nlp" / "run")) == ["0.0"]


def test_users_versioning_system_serves_throughout(
    tmp_path, provider, manager, monkeypatch
):
    (tmp_path / "letters.py").write_text(
        "from modelkit_assets import AssetsVersioningSystem, InvalidVersionError\n"
        "class Letters(AssetsVersioningSystem):\n"
        "    @classmethod\n"
        "    def get_initial_version(cls): return 'a'\n"
        "    @classmethod\n"
        "    def check_version_valid(cls, version):\n"
        "        if len(version) != 1: raise InvalidVersionError(version)\n"
        "    @classmethod\n"
        "    def increment_version(cls, version_list=None, params=None):\n"
        "        return chr(ord(version_list[0]) + 1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MODELKIT_ASSETS_VERSIONING_SYSTEM", "letters:Letters")
    (tmp_path / "file").write_text("1")
    assert provider.new(tmp_path / "file", "alphabet") == "a"
    assert provider.update(tmp_path / "file", "alphabet") == "b"
    assert manager.fetch_asset("alphabet", True)["version"] == "b"
    assert manager.fetch_asset("alphabet:a", True)["version"] == "a"
