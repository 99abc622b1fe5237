# SPDX-License-Identifier: MIT
# modelkit-assets 0.1.0, https://pypi.org/project/modelkit-assets/
#
# MIT License
#
# Copyright (c) 2026 modelkit-assets contributors
#
# Permission is hereby granted, free of charge, to any person obtaining a copy
# of this software and associated documentation files (the "Software"), to deal
# in the Software without restriction, including without limitation the rights
# to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
# copies of the Software, and to permit persons to whom the Software is
# furnished to do so, subject to the following conditions:
#
# The above copyright notice and this permission notice shall be included in all
# copies or substantial portions of the Software.
#
# THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
# IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
# FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
# AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
# LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
# OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
# SOFTWARE.
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

The file reads downwards: each chapter uses only those above it, and begins with
what it is about.
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
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from functools import lru_cache, partial
from itertools import takewhile
from typing import (
    TYPE_CHECKING,
    Any,
    NamedTuple,
    Protocol,
    TypedDict,
    TypeVar,
    cast,
    overload,
)

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import argparse
    import logging
    from argparse import Namespace
    from collections.abc import (
        Collection,
        Generator,
        Iterable,
        Iterator,
        Mapping,
        Sequence,
        Sized,
    )
    from contextlib import AbstractContextManager
    from datetime import datetime
    from queue import SimpleQueue
    from typing import IO, Callable, Literal, NoReturn, Union

    StrPath = Union[str, os.PathLike[str]]
    System = type["AssetsVersioningSystem"]
    Versioning = Union[str, System, None]
    Advance = Callable[[int], None]  # called with each number of bytes that was moved
    OnProgress = Callable[["Progress"], object]
    Buffer = Union[bytes, bytearray, memoryview]
    _Sources = Mapping[str, tuple[str, int]]  # a path and a position, by SHA-256
    _Wait = Callable[[float], None]  # for so many seconds; it may raise _Stopped
    Stamp = tuple[int, ...]  # of a file; see `_make_stamp`

__version__ = "0.1.0"

# fmt: off
__all__ = [
    # fetching, publishing, and their values
    "AssetsManager", "StorageProvider", "AssetSpec", "Manifest", "ManifestFile",
    "FetchInfo", "LocalCopy", "Progress",
    # versioning systems
    "AssetsVersioningSystem", "MajorMinorAssetsVersioningSystem",
    "SimpleDateAssetsVersioningSystem",
    # drivers
    "LocalDriver", "StorageDriver",
    # errors between here and the store
    "ModelkitAssetsError", "StorageDriverError", "ConfigurationError",
    "DriverNotInstalledError", "FolderDoesNotExistError", "NoConfiguredProviderError",
    "ObjectDoesNotExistError", "StorageAccessError", "StorageUnavailableError",
    "UnknownDriverError", "UnsupportedOperationError",
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

_OWN = ".modelkit-assets"  # begins the names of our own files, where others' lie too
_MARKER = ".SUCCESS"  # what modelkit calls the marker of a whole copy
_PARTIAL_MARKER = f"{_OWN}.partial"  # of a copy that has some files of its version

_BUFFER = 256 << 10  # bytes read, hashed and written at a time
_MAX_SEGMENT = 255  # characters of a file name that file systems hold
_MAX_PATH = 1024  # characters; no object's name may be longer in S3, GCS or Azure
# of a manifest or `.versions`, so that 1 GB holds what it is read into: 400,000 files
_MAX_DOCUMENT = 64 << 20  # bytes, as each driver's read_object has it too
_MAX_VALUES = 2 << 20  # and commas and brackets, as JSON takes memory by the value
_MAX_BYTES = 1 << 44  # of an asset; some disks say that they have room for any number


def __dir__() -> list[str]:
    return sorted(__all__)


# ------------------------------------------------------------------- errors
#
# What the caller may have to tell apart is a class of its own. Each is also the
# built-in exception that fits, so that `except FileNotFoundError` does.


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
        given = {**self._facts, **dict(zip(self._facts, values)), **named}
        shown = {}
        for name in self._facts:
            value = shown[name] = given[name]
            if isinstance(value, (list, tuple)):
                value = tuple(value)
                shown[name] = ", ".join(map(str, value)) or "none"
            elif not isinstance(value, (str, int, float, type(None))):
                value = shown[name] = str(value)
            if value and name in ("spec", "name", "version"):  # of any length
                shown[name] = _cut(str(shown[name]))
            vars(self)[name] = value
        named_by = filter(None, (shown.get("name"), shown.get("version")))
        shown["asset"] = ":".join(map(str, named_by))
        super().__init__(" ".join(self._text.format(**shown).splitlines()))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, name) for name in self._facts)


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
    _text = "the store fails on {object_name!r} for {seconds:.0f} s now: {reason}"
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
        "{known}; to add one, copy its driver to {path!r}: those of s3, gcs, az and "
        "http lie beside the original modelkit_assets.py"
    )
    _facts = {"provider": "", "known": (), "path": "drivers/NAME.py"}


class DriverNotInstalledError(StorageDriverError, ImportError):
    """The provider's SDK is not installed; the text gives the command that does it."""

    exit_code = 2
    _text = "{package} is not installed, or not whole: pip install {package} ({reason})"
    _facts = {"package": "", "reason": ""}


class UnsupportedOperationError(StorageDriverError, NotImplementedError):
    """The store cannot do that, as one that is only read cannot be written."""

    exit_code = 2
    _text = "{object_name!r}: {reason}"
    _facts = {"object_name": "", "reason": ""}


class NoConfiguredProviderError(StorageDriverError):
    """No storage provider is configured, and the operation needs one."""

    exit_code = 2
    _text = (
        "cannot {action}: no storage provider is configured, or we are offline: set "
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
        "{local_versions}; and no storage provider is configured, or we are offline"
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
    """The assets dir cannot be written or read: read-only, full, or another's."""

    _text = "cannot {action} {what}: {reason}: {path!r}{hint}"
    _facts = {
        "path": "",
        "reason": "",
        "action": "write to",
        "hint": "",
        "what": "the assets dir",
    }


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
    _text = "no version {asset!r} exists, the major versions are: {majors}"
    _facts = {"version": "", "majors": (), "name": ""}


_set_up_log: Callable[[logging.Logger], None] | None = None  # the command line's


def _logger() -> logging.Logger:
    # imported on use: a cache hit logs nothing, and logging costs 5 ms of start-up
    import logging

    logger = logging.getLogger("modelkit_assets")
    if _set_up_log:
        _set_up_log(logger)
    return logger


# ------------------------------------------------------------------- paths
#
# What a store says may come from anybody, and assets dirs are shared: one place
# decides what stays inside a folder, by name and behind links.

# https://learn.microsoft.com/windows/win32/fileio/naming-a-file
_WINDOWS_DEVICES = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"} | {
    port + digit for port in ("COM", "LPT") for digit in "0123456789¹²³"
}


def _is_contained(path: str) -> bool:
    """Tell whether a relative path stays below the folder that it is joined to.

    The rules of POSIX and of Windows both apply, on every system, as a store is shared:
    no empty, `.` or `..` segment, drive letter, device name, NUL or lone surrogate.
    Nor may it be longer than any store holds, or just making its folders would fail.
    """
    if len(path) > _MAX_PATH or "\0" in path:
        return False
    if not path.isascii() and re.search("[\ud800-\udfff]", path):
        return False
    for segment in path.replace("\\", "/").split("/"):
        kept = segment.rstrip(" .")  # Windows drops these at the end of a name
        device = kept.partition(".")[0].rstrip().upper()
        if not kept or segment[1:2] == ":" or device in _WINDOWS_DEVICES:
            return False
    return True


def _local_path(root: str, part: str) -> str:
    """Return where a part lies below a folder; the root itself for the part `""`."""
    return os.path.join(root, *part.split("/")) if part else root


def _is_inside(path: str, root: str, plain: set[str] | None = None) -> bool:
    """Tell whether a path below a folder stays there when its links are followed.

    plain: what was seen to be no link, nor behind one, which is not looked at again;
    of 20,000 files in one folder this takes half of the time.
    """
    plain = set() if plain is None else plain
    step, has_links = path, os.name == "nt"  # whose junctions only realpath knows
    while len(step) > len(root) and step not in plain:
        has_links = has_links or os.path.islink(step)
        step = os.path.dirname(step)
    if not has_links:
        plain.add(os.path.dirname(path))
    return not has_links or _resolve(path).startswith(_resolve(root))


def _resolve(folder: str) -> str:
    return os.path.join(os.path.normcase(os.path.realpath(folder)), "")


# ------------------------------------------------------------------- settings
#
# A setting is an argument, else an environment variable, else a default. All are
# resolved in one place, once, to one frozen value.


def _read_number(value: Any, variable: str) -> float:
    with suppress(TypeError, ValueError):
        number = float(value)
        if 0 <= number < float("inf") and value is not True:
            return number
    raise ConfigurationError(f"{variable} must be a number, 0 or more, not {value!r}")


def _read_count(value: Any, variable: str) -> int | None:
    if value is None:
        return None
    number = _read_number(value, variable)
    if number < 1 or number % 1:
        raise ConfigurationError(f"{variable} must be a whole number, not {number:g}")
    return int(number)


def _read_boolean(value: Any, variable: str) -> bool:
    text = str(value).lower()
    if text not in ("0", "false", "no", "off", "1", "true", "yes", "on"):
        raise ConfigurationError(f"{variable} must be true or false, not {value!r}")
    return text in ("1", "true", "yes", "on")


def _read_prefix(value: Any, variable: str) -> str:
    prefix = str(value).strip("/")
    if not _is_contained(prefix):
        text = f"{variable} must be a path below the bucket, not {value!r}"
        raise ConfigurationError(text)
    return prefix


# each variable's default, what reads it unless it is a text, and the older name it had
_SETTINGS: dict[str, tuple[str | None, Callable[[Any, str], Any] | None, str]] = {
    "MODELKIT_ASSETS_DIR": (None, None, "ASSETS_DIR"),
    "MODELKIT_ASSETS_OFFLINE": ("false", _read_boolean, ""),
    "MODELKIT_ASSETS_TIMEOUT_S": ("10", _read_number, ""),
    "MODELKIT_ASSETS_VERSIONING_SYSTEM": (None, None, ""),
    "MODELKIT_STORAGE_PROVIDER": (None, None, "STORAGE_PROVIDER"),
    "MODELKIT_STORAGE_BUCKET": (None, None, ""),
    "MODELKIT_STORAGE_PREFIX": ("modelkit-assets", _read_prefix, ""),
    "MODELKIT_STORAGE_FORCE_DOWNLOAD": ("false", _read_boolean, ""),
    "MODELKIT_STORAGE_TIMEOUT_S": ("300", _read_number, ""),
    "MODELKIT_STORAGE_WORKERS": (None, _read_count, ""),  # what the driver suggests
    "MODELKIT_LAZY_DRIVER": ("false", _read_boolean, ""),  # modelkit's, and needless
}


class _Settings(NamedTuple):
    """All settings, each field named as its variable is without `MODELKIT_`."""

    assets_dir: str | None
    assets_offline: bool
    assets_timeout_s: float
    assets_versioning_system: Versioning
    storage_provider: str | None
    storage_bucket: str | None
    storage_prefix: str
    storage_force_download: bool
    storage_timeout_s: float
    storage_workers: int | None
    lazy_driver: bool

    @classmethod
    def resolve(cls, **arguments: Any) -> _Settings:
        """Return the settings; ConfigurationError where one is wrong."""
        values = {}
        for variable, (_, read, _) in _SETTINGS.items():
            field = _name_field(variable)
            value, _ = _find_setting(variable, arguments.get(field))
            values[field] = read(value, variable) if read else value
        return cls(**values)


def _name_field(variable: str) -> str:
    return variable[len("MODELKIT_") :].lower()


def _find_setting(variable: str, argument: Any = None) -> tuple[Any, str]:
    """Return a setting as given, or its default, and where it is from; "" is unset."""
    if argument not in (None, ""):
        return argument, "argument"
    default, _, older = _SETTINGS[variable]
    if value := os.environ.get(variable):
        return value, "environment"
    if value := os.environ.get(older):
        return value, f"environment, {older}"
    return default, "default"


# ------------------------------------------------------------------- versioning
#
# How versions are named, ordered and counted up: pure functions of texts.

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
        if params and params.get("bump_major"):
            raise InvalidVersionError(latest, "a date has no major version to bump")
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


_VERSIONING_SYSTEMS: dict[str, System] = {
    "major_minor": MajorMinorAssetsVersioningSystem,
    "simple_date": SimpleDateAssetsVersioningSystem,
}

# which every system must define itself
_OWN_METHODS = ("get_initial_version", "check_version_valid", "increment_version")


def _find_versioning_system(versioning: Versioning) -> System | None:
    """Return the system of a name or `package.module:Class`; None if unset."""
    chosen, _ = _find_setting("MODELKIT_ASSETS_VERSIONING_SYSTEM", versioning)
    if chosen is None or isinstance(chosen, type):
        return chosen
    if chosen in _VERSIONING_SYSTEMS:
        return _VERSIONING_SYSTEMS[chosen]
    from importlib import import_module

    module, _, name = chosen.partition(":")
    try:
        system: System = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError, SyntaxError) as error:
        raise UnknownAssetsVersioningSystemError(chosen, error) from error
    for method, inherited in vars(AssetsVersioningSystem).items():
        own = getattr(system, method, None)
        is_base = getattr(own, "__func__", None) is getattr(inherited, "__func__", 0)
        is_missing = own is None and method != "is_version_valid"
        if method[0] != "_" and (is_missing or is_base and method in _OWN_METHODS):
            reason = f"the class has no {method}"
            raise UnknownAssetsVersioningSystemError(chosen, reason)
    return system


def _infer_versioning_system(versions: Sequence[str]) -> System:
    """Return the built-in system that all versions follow; `major_minor` for none."""
    for system in _VERSIONING_SYSTEMS.values():
        if all(_is_valid(version, system) for version in versions):
            return system
    reason = "it and its like are not X.Y, X, or YYYY-MM-DDThh-mm-ssZ; another system "
    reason += "is set with MODELKIT_ASSETS_VERSIONING_SYSTEM"
    raise InvalidVersionError(versions[0], reason)


def _is_valid(text: str, system: System) -> bool:
    try:
        system.check_version_valid(text)
    except ValueError:
        return False
    return True


# ------------------------------------------------------------------- asset specs
#
# A spec is what people write; which version it means is decided here, without a store.

_NAME = re.compile(r"[A-Za-z0-9_./-]+")
_VERSION = re.compile(r"[A-Za-z0-9_.-]+")


class AssetSpec:
    """What to fetch: `name[:version][[sub/part]]`; immutable and hashable.

    name      segments joined by `/`
    version   complete, partial, or None for the latest
    sub_part  a POSIX path inside a directory asset, or None for the whole
    """

    name: str
    version: str | None
    sub_part: str | None
    _system: System | None

    def __init__(
        self,
        name: str,
        *,
        version: str | None = None,
        sub_part: str | None = None,
        versioning: Versioning = None,
    ) -> None:
        self.check_name_valid(name)
        system = _find_versioning_system(versioning)
        if version:
            self.check_version_valid(version)
            system = system or _infer_versioning_system([version])
            system.check_version_valid(version)
        if sub_part is not None:
            sub_part = sub_part.strip("/") if isinstance(sub_part, str) else ""
            if not _is_contained(sub_part):
                raise InvalidAssetSpecError(sub_part, "a part stays inside its asset")
        # by this way alone, as pickle does too: __setattr__ refuses
        vars(self).update(
            name=name, version=version or None, sub_part=sub_part, _system=system
        )

    @classmethod
    def from_string(cls, text: str, versioning: Versioning = None) -> AssetSpec:
        """Parse a spec, in time linear in its length; InvalidAssetSpecError if none."""
        if not isinstance(text, str):
            reason = f"a spec is a str or an AssetSpec, not a {type(text).__name__}"
            raise InvalidAssetSpecError(text, reason)
        own: Any = cls  # as a class is not hashable to mypy, nor is `system`
        system: Any = _find_versioning_system(versioning)
        return _parse_spec(own, text, system)

    @classmethod
    def check_name_valid(cls, name: str) -> None:
        """Raise InvalidNameError unless the text is an asset name."""
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidNameError(name)
        if not (name[0].isalnum() and name[-1].isalnum()):
            raise InvalidNameError(name, "it must begin and end with a letter or digit")
        if not _is_contained(name) or max(map(len, name.split("/"))) > _MAX_SEGMENT:
            raise InvalidNameError(name, "a segment cannot be a folder everywhere")

    @classmethod
    def check_version_valid(cls, version: str) -> None:
        """Raise InvalidVersionError unless the text can be a version in any system."""
        if not isinstance(version, str) or not _VERSION.fullmatch(version):
            raise InvalidVersionError(version)
        if not _is_contained(version) or len(version) > _MAX_SEGMENT - len(".meta"):
            raise InvalidVersionError(version, "it cannot be a file name everywhere")

    @property
    def versioning(self) -> type[AssetsVersioningSystem]:
        """The versioning system: the one set, else what the version follows."""
        return self._system or MajorMinorAssetsVersioningSystem

    def _versioning_among(self, versions: Sequence[str]) -> System:
        """Return the system set or followed by the version, else by these versions."""
        return self._system or _infer_versioning_system(versions)

    def is_version_complete(self) -> bool:
        """Tell whether the spec names exactly one version."""
        return bool(self.version and self.versioning.is_version_complete(self.version))

    def sort_versions(self, versions: Iterable[str]) -> list[str]:
        """Return complete versions in order, the latest first."""
        versions = list(versions)
        return self._versioning_among(versions).sort_versions(versions)

    def get_local_versions(self, folder: StrPath) -> list[str]:
        """Return the complete versions among a folder's entries, the latest first."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return self._pick_versions(os.listdir(folder))
        return []

    def _pick_versions(self, names: Iterable[str]) -> list[str]:
        """Return those of the names that are complete versions, the latest first."""
        systems = [self._system] if self._system else _VERSIONING_SYSTEMS.values()
        names, picked = sorted(set(names), reverse=True), list[str]()
        for system in systems:  # of two, one comes after the other
            mine = [one for one in names if _is_version(one, system)]
            picked += system.sort_versions(mine)
        return picked

    def __setattr__(self, name: str, value: object = None) -> NoReturn:
        raise AttributeError(f"an AssetSpec cannot be changed: {name}")

    __delattr__ = __setattr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AssetSpec) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __str__(self) -> str:
        version = f":{self.version}" if self.version else ""
        return self.name + version + (f"[{self.sub_part}]" if self.sub_part else "")

    def __repr__(self) -> str:
        return f"AssetSpec({str(self)!r})"


@lru_cache(maxsize=1000)  # or the parsing would take a third of a hit's 20 µs
def _parse_spec(cls: type[AssetSpec], text: str, system: System | None) -> AssetSpec:
    name, bracket, part = text.partition("[")
    name, colon, version = name.partition(":")
    if (colon and not version) or (bracket and (len(part) < 2 or part[-1] != "]")):
        raise InvalidAssetSpecError(text)
    sub_part = part[:-1] if bracket else None
    return cls(name, version=version, sub_part=sub_part, versioning=system)


def _is_version(text: str, system: System) -> bool:
    """Tell whether the text is a complete version, and may be one in a store."""
    plain = _VERSION.fullmatch(text) and _is_valid(text, system)
    return bool(plain) and system.is_version_complete(text)


def _check_new_name(name: str, versioning: Versioning = None) -> None:
    """Raise InvalidNameError unless a new asset may have that name.

    A segment that looks like a version, its manifest, its marker, or a list of versions
    would lie where another asset's does.
    """
    AssetSpec.check_name_valid(name)
    systems = [_find_versioning_system(versioning), *_VERSIONING_SYSTEMS.values()]
    for segment in name.split("/"):
        version = any(system and _is_version(segment, system) for system in systems)
        if version or segment[0] == "." or segment.endswith((".meta", ".versions")):
            reason = f"the segment {segment!r} looks like a version or its manifest"
            raise InvalidNameError(name, reason)


def _choose_version(spec: AssetSpec, versions: Sequence[str]) -> str:
    """Return the version that a spec means among those that exist, one or more.

    MajorVersionDoesNotExistError where none has its major.
    """
    system = spec._versioning_among(versions)
    ordered = system.sort_versions(one for one in versions if _is_version(one, system))
    if not ordered:
        raise _make_system_error(spec, versions)
    if spec.version and spec.version not in ordered:
        return _get_latest_of_major(spec, ordered)
    return spec.version or ordered[0]


def _get_latest_of_major(spec: AssetSpec, versions: list[str]) -> str:
    major = str(spec.version)
    try:
        return spec.versioning.get_latest_partial_version(major, versions)
    except MajorVersionDoesNotExistError as error:  # which knows no asset
        majors = vars(error)["majors"]
        raise MajorVersionDoesNotExistError(major, majors, spec.name) from None


def _make_system_error(spec: AssetSpec, versions: Sequence[str]) -> InvalidVersionError:
    names = {one: name for name, one in _VERSIONING_SYSTEMS.items()}
    system = spec._versioning_among(versions)
    kind = "other"
    with suppress(InvalidVersionError):
        kind = names[_infer_versioning_system(versions)]
    reason = f"{spec.name!r} has {kind} versions, as {versions[0]!r}, and not those of "
    reason += names.get(system, system.__name__)
    return InvalidVersionError(spec.version or versions[0], reason)


def _choose_next_version(
    spec: AssetSpec, taken: Sequence[str], bump_major: bool = False
) -> str:
    """Return the version to publish where those of `taken` exist already.

    A complete version in the spec is that version; a partial one names the major.
    """
    system = spec._versioning_among(taken)
    # of another system, they could never be put in order
    if not all(_is_valid(version, system) for version in taken):
        raise _make_system_error(spec, taken)
    if spec.version and spec.is_version_complete():
        return spec.version
    if spec.version and not taken:
        raise MajorVersionDoesNotExistError(spec.version, name=spec.name)
    if not taken:
        return system.get_initial_version()
    if spec.version:
        _get_latest_of_major(spec, list(taken))
    params = {"bump_major": bump_major, "major": spec.version}
    version = system.increment_version(system.sort_versions(taken), params)
    AssetSpec.check_version_valid(version)
    return version


# ------------------------------------------------------------------- manifest
#
# A manifest says what a version holds: each file's path, size and SHA-256, and of a
# large file the SHA-256 of each chunk, so that a part of it can be checked alone. The
# same JSON is a version's `.meta` object and the marker of its copy in an assets dir.
# Whoever wrote it, nothing of it is used before `Manifest.from_json` has checked it.

_CHUNK = 16 << 20  # bytes of a large file that have a digest of their own
_FORMAT = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA256S = re.compile(r"(?:[0-9a-f]{64})+")
_READABLE = f"at most {_MAX_DOCUMENT >> 20} MiB and {_MAX_VALUES} values of JSON"


class ManifestFile(NamedTuple):
    """One file of an asset.

    path        POSIX, relative to the asset; `""` in a file asset
    size        bytes; None where modelkit published it
    sha256      lower-case hexadecimal; None likewise
    offset      where its bytes begin in a pack; None in an asset that is not packed
    chunks      the SHA-256s of the 16 MiB chunks of a larger file, one after the other
    """

    path: str
    size: int | None = None
    sha256: str | None = None
    executable: bool = False
    offset: int | None = None
    chunks: str = ""

    @classmethod
    def from_entry(cls, entry: Any) -> ManifestFile:
        """Read an entry of `files`; TypeError, KeyError or ValueError if it is none."""
        file = cls(**{key: entry[key] for key in cls._fields if key in entry})
        _require(type(file.size) is int and file.size >= 0, "a size that is no number")
        _require(isinstance(file.chunks, str), "chunks that are no text")
        if not file.chunks or file.sha256 is not None:  # one of the two is enough
            _require(_SHA256.fullmatch(entry["sha256"]), "a sha256 that is none")
        _require(isinstance(file.executable, bool), "an executable that is no bool")
        fit = file.offset is None or type(file.offset) is int and file.offset >= 0
        _require(fit, "an offset that is no number")
        if file.chunks:
            count = -(-entry["size"] // _CHUNK)  # the last may be smaller
            is_hex = bool(_SHA256S.fullmatch(file.chunks))
            fit = is_hex and len(file.chunks) == 64 * count
            _require(fit, "chunks that are not a SHA-256 for each 16 MiB")
        return file

    def to_entry(self) -> dict[str, object]:
        """Write the entry of `files`."""
        items, default = self._asdict().items(), self._field_defaults
        return {key: value for key, value in items if value != default.get(key)}


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
        cls,
        is_directory: bool,
        files: Sequence[ManifestFile],
        empty: Sequence[str],
        metadata: Mapping[str, str] | None = None,
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
            "format": _FORMAT,
        }
        if metadata:
            document["metadata"] = dict(metadata)
        if any(file.offset is not None for file in files):
            document["pack"] = "tar"
        return cls(is_directory, (), (), document)._with_files(sorted(files), empty)

    @classmethod
    def from_json(cls, data: bytes, object_name: str) -> Manifest:
        """Read a `.meta` object or a marker, ours or modelkit's.

        AssetIntegrityError unless it is JSON, has what is needed, and no path in it
        leads outside or meets another.
        """
        document = _read_json(data, object_name)
        try:
            is_directory = document["is_directory"]
            _require(isinstance(is_directory, bool), "an is_directory that is no bool")
            _parse_date(document["push_date"])
            _require(document.get("format", 1) == _FORMAT, "a newer format")
            is_packed = "pack" in document
            fit = not is_packed or document["pack"] == "tar" and is_directory
            _require(fit, "a pack that is no tar of a folder")
            paths = document["contents"] if is_directory else [""]
            empty = document.get("empty_directories", [])
            parts = document.get("parts", [])  # of a marker of some files alone
            _require(type(paths) is type(empty) is type(parts) is list, "no list")
            _require(is_directory or not empty, "a file with folders in it")
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
        except (TypeError, ValueError, KeyError) as error:
            raise AssetIntegrityError(object_name, "a manifest", repr(error)) from error
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
        return None if None in sizes else sum(filter(None, sizes))

    @property
    def metadata(self) -> dict[str, str]:
        """What the publisher said of the version: texts by name."""
        found = self.document.get("metadata")
        items = found.items() if isinstance(found, dict) else ()
        return {str(key): str(value) for key, value in items}

    def get_part(self, part: str) -> Manifest:
        """Return the manifest of a file or folder of it alone; of all for `""`.

        It has no files and no folders where there is no such part.
        """
        files = [one for one in self.files if _is_below(one.path, part)]
        empty = [one for one in self.empty_directories if _is_below(one, part)]
        return self._with_files(files, empty)

    def describe(self) -> dict[str, Any]:
        """Return the JSON object as modelkit does, with `push_date` as a datetime."""
        return {**self.document, "push_date": _parse_date(self.document["push_date"])}

    def _with_files(
        self, files: Sequence[ManifestFile], empty: Sequence[str]
    ) -> Manifest:
        """Return the manifest with these files and empty folders."""
        document = dict(self.document)
        if self.is_directory:
            document["contents"] = [file.path for file in files]
        # of modelkit's, which has neither sizes nor digests, as little is written
        if all(file.sha256 or file.chunks for file in files):
            document["files"] = [file.to_entry() for file in files]
        if empty or "empty_directories" in document:
            document["empty_directories"] = list(empty)
        return Manifest(self.is_directory, tuple(files), tuple(empty), document)

    def _has_paths_of(self, other: Manifest) -> bool:
        """Tell whether a manifest has as many files and folders as another."""
        counts = [(len(one.files), len(one.empty_directories)) for one in (self, other)]
        return counts[0] == counts[1]

    def _has_same_content(self, other: Manifest) -> bool:
        """Tell whether two manifests describe the same files, to the byte.

        Chunks say no more than a file's own digest, and older manifests lack them.
        """
        one, another = ([file[:5] for file in each.files] for each in (self, other))
        is_known = all(file.sha256 for file in self.files)
        same = self.is_directory == other.is_directory and one == another
        return is_known and same and self.empty_directories == other.empty_directories


def _is_below(path: str, part: str) -> bool:
    """Tell whether a path is a part, or lies in it; all do in the part `""`."""
    return not part or f"{path}/".startswith(f"{part}/")


def _get_place(file: ManifestFile) -> tuple[int, int]:
    """Return what puts the files of a pack in order, empty ones too."""
    return file.offset or 0, file.size or 0


def _check_offsets(files: Iterable[ManifestFile], is_packed: bool) -> None:
    """Raise ValueError unless just a pack's files have offsets, and none overlap."""
    end = 0
    for file in sorted(files, key=_get_place):
        fit = (file.offset is not None) == is_packed
        _require(fit, "an offset missing, or needless")
        _require(file.offset is None or file.offset >= end, "files that overlap")
        end = (file.offset or 0) + (file.size or 0)


