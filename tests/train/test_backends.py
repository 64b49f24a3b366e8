"""What a launch cannot do is refused with the reason; the global batch does not depend on it."""

from __future__ import annotations

import pytest

from unime.core.errors import RecipeError
from unime.train.backends import refuse_impossible
from unime.train.settings import TrainingSection


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "this launch uses FSDP version 1"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, "FSDP2 needs GPUs"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "gradient_accumulation_steps is 2, but DeepSpeed"),
    ],
)
def test_impossible_launches_are_refused(monkeypatch, environment, sentence):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RecipeError, match=sentence):
        refuse_impossible(gradient_accumulation_steps=2)


def test_a_plain_launch_is_not():
    refuse_impossible(gradient_accumulation_steps=2)


def test_rows_a_process_become_the_global_batch(monkeypatch):
    alone = TrainingSection.model_validate({"per_device_train_batch_size": 8, "max_steps": 1})
    monkeypatch.setenv("WORLD_SIZE", "2")
    shared = TrainingSection.model_validate({"per_device_train_batch_size": 4, "max_steps": 1})
    assert alone == shared
    assert alone.global_batch_size == 8
    assert TrainingSection.model_validate(alone.model_dump()) == alone
    given = {"global_batch_size": 6, "per_device_train_batch_size": 4, "max_steps": 1}
    assert TrainingSection.model_validate(given).global_batch_size == 6
