# SPDX-License-Identifier: MIT
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

import json
import os
import re
import stat
import sys
import threading
import time
from contextlib import contextmanager
from typing import (
    IO,
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    NoReturn,
    Optional,
    Protocol,
    Sequence,
    Set,
    Tuple,
    Type,
    TypeVar,
    Union,
    cast,
)

if TYPE_CHECKING:
    import argparse
    import logging

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__version__ = "0.1.0"

__all__ = [
    # fetching and publishing
    "AssetsManager",
    "StorageProvider",
    # values
    "AssetSpec",
    "Manifest",
    "ManifestFile",
    # versioning systems
    "AssetsVersioningSystem",
    "MajorMinorAssetsVersioningSystem",
    "SimpleDateAssetsVersioningSystem",
    # drivers
    "LocalDriver",
    "ObjectSink",
    "StorageDriver",
    # errors
    "AssetAlreadyExistsError",
    "AssetDoesNotExistError",
    "AssetIntegrityError",
    "AssetLockTimeoutError",
    "AssetsDirError",
    "AssetsManagerError",
    "ConfigurationError",
    "DriverNotInstalledError",
    "FolderDoesNotExistError",
    "InvalidAssetSpecError",
    "InvalidNameError",
    "InvalidSourceError",
    "InvalidVersionError",
    "LocalAssetDoesNotExistError",
    "MajorVersionDoesNotExistError",
    "ModelkitAssetsError",
    "NoConfiguredProviderError",
    "ObjectDoesNotExistError",
    "SourceChangedError",
    "StorageAccessError",
    "StorageDriverError",
    "StorageUnavailableError",
    "UnknownAssetsVersioningSystemError",
    "UnknownDriverError",
    # command line
    "main",
]

T = TypeVar("T")
Item = TypeVar("Item")

# --------------------------------------------------------------------- constants

DEFAULT_PREFIX = "modelkit-assets"
DEFAULT_TIMEOUT_S = 300.0
DEFAULT_WORKERS = 16
DEFAULT_LOCK_TIMEOUT_S = 10.0

MANIFEST_FORMAT = 1
SUCCESS = ".SUCCESS"  # what modelkit calls its markers

_CHUNK = 1 << 20  # bytes read, hashed and written at a time
_SMALL_OBJECT = 1 << 20  # up to this size a local object's etag is its digest
_FIRST_DELAY_S, _MAX_DELAY_S = 0.1, 10.0  # back-off between attempts
_LOCK_POLL_S = 0.05
_HEARTBEAT_S = 0.5  # how often a download shows those who wait that it goes on
_REMOTE_IDLE_S = 60.0  # another host's staging, untouched for so long, is nobody's
_ABANDONED_S = 24 * 3600.0  # staging this old is reclaimed, whoever made it
_MAX_SWAPS = 16
_STOP_GRACE_S = 5.0  # how long an interrupt waits for transfers under way
_EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

# --------------------------------------------------------------------- errors


class ModelkitAssetsError(Exception):
    """Base of every error raised here.

    - its text is one line: what failed, on what, and what to do next
    - what it is about is kept as attributes, and survives pickling
    """

    exit_code = 1

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.__dict__.update(facts)

    def __reduce__(self) -> Tuple[Any, ...]:
        return _restore_error, (type(self), str(self), self.__dict__)


def _restore_error(
    cls: Type[ModelkitAssetsError], message: str, facts: Dict[str, Any]
) -> ModelkitAssetsError:
    error = cls.__new__(cls)
    ModelkitAssetsError.__init__(error, message, **facts)
    return error


class StorageDriverError(ModelkitAssetsError):
    """Something failed between here and the store."""


class ObjectDoesNotExistError(StorageDriverError, FileNotFoundError):
    """The store answered that it has no such object."""

    exit_code = 3

    def __init__(self, driver: object, bucket: str, object_name: str) -> None:
        super().__init__(
            f"the store has no object {object_name!r} in {bucket!r}",
            driver=repr(driver),
            bucket=bucket,
            object_name=object_name,
        )


class StorageAccessError(StorageDriverError, PermissionError):
    """The store refused access."""

    exit_code = 4

    def __init__(self, object_name: str, reason: object) -> None:
        super().__init__(
            f"access to {object_name!r} was refused: {reason}. "
            "Check the credentials and their permissions",
            object_name=object_name,
        )


class StorageUnavailableError(StorageDriverError, ConnectionError):
    """The store could not be reached, or kept failing until the time was up."""

    exit_code = 5

    def __init__(self, object_name: str, seconds: float, reason: object) -> None:
        super().__init__(
            f"the store did not answer for {object_name!r}, tried for "
            f"{seconds:.0f} s (MODELKIT_STORAGE_TIMEOUT_S): {reason}",
            object_name=object_name,
        )


class ConfigurationError(StorageDriverError, ValueError):
    """A setting is missing or wrong; the text names the variable."""

    exit_code = 2


class FolderDoesNotExistError(ConfigurationError, FileNotFoundError):
    """The folder that a setting names does not exist."""

    def __init__(self, what: str, folder: str, variable: str) -> None:
        super().__init__(
            f"the {what} {folder!r} does not exist or is no folder: "
            f"create it, or set {variable}",
            folder=folder,
            variable=variable,
        )


class UnknownDriverError(StorageDriverError, ValueError):
    """No driver file has the provider's name."""

    exit_code = 2

    def __init__(self, provider: str, known: Sequence[str] = ()) -> None:
        super().__init__(
            f"unknown storage provider {provider!r} (MODELKIT_STORAGE_PROVIDER): "
            f"there are {', '.join(known)}; another one is a file NAME.py in drivers/",
            provider=provider,
            known=tuple(known),
        )


class DriverNotInstalledError(StorageDriverError, ImportError):
    """The provider's SDK is not installed; the text gives the command that does it."""

    exit_code = 2


class NoConfiguredProviderError(StorageDriverError):
    """No storage provider is configured, and the operation needs one."""

    exit_code = 2

    def __init__(self, action: str = "") -> None:
        super().__init__(
            f"no storage provider is configured{action and f', cannot {action}'}: "
            "set MODELKIT_STORAGE_PROVIDER and MODELKIT_STORAGE_BUCKET"
        )


class AssetsManagerError(ModelkitAssetsError):
    """Something failed with an asset, its spec, or its local copy."""


class AssetAlreadyExistsError(AssetsManagerError, FileExistsError):
    """What would be published exists already; nothing was changed."""

    def __init__(self, name: str, version: Optional[str] = None) -> None:
        what, then = (
            (f"version {version!r} of asset {name!r}", "published versions never change")
            if version
            else (f"asset {name!r}", "publish its next version with `update`")
        )
        super().__init__(f"{what} already exists: {then}", name=name, version=version)


class AssetDoesNotExistError(AssetsManagerError, FileNotFoundError):
    """There is no such asset, version or part."""

    exit_code = 3

    def __init__(self, name: str, version: Optional[str] = None, hint: str = "") -> None:
        asset = f"version {version!r} of asset {name!r}" if version else f"asset {name!r}"
        super().__init__(
            f"{asset} does not exist{hint and ': ' + hint}", name=name, version=version
        )


class LocalAssetDoesNotExistError(AssetsManagerError, FileNotFoundError):
    """The assets dir has no such version, and no store is configured."""

    exit_code = 3

    def __init__(
        self, name: str, version: Optional[str], local_versions: Sequence[str]
    ) -> None:
        super().__init__(
            f"version {version!r} of asset {name!r} is not in the assets dir, which has "
            f"{', '.join(local_versions) or 'none'}, and no storage provider is configured",
            name=name,
            version=version,
            local_versions=tuple(local_versions),
        )


class AssetIntegrityError(AssetsManagerError, ValueError):
    """Content is not what its manifest says, or a manifest is none."""

    exit_code = 6

    def __init__(
        self, object_name: str, expected: object, got: object, then: str = ""
    ) -> None:
        super().__init__(
            f"the content of {object_name!r} is wrong: expected {expected}, got {got}"
            f"{then and '. ' + then}",
            object_name=object_name,
            expected=expected,
            got=got,
        )


class AssetLockTimeoutError(AssetsManagerError, TimeoutError):
    """Another process holds the asset's lock, and its download makes no progress."""

    def __init__(self, name: str, timeout_s: float, pid: object, host: object) -> None:
        super().__init__(
            f"asset {name!r} is being downloaded by process {pid} on host {host}, with "
            f"no progress for {timeout_s:g} s (MODELKIT_ASSETS_TIMEOUT_S): "
            "look at that process",
            name=name,
            timeout_s=timeout_s,
            pid=pid,
            host=host,
        )


class AssetsDirError(AssetsManagerError, OSError):
    """The assets dir cannot be written: read-only, full, or another's."""

    def __init__(self, assets_dir: str, reason: object) -> None:
        super().__init__(
            f"cannot write to the assets dir {assets_dir!r}: {reason}",
            assets_dir=assets_dir,
        )


class InvalidSourceError(AssetsManagerError, ValueError):
    """What was given to publish is missing, unreadable, empty, or no file or folder."""

    exit_code = 2

    def __init__(self, path: str, reason: object) -> None:
        super().__init__(f"cannot publish {path!r}: {reason}", path=path)


