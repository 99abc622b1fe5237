# SPDX-License-Identifier: MIT
# modelkit-assets 0.1.0, https://pypi.org/project/modelkit-assets/
"""Publish and fetch assets: versioned, immutable files and folders.

The source of truth is a store (S3, GCS, Azure Blob, or a plain folder); every
machine keeps a cache of it, the assets dir. This one file needs the standard
library alone: copy it into a repository, or run it as a command.

    import modelkit_assets

    provider = modelkit_assets.StorageProvider(provider="local", bucket="/mnt/store")
    provider.new("model.bin", "nlp/bert")  # publishes nlp/bert:0.0

    manager = modelkit_assets.AssetsManager("/var/assets", storage_provider=provider)
    path = manager.fetch_asset("nlp/bert")  # the latest version, as a local path

What holds at any moment, a crash included: a published version is never replaced,
a reader never sees half an asset, and nothing is served whose digest is wrong.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import sys
import threading
import time
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, cast

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import argparse
    import logging
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime
    from typing import IO, Callable, NoReturn, Union

    StrPath = Union[str, os.PathLike[str]]
    Versioning = Union[str, type["AssetsVersioningSystem"], None]
    Advance = Callable[[int], None]  # called with each number of bytes that was moved
    OnProgress = Callable[["Progress"], object]

__version__ = "0.1.0"

# fmt: off
__all__ = [
    # fetching, publishing, and their values
    "AssetsManager", "StorageProvider", "AssetSpec", "Manifest", "ManifestFile",
    "LocalCopy", "Progress",
    # versioning systems
    "AssetsVersioningSystem", "MajorMinorAssetsVersioningSystem",
    "SimpleDateAssetsVersioningSystem",
    # drivers
    "LocalDriver", "ObjectSink", "StorageDriver",
    # errors between here and the store
    "ModelkitAssetsError", "StorageDriverError", "ConfigurationError",
    "DriverNotInstalledError", "FolderDoesNotExistError", "NoConfiguredProviderError",
    "ObjectDoesNotExistError", "StorageAccessError", "StorageUnavailableError",
    "UnknownDriverError",
    # errors about assets
    "AssetsManagerError", "AssetAlreadyExistsError", "AssetDoesNotExistError",
    "AssetIntegrityError", "AssetLockTimeoutError", "AssetsDirError",
    "InvalidAssetSpecError", "InvalidNameError", "InvalidSourceError",
    "InvalidVersionError", "LocalAssetDoesNotExistError",
    "MajorVersionDoesNotExistError", "SourceChangedError",
    "UnknownAssetsVersioningSystemError",
    # command line
    "main",
]
# fmt: on

T = TypeVar("T")
Item = TypeVar("Item")

# ------------------------------------------------------------------- constants

MANIFEST_FORMAT = 1
SUCCESS = ".SUCCESS"  # what modelkit calls its markers

_OWN = ".modelkit-assets"  # begins the names of our own files, where others' lie too
_PARTIAL = f"{_OWN}.partial"  # the marker of a copy of which only some files are there

_CHUNK = 1 << 20  # bytes read, hashed and written at a time
_PART = 16 << 20  # larger files come in ranges of this size, and packs in such pieces
_GAP = 64 << 10  # what may be read in vain between two files of a pack
_SMALL_OBJECT = 1 << 20  # up to this size a local object's etag is its digest
_MAX_SEGMENT = 255  # characters of a file name that file systems hold
_MAX_PATH = 1024  # characters; no object's name may be longer in S3, GCS or Azure
# of a manifest or `.versions`, so that 1 GB holds what it is read into: 400,000 files
_MAX_DOCUMENT = 64 << 20  # bytes, as each driver's read_object has it too
_MAX_BYTES = 1 << 44  # of an asset; some disks say that they have room for any number
_MAX_VALUES = 2 << 20  # and commas and brackets, as JSON takes memory by the value
_FIRST_DELAY_S, _MAX_DELAY_S = 0.1, 10.0  # back-off between attempts
_LOCK_POLL_S = 0.05
_HEARTBEAT_S = 0.1  # how often a download shows those who wait that it goes on
_REMOTE_IDLE_S = 60.0  # another host's staging, untouched for so long, is nobody's
_ABANDONED_S = 24 * 3600.0  # nobody's staging is reclaimed after this, by any download
_STOP_GRACE_S = 5.0  # how long an interrupt waits for transfers under way
_MAX_SWAPS = 16
_MANY_FILES = 50  # more than these are worth a pack
_EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

# ------------------------------------------------------------------- errors


class ModelkitAssetsError(Exception):
    """Base of every error raised here.

    - its text is one line: what failed, on what, what to do next
    - what it is about is kept as attributes; both survive pickling

    A subclass names its arguments, with defaults, and the text that they go into,
    where `{asset}` is `name` or `name:version`.
    """

    exit_code = 1
    _text = "{message}"
    _facts: dict[str, Any] = {"message": ""}

    def __init__(self, *values: object, **named: object) -> None:
        given = {**dict(zip(self._facts, values)), **named}
        facts = {name: given.get(name, self._facts[name]) for name in self._facts}
        for name, value in facts.items():
            if not isinstance(value, (str, int, float, tuple, type(None))):
                facts[name] = tuple(value) if isinstance(value, list) else str(value)
        vars(self).update(facts)
        shown = {name: _show(value) for name, value in facts.items()}
        for name in {"spec", "name", "version"} & facts.keys():  # of any length
            shown[name] = shown[name] and _cut(str(shown[name]))
        named_by = filter(None, (shown.get("name"), shown.get("version")))
        shown["asset"] = ":".join(map(str, named_by))
        super().__init__(" ".join(self._text.format(**shown).splitlines()))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, name) for name in self._facts)


def _show(value: object) -> object:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return value


def _cut(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "…"


class StorageDriverError(ModelkitAssetsError):
    """Something failed between here and the store."""


class ObjectDoesNotExistError(StorageDriverError, FileNotFoundError):
    """The store answered that it has no such object."""

    exit_code = 3
    _text = "the store has no object {object_name!r} in {bucket!r}"
    _facts = {"driver": "", "bucket": "", "object_name": ""}


class StorageAccessError(StorageDriverError, PermissionError):
    """The store refused access."""

    exit_code = 4
    _text = "access to {object_name!r} was refused: {reason}; check the credentials"
    _facts = {"object_name": "", "reason": ""}


class StorageUnavailableError(StorageDriverError, ConnectionError):
    """The store could not be reached, or kept failing until the time was up."""

    exit_code = 5
    _text = (
        "the store fails on {object_name!r} for {seconds:.0f} s now "
        "(MODELKIT_STORAGE_TIMEOUT_S): {reason}"
    )
    _facts = {"object_name": "", "seconds": 0, "reason": ""}


class ConfigurationError(StorageDriverError, ValueError):
    """A setting is missing or wrong; the text names the variable."""

    exit_code = 2


class FolderDoesNotExistError(ConfigurationError, FileNotFoundError):
    """The folder that a setting names does not exist."""

    _text = "the {what} {folder!r} is no folder: create it, or set {variable}"
    _facts = {"what": "", "folder": "", "variable": ""}


class UnknownDriverError(StorageDriverError, ValueError):
    """No driver file has the provider's name."""

    exit_code = 2
    _text = (
        "unknown storage provider {provider!r} (MODELKIT_STORAGE_PROVIDER): there are "
        "{known}; another one is a file drivers/NAME.py"
    )
    _facts = {"provider": "", "known": ()}


class DriverNotInstalledError(StorageDriverError, ImportError):
    """The provider's SDK is not installed; the text gives the command that does it."""

    exit_code = 2
    _text = "{package} is not installed, or not whole: pip install {package} ({reason})"
    _facts = {"package": "", "reason": ""}


class NoConfiguredProviderError(StorageDriverError):
    """No storage provider is configured, and the operation needs one."""

    exit_code = 2
    _text = (
        "cannot {action}: no storage provider is configured, set "
        "MODELKIT_STORAGE_PROVIDER and MODELKIT_STORAGE_BUCKET"
    )
    _facts = {"action": "reach a store"}


class AssetsManagerError(ModelkitAssetsError):
    """Something failed with an asset, its spec, or its local copy."""


class AssetAlreadyExistsError(AssetsManagerError, FileExistsError):
    """What would be published exists already; nothing was changed."""

    _text = "{asset!r} already exists, and what is published never changes: {hint}"
    _facts = {
        "name": "",
        "version": None,
        "hint": "publish a next version with `update`",
    }


class AssetDoesNotExistError(AssetsManagerError, FileNotFoundError):
    """There is no such asset, version or part."""

    exit_code = 3
    _text = "{asset!r} does not exist: {hint}"
    _facts = {"name": "", "version": None, "hint": "`list` shows what does"}


class LocalAssetDoesNotExistError(AssetsManagerError, FileNotFoundError):
    """The assets dir has no such version, and no store is configured."""

    exit_code = 3
    _text = (
        "{asset!r} is not in the assets dir, whose versions of it are: "
        "{local_versions}; and no storage provider is configured"
    )
    _facts = {"name": "", "version": None, "local_versions": ()}


class AssetIntegrityError(AssetsManagerError, ValueError):
    """Content is not what its manifest says, or a manifest is none."""

    exit_code = 6
    _text = "the content of {object_name!r} is wrong: expected {expected}, got {got}"
    _facts = {"object_name": "", "expected": "", "got": ""}


class AssetLockTimeoutError(AssetsManagerError, TimeoutError):
    """Another process holds the asset's lock, and its download makes no progress."""

    _text = (
        "{asset!r} is being downloaded by process {pid} on host {host}, without "
        "progress for {timeout_s:g} s (MODELKIT_ASSETS_TIMEOUT_S)"
    )
    _facts = {"name": "", "timeout_s": 0, "pid": "unknown", "host": "unknown"}


class AssetsDirError(AssetsManagerError, OSError):
    """The assets dir cannot be written: read-only, full, or another's."""

    _text = "cannot write to the assets dir: {reason}: {path!r}"
    _facts = {"path": "", "reason": ""}


class InvalidSourceError(AssetsManagerError, ValueError):
    """What was given to publish is missing, unreadable, empty, or no file or folder."""

    exit_code = 2
    _text = "cannot publish {path!r}: {reason}"
    _facts = {"path": "", "reason": ""}


class SourceChangedError(AssetsManagerError):
    """A source file changed while it was being published; nothing became visible."""

    _text = (
        "{path!r} changed while it was being published, so nothing was: publish again "
        "when nothing writes to it"
    )
    _facts = {"path": ""}


class UnknownAssetsVersioningSystemError(AssetsManagerError):
    """No versioning system has that name."""

    exit_code = 2
    _text = (
        "unknown versioning system {versioning!r} ({reason}): use major_minor, "
        "simple_date or package.module:Class (MODELKIT_ASSETS_VERSIONING_SYSTEM)"
    )
    _facts = {"versioning": "", "reason": "no such class"}


class InvalidAssetSpecError(AssetsManagerError, ValueError):
    """The text is no `name[:version][[sub/part]]`."""

    exit_code = 2
    _text = "invalid asset spec {spec!r}: {reason}"
    _facts = {
        "spec": "",
        "reason": "it must look like name, name:version or name[part]",
    }


class InvalidNameError(InvalidAssetSpecError):
    """The text is no asset name."""

    _text = "invalid asset name {name!r}: {reason}"
    _facts = {"name": "", "reason": "it must be of A-Z a-z 0-9 - _ . joined by /"}


class InvalidVersionError(InvalidAssetSpecError):
    """The text is no version of the versioning system."""

    _text = "invalid asset version {version!r}: {reason}"
    _facts = {"version": "", "reason": "it must be of A-Z a-z 0-9 - _ ."}


class MajorVersionDoesNotExistError(InvalidVersionError):
    """No version has that major number."""

    exit_code = 3
    _text = "no version {version!r} exists, the major versions are: {majors}"
    _facts = {"version": "", "majors": ()}


def _is_final(error: Exception) -> bool:
    """Tell whether an error says all: it is ours, or what `on_progress` raised."""
    return isinstance(error, ModelkitAssetsError) or hasattr(error, "is_final")


def _shorten(value: object) -> str:
    return _cut(repr(value))


_attach_log: Callable[[logging.Logger], None] | None = None  # by the command line


def _logger() -> logging.Logger:
    # imported on use: a cache hit logs nothing, and logging costs 5 ms of start-up
    import logging

    logger = logging.getLogger("modelkit_assets")
    if _attach_log:
        _attach_log(logger)
    return logger


# ------------------------------------------------------------------- settings


_DEFAULTS: dict[str, str | None] = {
    "MODELKIT_ASSETS_DIR": None,  # the current folder
    "MODELKIT_ASSETS_TIMEOUT_S": "10",
    "MODELKIT_ASSETS_VERSIONING_SYSTEM": None,  # inferred
    "MODELKIT_STORAGE_PROVIDER": None,
    "MODELKIT_STORAGE_BUCKET": None,
    "MODELKIT_STORAGE_PREFIX": "modelkit-assets",
    "MODELKIT_STORAGE_FORCE_DOWNLOAD": "false",
    "MODELKIT_STORAGE_TIMEOUT_S": "300",
    "MODELKIT_STORAGE_WORKERS": "16",
}
_OLDER = {
    "MODELKIT_ASSETS_DIR": "ASSETS_DIR",
    "MODELKIT_STORAGE_PROVIDER": "STORAGE_PROVIDER",
}


def find_setting(variable: str) -> tuple[str | None, str]:
    """Return what a variable, its older name or the default says, and which of them."""
    for name in (variable, _OLDER.get(variable, variable)):
        if value := os.environ.get(name):
            return value, "environment" if name == variable else f"environment, {name}"
    return _DEFAULTS.get(variable), "default"


def _setting(argument: Any, variable: str) -> Any:
    """Return the argument, else what the variable says, which may be its default."""
    return find_setting(variable)[0] if argument in (None, "") else argument


def _number(argument: float | None, variable: str) -> float:
    """Return a setting as a number of at least 0."""
    value = _setting(argument, variable)
    with suppress(TypeError, ValueError):
        number = float(value)
        if 0 <= number < float("inf") and value is not True:
            return number
    raise ConfigurationError(f"{variable} must be a number, 0 or more, not {value!r}")


def _whole_number(variable: str) -> int:
    number = _number(None, variable)
    if number < 1 or number % 1:
        raise ConfigurationError(f"{variable} must be a whole number, not {number:g}")
    return int(number)


def _boolean(argument: bool | None, variable: str) -> bool:
    """Return a setting as a truth value, False where unset."""
    value = _setting(argument, variable)
    text = str(value).lower()
    if value is None or text in ("0", "false", "no", "off"):
        return False
    if text in ("1", "true", "yes", "on"):
        return True
    raise ConfigurationError(f"{variable} must be true or false, not {value!r}")


# ------------------------------------------------------------------- versioning

_MAJOR_MINOR = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,18}))?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}-[0-9]{2}-[0-9]{2}Z")
_DATE_FORMAT = "%Y-%m-%dT%H-%M-%SZ"


class AssetsVersioningSystem:
    """How versions are named, ordered and counted up; subclass it for your own.

    All methods are class methods. A complete version names exactly one; a partial one
    stands for the latest of several (`1` for `1.*`).
    """

    @classmethod
    def get_initial_version(cls) -> str:
        """Return the version that a new asset gets."""
        raise NotImplementedError

    @classmethod
    def check_version_valid(cls, version: str) -> None:
        """Raise InvalidVersionError unless the text is a version, maybe partial."""
        raise NotImplementedError

    @classmethod
    def is_version_valid(cls, version: str) -> bool:
        """Tell whether the text is a version, maybe partial."""
        return _is_valid(version, cls)

    @classmethod
    def is_version_complete(cls, version: str) -> bool:
        """Tell whether a valid version names exactly one; override for partial ones."""
        return True

    @classmethod
    def sort_versions(cls, version_list: Iterable[str]) -> list[str]:
        """Return complete versions in order, the latest first."""
        return sorted(version_list, reverse=True)

    @classmethod
    def increment_version(
        cls, version_list: list[str] | None = None, params: dict[str, Any] | None = None
    ) -> str:
        """Return the version that follows those of the list (latest first).

        params may hold `bump_major` (bool) and `major` (a partial version, or None).
        """
        raise NotImplementedError

    @classmethod
    def get_latest_partial_version(cls, version: str, versions: list[str]) -> str:
        """Return the latest version, of a list in order, that a partial one means."""
        return versions[0]


class MajorMinorAssetsVersioningSystem(AssetsVersioningSystem):
    """Versions `X.Y`; `X` alone is the latest `X.*`, and `1` never means `10.0`."""

    @classmethod
    def get_initial_version(cls) -> str:
        """Return `0.0`."""
        return "0.0"

    @classmethod
    def check_version_valid(cls, version: str) -> None:
        """Raise InvalidVersionError unless the text is `X` or `X.Y`."""
        cls._parse(version)

    @classmethod
    def is_version_complete(cls, version: str) -> bool:
        """Tell whether the text is `X.Y`."""
        match = _MAJOR_MINOR.fullmatch(version)
        return bool(match and match.group(2))

    @classmethod
    def sort_versions(cls, version_list: Iterable[str]) -> list[str]:
        """Return the versions by number, the latest first."""
        return sorted(version_list, key=cls._parse, reverse=True)

    @classmethod
    def increment_version(
        cls, version_list: list[str] | None = None, params: dict[str, Any] | None = None
    ) -> str:
        """Return the next minor of the latest or the named major, or the next major."""
        params = params or {}
        if not version_list:
            return cls.get_initial_version()
        major, minor = max(map(cls._parse, version_list))
        if params.get("bump_major"):
            return f"{major + 1}.0"
        if params.get("major"):
            latest = cls.get_latest_partial_version(params["major"], version_list)
            major, minor = cls._parse(latest)
        return f"{major}.{minor + 1}"

    @classmethod
    def get_latest_partial_version(cls, version: str, versions: list[str]) -> str:
        """Return the latest of a major; MajorVersionDoesNotExistError if none."""
        major = cls._parse(version)[0]
        same = [one for one in versions if cls._parse(one)[0] == major]
        if not same:
            majors = sorted({cls._parse(one)[0] for one in versions})
            raise MajorVersionDoesNotExistError(version, list(map(str, majors)))
        return cls.sort_versions(same)[0]

    @classmethod
    def _parse(cls, version: str) -> tuple[int, int]:
        match = _MAJOR_MINOR.fullmatch(version)
        if not match:
            raise InvalidVersionError(version, "it must be X or X.Y, two whole numbers")
        return int(match.group(1)), int(match.group(2) or 0)


class SimpleDateAssetsVersioningSystem(AssetsVersioningSystem):
    """Versions `YYYY-MM-DDThh-mm-ssZ`, the UTC time of the publication."""

    @classmethod
    def get_initial_version(cls) -> str:
        """Return the present second."""
        return time.strftime(_DATE_FORMAT, time.gmtime())

    @classmethod
    def check_version_valid(cls, version: str) -> None:
        """Raise InvalidVersionError unless the text has the shape of a date version."""
        if not _DATE.fullmatch(version):
            raise InvalidVersionError(version, "it must be YYYY-MM-DDThh-mm-ssZ")

    @classmethod
    def increment_version(
        cls, version_list: list[str] | None = None, params: dict[str, Any] | None = None
    ) -> str:
        """Return the present second, or the one after the latest version if later."""
        import calendar

        now, latest = cls.get_initial_version(), max(version_list or [""])
        if now > latest:
            return now
        # published in this very second, or by a machine whose clock is ahead
        try:
            seconds = calendar.timegm(time.strptime(latest, _DATE_FORMAT)) + 1
        except ValueError:
            raise InvalidVersionError(latest, "no date comes after it") from None
        version = time.strftime(_DATE_FORMAT, time.gmtime(seconds))
        cls.check_version_valid(version)
        return version


_VERSIONING_SYSTEMS: dict[str, type[AssetsVersioningSystem]] = {
    "major_minor": MajorMinorAssetsVersioningSystem,
    "simple_date": SimpleDateAssetsVersioningSystem,
}


