"""The stages as functions: each writes the values of a recipe and runs its stage on them.

What a YAML recipe would give is given here too: the same checks, the same output folder with its
manifest, the same resuming. Nothing is computed in this file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Unpack

from unime.api.options import (
    EvalOptions,
    ExportOptions,
    JudgeOptions,
    MineOptions,
    SelectOptions,
)
from unime.api.results import (
    EvaluationResult,
    ExportedModel,
    JudgedCandidates,
    MinedNegatives,
    SelectedNegatives,
    check_stage,
)
from unime.core import console
from unime.core.errors import DataError, RecipeError
from unime.core.stage import entry_of, execute_values
from unime.data.data_folder import DataFolder
from unime.judge.judge import engine_values, outside_a_loop
from unime.models.model_folder import ModelLike, ModelSettings, model_section

Folder = str | PathLike[str]
DataLike = DataFolder | Folder

WITH_LOOPS = ("judge", "eval")
"""Stages that may talk to servers, in an event loop of their own."""


def mine_negatives(
    data: DataLike,
    model: ModelLike,
    output: Folder,
    *,
    restart: bool = False,
    **options: Unpack[MineOptions],
) -> MinedNegatives:
    """Find each query's nearest candidates in the whole corpus of its task, exactly.

    Args:
        data: what `load_data` returned, or its folder.
        model: a contrastively trained embedder: what `train_embedder` returned, a folder, a Hub id,
            or a recipe's section ({"id": ..., "max_pixels": ...}).
        output: the folder to fill. The same call again resumes it, or returns at once.
        restart: move an existing output aside and begin anew.
        options: `candidates` a query (50), `splits` (("train",)), `queries` a task,
            `max_similarity_to_positive_margin`, `batch_size`.

    Returns:
        The candidates; known positives are not among them.

    Raises:
        UnimeError: saying what is wrong with data, model, options or output.

    Example:
        >>> mined = mine_negatives("runs/data", "runs/warmup", "runs/mined", candidates=20)
        >>> next(mined.rows())["candidates"][0]
        {'text': 'a red square', 'image': None, 'similarity': 0.81}
    """
    values = {"data": data_folder(data), "model": model_section(model, "embedder"), **options}
    return MinedNegatives(run_stage("mine", values, output, restart=restart))


def judge_candidates(
    mined: MinedNegatives | Folder,
    model: ModelLike,
    output: Folder,
    *,
    endpoints: str | Sequence[str] = (),
    store: Folder | None = None,
    model_settings: ModelSettings | None = None,
    engine_options: Mapping[str, Any] | None = None,
    restart: bool = False,
    **options: Unpack[JudgeOptions],
) -> JudgedCandidates:
    """Ask a judge about each mined candidate, and about each positive, once for ever.

    Args:
        mined: what `mine_negatives` returned, or its folder.
        model: as in `Judge`: a model for this process, or a server's address.
        output: the folder to fill. The same call again carries on, or returns at once.
        endpoints: addresses of servers of the model, as in `Judge`.
        store: where scores are kept; by default `scores` beside the output. What it holds is not
            asked again.
        model_settings: prompt, dtype, pixels, length of the model.
        engine_options: further options of the engine, as in `Judge`.
        restart: move an existing output aside and begin anew; scores are kept.
        options: `block_queries`, `early_stop`, `prices`.

    Returns:
        P(yes | yes or no) of each candidate; NaN where the judge gave no answer.

    Raises:
        EngineError: when a server is gone, or no pair at all could be scored.
        UnimeError: saying what else is wrong.

    Example:
        >>> judged = judge_candidates("runs/mined", "assets/judge", "runs/judged")
        >>> next(judged.rows())["positive_score"]
        0.97
    """
    folder = result_folder(mined, MinedNegatives)
    settings, engine = dict(model_settings or {}), dict(engine_options or {})
    name, section = engine_values(model, endpoints, engine, settings)
    values = {
        "data": MinedNegatives(Path(folder)).recipe["data"],
        "mined": folder,
        "engine": name,
        "engines": {name: section},
        "store": fspath(store or Path(output).parent / "scores"),
        **options,
    }
    return JudgedCandidates(run_stage("judge", values, output, restart=restart))


def select_negatives(
    candidates: JudgedCandidates | MinedNegatives | Folder,
    output: Folder,
    *,
    restart: bool = False,
    **options: Unpack[SelectOptions],
) -> SelectedNegatives:
    """Drop likely false negatives; choose hard and diverse ones among the rest.

    Args:
        candidates: what `judge_candidates` returned; or `mine_negatives`, for rules without a judge.
        output: the folder to fill.
        restart: move an existing output aside and begin anew.
        options: `rule` ("either" after a judge, else "none"), `negatives` a query (10), `order`
            ("score" or "similarity"), `step`, `relative_margin`, `absolute_cut`, `similarity_margin`.

    Returns:
        Training rows.

    Raises:
        UnimeError: saying what is wrong.

    Example:
        >>> rows = select_negatives("runs/judged", "runs/rows", negatives=4)
        >>> [negative["text"] for negative in next(rows.rows())["negatives"]]
        ['a red square', 'an orange circle']
    """
    folder = Path(fspath(candidates))
    check_stage(folder, (*JudgedCandidates.STAGES, *MinedNegatives.STAGES))
    values: dict[str, Any] = {"mined": fspath(folder), "rule": "none"}
    if (folder / JudgedCandidates.TABLE).is_file():
        judged = JudgedCandidates(folder)
        values = {"mined": judged.recipe["mined"], "judged": fspath(folder), "rule": "either"}
    return SelectedNegatives(run_stage("select", values | options, output, restart=restart))


def export_model(
    model: ModelLike,
    output: Folder,
    *,
    reranker: ModelLike | None = None,
    restart: bool = False,
    **options: Unpack[ExportOptions],
) -> ExportedModel:
    """Write a model for sentence-transformers, transformers and vLLM.

    Args:
        model: the embedder: what `train_embedder` returned, a folder, a Hub id.
        output: the folder to fill; the model goes into `output/embedder`.
        reranker: what `train_reranker` returned, exported beside it.
        restart: move an existing output aside and begin anew.
        options: `title`, `license`, `licenses`, `base_model`, `datasets` and `repo` for the card;
            `dtype`, `max_shard_size`, `adapter`, `matryoshka_dims`, `calibration` and its `data`.

    Returns:
        Where the folders are.

    Raises:
        UnimeError: saying what is wrong.

    Example:
        >>> export_model("runs/trained", "runs/export", title="my-embedder").embedder
        PosixPath('runs/export/embedder')
    """
    values: dict[str, Any] = {"model": model_section(model, "embedder"), **options}
    if reranker is not None:
        section = model_section(reranker, "reranker")
        # How a trained reranker is asked is what its folder says.
        section.pop("list_prompt", None)
        values["reranker"] = section
    return ExportedModel(run_stage("export", values, output, restart=restart))


def evaluate(
    models: ModelLike | Mapping[str, ModelLike],
    benchmarks: Mapping[str, Folder | Mapping[str, Any]],
    output: Folder,
    *,
    restart: bool = False,
    **options: Unpack[EvalOptions],
) -> EvaluationResult:
    """Evaluate models on benchmarks.

    Args:
        models: one, or several by the names they have in the table: a trained or exported model, any
            sentence-transformers model, a folder or Hub id; a recipe's section of a model ({"id":
            ...}), or a whole entry ({"open_clip": {...}}, {"model": {...}, "reranker": {...}}).
        benchmarks: by name, the folder of each one's data or "hub"; or further keys beside `root`:
            {"captions": {"root": "photos", "files": "test.jsonl", "limit": 100}}. `captions` takes
            any folder of captioned images.
        output: the folder to fill.
        restart: move an existing output aside and begin anew.
        options: `reference`, `batch_size`, `processes`, `image_cache_gb`, `embedding_cache`, and
            `results`, a further place for the result file.

    Returns:
        Scores in percent; every query's result lies in the output.

    Raises:
        UnimeError: naming every file that is missing, before anything is computed.

    Example:
        >>> found = evaluate({"before": "assets/student", "after": "runs/trained"}, {"captions": "photos"}, "runs/eval")
        >>> print(found)
        captions (version 1), R@1 in percent ...
    """
    values = {
        "models": [_entry(name, model) for name, model in _named(models).items()],
        "benchmarks": [
            {"name": name, **(choice if isinstance(choice, Mapping) else {"root": fspath(choice)})}
            for name, choice in benchmarks.items()
        ],
        **options,
    }
    return EvaluationResult(run_stage("eval", values, output, restart=restart))


def run_stage(stage: str, values: Mapping[str, Any], output: Folder, *, restart: bool) -> Path:
    """Run a stage on a recipe's values and say what it does, as its command would.

    Returns:
        The finished output.
    """
    console.start_logging()
    module = entry_of(stage).module
    whole = {**values, "output": fspath(output)}
    work = partial(execute_values, module, whole, restart=restart)
    return outside_a_loop(work) if stage in WITH_LOOPS else work()


def data_folder(data: DataLike) -> str:
    """Return the path of `load_data`'s output.

    Raises:
        OutputError: when it is another stage's, or unfinished.
    """
    check_stage(Path(fspath(data)), ("data",))
    return fspath(data)


def result_folder(result: Any, kind: Any) -> str:
    """Return the path of a result of a kind.

    Raises:
        OutputError: when it is another stage's, or unfinished.
    """
    if not isinstance(result, str | PathLike):
        raise DataError(f"expected a {kind.__name__} or its folder, got a {type(result).__name__}")
    return fspath(kind.open(result))


def _named(models: Any) -> dict[str, Any]:
    is_section = isinstance(models, Mapping) and "id" in models
    if isinstance(models, Mapping) and not is_section:
        return dict(models)
    place = models["id"] if isinstance(models, Mapping) else models
    if not isinstance(place, str | PathLike):
        raise RecipeError(
            f"models: expected a model, or several by name, got a {type(models).__name__}"
        )
    return {Path(fspath(place)).name: models}


def _entry(name: str, model: Any) -> dict[str, Any]:
    """Return the entry of an evaluated model: ours, or sentence-transformers' where it is one."""
    if isinstance(model, Mapping) and "id" not in model:
        return {"name": name, **model}
    section = model_section(model, "embedder")
    folder = Path(section["id"])
    ours = (folder / "unime.json").is_file()
    if (folder / "modules.json").is_file() and not ours:
        return {"name": name, "sentence_transformers": section}
    return {"name": name, "model": section}
