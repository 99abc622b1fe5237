"""Versions: how they are named, ordered, counted up and chosen."""

import sys
import time

import pytest

import modelkit_assets
from modelkit_assets import (
    AssetsManagerError,
    AssetSpec,
    InvalidVersionError,
    LocalAssetDoesNotExistError,
    MajorVersionDoesNotExistError,
    UnknownAssetsVersioningSystemError,
)
from modelkit_assets import MajorMinorAssetsVersioningSystem as MajorMinor
from modelkit_assets import SimpleDateAssetsVersioningSystem as SimpleDate

EARLY, LATE = "2021-11-14T18-00-00Z", "2021-11-15T17-31-06Z"
AHEAD, AFTER_AHEAD = "2999-12-31T23-59-59Z", "3000-01-01T00-00-00Z"


@pytest.mark.parametrize(
    "version, is_complete",
    [
        ("0", False),
        ("10", False),
        ("0.0", True),
        ("1.2", True),
        ("10.0", True),
        ("123.456", True),
    ],
)
def test_a_major_minor_version_is_two_numbers_or_one(version, is_complete):
    MajorMinor.check_version_valid(version)
    assert MajorMinor.is_version_valid(version)
    assert MajorMinor.is_version_complete(version) is is_complete


@pytest.mark.parametrize(
    "version",
    ["", ".", "1.", ".1", "1.2.3", "v1.0", "1.0 ", "1.0\n", "-1.0", "1,0", "١.٠", LATE],
)
def test_other_texts_are_no_major_minor_versions(version):
    assert not MajorMinor.is_version_valid(version)
    with pytest.raises(InvalidVersionError):
        MajorMinor.check_version_valid(version)


@pytest.mark.parametrize("version", [EARLY, LATE, "0000-99-99T99-99-99Z"])
def test_a_date_version_is_known_by_its_shape(version):
    SimpleDate.check_version_valid(version)
    assert SimpleDate.is_version_complete(version)


@pytest.mark.parametrize(
    "version",
    ["", "1.0", "2021-11-15", "2021-11-15T17:31:06Z", LATE[:-1], LATE + "\n", LATE * 2],
)
def test_other_texts_are_no_date_versions(version):
    assert not SimpleDate.is_version_valid(version)
    with pytest.raises(InvalidVersionError):
        SimpleDate.check_version_valid(version)


@pytest.mark.parametrize(
    "system, versions, ordered",
    [
        (MajorMinor, [], []),
        (MajorMinor, ["0.9", "0.10", "10.0", "9.1"], ["10.0", "9.1", "0.10", "0.9"]),
        (SimpleDate, [EARLY, AHEAD, LATE], [AHEAD, LATE, EARLY]),
    ],
)
def test_versions_are_sorted_the_latest_first(system, versions, ordered):
    assert system.sort_versions(versions) == ordered


@pytest.mark.parametrize(
    "versions, params, following",
    [
        ([], {}, "0.0"),
        (None, None, "0.0"),
        (["0.0"], None, "0.1"),
        (["0.9", "0.8"], {}, "0.10"),
        (["10.0", "9.5", "1.3"], {}, "10.1"),
        (["10.0", "9.5", "1.3"], {"major": "1"}, "1.4"),
        (["10.0", "9.5", "1.3"], {"major": "9", "bump_major": False}, "9.6"),
        (["10.0", "9.5", "1.3"], {"major": None, "bump_major": True}, "11.0"),
        (["10.0", "9.5", "1.3"], {"major": "1", "bump_major": True}, "11.0"),
    ],
)
def test_an_update_counts_up_the_minor_or_the_major(versions, params, following):
    assert MajorMinor.increment_version(versions, params) == following


@pytest.mark.parametrize(
    "partial, versions, meant",
    [
        ("1", ["10.0", "1.10", "1.9", "0.3"], "1.10"),
        ("10", ["10.0", "1.9"], "10.0"),
        ("0", ["10.0", "0.3"], "0.3"),
    ],
)
def test_a_partial_version_is_the_latest_of_its_major(partial, versions, meant):
    assert MajorMinor.get_latest_partial_version(partial, versions) == meant


