"""What every driver promises, as tests: subclass DriverContract for one store.

The subclass says how to make the driver, and how to look at its store without it.
"""

import errno
import hashlib
import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

MIB = 1 << 20
BIG = bytes(range(256)) * (20 * MIB // 256)

AWKWARD_NAMES = [
    "with space/a b",
    "é/ü/日本",
    "glob/[x]*?{a,b}",
    "escaped/%41+%2F&amp;",
    "query/a?b#c=d&e",
    "quotes/'\"`$HOME",
    "dots/.hidden/..x",
    "tilde/~/~a",
    "new\nline/a\tb",
]


class Sink:
    """All that a driver may ask of a sink."""

    def __init__(self):
        self.chunks = []

    def write(self, data):
        self.chunks.append(bytes(data))

    @property
    def data(self):
        return b"".join(self.chunks)


class SinkIsFull(OSError):
    pass


def run_at_once(number, function):
    """Return function(index) of so many threads, all begun at the same moment."""
    barrier = threading.Barrier(number)

    def run(index):
        barrier.wait(60)
        return function(index)

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(run, range(number)))


def increment(driver, name, times, width):
    """Add 1 to a counter so many times, and return the values that were written."""
    written = []
    while len(written) < times:
        data, etag = driver.read_object(name)
        value = json.loads(data)["counter"].strip()
        value = f"{int(value) + 1:>{width}}"
        data = json.dumps({"counter": value}).encode()
        try:
            driver.write_object(data, name, if_match=etag)
        except FileExistsError:
            continue
        written.append(int(value))
    return written


