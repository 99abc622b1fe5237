"""Start-up: what neither an import nor a cache hit needs is not loaded."""

import subprocess
import sys

import pytest
from places import CORE

import modelkit_assets

NOT_NEEDED = [
    "argparse",
    "asyncio",
    "concurrent.futures",
    "hashlib",
    "subprocess",
    "tempfile",
    "urllib.request",
]

IMPORT = f"""
import sys
sys.path.insert(0, {str(CORE.parent)!r})
import modelkit_assets
"""
FETCH = """
provider = PROVIDER
manager = modelkit_assets.AssetsManager(ASSETS_DIR, storage_provider=provider)
info = manager.fetch_asset(SPEC, return_info=True)
assert info["from_cache"] and info["version"] == "0.0", info
"""
SHOW = "print(*sorted(sys.modules), sep='\\n')"


def run(code):
    """Return the modules that a bare interpreter has loaded after some code."""
    command = [sys.executable, "-I", "-S", "-c", code + SHOW]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def after_import():
    return run(IMPORT)


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """Fetch a file and a folder from a local store, so that both are cached."""
    root = tmp_path_factory.mktemp("startup")
    for name in ("store", "assets", "source"):
        (root / name).mkdir()
    (root / "source" / "data").write_bytes(b"data")
    provider = modelkit_assets.StorageProvider(provider="local", bucket=root / "store")
    provider.new(str(root / "source"), "a/folder")
    provider.new(str(root / "source" / "data"), "a/file")
    manager = modelkit_assets.AssetsManager(root / "assets", storage_provider=provider)
    for name in ("a/folder", "a/file"):
        assert not manager.fetch_asset(name, return_info=True)["from_cache"]
    return root


HITS = {
    "with a provider, a file": (True, "a/file:0.0"),
    "with a provider, a folder": (True, "a/folder:0.0"),
    "with a provider, a part": (True, "a/folder:0.0[data]"),
    "without a provider, a file": (False, "a/file:0.0"),
    "without a provider, the latest": (False, "a/folder"),
    "without a provider, a part": (False, "a/folder:0[data]"),
}


@pytest.fixture(scope="module", params=HITS.values(), ids=HITS)
def after_hit(cached, request):
    has_provider, spec = request.param
    bucket = str(cached / "store")
    made = f"modelkit_assets.StorageProvider(provider='local', bucket={bucket!r})"
    return run(
        IMPORT
        + FETCH.replace("PROVIDER", made if has_provider else "None")
        .replace("ASSETS_DIR", repr(str(cached / "assets")))
        .replace("SPEC", repr(spec))
    )


@pytest.mark.parametrize("module", NOT_NEEDED)
def test_an_import_does_not_load(after_import, module):
    assert "modelkit_assets" in after_import
    assert module not in after_import


@pytest.mark.parametrize("module", NOT_NEEDED)
def test_a_cache_hit_does_not_load(after_hit, module):
    assert "modelkit_assets" in after_hit
    assert module not in after_hit


def test_the_core_needs_the_standard_library_alone(after_import):
    if sys.version_info >= (3, 10):
        roots = {name.partition(".")[0] for name in after_import}
        assert roots - sys.stdlib_module_names <= {"modelkit_assets", "__main__"}