def _require(condition: object, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


def _check_paths(files: Sequence[str], empty: Sequence[str]) -> None:
    """Raise ValueError unless all paths can lie in one folder, and none leaves it."""
    paths = {*files, *empty}
    _require(len(paths) == len(files) + len(empty), "a path twice")
    for path in paths:
        fit = isinstance(path, str) and _is_contained(path)
        fit = fit and path.split("/")[0] not in (_MARKER, _PARTIAL_MARKER)
        _require(fit, f"the path {_cut(repr(path))}")
    # NUL comes before all that a path may hold: what lies below a file comes next to it
    ordered = sorted(path.replace("/", "\0") for path in paths)
    nested = (low.startswith(f"{high}\0") for high, low in zip(ordered, ordered[1:]))
    _require(not any(nested), "a path that is both a file and a folder")


def _parse_date(text: str) -> datetime:
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
        raise AssetIntegrityError(object_name, "a JSON object", _cut(repr(document)))
    return document


def _parse_versions(data: bytes, object_name: str) -> dict[str, Any]:
    """Return a `.versions` object, whose `versions` is a list of versions."""
    document = _read_json(data, object_name)
    try:
        versions = document.get("versions")
        _require(isinstance(versions, list), f"versions {_cut(repr(versions))}")
        for version in document["versions"]:
            AssetSpec.check_version_valid(version)
    except ValueError as error:
        raise AssetIntegrityError(object_name, "a list of versions", error) from error
    return document


def _join_path(name: str, part: str) -> str:
    """Return an object's name, or a part, that lies below another."""
    return "/".join(filter(None, (name, part)))


# A pack is an uncompressed tar, with a file's header before its bytes, and both filled
# up to blocks: https://www.gnu.org/software/tar/manual/html_node/Standard.html

_TAR_BLOCK = 512
_TAR_END = bytes(2 * _TAR_BLOCK)


def _make_tar_header(path: str, size: int | None, is_executable: bool = False) -> bytes:
    """Return what stands before a file's bytes, or, without a size, for a folder."""
    import tarfile

    info = tarfile.TarInfo(path)
    if size is None:
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    else:
        info.size, info.mode = size, 0o755 if is_executable else 0o644
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


# ------------------------------------------------------------------- drivers
#
# A driver moves bytes between here and one kind of store, and does nothing else: what
# to retry, check, keep or tell is decided below. What follows is all that the two know
# of each other, and they meet in built-in exceptions.


class StorageDriver(Protocol):
    """What the core asks of a store; nothing in it is optional.

    It is made as `Driver(bucket, client=None, **settings)`, with those of its settings
    that are set, as text. That checks them, and opens no connection. The SDK's client
    is made on first use, once per process, and shared by threads; a driver pickles
    without it. All methods raise built-in exceptions:

    - FileNotFoundError: absent; FileExistsError: the condition failed
    - PermissionError: refused; ValueError: the settings are wrong
    - ConnectionError, TimeoutError: worth retrying, short and stalled bodies among them
    - ConnectionRefusedError: likewise, where no connection could be made at all
    - NotImplementedError: this store cannot do that; ImportError: there is no SDK

    package     what pip installs; `""` for nothing
    variables   its environment variables: the keyword that stands for one, as its name
                in lower case does, and whether it is secret
    workers     how many transfers at once suit it
    timeout_s   seconds without a connection, an answer or a byte after which a request
                fails, which the core sets; it is for the core to try again
    """

    package: str
    variables: Mapping[str, tuple[str, bool]]
    workers: int
    timeout_s: float
    bucket: str

    def stat_object(self, name: str) -> tuple[int, str]:
        """Return an object's size in bytes and its opaque etag."""
        ...

    def read_object(self, name: str) -> tuple[bytes, str]:
        """Return a small object whole, and its etag, from one request.

        OSError with EFBIG where it has more than 64 MiB, of which few are read.
        """
        ...

    def write_object(
        self, data: bytes, name: str, *, if_match: str | None = None
    ) -> str:
        """Write an object in one request and return its new etag.

        if_match="": only if absent; an etag: only if unchanged; None: always.
        """
        ...

    def iterate_bytes(
        self,
        name: str,
        start: int = 0,
        length: int | None = None,
        if_match: str | None = None,
    ) -> Generator[Buffer, None, None]:
        """Yield an object's stored bytes from start on, at most so many, in order.

        - never decompressed, never others than were asked for; none past the end
        - given an etag, only that object's: FileExistsError where it has changed
        - what has come is yielded without waiting for more, so that a stall shows
        - what is yielded holds until the next is asked for, so one buffer may serve
        - closing the generator ends the request
        """
        ...

    def upload_object(
        self, path: str, name: str, advance: Advance, *, if_match: str = ""
    ) -> None:
        """Upload a file in bounded memory, on the condition that `write_object` has.

        advance is called with each number of bytes that has moved; what it raises ends
        the upload, of which nothing stays, and is raised as it is.
        """

    def copy_object(self, source: str, name: str) -> None:
        """Copy an object within the store, only if the new one is absent."""

    def iterate_objects(self, prefix: str) -> Iterator[tuple[str, int, str]]:
        """Yield names, sizes and etags below a prefix: `a` does not yield `ab/c`.

        What is in a store that cannot be listed can be fetched all the same.
        """
        ...

    def delete_object(self, name: str) -> None:
        """Delete an object, if it is there. For tests and probes only."""

    def get_object_uri(self, name: str) -> str:
        """Return what people call the object."""
        ...


# a link that somebody planted there must not lead us to another file
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
_STORE_LOCK = f"{_OWN}.lock"
_STAGED = re.escape(_OWN) + r"\.[0-9a-f]{12}"  # an object that is being written
_ABANDONED_S = 24 * 3600.0  # so long untouched, what is staged is nobody's
_replacing = threading.Lock()


class LocalDriver:
    """A plain folder as a store; an object's name is its path in it.

    - an object is written beside its place and then named: it is seen whole or not
    - its bytes are on the disk before its name is, and that before the call returns
    - conditional writes hold between threads, processes, and hosts that share it
    - no object but the one named is touched, whatever else lies in the folder
    - links that lead outside the folder are refused; none is listed

    Permissions: reading needs r-x on the folders; publishing also needs w.
    """

    package = ""
    variables: Mapping[str, tuple[str, bool]] = {}
    # where nothing says how many: on a disk, more are in each other's way. A folder of
    # 1000 files takes two threads 0.20 s, sixteen 0.33 s
    workers = 2
    timeout_s = 0.0  # a disk is waited for

    def __init__(self, bucket: StrPath, client: object = None) -> None:
        self.bucket = os.path.abspath(bucket)  # wherever the process goes later
        self._kept: set[str] = set()  # folders whose names are on the disk

    def stat_object(self, name: str) -> tuple[int, str]:
        """Return an object's size in bytes and its etag."""
        with self._open(name) as file:
            status = os.fstat(file.fileno())
            return status.st_size, _make_etag(status)

    def read_object(self, name: str) -> tuple[bytes, str]:
        """Return a small object whole, and its etag."""
        with self._open(name) as file:
            data = _read_document(file)
            if len(data) > _MAX_DOCUMENT:
                raise OSError(errno.EFBIG, "it is too large to be read at once")
            return data, _make_etag(os.fstat(file.fileno()))

    def write_object(
        self, data: bytes, name: str, *, if_match: str | None = None
    ) -> str:
        """Write an object, if the condition holds, and return its new etag."""
        return self._write(name, if_match, lambda file: _write_all(file, data))

    def iterate_bytes(
        self,
        name: str,
        start: int = 0,
        length: int | None = None,
        if_match: str | None = None,
    ) -> Generator[Buffer, None, None]:
        """Yield an object's bytes from start on, at most so many."""
        with self._open(name) as file:
            if if_match not in (None, _make_etag(os.fstat(file.fileno()))):
                raise FileExistsError(f"the object {name!r} has changed")
            yield from _iterate_file(file, start, length)

    def upload_object(
        self, path: str, name: str, advance: Advance, *, if_match: str = ""
    ) -> None:
        """Copy a file to its object, if the condition holds."""

        def copy(file: IO[bytes]) -> None:
            with open(path, "rb", buffering=0) as source:
                _copy_bytes(source, file, os.path.getsize(path), advance)

        self._write(name, if_match, copy)

    def copy_object(self, source: str, name: str) -> None:
        """Copy an object within the store, only if the new one is absent."""
        self._open(source).close()
        self.upload_object(self._path(source), name, lambda size: None)

    def iterate_objects(self, prefix: str = "") -> Iterator[tuple[str, int, str]]:
        """Yield names, sizes and etags; what comes meanwhile may be missed."""
        self._check_bucket()
        pending = [prefix.strip("/")]
        if prefix:
            self._path(pending[0])
        while pending:
            folder = pending.pop()
            try:
                entries = list(os.scandir(_local_path(self.bucket, folder)))
            except (FileNotFoundError, NotADirectoryError):
                continue
            for entry in entries:
                name = _join_path(folder, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    pending.append(name)
                elif not _is_stores_own(entry.name):
                    with suppress(FileNotFoundError):  # where it has gone
                        status = entry.stat(follow_symlinks=False)
                        if stat.S_ISREG(status.st_mode):
                            yield name, status.st_size, _make_etag(status)

    def delete_object(self, name: str) -> None:
        """Delete an object, if it is there."""
        path = self._path(name)
        if os.path.isfile(path):
            os.unlink(path)

    def get_object_uri(self, name: str) -> str:
        """Return the object's path."""
        return _local_path(self.bucket, name)

    def __repr__(self) -> str:
        return f"<LocalDriver bucket={self.bucket!r}>"

    def _check_bucket(self) -> None:
        if not os.path.isdir(self.bucket):
            variable = "MODELKIT_STORAGE_BUCKET"
            raise FolderDoesNotExistError("store folder", self.bucket, variable)

    def _path(self, name: str) -> str:
        if not _is_contained(name):
            raise ValueError(f"the object name {_cut(repr(name))} leaves the store")
        path = _local_path(self.bucket, name)
        if not _is_inside(path, self.bucket):
            raise PermissionError(f"a link leads {path!r} outside the store")
        return path

    def _open(self, name: str) -> IO[bytes]:
        try:
            return _open_plain_file(self._path(name))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            self._check_bucket()
            raise FileNotFoundError(f"no object {name!r}") from None

    def _write(
        self, name: str, if_match: str | None, fill: Callable[[IO[bytes]], None]
    ) -> str:
        """Write an object beside its place, name it, and return its new etag."""
        self._check_bucket()
        folder = os.path.dirname(self._path(name))
        self._keep_folder(folder)
        staged = os.path.join(folder, f"{_OWN}.{_make_token()}")
        try:
            with open(staged, "wb", buffering=0) as file:
                fill(file)
                _sync(file)
            return self._give_name(staged, name, if_match)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(staged)

    def _keep_folder(self, folder: str) -> None:
        """Make a folder of the store, and see to it that a power cut leaves it there.

        Another process may have made it, and not have got so far.
        """
        if folder in self._kept and os.path.isdir(folder):
            return
        if folder != self.bucket:
            parent = os.path.dirname(folder)
            self._keep_folder(parent)
            with suppress(FileExistsError):
                os.mkdir(folder)
            if not os.path.isdir(folder):  # not an error that says: a condition failed
                raise NotADirectoryError(f"{folder!r} is an object, not a folder")
            _sync_folder(parent)
        with suppress(OSError):
            for entry in os.scandir(folder):
                is_staged = entry.name != _STORE_LOCK and _is_stores_own(entry.name)
                if is_staged and time.time() - entry.stat().st_mtime > _ABANDONED_S:
                    os.unlink(entry.path)  # a killed push left it
        self._kept.add(folder)

    def _give_name(self, staged: str, name: str, if_match: str | None) -> str:
        """Name a staged object, if the condition holds, and return its etag."""
        # times and inode numbers come again within milliseconds, so that an etag would
        # too: the microseconds are drawn
        now = time.time_ns() // 1_000_000 * 1_000_000 + int(_get_random() * 1_000_000)
        os.utime(staged, ns=(now, now))
        path, etag = self._path(name), _make_etag(os.stat(staged))
        if if_match is None:
            _replace(staged, path)
        elif if_match or not _link(staged, path):
            with _exclusive(os.path.dirname(path)):
                seen = ""
                with suppress(FileNotFoundError):
                    seen = _make_etag(os.stat(path))
                if seen != if_match:
                    raise FileExistsError(f"the object {name!r} has changed")
                _replace(staged, path)
        _sync_folder(os.path.dirname(path))
        return etag


def _is_stores_own(name: str) -> bool:
    """Tell whether a file in a store's folder is a lock, or an object being written."""
    return name == _STORE_LOCK or bool(re.fullmatch(_STAGED, name))


def _make_etag(status: os.stat_result) -> str:
    """Name the content of a local object."""
    return f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"


def _get_random() -> float:
    """Return a number from 0 to 1; `random` would cost the start-up 6 ms."""
    return int.from_bytes(os.urandom(4), "big") / 0xFFFFFFFF


def _replace(staged: str, path: str) -> None:
    try:
        os.replace(staged, path)
    except PermissionError as error:
        if os.name != "nt":
            raise
        raise ConnectionError(f"somebody reads it: {error}") from error  # so try again


def _link(staged: str, path: str) -> bool:
    """Give a file a name that is free; tell whether the file system can do that."""
    try:
        os.link(staged, path)  # holds even among writers that know no lock
    except FileExistsError:
        if os.path.isdir(path):  # which no retry can change
            raise IsADirectoryError(f"{path!r} is a folder, not an object") from None
        raise
    except OSError:  # a file system without hard links
        return False
    return True


@contextmanager
def _exclusive(folder: str) -> Iterator[None]:
    """Hold a folder's lock against threads, processes, and hosts that share it."""
    lock = os.path.join(folder, _STORE_LOCK)
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

        windows: Any = msvcrt
        windows.locking(descriptor, windows.LK_LOCK if wait else windows.LK_NBLCK, 1)


def _unlock(descriptor: int) -> None:
    """Let go of a lock, which a process that was forked meanwhile would hold on to."""
    if fcntl:  # elsewhere closing the file does it
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _renew_lock() -> None:
    global _replacing
    _replacing = threading.Lock()


if hasattr(os, "register_at_fork"):  # another thread may hold it just then
    os.register_at_fork(after_in_child=_renew_lock)


def _open_plain_file(path: str) -> IO[bytes]:
    """Open a file to read it, unless it is a pipe or a device, which might hang."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb", buffering=0)
    os.close(descriptor)
    code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
    raise OSError(code, "it is not a plain file", path)


def _read_document(file: IO[bytes]) -> bytes:
    """Read a small file whole; of one that is too large, as much as shows that."""
    size = os.fstat(file.fileno()).st_size  # a read makes room for all that it is asked
    return file.read(min(size, _MAX_DOCUMENT) + 1)


def _iterate_file(
    file: IO[bytes], start: int = 0, length: int | None = None
) -> Generator[memoryview, None, None]:
    """Yield the bytes of a file from start on, at most so many, in one buffer."""
    left = max(os.fstat(file.fileno()).st_size - start, 0)
    left = left if length is None else min(left, length)
    buffer = memoryview(bytearray(min(left, _BUFFER)))
    if left:
        file.seek(start)
    while left and (count := cast(Any, file).readinto(buffer[:left])):
        yield buffer[:count]
        left -= count


def _copy_bytes(
    source: IO[bytes], target: IO[bytes], size: int, advance: Advance
) -> None:
    """Write a file's next bytes to another, which may share their blocks on the disk.

    Both are without buffers.
    """
    step = 16 << 20  # bytes after which those who wait hear of it
    while size:
        try:
            files = source.fileno(), target.fileno()
            count = os.copy_file_range(*files, min(size, step))
        except (OSError, AttributeError):  # another system, or another file system
            data = source.read(min(size, _BUFFER))
            _write_all(target, data)
            count = len(data)
        if not count:
            return
        advance(count)
        size -= count


def _write_all(file: IO[bytes], data: Buffer) -> None:
    """Write all to a file without a buffer, which may take less at a time."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _sync(file: IO[bytes]) -> None:
    """Let what was written to a file be on the disk."""
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: str) -> None:
    """Let the names in a folder be on the disk."""
    if os.name == "nt":  # where a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # which cannot do it
            raise
    finally:
        os.close(descriptor)


def _make_token() -> str:
    return os.urandom(6).hex()


def _load_driver(provider: str) -> type[StorageDriver]:
    """Return the driver class of a provider: `Driver` in `drivers/PROVIDER.py`.

    The file is looked for beside this one, and loaded by its path: an importable
    package called `drivers` may be somebody else's. UnknownDriverError names what
    there is.
    """
    if provider == "local":
        return LocalDriver
    module_name = f"{__name__}.drivers.{provider}"
    module = sys.modules.get(module_name)
    if module is None:
        folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "drivers")
        path, known = os.path.join(folder, f"{provider}.py"), ["local"]
        for file in os.listdir(folder) if os.path.isdir(folder) else ():
            name, suffix = os.path.splitext(file)
            if suffix == ".py" and name.isidentifier() and name[0] != "_":
                known.append(name)
        if provider not in known:
            raise UnknownDriverError(provider, sorted(known), path)
        module = _load_module(module_name, path)
    return cast("type[StorageDriver]", module.Driver)


def _read_driver_settings(provider: str, given: dict[str, Any]) -> dict[str, str]:
    """Return a driver's settings that are set: a keyword is, else its variable.

    ConfigurationError where a keyword is none of the driver's.
    """
    variables = _load_driver(provider).variables
    known, settings = {"bucket"}, {}
    for variable, (keyword, _) in variables.items():
        names = (keyword, variable.lower())
        known.update(names)
        value = next(filter(None, map(given.get, names)), os.environ.get(variable))
        # without the line end of a file that it was read from
        if value and (text := str(value).strip()):
            settings[keyword] = text
    for word in given.keys() - known:
        from difflib import get_close_matches

        keywords = ["bucket", *(keyword for keyword, _ in variables.values())]
        near = (get_close_matches(word, keywords, 1) or keywords)[0]
        text = f"the provider {provider} has no setting {word!r}: is it {near!r}?"
        if word == "endpoint_url":  # as --endpoint gives it
            text = f"the provider {provider} takes no endpoint"
        raise ConfigurationError(text)
    return settings


def _load_module(name: str, path: str) -> Any:
    import copyreg
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location(name, path)
    assert spec and spec.loader, path
    module: Any = module_from_spec(spec)
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
    driver = _load_driver(provider)
    return driver.__new__(driver)


# ------------------------------------------------------------------- transfers
#
# One mechanism brings bytes. A manifest is a list of pieces: a piece is what is
# verified as one, a file or a chunk of a large file. It has a size and a SHA-256, a
# place in an object, and a place in a file below the folder that is being filled.
# `_Download.bring` brings them, and resuming, reusing, parts, packs and parallel ranges
# are nothing but that list, filtered:
#
#   1. lay out the folder, and keep of what is there the files that the manifest names
#   2. keep the pieces that lie right there: a killed fetch left them
#   3. link the files of the copy that is to be extended, and copy the pieces that
#      another cached version has
#   4. join what is left to requests, and bring several at once; whoever brings a piece
#      hashes it on its way, and the digest is compared
#   5. bring a piece that came wrong once more, alone; then it is an error
#   6. give the manifest the digests that it lacked
#
# Whoever moves or hashes bytes tells the one `_Job` of the operation, whose listeners
# are the user's function and the heartbeat for those who wait.

_REQUEST = 16 << 20  # bytes; small pieces that lie side by side come in one request
_GAP = 64 << 10  # bytes that may be read in vain between two of them
_FIRST_DELAY_S, _MAX_DELAY_S = 0.1, 10.0  # back-off between attempts
_SILENCE_S = 30.0  # a request in which so long nothing moves fails, and is tried again
_CONNECT_S = 15.0  # for a store that has never answered, and refuses a connection
_LATE_S = 5.0  # after all time-outs, what still hangs is left behind
_HEARTBEAT_S = 0.1  # how often work shows those who wait that it goes on
_STALL_BYTES = 16 << 10  # likewise a body of which so long fewer have come
_SYNC_THREADS = 16
# A job begins with one thread. While the process leaves a processor half idle, as one
# does that waits for a far store, their number doubles, up to what suits the store.
# While each item takes long, it doubles up to a few, as Python hashes large pieces side
# by side. Small ones are in each other's way: 1000 files from a folder take one thread
# 0.10 s, and two 0.22 s. What other threads of the process do counts, too
_FEW_WORKERS, _CHECK_S = 4, 0.01
_LOOK_S = 1.0  # how long one waits at once, as Windows sees no interrupt before
_STOP_GRACE_S = 1.0  # how long an interrupt waits for transfers under way


class Progress(NamedTuple):
    """How far a piece of work is, as an `on_progress` function is told.

    action     `hashing`, `packing`, `uploading`, `downloading`, `copying`, `checking`
    asset      `name:version`, or what else is worked on
    done       bytes of `size`; what came wrong counts again, up to that
    files_done files of `files`
    """

    action: str
    asset: str
    done: int
    size: int
    files_done: int
    files: int


class _Stopped(Exception):
    """Another thread of the same job failed, or the user interrupted."""


