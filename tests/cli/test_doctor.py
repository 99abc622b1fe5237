"""What `doctor` finds wrong in a setup, and what it says of that."""

import functools
import json
import os
import resource
import shutil
import signal
import subprocess
import time

import pytest
from commands import BARE, CORE, MORTAL, ok, run
from stores import STORES, AzuriteStore, GcsStore, MotoStore
from stub_server import (
    AZURE,
    GCS,
    PROTOCOLS,
    S3,
    SILENCE,
    Faulty,
    is_delete,
    is_list,
    is_read,
    is_write,
    nth,
    reply,
)
from trees import write_tree

import modelkit_assets as ma


def examine(*args, command=BARE, **settings):
    """Run `doctor` as a process; return its exit code, and its checks by name."""
    done = run("doctor", "--json", *args, command=command, **settings)
    assert done.stderr == "", done.stderr
    return read_checks(done.returncode, done.stdout)


def read_checks(code, output):
    document = json.loads(output)
    assert document.keys() == {"settings", "checks"}
    for one in document["settings"]:
        assert one.keys() == {"setting", "value", "from"}
    for one in document["checks"]:
        assert one.keys() == {"check", "state", "detail", "code"}
        assert one["state"] == ("failed" if one["code"] else "ok")
        assert one["detail"]
    codes = [one["code"] for one in document["checks"] if one["code"]]
    assert code == next(iter(codes), 0)
    return code, {one["check"]: one for one in document["checks"]}


def find_failures(checks):
    return [name for name, one in checks.items() if one["code"]]


def fails_alone(name, code, *texts, found):
    """Check that a check, and no other, failed with that code; return what it says."""
    got, checks = found
    assert (got, find_failures(checks)) == (code, [name]), checks
    for text in texts:
        assert text in checks[name]["detail"], checks[name]
    return checks


READS = ["versioning", "provider", "read", "assets dir"]


@pytest.fixture(params=STORES)
def any_store(request, make_store):
    return make_store(request.param)


def test_a_setup_that_works_is_well(any_store, assets_dir, source, call):
    code, checks = read_checks(*call("doctor", "--json")[:2])
    assert (code, list(checks)) == (0, READS)
    assert "can be listed, and is empty" in checks["read"]["detail"]
    assert any_store.list_objects() == []
    ma.StorageProvider().new(source, "x")
    before = any_store.read_objects()
    code, checks = read_checks(*call("doctor", "--json")[:2])
    assert (code, list(checks)) == (0, READS)
    assert "can be listed, and 'modelkit-assets/x" in checks["read"]["detail"]
    assert "is empty" not in checks["read"]["detail"]
    assert "are free" in checks["assets dir"]["detail"]
    assert any_store.read_objects() == before
    assert list(assets_dir.iterdir()) == []


def test_on_request_a_probe_is_published_and_removed(any_store, assets_dir, call):
    code, checks = read_checks(*call("doctor", "--write", "--json")[:2])
    assert list(checks) == [*READS[:-1], "write", "assets dir"]
    if any_store.honours_conditions:
        assert code == 0
        assert "conditional writes are honoured" in checks["write"]["detail"]
    else:
        text = "ignores conditional writes"
        fails_alone("write", 1, text, "publish from one place", found=(code, checks))
    assert any_store.list_objects() == []