@pytest.mark.parametrize("versions", [["10.0"], ["10.1", "10.0"], ["11.0", "0.1"]])
def test_a_partial_version_never_matches_another_major(versions):
    with pytest.raises(MajorVersionDoesNotExistError):
        MajorMinor.get_latest_partial_version("1", versions)


def test_a_missing_major_is_an_error_that_names_those_that_exist():
    versions = ["10.0", "3.1", "3.0"]
    for wrong in (
        lambda: MajorMinor.get_latest_partial_version("2", versions),
        lambda: MajorMinor.increment_version(versions, {"major": "2"}),
    ):
        with pytest.raises(MajorVersionDoesNotExistError, match="3, 10") as caught:
            wrong()
        assert "2" in vars(caught.value).values()


def test_a_first_date_version_is_the_present_utc_second():
    before = time.gmtime()
    version = SimpleDate.get_initial_version()
    after = time.gmtime()
    assert before <= time.strptime(version + "UTC", "%Y-%m-%dT%H-%M-%SZ%Z") <= after


def test_date_versions_made_in_one_second_differ_and_ascend():
    versions = []
    for _ in range(5):
        versions.insert(0, SimpleDate.increment_version(list(versions)))
    assert len(set(versions)) == 5
    assert SimpleDate.sort_versions(versions) == versions


def test_a_date_version_follows_even_one_whose_clock_was_ahead():
    assert SimpleDate.increment_version([AHEAD, LATE]) == AFTER_AHEAD
    assert SimpleDate.increment_version([LATE, AHEAD]) == AFTER_AHEAD


@pytest.mark.parametrize("last", ["9999-12-31T23-59-59Z", "9999-99-99T99-99-99Z"])
def test_what_would_follow_the_last_date_is_an_error_and_no_version(last):
    with pytest.raises(InvalidVersionError):
        SimpleDate.increment_version([last])


@pytest.mark.parametrize(
    "versions, system",
    [
        ([], MajorMinor),
        (["1"], MajorMinor),
        (["10.0", "0.1"], MajorMinor),
        ([LATE, EARLY], SimpleDate),
    ],
)
def test_the_system_is_inferred_from_the_versions(versions, system):
    assert modelkit_assets._infer_versioning_system(versions) is system


@pytest.mark.parametrize("versions", [["abc"], ["1.0", LATE], ["1.0", "final"]])
def test_versions_of_no_one_system_are_an_error(versions):
    with pytest.raises(AssetsManagerError):
        modelkit_assets._infer_versioning_system(versions)


@pytest.mark.parametrize(
    "text, system",
    [("a", MajorMinor), ("a:1.0", MajorMinor), (f"a:{LATE}", SimpleDate)],
)
def test_the_version_asked_for_decides_the_system(text, system):
    assert AssetSpec.from_string(text).versioning is system


@pytest.mark.parametrize(
    "versioning, system",
    [
        ("major_minor", MajorMinor),
        ("simple_date", SimpleDate),
        (SimpleDate, SimpleDate),
        ("modelkit_assets:SimpleDateAssetsVersioningSystem", SimpleDate),
    ],
)
def test_a_system_goes_by_name_class_or_import_path(versioning, system):
    assert modelkit_assets._find_versioning_system(versioning) is system
    assert AssetSpec("a", versioning=versioning).versioning is system


@pytest.mark.parametrize("wrong", ["1.0", "1"])
def test_a_version_of_another_system_is_invalid_where_one_is_set(wrong):
    with pytest.raises(InvalidVersionError):
        AssetSpec("a", version=wrong, versioning="simple_date")