class _Job:
    """One operation: what it has done, and the threads that work on it.

    Listeners are called with a `Progress` whenever bytes moved, one at a time, from the
    threads that moved them. What one raises stops the job, and leaves its `with` block;
    inside that it is _Stopped, so that nobody takes it for an error of the store's.
    Beats are called likewise, also before anything has begun.
    """

    # so long nothing may move: headers can come a byte at a time, which no time-out of
    # a socket notices
    patience_s = threading.TIMEOUT_MAX / 2

    def __init__(self, workers: int, *listeners: OnProgress | None) -> None:
        self.workers, self._progress = workers, Progress("", "", 0, 0, 0, 0)
        self._moved_at = 0.0
        self.beats: list[Callable[[], None]] = []  # of those who wait for this work
        self._listeners: list[OnProgress] = []
        for listener in listeners:
            self.add_listener(listener)
        self._telling, self._stop = threading.Lock(), threading.Event()
        self._failure: BaseException | None = None

    def __enter__(self) -> _Job:
        return self

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> None:
        self._stop.set()
        if isinstance(error, _Stopped) and self._failure:
            raise self._failure

    def add_listener(self, listener: OnProgress | None) -> None:
        """Let a function be told, once: the provider's may be the manager's too."""
        if listener is not None and listener not in self._listeners:
            self._listeners.append(listener)

    def begin(self, action: str, asset: str, files: Iterable[ManifestFile]) -> None:
        """Tell what is to be done now."""
        sizes = [file.size or 0 for file in files]
        self._progress = Progress(action, asset, 0, sum(sizes), 0, len(sizes))
        self.advance(0)

    def advance(self, size: int, files: int = 0) -> None:
        """Tell that bytes have moved; raises _Stopped where the rest is in vain."""
        if self._stop.is_set():
            raise _Stopped
        self._moved_at = time.monotonic()
        for beat in self.beats:
            beat()
        if not (self._listeners and self._progress.action):  # nothing has begun
            return
        with self._telling:
            last = self._progress
            done = min(last.done + size, last.size or sys.maxsize)
            files = min(last.files_done + files, last.files)
            self._progress = last._replace(done=done, files_done=files)
            try:
                for listener in self._listeners:
                    listener(self._progress)
            except BaseException as error:
                self._failure = error
                self._stop.set()
                raise _Stopped from error

    def beat(self, _: int = 0) -> None:
        """Tell that work goes on whose bytes are not counted, or not here."""
        self.advance(0)

    def wait(self, seconds: float) -> None:
        """Wait; raises _Stopped where the rest is in vain."""
        if self._stop.wait(seconds):
            raise _Stopped

    def run(self, function: Callable[[Item], T], items: Iterable[Item]) -> list[T]:
        """Return function(item) for each item, in order, several at once.

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
                        self._moved_at = time.monotonic()
                    except BaseException as error:
                        errors.append(error)
                        self._stop.set()

        self._run_threads(work, min(self.workers, len(waiting)), results)
        if errors:
            raise errors[0]
        return [results[index] for index in range(len(results))]

    def _run_threads(
        self, work: Callable[[], None], number: int, results: Sized
    ) -> None:
        from queue import Empty, SimpleQueue

        # not Thread.join: where that is interrupted, Python 3.9 to 3.12 take the thread
        # for ended, and the next one does not wait: https://bugs.python.org/issue45274.
        # Nor a semaphore, which an interrupt may leave locked for ever, as it is not C
        ended: SimpleQueue[None] = SimpleQueue()
        left, more = 0, min(number, 1)

        def run() -> None:
            try:
                work()
            finally:
                ended.put(None)

        self._moved_at = time.monotonic()
        try:
            while more or left:
                number -= more
                for _ in range(more):
                    left += _start_thread(run)
                if not left:
                    work()
                    break
                before, more = _take_stock(results), 0
                if self._wait_for(ended, _CHECK_S if number else _LOOK_S):
                    left -= 1
                elif _needs_more(left, before, _take_stock(results)):
                    more = min(number, left)
        except BaseException:
            self._stop.set()
            deadline = time.monotonic() + _STOP_GRACE_S
            with suppress(Empty):
                for _ in range(left):
                    ended.get(timeout=max(0.0, deadline - time.monotonic()))
            raise

    def _wait_for(self, ended: SimpleQueue[None], at_most_s: float) -> bool:
        """Tell whether a thread ended; StorageUnavailableError where nothing moves."""
        from queue import Empty

        left = self._moved_at + self.patience_s - time.monotonic()
        if left <= 0:
            about = (self._progress.asset, self.patience_s, "nothing comes")
            raise StorageUnavailableError(*about)
        with suppress(Empty):
            ended.get(timeout=min(left, at_most_s))
            return True
        return False


def _start_thread(run: Callable[[], None]) -> bool:
    """Tell whether a thread could be begun: where no more are to be had, fewer do."""
    try:
        # a daemon: an upload, which nothing can stop, must not hold up an interrupt
        threading.Thread(target=run, daemon=True).start()
    except RuntimeError as error:
        # an interrupt in its midst can end as this, as it finds a lock that is not held
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        return False
    return True


def _take_stock(results: Sized) -> tuple[float, float, int]:
    return time.monotonic(), time.process_time(), len(results)


def _needs_more(threads: int, before: Iterable[float], now: Iterable[float]) -> bool:
    """Tell whether more threads would help, by what so many did between two times."""
    elapsed, used, items = (two - one for one, two in zip(before, now))
    is_slow = threads < _FEW_WORKERS and items < 2 * threads
    return is_slow or used < 0.5 * elapsed


class _Backoff:
    """The pauses between attempts, which double, with full jitter, until time is up."""

    def __init__(self, wait: _Wait) -> None:
        self._wait = wait
        self.reset()

    def reset(self) -> None:
        """Begin anew, as something came."""
        self._failing_since, self._delay = 0.0, _FIRST_DELAY_S
        self._tried_at = time.monotonic()

    def pause(
        self, name: str, error: Exception, limit_s: float, hint: str = ""
    ) -> None:
        """Wait for the next attempt; StorageUnavailableError where time is up."""
        now = time.monotonic()
        # an attempt may have been silent for so long, or moved bytes until just now
        since = max(self._tried_at, now - _SILENCE_S)
        self._failing_since = self._failing_since or since
        pause = _get_random() * self._delay
        if now + pause > self._failing_since + limit_s:
            waited = now - self._failing_since
            hint = hint or " (MODELKIT_STORAGE_TIMEOUT_S)"
            raise StorageUnavailableError(name, waited, f"{error}{hint}") from error
        # told to whoever waits, once it takes seconds
        log = _logger().warning if self._delay > 2 else _logger().info
        log("trying %r again in %.1f s: %s", name, pause, error)
        self._wait(pause)
        self._delay = min(2 * self._delay, _MAX_DELAY_S)
        self._tried_at = time.monotonic()


def _forget_cause(error: Exception) -> None:
    """Let go of what a driver's error hides: an SDK's, which holds credentials."""
    if error.__suppress_context__:
        error.__context__ = error.__cause__


_DRIVER_ERRORS = (OSError, ValueError, ImportError, NotImplementedError)


class _Contact:
    """What all who ask one store share.

    is_made   whether it has ever answered
    slots     is held while bytes come, where fetches share the store's workers
    """

    is_made = False
    slots: threading.Semaphore | None = None


class _RetryingDriver:
    """A driver that tries again what fails for a moment, and raises our own errors.

    That a condition failed is left a FileExistsError: it is for the caller to handle.
    What it waits for ends with the job.
    """

    def __init__(
        self, driver: StorageDriver, timeout_s: float, job: _Job, contact: _Contact
    ) -> None:
        self._driver, self._timeout_s = driver, timeout_s
        self._job, self._contact = job, contact

    @property
    def patience_s(self) -> float:
        """Seconds after which even what trickles in is given up; a disk is not."""
        if isinstance(self._driver, LocalDriver):
            return _Job.patience_s
        # the last attempt may begin when time is all but up
        return self._timeout_s + self._driver.timeout_s + _LATE_S

    def stat_object(self, name: str) -> tuple[int, str]:
        return self._ask(name, lambda _: self._driver.stat_object(name))

    def read_object(self, name: str) -> tuple[bytes, str]:
        try:
            return self._ask(name, lambda _: self._driver.read_object(name))
        except StorageDriverError as error:
            if getattr(error.__cause__, "errno", None) != errno.EFBIG:
                raise
            raise AssetIntegrityError(name, _READABLE, "more") from error

    def write_object(self, data: bytes, name: str, *, if_match: str) -> str:
        write = self._driver.write_object
        return self._ask(name, lambda _: write(data, name, if_match=if_match))

    def iterate_bytes(
        self, name: str, start: int, length: int | None, if_match: str | None = None
    ) -> Generator[Buffer, None, None]:
        """Yield an object's bytes, going on where they broke off."""
        backoff, came, broke_at = _Backoff(self._job.wait), 0, 0
        while True:
            left = None if length is None else length - came
            place = (name, start + came, left, if_match)
            try:
                chunks = self._driver.iterate_bytes(*place)
                with self._slot(), closing(chunks):
                    for data in _watch(chunks):
                        self._contact.is_made = True
                        came += len(data)
                        yield data
                break
            except _DRIVER_ERRORS as error:
                if came - broke_at >= _STALL_BYTES:
                    backoff.reset()
                broke_at = came
                self._handle(error, name, backoff)
        if 0 < came == broke_at:
            # all had come before, so that failed for a checksum of the store's
            raise AssetIntegrityError(name, "its checksum", "another")

    @contextmanager
    def _slot(self) -> Iterator[None]:
        slots = self._contact.slots or threading.Semaphore()
        while not slots.acquire(timeout=_HEARTBEAT_S):
            self._job.beat()
        try:
            yield
        finally:
            slots.release()

    def upload_object(
        self, path: str, name: str, advance: Advance, *, if_match: str = ""
    ) -> None:
        told, counting = 0, threading.Lock()  # what is sent again is no news

        def attempt() -> None:
            sent = 0

            def report(number: int) -> None:
                nonlocal sent, told
                with counting:  # an SDK's own threads
                    sent += number
                    more = max(sent - told, 0)
                    told += more
                advance(more)

            self._driver.upload_object(path, name, report, if_match=if_match)

        self._retry(name, attempt)

    def copy_object(self, source: str, name: str) -> None:
        self._retry(name, partial(self._driver.copy_object, source, name))

    def iterate_objects(
        self, prefix: str, most: int | None = None
    ) -> list[tuple[str, int, str]]:
        """Return the objects below a prefix, or so many of them."""
        from itertools import islice

        def collect(job: _Job) -> list[tuple[str, int, str]]:
            found = []  # by each attempt anew, as a generator that failed has ended
            for one in islice(self._driver.iterate_objects(prefix), most):
                job.beat()
                found.append(one)
            return found

        return self._ask(prefix, collect)

    def delete_object(self, name: str) -> None:
        self._ask(name, lambda _: self._driver.delete_object(name))

    def _ask(self, name: str, attempt: Callable[[_Job], T]) -> T:
        """Return attempt(), as `_retry` does, from a thread that may be left behind."""
        job = _Job(1)
        job.patience_s = self.patience_s
        job.begin("asking", name, ())

        def wait(seconds: float) -> None:
            self._job.wait(seconds)
            job.wait(0)  # who asked may be gone meanwhile

        how = (name, partial(attempt, job), wait)
        return job.run(lambda _: self._retry(*how), [None])[0]

    def _retry(
        self, name: str, attempt: Callable[[], T], wait: _Wait | None = None
    ) -> T:
        """Return attempt(), repeated after transient failures."""
        backoff = _Backoff(wait or self._job.wait)
        while True:
            try:
                result = attempt()
                self._contact.is_made = True
                return result
            except _DRIVER_ERRORS as error:
                self._handle(error, name, backoff)

    def _handle(self, error: Exception, name: str, backoff: _Backoff) -> None:
        """Wait for the next attempt after a transient failure; raise any other."""
        _forget_cause(error)
        if isinstance(error, (ModelkitAssetsError, FileExistsError)):
            raise error
        if isinstance(error, ConnectionRefusedError) and not self._contact.is_made:
            addresses = [
                variable
                for variable, (keyword, _) in self._driver.variables.items()
                if keyword.endswith(("_url", "connection_string"))
            ]
            if "://" in self._driver.bucket:
                addresses.append("MODELKIT_STORAGE_BUCKET")
            where = " or ".join(addresses) or "the network"
            hint = f"; check {where}, and see `doctor`"
            backoff.pause(name, error, min(self._timeout_s, _CONNECT_S), hint)
            return
        if isinstance(error, OSError):  # others are ours, and asked nobody
            self._contact.is_made = True
        if isinstance(error, (ConnectionError, TimeoutError)):
            backoff.pause(name, error, self._timeout_s)
            return
        bucket, ours = self._driver.bucket, StorageDriverError(f"{name!r}: {error}")
        if isinstance(error, ImportError):
            ours = DriverNotInstalledError(self._driver.package or error.name, error)
        elif isinstance(error, ValueError):  # a missing bucket is no missing object
            ours = ConfigurationError(f"{name!r} in {bucket!r}: {error}")
        elif isinstance(error, FileNotFoundError):
            ours = ObjectDoesNotExistError(self._driver, bucket, name)
        elif isinstance(error, PermissionError):
            ours = StorageAccessError(name, error)
        elif isinstance(error, NotImplementedError):
            ours = UnsupportedOperationError(name, error)
        raise ours from error


def _watch(chunks: Iterable[Buffer]) -> Iterator[Buffer]:
    """Yield all chunks; TimeoutError where they come too slowly to be worth a wait.

    The time that whoever takes them needs is not the store's, and does not count.
    """
    waited, came, asked_at = 0.0, 0, time.monotonic()
    for data in chunks:
        waited += time.monotonic() - asked_at
        came += len(data)
        if came >= _STALL_BYTES:
            waited, came = 0.0, 0
        elif waited > _SILENCE_S:
            raise TimeoutError(f"{came} bytes came in {_SILENCE_S:g} s")
        yield data
        asked_at = time.monotonic()


class _Piece(NamedTuple):
    """What is verified as one: a file, or a chunk of a large one.

    object_name, begin   where its bytes are in the store
    file, position       where they go
    size                 bytes
    sha256               None where nobody knows it
    is_object_end        whether its object ends with it
    etag                 of its object, where a digest is not known
    """

    object_name: str
    begin: int
    file: ManifestFile
    position: int
    size: int
    sha256: str | None
    is_object_end: bool = False
    etag: str | None = None

    @property
    def end(self) -> int:
        """Where its bytes end in its object."""
        return self.begin + self.size

    @property
    def is_file_end(self) -> bool:
        return self.position + self.size == self.file.size


def _plan_pieces(
    object_name: str, manifest: Manifest, etags: Mapping[str, str] | None = None
) -> list[_Piece]:
    """Return a version's pieces, in the order in which they lie in their objects.

    All sizes are known. etags are by path.
    """
    pieces = []
    is_packed = manifest.is_packed
    for file in sorted(manifest.files, key=_get_place) if is_packed else manifest.files:
        name = object_name if is_packed else _join_path(object_name, file.path)
        size = file.size or 0
        # what has a digest of the whole alone is verified as a whole
        step = _CHUNK if file.chunks or not file.sha256 else max(size, 1)
        for index, position in enumerate(range(0, max(size, 1), step)):
            sha256 = file.chunks[64 * index : 64 * (index + 1)] or file.sha256
            length = min(step, size - position)
            is_end = not is_packed and position + length == size
            place = (name, (file.offset or 0) + position, file, position, length)
            etag = etags.get(file.path) if etags else None
            pieces.append(_Piece(*place, sha256, is_end, etag))
    return pieces


def _plan_requests(pieces: Iterable[_Piece]) -> list[list[_Piece]]:
    """Join pieces, which come in order, to those that one request brings."""
    requests: list[list[_Piece]] = []
    for piece in pieces:
        request = requests[-1] if requests else []
        is_next = bool(request) and piece.object_name == request[-1].object_name
        if (
            is_next
            and piece.begin - request[-1].end <= _GAP
            and piece.end - request[0].begin <= _REQUEST
        ):
            request.append(piece)
        else:
            requests.append([piece])
    return requests


class _Stream:
    """Gives bytes that come in chunks in as many as are asked for.

    is_refused    whether the store said of them that they are not the object's
    """

    def __init__(self, chunks: Iterator[Buffer]) -> None:
        self._chunks, self._left, self.is_refused = chunks, memoryview(b""), False

    def take(self, size: int) -> Iterator[memoryview]:
        """Yield the next bytes; fewer come only where there are no more."""
        while size > 0:
            while not self._left:
                try:
                    chunk = next(self._chunks, None)
                except (AssetIntegrityError, FileExistsError):
                    self.is_refused, chunk = True, None
                if chunk is None:
                    return
                self._left = memoryview(chunk)
            data, self._left = self._left[:size], self._left[size:]
            size -= len(data)
            yield data


class _Arrival(NamedTuple):
    """A piece that came, with the size and digest that it has."""

    piece: _Piece
    size: int
    sha256: str
    is_refused: bool = False

    @property
    def is_right(self) -> bool:
        """Tell whether it is what it should be; without a digest the store says so."""
        right = self.sha256 == self.piece.sha256
        if self.piece.sha256 is None:
            right = not self.is_refused
        return right and self.size == self.piece.size

    def make_error(self) -> AssetIntegrityError:
        """Return the error that says what came in place of what."""
        name, file = self.piece.object_name, self.piece.file
        name += f"[{file.path}]" if file.offset is not None else ""
        place = f" at {self.piece.position}" if self.piece.size != file.size else ""
        digest = self.piece.sha256 or "that the store's own checksum says"
        expected = f"{self.piece.size} bytes{place} with SHA-256 {digest}"
        return AssetIntegrityError(name, expected, f"{self.size} with {self.sha256}")


@contextmanager
def _on_disk(path: str, action: str = "write to") -> Iterator[None]:
    """Turn what the operating system says of the assets dir into AssetsDirError.

    It is not to be mistaken for the store's, which may be tried again.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, ModelkitAssetsError):
            raise
        raise _make_disk_error(error, path, action) from error


def _make_disk_error(error: OSError, path: str, action: str) -> AssetsDirError:
    path = error.filename2 or error.filename or path  # of a rename, where it led to
    reason = error.strerror or error
    hint = _tell_owner(path) if isinstance(error, PermissionError) else ""
    return AssetsDirError(path, reason, action, hint)


def _tell_owner(path: str) -> str:
    """Return whose a path is, or the folder above it that can be looked into."""
    while True:
        with suppress(OSError):
            owner = str(os.stat(path).st_uid)
            with suppress(ImportError, KeyError):
                import pwd

                owner = pwd.getpwuid(int(owner)).pw_name
            return f"; {path!r} belongs to {owner}"
        path = os.path.dirname(path)


class _Download:
    """The filling of a folder with a version's files, told step by step above."""

    def __init__(self, root: str, job: _Job, driver: _RetryingDriver) -> None:
        self._root, self._job, self._driver = root, job, driver

    def bring(
        self,
        pieces: Sequence[_Piece],
        manifest: Manifest,
        extended: Mapping[str, str],
        sources: _Sources,
    ) -> Manifest:
        """Bring what is missing, and return the manifest with all digests.

        extended   files of a copy that is known to be right, by their part
        sources    files on this disk, and where a piece may lie in them, by SHA-256

        AssetIntegrityError where a piece came wrong twice.
        """
        with _on_disk(self._root):
            left = _lay_out(self._root, manifest, self._job)  # 1
        found = [piece for piece in pieces if piece.file.path in left]
        kept = set(_find_right(found, self._root, self._root, self._job))  # 2
        linked = set(filter(partial(self._link, extended), extended))  # 3
        kept.update(piece for piece in pieces if piece.file.path in linked)
        missing = [piece for piece in pieces if piece not in kept]
        _check_free_space(self._root, sum(piece.size for piece in missing))
        known = [piece for piece in missing if piece.sha256 in sources]
        self._job.run(partial(self._copy, sources), known)
        kept.update(_find_right(known, self._root, self._root, self._job))
        missing = [piece for piece in missing if piece not in kept]
        arrived = self._bring_right(_plan_requests(missing))  # 4, 5
        there = sum(len(names) for _, _, names in os.walk(self._root))
        if manifest.is_directory and there < len(manifest.files):
            reason = "the disk takes two names in the asset for one"
            raise AssetsDirError(self._root, reason)
        return _add_digests(manifest, arrived)  # 6

    def _link(self, extended: Mapping[str, str], part: str) -> bool:
        """Tell whether a file was linked to where it is to lie."""
        self._job.beat()
        with suppress(OSError):  # a disk without links: it is copied, or comes
            os.link(extended[part], _local_path(self._root, part))
            return True
        return False

    def _copy(self, sources: _Sources, piece: _Piece) -> None:
        path, position = sources[piece.sha256 or ""]
        with suppress(OSError), _open_plain_file(path) as source:  # it may have gone
            source.seek(position)
            with self._open(piece) as target:
                _copy_bytes(source, target, piece.size, self._job.beat)

    def _bring_right(self, requests: list[list[_Piece]]) -> list[_Arrival]:
        came = self._job.run(self._bring_request, requests)
        arrived = [one for some in came for one in some]
        wrong = [[one.piece] for one in arrived if not one.is_right]
        if wrong:
            text = "%d pieces came wrong, of %r first: downloading them once more"
            _logger().warning(text, len(wrong), wrong[0][0].object_name)
        for (one,) in self._job.run(self._bring_request, wrong):
            if not one.is_right:
                raise one.make_error()
            arrived.append(one)
        return arrived

    def _bring_request(self, pieces: list[_Piece]) -> list[_Arrival]:
        first, last = pieces[0], pieces[-1]
        if first.begin == last.end:  # there is nothing to ask for
            return [self._write(piece, iter(())) for piece in pieces]
        # to the end of an object without a length, so that one byte too many shows
        length = None if last.is_object_end else last.end - first.begin
        place = (first.object_name, first.begin, length, first.etag)
        arrived: list[_Arrival] = []
        with closing(self._driver.iterate_bytes(*place)) as chunks:
            stream, at = _Stream(chunks), first.begin
            for piece in pieces:
                for _ in stream.take(piece.begin - at):
                    pass  # a header of a pack
                arrived.append(self._write(piece, stream.take(piece.size)))
                at = piece.end
            extra = length is None and any(stream.take(1))
        size, is_refused = arrived[-1].size + extra, stream.is_refused
        arrived[-1] = arrived[-1]._replace(size=size, is_refused=is_refused)
        return arrived

    def _write(self, piece: _Piece, chunks: Iterator[memoryview]) -> _Arrival:
        """Write a piece to its place, hashing it on its way."""
        import hashlib

        path = _local_path(self._root, piece.file.path)
        digest, size = hashlib.sha256(), 0
        with _on_disk(path):
            target = self._open(piece)
        with target:
            for data in chunks:
                with _on_disk(path):
                    _write_all(target, data)
                digest.update(data)
                size += len(data)
                self._job.advance(len(data))
            if piece.is_file_end:
                target.truncate()  # whatever else had got there
        arrival = _Arrival(piece, size, digest.hexdigest())
        self._job.advance(0, files=int(arrival.is_right and piece.is_file_end))
        return arrival

    def _open(self, piece: _Piece) -> IO[bytes]:
        # other pieces of the file may be there already; no link is followed
        flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0)
        flags |= getattr(os, "O_NOFOLLOW", 0)
        mode = 0o777 if piece.file.executable else 0o666
        descriptor = os.open(_local_path(self._root, piece.file.path), flags, mode)
        file = os.fdopen(descriptor, "wb", buffering=0)
        file.seek(piece.position)
        return file


def _add_digests(manifest: Manifest, arrived: Iterable[_Arrival]) -> Manifest:
    """Return the manifest with the digests of pieces that came, where it lacks them."""
    came: dict[str, dict[int, str]] = {}
    for one in arrived:
        if one.piece.sha256 is None:
            came.setdefault(one.piece.file.path, {})[one.piece.position] = one.sha256
    files = []
    for file in manifest.files:
        digests = "".join(came[file.path][at] for at in sorted(came.get(file.path, ())))
        if len(digests) > 64:
            file = file._replace(chunks=digests)
        files.append(file._replace(sha256=digests) if len(digests) == 64 else file)
    return manifest._with_files(files, manifest.empty_directories) if came else manifest


def _lay_out(root: str, manifest: Manifest, job: _Job) -> set[str]:
    """Make a version's folders, and return the parts of which something was there.

    What was left there must be ours to write to: plain files of one name, behind no
    link. All else is cleared away.
    """
    old, left = f"{root}~", set[str]()
    _remove_tree(old)
    with suppress(FileNotFoundError):
        os.rename(root, old)
    folders = [f"{one}/" for one in manifest.empty_directories]
    paths = {os.path.dirname(file.path) for file in manifest.files}
    for folder in sorted({"", *paths, *folders} if manifest.is_directory else ()):
        os.makedirs(_local_path(root, folder.rstrip("/")), exist_ok=True)
    owner = os.stat(os.path.dirname(root)).st_uid  # of what we make there
    for file in manifest.files:
        path = _local_path(old, file.path)
        job.beat()
        with suppress(FileNotFoundError, NotADirectoryError):
            status = os.lstat(path)
            is_ours = status.st_uid == owner
            is_plain = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
            if is_plain and is_ours and _is_inside(path, os.path.dirname(old)):
                os.rename(path, _local_path(root, file.path))
                left.add(file.path)
    _remove_tree(old)
    return left


def _remove_tree(path: str) -> None:
    """Delete a file or a folder; what cannot be is left for another time."""
    import shutil

    with suppress(OSError):
        os.unlink(path)
    shutil.rmtree(path, ignore_errors=True)


def _find_right(
    pieces: Iterable[_Piece], root: str, within: str, job: _Job
) -> list[_Piece]:
    """Return the pieces that lie below root with the right bytes, by their digests.

    No link is followed that leads out of the folder `within`.
    """

    def check(piece: _Piece) -> bool:
        path = _local_path(root, piece.file.path)
        with suppress(OSError), _open_plain_file(path) as file:
            status = os.fstat(file.fileno())
            right = status.st_size == piece.file.size or not piece.is_file_end
            is_marked = os.name == "nt" or bool(status.st_mode & stat.S_IXUSR)
            right &= is_marked or not piece.file.executable
            if right and _is_inside(path, within):
                chunks = _iterate_file(file, piece.position, piece.size)
                right = piece.sha256 == _hash(chunks, job.advance)
                job.advance(0, files=int(right and piece.is_file_end))
                return right
        return False

    pieces = list(pieces)
    return [piece for piece, right in zip(pieces, job.run(check, pieces)) if right]


def _sync_tree(path: str, job: _Job) -> None:
    """Let what lies at a path be on the disk, names too.

    1000 files of 8 KiB take 16 threads 0.1 to 0.5 s, and one 0.7 to 1.4 s, as a disk
    does many at once.
    """
    folders, files = list[str](), [path] if os.path.isfile(path) else []
    for folder, _, names in os.walk(path):
        folders.append(folder)
        files += [os.path.join(folder, name) for name in names]

    def sync(file: str) -> None:
        job.beat()
        # Windows wants to write for that; elsewhere a pipe must not hold us up
        with open(file, "rb+") if os.name == "nt" else _open_plain_file(file) as opened:
            _sync(opened)

    _Job(_SYNC_THREADS).run(sync, files)
    _Job(_SYNC_THREADS).run(_sync_folder, folders)


def _hash(chunks: Iterable[Buffer], advance: Advance) -> str:
    """Return the SHA-256 of bytes in hexadecimal."""
    import hashlib

    digest = hashlib.sha256()
    for data in chunks:
        digest.update(data)
        advance(len(data))
    return digest.hexdigest()


def _check_free_space(path: str, needed: int) -> None:
    import shutil

    free = shutil.disk_usage(os.path.dirname(path)).free
    if needed > free:
        raise AssetsDirError(path, f"{needed} bytes are needed, {free} are free")


# ------------------------------------------------------------------- the store
#
# Below `PREFIX/`, as modelkit 0.1.3 lays it out:
#
#   NAME/VERSION         a file asset's bytes, or a packed asset's tar
#   NAME/VERSION/PART    one file of a directory asset
#   NAME/VERSION.meta    the manifest
#   NAME.versions        {"versions": [...]}, the latest first: all that ever changes


