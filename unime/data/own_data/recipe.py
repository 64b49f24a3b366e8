"""The recipe that `unime data FOLDER` writes: warm-up, mining, judge, hard negatives, export, evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unime.core import files
from unime.core.overwrite import check_replaceable, never, write_new
from unime.core.yaml_files import keep_run, quoted
from unime.data.own_data.judge_recipe import (
    RecipeJudge,
    is_tiny,
    judge_pixels,
    judge_text,
    judging_line,
    select_text,
    soft_labels,
)
from unime.data.own_data.judge_work import CANDIDATES, judge_work
from unime.data.own_data.scan import FolderScan, Split

# What a user named is pasted by `quoted`: any text is read back as that very text.
_DATA = """\
# Written by `unime data` from {place}: {train} pictures to train on, {test} to test with.
# The pictures in raw/images are links to yours; raw/report.json says what was found.
stage: data
root: ${{run}}/raw
sources:
  - reader: folder
    path: train.jsonl
    task: image_to_text
    meta_task: retrieval
    direction: i2t
    query_instruction: Find an image caption describing the given everyday image
  - reader: folder
    path: train.jsonl
    task: text_to_image
    meta_task: retrieval
    direction: t2i
    query_instruction: Find me an everyday image that matches the given caption
    target_instruction: Represent the given image
dev_share: 0.1
"""

_SMALL_MODEL = """\
# The tiny model of the checkout: small pictures, float32, good enough to see the whole way on a CPU.
model: {dtype: float32, min_pixels: 9216, max_pixels: 9216, max_length: 256}
"""

_LARGE_MODEL = """\
# Every stage prepares its inputs alike: bfloat16, pictures of at most 672 x 672 pixels.
model: {dtype: bfloat16, max_pixels: 451584, max_length: 2048}
"""

_WARMUP = """\
# In-batch contrast. Steps are about {epochs} rounds through the pairs.
extends: model.yaml
stage: contrast
model: {{id: {model}}}
data: ${{run}}/0_data
losses:
  - {{name: info_nce, matryoshka_dims: {dims}, options: {{temperature: {temperature}}}}}
tune: {tune}
training: {{per_device_train_batch_size: {batch}, max_steps: {steps}, learning_rate: {rate}, warmup_steps: 0.1, lr_scheduler_type: cosine, eval_steps: {half}, save_steps: {half}{more}}}
"""

_MINE = """\
# Each query's nearest wrong candidates, by the warm-up model.
extends: model.yaml
stage: mine
model: {{id: "${{run}}/2_warmup/model"}}
data: ${{run}}/0_data
candidates: {candidates}
"""

_CONTRAST = """\
# Stage 2: the same on hard negatives.
extends: 2_warmup.yaml
model: {{id: "${{run}}/2_warmup/model"}}
rows: ${{run}}/5_select
negatives: 4
{losses}training: {{per_device_train_batch_size: {batch}, max_steps: {steps}, learning_rate: {rate}, eval_steps: {half}, save_steps: {half}}}
"""

_EXPORT = """\
# The model for people who never install unime. Say what it may be used for: license, licenses.
extends: model.yaml
stage: export
model: {{id: "${{run}}/6_contrast/model"}}
title: {name}
{base}"""

_EVAL = """\
# R@1, R@5, R@10 both ways on the {test} test pictures.
stage: eval
results: ${{run}}/results.json
benchmarks:
  - {{name: captions, root: "${{run}}/raw", files: test.jsonl}}
models:
  - name: base
    model: &base {{id: {model}, {prepare}}}
  - name: after warm-up
    model: {{<<: *base, id: "${{run}}/2_warmup/model"}}
  - name: stage 2
    model: {{<<: *base, id: "${{run}}/6_contrast/model"}}
