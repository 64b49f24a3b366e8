"""What a person wants to know of data before training on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unime.data.own_data.scan import FolderScan, Split, leaks


def statistics(scan: FolderScan, split: Split, model: str) -> dict[str, Any]:
    """Return counts, sizes and what the checks found, as plain values.

    Args:
        scan: what was read.
        split: into training and test.
        model: whose tokenizer counts tokens, when it is a folder.
    """
    captions = [caption for picture in scan.pictures for caption in picture.captions]
    reasons = Counter(str(row["reason"]).partition(":")[0] for row in scan.rejected)
    lengths, unit = _lengths(captions, model)
    return {
        "place": scan.place,
        "rows": scan.rows,
        "rejected": dict(reasons.most_common()),
        "pictures": len(scan.pictures),
        "captions": len(captions),
        "duplicate_pictures": scan.duplicates,
        "near_duplicate_pairs": len(split.near),
        "generic_captions": split.generic[:20],
        "largest_group": split.largest_group,
        "train": int((~split.test).sum()),
        "test": int(split.test.sum()),
        "shared_by_train_and_test": leaks(scan.pictures, split),
        "caption_unit": unit,
        "caption_length": _quantiles(lengths),
        "pixels": _quantiles([p.width * p.height for p in scan.pictures]),
    }


def report(facts: dict[str, Any], raw: Path) -> str:
    """Return the facts as lines of text."""
    length, pixels = facts["caption_length"], facts["pixels"]
    rejected = ", ".join(f"{kind} ({count})" for kind, count in facts["rejected"].items())
    shared = facts["shared_by_train_and_test"]
    lines = [
        f"{facts['place']}: {facts['rows']} rows, {facts['pictures']} pictures, "
        f"{facts['captions']} captions",
        f"  rejected: {sum(facts['rejected'].values())}"
        + (f": {rejected}; listed in {raw / 'rejected.jsonl'}" if rejected else ""),
        f"  copies: {facts['duplicate_pictures']} rows repeat a picture byte for byte (captions "
        f"merged), {facts['near_duplicate_pairs']} pairs look alike",
        f"  captions: {length['median']:.0f} {facts['caption_unit']} in the middle, "
        f"{length['p95']:.0f} at 95 %, {length['max']:.0f} at most",
        f"  pictures: {pixels['median']:,.0f} pixels in the middle, {pixels['p95']:,.0f} at 95 %, "
        f"{pixels['max']:,.0f} at most",
        f"  split: {facts['train']} pictures to train on, {facts['test']} to test with; in common: "
        f"{shared['near_duplicates']} pictures that look alike, {shared['captions']} captions",
    ]
    if facts["generic_captions"]:
        lines.append(
            f"  captions that too many pictures share to mean one: {facts['generic_captions'][:5]}"
        )
    return "\n".join(lines)


def _lengths(captions: Sequence[str], model: str) -> tuple[list[int], str]:
    path = Path(model) / "tokenizer.json"
    if not path.is_file():
        return [len(caption.split()) for caption in captions], "words"
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    return [len(encoding.ids) for encoding in tokenizer.encode_batch(list(captions))], "tokens"


def _quantiles(values: Sequence[int]) -> dict[str, float]:
    array = np.array(values, dtype=float)
    return {
        "median": float(np.median(array)),
        "p95": float(np.quantile(array, 0.95)),
        "max": float(array.max()),
    }