_MOST_OBJECTS = 10_000  # are looked through for names that are like another


class _StoreReader:
    """The reading half of `StorageProvider`, which says what its arguments are."""

    _conditions_proved = False

    def __init__(
        self,
        timeout_s: float | None = None,
        prefix: str | None = None,
        force_download: bool | None = None,
        provider: str | None = None,
        client: Any = None,
        on_progress: OnProgress | None = None,
        versioning: Versioning = None,
        **driver_settings: Any,
    ) -> None:
        if isinstance(timeout_s, str):
            hint = " (timeout_s; the provider and its bucket are keywords)"
            timeout_s = _read_number(timeout_s, "MODELKIT_STORAGE_TIMEOUT_S" + hint)
        settings = _Settings.resolve(
            storage_timeout_s=timeout_s,
            storage_prefix=prefix,
            storage_force_download=force_download,
            storage_provider=provider,
            storage_bucket=driver_settings.pop("bucket", None),
            assets_versioning_system=versioning,
            lazy_driver=driver_settings.pop("lazy_driver", None),
        )
        if not settings.storage_provider:
            raise NoConfiguredProviderError()
        self.on_progress, self.provider = on_progress, settings.storage_provider
        self.timeout, self.prefix = settings.storage_timeout_s, settings.storage_prefix
        self.force_download = settings.storage_force_download
        self.versioning = settings.assets_versioning_system
        make: Any = _load_driver(self.provider)
        own = _read_driver_settings(self.provider, driver_settings)
        if not settings.storage_bucket:
            raise ConfigurationError("MODELKIT_STORAGE_BUCKET is not set")
        try:
            self.driver: StorageDriver = make(settings.storage_bucket, client, **own)
        except ValueError as error:
            if isinstance(error, ModelkitAssetsError):
                raise
            _forget_cause(error)
            raise ConfigurationError(str(error)) from error
        self.workers = settings.storage_workers or self.driver.workers
        self._contact = _Contact()
        self.driver.timeout_s = max(1.0, min(_SILENCE_S, self.timeout))

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
        return self._read_manifest(name, version).describe()

    def iterate_assets(self) -> Iterator[tuple[str, list[str]]]:
        """Yield each asset's name and its versions, in order of the names.

        A list that is none, as of another program's object, is passed over and named.
        """

        def read(name: str) -> list[str] | None:
            try:
                return self.get_versions_info(name)
            except (AssetIntegrityError, InvalidNameError) as error:
                _logger().warning("passing over %r: %s", f"{name}.versions", error)
            return None

        objects = self._connect().iterate_objects(self.prefix)
        names = _find_asset_names((one[0] for one in objects), self.prefix)
        for name, versions in zip(names, self._start_job().run(read, names)):
            if versions is not None:
                yield name, versions

    def download(self, name: str, version: str, destination: StrPath) -> dict[str, Any]:
        """Download a version to destination/NAME/VERSION; return its `path` and `meta`.

        What is there before is replaced, once all is complete and has its digests.
        """
        manifest = self._read_manifest(name, version)
        path = _local_path(os.fspath(destination), f"{name}/{version}")
        staging = os.path.join(os.path.dirname(path), f"{_OWN}.{_make_token()}")
        os.makedirs(staging)
        try:
            data = os.path.join(staging, "data")
            with self._start_job() as job:
                manifest = self._bring_version(name, version, manifest, data, job)
                _sync_tree(data, job)
            _swap_in(data, path, os.path.join(staging, "old"))
        finally:
            _remove_tree(staging)
        return {"path": path, "meta": manifest.describe()}

    def __repr__(self) -> str:
        where = self.driver.get_object_uri(self.prefix)
        return f"<{type(self).__name__} {self.provider} {where!r}>"

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "on_progress": None, "_contact": _Contact()}

    def _start_job(self, *listeners: OnProgress | None) -> _Job:
        job = _Job(self.workers, self.on_progress, *listeners)
        job.patience_s = self._connect().patience_s
        return job

    def _connect(
        self, job: _Job | None = None, timeout_s: float | None = None
    ) -> _RetryingDriver:
        """Return the driver, wrapped once; it stops with the job, if there is one."""
        timeout_s = self.timeout if timeout_s is None else timeout_s
        return _RetryingDriver(self.driver, timeout_s, job or _Job(1), self._contact)

    def _read_versions(self, name: str) -> tuple[dict[str, Any], str]:
        """Return an asset's `.versions` object and its etag."""
        object_name = self.get_versions_object_name(name)
        data, etag = self._connect().read_object(object_name)
        return _parse_versions(data, object_name), etag

    def _find_versions(self, name: str) -> list[str]:
        """Return an asset's published versions; none where there is no such asset."""
        with suppress(ObjectDoesNotExistError):
            return self.get_versions_info(name)
        return []

    def _peek_names(self, timeout_s: float | None = None) -> list[str]:
        """Return the names of assets, of the first of the store's objects."""
        driver = self._connect(timeout_s=timeout_s)
        objects = driver.iterate_objects(self.prefix, _MOST_OBJECTS)
        return _find_asset_names((one[0] for one in objects), self.prefix)

    def _read_manifest(self, name: str, version: str) -> Manifest:
        """Return a version's manifest; ObjectDoesNotExistError where there is none."""
        object_name = self.get_meta_object_name(name, version)
        data, _ = self._connect().read_object(object_name)
        return Manifest.from_json(data, object_name)

    def _read_manifests(self, pairs: list[tuple[str, str]]) -> list[Manifest | None]:
        """Return the manifests of names and versions; None where one cannot be read."""

        def read(pair: tuple[str, str]) -> Manifest | None:
            with suppress(ObjectDoesNotExistError, AssetIntegrityError):
                return self._read_manifest(*pair)
            return None

        return self._start_job().run(read, pairs)

    def _bring_version(
        self,
        name: str,
        version: str,
        manifest: Manifest,
        root: str,
        job: _Job,
        extended: Mapping[str, str] | None = None,
        sources: _Sources | None = None,
    ) -> Manifest:
        """Fill a folder with a version's files; return the manifest with all digests.

        extended, sources: see `_Download`.
        """
        object_name, driver = self.get_object_name(name, version), self._connect(job)
        manifest, etags = self._complete_sizes(object_name, manifest, driver, job)
        job.begin("downloading", f"{name}:{version}", manifest.files)
        pieces = _plan_pieces(object_name, manifest, etags)
        download = _Download(root, job, driver)
        return download.bring(pieces, manifest, extended or {}, sources or {})

    def _complete_sizes(
        self, object_name: str, manifest: Manifest, driver: _RetryingDriver, job: _Job
    ) -> tuple[Manifest, dict[str, str]]:
        """Return the manifest with the sizes that modelkit's lacks, and etags by path.

        They are the store's, and an object that changes meanwhile is noticed.
        """
        if manifest.size is not None:
            return manifest, {}

        def look_at(name: str) -> tuple[str, int, str]:
            job.beat()
            return (name, *driver.stat_object(name))

        names = [_join_path(object_name, file.path) for file in manifest.files]
        objects = None
        if manifest.is_directory:
            with suppress(UnsupportedOperationError):  # it is only read, not listed
                objects = driver.iterate_objects(object_name)
        if objects is None:
            objects = job.run(look_at, names)
        found = {name: (size, etag) for name, size, etag in objects}
        files, etags = [], {}
        for file, name in zip(manifest.files, names):
            if name not in found:
                raise ObjectDoesNotExistError(self.driver, self.driver.bucket, name)
            size, etags[file.path] = found[name]
            files.append(file._replace(size=size))
        return manifest._with_files(files, manifest.empty_directories), etags

    def _download_objects(self, name: str, folder: str) -> str:
        """Download an object, or all below a prefix, to a folder; return its path.

        They need not belong to an asset. InvalidSourceError where there are none, or
        one has a name that no file can have.
        """
        uri, prefix = self.driver.get_object_uri(name), name.rstrip("/")
        driver, root = self._connect(), os.path.join(folder, "data")
        start = len(prefix) + bool(prefix)
        with _source_errors(uri):
            # an SDK would make another address of one with `..`
            _check_paths([prefix] if prefix else [], [])
            found = []
            if name == prefix and prefix:
                with suppress(ObjectDoesNotExistError):
                    found = [(name, *driver.stat_object(name))]
            found = found or driver.iterate_objects(prefix)
            # what ends with / stands for a folder in some tools
            parts = {one[0][start:]: one for one in found if one[0][-1:] != "/"}
            _require(bool(parts), "there is no such object, and none below it")
            _check_paths([part for part in parts if part], [])
        files = tuple(ManifestFile(part, parts[part][1]) for part in parts)
        manifest = Manifest("" not in parts, files, (), {})
        etags = {part: parts[part][2] for part in parts}
        with self._start_job() as job:
            job.begin("downloading", uri, files)
            download = _Download(root, job, self._connect(job))
            download.bring(_plan_pieces(prefix, manifest, etags), manifest, {}, {})
        return root


def _find_asset_names(object_names: Iterable[str], prefix: str) -> list[str]:
    """Return the assets among a store's objects: those that a `.versions` object lists.

    A file called `x.versions` in a directory asset is none: it lies below a version.
    """
    names = [one[len(prefix) + 1 :] for one in object_names]
    versions = {one[: -len(".meta")] for one in names if one.endswith(".meta")}
    listed = (one[: -len(".versions")] for one in names if one.endswith(".versions"))

    def is_asset(name: str) -> bool:
        segments = name.split("/")
        above = ("/".join(segments[:end]) for end in range(1, len(segments)))
        return versions.isdisjoint(above)

    return sorted(filter(is_asset, listed))


@contextmanager
def _source_errors(top: str, pack_folder: str | None = None) -> Iterator[None]:
    """Turn what the operating system says of a source into InvalidSourceError."""
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, ModelkitAssetsError):
            raise
        where = getattr(error, "filename", None) or pack_folder or top
        reason = getattr(error, "strerror", None) or error
        at = f": {where!r}" if where != top else ""
        raise InvalidSourceError(top, f"{reason}{at}") from error


_MAX_SWAPS = 16
_RACES = {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR}
if os.name == "nt":  # where what somebody has open cannot be renamed
    _RACES.add(errno.EACCES)


def _swap_in(new: str, path: str, aside: str) -> list[str]:
    """Rename new to path; where a folder is in the way, first rename that to aside.

    Returns where all is now that was in the way, as more may come while it is done.
    Where that fails, the last is put back.
    """
    olds = []
    for attempt in range(1, _MAX_SWAPS + 1):
        old = f"{aside}{attempt}"
        olds.append(old)
        try:
            if os.path.isdir(path) or os.path.isdir(new) and os.path.lexists(path):
                os.rename(path, old)
            os.replace(new, path)
            break
        except OSError as error:
            # another process, without our lock, put its copy there or took it away
            is_race = error.errno in _RACES and attempt < _MAX_SWAPS
            if not (is_race and os.path.lexists(new)):
                if os.path.lexists(old) and not os.path.lexists(path):
                    os.rename(old, path)
                raise
            os.makedirs(os.path.dirname(path), exist_ok=True)
    return list(filter(os.path.lexists, olds))


# ------------------------------------------------------------------- publishing
#
# Publishing holds no lock in the store. It is safe with any number of writers, and a
# crash at any point, by five steps in this order:
#
#   1. Read the source once: what there is, and its digests. A pack is written here,
#      and from then on it is one file to upload.
#   2. Claim a version: create its manifest if absent, which one publisher alone can. A
#      manifest of the same content in a version that is not listed is an interrupted
#      push, which this one completes.
#   3. Upload the data, each object only if absent: another push of the same content
#      may be at work in the same version, or have listed it. What is there is right
#      if its size is, as uploads are whole or absent; else it is replaced by its etag,
#      in a version that is not listed.
#   4. Walk the source again: where anything changed since step 1, the push stops here.
#   5. Commit: add the version to `.versions` by compare-and-swap. Readers see it now.
#
# A crash before step 5 leaves nothing visible, and the same command completes it.

_UNWANTED = {".git", ".DS_Store", "__pycache__"}  # hardly meant to be in an asset
_MANY_FILES = 50  # more than these are worth a pack


class _Source:
    """What is being published, and what it was when it was read (step 1).

    files    with sizes and digests; with offsets in the pack, if a folder is for one
    uploads  what is to be uploaded, and where it lies
    """

    def __init__(self, top: str, pack_folder: str | None, job: _Job) -> None:
        self.top, self._job = top, job
        self._entries = dict(_walk_source(top))
        found = _describe_tree(top, self._entries)
        self.is_directory, self.empty = found.is_directory, found.empty_directories
        self.files = list(found.files)
        if not self.files:
            raise InvalidSourceError(top, "it holds no files")
        _check_distinct(top, self._entries)
        segments = {one for file in self.files for one in file.path.split("/")}
        for name in sorted(segments & _UNWANTED):
            _logger().warning("%r is published too, as it lies in %r", name, top)
        if pack_folder:
            path = os.path.join(pack_folder, "pack.tar")
            self._pack(path)
            self.uploads = [(ManifestFile("", os.path.getsize(path)), path)]
        else:
            self._hash()
            self.uploads = [(file, self._find(file)) for file in self.files]

    def _hash(self) -> None:
        """Find the files' digests, several files and chunks at a time."""
        self._job.begin("hashing", self.top, self.files)
        sizes = [(file, file.size or 0) for file in self.files]
        # a large file is hashed as a whole too, beside its chunks
        pieces = [_Piece("", 0, *(file, 0, n), None) for file, n in sizes if n > _CHUNK]
        pieces += _plan_pieces("", Manifest(True, tuple(self.files), (), {}))
        found: dict[str, list[str]] = {}
        for piece, digest in zip(pieces, self._job.run(self._hash_piece, pieces)):
            found.setdefault(piece.file.path, []).append(digest)
        for index, file in enumerate(self.files):
            sha256, *chunks = found[file.path]
            self.files[index] = file._replace(sha256=sha256, chunks="".join(chunks))

    def _hash_piece(self, piece: _Piece) -> str:
        # the bytes of chunks are counted as those of the whole
        is_counted = piece.size == piece.file.size
        count = self._job.advance if is_counted else self._job.beat
        with _open_plain_file(self._find(piece.file)) as file:
            digest = _hash(_iterate_file(file, piece.position, piece.size), count)
        self.check(piece.file)
        self._job.advance(0, files=int(is_counted))
        return digest

    def _pack(self, path: str) -> None:
        """Write a tar of a folder, and find its files' digests and offsets."""
        if not self.is_directory:
            raise InvalidSourceError(self.top, "only a folder can be packed")
        self._job.begin("packing", self.top, self.files)
        with open(path, "wb") as pack:
            for part in self.empty:
                pack.write(_make_tar_header(f"{part}/", None))
            for index, file in enumerate(self.files):
                self.files[index] = self._pack_file(file, pack)
                self.check(file)
            pack.write(_TAR_END)

    def _pack_file(self, file: ManifestFile, pack: IO[bytes]) -> ManifestFile:
        import hashlib

        size, whole, chunks = file.size or 0, hashlib.sha256(), ""
        with _open_plain_file(self._find(file)) as source:
            pack.write(_make_tar_header(file.path, size, file.executable))
            offset = pack.tell()
            for start in range(0, size, _CHUNK):
                chunk = hashlib.sha256()
                for data in _iterate_file(source, start, min(_CHUNK, size - start)):
                    pack.write(data)
                    whole.update(data)
                    if size > _CHUNK:
                        chunk.update(data)
                    self._job.advance(len(data))
                chunks += chunk.hexdigest() if size > _CHUNK else ""
        pack.write(bytes(-size % _TAR_BLOCK))
        self._job.advance(0, files=1)
        return file._replace(sha256=whole.hexdigest(), offset=offset, chunks=chunks)

    def _find(self, file: ManifestFile) -> str:
        return _local_path(self.top, file.path)

    def check(self, file: ManifestFile) -> None:
        """Raise SourceChangedError unless a file is as it was; a pack always is."""
        stamp = self._entries.get(file.path)
        if stamp and not _is_same(self._find(file), stamp):
            raise SourceChangedError(self._find(file))

    def check_all(self) -> None:
        """Raise SourceChangedError unless all is as it was."""
        with suppress(OSError):  # where it is gone
            if dict(_walk_source(self.top)) == self._entries:
                return
        raise SourceChangedError(self.top)


def _walk_source(
    top: str, ignored: Collection[str] | None = None
) -> Iterator[tuple[str, Stamp]]:
    """Yield (part, stamp) of each file, and of each empty folder, without a stamp.

    In order; links are followed; the part is `""` where the source is a file itself.
    What is at the top and ignored is left out; unless that is said, a copy's marker is.
    """
    pending = [("", frozenset[tuple[int, int]]())]
    while pending:
        part, above = pending.pop()
        path = _local_path(top, part)
        status = os.stat(path)
        here = (status.st_dev, status.st_ino)
        if part and not _is_contained(part):
            reason = f"the name {part!r} cannot be kept everywhere"
            raise InvalidSourceError(top, reason)
        if stat.S_ISREG(status.st_mode):
            yield part, _make_stamp(status)
        elif not stat.S_ISDIR(status.st_mode):
            raise InvalidSourceError(top, f"{path!r} is neither a file nor a folder")
        elif here in above:
            reason = f"the link {path!r} leads back to where it lies"
            raise InvalidSourceError(top, reason)
        else:
            names = sorted(os.listdir(path), reverse=True)
            if not part and ignored is None:
                names = _leave_out_marker(top, names)
            elif not part and ignored:
                names = [name for name in names if name not in ignored]
            if part and not names:
                yield part, ()
            pending += [(_join_path(part, name), above | {here}) for name in names]


def _describe_tree(top: str, found: Mapping[str, Stamp]) -> Manifest:
    """Return the manifest of what `_walk_source` found, without digests."""
    files = []
    for part, stamp in found.items():
        if stamp:
            mode = os.stat(_local_path(top, part)).st_mode
            files.append(ManifestFile(part, stamp[0], None, bool(mode & stat.S_IXUSR)))
    empty = tuple(part for part, stamp in found.items() if not stamp)
    return Manifest("" not in found, tuple(files), empty, {})


def _fold(segment: str) -> str:
    """Return what all names have in common that are one to some disks.

    Those of Windows and macOS ignore case, and how an accent is written; Windows also
    dots and spaces at the end of a name.
    """
    if not segment.isascii():
        import unicodedata

        segment = unicodedata.normalize("NFC", segment)
    return segment.casefold().rstrip(" .")


def _check_distinct(top: str, parts: Iterable[str]) -> None:
    """Raise InvalidSourceError where two names are one to some disks."""
    seen = {_MARKER.casefold(): _MARKER, _PARTIAL_MARKER: _PARTIAL_MARKER}
    for part in parts:
        name, folded = "", ""
        for segment in part.split("/"):
            name = _join_path(name, segment)
            folded = _join_path(folded, _fold(segment))
            if seen.setdefault(folded, name) != name:
                both = f"{name!r} and {seen[folded]!r}"
                reason = f"some systems take {both} for one name: rename one"
                raise InvalidSourceError(top, reason)


def _leave_out_marker(top: str, names: list[str]) -> list[str]:
    """Return what lies at the top of a source without the marker of a cached copy."""
    if _PARTIAL_MARKER in names:
        raise InvalidSourceError(top, "it is a copy that is not complete")
    path = os.path.join(top, _MARKER)
    try:
        if _MARKER in names:
            _read_marker(path)
    except AssetIntegrityError:
        raise InvalidSourceError(path, "markers have that name, rename it") from None
    return [name for name in names if name != _MARKER]


def _read_marker(path: str) -> Manifest | None:
    """Return the manifest in a marker; None in modelkit's, which is empty."""
    with _open_plain_file(path) as file:
        data = _read_document(file)
    return Manifest.from_json(data, path) if data else None


def _make_stamp(status: os.stat_result) -> Stamp:
    """Return what changes when a file does; its size comes first."""
    return status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def _is_same(path: str, stamp: Stamp) -> bool:
    """Tell whether a file or folder is there, and has not changed."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return _make_stamp(os.stat(path)) == stamp
    return False


class _Push:
    """Steps 1 to 4 of one publication.

    spec     what to publish it as, maybe without a complete version
    listed   the asset's published versions, the latest first
    """

    def __init__(
        self,
        store: _StoreReader,
        spec: AssetSpec,
        listed: list[str],
        dry_run: bool,
        bump_major: bool = False,
        copy: bool = True,
    ) -> None:
        self._store, self._spec, self._listed = store, spec, listed
        self._dry_run, self._bump_major, self._may_copy = dry_run, bump_major, copy
        # with no patience of its own: an SDK may not tell how far an upload is, and
        # sending has time-outs that are not begun anew
        self._job = _Job(store.workers, store.on_progress)
        self._driver = store._connect(self._job)

    def run(self, path: StrPath, pack: bool, metadata: Mapping[str, str] | None) -> str:
        """Publish a path, but for the commit, and return the version."""
        # wrong? then before the hashing
        _choose_next_version(self._spec, self._listed, self._bump_major)
        top, metadata = os.fspath(path), metadata or {}
        _check_metadata(metadata)
        with self._job, _temporary_folder() if pack else nullcontext() as folder:
            with _source_errors(top, folder):
                source = _Source(top, folder, self._job)  # 1
            about = (source.is_directory, source.files, source.empty, metadata)
            manifest = Manifest.create(*about)
            if not _is_readable(manifest.to_json()):
                reason = f"{len(source.files)} files are more than a manifest holds"
                raise InvalidSourceError(top, reason)
            if len(source.uploads) > _MANY_FILES:
                text = "%d files take a request each: --pack makes one object of them"
                _logger().warning(text, len(source.uploads))
            version, is_begun = self._claim_next(manifest)  # 2
            if not self._dry_run:
                self._upload(source, version, is_begun)  # 3
                source.check_all()  # 4
        return version

    def _claim_next(self, manifest: Manifest) -> tuple[str, bool]:
        """Claim the version that the spec means, or the next that is free.

        Returns it, and whether an interrupted push of the same content began it.
        """
        taken, spec = set(self._listed), self._spec
        while True:
            version = _choose_next_version(spec, sorted(taken), self._bump_major)
            state = "taken" if version in taken else self._claim(version, manifest)
            if state != "taken":
                return version, state == "begun"
            if spec.is_version_complete():
                late = "it is not listed, so its publication goes on or was interrupted"
                hint = {} if version in self._listed else {"hint": late}
                raise AssetAlreadyExistsError(spec.name, version, **hint)
            taken |= {version, *self._store._find_versions(spec.name)}

    def _claim(self, version: str, manifest: Manifest) -> str:
        """Make a version ours by creating its manifest, which one publisher alone can.

        Returns `free` where it was and now is ours, `begun` where an interrupted push
        of the same content made it ours before, else `taken`.
        """
        # some stores ignore conditions, so what is there is looked at first
        state = self._look_up(version, manifest)
        if state != "free" or self._dry_run:
            return state
        name, data = self._spec.name, manifest.to_json()
        object_name = self._store.get_meta_object_name(name, version)
        try:
            self._driver.write_object(data, object_name, if_match="")
        except FileExistsError:
            # another publisher's, or our own, whose answer was lost on the way
            state = self._look_up(version, manifest)
            return "taken" if state == "free" else state
        if not self._store._conditions_proved:
            # the same bytes once more: nothing is lost where that is let through
            with suppress(FileExistsError):
                self._driver.write_object(data, object_name, if_match="")
                text = "the store ignores conditional writes: of concurrent publishers "
                text += "of one asset one may be lost, so publish from one place"
                _logger().warning(text)
            self._store._conditions_proved = True
        return "free"

    def _look_up(self, version: str, manifest: Manifest) -> str:
        try:
            claimed = self._store._read_manifest(self._spec.name, version)
        except ObjectDoesNotExistError:
            # somebody may upload it without a claim, as modelkit does
            return "taken" if self._list_sizes(version) else "free"
        except AssetIntegrityError:
            return "taken"
        if not manifest._has_same_content(claimed) or self._is_listed(version):
            return "taken"
        if manifest.metadata != claimed.metadata:
            text = "an interrupted push began %s:%s, whose metadata stay"
            _logger().warning(text, self._spec.name, version)
        return "begun"

    def _is_listed(self, version: str) -> bool:
        return version in self._store._find_versions(self._spec.name)

    def _list_sizes(self, version: str) -> dict[str, int]:
        """Return the sizes of the objects that hold a version's data, by name."""
        object_name = self._store.get_object_name(self._spec.name, version)
        found = []
        with suppress(ObjectDoesNotExistError):
            found = [(object_name, *self._driver.stat_object(object_name))]
        found += self._driver.iterate_objects(object_name)
        return {name: size for name, size, _ in found}

    def _upload(self, source: _Source, version: str, is_begun: bool) -> None:
        name, job = self._spec.name, self._job
        object_name = self._store.get_object_name(name, version)
        there = self._list_sizes(version) if is_begun else {}
        files = [file for file, _ in source.uploads]
        is_next = self._may_copy and self._listed and files[0].sha256
        copies = self._find_copies() if is_next else {}
        job.begin("uploading", f"{name}:{version}", files)

        def upload(one: tuple[ManifestFile, str]) -> None:
            file, path = one
            target = _join_path(object_name, file.path)
            source.check(file)
            is_there, same = there.get(target) == file.size, copies.get(file.sha256)
            if is_there or (same and self._copy(same, target)):
                job.advance(file.size or 0)
            else:
                self._put(source, file, path, target, version)
            job.advance(0, files=1)

        job.run(upload, source.uploads)

    def _find_copies(self) -> dict[str | None, str]:
        """Return the latest version's objects that have the right size, by SHA-256."""
        name, version = self._spec.name, self._listed[0]
        object_name = self._store.get_object_name(name, version)
        found: dict[str | None, str] = {}
        with suppress(ObjectDoesNotExistError, AssetIntegrityError):
            manifest = self._store._read_manifest(name, version)
            sizes = {} if manifest.is_packed else self._list_sizes(version)
            for file in manifest.files:
                source = _join_path(object_name, file.path)
                if file.sha256 and sizes.get(source) == file.size:
                    found[file.sha256] = source
        return found

    def _copy(self, source: str, target: str) -> bool:
        """Tell whether the store made a copy of an object itself."""
        try:
            self._driver.copy_object(source, target)
            return True
        except FileExistsError:
            pass  # an upload looks into that
        except StorageDriverError as error:  # too large, or not allowed
            _logger().info("uploading %r, as it cannot be copied: %s", target, error)
        return False

    def _put(
        self, source: _Source, file: ManifestFile, path: str, target: str, version: str
    ) -> None:
        """Upload a file, unless its object is there already and as large."""

        def advance(size: int) -> None:
            source.check(file)  # it is named after this, and must be what was hashed
            self._job.advance(size)

        etag, size = "", 0
        for _ in range(2):
            try:
                self._driver.upload_object(path, target, advance, if_match=etag)
                return
            except FileExistsError:
                size, etag = self._driver.stat_object(target)
            finally:
                source.check(file)
            if size == file.size:
                return
            if self._is_listed(version):
                break
        raise AssetIntegrityError(target, f"{file.size} bytes", f"{size} bytes")