def test_the_settings_are_shown_with_where_they_are_from(store, assets_dir, tmp_path):
    environ = {
        **os.environ,
        "STORAGE_PROVIDER": "local",
        "MODELKIT_STORAGE_PROVIDER": "",
        "MODELKIT_STORAGE_TIMEOUT_S": "7",
    }
    options = ["--prefix", "mine", "--bucket", store.bucket]
    lines = ok("doctor", *options, env=environ).splitlines()
    rows = {words[0]: words[1:] for words in map(str.split, lines) if words}
    assert rows["MODELKIT_ASSETS_DIR"] == [str(assets_dir), "environment"]
    assert rows["MODELKIT_STORAGE_PROVIDER"] == [
        "local",
        "environment,",
        "STORAGE_PROVIDER",
    ]
    assert rows["MODELKIT_STORAGE_BUCKET"] == [str(store.bucket), "argument"]
    assert rows["MODELKIT_STORAGE_PREFIX"] == ["mine", "argument"]
    assert rows["MODELKIT_STORAGE_TIMEOUT_S"] == ["7", "environment"]
    assert rows["MODELKIT_STORAGE_WORKERS"] == ["-", "default"]  # the driver's
    assert rows["MODELKIT_ASSETS_TIMEOUT_S"] == ["10", "default"]
    assert "ok      provider: local" in lines


def test_without_a_store_only_the_assets_dir_is_looked_at(assets_dir):
    code, checks = examine()
    assert (code, list(checks)) == (0, ["versioning", "provider", "assets dir"])
    assert "pre-downloaded mode" in checks["provider"]["detail"]
    found = examine("--write")  # which cannot be done
    fails_alone("provider", 2, "MODELKIT_STORAGE_PROVIDER", found=found)


SETTINGS = [
    ("assets dir", "MODELKIT_ASSETS_DIR", "/no/such/folder", "MODELKIT_ASSETS_DIR"),
    ("provider", "MODELKIT_ASSETS_TIMEOUT_S", "soon", "must be a number"),
    ("provider", "MODELKIT_STORAGE_TIMEOUT_S", "-1", "0 or more, not '-1'"),
    ("provider", "MODELKIT_STORAGE_WORKERS", "0", "must be a whole number"),
    ("provider", "MODELKIT_STORAGE_FORCE_DOWNLOAD", "perhaps", "true or false"),
    ("provider", "MODELKIT_STORAGE_PREFIX", "../x", "must be a path below"),
    ("provider", "MODELKIT_STORAGE_PROVIDER", "s9", "az, gcs, http, local, s3"),
    ("provider", "MODELKIT_STORAGE_BUCKET", "", "MODELKIT_STORAGE_BUCKET is not set"),
    ("read", "MODELKIT_STORAGE_BUCKET", "/no/such/folder", "create it, or set"),
    ("versioning", "MODELKIT_ASSETS_VERSIONING_SYSTEM", "a:B", "use major_minor"),
]


@pytest.mark.parametrize(("check", "variable", "value", "text"), SETTINGS)
def test_a_setting_that_is_wrong_is_named_once(
    store, assets_dir, monkeypatch, check, variable, value, text
):
    monkeypatch.setenv(variable, value)
    fails_alone(check, 2, text, variable, found=examine())


def test_a_setting_that_is_wrong_is_named_where_there_is_no_store(
    assets_dir, monkeypatch
):
    monkeypatch.setenv("MODELKIT_ASSETS_TIMEOUT_S", "soon")
    fails_alone("provider", 2, "MODELKIT_ASSETS_TIMEOUT_S must be", found=examine())


def test_an_assets_dir_inside_the_store_is_wrong(store, monkeypatch):
    folder = store.bucket / "modelkit-assets/cache"
    folder.mkdir(parents=True)
    monkeypatch.setenv("MODELKIT_ASSETS_DIR", str(folder))
    fails_alone("assets dir", 2, "must not be the same folder", found=examine())