class DriverContract:
    """Subclass it as TestNAME, with a `driver` fixture and the hooks below."""

    objects_beyond_a_page = 1_100
    increments = 5  # of each of 16 threads
    largest_chunk = 16 * MIB
    excluded_names = frozenset()  # of AWKWARD_NAMES, which the store cannot hold
    missing_bucket = "no-such-bucket"

    @pytest.fixture
    def driver(self):
        raise NotImplementedError

    def put(self, name, data):
        """Put an object into the store, past the driver."""
        raise NotImplementedError

    def get(self, name):
        """Return an object's bytes, past the driver; None where it is absent."""
        raise NotImplementedError

    def make_driver_on_missing_bucket(self):
        """Make a driver whose bucket, called `missing_bucket`, is not there."""
        raise NotImplementedError

    def get_expected_uri(self, name):
        raise NotImplementedError

    # ------------------------------------------------------------------ reading

    def test_an_object_is_statted_and_read(self, driver):
        self.put("a/b", b"content")
        size, etag = driver.stat_object("a/b")
        data, same_etag = driver.read_object("a/b")
        assert (size, data) == (7, b"content")
        assert isinstance(etag, str)
        assert etag == same_etag != ""

    def test_an_empty_object_is_statted_and_read(self, driver):
        self.put("a/empty", b"")
        assert driver.stat_object("a/empty")[0] == 0
        assert driver.read_object("a/empty")[0] == b""

    @pytest.mark.parametrize("name", ["a", "a/missing", "a/b/c", "missing/b"])
    def test_an_absent_object_is_not_found(self, driver, name):
        self.put("a/b", b"content")
        sink = Sink()
        for read in (
            lambda: driver.stat_object(name),
            lambda: driver.read_object(name),
            lambda: driver.download_object(name, sink),
        ):
            with pytest.raises(FileNotFoundError):
                read()
        assert sink.data == b""

    @pytest.mark.parametrize("data", [b"other", b"CONTENT", b"content!", b""])
    def test_the_etag_changes_with_the_content(self, driver, data):
        self.put("a", b"content")
        before = driver.stat_object("a")[1]
        self.put("a", data)
        assert driver.stat_object("a")[1] != before

    def test_the_etag_stays_while_the_content_does(self, driver):
        self.put("a", b"content")
        assert len({driver.stat_object("a")[1] for _ in range(5)}) == 1

    def test_stat_read_and_write_agree_on_the_etag(self, driver):
        etag = driver.write_object(b"content", "a")
        assert driver.stat_object("a") == (7, etag)
        assert driver.read_object("a") == (b"content", etag)

    # ------------------------------------------------------------------ writing

    @pytest.mark.parametrize("data", [b"", b"content", bytes(range(256)) * 8192])
    def test_what_is_written_is_in_the_store_to_the_byte(self, driver, data):
        driver.write_object(data, "a/b")
        assert self.get("a/b") == data

    def test_an_object_that_is_not_small_is_not_read_at_once(self, driver):
        self.put("a/b", bytes((64 << 20) + 1))
        with pytest.raises(OSError) as caught:
            driver.read_object("a/b")
        assert caught.value.errno == errno.EFBIG

    def test_an_unconditional_write_always_replaces(self, driver):
        driver.write_object(b"1", "a/b", if_match=None)
        driver.write_object(b"2", "a/b", if_match=None)
        driver.write_object(b"3", "a/b")
        assert self.get("a/b") == b"3"

    def test_a_write_if_absent_creates_and_never_replaces(self, driver):
        etag = driver.write_object(b"1", "a/b", if_match="")
        for data in (b"2", b"1", b"longer"):
            with pytest.raises(FileExistsError):
                driver.write_object(data, "a/b", if_match="")
        assert driver.read_object("a/b") == (b"1", etag)
        assert self.get("a/b") == b"1"

    def test_a_write_if_unchanged_replaces_what_was_read(self, driver):
        self.put("a/b", b"1")
        etag = driver.write_object(b"2", "a/b", if_match=driver.read_object("a/b")[1])
        assert self.get("a/b") == b"2"
        driver.write_object(b"3", "a/b", if_match=etag)
        assert self.get("a/b") == b"3"

    def test_a_write_with_a_stale_etag_fails_and_changes_nothing(self, driver):
        stale = driver.write_object(b"1", "a/b")
        self.put("a/b", b"2")
        for data in (b"1", b"2", b"3"):
            with pytest.raises(FileExistsError):
                driver.write_object(data, "a/b", if_match=stale)
        assert self.get("a/b") == b"2"

    def test_a_write_if_unchanged_of_what_is_gone_creates_nothing(self, driver):
        etag = driver.write_object(b"1", "a/b")
        driver.delete_object("a/b")
        with pytest.raises(FileExistsError):
            driver.write_object(b"2", "a/b", if_match=etag)
        assert self.get("a/b") is None

    def test_of_16_threads_that_create_an_object_one_wins(self, driver):
        def create(index):
            try:
                driver.write_object(b"%02d" % index, "a/b", if_match="")
            except FileExistsError:
                return None
            return b"%02d" % index

        winners = list(filter(None, run_at_once(16, create)))
        assert winners == [self.get("a/b")]

    @pytest.mark.parametrize("width", [1, 8], ids=["growing", "of one size"])
    def test_of_16_threads_that_count_none_loses_an_increment(self, driver, width):
        self.put("counter", json.dumps({"counter": f"{0:>{width}}"}).encode())
        written = run_at_once(
            16, lambda _: increment(driver, "counter", self.increments, width)
        )
        total = 16 * self.increments
        assert sorted(sum(written, [])) == list(range(1, total + 1))
        assert int(json.loads(self.get("counter"))["counter"]) == total

    # ------------------------------------------------------------------ transfers

    @pytest.mark.parametrize(
        "start, length, expected",
        [
            (0, None, b"0123456789"),
            (3, None, b"3456789"),
            (9, None, b"9"),
            (10, None, b""),
            (11, None, b""),
            (0, 10, b"0123456789"),
            (0, 1, b"0"),
            (3, 4, b"3456"),
            (9, 1, b"9"),
            (3, 0, b""),
            (0, 0, b""),
            (8, 100, b"89"),
            (0, 100, b"0123456789"),
            (10, 5, b""),
            (1 << 60, 5, b""),
        ],
    )
    def test_a_byte_range_is_downloaded_exactly(self, driver, start, length, expected):
        self.put("a/b", b"0123456789")
        sink = Sink()
        driver.download_object("a/b", sink, start, length)
        assert sink.data == expected

    @pytest.mark.parametrize("start, length", [(0, None), (0, 0), (0, 5), (3, None)])
    def test_nothing_of_an_empty_object_is_downloaded(self, driver, start, length):
        self.put("a/empty", b"")
        sink = Sink()
        driver.download_object("a/empty", sink, start, length)
        assert sink.data == b""

    def test_a_large_object_is_downloaded_in_chunks(self, driver):
        self.put("a/big", BIG)
        sink = Sink()
        driver.download_object("a/big", sink)
        assert sink.data == BIG
        assert max(map(len, sink.chunks)) <= self.largest_chunk

    def test_a_range_of_a_large_object_is_downloaded_exactly(self, driver):
        self.put("a/big", BIG)
        sink = Sink()
        driver.download_object("a/big", sink, 9 * MIB - 1, 9 * MIB + 2)
        assert sink.data == BIG[9 * MIB - 1 : 18 * MIB + 1]

    @pytest.mark.parametrize("error", [SinkIsFull, KeyError])
    def test_what_a_sink_raises_is_left_as_it_is(self, driver, error):
        class FullSink:
            def write(self, data):
                raise error("full")

        self.put("a/b", b"content")
        with pytest.raises(error) as caught:
            driver.download_object("a/b", FullSink())
        assert caught.type is error

    @pytest.mark.parametrize(
        "data", [b"", b"content", BIG], ids=["empty", "small", "20 MiB"]
    )
    def test_a_file_is_uploaded_to_the_byte(self, driver, tmp_path, data):
        source = tmp_path / "source file"
        source.write_bytes(data)
        driver.upload_object(str(source), "a/b c")
        stored = self.get("a/b c")
        assert hashlib.sha256(stored).digest() == hashlib.sha256(data).digest()
        assert driver.stat_object("a/b c")[0] == len(data)
        assert source.read_bytes() == data

    @pytest.mark.parametrize(
        "data", [b"", b"content", BIG], ids=["empty", "small", "20 MiB"]
    )
    @pytest.mark.parametrize("name", ["a/b", "é/ü/日本", "a b/%41+#?"])
    def test_an_object_is_copied_to_the_byte(self, driver, data, name):
        self.put(name, data)
        driver.copy_object(name, f"copy/{name}")
        for one in (name, f"copy/{name}"):
            stored = self.get(one)
            assert hashlib.sha256(stored).digest() == hashlib.sha256(data).digest()
        self.put(name, b"changed")
        assert driver.stat_object(f"copy/{name}")[0] == len(data)

    @pytest.mark.parametrize("name", ["a", "a/missing", "missing/b"])
    def test_an_absent_object_is_not_copied(self, driver, name):
        self.put("a/b", b"content")
        with pytest.raises(FileNotFoundError):
            driver.copy_object(name, "copy")
        assert self.get("copy") is None

    # ------------------------------------------------------------------ names

    @pytest.mark.parametrize("name", AWKWARD_NAMES)
    def test_an_awkward_name_means_that_object_alone(self, driver, tmp_path, name):
        if name in self.excluded_names:
            pytest.skip("the store cannot hold this name")
        folder = name.partition("/")[0]
        self.put(f"{folder}/other", b"other")
        source = tmp_path / "source"
        source.write_bytes(b"uploaded")

        driver.write_object(b"written", name, if_match="")
        assert self.get(name) == b"written"
        driver.upload_object(str(source), name)
        assert self.get(name) == b"uploaded"
        assert driver.stat_object(name)[0] == 8
        assert driver.read_object(name)[0] == b"uploaded"
        sink = Sink()
        driver.download_object(name, sink)
        assert sink.data == b"uploaded"
        assert set(driver.iterate_objects(folder)) == {name, f"{folder}/other"}
        driver.delete_object(name)
        assert self.get(name) is None
        assert self.get(f"{folder}/other") == b"other"

    def test_names_are_told_apart_by_case_and_by_every_character(self, driver):
        names = ["n/a", "n/b", "n/ab", "n/a.b", "n/a-b", "n/a b", "n/a_b", "m/a"]
        for name in names:
            driver.write_object(name.encode(), name)
        assert [driver.read_object(name)[0].decode() for name in names] == names

    # ------------------------------------------------------------------ listing

    @pytest.mark.parametrize(
        "prefix, below",
        [
            ("a", ["a/b", "a/c/d", "a/c/e"]),
            ("a/c", ["a/c/d", "a/c/e"]),
            ("ab", ["ab/c"]),
            ("a/b", []),
            ("a/c/d", []),
            ("b", []),
            ("missing", []),
            ("a/missing", []),
        ],
    )
    def test_only_names_below_the_prefix_are_listed(self, driver, prefix, below):
        for name in ("a/b", "a/c/d", "a/c/e", "ab/c", "abc", "x/a/b"):
            self.put(name, b"")
        assert sorted(driver.iterate_objects(prefix)) == below

    def test_an_empty_store_lists_nothing(self, driver):
        assert list(driver.iterate_objects("a")) == []

    def test_more_objects_than_a_page_holds_are_all_listed_once(self, driver):
        names = [f"many/{i:05}" for i in range(self.objects_beyond_a_page)]
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda name: self.put(name, b""), names))
        assert sorted(driver.iterate_objects("many")) == names

    # ------------------------------------------------------------------ the rest

    def test_a_deleted_object_is_gone(self, driver):
        self.put("a/b", b"1")
        self.put("a/bc", b"2")
        driver.delete_object("a/b")
        assert (self.get("a/b"), self.get("a/bc")) == (None, b"2")
        assert list(driver.iterate_objects("a")) == ["a/bc"]

    @pytest.mark.parametrize("name", ["a", "a/missing", "missing/b"])
    def test_deleting_what_is_absent_is_no_error(self, driver, name):
        self.put("a/b", b"1")
        driver.delete_object(name)
        assert self.get("a/b") == b"1"

    def test_the_uri_is_what_people_call_the_object(self, driver):
        assert driver.get_object_uri("a/b c") == self.get_expected_uri("a/b c")

    def test_a_driver_that_was_used_pickles_without_its_client(self, driver):
        driver.write_object(b"1", "a")
        again = pickle.loads(pickle.dumps(driver))
        assert again.read_object("a")[0] == b"1"
        again.write_object(b"2", "a", if_match=driver.stat_object("a")[1])
        assert driver.read_object("a")[0] == b"2"

    def test_32_threads_share_a_driver(self, driver):
        def use(index):
            name, data = f"shared/{index}", b"%d" % index
            etag = driver.write_object(data, name, if_match="")
            sink = Sink()
            driver.download_object(name, sink)
            assert driver.stat_object(name) == (len(data), etag)
            return driver.read_object(name) == (sink.data, etag) == (data, etag)

        assert all(run_at_once(32, use))
        assert len(list(driver.iterate_objects("shared"))) == 32

    @pytest.mark.parametrize(
        "use",
        [
            lambda driver: driver.read_object("a"),
            lambda driver: driver.write_object(b"", "a"),
            lambda driver: driver.write_object(b"", "a", if_match=""),
            lambda driver: list(driver.iterate_objects("a")),
        ],
        ids=["read", "write", "create", "list"],
    )
    def test_a_missing_bucket_is_a_wrong_setting_and_no_missing_object(self, use):
        with pytest.raises(ValueError, match="MODELKIT_STORAGE_BUCKET"):
            use(self.make_driver_on_missing_bucket())