def _check_metadata(metadata: Mapping[str, str]) -> None:
    for key, value in dict(metadata).items():
        if not (isinstance(key, str) and key and isinstance(value, str)):
            text = f"metadata is texts by name, which {key!r}: {value!r} is not"
            raise ConfigurationError(text)


def _temporary_folder() -> AbstractContextManager[str]:
    import tempfile

    return tempfile.TemporaryDirectory()


class StorageProvider(_StoreReader):
    """The remote store: publishes versions, and reads what is published.

    An argument beats its environment variable, which beats the default: timeout_s
    (seconds), prefix, force_download, provider (`s3`, `gcs`, `az`, `http`, `local`, or
    a driver file's name), versioning, and the driver's own settings, `bucket` among
    them. client is a ready SDK client for the driver. on_progress is called with a
    `Progress` whenever bytes move, from the threads that move them, one at a time; what
    it raises stops the work, and is raised. It is not pickled.

    - any number of publishers at once, and a crash at any point, lose and tear nothing
    - nothing in the store is ever deleted or replaced, but the list of versions
    """

    def new(
        self,
        asset_path: StrPath,
        name: str,
        version: str | None = None,
        dry_run: bool = False,
        *,
        pack: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        """Publish a file or folder as a new asset, and return its version.

        AssetAlreadyExistsError where the asset has a version, or the first 10,000
        objects show one whose name differs in case alone. dry_run writes nothing.
        pack makes one object of a folder, a tar, which modelkit 0.1.3 cannot read.
        metadata, texts by name, goes into the manifest, for readers to see.
        """
        spec = AssetSpec(name, version=version, versioning=self.versioning)
        self._check_new(spec)
        push = _Push(self, spec, [], dry_run)
        published = push.run(asset_path, pack, metadata)
        if not dry_run:
            self._commit(spec, published, is_new=True)
        return published

    def update(
        self,
        asset_path: StrPath,
        name: str,
        version: str | None = None,
        *,
        bump_major: bool = False,
        dry_run: bool = False,
        pack: bool = False,
        metadata: Mapping[str, str] | None = None,
        copy: bool = True,
    ) -> str:
        """Publish a file or folder as an asset's next version, and return that.

        version may be complete, or name the major to count up. AssetDoesNotExistError
        where the asset is not there yet. dry_run, pack, metadata: as of `new`.

        What the latest version has is copied within the store, which is not read, so
        that what was altered there since would be, too: without copy, all is uploaded.
        """
        spec = AssetSpec(name, version=version, versioning=self.versioning)
        listed = self._require_versions(spec)
        push = _Push(self, spec, listed, dry_run, bump_major, copy)
        published = push.run(asset_path, pack, metadata)
        if not dry_run:
            self._commit(spec, published, is_new=False)
        return published

    def push(
        self,
        asset_path: StrPath,
        name: str,
        version: str,
        dry_run: bool = False,
        *,
        pack: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Upload a version without listing it, so that only a pinned spec finds it."""
        spec = AssetSpec(name, version=version, versioning=self.versioning)
        if not spec.is_version_complete():
            raise InvalidVersionError(version, "a push takes a complete version")
        listed = self._find_versions(name)
        _Push(self, spec, listed, dry_run).run(asset_path, pack, metadata)

    def _check_new(self, spec: AssetSpec) -> None:
        """Raise unless an asset is new, and no disk takes it for one that is there."""
        name = spec.name
        _check_new_name(name, self.versioning)
        if self._find_versions(name):
            raise AssetAlreadyExistsError(name)
        with suppress(ObjectDoesNotExistError):
            for other in self._peek_names():
                if _fold(other) == _fold(name) and other != name:
                    hint = f"some disks take {name!r} for it: choose another name"
                    raise AssetAlreadyExistsError(other, hint=hint)

    def _require_versions(self, spec: AssetSpec) -> list[str]:
        """Return the versions of an asset that is there already."""
        try:
            return self.get_versions_info(spec.name)
        except ObjectDoesNotExistError as error:
            hint = "publish it first with `new`"
            raise AssetDoesNotExistError(spec.name, hint=hint) from error

    def _commit(self, spec: AssetSpec, version: str, is_new: bool) -> None:
        """Do step 5, keeping whatever others list at the same time."""
        object_name = self.get_versions_object_name(spec.name)
        deadline = time.monotonic() + self.timeout
        while True:
            document, etag = dict[str, Any](versions=[]), ""
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
            system = spec._versioning_among([version])
            document["versions"] = system.sort_versions([version, *listed])
            try:
                data = json.dumps(document).encode()
                self._connect().write_object(data, object_name, if_match=etag)
                return
            except FileExistsError as error:  # another publisher was faster
                if time.monotonic() > deadline:
                    late = StorageUnavailableError(object_name, self.timeout, error)
                    raise late from error
                time.sleep(0.05 * _get_random())


# ------------------------------------------------------------------- the cache
#
#   ASSETS_DIR/some/asset/0.0            a file asset
#   ASSETS_DIR/some/asset/.0.0.SUCCESS   its marker
#   ASSETS_DIR/some/dir/0.1/...          a directory asset
#   ASSETS_DIR/some/dir/0.1/.SUCCESS     its marker
#   ASSETS_DIR/.cache/                   ours: locks, and downloads under way
#
# What lies there of a version is its copy, and data with a marker is whole. A copy of
# some parts of its version is like any other: its marker's manifest has their files,
# `parts` in it names them, and the marker has another name, by which nobody takes it
# for a whole one. A hit takes no lock, and neither writes nor asks. A miss takes these
# steps, some in the next chapter:
#
#   1. Take the lock, which saves work: of many processes one downloads. All is right
#      without it, as on a disk that knows no locks.
#   2. Look again: another process may have been faster.
#   3. Stage what is wanted in a folder of our own below `.cache`. It begins with what
#      a killed download of the same content left there.
#   4. Adopt data that has no marker, where its digests are right: mark it.
#   5. Bring what is missing, piece by piece, each verified.
#   6. Mark it: a folder's marker is written into staging, a file's before its data is
#      renamed. A crash in between leaves a marker without data, which is nothing.
#   7. Publish by rename: a reader sees nothing or all. What was there is renamed away
#      first, and deleted after the lock is free.

_LOCK_POLL_S = 0.05
_QUIET_S = 2.0  # a longer wait for a lock is told
_IDLE_S = 60.0  # untouched for so long, staging is nobody's where locks do not tell
_COPY_OF = "copy_of"  # in a marker: the store and the asset that it is from
_REUSED_COPIES = 4  # the latest so many are looked through for what a new one has too


def _decide_fetch(state: str, provider: bool, force: bool) -> str:
    """Return what to do for one version: `hit`, `check`, `download` or `fail`.

    state: `absent`; `unmarked`, which is what a killed process or another program left,
    right or not, only digests tell; `unproved`, whose marker is empty, as modelkit's
    are, and as a power cut leaves them; `damaged`, where a file has not the size that
    its marker says; or `whole`.
    """
    if not provider:
        return "hit" if state in ("whole", "unmarked", "unproved") else "fail"
    if force or state in ("absent", "damaged"):
        return "download"
    return "hit" if state == "whole" else "check"


class _Cache:
    """The assets dir: where copies and markers lie, and how they come to be there."""

    store = ""  # that copies come from now

    def __init__(
        self, assets_dir: str, timeout_s: float, versioning: Versioning = None
    ) -> None:
        self.assets_dir, self.timeout_s = assets_dir, timeout_s
        self._foreign: set[str] = set()  # copies from another store, which was said
        self.make_spec = partial(AssetSpec, versioning=versioning)
        self.own = os.path.join(assets_dir, ".cache")
        self._known: dict[tuple[str, str], tuple[tuple[int, ...], ...]] = {}

    def get_path(self, name: str, version: object) -> str:
        return _local_path(self.assets_dir, f"{name}/{version}")

    def look_up(self, path: str, part: str = "") -> str:
        """Return the state of a version's copy, or of a part's, see `_decide_fetch`.

        A process looks at the sizes in a folder once, then only whether it and its
        marker are still the same.
        """
        try:
            stamps = _make_stamps(path, part)
        except (FileNotFoundError, NotADirectoryError):
            self.require_inside(path)
            return self._look_closer(path, part)
        if self._known.get((path, part)) == stamps:
            return "whole"
        self.require_inside(_local_path(path, part))
        state = self._look_closer(path, part)
        if state == "damaged" and not _is_same(path, stamps[0]):
            return self.look_up(path, part)  # it is being replaced, or deleted
        if state == "whole" and not stamps[1][0]:
            return "unproved"
        if state == "whole":
            self._known[path, part] = stamps
        return state

    def prove(self, path: str, part: str, manifest: Manifest | None, job: _Job) -> bool:
        """Tell whether a copy is whole whose marker is empty, and believe it then.

        Where the store's manifest has digests, they tell; where it has none, modelkit
        published it, and its marker counts. Without a manifest, it is not whole where
        all files are as empty as the marker, as a power cut leaves them.
        """
        if manifest is None:
            is_whole = any(_get_size(one) != 0 for one in _list_files(path))
        else:
            is_whole = manifest.size is None or _is_right(
                path, manifest, self.assets_dir, job
            )
        if is_whole and manifest:
            marker = _get_marker_path(path, os.path.isdir(path))
            with suppress(OSError), self.staging("", "", None) as folder:
                self.mark(path, path, marker, manifest, folder, job)
        if is_whole:
            with suppress(FileNotFoundError, NotADirectoryError):
                self._known[path, part] = _make_stamps(path, part)
        return is_whole

    def _look_closer(self, path: str, part: str) -> str:
        is_partial = _is_partial(path)
        if not os.path.exists(path) or is_partial and not part:
            return "absent"
        try:
            is_marked = self.check_sizes(path, part)
        except AssetIntegrityError:
            return "absent" if is_partial else "damaged"
        otherwise = "absent" if is_partial else "unmarked"
        return "whole" if is_marked else otherwise

    def check_sizes(self, path: str, part: str) -> bool:
        """Tell whether a copy's marker has a part; AssetIntegrityError if not its size.

        Of a whole copy, any part may be there: modelkit's markers name none.
        """
        marker = _find_marker(path)
        try:
            manifest = _read_marker(marker)
        except (OSError, AssetIntegrityError):
            return False
        self.check_origin(path, manifest)
        plain = set[str]()
        for file in manifest.files if manifest else ():
            if _is_below(file.path, part):
                target = _local_path(path, file.path)
                self.require_inside(target, plain)
                got = _get_size(target)
                if got != file.size and (file.size is not None or isinstance(got, str)):
                    raise AssetIntegrityError(target, f"{file.size} bytes", got)
        if not marker.endswith(_PARTIAL_MARKER):
            return True
        return os.path.exists(_local_path(path, part)) and _has_part(manifest, part)

    def check_origin(self, path: str, manifest: Manifest | None) -> None:
        """Warn where a copy is from another store.

        AssetsDirError where it is another asset's, on a disk that takes both for one.
        """
        own = _get_asset_name(path, self.assets_dir)
        store, name = _read_origin(manifest) or ("", own)
        if name != own and _fold(name) == _fold(own):
            reason = f"it is a copy of {name!r}, which the disk takes for {own!r}"
            raise AssetsDirError(path, reason, "read")
        if self.store and store not in ("", self.store) and path not in self._foreign:
            self._foreign.add(path)
            text = "the copy %r is from %r, and %r is configured now: to replace it, "
            _logger().warning(text + "download it again", path, store, self.store)

    def require_assets_dir(self) -> None:
        """Raise FolderDoesNotExistError where there is none: it is never made."""
        if not os.path.isdir(self.assets_dir):
            variable = "MODELKIT_ASSETS_DIR"
            raise FolderDoesNotExistError("assets dir", self.assets_dir, variable)

    def require_inside(self, path: str, plain: set[str] | None = None) -> None:
        """Raise AssetIntegrityError where a link leads a path out of the assets dir."""
        if not _is_inside(path, self.assets_dir, plain):
            within = f"something below {self.assets_dir!r}"
            raise AssetIntegrityError(path, within, "a link to elsewhere: remove it")

    def find_versions(self, spec: AssetSpec) -> list[str]:
        """Return the versions that are served without a store, the latest first.

        A copy of some files is one where they hold the spec's part.
        """
        folder, part = _local_path(self.assets_dir, spec.name), spec.sub_part or ""
        paths = {
            version: os.path.join(folder, version)
            for version in spec.get_local_versions(folder)
        }
        return [
            version
            for version, path in paths.items()
            if not _is_partial(path) or self.look_up(path, part) == "whole"
        ]

    def iterate_copies(
        self, most: int = sys.maxsize
    ) -> Iterator[tuple[str, list[str]]]:
        """Yield the name of each asset that has marked copies, and their versions.

        most: how many folders are looked into, as all of a disk may lie there.
        """
        refuse = partial(_refuse_unreadable, self.assets_dir)
        found = os.walk(self.assets_dir, onerror=refuse)
        for _, (folder, folders, _) in zip(range(most), found):
            name = os.path.relpath(folder, self.assets_dir).replace(os.sep, "/")
            versions = self.find_copies(name)
            # at the top, where no version can lie
            hidden = [".cache"] if name == "." else versions
            folders[:] = sorted(set(folders) - set(hidden))
            if versions:
                yield name, versions

    def find_copies(self, name: str) -> list[str]:
        """Return the versions of an asset that have marked copies, the latest first."""
        folder = _local_path(self.assets_dir, name)
        with suppress(FileNotFoundError, NotADirectoryError, InvalidNameError):
            spec, names = self.make_spec(name), os.listdir(folder)
            marked = [one for one in names if _is_marked(os.path.join(folder, one))]
            return spec._pick_versions(marked)
        return []

    def find_sources(self, name: str, job: _Job) -> dict[str, tuple[str, int]]:
        """Return where the pieces of an asset's latest copies lie, by SHA-256."""
        found: dict[str, tuple[str, int]] = {}
        for version in self.find_copies(name)[:_REUSED_COPIES]:
            job.beat()
            path, manifest = self.get_path(name, version), None
            with suppress(OSError, AssetIntegrityError):
                manifest = _find_manifest(path)
            if manifest and manifest.size is not None:
                files = self.find_files(path, manifest)
                for piece in _plan_pieces("", manifest):
                    if piece.sha256 and piece.file.path in files:
                        found[piece.sha256] = files[piece.file.path], piece.position
        return found

    def find_files(self, path: str, manifest: Manifest) -> dict[str, str]:
        """Return where those of a manifest's files lie in a copy that are there."""
        found, plain = {}, set[str]()
        for file in manifest.files:
            target = _local_path(path, file.path)
            is_there = _get_size(target) == file.size
            if is_there and _is_inside(target, self.assets_dir, plain):
                found[file.path] = target
        return found

    @contextmanager
    def lock(self, name: str) -> Iterator[str]:
        """Hold an asset's lock, and yield the lock file, whose time shows progress.

        AssetLockTimeoutError where another process holds it and makes no progress for
        the timeout.
        """
        path = _local_path(self.own, _name_lock(name))
        self.require_assets_dir()
        self.require_inside(os.path.dirname(path))
        with _on_disk(self.assets_dir):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            _write_cache_tag(self.own)
            held = _wait_for_lock(path, name, self.timeout_s)
        try:
            yield path
        finally:
            _close_lock(held)

    @contextmanager
    def staging(
        self,
        name: str,
        version: object,
        content: object,
        abandoned_s: float = _ABANDONED_S,
    ) -> Iterator[str]:
        """Yield a private folder for a download, which is kept where that fails.

        It begins with the `data` that a killed download of the same content left. A
        locked file in it tells others that somebody works there. What nobody has
        touched for abandoned_s, and nobody holds, is cleared away.
        """
        import hashlib

        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        key = f"{name[:60]}@{str(version)[:60]}@{digest[:16]}".replace("/", "+")
        staging = os.path.join(self.own, "staging")
        self.require_inside(staging)
        with _on_disk(self.assets_dir):
            folder, lock = _make_locked_folder(staging, key if content else "")
            try:
                _take_over(folder, abandoned_s)
                yield os.path.join(folder, "work")
            finally:
                _close_lock(lock)
            # first what takes time: while it does, the lock tells that nobody is there
            _remove_tree(os.path.join(folder, "work"))
            _remove_tree(folder)

    def remove(self, spec: AssetSpec) -> None:
        """Delete the copy of a pinned spec, and its marker: readers see it vanish."""
        path = self.get_path(spec.name, spec.version)
        self.require_inside(path)
        with self.staging("", "", None) as folder, self.lock(spec.name):
            # a marker alone is nothing, data alone would be taken for whole
            for waste in (path, _get_marker_path(path, is_directory=False)):
                with suppress(FileNotFoundError):  # where another process was faster
                    os.rename(waste, os.path.join(folder, os.path.basename(waste)))
            with suppress(OSError):  # other versions lie there
                os.rmdir(os.path.dirname(path))  # or it would be served as a path

    def mark(
        self,
        path: str,
        data: str,
        marker: str,
        manifest: Manifest,
        folder: str,
        job: _Job,
    ) -> None:
        """Write the marker of a copy whose data lies there, by way of a staging folder.

        Both are on the disk then: a power cut leaves no marker of what is not whole.
        """
        _sync_tree(data, job)
        origin = {"store": self.store, "name": _get_asset_name(path, self.assets_dir)}
        document = {**manifest.document, _COPY_OF: origin}
        if not _is_readable(json.dumps(document).encode()):
            # the digests that modelkit's manifest lacked have made it too large to read
            document.pop("files", None)
        staged = os.path.join(folder, "marker")
        with open(staged, "wb") as file:
            file.write(json.dumps(document).encode())
            _sync(file)
        os.replace(staged, marker)
        _sync_folder(os.path.dirname(marker))

    def publish(
        self, folder: str, path: str, manifest: Manifest, is_partial: bool, job: _Job
    ) -> list[str]:
        """Make a staged copy visible, marked, and return where those before it are.

        A crash in between leaves the old copy, or none; never data that has a marker
        and is not whole.
        """
        data, old = os.path.join(folder, "data"), os.path.join(folder, "old")
        self.require_inside(os.path.dirname(path))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        marker = _get_marker_path(path, False)
        if manifest.is_directory:
            marker = os.path.join(data, _PARTIAL_MARKER if is_partial else _MARKER)
        elif os.path.exists(path) and not _has_content(self, path, manifest, job):
            with suppress(FileNotFoundError):  # where another process did it
                os.rename(path, old)  # or the marker would pass it off as whole
        self.mark(path, data, marker, manifest, folder, job)  # 6
        return _swap_in(data, path, old)  # 7


def _has_content(cache: _Cache, path: str, manifest: Manifest, job: _Job) -> bool:
    """Tell whether a file asset's copy is this: as its marker says, else its digest."""
    with suppress(AssetIntegrityError):
        present = _find_manifest(path)
        if present is None:
            return _is_right(path, manifest, cache.assets_dir, job)
        return manifest._has_same_content(present) and cache.look_up(path) == "whole"
    return False


def _refuse_unreadable(assets_dir: str, error: OSError) -> None:
    """Raise AssetsDirError where a folder that may hold assets cannot be read."""
    name = os.path.relpath(error.filename, assets_dir).replace(os.sep, "/")
    with suppress(InvalidNameError):  # others' folders lie there, as lost+found
        if name != ".":
            AssetSpec.check_name_valid(name)
        if isinstance(error, PermissionError):
            raise _make_disk_error(error, error.filename, "read") from error


def _measure_leftovers(cache: _Cache) -> int:
    """Return the bytes that interrupted downloads left, which nobody holds."""
    size, staging = 0, os.path.join(cache.own, "staging")
    for entry in os.listdir(staging) if os.path.isdir(staging) else ():
        path = os.path.join(staging, entry)
        with suppress(OSError):
            lock = os.path.join(path, "lock")
            with _open_lock(lock, _LOCK_FLAGS & ~os.O_CREAT) as file:
                if _try_lock(file, lock):
                    size += sum(os.lstat(one).st_size for one in _list_files(path))
                    _unlock(file.fileno())
    return size


def _clear_leftovers(cache: _Cache) -> None:
    """Delete what interrupted downloads left."""
    with cache.staging("", "", None, abandoned_s=0):
        pass


def _is_right(
    path: str,
    manifest: Manifest,
    within: str,
    job: _Job,
    ignored: Collection[str] | None = None,
) -> bool:
    """Tell whether a copy is just what a version holds, by its files' digests.

    ignored: what may also lie there, of content that is no copy, and has no marker.
    """
    if manifest.size is None:
        return False
    job.begin("checking", path, manifest.files)
    try:
        found = {part for part, _ in _walk_source(path, ignored)}
    except (OSError, InvalidSourceError):
        return False
    if found != {file.path for file in manifest.files} | {*manifest.empty_directories}:
        return False
    pieces = _plan_pieces("", manifest)
    return len(_find_right(pieces, path, within, job)) == len(pieces)


def _make_stamps(path: str, part: str) -> tuple[tuple[int, ...], ...]:
    """Return the stamps of a copy, its marker, and a part; FileNotFoundError."""
    status = os.stat(path)
    mark = os.stat(_get_marker_path(path, stat.S_ISDIR(status.st_mode)))
    target = os.stat(_local_path(path, part)) if part else status
    return _make_stamp(status), _make_stamp(mark), _make_stamp(target)


def _list_files(path: str) -> list[str]:
    """Return the files of a copy, without markers."""
    markers = (_MARKER, _PARTIAL_MARKER)
    found = [] if os.path.isdir(path) else [path]
    for folder, _, names in os.walk(path):
        skipped = markers if folder == path else ()
        found += [os.path.join(folder, name) for name in names if name not in skipped]
    return found


def _get_marker_path(path: str, is_directory: bool) -> str:
    if is_directory:
        return os.path.join(path, _MARKER)
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}{_MARKER}")


def _find_marker(path: str) -> str:
    """Return where a copy's marker is, or would be."""
    whole = _get_marker_path(path, os.path.isdir(path))
    partial = os.path.join(path, _PARTIAL_MARKER)
    return partial if os.path.exists(partial) and not os.path.exists(whole) else whole


def _find_manifest(path: str) -> Manifest | None:
    """Return the manifest in a copy's marker; None where modelkit wrote it."""
    with suppress(FileNotFoundError):
        return _read_marker(_find_marker(path))
    return None


def _is_marked(path: str) -> bool:
    """Tell whether a copy has a marker, which says that we downloaded it."""
    return os.path.exists(_find_marker(path))


def _get_asset_name(path: str, assets_dir: str) -> str:
    """Return the name of the asset whose copy lies at a path."""
    folder = os.path.relpath(os.path.dirname(path), assets_dir)
    return folder.replace(os.sep, "/")


def _read_origin(manifest: Manifest | None) -> tuple[str, str] | None:
    """Return the store and the asset that a copy is from, as its marker says."""
    origin = manifest.document.get(_COPY_OF) if manifest else None
    if not isinstance(origin, dict):
        return None
    return str(origin.get("store", "")), str(origin.get("name", ""))


def _has_part(manifest: Manifest | None, part: str) -> bool:
    """Tell whether a copy of parts has one, all of it.

    That is a file of it, or lies in what its marker's `parts` names. A marker that
    names none, of an older version of this program, has the whole manifest.
    """
    found = manifest.get_part(part) if manifest else None
    if not (manifest and found and (found.files or found.empty_directories)):
        return False
    is_file = found.files[:1] and found.files[0].path == part
    parts = map(str, manifest.document.get("parts", [""]))
    return bool(is_file) or any(_is_below(part, one) for one in parts)


def _is_partial(path: str) -> bool:
    """Tell whether a copy has some of its version's files alone."""
    return _find_marker(path).endswith(_PARTIAL_MARKER)


def _get_size(path: str) -> object:
    """Return a file's size in bytes, or what there is instead."""
    with suppress(FileNotFoundError, NotADirectoryError):
        status = os.stat(path)
        return status.st_size if stat.S_ISREG(status.st_mode) else "no file"
    return "nothing"


def _name_lock(name: str) -> str:
    """Return where an asset's lock lies, as modelkit has it, below `.cache`.

    The lock of `a.lock/b` needs a folder where `a` has its own. No name has a ~.
    """
    *above, last = name.split("/")
    ours = re.compile(r"(?:.*\.lock|CACHEDIR\.TAG|staging)", re.IGNORECASE)
    folders = [f"{one}~" if ours.fullmatch(one) else one for one in above]
    return "/".join([*folders, f"{last}.lock"])


def _write_cache_tag(folder: str) -> None:
    # tells backup programs to pass it over: https://bford.info/cachedir/
    path = os.path.join(folder, "CACHEDIR.TAG")
    text = "Signature: 8a477f597d28d172789f06886806bc55\n"
    with suppress(FileNotFoundError):
        status = os.lstat(path)
        # a link is somebody's own, and a pipe would hold us up
        if not stat.S_ISREG(status.st_mode) or status.st_size == len(text):
            return
    with open(path, "w") as file:
        file.write(text)


def _wait_for_lock(path: str, name: str, timeout_s: float) -> IO[bytes]:
    """Return the lock, once it is ours; see `_Cache.lock`."""
    deadline, seen, told_at = 0.0, -1, time.monotonic() + _QUIET_S
    holder = json.dumps(_get_pid_and_host()).encode()
    while True:
        with ExitStack() as opened:  # closes it, where an interrupt comes as well
            file = opened.enter_context(_open_lock(path))
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "the lock is not a plain file", path)
            if _try_lock(file, path):
                with suppress(OSError):  # on a full disk, nobody is told who holds it
                    file.truncate(0)
                    file.write(holder)
                opened.pop_all()
                return file
            progress, (pid, host) = status.st_mtime_ns, _read_holder(file)
        now = time.monotonic()
        if progress != seen:
            deadline, seen = now + timeout_s, progress
        elif now >= deadline:
            raise AssetLockTimeoutError(name, timeout_s, pid, host)
        if now >= told_at:
            text = "waiting for process %s on host %s, which downloads %r"
            _logger().warning(text, pid, host, name)
            told_at = sys.maxsize
        time.sleep(_LOCK_POLL_S)


