"""`chunk: auto` halves the budget until the worst chunk fits."""

from __future__ import annotations

import pytest
import torch

from tests.train.folder import drawn_folder
from tests.train.test_contrast import make_source
from unime.core.errors import ModelError
from unime.train.chunking import AUTO, Budget
from unime.train.probe import choose_budget
from unime.train.step import Chunk


def source_of(folder):
    source = make_source(drawn_folder(folder), 24)
    source._features = lambda encodes: {"input_ids": torch.zeros(len(encodes), 9)}
    return source


def test_the_budget_is_halved_until_the_worst_chunk_fits(tmp_path):
    source, tried = source_of(tmp_path / "d"), []

    def run(chunk: Chunk) -> None:
        tried.append(len(chunk.places))
        if len(chunk.places) > 5:
            raise torch.OutOfMemoryError

    choose_budget(source, run)
    assert tried == sorted(tried, reverse=True)
    assert 3 <= tried[-1] <= 5
    assert max(len(chunk.places) for chunk in source[0].chunks) <= 5


def test_when_nothing_fits_it_says_so(tmp_path):
    def run(chunk: Chunk) -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(ModelError, match="a single encode does not fit in memory; lower"):
        choose_budget(source_of(tmp_path / "d"), run)


def test_auto_starts_from_a_multiple_of_what_is_given():
    assert Budget(tokens=10, chunk="auto").largest().tokens == 10 * AUTO
    assert Budget(tokens=10).largest().tokens == 10