class SourceChangedError(AssetsManagerError):
    """A source file changed while it was being published; nothing became visible."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path!r} changed while it was being published, so the version was not "
            "committed: publish again when nothing writes to it",
            path=path,
        )


class UnknownAssetsVersioningSystemError(AssetsManagerError):
    """No versioning system has that name, or none fits the versions."""

    exit_code = 2

    def __init__(self, versioning: object, reason: object = "") -> None:
        super().__init__(
            f"unknown versioning system {versioning!r}{reason and f' ({reason})'}: use "
            "major_minor, simple_date or package.module:Class "
            "(MODELKIT_ASSETS_VERSIONING_SYSTEM)",
            versioning=versioning,
        )


class InvalidAssetSpecError(AssetsManagerError, ValueError):
    """The text is no `name[:version][[sub/part]]`."""

    exit_code = 2

    def __init__(self, spec: object, reason: str = "") -> None:
        super().__init__(
            f"invalid asset spec {_shorten(spec)}: "
            f"{reason or 'it must look like name, name:version or name:version[part]'}",
            spec=spec,
        )


class InvalidNameError(InvalidAssetSpecError):
    """The text is no asset name."""

    def __init__(self, name: object, reason: str = "") -> None:
        reason = reason or (
            "a name is segments of A-Z a-z 0-9 - _ . joined by /, "
            "beginning and ending with a letter or digit"
        )
        AssetsManagerError.__init__(
            self, f"invalid asset name {_shorten(name)}: {reason}", name=name
        )


class InvalidVersionError(InvalidAssetSpecError):
    """The text is no version of the versioning system."""

    def __init__(self, version: object, reason: str = "") -> None:
        AssetsManagerError.__init__(
            self,
            f"invalid version {_shorten(version)}{reason and ': ' + reason}",
            version=version,
        )


class MajorVersionDoesNotExistError(InvalidVersionError):
    """No version has that major number."""

    exit_code = 3

    def __init__(self, version: str, majors: Sequence[str] = ()) -> None:
        AssetsManagerError.__init__(
            self,
            f"major version {version!r} does not exist: there are {', '.join(majors)}",
            version=version,
            majors=tuple(majors),
        )


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "…"


def _logger() -> logging.Logger:
    # imported on use: a cache hit logs nothing, and logging costs 5 ms of start-up
    import logging

    return logging.getLogger("modelkit_assets")


# --------------------------------------------------------------------- settings


def _setting(argument: Optional[T], *variables: str) -> Union[T, str, None]:
    """Return the argument, else the first variable that is set and not empty."""
    if argument is not None and argument != "":
        return argument
    return next(filter(None, map(os.environ.get, variables)), None)


def _number(argument: Optional[float], variable: str, default: float) -> float:
    """Return a setting as a number of at least 0; ConfigurationError names it."""
    value = _setting(argument, variable)
    try:
        number = default if value is None else float(value)
        if isinstance(value, bool) or not 0 <= number < float("inf"):
            raise ValueError
    except (TypeError, ValueError):
        raise ConfigurationError(
            f"{variable} must be a number of at least 0, not {value!r}"
        ) from None
    return number


def _boolean(argument: Optional[bool], variable: str) -> bool:
    """Return a setting as a truth value, False where unset."""
    value = _setting(argument, variable)
    text = str(value).lower()
    if value is None or text in ("0", "false", "no", "off"):
        return False
    if text in ("1", "true", "yes", "on"):
        return True
    raise ConfigurationError(f"{variable} must be true or false, not {value!r}")


# --------------------------------------------------------------------- versioning

_MAJOR_MINOR = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,18}))?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}-[0-9]{2}-[0-9]{2}Z")
_DATE_FORMAT = "%Y-%m-%dT%H-%M-%SZ"


class AssetsVersioningSystem:
    """How versions are named, ordered and counted up; subclass it for your own.

    All methods are class methods. A partial version stands for the latest of several
    (`1` for `1.*`); a complete one names exactly one version.
    """

    @classmethod
    def get_initial_version(cls) -> str:
        """Return the version that a new asset gets."""
        raise NotImplementedError

    @classmethod
    def check_version_valid(cls, version: str) -> None:
        """Raise InvalidVersionError unless the text is a version, partial or complete."""
        raise NotImplementedError

    @classmethod
    def is_version_valid(cls, version: str) -> bool:
        """Tell whether the text is a version, partial or complete."""
        try:
            cls.check_version_valid(version)
        except ValueError:
            return False
        return True

    @classmethod
    def is_version_complete(cls, version: str) -> bool:
        """Tell whether a valid version names exactly one; override for partial ones."""
        return True

    @classmethod
    def sort_versions(cls, version_list: Iterable[str]) -> List[str]:
        """Return complete versions in order, the latest first."""
        raise NotImplementedError

    @classmethod
    def increment_version(
        cls,
        version_list: Optional[List[str]] = None,
        params: Optional[Dict[str, Any]] = None,
    ) -> str:
        """Return the version that follows those of the list (latest first).

        params may hold `bump_major` (bool) and `major` (a partial version, or None).
        """
        raise NotImplementedError

    @classmethod
    def get_latest_partial_version(cls, version: str, versions: List[str]) -> str:
        """Return the latest of versions (latest first) that a partial one stands for."""
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
    def sort_versions(cls, version_list: Iterable[str]) -> List[str]:
        """Return the versions by number, the latest first."""
        return sorted(version_list, key=cls._parse, reverse=True)

    @classmethod
    def increment_version(
        cls,
        version_list: Optional[List[str]] = None,
        params: Optional[Dict[str, Any]] = None,
    ) -> str:
        """Return the next minor of the latest or the named major, or the next major."""
        params = params or {}
        if not version_list:
            return cls.get_initial_version()
        if params.get("bump_major"):
            return f"{cls._parse(cls.sort_versions(version_list)[0])[0] + 1}.0"
        latest = cls.sort_versions(version_list)[0]
        if params.get("major"):
            latest = cls.get_latest_partial_version(params["major"], version_list)
        major, minor = cls._parse(latest)
        return f"{major}.{minor + 1}"

    @classmethod
    def get_latest_partial_version(cls, version: str, versions: List[str]) -> str:
        """Return the latest version of a major; MajorVersionDoesNotExistError if none."""
        major = cls._parse(version)[0]
        same = [one for one in versions if cls._parse(one)[0] == major]
        if not same:
            majors = sorted({cls._parse(one)[0] for one in versions})
            raise MajorVersionDoesNotExistError(version, [str(one) for one in majors])
        return cls.sort_versions(same)[0]

    @classmethod
    def _parse(cls, version: str) -> Tuple[int, int]:
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
    def sort_versions(cls, version_list: Iterable[str]) -> List[str]:
        """Return the versions by time, the latest first."""
        return sorted(version_list, reverse=True)

    @classmethod
    def increment_version(
        cls,
        version_list: Optional[List[str]] = None,
        params: Optional[Dict[str, Any]] = None,
    ) -> str:
        """Return the present second, or the one after the latest version if later."""
        now = cls.get_initial_version()
        latest = max(version_list or [""])
        if now > latest:
            return now
        # published in this very second, or by a machine whose clock is ahead
        import calendar

        try:
            seconds = calendar.timegm(time.strptime(latest, _DATE_FORMAT)) + 1
        except ValueError:
            raise InvalidVersionError(latest, "no date comes after it") from None
        return time.strftime(_DATE_FORMAT, time.gmtime(seconds))


_VERSIONING_SYSTEMS: Dict[str, Type[AssetsVersioningSystem]] = {
    "major_minor": MajorMinorAssetsVersioningSystem,
    "simple_date": SimpleDateAssetsVersioningSystem,
}
Versioning = Union[str, Type[AssetsVersioningSystem], None]


def find_versioning_system(
    versioning: Versioning,
) -> Optional[Type[AssetsVersioningSystem]]:
    """Return the system of that name, class or `package.module:Class`; None if unset."""
    chosen = _setting(versioning, "MODELKIT_ASSETS_VERSIONING_SYSTEM")
    if chosen is None or isinstance(chosen, type):
        return chosen
    return _VERSIONING_SYSTEMS.get(chosen) or _import_versioning_system(chosen)


def _import_versioning_system(path: str) -> Type[AssetsVersioningSystem]:
    from importlib import import_module

    module, _, name = path.partition(":")
    try:
        if not name:
            raise ImportError("no such system")
        system = getattr(import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UnknownAssetsVersioningSystemError(path, error) from error
    methods = (name for name in vars(AssetsVersioningSystem) if name[0] != "_")
    missing = [method for method in methods if not hasattr(system, method)]
    if missing:
        raise UnknownAssetsVersioningSystemError(path, f"it lacks {missing[0]}")
    return cast(Type[AssetsVersioningSystem], system)


def infer_versioning_system(versions: Sequence[str]) -> Type[AssetsVersioningSystem]:
    """Return the built-in system that all versions follow; `major_minor` for none."""
    for system in _VERSIONING_SYSTEMS.values():
        if all(map(system.is_version_valid, versions)):
            return system
    raise UnknownAssetsVersioningSystemError(
        "", f"versions such as {_shorten(versions[0])} follow no single built-in system"
    )


# --------------------------------------------------------------- asset specification

_NAME = re.compile(r"[A-Za-z0-9_./-]+")
_VERSION = re.compile(r"[A-Za-z0-9_.-]+")
_MAX_SEGMENT = 255  # what file systems hold

# https://learn.microsoft.com/windows/win32/fileio/naming-a-file
_WINDOWS_DEVICES = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"} | {
    port + digit for port in ("COM", "LPT") for digit in "0123456789¹²³"
}


def is_contained(path: str) -> bool:
    """Tell whether a relative path stays below the folder that it is joined to.

    The rules of POSIX and of Windows both apply, on every system, as a store is shared:
    no empty, `.` or `..` segment, drive letter, device name, NUL or lone surrogate.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in path and all(
        map(_is_plain_segment, path.replace("\\", "/").split("/"))
    )


def _is_plain_segment(segment: str) -> bool:
    kept = segment.rstrip(" .")  # Windows drops these at the end of a name
    device = kept.partition(".")[0].rstrip().upper()
    return bool(kept) and segment[1:2] != ":" and device not in _WINDOWS_DEVICES


class AssetSpec:
    """What to fetch: `name[:version][[sub/part]]`; immutable and hashable.

    name      segments joined by `/`
    version   complete, partial, or None for the latest
    sub_part  a POSIX path inside a directory asset, or None for the whole
    """

    __slots__ = ("_system", "name", "sub_part", "version")

    name: str
    version: Optional[str]
    sub_part: Optional[str]
    _system: Optional[Type[AssetsVersioningSystem]]

    def __init__(
        self,
        name: str,
        *,
        version: Optional[str] = None,
        sub_part: Optional[str] = None,
        versioning: Versioning = None,
    ) -> None:
        self.check_name_valid(name)
        system = find_versioning_system(versioning)
        if version:
            self.check_version_valid(version)
            system = system or infer_version_system_of(version)
            system.check_version_valid(version)
        if sub_part is not None:
            sub_part = _clean_sub_part(sub_part)
        for slot, value in zip(self.__slots__, (system, name, sub_part, version or None)):
            object.__setattr__(self, slot, value)

    @classmethod
    def from_string(cls, text: str, versioning: Versioning = None) -> AssetSpec:
        """Parse a spec, in time linear in its length; InvalidAssetSpecError if none."""
        if not isinstance(text, str):
            raise InvalidAssetSpecError(text)
        name, bracket, part = text.partition("[")
        name, colon, version = name.partition(":")
        if (colon and not version) or (bracket and (len(part) < 2 or part[-1] != "]")):
            raise InvalidAssetSpecError(text)
        sub_part = part[:-1] if bracket else None
        return cls(name, version=version, sub_part=sub_part, versioning=versioning)

    @classmethod
    def check_name_valid(cls, name: str) -> None:
        """Raise InvalidNameError unless the text is an asset name."""
        if (
            not isinstance(name, str)
            or not _NAME.fullmatch(name)
            or not (name[0].isalnum() and name[-1].isalnum())
            or not is_contained(name)
            or max(map(len, name.split("/"))) > _MAX_SEGMENT
        ):
            raise InvalidNameError(name)

    @classmethod
    def check_version_valid(cls, version: str) -> None:
        """Raise InvalidVersionError unless the text can be a version in any system."""
        if (
            not isinstance(version, str)
            or not _VERSION.fullmatch(version)
            or not is_contained(version)
            or len(version) > _MAX_SEGMENT - len(".meta")
        ):
            raise InvalidVersionError(version, "it may hold A-Z a-z 0-9 - _ . only")

    @property
    def versioning(self) -> Type[AssetsVersioningSystem]:
        """The versioning system: the one set, else what the version follows."""
        return self._system or MajorMinorAssetsVersioningSystem

    def versioning_among(self, versions: Sequence[str]) -> Type[AssetsVersioningSystem]:
        """Return the system set or followed by the version, else by these versions."""
        return self._system or infer_versioning_system(versions)

    def is_version_complete(self) -> bool:
        """Tell whether the spec names exactly one version."""
        return bool(self.version and self.versioning.is_version_complete(self.version))

    def sort_versions(self, versions: Iterable[str]) -> List[str]:
        """Return complete versions in order, the latest first."""
        versions = list(versions)
        return self.versioning_among(versions).sort_versions(versions)

    def get_local_versions(self, folder: Union[str, os.PathLike[str]]) -> List[str]:
        """Return the complete versions among a folder's entries, the latest first."""
        try:
            names = os.listdir(folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
        systems = [self._system] if self._system else list(_VERSIONING_SYSTEMS.values())
        return self.sort_versions(
            name for name in names if any(_is_version(name, one) for one in systems)
        )

    def pinned(self, version: str) -> AssetSpec:
        """Return this spec with a complete version."""
        return AssetSpec(
            self.name,
            version=version,
            sub_part=self.sub_part,
            versioning=self.versioning_among([version]),
        )

    def _key(self) -> Tuple[str, Optional[str], Optional[str]]:
        return self.name, self.version, self.sub_part

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"an AssetSpec cannot be changed: {name}")

    __delattr__ = __setattr__  # type: ignore[assignment]

    def __reduce__(self) -> Tuple[Any, ...]:
        return _restore_spec, (*self._key(), self._system)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AssetSpec) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __str__(self) -> str:
        version = f":{self.version}" if self.version else ""
        return self.name + version + (f"[{self.sub_part}]" if self.sub_part else "")

    def __repr__(self) -> str:
        return f"AssetSpec({str(self)!r})"


