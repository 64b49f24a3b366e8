"""`unime verify DIR`: does an exported model give one embedding, however it is loaded?

Fixed probes are embedded by this package, by sentence-transformers and by plain transformers (the
last two in a process that never imports this package), and compared with what the trained model
gave when it was exported. Beside the cosines, the files themselves are checked.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unime import files
from unime.config import ModelConfig
from unime.errors import ModelError
from unime.models.plain import SCRIPT

if TYPE_CHECKING:
    from PIL.Image import Image

    from unime.models import Embedder, Encode

MIN_COSINE = 0.999
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")


class Comparison(NamedTuple):
    """How one probe came out over one way of loading."""

    cosine: float
    probe: str
    path: str


def verify_folder(folder: Path | str) -> str:
    """Check an exported embedder and return the report, worst first.

    Args:
        folder: the exported folder, or an export stage's output that holds `embedder/`.

    Raises:
        ModelError: when the folder is no export, with what is missing; when a check fails or a
            cosine is below 0.999, with the whole report.
    """
    folder = Path(folder)
    if (folder / "embedder").is_dir():
        folder = folder / "embedder"
    facts = _read(folder, "unime.json")
    problems = _check_files(folder, facts)
    embedder = _load(folder, facts)
    problems += _check_rendering(embedder, facts)
    comparisons = compare(embedder, folder)
    problems += [
        f"{c.probe} over {c.path}: cosine {c.cosine:.6f}, expected at least {MIN_COSINE}"
        for c in comparisons
        if not c.cosine >= MIN_COSINE
    ]
    lines = [f"{c.cosine:9.6f}  {c.path:<22}{c.probe}" for c in comparisons]
    report = "\n".join([f"{folder}: cosine with the trained model's embedding", *lines])
    if problems:
        raise ModelError("\n".join([report, f"{folder} fails:", *(f"  {p}" for p in problems)]))
    return f"{report}\nall {len(comparisons)} comparisons and the file checks passed"


def compare(embedder: Embedder, folder: Path) -> list[Comparison]:
    """Embed the probes over every path; worst first."""
    named = probes(embedder)
    reference = _read(folder, "unime_probes.json")
    vectors = {"unime": dict(zip(named, embedder.encode(list(named.values())), strict=True))}
    vectors |= _embed_elsewhere(embedder, folder, named)
    comparisons = [
        Comparison(_cosine(vector, reference[name]), name, path)
        for path, found in vectors.items()
        for name, vector in found.items()
    ]
    return sorted(comparisons, key=lambda c: (c.cosine == c.cosine, c.cosine))  # NaN first


def reference_embeddings(embedder: Embedder) -> dict[str, list[float]]:
    """Return the trained model's embeddings of the probes, by name."""
    named = probes(embedder)
    vectors = embedder.encode(list(named.values()), label="probes")
    return {
        name: [round(float(value), 7) for value in vector]
        for name, vector in zip(named, vectors, strict=True)
    }


