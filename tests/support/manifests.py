"""Manifests as anybody may write them."""

from hypothesis import strategies as st

DATE = "2021-11-15T17:31:06+00:00"


SHA = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


PATH = st.sampled_from(["", "a", "a/b", "../a", "/a", ".SUCCESS", "\ud800"]) | st.text()


ENTRY = st.fixed_dictionaries(
    {"path": PATH | JSON, "size": st.just(3) | JSON, "sha256": st.just(SHA) | JSON},
    optional={"executable": JSON, "offset": JSON},
)


DOCUMENT = st.fixed_dictionaries(
    {
        "push_date": st.just(DATE) | JSON,
        "is_directory": st.booleans() | JSON,
        "contents": st.lists(PATH) | JSON,
    },
    optional={
        "files": st.lists(ENTRY) | JSON,
        "empty_directories": st.lists(PATH) | JSON,
        "format": st.just(1) | JSON,
        "pack": JSON,
    },
)
