"""Settings: an argument beats its variable, which beats the default."""

import os
from pathlib import Path

import pytest

from modelkit_assets import (
    AssetsManager,
    AssetSpec,
    ConfigurationError,
    InvalidVersionError,
    MajorMinorAssetsVersioningSystem,
    NoConfiguredProviderError,
    SimpleDateAssetsVersioningSystem,
    StorageProvider,
    UnknownAssetsVersioningSystemError,
)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Make the folders that the tests name, and stand in `here`."""
    for name in ("here", "one", "two", "three"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def make_provider(folders, **arguments):
    return StorageProvider(provider="local", bucket=folders / "one", **arguments)


# how each is read: keyword, variable, default, another value as text, and as it is
ROWS = {
    "prefix": ("MODELKIT_STORAGE_PREFIX", "modelkit-assets", "a/b", "a/b"),
    "force_download": ("MODELKIT_STORAGE_FORCE_DOWNLOAD", False, "yes", True),
    "timeout_s": ("MODELKIT_STORAGE_TIMEOUT_S", 300, "1.5", 1.5),
}
ATTRIBUTES = {"timeout_s": "timeout"}


@pytest.mark.parametrize("keyword", ROWS)
def test_an_argument_beats_its_variable_which_beats_the_default(
    folders, monkeypatch, keyword
):
    variable, default, text, value = ROWS[keyword]
    attribute = ATTRIBUTES.get(keyword, keyword)

    def read(**arguments):
        return getattr(make_provider(folders, **arguments), attribute)

    assert read() == default
    monkeypatch.setenv(variable, "")
    assert read() == default
    monkeypatch.setenv(variable, text)
    assert read() == value
    assert read(**{keyword: None}) == value
    assert read(**{keyword: default}) == default


def test_the_number_of_workers_comes_from_its_variable(folders, monkeypatch):
    assert make_provider(folders).workers == 2  # as it is a local one
    monkeypatch.setenv("MODELKIT_STORAGE_WORKERS", "")
    assert make_provider(folders).workers == 2  # as it is a local one
    monkeypatch.setenv("MODELKIT_STORAGE_WORKERS", "3")
    assert make_provider(folders).workers == 3


def test_the_bucket_comes_from_its_variable_unless_it_is_given(folders, monkeypatch):
    monkeypatch.setenv("MODELKIT_STORAGE_BUCKET", str(folders / "two"))
    assert StorageProvider(provider="local").driver.bucket == str(folders / "two")
    assert make_provider(folders).driver.bucket == str(folders / "one")


@pytest.mark.parametrize("value", [None, ""])
def test_a_provider_without_a_bucket_is_an_error_that_names_the_variable(
    monkeypatch, value
):
    if value is not None:
        monkeypatch.setenv("MODELKIT_STORAGE_BUCKET", value)
    with pytest.raises(ConfigurationError, match="MODELKIT_STORAGE_BUCKET"):
        StorageProvider(provider="local")


@pytest.mark.parametrize(
    "new, old, chosen",
    [("one", "two", "one"), ("", "two", "two"), (None, "two", "two")],
)
def test_the_older_name_of_the_assets_dir_counts_where_the_newer_is_unset(
    folders, monkeypatch, new, old, chosen
):
    if new is not None:
        monkeypatch.setenv("MODELKIT_ASSETS_DIR", new and str(folders / new))
    monkeypatch.setenv("ASSETS_DIR", str(folders / old))
    assert AssetsManager().assets_dir == str(folders / chosen)
    assert AssetsManager(folders / "three").assets_dir == str(folders / "three")
    assert AssetsManager(str(folders / "three")).assets_dir == str(folders / "three")


@pytest.mark.parametrize("value", [None, ""])
def test_the_assets_dir_is_by_default_the_current_folder(folders, monkeypatch, value):
    if value is not None:
        monkeypatch.setenv("MODELKIT_ASSETS_DIR", value)
        monkeypatch.setenv("ASSETS_DIR", value)
    assert Path(AssetsManager().assets_dir) == folders / "here"


@pytest.mark.parametrize("made", ["missing", "file"])
@pytest.mark.parametrize("how", ["argument", "variable"])
def test_a_missing_assets_dir_is_a_clear_error(folders, monkeypatch, made, how):
    path = folders / made
    if made == "file":
        path.write_text("")
    if how == "variable":
        monkeypatch.setenv("MODELKIT_ASSETS_DIR", str(path))
    argument = path if how == "argument" else None
    for error in (ConfigurationError, FileNotFoundError):
        with pytest.raises(error, match="MODELKIT_ASSETS_DIR") as caught:
            AssetsManager(argument)
        assert str(path) in str(caught.value)
    assert path.exists() == (made == "file")


@pytest.mark.parametrize(
    "new, old, is_found",
    [
        ("local", None, True),
        (None, "local", True),
        ("", "local", True),
        ("local", "no-such-provider", True),
        (None, None, False),
        ("", "", False),
    ],
)
def test_the_provider_comes_from_its_variable_or_the_older_one(
    folders, monkeypatch, new, old, is_found
):
    monkeypatch.setenv("MODELKIT_STORAGE_BUCKET", str(folders / "one"))
    if new is not None:
        monkeypatch.setenv("MODELKIT_STORAGE_PROVIDER", new)
    if old is not None:
        monkeypatch.setenv("STORAGE_PROVIDER", old)
    manager = AssetsManager(folders / "two")
    assert (manager.storage_provider is not None) is is_found
    if not is_found:
        with pytest.raises(NoConfiguredProviderError, match="MODELKIT_STORAGE_P"):
            StorageProvider()


def test_a_given_provider_beats_the_configured_one(folders, monkeypatch):
    monkeypatch.setenv("MODELKIT_STORAGE_PROVIDER", "no-such-provider")
    provider = make_provider(folders)
    monkeypatch.setenv("MODELKIT_STORAGE_PREFIX", "../not/this/one")
    monkeypatch.setenv("MODELKIT_STORAGE_TIMEOUT_S", "nor this")
    monkeypatch.setenv("MODELKIT_STORAGE_FORCE_DOWNLOAD", "nor this")
    manager = AssetsManager(folders / "two", storage_provider=provider)
    assert manager.storage_provider is provider


TRUE = ["1", "true", "yes", "on", "True", "YES", "oN"]
FALSE = ["0", "false", "no", "off", "False", "NO", "oFF", ""]
BOOLEANS = ["MODELKIT_STORAGE_FORCE_DOWNLOAD", "MODELKIT_LAZY_DRIVER"]


@pytest.mark.parametrize(
    "text, value", [(text, True) for text in TRUE] + [(text, False) for text in FALSE]
)
def test_a_boolean_is_one_of_four_pairs_in_any_case(folders, monkeypatch, text, value):
    for variable in BOOLEANS:
        monkeypatch.setenv(variable, text)
    assert make_provider(folders).force_download is value


@pytest.mark.parametrize("text", ["2", "-1", "y", "t", "ja", "None", " ", "true!"])
@pytest.mark.parametrize("variable", BOOLEANS)
def test_a_bad_boolean_is_an_error_that_names_the_variable(
    folders, monkeypatch, variable, text
):
    monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigurationError, match=variable):
        make_provider(folders)


def test_a_lazy_driver_is_accepted_and_needless(folders):
    assert make_provider(folders, lazy_driver=True).driver.bucket


BAD_NUMBERS = ["x", "1s", "-1", "nan", "inf", "-inf", "1e999", "1,5", " ", "0x10"]


@pytest.mark.parametrize("text", BAD_NUMBERS)
@pytest.mark.parametrize(
    "variable",
    [
        "MODELKIT_STORAGE_TIMEOUT_S",
        "MODELKIT_STORAGE_WORKERS",
        "MODELKIT_ASSETS_TIMEOUT_S",
    ],
)
def test_a_bad_number_is_an_error_that_names_the_variable(
    folders, monkeypatch, variable, text
):
    monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigurationError, match=variable):
        AssetsManager(folders / "two", storage_provider=make_provider(folders))


@pytest.mark.parametrize("value", ["x", -1, float("nan"), float("inf"), [1]])
def test_a_bad_number_as_an_argument_is_an_error_too(folders, value):
    with pytest.raises(ConfigurationError, match="MODELKIT_STORAGE_TIMEOUT_S"):
        make_provider(folders, timeout_s=value)
    with pytest.raises(ConfigurationError, match="MODELKIT_ASSETS_TIMEOUT_S"):
        AssetsManager(folders / "two", timeout=value)


def test_the_managers_timeout_is_an_argument_a_variable_or_10_s(folders, monkeypatch):
    assert AssetsManager().timeout == 10
    monkeypatch.setenv("MODELKIT_ASSETS_TIMEOUT_S", "")
    assert AssetsManager().timeout == 10
    monkeypatch.setenv("MODELKIT_ASSETS_TIMEOUT_S", "2.5")
    assert AssetsManager().timeout == 2.5
    assert AssetsManager(timeout=0).timeout == 0


@pytest.mark.parametrize(
    "given_prefix, prefix",
    [("a/", "a"), ("/a", "a"), ("a/b/", "a/b"), ("a b/é", "a b/é")],
)
def test_a_prefix_may_have_slashes_around_it(folders, given_prefix, prefix):
    assert make_provider(folders, prefix=given_prefix).prefix == prefix


@pytest.mark.parametrize(
    "prefix", ["..", "a/../../b", "/", "a//b", "C:/a", "..\\a", "\0"]
)
def test_a_prefix_that_leads_out_of_the_bucket_is_an_error(folders, prefix):
    with pytest.raises(ConfigurationError, match="MODELKIT_STORAGE_PREFIX"):
        make_provider(folders, prefix=prefix)


@pytest.mark.parametrize(
    "argument, variable, system",
    [
        (None, None, MajorMinorAssetsVersioningSystem),
        (None, "", MajorMinorAssetsVersioningSystem),
        ("", "", MajorMinorAssetsVersioningSystem),
        (None, "simple_date", SimpleDateAssetsVersioningSystem),
        ("", "simple_date", SimpleDateAssetsVersioningSystem),
        ("major_minor", "simple_date", MajorMinorAssetsVersioningSystem),
        ("simple_date", "no-such-system", SimpleDateAssetsVersioningSystem),
    ],
)
def test_the_versioning_system_is_an_argument_a_variable_or_inferred(
    monkeypatch, argument, variable, system
):
    if variable is not None:
        monkeypatch.setenv("MODELKIT_ASSETS_VERSIONING_SYSTEM", variable)
    assert AssetSpec("a", versioning=argument).versioning is system


def test_an_unknown_versioning_system_is_an_error_that_names_the_variable(monkeypatch):
    variable = "MODELKIT_ASSETS_VERSIONING_SYSTEM"
    monkeypatch.setenv(variable, "major")
    with pytest.raises(UnknownAssetsVersioningSystemError, match=variable):
        AssetSpec("a")


# the assets dir, and the store as bucket and prefix; all below one folder
OVERLAPS = {
    "the same": ("disk/store", "disk", "store"),
    "assets dir inside the store": ("disk/store/assets", "disk", "store"),
    "store inside the assets dir": ("disk", "disk/deep/er", "store"),
    "assets dir is the bucket": ("disk", "disk", "store"),
    "a trailing slash": ("disk/store/", "disk", "store"),
    "a trailing slash of the bucket": ("disk/store", "disk/", "store"),
    "slashes about the prefix": ("disk/store", "disk", "/store/"),
    "doubled slashes": ("disk//store", "disk", "store"),
    "a dot": ("disk/./store", "disk", "store"),
    "dots in the assets dir": ("disk/other/../store", "disk", "store"),
    "dots in the bucket": ("disk/store", "disk/other/..", "store"),
    "dots, inside": ("disk/store/assets", "disk/other/../../disk", "store"),
    "a link to the store": ("link-to-store", "disk", "store"),
    "a link to inside the store": ("link-to-inside", "disk", "store"),
    "a link above the assets dir": ("link-to-disk/store", "disk", "store"),
    "a link above the store": ("disk/store", "link-to-disk", "store"),
    "a link that is the store": ("other", "disk", "link-to-other"),
    "a linked store inside": ("other", "disk", "link-to-deep"),
    "a deeper prefix": ("disk/store", "disk", "store/deeper"),
    "a prefix that is not there yet": ("disk/new/assets", "disk", "new"),
}
APART = {
    "side by side": ("disk/assets", "disk", "store"),
    "a name that goes on": ("disk/store-cache", "disk", "store"),
    "a name that is shorter": ("disk/sto", "disk", "store"),
    "elsewhere": ("other", "disk", "store"),
    "a link elsewhere": ("disk/link-to-other", "disk", "store"),
    "a link inside that leads out": ("disk/store/link-to-other", "disk", "store"),
}


@pytest.fixture
def disk(tmp_path):
    for name in ("store/assets", "other", "deep/er", "assets", "store-cache", "sto"):
        (tmp_path / "disk" / name).mkdir(parents=True)
    (tmp_path / "disk/new/assets").mkdir(parents=True)
    (tmp_path / "other/deep").mkdir(parents=True)
    for link, target in (
        ("link-to-store", "disk/store"),
        ("link-to-inside", "disk/store/assets"),
        ("link-to-disk", "disk"),
        ("disk/link-to-other", "other"),
        ("disk/link-to-deep", "other/deep"),
        ("disk/store/link-to-other", "other"),
    ):
        (tmp_path / link).symlink_to(tmp_path / target)
    return tmp_path


@pytest.mark.parametrize("assets_dir, bucket, prefix", OVERLAPS.values(), ids=OVERLAPS)
def test_assets_dir_and_store_that_overlap_are_an_error(
    disk, monkeypatch, assets_dir, bucket, prefix
):
    root = str(disk) + os.sep
    for relative in (False, True):
        if relative:
            monkeypatch.chdir(disk)
            root = ""
        options = {"bucket": root + bucket, "prefix": prefix}
        provider = StorageProvider(provider="local", **options)
        with pytest.raises(ConfigurationError, match="MODELKIT_ASSETS_DIR"):
            AssetsManager(root + assets_dir, storage_provider=provider)


@pytest.mark.parametrize("assets_dir, bucket, prefix", APART.values(), ids=APART)
def test_assets_dir_and_store_that_are_apart_are_fine(disk, assets_dir, bucket, prefix):
    provider = StorageProvider(provider="local", bucket=disk / bucket, prefix=prefix)
    manager = AssetsManager(disk / assets_dir, storage_provider=provider)
    assert manager.storage_provider is provider


def test_an_overlap_in_the_environment_is_an_error_too(disk, monkeypatch):
    monkeypatch.setenv("MODELKIT_STORAGE_PROVIDER", "local")
    monkeypatch.setenv("MODELKIT_STORAGE_BUCKET", str(disk / "disk"))
    monkeypatch.setenv("MODELKIT_STORAGE_PREFIX", "store")
    monkeypatch.setenv("MODELKIT_ASSETS_DIR", str(disk / "link-to-inside"))
    with pytest.raises(ConfigurationError, match="MODELKIT_STORAGE_BUCKET"):
        AssetsManager()


# ------------------------------------------------------------ a driver's own settings

MISSPELT = [
    ("s3", "endpoint", "endpoint_url"),
    ("s3", "bukcet", "bucket"),
    ("s3", "aws_access_key", "aws_access_key_id"),
    ("gcs", "service_account", "service_account_path"),
    ("gcs", "buckett", "bucket"),
    ("az", "connection", "connection_string"),
    ("az", "acount_url", "account_url"),
    ("local", "bukcet", "bucket"),
    ("local", "client_id", "bucket"),
]


@pytest.mark.parametrize(("provider", "word", "near"), MISSPELT)
def test_an_unknown_keyword_is_named_with_the_near_one(folders, provider, word, near):
    with pytest.raises(ConfigurationError, match=f"{word!r}: is it {near!r}") as caught:
        StorageProvider(provider=provider, bucket="b", **{word: "S3CR3T"})
    assert "S3CR3T" not in str(caught.value)


KEY = "SECRETSECRET"
SECRETS = {
    "s3": {
        "aws_access_key_id": KEY,
        "aws_secret_access_key": KEY,
        "aws_session_token": KEY,
    },
    "gcs": {},
    "az": {"connection_string": f"AccountName=a;AccountKey={KEY};EndpointSuffix=b"},
    "local": {},
}


@pytest.mark.parametrize("provider", SECRETS)
@pytest.mark.parametrize("is_argument", [True, False])
def test_no_repr_holds_a_secret(folders, monkeypatch, provider, is_argument):
    keywords = SECRETS[provider]
    if not is_argument:
        names = {"connection_string": "AZURE_STORAGE_CONNECTION_STRING"}
        for word, value in keywords.items():
            monkeypatch.setenv(names.get(word, word.upper()), value)
        keywords = {}
    made = StorageProvider(provider=provider, bucket="one", **keywords)
    manager = AssetsManager(folders / "two", storage_provider=made)
    for value in (made, made.driver, manager):
        assert KEY not in repr(value)
        assert KEY not in str(value)
    assert provider in repr(made)
    assert repr(made) in repr(manager)
    assert str(folders / "two") in repr(manager)


def test_a_manager_and_a_provider_take_a_versioning_system(folders):
    (folders / "file").write_text("1")
    provider = make_provider(folders, versioning="simple_date")
    version = provider.new(folders / "file", "a")
    SimpleDateAssetsVersioningSystem.check_version_valid(version)
    manager = AssetsManager(
        folders / "two", storage_provider=provider, versioning="simple_date"
    )
    assert manager.resolve("a").version == version
    with pytest.raises(InvalidVersionError):
        manager.resolve("a:1.0")
    with pytest.raises(InvalidVersionError):
        provider.update(folders / "file", "a", "1.0")
