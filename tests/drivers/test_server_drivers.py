"""The contract of all drivers, on each server; what is its own stands beside it."""

from contextlib import suppress

import pytest
from contract import DriverContract, ReadingContract
from stores import AzuriteStore, GcsStore, MotoStore, RcloneStore

from modelkit_assets import StorageProvider

pytestmark = pytest.mark.server


class ServerContract(DriverContract):
    objects_beyond_a_page = 1_010
    increments = 2
    scheme = "s3"

    @pytest.fixture(autouse=True)
    def store(self, make_store):
        self.made = make_store(self.kind)
        return self.made

    @pytest.fixture
    def driver(self, store):
        return StorageProvider().driver

    def put(self, name, data):
        self.made.write_object(name, data)

    def get(self, name):
        names = self.made.list_objects()
        return self.made.read_object(name) if name in names else None

    def make_driver_on_missing_bucket(self):
        return StorageProvider(bucket=self.missing_bucket).driver

    def get_expected_uri(self, name):
        return f"{self.scheme}://{self.made.bucket}/{name}"


class S3Contract(ServerContract):
    def put_gzipped(self, name, data):
        arguments = {"Key": name, "Body": data, "ContentEncoding": "gzip"}
        self.made.client.put_object(Bucket=self.made.bucket, **arguments)

    def count_unfinished_uploads(self):
        answer = self.made.client.list_multipart_uploads(Bucket=self.made.bucket)
        return len(answer.get("Uploads", ()))


def find_short_way(store):
    """Return a driver that has read an object, which is there no more."""
    store.write_object("first", b"")
    driver = StorageProvider().driver
    driver.read_object("first")
    assert driver._short_way
    store.client.delete_object(Bucket=store.bucket, Key="first")
    return driver


class TestMoto(S3Contract):
    """Small uploads go the short way, as reads do."""

    kind = MotoStore
    excluded_names = frozenset(MotoStore.excluded_names)
    honours_conditions_of_copies = False
    honours_etags_of_large_files = False

    @pytest.fixture
    def driver(self, store):
        return find_short_way(store)


class TestRcloneTheShortWay(ReadingContract):
    """All reads but the first, on a server that checks how they are signed."""

    kind, scheme = RcloneStore, "s3"
    store, put, put_gzipped = S3Contract.store, S3Contract.put, S3Contract.put_gzipped
    make_driver_on_missing_bucket = S3Contract.make_driver_on_missing_bucket
    get_expected_uri = S3Contract.get_expected_uri

    @pytest.fixture
    def driver(self, store):
        return find_short_way(store)


@pytest.mark.attack  # the same driver, whose uploads are the SDK's
class TestRclone(S3Contract):
    """Another make of S3 server, which ignores conditions."""

    kind = RcloneStore
    honours_conditions = honours_conditions_of_copies = False
    test_deleting_what_is_absent_is_no_error = None  # but 500, where it is a folder

    def count_unfinished_uploads(self):
        with suppress(self.made.client.exceptions.NoSuchUpload):  # if there is none
            return super().count_unfinished_uploads()
        return 0


class TestAzurite(ServerContract):
    kind, scheme = AzuriteStore, "az"

    def put_gzipped(self, name, data):
        from azure.storage.blob import ContentSettings

        settings = ContentSettings(content_encoding="gzip")
        blob = self.made.client.get_blob_client(self.made.bucket, name)
        blob.upload_blob(data, overwrite=True, content_settings=settings)


class TestGcs(ServerContract):
    kind, scheme = GcsStore, "gs"

    def put_gzipped(self, name, data):
        blob = self.made.client.bucket(self.made.bucket).blob(name)
        blob.content_encoding = "gzip"
        blob.upload_from_string(data)
