"""`chunk: auto` halves the budget until the worst chunk fits."""

from __future__ import annotations

import pytest
import torch

from tests.train.folder import drawn_folder
from tests.train.test_contrast import make_source
from tests.train.toy import ToyRunner
from unime.core.errors import ModelError
from unime.train.batch import Chunk
from unime.train.chunking import AUTO, ChunkBudget
from unime.train.loader import choose_budget


def source_of(folder):
    def features(inputs):
        return {"input_ids": torch.zeros(len(inputs), 9)}

    return make_source(drawn_folder(folder), 24, features=features)


class Limited(ToyRunner):
    """Has memory for chunks of a size."""

    def __init__(self, most: int) -> None:
        super().__init__(None)
        self.most, self.tried = most, []

    def rehearse(self, chunk: Chunk) -> None:
        self.tried.append(len(chunk.places))
        if len(chunk.places) > self.most:
            raise torch.OutOfMemoryError


def test_the_budget_is_halved_until_the_worst_chunk_fits(tmp_path):
    source, runner = source_of(tmp_path / "d"), Limited(5)
    choose_budget(source, runner)
    tried = runner.tried
    assert tried == sorted(tried, reverse=True)
    assert 3 <= tried[-1] <= 5
    assert max(len(chunk.places) for chunk in source[0].chunks) <= 5


def test_when_nothing_fits_it_says_so(tmp_path):
    with pytest.raises(ModelError, match="a single input does not fit in memory; lower"):
        choose_budget(source_of(tmp_path / "d"), Limited(0))


def test_auto_starts_from_a_multiple_of_what_is_given():
    assert ChunkBudget(tokens=10, chunk="auto").largest().tokens == 10 * AUTO
    assert ChunkBudget(tokens=10).largest().tokens == 10
