"""A program for a process without this package: embeddings the way a stranger would get them.

The text of the program is handed to a fresh interpreter, so it may import nothing of ours. Plain
transformers comes first, while sentence-transformers cannot be imported; nothing may be fetched.
"""

from __future__ import annotations

SCRIPT = """
import json
import socket
import sys
from pathlib import Path

import torch
from PIL import Image


def refuse(*_, **__):
    raise OSError("this process may not use the network")


def content(probe):
    image = Image.open(probe["image"]).convert("RGB") if probe["image"] else None
    parts = {"image": image, "text": probe["text"] or None}
    return {kind: value for kind, value in parts.items() if value is not None}


def by_transformers(job):
    from transformers import AutoModel, AutoProcessor

    folder = Path(job["folder"])
    prompts = json.loads((folder / "config_sentence_transformers.json").read_text())["prompts"]
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    model = AutoModel.from_pretrained(
        folder, dtype="auto", trust_remote_code=False, use_safetensors=True
    )
    model = model.to(job["device"]).eval()
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


def by_sentence_transformers(job):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(
        job["folder"],
        device=job["device"],
        local_files_only=True,
        trust_remote_code=False,
        model_kwargs={"use_safetensors": True},
    )
    # One call for each side, so that probes share batches and padding is at work.
    found = {}
    for side in ("query", "document"):
        probes = [probe for probe in job["probes"] if probe["prompt_name"] == side]
        if not probes:
            continue
        vectors = model.encode([content(p) for p in probes], prompt_name=side, batch_size=4)
        found |= {p["name"]: v.tolist() for p, v in zip(probes, vectors)}
    return found, {kind: kinds_of(model, path) for kind, path in job["kinds"].items()}


def kinds_of(model, path):
    side = "document" if "document" in model.prompts else None
    found = {}
    for way, image in (("path", path), ("PIL", Image.open(path))):
        try:
            found[way] = model.encode([{"image": image}], prompt_name=side)[0].tolist()
        except Exception as error:
            found[way] = f"refused: {' '.join(str(error).split())[:80]}"
    return found


socket.socket.connect = refuse
jobs = json.load(sys.stdin)
sys.modules["sentence_transformers"] = None
plain = [by_transformers(job) for job in jobs]
del sys.modules["sentence_transformers"]
stock = [by_sentence_transformers(job) for job in jobs]
assert "unime" not in sys.modules, "unime was imported"
print(json.dumps([
    {"transformers": p, "sentence-transformers": s, "kinds": k}
    for p, (s, k) in zip(plain, stock)
]))
"""
