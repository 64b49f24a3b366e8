"""Versioned prompt files: what is said to a model around an instruction and a content.

A prompt file has levels. `system` is the system text, the same for every task; `task` holds the
task instruction; `kind` holds the content, by what it is made of (text, image, image_text). Each
entry is one text, or one text per side. The user turn joins `task` and `kind`, empty ones left
out, by a newline. Placeholders are `{name}` only, and image tokens never appear: the model's chat
template adds them.

A released file never changes (`prompts/LOCK`): new wording is a new version.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from unime.core.errors import PromptError, did_you_mean
from unime.core.yaml_files import read_yaml

FOLDER = Path(__file__).parent.parent / "_prompts"
"""A link to the checkout's `prompts/`; package data in a wheel."""

KINDS = ("text", "image", "image_text")
EMBED_SIDES = ("query", "target")
JUDGE_SIDES = ("query", "candidate")


class Rendered(NamedTuple):
    """What an embedder reads beside the image."""

    system: str | None
    """None when the prompt has no system text."""
    user: str
    """Instruction and content; may be empty when the image is all there is."""


class RenderedPair(NamedTuple):
    """What a judge reads; the user turn is `query + candidate`.

    Parts are chat parts in order: `{"type": "image"}`, `{"type": "text", "text": ...}`. The query's
    parts come first and do not depend on the candidate.
    """

    system: str | None
    query: list[dict[str, str]]
    candidate: list[dict[str, str]]


@dataclass(frozen=True)
class EmbedPrompt:
    """A prompt that asks a model for a representation."""

    id: str
    hash: str
    """SHA-256 of the file."""
    levels: Mapping[str, Any]

    def system(self, side: str) -> str | None:
        """Return the system text of one side, or None."""
        return _by_side(self.levels["system"], side) or None

    def render(self, side: str, kind: str, text: str = "", instruction: str = "") -> Rendered:
        """Render one input.

        Args:
            side: "query" or "target".
            kind: "text", "image" or "image_text".
            text: the content's text.
            instruction: the task instruction.
        """
        assert side in EMBED_SIDES and kind in KINDS, (side, kind)
        return Rendered(self.system(side), _user_text(self.levels, side, kind, text, instruction))


@dataclass(frozen=True)
class JudgePrompt:
    """A prompt that asks a model whether a candidate fits a query."""

    id: str
    hash: str
    levels: Mapping[str, Any]
    yes: tuple[str, ...]
    """Answers that mean yes; their probabilities are added."""
    no: tuple[str, ...]

    def render(
        self, instruction: str, query: tuple[str, bool], candidate: tuple[str, bool]
    ) -> RenderedPair:
        """Render one pair.

        Args:
            instruction: the task instruction; may be empty.
            query: its text, and whether it has an image.
            candidate: the same for the candidate.
        """
        return RenderedPair(
            _by_side(self.levels["system"], "query") or None,
            self._parts("query", query, instruction),
            [
                *self._parts("candidate", candidate, ""),
                {"type": "text", "text": "\n" + self.levels["question"]},
            ],
        )

    def _parts(
        self, side: str, content: tuple[str, bool], instruction: str
    ) -> list[dict[str, str]]:
        text, has_image = content
        words = _user_text(self.levels, side, kind_of(text, has_image), text, instruction)
        # The newline keeps the candidate's words apart from the query's where there is no image.
        lead = "\n" if side == "candidate" else ""
        image = [{"type": "image"}] if has_image else []
        return [*image, {"type": "text", "text": lead + words}]