def _restore_spec(
    name: str, version: Optional[str], sub_part: Optional[str], versioning: Versioning
) -> AssetSpec:
    return AssetSpec(name, version=version, sub_part=sub_part, versioning=versioning)


def infer_version_system_of(version: str) -> Type[AssetsVersioningSystem]:
    """Return the built-in system of one version; InvalidVersionError if none fits."""
    try:
        return infer_versioning_system([version])
    except UnknownAssetsVersioningSystemError:
        raise InvalidVersionError(
            version, "it is neither X.Y, nor X, nor YYYY-MM-DDThh-mm-ssZ"
        ) from None


def _is_version(text: str, system: Type[AssetsVersioningSystem]) -> bool:
    return (
        _VERSION.fullmatch(text) is not None
        and system.is_version_valid(text)
        and system.is_version_complete(text)
    )


def _clean_sub_part(sub_part: str) -> str:
    part = sub_part.strip("/") if isinstance(sub_part, str) else ""
    if not is_contained(part):
        raise InvalidAssetSpecError(sub_part, "a sub-part must stay inside its asset")
    return part


def check_new_name(name: str) -> None:
    """Raise InvalidNameError unless a new asset may have that name.

    A segment that is a complete version would lie where another asset's version does.
    """
    AssetSpec.check_name_valid(name)
    systems = [find_versioning_system(None), *_VERSIONING_SYSTEMS.values()]
    for segment in name.split("/"):
        if any(system and _is_version(segment, system) for system in systems):
            raise InvalidNameError(name, f"the segment {segment!r} looks like a version")


def choose_version(spec: AssetSpec, versions: Sequence[str]) -> str:
    """Return the version, among those that exist, that a spec means.

    versions must not be empty; MajorVersionDoesNotExistError names the majors there.
    """
    system = spec.versioning_among(versions)
    complete = [version for version in versions if _is_version(version, system)]
    if not complete:
        raise InvalidVersionError(
            versions[0], f"{system.__name__} cannot read the versions of {spec.name!r}"
        )
    ordered = system.sort_versions(complete)
    if spec.version:
        return system.get_latest_partial_version(spec.version, ordered)
    return ordered[0]


def choose_next_version(
    spec: AssetSpec, taken: Sequence[str], bump_major: bool = False
) -> str:
    """Return the version to publish where those of `taken` exist already.

    A complete version in the spec is that version; a partial one names the major.
    """
    if spec.is_version_complete():
        return cast(str, spec.version)
    system = spec.versioning_among(taken)
    if not taken and not spec.version:
        return system.get_initial_version()
    params = {"bump_major": bump_major, "major": spec.version}
    version = system.increment_version(system.sort_versions(taken), params)
    AssetSpec.check_version_valid(version)
    return version


# --------------------------------------------------------------------- manifest

_SHA256 = re.compile(r"[0-9a-f]{64}")


class ManifestFile(NamedTuple):
    """One file of an asset.

    path        POSIX, relative to the asset; `""` in a file asset
    size        bytes; None where modelkit published it
    sha256      lower-case hexadecimal; None likewise
    """

    path: str
    size: Optional[int] = None
    sha256: Optional[str] = None
    executable: bool = False


class Manifest(NamedTuple):
    """What a version holds, as its `.meta` object says; paths are checked.

    document    the whole JSON object, with the keys we do not know
    """

    is_directory: bool
    files: Tuple[ManifestFile, ...]
    empty_directories: Tuple[str, ...]
    document: Dict[str, Any]

    @classmethod
    def create(
        cls, is_directory: bool, files: Sequence[ManifestFile], empty: Sequence[str]
    ) -> Manifest:
        """Make the manifest of a version that is being published now."""
        from datetime import datetime, timezone

        document = {
            "push_date": datetime.now(timezone.utc).isoformat(),
            "is_directory": is_directory,
            "pushed_by": _user_and_host(),
            "format": MANIFEST_FORMAT,
        }
        return cls(is_directory, tuple(files), tuple(empty), document)._with_lists()

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
            raise AssetIntegrityError(object_name, "a manifest", error) from error

    @classmethod
    def _from_document(cls, document: Dict[str, Any]) -> Manifest:
        is_directory = document["is_directory"]
        _require(isinstance(is_directory, bool), "an is_directory that is no bool")
        _require(isinstance(document["push_date"], str), "a push_date that is no text")
        parse_date(document["push_date"])
        _require(document.get("format", 1) == MANIFEST_FORMAT, "a newer format")
        _require(not document.get("pack"), "a pack, which this version cannot read")
        contents = document["contents"] if is_directory else [""]
        _require(isinstance(contents, list), "contents that are no list")
        if "files" in document:
            files = tuple(map(_read_manifest_file, document["files"]))
            _require(sorted(map(str, contents)) == sorted(file.path for file in files),
                     "files that are not the contents")  # fmt: skip
        else:
            files = tuple(map(ManifestFile, contents))
        empty = tuple(document.get("empty_directories", ()))
        if is_directory:
            _check_paths([file.path for file in files], empty)
        return cls(is_directory, files, empty, document)

    def to_json(self) -> bytes:
        """Write the manifest as its `.meta` object or marker holds it."""
        return json.dumps(self.document).encode()

    def with_files(self, files: Sequence[ManifestFile]) -> Manifest:
        """Return the manifest with the sizes and digests that a download measured."""
        return self._replace(files=tuple(files))._with_lists()

    def has_same_content(self, other: Manifest) -> bool:
        """Tell whether two manifests describe the same files, to the byte."""
        return self[:3] == other[:3] and all(file.sha256 for file in self.files)

    @property
    def size(self) -> int:
        """Bytes of all files whose size is known."""
        return sum(file.size or 0 for file in self.files)

    def _with_lists(self) -> Manifest:
        lists: Dict[str, Any] = {"files": list(map(_write_manifest_file, self.files))}
        if self.is_directory:
            lists["contents"] = [file.path for file in self.files]
        if self.empty_directories:
            lists["empty_directories"] = list(self.empty_directories)
        return self._replace(document={**self.document, **lists})


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


def _read_manifest_file(entry: Any) -> ManifestFile:
    file = ManifestFile(
        entry["path"], entry["size"], entry["sha256"], entry.get("executable", False)
    )
    _require(type(file.size) is int and file.size >= 0, "a size that is no number")
    _require(bool(_SHA256.fullmatch(entry["sha256"])), "a sha256 that is none")
    _require(isinstance(file.executable, bool), "an executable that is no bool")
    return file


def _write_manifest_file(file: ManifestFile) -> Dict[str, Any]:
    entry: Dict[str, Any] = {"path": file.path, "size": file.size, "sha256": file.sha256}
    return {**entry, "executable": True} if file.executable else entry


def _check_paths(files: Sequence[str], empty: Sequence[str]) -> None:
    """Raise ValueError unless all paths can lie in one folder, and none leaves it."""
    paths, folders = {*files, *empty}, set()
    _require(len(paths) == len(files) + len(empty), "a path twice")
    for path in paths:
        _require(isinstance(path, str) and is_contained(path) and path != SUCCESS,
                 f"the path {_shorten(path)}")  # fmt: skip
        parent = path.rpartition("/")[0]
        while parent and parent not in folders:
            folders.add(parent)
            parent = parent.rpartition("/")[0]
    _require(not paths & folders, "a path that is both a file and a folder")


def parse_date(text: str) -> Any:
    """Return an ISO 8601 time as a `datetime`; ValueError if it is none."""
    from datetime import datetime

    # before Python 3.11, fromisoformat does not know the Z
    return datetime.fromisoformat(text[:-1] + "+00:00" if text[-1:] == "Z" else text)


def _read_json(data: bytes, object_name: str) -> Dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise AssetIntegrityError(object_name, "JSON", error) from error
    if not isinstance(document, dict):
        raise AssetIntegrityError(object_name, "a JSON object", _shorten(document))
    return document


def _read_versions(data: bytes, object_name: str) -> Tuple[Dict[str, Any], List[str]]:
    """Return a `.versions` object whole, and the versions that it lists."""
    document = _read_json(data, object_name)
    versions = document.get("versions")
    try:
        _require(isinstance(versions, list), f"versions {_shorten(versions)}")
        for version in versions or ():
            AssetSpec.check_version_valid(version)
    except ValueError as error:
        raise AssetIntegrityError(object_name, "a list of versions", error) from error
    return document, cast(List[str], versions)


def _user_and_host() -> str:
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (ImportError, KeyError, OSError):  # a uid without a name, as in containers
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


# --------------------------------------------------------------------- drivers


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

    def stat_object(self, name: str) -> Tuple[int, str]:
        """Return an object's size in bytes and its opaque etag."""

    def read_object(self, name: str) -> Tuple[bytes, str]:
        """Return a small object whole, and its etag, from one request."""

    def write_object(
        self, data: bytes, name: str, *, if_match: Optional[str] = None
    ) -> str:
        """Write an object in one request and return its new etag.

        if_match="": only if absent; an etag: only if unchanged; None: always.
        """

    def download_object(
        self, name: str, sink: ObjectSink, start: int = 0, length: Optional[int] = None
    ) -> None:
        """Write an object's bytes from start on to the sink, in bounded memory."""

    def upload_object(self, path: str, name: str) -> None:
        """Upload a file, in bounded memory."""

    def iterate_objects(self, prefix: str) -> Iterator[str]:
        """Yield the names below a prefix, page by page: `a` does not yield `ab/c`."""

    def delete_object(self, name: str) -> None:
        """Delete an object, if it is there. For tests and probes only."""

    def get_object_uri(self, name: str) -> str:
        """Return what people call the object."""


_OWN = ".modelkit-assets"  # begins the names of a local store's own files
_replacing = threading.Lock()


