"""Errors: which is below which, their exit codes, pickling, and one-line texts."""

import copy
import pickle

import pytest

import modelkit_assets

BASE = "ModelkitAssetsError"
DRIVER, MANAGER = "StorageDriverError", "AssetsManagerError"
SPEC = "InvalidAssetSpecError"

HIERARCHY = [
    (DRIVER, BASE, Exception, 1),
    (MANAGER, BASE, Exception, 1),
    ("ObjectDoesNotExistError", DRIVER, FileNotFoundError, 3),
    ("StorageAccessError", DRIVER, PermissionError, 4),
    ("StorageUnavailableError", DRIVER, ConnectionError, 5),
    ("UnknownDriverError", DRIVER, ValueError, 2),
    ("DriverNotInstalledError", DRIVER, ImportError, 2),
    ("UnsupportedOperationError", DRIVER, NotImplementedError, 2),
    ("NoConfiguredProviderError", DRIVER, Exception, 2),
    ("ConfigurationError", DRIVER, ValueError, 2),
    ("FolderDoesNotExistError", "ConfigurationError", FileNotFoundError, 2),
    ("AssetAlreadyExistsError", MANAGER, FileExistsError, 1),
    ("AssetDoesNotExistError", MANAGER, FileNotFoundError, 3),
    ("LocalAssetDoesNotExistError", MANAGER, FileNotFoundError, 3),
    ("AssetIntegrityError", MANAGER, ValueError, 6),
    ("AssetLockTimeoutError", MANAGER, TimeoutError, 1),
    ("UnknownAssetsVersioningSystemError", MANAGER, Exception, 2),
    (SPEC, MANAGER, ValueError, 2),
    ("InvalidNameError", SPEC, ValueError, 2),
    ("InvalidVersionError", SPEC, ValueError, 2),
    ("MajorVersionDoesNotExistError", SPEC, ValueError, 3),
]

LINES = "one\ntwo\r\nthree\u2028four"


def make_errors():
    """Make each error as the code does, with lines wherever a text may have some."""
    m = modelkit_assets
    return [
        m.ModelkitAssetsError(LINES),
        m.StorageDriverError(LINES),
        m.AssetsManagerError(LINES),
        m.ObjectDoesNotExistError(object(), LINES, LINES),
        m.StorageAccessError(LINES, LINES),
        m.StorageUnavailableError(LINES, 1.5, OSError(LINES)),
        m.UnknownDriverError(LINES, ["local", LINES]),
        m.DriverNotInstalledError(LINES),
        m.UnsupportedOperationError(LINES, NotImplementedError(LINES)),
        m.NoConfiguredProviderError("list"),
        m.ConfigurationError(LINES),
        m.FolderDoesNotExistError("store folder", LINES, "MODELKIT_STORAGE_BUCKET"),
        m.AssetAlreadyExistsError(LINES),
        m.AssetAlreadyExistsError(LINES, "1.0"),
        m.AssetDoesNotExistError(LINES, LINES, LINES),
        m.LocalAssetDoesNotExistError(LINES, LINES, [LINES, "1.0"]),
        m.AssetIntegrityError(LINES, LINES, ValueError(LINES)),
        m.AssetLockTimeoutError(LINES, 10, LINES, LINES),
        m.AssetsDirError(LINES, LINES),
        m.InvalidSourceError(LINES, LINES),
        m.SourceChangedError(LINES),
        m.UnknownAssetsVersioningSystemError(LINES, LINES),
        m.InvalidAssetSpecError(LINES, LINES),
        m.InvalidNameError(LINES, LINES),
        m.InvalidVersionError(LINES, LINES),
        m.MajorVersionDoesNotExistError(LINES, [LINES, "1"]),
    ]


ERRORS = make_errors()
PUBLIC = {
    value
    for value in map(modelkit_assets.__dict__.get, modelkit_assets.__all__)
    if isinstance(value, type) and issubclass(value, Exception)
}


@pytest.mark.parametrize("name, parent, built_in, exit_code", HIERARCHY)
def test_an_error_stands_where_the_design_says(name, parent, built_in, exit_code):
    error = getattr(modelkit_assets, name)
    assert name in modelkit_assets.__all__
    assert issubclass(error, getattr(modelkit_assets, parent))
    assert issubclass(error, built_in)
    assert error.exit_code == exit_code
    assert error.__doc__


def test_every_error_class_is_tested_here():
    assert {type(error) for error in ERRORS} == PUBLIC


def test_drivers_and_managers_errors_are_told_apart():
    for error in PUBLIC - {modelkit_assets.ModelkitAssetsError}:
        assert issubclass(error, modelkit_assets.StorageDriverError) is not issubclass(
            error, modelkit_assets.AssetsManagerError
        )


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickling_with_text_and_attributes(error):
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error) != ""
        assert vars(again) == vars(error)
        assert again.args == error.args


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_the_text_of_an_error_is_one_line(error):
    assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize(
    "error, values",
    [
        (modelkit_assets.AssetAlreadyExistsError("a", "1.0"), ["a", "1.0"]),
        (modelkit_assets.AssetDoesNotExistError("a", "1.0"), ["a", "1.0"]),
        (modelkit_assets.AssetIntegrityError("a/b", "x", "y"), ["a/b", "x", "y"]),
        (modelkit_assets.AssetLockTimeoutError("a", 10, 42, "host"), ["a", 42, "host"]),
        (modelkit_assets.InvalidNameError("a b"), ["a b"]),
        (modelkit_assets.InvalidVersionError("x"), ["x"]),
        (modelkit_assets.MajorVersionDoesNotExistError("1", ["0"]), ["1"]),
        (modelkit_assets.StorageAccessError("a/b", "no"), ["a/b"]),
        (modelkit_assets.UnknownDriverError("x", ["local"]), ["x"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_keeps_what_it_is_about_and_says_it(error, values):
    for value in values:
        assert value in vars(error).values()
        assert str(value) in str(error)
