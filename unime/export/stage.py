"""Stage `export`: a trained embedder as a stock sentence-transformers model.

The folder holds no code of ours: weights in the family's published layout, stock modules, the
wrapped chat template, the system texts as named prompts. It loads in sentence-transformers,
transformers and vLLM, and gives the embeddings it gave in training.
"""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from unime.core import files
from unime.core.config import Recipe
from unime.core.console import log
from unime.core.errors import ModelError
from unime.core.provenance import Output, differences
from unime.core.yaml_files import quoted
from unime.export.lineage import data_folder, made_from, manifest_chain, matryoshka_dims
from unime.models.model_config import ModelConfig

if TYPE_CHECKING:
    from unime.models.embedder import Embedder


class ExportRecipe(Recipe):
    """What is exported, and what its card says."""

    stage: str = "export"
    model: ModelConfig
    """The trained model, with the preprocessing it was trained with."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """How the weights are stored; as they were trained unless said otherwise."""
    max_shard_size: str = "4GB"
    """Weights are cut into files of at most this size."""
    adapter: bool = False
    """Write `adapter/` beside `embedder/`: the stages' LoRA adapters as one, without the base."""
    matryoshka_dims: list[int] | None = None
    """Lengths an embedding may be cut to; as trained unless said otherwise."""
    data: str | None = None
    """Held-out pairs for the calibration of short vectors; the training's unless said otherwise."""
    calibration: int = Field(default=500, ge=0)
    """About how many pairs are embedded for it; 0 for none."""
    title: str = "unime-embedder"
    """The model's name in its card."""
    repo: str | None = None
    """The Hub id it will have, for the examples of its card."""
    license: str | None = None
    """An identifier such as apache-2.0; the starting checkpoint's licence usually decides."""
    licenses: dict[Literal["base", "teacher", "judge", "data"], str] = Field(default_factory=dict)
    """The licences of what the model was made from."""
    base_model: str | None = None
    """The Hub id of the checkpoint the training started from."""
    reranker: ModelConfig | None = None
    """The output model of `unime rerank`, exported beside the embedder."""
    datasets: list[str] = Field(default_factory=list)
    """Hub ids of the training data, for the card."""
    benchmark: str = "unime"
    """The Hub id of the evaluation data, for the card's results."""

    @model_validator(mode="after")
    def _lengths_are_lengths(self) -> ExportRecipe:
        if any(dim <= 0 for dim in self.matryoshka_dims or []):
            raise ValueError("matryoshka_dims: expected numbers above 0")
        return self


RECIPE = ExportRecipe

SIDES = {"query": "query", "document": "target"}
"""sentence-transformers' names of the sides."""


def inputs(recipe: ExportRecipe) -> dict[str, Path]:
    """Return what the stage reads."""
    found = {"model": Path(recipe.model.id)}
    if data := _data(recipe):
        found["data"] = Path(data)
    if recipe.reranker is not None:
        found["reranker"] = Path(recipe.reranker.id)
    return found


def run(recipe: ExportRecipe, out: Output) -> None:
    """Write `embedder/`, and `adapter/` if asked for, into the output.

    Raises:
        ModelError: when the recipe's preprocessing is not the one the model was trained with, or
            an adapter is asked for that the training did not leave.
    """
    from unime.models.adapters import ADAPTER_FOLDER, combine_adapters
    from unime.models.embedder import Embedder

    embedder = Embedder.load(recipe.model)
    check_as_trained(embedder)
    chain = manifest_chain(Path(recipe.model.id))
    if recipe.adapter and not out.file(ADAPTER_FOLDER).is_dir():
        models = [Path(link["recipe"]["output"]) / "model" for link in reversed(chain)]
        base = recipe.base_model or made_from(chain)["base"]
        with files.atomic_folder(out.file(ADAPTER_FOLDER)) as folder:
            combine_adapters(models, base, folder)
    with files.atomic_folder(out.file("embedder")) as folder:
        export_embedder(embedder, folder, recipe)
    out.facts(fingerprint=embedder.fingerprint, prompt=embedder.prompt.id, dim=embedder.dim)
    log(f"exported {embedder.dim}-dimensional embedder to {out.file('embedder')}")
    if recipe.reranker is not None:
        _export_reranker(recipe, recipe.reranker, out)


def _export_reranker(recipe: ExportRecipe, config: ModelConfig, out: Output) -> None:
    from unime.export.reranker_export import export_reranker
    from unime.models.rerank_model import RerankModel

    front = _front_matter(recipe)
    with files.atomic_folder(out.file("reranker")) as folder:
        export_reranker(RerankModel.load(config), folder, f"{recipe.title}-reranker", front)
    log(f"exported reranker to {out.file('reranker')}")


