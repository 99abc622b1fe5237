"""Every setting of a driver, proved by the request that reaches the store."""

import json
import logging
import socket
import sys
import threading
import traceback
import types

import pytest
from stores import MotoStore
from stub_server import (
    AZURE,
    GCS,
    PROTOCOLS,
    S3,
    Answer,
    forward,
    give_tokens,
    in_turn,
    make_service_account,
)

import modelkit_assets as ma

pytestmark = pytest.mark.server

MIB = 1 << 20
NAMES = [protocol.provider for protocol in PROTOCOLS]


@pytest.fixture
def clear(monkeypatch):
    """Keep out what the machine has: profiles, roles, credentials."""
    for protocol in PROTOCOLS:
        for variable, value in protocol.bare_environ().items():
            monkeypatch.setenv(variable, value)


@pytest.fixture
def s3(stub, require_sdk, monkeypatch, clear):
    """A stub that S3_ENDPOINT points at; credentials are for the test to set."""
    require_sdk(S3)
    monkeypatch.setenv("S3_ENDPOINT", stub.endpoint)
    stub.script = lambda request: (
        S3.accept(request) if request.method == "PUT" else S3.show(request, b"data")
    )
    return stub


@pytest.fixture
def set_keys(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDVARIABLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", S3.secrets[0])


def ask(stub, provider="s3", **settings):
    """Read an object with the settings, and return the last request."""
    options = {"provider": provider, "bucket": "bucket", **settings}
    ma.StorageProvider(**options).driver.read_object("n")
    return stub.requests[-1]


def find_scope(request):
    """Return the access key id and the region that a request is signed with."""
    credential = request.headers["authorization"].partition("Credential=")[2]
    key, _, region = credential.split("/")[:3]
    return key, region


# ------------------------------------------------------------------------- S3


def test_s3_signs_with_the_keys_of_the_environment(s3, set_keys):
    request = ask(s3)
    assert find_scope(request)[0] == "AKIDVARIABLE"
    assert "x-amz-security-token" not in request.headers


def test_s3_sends_the_session_token(s3, set_keys, monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", S3.secrets[1])
    assert ask(s3).headers["x-amz-security-token"] == S3.secrets[1]


def test_s3_keywords_beat_variables(s3, set_keys, monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "variable")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-3")
    monkeypatch.setenv("S3_ENDPOINT", "http://127.0.0.1:1")
    request = ask(
        s3,
        aws_access_key_id="AKIDKEYWORD",
        aws_secret_access_key="keyword",
        aws_session_token="keyword",
        region_name="sa-east-1",
        endpoint_url=s3.endpoint,
    )
    assert find_scope(request) == ("AKIDKEYWORD", "sa-east-1")
    assert request.headers["x-amz-security-token"] == "keyword"


def test_s3_settings_are_keywords_of_the_same_name_in_lower_case(
    s3, set_keys, monkeypatch
):
    monkeypatch.delenv("S3_ENDPOINT")
    settings = {"aws_default_region": "sa-east-1", "s3_endpoint": s3.endpoint}
    assert find_scope(ask(s3, **settings))[1] == "sa-east-1"


def test_s3_signs_for_the_region_of_the_environment(s3, set_keys, monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-3")
    assert find_scope(ask(s3))[1] == "eu-west-3"


def test_an_empty_variable_counts_as_unset(s3, set_keys, monkeypatch):
    for variable in ("AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_KMS_KEY_ID"):
        monkeypatch.setenv(variable, "")
    request = ask(s3)
    assert "x-amz-security-token" not in request.headers
    assert find_scope(request)[1] == "us-east-1"


@pytest.fixture
def aws_folder(tmp_path, monkeypatch):
    """A home whose ~/.aws holds a default profile and another one."""
    folder = tmp_path / ".aws"
    folder.mkdir()
    for variable in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path))
    form = "[{}]\naws_access_key_id = {}\naws_secret_access_key = x\n"
    text = form.format("default", "AKIDDEFAULT") + form.format("team", "AKIDTEAM")
    (folder / "credentials").write_text(text)
    (folder / "config").write_text("[profile team]\nregion = ap-south-1\n")
    return folder


def test_s3_falls_back_to_the_default_profile(s3, aws_folder):
    assert find_scope(ask(s3))[0] == "AKIDDEFAULT"


@pytest.mark.parametrize("variable", ["AWS_DEFAULT_PROFILE", "AWS_PROFILE"])
def test_s3_takes_the_profile_that_is_named(s3, aws_folder, monkeypatch, variable):
    monkeypatch.setenv(variable, "team")
    assert find_scope(ask(s3)) == ("AKIDTEAM", "ap-south-1")


def test_s3_without_an_endpoint_leaves_that_to_boto3(s3, set_keys, monkeypatch):
    monkeypatch.delenv("S3_ENDPOINT")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    assert find_scope(ask(s3))[0] == "AKIDVARIABLE"


def put(**settings):
    options = {"provider": "s3", "bucket": "bucket", **settings}
    ma.StorageProvider(**options).driver.write_object(b"data", "n")


def get_checksum_headers(request):
    return [name for name in request.headers if "checksum" in name]


def test_s3_sends_no_new_checksums_where_an_endpoint_is_set(s3, set_keys):
    put()
    assert s3.methods == ["PUT"]
    assert get_checksum_headers(s3.requests[0]) == []
    assert get_checksum_headers(ask(s3)) == []


def test_the_endpoint_of_aws_counts_as_ours_does(s3, set_keys, monkeypatch):
    monkeypatch.delenv("S3_ENDPOINT")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint)
    put()
    assert s3.methods == ["PUT"]
    assert get_checksum_headers(s3.requests[0]) == []
    monkeypatch.setenv("S3_ENDPOINT", s3.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")  # which ours beats
    put()
    assert s3.methods == ["PUT", "PUT"]


def test_doctor_shows_what_of_aws_is_in_force(s3, set_keys, monkeypatch, capsys):
    monkeypatch.delenv("S3_ENDPOINT")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint)
    monkeypatch.setenv("AWS_PROFILE", "team")
    ma.main(["doctor", "--provider", "s3", "--bucket", "bucket"])
    shown = capsys.readouterr().out
    assert f"AWS_ENDPOINT_URL_S3                {s3.endpoint}" in shown
    assert "AWS_PROFILE                        team" in shown