@dataclass(frozen=True)
class ListPrompt:
    """A prompt that asks a model which candidate of a list fits a query best."""

    id: str
    hash: str
    levels: Mapping[str, Any]
    labels: tuple[str, ...]
    """What names the places of a list, in order; each should be one token."""

    def render(
        self, instruction: str, query: tuple[str, bool], candidates: Sequence[tuple[str, bool]]
    ) -> RenderedPair:
        """Render one list; its candidates are named by the labels in order.

        Args:
            instruction: the task instruction; may be empty.
            query: its text, and whether it has an image.
            candidates: the same for each candidate, at most as many as there are labels.
        """
        assert len(candidates) <= len(self.labels), len(candidates)
        text, has_image = query
        kind = kind_of(text, has_image)
        words = _user_text(self.levels, "query", kind, text, instruction)
        image = {"type": "image"}
        parts: list[dict[str, str]] = []
        for label, (text, has_own) in zip(self.labels, candidates, strict=False):
            shown = fill(self.levels["label"], {"label": label})
            own = _user_text(self.levels, "candidate", kind_of(text, has_own), text, "")
            parts.append({"type": "text", "text": f"\n{shown} "})
            parts += [image] if has_own else []
            parts.append({"type": "text", "text": own})
        parts.append({"type": "text", "text": "\n" + self.levels["question"]})
        return RenderedPair(
            _by_side(self.levels["system"], "query") or None,
            [*([image] if has_image else []), {"type": "text", "text": words}],
            parts,
        )


def kind_of(text: str, has_image: bool) -> str:
    """Return the kind of a content."""
    if has_image:
        return "image_text" if text else "image"
    return "text"


def load_prompt(name: str) -> EmbedPrompt:
    """Load an embedding prompt by id ("embed/hierarchical.v1") or by the path of a YAML file.

    Raises:
        PromptError: when there is no such prompt, with the nearest right id; when a released file
            was changed; when a level or a placeholder is wrong, naming file, level and field.
    """
    levels, digest = _load(name, ("about", "fields", "system", "task", "kind"), EMBED_SIDES)
    return EmbedPrompt(name, digest, levels)


def load_judge_prompt(name: str) -> JudgePrompt:
    """Load a judge prompt by id ("judge/yes_no.v1") or by the path of a YAML file.

    Raises:
        PromptError: as `load_prompt`, and when the answers are missing or overlap.
    """
    keys = ("about", "fields", "system", "task", "kind", "question", "answers")
    levels, digest = _load(name, keys, JUDGE_SIDES)
    answers = levels["answers"]
    if not isinstance(answers, dict) or set(answers) != {"yes", "no"}:
        raise PromptError(
            f'{name}: \'answers\' must hold the lists "yes" and "no", got {answers!r}'
        )
    yes, no = (_texts(name, f"answers.{key}", answers[key]) for key in ("yes", "no"))
    if not yes or not no or set(yes) & set(no):
        raise PromptError(f"{name}: the answers must be two disjoint lists, got {yes} and {no}")
    return JudgePrompt(name, digest, levels, yes, no)


def load_list_prompt(name: str) -> ListPrompt:
    """Load a listwise prompt by id ("rerank/choose.v1") or by the path of a YAML file.

    Raises:
        PromptError: as `load_prompt`, and when the labels are missing, repeated or not shown.
    """
    keys = ("about", "fields", "system", "task", "kind", "label", "question", "labels")
    levels, digest = _load(name, keys, JUDGE_SIDES)
    labels = _texts(name, "labels", levels["labels"])
    if len(labels) < 2 or len(set(labels)) != len(labels):
        raise PromptError(f"{name}: 'labels' must be a list of distinct labels, got {labels!r}")
    _check_fields(Path(name), "label", str(levels["label"]), {"label"})
    if "{label}" not in str(levels["label"]):
        raise PromptError(f"{name}: level 'label' must show {{label}}, got {levels['label']!r}")
    return ListPrompt(name, digest, levels, labels)


def _texts(name: str, level: str, values: Any) -> tuple[str, ...]:
    """Return a list of texts; a single text is no list of its letters."""
    if not isinstance(values, list) or not all(isinstance(v, str | int) for v in values):
        raise PromptError(f"{name}: level '{level}' must be a list of texts, got {values!r}")
    return tuple(map(str, values))


def prompt_ids() -> list[str]:
    """Return the ids of all prompts that came with the package."""
    return sorted(
        path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.glob("*/*.yaml")
    )


def locked() -> dict[str, str]:
    """Return the SHA-256 of every released file by prompt id, from `LOCK`."""
    lines = (FOLDER / "LOCK").read_text(encoding="utf-8").splitlines()
    pairs = (line.split() for line in lines if line and not line.startswith("#"))
    return {name.removesuffix(".yaml"): digest for digest, name in pairs}