def check_as_trained(embedder: Embedder) -> None:
    """Raise a ModelError when the model was trained with other preprocessing."""
    path = Path(embedder.config.id) / "unime.json"
    if not path.is_file():
        log(f"{embedder.config.id} has no unime.json: exported with the recipe's preprocessing")
        return
    trained = files.read_json(path)["preprocessing"]
    lines = differences(trained, json.loads(json.dumps(embedder.preprocessing)))
    if lines:
        raise ModelError(
            "the model was trained with other preprocessing than the recipe's; an export keeps "
            "what was trained:\n  " + "\n  ".join(lines)
        )


def export_embedder(embedder: Embedder, folder: Path, recipe: ExportRecipe) -> None:
    """Write the whole sentence-transformers folder.

    Args:
        embedder: as trained; cast to the recipe's dtype.
        folder: an existing, empty folder.
        recipe: what is written, and what the card says.
    """
    from unime.export.card import licence_chain, warnings, write_card
    from unime.export.image_kinds import measure_here
    from unime.export.probe_inputs import reference_embeddings

    chain = manifest_chain(Path(embedder.config.id))
    dims = _dims(recipe, chain, embedder.dim)
    # The reference is the model as it was trained, whatever it is stored as.
    reference = reference_embeddings(embedder)
    _calibrate(embedder, dims, folder, recipe)
    if recipe.dtype is not None:
        embedder = _cast(embedder, recipe.dtype)
    rendered = _save_modules(embedder, folder, recipe.max_shard_size)
    with tempfile.TemporaryDirectory() as temporary:
        pictures = measure_here(embedder, Path(temporary))
    if dims:
        # The names vLLM reads; without them it refuses `dimensions`.
        config = files.read_json(folder / "config.json")
        config |= {"is_matryoshka": True, "matryoshka_dimensions": [*dims, embedder.dim]}
        files.write_json(folder / "config.json", config)
    about = ("title", "repo", "license", "licenses", "base_model", "datasets", "benchmark")
    facts = {
        **embedder.description,
        "rendered": rendered,
        "chain": chain,
        "made": made_from(chain),
        "pictures": pictures,
        "card": {**{key: getattr(recipe, key) for key in about}, "dim": embedder.dim, "dims": dims},
    }
    files.write_json(folder / "unime.json", facts)
    files.write_json(folder / "unime_probes.json", reference)
    write_card(folder)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)  # written for their owner only; a server often is somebody else
    for warning in warnings(licence_chain(facts), recipe.license):
        log(f"licence: {warning}")


def _save_modules(embedder: Embedder, folder: Path, max_shard_size: str) -> dict[str, str | None]:
    """Write model, processor and modules; return the named prompts."""
    from unime.models.saving import whole_model

    module = embedder.module
    prompts: dict[str, str | None] = {
        name: embedder.prompt.system(side) or "" for name, side in SIDES.items()
    }
    module.prompts = prompts
    module.default_prompt_name = "document" if prompts["document"] else None
    module.similarity_fn_name = "cosine"
    backbone = embedder.backbone
    with whole_model(backbone, embedder.config) as model:
        module[0].model = model
        # sentence-transformers passes no shard size on.
        model.save_pretrained = functools.partial(
            model.save_pretrained, max_shard_size=max_shard_size
        )
        try:
            module.save(str(folder), create_model_card=False)
        finally:
            del model.save_pretrained
            module[0].model = backbone
    return prompts


def _cast(embedder: Embedder, dtype: str) -> Embedder:
    """Return the embedder with other weights' type, and a configuration that says so."""
    import torch

    from unime.models.embedder import Embedder

    embedder.module.to(getattr(torch, dtype))
    config = embedder.config.model_copy(update={"dtype": dtype})
    return Embedder.of(embedder.module, config, embedder.prompt)


def _calibrate(embedder: Embedder, dims: list[int], folder: Path, recipe: ExportRecipe) -> None:
    from unime.data.data_folder import DataFolder
    from unime.export import short_vectors

    data = _data(recipe)
    if data is None:
        log("no calibration of short vectors: calibration is 0, or no training data is known")
        return
    probe = short_vectors.make_probe(embedder, DataFolder.open(data), recipe.calibration)
    short_vectors.save(probe, dims, folder)


def _data(recipe: ExportRecipe) -> str | None:
    if not recipe.calibration:
        return None
    return recipe.data or data_folder(manifest_chain(Path(recipe.model.id)))


def _dims(recipe: ExportRecipe, chain: list[dict[str, Any]], whole: int) -> list[int]:
    given = recipe.matryoshka_dims
    dims = matryoshka_dims(chain) if given is None else sorted(set(given), reverse=True)
    if dims and dims[0] >= whole:
        raise ModelError(f"matryoshka_dims: {dims[0]} is not below the embedding's {whole}")
    return dims


def _front_matter(recipe: ExportRecipe) -> str:
    values = {"license": recipe.license, "base_model": recipe.base_model}
    return "".join(f"{key}: {quoted(value)}\n" for key, value in values.items() if value)