def test_s3_leaves_checksums_to_boto3_where_no_endpoint_is_set(
    s3, set_keys, monkeypatch
):
    monkeypatch.delenv("S3_ENDPOINT")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    put()
    assert get_checksum_headers(s3.requests[0]) != []


def test_the_users_variables_on_checksums_stand(s3, set_keys, monkeypatch):
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    put()
    assert get_checksum_headers(s3.requests[0]) != []
    assert get_checksum_headers(ask(s3)) == []
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_supported")
    assert get_checksum_headers(ask(s3)) == ["x-amz-checksum-mode"]


def test_the_users_configuration_file_on_checksums_stands(s3, aws_folder, monkeypatch):
    text = "[profile team]\nrequest_checksum_calculation = when_supported\n"
    (aws_folder / "config").write_text(text)
    put()
    assert get_checksum_headers(s3.requests[-1]) == []
    monkeypatch.setenv("AWS_PROFILE", "team")
    put()
    assert get_checksum_headers(s3.requests[-1]) != []


@pytest.mark.server
def test_s3_encrypts_with_the_kms_key_whatever_the_way_up(
    make_store, stub, monkeypatch, tmp_path
):
    store = make_store(MotoStore)
    stub.script = forward(store.server.endpoint)
    monkeypatch.setenv("S3_ENDPOINT", stub.endpoint)
    monkeypatch.setenv("AWS_KMS_KEY_ID", "key-of-the-team")
    driver = ma.StorageProvider().driver
    driver.write_object(b"data", "written")
    for name, size in (("small", 10), ("large", 17 * MIB)):
        with open(tmp_path / name, "wb") as file:
            file.truncate(size)
        driver.upload_object(str(tmp_path / name), name, lambda number: None)
    driver.copy_object("large", "copy")
    creating = [
        request
        for request in stub.requests
        if request.path.endswith("?uploads") or "?" not in request.path
    ]
    assert [request.method for request in creating] == ["PUT", "PUT", "POST", "PUT"]
    for request in creating:
        assert request.headers["x-amz-server-side-encryption"] == "aws:kms"
        id_header = "x-amz-server-side-encryption-aws-kms-key-id"
        assert request.headers[id_header] == "key-of-the-team"
    for name in ("written", "small", "large", "copy"):
        about = store.client.head_object(Bucket=store.bucket, Key=name)
        assert about["SSEKMSKeyId"] == "key-of-the-team"


