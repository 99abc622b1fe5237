"""The contract of all drivers, on each server; what is its own stands beside it."""

import pytest
from contract import DriverContract
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


class TestMoto(ServerContract):
    kind = MotoStore
    excluded_names = frozenset(MotoStore.excluded_names)


class TestRclone(ServerContract):
    """Another make of S3 server, which ignores conditions: those promises are void."""

    kind = RcloneStore
    test_a_write_if_absent_creates_and_never_replaces = None
    test_a_write_with_a_stale_etag_fails_and_changes_nothing = None
    test_a_write_if_unchanged_of_what_is_gone_creates_nothing = None
    test_of_16_threads_that_create_an_object_one_wins = None
    test_of_16_threads_that_count_none_loses_an_increment = None
    test_deleting_what_is_absent_is_no_error = None  # but 500, where it is a folder


class TestAzurite(ServerContract):
    kind, scheme = AzuriteStore, "az"


class TestGcs(ServerContract):
    kind, scheme = GcsStore, "gs"