@pytest.mark.parametrize(
    "text, versions, chosen",
    [
        ("a", ["10.0", "9.9", "0.1"], "10.0"),
        ("a", ["0.1", "10.0", "9.9"], "10.0"),
        ("a", ["0.10", "0.9"], "0.10"),
        ("a:1", ["10.0", "1.0"], "1.0"),
        ("a:1", ["1.10", "1.9", "10.0"], "1.10"),
        ("a:1.2", ["1.5", "1.2"], "1.2"),
        ("a", [LATE, EARLY], LATE),
        ("a", [EARLY, LATE], LATE),
        (f"a:{EARLY}", [LATE, EARLY], EARLY),
    ],
)
def test_the_version_that_a_spec_means(text, versions, chosen):
    spec = AssetSpec.from_string(text)
    assert modelkit_assets._choose_version(spec, versions) == chosen


@pytest.mark.parametrize(
    "text, versions, error",
    [
        ("a:1", ["10.0"], MajorVersionDoesNotExistError),
        ("a:1", [LATE], InvalidVersionError),
        ("a", ["1.0", LATE], AssetsManagerError),
        ("a", ["final"], AssetsManagerError),
    ],
)
def test_a_spec_that_means_none_of_the_versions_is_an_error(text, versions, error):
    with pytest.raises(error):
        modelkit_assets._choose_version(AssetSpec.from_string(text), versions)


@pytest.mark.parametrize(
    "text, taken, bump_major, following",
    [
        ("a", [], False, "0.0"),
        ("a", ["0.0"], False, "0.1"),
        ("a", ["1.3", "10.0", "9.5"], False, "10.1"),
        ("a", ["10.0", "9.5", "1.3"], True, "11.0"),
        ("a:1", ["10.0", "9.5", "1.3"], False, "1.4"),
        ("a:7.7", ["10.0"], False, "7.7"),
        ("a:7.7", [], False, "7.7"),
        ("a", [AHEAD, LATE], False, AFTER_AHEAD),
    ],
)
def test_the_version_that_is_published_next(text, taken, bump_major, following):
    spec = AssetSpec.from_string(text)
    assert modelkit_assets._choose_next_version(spec, taken, bump_major) == following


def test_an_update_of_a_missing_major_is_an_error():
    spec = AssetSpec("a", version="1")
    with pytest.raises(MajorVersionDoesNotExistError, match="are: 0, 10"):
        modelkit_assets._choose_next_version(spec, ["10.0", "0.1"])


def test_choosing_leaves_the_list_it_was_given_alone():
    versions = ["0.1", "10.0"]
    modelkit_assets._choose_version(AssetSpec("a"), versions)
    modelkit_assets._choose_next_version(AssetSpec("a"), versions)
    assert versions == ["0.1", "10.0"]


OWN_SYSTEM = '''
class Letters:
    """Versions a, b, c ...: all that the design asks of a system, and no base class."""

    @classmethod
    def get_initial_version(cls):
        return "a"

    @classmethod
    def check_version_valid(cls, version):
        if len(version) != 1:
            raise ValueError(version)

    @classmethod
    def is_version_complete(cls, version):
        return True

    @classmethod
    def sort_versions(cls, version_list):
        return sorted(version_list, reverse=True)

    @classmethod
    def increment_version(cls, version_list=None, params=None):
        return chr(ord(max(version_list)) + 1)

    @classmethod
    def get_latest_partial_version(cls, version, versions):
        return versions[0]


class Derived(__import__("modelkit_assets").SimpleDateAssetsVersioningSystem):
    pass


class Unfinished:
    get_initial_version = check_version_valid = is_version_complete = len
    sort_versions = get_latest_partial_version = is_version_valid = len


text = "no class"
'''


