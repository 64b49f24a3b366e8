"""`unime verify DIR`: does an exported model give one embedding, however it is loaded?

Fixed probes are embedded by this package, by plain transformers and by sentence-transformers (the
last two in a process that cannot import this package nor use the network), and by a vLLM server if
one is named; each is compared with what the trained model gave when it was exported. Beside the
cosines, the files themselves are checked.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unime.core import files
from unime.core.errors import ModelError
from unime.core.hashes import sha256
from unime.export import folder_checks, image_kinds, other_loaders, short_vectors
from unime.export.probe_inputs import probes
from unime.models.exported import load_exported, read_export_file

if TYPE_CHECKING:
    from unime.models.embedder import Embedder

MIN_COSINE = 0.999
SEAL = "unime_verified.json"
"""Written into a folder that passed: the hashes of its files, and the worst cosine of each path."""


class EmbeddingComparison(NamedTuple):
    """How one probe came out over one way of loading."""

    cosine: float
    probe: str
    path: str


def verify_folder(folder: Path | str, server: str | None = None, python: str | None = None) -> str:
    """Check an exported embedder and return the report, worst first.

    A folder that passes gets the seal that `unime push` asks for.

    Args:
        folder: the exported folder, or an export stage's output that holds `embedder/`.
        server: address of a vLLM server of this folder (`--runner pooling`).
        python: the interpreter of the clean process; this one by default.

    Raises:
        ModelError: when the folder is no export, with what is missing; when a check fails or a
            cosine is below 0.999, with the whole report.
    """
    folder = Path(folder)
    if (folder / "embedder").is_dir():
        folder = folder / "embedder"
    (folder / SEAL).unlink(missing_ok=True)
    facts = read_export_file(folder, "unime.json")
    _fail(folder, folder_checks.damage(folder))
    embedder = load_exported(folder)
    # First, because other libraries would say the same in worse words.
    wrong = folder_checks.settings(folder, facts) + folder_checks.rendering(embedder, facts)
    _fail(folder, wrong + folder_checks.final_norm(embedder))
    comparisons, pictures = _everywhere(embedder, folder, server, python or sys.executable)
    problems = [
        f"{c.probe} over {c.path}: cosine {c.cosine:.6f}, expected at least {MIN_COSINE}"
        for c in comparisons
        if not c.cosine >= MIN_COSINE
    ]
    report = _report(folder, comparisons, server)
    report = "\n".join([report, *short_vectors.report(short_vectors.costs(folder))])
    _fail(folder, problems, report)
    files.write_json(folder / SEAL, seal(folder, comparisons, pictures))
    return report + f"\nall {len(comparisons)} comparisons and the file checks passed"


def compare(
    embedder: Embedder, folder: Path, server: str | None = None, python: str = sys.executable
) -> list[EmbeddingComparison]:
    """Embed the probes over every path; worst first."""
    return _everywhere(embedder, folder, server, python)[0]


def pictures_report(folder: Path | str) -> str:
    """Return what a verified folder's seal says of other kinds of picture files."""
    folder = Path(folder)
    path = (folder / "embedder" if (folder / "embedder").is_dir() else folder) / SEAL
    pictures = files.read_json(path).get("pictures") if path.is_file() else None
    return image_kinds.report(pictures) if pictures else ""


def _everywhere(
    embedder: Embedder, folder: Path, server: str | None, python: str
) -> tuple[list[EmbeddingComparison], image_kinds.Measured]:
    """Return the probes' comparisons, worst first, and what was found of other kinds of pictures."""
    named = probes(embedder)
    reference = read_export_file(folder, "unime_probes.json")
    vectors: dict[str, Mapping[str, Any]] = {
        "unime": dict(zip(named, embedder.encode(list(named.values())), strict=True))
    }
    vectors |= other_loaders.in_clean_process(embedder, folder, named, python)
    pictures = vectors.pop(other_loaders.KINDS, {})
    if server is not None:
        vectors["vLLM"] = other_loaders.on_server(embedder, named, server)
    comparisons = [
        EmbeddingComparison(_cosine(vector, reference[name]), name, path)
        for path, found in vectors.items()
        for name, vector in found.items()
    ]
    # NaN first
    return sorted(comparisons, key=lambda c: (c.cosine == c.cosine, c.cosine)), pictures


def seal(
    folder: Path,
    comparisons: Sequence[EmbeddingComparison],
    pictures: image_kinds.Measured | None = None,
) -> dict[str, Any]:
    """Return what a verified folder says about itself."""
    paths = sorted({c.path for c in comparisons})
    return {
        "files": hashes(folder),
        "worst_cosine": {
            path: round(min(c.cosine for c in comparisons if c.path == path), 7) for path in paths
        },
        "pictures": dict(pictures or {}),
        "verified": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file that decides an embedding, by name: all but the words."""
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {
        name: sha256(path)
        for name, path in sorted(found.items())
        if name not in (SEAL, "README.md") and not name.startswith(".")
    }


def _report(folder: Path, comparisons: Sequence[EmbeddingComparison], server: str | None) -> str:
    lines = [f"{c.cosine:9.6f}  {c.path:<22}{c.probe}" for c in comparisons]
    if server is None:
        lines.append(
            f"not compared: vLLM (start `vllm serve {folder} --runner pooling` and give "
            "--server http://127.0.0.1:8000)"
        )
    return "\n".join([f"{folder}: cosine with the trained model's embedding", *lines])


def _fail(folder: Path, problems: Sequence[str], report: str = "") -> None:
    if problems:
        lines = [f"{folder} fails:", *(f"  {problem}" for problem in problems)]
        raise ModelError("\n".join([report, *lines] if report else lines))


def _cosine(one: Sequence[float] | np.ndarray, other: Sequence[float] | np.ndarray) -> float:
    a, b = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