def _open_lock(path: str, flags: int = _LOCK_FLAGS) -> IO[bytes]:
    return open(
        path, "rb+", buffering=0, opener=lambda name, _: os.open(name, flags, 0o666)
    )


def _try_lock(file: IO[bytes], path: str) -> bool:
    """Lock a file, if it is free and still the one at the path."""
    try:
        _lock(file.fileno(), wait=False)
    except OSError as error:
        # held by another; else the file system knows no locks, and we do without
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
    with suppress(OSError):
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    return False


def _close_lock(file: IO[bytes]) -> None:
    with suppress(OSError):
        _unlock(file.fileno())
    file.close()


def _read_holder(file: IO[bytes]) -> tuple[object, object]:
    try:
        pid, host = json.loads(file.read(1000))
    except (OSError, ValueError, TypeError):  # being written, or modelkit's, or Windows
        return "unknown", "unknown"
    return pid, host


def _get_pid_and_host() -> tuple[int, str]:
    import socket

    return os.getpid(), re.sub("[^A-Za-z0-9.-]", "-", socket.gethostname())


def _make_locked_folder(staging: str, key: str) -> tuple[str, IO[bytes]]:
    """Make a folder with a locked file in it, and return it and the lock."""
    while True:
        folder = os.path.join(staging, f"{key}~{_make_token()}")
        os.makedirs(folder)
        # before the file is locked, another process may clear it away as abandoned
        with suppress(FileNotFoundError), ExitStack() as opened:
            path = os.path.join(folder, "lock")
            file = opened.enter_context(_open_lock(path))
            if _try_lock(file, path):
                os.mkdir(os.path.join(folder, "work"))
                opened.pop_all()
                return folder, file


def _take_over(folder: str, abandoned_s: float) -> None:
    """Clear away what nobody holds: waste, the same content, else if it is old.

    The data of the same content becomes the folder's own.
    """
    staging, own = os.path.split(folder)
    work, key = os.path.join(folder, "work"), own.partition("~")[0]
    data = os.path.join(work, "data")
    for entry in os.listdir(staging):
        path, taken = os.path.join(staging, entry), os.path.join(work, entry)
        is_wanted = entry.partition("~")[0] in ("", key)
        with suppress(*_TAKEN):  # of several processes, one gets it
            idle_s = time.time() - os.lstat(path).st_mtime
            if entry == own or not (is_wanted or idle_s > abandoned_s):
                continue
            with ExitStack() as locks:
                if not _is_abandoned(path, idle_s, folder, locks):
                    continue
                if os.name == "nt":  # where no folder is renamed in which one is open
                    locks.close()
                os.rename(path, taken)
                if key and is_wanted and not os.path.lexists(data):
                    with suppress(FileNotFoundError):
                        os.rename(os.path.join(taken, "work", "data"), data)
        _remove_tree(taken)


# what a folder says that is another's meanwhile; on Windows, one that is worked in
_TAKEN = (FileNotFoundError, PermissionError)[: 2 if os.name == "nt" else 1]


def _is_abandoned(path: str, idle_s: float, own: str, locks: ExitStack) -> bool:
    """Tell whether nobody works in a staging folder; none begins until locks is left.

    own: our folder, whose lock we could take again where a disk knows no locks.
    """
    is_free = []
    for folder in (own, path):
        lock = os.path.join(folder, "lock")
        try:
            file = _open_lock(lock, _LOCK_FLAGS & ~os.O_CREAT)
        except OSError:
            # one that is being made, or of a version that knew no such file
            with suppress(OSError):
                os.rmdir(path)
            return idle_s > _IDLE_S
        locks.enter_context(file)
        is_free.append(_try_lock(file, lock))
    return is_free[1] and (not is_free[0] or idle_s > _IDLE_S)


def _touching(*paths: str) -> Callable[[], None]:
    """Return a beat that shows by the times of files that work goes on."""
    last = 0.0

    def touch() -> None:
        nonlocal last
        if time.monotonic() - last >= _HEARTBEAT_S:
            last = time.monotonic()
            for path in paths:
                with suppress(OSError):
                    os.utime(path)

    return touch


# ------------------------------------------------------------------- the manager
#
# What a spec means, whether it is cached, and else the steps of a miss, as the chapter
# before tells them.


class LocalCopy(NamedTuple):
    """A cached version: size in bytes on disk, and when it was fetched (ISO 8601)."""

    name: str
    version: str
    path: str
    size: int
    date: str
    is_partial: bool


class _DownloadInfo(TypedDict, total=False):
    meta: dict[str, Any]
    object_name: str
    meta_object_name: str
    versions_object_name: str


class FetchInfo(_DownloadInfo):
    """What `fetch_asset(spec, return_info=True)` returns: a dict.

    path        the local path, as without return_info
    version     the complete version; None of a path that is no asset's
    from_cache  whether nothing was downloaded

    After a download it also has `meta`, the manifest, as `get_asset_meta` returns it,
    and the `object_name`, `meta_object_name` and `versions_object_name` in the store.
    """

    path: str
    version: str | None
    from_cache: bool


class _Miss:
    """The steps of a miss for one spec, which the chapter of the cache tells."""

    def __init__(
        self,
        cache: _Cache,
        provider: StorageProvider,
        spec: AssetSpec,
        manifest: Manifest,
        force: bool,
    ) -> None:
        self._cache, self._provider, self._spec = cache, provider, spec
        self._manifest, self._force, self._part = manifest, force, spec.sub_part or ""
        self._path = cache.get_path(spec.name, spec.version)
        self._displaced: list[str] = []  # copies that came in between, put aside

    def run(self, on_progress: OnProgress | None) -> tuple[str, Manifest]:
        """Take the steps once.

        Returns `published`, `hit` where that was not needed, or `displaced` where a
        copy of other parts came in between, which nobody has locked us out from; and
        the manifest, with all digests where all files came.
        """
        provider, part, path = self._provider, self._part, self._path
        name, version = self._spec.name, str(self._spec.version)
        cache, manifest, force = self._cache, self._manifest, self._force
        with ExitStack() as after:  # what is entered on it is left after the lock
            job = after.enter_context(provider._start_job(on_progress))
            with cache.lock(name) as lock:  # 1
                job.beats.append(_touching(lock))
                before, state = _identify(path), cache.look_up(path, part)  # 2
                action = _decide_fetch(state, True, force)
                if action == "hit" and not (self._displaced and _is_partial(path)):
                    return "hit", manifest
                if state == "damaged":
                    _logger().warning("the copy %r is damaged: it is replaced", path)
                wanted, extended = self._plan_copy(state)
                staging = cache.staging(name, version, wanted[:3])
                folder = after.enter_context(staging)  # 3
                job.beats.append(_touching(folder))
                if action == "check" and self._adopt(folder, job):  # 4
                    return "hit", manifest
                _logger().info("downloading %s to %r", self._spec, path)
                sources = {} if force else cache.find_sources(name, job)
                data = os.path.join(folder, "data")
                brought = provider._bring_version(  # 5
                    name, version, wanted, data, job, extended, sources
                )
                is_partial = not wanted._has_paths_of(manifest)
                olds = cache.publish(folder, path, brought, is_partial, job)  # 6, 7
                others = [one for one in olds if _identify(one) != before]
                if is_partial and others:
                    # they have parts that ours lacks: once more, with those of all
                    for old in others:
                        aside = os.path.join(cache.own, "staging", f"~{_make_token()}")
                        os.rename(old, aside)
                        self._displaced.append(aside)
                    return "displaced", manifest
        return "published", manifest if is_partial else brought

    def clear(self) -> None:
        """Delete the copies that were put aside."""
        for folder in self._displaced:
            _remove_tree(folder)

    def _plan_copy(self, state: str) -> tuple[Manifest, dict[str, str]]:
        """Return what a copy is to hold, and where the files are that it has already.

        A part is added to what the present copy has, if that is one of parts, too.
        """
        path, manifest, part = self._path, self._manifest, self._part
        is_partial = _is_partial(path)
        if not part or not (is_partial or state == "absent"):
            return manifest, {}
        new = manifest.get_part(part)
        files, extended = {file.path: file for file in new.files}, dict[str, str]()
        empty, parts = set(new.empty_directories), [part]
        digests = {file.path: file.sha256 for file in manifest.files}
        for folder in [path] * is_partial + self._displaced:
            base = _find_manifest(folder)
            if base is None:
                continue
            have = self._cache.find_files(folder, base)
            for file in base.files:
                is_known = digests.get(file.path, "") in (None, file.sha256)
                is_wanted_anew = self._force and file.path in files
                if file.path in have and is_known and not is_wanted_anew:
                    files[file.path], extended[file.path] = file, have[file.path]
            empty |= {*base.empty_directories} & {*manifest.empty_directories}
            for one in base.document.get("parts", ()):
                if one in files:  # or it took as long as all files for each
                    parts.append(one)
                    continue
                about = manifest.get_part(str(one))
                is_whole = {file.path for file in about.files} <= files.keys()
                if is_whole and empty.issuperset(about.empty_directories):
                    parts.append(one)
        wanted = manifest._with_files(sorted(files.values()), sorted(empty))
        if not wanted._has_paths_of(manifest):
            wanted.document["parts"] = sorted(set(parts))
        return wanted, extended

    def _adopt(self, folder: str, job: _Job) -> bool:
        """Tell whether what lies there without a marker is right; it then has one."""
        path, manifest = self._path, self._manifest
        if _is_right(path, manifest, self._cache.assets_dir, job):
            with suppress(FileNotFoundError):  # where another process took it away
                marker = _get_marker_path(path, manifest.is_directory)
                self._cache.mark(path, path, marker, manifest, folder, job)
                return True
        return False


class _CopyKeeper:
    """The half of `AssetsManager` that brings nothing, and keeps what is there."""

    def __init__(
        self,
        assets_dir: StrPath | None = None,
        timeout: float | None = None,
        storage_provider: StorageProvider | None = None,
        on_progress: OnProgress | None = None,
        versioning: Versioning = None,
        offline: bool | None = None,
    ) -> None:
        if isinstance(storage_provider, str):
            text = f"storage_provider is a StorageProvider, not {storage_provider!r}: "
            text += f"StorageProvider(provider={storage_provider!r}, bucket=...)"
            raise ConfigurationError(text)
        given = storage_provider  # whose own settings beat variables, wrong ones too
        settings = _Settings.resolve(
            storage_prefix=given and given.prefix,
            storage_timeout_s=given and given.timeout,
            storage_force_download=given and given.force_download,
            assets_dir=assets_dir,
            assets_offline=offline,
            assets_timeout_s=timeout,
            assets_versioning_system=versioning,
        )
        self.on_progress, self.timeout = on_progress, settings.assets_timeout_s
        self.versioning = settings.assets_versioning_system
        self.assets_dir = os.path.abspath(settings.assets_dir or os.getcwd())
        self._workers = settings.storage_workers or os.cpu_count() or 1
        self._cache = _Cache(self.assets_dir, self.timeout, self.versioning)
        self._cache.require_assets_dir()
        if settings.assets_offline:
            storage_provider = None
        elif storage_provider is None and settings.storage_provider:
            storage_provider = StorageProvider(versioning=versioning)
        self.storage_provider = storage_provider
        if storage_provider:
            _check_apart(self.assets_dir, storage_provider)
            prefix = storage_provider.prefix
            self._cache.store = storage_provider.driver.get_object_uri(prefix)

    def resolve(self, spec: AssetSpec | str) -> AssetSpec:
        """Return the spec with the version that it means now.

        A complete version asks nobody; else the store's versions decide, or without a
        store those in the assets dir.
        """
        spec = self._read_spec(spec)
        if spec.is_version_complete():
            return spec
        versions, provider = self._list_versions(spec), self.storage_provider
        if not versions and provider:
            name = provider.get_versions_object_name(spec.name)
            hint = f"there is no {provider.driver.get_object_uri(name)!r}"
            raise AssetDoesNotExistError(spec.name, hint=hint)
        if not versions and (spec.version or self._cache.find_copies(spec.name)):
            raise LocalAssetDoesNotExistError(spec.name, spec.version, versions)
        if not versions:
            path = _local_path(self.assets_dir, spec.name)
            hint = f"there is no {path!r}, and no storage provider is configured, or "
            hint += "we are offline"
            raise AssetDoesNotExistError(spec.name, hint=hint)
        version, part = _choose_version(spec, versions), spec.sub_part
        system = spec._versioning_among([version])
        return AssetSpec(spec.name, version=version, sub_part=part, versioning=system)

    def verify(self, spec: AssetSpec | str) -> list[str] | None:
        """Return the cached files of a version, or its part, that are not as published.

        None where their digests are not known, which is so of what modelkit published
        or fetched. Of a copy in part, only the files that are there are looked at.
        """
        spec = self.resolve(spec)
        path, part = self._cache.get_path(spec.name, spec.version), spec.sub_part or ""
        with _on_disk(path, "read"):
            if _get_size(path) == "nothing":
                hint = f"{self.assets_dir!r} has no copy of it"
                raise AssetDoesNotExistError(spec.name, spec.version, hint)
        self._cache.require_inside(path)
        manifest = _find_manifest(path)
        self._cache.check_origin(path, manifest)
        if not (manifest or self.storage_provider is None):
            manifest = self._read_manifest(spec)
        manifest = manifest and manifest.get_part(part)
        files = manifest.files if manifest else ()
        if not manifest or not all(file.sha256 or file.chunks for file in files):
            return None
        _require_part(spec, bool(files) or not part)
        pieces = _plan_pieces("", manifest)
        with _Job(self._workers, self.on_progress) as job:
            job.begin("checking", str(spec), files)
            right = set(_find_right(pieces, path, self.assets_dir, job))
        wrong = {piece.file.path for piece in pieces if piece not in right}
        paths = [_local_path(path, part) for part in sorted(wrong)]
        for one in paths:
            with _on_disk(one, "read"):
                if _get_size(one) != "nothing" and not os.access(one, os.R_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), one)
        return paths

    def iterate_copies(self) -> Iterator[LocalCopy]:
        """Yield the cached versions that a marker shows to be ours, by name."""
        for name, versions in self._cache.iterate_copies():
            for version in versions:
                path = self._cache.get_path(name, version)
                with suppress(FileNotFoundError):  # where another process removes it
                    yield _describe_copy(name, version, path)

    def remove(self, spec: AssetSpec | str, dry_run: bool = False) -> list[AssetSpec]:
        """Delete the local copy of a version, or without one of all; return which.

        What no marker says to be a copy is kept. AssetDoesNotExistError where there is
        no copy. dry_run deletes nothing.
        """
        spec = self._read_spec(spec)
        if spec.sub_part or spec.version and not spec.is_version_complete():
            reason = "what is removed is NAME:VERSION with the whole version, or NAME"
            raise InvalidAssetSpecError(str(spec), reason)
        versions = self._cache.find_copies(spec.name)
        if spec.version:
            is_marked = _is_marked(self._cache.get_path(spec.name, spec.version))
            versions = [spec.version] if is_marked else []
        if not versions:
            hint = f"{self.assets_dir!r} has no copy that was downloaded"
            raise AssetDoesNotExistError(spec.name, spec.version, hint)
        return self._remove([(spec.name, one) for one in versions], dry_run)

    def prune(
        self,
        keep: int | None = None,
        dry_run: bool = False,
        max_size: int | None = None,
    ) -> list[AssetSpec]:
        """Delete local copies, and return which; dry_run deletes nothing.

        Each asset's `keep` latest versions stay. With max_size, in bytes, only so many
        of the others go that all are no larger, those first that were fetched first.
        What no marker says to be a copy is kept.
        """
        if keep is None and max_size is None:
            raise ConfigurationError("prune needs keep, max_size, or both")
        if keep is not None and keep < 1:
            raise ConfigurationError(f"prune keeps 1 version or more, not {keep}")
        doomed = _choose_pruned(list(self.iterate_copies()), keep or 0, max_size)
        return self._remove([(one.name, one.version) for one in doomed], dry_run)

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"<{name} {self.assets_dir!r} from {self.storage_provider!r}>"

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "on_progress": None}

    def _read_spec(self, spec: AssetSpec | str) -> AssetSpec:
        if isinstance(spec, AssetSpec):
            return spec
        return AssetSpec.from_string(spec, self.versioning)

    def _remove(self, pairs: list[tuple[str, str]], dry_run: bool) -> list[AssetSpec]:
        specs = [self._cache.make_spec(one, version=two) for one, two in pairs]
        for spec in () if dry_run else specs:
            self._cache.remove(spec)
        return specs

    def _read_manifest(self, spec: AssetSpec) -> Manifest:
        try:
            provider = self._require_store("read")
            return provider._read_manifest(spec.name, str(spec.version))
        except ObjectDoesNotExistError as error:
            versions = ", ".join(self._list_versions(spec)[:10]) or "none"
            hint = f"the latest are {versions}"
            raise AssetDoesNotExistError(spec.name, spec.version, hint) from error

    def _make_local_error(self, spec: AssetSpec) -> LocalAssetDoesNotExistError:
        versions = self._list_versions(self._cache.make_spec(spec.name))
        return LocalAssetDoesNotExistError(spec.name, spec.version, versions)

    def _list_versions(self, spec: AssetSpec) -> list[str]:
        if self.storage_provider:
            return self.storage_provider._find_versions(spec.name)
        with _on_disk(self.assets_dir, "read"):
            return self._cache.find_versions(spec)

    def _require_store(self, action: str) -> StorageProvider:
        if not self.storage_provider:
            raise NoConfiguredProviderError(action)
        return self.storage_provider


class _Delivery:
    """Puts an asset's content where the user wants it, in these steps.

      1. What lies there must be right, and then all is done, or what an interrupted
         delivery of the same content put there: anything else is refused.
      2. Stage the content beside it, or in a folder that is there, which may be the
         root of a disk: piece by piece, from the cached copy, or from the store. It
         begins with what an interrupted one left.
      3. Rename it to its place; in a folder that is there, entry by entry, of which a
         plan is written before.

    There is no marker: what lies there is the user's own.
    """

    def __init__(self, manager: AssetsManager, spec: AssetSpec, to: StrPath) -> None:
        if not os.fspath(to):
            raise ConfigurationError("there is no destination: `to` is empty")
        self._manager, self._spec, self._part = manager, spec, spec.sub_part or ""
        # where a link leads, so that what is staged lies on the same disk
        self._path, self._to = os.path.abspath(to), os.path.realpath(to)

    def run(self, force: bool | None) -> FetchInfo:
        """Take the steps."""
        wanted, is_cached = self._find(force)
        is_file = [file.path for file in wanted.files] == [self._part]
        if is_file and os.path.isdir(self._to):
            name = (self._part or self._spec.name).rpartition("/")[2]
            self._path = os.path.join(self._path, name)
            self._to = os.path.join(self._to, name)
        try:
            is_there = self._is_there(wanted) or self._put(wanted, is_cached)
        except AssetsDirError as error:
            told = {**vars(error), "what": "the destination"}
            raise AssetsDirError(**told) from error
        from_cache, version = is_there or is_cached, self._spec.version
        return {"path": self._path, "version": version, "from_cache": from_cache}

    def _find(self, force: bool | None) -> tuple[Manifest, bool]:
        """Return the manifest of the content, with sizes, and whether it is cached."""
        manager, spec = self._manager, self._spec
        cached, action, _ = manager._decide(spec, force)
        is_cached, provider = action == "hit", manager.storage_provider
        manifest = _find_manifest(cached) if is_cached else None
        if not manifest and provider:
            manifest = manager._read_manifest(spec)
        if is_cached and not (manifest and manifest.size is not None):
            manifest = _describe_copy_of_modelkits(cached)
        manifest = manifest or manager._read_manifest(spec)
        wanted = manifest.get_part(self._part)
        _require_part(spec, bool(wanted.files or wanted.empty_directories))
        if wanted.size is None and provider:
            name = provider.get_object_name(spec.name, str(spec.version))
            with provider._start_job() as job:
                driver = provider._connect(job)
                wanted, _ = provider._complete_sizes(name, wanted, driver, job)
        return wanted, is_cached

    @property
    def _staging(self) -> str:
        folder, name = os.path.split(self._to)
        if os.path.isdir(self._to):
            folder, name = self._to, "staging"
        return os.path.join(folder, f"{_OWN}.{name}")

    def _is_there(self, wanted: Manifest) -> bool:
        """Tell whether all is right there (1); ConfigurationError where it is not."""
        # staging, and what the root of a disk has
        ignored, entries = {os.path.basename(self._staging), "lost+found"}, {""}
        if os.path.isdir(self._to):
            entries = {*os.listdir(self._to)} - ignored
        if not (entries and os.path.lexists(self._to)):
            return False
        if self._is_right(self._to, wanted, self._part, ignored):
            return True
        if not entries <= self._read_plan():
            raise self._make_error(self._path)
        for name in entries:
            self._is_entry_there(name, wanted)
        return False

    def _is_entry_there(self, name: str, wanted: Manifest) -> bool:
        """Tell whether an entry lies there; ConfigurationError where it is not right.

        An interrupted delivery renamed it there whole, and since then it is the user's.
        """
        place = os.path.join(self._to, name)
        if not os.path.lexists(place):
            return False
        if not self._is_right(place, wanted, _join_path(self._part, name), ()):
            raise self._make_error(place)
        return True

    def _make_error(self, place: str) -> ConfigurationError:
        text = f"{place!r} is there, and is not {self._spec}'s: remove it, or choose "
        return ConfigurationError(text + "another place")

    def _is_right(
        self, place: str, wanted: Manifest, part: str, ignored: Collection[str]
    ) -> bool:
        """Tell whether what lies there is a part; where digests lack, by its sizes."""
        wanted, cut = wanted.get_part(part), len(part) + 1 if part else 0
        files = [file._replace(path=file.path[cut:]) for file in wanted.files]
        empty = [one[cut:] for one in wanted.empty_directories if one[cut:]]
        if not all(file.sha256 or file.chunks for file in files):  # modelkit's
            expected: dict[str, tuple[int | None, ...]] = dict.fromkeys(empty, ())
            expected.update({file.path: (file.size,) for file in files})
            with suppress(OSError, InvalidSourceError):
                found = _walk_source(place, ignored)
                return {part: stamp[:1] for part, stamp in found} == expected
            return False
        content, within = wanted._with_files(files, empty), os.path.dirname(place)
        with _Job(self._manager._workers, self._manager.on_progress) as job:
            job.beats.append(_touching(os.path.join(self._staging, "lock")))
            return _is_right(place, content, within, job, ignored)

    def _read_plan(self) -> set[str]:
        """Return the entries that an interrupted delivery of the same was to rename."""
        with suppress(OSError, ValueError, TypeError):
            with _open_plain_file(os.path.join(self._staging, "plan")) as file:
                spec, names = json.loads(_read_document(file))
            return set(names) if spec == str(self._spec) else set()
        return set()

    def _put(self, wanted: Manifest, is_cached: bool) -> bool:
        """Stage the content and rename it; tell whether another process just has."""
        staging, held = self._staging, None
        lock, is_there = os.path.join(staging, "lock"), False
        with _on_disk(self._to):
            while held is None:
                os.makedirs(staging, exist_ok=True)
                with suppress(FileNotFoundError):  # another one has finished just now
                    _require_own_folder(staging)
                    how = (self._spec.name, self._manager.timeout)
                    held = _wait_for_lock(lock, *how)
        try:
            is_there = self._is_there(wanted)
            if not is_there:
                content = self._stage(wanted, is_cached, staging)  # 2
                with _on_disk(self._to):
                    self._rename(content, staging, wanted)  # 3
                is_there = True
                return False
        finally:
            if is_there or not os.path.exists(os.path.join(staging, "data")):
                _clear_staging(staging, lock)
            _close_lock(held)
            with suppress(OSError):
                if os.name == "nt":  # where it could not be while it was open
                    os.unlink(lock)
                os.rmdir(staging)
        return True

    def _stage(self, wanted: Manifest, is_cached: bool, staging: str) -> str:
        manager, provider = self._manager, self._manager.storage_provider
        key = (self._spec.name, str(self._spec.version))
        data, job = os.path.join(staging, "data"), _Job(manager._workers)
        if provider and not is_cached:
            job = provider._start_job()
        job.add_listener(manager.on_progress)
        with job:
            job.beats.append(_touching(os.path.join(staging, "lock")))
            sources = manager._cache.find_sources(self._spec.name, job)
            if provider and not is_cached:
                provider._bring_version(*key, wanted, data, job, {}, sources)
            else:
                self._copy(wanted, data, job, sources)
            with _on_disk(data):
                _sync_tree(data, job)
        return _local_path(data, self._part)

    def _copy(self, wanted: Manifest, data: str, job: _Job, sources: _Sources) -> None:
        """Fill a folder from the cached copy: the assets dir is the store."""
        assets_dir, spec = self._manager.assets_dir, self._spec
        driver = _RetryingDriver(LocalDriver(assets_dir), 0, job, _Contact())
        files = tuple(file._replace(offset=None) for file in wanted.files)
        content = Manifest(wanted.is_directory, files, wanted.empty_directories, {})
        job.begin("copying", str(spec), files)
        pieces = _plan_pieces(f"{spec.name}/{spec.version}", content)
        try:
            _Download(data, job, driver).bring(pieces, content, {}, sources)
        except AssetIntegrityError as error:
            got = f"other bytes: `fetch --download {spec}` replaces it"
            path = self._manager._cache.get_path(spec.name, spec.version)
            raise AssetIntegrityError(path, "what was published", got) from error

    def _rename(self, content: str, staging: str, wanted: Manifest) -> None:
        """Give content its place, where nothing has come meanwhile."""
        if not os.path.isdir(self._to):
            _rename_anew(content, self._to)
            _sync_folder(os.path.dirname(self._to))
            return
        names = sorted(os.listdir(content))
        with open(os.path.join(staging, "plan"), "wb") as file:
            file.write(json.dumps([str(self._spec), names]).encode())
            _sync(file)
        _sync_folder(staging)
        for name in names:
            if not self._is_entry_there(name, wanted):
                place = os.path.join(self._to, name)
                _rename_anew(os.path.join(content, name), place)
        _sync_folder(self._to)