@pytest.mark.parametrize(
    ("provider", "settings", "text"),
    [
        ("az", {}, "AZURE_STORAGE_CONNECTION_STRING or AZURE_STORAGE_ACCOUNT_URL"),
        ("s3", {"AWS_ACCESS_KEY_ID": "a"}, "AWS_SECRET_ACCESS_KEY is not set"),
        ("s3", {"S3_ENDPOINT": "localhost"}, "S3_ENDPOINT must be http(s)://HOST"),
        (
            "gcs",
            {"GOOGLE_APPLICATION_CREDENTIALS": "/no"},
            "no credentials file: '/no'",
        ),
    ],
)
def test_a_drivers_setting_that_is_wrong_is_named(
    assets_dir, monkeypatch, provider, settings, text
):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    found = examine("--provider", provider, "--bucket", "b")
    fails_alone("provider", 2, text, found=found)


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda one: one.provider)
def test_an_sdk_that_is_missing_is_named_with_the_command_that_installs_it(
    assets_dir, monkeypatch, protocol
):
    for name, value in protocol.environ("http://127.0.0.1:1").items():
        monkeypatch.setenv(name, value)
    found = examine("--provider", protocol.provider, "--bucket", "b")
    checks = fails_alone("read", 2, f"pip install {protocol.package}", found=found)
    assert list(checks) == READS


@pytest.mark.server
def test_a_profile_that_does_not_exist_is_named(
    assets_dir, monkeypatch, require_sdk, call
):
    require_sdk(S3)
    for name, value in {**S3.bare_environ(), "AWS_DEFAULT_PROFILE": "nobody's"}.items():
        monkeypatch.setenv(name, value)
    code, output, _ = call("doctor", "--json", "--provider", "s3", "--bucket", "b")
    found = read_checks(code, output)
    fails_alone("read", 2, "nobody's", "AWS_PROFILE", found=found)


@pytest.mark.server
def test_credentials_that_are_nowhere_are_asked_for(
    assets_dir, monkeypatch, require_sdk, call
):
    for protocol, variable in ((S3, "AWS_ACCESS_KEY_ID"), (GCS, "GOOGLE_APPL")):
        require_sdk(protocol)
        for name, value in protocol.bare_environ().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("HOME", str(assets_dir))
        where = ["--provider", protocol.provider, "--bucket", "b"]
        code, checks = read_checks(*call("doctor", "--json", *where)[:2])
        assert (code, find_failures(checks)) == (2, ["read"])
        assert variable in checks["read"]["detail"]


SERVERS = [
    pytest.param(kind, protocol, marks=pytest.mark.server, id=protocol.provider)
    for kind, protocol in ((MotoStore, S3), (GcsStore, GCS), (AzuriteStore, AZURE))
]


@pytest.mark.parametrize(("kind", "protocol"), SERVERS)
def test_a_bucket_that_is_missing_is_named(
    make_store, assets_dir, monkeypatch, call, kind, protocol
):
    make_store(kind)
    monkeypatch.setenv("MODELKIT_STORAGE_BUCKET", "no-such-bucket")
    found = read_checks(*call("doctor", "--json")[:2])
    fails_alone("read", 2, "MODELKIT_STORAGE_BUCKET", found=found)


REFUSED = {
    "list": (is_list, "read"),
    "read": (is_read, "read"),
    "write": (is_write, "write"),
}


