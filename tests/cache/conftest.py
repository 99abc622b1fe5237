"""Caches are tried with a store in a folder, unless a test says otherwise."""

import pytest


@pytest.fixture
def store(local):
    return local