def _rename_anew(old: str, new: str) -> None:
    """Rename a file or folder to a place that is free: OSError where it is not."""
    if os.path.isdir(old) or not _link(old, new):
        os.rename(old, new)
    else:
        os.unlink(old)


def _describe_copy_of_modelkits(path: str) -> Manifest:
    """Return the manifest of a copy whose marker has none, or which an image has."""
    try:
        with _on_disk(path, "read"):
            return _describe_tree(path, dict(_walk_source(path)))
    except InvalidSourceError as error:
        raise AssetsDirError(path, vars(error)["reason"], "read") from error


def _require_own_folder(path: str) -> None:
    """Raise PermissionError where a folder is a link, or somebody else's."""
    status, owner = os.lstat(path), -1
    if stat.S_ISDIR(status.st_mode):
        # some disks give all that is made on them another owner than the process has
        made = os.path.join(path, f"{_OWN}.{_make_token()}")
        os.mkdir(made)
        owner = os.lstat(made).st_uid
        os.rmdir(made)
    if status.st_uid != owner:
        raise PermissionError(errno.EPERM, "it is no folder of ours", path)


def _clear_staging(staging: str, lock: str) -> None:
    """Delete what is in a staging folder, its lock last."""
    for name in os.listdir(staging):
        if name != os.path.basename(lock):
            _remove_tree(os.path.join(staging, name))
    with suppress(OSError):  # Windows keeps what is open
        os.unlink(lock)


class AssetsManager(_CopyKeeper):
    """Fetches assets: from the assets dir, and into it from the store.

    assets_dir        an existing folder (MODELKIT_ASSETS_DIR, else the current one)
    timeout           seconds to wait for another process's download that makes no
                      progress (MODELKIT_ASSETS_TIMEOUT_S)
    storage_provider  the store, else the one that is configured; with neither, the
                      manager is in pre-downloaded mode
    offline           whether to be in that mode whatever is configured
                      (MODELKIT_ASSETS_OFFLINE)
    on_progress       is told how far downloads and checks are; see `StorageProvider`
    versioning        the versioning system (MODELKIT_ASSETS_VERSIONING_SYSTEM)

    One manager serves any number of threads, and pickles, without on_progress.
    """

    @overload
    def fetch_asset(
        self,
        spec: AssetSpec | str,
        return_info: Literal[False] = False,
        force_download: bool | None = None,
        *,
        to: StrPath | None = None,
    ) -> str: ...

    @overload
    def fetch_asset(
        self,
        spec: AssetSpec | str,
        return_info: Literal[True],
        force_download: bool | None = None,
        *,
        to: StrPath | None = None,
    ) -> FetchInfo: ...

    @overload
    def fetch_asset(
        self,
        spec: AssetSpec | str,
        return_info: bool,
        force_download: bool | None = None,
        *,
        to: StrPath | None = None,
    ) -> str | FetchInfo: ...

    def fetch_asset(
        self,
        spec: AssetSpec | str,
        return_info: bool = False,
        force_download: bool | None = None,
        *,
        to: StrPath | None = None,
    ) -> str | FetchInfo:
        """Return the local path of an asset, or of its part, downloaded if need be.

        With return_info, a dict: `path`, `version`, `from_cache`, and after a download
        `meta`, `object_name`, `meta_object_name`, `versions_object_name`.

        - a pinned version that is cached is returned without a lock, write or request
        - what is returned is whole, and had the right digests when it was downloaded
        - AssetDoesNotExistError or LocalAssetDoesNotExistError where there is none
        - with `to`, the content is put there instead, and is yours: a folder of the
          asset's files, or a file, as it is; copied from the assets dir, if it is
          there, else downloaded. What is there before must be just that
        """
        has_store = self.storage_provider is not None
        try:
            pinned = self.resolve(spec)
        except (AssetDoesNotExistError, InvalidAssetSpecError) as error:
            path = _find_existing_path(str(spec), self.assets_dir, has_store)
            if path is None or to or isinstance(error, InvalidVersionError):
                raise
            info: FetchInfo = {"path": path, "version": None, "from_cache": True}
        else:
            info = (
                self._fetch_version(pinned, force_download)
                if to is None
                else _Delivery(self, pinned, to).run(force_download)
            )
        return info if return_info else info["path"]

    def _fetch_version(
        self, spec: AssetSpec, force: bool | None, tries: int = 4
    ) -> FetchInfo:
        part, (path, action, is_forced) = spec.sub_part or "", self._decide(spec, force)
        info: FetchInfo = {"path": path, "version": spec.version, "from_cache": True}
        if action != "hit":
            brought = self._download(spec, path, is_forced)
            info = {**info, **brought, "from_cache": not brought}
        if part:
            info["path"] = _local_path(path, part)
            is_there = os.path.exists(info["path"])
            if not is_there and tries:  # it may just be being replaced
                return self._fetch_version(spec, False, tries - 1)
            _require_part(spec, is_there)
        return info

    def _decide(self, spec: AssetSpec, force: bool | None) -> tuple[str, str, bool]:
        """Return where a version's copy lies, what to do (see `_decide_fetch`), force.

        LocalAssetDoesNotExistError, or AssetIntegrityError, where nothing can be done.
        """
        provider, part = self.storage_provider, spec.sub_part or ""
        if force is None and provider:
            force = provider.force_download
        if force:
            self._require_store("download again")
        path = self._cache.get_path(spec.name, spec.version)
        try:  # not `_on_disk`, which would cost a hit 0.8 of its 9 µs
            state = self._cache.look_up(path, part)
        except OSError as error:
            if isinstance(error, ModelkitAssetsError):
                raise
            _require_part(spec, not (part and error.errno == errno.ENAMETOOLONG))
            raise _make_disk_error(error, path, "read") from error
        action = _decide_fetch(state, provider is not None, bool(force))
        if state == "unproved" and action != "download":
            action = self._prove(spec, path, part)
        if state == "damaged" and action == "fail":
            self._cache.check_sizes(path, part)  # says which file
        if action == "fail":
            raise self._make_local_error(spec)
        return path, action, bool(force)

    def _prove(self, spec: AssetSpec, path: str, part: str) -> str:
        """Return what to do with a copy whose marker is empty."""
        manifest = None
        if self.storage_provider:
            with suppress(AssetDoesNotExistError):  # it is in the assets dir alone
                manifest = self._read_manifest(spec)
        with _Job(self._workers, self.on_progress) as job:
            if self._cache.prove(path, part, manifest, job):
                return "hit"
        if self.storage_provider:
            return "check"
        expected = "files with bytes beside an empty marker"
        got = "empty ones, as a power cut leaves them"
        raise AssetIntegrityError(path, expected, got)

    def _download(self, spec: AssetSpec, path: str, force: bool) -> _DownloadInfo:
        """Bring a version into the assets dir; {} where another process just has."""
        provider, manifest = self._require_store("download"), self._read_manifest(spec)
        wanted = manifest.get_part(spec.sub_part or "")
        is_there = bool(wanted.files or wanted.empty_directories)
        _require_part(spec, is_there or not spec.sub_part)
        miss = _Miss(self._cache, provider, spec, manifest, force)
        for attempt in range(_MAX_SWAPS):
            time.sleep(
                0.05 * attempt * _get_random()
            )  # they would meet again and again
            outcome, brought = miss.run(self.on_progress)
            if outcome != "displaced":
                miss.clear()
            if outcome == "hit":
                return {}
            if outcome == "published":
                key = (spec.name, str(spec.version))
                return {
                    "meta": brought.describe(),
                    "object_name": provider.get_object_name(*key),
                    "meta_object_name": provider.get_meta_object_name(*key),
                    "versions_object_name": provider.get_versions_object_name(key[0]),
                }
        raise AssetsDirError(path, "other processes replace it again and again")


def _describe_copy(name: str, version: str, path: str) -> LocalCopy:
    from datetime import datetime, timezone

    marker = _find_marker(path)
    fetched = datetime.fromtimestamp(os.stat(marker).st_mtime, timezone.utc)
    size = sum(os.lstat(one).st_size for one in _list_files(path))
    is_partial = marker.endswith(_PARTIAL_MARKER)
    return LocalCopy(name, version, path, size, fetched.isoformat(), is_partial)


def _choose_pruned(
    copies: Sequence[LocalCopy], keep: int, max_size: int | None
) -> list[LocalCopy]:
    """Return which copies to delete; those of an asset come the latest first."""
    seen: dict[str, int] = {}
    free = []
    for copy in copies:
        seen[copy.name] = seen.get(copy.name, 0) + 1
        if seen[copy.name] > keep:
            free.append(copy)
    if max_size is None:
        return free
    excess = sum(copy.size for copy in copies) - max_size
    doomed = []
    for copy in sorted(free, key=lambda copy: copy.date):
        if excess > 0:
            doomed.append(copy)
            excess -= copy.size
    return doomed


def _identify(path: str) -> tuple[int, ...] | None:
    """Return what tells a file or folder from another at the same path."""
    with suppress(OSError):
        status = os.stat(path)
        # an inode that was freed comes again
        return status.st_dev, status.st_ino, status.st_mtime_ns
    return None


def _find_existing_path(text: str, assets_dir: str, has_store: bool) -> str | None:
    """Return the file or folder that a version-less text is the path of, if any.

    It lies below the assets dir, or the path is absolute, or, without a store, it
    lies below the current folder. What holds versions is an asset, and no path.
    """
    has_version = ":" in text.partition("[")[0] and not os.path.isabs(text)
    if has_version or "\0" in text:
        return None
    candidates: list[str] = [text] if os.path.isabs(text) else []
    roots = [assets_dir] + [os.getcwd()] * (not has_store)
    if _is_contained(text):
        candidates += [_local_path(root, text) for root in roots]
    base, _, part = text[:-1].partition("[")
    if text[-1:] == "]" and _is_contained(part.strip("/")):
        folder = _find_existing_path(base, assets_dir, has_store)
        candidates += [_local_path(folder, part.strip("/"))] if folder else []
    root = os.path.join(assets_dir, "")
    for path in candidates:
        is_allowed = not path.startswith(root) or _is_inside(path, assets_dir)
        if is_allowed and os.path.exists(path) and not _is_of_asset(path):
            return path
    return None


def _is_of_asset(path: str) -> bool:
    """Tell whether a folder has some of a version's files, or versions in it."""
    with suppress(OSError):
        names, systems = os.listdir(path), _VERSIONING_SYSTEMS.values()
        is_asset = any(_is_version(name, one) for name in names for one in systems)
        return is_asset or _is_partial(path)
    return False


def _require_part(spec: AssetSpec, condition: bool) -> None:
    if not condition:
        raise AssetDoesNotExistError(str(spec), hint="the asset has no such part")


def _check_apart(assets_dir: str, provider: StorageProvider) -> None:
    """Raise ConfigurationError where the assets dir and a local store overlap."""
    if not isinstance(provider.driver, LocalDriver):
        return
    store = _local_path(provider.driver.bucket, provider.prefix)
    one, other = _resolve(assets_dir), _resolve(store)
    if one.startswith(other) or other.startswith(one):
        text = f"the assets dir {assets_dir!r} and the store {store!r} must not be the "
        text += "same folder, nor one inside the other: set MODELKIT_ASSETS_DIR or "
        raise ConfigurationError(text + "MODELKIT_STORAGE_BUCKET to another one")


# ------------------------------------------------------------------- the terminal

_PROGRAM = "modelkit_assets"
_REDRAW_S = 0.1
_PATIENCE_S = 0.5  # shorter work shows no progress
_TELL_S = 10.0  # both, where nothing is drawn


class _Screen:
    """Standard error: lines of text, and below them how far the present work is.

    That is drawn only on a terminal, and gone when `close` is called; elsewhere, long
    work says it in a line of its own from time to time.
    """

    def __init__(self) -> None:
        self._stream, self._writing = sys.stderr, threading.Lock()
        self._can_draw = _is_terminal(self._stream) and os.environ.get("TERM") != "dumb"
        self._is_drawn, self._width, self._work = False, 0, ("", "")
        self._shown_at = self._begun_at = 0.0
        self._samples: list[tuple[float, int]] = []

    def show(self, progress: Progress) -> None:
        """Show how far the work is, unless that was done just now."""
        now, redraw_s, patience_s = time.monotonic(), _REDRAW_S, _PATIENCE_S
        if not self._can_draw:
            redraw_s = patience_s = _TELL_S
        with self._writing:
            if self._work != progress[:2]:
                self._work, self._begun_at, self._samples = progress[:2], now, []
            due = max(self._shown_at + redraw_s, self._begun_at + patience_s)
            if now < due and self._samples:
                return
            self._samples = [*self._samples[-50:], (now, progress.done)]
            if now < due:
                return
            self._shown_at = now
            if not self._can_draw:
                _say(_describe_progress(progress, 0, sys.maxsize))
                return
            then, done = self._samples[0]
            rate = (progress.done - done) / (now - then) if now > then else 0
            width = _get_width(self._stream) - 1
            self._draw(_describe_progress(progress, rate, width))

    def write(self, text: str) -> None:
        """Write text above what is drawn."""
        with self._writing:
            self._draw("")
            self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        """Wipe off what is drawn."""
        self.write("")

    def _draw(self, text: str) -> None:
        if text or self._is_drawn:
            # the cursor rests at the beginning: where a terminal that becomes narrower
            # wraps the text, that is its first row, and all of it can be wiped off.
            # Else its line alone is, as some keep in their history what J wipes off
            before, self._width = self._width, _get_width(self._stream)
            wipe = "\x1b[K" if before == self._width else "\x1b[J"
            self._stream.write(f"\r{wipe}{text}" + "\r" * bool(text))
            self._stream.flush()
        self._is_drawn = bool(text)


def _say(message: str) -> None:
    print(f"{_PROGRAM}: {message}", file=sys.stderr)


def _describe_progress(progress: Progress, rate: float, width: int) -> str:
    """Return one line of at most so many characters; rate is in bytes a second."""
    done, size = progress.done, progress.size
    # no character that takes no column, or two
    what = f"{progress.action} {progress.asset}".encode("ascii", "replace").decode()
    parts = [_printable(what)]
    if size:
        parts.append(f"{100 * done // size} %")
    parts.append(_show_size(done) + (f" of {_show_size(size)}" if size else ""))
    if rate > 0:
        parts.append(f"{_show_size(rate)}/s")
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


def _show_size(size: float) -> str:
    """Return a number of bytes as people read it, in decimal units."""
    units = ["TB", "GB", "MB", "kB", "B"]
    while size >= 999.5 and len(units) > 1:
        size /= 1000
        units.pop()
    digits = 0 if units[-1] == "B" or size >= 99.5 else 1
    return f"{size:.{digits}f} {units[-1]}"