def _user_text(levels: Mapping[str, Any], side: str, kind: str, text: str, instruction: str) -> str:
    values = {"instruction": instruction, "text": text}
    task = fill(_by_side(levels["task"], side), values) if instruction else ""
    content = fill(_by_side(levels["kind"][kind], side), values)
    return "\n".join(part for part in (task, content) if part)


def fill(template: str, values: Mapping[str, str]) -> str:
    """Put values into `{name}` placeholders; braces inside a value stay as they are."""
    return "".join(
        literal + (values[field] if field is not None else "")
        for literal, field, _, _ in string.Formatter().parse(template)
    )


def _by_side(entry: Any, side: str) -> str:
    return entry if isinstance(entry, str) else entry[side]


def _load(name: str, keys: tuple[str, ...], sides: tuple[str, str]) -> tuple[dict[str, Any], str]:
    path = _find(name, keys)
    levels = read_yaml(path, PromptError)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    released = locked().get(name, digest)
    if released != digest:
        raise PromptError(
            f"{path} was changed after its release (LOCK says {released[:12]}, it is "
            f"{digest[:12]}); put it back and give the new wording a new version"
        )
    _check(path, levels, keys, sides)
    return levels, digest


def _find(name: str, keys: tuple[str, ...]) -> Path:
    path = Path(name) if name.endswith(".yaml") else FOLDER / f"{name}.yaml"
    if not path.is_file():
        use = "judge/" if "answers" in keys else "rerank/" if "labels" in keys else "embed/"
        known = [other for other in prompt_ids() if other.startswith(use)]
        raise PromptError(f"no prompt '{name}'{did_you_mean(name, known)}")
    return path


def _check(path: Path, levels: Any, keys: tuple[str, ...], sides: tuple[str, str]) -> None:
    """Raise a PromptError unless the file has exactly the expected levels and placeholders."""
    if not isinstance(levels, dict):
        raise PromptError(f"{path} holds {type(levels).__name__}, expected the levels {keys}")
    for key in levels:
        if key not in keys:
            raise PromptError(f"{path}: no level '{key}'{did_you_mean(str(key), keys)}")
    for key in keys:
        if key not in levels:
            raise PromptError(f"{path}: level '{key}' is missing")
    if not isinstance(levels["kind"], dict) or set(levels["kind"]) != set(KINDS):
        raise PromptError(f"{path}: level 'kind' must hold exactly {', '.join(KINDS)}")
    if not isinstance(levels["fields"], list) or set(map(type, levels["fields"])) > {str}:
        raise PromptError(f"{path}: level 'fields' must be a list of names")
    for level in ("label", "question"):
        if not isinstance(levels.get(level, ""), str):
            raise PromptError(f"{path}: level '{level}' must be a text, got {levels[level]!r}")
    allowed = {"system": set(), "question": set()}
    for level, template in _templates(path, levels, sides):
        fields = allowed.get(level.partition(".")[0], set(levels["fields"]))
        _check_fields(path, level, template, fields)


def _templates(
    path: Path, levels: Mapping[str, Any], sides: tuple[str, str]
) -> Iterator[tuple[str, str]]:
    """Yield every text of a prompt file with the name of its level."""
    entries: dict[str, Any] = {key: levels[key] for key in ("system", "task")}
    entries |= {f"kind.{kind}": levels["kind"][kind] for kind in KINDS}
    if "question" in levels:
        entries["question"] = levels["question"]
    for level, entry in entries.items():
        if isinstance(entry, str):
            yield level, entry
        elif (
            isinstance(entry, dict)
            and set(entry) == set(sides)
            and all(isinstance(text, str) for text in entry.values())
        ):
            for side, text in entry.items():
                yield f"{level}.{side}", text
        else:
            raise PromptError(f"{path}: level '{level}' must be a text, or one each for {sides}")


def _check_fields(path: Path, level: str, template: str, fields: set[str]) -> None:
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise PromptError(f"{path}, level '{level}': {error}") from None
    for _, field, specification, conversion in parsed:
        if field is None:
            continue
        if not field.isidentifier() or specification or conversion:
            raise PromptError(
                f"{path}, level '{level}': '{{{field}}}' is more than a name; placeholders are "
                "{name} only"
            )
        if field not in fields:
            raise PromptError(
                f"{path}, level '{level}': no field '{field}'{did_you_mean(field, fields)}"
            )