def test_s3_asks_for_no_encryption_of_its_own(s3, set_keys, tmp_path):
    put()
    assert not [
        name for name in s3.requests[0].headers if "server-side-encryption" in name
    ]


def test_a_kms_key_may_be_a_keyword(s3, set_keys):
    put(aws_kms_key_id="keyword")
    id_header = "x-amz-server-side-encryption-aws-kms-key-id"
    assert s3.requests[0].headers[id_header] == "keyword"


# ------------------------------------------------------------------------ GCS


@pytest.fixture
def gcs(stub, require_sdk, clear, monkeypatch):
    """A stub that is token server and store, which STORAGE_EMULATOR_HOST is not."""
    require_sdk(GCS)
    monkeypatch.setenv("API_ENDPOINT_OVERRIDE", stub.endpoint)
    stub.script = give_tokens(lambda request: GCS.show(request, b"data"))
    return stub


@pytest.fixture
def service_account(gcs, tmp_path):
    pytest.importorskip("cryptography")
    path = tmp_path / "service-account.json"
    path.write_text(json.dumps(make_service_account(gcs.endpoint)))
    return str(path)


@pytest.fixture
def workload(gcs, tmp_path):
    """Another type of credentials: an external account's."""
    (tmp_path / "subject").write_text("subject")
    about = {"type": "external_account", "token_url": gcs.endpoint + "/token"}
    about["subject_token_type"] = "urn:ietf:params:oauth:token-type:jwt"
    # of a workforce, as the SDK would look for the project of a workload's
    audience = "//iam.googleapis.com/locations/global/workforcePools/pool/providers/p"
    about["audience"] = audience
    about["credential_source"] = {"file": str(tmp_path / "subject")}
    path = tmp_path / "workload.json"
    path.write_text(json.dumps(about))
    return str(path)


@pytest.mark.parametrize("how", ["variable", "keyword", "lower-case keyword"])
def test_gcs_uses_a_service_account_as_such(gcs, service_account, monkeypatch, how):
    settings = {}
    if how == "variable":
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", service_account)
    else:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/no/such/file")
        name = "service_account_path" if how == "keyword" else None
        settings = {name or "google_application_credentials": service_account}
    driver = ma.StorageProvider(provider="gcs", bucket="b", **settings).driver
    # default credentials would ask for the same token, but not know the project
    assert driver.client.project == "p"
    request = ask(gcs, "gcs", **settings)
    token = gcs.requests[0]
    assert token.path == "/token"
    assert b"grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer" in (
        token.body
    )
    assert b"assertion=" in token.body
    assert request.headers["authorization"] == f"Bearer {GCS.secrets[0]}"


@pytest.mark.parametrize("how", ["variable", "keyword"])
def test_gcs_leaves_another_type_to_the_default_credentials(
    gcs, workload, monkeypatch, how
):
    settings = {}
    if how == "variable":
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", workload)
    else:
        settings["service_account_path"] = workload
    request = ask(gcs, "gcs", **settings)
    assert b"grant-type%3Atoken-exchange" in gcs.requests[0].body
    assert request.headers["authorization"] == f"Bearer {GCS.secrets[0]}"


def test_gcs_needs_no_credentials_on_an_emulator(gcs, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.endpoint)
    assert "authorization" not in ask(gcs, "gcs").headers
    assert len(gcs.requests) == 1


