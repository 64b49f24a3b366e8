"""What is wrong with an exported folder, in words: its files, its template, its weights."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unime.models.exported import read_export_file

if TYPE_CHECKING:
    from unime.models.embedder import Embedder

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz")
CODE = (".py", ".so", ".pyc")
MODULES = [
    "sentence_transformers.base.modules.transformer.Transformer",
    "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "sentence_transformers.sentence_transformer.modules.normalize.Normalize",
]
MAX_HEADER = 100_000_000
"""Bytes; safetensors' own limit."""


def damage(folder: Path) -> list[str]:
    """Return which files are missing, cut off or unsafe: nothing of the folder is loaded."""
    problems = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.suffix in PICKLES:
            problems.append(f"{name} may hold a pickle; an export has safetensors only")
        elif path.suffix in CODE:
            problems.append(f"{name} is code; an export has stock modules only")
        elif path.suffix == ".safetensors":
            problems += [f"{name} {problem}" for problem in _tensor_file(path)]
    if "auto_map" in read_export_file(folder, "config.json"):
        problems.append("config.json: auto_map asks for code from elsewhere; expected none")
    return problems + _missing_tensors(folder)


def settings(folder: Path, facts: Mapping[str, Any]) -> list[str]:
    """Return which settings are not what was exported."""
    config = read_export_file(folder, "config_sentence_transformers.json")
    problems = [
        *_prompts(config.get("prompts") or {}, facts["rendered"]),
        *_expect(
            "config_sentence_transformers.json",
            config,
            {"default_prompt_name": _default(facts), "similarity_fn_name": "cosine"},
        ),
        *_expect(
            "tokenizer_config.json",
            read_export_file(folder, "tokenizer_config.json"),
            {"padding_side": "right"},
        ),
        *_expect(
            "1_Pooling",
            read_export_file(folder, "1_Pooling/config.json"),
            {"pooling_mode": "lasttoken"},
        ),
    ]
    length = read_export_file(folder, "sentence_bert_config.json").get("processing_kwargs", {})
    found, expected = length.get("text", {}).get("max_length"), facts["model"]["max_length"]
    if found != expected:
        problems.append(
            f"sentence_bert_config.json: texts are cut at {found} tokens, expected {expected}"
        )
    modules = [
        module["type"].rpartition(".")[2] for module in read_export_file(folder, "modules.json")
    ]
    names = [module.rpartition(".")[2] for module in MODULES]
    if modules != names:
        problems.append(f"modules.json: {modules}, expected {', '.join(names)}")
    stored = {info["dtype"] for path in _tensor_files(folder) for info in _tensors(path)}
    # Counters and masks are no weights: batch normalisation keeps how many batches it saw as int64.
    dtypes = sorted(name for name in stored if "F" in name)
    wanted = _DTYPES.get(facts["preprocessing"]["dtype"])
    if wanted is not None and dtypes != [wanted]:
        problems.append(f"weights are stored as {', '.join(dtypes)}, expected {wanted}")
    return problems


def rendering(embedder: Embedder, facts: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the exported chat template and preprocessing."""
    from unime.core.loading import load_processor
    from unime.core.provenance import differences
    from unime.models.inputs import chat_messages
    from unime.models.processor import preprocessing_of

    processor = load_processor(embedder.config.id)
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


def final_norm(embedder: Embedder) -> list[str]:
    """Return a problem when the embedding is not read behind the model's final norm."""
    import torch

    from unime.models.inputs import ModelInput

    backbone = embedder.backbone
    language_model = getattr(backbone, "language_model", None) or backbone.text_model
    behind: list[torch.Tensor] = []
    hook = language_model.norm.register_forward_hook(lambda *args: behind.append(args[2]))
    try:
        with torch.inference_mode():
            features = embedder.features([ModelInput("hello", None, "query", "")])
            pooled = embedder.forward(features)[0]
    finally:
        hook.remove()
    last = int(features["attention_mask"].sum()) - 1
    expected = torch.nn.functional.normalize(behind[-1][0, last].float(), dim=0)
    if torch.allclose(pooled, expected, atol=1e-4):
        return []
    return ["the embedding is not the hidden state behind the model's final norm"]


_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""How safetensors names them."""


def _prompts(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    where = "config_sentence_transformers.json"
    problems = []
    for name, text in expected.items():
        if name not in found:
            problems.append(f"{where}: the prompt '{name}' is missing, expected {text!r}")
        elif found[name] != text:
            problems.append(f"{where}: prompts.{name} is {found[name]!r}, expected {text!r}")
    return problems


def _default(facts: Mapping[str, Any]) -> str | None:
    return "document" if facts["rendered"]["document"] else None


def _expect(file: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[str]:
    for key, value in expected.items():
        if found.get(key) != value:
            yield f"{file}: {key} is {found.get(key)}, expected {value}"


def _tensor_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("model*.safetensors"))


def _tensor_file(path: Path) -> list[str]:
    """Compare a file's length with what its header announces."""
    try:
        end = max((info["data_offsets"][1] for info in _tensors(path)), default=0)
    except (ValueError, KeyError, struct.error):
        return ["is no safetensors file, or its header is damaged; export the model again"]
    with path.open("rb") as handle:
        header = struct.unpack("<Q", handle.read(8))[0] + 8
    size = path.stat().st_size
    if size == header + end:
        return []
    return [
        f"is {'truncated' if size < header + end else 'too long'}: {size} bytes, its header "
        f"announces {header + end}; copy or export it again"
    ]


def _tensors(path: Path) -> list[dict[str, Any]]:
    return list(_header(path).values())


def _header(path: Path) -> dict[str, dict[str, Any]]:
    with path.open("rb") as handle:
        length = struct.unpack("<Q", handle.read(8))[0]
        if length > MAX_HEADER:
            raise ValueError("header too long")
        header = json.loads(handle.read(length))
    header.pop("__metadata__", None)
    return header


def _missing_tensors(folder: Path) -> list[str]:
    """Hold the index of a sharded export against its shards."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        if (folder / "model.safetensors").is_file():
            return []
        return ["model.safetensors is missing, and there is no index of shards"]
    problems = []
    by_shard: dict[str, set[str]] = {}
    for tensor, shard in read_export_file(folder, index.name)["weight_map"].items():
        by_shard.setdefault(shard, set()).add(tensor)
    for shard, tensors in sorted(by_shard.items()):
        if not (folder / shard).is_file():
            problems.append(f"{shard} is missing, the index names it for {len(tensors)} tensors")
            continue
        try:
            lacking = tensors - _header(folder / shard).keys()
        except (ValueError, struct.error):
            continue  # said by `_tensor_file`
        if lacking:
            problems.append(f"{shard} lacks {len(lacking)} tensors, such as {min(lacking)}")
    return problems