def _count(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun, as `1 file` or `2 files`."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def _show_date(date: Any) -> str:
    """Return an ISO 8601 time to the minute, in UTC."""
    from datetime import timezone

    with suppress(ValueError, TypeError, OverflowError):
        return f"{_parse_date(date).astimezone(timezone.utc):%Y-%m-%d %H:%M}"
    return "-"


def _is_terminal(stream: IO[str] | None) -> bool:
    return stream is not None and not stream.closed and stream.isatty()


def _get_width(stream: IO[str] | None) -> int:
    """Return how many columns a terminal has, or its text is to have elsewhere."""
    with suppress(OSError, ValueError, AttributeError):
        if stream and (columns := os.get_terminal_size(stream.fileno()).columns):
            return columns
    with suppress(ValueError):
        return max(int(os.environ.get("COLUMNS", "")), 0) or 80
    return 80


def _align(rows: Iterable[Sequence[object]]) -> list[str]:
    """Return lines whose columns are aligned, those of sizes, whole numbers, right."""
    columns = []
    for column in zip(*rows):
        sizes = [_show_size(one) if isinstance(one, int) else one for one in column]
        texts = [_printable(str(one or "-")) for one in sizes]
        width, side = max(map(len, texts)), ">" if sizes != list(column) else "<"
        columns.append([f"{one:{side}{width}}" for one in texts])
    return ["  ".join(cells).rstrip() for cells in zip(*columns)]


# ------------------------------------------------------------------- command line
#
# A command is a function, whose declaration stands on it. Data goes to stdout, all else
# to stderr: see `_print` and `_fail`.

_EXIT_CODES = """exit codes: 0 done, 1 failed or declined, 2 bad usage or configuration,
3 no such asset or version, 4 access refused, 5 store unreachable, 6 content does not
match its digest, 130 interrupted, 143 terminated"""
_TORN_S = 10.0  # so long after an interrupt, another is one
_SOURCE_URL = re.compile(r"(s3|gs|az)://([^/]+)/*(.*)")
_SCHEMES = {"s3": "s3", "gs": "gcs", "az": "az"}  # of URLs, and their providers
# each command's function, its example, and its arguments' keys in _ARGUMENTS
_COMMANDS: dict[str, tuple[Callable[[Namespace], int], str, str]] = {}


def _command(example: str, arguments: str) -> Callable[[Any], Any]:
    """Declare a function as a command; its name and docstring are the command's."""

    def declare(run: Any) -> Any:
        _COMMANDS[run.__name__[len("_run_") :]] = run, example, arguments
        return run

    return declare


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code: 0 only if all went well."""
    given = sys.argv[1:] if args is None else list(args)
    if not sys.stderr:  # it is None where it was closed, which `print` takes for stdout
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    chosen = next((one for one in given if not one.startswith("-")), None)
    is_json = chosen is not None and "--json" in given[given.index(chosen) :]
    options = _get_main_parser(chosen, is_json).parse_args(given)
    options.screen = _Screen()
    options.on_progress = None if options.quiet else options.screen.show
    try:
        with _signals(), _logging(options):
            return int(options.run(options))
    except KeyboardInterrupt as error:
        text, number = error.args or ("interrupted", 130)
        code = _fail(options, text, number)
        if args is None:  # the process is ours: no thread of an SDK's holds it up
            _drop_output()
            os._exit(code)
        return code
    except BrokenPipeError:  # whoever read our output has had enough
        _drop_output()
        return 1
    except (ModelkitAssetsError, OSError, UnicodeError) as error:
        _drop_output()
        if options.verbose:
            import traceback

            traceback.print_exc()
        return _fail(options, str(error), getattr(error, "exit_code", 1))


@contextmanager
def _signals() -> Iterator[None]:
    """Let SIGTERM end us as Ctrl-C does; after either, both are ignored for a while.

    What ends then must not be torn by a second one; but Python may lose the first, in
    what it calls itself. As process 1 of a container, too,
    we end: there, a signal without a handler does nothing.
    """
    import signal

    stopped_at = -_TORN_S

    def stop(number: int, _: object) -> None:
        nonlocal stopped_at
        if time.monotonic() >= stopped_at + _TORN_S:
            stopped_at = time.monotonic()
            how = ("terminated", 143) if number == signal.SIGTERM else ()
            raise KeyboardInterrupt(*how)

    handlers: dict[signal.Signals, Any] = {}
    with suppress(ValueError):  # in another thread than the main one, there are none
        for one in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(one) != signal.SIG_IGN:  # as of a job in the background
                handlers[one] = signal.signal(one, stop)
    try:
        yield
    finally:
        for one, handler in handlers.items() if stopped_at < 0 else ():
            signal.signal(one, handler)


@contextmanager
def _logging(options: Namespace) -> Iterator[None]:
    """Let what the core logs be lines on stderr, above what the screen draws."""
    global _set_up_log
    handlers: list[logging.Handler] = []

    def set_up(logger: logging.Logger) -> None:
        import logging

        if not handlers:
            handlers.append(logging.StreamHandler(options.screen))
            handlers[0].setFormatter(logging.Formatter(f"{_PROGRAM}: %(message)s"))
            logger.addHandler(handlers[0])
            level = logging.ERROR if options.quiet else logging.WARNING
            logger.setLevel(logging.DEBUG if options.verbose else level)

    _set_up_log = set_up
    try:
        yield
    finally:
        _set_up_log = None
        options.screen.close()
        for handler in handlers:
            _logger().removeHandler(handler)


def _drop_output() -> None:
    """Write what was printed; where that cannot be, Python is not to try it again."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _fail(options: Namespace, message: str, code: int) -> int:
    if options.json:
        options.screen.close()
    return _report(message, code, options.json)


def _report(message: str, code: int, is_json: bool) -> int:
    message = " ".join(message.split())
    if is_json:
        print(json.dumps({"error": message, "exit_code": code}), file=sys.stderr)
    else:
        _say(f"error: {message}")
    return code


def _print(options: Namespace, document: Any, lines: Iterable[str]) -> int:
    """Print the result of a command, as one JSON document or as lines; return 0."""
    options.screen.close()
    for line in [json.dumps(document, indent=2)] if options.json else lines:
        print(line)
    if sys.stdout:  # else what cannot be written were noticed after the exit code
        sys.stdout.flush()
    return 0


def _get_main_parser(
    chosen: str | None = None, is_json: bool = False
) -> argparse.ArgumentParser:
    """Return the parser; given a command, with the arguments of that one alone.

    To make those of all takes 5 ms, half as long as Python takes to start.
    """
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            if is_json:
                sys.exit(_report(message, 2, is_json))
            super().error(message)

    class ShowVersion(argparse.Action):
        def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
            print(_PROGRAM, __version__, f"sha256:{_hash_own_file()}")
            parser.exit()

    def formatter(prog: str) -> argparse.HelpFormatter:
        # which would import `shutil` to find this width
        return argparse.HelpFormatter(prog, width=_get_width(sys.stdout) - 2)

    common: Any = {"formatter_class": formatter}
    about = (__doc__ or "").split("\n")[0]
    parser = Parser(_PROGRAM, None, about, _EXIT_CODES, **common)
    text = "show the version, and the SHA-256 of this file as it stands"
    parser.add_argument("--version", action=ShowVersion, nargs=0, help=text)
    # without `prog`, argparse would compose a usage for it
    commands = parser.add_subparsers(metavar="COMMAND", required=True, prog=_PROGRAM)
    unset = dict.fromkeys(["endpoint", *map(_name_field, _SETTINGS)])
    for name, (run, example, arguments) in _COMMANDS.items():
        about = run.__doc__ or ""
        common["epilog"] = f"example: {_PROGRAM} {name} {example}"
        text = about[:1].lower() + about[1:-1]
        command = commands.add_parser(name, help=text, description=about, **common)
        if chosen in (None, name):
            command.set_defaults(run=run, bump_major=False, **unset)
            for key in f"{arguments} -v -q --json".split():
                _add_argument(command, key)
    return parser


def _hash_own_file() -> str:
    """Return the SHA-256 of this file as it stands, so that a changed copy shows."""
    loader: Any = globals()["__loader__"]
    return _hash([loader.get_data(__file__)], lambda size: None)


def _open_store(options: Namespace, **settings: Any) -> StorageProvider:
    if options.endpoint and settings.get("provider", "s3") == "s3":
        settings["endpoint_url"] = options.endpoint
    for name in ("provider", "bucket", "prefix"):
        settings.setdefault(name, getattr(options, f"storage_{name}"))
    settings["versioning"] = options.assets_versioning_system
    return StorageProvider(on_progress=options.on_progress, **settings)


def _open_manager(options: Namespace) -> AssetsManager:
    provider, offline = None, _is_offline(options)
    if _find_option(options, "MODELKIT_STORAGE_PROVIDER")[0] and not offline:
        provider = _open_store(options)
    how = (options.on_progress, options.assets_versioning_system, offline)
    return AssetsManager(options.assets_dir, None, provider, *how)


def _find_option(options: Namespace, variable: str) -> tuple[Any, str]:
    """Return a setting, as an option or its variable gives it, and where it is from."""
    return _find_setting(variable, getattr(options, _name_field(variable)))


def _is_offline(options: Namespace) -> bool:
    variable = "MODELKIT_ASSETS_OFFLINE"
    return _read_boolean(_find_option(options, variable)[0], variable)


def _confirm(options: Namespace, question: str) -> bool:
    if options.yes or options.dry_run:
        return True
    if not _is_terminal(sys.stdin):
        raise ConfigurationError("cannot ask without a terminal: agree with --yes")
    print(question, "[y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip() in ("y", "Y", "yes")


_STORE = "--provider --bucket --prefix --endpoint --versioning"
_BOTH = f"--assets-dir {_STORE}"
_CONSENT = "--yes --dry-run"
_REMOVAL = f"{_CONSENT} --assets-dir --versioning"


@_command("model.bin nlp/bert --yes", f"PATH NAME --pack --meta {_CONSENT} {_STORE}")
def _run_new(options: Namespace) -> int:
    """Publish a file or folder as a new asset; asks first."""
    return _publish(options, True, "a new asset is given by its NAME alone")


@_command(
    "model.bin nlp/bert:1 --meta commit=3f2a1c",
    f"PATH NAME[:MAJOR] --bump-major --pack --no-copy --meta {_CONSENT} {_STORE}",
)
def _run_update(options: Namespace) -> int:
    """Publish a file or folder as the next version of an asset; asks first."""
    return _publish(options, False, "an update takes NAME or NAME:MAJOR")


def _publish(options: Namespace, is_new: bool, rule: str) -> int:
    spec = AssetSpec.from_string(options.spec, options.assets_versioning_system)
    is_pinned = spec.version if is_new else spec.is_version_complete()
    if is_pinned or spec.sub_part:
        raise InvalidAssetSpecError(options.spec, rule)
    pairs = [one.partition("=") for one in options.meta or ()]
    if not all(key and equals for key, equals, _ in pairs):
        raise ConfigurationError("--meta takes KEY=VALUE, as --meta commit=3f2a1c")
    provider, what = _open_store(options), ""
    if options.dry_run or not options.yes:
        what = _describe_publication(options, provider, spec, is_new)
    if not _confirm(options, f"Publish {what}?"):
        return _fail(options, "declined, nothing was published", 1)
    how: dict[str, Any] = {"dry_run": options.dry_run, "pack": options.pack}
    how["metadata"] = {key: value for key, _, value in pairs}
    if not is_new:
        how.update(bump_major=options.bump_major, copy=not options.no_copy)
    publish: Any = provider.new if is_new else provider.update
    with _local_source(options) as path:
        version = publish(path, spec.name, spec.version, **how)
    if options.dry_run and not (options.json or options.quiet):
        _say(f"would publish {what}")
    document = {"name": spec.name, "version": version, "dry_run": options.dry_run}
    return _print(options, document, [f"{spec.name}:{version}"])


def _describe_publication(
    options: Namespace, provider: StorageProvider, spec: AssetSpec, is_new: bool
) -> str:
    """Return what is to be published, as which version, and where to."""
    what, listed = options.path, list[str]()
    if not _SOURCE_URL.fullmatch(options.path):
        with _source_errors(what):
            found = [stamp[0] for _, stamp in _walk_source(options.path) if stamp]
        what += f" ({_count(len(found), 'file')}, {_show_size(sum(found))})"
    if is_new:
        provider._check_new(spec)
    else:
        listed = provider._require_versions(spec)
    version = _choose_next_version(spec, listed, options.bump_major)
    # a date is that of the publication
    version = "NOW" if _DATE.fullmatch(version) else version
    where = provider.driver.get_object_uri(provider.prefix)
    return f"{what} as {spec.name}:{version} in {where}"


@contextmanager
def _local_source(options: Namespace) -> Iterator[str]:
    """Yield the path of what is to be published; what a URL names is fetched first."""
    import tempfile

    url = _SOURCE_URL.fullmatch(options.path)
    if not url:
        yield options.path
        return
    provider = _open_store(options, provider=_SCHEMES[url[1]], bucket=url[2])
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = provider._download_objects(url[3], folder)
        except ConfigurationError as error:  # whose hint names the store's own bucket
            reason = f"is there a bucket {url[2]!r}? ({error.__cause__ or error})"
            raise InvalidSourceError(options.path, reason) from error
        yield path


@_command("'nlp/*' --long", f"GLOB --local --long {_BOTH}")
def _run_list(options: Namespace) -> int:
    """List the store's assets and versions."""
    from fnmatch import fnmatchcase

    is_wanted = partial(fnmatchcase, pat=options.glob or "*")
    if options.local:
        return _list_copies(options, is_wanted)
    provider = _open_store(options)
    assets = provider.iterate_assets()
    found = {name: versions for name, versions in assets if is_wanted(name)}
    if not found:
        _say(f"no such assets below {provider.driver.get_object_uri(provider.prefix)}")
    pairs = [(name, version) for name in found for version in found[name]]
    if options.long:
        return _print(options, *_describe_versions(provider, pairs))
    width = max(map(len, found), default=0)
    room = _get_width(sys.stdout) - width - 2 if _is_terminal(sys.stdout) else None
    lines = [f"{name:{width}}  {_fit_versions(found[name], room)}" for name in found]
    document = [{"name": name, "version": version} for name, version in pairs]
    return _print(options, document, lines)


def _list_copies(options: Namespace, is_wanted: Callable[[str], bool]) -> int:
    manager, rows = _open_manager(options), []
    copies = [copy for copy in manager.iterate_copies() if is_wanted(copy.name)]
    for copy in copies:
        extent = "in part" if copy.is_partial else "whole"
        spec, date = f"{copy.name}:{copy.version}", _show_date(copy.date)
        rows.append((spec, date, copy.size, extent))
    if not copies:
        _say(f"no such copies in {manager.assets_dir!r}")
    if leftovers := _measure_leftovers(manager._cache):
        size = _show_size(leftovers)
        _say(f"interrupted downloads left {size} in .cache: `prune` deletes it")
    return _print(options, [copy._asdict() for copy in copies], _align(rows))


def _fit_versions(versions: Sequence[str], room: int | None) -> str:
    """Return as many versions as fit into so many characters, and how many there are.

    They come in order; the first is there however narrow it is. None: there is room.
    """
    text = " ".join(versions)
    if room is None or len(text) <= room:
        return text
    rest = f" ... ({len(versions)} versions)"
    text = text[: max(room - len(rest), 0) + 1].rpartition(" ")[0]
    return (text or "".join(versions[:1])) + rest * (len(versions) > 1)


def _describe_versions(
    provider: StorageProvider, pairs: list[tuple[str, str]]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the document and the lines of a long list."""
    document, rows = [], []
    for (name, version), manifest in zip(pairs, provider._read_manifests(pairs)):
        told, size, files = dict[str, Any](), None, None
        if manifest:
            told, size, files = manifest.document, manifest.size, len(manifest.files)
        date, pushed_by = told.get("push_date"), told.get("pushed_by")
        about = {"name": name, "version": version, "push_date": date, "size": size}
        about |= {"files": files, "pushed_by": pushed_by}
        document.append({**about, "metadata": manifest.metadata if manifest else {}})
        count = "-" if files is None else _count(files, "file")
        rows.append((f"{name}:{version}", _show_date(date), size, count, pushed_by))
    return document, _align(rows)


@_command(
    "nlp/bert:1 'nlp/bert:1.0[vocab.txt]'",
    f"[SPECS] -r --to --download --offline {_BOTH}",
)
def _run_fetch(options: Namespace) -> int:
    """Print the local path of each asset, downloaded if need be."""
    specs, job = _read_specs(options), _Job(1)
    if len(specs) > 1:
        if options.to:
            raise ConfigurationError("--to takes one SPEC")
        options.on_progress = _sum_up(options.on_progress, len(specs), job)
    manager, found = _open_manager(options), list[dict[str, Any]]([{}] * len(specs))
    provider = manager.storage_provider

    def fetch(index: int) -> None:
        text, where = specs[index]
        force, to = options.download or None, options.to or None
        with _explaining(manager, where):
            info = manager.fetch_asset(text, True, force, to=to)
        about = {"spec": text, "path": os.path.abspath(info["path"])}
        shown = {"version": info["version"], "from_cache": info["from_cache"]}
        found[index] = {**about, **shown}

    try:
        if provider and len(specs) > 1:
            # at most as many requests run at once as one fetch would have
            provider._contact.slots = threading.Semaphore(provider.workers)
            job.workers = provider.workers
            job.run(fetch, range(len(specs)))
        else:
            for index in range(len(specs)):
                fetch(index)
    finally:  # also those that came before the one that failed
        documents = list(takewhile(bool, found))
        options.screen.close()
        for one in () if options.json else documents:
            print(one["path"], flush=True)
    return _print(options, documents, [])


def _sum_up(listener: OnProgress | None, number: int, job: _Job) -> OnProgress:
    """Return what is told the progress of each of several assets, and tells their sum.

    What it raises, where the job is to stop, stops each.
    """
    telling, latest = threading.Lock(), dict[tuple[str, int, int], Progress]()

    def tell(progress: Progress) -> None:
        job.beat()
        with telling:
            latest[progress.asset, progress.size, progress.files] = progress
            sums = map(sum, zip(*(one[2:] for one in latest.values())))
            if listener:
                listener(Progress("downloading", _count(number, "asset"), *sums))

    return tell


@_command("-r assets.txt -o assets.lock", f"[SPECS] -r -o --offline {_BOTH}")
def _run_resolve(options: Namespace) -> int:
    """Print each spec pinned to the version that it means now."""
    specs, manager, pinned = _read_specs(options), _open_manager(options), []
    for text, where in specs:
        with _explaining(manager, where):
            pinned.append(str(manager.resolve(text)))
    if options.output in (None, "-", "/dev/stdout"):
        return _print(options, pinned, pinned)
    _write_whole(options.output, "".join(f"{one}\n" for one in pinned))
    return _print(options, pinned, [])


def _write_whole(path: str, text: str) -> None:
    """Write a file whole or not at all; a pipe or a device as it is."""
    target = os.path.realpath(path)
    staged = os.path.join(os.path.dirname(target), f"{_OWN}.{_make_token()}")
    is_special = os.path.exists(path) and not os.path.isfile(path)
    try:
        with open(path if is_special else staged, "w", encoding="utf-8") as file:
            file.write(text)
            if not is_special:
                file.flush()
                os.fsync(file.fileno())
        if not is_special:
            with suppress(FileNotFoundError):
                os.chmod(staged, stat.S_IMODE(os.stat(target).st_mode))
            os.replace(staged, target)
    except OSError as error:
        with suppress(OSError):
            os.unlink(staged)
        raise ConfigurationError(f"cannot write {path!r}: {error.strerror}") from error


def _read_specs(options: Namespace) -> list[tuple[str, str]]:
    """Return the specs that are given, and where those of files stand in them."""
    if not options.specs and not options.r:
        raise InvalidAssetSpecError("", "give a SPEC, or a file of them with -r")
    specs = [(text, "") for text in options.specs]
    for path in options.r:
        specs += _read_spec_file(path)
    return specs


def _read_spec_file(path: str) -> list[tuple[str, str]]:
    shown = "standard input" if path == "-" else repr(path)
    try:
        # not sys.stdin, which has an encoding of its own
        source = 0 if path == "-" else path
        with open(source, encoding="utf-8-sig", closefd=source != 0) as file:
            lines = file.readlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read {shown}: {error}") from error
    found = [
        (text, f"{shown}, line {number}, {text!r}")
        for number, line in enumerate(lines, 1)
        if (text := re.split(r"(?:^|\s)#", line)[0].strip())
    ]
    if not found:
        raise ConfigurationError(f"there is no spec in {shown}")
    return found


@contextmanager
def _explaining(manager: AssetsManager, where: str = "") -> Iterator[None]:
    """Add to an error where its spec stands, and which asset may be meant."""
    try:
        yield
    except ModelkitAssetsError as error:
        told = _suggest(manager, error)
        if where:
            told = ModelkitAssetsError(f"{where}: {told}")
            told.exit_code = error.exit_code
        if told is error:
            raise
        raise told from error


def _suggest(manager: AssetsManager, error: ModelkitAssetsError) -> ModelkitAssetsError:
    """Return an error, or where it is about an unknown asset, one that names others."""
    about, names = vars(error), list[str]()
    if not isinstance(error, (AssetDoesNotExistError, LocalAssetDoesNotExistError)):
        return error
    from difflib import get_close_matches

    with suppress(ModelkitAssetsError):  # it is but a hint
        if manager.storage_provider is None:
            copies = manager._cache.iterate_copies(_MOST_OBJECTS)
            names = [name for name, _ in copies]
        else:
            names = manager.storage_provider._peek_names(timeout_s=0)
    # one that is known lacks a version, or a part
    is_known = about["name"] in names or "[" in about["name"]
    near = [] if is_known else get_close_matches(about["name"], names, cutoff=0.5)
    if not near:
        return error
    hint = about.get("hint", "it is not in the assets dir")
    hint += f"; is it {' or '.join(map(repr, near))}?"
    return AssetDoesNotExistError(about["name"], about["version"], hint)


@_command("nlp/bert:1", f"SPEC --offline {_BOTH}")
def _run_info(options: Namespace) -> int:
    """Show a version's manifest and where it is."""
    manager = _open_manager(options)
    with _explaining(manager):
        spec = manager.resolve(options.spec)
        _require_part(spec, not spec.sub_part)
        path, manifest = _find_copy(manager, spec)
    document: dict[str, Any] = {"spec": str(spec), "path": path}
    if provider := manager.storage_provider:
        object_name = provider.get_object_name(spec.name, str(spec.version))
        document["uri"] = provider.driver.get_object_uri(object_name)
    if path and (origin := _read_origin(manifest)):
        document["copied_from"] = origin[0]
    lines = [f"{key}: {value or 'not cached'}" for key, value in document.items()]
    document["manifest"] = manifest and manifest.document
    for key in ("push_date", "pushed_by"):
        if manifest and key in manifest.document:
            lines.append(f"{key}: {manifest.document[key]}")
    for key, text in manifest.metadata.items() if manifest else ():
        lines.append(f"metadata {key}: {text}")
    for file in manifest.files if manifest else ():
        size = "-" if file.size is None else file.size
        lines.append(f"{size:>12}  {file.sha256 or '-':64}  {file.path}")
    return _print(options, document, map(_printable, lines))


def _find_copy(
    manager: AssetsManager, spec: AssetSpec
) -> tuple[str | None, Manifest | None]:
    """Return where a pinned version is cached, if it is, and its manifest.

    That is None where there is no store and modelkit wrote the marker.
    """
    path = manager._cache.get_path(spec.name, spec.version)
    state, is_offline = manager._cache.look_up(path), manager.storage_provider is None
    if state == "absent" and is_offline:
        raise manager._make_local_error(spec)
    manifest = None if state == "absent" else _find_manifest(path)
    if not (manifest or is_offline):
        manifest = manager._read_manifest(spec)
    is_cached = state in ("whole", "unproved") or state == "unmarked" and is_offline
    return (path if is_cached else None), manifest


@_command("nlp/bert:0.1", f"[SPECS] --offline {_BOTH}")
def _run_verify(options: Namespace) -> int:
    """Check local copies, by default all, against what was published."""
    manager, code, document = _open_manager(options), 0, []
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
            _say(f"{path!r} {hint}")
        if not options.json:
            print(f"{state:10}  {spec}", flush=True)
    return _print(options, document, []) or code


def _find_copies(manager: AssetsManager, texts: Sequence[str]) -> Iterator[AssetSpec]:
    """Yield what is to be verified: where there is no version, all local copies."""
    cache = manager._cache
    copies = dict(cache.iterate_copies())
    for spec in map(manager._read_spec, texts or copies):
        versions = [] if spec.version else copies.get(spec.name, [])
        for one in versions:
            yield cache.make_spec(spec.name, version=one, sub_part=spec.sub_part)
        if not versions:
            with _explaining(manager):
                yield manager.resolve(spec)


@_command("nlp/bert:0.1", f"SPECS {_REMOVAL}")
def _run_remove(options: Namespace) -> int:
    """Delete local copies: of a version, or all of an asset; asks first."""
    manager = _open_manager(options)
    specs = [one for text in options.specs for one in manager.remove(text, True)]
    return _remove(options, manager, list(dict.fromkeys(specs)), 0)


@_command("--keep 2 --max-size 50GB", f"--keep --max-size {_REMOVAL}")
def _run_prune(options: Namespace) -> int:
    """Delete local copies, and what interrupted downloads left; asks first."""
    manager, max_size = _open_manager(options), None
    if options.max_size is not None:
        max_size = _read_size(options.max_size)
    specs, leftovers = list[AssetSpec](), _measure_leftovers(manager._cache)
    if options.keep is not None or max_size is not None:
        specs = manager.prune(options.keep, True, max_size)
    elif not leftovers:
        raise ConfigurationError("say what to keep: --keep N, --max-size SIZE, or both")
    return _remove(options, manager, specs, leftovers)


def _remove(
    options: Namespace, manager: AssetsManager, specs: list[AssetSpec], leftovers: int
) -> int:
    names = [str(spec) for spec in specs]
    number = _count(len(names), "local copy", "local copies")
    what = [f"{number} from {manager.assets_dir!r}: {', '.join(names)}"] * bool(names)
    if leftovers:
        what.append(f"{_show_size(leftovers)} that interrupted downloads left")
    if what and not _confirm(options, f"Delete {', and '.join(what)}?"):
        return _fail(options, "declined, nothing was deleted", 1)
    for spec in () if options.dry_run else specs:
        with suppress(AssetDoesNotExistError):  # another process was faster
            manager.remove(spec)
    if leftovers and not options.dry_run:
        _clear_leftovers(manager._cache)
    if leftovers and not options.json:
        _say(f"{'would delete' if options.dry_run else 'deleted'} {what[-1]}")
    return _print(options, names, names)


def _read_size(text: str) -> int:
    """Read a number of bytes, as `50GB` or `1.5 TiB`."""
    found = re.fullmatch(r"\s*([0-9.]+)\s*([kMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    with suppress(ValueError, OverflowError):
        if found:
            power = " kmgt".index(found[2].lower() or " ")
            return int(float(found[1]) * (1024 if found[3] else 1000) ** power)
    raise ConfigurationError(f"--max-size takes a size, as 50GB, not {text!r}")


# `doctor` finds out what is wrong, and says it in the words of the errors above

_DOCTOR_TIMEOUT_S = 2.0  # for which failures are retried


@_command("--provider s3 --bucket models --write", f"--write {_BOTH}")
def _run_doctor(options: Namespace) -> int:
    """Show the settings, and check that store and assets dir can be used."""
    checks, options.store = list[dict[str, Any]](), None

    def check(name: str, examine: Callable[[Namespace], str]) -> bool:
        code = 0
        try:
            detail = examine(options)
        except (ModelkitAssetsError, OSError) as error:
            detail, code = str(error), getattr(error, "exit_code", 1)
        state = "failed" if code else "ok"
        checks.append({"check": name, "state": state, "detail": detail, "code": code})
        return not code

    check("versioning", _check_versioning)
    check("provider", _check_provider)
    if options.store and check("read", _check_reading) and options.write:
        check("write", _check_writing)
    check("assets dir", _check_assets_dir)
    rows = list(_describe_settings(options))
    settings = [dict(zip(("setting", "value", "from"), row)) for row in rows]
    lines = [f"{one['state']:6}  {one['check']}: {one['detail']}" for one in checks]
    document = {"settings": settings, "checks": checks}
    _print(options, document, [*_align(rows), "", *lines])
    return next((one["code"] for one in checks if one["code"]), 0)


def _describe_settings(options: Namespace) -> Iterator[tuple[str, str, str]]:
    """Yield each setting, its value unless that is a secret, and where it is from."""
    for variable in _SETTINGS:
        value, source = _find_option(options, variable)
        # a URL's password, and what follows its ?, which may be a signature
        shown = re.sub("(?s)//.*@", "//***@", str(value or "-"))
        yield variable, re.sub(r"(?s)(://.*\?).*", r"\1***", shown), source
    provider = _find_option(options, "MODELKIT_STORAGE_PROVIDER")[0] or "local"
    with suppress(ModelkitAssetsError):
        for variable, (_, is_secret) in _load_driver(provider).variables.items():
            value = os.environ.get(variable)
            shown = "***" if is_secret and value else value or "-"
            # of a URL that has a password, or of JSON in place of the path of its file
            shown = re.sub("(?s).*@|.*{.*", "***", shown)
            yield variable, shown, "environment" if value else "not set"


def _check_versioning(options: Namespace) -> str:
    system = _find_versioning_system(options.assets_versioning_system)
    return f"{system.__name__} is used" if system else "inferred from the versions"


def _check_provider(options: Namespace) -> str:
    if _is_offline(options):
        return "not asked, as MODELKIT_ASSETS_OFFLINE is set"
    if not (options.write or _find_option(options, "MODELKIT_STORAGE_PROVIDER")[0]):
        _Settings.resolve()  # one that is wrong would fail each fetch
        return "none: pre-downloaded mode, only what is cached is served"
    options.store = provider = _open_store(options)
    provider.timeout = min(provider.timeout, _DOCTOR_TIMEOUT_S)
    package = provider.driver.package
    return provider.provider + (f", through {package}" if package else "")


def _check_reading(options: Namespace) -> str:
    provider: StorageProvider = options.store
    where = provider.driver.get_object_uri(provider.prefix)

    def ask(driver: _RetryingDriver) -> str:
        try:
            found_first = driver.iterate_objects(provider.prefix, 1)
        except UnsupportedOperationError:
            with suppress(ObjectDoesNotExistError):  # which is an answer, too
                driver.read_object(f"{provider.prefix}.versions")
            return f"{where} is only read and not listed, and its server answers"
        for first, _, _ in found_first:
            next(driver.iterate_bytes(first, 0, 1), None)
            return f"{where} can be listed, and {first!r} read"
        return f"{where} can be listed, and is empty"

    return provider._start_job().run(ask, [provider._connect()])[0]


def _check_writing(options: Namespace) -> str:
    """Write an object under each condition, and delete it."""
    provider: StorageProvider = options.store
    name = f"{provider.prefix}/modelkit-assets-probe-{_make_token()}"
    driver = provider._connect()

    def write(data: bytes, if_match: str) -> str:
        with suppress(FileExistsError):
            return driver.write_object(data, name, if_match=if_match)
        return ""

    try:
        first = write(b"1", "")
        second = write(b"2", first)
        if not (first and second):
            text = "the store refuses a write whose condition holds, so "
            raise StorageDriverError(text + "no asset's next version can be published")
        if write(b"3", "") or write(b"3", first):
            text = "the store ignores conditional writes, so of concurrent publishers "
            raise StorageDriverError(text + "one may be lost: publish from one place")
        if driver.read_object(name)[0] != b"2":
            raise StorageDriverError(f"{name!r} is not what was written")
    except BaseException:
        with suppress(ModelkitAssetsError):  # it may not be there
            driver.delete_object(name)
        raise
    try:
        driver.delete_object(name)
    except StorageAccessError as error:
        reason = "it was written, and may not be deleted, which publishing does not "
        reason += f"need: delete it by hand ({error.__cause__})"
        raise StorageAccessError(name, reason) from error
    return "objects can be created and replaced, and conditional writes are honoured"


def _check_assets_dir(options: Namespace) -> str:
    import shutil
    import tempfile

    folder = os.path.abspath(_find_option(options, "MODELKIT_ASSETS_DIR")[0] or ".")
    _Cache(folder, 0).require_assets_dir()
    if options.store:
        _check_apart(folder, options.store)
    os.listdir(folder)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"1")
    except OSError as error:
        if not options.store:
            reason = f"({error.strerror}), as pre-downloaded mode may find it"
            return f"{folder!r} cannot be written {reason}"
        raise AssetsDirError(folder, error.strerror) from error
    free = _show_size(shutil.disk_usage(folder).free)
    return f"{folder!r} can be written, {free} are free"


def _add_argument(command: argparse.ArgumentParser, key: str) -> None:
    usage, text, *more = _ARGUMENTS[key]
    names, how = usage.split(), dict(*more)
    if names[-1][0] == "-":
        how["action"] = "store_true"
    else:
        how["metavar"] = names.pop()
    if variable := _VARIABLES.get(key):
        how["dest"], text = _name_field(variable), f"{text} ({variable})"
    command.add_argument(*names, help=text, **how)


# each argument's names, then what stands for its value, which a flag has not; its help;
# and what else `add_argument` is to know
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "PATH": ("path PATH", "to publish: a path, or s3://, gs://, az://B/KEY"),
    "NAME": ("spec NAME", "asset to publish it as"),
    "NAME[:MAJOR]": ("spec NAME[:MAJOR]", "asset to publish it as"),
    "GLOB": ("glob GLOB", "as 'nlp/*'; without it, all", {"nargs": "?"}),
    "SPEC": ("spec SPEC", "name[:version]"),
    "SPECS": ("specs SPEC", "name[:version]", {"nargs": "+"}),
    "[SPECS]": ("specs SPEC", "name[:version][[part]]", {"nargs": "*"}),
    "-r": (
        "-r FILE",
        "read specs from it, one a line; # begins a comment; - is stdin",
        {"action": "append", "default": []},
    ),
    "-o": ("-o --output FILE", "write there, whole or not at all; - is stdout"),
    "--to": ("--to DIR", "put the content there instead, as your own"),
    "--pack": ("--pack", "make one object of a folder, a tar"),
    "--no-copy": ("--no-copy", "upload all, also what the latest version has"),
    "--bump-major": ("--bump-major", "publish the first version of a new major"),
    "--meta": (
        "--meta KEY=VALUE",
        "say so of the version; any number of times",
        {"action": "append"},
    ),
    "--yes": ("-y --yes", "do not ask"),
    "--dry-run": ("--dry-run", "say what would be done, and change nothing"),
    "--local": ("--local", "list the local copies, with size and date"),
    "--long": ("-l --long", "a line for each version: date, size, files"),
    "--download": ("--download", "download again what is cached"),
    "--keep": ("--keep N", "keep so many versions of each", {"type": int}),
    "--max-size": ("--max-size SIZE", "keep at most so much, as 50GB"),
    "--write": ("--write", "publish a probe too, which is deleted again"),
    "--offline": ("--offline", "serve only what is cached"),
    "--endpoint": ("--endpoint URL", "of an S3 that is not AWS (S3_ENDPOINT)"),
    "--assets-dir": ("--assets-dir DIR", "folder of the local copies"),
    "--provider": ("--provider NAME", "s3, gcs, az, http, local or another"),
    "--bucket": ("--bucket BUCKET", "bucket, container, URL or folder"),
    "--prefix": ("--prefix --storage-prefix PREFIX", "what object names begin with"),
    "--versioning": (
        "--versioning SYSTEM",
        "major_minor, simple_date or package.module:Class",
    ),
    "-v": ("-v --verbose", "say more"),
    "-q": ("-q --quiet", "say less"),
    "--json": ("--json", "print one JSON document"),
}
_VARIABLES = {  # of options that beat a setting
    "--assets-dir": "MODELKIT_ASSETS_DIR",
    "--offline": "MODELKIT_ASSETS_OFFLINE",
    "--provider": "MODELKIT_STORAGE_PROVIDER",
    "--bucket": "MODELKIT_STORAGE_BUCKET",
    "--prefix": "MODELKIT_STORAGE_PREFIX",
    "--versioning": "MODELKIT_ASSETS_VERSIONING_SYSTEM",
}


if __name__ == "__main__":
    # whoever imports us by name, as a versioning system does, gets these very classes
    for own in ("modelkit_assets", getattr(globals()["__spec__"], "name", __name__)):
        sys.modules.setdefault(own, sys.modules[__name__])
    sys.exit(main())