@pytest.fixture
def own_systems(tmp_path, monkeypatch):
    folder = tmp_path / "own_package"
    folder.mkdir()
    (folder / "versions.py").write_text(OWN_SYSTEM)
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_package.versions"
    for name in ("own_package.versions", "own_package"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_a_users_own_system_decides_all_about_versions(own_systems):
    path = f"{own_systems}:Letters"
    spec = AssetSpec("lookup/cities", versioning=path)
    assert modelkit_assets._choose_next_version(spec, []) == "a"
    assert modelkit_assets._choose_next_version(spec, ["a", "b"]) == "c"
    assert modelkit_assets._choose_version(spec, ["a", "c", "b"]) == "c"
    assert AssetSpec("a", version="b", versioning=path).is_version_complete()


def test_a_version_that_a_users_own_system_refuses_is_no_spec(own_systems):
    with pytest.raises(ValueError):
        AssetSpec("a", version="1.0", versioning=f"{own_systems}:Letters")


def test_a_users_own_system_may_build_on_ours(own_systems):
    system = modelkit_assets._find_versioning_system(f"{own_systems}:Derived")
    assert system.__name__ == "Derived"
    assert system.increment_version([AHEAD]) == AFTER_AHEAD


def test_a_system_can_be_named_in_the_environment(own_systems, monkeypatch):
    monkeypatch.setenv("MODELKIT_ASSETS_VERSIONING_SYSTEM", f"{own_systems}:Letters")
    assert AssetSpec("a", version="b").versioning.__name__ == "Letters"


@pytest.mark.parametrize(
    "versioning, named",
    [
        ("major", "major"),
        ("no_such_module:System", "no_such_module"),
        ("json:System", "System"),
        ("own_package.versions:Missing", "Missing"),
        ("own_package.versions:Unfinished", "increment_version"),
        ("own_package.versions:text", "own_package.versions:text"),
        ("own_package.versions", "own_package.versions"),
        ("own_package.versions:", "own_package.versions:"),
        ("./versions:Letters", "./versions"),
        (":Letters", ":Letters"),
    ],
)
def test_what_is_no_system_is_an_error_that_says_why(own_systems, versioning, named):
    with pytest.raises(UnknownAssetsVersioningSystemError, match=named) as caught:
        modelkit_assets._find_versioning_system(versioning)
    assert caught.value.versioning == versioning


def test_a_manager_finds_the_copies_of_the_system_that_it_was_given(
    own_systems, tmp_path, assets_dir
):
    """In all that it does, though nothing of it is in the environment."""
    (tmp_path / "file").write_text("1")
    (tmp_path / "bucket").mkdir()
    system = f"{own_systems}:Letters"
    provider = modelkit_assets.StorageProvider(
        provider="local", bucket=tmp_path / "bucket", versioning=system
    )
    assert provider.new(tmp_path / "file", "xy") == "a"
    assert provider.update(tmp_path / "file", "xy") == "b"
    manager = modelkit_assets.AssetsManager(
        storage_provider=provider, versioning=system
    )
    for version in ("a", "b"):
        assert manager.fetch_asset(f"xy:{version}") == f"{assets_dir}/xy/{version}"
    assert [copy.version for copy in manager.iterate_copies()] == ["b", "a"]
    offline = modelkit_assets.AssetsManager(versioning=system)
    assert offline.fetch_asset("xy") == f"{assets_dir}/xy/b"
    assert offline.verify("xy") == []
    with pytest.raises(LocalAssetDoesNotExistError, match="are: b, a;"):
        offline.fetch_asset("xy:c")
    assert [str(spec) for spec in manager.prune(1)] == ["xy:a"]
    assert [str(spec) for spec in manager.remove("xy")] == ["xy:b"]
    assert list(manager.iterate_copies()) == []


def test_the_command_line_finds_the_copies_of_the_system_that_it_was_given(
    own_systems, assets_dir, capsys
):
    for version in ("a", "b"):
        (assets_dir / "xy").mkdir(exist_ok=True)
        (assets_dir / "xy" / version).write_text("1")
        (assets_dir / "xy" / f".{version}.SUCCESS").write_text("")

    def run(*args):
        args = [*args, "--versioning", f"{own_systems}:Letters"]
        return modelkit_assets.main(args), capsys.readouterr().out

    code, shown = run("list", "--local")
    assert (code, [line.split()[0] for line in shown.splitlines()]) == (
        0,
        ["xy:b", "xy:a"],
    )
    assert run("verify") == (1, "no digests  xy:b\nno digests  xy:a\n")
    assert run("verify", "xy") == (1, "no digests  xy:b\nno digests  xy:a\n")
    assert run("prune", "--keep", "1", "--yes") == (0, "xy:a\n")
    assert run("remove", "xy", "--yes") == (0, "xy:b\n")