class LocalDriver:
    """A plain folder as a store; an object's name is its path in it.

    - an object is written beside its place and renamed: it is seen whole or not at all
    - conditional writes hold between threads, processes, and hosts that share the folder
    - no object but the one named is touched, whatever else lies in the folder
    Permissions: reading needs r-x on the folders; publishing also needs w.
    """

    def __init__(self, bucket: str, client: object = None, **settings: object) -> None:
        self.bucket = os.fspath(bucket)
        self._check_bucket()

    def stat_object(self, name: str) -> Tuple[int, str]:
        """Return an object's size in bytes and its etag."""
        with self._open(name) as file:
            status = os.fstat(file.fileno())
            data = file.read() if status.st_size <= _SMALL_OBJECT else b""
            return status.st_size, _local_etag(data, status)

    def read_object(self, name: str) -> Tuple[bytes, str]:
        """Return a small object whole, and its etag."""
        with self._open(name) as file:
            data = file.read()
            return data, _local_etag(data, os.fstat(file.fileno()))

    def write_object(
        self, data: bytes, name: str, *, if_match: Optional[str] = None
    ) -> str:
        """Write an object, if the condition holds, and return its new etag."""
        with self._staged(name) as (staged, path):
            with open(staged, "wb") as file:
                file.write(data)
            etag = _local_etag(data, os.stat(staged))
            if if_match is None:
                os.replace(staged, path)
            else:
                with _exclusive(os.path.join(os.path.dirname(path), _OWN + ".lock")):
                    self._replace_if(staged, path, name, if_match)
            return etag

    def download_object(
        self, name: str, sink: ObjectSink, start: int = 0, length: Optional[int] = None
    ) -> None:
        """Write an object's bytes from start on to the sink."""
        with self._open(name) as file:
            file.seek(start)
            left = length if length is not None else sys.maxsize
            while left > 0:
                data = file.read(min(_CHUNK, left))
                if not data:
                    break
                sink.write(data)
                left -= len(data)

    def upload_object(self, path: str, name: str) -> None:
        """Copy a file to its object."""
        import shutil

        with self._staged(name) as (staged, target):
            shutil.copyfile(path, staged)
            os.replace(staged, target)

    def iterate_objects(self, prefix: str = "") -> Iterator[str]:
        """Yield the names below a prefix; what comes or goes meanwhile may be missed."""
        self._check_bucket()
        pending = [prefix.strip("/")]
        while pending:
            folder = pending.pop()
            for entry in self._list_folder(folder):
                name = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append(name)
                elif entry.is_file() and not entry.name.startswith(_OWN):
                    yield name

    def delete_object(self, name: str) -> None:
        """Delete an object, if it is there."""
        try:
            os.unlink(self._path(name))
        except FileNotFoundError:
            pass

    def get_object_uri(self, name: str) -> str:
        """Return the object's path."""
        return os.path.abspath(self._path(name))

    def __repr__(self) -> str:
        return f"<LocalDriver bucket={self.bucket!r}>"

    def _check_bucket(self) -> None:
        if not os.path.isdir(self.bucket):
            raise FolderDoesNotExistError(
                "store folder", self.bucket, "MODELKIT_STORAGE_BUCKET"
            )

    def _path(self, name: str) -> str:
        if not is_contained(name):
            raise ValueError(f"the object name {_shorten(name)} leaves the store")
        return os.path.join(self.bucket, *name.split("/"))

    def _open(self, name: str) -> Any:
        path = self._path(name)
        try:
            return open(path, "rb")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            self._check_bucket()
            raise FileNotFoundError(f"no object {name!r}") from None

    def _list_folder(self, folder: str) -> List[os.DirEntry[str]]:
        try:
            with os.scandir(os.path.join(self.bucket, *folder.split("/"))) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return []

    @contextmanager
    def _staged(self, name: str) -> Iterator[Tuple[str, str]]:
        """Yield where to write an object and where it belongs, in one folder."""
        self._check_bucket()
        path = self._path(name)
        folder = os.path.dirname(path)
        try:
            os.makedirs(folder, exist_ok=True)
        except FileExistsError:
            raise NotADirectoryError(f"{folder!r} is an object, not a folder") from None
        staged = os.path.join(folder, f"{_OWN}.{os.getpid()}.{_token()}")
        try:
            yield staged, path
        finally:
            _remove_file(staged)

    def _replace_if(self, staged: str, path: str, name: str, if_match: str) -> None:
        if not if_match:
            try:
                # fails where the object is there, even if a writer knows no lock
                return os.link(staged, path)
            except FileExistsError:
                raise FileExistsError(f"the object {name!r} exists") from None
            except OSError:  # a file system without hard links
                if os.path.lexists(path):
                    raise FileExistsError(f"the object {name!r} exists") from None
        elif not os.path.exists(path) or self.stat_object(name)[1] != if_match:
            raise FileExistsError(f"the object {name!r} has changed")
        os.replace(staged, path)


def _local_etag(data: bytes, status: os.stat_result) -> str:
    """Name the content of a local object.

    Times and inode numbers come again within a few milliseconds, so where a write may
    depend on the etag, of small objects, it is a digest.
    """
    if status.st_size > _SMALL_OBJECT:
        return f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"
    import hashlib

    return hashlib.sha256(data).hexdigest()


@contextmanager
def _exclusive(path: str) -> Iterator[None]:
    """Hold a lock file against threads, processes, and hosts that share the folder."""
    with _replacing, open(path, "ab") as file:
        if fcntl:
            # lockf, not flock: NFS, where shared stores lie, has always honoured it
            fcntl.lockf(file, fcntl.LOCK_EX)
        else:
            _windows_lock(file.fileno(), wait=True)
        yield  # closing the file frees the lock


def _windows_lock(descriptor: int, wait: bool) -> None:
    import msvcrt

    windows = cast(Any, msvcrt)
    windows.locking(descriptor, windows.LK_LOCK if wait else windows.LK_NBLCK, 1)


def _token() -> str:
    return os.urandom(6).hex()


