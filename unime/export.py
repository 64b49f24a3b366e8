"""Stage `export`: a trained embedder as a stock sentence-transformers model.

The folder holds no code of ours: weights in the family's published layout, stock modules, the
wrapped chat template, the system texts as named prompts. It loads in sentence-transformers,
transformers and vLLM, and gives the embeddings it gave in training.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unime import files
from unime.config import ModelConfig, Recipe
from unime.console import log
from unime.errors import ModelError
from unime.provenance import Output, differences

if TYPE_CHECKING:
    from unime.models import Embedder


class ExportRecipe(Recipe):
    """What is exported, and what its card says."""

    stage: str = "export"
    model: ModelConfig
    """The trained model, with the preprocessing it was trained with."""
    title: str = "unime-embedder"
    """The model's name in its card."""
    license: str | None = None
    """An identifier such as apache-2.0; the starting checkpoint's licence usually decides."""
    base_model: str | None = None
    """The Hub id of the checkpoint the training started from."""


RECIPE = ExportRecipe

SIDES = {"query": "query", "document": "target"}
"""sentence-transformers' names of the sides."""


def inputs(recipe: ExportRecipe) -> dict[str, Path]:
    """Return what the stage reads."""
    return {"model": Path(recipe.model.id)}


def run(recipe: ExportRecipe, out: Output) -> None:
    """Write `embedder/` into the output.

    Raises:
        ModelError: when the recipe's preprocessing is not the one the model was trained with.
    """
    from unime.models import Embedder

    embedder = Embedder.load(recipe.model)
    check_as_trained(embedder)
    with files.atomic_folder(out.file("embedder")) as folder:
        export_embedder(embedder, folder, recipe)
    out.facts(fingerprint=embedder.fingerprint, prompt=embedder.prompt.id, dim=embedder.dim)
    log(f"exported {embedder.dim}-dimensional embedder to {out.file('embedder')}")


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
        embedder: as trained.
        folder: an existing, empty folder.
        recipe: what the card says.
    """
    from unime.models.saving import description, whole_model
    from unime.verify.probes import reference_embeddings

    module = embedder.module
    prompts: dict[str, str | None] = {
        name: embedder.prompt.system(side) or "" for name, side in SIDES.items()
    }
    module.prompts = prompts
    module.default_prompt_name = "document" if prompts["document"] else None
    module.similarity_fn_name = "cosine"
    backbone = embedder.backbone
    with whole_model(embedder) as model:
        module[0].model = model
        try:
            module.save(str(folder), create_model_card=False)
        finally:
            module[0].model = backbone
    facts = {
        **description(embedder),
        "rendered": prompts,
        "chain": manifest_chain(Path(embedder.config.id)),
    }
    files.write_json(folder / "unime.json", facts)
    files.write_json(folder / "unime_probes.json", reference_embeddings(embedder))
    (folder / "README.md").write_text(_card(embedder, recipe), encoding="utf-8")


def manifest_chain(model: Path) -> list[dict[str, Any]]:
    """Return the manifests a model came from: its own stage's first, then that of its start."""
    chain: list[dict[str, Any]] = []
    seen: set[Path] = set()
    while (path := model.parent / "manifest.json").is_file() and path not in seen:
        seen.add(path)
        manifest = files.read_json(path)
        chain.append({"folder": model.parent.name, "sha256": files.sha256_file(path), **manifest})
        model = Path(str(manifest.get("recipe", {}).get("model", {}).get("id", "")))
    return chain


def _card(embedder: Embedder, recipe: ExportRecipe) -> str:
    from unime.models.card import card

    front = ""
    for key, value in (("license", recipe.license), ("base_model", recipe.base_model)):
        if value:
            front += f"{key}: {json.dumps(value)}\n"
    length, fingerprint = embedder.config.max_length, embedder.fingerprint
    text = card(recipe.title, embedder.dim, length, fingerprint, embedder.prompt)
    return text.substitute(front=front)