"""


def write_recipe(
    folder: Path,
    model: str,
    scan: FolderScan,
    split: Split,
    judge: RecipeJudge | None,
    command: str,
) -> str:
    """Write a recipe folder whose lengths and batches fit the data.

    Args:
        folder: new; or as this function leaves it, or left it when it was killed.
        model: a folder or Hub id.
        scan: the data.
        split: into training and test.
        judge: of the mined candidates; without one they all count as wrong.
        command: that this is for, but for the judge.

    Returns:
        What a judge has to do, or would have to do: for the report.

    Raises:
        OutputError: when a file of another content is there.
    """
    train = [p for p, is_test in zip(scan.pictures, split.test, strict=True) if not is_test]
    pairs = len(train) + sum(len(picture.captions) for picture in train)
    tiny = is_tiny(model)
    work = judge_work(scan, split, judge_pixels(judge))
    values = _lengths(pairs, tiny) | {
        "dims": _dims(model, 128 if tiny else 512),
        "place": quoted(scan.place),
        "name": quoted(keep_run(folder.resolve().name)),
        "model": quoted(keep_run(model)),
        "train": len(train),
        "test": int(split.test.sum()),
        "candidates": CANDIDATES,
    }
    settings = _SMALL_MODEL if tiny else _LARGE_MODEL
    prepare = settings.partition("{")[2].rpartition("}")[0]
    base = "" if Path(model).is_dir() else f"base_model: {values['model']}\n"
    second = values | {"steps": max(10, values["steps"] // 2), "rate": values["second_rate"]}
    second["half"] = max(5, second["steps"] // 2)
    losses = "" if judge is None else soft_labels(values["dims"], values["temperature"])
    texts = {
        "0_data": _DATA.format(**values),
        "model": settings,
        "2_warmup": _WARMUP.format(**values),
        "3_mine": _MINE.format(**values),
        **({} if judge is None else {"4_judge": judge_text(judge, folder, work)}),
        "5_select": select_text(judge, command, folder, work),
        "6_contrast": _CONTRAST.format(**second, losses=losses),
        "8_export": _EXPORT.format(**values, base=base),
        "9_eval": _EVAL.format(**values, prepare=prepare),
    }
    if judge is None:  # a killed run may have left another one's
        check_replaceable(folder / "4_judge.yaml", never, "unime data without --judge")
    for name, text in texts.items():
        write_new(folder / f"{name}.yaml", text)
    return judging_line(judge, command, folder, work)


def _lengths(pairs: int, tiny: bool) -> dict[str, Any]:
    """Return batch, steps and rates; a batch leaves room for several in every task."""
    batch = max(4, min(64 if tiny else 256, pairs // 8))
    epochs = 20 if tiny else 2
    steps = max(40, min(400 if tiny else 4000, epochs * pairs // batch))
    return {
        "batch": batch,
        "epochs": max(1, round(steps * batch / pairs)),
        "steps": steps,
        "half": max(5, steps // 2),
        "temperature": 0.05 if tiny else 0.02,
        "rate": 5e-4 if tiny else 1e-4,
        "second_rate": 2e-4 if tiny else 5e-5,
        "tune": "{method: full, parts: [language, vision, projector]}"
        if tiny
        else "{method: lora, parts: [language], r: 16, lora_alpha: 32}",
        "more": "" if tiny else ", bf16: true, gradient_checkpointing: true",
    }


def _dims(model: str, longest: int) -> list[int]:
    """Return two lengths of short vectors, powers of two below the embedding's own length."""
    whole = _embedding_length(model)
    if whole is not None:
        longest = min(longest, 2 ** ((whole - 1).bit_length() - 1))
    return [longest, longest // 2]


def _embedding_length(model: str) -> int | None:
    """Return what a model's configuration says; None for a Hub id that was never loaded here."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    path: object = Path(model) / "config.json"
    if not Path(model).is_dir():
        try:
            # Nothing is fetched. Published vision-language models have more than 512 numbers.
            path = try_to_load_from_cache(model, "config.json")
        except HFValidationError:
            return None
    if not isinstance(path, str | Path) or not Path(path).is_file():
        return None
    config = files.read_json(Path(path))
    size = (config.get("text_config") or {}).get("hidden_size", config.get("hidden_size"))
    return int(size) if size else None