def _remove_file(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def load_driver(provider: str) -> Type[StorageDriver]:
    """Return the driver class of a provider: `Driver` in `drivers/PROVIDER.py`.

    The file is looked for beside this one, and loaded by its path: an importable
    package called `drivers` may be somebody else's. UnknownDriverError names what
    there is.
    """
    if provider == "local":
        return LocalDriver
    files = _find_driver_files()
    if provider not in files:
        raise UnknownDriverError(provider, sorted(["local", *files]))
    module_name = f"{__name__}.drivers.{provider}"
    module = sys.modules.get(module_name) or _load_module(module_name, files[provider])
    driver = getattr(module, "Driver", None)
    if driver is None:
        raise UnknownDriverError(provider, sorted(["local", *files]))
    return cast(Type[StorageDriver], driver)


def _find_driver_files() -> Dict[str, str]:
    """Return the path of each driver file, by provider."""
    here = os.path.dirname(os.path.abspath(__file__))
    found: Dict[str, str] = {}
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
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    if isinstance(getattr(module, "Driver", None), type):
        # nobody can import the module by its name: let pickle ask the loader
        copyreg.pickle(module.Driver, _reduce_driver)
    return module


def _reduce_driver(driver: Any) -> Tuple[Any, ...]:
    get_state = getattr(driver, "__getstate__", lambda: driver.__dict__)
    return _new_driver, (type(driver).__module__.rpartition(".")[2],), get_state()


def _new_driver(provider: str) -> StorageDriver:
    driver = load_driver(provider)
    return driver.__new__(driver)


# --------------------------------------------------------------------- transfers


class _Stopped(Exception):
    """Another transfer of the same job failed, or the user interrupted."""


class _Sink:
    """Write and hash what a driver reads, and never more than there may be."""

    def __init__(
        self, file: Any, object_name: str, size: Optional[int],
        advance: Callable[[int], None],
    ) -> None:  # fmt: skip
        import hashlib

        self._file, self._object_name, self._size = file, object_name, size
        self._advance = advance
        self.hash = hashlib.sha256()
        self.written = 0

    def write(self, data: bytes) -> None:
        self.written += len(data)
        if self._size is not None and self.written > self._size:
            raise AssetIntegrityError(self._object_name, f"{self._size} bytes", "more")
        try:
            self._file.write(data)
        except OSError as error:  # not to be mistaken for the store's
            raise AssetsDirError(self._file.name, error.strerror) from error
        self.hash.update(data)
        self._advance(len(data))


class _Transfer:
    """The moving of bytes for one operation: several objects at once, each retried.

    on_progress is called with each number of bytes that was moved, from any thread.
    """

    def __init__(
        self,
        driver: StorageDriver,
        timeout_s: float,
        workers: int,
        on_progress: Optional[Callable[[int], None]] = None,
    ) -> None:
        self.driver, self.timeout_s, self.workers = driver, timeout_s, workers
        self._on_progress = on_progress
        self._stop = threading.Event()

    def advance(self, size: int) -> None:
        """Note that bytes have moved; raises _Stopped where the rest is in vain."""
        if self._stop.is_set():
            raise _Stopped
        if self._on_progress:
            self._on_progress(size)

    def run(self, function: Callable[[Item], T], items: Iterable[Item]) -> List[T]:
        """Return function(item) for each item, in order, several at once.

        The first error stops the others, where they are, and is raised.
        """
        waiting = list(enumerate(items))
        waiting.reverse()
        results: Dict[int, T] = {}
        errors: List[BaseException] = []
        taking = threading.Lock()

        def take() -> Optional[Tuple[int, Item]]:
            with taking:
                return waiting.pop() if waiting and not self._stop.is_set() else None

        def work() -> None:
            for index, item in iter(take, None):
                try:
                    results[index] = function(item)
                except BaseException as error:
                    errors.append(error)
                    self._stop.set()

        self._run_threads(work, min(self.workers, len(waiting)))
        if errors:
            raise errors[0]
        return [results[index] for index in range(len(results))]

    def _run_threads(self, work: Callable[[], None], number: int) -> None:
        # daemons: an upload, which nothing can stop, must not hold up an interrupt
        threads = [threading.Thread(target=work, daemon=True) for _ in range(number)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException:
            self._stop.set()
            deadline = time.monotonic() + _STOP_GRACE_S
            for thread in threads:
                if thread.ident:
                    thread.join(max(0.0, deadline - time.monotonic()))
            raise

    def retry(
        self,
        attempt: Callable[[], T],
        object_name: str,
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
                pause = delay * int.from_bytes(os.urandom(2), "big") / 0xFFFF
                if now + pause > failing_since + self.timeout_s:
                    waited = now - failing_since
                    raise StorageUnavailableError(object_name, waited, error) from error
                _logger().info("trying %r again in %.1f s: %s", object_name, pause, error)
            except OSError as error:
                raise self._translate(error, object_name) from error
            except ValueError as error:
                if isinstance(error, ModelkitAssetsError):
                    raise
                raise ConfigurationError(f"{object_name!r}: {error}") from error
            if self._stop.wait(pause):
                raise _Stopped
            delay = min(2 * delay, _MAX_DELAY_S)

    def _translate(self, error: OSError, object_name: str) -> Exception:
        """Return one of our errors in place of a driver's, which is built-in."""
        if isinstance(error, (ModelkitAssetsError, FileExistsError)):
            return error  # that a condition failed is for the caller to handle
        if isinstance(error, FileNotFoundError):
            return ObjectDoesNotExistError(self.driver, self.driver.bucket, object_name)
        if isinstance(error, PermissionError):
            return StorageAccessError(object_name, error)
        return StorageDriverError(f"{object_name!r}: {error}")

    def download(self, object_name: str, path: str, file: ManifestFile) -> ManifestFile:
        """Download one file, and return it with the size and digest that it has.

        AssetIntegrityError where that is not what it should be, twice.
        """
        try:
            return self._download_once(object_name, path, file)
        except AssetIntegrityError as error:
            _logger().warning("%s: downloading it once more", error)
            return self._download_once(object_name, path, file)

    def _download_once(
        self, object_name: str, path: str, file: ManifestFile
    ) -> ManifestFile:
        with open(path, "wb") as target:
            sink = _Sink(target, object_name, file.size, self.advance)
            if file.sha256 != _EMPTY_SHA256:  # of which nothing needs to be asked
                self.retry(
                    lambda: self.driver.download_object(object_name, sink, sink.written),
                    object_name,
                    lambda: sink.written,
                )
        if file.executable:
            mode = os.stat(path).st_mode
            os.chmod(path, mode | (mode & 0o444) >> 2)  # for those who may read
        digest = sink.hash.hexdigest()
        if file.sha256 and (sink.written, digest) != (file.size, file.sha256):
            raise AssetIntegrityError(
                object_name,
                f"{file.size} bytes with SHA-256 {file.sha256}",
                f"{sink.written} with {digest}",
                "Nothing of it is visible; publish a new version if it is so in the store",
            )
        return file._replace(size=sink.written, sha256=digest)

    def keep_right(self, files: Iterable[ManifestFile], root: str) -> List[ManifestFile]:
        """Return those files that lie below root with the right size and digest."""

        def is_right(file: ManifestFile) -> bool:
            path = local_path(root, file.path)
            try:
                if not file.sha256 or os.stat(path).st_size != file.size:
                    return False
                return hash_file(path, self.advance)[1] == file.sha256
            except OSError:
                return False

        files = list(files)
        return [file for file, right in zip(files, self.run(is_right, files)) if right]


def hash_file(path: str, advance: Callable[[int], None]) -> Tuple[int, str]:
    """Return a file's size in bytes and SHA-256, read in bounded memory."""
    import hashlib

    digest, size = hashlib.sha256(), 0
    with open(path, "rb", buffering=0) as file:
        while True:
            data = file.read(_CHUNK)
            if not data:
                return size, digest.hexdigest()
            digest.update(data)
            size += len(data)
            advance(len(data))


def local_path(root: str, part: str) -> str:
    """Return where an asset's part lies; root itself for the part of a file asset."""
    return os.path.join(root, *part.split("/")) if part else root


# --------------------------------------------------------------------- publishing


class _Source(NamedTuple):
    """What is being published: its manifest, and each file's path and stamp."""

    manifest: Manifest
    stamps: Dict[str, Tuple[str, Tuple[int, ...]]]


def _read_source(path: str, transfer: _Transfer) -> _Source:
    """Find and hash all that is published with a path; InvalidSourceError if unfit."""
    try:
        found = dict(_walk_source(path))
        files = [part for part, (_, status) in found.items() if status is not None]
        if not files:
            raise InvalidSourceError(path, "it holds no files")
        stamps = {part: (found[part][0], _stamp(found[part][1])) for part in files}
        entries = transfer.run(
            lambda part: _describe_file(part, *stamps[part], transfer), files
        )
    except OSError as error:
        if isinstance(error, ModelkitAssetsError):
            raise
        at = f" ({error.filename!r})" if error.filename not in (None, path) else ""
        raise InvalidSourceError(path, f"{error.strerror or error}{at}") from error
    empty = [part for part in found if part not in stamps]
    return _Source(Manifest.create("" not in stamps, entries, empty), stamps)


def _walk_source(
    top: str,
) -> Iterator[Tuple[str, Tuple[str, Optional[os.stat_result]]]]:
    """Yield (part, (path, status)) of each file, and with None of each empty folder.

    Symbolic links are followed. In order of the parts; `""` is a source that is a file.
    """
    pending: List[Tuple[str, str, Tuple[Tuple[int, int], ...]]] = [("", top, ())]
    while pending:
        part, path, above = pending.pop()
        status = os.stat(path)
        identity = (status.st_dev, status.st_ino)
        if part and not is_contained(part):
            raise InvalidSourceError(top, f"the name {part!r} cannot be kept everywhere")
        if stat.S_ISREG(status.st_mode):
            yield part, (path, status)
        elif not stat.S_ISDIR(status.st_mode):
            raise InvalidSourceError(top, f"{path!r} is neither a file nor a folder")
        elif identity in above:
            raise InvalidSourceError(top, f"the link {path!r} leads back to a folder above")
        else:
            names = [name for name in os.listdir(path) if part or not _is_marker(path, name)]
            if not names and part:
                yield part, (path, None)
            pending += [
                (f"{part}/{name}" if part else name, os.path.join(path, name),
                 (*above, identity))
                for name in sorted(names, reverse=True)
            ]  # fmt: skip


def _is_marker(folder: str, name: str) -> bool:
    """Tell whether an entry is the marker of a cached copy, which is not its content."""
    if name != SUCCESS:
        return False
    path = os.path.join(folder, name)
    with open(path, "rb") as file:
        data = file.read()
    try:
        return not data or bool(Manifest.from_json(data, path))
    except AssetIntegrityError:
        raise InvalidSourceError(folder, f"{name!r} is a reserved name") from None


def _stamp(status: Optional[os.stat_result]) -> Tuple[int, ...]:
    """Return what changes when a file does."""
    assert status
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _describe_file(
    part: str, path: str, stamp: Tuple[int, ...], transfer: _Transfer
) -> ManifestFile:
    size, digest = hash_file(path, transfer.advance)
    _check_unchanged(path, stamp)
    executable = bool(os.stat(path).st_mode & stat.S_IXUSR)
    return ManifestFile(part, size, digest, executable)


def _check_unchanged(path: str, stamp: Tuple[int, ...]) -> None:
    try:
        if _stamp(os.stat(path)) == stamp:
            return
    except FileNotFoundError:
        pass
    raise SourceChangedError(path)


# --------------------------------------------------------------------- the store


class StorageProvider:
    """The remote store: publishes versions, and reads what is published.

    An argument beats its environment variable, which beats the default:
    timeout_s (MODELKIT_STORAGE_TIMEOUT_S, seconds), prefix, force_download, provider
    (`s3`, `gcs`, `az`, `local`, or a driver file's name), and the driver's own
    settings, `bucket` among them. client is a ready SDK client for the driver.

    - any number of publishers at once, and a crash at any point, lose and tear nothing
    - nothing in the store is ever deleted or replaced, but the list of versions
    """

    def __init__(
        self,
        timeout_s: Optional[float] = None,
        prefix: Optional[str] = None,
        force_download: Optional[bool] = None,
        provider: Optional[str] = None,
        client: Optional[Any] = None,
        **driver_settings: Any,
    ) -> None:
        self.provider = _setting(
            provider, "MODELKIT_STORAGE_PROVIDER", "STORAGE_PROVIDER"
        )
        if not self.provider:
            raise NoConfiguredProviderError()
        self.timeout = _number(timeout_s, "MODELKIT_STORAGE_TIMEOUT_S", DEFAULT_TIMEOUT_S)
        self.workers = _number(None, "MODELKIT_STORAGE_WORKERS", DEFAULT_WORKERS)
        self.force_download = _boolean(force_download, "MODELKIT_STORAGE_FORCE_DOWNLOAD")
        _boolean(driver_settings.pop("lazy_driver", None), "MODELKIT_LAZY_DRIVER")
        self.prefix = _setting(prefix, "MODELKIT_STORAGE_PREFIX") or DEFAULT_PREFIX
        self.prefix = self.prefix.strip("/")
        if not is_contained(self.prefix):
            raise ConfigurationError(
                f"MODELKIT_STORAGE_PREFIX must be a path without ..: {self.prefix!r}"
            )
        if self.workers < 1 or self.workers % 1:
            raise ConfigurationError("MODELKIT_STORAGE_WORKERS must be a whole number")
        bucket = _setting(driver_settings.pop("bucket", None), "MODELKIT_STORAGE_BUCKET")
        self.driver = _make_driver(self.provider, bucket, client, driver_settings)

    def get_object_name(self, name: str, version: str) -> str:
        """Return the object of a file asset, and what a directory's objects lie below."""
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

    def get_versions_info(self, name: str) -> List[str]:
        """Return an asset's published versions, the latest first.

        ObjectDoesNotExistError where the store has no such asset.
        """
        object_name = self.get_versions_object_name(name)
        return _read_versions(self._read(object_name)[0], object_name)[1]

    def get_asset_meta(self, name: str, version: str) -> Dict[str, Any]:
        """Return a version's manifest as JSON holds it, `push_date` as a datetime."""
        return describe_manifest(self.read_manifest(name, version))

    def read_manifest(self, name: str, version: str) -> Manifest:
        """Return a version's manifest; ObjectDoesNotExistError where there is none."""
        object_name = self.get_meta_object_name(name, version)
        return Manifest.from_json(self._read(object_name)[0], object_name)

    def iterate_assets(self) -> Iterator[Tuple[str, List[str]]]:
        """Yield each asset's name and its versions, in order of the names."""
        transfer = self._transfer()
        names = transfer.retry(
            lambda: find_asset_names(
                self.driver.iterate_objects(self.prefix), self.prefix
            ),
            self.prefix,
        )
        yield from zip(names, transfer.run(self.get_versions_info, names))

    def new(
        self,
        asset_path: str,
        name: str,
        version: Optional[str] = None,
        dry_run: bool = False,
    ) -> str:
        """Publish a file or folder as a new asset, and return its version.

        AssetAlreadyExistsError where the asset has a version. dry_run writes nothing.
        """
        check_new_name(name)
        spec = AssetSpec(name, version=version)
        if self._read_listed(name)[1]:
            raise AssetAlreadyExistsError(name)
        return self._publish(asset_path, spec, [], dry_run)

    def update(
        self,
        asset_path: str,
        name: str,
        version: Optional[str] = None,
        *,
        bump_major: bool = False,
        dry_run: bool = False,
    ) -> str:
        """Publish a file or folder as an asset's next version, and return that.

        version may be complete, or name the major to count up. AssetDoesNotExistError
        where the asset is not there yet. dry_run writes nothing.
        """
        spec = AssetSpec(name, version=version)
        _, listed, etag = self._read_listed(name)
        if not etag:
            raise AssetDoesNotExistError(name, hint="publish it first with `new`")
        return self._publish(asset_path, spec, listed, dry_run, bump_major)

    def push(
        self, asset_path: str, name: str, version: str, dry_run: bool = False
    ) -> None:
        """Upload a version without listing it: a pinned spec finds it, no other does."""
        spec = AssetSpec(name, version=version)
        self._push(asset_path, spec, self._read_listed(name)[1], dry_run)

    def download(self, name: str, version: str, destination: str) -> Dict[str, Any]:
        """Download a version to destination/NAME/VERSION; return its `path` and `meta`.

        What is there before is replaced, once all is complete and its digests are right.
        """
        import shutil

        manifest = self.read_manifest(name, version)
        path = local_path(destination, f"{name}/{version}")
        staging = os.path.join(os.path.dirname(path), f"{_OWN}.{_token()}")
        os.makedirs(staging)
        try:
            data = os.path.join(staging, "data")
            manifest = self.download_files(name, version, manifest, data)
            swap_in(data, path, os.path.join(staging, "old"))
        finally:
            shutil.rmtree(staging)
        return {"path": path, "meta": describe_manifest(manifest)}

    def download_files(
        self,
        name: str,
        version: str,
        manifest: Manifest,
        root: str,
        on_progress: Optional[Callable[[int], None]] = None,
    ) -> Manifest:
        """Download a version's files below root, but those that are right there already.

        Returns the manifest with the sizes and digests of the files as they are now.
        """
        object_name = self.get_object_name(name, version)
        transfer = self._transfer(on_progress)
        kept = set(transfer.keep_right(manifest.files, root))
        missing = [file for file in manifest.files if file not in kept]
        _make_folders(root, manifest)
        _check_free_space(os.path.dirname(root), sum(file.size or 0 for file in missing))

        def fetch(file: ManifestFile) -> ManifestFile:
            source = f"{object_name}/{file.path}" if file.path else object_name
            return transfer.download(source, local_path(root, file.path), file)

        fetched = {file.path: file for file in transfer.run(fetch, missing)}
        return manifest.with_files([fetched.get(file.path, file) for file in manifest.files])

    def is_right(
        self, manifest: Manifest, root: str, on_progress: Callable[[int], None]
    ) -> bool:
        """Tell whether all of a version's files lie below root, by their digests."""
        transfer = self._transfer(on_progress)
        return os.path.isdir(root) == manifest.is_directory and transfer.keep_right(
            manifest.files, root
        ) == list(manifest.files)

    def _transfer(
        self, on_progress: Optional[Callable[[int], None]] = None
    ) -> _Transfer:
        return _Transfer(self.driver, self.timeout, int(self.workers), on_progress)

    def _read(self, object_name: str) -> Tuple[bytes, str]:
        return self._transfer().retry(
            lambda: self.driver.read_object(object_name), object_name
        )

    def _write(self, data: bytes, object_name: str, if_match: str) -> str:
        return self._transfer().retry(
            lambda: self.driver.write_object(data, object_name, if_match=if_match),
            object_name,
        )

    def _read_listed(self, name: str) -> Tuple[Dict[str, Any], List[str], str]:
        """Return an asset's `.versions` object, what it lists, and its etag, or empty."""
        object_name = self.get_versions_object_name(name)
        try:
            data, etag = self._read(object_name)
        except ObjectDoesNotExistError:
            return {}, [], ""
        return (*_read_versions(data, object_name), etag)

    def _publish(
        self,
        asset_path: str,
        spec: AssetSpec,
        listed: List[str],
        dry_run: bool,
        bump_major: bool = False,
    ) -> str:
        version = self._push(asset_path, spec, listed, dry_run, bump_major)
        if not dry_run:
            self._commit(spec, version, is_new=not listed)
        return version

    def _push(
        self,
        asset_path: str,
        spec: AssetSpec,
        listed: List[str],
        dry_run: bool,
        bump_major: bool = False,
    ) -> str:
        if spec.version and not (listed or spec.is_version_complete()):
            raise InvalidVersionError(spec.version, "a first version must be complete")
        choose_next_version(spec, listed, bump_major)  # wrong? then before the hashing
        transfer = self._transfer()
        source = _read_source(os.fspath(asset_path), transfer)
        taken = set(listed)
        state = "taken"
        while state == "taken":
            version = choose_next_version(spec, sorted(taken), bump_major)
            if version not in taken:
                state = self._claim(spec.name, version, source.manifest, dry_run)
            if state == "taken":
                if spec.is_version_complete():
                    raise AssetAlreadyExistsError(spec.name, version)
                taken |= {version, *self._read_listed(spec.name)[1]}
        if not dry_run:
            self._upload(source, spec.name, version, transfer, state == "begun")
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
        return state

    def _look_up(self, name: str, version: str, manifest: Manifest) -> str:
        object_name = self.get_meta_object_name(name, version)
        try:
            claimed = Manifest.from_json(self._read(object_name)[0], object_name)
        except ObjectDoesNotExistError:
            return "taken" if self._has_data(name, version) else "free"
        except AssetIntegrityError:
            return "taken"
        if manifest.has_same_content(claimed):
            return "taken" if version in self._read_listed(name)[1] else "begun"
        return "taken"

    def _has_data(self, name: str, version: str) -> bool:
        """Tell whether somebody uploads the version without a claim, as modelkit does."""
        object_name = self.get_object_name(name, version)
        if self._stat_size(object_name) is not None:
            return True
        return self._transfer().retry(
            lambda: any(True for _ in self.driver.iterate_objects(object_name)),
            object_name,
        )

    def _stat_size(self, object_name: str) -> Optional[int]:
        try:
            return self._transfer().retry(
                lambda: self.driver.stat_object(object_name)[0], object_name
            )
        except ObjectDoesNotExistError:
            return None

    def _upload(
        self, source: _Source, name: str, version: str, transfer: _Transfer, begun: bool
    ) -> None:
        object_name = self.get_object_name(name, version)

        def upload(file: ManifestFile) -> None:
            path, stamp = source.stamps[file.path]
            target = f"{object_name}/{file.path}" if file.path else object_name
            # nobody else may write below a claim, so what is there is from last time
            if begun and self._stat_size(target) == file.size:
                return
            _check_unchanged(path, stamp)
            try:
                transfer.retry(lambda: self.driver.upload_object(path, target), target)
            finally:
                _check_unchanged(path, stamp)
            transfer.advance(file.size or 0)

        transfer.run(upload, source.manifest.files)

    def _commit(self, spec: AssetSpec, version: str, is_new: bool) -> None:
        """List a version, keeping whatever others list at the same time."""
        object_name = self.get_versions_object_name(spec.name)
        deadline = time.monotonic() + self.timeout
        while True:
            document, listed, etag = self._read_listed(spec.name)
            if version in listed:
                return  # ours, whose answer was lost; or one that completed our push
            if is_new and listed:
                raise AssetAlreadyExistsError(spec.name)
            system = spec.versioning_among([version])
            document["versions"] = system.sort_versions([version, *listed])
            try:
                self._write(json.dumps(document).encode(), object_name, if_match=etag)
                return
            except FileExistsError as error:  # another publisher was faster
                if time.monotonic() > deadline:
                    raise StorageUnavailableError(
                        object_name, self.timeout, error
                    ) from error
                time.sleep(0.05 * int.from_bytes(os.urandom(1), "big") / 0xFF)


def _make_driver(
    provider: str, bucket: Optional[str], client: Any, settings: Dict[str, Any]
) -> StorageDriver:
    driver = cast(Any, load_driver(provider))
    if not bucket:
        raise ConfigurationError(
            f"MODELKIT_STORAGE_BUCKET is not set, which the provider {provider!r} needs"
        )
    try:
        return cast(StorageDriver, driver(bucket, client, **settings))
    except ModelkitAssetsError:
        raise
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def find_asset_names(object_names: Iterable[str], prefix: str) -> List[str]:
    """Return the assets among a store's objects: those that a `.versions` object lists.

    A file called `x.versions` in a directory asset is none: it lies below a version.
    """
    candidates, versions = [], set()
    for object_name in object_names:
        name = object_name[len(prefix) + 1 :]
        if name.endswith(".versions"):
            candidates.append(name[: -len(".versions")])
        elif name.endswith(".meta"):
            versions.add(name[: -len(".meta")])

    def is_asset(name: str) -> bool:
        segments = name.split("/")
        above = ("/".join(segments[:end]) for end in range(1, len(segments)))
        return bool(_NAME.fullmatch(name)) and versions.isdisjoint(above)

    return sorted(filter(is_asset, candidates))


def describe_manifest(manifest: Manifest) -> Dict[str, Any]:
    """Return a manifest as modelkit's `get_asset_meta` does."""
    push_date = parse_date(manifest.document["push_date"])
    return {**manifest.document, "push_date": push_date}


def _make_folders(root: str, manifest: Manifest) -> None:
    """Make the folders that a version's files lie in, and its empty ones."""
    if not manifest.is_directory:
        return
    parts = {file.path.rpartition("/")[0] for file in manifest.files}
    for part in ("", *parts, *manifest.empty_directories):
        os.makedirs(local_path(root, part), exist_ok=True)


def _check_free_space(folder: str, needed: int) -> None:
    import shutil

    free = shutil.disk_usage(folder).free
    if needed > free:
        raise AssetsDirError(folder, f"{needed} bytes are needed and {free} are free")


def swap_in(new: str, path: str, aside: str) -> None:
    """Rename new to path; a folder there, or one in the way, is renamed to aside first.

    Where that fails, what was there before is put back.
    """
    for attempt in range(_MAX_SWAPS):
        old = f"{aside}{attempt}"
        moved = os.path.isdir(path) or (os.path.isdir(new) and os.path.lexists(path))
        try:
            if moved:
                os.rename(path, old)
            return os.replace(new, path)
        except OSError:
            # another process, without our lock, put its copy there or took it away
            if os.path.lexists(path) and attempt + 1 < _MAX_SWAPS:
                continue
            if os.path.lexists(old):
                os.rename(old, path)
            raise


# --------------------------------------------------------------------- the cache


def decide_fetch(data: bool, marker: bool, provider: bool, force: bool) -> str:
    """Return what to do for one version: `hit`, `check`, `download` or `absent`.

    data and marker: whether the assets dir has them. `check` is data that a killed
    process or another program left without a marker: right or not, only digests tell.
    """
    if not provider:
        return "hit" if data else "absent"
    if force or not data:
        return "download"
    return "hit" if marker else "check"


class _Cache:
    """The assets dir: where assets and markers lie, and how they come to be there."""

    def __init__(self, assets_dir: str, timeout_s: float) -> None:
        self.assets_dir, self.timeout_s = assets_dir, timeout_s
        self.own = os.path.join(assets_dir, ".cache")

    def get_path(self, name: str, version: str) -> str:
        """Return where a version lies."""
        return os.path.join(self.assets_dir, *name.split("/"), version)

    def look_up(self, path: str) -> Tuple[bool, bool]:
        """Tell whether a version's data and its marker are there."""
        try:
            is_directory = stat.S_ISDIR(os.stat(path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False, False
        return True, os.path.exists(_marker_path(path, is_directory))

    def read_marker(self, path: str) -> Optional[Manifest]:
        """Return the manifest in a version's marker; None where modelkit wrote it."""
        marker = _marker_path(path, os.path.isdir(path))
        try:
            with open(marker, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return None
        return Manifest.from_json(data, marker) if data else None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn what the operating system says of the assets dir into AssetsDirError."""
        try:
            yield
        except OSError as error:
            if isinstance(error, ModelkitAssetsError):
                raise
            at = f" ({error.filename!r})" if error.filename else ""
            reason = f"{error.strerror or error}{at}"
            raise AssetsDirError(self.assets_dir, reason) from error

    @contextmanager
    def lock(self, name: str) -> Iterator[str]:
        """Hold an asset's lock, and yield the lock file, whose time shows progress.

        It only saves work: all is right without it. AssetLockTimeoutError where
        another process holds it and makes no progress for the timeout.
        """
        path = local_path(self.own, name) + ".lock"
        with self.writing():
            os.makedirs(os.path.dirname(path), exist_ok=True)
            _write_cache_tag(self.own)
            descriptor = self._wait_for_lock(path, name)
        try:
            yield path
        finally:
            os.close(descriptor)

    def _wait_for_lock(self, path: str, name: str) -> int:
        deadline, seen = 0.0, -1
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            if _try_lock(descriptor, path):
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
    def staging(self, name: str, version: str, manifest: Manifest) -> Iterator[str]:
        """Yield a private folder for a download, which is kept where that fails.

        It begins with the `data` that a killed download of the same content left.
        """
        import hashlib

        content = hashlib.sha256(json.dumps(manifest[:3]).encode()).hexdigest()
        key = f"{name[:60]}@{version[:60]}@{content[:16]}".replace("/", "+")
        own = "~".join((key, *map(str, _pid_and_host()), _token()))
        folder = os.path.join(self.own, "staging", own)
        _active_staging.add(own)
        try:
            with self.writing():
                os.makedirs(folder)
                self._reclaim(key, folder)
                yield folder
                _remove_tree(folder)
        finally:
            _active_staging.discard(own)

    def _reclaim(self, key: str, folder: str) -> None:
        """Take over what nobody holds: of the same content at once, else if old."""
        for entry in os.listdir(os.path.dirname(folder)):
            path = os.path.join(os.path.dirname(folder), entry)
            try:
                idle_s = time.time() - os.stat(path).st_mtime
            except FileNotFoundError:
                continue
            same = entry.partition("~")[0] == key
            if _is_held(entry, idle_s) or not (same or idle_s > _ABANDONED_S):
                continue
            taken = os.path.join(folder, entry)
            try:
                os.rename(path, taken)  # of several processes, one gets it
                if same and not os.path.lexists(os.path.join(folder, "data")):
                    os.rename(os.path.join(taken, "data"), os.path.join(folder, "data"))
            except FileNotFoundError:
                pass
            _remove_tree(taken)

    def mark(self, path: str, manifest: Manifest, folder: str) -> None:
        """Write the marker of what lies at the path, by way of a staging folder."""
        staged = os.path.join(folder, "marker")
        with open(staged, "wb") as file:
            file.write(manifest.to_json())
        os.replace(staged, _marker_path(path, manifest.is_directory))

    def publish(self, folder: str, path: str, manifest: Manifest) -> None:
        """Make a staged version visible, whole and marked.

        A crash in between leaves the old copy, or none; never data that has a marker
        and is not whole.
        """
        data, old = os.path.join(folder, "data"), os.path.join(folder, "old")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if manifest.is_directory:
            self.mark(data, manifest, folder)
        else:
            if self.look_up(path) == (True, False):
                os.rename(path, old)  # or the marker would pass it off as whole
            self.mark(path, manifest, folder)
        swap_in(data, path, old)


_active_staging: Set[str] = set()  # this process's own


def _marker_path(path: str, is_directory: bool) -> str:
    if is_directory:
        return os.path.join(path, SUCCESS)
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}{SUCCESS}")


def _write_cache_tag(folder: str) -> None:
    # tells backup programs to pass it over: https://bford.info/cachedir/
    path = os.path.join(folder, "CACHEDIR.TAG")
    if not os.path.exists(path):
        with open(path, "w") as file:
            file.write("Signature: 8a477f597d28d172789f06886806bc55\n")


def _try_lock(descriptor: int, path: str) -> bool:
    """Lock a file, if it is free and still the one at the path (modelkit deletes it)."""
    try:
        if fcntl:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            _windows_lock(descriptor, wait=False)
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def _read_holder(file: IO[bytes]) -> Tuple[object, object]:
    try:
        pid, host = json.loads(file.read(1000))
    except (OSError, ValueError, TypeError):  # being written, or modelkit's, or Windows
        return "unknown", "unknown"
    return pid, host


def _pid_and_host() -> Tuple[int, str]:
    import socket

    return os.getpid(), re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())


def _is_held(entry: str, idle_s: float) -> bool:
    """Tell whether a staging folder may be in use by a process that lives."""
    _, pid, host, _ = (*entry.split("~"), "", "", "")[:4]
    if entry in _active_staging:
        return True
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


def _remove_tree(path: str) -> None:
    import shutil

    shutil.rmtree(path, ignore_errors=True)  # what stays is reclaimed another time


def _touching(*paths: str) -> Callable[[int], None]:
    """Return a progress function that shows, by the times of files, that work goes on."""
    last = 0.0

    def touch(size: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _HEARTBEAT_S:
            last = now
            for path in paths:
                os.utime(path)

    return touch


# --------------------------------------------------------------------- the manager


class AssetsManager:
    """Fetches assets: from the assets dir, and into it from the store.

    assets_dir        an existing folder (MODELKIT_ASSETS_DIR, else the current one)
    timeout           seconds to wait for another process's download that makes no
                      progress (MODELKIT_ASSETS_TIMEOUT_S)
    storage_provider  the store; else the one that is configured; without one, the
                      manager is in pre-downloaded mode

    One manager serves any number of threads, and pickles.
    """

    def __init__(
        self,
        assets_dir: Union[str, os.PathLike[str], None] = None,
        timeout: Optional[float] = None,
        storage_provider: Optional[StorageProvider] = None,
    ) -> None:
        chosen = _setting(assets_dir, "MODELKIT_ASSETS_DIR", "ASSETS_DIR")
        self.assets_dir = os.path.abspath(chosen or os.getcwd())
        if not os.path.isdir(self.assets_dir):
            raise FolderDoesNotExistError(
                "assets dir", self.assets_dir, "MODELKIT_ASSETS_DIR"
            )
        self.timeout = _number(
            timeout, "MODELKIT_ASSETS_TIMEOUT_S", DEFAULT_LOCK_TIMEOUT_S
        )
        self._store_error: Optional[FolderDoesNotExistError] = None
        if storage_provider is None:
            try:
                storage_provider = StorageProvider()
            except NoConfiguredProviderError:
                pass
            except FolderDoesNotExistError as error:
                # what is cached can be served even where the store's folder is gone
                self._store_error = error
        self.storage_provider = storage_provider
        if storage_provider and isinstance(storage_provider.driver, LocalDriver):
            _check_apart(self.assets_dir, storage_provider)
        self._cache = _Cache(self.assets_dir, self.timeout)

    def fetch_asset(
        self,
        spec: Union[AssetSpec, str],
        return_info: bool = False,
        force_download: Optional[bool] = None,
    ) -> Any:
        """Return the local path of an asset, or of its part, downloaded if need be.

        With return_info, a dict: `path`, `version`, `from_cache`, and after a download
        `meta`, `object_name`, `meta_object_name`, `versions_object_name`.

        - a pinned version that is cached is returned without a lock, write or request
        - what is returned is whole, and had the right digests when it was downloaded
        - AssetDoesNotExistError or LocalAssetDoesNotExistError where there is none
        """
        info = self._fetch(spec, force_download)
        return info if return_info else info["path"]

    def resolve(self, spec: Union[AssetSpec, str]) -> AssetSpec:
        """Return the spec with the version that it means now; a complete one asks nobody.

        The store's versions decide, or without one those in the assets dir.
        """
        if isinstance(spec, str):
            spec = AssetSpec.from_string(spec)
        if spec.is_version_complete():
            return spec
        versions = self._list_versions(spec)
        if versions:
            return spec.pinned(choose_version(spec, versions))
        if spec.version and not self.storage_provider:
            raise LocalAssetDoesNotExistError(spec.name, spec.version, versions)
        where = "store" if self.storage_provider else "assets dir"
        raise AssetDoesNotExistError(spec.name, hint=f"the {where} has no version of it")

    def find_manifest(self, spec: AssetSpec) -> Optional[Manifest]:
        """Return a pinned version's manifest: the cached one, else the store's."""
        path = self._cache.get_path(spec.name, cast(str, spec.version))
        manifest = self._cache.read_marker(path)
        if manifest or (os.path.exists(path) and not self.storage_provider):
            return manifest
        return self._read_manifest(spec)

    def find_path(self, spec: AssetSpec) -> Optional[str]:
        """Return where a pinned version is cached; None where it is not."""
        path = self._cache.get_path(spec.name, cast(str, spec.version))
        action = decide_fetch(*self._cache.look_up(path), self._has_store(), force=False)
        return path if action == "hit" else None

    def _fetch(
        self, spec: Union[AssetSpec, str], force_download: Optional[bool]
    ) -> Dict[str, Any]:
        text = str(spec)
        try:
            pinned = self.resolve(spec)
        except (AssetDoesNotExistError, InvalidAssetSpecError):
            path = _find_existing_path(text, self.assets_dir)
            if path is None:
                raise
            return {"path": path, "version": None, "from_cache": True}
        if force_download is None:
            force_download = bool(
                self.storage_provider and self.storage_provider.force_download
            )
        info = self._fetch_version(pinned, force_download)
        if pinned.sub_part:
            info["path"] = local_path(info["path"], pinned.sub_part)
            if not os.path.exists(info["path"]):
                raise AssetDoesNotExistError(
                    str(pinned), hint=f"the asset has no part {pinned.sub_part!r}"
                )
        return info

    def _fetch_version(self, spec: AssetSpec, force: bool) -> Dict[str, Any]:
        path = self._cache.get_path(spec.name, cast(str, spec.version))
        if force:
            self._require_store("download again")
        action = decide_fetch(*self._cache.look_up(path), self._has_store(), force)
        if action == "absent":
            raise LocalAssetDoesNotExistError(
                spec.name, spec.version, self._list_local_versions(spec)
            )
        info = {"path": path, "version": spec.version, "from_cache": True}
        if action == "hit":
            return info
        return {**info, **self._download(spec, path, force)}

    def _download(self, spec: AssetSpec, path: str, force: bool) -> Dict[str, Any]:
        """Bring a version into the assets dir, unless another process has meanwhile."""
        name, version = spec.name, cast(str, spec.version)
        provider = self._require_store("download")
        manifest = self._read_manifest(spec)
        with self._cache.lock(name) as lock:
            action = decide_fetch(*self._cache.look_up(path), True, force)
            if action == "hit":
                return {}
            with self._cache.staging(name, version, manifest) as folder:
                touch = _touching(lock, folder)
                if action == "check" and provider.is_right(manifest, path, touch):
                    self._cache.mark(path, manifest, folder)
                    return {}
                _logger().info("downloading %s (%d bytes)", spec, manifest.size)
                data = os.path.join(folder, "data")
                manifest = provider.download_files(name, version, manifest, data, touch)
                self._cache.publish(folder, path, manifest)
        return {
            "from_cache": False,
            "meta": describe_manifest(manifest),
            "object_name": provider.get_object_name(name, version),
            "meta_object_name": provider.get_meta_object_name(name, version),
            "versions_object_name": provider.get_versions_object_name(name),
        }

    def _read_manifest(self, spec: AssetSpec) -> Manifest:
        provider, version = self._require_store("read"), cast(str, spec.version)
        try:
            return provider.read_manifest(spec.name, version)
        except ObjectDoesNotExistError as error:
            raise AssetDoesNotExistError(
                spec.name, version, _name_versions(self._list_versions(spec))
            ) from error

    def _list_versions(self, spec: AssetSpec) -> List[str]:
        if not self._has_store():
            return self._list_local_versions(spec)
        try:
            return self._require_store("list").get_versions_info(spec.name)
        except ObjectDoesNotExistError:
            return []

    def _list_local_versions(self, spec: AssetSpec) -> List[str]:
        # a version that is missing says nothing about how the others are named
        spec = AssetSpec(spec.name) if spec.is_version_complete() else spec
        return spec.get_local_versions(local_path(self.assets_dir, spec.name))

    def _has_store(self) -> bool:
        return self.storage_provider is not None or self._store_error is not None

    def _require_store(self, action: str) -> StorageProvider:
        if self._store_error:
            raise self._store_error
        if not self.storage_provider:
            raise NoConfiguredProviderError(action)
        return self.storage_provider


def _name_versions(versions: Sequence[str]) -> str:
    if not versions:
        return "the store has no version of it"
    more = f" and {len(versions) - 10} more" if len(versions) > 10 else ""
    return f"there are {', '.join(versions[:10])}{more}"


def _find_existing_path(text: str, assets_dir: str) -> Optional[str]:
    """Return the file or folder that a version-less text is the path of, if any.

    It lies below the assets dir, below the current folder, or the path is absolute.
    """
    if os.path.isabs(text):
        return text if "\0" not in text and os.path.exists(text) else None
    if is_contained(text):
        for root in (assets_dir, os.getcwd()):
            path = local_path(root, text)
            if os.path.exists(path):
                return path
    base, bracket, part = text.partition("[")
    path = bracket and part.endswith("]") and _find_existing_path(base, assets_dir) or ""
    inner = local_path(path, part[:-1].strip("/"))
    return inner if path and is_contained(part[:-1]) and os.path.exists(inner) else None


def _check_apart(assets_dir: str, provider: StorageProvider) -> None:
    """Raise ConfigurationError where the assets dir and a local store overlap."""
    store = os.path.join(provider.driver.bucket, *provider.prefix.split("/"))
    one, other = (
        os.path.join(os.path.normcase(os.path.realpath(folder)), "")
        for folder in (assets_dir, store)
    )
    if one.startswith(other) or other.startswith(one):
        raise ConfigurationError(
            f"the assets dir {assets_dir!r} and the store {store!r} are the same folder, "
            "or one lies inside the other: set MODELKIT_ASSETS_DIR or "
            "MODELKIT_STORAGE_BUCKET to another one"
        )


# --------------------------------------------------------------------- command line

_PROGRAM = "modelkit_assets"
# each option is a setting: where given, it stands for its environment variable
_OPTIONS = {
    "--assets-dir": ("MODELKIT_ASSETS_DIR", "DIR", "folder of the local copies"),
    "--provider": ("MODELKIT_STORAGE_PROVIDER", "NAME", "s3, gcs, az, local, or another"),
    "--bucket": ("MODELKIT_STORAGE_BUCKET", "BUCKET", "bucket, container, or folder"),
    "--prefix": ("MODELKIT_STORAGE_PREFIX", "PREFIX", "what object names begin with"),
    "--versioning": (
        "MODELKIT_ASSETS_VERSIONING_SYSTEM",
        "SYSTEM",
        "major_minor, simple_date, or package.module:Class",
    ),
}


def main(args: Optional[Sequence[str]] = None) -> int:
    """Run the command line, and return its exit code: 0 only if all went well."""
    options = _get_main_parser().parse_args(args)
    given = {
        variable: value
        for option, (variable, _, _) in _OPTIONS.items()
        if (value := getattr(options, option.strip("-").replace("-", "_"), None))
    }
    before = {variable: os.environ.get(variable) for variable in given}
    os.environ.update(given)
    _configure_logging(options)
    try:
        return cast(int, options.run(options))
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # whoever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ModelkitAssetsError, OSError) as error:
        if options.verbose:
            import traceback

            traceback.print_exc()
        return _fail(str(error), getattr(error, "exit_code", 1))
    finally:
        for variable, value in before.items():
            os.environ.pop(variable)
            if value is not None:
                os.environ[variable] = value


def _fail(message: str, code: int) -> int:
    print(f"{_PROGRAM}: error: {' '.join(message.split())}", file=sys.stderr)
    return code


def _configure_logging(options: argparse.Namespace) -> None:
    if options.verbose or options.quiet:
        import logging

        level = logging.DEBUG if options.verbose else logging.ERROR
        logging.basicConfig(stream=sys.stderr, format=f"{_PROGRAM}: %(message)s")
        logging.getLogger("modelkit_assets").setLevel(level)


def _get_main_parser() -> argparse.ArgumentParser:
    import argparse

    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Publish and fetch assets: versioned, immutable files and folders.",
        epilog="exit codes: 0 done, 1 failed or declined, 2 bad usage or configuration, "
        "3 no such asset or version, 4 access refused, 5 store unreachable, "
        "6 content does not match its digest, 130 interrupted",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(
        run: Callable[[argparse.Namespace], int], help: str, without: Sequence[str] = ()
    ) -> argparse.ArgumentParser:
        name = run.__name__[len("_run_") :]
        command = commands.add_parser(name, help=help, description=f"{name}: {help}")
        for option, (variable, metavar, text) in _OPTIONS.items():
            if option not in without:
                names = (option, "--storage-prefix") if option == "--prefix" else (option,)
                command.add_argument(*names, metavar=metavar, help=f"{text} ({variable})")
        command.add_argument("-v", "--verbose", action="store_true", help="say more")
        command.add_argument("-q", "--quiet", action="store_true", help="say less")
        command.add_argument("--json", action="store_true", help="print one JSON document")
        command.set_defaults(run=run)
        return command

    for run, help in (
        (_run_new, "publish a file or folder as a new asset"),
        (_run_update, "publish a file or folder as the next version of an asset"),
    ):
        command = add(run, help, without=["--assets-dir"])
        command.add_argument("path", metavar="PATH", help="file or folder to publish")
        target = "NAME" if run is _run_new else "NAME[:MAJOR]"
        command.add_argument("spec", metavar=target, help="asset to publish it as")
        command.add_argument("-y", "--yes", action="store_true", help="do not ask")
        command.add_argument(
            "--dry-run", action="store_true", help="say what would be done, write nothing"
        )
    command.add_argument(
        "--bump-major", action="store_true", help="publish the next major version"
    )
    command = add(_run_list, "list the store's assets and versions",
                  without=["--assets-dir", "--versioning"])  # fmt: skip
    command.add_argument("glob", metavar="GLOB", nargs="?", default="*")
    command = add(_run_fetch, "print the local path of each asset, downloaded if need be")
    _add_specs(command)
    command.add_argument(
        "--download", action="store_true", help="download again what is cached"
    )
    _add_specs(add(_run_resolve, "print each spec with the version that it means now"))
    command = add(_run_info, "show a version's manifest and where it is")
    command.add_argument("spec", metavar="SPEC")
    return parser


def _add_specs(command: argparse.ArgumentParser) -> None:
    command.add_argument("specs", metavar="SPEC", nargs="*", help="name[:version][[part]]")
    command.add_argument(
        "-r", metavar="FILE", dest="file", help="read specs from a file, one a line"
    )
    command.epilog = f"example: {_PROGRAM} {command.prog.split()[-1]} nlp/bert:1.0"


def _read_specs(options: argparse.Namespace) -> List[str]:
    specs = list(options.specs)
    if options.file:
        try:
            with open(options.file, encoding="utf-8") as file:
                lines = [re.split(r"(?:^|\s)#", line)[0].strip() for line in file]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"cannot read {options.file!r}: {error}") from error
        specs += filter(None, lines)
    if not specs:
        raise InvalidAssetSpecError("", "give a SPEC, or a file of them with -r")
    return specs


def _run_new(options: argparse.Namespace) -> int:
    spec = AssetSpec.from_string(options.spec)
    if spec.version or spec.sub_part:
        raise InvalidAssetSpecError(options.spec, "a new asset is given by its NAME alone")
    provider = StorageProvider()
    return _publish(
        options, spec, "a new asset", provider,
        lambda dry_run: provider.new(options.path, spec.name, dry_run=dry_run),
    )  # fmt: skip


def _run_update(options: argparse.Namespace) -> int:
    spec = AssetSpec.from_string(options.spec)
    if spec.is_version_complete() or spec.sub_part:
        raise InvalidAssetSpecError(options.spec, "an update takes NAME or NAME:MAJOR")
    provider = StorageProvider()
    listed = provider.get_versions_info(spec.name)
    version = choose_next_version(spec, listed, options.bump_major)
    return _publish(
        options, spec, f"version {version}, after {listed[0]}", provider,
        lambda dry_run: provider.update(
            options.path, spec.name, spec.version,
            bump_major=options.bump_major, dry_run=dry_run,
        ),
    )  # fmt: skip


def _publish(
    options: argparse.Namespace,
    spec: AssetSpec,
    what: str,
    provider: StorageProvider,
    publish: Callable[[bool], str],
) -> int:
    uri = provider.driver.get_object_uri(provider.prefix)
    question = f"Publish {options.path!r} as {spec.name!r}, {what}, in {uri}?"
    if not (options.yes or options.dry_run or _confirm(question)):
        return _fail("declined, nothing was published", 1)
    version = publish(options.dry_run)
    pinned = f"{spec.name}:{version}"
    document = {"name": spec.name, "version": version, "dry_run": options.dry_run}
    _print(options, document, [pinned])
    return 0


def _confirm(question: str) -> bool:
    if sys.stdin is None or sys.stdin.closed or not sys.stdin.isatty():
        raise ConfigurationError("cannot ask without a terminal: say --yes to agree")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip() in ("y", "Y", "yes")


def _run_list(options: argparse.Namespace) -> int:
    from fnmatch import fnmatchcase

    assets = dict(StorageProvider().iterate_assets())
    found = {name: assets[name] for name in assets if fnmatchcase(name, options.glob)}
    width = max(map(len, found), default=0)
    lines = [f"{name:{width}}  {' '.join(found[name])}" for name in found]
    _print(options, found, lines)
    return 0


def _run_fetch(options: argparse.Namespace) -> int:
    specs = _read_specs(options)
    manager = AssetsManager()
    found = []
    for text in specs:
        info = manager.fetch_asset(text, True, options.download or None)
        found.append({"spec": text, **{key: info[key] for key in _SHOWN}})
        if not options.json:
            print(os.path.abspath(info["path"]), flush=True)
    if options.json:
        _print(options, found, [])
    return 0


_SHOWN = ("path", "version", "from_cache")


def _run_resolve(options: argparse.Namespace) -> int:
    specs = _read_specs(options)
    manager = AssetsManager()
    pinned = [str(manager.resolve(text)) for text in specs]
    _print(options, pinned, pinned)
    return 0


def _run_info(options: argparse.Namespace) -> int:
    manager = AssetsManager()
    spec = manager.resolve(options.spec)
    manifest = manager.find_manifest(spec)
    provider, document = manager.storage_provider, {"spec": str(spec)}
    document["path"] = manager.find_path(spec)
    if provider:
        object_name = provider.get_object_name(spec.name, cast(str, spec.version))
        document["object"] = provider.driver.get_object_uri(object_name)
    lines = [f"{key}: {value or 'not cached'}" for key, value in document.items()]
    if manifest:
        document["manifest"] = manifest.document
        lines += _describe(manifest)
    _print(options, document, lines)
    return 0


def _describe(manifest: Manifest) -> Iterator[str]:
    for key in ("push_date", "pushed_by"):
        if key in manifest.document:
            yield f"{key}: {manifest.document[key]}"
    yield f"files: {len(manifest.files)}, {manifest.size} bytes"
    for file in manifest.files:
        yield f"  {file.path or '(the file)'}  {file.size}  {file.sha256}"


def _print(options: argparse.Namespace, document: Any, lines: Iterable[str]) -> None:
    """Print the result of a command: one JSON document, or lines."""
    if options.json:
        print(json.dumps(document, indent=2))
    else:
        for line in lines:
            print(line)


if __name__ == "__main__":
    # whoever imports us by name, as a versioning system does, gets these very classes
    sys.modules.setdefault("modelkit_assets", sys.modules[__name__])
    sys.exit(main())
