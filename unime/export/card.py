"""The README of an exported embedder, made from its `unime.json` and, when known, its results."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from unime.core import files
from unime.core.errors import DataError, did_you_mean
from unime.core.overwrite import check_replaceable
from unime.core.yaml_files import quoted
from unime.export import short_vectors
from unime.models.prompts import EMBED_SIDES, KINDS, EmbedPrompt

TEMPLATE = Path(__file__).with_name("card.md.jinja")
MARK = "\n<!-- written by unime; text of hash "
"""Ends a card, so that one that a person has changed is never written over."""
LINKS = ("base", "teacher", "judge", "data")
"""What a model's licence hangs on."""
_NON_COMMERCIAL = ("-nc", "noncommercial", "non-commercial", "research-only")


class Link(NamedTuple):
    """One link of the licence chain."""

    name: str
    what: str
    license: str


class Line(NamedTuple):
    """One line of the table of results."""

    name: str
    value: str
    interval: str
    chance: str


def write_card(folder: Path, results: Mapping[str, Any] | None = None) -> None:
    """Write README.md and, with results, `.eval_results/unime.yaml` into an export.

    Args:
        folder: the export, with its `unime.json`.
        results: a row of a run's `results.json`, chosen by `result_row`.

    Raises:
        OutputError: when a person has written the README.md that is there.
    """
    facts = files.read_json(folder / "unime.json")
    path = folder / "README.md"
    check_replaceable(path, lambda there: _is_untouched(there, facts), "unime export")
    text = card(facts, folder, results)
    files.write_text(path, f"{text}{MARK}{_hash(text)} -->\n")
    if results is not None:
        files.write_text(folder / ".eval_results" / "unime.yaml", _eval_results(results, facts))


def _is_untouched(path: Path, facts: Mapping[str, Any]) -> bool:
    """Tell whether a card is as it was written; cards of earlier versions carry no hash."""
    text, mark, found = path.read_text(encoding="utf-8").rpartition(MARK)
    if mark:
        return found.partition(" ")[0] == _hash(text)
    return found == card(facts, path.parent)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def card(facts: Mapping[str, Any], folder: Path, results: Mapping[str, Any] | None = None) -> str:
    """Return the card as Markdown."""
    import jinja2

    from unime.export.image_kinds import differing

    about = facts["card"]
    prompt = EmbedPrompt(**facts["prompt"])
    links = licence_chain(facts)
    costs = short_vectors.costs(folder)
    environment = jinja2.Environment(  # noqa: S701  # Markdown, not HTML
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["quoted"] = quoted
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        **{**about, "repo": about["repo"] or about["title"]},
        example=prompt.render("query", "text", "two dogs on a beach", "Find the picture.").user,
        prompts=facts["rendered"],
        rows=list(_rows(prompt)),
        made=facts["made"],
        links=links,
        warnings=warnings(links, about["license"]),
        costs=costs,
        probe=short_vectors.probe_size(folder) if costs else {},
        pictures=differing(facts.get("pictures", {})),
        results=results,
        result_lines=list(_result_lines(results or {})),
        fingerprint=facts["fingerprint"],
        prompt_id=prompt.id,
        max_length=facts["model"]["max_length"],
    )


def licence_chain(facts: Mapping[str, Any]) -> list[Link]:
    """Return base, teacher, judge and data with the licences the recipe states."""
    made, stated = facts["made"], facts["card"]["licenses"]
    what = {
        "base": facts["card"]["base_model"] or made["base"] or "not recorded",
        "teacher": made["teacher"],
        "judge": made["judge"],
        "data": ", ".join(data["folder"] for data in made["data"]),
    }
    return [
        Link(name, str(what[name]), stated.get(name, "not stated"))
        for name in LINKS
        if what[name] or name in stated
    ]


def warnings(links: list[Link], license: str | None) -> list[str]:  # noqa: A002
    """Return what a reader must know of the licences: non-commercial links, unknown ones."""
    found = [
        f"The {link.name} ({link.what}) is licensed {link.license}: non-commercial. Whether a model "
        f"trained on it may be used commercially is doubtful"
        + (f", whatever its own licence ({license}) says." if license else ".")
        for link in links
        if any(mark in link.license.lower() for mark in _NON_COMMERCIAL)
    ]
    unknown = [link.name for link in links if link.license == "not stated"]
    if unknown:
        found.append(f"The licence of {', '.join(unknown)} is not stated; find out before use.")
    return found


def result_row(path: Path, name: str | None) -> dict[str, Any]:
    """Return a row of a run's results.json: the named one, else the last.

    Raises:
        DataError: when there is no such file or row.
    """
    if not path.is_file():
        raise DataError(f"no results {path}; run the evaluation first")
    rows = files.read_json(path)["rows"]
    if not rows:
        raise DataError(f"{path} holds no rows")
    if name is None:
        return rows[-1]
    found = [row for row in rows if row["name"] == name]
    if not found:
        names = [row["name"] for row in rows]
        raise DataError(f"{path} has no row '{name}'{did_you_mean(name, names)}")
    return found[0]


def _rows(prompt: EmbedPrompt) -> Iterator[dict[str, str]]:
    for side, kind in ((side, kind) for side in EMBED_SIDES for kind in KINDS):
        text = "" if kind == "image" else "TEXT"
        yield {
            "side": "document" if side == "target" else side,
            "kind": kind,
            "user": _one_line(prompt.render(side, kind, text, "INSTRUCTION").user),
            "bare": _one_line(prompt.render(side, kind, text, "").user),
        }


def _result_lines(row: Mapping[str, Any]) -> Iterator[Line]:
    """Yield overall, IND, OOD, meta-tasks, retrieval recalls and compositional categories."""
    chance, interval = row.get("chance") or {}, row.get("interval") or {}
    for name, value in _flat(row):
        low_high = _at(interval, name)
        yield Line(
            name.replace("/", ", "),
            f"{value:.1f}",
            f"{low_high[0]:.1f} to {low_high[1]:.1f}" if isinstance(low_high, list) else "",
            f"{below:.1f}" if isinstance(below := _at(chance, name), int | float) else "",
        )


def _flat(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for group in ("overall", "ind", "ood", "meta_task", "retrieval", "compositional"):
        yield from _leaves(row.get(group), group)


def _leaves(value: Any, name: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}/{key}")
    elif isinstance(value, int | float):
        yield name, float(value)


def _at(values: Any, name: str) -> Any:
    for key in name.split("/"):
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def _eval_results(row: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Return the Hub's own form of results, one entry a data set."""
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    groups = {"": row.get("datasets") or {}, "compositional": row.get("compositional") or {}}
    entries = [
        EvalResultEntry(
            dataset_id=facts["card"]["benchmark"],
            task_id=f"{group}/{name}".strip("/"),
            value=value,
            notes=f"unime, prompt {facts['prompt']['id']}, hit@1 in percent"
            if not group
            else "unime, pairwise accuracy in percent",
        )
        for group, values in groups.items()
        for name, value in _leaves(values, "")
    ]
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)


def _one_line(text: str) -> str:
    return text.replace("\n", "\\n")