def find_versioning_system(
    versioning: Versioning,
) -> type[AssetsVersioningSystem] | None:
    """Return the system of a name or `package.module:Class`; None if unset."""
    chosen = _setting(versioning, "MODELKIT_ASSETS_VERSIONING_SYSTEM")
    if chosen is None or isinstance(chosen, type):
        return chosen
    if chosen in _VERSIONING_SYSTEMS:
        return _VERSIONING_SYSTEMS[chosen]
    from importlib import import_module

    module, _, name = chosen.partition(":")
    try:
        system = getattr(import_module(module), name)
        for method in vars(AssetsVersioningSystem):
            if method[0] != "_" and method != "is_version_valid":
                getattr(system, method)
    except (ImportError, AttributeError, ValueError, SyntaxError) as error:
        raise UnknownAssetsVersioningSystemError(chosen, error) from error
    return cast("type[AssetsVersioningSystem]", system)


def infer_versioning_system(versions: Sequence[str]) -> type[AssetsVersioningSystem]:
    """Return the built-in system that all versions follow; `major_minor` for none."""
    for system in _VERSIONING_SYSTEMS.values():
        if all(_is_valid(version, system) for version in versions):
            return system
    reason = "it and its like are not X.Y, X, or YYYY-MM-DDThh-mm-ssZ; another system "
    reason += "is set with MODELKIT_ASSETS_VERSIONING_SYSTEM"
    raise InvalidVersionError(versions[0], reason)


def _is_valid(text: str, system: type[AssetsVersioningSystem]) -> bool:
    try:
        system.check_version_valid(text)
    except ValueError:
        return False
    return True


# ------------------------------------------------------------------- asset specs

_NAME = re.compile(r"[A-Za-z0-9_./-]+")
_VERSION = re.compile(r"[A-Za-z0-9_.-]+")

# https://learn.microsoft.com/windows/win32/fileio/naming-a-file
_WINDOWS_DEVICES = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"} | {
    port + digit for port in ("COM", "LPT") for digit in "0123456789¹²³"
}


def is_contained(path: str) -> bool:
    """Tell whether a relative path stays below the folder that it is joined to.

    The rules of POSIX and of Windows both apply, on every system, as a store is shared:
    no empty, `.` or `..` segment, drive letter, device name, NUL or lone surrogate.
    Nor may it be longer than any store holds, or just making its folders would fail.
    """
    if len(path) > _MAX_PATH:
        return False
    segments = path.replace("\\", "/").split("/")
    encodable = path.isascii() or not re.search("[\ud800-\udfff]", path)
    return encodable and "\0" not in path and all(map(_is_plain_segment, segments))


def _is_plain_segment(segment: str) -> bool:
    kept = segment.rstrip(" .")  # Windows drops these at the end of a name
    device = kept.partition(".")[0].rstrip().upper()
    return bool(kept) and segment[1:2] != ":" and device not in _WINDOWS_DEVICES


def local_path(root: str, part: str) -> str:
    """Return where a part lies below a folder; the root itself for the part `""`."""
    return os.path.join(root, *part.split("/")) if part else root


def is_inside(path: str, root: str) -> bool:
    """Tell whether a path below a folder stays there when its links are followed."""
    step, has_links = path, os.name == "nt"  # whose junctions only realpath knows
    while len(step) > len(root):
        has_links = has_links or os.path.islink(step)
        step = os.path.dirname(step)
    return not has_links or _resolve(path).startswith(_resolve(root))


def _resolve(folder: str) -> str:
    return os.path.join(os.path.normcase(os.path.realpath(folder)), "")


class AssetSpec:
    """What to fetch: `name[:version][[sub/part]]`; immutable and hashable.

    name      segments joined by `/`
    version   complete, partial, or None for the latest
    sub_part  a POSIX path inside a directory asset, or None for the whole
    """

    name: str
    version: str | None
    sub_part: str | None
    _system: type[AssetsVersioningSystem] | None

    def __init__(
        self,
        name: str,
        *,
        version: str | None = None,
        sub_part: str | None = None,
        versioning: Versioning = None,
    ) -> None:
        self.check_name_valid(name)
        system = find_versioning_system(versioning)
        if version:
            self.check_version_valid(version)
            system = system or infer_versioning_system([version])
            system.check_version_valid(version)
        if sub_part is not None:
            sub_part = sub_part.strip("/") if isinstance(sub_part, str) else ""
            if not is_contained(sub_part):
                raise InvalidAssetSpecError(sub_part, "a part stays inside its asset")
        # by this way alone, as pickle does too: __setattr__ refuses
        vars(self).update(
            name=name, version=version or None, sub_part=sub_part, _system=system
        )

    @classmethod
    def from_string(cls, text: str, versioning: Versioning = None) -> AssetSpec:
        """Parse a spec, in time linear in its length; InvalidAssetSpecError if none."""
        if not isinstance(text, str):
            raise InvalidAssetSpecError(text)
        system = find_versioning_system(versioning)
        return cast(AssetSpec, cast(Any, _parse_spec)(cls, text, system))

    @classmethod
    def check_name_valid(cls, name: str) -> None:
        """Raise InvalidNameError unless the text is an asset name."""
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidNameError(name)
        if not (name[0].isalnum() and name[-1].isalnum()):
            raise InvalidNameError(name, "it must begin and end with a letter or digit")
        if not is_contained(name) or max(map(len, name.split("/"))) > _MAX_SEGMENT:
            raise InvalidNameError(name, "a segment cannot be a folder everywhere")

    @classmethod
    def check_version_valid(cls, version: str) -> None:
        """Raise InvalidVersionError unless the text can be a version in any system."""
        if not isinstance(version, str) or not _VERSION.fullmatch(version):
            raise InvalidVersionError(version)
        if not is_contained(version) or len(version) > _MAX_SEGMENT - len(".meta"):
            raise InvalidVersionError(version, "it cannot be a file name everywhere")

    @property
    def versioning(self) -> type[AssetsVersioningSystem]:
        """The versioning system: the one set, else what the version follows."""
        return self._system or MajorMinorAssetsVersioningSystem

    def versioning_among(self, versions: Sequence[str]) -> type[AssetsVersioningSystem]:
        """Return the system set or followed by the version, else by these versions."""
        return self._system or infer_versioning_system(versions)

    def is_version_complete(self) -> bool:
        """Tell whether the spec names exactly one version."""
        return bool(self.version and self.versioning.is_version_complete(self.version))

    def sort_versions(self, versions: Iterable[str]) -> list[str]:
        """Return complete versions in order, the latest first."""
        versions = list(versions)
        return self.versioning_among(versions).sort_versions(versions)

    def get_local_versions(self, folder: StrPath) -> list[str]:
        """Return the complete versions among a folder's entries, the latest first."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return self.pick_versions(os.listdir(folder))
        return []

    def pick_versions(self, names: Iterable[str]) -> list[str]:
        """Return those of the names that are complete versions, the latest first."""
        systems = [self._system] if self._system else _VERSIONING_SYSTEMS.values()
        return self.sort_versions(
            name for name in names if any(_is_version(name, one) for one in systems)
        )

    def __setattr__(self, name: str, value: object = None) -> NoReturn:
        raise AttributeError(f"an AssetSpec cannot be changed: {name}")

    __delattr__ = __setattr__

    def _key(self) -> tuple[str, str | None, str | None]:
        return self.name, self.version, self.sub_part

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AssetSpec) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __str__(self) -> str:
        version = f":{self.version}" if self.version else ""
        return self.name + version + (f"[{self.sub_part}]" if self.sub_part else "")

    def __repr__(self) -> str:
        return f"AssetSpec({str(self)!r})"


@lru_cache(maxsize=1000)  # or the parsing would take a third of a hit's 20 µs
def _parse_spec(cls: Any, text: str, system: Any) -> Any:
    name, bracket, part = text.partition("[")
    name, colon, version = name.partition(":")
    if (colon and not version) or (bracket and (len(part) < 2 or part[-1] != "]")):
        raise InvalidAssetSpecError(text)
    sub_part = part[:-1] if bracket else None
    return cls(name, version=version, sub_part=sub_part, versioning=system)


def _is_version(text: str, system: type[AssetsVersioningSystem]) -> bool:
    """Tell whether the text is a complete version, and may be one in a store."""
    plain = _VERSION.fullmatch(text) and _is_valid(text, system)
    return bool(plain) and system.is_version_complete(text)


def check_new_name(name: str) -> None:
    """Raise InvalidNameError unless a new asset may have that name.

    A segment that looks like a version, its manifest, its marker, or a list of versions
    would lie where another asset's does.
    """
    AssetSpec.check_name_valid(name)
    systems = [find_versioning_system(None), *_VERSIONING_SYSTEMS.values()]
    for segment in name.split("/"):
        version = any(system and _is_version(segment, system) for system in systems)
        if version or segment[0] == "." or segment.endswith((".meta", ".versions")):
            reason = f"the segment {segment!r} looks like a version or its manifest"
            raise InvalidNameError(name, reason)


def choose_version(spec: AssetSpec, versions: Sequence[str]) -> str:
    """Return the version that a spec means among those that exist, one or more.

    MajorVersionDoesNotExistError where none has its major.
    """
    system = spec.versioning_among(versions)
    ordered = system.sort_versions(one for one in versions if _is_version(one, system))
    if not ordered:
        reason = f"listed for {spec.name!r}, but {system.__name__} has no such form"
        raise InvalidVersionError(versions[0], f"it is {reason}")
    if spec.version and spec.version not in ordered:
        return system.get_latest_partial_version(spec.version, ordered)
    return spec.version or ordered[0]


def choose_next_version(
    spec: AssetSpec, taken: Sequence[str], bump_major: bool = False
) -> str:
    """Return the version to publish where those of `taken` exist already.

    A complete version in the spec is that version; a partial one names the major.
    """
    system = spec.versioning_among(taken)
    for version in taken:  # of another system, they could never be put in order
        system.check_version_valid(version)
    if spec.version and spec.is_version_complete():
        return spec.version
    if spec.version and not taken:
        raise MajorVersionDoesNotExistError(spec.version)
    if not taken:
        return system.get_initial_version()
    params = {"bump_major": bump_major, "major": spec.version}
    version = system.increment_version(system.sort_versions(taken), params)
    AssetSpec.check_version_valid(version)
    return version


# ------------------------------------------------------------------- manifest

_SHA256 = re.compile(r"[0-9a-f]{64}")
_READABLE = f"at most {_MAX_DOCUMENT >> 20} MiB and {_MAX_VALUES} values of JSON"


class ManifestFile(NamedTuple):
    """One file of an asset.

    path        POSIX, relative to the asset; `""` in a file asset
    size        bytes; None where modelkit published it
    sha256      lower-case hexadecimal; None likewise
    offset      where its bytes begin in a pack; None in an asset that is not packed
    """

    path: str
    size: int | None = None
    sha256: str | None = None
    executable: bool = False
    offset: int | None = None

    @classmethod
    def from_entry(cls, entry: Any) -> ManifestFile:
        """Read an entry of `files`; TypeError, KeyError or ValueError if it is none."""
        file = cls(**{key: entry[key] for key in cls._fields if key in entry})
        _require(type(file.size) is int and file.size >= 0, "a size that is no number")
        _require(bool(_SHA256.fullmatch(entry["sha256"])), "a sha256 that is none")
        _require(isinstance(file.executable, bool), "an executable that is no bool")
        fit = file.offset is None or type(file.offset) is int and file.offset >= 0
        _require(fit, "an offset that is no number")
        return file

    @property
    def begin(self) -> int:
        """Where its bytes begin in their object."""
        return self.offset or 0

    @property
    def end(self) -> int:
        """Where its bytes end in their object, as far as its size is known."""
        return self.begin + (self.size or 0)

    def to_entry(self) -> dict[str, object]:
        """Write the entry of `files`."""
        return {
            key: value
            for key, value in self._asdict().items()
            if value is not None and value is not False
        }


class Manifest(NamedTuple):
    """What a version holds, as its `.meta` object says; all paths are checked.

    document    the whole JSON object, with the keys that we do not know
    """

    is_directory: bool
    files: tuple[ManifestFile, ...]
    empty_directories: tuple[str, ...]
    document: dict[str, Any]

    @classmethod
    def create(
        cls, is_directory: bool, files: Sequence[ManifestFile], empty: Sequence[str]
    ) -> Manifest:
        """Make the manifest of a version that is being published now."""
        import getpass
        import socket
        from datetime import datetime, timezone

        try:
            user = getpass.getuser()
        except (ImportError, KeyError, OSError):  # a uid without name, in containers
            user = "unknown"
        document: dict[str, Any] = {
            "push_date": datetime.now(timezone.utc).isoformat(),
            "is_directory": is_directory,
            "pushed_by": f"{user}@{socket.gethostname()}",
            "format": MANIFEST_FORMAT,
        }
        files = sorted(files)
        if is_directory:
            document["contents"] = [file.path for file in files]
        if empty:
            document["empty_directories"] = list(empty)
        return cls(is_directory, (), tuple(empty), document).with_files(files)

    def with_files(self, files: Sequence[ManifestFile]) -> Manifest:
        """Return the manifest with these files, their sizes and digests."""
        document = {**self.document, "files": [file.to_entry() for file in files]}
        return self._replace(files=tuple(files), document=document)

    def with_pack(self) -> Manifest:
        """Return the manifest of the same folder as one object, a tar."""
        files = []
        end = sum(len(_tar_header(f"{one}/")) for one in self.empty_directories)
        for file in self.files:
            offset = end + len(_tar_header(file.path, file))
            files.append(file._replace(offset=offset))
            end = offset + _fill_block(file.size or 0)
        manifest = self._replace(document={**self.document, "pack": "tar"})
        return manifest.with_files(files)

    @classmethod
    def from_json(cls, data: bytes, object_name: str) -> Manifest:
        """Read a `.meta` object or a marker, ours or modelkit's.

        AssetIntegrityError unless it is JSON, has what is needed, and no path in it
        leads outside or meets another.
        """
        document = _read_json(data, object_name)
        try:
            return cls._from_document(document)
        except (TypeError, ValueError, KeyError) as error:
            raise AssetIntegrityError(object_name, "a manifest", repr(error)) from error

    @classmethod
    def _from_document(cls, document: dict[str, Any]) -> Manifest:
        is_directory = document["is_directory"]
        _require(isinstance(is_directory, bool), "an is_directory that is no bool")
        parse_date(document["push_date"])
        _require(document.get("format", 1) == MANIFEST_FORMAT, "a newer format")
        is_packed = "pack" in document
        fit = not is_packed or document["pack"] == "tar" and is_directory
        _require(fit, "a pack that is no tar of a folder")
        paths = document["contents"] if is_directory else [""]
        empty = document.get("empty_directories", [])
        _require(type(paths) is type(empty) is list, "no list of paths")
        if is_directory:
            _check_paths(paths, empty)
        files = tuple(map(ManifestFile, paths))
        if "files" in document:
            _require(isinstance(document["files"], list), "files that are no list")
            files = tuple(map(ManifestFile.from_entry, document["files"]))
            same = sorted(file.path for file in files) == sorted(paths)
            _require(same, "files that are not the contents")
        _check_offsets(files, is_packed)
        size = sum(file.size or 0 for file in files)
        _require(size <= _MAX_BYTES, f"{size} bytes, which is more than 16 TiB")
        return cls(is_directory, files, tuple(empty), document)

    def to_json(self) -> bytes:
        """Write the manifest as its `.meta` object or marker holds it."""
        return json.dumps(self.document).encode()

    @property
    def is_packed(self) -> bool:
        """Tell whether the files lie in one object, a tar."""
        return "pack" in self.document

    @property
    def size(self) -> int | None:
        """The bytes of all files together; None where modelkit published it."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(cast("list[int]", sizes))

    def get_part(self, part: str) -> Manifest:
        """Return the manifest of a file or folder of it alone; of all for `""`.

        It has no files and no folders where there is no such part.
        """
        files = tuple(one for one in self.files if is_below(one.path, part))
        empty = tuple(one for one in self.empty_directories if is_below(one, part))
        return self._replace(files=files, empty_directories=empty)

    def has_same_content(self, other: Manifest) -> bool:
        """Tell whether two manifests describe the same files, to the byte."""
        return self[:3] == other[:3] and all(file.sha256 for file in self.files)

    def describe(self) -> dict[str, Any]:
        """Return the JSON object as modelkit does, with `push_date` as a datetime."""
        return {**self.document, "push_date": parse_date(self.document["push_date"])}


