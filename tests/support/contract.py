"""What every driver promises, as tests: subclass DriverContract for one store.

The subclass says how to make the driver, and how to look at its store without it.
A driver that only reads passes ReadingContract.
"""

import errno
import gzip
import hashlib
import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

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


def collect(driver, *arguments, **options):
    """Return what iterate_bytes yields, each taken before the next is asked for."""
    return b"".join(map(bytes, driver.iterate_bytes(*arguments, **options)))


def upload(driver, path, name, **options):
    """Upload a file, and return the numbers that were told to advance."""
    told = []
    driver.upload_object(str(path), name, told.append, **options)
    return told


class OurError(Exception):
    """What no driver has heard of."""


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


class ReadingContract:
    """Subclass it as TestNAME, with a `driver` fixture and the hooks below."""

    excluded_names = frozenset()  # of AWKWARD_NAMES, which the store cannot hold
    missing_bucket = "no-such-bucket"

    @pytest.fixture
    def driver(self):
        raise NotImplementedError

    def put(self, name, data):
        """Put an object into the store, past the driver."""
        raise NotImplementedError

    def put_gzipped(self, name, data):
        """Put an object that is labelled with `Content-Encoding: gzip`."""
        self.put(name, data)

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
        for read in (
            lambda: driver.stat_object(name),
            lambda: driver.read_object(name),
            lambda: collect(driver, name),
            lambda: collect(driver, name, 3, 4),
        ):
            with pytest.raises(FileNotFoundError):
                read()

    @pytest.mark.parametrize("data", [b"other", b"CONTENT", b"content!", b""])
    def test_the_etag_changes_with_the_content(self, driver, data):
        self.put("a", b"content")
        before = driver.stat_object("a")[1]
        self.put("a", data)
        assert driver.stat_object("a")[1] != before

    def test_the_etag_stays_while_the_content_does(self, driver):
        self.put("a", b"content")
        assert len({driver.stat_object("a")[1] for _ in range(5)}) == 1

    def test_an_object_that_is_not_small_is_not_read_at_once(self, driver):
        self.put("a/b", bytes((64 << 20) + 1))
        with pytest.raises(OSError) as caught:
            driver.read_object("a/b")
        assert caught.value.errno == errno.EFBIG

    # ------------------------------------------------------------------ ranges

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
    def test_a_byte_range_comes_exactly(self, driver, start, length, expected):
        self.put("a/b", b"0123456789")
        assert collect(driver, "a/b", start, length) == expected

    @pytest.mark.parametrize("start, length", [(0, None), (0, 0), (0, 5), (3, None)])
    def test_nothing_of_an_empty_object_comes(self, driver, start, length):
        self.put("a/empty", b"")
        assert list(driver.iterate_bytes("a/empty", start, length)) == []

    def test_a_large_object_comes_in_chunks(self, driver):
        self.put("a/big", BIG)
        sizes, digest = [], hashlib.sha256()
        for chunk in driver.iterate_bytes("a/big"):
            sizes.append(len(chunk))
            digest.update(chunk)
        assert digest.digest() == hashlib.sha256(BIG).digest()
        assert 0 < min(sizes) <= max(sizes) <= 4 * MIB
        # A busy machine brings what has arrived, less than a buffer at a time.
        assert len(sizes) <= len(BIG) / (8 << 10), "they are small"

    def test_a_range_of_a_large_object_comes_exactly(self, driver):
        self.put("a/big", BIG)
        got = collect(driver, "a/big", 9 * MIB - 1, 9 * MIB + 2)
        assert got == BIG[9 * MIB - 1 : 18 * MIB + 1]

    @pytest.mark.parametrize("start, length", [(0, None), (0, 5), (3, None), (3, 4)])
    def test_bytes_come_of_the_object_that_is_meant(self, driver, start, length):
        self.put("a/b", b"0123456789")
        etag = driver.stat_object("a/b")[1]
        expected = collect(driver, "a/b", start, length)
        assert collect(driver, "a/b", start, length, etag) == expected != b""
        self.put("a/b", b"9876543210 and more")
        with pytest.raises(FileExistsError):
            collect(driver, "a/b", start, length, if_match=etag)

    def test_bytes_come_as_they_are_stored(self, driver):
        data = gzip.compress(b"0123456789" * 1000)
        self.put_gzipped("a/b.gz", data)
        assert driver.stat_object("a/b.gz")[0] == len(data)
        assert driver.read_object("a/b.gz")[0] == data
        assert collect(driver, "a/b.gz") == data
        assert collect(driver, "a/b.gz", 3, 9) == data[3:12]
        assert collect(driver, "a/b.gz", 5) == data[5:]

    def test_what_is_labelled_wrongly_comes_all_the_same(self, driver):
        self.put_gzipped("a/b.gz", b"this is no gzip")
        assert driver.read_object("a/b.gz")[0] == b"this is no gzip"
        assert collect(driver, "a/b.gz") == b"this is no gzip"

    def test_a_reader_may_leave_at_any_time(self, driver):
        """And leaves no connection that others would wait for."""
        data = BIG[: 3 * MIB]
        self.put("a/big", data)
        for _ in range(70):  # more than a client has connections
            with closing(driver.iterate_bytes("a/big")) as chunks:
                assert data.startswith(bytes(next(chunks)))
        assert driver.stat_object("a/big")[0] == len(data)
        assert collect(driver, "a/big", 1, 3) == BIG[1:4]

    @pytest.mark.parametrize("error", [OurError, KeyError, OSError, RecursionError])
    def test_what_a_consumer_raises_is_left_as_it_is(self, driver, error):
        self.put("a/b", b"content")
        ours = error("ours")
        with pytest.raises(error) as caught:  # noqa: PT012
            for _ in driver.iterate_bytes("a/b"):
                raise ours
        assert caught.value is ours

    def test_a_reader_that_never_began_asked_for_nothing(self, driver):
        driver.iterate_bytes("missing").close()

    # ------------------------------------------------------------------ names

    @pytest.mark.parametrize("name", AWKWARD_NAMES)
    def test_an_awkward_name_is_read_as_that_object_alone(self, driver, name):
        if name in self.excluded_names:
            pytest.skip("the store cannot hold this name")
        self.put(name.partition("/")[0] + "/other", b"other")
        self.put(name, b"meant")
        assert driver.stat_object(name)[0] == 5
        assert driver.read_object(name)[0] == b"meant"
        assert collect(driver, name) == b"meant"

    # ------------------------------------------------------------------ settings

    def test_the_uri_is_what_people_call_the_object(self, driver):
        assert driver.get_object_uri("a/b c") == self.get_expected_uri("a/b c")

    def test_a_driver_tells_what_it_needs(self, driver):
        assert isinstance(driver.package, str)
        assert driver.workers >= 1
        for variable, (keyword, is_secret) in driver.variables.items():
            assert variable == variable.upper()
            assert keyword == keyword.lower()
            assert isinstance(is_secret, bool)

    def test_a_reader_that_was_used_pickles_without_its_client(self, driver):
        self.put("a", b"1")
        driver.read_object("a")
        assert pickle.loads(pickle.dumps(driver)).read_object("a")[0] == b"1"

    def test_32_threads_share_a_reader(self, driver):
        for index in range(32):
            self.put(f"shared/{index}", b"%d" % index)

        def use(index):
            name, data = f"shared/{index}", b"%d" % index
            size, etag = driver.stat_object(name)
            assert driver.read_object(name) == (data, etag)
            return collect(driver, name, 0, None, etag) == data

        assert all(run_at_once(32, use))

    @pytest.mark.parametrize(
        "use",
        [
            lambda driver: driver.read_object("a"),
            lambda driver: collect(driver, "a"),
            lambda driver: collect(driver, "a", 3, 4),
        ],
        ids=["read", "iterate", "range"],
    )
    def test_a_missing_bucket_is_a_wrong_setting_to_a_reader(self, use):
        with pytest.raises(ValueError, match="MODELKIT_STORAGE_BUCKET"):
            use(self.make_driver_on_missing_bucket())