def test_gcs_asks_for_the_object_alone(gcs, monkeypatch):
    """Not for its bucket, which a reader may lack the right to."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.endpoint)
    monkeypatch.delenv("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", False)
    driver = ma.StorageProvider(provider="gcs", bucket="bucket").driver
    before = set(threading.enumerate())
    for _ in range(3):
        driver.read_object("n")
    for thread in set(threading.enumerate()) - before:
        thread.join(10)  # what the SDK does in the background is done
    assert [request.path.partition("?")[0] for request in gcs.requests] == (
        ["/download/storage/v1/b/bucket/o/n"] * 3
    )


def test_gcs_without_any_credentials_is_a_wrong_setting(gcs):
    with pytest.raises(ma.ConfigurationError, match="GOOGLE_APPLICATION_CREDENTIALS"):
        ma.StorageProvider(provider="gcs", bucket="bucket").get_versions_info("a")
    assert gcs.requests == []


CREDENTIALS = {
    "missing": None,
    "empty": "",
    "no JSON": "S3CR3T-T0KEN",
    "a list": "[]",
    "no type": '{"private_key": "S3CR3T-T0KEN"}',
    "an unknown type": '{"type": "other"}',
    "half a service account": '{"type": "service_account"}',
}


@pytest.mark.parametrize("content", CREDENTIALS.values(), ids=CREDENTIALS)
@pytest.mark.parametrize("how", ["variable", "keyword"])
def test_gcs_names_the_variable_of_credentials_that_are_none(
    gcs, monkeypatch, tmp_path, content, how
):
    path, settings = tmp_path / "credentials.json", {}
    if content is not None:
        path.write_text(content)
    if how == "variable":
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    else:
        settings["service_account_path"] = str(path)
    with pytest.raises(ma.ConfigurationError) as caught:
        ask_versions("gcs", **settings)
    assert "GOOGLE_APPLICATION_CREDENTIALS" in str(caught.value)
    check_no_secret(caught.value)
    assert gcs.requests == []


# ---------------------------------------------------------------------- Azure


@pytest.fixture
def az(stub, require_sdk):
    require_sdk(AZURE)
    stub.script = lambda request: AZURE.show(request, b"data")
    return stub


def test_azure_takes_the_connection_string_of_the_environment(az, monkeypatch):
    (text,) = AZURE.environ(az.endpoint).values()
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    assert ask(az, "az").headers["authorization"].startswith("SharedKey account:")


@pytest.mark.parametrize(
    "keyword", ["connection_string", "azure_storage_connection_string"]
)
def test_azure_keywords_beat_the_variable(az, monkeypatch, keyword):
    (text,) = AZURE.environ(az.endpoint).values()
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    request = ask(az, "az", **{keyword: text.replace("=account", "=keyword", 1)})
    assert request.headers["authorization"].startswith("SharedKey keyword:")


SIGNATURE = f"sv=2024-11-04&sp=rl&sig={AZURE.secrets[1]}"


@pytest.mark.parametrize("keyword", ["", "account_url", "azure_storage_account_url"])
def test_azure_takes_a_url_that_carries_a_signature(az, monkeypatch, keyword):
    url = f"{az.endpoint}/account?{SIGNATURE}"
    if not keyword:
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_URL", url)
    request = ask(az, "az", **({keyword: url} if keyword else {}))
    assert f"sig={AZURE.secrets[1]}" in request.path
    assert request.path.startswith("/account/bucket/n?")
    assert "authorization" not in request.headers


def test_azure_takes_the_machines_credentials_for_a_url_without(az, monkeypatch):
    class DefaultAzureCredential:
        def get_token(self, *scopes, **options):
            raise NotImplementedError

    identity = types.ModuleType("azure.identity")
    identity.DefaultAzureCredential = DefaultAzureCredential
    monkeypatch.setitem(sys.modules, "azure.identity", identity)
    options = {"provider": "az", "bucket": "b", "account_url": "https://a.invalid"}
    client = ma.StorageProvider(**options).driver.client
    assert isinstance(client.credential, DefaultAzureCredential)


def test_azure_without_azure_identity_names_it(az, monkeypatch):
    monkeypatch.setitem(sys.modules, "azure.identity", None)
    options = {"provider": "az", "bucket": "b", "account_url": "https://a.invalid"}
    with pytest.raises(ImportError, match="azure.identity"):
        ma.StorageProvider(**options).driver.client  # noqa: B018


def test_azure_names_both_variables_where_neither_is_set(az):
    with pytest.raises(ma.ConfigurationError) as caught:
        ask_versions("az")
    for name in ("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_URL"):
        assert name in str(caught.value)


MALFORMED = {
    "absent": "",
    "no connection string": AZURE.secrets[0],
    "a key alone": f"AccountKey={AZURE.secrets[0]}",
    "no key but a word": "AccountName=account;AccountKey=S3CR3T-SIGNATURE;"
    "BlobEndpoint=http://127.0.0.1:1/account",
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_azure_names_the_variable_of_a_bad_connection_string(
    require_sdk, monkeypatch, text
):
    require_sdk(AZURE)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    with pytest.raises(ma.ConfigurationError) as caught:
        ask_versions("az")
    assert "AZURE_STORAGE_CONNECTION_STRING" in str(caught.value)
    check_no_secret(caught.value)


# ------------------------------------------------------------- wrong settings


def ask_versions(provider, **settings):
    options = {"provider": provider, "bucket": "bucket", "timeout_s": 0, **settings}
    return ma.StorageProvider(**options).get_versions_info("a")


@pytest.mark.parametrize(
    "given, missing",
    [
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"),
    ],
)
def test_half_a_key_pair_names_the_other_half(s3, monkeypatch, given, missing):
    monkeypatch.setenv(given, S3.secrets[0])
    with pytest.raises(ma.ConfigurationError, match=f"{missing} is not set") as caught:
        ask_versions("s3")
    check_no_secret(caught.value)
    assert s3.requests == []


@pytest.mark.parametrize(
    "endpoint",
    [
        "localhost:9000", "ftp://127.0.0.1", "http://", "127.0.0.1", "s3",
        "http://127.0.0.1:99999", "http://127.0.0.1:abc", "http://[::1", "http://a b:1",
        "http://127.0.0.1?x=1", "http://no_host",
    ],
)  # fmt: skip
def test_a_bad_endpoint_names_its_variable(s3, set_keys, monkeypatch, endpoint):
    monkeypatch.setenv("S3_ENDPOINT", endpoint)
    with pytest.raises(ma.ConfigurationError, match="S3_ENDPOINT"):
        ask_versions("s3")


@pytest.mark.parametrize(
    "name, place",
    [
        ("AWS_ACCESS_KEY_ID", "environment"),
        ("AWS_SECRET_ACCESS_KEY", "environment"),
        ("AWS_SESSION_TOKEN", "environment"),
        ("AWS_SESSION_TOKEN", "file"),
    ],
)
def test_a_key_that_no_header_may_hold_is_not_shown(
    s3, set_keys, aws_folder, monkeypatch, name, place
):
    if place == "environment":
        monkeypatch.setenv(name, f"{S3.secrets[0]}\nx")
    else:
        keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
        keys[name] = f"{S3.secrets[0]}\n x"
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            monkeypatch.delenv(key, raising=False)
        lines = [f"{key.lower()} = {value}" for key, value in keys.items()]
        (aws_folder / "credentials").write_text("\n".join(["[default]", *lines]))
    with pytest.raises(ma.ConfigurationError, match="no header may") as caught:
        ask_versions("s3")
    check_no_secret(caught.value)
    assert s3.requests == []


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:abc/x?sig=1", "ftp://x", "http://h:99999"]
)
def test_a_bad_account_url_names_its_variable(az, monkeypatch, url):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_URL", url)
    with pytest.raises(
        ma.ConfigurationError, match="AZURE_STORAGE_ACCOUNT_URL"
    ) as caught:
        ask_versions("az")
    assert "sig" not in str(caught.value)


def test_s3_without_any_credentials_is_a_wrong_setting(s3):
    with pytest.raises(ma.ConfigurationError, match="AWS_ACCESS_KEY_ID"):
        ask_versions("s3")
    assert s3.requests == []


def test_a_profile_that_does_not_exist_is_a_wrong_setting(s3, aws_folder, monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_PROFILE", "other")
    with pytest.raises(ma.ConfigurationError, match="AWS_PROFILE"):
        ask_versions("s3")
    assert s3.requests == []


def test_a_bucket_name_that_cannot_be_is_a_wrong_setting(s3, set_keys):
    with pytest.raises(ma.ConfigurationError, match="bucket"):
        ask_versions("s3", bucket="no bucket")
    assert s3.requests == []


# -------------------------------------------------------------------- secrets


def check_no_secret(error):
    lines = traceback.format_exception_only(type(error), error)
    text = "".join(lines)
    while error:  # by either way to an SDK's own
        request = getattr(getattr(error, "request", None), "headers", "")
        text += repr(error) + str(vars(error)) + str(request)
        error = error.__cause__ or error.__context__
    for protocol in PROTOCOLS:
        assert not [secret for secret in protocol.secrets if secret in text]


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=NAMES)
@pytest.mark.parametrize("failure", ["401", "403", "404", "500", "refused"])
def test_no_secret_is_shown(
    protocol, failure, stub, clear, require_sdk, monkeypatch, caplog
):
    require_sdk(protocol)
    endpoint = stub.endpoint
    if failure == "refused":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    else:
        stub.script = in_turn(protocol.fail(int(failure)))
    for variable, value in protocol.environ(endpoint).items():
        monkeypatch.setenv(variable, value)
    caplog.set_level(logging.DEBUG, "modelkit_assets")
    provider = ma.StorageProvider(
        provider=protocol.provider, bucket="bucket", timeout_s=0.3
    )
    with pytest.raises(ma.StorageDriverError) as caught:
        provider.get_versions_info("a")
    check_no_secret(caught.value)
    ours = [record for record in caplog.records if record.name == "modelkit_assets"]
    shown = [repr(provider), repr(provider.driver), str(provider.driver)]
    shown += [record.getMessage() for record in ours]
    assert not [
        secret for secret in protocol.secrets for text in shown if secret in text
    ]


@pytest.mark.parametrize("variable", ["CONNECTION_STRING", "ACCOUNT_URL"])
def test_no_signature_of_a_shared_access_url_is_shown(
    require_sdk, monkeypatch, caplog, variable
):
    require_sdk(AZURE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    text = f"{endpoint}/account?{SIGNATURE}"
    if variable == "CONNECTION_STRING":
        text = f"BlobEndpoint={endpoint}/account;SharedAccessSignature={SIGNATURE}"
    monkeypatch.setenv(f"AZURE_STORAGE_{variable}", text)
    caplog.set_level(logging.DEBUG, "modelkit_assets")
    with pytest.raises(ma.StorageUnavailableError) as caught:
        ask_versions("az", timeout_s=0.3)
    check_no_secret(caught.value)
    messages = [record.getMessage() for record in caplog.records]
    assert not [text for text in messages if AZURE.secrets[1] in text]


def test_a_token_with_a_line_end_is_no_reason_to_show_it(s3, set_keys, monkeypatch):
    """As one read from a file has."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", S3.secrets[1] + "\n")
    assert ask(s3).headers["x-amz-security-token"] == S3.secrets[1]


ECHO = """<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>SignatureDoesNotMatch</Code><Message>It does not match.</Message>
<CanonicalRequest>GET
x-amz-security-token:{token}
</CanonicalRequest><Token-0>{token}</Token-0></Error>"""


@pytest.mark.parametrize("first", [b"data", None], ids=["later", "at first"])
def test_a_refusal_that_echoes_the_session_token_shows_it_nowhere(
    s3, set_keys, monkeypatch, caplog, first
):
    token = S3.secrets[1]
    monkeypatch.setenv("AWS_SESSION_TOKEN", token)
    caplog.set_level(logging.DEBUG)
    provider = ma.StorageProvider(provider="s3", bucket="bucket", timeout_s=0.3)
    if first:
        provider.driver.read_object("n")
    echo = ECHO.format(token=token).encode()
    s3.script = lambda request: Answer(403, echo)
    with pytest.raises(ma.StorageAccessError, match="SignatureDoesNotMatch") as caught:
        provider.get_versions_info("a")
    check_no_secret(caught.value)
    records = [record for record in caplog.records if "botocore" in record.name]
    assert any("parsers" in record.name for record in records)
    assert not [one.getMessage() for one in records if token in one.getMessage()]