def probes(embedder: Embedder) -> dict[str, Encode]:
    """Return the fixed inputs, by name."""
    from unime.models import Encode
    from unime.models.processor import special_tokens

    instruction = "Find a picture that matches the description."
    sentence = "Two brown dogs run along a beach while a boat passes behind them. "
    tokens = len(embedder.tokenizer(sentence, add_special_tokens=False)["input_ids"])
    long = sentence * (embedder.config.max_length * 5 // 4 // tokens + 1)
    return {
        "text": Encode(sentence, None, "target", ""),
        "text with instruction": Encode(sentence, None, "query", instruction),
        "image": Encode("", probe_image(64, 48), "target", ""),
        "wide image with instruction": Encode("", probe_image(120, 40), "query", instruction),
        "image and text": Encode(sentence, probe_image(48, 64), "query", instruction),
        "long text": Encode(long, None, "query", instruction),
        "almost empty": Encode(".", None, "target", ""),
        "non-Latin": Encode(
            "\u6d77\u8fb9\u6709\u4e24\u53ea\u72d7 \u0434\u0432\u0435 \u0441\u043e\u0431\u0430\u043a\u0438 \u0643\u0644\u0628\u0627\u0646 \U0001f415",
            None,
            "query",
            "",
        ),
        "special tokens": Encode(
            f"a {''.join(special_tokens(embedder.processor))} b", None, "query", ""
        ),
    }


def probe_image(width: int, height: int) -> Image:
    """Return a colourful picture made of arithmetic, the same everywhere."""
    from PIL import Image

    rows, columns = np.mgrid[0:height, 0:width]
    channels = (rows * 5 + columns, columns * 3, (rows // 8 + columns // 8) % 2 * 200)
    return Image.fromarray((np.stack(channels, axis=-1) % 256).astype(np.uint8))


def _load(folder: Path, facts: Mapping[str, Any]) -> Embedder:
    from unime.models import Embedder
    from unime.prompts import EmbedPrompt

    prompt = EmbedPrompt(**facts["prompt"])
    return Embedder.load(ModelConfig(id=str(folder), **facts["model"]), prompt=prompt)


def _embed_elsewhere(
    embedder: Embedder, folder: Path, named: Mapping[str, Encode]
) -> dict[str, dict[str, list[float]]]:
    """Embed the probes by sentence-transformers and transformers in a process without us."""
    with tempfile.TemporaryDirectory() as temporary:
        job = job_of(embedder, folder, named, Path(temporary))
        (result,) = run_elsewhere([job])
    for name, encode in named.items():
        # transformers does not cut long texts: such a probe has no counterpart there.
        if embedder.is_cut(encode):
            result["transformers"].pop(name)
    return result


def job_of(
    embedder: Embedder, folder: Path, named: Mapping[str, Encode], temporary: Path
) -> dict[str, Any]:
    """Return what the clean process is told; pictures go into `temporary`."""
    from unime.prompts import kind_of

    jobs = []
    for number, (name, encode) in enumerate(named.items()):
        kind = kind_of(encode.text, encode.image is not None)
        user = embedder.prompt.render(encode.side, kind, encode.text, encode.instruction).user
        image = None
        if encode.image is not None:
            image = str(temporary / f"{number}.png")
            encode.image.save(image)
        side = "document" if encode.side == "target" else encode.side
        jobs.append({"name": name, "prompt_name": side, "text": user, "image": image})
    return {"folder": str(folder.resolve()), "device": str(embedder.device), "probes": jobs}


def run_elsewhere(jobs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Run jobs in one fresh interpreter; return embeddings by library and probe.

    Raises:
        ModelError: with the end of what the process said.
    """
    # -I: neither the working directory nor PYTHONPATH can bring this package in.
    done = subprocess.run(
        [sys.executable, "-I", "-c", SCRIPT],
        input=json.dumps(list(jobs)),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        folders = ", ".join(job["folder"] for job in jobs)
        raise ModelError(f"{folders} cannot be used without unime:\n{done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _check_files(folder: Path, facts: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the files."""
    problems = [
        f"{path.name} may hold a pickle; an export has safetensors only"
        for path in sorted(folder.rglob("*"))
        if path.suffix in PICKLES
    ]
    side = _read(folder, "tokenizer_config.json").get("padding_side", "right")
    if side != "right":
        problems.append(f"tokenizer_config.json: padding_side is {side}, expected right")
    prompts = _read(folder, "config_sentence_transformers.json").get("prompts")
    if prompts != facts["rendered"]:
        problems.append(
            f"config_sentence_transformers.json: prompts {prompts}, expected {facts['rendered']}"
        )
    pooling = _read(folder, "1_Pooling/config.json").get("pooling_mode")
    if pooling != "lasttoken":
        problems.append(f"1_Pooling/config.json: pooling_mode is {pooling}, expected lasttoken")
    modules = [module["type"].rpartition(".")[2] for module in _read(folder, "modules.json")]
    if modules != ["Transformer", "Pooling", "Normalize"]:
        problems.append(f"modules.json: {modules}, expected Transformer, Pooling, Normalize")
    return problems


def _check_rendering(embedder: Embedder, facts: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the exported chat template and preprocessing."""
    from transformers import AutoProcessor

    from unime.models.processor import preprocessing_of
    from unime.models.rendering import chat_messages
    from unime.provenance import differences

    processor = AutoProcessor.from_pretrained(embedder.config.id)
    problems = []
    for name, system in facts["rendered"].items():
        messages = chat_messages(system, True, "hello")
        rendered = processor.apply_chat_template(messages)
        if rendered != processor.apply_chat_template(messages, add_generation_prompt=True):
            problems.append("the chat template does not end in the generation prompt by itself")
        if system and rendered.count(system) != 1:
            problems.append(f"the {name} prompt appears {rendered.count(system)} times, not once")
    # The files' own values: the embedder has set them anew when it was loaded.
    found = {**embedder.preprocessing, **preprocessing_of(processor)}
    now = json.loads(json.dumps(found))
    problems += [f"preprocessing: {line}" for line in differences(facts["preprocessing"], now)]
    return list(dict.fromkeys(problems))


def _read(folder: Path, name: str) -> Any:
    path = folder / name
    if not path.is_file():
        raise ModelError(f"{path} is missing; expected a folder written by 'unime export'")
    return files.read_json(path)


def _cosine(one: Sequence[float] | np.ndarray, other: Sequence[float] | np.ndarray) -> float:
    a, b = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