@pytest.mark.parametrize(("kind", "protocol"), SERVERS)
@pytest.mark.parametrize(("choose", "check"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_is_told_from_what_is_not(
    make_proxied_store, stub, assets_dir, source, call, kind, protocol, choose, check
):
    store = make_proxied_store(kind)
    ma.StorageProvider().new(source, "x")
    before = store.read_objects()
    fault = reply(protocol.fail(403, "AccessDenied"))
    stub.script = Faulty(stub.script, fault, choose)
    found = read_checks(*call("doctor", "--write", "--json")[:2])
    checks = fails_alone(check, 4, "was refused", "credentials", found=found)
    names = ["versioning", "provider", "read", "write"]
    assert list(checks)[:-1] == names[: names.index(check) + 1]  # and no further
    assert store.read_objects() == before


@pytest.mark.parametrize(("kind", "protocol"), SERVERS)
def test_a_probe_that_may_not_be_deleted_is_named_and_publishing_works(
    make_proxied_store, stub, assets_dir, call, kind, protocol
):
    store = make_proxied_store(kind)
    fault = reply(protocol.fail(403, "AccessDenied"))
    stub.script = Faulty(stub.script, fault, is_delete)
    found = read_checks(*call("doctor", "--write", "--json")[:2])
    (probe,) = store.list_objects()
    texts = [probe, "may not be deleted, which publishing does not need"]
    fails_alone("write", 4, *texts, "delete it by hand", found=found)


@pytest.mark.parametrize(("kind", "protocol"), SERVERS)
@pytest.mark.parametrize("number", [2, 3, 4])
def test_the_probe_is_removed_where_a_later_write_fails(
    make_proxied_store, stub, assets_dir, call, kind, protocol, number
):
    store = make_proxied_store(kind)
    fault = reply(protocol.fail(403, "AccessDenied"))
    stub.script = Faulty(stub.script, fault, nth(number, is_write))
    found = read_checks(*call("doctor", "--write", "--json")[:2])
    fails_alone("write", 4, "was refused", found=found)
    assert store.list_objects() == []


@pytest.mark.parametrize(("kind", "protocol"), SERVERS)
def test_a_failure_that_passes_is_none_and_one_that_stays_is(
    make_proxied_store, stub, assets_dir, call, monkeypatch, kind, protocol
):
    """Which is not to be taken for an empty store."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    make_proxied_store(kind)
    whole, fault = stub.script, reply(protocol.fail(*protocol.slow_down))
    stub.script = once = Faulty(whole, fault, nth(1, is_list))
    code, checks = read_checks(*call("doctor", "--json")[:2])
    assert (code, find_failures(checks)) == (0, [])
    assert once.hits
    stub.script = Faulty(whole, fault, is_list)
    found = read_checks(*call("doctor", "--json")[:2])
    texts = ["the store fails on", protocol.slow_down[1]]
    fails_alone("read", 5, *texts, found=found)


@pytest.mark.server
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda one: one.provider)
def test_a_store_that_cannot_be_reached_is_called_so_soon(
    assets_dir, monkeypatch, require_sdk, call, protocol
):
    require_sdk(protocol)
    for name, value in protocol.environ("http://127.0.0.1:1").items():
        monkeypatch.setenv(name, value)
    begun = time.monotonic()
    where = ["--provider", protocol.provider, "--bucket", "bucket"]
    found = read_checks(*call("doctor", "--json", *where)[:2])
    fails_alone("read", 5, "onnect", "127.0.0.1", found=found)
    assert time.monotonic() - begun < 40


@pytest.mark.server
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda one: one.provider)
def test_a_store_that_does_not_answer_is_not_waited_for(
    stub, assets_dir, monkeypatch, require_sdk, call, protocol
):
    """The SDKs would wait for a minute, and then again."""
    require_sdk(protocol)
    for name, value in protocol.environ(stub.endpoint).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MODELKIT_STORAGE_TIMEOUT_S", "1")
    stub.script = lambda request: SILENCE
    begun = time.monotonic()
    where = ["--provider", protocol.provider, "--bucket", "bucket"]
    found = read_checks(*call("doctor", "--json", *where)[:2])
    fails_alone("read", 5, "the store fails on", found=found)
    assert time.monotonic() - begun < 20


STUCK = """
import os, time, modelkit_assets

class Driver(modelkit_assets.LocalDriver):
    "A folder in which nothing goes on once an object was written."

    def write_object(self, data, name, *, if_match=None):
        super().write_object(data, name, if_match=if_match)
        time.sleep(60)
"""


REFUSING = """
import modelkit_assets

class Driver(modelkit_assets.LocalDriver):
    "A store that refuses a right etag, as Ceph 16 does with its quotes."

    def write_object(self, data, name, *, if_match=None):
        if if_match:
            raise FileExistsError("the condition failed")
        return super().write_object(data, name, if_match=if_match)
"""


def test_a_store_that_refuses_a_right_etag_is_not_said_to_ignore_it(
    tmp_path, store, assets_dir
):
    folder = tmp_path / "program"
    write_tree(folder, {"drivers/refusing.py": REFUSING.encode()})
    shutil.copy(CORE, folder)
    command = [*BARE[:-1], str(folder / "modelkit_assets.py")]
    done = run("doctor", "--write", "--provider", "refusing", command=command)
    assert done.returncode == 1
    assert "refuses a write whose condition holds" in done.stdout
    assert "ignores" not in done.stdout
    assert store.list_objects() == []


def test_the_probe_is_removed_on_an_interrupt(tmp_path, store, assets_dir):
    folder = tmp_path / "program"
    write_tree(folder, {"drivers/stuck.py": STUCK.encode()})
    shutil.copy(CORE, folder)
    core = str(folder / "modelkit_assets.py")
    command = [*BARE[:-1], core, "doctor", "--write", "--provider", "stuck"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdout=pipe, stderr=pipe,
        # a shell that runs the tests in the background has it ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as doctor:  # fmt: skip
        while not store.list_objects():
            assert doctor.poll() is None, doctor.communicate()
        doctor.send_signal(signal.SIGINT)
        output, errors = doctor.communicate(timeout=30)
    assert (doctor.returncode, output) == (130, b"")
    assert errors == b"modelkit_assets: error: interrupted\n"
    assert store.list_objects() == []


def test_an_assets_dir_that_cannot_be_written_is_wrong_unless_there_is_no_store(
    store, assets_dir, monkeypatch
):
    assets_dir.chmod(0o555)
    try:
        text = "cannot write to the assets dir: Permission denied"
        fails_alone("assets dir", 1, text, found=examine(command=MORTAL))
        monkeypatch.delenv("MODELKIT_STORAGE_PROVIDER")
        code, checks = examine(command=MORTAL)
        assert code == 0
        assert "cannot be written (Permission denied)" in checks["assets dir"]["detail"]
        assets_dir.chmod(0)  # which serves nothing
        found = examine(command=MORTAL)
        fails_alone("assets dir", 1, "Permission denied", str(assets_dir), found=found)
    finally:
        assets_dir.chmod(0o755)


def test_an_assets_dir_that_is_full_is_wrong(store, assets_dir):
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (0, 0))
    found = examine(preexec_fn=limit)
    fails_alone("assets dir", 1, "File too large", found=found)


SECRET = "S3CR3T"
SECRETS = {
    "AWS_ACCESS_KEY_ID": f"AKID{SECRET}",
    "AWS_SECRET_ACCESS_KEY": f"{SECRET}/key",
    "AWS_SESSION_TOKEN": f"{SECRET}/token",
    "AZURE_STORAGE_CONNECTION_STRING": f"AccountName=a;AccountKey={SECRET};x",
}
HIDDEN = {
    "s3": {"S3_ENDPOINT": f"https://me:{SECRET}/x@127.0.0.1:1/"},
    "gcs": {"GOOGLE_APPLICATION_CREDENTIALS": f'{{"private_key": "{SECRET}"}}'},
    "az": {},
    "local": {},
}


@pytest.mark.parametrize("provider", HIDDEN)
@pytest.mark.parametrize("is_hidden", [False, True])
@pytest.mark.parametrize("options", [[], ["--json", "-v"]], ids=str)
def test_no_secret_is_shown(assets_dir, provider, is_hidden, options):
    """Neither where it belongs, nor where somebody put it by mistake."""
    hidden = HIDDEN[provider] if is_hidden else {"S3_ENDPOINT": "http://127.0.0.1:1"}
    environ = {**os.environ, **SECRETS, **hidden, "AWS_MAX_ATTEMPTS": "1"}
    where = ["--provider", provider, "--bucket", "b", "--write"]
    done = run("doctor", *where, *options, env=environ)
    shown = done.stdout + done.stderr
    assert done.returncode == 2  # for one reason or another
    assert "MODELKIT_STORAGE_PROVIDER" in shown
    assert SECRET not in shown
    assert shown.count("***") == {"s3": 3, "az": 1}.get(provider, 0) + bool(
        is_hidden and hidden
    )
