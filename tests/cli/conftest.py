"""A store in a folder with some assets, and a cache that has copies of them."""

import pytest
from commands import ok
from trees import write_tree

import modelkit_assets as ma

FILES = {"vocab.txt": b"a b", "deep/w.bin": bytes(2000), "none/": b""}


@pytest.fixture
def store(local):
    return local


@pytest.fixture
def source(tmp_path):
    return write_tree(tmp_path / "source", FILES)


@pytest.fixture
def published(source, store, assets_dir):
    """nlp/bert:0.0 and 0.1, a folder and a file; x:0.0, a pack."""
    provider = ma.StorageProvider()
    provider.new(source, "nlp/bert")
    provider.update(source / "vocab.txt", "nlp/bert")
    provider.new(source, "x", pack=True)
    return provider


@pytest.fixture
def call(capsys):
    """Return a function that runs a command in this process, where SDKs are loaded."""

    def call(*args):
        code = ma.main([str(arg) for arg in args])
        return (code, *capsys.readouterr())

    return call


@pytest.fixture
def cached(published, assets_dir):
    ok("fetch", "nlp/bert:0.0", "nlp/bert:0.1", "x")
    return assets_dir