def _tar_header(path: str, file: ManifestFile | None = None) -> bytes:
    """Return what stands before a file's bytes in a tar, or for an empty folder."""
    import tarfile

    info = tarfile.TarInfo(path)
    if file:
        info.size, info.mode = file.size or 0, 0o755 if file.executable else 0o644
    else:
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _fill_block(size: int) -> int:
    return -(-size // 512) * 512  # as a tar does


def is_below(path: str, part: str) -> bool:
    """Tell whether a path is a part, or lies in it; all do in the part `""`."""
    return not part or f"{path}/".startswith(f"{part}/")


def _check_offsets(files: Iterable[ManifestFile], is_packed: bool) -> None:
    """Raise ValueError unless just a pack's files have offsets, and none overlap."""
    end = 0
    for file in sorted(files, key=lambda file: file.begin):
        fit = (file.offset is not None) == is_packed
        _require(fit, "an offset missing, or needless")
        _require(not is_packed or file.begin >= end, "files that overlap")
        end = file.end


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


def _check_paths(files: Sequence[str], empty: Sequence[str]) -> None:
    """Raise ValueError unless all paths can lie in one folder, and none leaves it."""
    paths = {*files, *empty}
    _require(len(paths) == len(files) + len(empty), "a path twice")
    for path in paths:
        fit = isinstance(path, str) and is_contained(path)
        fit = fit and path.split("/")[0] not in (SUCCESS, _PARTIAL)
        _require(fit, f"the path {_shorten(path)}")
    # NUL comes before all that a path may hold: what lies below a file comes next to it
    ordered = sorted(path.replace("/", "\0") for path in paths)
    nested = (low.startswith(f"{high}\0") for high, low in zip(ordered, ordered[1:]))
    _require(not any(nested), "a path that is both a file and a folder")


def parse_date(text: str) -> datetime:
    """Return an ISO 8601 time; ValueError or TypeError if it is none."""
    from datetime import datetime

    # before Python 3.11, fromisoformat does not know the Z
    return datetime.fromisoformat(text[:-1] + "+00:00" if text[-1:] == "Z" else text)


def _is_readable(data: bytes) -> bool:
    """Tell whether a JSON document is no larger than we read."""
    values = sum(map(data.count, (b",", b"[", b"{")))
    return len(data) <= _MAX_DOCUMENT and values <= _MAX_VALUES


def _read_json(data: bytes, object_name: str) -> dict[str, Any]:
    if not _is_readable(data):
        raise AssetIntegrityError(object_name, _READABLE, f"{len(data)} bytes")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise AssetIntegrityError(object_name, "JSON", error) from error
    if not isinstance(document, dict):
        raise AssetIntegrityError(object_name, "a JSON object", _shorten(document))
    return document


def _read_versions(data: bytes, object_name: str) -> dict[str, Any]:
    """Return a `.versions` object, whose `versions` is a list of versions."""
    document = _read_json(data, object_name)
    try:
        versions = document.get("versions")
        _require(isinstance(versions, list), f"versions {_shorten(versions)}")
        for version in document["versions"]:
            AssetSpec.check_version_valid(version)
    except ValueError as error:
        raise AssetIntegrityError(object_name, "a list of versions", error) from error
    return document


# ------------------------------------------------------------------- drivers


class ObjectSink(Protocol):
    """Where a driver writes the bytes that it reads, in order."""

    def write(self, data: bytes) -> object:
        """Take the next bytes."""


class StorageDriver(Protocol):
    """What the core asks of a store: a driver moves bytes, and nothing else.

    It is made as `Driver(bucket, client=None, **settings)`, which checks settings and
    opens no connection; the client is made on first use, and shared by threads. It
    pickles without its client. All methods raise built-in exceptions:

    - FileNotFoundError: absent; FileExistsError: the condition of a write failed
    - PermissionError: refused; ValueError: the settings are wrong
    - ConnectionError, TimeoutError: worth another attempt, short bodies among them
    """

    bucket: str

    def stat_object(self, name: str) -> tuple[int, str]:
        """Return an object's size in bytes and its opaque etag."""

    def read_object(self, name: str) -> tuple[bytes, str]:
        """Return a small object whole, and its etag, from one request.

        OSError with EFBIG where it has more than 64 MiB, of which few are read.
        """

    def write_object(
        self, data: bytes, name: str, *, if_match: str | None = None
    ) -> str:
        """Write an object in one request and return its new etag.

        if_match="": only if absent; an etag: only if unchanged; None: always.
        """

    def download_object(
        self, name: str, sink: ObjectSink, start: int = 0, length: int | None = None
    ) -> None:
        """Write an object's bytes from start on to the sink, in bounded memory."""

    def upload_object(self, path: str, name: str) -> None:
        """Upload a file, in bounded memory.

        It may take a third argument, `advance`, a function that it calls with each
        number of bytes that has moved, for the user to see.
        """

    def copy_object(self, source: str, name: str) -> None:
        """Copy an object within the store. Optional: without it, files are uploaded."""

    def iterate_objects(self, prefix: str) -> Iterator[str]:
        """Yield the names below a prefix, page by page: `a` does not yield `ab/c`."""

    def delete_object(self, name: str) -> None:
        """Delete an object, if it is there. For tests and probes only."""

    def get_object_uri(self, name: str) -> str:
        """Return what people call the object."""


# a link that somebody planted there must not lead us to another file
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
_replacing = threading.Lock()


class LocalDriver:
    """A plain folder as a store; an object's name is its path in it.

    - an object is written beside its place and renamed: it is seen whole or not at all
    - conditional writes hold between threads, processes, and hosts that share it
    - no object but the one named is touched, whatever else lies in the folder
    - links that lead outside the folder are refused; none is listed

    Permissions: reading needs r-x on the folders; publishing also needs w.
    """

    # where nothing says how many: on a disk, more are in each other's way. A folder of
    # 1000 files takes two threads 0.20 s, sixteen 0.33 s
    workers = 2

    def __init__(
        self, bucket: StrPath, client: object = None, **settings: object
    ) -> None:
        self.bucket = os.path.abspath(bucket)  # wherever the process goes later
        self._check_bucket()

    def stat_object(self, name: str) -> tuple[int, str]:
        """Return an object's size in bytes and its etag."""
        with self._open(name) as file:
            status = os.fstat(file.fileno())
            data = file.read() if status.st_size <= _SMALL_OBJECT else b""
            return status.st_size, _local_etag(data, status)

    def read_object(self, name: str) -> tuple[bytes, str]:
        """Return a small object whole, and its etag."""
        with self._open(name) as file:
            data = file.read(_MAX_DOCUMENT + 1)
            if len(data) > _MAX_DOCUMENT:
                raise OSError(errno.EFBIG, "it is too large to be read at once")
            return data, _local_etag(data, os.fstat(file.fileno()))

    def write_object(
        self, data: bytes, name: str, *, if_match: str | None = None
    ) -> str:
        """Write an object, if the condition holds, and return its new etag."""
        with self._staged(name) as (staged, path):
            with open(staged, "wb") as file:
                file.write(data)
            etag = _local_etag(data, os.stat(staged))
            if if_match is None:
                os.replace(staged, path)
            elif if_match:
                with _exclusive(os.path.dirname(path)):
                    self._check_etag(name, if_match)
                    os.replace(staged, path)
            else:
                _create(staged, path)
            return etag

    def download_object(
        self, name: str, sink: ObjectSink, start: int = 0, length: int | None = None
    ) -> None:
        """Write an object's bytes from start on to the sink."""
        with self._open(name) as file:
            file.seek(min(start, os.fstat(file.fileno()).st_size))
            _copy_bytes(file, sink.write, length=length)

    def upload_object(
        self, path: str, name: str, advance: Advance = lambda size: None
    ) -> None:
        """Copy a file to its object."""
        with self._staged(name) as (staged, target):
            copy_file(path, staged, advance)
            os.replace(staged, target)

    def copy_object(self, source: str, name: str) -> None:
        """Copy an object within the store."""
        self._open(source).close()
        self.upload_object(self._path(source), name)

    def iterate_objects(self, prefix: str = "") -> Iterator[str]:
        """Yield the names below a prefix; what comes meanwhile may be missed."""
        self._check_bucket()
        pending = [prefix.strip("/")]
        if prefix:
            self._path(pending[0])
        while pending:
            folder = pending.pop()
            try:
                entries = list(os.scandir(local_path(self.bucket, folder)))
            except (FileNotFoundError, NotADirectoryError):
                continue
            for entry in entries:
                name, is_own = _join(folder, entry.name), entry.name.startswith(_OWN)
                if entry.is_dir(follow_symlinks=False):
                    pending.append(name)
                elif entry.is_file(follow_symlinks=False) and not is_own:
                    yield name

    def delete_object(self, name: str) -> None:
        """Delete an object, if it is there."""
        path = self._path(name)
        if os.path.isfile(path):
            os.unlink(path)

    def get_object_uri(self, name: str) -> str:
        """Return the object's path."""
        return local_path(self.bucket, name)

    def __repr__(self) -> str:
        return f"<LocalDriver bucket={self.bucket!r}>"

    def _check_bucket(self) -> None:
        if not os.path.isdir(self.bucket):
            variable = "MODELKIT_STORAGE_BUCKET"
            raise FolderDoesNotExistError("store folder", self.bucket, variable)

    def _path(self, name: str) -> str:
        if not is_contained(name):
            raise ValueError(f"the object name {_shorten(name)} leaves the store")
        path = local_path(self.bucket, name)
        if not is_inside(path, self.bucket):
            raise PermissionError(f"a link leads {path!r} outside the store")
        return path

    def _check_etag(self, name: str, etag: str) -> None:
        with suppress(FileNotFoundError):
            if self.stat_object(name)[1] == etag:
                return
        raise FileExistsError(f"the object {name!r} has changed")

    def _open(self, name: str) -> IO[bytes]:
        try:
            return open(self._path(name), "rb")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            self._check_bucket()
            raise FileNotFoundError(f"no object {name!r}") from None

    @contextmanager
    def _staged(self, name: str) -> Iterator[tuple[str, str]]:
        """Yield where to write an object and where it belongs, in one folder."""
        self._check_bucket()
        path = self._path(name)
        folder = os.path.dirname(path)
        try:
            os.makedirs(folder, exist_ok=True)
        except FileExistsError:  # which would say that a condition failed
            raise NotADirectoryError(f"{folder!r} is an object, not a folder") from None
        staged = os.path.join(folder, f"{_OWN}.{_token()}")
        try:
            yield staged, path
        finally:
            with suppress(FileNotFoundError):
                os.unlink(staged)


def _local_etag(data: bytes, status: os.stat_result) -> str:
    """Name the content of a local object.

    Times and inode numbers come again within a few milliseconds, so of small objects,
    where a write may depend on the etag, it is a digest.
    """
    if status.st_size > _SMALL_OBJECT:
        return f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"
    import hashlib

    return hashlib.sha256(data).hexdigest()


def _create(staged: str, path: str) -> None:
    """Rename a file to a path, unless there is one: FileExistsError."""
    try:
        os.link(staged, path)  # holds even among writers that know no lock
    except FileExistsError:
        if os.path.isdir(path):  # which no retry can change
            raise IsADirectoryError(f"{path!r} is a folder, not an object") from None
        raise
    except OSError:  # a file system without hard links
        with _exclusive(os.path.dirname(path)):
            if os.path.lexists(path):
                raise FileExistsError(f"{path!r} exists") from None
            os.replace(staged, path)


@contextmanager
def _exclusive(folder: str) -> Iterator[None]:
    """Hold a folder's lock against threads, processes, and hosts that share it."""
    lock = os.path.join(folder, f"{_OWN}.lock")
    with _replacing, open(os.open(lock, _LOCK_FLAGS, 0o666), "rb+") as file:
        _lock(file.fileno(), wait=True)
        if fcntl:
            # two copies of this module in one process need flock; lockf is what NFS,
            # where shared stores lie, has always honoured between hosts
            fcntl.lockf(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            _unlock(file.fileno())


def _lock(descriptor: int, wait: bool) -> None:
    if fcntl:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    else:
        import msvcrt

        windows = cast(Any, msvcrt)
        windows.locking(descriptor, windows.LK_LOCK if wait else windows.LK_NBLCK, 1)


def _unlock(descriptor: int) -> None:
    """Let go of a lock, which a process that was forked meanwhile would hold on to."""
    if fcntl:  # elsewhere closing the file does it
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def copy_file(source: str, target: str, advance: Advance) -> None:
    """Copy a file's bytes, without moving them where the disk can share them."""
    with open(source, "rb", buffering=0) as one, open(target, "wb") as other:
        try:
            # FICLONE: https://man7.org/linux/man-pages/man2/ioctl_ficlone.2.html
            fcntl.ioctl(other, 0x40049409, one.fileno())
        except (OSError, AttributeError):
            _copy_bytes(one, other.write, advance)


def _copy_bytes(
    source: IO[bytes],
    write: Callable[[bytes], object],
    advance: Advance = lambda size: None,
    length: int | None = None,
) -> None:
    """Write the next bytes of a file, at most so many, in bounded memory."""
    left = sys.maxsize if length is None else length
    while left > 0 and (data := source.read(min(_CHUNK, left))):
        write(data)
        advance(len(data))
        left -= len(data)


def _token() -> str:
    return os.urandom(6).hex()


def load_driver(provider: str) -> type[StorageDriver]:
    """Return the driver class of a provider: `Driver` in `drivers/PROVIDER.py`.

    The file is looked for beside this one, and loaded by its path: an importable
    package called `drivers` may be somebody else's. UnknownDriverError names what
    there is.
    """
    if provider == "local":
        return LocalDriver
    module_name = f"{__name__}.drivers.{provider}"
    module: Any = sys.modules.get(module_name)
    if module is None:
        files = _find_driver_files()
        if provider not in files:
            raise UnknownDriverError(provider, sorted(["local", *files]))
        module = _load_module(module_name, files[provider])
    return cast("type[StorageDriver]", module.Driver)


def _find_driver_files() -> dict[str, str]:
    """Return the path of each driver file, by provider."""
    here = os.path.dirname(os.path.abspath(__file__))
    found: dict[str, str] = {}
    # an installed core lies in site-packages, where `drivers` may be anybody's: it
    # has its own folder, which comes first
    for folder in ("modelkit_assets_drivers", "drivers"):
        path = os.path.join(here, folder)
        for file in os.listdir(path) if os.path.isdir(path) else ():
            name, suffix = os.path.splitext(file)
            if suffix == ".py" and name.isidentifier() and name[0] != "_":
                found.setdefault(name, os.path.join(path, file))
    return found


def _load_module(name: str, path: str) -> Any:
    import copyreg
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location(name, path)
    assert spec and spec.loader, path
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        raise DriverNotInstalledError(error.name, error) from error
    if not isinstance(getattr(module, "Driver", None), type):
        raise ConfigurationError(f"{path!r} has no class called Driver")
    module = sys.modules.setdefault(name, module)  # another thread may have been faster
    # nobody can import the module by its name: let pickle ask the loader
    copyreg.pickle(module.Driver, _reduce_driver)
    return module


def _reduce_driver(driver: Any) -> tuple[Any, ...]:
    get_state = getattr(driver, "__getstate__", lambda: driver.__dict__)
    return _new_driver, (type(driver).__module__.rpartition(".")[2],), get_state()


def _new_driver(provider: str) -> StorageDriver:
    driver = load_driver(provider)
    return driver.__new__(driver)


def _renew_lock() -> None:
    global _replacing
    _replacing = threading.Lock()


if hasattr(os, "register_at_fork"):  # another thread may hold it just then
    os.register_at_fork(after_in_child=_renew_lock)


# ------------------------------------------------------------------- transfers


class _Stopped(Exception):
    """Another transfer of the same job failed, or the user interrupted."""


class _Span(NamedTuple):
    """What one request brings: a range of an object, and the files that lie in it.

    length   bytes; None for the whole of an object whose size nobody knows
    files    in order; a large file lies in several spans
    """

    object_name: str
    start: int
    length: int | None
    files: tuple[ManifestFile, ...]


def plan_spans(
    object_name: str, manifest: Manifest, files: Iterable[ManifestFile]
) -> list[_Span]:
    """Return the requests that bring these files of a version, none of them empty.

    A large file is brought by several, neighbours in a pack by one.
    """
    spans: list[_Span] = []
    for file in sorted(files, key=lambda file: file.begin):
        name = object_name if manifest.is_packed else _join(object_name, file.path)
        if file.size is None:
            spans.append(_Span(name, 0, None, (file,)))
        elif manifest.is_packed and file.size and spans and _is_next(file, spans[-1]):
            last = spans.pop()
            length, both = file.end - last.start, (*last.files, file)
            spans.append(last._replace(length=length, files=both))
        else:
            for start in range(file.begin, file.end, _PART):
                length = min(_PART, file.end - start)
                spans.append(_Span(name, start, length, (file,)))
    return spans


def _is_next(file: ManifestFile, span: _Span) -> bool:
    """Tell whether a span of a pack may go on to the end of a file."""
    is_near = file.begin - (span.start + (span.length or 0)) <= _GAP
    has_room = file.end - span.start <= _PART
    return is_near and has_room and span.start <= span.files[-1].begin


def choose_share(spans: Sequence[_Span]) -> int:
    """Return of how many workers one is to bring these.

    Of large ranges half as many are as fast, and take half of the memory.
    """
    size = sum(span.length or 0 for span in spans)
    return 2 if size > len(spans) * _PART // 4 else 1


class _SpanSink:
    """Writes a span's bytes into its files, and hashes those that lie in it whole.

    got        the files that came, with the sizes and digests that they have
    is_whole   whether its files lie in it whole
    """

    def __init__(self, span: _Span, root: str, advance: Advance) -> None:
        self.written, self.got = 0, list[ManifestFile]()
        self._span, self._root, self._advance = span, root, advance
        self._waiting = list(span.files)[::-1]
        self._file: IO[bytes] | None = None
        # else they are one that is large, which lies in several
        self.is_whole = len(span.files) > 1 or span.length in (None, span.files[0].size)

    def write(self, data: bytes) -> None:
        at, left = self._span.start + self.written, memoryview(data)
        self.written += len(data)
        if self._span.length is not None and self.written > self._span.length:
            size = f"{self._span.length} bytes"
            raise AssetIntegrityError(self._span.object_name, size, "more")
        while left and self._waiting:
            file = self._waiting[-1]
            if at < file.begin:  # a header of the pack
                length = min(file.begin - at, len(left))
            else:
                length = min(len(left), (file.end if file.size else sys.maxsize) - at)
                self._put(left[:length], file, at - file.begin)
            at, left = at + length, left[length:]
            if file.size and at == file.end:
                self.finish()
        self._advance(len(data))

    def _put(self, data: memoryview, file: ManifestFile, position: int) -> None:
        path = local_path(self._root, file.path)
        with _writing(path):
            self._file = self._file or self._open(path, position)
            self._file.write(data)
        if self.is_whole:
            self._hash.update(data)

    def _open(self, path: str, position: int) -> IO[bytes]:
        import hashlib

        self._hash = hashlib.sha256()
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
        # of a large file other ranges may be there already
        flags |= os.O_TRUNC if self.is_whole else 0
        file = os.fdopen(os.open(path, flags, 0o666), "r+b")
        file.seek(position)
        return file

    def finish(self) -> None:
        """Close the present file, if any, which is complete or will never be."""
        if self._file is None and self._span.length is None and not self.written:
            self._put(memoryview(b""), self._span.files[0], 0)
        if self._file is None:
            return
        file = self._waiting.pop()
        done, size, self._file = self._file, self._file.tell(), None
        with _writing(local_path(self._root, file.path)):
            done.close()
        if self.is_whole:
            got = file._replace(size=size, sha256=self._hash.hexdigest())
            self.got.append(got)


@contextmanager
def _writing(path: str) -> Iterator[None]:
    """Turn what the operating system says of the assets dir into AssetsDirError.

    It is not to be mistaken for the store's, which may be tried again.
    """
    try:
        yield
    except OSError as error:
        if _is_final(error):
            raise
        reason = error.strerror or error
        raise AssetsDirError(error.filename or path, reason) from error


class _LargeFile:
    """A file that comes in several spans, hashed in order beside their transfer."""

    def __init__(self, file: ManifestFile, root: str, come: set[int]) -> None:
        import hashlib

        self.file, self._path, self._come = file, local_path(root, file.path), come
        self._hash, self._hashed, self._hashing = hashlib.sha256(), 0, threading.Lock()

    def add(self, advance: Advance, *starts: int) -> None:
        """Note ranges that came, and hash those that are next, in one thread."""
        self._come.update(starts)
        while self._hashed in self._come and self._hashing.acquire(blocking=False):
            try:
                while self._hashed in self._come:
                    self._hash_next(advance)
            finally:
                self._hashing.release()

    def _hash_next(self, advance: Advance) -> None:
        length = min(_PART, (self.file.size or 0) - self._hashed)
        with open(self._path, "rb", buffering=0) as file:
            file.seek(self._hashed)
            self._hashed += length
            _copy_bytes(file, self._hash.update, lambda size: advance(0), length)

    def get_result(self) -> ManifestFile:
        """Return the file with the size and digest that it has."""
        size = os.path.getsize(self._path) if self._hashed else 0
        return self.file._replace(size=size, sha256=self._hash.hexdigest())


class Progress(NamedTuple):
    """How far a piece of work is, as an `on_progress` function is told.

    action     `hashing`, `packing`, `uploading`, `downloading` or `checking`
    asset      `name:version`, or what else is worked on
    done       bytes of `size`; a file that came wrong counts again, up to that
    files_done files of `files`
    """

    action: str
    asset: str
    done: int
    size: int
    files_done: int
    files: int


class _Transfer:
    """The moving of bytes for one operation: several objects at once, each retried.

    on_progress is called under a lock, and beat, without one, whenever bytes move.
    What on_progress raises is kept as `failure`: an SDK may take it for its own.
    """

    def __init__(
        self,
        driver: StorageDriver,
        timeout_s: float,
        workers: int,
        on_progress: OnProgress | None = None,
        beat: Advance = lambda size: None,
    ) -> None:
        self.driver, self.timeout_s, self.workers = driver, timeout_s, workers
        self._on_progress, self._beat = on_progress, beat
        self._progress = Progress("", "", 0, 0, 0, 0)
        self._stop, self._counting = threading.Event(), threading.Lock()
        self.failure: BaseException | None = None

    def begin(self, action: str, asset: str, files: Sequence[ManifestFile]) -> None:
        """Note what is to be done now."""
        size = sum(file.size or 0 for file in files)
        self._progress = Progress(action, asset, 0, size, 0, len(files))
        self.advance(0)

    def advance(self, size: int, files: int = 0) -> None:
        """Note that bytes have moved; raises _Stopped where the rest is in vain."""
        if self._stop.is_set():
            raise _Stopped
        self._beat(size)
        if self._on_progress is not None:  # a list of what was told may be one
            with self._counting:
                last = self._progress
                done = min(last.done + size, last.size or sys.maxsize)
                files = min(last.files_done + files, last.files)
                self._progress = last._replace(done=done, files_done=files)
                try:
                    self._on_progress(self._progress)
                except BaseException as error:
                    self.failure, cast(Any, error).is_final = error, True
                    self._stop.set()
                    raise

    def run(
        self, function: Callable[[Item], T], items: Iterable[Item], share: int = 1
    ) -> list[T]:
        """Return function(item) for each item, in order, several at once.

        Of the workers, one in `share` takes part, and two at least.

        The first error stops the others, where they are, and is raised.
        """
        waiting = list(enumerate(items))[::-1]
        results: dict[int, T] = {}
        errors: list[BaseException] = []

        def work() -> None:
            with suppress(IndexError):  # when all are taken
                while not self._stop.is_set():
                    index, item = waiting.pop()
                    try:
                        results[index] = function(item)
                    except BaseException as error:
                        errors.append(error)
                        self._stop.set()

        workers = min(max(self.workers // share, 2), self.workers, len(waiting))
        self._run_threads(work, workers)
        if self.failure or errors:
            raise self.failure or errors[0]
        return [results[index] for index in range(len(results))]

    def _run_threads(self, work: Callable[[], None], number: int) -> None:
        # daemons: an upload, which nothing can stop, must not hold up an interrupt
        threads = [threading.Thread(target=work, daemon=True) for _ in range(number)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:
            self._stop.set()
            deadline = time.monotonic() + _STOP_GRACE_S
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
            raise

    def retry(
        self,
        object_name: str,
        attempt: Callable[[], T],
        moved: Callable[[], int] = lambda: 0,
    ) -> T:
        """Return attempt(), repeated after transient failures, with our own errors.

        Back-off is exponential with full jitter. It ends after the timeout, counted
        from the last time that `moved()`, a number of bytes, grew.
        """
        failing_since, before, delay = 0.0, moved(), _FIRST_DELAY_S
        while True:
            try:
                return attempt()
            except (ConnectionError, TimeoutError) as error:
                now = time.monotonic()
                if not failing_since or moved() > before:
                    failing_since, before, delay = now, moved(), _FIRST_DELAY_S
                pause = _random() * delay
                if now + pause > failing_since + self.timeout_s:
                    waited = now - failing_since
                    raise StorageUnavailableError(object_name, waited, error) from error
                # told to whoever waits, once it takes seconds
                level = "warning" if delay > 2 else "info"
                text = "trying %r again in %.1f s: %s"
                getattr(_logger(), level)(text, object_name, pause, error)
            except (OSError, ValueError, ImportError) as error:
                if isinstance(error, (ModelkitAssetsError, FileExistsError)):
                    raise  # that a condition failed is for the caller to handle
                raise self._translate(error, object_name) from error
            if self._stop.wait(pause):
                raise _Stopped
            delay = min(2 * delay, _MAX_DELAY_S)

    def _translate(self, error: Exception, object_name: str) -> StorageDriverError:
        """Return one of our errors for one of a driver's, which is built-in."""
        if isinstance(error, ImportError):
            package = getattr(self.driver, "package", error.name)
            return DriverNotInstalledError(package, error)
        if isinstance(error, ValueError):  # a missing bucket is no missing object
            where = f"{object_name!r} in {self.driver.bucket!r}"
            return ConfigurationError(f"{where}: {error}")
        if isinstance(error, FileNotFoundError):
            return ObjectDoesNotExistError(self.driver, self.driver.bucket, object_name)
        if isinstance(error, PermissionError):
            return StorageAccessError(object_name, error)
        return StorageDriverError(f"{object_name!r}: {error}")

    def is_in_store(self, object_name: str, file: ManifestFile) -> bool:
        """Tell whether an object has a file's size and digest, which reads it."""
        span = _Span(object_name, 0, None, (file._replace(path="", size=None),))
        sink = _SpanSink(span, os.devnull, self.advance)
        driver = self.driver
        try:
            size, _ = self.retry(object_name, lambda: driver.stat_object(object_name))
            if size == file.size:
                self.read(span, sink)
        except ObjectDoesNotExistError:
            return False
        return [one.sha256 for one in sink.got] == [file.sha256]

    def upload(self, path: str, object_name: str) -> None:
        """Upload a file."""
        upload: Any = self.driver.upload_object
        sent, told, size = 0, 0, os.path.getsize(path)
        counting = threading.Lock()

        def report(number: int) -> None:
            nonlocal sent, told
            with counting:  # an SDK's own threads
                sent += number
                more = max(min(sent, size) - told, 0)  # what is sent again is no news
                told += more
            self.advance(more)

        watched = []
        if self._on_progress is not None:
            from inspect import signature

            watched = [report] if "advance" in signature(upload).parameters else []

        def attempt() -> None:
            nonlocal sent
            sent = 0
            upload(path, object_name, *watched)

        self.retry(object_name, attempt)
        self.advance(size - told)

    def copy_object(self, source: str, target: str) -> bool:
        """Tell whether the store made a copy of an object itself."""
        try:
            self.retry(target, lambda: self.driver.copy_object(source, target))
        except StorageDriverError as error:  # too large, or not allowed
            _logger().info("uploading %r, as it cannot be copied: %s", target, error)
            return False
        return True

    def read(self, span: _Span, sink: _SpanSink) -> None:
        """Read a span into its sink, going on where it broke off."""
        name, whole = span.object_name, span.length
        is_object = not span.start and span.files[0].offset is None
        if is_object and sink.is_whole:
            whole = None  # and what is longer than it should be is seen

        def attempt() -> None:
            before = sink.written
            left = None if whole is None else whole - before
            self.driver.download_object(name, sink, span.start + before, left)
            if 0 < before == sink.written and not span.files[0].sha256:
                # all had come before, so that failed for a checksum of the store's
                raise AssetIntegrityError(name, "its checksum", "another")

        try:
            self.retry(name, attempt, lambda: sink.written)
        finally:
            sink.finish()

    def copy(
        self, files: Iterable[ManifestFile], copies: dict[str, str], root: str
    ) -> list[ManifestFile]:
        """Copy what lies elsewhere, by digest, to below root; return what is right."""

        def copy(file: ManifestFile) -> ManifestFile:
            path = local_path(root, file.path)
            with suppress(OSError):  # where it has gone meanwhile
                copy_file(copies[file.sha256 or ""], path, lambda size: None)
                if file.executable:
                    _make_executable(path)
            return file

        found = self.run(copy, [one for one in files if one.sha256 in copies])
        return self.find_right(found, root)

    def find_right(
        self, files: Iterable[ManifestFile], root: str
    ) -> list[ManifestFile]:
        """Return those files that lie below root with the right size and digest."""

        def check(file: ManifestFile) -> ManifestFile | None:
            path = local_path(root, file.path)
            with suppress(OSError):
                status = os.stat(path)
                fit = not file.executable or status.st_mode & stat.S_IXUSR
                if fit and file.sha256 and status.st_size == file.size:
                    right = hash_file(path, self.advance) == file.sha256
                    self.advance(0, files=int(right))
                    return file if right else None
            return None

        return [file for file in self.run(check, files) if file]


class _Download:
    """The download of files below a folder, going on from where a killed one was.

    Which ranges have come of large files is written to a journal beside the folder.
    """

    def __init__(self, transfer: _Transfer, root: str) -> None:
        self._transfer, self._root = transfer, root
        self._journal = f"{root}.ranges"
        self._come = _read_journal(self._journal)
        self._noting = threading.Lock()

    def get_begun(self, file: ManifestFile) -> set[int]:
        """Return where the ranges begin that came of a large file."""
        size, come = file.size or 0, self._come.get(file.path, ())
        if size <= _PART or not os.path.isfile(local_path(self._root, file.path)):
            return set()
        # whatever stands in the journal
        return {at for at in come if type(at) is int and at in range(0, size, _PART)}

    def fetch(
        self, object_name: str, manifest: Manifest, files: Sequence[ManifestFile]
    ) -> dict[str, ManifestFile]:
        """Return the files, by path, with the sizes and digests with which they came.

        AssetIntegrityError where these are not what they should be, twice.
        """
        got = self._fetch_once(object_name, manifest, files)
        wrong = [one for one in files if not _is_right(one, got)]
        if wrong:
            text = "%d files of %r came wrong, %r first: downloading them once more"
            _logger().warning(text, len(wrong), object_name, wrong[0].path)
            for file in wrong:
                self._come.pop(file.path, None)
                with suppress(FileNotFoundError):
                    os.unlink(local_path(self._root, file.path))
            got.update(self._fetch_once(object_name, manifest, wrong))
        for file in wrong:
            if not _is_right(file, got):
                name = _join(object_name, file.path)
                came = got.get(file.path, file._replace(size=0, sha256="no digest"))
                expected = f"{file.size} bytes with SHA-256 {file.sha256}"
                expected = expected if file.sha256 else "what the store's checksum says"
                size_and_digest = f"{came.size} bytes with {came.sha256}"
                raise AssetIntegrityError(name, expected, size_and_digest)
        return got

    def _fetch_once(
        self, object_name: str, manifest: Manifest, files: Sequence[ManifestFile]
    ) -> dict[str, ManifestFile]:
        advance = self._transfer.advance
        begun = {file.path: self.get_begun(file) for file in files}
        spans = [
            span
            for span in plan_spans(object_name, manifest, files)
            if span.start - span.files[0].begin not in begun[span.files[0].path]
        ]
        large = {
            file.path: _LargeFile(file, self._root, begun[file.path])
            for file in files
            if (file.size or 0) > _PART
        }

        def fetch(span: _Span) -> list[ManifestFile]:
            file, start = span.files[0], span.start - span.files[0].begin
            sink = _SpanSink(span, self._root, advance)
            try:
                self._transfer.read(span, sink)
            except AssetIntegrityError:
                return []  # as if nothing had come
            if not sink.is_whole and sink.written == span.length:
                self._note(file.path, start)
                large[file.path].add(advance, start)
            advance(0, files=len(sink.got))
            return sink.got

        fetched = self._transfer.run(fetch, spans, choose_share(spans))
        came = [file for some in fetched for file in some]
        for one in large.values():
            one.add(advance)  # what had come before
            came.append(one.get_result())
            advance(0, files=1)
        came += [self._make_empty(file) for file in files if file.size == 0]
        for file in came:
            if file.executable:
                _make_executable(local_path(self._root, file.path))
        return {file.path: file for file in came}

    def _make_empty(self, file: ManifestFile) -> ManifestFile:
        open(local_path(self._root, file.path), "wb").close()
        self._transfer.advance(0, files=1)
        return file._replace(sha256=_EMPTY_SHA256)

    def _note(self, path: str, start: int) -> None:
        with self._noting, open(self._journal, "a", encoding="utf-8") as file:
            file.write(json.dumps([path, start]) + "\n")


def _is_right(file: ManifestFile, got: dict[str, ManifestFile]) -> bool:
    """Tell whether a file came as it should, as far as its manifest knows that."""
    came = got.get(file.path)
    return came is not None and (not file.sha256 or came == file)


def _read_journal(path: str) -> dict[str, set[int]]:
    """Return where the ranges begin that came of each large file, by its path."""
    come: dict[str, set[int]] = {}
    with suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            # the last line of a killed process
            with suppress(ValueError, TypeError, RecursionError):
                part, start = json.loads(line)
                come.setdefault(part, set()).add(start)
    return come


def hash_file(path: str, advance: Advance) -> str:
    """Return a file's SHA-256 in hexadecimal, reading it in bounded memory."""
    import hashlib

    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        _copy_bytes(file, digest.update, advance)
    return digest.hexdigest()


def _make_executable(path: str) -> None:
    mode = os.stat(path).st_mode
    os.chmod(path, mode | (mode & 0o444) >> 2)  # for those who may read


def _random() -> float:
    """Return a number from 0 to 1; `random` would cost the start-up 6 ms."""
    return int.from_bytes(os.urandom(2), "big") / 0xFFFF


# ------------------------------------------------------------------- publishing


class _Source(NamedTuple):
    """What is being published: its manifest, and each part's stamp, see `_stamp`."""

    top: str
    transfer: _Transfer
    manifest: Manifest
    stamps: dict[str, tuple[int, ...]]

    def find(self, file: ManifestFile) -> tuple[str, tuple[int, ...]]:
        """Return a file's path, and its stamp when it was hashed."""
        return local_path(self.top, file.path), self.stamps[file.path]


def _read_source(top: str, transfer: _Transfer, pack: bool) -> _Source:
    """Find and hash all that is to be published; InvalidSourceError if it cannot be."""

    def describe(file: ManifestFile) -> ManifestFile:
        path, stamp = local_path(top, file.path), found[file.path]
        digest = hash_file(path, transfer.advance)
        transfer.advance(0, files=1)
        _check_unchanged(path, stamp)
        executable = bool(os.stat(path).st_mode & stat.S_IXUSR)
        return file._replace(sha256=digest, executable=executable)

    try:
        found = dict(_walk_source(top))
        empty = [part for part, stamp in found.items() if not stamp]
        files = [ManifestFile(part, stamp[0]) for part, stamp in found.items() if stamp]
        transfer.begin("hashing", top, files)
        files = transfer.run(describe, files)
    except (OSError, ValueError) as error:
        if _is_final(error):
            raise
        where = getattr(error, "filename", None) or top
        reason = getattr(error, "strerror", None) or error
        at = f": {where!r}" if where != top else ""
        raise InvalidSourceError(top, f"{reason}{at}") from error
    if not files:
        raise InvalidSourceError(top, "it holds no files")
    manifest = Manifest.create("" not in found, files, empty)
    if pack and not manifest.is_directory:
        raise InvalidSourceError(top, "only a folder can be packed")
    manifest = manifest.with_pack() if pack else manifest
    if not _is_readable(manifest.to_json()):
        reason = f"{len(files)} files are more than a manifest holds"
        raise InvalidSourceError(top, reason)
    return _Source(top, transfer, manifest, found)


def _write_pack(source: _Source, path: str) -> ManifestFile:
    """Write a packed source's tar, and return its size and digest."""
    manifest, transfer = source.manifest, source.transfer
    with open(path, "wb") as pack:
        for part in manifest.empty_directories:
            pack.write(_tar_header(f"{part}/"))
        for file in manifest.files:
            file_path, stamp = source.find(file)
            pack.write(_tar_header(file.path, file))
            with open(file_path, "rb") as one:
                _copy_bytes(one, pack.write, transfer.advance)
            transfer.advance(0, files=1)
            _check_unchanged(file_path, stamp)
            pack.write(bytes(_fill_block(stamp[0]) - stamp[0]))
        pack.write(bytes(2 * 512))
    return ManifestFile("", os.path.getsize(path), hash_file(path, transfer.advance))


def _walk_source(top: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield (part, stamp) of each file, and of each empty folder, without a stamp.

    In order; links are followed; the part is `""` where the source is a file itself.
    """
    nowhere: frozenset[tuple[int, int]] = frozenset()
    pending = [("", nowhere)]
    while pending:
        part, above = pending.pop()
        path = local_path(top, part)
        status = os.stat(path)
        here = (status.st_dev, status.st_ino)
        if part and not is_contained(part):
            reason = f"the name {part!r} cannot be kept everywhere"
            raise InvalidSourceError(top, reason)
        if stat.S_ISREG(status.st_mode):
            yield part, _stamp(status)
        elif not stat.S_ISDIR(status.st_mode):
            raise InvalidSourceError(top, f"{path!r} is neither a file nor a folder")
        elif here in above:
            reason = f"the link {path!r} leads back to where it lies"
            raise InvalidSourceError(top, reason)
        else:
            names = sorted(os.listdir(path), reverse=True)
            if not part and _PARTIAL in names:
                raise InvalidSourceError(top, "it is a copy that is not complete")
            if not part and SUCCESS in names:
                _check_marker(os.path.join(path, SUCCESS))
                names.remove(SUCCESS)
            if part and not names:
                yield part, ()
            pending += [(_join(part, name), above | {here}) for name in names]


def _check_marker(path: str) -> None:
    """Raise InvalidSourceError unless a file is the marker of a cached copy.

    That is not content, so publishing the copy leaves it out.
    """
    try:
        _read_marker(path)
    except AssetIntegrityError:
        raise InvalidSourceError(path, "markers have that name, rename it") from None


def _read_marker(path: str) -> Manifest | None:
    """Return the manifest in a marker; None in modelkit's, which is empty."""
    with open(path, "rb") as file:
        data = file.read(_MAX_DOCUMENT + 1)
    return Manifest.from_json(data, path) if data else None


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    """Return what changes when a file does; its size comes first."""
    return status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def _is_same(path: str, stamp: tuple[int, ...]) -> bool:
    """Tell whether a file or folder is there, and has not changed."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return _stamp(os.stat(path)) == stamp
    return False


def _check_unchanged(path: str, stamp: tuple[int, ...]) -> None:
    if not _is_same(path, stamp):
        raise SourceChangedError(path)


# ------------------------------------------------------------------- the store


class StorageProvider:
    """The remote store: publishes versions, and reads what is published.

    An argument beats its environment variable, which beats the default: timeout_s
    (seconds), prefix, force_download, provider (`s3`, `gcs`, `az`, `local`, or a driver
    file's name), and the driver's own settings, `bucket` among them. client is a ready
    SDK client for the driver. on_progress is called with a `Progress` whenever bytes
    move, from the threads that move them, one at a time; it is not pickled.

    - any number of publishers at once, and a crash at any point, lose and tear nothing
    - nothing in the store is ever deleted or replaced, but the list of versions
    """

    def __init__(
        self,
        timeout_s: float | None = None,
        prefix: str | None = None,
        force_download: bool | None = None,
        provider: str | None = None,
        client: Any = None,
        on_progress: OnProgress | None = None,
        **driver_settings: Any,
    ) -> None:
        self.on_progress = on_progress
        self.provider = _setting(provider, "MODELKIT_STORAGE_PROVIDER")
        self._conditions_proved = False
        if not self.provider:
            raise NoConfiguredProviderError()
        self.timeout = _number(timeout_s, "MODELKIT_STORAGE_TIMEOUT_S")
        variable = "MODELKIT_STORAGE_FORCE_DOWNLOAD"
        self.force_download = _boolean(force_download, variable)
        prefix = cast(str, _setting(prefix, "MODELKIT_STORAGE_PREFIX"))
        self.prefix = prefix.strip("/")
        if not is_contained(self.prefix):
            reason = f"must be a path below the bucket, not {prefix!r}"
            raise ConfigurationError(f"MODELKIT_STORAGE_PREFIX {reason}")
        _boolean(driver_settings.pop("lazy_driver", None), "MODELKIT_LAZY_DRIVER")
        bucket = driver_settings.pop("bucket", None)
        bucket = _setting(bucket, "MODELKIT_STORAGE_BUCKET")
        make_driver = cast(Any, load_driver(self.provider))
        if not bucket:
            raise ConfigurationError("MODELKIT_STORAGE_BUCKET is not set")
        try:
            self.driver: StorageDriver = make_driver(bucket, client, **driver_settings)
        except ValueError as error:
            if isinstance(error, ModelkitAssetsError):
                raise
            raise ConfigurationError(str(error)) from error
        self.workers = _whole_number("MODELKIT_STORAGE_WORKERS")
        if find_setting("MODELKIT_STORAGE_WORKERS")[1] == "default":
            self.workers = getattr(self.driver, "workers", self.workers)

    def get_object_name(self, name: str, version: str) -> str:
        """Return a file asset's object, or what a directory's objects lie below."""
        AssetSpec.check_name_valid(name)
        AssetSpec.check_version_valid(version)
        return f"{self.prefix}/{name}/{version}"

    def get_meta_object_name(self, name: str, version: str) -> str:
        """Return the name of a version's manifest object."""
        return self.get_object_name(name, version) + ".meta"

    def get_versions_object_name(self, name: str) -> str:
        """Return the name of the object that lists an asset's versions."""
        AssetSpec.check_name_valid(name)
        return f"{self.prefix}/{name}.versions"

    def get_versions_info(self, name: str) -> list[str]:
        """Return an asset's published versions, the latest first.

        ObjectDoesNotExistError where the store has no such asset.
        """
        return cast("list[str]", self._read_versions(name)[0]["versions"])

    def get_asset_meta(self, name: str, version: str) -> dict[str, Any]:
        """Return a version's manifest as JSON holds it, `push_date` as a datetime."""
        return self.read_manifest(name, version).describe()

    def read_manifest(self, name: str, version: str) -> Manifest:
        """Return a version's manifest; ObjectDoesNotExistError where there is none."""
        object_name = self.get_meta_object_name(name, version)
        return Manifest.from_json(self._read(object_name)[0], object_name)

    def read_manifests(self, pairs: Iterable[tuple[str, str]]) -> list[Manifest | None]:
        """Return the manifests of names and versions; None where one cannot be read."""

        def read(pair: tuple[str, str]) -> Manifest | None:
            with suppress(ObjectDoesNotExistError, AssetIntegrityError):
                return self.read_manifest(*pair)
            return None

        return self._transfer().run(read, pairs)

    def iterate_assets(self) -> Iterator[tuple[str, list[str]]]:
        """Yield each asset's name and its versions, in order of the names."""
        names = self.retry(
            self.prefix,
            lambda: find_asset_names(
                self.driver.iterate_objects(self.prefix), self.prefix
            ),
        )
        yield from zip(names, self._transfer().run(self.get_versions_info, names))

    def new(
        self,
        asset_path: StrPath,
        name: str,
        version: str | None = None,
        dry_run: bool = False,
        *,
        pack: bool = False,
    ) -> str:
        """Publish a file or folder as a new asset, and return its version.

        AssetAlreadyExistsError where the asset has a version. dry_run writes nothing.
        pack makes one object of a folder, a tar, which modelkit 0.1.3 cannot read.
        """
        check_new_name(name)
        spec = AssetSpec(name, version=version)
        if self._list_versions(name):
            raise AssetAlreadyExistsError(name)
        version = self._push(asset_path, spec, [], False, dry_run, pack)
        if not dry_run:
            self._commit(spec, version, is_new=True)
        return version

    def update(
        self,
        asset_path: StrPath,
        name: str,
        version: str | None = None,
        *,
        bump_major: bool = False,
        dry_run: bool = False,
        pack: bool = False,
    ) -> str:
        """Publish a file or folder as an asset's next version, and return that.

        version may be complete, or name the major to count up. AssetDoesNotExistError
        where the asset is not there yet. dry_run writes nothing. pack: as of `new`.
        """
        spec = AssetSpec(name, version=version)
        listed = self._list_versions(name)
        if listed is None:
            raise AssetDoesNotExistError(name, hint="publish it first with `new`")
        version = self._push(asset_path, spec, listed, bump_major, dry_run, pack)
        if not dry_run:
            self._commit(spec, version, is_new=False)
        return version

    def push(
        self,
        asset_path: StrPath,
        name: str,
        version: str,
        dry_run: bool = False,
        *,
        pack: bool = False,
    ) -> None:
        """Upload a version without listing it, so that only a pinned spec finds it."""
        spec = AssetSpec(name, version=version)
        if not spec.is_version_complete():
            raise InvalidVersionError(version, "a push takes a complete version")
        listed = self._list_versions(name) or []
        self._push(asset_path, spec, listed, False, dry_run, pack)

    def download(self, name: str, version: str, destination: StrPath) -> dict[str, Any]:
        """Download a version to destination/NAME/VERSION; return its `path` and `meta`.

        What is there before is replaced, once all is complete and has its digests.
        """
        manifest = self.read_manifest(name, version)
        path = local_path(os.fspath(destination), f"{name}/{version}")
        staging = os.path.join(os.path.dirname(path), f"{_OWN}.{_token()}")
        os.makedirs(staging)
        try:
            data = os.path.join(staging, "data")
            manifest = self.download_files(name, version, manifest, data)
            swap_in(data, path, os.path.join(staging, "old"))
        finally:
            _remove_tree(staging)
        return {"path": path, "meta": manifest.describe()}

    def download_files(
        self,
        name: str,
        version: str,
        manifest: Manifest,
        root: str,
        beat: Advance = lambda size: None,
        copies: dict[str, str] | None = None,
    ) -> Manifest:
        """Download a version's files below root, but those that are right already.

        copies: paths of files that are at hand, by SHA-256, which are copied instead.
        Returns the manifest with the sizes and digests of the files as they are now.
        """
        object_name = self.get_object_name(name, version)
        transfer = self._transfer(beat)
        download = _Download(transfer, root)
        files = {file.path: file for file in manifest.files}
        transfer.begin("downloading", f"{name}:{version}", manifest.files)
        ended = [one for one in manifest.files if not download.get_begun(one)]
        for file in transfer.find_right(ended, root):
            del files[file.path]
        if manifest.is_directory:
            folders = {part.rpartition("/")[0] for part in files}
            for part in ("", *folders, *manifest.empty_directories):
                os.makedirs(local_path(root, part), exist_ok=True)
        begun = sum(len(download.get_begun(file)) for file in files.values()) * _PART
        needed = sum(file.size or 0 for file in files.values())
        _check_free_space(root, needed - begun)
        transfer.advance(begun)
        for file in transfer.copy(list(files.values()), copies or {}, root):
            del files[file.path]
        files.update(download.fetch(object_name, manifest, list(files.values())))
        return manifest.with_files([files.get(one.path, one) for one in manifest.files])

    def download_objects(self, name: str, folder: str) -> str:
        """Download an object, or all below a prefix, to a folder; return its path.

        They need not belong to an asset. InvalidSourceError where there are none, or
        one has a name that no file can have.
        """
        transfer, uri = self._transfer(), self.driver.get_object_uri(name)
        prefix, root = name.rstrip("/"), os.path.join(folder, "data")
        parts = [""]
        try:
            # an SDK would make another address of one with `..`
            _check_paths([prefix] if prefix else [], [])
            if name != prefix or not prefix or self._get_size(name) is None:
                iterate, start = self.driver.iterate_objects, len(prefix) + bool(prefix)
                below = transfer.retry(uri, lambda: list(iterate(prefix)))
                # what ends with / stands for a folder in some tools
                parts = [one[start:] for one in below if not one.endswith("/")]
                _require(bool(parts), "there is no such object, and none below it")
                _check_paths(parts, [])
        except ValueError as error:
            if isinstance(error, ModelkitAssetsError):
                raise
            raise InvalidSourceError(uri, error) from error

        for part in parts:
            os.makedirs(os.path.dirname(local_path(root, part)), exist_ok=True)
        files = tuple(map(ManifestFile, parts))
        transfer.begin("downloading", uri, files)
        _Download(transfer, root).fetch(prefix, Manifest(True, files, (), {}), files)
        return root

    def is_right(self, manifest: Manifest, root: str, beat: Advance) -> bool:
        """Tell whether root is just what a version holds, by its files' digests."""
        try:
            found = dict(_walk_source(root)).keys()
        except (OSError, InvalidSourceError):
            return False
        expected = {one.path for one in manifest.files} | {*manifest.empty_directories}
        transfer = self._transfer(beat)
        transfer.begin("checking", root, manifest.files)
        right = transfer.find_right(manifest.files, root)
        return found == expected and right == list(manifest.files)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "on_progress": None}

    def _transfer(self, beat: Advance = lambda size: None) -> _Transfer:
        workers, on_progress = self.workers, self.on_progress
        return _Transfer(self.driver, self.timeout, workers, on_progress, beat)

    def retry(self, object_name: str, attempt: Callable[[], T]) -> T:
        """Return attempt(), repeated after transient failures, with our own errors."""
        return self._transfer().retry(object_name, attempt)

    def _read(self, object_name: str) -> tuple[bytes, str]:
        try:
            return self.retry(object_name, lambda: self.driver.read_object(object_name))
        except StorageDriverError as error:
            if getattr(error.__cause__, "errno", None) != errno.EFBIG:
                raise
            raise AssetIntegrityError(object_name, _READABLE, "more") from error

    def _write(self, data: bytes, object_name: str, if_match: str) -> str:
        write = self.driver.write_object
        return self.retry(
            object_name, lambda: write(data, object_name, if_match=if_match)
        )

    def _read_versions(self, name: str) -> tuple[dict[str, Any], str]:
        """Return an asset's `.versions` object and its etag."""
        object_name = self.get_versions_object_name(name)
        data, etag = self._read(object_name)
        return _read_versions(data, object_name), etag

    def _list_versions(self, name: str) -> list[str] | None:
        """Return an asset's published versions; None where there is no such asset."""
        with suppress(ObjectDoesNotExistError):
            return self.get_versions_info(name)
        return None

    def _push(
        self,
        asset_path: StrPath,
        spec: AssetSpec,
        listed: list[str],
        bump_major: bool,
        dry_run: bool,
        pack: bool,
    ) -> str:
        """Claim a version and upload its data; return the version."""
        choose_next_version(spec, listed, bump_major)  # wrong? then before the hashing
        source = _read_source(os.fspath(asset_path), self._transfer(), pack)
        if not pack and len(source.manifest.files) > _MANY_FILES:
            text = "%d files take a request each: --pack makes one object of them"
            _logger().warning(text, len(source.manifest.files))
        taken, state = set(listed), "taken"
        while state == "taken":
            version = choose_next_version(spec, sorted(taken), bump_major)
            if version not in taken:
                state = self._claim(spec.name, version, source.manifest, dry_run)
            if state == "taken" and spec.is_version_complete():
                late = "it is not listed, so its publication goes on or was interrupted"
                hint = {} if version in listed else {"hint": late}
                raise AssetAlreadyExistsError(spec.name, version, **hint)
            if state == "taken":
                taken |= {version, *(self._list_versions(spec.name) or ())}
        if not dry_run:
            self._upload(source, spec.name, version, state == "begun", listed)
        return version

    def _claim(self, name: str, version: str, manifest: Manifest, dry_run: bool) -> str:
        """Make a version ours by creating its manifest, which one publisher alone can.

        Returns `free` where it was and now is ours, `begun` where an interrupted push
        of the same content made it ours before, else `taken`.
        """
        state = self._look_up(name, version, manifest)
        if state == "free" and not dry_run:
            object_name = self.get_meta_object_name(name, version)
            try:
                self._write(manifest.to_json(), object_name, if_match="")
            except FileExistsError:
                # another publisher's, or our own, whose answer was lost on the way
                state = self._look_up(name, version, manifest)
                return "taken" if state == "free" else state
            self._prove_conditions(manifest, object_name)
        return state

    def _prove_conditions(self, manifest: Manifest, object_name: str) -> None:
        """Warn, once, of a store that lets a second create-if-absent through.

        The bytes are the same as those of our claim, so nothing is lost either way.
        """
        if self._conditions_proved:
            return
        with suppress(FileExistsError):
            self._write(manifest.to_json(), object_name, if_match="")
            text = "the store ignores conditional writes: of concurrent publishers of "
            text += "one asset one may be lost, so publish from one place at a time"
            _logger().warning(text)
        self._conditions_proved = True

    def _look_up(self, name: str, version: str, manifest: Manifest) -> str:
        try:
            claimed = self.read_manifest(name, version)
        except ObjectDoesNotExistError:
            return "taken" if self._has_data(name, version) else "free"
        except AssetIntegrityError:
            return "taken"
        same = manifest.has_same_content(claimed)
        listed = same and version in (self._list_versions(name) or ())
        return "begun" if same and not listed else "taken"

    def _has_data(self, name: str, version: str) -> bool:
        """Tell whether somebody uploads it without a claim, as modelkit does."""
        object_name = self.get_object_name(name, version)
        return self._get_size(object_name) is not None or self.retry(
            object_name, lambda: any(self.driver.iterate_objects(object_name))
        )

    def _get_size(self, object_name: str) -> int | None:
        with suppress(ObjectDoesNotExistError):
            stat_object = self.driver.stat_object
            return self.retry(object_name, lambda: stat_object(object_name))[0]
        return None

    def _upload(
        self, source: _Source, name: str, version: str, begun: bool, listed: list[str]
    ) -> None:
        transfer, files = source.transfer, source.manifest.files
        object_name = self.get_object_name(name, version)
        earlier = self._find_objects(name, listed[0]) if listed else {}

        def upload(file: ManifestFile) -> None:
            path, stamp = source.find(file)
            target = _join(object_name, file.path)
            if not (begun and transfer.is_in_store(target, file)):
                _check_unchanged(path, stamp)
                try:
                    copied = earlier.get(file.sha256)
                    if copied and transfer.copy_object(copied, target):
                        transfer.advance(stamp[0])
                    else:
                        transfer.upload(path, target)
                finally:
                    _check_unchanged(path, stamp)
            transfer.advance(0, files=1)

        if source.manifest.is_packed:
            transfer.begin("packing", f"{name}:{version}", files)
            self._upload_pack(source, object_name, begun)
        else:
            transfer.begin("uploading", f"{name}:{version}", files)
            transfer.run(upload, files)
        with suppress(OSError):  # where it is gone
            if dict(_walk_source(source.top)) == source.stamps:
                return
        raise SourceChangedError(source.top)

    def _upload_pack(self, source: _Source, object_name: str, begun: bool) -> None:
        import tempfile

        transfer = source.transfer
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "pack.tar")
            try:
                pack = _write_pack(source, path)
            except OSError as error:
                if _is_final(error):
                    raise
                for file in source.manifest.files:
                    _check_unchanged(*source.find(file))
                reason = f"no pack can be made in {folder!r}: {error.strerror}"
                raise InvalidSourceError(source.top, reason) from error
            transfer.begin("uploading", object_name, [pack])
            if not (begun and transfer.is_in_store(object_name, pack)):
                transfer.run(lambda name: transfer.upload(path, name), [object_name])
            transfer.advance(0, files=1)

    def _find_objects(self, name: str, version: str) -> dict[str | None, str]:
        """Return a version's objects by SHA-256, where the store can copy objects."""
        if not hasattr(self.driver, "copy_object"):
            return {}
        try:
            manifest = self.read_manifest(name, version)
        except (ObjectDoesNotExistError, AssetIntegrityError):
            return {}
        files = () if manifest.is_packed else manifest.files
        object_name = self.get_object_name(name, version)
        return {file.sha256: _join(object_name, file.path) for file in files}

    def _commit(self, spec: AssetSpec, version: str, is_new: bool) -> None:
        """List a version, keeping whatever others list at the same time."""
        object_name = self.get_versions_object_name(spec.name)
        deadline = time.monotonic() + self.timeout
        while True:
            document: dict[str, Any] = {"versions": []}
            etag = ""
            try:
                document, etag = self._read_versions(spec.name)
            except ObjectDoesNotExistError:
                if not is_new:
                    raise  # it was there: to create it would lose what it lists
            listed = document["versions"]
            if version in listed:
                return  # by us, the answer lost, or by one that completed our push
            if is_new and listed:
                raise AssetAlreadyExistsError(spec.name)
            system = spec.versioning_among([version])
            document["versions"] = system.sort_versions([version, *listed])
            try:
                self._write(json.dumps(document).encode(), object_name, if_match=etag)
                return
            except FileExistsError as error:  # another publisher was faster
                if time.monotonic() > deadline:
                    late = StorageUnavailableError(object_name, self.timeout, error)
                    raise late from error
                time.sleep(0.05 * _random())


def _join(object_name: str, part: str) -> str:
    return "/".join(filter(None, (object_name, part)))


def find_asset_names(object_names: Iterable[str], prefix: str) -> list[str]:
    """Return the assets among a store's objects: those that a `.versions` object lists.

    A file called `x.versions` in a directory asset is none: it lies below a version.
    """
    candidates, versions = [], set()
    for object_name in object_names:
        name, _, suffix = object_name[len(prefix) + 1 :].rpartition(".")
        if suffix == "versions":
            candidates.append(name)
        elif suffix == "meta":
            versions.add(name)

    def is_asset(name: str) -> bool:
        segments = name.split("/")
        above = ("/".join(segments[:end]) for end in range(1, len(segments)))
        return bool(_NAME.fullmatch(name)) and versions.isdisjoint(above)

    return sorted(filter(is_asset, candidates))


def _check_free_space(path: str, needed: int) -> None:
    import shutil

    free = shutil.disk_usage(os.path.dirname(path)).free
    if needed > free:
        raise AssetsDirError(path, f"{needed} bytes are needed, {free} are free")


def _remove_tree(path: str) -> None:
    import shutil

    shutil.rmtree(path, ignore_errors=True)  # what stays is reclaimed another time


def swap_in(new: str, path: str, aside: str) -> None:
    """Rename new to path; where a folder is in the way, first rename that to aside.

    Where that fails, what was there before is put back.
    """
    for attempt in range(_MAX_SWAPS):
        old = f"{aside}{attempt}"
        try:
            if os.path.isdir(path) or os.path.isdir(new) and os.path.lexists(path):
                os.rename(path, old)
            os.replace(new, path)
            return
        except OSError:
            # another process, without our lock, put its copy there or took it away
            if attempt + 1 < _MAX_SWAPS and os.path.lexists(new):
                continue
            if os.path.lexists(old) and not os.path.lexists(path):
                os.rename(old, path)
            raise


# ------------------------------------------------------------------- the cache


def decide_fetch(state: str, provider: bool, force: bool) -> str:
    """Return what to do for one version: `hit`, `check`, `download` or `fail`.

    state: `absent`; `unmarked`, which is what a killed process or another program left,
    right or not, only digests tell; `damaged`, where a file has not the size that its
    marker says; or `whole`.
    """
    if not provider:
        return "hit" if state in ("whole", "unmarked") else "fail"
    if force or state in ("absent", "damaged"):
        return "download"
    return "hit" if state == "whole" else "check"


class _CopyVanished(Exception):
    """Another process took away the copy that files were to be put in."""


class _Cache:
    """The assets dir: where assets and markers lie, and how they come to be there."""

    def __init__(self, assets_dir: str, timeout_s: float) -> None:
        self.assets_dir, self.timeout_s = assets_dir, timeout_s
        self.own = os.path.join(assets_dir, ".cache")
        self._known: dict[tuple[str, str], tuple[tuple[int, ...], ...]] = {}

    def get_path(self, spec: AssetSpec) -> str:
        """Return where the version of a pinned spec lies."""
        return local_path(self.assets_dir, f"{spec.name}/{spec.version}")

    def look_up(self, path: str, part: str = "") -> str:
        """Return the state of a version's copy, or of a part's, see `decide_fetch`.

        A process looks at the sizes in a folder once, then only whether it and its
        marker are still the same.
        """
        try:
            status = os.stat(path)
            marker = _marker_path(path, stat.S_ISDIR(status.st_mode))
            mark = os.stat(marker)
            target = os.stat(local_path(path, part)) if part else status
        except (FileNotFoundError, NotADirectoryError):
            self.require_inside(path)
            return self._look_closer(path, part)
        stamps = _stamp(status), _stamp(mark), _stamp(target)
        if self._known.get((path, part)) == stamps:
            return "whole"
        self.require_inside(local_path(path, part))
        state = self._look_closer(path, part)
        if state == "damaged" and not _is_same(path, stamps[0]):
            return self.look_up(path, part)  # it is being replaced, or deleted
        if state == "whole":
            self._known[path, part] = stamps
        return state

    def _look_closer(self, path: str, part: str) -> str:
        is_partial = _is_partial(path)
        # of a partial copy, what is there is whole, and the rest has yet to come
        there = os.path.exists(local_path(path, part if is_partial else ""))
        if not there or is_partial and not part:
            return "absent"
        try:
            is_marked = self.check_sizes(path, part)
            otherwise = "absent" if is_partial else "unmarked"
            return "whole" if is_marked else otherwise
        except AssetIntegrityError:
            return "absent" if is_partial else "damaged"

    def check_sizes(self, path: str, part: str) -> bool:
        """Tell whether a copy has a marker; AssetIntegrityError if not its sizes."""
        marker = _find_marker(path)
        sizes = _read_sizes(marker)
        if sizes is None:
            return False
        below = {file: sizes[file] for file in sizes if is_below(file, part)}
        for file, size in below.items():
            target = local_path(path, file)
            self.require_inside(target)
            got = _get_size(target)
            if got != size and (size is not None or isinstance(got, str)):
                raise AssetIntegrityError(target, f"{size} bytes", got)
        return bool(below) or not marker.endswith(_PARTIAL)

    def may_hold(self, folder: str, version: str, part: str) -> bool:
        """Tell whether a version is no partial copy, or one that has the part."""
        path = os.path.join(folder, version)
        return not _is_partial(path) or self.look_up(path, part) == "whole"

    def require_assets_dir(self) -> None:
        """Raise FolderDoesNotExistError where there is none: it is never made."""
        if not os.path.isdir(self.assets_dir):
            variable = "MODELKIT_ASSETS_DIR"
            raise FolderDoesNotExistError("assets dir", self.assets_dir, variable)

    def require_inside(self, path: str) -> None:
        """Raise AssetIntegrityError where a link leads a path out of the assets dir."""
        if not is_inside(path, self.assets_dir):
            within = f"something below {self.assets_dir!r}"
            raise AssetIntegrityError(path, within, "a link to elsewhere: remove it")

    def read_marker(self, path: str) -> Manifest | None:
        """Return the manifest in a version's marker; None where modelkit wrote it."""
        with suppress(FileNotFoundError):
            return _read_marker(_find_marker(path))
        return None

    @contextmanager
    def lock(self, name: str) -> Iterator[str]:
        """Hold an asset's lock, and yield the lock file, whose time shows progress.

        It only saves work: all is right without it. AssetLockTimeoutError where
        another process holds it and makes no progress for the timeout.
        """
        path = local_path(self.own, name) + ".lock"
        self.require_assets_dir()
        self.require_inside(os.path.dirname(path))
        with _writing(self.assets_dir):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            _write_cache_tag(self.own)
            descriptor = self._wait_for_lock(path, name)
        try:
            yield path
        finally:
            with suppress(OSError):
                _unlock(descriptor)
            os.close(descriptor)

    def _wait_for_lock(self, path: str, name: str) -> int:
        deadline, seen = 0.0, -1
        while True:
            descriptor = os.open(path, _LOCK_FLAGS, 0o666)
            if _try_lock(descriptor, path):
                with suppress(OSError):  # on a full disk, nobody is told who holds it
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, json.dumps(_pid_and_host()).encode())
                return descriptor
            with open(descriptor, "rb") as file:
                progress = os.fstat(descriptor).st_mtime_ns
                pid, host = _read_holder(file)
            if progress != seen:
                deadline, seen = time.monotonic() + self.timeout_s, progress
            elif time.monotonic() >= deadline:
                raise AssetLockTimeoutError(name, self.timeout_s, pid, host)
            time.sleep(_LOCK_POLL_S)

    @contextmanager
    def staging(self, spec: AssetSpec, manifest: Manifest) -> Iterator[str]:
        """Yield a private folder for a download, which is kept where that fails.

        It begins with the `data` that a killed download of the same content left.
        """
        import hashlib

        content = hashlib.sha256(json.dumps(manifest[:3]).encode()).hexdigest()
        key = f"{spec.name[:60]}@{str(spec.version)[:60]}@{content[:16]}"
        with self._private_folder(key.replace("/", "+")) as folder:
            yield folder

    @contextmanager
    def _private_folder(self, key: str) -> Iterator[str]:
        """Yield a new folder below `.cache`; one without a key holds only waste."""
        own = "~".join((key, *map(str, _pid_and_host()), _token()))
        folder = os.path.join(self.own, "staging", own)
        self.require_inside(folder)
        _active_staging.add(own)
        try:
            with _writing(self.assets_dir):
                os.makedirs(folder)
                self._reclaim(folder)
                yield folder
                _remove_tree(folder)
        finally:
            _active_staging.discard(own)

    def _reclaim(self, folder: str) -> None:
        """Take over what nobody holds: waste and the same content, else if old."""
        staging, own = os.path.split(folder)
        data = os.path.join(folder, "data")
        for entry in os.listdir(staging):
            path, taken = os.path.join(staging, entry), os.path.join(folder, entry)
            key = entry.partition("~")[0]
            wanted = key in ("", own.partition("~")[0])
            with suppress(FileNotFoundError):  # of several processes, one gets it
                idle_s = time.time() - os.lstat(path).st_mtime
                if _is_held(entry, idle_s) or not (wanted or idle_s > _ABANDONED_S):
                    continue
                os.rename(path, taken)
                left = os.path.join(taken, "data")
                if key and wanted and not (os.path.lexists(data) or _has_links(left)):
                    os.rename(left, data)
                    os.rename(f"{left}.ranges", f"{data}.ranges")
            _remove_tree(taken)

    def iterate_copies(self) -> Iterator[tuple[str, list[str]]]:
        """Yield the name of each asset that has marked copies, and their versions."""
        for folder, folders, _ in os.walk(self.assets_dir):
            name = os.path.relpath(folder, self.assets_dir).replace(os.sep, "/")
            versions = self.find_copies(name)
            # at the top, where no version can lie
            hidden = [".cache"] if name == "." else versions
            folders[:] = sorted(set(folders) - set(hidden))
            if versions:
                yield name, versions

    def find_copies(self, name: str) -> list[str]:
        """Return the versions of an asset that have marked copies, the latest first."""
        folder = local_path(self.assets_dir, name)
        with suppress(FileNotFoundError, NotADirectoryError, InvalidNameError):
            spec, names = AssetSpec(name), os.listdir(folder)
            marked = [one for one in names if self.is_marked(os.path.join(folder, one))]
            return spec.pick_versions(marked)
        return []

    def is_marked(self, path: str) -> bool:
        """Tell whether a version has a marker, which says that we downloaded it."""
        return os.path.exists(_find_marker(path))

    def find_files(self, name: str) -> dict[str, str]:
        """Return where an asset's cached files are, by SHA-256, as markers have it."""
        found: dict[str, str] = {}
        for version in self.find_copies(name):
            path = local_path(self.assets_dir, f"{name}/{version}")
            with suppress(OSError, AssetIntegrityError):
                found.update(self._find_digests(path))
        return found

    def _find_digests(self, path: str) -> Iterator[tuple[str, str]]:
        manifest = self.read_marker(path)
        for file in manifest.files if manifest else ():
            target = local_path(path, file.path)
            # a partial copy names others too, and some may be damaged
            fit = is_inside(target, self.assets_dir) and _get_size(target) == file.size
            if file.sha256 and fit:
                yield file.sha256, target

    def remove(self, spec: AssetSpec) -> None:
        """Delete the copy of a pinned spec, and its marker: readers see it vanish."""
        path = self.get_path(spec)
        self.require_inside(path)
        with self.lock(spec.name), self._private_folder("") as folder:
            # a marker alone is nothing, data alone would be taken for whole
            for waste in (path, _marker_path(path, is_directory=False)):
                with suppress(FileNotFoundError):  # where another process was faster
                    os.rename(waste, os.path.join(folder, os.path.basename(waste)))

    def mark(self, path: str, manifest: Manifest, folder: str) -> None:
        """Write the marker of what lies at the path, by way of a staging folder.

        _CopyVanished where another process, without our lock, has taken that away.
        """
        staged, data = os.path.join(folder, "marker"), manifest.to_json()
        with open(staged, "wb") as file:
            # the digests that modelkit's manifest lacks may make it too large to read
            file.write(data if _is_readable(data) else b"")
        try:
            os.replace(staged, _marker_path(path, manifest.is_directory))
        except FileNotFoundError as error:
            raise _CopyVanished from error

    def publish(self, folder: str, path: str, manifest: Manifest) -> None:
        """Make a staged version visible, whole and marked.

        A crash in between leaves the old copy, or none; never data that has a marker
        and is not whole.
        """
        data, old = os.path.join(folder, "data"), os.path.join(folder, "old")
        self.require_inside(os.path.dirname(path))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if manifest.is_directory:
            self.mark(data, manifest, folder)
        else:
            if self.look_up(path) in ("unmarked", "damaged"):
                with suppress(FileNotFoundError):  # where another process did it
                    os.rename(path, old)  # or the marker would pass it off as whole
            self.mark(path, manifest, folder)
        swap_in(data, path, old)

    def publish_part(
        self, folder: str, path: str, manifest: Manifest, part: Manifest
    ) -> None:
        """Make staged files visible in a copy of their version, marked as partial.

        _CopyVanished where another process, without our lock, takes that away.
        """
        data, bare = os.path.join(folder, "data"), os.path.join(folder, "bare")
        self.require_inside(os.path.dirname(path))
        os.makedirs(bare)
        with open(os.path.join(bare, _PARTIAL), "wb") as marker:
            marker.write(manifest.to_json())
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with suppress(OSError):  # where there is one
            os.rename(bare, path)
        try:
            for file in part.files:
                self._make_folders(path, file.path.rpartition("/")[0])
                os.replace(local_path(data, file.path), local_path(path, file.path))
            for empty in part.empty_directories:
                self._make_folders(path, empty)
        except FileNotFoundError as error:
            raise _CopyVanished from error

    def _make_folders(self, root: str, part: str) -> None:
        """Make folders below root, which is there: a new one would have no marker."""
        if part:
            self._make_folders(root, part.rpartition("/")[0])
            with suppress(FileExistsError):
                os.mkdir(local_path(root, part))


_active_staging: set[str] = set()  # this process's own


def _marker_path(path: str, is_directory: bool) -> str:
    if is_directory:
        return os.path.join(path, SUCCESS)
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}{SUCCESS}")


def _find_marker(path: str) -> str:
    """Return where a copy's marker is, or would be."""
    whole = _marker_path(path, os.path.isdir(path))
    partial = os.path.join(path, _PARTIAL)
    return partial if os.path.exists(partial) and not os.path.exists(whole) else whole


def _is_partial(path: str) -> bool:
    """Tell whether only some files of a folder are there."""
    return _find_marker(path).endswith(_PARTIAL)


def _read_sizes(marker: str) -> dict[str, object] | None:
    """Return the files' sizes that a marker knows; None where it is no marker.

    There are none in modelkit's, which is empty. This reads no more than a hit needs.
    Of a partial copy, the empty folders are among them, as `_get_size` has them.
    """
    sizes: dict[str, object] = {}
    with suppress(OSError, ValueError, TypeError, KeyError), open(marker, "rb") as file:
        data = file.read(_MAX_DOCUMENT + 1)
        document = _read_json(data, marker) if data else {}
        if marker.endswith(_PARTIAL):
            sizes.update(dict.fromkeys(document.get("empty_directories", ()), _NO_FILE))
            sizes.update(dict.fromkeys(document.get("contents", ())))  # as modelkit has
        sizes.update({file["path"]: file["size"] for file in document.get("files", ())})
        if all(not path or is_contained(path) for path in sizes):
            return sizes
    return None


_NO_FILE = "no file"


def _get_size(path: str) -> object:
    """Return a file's size in bytes, or what there is instead."""
    with suppress(FileNotFoundError, NotADirectoryError):
        status = os.stat(path)
        return status.st_size if stat.S_ISREG(status.st_mode) else _NO_FILE
    return "nothing"


def _has_links(path: str) -> bool:
    entries = (
        os.path.join(folder, name)
        for folder, *names in os.walk(path)
        for name in (*names[0], *names[1])
    )
    return os.path.islink(path) or any(map(os.path.islink, entries))


def _write_cache_tag(folder: str) -> None:
    # tells backup programs to pass it over: https://bford.info/cachedir/
    path = os.path.join(folder, "CACHEDIR.TAG")
    text = "Signature: 8a477f597d28d172789f06886806bc55\n"
    if os.path.islink(path):  # somebody's own
        return
    if not os.path.exists(path) or os.path.getsize(path) != len(text):
        with open(path, "w") as file:
            file.write(text)


def _try_lock(descriptor: int, path: str) -> bool:
    """Lock a file, if it is free and still the one at the path."""
    try:
        _lock(descriptor, wait=False)
    except OSError as error:
        # held by another; else the file system knows no locks, and we do without
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
    with suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False


def _read_holder(file: IO[bytes]) -> tuple[object, object]:
    try:
        pid, host = json.loads(file.read(1000))
    except (OSError, ValueError, TypeError):  # being written, or modelkit's, or Windows
        return "unknown", "unknown"
    return pid, host


def _pid_and_host() -> tuple[int, str]:
    import socket

    return os.getpid(), re.sub("[^A-Za-z0-9.-]", "-", socket.gethostname())


def _is_held(entry: str, idle_s: float) -> bool:
    """Tell whether a staging folder may be in use by a process that lives."""
    if entry in _active_staging or idle_s > _ABANDONED_S:
        return entry in _active_staging
    _, pid, host, _ = (*entry.split("~"), "", "", "")[:4]
    if host != _pid_and_host()[1] or os.name == "nt":  # there, kill(pid, 0) would kill
        return idle_s < _REMOTE_IDLE_S
    if pid == str(os.getpid()):
        return False  # a process before us, as in a container that was restarted
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _touching(*paths: str) -> Advance:
    """Return a progress function that shows by the times of files that work goes on."""
    last = 0.0

    def touch(size: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _HEARTBEAT_S:
            last = now
            for path in paths:
                with suppress(OSError):
                    os.utime(path)

    return touch


# ------------------------------------------------------------------- the manager


class AssetsManager:
    """Fetches assets: from the assets dir, and into it from the store.

    assets_dir        an existing folder (MODELKIT_ASSETS_DIR, else the current one)
    timeout           seconds to wait for another process's download that makes no
                      progress (MODELKIT_ASSETS_TIMEOUT_S)
    storage_provider  the store, else the one that is configured; with neither, the
                      manager is in pre-downloaded mode
    on_progress       is told of what `verify` does, and the store that is configured;
                      see `StorageProvider`

    One manager serves any number of threads, and pickles.
    """

    def __init__(
        self,
        assets_dir: StrPath | None = None,
        timeout: float | None = None,
        storage_provider: StorageProvider | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        self.on_progress = on_progress
        folder = _setting(assets_dir, "MODELKIT_ASSETS_DIR") or os.getcwd()
        self.assets_dir = os.path.abspath(folder)
        self.timeout = _number(timeout, "MODELKIT_ASSETS_TIMEOUT_S")
        self._cache = _Cache(self.assets_dir, self.timeout)
        self._cache.require_assets_dir()
        self._store_error: FolderDoesNotExistError | None = None
        if storage_provider is None:
            try:
                storage_provider = StorageProvider(on_progress=on_progress)
            except NoConfiguredProviderError:
                pass
            except FolderDoesNotExistError as error:
                # what is cached can be served even where the store's folder is gone
                self._store_error = error
        self.storage_provider = storage_provider
        if storage_provider:
            _check_apart(self.assets_dir, storage_provider)

    def fetch_asset(
        self,
        spec: AssetSpec | str,
        return_info: bool = False,
        force_download: bool | None = None,
    ) -> Any:
        """Return the local path of an asset, or of its part, downloaded if need be.

        With return_info, a dict: `path`, `version`, `from_cache`, and after a download
        `meta`, `object_name`, `meta_object_name`, `versions_object_name`.

        - a pinned version that is cached is returned without a lock, write or request
        - what is returned is whole, and had the right digests when it was downloaded
        - AssetDoesNotExistError or LocalAssetDoesNotExistError where there is none
        """
        try:
            pinned = self.resolve(spec)
        except (AssetDoesNotExistError, InvalidAssetSpecError) as error:
            path = _find_existing_path(str(spec), self.assets_dir)
            if path is None or isinstance(error, InvalidVersionError):
                raise
            info = {"path": path, "version": None, "from_cache": True}
        else:
            info = self._fetch_version(pinned, force_download)
        return info if return_info else info["path"]

    def resolve(self, spec: AssetSpec | str) -> AssetSpec:
        """Return the spec with the version that it means now.

        A complete version asks nobody; else the store's versions decide, or without a
        store those in the assets dir.
        """
        if isinstance(spec, str):
            spec = AssetSpec.from_string(spec)
        if spec.is_version_complete():
            return spec
        versions = self._list_versions(spec)
        offline = self._is_offline and not versions
        if offline and (spec.version or self._cache.find_copies(spec.name)):
            raise LocalAssetDoesNotExistError(spec.name, spec.version, versions)
        if not versions:
            where = local_path(self.assets_dir, spec.name)
            if provider := self.storage_provider:
                name = provider.get_versions_object_name(spec.name)
                where = provider.driver.get_object_uri(name)
            raise AssetDoesNotExistError(spec.name, hint=f"there is no {where!r}")
        version, part = choose_version(spec, versions), spec.sub_part
        system = spec.versioning_among([version])
        return AssetSpec(spec.name, version=version, sub_part=part, versioning=system)

    def find_path(self, spec: AssetSpec) -> str | None:
        """Return where the version of a pinned spec is cached; None where it is not."""
        path = self._cache.get_path(spec)
        state = self._cache.look_up(path)
        action = decide_fetch(state, not self._is_offline, force=False)
        return path if action == "hit" else None

    def find_manifest(self, spec: AssetSpec) -> Manifest | None:
        """Return a pinned spec's manifest, from its marker or else from the store.

        None where there is no store and modelkit wrote the marker.
        """
        path = self._cache.get_path(spec)
        state = self._cache.look_up(path)
        if state == "absent" and self._is_offline:
            raise self._find_local_error(spec)
        manifest = None if state == "absent" else self._cache.read_marker(path)
        return manifest if manifest or self._is_offline else self._read(spec)

    def verify(self, spec: AssetSpec | str) -> list[str] | None:
        """Return the cached files of a version, or its part, that are not as published.

        None where their digests are not known, which is so of what modelkit published
        or fetched. Of a copy in part, only the files that are there are looked at.
        """
        spec = self.resolve(spec)
        path, part = self._cache.get_path(spec), spec.sub_part or ""
        if not os.path.exists(path):
            hint = f"{self.assets_dir!r} has no copy of it"
            raise AssetDoesNotExistError(spec.name, spec.version, hint)
        self._cache.require_inside(path)
        manifest = self._cache.read_marker(path)
        if not (manifest or self._is_offline):
            manifest = self._read(spec)
        files = manifest.get_part(part).files if manifest else ()
        paths = {file: local_path(path, file.path) for file in files}
        if _is_partial(path):
            files = tuple(file for file in files if os.path.exists(paths[file]))
        if not manifest or any(not file.sha256 for file in files):
            return None
        _require_part(spec, bool(files) or not part)
        workers = _whole_number("MODELKIT_STORAGE_WORKERS")
        transfer = _Transfer(cast(Any, None), 0, workers, self.on_progress)
        transfer.begin("checking", str(spec), files)
        inside = [file for file in files if is_inside(paths[file], self.assets_dir)]
        right = set(transfer.find_right(inside, path))
        return [paths[file] for file in files if file not in right]

    def iterate_copies(self) -> Iterator[LocalCopy]:
        """Yield the cached versions that a marker shows to be ours, by name."""
        for name, versions in self._cache.iterate_copies():
            for version in versions:
                path = local_path(self.assets_dir, f"{name}/{version}")
                with suppress(FileNotFoundError):  # where another process removes it
                    yield _describe_copy(name, version, path)

    def find_names(self, most: int) -> list[str]:
        """Return the names of assets, of the first so many objects of the store.

        These are hints: a failure is not tried again, and as the driver raises it.
        """
        from itertools import islice

        if self._is_offline:
            return [name for name, _ in self._cache.iterate_copies()]
        provider = self._require_store("list assets")
        names = provider.driver.iterate_objects(provider.prefix)
        return find_asset_names(islice(names, most), provider.prefix)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "on_progress": None}

    def remove(self, spec: AssetSpec | str, dry_run: bool = False) -> list[AssetSpec]:
        """Delete the local copy of a version, or without one of all; return which.

        What no marker says to be a copy is kept. AssetDoesNotExistError where there is
        no copy. dry_run deletes nothing.
        """
        if isinstance(spec, str):
            spec = AssetSpec.from_string(spec)
        if spec.sub_part or spec.version and not spec.is_version_complete():
            reason = "what is removed is NAME:VERSION with the whole version, or NAME"
            raise InvalidAssetSpecError(str(spec), reason)
        doomed = self._cache.find_copies(spec.name)
        if spec.version:
            is_marked = self._cache.is_marked(self._cache.get_path(spec))
            doomed = [spec.version] if is_marked else []
        if not doomed:
            hint = f"{self.assets_dir!r} has no copy that was downloaded"
            raise AssetDoesNotExistError(spec.name, spec.version, hint)
        return self._remove({spec.name: doomed}, dry_run)

    def prune(self, keep: int, dry_run: bool = False) -> list[AssetSpec]:
        """Delete local copies but each asset's `keep` latest versions; return which.

        What no marker says to be a copy is kept. dry_run deletes nothing.
        """
        if keep < 1:
            raise ConfigurationError(f"prune keeps 1 version or more, not {keep}")
        copies = dict(self._cache.iterate_copies())
        return self._remove({name: copies[name][keep:] for name in copies}, dry_run)

    def _remove(self, doomed: dict[str, list[str]], dry_run: bool) -> list[AssetSpec]:
        pairs = ((name, version) for name in doomed for version in doomed[name])
        specs = [AssetSpec(name, version=version) for name, version in pairs]
        for spec in () if dry_run else specs:
            self._cache.remove(spec)
        return specs

    @property
    def _is_offline(self) -> bool:
        return self.storage_provider is None and self._store_error is None

    def _fetch_version(self, spec: AssetSpec, force: bool | None) -> dict[str, Any]:
        if force is None and self.storage_provider:
            force = self.storage_provider.force_download
        if force:
            self._require_store("download again")
        path, part = self._cache.get_path(spec), spec.sub_part or ""
        state = self._cache.look_up(path, part)
        action = decide_fetch(state, not self._is_offline, bool(force))
        if action == "fail":
            if state == "damaged":
                self._cache.check_sizes(path, part)  # says which file
            raise self._find_local_error(spec)
        info: dict[str, Any] = {"path": path, "version": spec.version}
        info["from_cache"] = True
        if action != "hit":
            info.update(self._download(spec, path, bool(force)))
        if spec.sub_part:
            info["path"] = local_path(path, part)
            if not (os.path.exists(info["path"]) or os.path.exists(path)):
                return self._fetch_version(spec, force)  # it is being replaced
            _require_part(spec, os.path.exists(info["path"]))
        return info

    def _download(self, spec: AssetSpec, path: str, force: bool) -> dict[str, Any]:
        """Bring a version into the assets dir, unless another process has meanwhile."""
        for _ in range(_MAX_SWAPS):
            with suppress(_CopyVanished):
                return self._download_once(spec, path, force)
        raise AssetsDirError(path, "other processes take it away again and again")

    def _download_once(self, spec: AssetSpec, path: str, force: bool) -> dict[str, Any]:
        name, version, part = spec.name, cast(str, spec.version), spec.sub_part or ""
        provider = self._require_store("download")
        manifest = self._read(spec)
        wanted = manifest.get_part(part)
        _require_part(spec, bool(wanted.files or wanted.empty_directories) or not part)
        with self._cache.lock(name) as lock:
            state = self._cache.look_up(path, part)
            action = decide_fetch(state, True, force)
            if action == "hit":
                return {}
            if state == "damaged":
                _logger().warning("the copy %r is damaged: it is replaced", path)
            with self._cache.staging(spec, manifest) as folder:
                touch = _touching(lock, folder)
                if action == "check" and provider.is_right(manifest, path, touch):
                    self._cache.mark(path, manifest, folder)
                    return {}
                _logger().info("downloading %s to %r", spec, path)
                data = os.path.join(folder, "data")
                copies = {} if force else self._cache.find_files(name)
                if part and state == "absent":
                    provider.download_files(name, version, wanted, data, touch, copies)
                    self._cache.publish_part(folder, path, manifest, wanted)
                else:
                    manifest = provider.download_files(
                        name, version, manifest, data, touch, copies
                    )
                    self._cache.publish(folder, path, manifest)
        return {
            "from_cache": False,
            "meta": manifest.describe(),
            "object_name": provider.get_object_name(name, version),
            "meta_object_name": provider.get_meta_object_name(name, version),
            "versions_object_name": provider.get_versions_object_name(name),
        }

    def _read(self, spec: AssetSpec) -> Manifest:
        provider, version = self._require_store("read"), cast(str, spec.version)
        try:
            return provider.read_manifest(spec.name, version)
        except ObjectDoesNotExistError as error:
            versions = ", ".join(self._list_versions(spec)[:10]) or "none"
            hint = f"the latest are {versions}"
            raise AssetDoesNotExistError(spec.name, version, hint) from error

    def _find_local_error(self, spec: AssetSpec) -> LocalAssetDoesNotExistError:
        versions = self._list_versions(AssetSpec(spec.name))
        return LocalAssetDoesNotExistError(spec.name, spec.version, versions)

    def _list_versions(self, spec: AssetSpec) -> list[str]:
        if self._is_offline:
            folder, part = local_path(self.assets_dir, spec.name), spec.sub_part or ""
            versions = spec.get_local_versions(folder)
            return [one for one in versions if self._cache.may_hold(folder, one, part)]
        with suppress(ObjectDoesNotExistError):
            return self._require_store("list versions").get_versions_info(spec.name)
        return []

    def _require_store(self, action: str) -> StorageProvider:
        if self._store_error:
            raise self._store_error
        if not self.storage_provider:
            raise NoConfiguredProviderError(action)
        return self.storage_provider


class LocalCopy(NamedTuple):
    """A cached version: size in bytes on disk, and when it was fetched (ISO 8601)."""

    name: str
    version: str
    path: str
    size: int
    date: str
    is_partial: bool


def _describe_copy(name: str, version: str, path: str) -> LocalCopy:
    from datetime import datetime, timezone

    marker = _find_marker(path)
    fetched = datetime.fromtimestamp(int(os.stat(marker).st_mtime), timezone.utc)
    sizes = [os.path.getsize(path)] if os.path.isfile(path) else []
    for folder, _, files in os.walk(path):
        paths = (os.path.join(folder, file) for file in files)
        sizes += [os.lstat(one).st_size for one in paths if one != marker]
    is_partial = marker.endswith(_PARTIAL)
    return LocalCopy(name, version, path, sum(sizes), fetched.isoformat(), is_partial)


def _require_part(spec: AssetSpec, condition: bool) -> None:
    if not condition:
        raise AssetDoesNotExistError(str(spec), hint="the asset has no such part")


def _find_existing_path(text: str, assets_dir: str) -> str | None:
    """Return the file or folder that a version-less text is the path of, if any.

    It lies below the assets dir, below the current folder, or the path is absolute.
    """
    has_version = ":" in text.partition("[")[0] and not os.path.isabs(text)
    if has_version or "\0" in text:
        return None
    candidates: list[str] = [text] if os.path.isabs(text) else []
    if is_contained(text):
        candidates = [local_path(root, text) for root in (assets_dir, os.getcwd())]
    base, _, part = text[:-1].partition("[")
    if text[-1:] == "]" and is_contained(part.strip("/")):
        folder = _find_existing_path(base, assets_dir)
        candidates += [local_path(folder, part.strip("/"))] if folder else []
    root = os.path.join(assets_dir, "")
    for path in candidates:
        is_allowed = not path.startswith(root) or is_inside(path, assets_dir)
        if is_allowed and os.path.exists(path) and not _is_partial(path):
            return path
    return None


def _check_apart(assets_dir: str, provider: StorageProvider) -> None:
    """Raise ConfigurationError where the assets dir and a local store overlap."""
    if not isinstance(provider.driver, LocalDriver):
        return
    store = local_path(provider.driver.bucket, provider.prefix)
    one, other = _resolve(assets_dir), _resolve(store)
    if one.startswith(other) or other.startswith(one):
        text = f"the assets dir {assets_dir!r} and the store {store!r} must not be the "
        text += "same folder, nor one inside the other: set MODELKIT_ASSETS_DIR or "
        raise ConfigurationError(text + "MODELKIT_STORAGE_BUCKET to another one")


# ------------------------------------------------------------------- the terminal

_DOCTOR_TIMEOUT_S = 2.0  # for which failures are retried
_DOCTOR_PATIENCE_S = 30.0  # for what does not even fail
_REDRAW_S = 0.1
_PATIENCE_S = 0.5  # shorter work shows no progress


class _Screen:
    """Standard error: lines of text, and below them how far the present work is.

    It is drawn only on a terminal, and gone when `close` is called.
    """

    def __init__(self) -> None:
        self.stream, self._writing = sys.stderr, threading.Lock()
        self._is_drawn, self._width, self._work = False, 0, ("", "")
        self._drawn_at = self._begun_at = 0.0
        self._samples: list[tuple[float, int]] = []

    @property
    def is_terminal(self) -> bool:
        """Tell whether somebody looks."""
        return _is_terminal(self.stream) and os.environ.get("TERM") != "dumb"

    def show(self, progress: Progress) -> None:
        """Draw how far the work is, unless that was done just now."""
        now = time.monotonic()
        with self._writing:
            if self._work != progress[:2]:
                self._work, self._begun_at, self._samples = progress[:2], now, []
            is_early = now < max(
                self._drawn_at + _REDRAW_S, self._begun_at + _PATIENCE_S
            )
            if is_early and self._samples:
                return
            self._samples = [*self._samples[-50:], (now, progress.done)]
            if not is_early:
                then, done = self._samples[0]
                rate = (progress.done - done) / (now - then) if now > then else 0
                width = get_width(self.stream) - 1
                self._draw(describe_progress(progress, rate, width))
                self._drawn_at = now

    def write(self, text: str) -> None:
        """Write text above what is drawn."""
        with self._writing:
            self._draw("")
            self.stream.write(text)

    def flush(self) -> None:
        """Let all that was written be seen."""
        self.stream.flush()

    def close(self) -> None:
        """Wipe off what is drawn."""
        self.write("")
        self.flush()

    def _draw(self, text: str) -> None:
        if text or self._is_drawn:
            # the cursor rests at the beginning: where a terminal that becomes narrower
            # wraps the text, that is its first row, and all of it can be wiped off.
            # Else its line alone is, as some keep in their history what J wipes off
            before, self._width = self._width, get_width(self.stream)
            wipe = "\x1b[K" if before == self._width else "\x1b[J"
            self.stream.write(f"\r{wipe}{text}" + "\r" * bool(text))
            self.stream.flush()
        self._is_drawn = bool(text)


def describe_progress(progress: Progress, rate: float, width: int) -> str:
    """Return one line of at most so many characters; rate is in bytes a second."""
    done, size = progress.done, progress.size
    # no character that takes no column, or two
    what = f"{progress.action} {progress.asset}".encode("ascii", "replace").decode()
    parts = [_printable(what)]
    if size:
        parts.append(f"{100 * done // size} %")
    parts.append(show_size(done) + (f" of {show_size(size)}" if size else ""))
    if rate > 0:
        parts.append(f"{show_size(rate)}/s")
    if rate > 0 and size:
        minutes, seconds = divmod(int((size - done) / rate), 60)
        parts.append(f"{minutes}:{seconds:02} left")
    if progress.files > 1:
        parts.append(f"{progress.files_done} of {progress.files} files")
    while len(parts) > 2 and len("  ".join(parts)) > width:
        parts.pop()
    tail = "  ".join(["", *parts[1:]])
    return (parts[0][: max(width - len(tail), 0)] + tail).strip()[:width].strip()


def _printable(text: str) -> str:
    """Return a text without what moves the cursor, or tells a terminal what to do."""
    return "".join(one if one.isprintable() else "?" for one in text)


def show_size(size: float) -> str:
    """Return a number of bytes as people read it, in decimal units."""
    units = ["TB", "GB", "MB", "kB", "B"]
    while size >= 999.5 and len(units) > 1:
        size /= 1000
        units.pop()
    digits = 0 if units[-1] == "B" or size >= 99.5 else 1
    return f"{size:.{digits}f} {units[-1]}"


def _is_terminal(stream: IO[str] | None) -> bool:
    return stream is not None and not stream.closed and stream.isatty()


def get_width(stream: IO[str] | None) -> int:
    """Return how many columns a terminal has, or its text is to have elsewhere."""
    with suppress(OSError, ValueError, AttributeError):
        if columns := os.get_terminal_size(cast(Any, stream).fileno()).columns:
            return columns
    with suppress(ValueError):
        return max(int(os.environ.get("COLUMNS", "")), 0) or 80
    return 80


# ------------------------------------------------------------------- command line

_PROGRAM = "modelkit_assets"
_EXIT_CODES = """exit codes: 0 done, 1 failed or declined, 2 bad usage or configuration,
3 no such asset or version, 4 access refused, 5 store unreachable, 6 content does not
match its digest, 130 interrupted"""
# each of these options is a setting: where given, it stands for the variable
_SETTINGS = {
    "--assets-dir": ("MODELKIT_ASSETS_DIR", "DIR", "folder of the local copies"),
    "--provider": (
        "MODELKIT_STORAGE_PROVIDER",
        "NAME",
        "s3, gcs, az, local or another",
    ),
    "--bucket": ("MODELKIT_STORAGE_BUCKET", "BUCKET", "bucket, container or folder"),
    "--prefix": ("MODELKIT_STORAGE_PREFIX", "PREFIX", "what object names begin with"),
    "--versioning": (
        "MODELKIT_ASSETS_VERSIONING_SYSTEM",
        "SYSTEM",
        "major_minor, simple_date or package.module:Class",
    ),
}
_STORE = ("--provider", "--bucket", "--prefix")
_CACHE = ("--assets-dir", "--versioning")
_SCHEMES = {"s3": "s3", "gs": "gcs", "az": "az"}  # of URLs, and their providers
_MOST_NAMES = 10_000  # are looked through for one that a misspelt name may mean


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code: 0 only if all went well."""
    given = sys.argv[1:] if args is None else list(args)
    if not sys.stderr:  # it is None where it was closed, which `print` takes for stdout
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    chosen = next((one for one in given if not one.startswith("-")), None)
    options = _get_main_parser(chosen).parse_args(given)
    options.screen = _Screen()
    options.on_progress = None
    if options.screen.is_terminal and not options.quiet:
        options.on_progress = options.screen.show
    try:
        with _settings_from(options):
            return cast(int, options.run(options))
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # whoever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ModelkitAssetsError, OSError, UnicodeError) as error:
        if options.verbose:
            import traceback

            traceback.print_exc()
        return _fail(str(error), getattr(error, "exit_code", 1))


def _fail(message: str, code: int) -> int:
    print(f"{_PROGRAM}: error: {' '.join(message.split())}", file=sys.stderr)
    return code


@contextmanager
def _settings_from(options: argparse.Namespace) -> Iterator[None]:
    """Set what the options say: environment variables, and what is logged."""
    global _attach_log
    before = {variable: os.environ.get(variable) for variable, *_ in _SETTINGS.values()}
    for variable, _, _ in _SETTINGS.values():
        os.environ.update(
            {variable: value} if (value := vars(options).get(variable)) else {}
        )
    handlers: list[logging.Handler] = []

    def attach(logger: logging.Logger) -> None:
        import logging

        if not handlers:
            handlers.append(logging.StreamHandler(options.screen))
            handlers[0].setFormatter(logging.Formatter(f"{_PROGRAM}: %(message)s"))
            logger.addHandler(handlers[0])
            level = logging.ERROR if options.quiet else logging.WARNING
            logger.setLevel(logging.DEBUG if options.verbose else level)

    _attach_log = attach
    try:
        yield
    finally:
        _attach_log = None
        options.screen.close()
        for handler in handlers:
            _logger().removeHandler(handler)
        for variable, value in before.items():
            os.environ.pop(variable, None)
            os.environ.update({variable: value} if value is not None else {})


def _get_main_parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """Return the parser; given a command, with the arguments of that one alone.

    To make those of all takes 5 ms, half as long as Python takes to start.
    """
    import argparse

    class ShowVersion(argparse.Action):
        def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
            print(_PROGRAM, __version__, f"sha256:{_digest_own_file()}")
            parser.exit()

    def formatter(prog: str) -> argparse.HelpFormatter:
        # which would import `shutil` to find this width
        return argparse.HelpFormatter(prog, width=get_width(sys.stdout) - 2)

    common: Any = {"formatter_class": formatter}
    description = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(
        prog=_PROGRAM, description=description, epilog=_EXIT_CODES, **common
    )
    text = "show the version, and the SHA-256 of this file as it stands"
    parser.add_argument("--version", action=ShowVersion, nargs=0, help=text)
    # without `prog`, argparse would compose a usage for it
    commands = parser.add_subparsers(metavar="COMMAND", required=True, prog=_PROGRAM)
    for run, (text, example, add_arguments) in _COMMANDS.items():
        name = run.__name__[len("_run_") :]
        epilog = f"example: {_PROGRAM} {name} {example}"
        sentence = f"{text[0].upper()}{text[1:]}."
        command = commands.add_parser(
            name, help=text, description=sentence, epilog=epilog, **common
        )
        if chosen in (None, name):
            command.set_defaults(run=run)
            add_arguments(command)
    return parser


def _digest_own_file() -> str:
    """Return the SHA-256 of this file as it stands, so that a changed copy shows."""
    import hashlib

    if os.path.isfile(__file__):
        return hash_file(__file__, lambda _: None)
    # it lies in a zip application, which knows how to read it
    return hashlib.sha256(cast(Any, __spec__).loader.get_data(__file__)).hexdigest()


def _add_settings(command: argparse.ArgumentParser, *options: str) -> None:
    for option in options:
        variable, metavar, text = _SETTINGS[option]
        names = [option, "--storage-prefix"] if option == "--prefix" else [option]
        text = f"{text} ({variable})"
        command.add_argument(*names, metavar=metavar, dest=variable, help=text)
    command.add_argument("-v", "--verbose", action="store_true", help="say more")
    command.add_argument("-q", "--quiet", action="store_true", help="say less")
    command.add_argument("--json", action="store_true", help="print one JSON document")


def _add_flag(command: argparse.ArgumentParser, text: str, *names: str) -> None:
    command.add_argument(*names, action="store_true", help=text)


def _add_new(command: argparse.ArgumentParser, target: str = "NAME") -> None:
    text = "file or folder to publish; or s3://, gs:// or az://BUCKET/KEY"
    command.add_argument("path", metavar="PATH", help=text)
    command.add_argument("spec", metavar=target, help="asset to publish it as")
    text = "make one object of a folder, a tar: faster where there are many files"
    _add_flag(command, text, "--pack")
    _add_consent(command)
    _add_settings(command, *_STORE, "--versioning")


def _add_update(command: argparse.ArgumentParser) -> None:
    _add_new(command, "NAME[:MAJOR]")
    _add_flag(command, "publish the first version of the next major", "--bump-major")


def _add_consent(command: argparse.ArgumentParser) -> None:
    _add_flag(command, "do not ask", "-y", "--yes")
    _add_flag(command, "say what would be done, and change nothing", "--dry-run")


def _add_list(command: argparse.ArgumentParser) -> None:
    text = "names to list, as 'nlp/*'; all without it"
    command.add_argument("glob", metavar="GLOB", nargs="?", default="*", help=text)
    _add_flag(command, "list the local copies, with size and date", "--local")
    text = "a line for each version: date, size, files, who pushed it"
    _add_flag(command, text, "-l", "--long")
    _add_settings(command, *_SETTINGS)


def _add_specs(command: argparse.ArgumentParser) -> None:
    text = "name[:version][[part]]"
    command.add_argument("specs", metavar="SPEC", nargs="*", help=text)
    text = "read specs from a file, one a line; # begins a comment"
    command.add_argument("-r", metavar="FILE", dest="file", help=text)
    _add_settings(command, *_SETTINGS)


def _add_fetch(command: argparse.ArgumentParser) -> None:
    _add_specs(command)
    _add_flag(command, "download again what is cached", "--download")


def _add_info(command: argparse.ArgumentParser) -> None:
    command.add_argument("spec", metavar="SPEC", help="name[:version]")
    _add_settings(command, *_SETTINGS)


def _add_verify(command: argparse.ArgumentParser) -> None:
    text = "name[:version][[part]]; all local copies without it"
    command.add_argument("specs", metavar="SPEC", nargs="*", help=text)
    _add_settings(command, *_SETTINGS)


def _add_remove(command: argparse.ArgumentParser) -> None:
    command.add_argument("specs", metavar="SPEC", nargs="+", help="name[:version]")
    _add_consent(command)
    _add_settings(command, *_CACHE)


def _add_prune(command: argparse.ArgumentParser) -> None:
    text = "how many versions of each asset to keep"
    command.add_argument("--keep", metavar="N", type=int, required=True, help=text)
    _add_consent(command)
    _add_settings(command, *_CACHE)


def _add_doctor(command: argparse.ArgumentParser) -> None:
    text = "also publish a probe object, which is deleted again"
    _add_flag(command, text, "--write")
    _add_settings(command, *_SETTINGS)


def _read_specs(options: argparse.Namespace) -> list[str]:
    specs = list(options.specs)
    if options.file:
        try:
            with open(options.file, encoding="utf-8") as file:
                lines = [re.split(r"(?:^|\s)#", line)[0].strip() for line in file]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"cannot read {options.file!r}: {error}"
            ) from error
        specs += filter(None, lines)
    if not specs and not options.file:
        raise InvalidAssetSpecError("", "give a SPEC, or a file of them with -r")
    return specs


def _run_new(options: argparse.Namespace) -> int:
    spec = AssetSpec.from_string(options.spec)
    if spec.version or spec.sub_part:
        raise InvalidAssetSpecError(
            options.spec, "a new asset is given by its NAME alone"
        )
    check_new_name(spec.name)
    return _publish(options, spec, f"the new asset {spec.name!r}")


def _run_update(options: argparse.Namespace) -> int:
    spec = AssetSpec.from_string(options.spec)
    if spec.is_version_complete() or spec.sub_part:
        raise InvalidAssetSpecError(options.spec, "an update takes NAME or NAME:MAJOR")
    return _publish(options, spec, f"the next version of {str(spec)!r}")


def _publish(options: argparse.Namespace, spec: AssetSpec, what: str) -> int:
    provider = StorageProvider(on_progress=options.on_progress)
    uri = provider.driver.get_object_uri(provider.prefix)
    if not _confirm(options, f"Publish {options.path!r} as {what} in {uri}?"):
        return _fail("declined, nothing was published", 1)
    publish: Any = provider.new
    how = {"dry_run": options.dry_run, "pack": options.pack}
    if "bump_major" in options:
        publish, how["bump_major"] = provider.update, options.bump_major
    with _local_source(options) as path:
        version = publish(path, spec.name, spec.version, **how)
    document = {"name": spec.name, "version": version, "dry_run": options.dry_run}
    return _print(options, document, [f"{spec.name}:{version}"])


@contextmanager
def _local_source(options: argparse.Namespace) -> Iterator[str]:
    """Yield the path of what is to be published; what a URL names is fetched first."""
    import tempfile

    url = re.fullmatch(r"(s3|gs|az)://([^/]+)/*(.*)", options.path)
    if not url:
        yield options.path
        return
    provider = StorageProvider(
        provider=_SCHEMES[url[1]], bucket=url[2], on_progress=options.on_progress
    )
    with tempfile.TemporaryDirectory() as folder:
        yield provider.download_objects(url[3], folder)


def _confirm(options: argparse.Namespace, question: str) -> bool:
    if options.yes or options.dry_run:
        return True
    if not _is_terminal(sys.stdin):
        raise ConfigurationError("cannot ask without a terminal: agree with --yes")
    print(question, "[y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip() in ("y", "Y", "yes")


def _run_list(options: argparse.Namespace) -> int:
    if options.local:
        return _list_copies(options)
    provider = StorageProvider()
    assets = dict(provider.iterate_assets())
    found = {name: assets[name] for name in assets if _is_wanted(name, options)}
    if not found:
        where = provider.driver.get_object_uri(provider.prefix)
        print(f"{_PROGRAM}: no such assets below {where}", file=sys.stderr)
    if options.long:
        return _list_versions(options, provider, found)
    width = max(map(len, found), default=0)
    room = get_width(sys.stdout) - width - 2 if _is_terminal(sys.stdout) else None
    lines = [f"{name:{width}}  {fit_versions(found[name], room)}" for name in found]
    return _print(options, found, lines)


def _is_wanted(name: str, options: argparse.Namespace) -> bool:
    from fnmatch import fnmatchcase

    return fnmatchcase(name, options.glob)


def fit_versions(versions: Sequence[str], room: int | None) -> str:
    """Return as many versions as fit into so many characters, and how many there are.

    They come in order; the first is there however narrow it is. None: there is room.
    """
    text, shown = " ".join(versions), len(versions)
    while room is not None and len(text) > room and shown > 1:
        shown -= 1
        text = f"{' '.join(versions[:shown])} ... ({len(versions)} versions)"
    return text


def _list_versions(
    options: argparse.Namespace, provider: StorageProvider, found: dict[str, list[str]]
) -> int:
    """Print a line for each version in the store."""
    pairs = [(name, version) for name in found for version in found[name]]
    manifests = provider.read_manifests(pairs)
    document, rows = [], []
    for (name, version), manifest in zip(pairs, manifests):
        date, size, pushed_by, files = None, None, None, None
        if manifest:
            date, pushed_by = map(manifest.document.get, ("push_date", "pushed_by"))
            size, files = manifest.size, len(manifest.files)
        row = {"name": name, "version": version, "push_date": date, "size": size}
        pushed_by = pushed_by and str(pushed_by)
        document.append({**row, "files": files, "pushed_by": pushed_by})
        count = "-" if files is None else f"{files} file{'s' * (files != 1)}"
        rows.append((f"{name}:{version}", _show_date(date), size, count, pushed_by))
    return _print(options, document, _align(rows))


def _list_copies(options: argparse.Namespace) -> int:
    """Print a line for each version in the assets dir."""
    manager = AssetsManager()
    document, rows = [], []
    for copy in manager.iterate_copies():
        if _is_wanted(copy.name, options):
            document.append(copy._asdict())
            is_partial = "in part" if copy.is_partial else "whole"
            name = f"{copy.name}:{copy.version}"
            rows.append((name, _show_date(copy.date), copy.size, is_partial))
    if not rows:
        where = f"in {manager.assets_dir!r}"
        print(f"{_PROGRAM}: no such copies {where}", file=sys.stderr)
    return _print(options, document, _align(rows))


def _show_date(date: object) -> str:
    """Return a time as people read it, to the minute, in UTC."""
    from datetime import timezone

    with suppress(ValueError, TypeError):
        time_of_day = parse_date(cast(str, date)).astimezone(timezone.utc)
        return time_of_day.strftime("%Y-%m-%d %H:%M")
    return "-"


def _align(rows: Sequence[Sequence[object]]) -> Iterator[str]:
    """Return lines whose columns are aligned, those of sizes to the right."""
    shown = [
        [
            show_size(one) if isinstance(one, int) else _printable(str(one or "-"))
            for one in row
        ]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*shown)]
    sizes = [any(isinstance(one, int) for one in column) for column in zip(*rows)]
    for texts in shown:
        cells = (
            text.rjust(width) if is_size else text.ljust(width)
            for text, width, is_size in zip(texts, widths, sizes)
        )
        yield "  ".join(cells).rstrip()


def _run_fetch(options: argparse.Namespace) -> int:
    specs, found = _read_specs(options), []
    manager = AssetsManager(on_progress=options.on_progress)
    for text in specs:
        with _suggesting(manager):
            info = manager.fetch_asset(text, True, options.download or None)
        path, version, from_cache = info["path"], info["version"], info["from_cache"]
        found.append(
            {
                "spec": text,
                "path": os.path.abspath(path),
                "version": version,
                "from_cache": from_cache,
            }
        )
        if not options.json:
            options.screen.close()
            print(os.path.abspath(path), flush=True)
    return _print(options, found, [])


@contextmanager
def _suggesting(manager: AssetsManager) -> Iterator[None]:
    """Add to an error about an asset that is not there which one may be meant."""
    try:
        yield
    except (AssetDoesNotExistError, LocalAssetDoesNotExistError) as error:
        from difflib import get_close_matches

        name, names = vars(error)["name"], list[str]()
        with suppress(ModelkitAssetsError, OSError, ValueError):
            names = manager.find_names(_MOST_NAMES)
        is_known = name in names or "[" in name  # as where a part is missing
        near = [] if is_known else get_close_matches(name, names, cutoff=0.5)
        if not near:
            raise
        hint = vars(error).get("hint", "it is not in the assets dir")
        hint += f"; is it {' or '.join(map(repr, near))}?"
        raise AssetDoesNotExistError(name, vars(error)["version"], hint) from error


def _run_resolve(options: argparse.Namespace) -> int:
    specs, manager, pinned = _read_specs(options), AssetsManager(), []
    for text in specs:
        with _suggesting(manager):
            pinned.append(str(manager.resolve(text)))
    return _print(options, pinned, pinned)


def _run_verify(options: argparse.Namespace) -> int:
    manager, code = AssetsManager(on_progress=options.on_progress), 0
    document = []
    for spec in _find_copies(manager, options.specs):
        hint = f"is not what was published: `fetch --download {spec}` replaces it"
        try:
            wrong = manager.verify(spec)
        except AssetIntegrityError as error:  # a link to elsewhere, a marker of rubbish
            wrong, hint = [vars(error)["object_name"]], str(error)
        state = "no digests" if wrong is None else "wrong" if wrong else "right"
        document.append({"spec": str(spec), "state": state, "wrong": wrong or []})
        code = max(code, {"right": 0, "no digests": 1, "wrong": 6}[state])
        options.screen.close()
        for path in wrong or ():
            print(f"{_PROGRAM}: {path!r} {hint}", file=sys.stderr)
        if not options.json:
            print(f"{state:10}  {spec}", flush=True)
    return _print(options, document, []) or code


def _find_copies(manager: AssetsManager, texts: Sequence[str]) -> Iterator[AssetSpec]:
    """Yield what is to be verified: where there is no version, all local copies."""
    copies = list(manager.iterate_copies())
    specs = [AssetSpec.from_string(text) for text in texts]
    for spec in specs:
        part = spec.sub_part
        versions = [copy.version for copy in copies if copy.name == spec.name]
        if spec.version or not versions:
            with _suggesting(manager):
                yield manager.resolve(spec)
            continue
        for version in versions:
            yield AssetSpec(spec.name, version=version, sub_part=part)
    for copy in () if texts else copies:
        yield AssetSpec(copy.name, version=copy.version)


def _run_remove(options: argparse.Namespace) -> int:
    manager = AssetsManager()
    doomed = [one for text in options.specs for one in manager.remove(text, True)]
    return _remove(options, manager, list(dict.fromkeys(doomed)))


def _run_prune(options: argparse.Namespace) -> int:
    manager = AssetsManager()
    return _remove(options, manager, manager.prune(options.keep, True))


def _remove(
    options: argparse.Namespace, manager: AssetsManager, doomed: list[AssetSpec]
) -> int:
    names = [str(spec) for spec in doomed]
    what = f"{len(names)} local copies from {manager.assets_dir!r}: {', '.join(names)}"
    if doomed and not _confirm(options, f"Delete {what}?"):
        return _fail("declined, nothing was deleted", 1)
    for spec in () if options.dry_run else doomed:
        with suppress(AssetDoesNotExistError):  # another process was faster
            manager.remove(spec)
    return _print(options, names, names)


def _run_info(options: argparse.Namespace) -> int:
    manager = AssetsManager()
    with _suggesting(manager):
        spec = manager.resolve(options.spec)
        _require_part(spec, not spec.sub_part)
        manifest, provider = manager.find_manifest(spec), manager.storage_provider
    document: dict[str, Any] = {"spec": str(spec), "path": manager.find_path(spec)}
    if provider:
        object_name = provider.get_object_name(spec.name, cast(str, spec.version))
        document["uri"] = provider.driver.get_object_uri(object_name)
    lines = [f"{key}: {value or 'not cached'}" for key, value in document.items()]
    document["manifest"] = manifest and manifest.document
    for key in ("push_date", "pushed_by"):
        if manifest and key in manifest.document:
            lines.append(f"{key}: {manifest.document[key]}")
    for file in manifest.files if manifest else ():
        lines.append(f"{file.size or '-':>12}  {file.sha256 or '-':64}  {file.path}")
    return _print(options, document, lines)


def _run_doctor(options: argparse.Namespace) -> int:
    checks: list[dict[str, object]] = []
    made: list[StorageProvider] = []

    def examine(name: str, check: Callable[[], str]) -> bool:
        state, code = "ok", 0
        try:
            detail = check()
        except (ModelkitAssetsError, OSError) as error:
            state, detail = "failed", str(error)
            code = getattr(error, "exit_code", 1)
        checks.append({"check": name, "state": state, "detail": detail, "code": code})
        return not code

    def configure() -> str:
        made.append(StorageProvider())
        made[0].timeout = min(made[0].timeout, _DOCTOR_TIMEOUT_S)
        return cast(str, made[0].provider)

    is_offline = not find_setting("MODELKIT_STORAGE_PROVIDER")[0]
    examine("versioning", _check_versioning)
    if is_offline and not options.write:
        text = "none: pre-downloaded mode, only what is cached is served"
        examine("provider", lambda: text)
    elif examine("provider", configure):
        reads = {"SDK": _check_sdk, "list": _check_listing, "read": _check_reading}
        is_well = all(
            examine(name, partial(_answer_soon, check, made[0]))
            for name, check in reads.items()
        )
        if is_well and options.write:
            examine("write", lambda: _check_writing(made[0]))
    examine("assets dir", lambda: _check_assets_dir(made, is_offline))
    settings = list(_find_settings(options))
    lines = [*_align([tuple(one.values()) for one in settings]), ""]
    lines += [f"{one['state']:6}  {one['check']}: {one['detail']}" for one in checks]
    _print(options, {"settings": settings, "checks": checks}, lines)
    return next((cast(int, one["code"]) for one in checks if one["code"]), 0)


def _find_settings(options: argparse.Namespace) -> Iterator[dict[str, str]]:
    """Yield each setting, its value unless that is a secret, and where it is from."""
    given = {variable: option for option, (variable, *_) in _SETTINGS.items()}
    for variable in _DEFAULTS:
        value, source = find_setting(variable)
        if vars(options).get(variable):
            source = given[variable]
        yield {"setting": variable, "value": str(value or "-"), "from": source}
    driver: object = None
    with suppress(ModelkitAssetsError):
        driver = load_driver(find_setting("MODELKIT_STORAGE_PROVIDER")[0] or "local")
    for variable, is_secret in getattr(driver, "variables", {}).items():
        value = os.environ.get(variable)
        shown = "***" if is_secret and value else value or "-"
        # of a URL that has a password, or of JSON in place of the path of its file
        shown = re.sub("(?s).*@|.*{.*", "***", shown)
        source = "environment" if value else "not set"
        yield {"setting": variable, "value": shown, "from": source}


def _check_versioning() -> str:
    system = find_versioning_system(None)
    return f"{system.__name__} is used" if system else "inferred from the versions"


def _answer_soon(
    check: Callable[[StorageProvider], str], provider: StorageProvider
) -> str:
    """Return check(provider), or raise what it does; it may not hang, as SDKs do."""
    answers: list[str] = []
    errors: list[Exception] = []

    def ask() -> None:
        try:
            answers.append(check(provider))
        except Exception as error:  # to be raised by whoever asked
            errors.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_DOCTOR_PATIENCE_S)
    if errors:
        raise errors[0]
    if not answers:
        where = provider.driver.get_object_uri(provider.prefix)
        raise StorageUnavailableError(where, _DOCTOR_PATIENCE_S, "there is no answer")
    return answers[0]


def _check_sdk(provider: StorageProvider) -> str:
    package = getattr(provider.driver, "package", None)
    provider.retry(provider.prefix, lambda: getattr(provider.driver, "client", None))
    return f"{package} is there" if package else "none is needed"


def _find_first(provider: StorageProvider) -> str | None:
    # each attempt begins anew, as a generator that failed has ended
    iterate = provider.driver.iterate_objects
    return provider.retry(provider.prefix, lambda: next(iterate(provider.prefix), None))


def _check_listing(provider: StorageProvider) -> str:
    where = provider.driver.get_object_uri(provider.prefix)
    is_empty = _find_first(provider) is None
    return f"{where} can be listed" + (", and is empty" if is_empty else "")


def _check_reading(provider: StorageProvider) -> str:
    from io import BytesIO

    found = _find_first(provider)
    if not found:
        return "there is nothing to read yet"
    download = provider.driver.download_object
    provider.retry(found, lambda: download(found, BytesIO(), 0, 1))
    return f"{found!r} can be read"


def _check_writing(provider: StorageProvider) -> str:
    """Write an object under each condition, and delete it."""
    name = f"{provider.prefix}/modelkit-assets-probe-{_token()}"
    try:
        _prove_writing(provider, name)
    except BaseException:
        with suppress(ModelkitAssetsError):  # it may not be there
            provider.retry(name, lambda: provider.driver.delete_object(name))
        raise
    try:
        provider.retry(name, lambda: provider.driver.delete_object(name))
    except StorageAccessError as error:
        reason = "it was written, and may not be deleted, which publishing does not "
        reason += f"need: delete it by hand ({error.__cause__})"
        raise StorageAccessError(name, reason) from error
    return "objects can be created and replaced, and conditional writes are honoured"


def _prove_writing(provider: StorageProvider, name: str) -> None:
    def write(data: bytes, if_match: str) -> str:
        """Return the etag; `""` where the condition failed."""
        with suppress(FileExistsError):
            return provider._write(data, name, if_match)
        return ""

    first = write(b"1", "")
    second = write(b"2", first)
    if not second or write(b"3", "") or write(b"3", first):
        text = "the store ignores conditional writes, so of concurrent publishers "
        raise StorageDriverError(text + "one may be lost: publish from one place")
    if provider.retry(name, lambda: provider.driver.read_object(name))[0] != b"2":
        raise StorageDriverError(f"{name!r} is not what was written")


def _check_assets_dir(made: list[StorageProvider], is_offline: bool) -> str:
    import shutil
    import tempfile

    folder = os.path.abspath(find_setting("MODELKIT_ASSETS_DIR")[0] or os.getcwd())
    cache = _Cache(folder, _number(None, "MODELKIT_ASSETS_TIMEOUT_S"))
    cache.require_assets_dir()
    for provider in made:
        _check_apart(folder, provider)
    os.listdir(folder)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"1")
    except OSError as error:
        if is_offline:
            reason = f"({error.strerror}), as pre-downloaded mode may find it"
            return f"{folder!r} cannot be written {reason}"
        raise AssetsDirError(folder, error.strerror) from error
    free = show_size(shutil.disk_usage(folder).free)
    return f"{folder!r} can be written, {free} are free"


def _print(options: argparse.Namespace, document: Any, lines: Iterable[str]) -> int:
    """Print the result of a command, as one JSON document or as lines; return 0."""
    options.screen.close()
    for line in [json.dumps(document, indent=2)] if options.json else lines:
        print(line)
    return 0


# each command's function, what it does, an example, and what makes its arguments
_COMMANDS: dict[Callable[[Any], int], tuple[str, str, Callable[[Any], None]]] = {
    _run_new: (
        "publish a file or folder as a new asset; asks first",
        "model.bin nlp/bert --yes",
        _add_new,
    ),
    _run_update: (
        "publish a file or folder as the next version of an asset; asks first",
        "model.bin nlp/bert:1",
        _add_update,
    ),
    _run_list: ("list the store's assets and versions", "'nlp/*' --long", _add_list),
    _run_fetch: (
        "print the local path of each asset, downloaded if need be",
        "nlp/bert:1 'nlp/bert:1.0[vocab.txt]'",
        _add_fetch,
    ),
    _run_resolve: (
        "print each spec pinned to the version that it means now",
        "-r assets.txt > assets.lock",
        _add_specs,
    ),
    _run_info: ("show a version's manifest and where it is", "nlp/bert:1", _add_info),
    _run_verify: (
        "check local copies against the digests of what was published",
        "nlp/bert:0.1",
        _add_verify,
    ),
    _run_remove: (
        "delete local copies: of a version, or all of an asset; asks first",
        "nlp/bert:0.1",
        _add_remove,
    ),
    _run_prune: (
        "delete local copies but the latest versions of each asset; asks first",
        "--keep 2",
        _add_prune,
    ),
    _run_doctor: (
        "show the settings, and check that store and assets dir can be used",
        "--provider s3 --bucket models --write",
        _add_doctor,
    ),
}


if __name__ == "__main__":
    # whoever imports us by name, as a versioning system does, gets these very classes
    sys.modules.setdefault("modelkit_assets", sys.modules[__name__])
    sys.exit(main())
