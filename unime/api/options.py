"""The keyword options of the API's longer functions: recipe keys, typed so that editors complete them.

Their meanings and defaults stand at the stages' recipe classes; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

LossLike = str | Mapping[str, Any]
"""A loss's name, or {"name": ..., "weight": ..., "options": {...}, "matryoshka_dims": [...]}."""


class SourceOptions(TypedDict, total=False):
    """How rows are read (`unime.data.readers.base`)."""

    name: str | list[str] | None
    revision: str
    archives: str | list[str] | dict[str, str]
    split: str | None
    meta_task: str
    in_batch: bool | None
    query_instruction: str | None
    target_instruction: str | None
    image_root: str
    language: str | None
    limit: int | None
    encoding: str | None
    quoting: Literal["auto", "standard", "none"]


class DataOptions(SourceOptions, total=False):
    """How rows are read, and what of them is kept (`unime.data.stage.DataRecipe`)."""

    dev_share: float
    dev_count: int | None
    max_reject_share: float
    max_pixels: int


class MineOptions(TypedDict, total=False):
    """`unime.mine.stage.MineRecipe`."""

    candidates: int
    splits: Sequence[str]
    queries: int | None
    max_similarity_to_positive_margin: float | None
    batch_size: int


class SelectOptions(TypedDict, total=False):
    """`unime.select.stage.SelectRecipe`."""

    rule: str
    negatives: int
    step: int
    order: Literal["score", "similarity"]
    relative_margin: float
    absolute_cut: float
    similarity_margin: float


class TrainingOptions(TypedDict, total=False):
    """`unime.train.settings.TrainingSection`, under transformers' own names."""

    per_device_train_batch_size: int
    global_batch_size: int
    max_steps: int
    num_train_epochs: float | None
    learning_rate: float
    lr_scheduler_type: str
    warmup_steps: float
    weight_decay: float
    adam_beta1: float
    adam_beta2: float
    optim: str
    max_grad_norm: float
    gradient_accumulation_steps: int
    gradient_checkpointing: bool
    bf16: bool
    seed: int
    logging_steps: int
    eval_steps: int
    save_steps: int
    save_total_limit: int
    dataloader_num_workers: int
    report_to: list[str]


class EmbedderOptions(TrainingOptions, total=False):
    """`unime.train.contrast.ContrastRecipe`, its training section laid open."""

    negatives: int
    weights: Mapping[str, float]
    caps: Mapping[str, int]
    temperature: float
    clusters: Mapping[str, Any] | None
    mask: Literal["identity", "none"]
    wrong_labels: int
    dev_queries: int
    budget: Mapping[str, Any]


class RerankerOptions(TrainingOptions, total=False):
    """`unime.rerank.stage.RerankRecipe`, its training section laid open."""

    ask: Mapping[str, Any]
    weights: Mapping[str, float]
    dev_queries: int
    dev_candidates: int
    budget: Mapping[str, Any]


class JudgeOptions(TypedDict, total=False):
    """`unime.judge.stage.ScoreRecipe`."""

    block_queries: int
    early_stop: Mapping[str, Any] | None
    prices: Mapping[str, Any]


class EvalOptions(TypedDict, total=False):
    """`unime.eval.stage.EvalRecipe`."""

    results: str | None
    reference: str | None
    batch_size: int
    processes: int
    image_cache_gb: float
    embedding_cache: str | None


class ExportOptions(TypedDict, total=False):
    """`unime.export.stage.ExportRecipe`."""

    dtype: Literal["float32", "bfloat16", "float16"] | None
    max_shard_size: str
    adapter: bool
    matryoshka_dims: list[int] | None
    data: str | None
    calibration: int
    title: str
    repo: str | None
    license: str | None
    licenses: Mapping[str, str]
    base_model: str | None
    datasets: list[str]
    benchmark: str
