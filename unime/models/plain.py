"""What a user without this package runs: the other side of `unime verify`.

`SCRIPT` is handed to a fresh interpreter as text, because importing this module would import the
package. It reads a list of jobs from standard input and prints one JSON line.
"""

from __future__ import annotations

SCRIPT = """
import json
import sys

import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoProcessor


def content(probe):
    image = Image.open(probe["image"]).convert("RGB") if probe["image"] else None
    parts = {"image": image, "text": probe["text"] or None}
    return {kind: value for kind, value in parts.items() if value is not None}


def by_sentence_transformers(job):
    model = SentenceTransformer(job["folder"], device=job["device"], local_files_only=True)
    # One call for each side, so that probes share batches and padding is at work.
    found = {}
    for side in ("query", "document"):
        probes = [probe for probe in job["probes"] if probe["prompt_name"] == side]
        vectors = model.encode([content(p) for p in probes], prompt_name=side, batch_size=4)
        found |= {p["name"]: v.tolist() for p, v in zip(probes, vectors)}
    return found, model.prompts


def by_transformers(job, prompts):
    processor = AutoProcessor.from_pretrained(job["folder"])
    model = AutoModel.from_pretrained(job["folder"]).to(job["device"]).eval()
    found = {}
    for probe in job["probes"]:
        parts = [{"type": kind, kind: value} for kind, value in content(probe).items()]
        messages = [{"role": "user", "content": parts}]
        system = prompts[probe["prompt_name"]]
        if system:
            text = [{"type": "text", "text": system}]
            messages.insert(0, {"role": "system", "content": text})
        inputs = processor.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(job["device"])
        with torch.inference_mode():
            last = model(**inputs).last_hidden_state[0, -1].float()
        found[probe["name"]] = (last / last.norm()).tolist()
    return found


results = []
for job in json.load(sys.stdin):
    vectors, prompts = by_sentence_transformers(job)
    plain = by_transformers(job, prompts)
    results.append({"sentence-transformers": vectors, "transformers": plain})
assert "unime" not in sys.modules, "unime was imported"
print(json.dumps(results))
"""
