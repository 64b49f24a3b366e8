"""A trained reranker for people who never install this package.

The folder is a sentence-transformers `CrossEncoder` (stock modules: Transformer and LogitScore), a
plain transformers model, and what vLLM serves on `/score` and `/rerank`. All of them render a pair by
the exported chat template.
"""

from __future__ import annotations

import json
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from unime.core import files
from unime.core.errors import ModelError
from unime.core.loading import load_cross_encoder, load_transformer
from unime.export.pair_template import pair_template
from unime.models.image_blocks import KeyedImage
from unime.models.pair_scorer import PairSide
from unime.models.rerank_model import RerankModel, facts_of
from unime.rerank.reranker import Reranker

TOLERANCE = {"float32": 1e-4}
"""How far P(yes) may be off in the folder; in half precision 0.02, another order of additions."""
PROBES = "unime_probes.json"

INSTRUCTION = "Find a picture that matches the description."

_CARD = Template("""\
---
library_name: sentence-transformers
pipeline_tag: text-ranking
tags:
- sentence-transformers
- cross-encoder
- reranker
- multimodal
$front---

# $title

A reranker for texts, images and both, made with unime. It needs nothing but sentence-transformers
>= 6.2; a score is the probability that the document is what the query asks for:

```python
from sentence_transformers import CrossEncoder

model = CrossEncoder("$title")
pairs = [
    ("two dogs on a beach", {"image": picture}),
    ({"image": picture, "text": "the same at night"}, {"image": other}),
]
scores = model.predict(pairs, prompt="Find a picture that matches the description.")
```

`prompt` is the task instruction; leave it out for none. Pass texts of which you do not know what they
are as `{"text": ...}`.

## vLLM

```bash
vllm serve FOLDER --runner pooling $arguments \\
  --chat-template FOLDER/chat_template.jinja \\
  --hf-overrides '$overrides'
```

It answers `/score` and `/rerank`; the template is to be named, vLLM takes none by itself there.

## Provenance

Prompt `$prompt`, preprocessing fingerprint `$fingerprint`; `unime.json` holds both in full. In this
folder's probes (`unime_probes.json`) sentence-transformers and the trained model were compared when it
was exported.
""")


def export_reranker(model: RerankModel, folder: Path, title: str, front: str = "") -> None:
    """Write the whole folder, and compare it with the model.

    Args:
        model: as trained.
        folder: an existing, empty folder.
        title: the model's name in its card.
        front: further lines of the card's front matter.

    Raises:
        ModelError: when sentence-transformers scores a probe differently.
    """
    trained = model.processor.chat_template
    exported = pair_template(trained, model.pair_prompt, model.processor)
    scores = probe_scores(Reranker(model))
    _set_template(model, exported)
    try:
        model.save(folder)
    finally:
        _set_template(model, trained)
    _save_modules(model, folder)
    files.write_json(folder / PROBES, scores)
    (folder / "README.md").write_text(_card(model, title, front), encoding="utf-8")
    compare(folder)


def compare(folder: Path) -> float:
    """Return how far sentence-transformers' P(yes) is from the trained model's, at most.

    Raises:
        ModelError: when it is too far.
    """
    facts = facts_of(str(folder)) or {}
    expected = files.read_json(folder / PROBES)
    model = load_cross_encoder(str(folder), local_files_only=True)
    pairs = {name: (_plain(query), _plain(other)) for name, (query, other) in probes().items()}
    found = model.predict(list(pairs.values()), prompt=INSTRUCTION)
    worst = float(np.abs(np.array([expected[name] for name in pairs]) - found).max())
    most = TOLERANCE.get(facts["preprocessing"]["dtype"], 0.02)
    if not worst <= most:
        raise ModelError(
            f"{folder}: sentence-transformers' scores differ by {worst:.2g} from the trained "
            f"model's, expected at most {most:g}"
        )
    return worst


def probes() -> dict[str, tuple[PairSide, PairSide]]:
    """Return the fixed pairs, by name."""
    from unime.export.probe_inputs import probe_image

    pictures = {
        name: KeyedImage(name.encode(), lambda size=size: probe_image(*size))
        for name, size in {"wide": (120, 40), "tall": (48, 64)}.items()
    }
    sentence = "Two brown dogs run along a beach."
    return {
        "text, text": (PairSide(sentence), PairSide("dogs at the sea")),
        "text, image": (PairSide(sentence), PairSide("", pictures["wide"])),
        "image, text": (PairSide("", pictures["tall"]), PairSide(sentence)),
        "image, image": (PairSide("", pictures["tall"]), PairSide("", pictures["wide"])),
        "both, both": (
            PairSide("at night", pictures["wide"]),
            PairSide(sentence, pictures["tall"]),
        ),
    }


def probe_scores(reranker: Reranker) -> dict[str, float]:
    """Return the trained model's P(yes) of the probes."""
    return {
        name: float(reranker.pointwise(query, [candidate], INSTRUCTION)[0])
        for name, (query, candidate) in probes().items()
    }


def vllm_overrides(model: RerankModel) -> tuple[str, str]:
    """Return the arguments and the `--hf-overrides` with which vLLM scores as trained."""
    tokens = [model.processor.tokenizer.convert_ids_to_tokens(t) for t in (model.no, model.yes)]
    (architecture,) = model.model.config.architectures or [type(model.model).__name__]
    name = architecture.replace("ForConditionalGeneration", "ForSequenceClassification")
    overrides: dict[str, Any] = {"architectures": [name], "classifier_from_token": tokens}
    if name.startswith("Qwen3VL"):
        return "", json.dumps({**overrides, "is_original_qwen3_reranker": True})
    return "--convert classify", json.dumps({**overrides, "method": "from_2_way_softmax"})


def _save_modules(model: RerankModel, folder: Path) -> None:
    """Write what makes the folder a CrossEncoder."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder.modules import LogitScore

    transformer = load_transformer(
        str(folder), model={"dtype": "auto"}, transformer_task="any-to-any"
    )
    transformer.processing_kwargs = {"text": {"max_length": model.config.max_length}}
    score = LogitScore(true_token_id=model.yes, false_token_id=model.no)
    head = transformer.model.get_output_embeddings()
    name = next(name for name, module in transformer.named_modules() if module is head)
    # As `unime.models.exact_head` does here.
    CrossEncoder(
        modules=[transformer, score], device="cpu", keep_in_fp32_modules=[f"0.{name}"]
    ).save(str(folder))


def _set_template(model: RerankModel, template: str) -> None:
    model.processor.chat_template = model.processor.tokenizer.chat_template = template


def _card(model: RerankModel, title: str, front: str) -> str:
    arguments, overrides = vllm_overrides(model)
    return _CARD.substitute(
        title=title,
        front=front,
        arguments=arguments,
        overrides=overrides,
        prompt=model.pair_prompt.id,
        fingerprint=model.facts["fingerprint"],
    )


def _plain(side: PairSide) -> Any:
    """Return a side as sentence-transformers takes it."""
    parts = {"image": side.picture.open()} if side.picture is not None else {}
    return {**parts, "text": side.text} if side.text else parts