class DriverContract(ReadingContract):
    """Subclass it as TestNAME, with a `driver` fixture and the hooks below, too."""

    objects_beyond_a_page = 1_100
    increments = 5  # of each of 16 threads
    # shortcomings of a store; a driver cannot know of them
    honours_conditions = True
    honours_conditions_of_copies = True
    honours_etags_of_large_files = True

    def get(self, name):
        """Return an object's bytes, past the driver; None where it is absent."""
        raise NotImplementedError

    def count_unfinished_uploads(self):
        """Return how many uploads were begun and neither completed nor aborted."""
        return 0

    def require_conditions(self):
        if not self.honours_conditions:
            pytest.skip("the store ignores conditions")

    # ------------------------------------------------------------------ writing

    def test_stat_read_and_write_agree_on_the_etag(self, driver):
        etag = driver.write_object(b"content", "a")
        assert driver.stat_object("a") == (7, etag)
        assert driver.read_object("a") == (b"content", etag)

    @pytest.mark.parametrize("data", [b"", b"content", bytes(range(256)) * 8192])
    def test_what_is_written_is_in_the_store_to_the_byte(self, driver, data):
        driver.write_object(data, "a/b")
        assert self.get("a/b") == data

    def test_an_unconditional_write_always_replaces(self, driver):
        driver.write_object(b"1", "a/b", if_match=None)
        driver.write_object(b"2", "a/b", if_match=None)
        driver.write_object(b"3", "a/b")
        assert self.get("a/b") == b"3"

    def test_a_write_if_absent_creates_and_never_replaces(self, driver):
        self.require_conditions()
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
        self.require_conditions()
        stale = driver.write_object(b"1", "a/b")
        self.put("a/b", b"2")
        for data in (b"1", b"2", b"3"):
            with pytest.raises(FileExistsError):
                driver.write_object(data, "a/b", if_match=stale)
        assert self.get("a/b") == b"2"

    def test_a_write_if_unchanged_of_what_is_gone_creates_nothing(self, driver):
        self.require_conditions()
        etag = driver.write_object(b"1", "a/b")
        driver.delete_object("a/b")
        with pytest.raises(FileExistsError):
            driver.write_object(b"2", "a/b", if_match=etag)
        assert self.get("a/b") is None

    def test_of_16_threads_that_create_an_object_one_wins(self, driver):
        self.require_conditions()

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
        self.require_conditions()
        self.put("counter", json.dumps({"counter": f"{0:>{width}}"}).encode())
        written = run_at_once(
            16, lambda _: increment(driver, "counter", self.increments, width)
        )
        total = 16 * self.increments
        assert sorted(sum(written, [])) == list(range(1, total + 1))
        assert int(json.loads(self.get("counter"))["counter"]) == total

    # ------------------------------------------------------------------ uploads

    @pytest.mark.parametrize(
        "data", [b"", b"content", BIG], ids=["empty", "small", "20 MiB"]
    )
    def test_a_file_is_uploaded_to_the_byte(self, driver, tmp_path, data):
        source = tmp_path / "source file"
        source.write_bytes(data)
        told = upload(driver, source, "a/b c")
        assert sum(told) == len(data)
        stored = self.get("a/b c")
        assert hashlib.sha256(stored).digest() == hashlib.sha256(data).digest()
        assert driver.stat_object("a/b c")[0] == len(data)
        assert source.read_bytes() == data
        assert self.count_unfinished_uploads() == 0

    @pytest.mark.parametrize(
        "data, old",
        [(b"new", b""), (b"new", b"old"), (b"new", b"new"), (BIG, b"old")],
        ids=["of empty", "small", "of the same", "20 MiB"],  # not the bytes themselves
    )
    def test_an_upload_never_replaces(self, driver, tmp_path, data, old):
        self.require_conditions()
        (tmp_path / "source").write_bytes(data)
        self.put("a/b", old)
        for options in ({}, {"if_match": ""}):
            with pytest.raises(FileExistsError):
                upload(driver, tmp_path / "source", "a/b", **options)
        assert self.get("a/b") == old
        assert self.count_unfinished_uploads() == 0

    @pytest.mark.parametrize("data", [b"new", BIG], ids=["small", "20 MiB"])
    def test_an_upload_replaces_what_it_is_told_to(self, driver, tmp_path, data):
        (tmp_path / "source").write_bytes(data)
        self.put("a/b", b"old")
        etag = driver.stat_object("a/b")[1]
        upload(driver, tmp_path / "source", "a/b", if_match=etag)
        assert self.get("a/b") == data
        self.put("a/b", b"another")
        upload(driver, tmp_path / "source", "a/b", if_match=None)
        assert self.get("a/b") == data

    @pytest.mark.parametrize("data", [b"new", BIG], ids=["small", "20 MiB"])
    def test_an_upload_with_a_stale_etag_changes_nothing(self, driver, tmp_path, data):
        self.require_conditions()
        if data is BIG and not self.honours_etags_of_large_files:
            pytest.skip("the store ignores the etag where it is to join the parts")
        (tmp_path / "source").write_bytes(data)
        self.put("a/b", b"old")
        etag = driver.stat_object("a/b")[1]
        self.put("a/b", b"another")
        with pytest.raises(FileExistsError):
            upload(driver, tmp_path / "source", "a/b", if_match=etag)
        assert self.get("a/b") == b"another"
        assert self.count_unfinished_uploads() == 0

    def test_of_8_threads_that_upload_one_wins(self, driver, tmp_path):
        self.require_conditions()

        def create(index):
            path = tmp_path / str(index)
            path.write_bytes(b"%02d" % index)
            try:
                upload(driver, path, "a/b")
            except FileExistsError:
                return None
            return path.read_bytes()

        winners = list(filter(None, run_at_once(8, create)))
        assert winners == [self.get("a/b")]

    @pytest.mark.parametrize(
        "error, data",
        [
            (OurError, b"content"),
            (OurError, BIG),
            (KeyboardInterrupt, BIG),
            (ConnectionError, b"content"),
            (ConnectionError, BIG),
            (FileExistsError, b"content"),
        ],
        ids=["ours", "ours, 20 MiB", "Ctrl-C", "broken", "broken, 20 MiB", "exists"],
    )
    def test_what_advance_raises_ends_the_upload(self, driver, tmp_path, error, data):
        def advance(number):
            raise ours

        ours = error("ours")
        (tmp_path / "source").write_bytes(data)
        with pytest.raises(error) as caught:
            driver.upload_object(str(tmp_path / "source"), "a/b", advance)
        assert caught.value is ours
        assert self.get("a/b") is None
        assert list(driver.iterate_objects("a")) == []
        assert self.count_unfinished_uploads() == 0

    def test_a_file_that_is_absent_is_not_uploaded(self, driver, tmp_path):
        with pytest.raises(FileNotFoundError):
            upload(driver, tmp_path / "missing", "a/b")
        assert self.get("a/b") is None

    # ------------------------------------------------------------------ copies

    @pytest.mark.parametrize(
        "name, data",
        [
            ("a/b", b""),
            ("a/b", b"content"),
            ("a/b", BIG),
            ("é/ü/日本", b"content"),
            ("a b/%41+#?", b"content"),
        ],
        ids=["empty", "small", "20 MiB", "letters", "signs"],
    )
    def test_an_object_is_copied_to_the_byte(self, driver, name, data):
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

    @pytest.mark.parametrize("old", [b"", b"old", b"content"])
    def test_a_copy_never_replaces(self, driver, old):
        if not self.honours_conditions_of_copies:
            pytest.skip("the store ignores the conditions of a copy")
        self.put("a/b", b"content")
        self.put("copy", old)
        etag = driver.stat_object("copy")[1]
        with pytest.raises(FileExistsError):
            driver.copy_object("a/b", "copy")
        assert (self.get("copy"), driver.stat_object("copy")[1]) == (old, etag)

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
        upload(driver, source, name, if_match=None)
        assert self.get(name) == b"uploaded"
        assert driver.stat_object(name)[0] == 8
        listed = {one for one, _, _ in driver.iterate_objects(folder)}
        assert listed == {name, f"{folder}/other"}
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
        listed = sorted(name for name, _, _ in driver.iterate_objects(prefix))
        assert listed == below

    def test_each_name_is_listed_with_its_size_and_etag(self, driver, tmp_path):
        (tmp_path / "source").write_bytes(BIG)
        self.put("a/b", b"content")
        self.put("a/empty", b"")
        driver.write_object(b"written", "a/c")
        upload(driver, tmp_path / "source", "a/big")
        listed = list(driver.iterate_objects("a"))
        assert len(listed) == 4
        for name, size, etag in listed:
            assert size == driver.stat_object(name)[0]
            # of a local store's small objects it is another one, and as good
            assert collect(driver, name, 0, None, etag) == self.get(name)
        self.put("a/b", b"changed")
        etag = next(etag for name, _, etag in listed if name == "a/b")
        with pytest.raises(FileExistsError):
            list(driver.iterate_bytes("a/b", if_match=etag))

    def test_an_empty_store_lists_nothing(self, driver):
        assert list(driver.iterate_objects("a")) == []

    def test_more_objects_than_a_page_holds_are_all_listed_once(self, driver):
        names = [f"many/{i:05}" for i in range(self.objects_beyond_a_page)]
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda name: self.put(name, b""), names))
        assert sorted(name for name, _, _ in driver.iterate_objects("many")) == names

    # ------------------------------------------------------------------ the rest

    def test_a_deleted_object_is_gone(self, driver):
        self.put("a/b", b"1")
        self.put("a/bc", b"2")
        driver.delete_object("a/b")
        assert (self.get("a/b"), self.get("a/bc")) == (None, b"2")
        assert [name for name, _, _ in driver.iterate_objects("a")] == ["a/bc"]

    @pytest.mark.parametrize("name", ["a", "a/missing", "missing/b"])
    def test_deleting_what_is_absent_is_no_error(self, driver, name):
        self.put("a/b", b"1")
        driver.delete_object(name)
        assert self.get("a/b") == b"1"

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
            assert collect(driver, name) == data
            assert driver.stat_object(name) == (len(data), etag)
            return driver.read_object(name) == (data, etag)

        assert all(run_at_once(32, use))
        assert len(list(driver.iterate_objects("shared"))) == 32

    @pytest.mark.parametrize(
        "use",
        [
            lambda driver: driver.write_object(b"", "a"),
            lambda driver: driver.write_object(b"", "a", if_match=""),
            lambda driver: list(driver.iterate_objects("a")),
        ],
        ids=["write", "create", "list"],
    )
    def test_a_missing_bucket_is_a_wrong_setting_and_no_missing_object(self, use):
        with pytest.raises(ValueError, match="MODELKIT_STORAGE_BUCKET"):
            use(self.make_driver_on_missing_bucket())
