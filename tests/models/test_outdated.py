"""The suite itself: a deprecated call of ours fails a test, one that a library makes does not."""

from __future__ import annotations

import warnings

import pytest
import transformers

from tests.families import build_family


def test_what_transformers_only_logs_is_found(tmp_path, no_outdated_calls):
    folder = build_family("qwen2_vl", tmp_path)
    transformers.AutoModel.from_pretrained(folder, dtype="float32")
    assert not no_outdated_calls
    for _ in range(2):
        # Said once a process; every test is to hear it.
        transformers.utils.logging.warning_once.cache_clear()
        transformers.AutoModel.from_pretrained(folder, torch_dtype="float32")
        assert any("torch_dtype" in said for said in no_outdated_calls)
        no_outdated_calls.clear()


@pytest.mark.parametrize("kind", [FutureWarning, DeprecationWarning])
def test_a_warning_about_the_future_is_an_error(kind):
    with pytest.raises(kind, match="gone in the next version"):
        warnings.warn("gone in the next version", kind, stacklevel=1)
