"""Two threads on one tokenizer: the loader prepares a batch while the main thread evaluates."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.families import build_family
from unime.core.loading import load_processor
from unime.models.model_config import ModelConfig
from unime.models.processor import prepare_processor
from unime.models.prompt_tokens import Prompt, plain_inputs, token_ids


def test_a_padded_batch_beside_it_does_not_pad_what_another_thread_tokenizes(tmp_path: Path):
    build_family("qwen2_vl", tmp_path)
    config = ModelConfig(id=str(tmp_path))
    processor = load_processor(config.id)
    prepare_processor(processor, config, "left", images_first=False)
    short, long = Prompt("a"), Prompt("a much longer text than the other one " * 20)
    alone = token_ids(processor, [short, long])

    def padded(_: int) -> None:
        plain_inputs(processor, [short, long])

    with ThreadPoolExecutor(2) as pool:
        beside = pool.map(padded, range(300))
        found = [token_ids(processor, [short, long]) for _ in range(300)]
        list(beside)
    assert all(rows == alone for rows in found)
