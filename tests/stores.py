"""The kinds of store that the end-to-end tests run on.

Each gives the settings that choose it, and its objects read past the code under test.
"""

from pathlib import Path


class Store:
    """An empty store, while in its `with` block."""

    environ: dict

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def read_objects(self) -> dict:
        """Return every object's bytes by its name."""
        raise NotImplementedError

    def write_object(self, name: str, data: bytes) -> None:
        """Put an object there, whatever was there before."""
        raise NotImplementedError


class LocalStore(Store):
    def __init__(self, folder: Path) -> None:
        self.bucket = folder / "bucket"
        self.bucket.mkdir()
        self.environ = {
            "MODELKIT_STORAGE_PROVIDER": "local",
            "MODELKIT_STORAGE_BUCKET": str(self.bucket),
        }

    def read_objects(self) -> dict:
        return {
            path.relative_to(self.bucket).as_posix(): path.read_bytes()
            for path in self.bucket.rglob("*")
            if path.is_file() and path.name != ".modelkit-assets.lock"
        }

    def write_object(self, name: str, data: bytes) -> None:
        path = self.bucket / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


KINDS = [LocalStore]
