"""Training from Python: the recipe's training section is laid open as keyword options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from unime.api.calls import DataLike, Folder, data_folder, result_folder, run_stage
from unime.api.options import EmbedderOptions, LossLike, RerankerOptions, TrainingOptions
from unime.api.results import SelectedNegatives, TrainedModel
from unime.core.errors import RecipeError, did_you_mean
from unime.models.model_folder import ModelLike, model_section

ALL_PARTS = ["language", "vision", "projector"]


def train_embedder(
    data: DataLike,
    model: ModelLike,
    output: Folder,
    *,
    rows: SelectedNegatives | Folder | None = None,
    losses: LossLike | Sequence[LossLike] = "info_nce",
    tune: str | Mapping[str, Any] = "lora",
    restart: bool = False,
    **options: Unpack[EmbedderOptions],
) -> TrainedModel:
    """Train an embedder by contrast: a warm-up on pairs, or stage 2 on selected negatives.

    Args:
        data: what `load_data` returned, or its folder.
        model: what is trained on: any open vision-language model or a trained embedder. Settings of
            its inputs go into a section: {"id": "Qwen/Qwen2-VL-2B-Instruct", "max_pixels": 451584}.
        output: the folder to fill; the weights go into `output/model`. The same call again resumes
            from the last checkpoint, or returns at once.
        rows: what `select_negatives` returned; without it, the train pairs with their own negatives.
        losses: names or sections of losses: "info_nce", "soft_label" (needs a judge's scores).
        tune: "lora" adapts the language model; "full" trains language, vision and projector; or the
            recipe's section.
        restart: move an existing output aside and begin anew.
        options: transformers' training arguments (`max_steps` or `num_train_epochs`, one epoch unless
            said otherwise, `learning_rate`, `per_device_train_batch_size`, ...), and the recipe's
            `negatives`, `weights`, `caps`, `temperature`, `clusters`, `mask`, `wrong_labels`,
            `dev_queries`, `budget`.

    Returns:
        The trained model; `Embedder(trained)` loads it.

    Raises:
        UnimeError: saying what is wrong with data, model, options or output.

    Example:
        >>> train_embedder("runs/data", "assets/student", "runs/warmup", tune="full", max_steps=100)
        TrainedModel('runs/warmup': stage contrast; ...)
    """
    values = _values(data, model_section(model, "embedder"), rows, losses, tune)
    values |= _sections(options, EmbedderOptions)
    return TrainedModel(run_stage("contrast", values, output, restart=restart))


def train_reranker(
    data: DataLike,
    model: ModelLike,
    output: Folder,
    *,
    rows: SelectedNegatives | Folder | None = None,
    losses: LossLike | Sequence[LossLike] = "yes_no",
    tune: str | Mapping[str, Any] = "lora",
    retriever: ModelLike | None = None,
    restart: bool = False,
    **options: Unpack[RerankerOptions],
) -> TrainedModel:
    """Train a reranker on rows with negatives.

    Args:
        data: as in `train_embedder`.
        model: any generative vision-language model, or a trained reranker.
        output: as in `train_embedder`.
        rows: what `select_negatives` returned.
        losses: "yes_no", "yes_contrast", "choose" (needs `ask={"lists": {}}`), "listwise".
        tune: as in `train_embedder`.
        retriever: the embedder whose first candidates will be reranked: makes the dev lists, and the
            weight by which both are mixed.
        restart: move an existing output aside and begin anew.
        options: transformers' training arguments, as in `train_embedder`, and the recipe's `ask`,
            `weights`, `dev_queries`, `dev_candidates`, `budget`.

    Returns:
        The trained model; `Reranker(trained)` loads it.

    Raises:
        UnimeError: saying what is wrong with data, model, options or output.

    Example:
        >>> train_reranker("runs/data", "assets/judge", "runs/reranker", rows="runs/rows", max_steps=50)
        TrainedModel('runs/reranker': stage rerank; ...)
    """
    values = _values(data, model_section(model, "reranker"), rows, losses, tune)
    values |= _sections(options, RerankerOptions)
    if retriever is not None:
        values["retriever"] = model_section(retriever, "embedder")
    return TrainedModel(run_stage("rerank", values, output, restart=restart))


def _values(
    data: DataLike,
    model: Mapping[str, Any],
    rows: SelectedNegatives | Folder | None,
    losses: LossLike | Sequence[LossLike],
    tune: str | Mapping[str, Any],
) -> dict[str, Any]:
    """Return what both trainings' recipes have."""
    terms = [losses] if isinstance(losses, str | Mapping) else list(losses)
    values: dict[str, Any] = {
        "data": data_folder(data),
        "model": model,
        "losses": [{"name": term} if isinstance(term, str) else term for term in terms],
        "tune": _tune(tune),
    }
    if rows is not None:
        values["rows"] = result_folder(rows, SelectedNegatives)
    return values


def _tune(tune: str | Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(tune, str):
        return tune
    return {"method": tune} | ({"parts": ALL_PARTS} if tune == "full" else {})


def _sections(options: Mapping[str, Any], known: type) -> dict[str, Any]:
    """Return options with those of the training gathered under `training`.

    Raises:
        RecipeError: for an option that is not among the known ones.
    """
    for name in options:
        if name not in known.__annotations__:
            raise RecipeError(f"no option '{name}'{did_you_mean(name, known.__annotations__)}")
    training = {n: value for n, value in options.items() if n in TrainingOptions.__annotations__}
    if "max_steps" not in training:
        training.setdefault("num_train_epochs", 1)
    return {n: v for n, v in options.items() if n not in training} | {"training": training}
