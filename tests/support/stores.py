"""The kinds of store that the end-to-end tests run on.

Each gives the settings that choose it, and its objects, past the code under test.
"""

import uuid
from pathlib import Path

import pytest
from servers import Azurite, Gcs, Moto, Rclone


class LocalStore:
    """A plain folder as a store, empty at first."""

    honours_conditions = True
    excluded_names = ()  # which the server cannot hold

    def __init__(self, folder: Path) -> None:
        self.bucket = folder / "bucket"
        self.bucket.mkdir()
        self.environ = {
            "MODELKIT_STORAGE_PROVIDER": "local",
            "MODELKIT_STORAGE_BUCKET": str(self.bucket),
        }

    def list_objects(self) -> list:
        return [
            path.relative_to(self.bucket).as_posix()
            for path in self.bucket.rglob("*")
            if path.is_file() and path.name != ".modelkit-assets.lock"
        ]

    def read_object(self, name: str) -> bytes:
        return (self.bucket / name).read_bytes()

    def write_object(self, name: str, data: bytes) -> None:
        path = self.bucket / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def read_objects(self) -> dict:
        """Return every object's bytes by its name."""
        return {name: self.read_object(name) for name in self.list_objects()}


class _ServerStore(LocalStore):
    """A new bucket of a server."""

    def __init__(self, server) -> None:
        self.server, self.bucket = server, f"bucket-{uuid.uuid4().hex[:12]}"
        server.create_bucket(self.bucket)
        self.client = server.shared_client
        self.environ = {
            **server.environ,
            "MODELKIT_STORAGE_PROVIDER": self.provider,
            "MODELKIT_STORAGE_BUCKET": self.bucket,
        }


class MotoStore(_ServerStore):
    provider, kind = "s3", Moto
    excluded_names = ("new\nline/a\tb", "two\nlines.txt")  # moto finds no route

    def __init__(self, server) -> None:
        super().__init__(server)
        self.environ["S3_ENDPOINT"] = self.environ.pop("AWS_ENDPOINT_URL")

    def list_objects(self) -> list:
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket
        )
        return [item["Key"] for page in pages for item in page.get("Contents", ())]

    def read_object(self, name: str) -> bytes:
        return self.client.get_object(Bucket=self.bucket, Key=name)["Body"].read()

    def write_object(self, name: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=name, Body=data)


class RcloneStore(MotoStore):
    kind, honours_conditions = Rclone, False
    excluded_names = ()


class AzuriteStore(_ServerStore):
    provider, kind = "az", Azurite

    def list_objects(self) -> list:
        return list(self.client.get_container_client(self.bucket).list_blob_names())

    def read_object(self, name: str) -> bytes:
        return self.client.get_blob_client(self.bucket, name).download_blob().readall()

    def write_object(self, name: str, data: bytes) -> None:
        blob = self.client.get_blob_client(self.bucket, name)
        blob.upload_blob(data, overwrite=True)


class GcsStore(_ServerStore):
    provider, kind = "gcs", Gcs

    def list_objects(self) -> list:
        return [blob.name for blob in self.client.list_blobs(self.bucket)]

    def read_object(self, name: str) -> bytes:
        return self.client.bucket(self.bucket).blob(name).download_as_bytes()

    def write_object(self, name: str, data: bytes) -> None:
        self.client.bucket(self.bucket).blob(name).upload_from_string(data)


SERVER_STORES = [
    pytest.param(store, marks=pytest.mark.server, id=store.kind.__name__)
    for store in (MotoStore, RcloneStore, AzuriteStore, GcsStore)
]
STORES = [pytest.param(LocalStore, id="local"), *SERVER_STORES]
