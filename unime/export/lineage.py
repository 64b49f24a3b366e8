"""What a model came from, read off the manifests of the stages it went through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unime.core import files
from unime.core.hashes import sha256


def manifest_chain(model: Path) -> list[dict[str, Any]]:
    """Return the manifests a model came from: its own stage's first, then that of its start."""
    chain: list[dict[str, Any]] = []
    seen: set[Path] = set()
    while (path := model.parent / "manifest.json").is_file() and path not in seen:
        seen.add(path)
        manifest = files.read_json(path)
        chain.append({"folder": model.parent.name, "sha256": sha256(path), **manifest})
        model = Path(str(manifest.get("recipe", {}).get("model", {}).get("id", "")))
    return chain


def made_from(chain: list[dict[str, Any]]) -> dict[str, Any]:
    """Return base, data, teacher, judge and training stages of a chain, for people to read.

    Args:
        chain: `manifest_chain` of the model.

    Returns:
        "base" (id), "teacher" (id or None), "judge" (its name or None), "data" (one entry for each
        data folder) and "stages" (first one first).
    """
    recipes = [link.get("recipe", {}) for link in chain]
    teachers = [str(r["teacher"]["id"]) for r in recipes if r.get("teacher")]
    judges = [judge for r in recipes if r.get("rows") and (judge := _judge(Path(r["rows"])))]
    folders = dict.fromkeys(str(r["data"]) for r in reversed(recipes) if r.get("data"))
    return {
        "base": str(recipes[-1].get("model", {}).get("id", "")) if recipes else "",
        "teacher": teachers[0] if teachers else None,
        "judge": judges[0] if judges else None,
        "data": [data for folder in folders if (data := _data(Path(folder)))],
        "stages": [_stage(link) for link in reversed(chain)],
    }


def data_folder(chain: list[dict[str, Any]]) -> str | None:
    """Return the folder of pairs that the last stage was trained on, if it is still there."""
    found = [str(link["recipe"]["data"]) for link in chain if link.get("recipe", {}).get("data")]
    return found[0] if found and (Path(found[0]) / "manifest.json").is_file() else None


def matryoshka_dims(chain: list[dict[str, Any]]) -> list[int]:
    """Return the short lengths the last stage was trained for, longest first."""
    losses = chain[0].get("recipe", {}).get("losses", []) if chain else []
    return sorted({dim for term in losses for dim in term.get("matryoshka_dims", [])}, reverse=True)


def _stage(link: dict[str, Any]) -> dict[str, Any]:
    recipe = link.get("recipe", {})
    training = recipe.get("training", {})
    losses = recipe.get("losses") or [{"name": recipe.get("loss", {}).get("name", "relational_kl")}]
    return {
        "folder": link["folder"],
        "stage": recipe.get("stage", ""),
        "losses": [loss["name"] for loss in losses],
        "steps": link.get("facts", {}).get("steps"),
        "batch": training.get("global_batch_size"),
        "learning_rate": training.get("learning_rate"),
        "tuned": recipe.get("tune", {}),
    }


def _judge(rows: Path) -> str | None:
    """Return the judge whose scores the selected negatives came with."""
    selected = _manifest(rows).get("recipe", {}).get("judged")
    return _manifest(Path(selected)).get("facts", {}).get("judge") if selected else None


def _data(folder: Path) -> dict[str, Any] | None:
    manifest = _manifest(folder)
    if not manifest:
        return None
    facts = manifest.get("facts", {})
    tasks = files.read_json(folder / "tasks.json") if (folder / "tasks.json").is_file() else []
    return {
        "folder": folder.as_posix(),
        "pairs": facts.get("pairs"),
        "items": facts.get("items"),
        "tasks": [{"name": task["name"], "pairs": task["pairs"]} for task in tasks],
    }


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    return files.read_json(path) if path.is_file() else {}
