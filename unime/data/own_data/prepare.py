"""`unime data FOLDER`: from a folder of captioned images to a recipe that is ready to run.

Reads whatever form the captions have, checks every image, finds duplicates and near-duplicates,
holds test images out so that nothing of them is in training, and writes `recipes/NAME`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from unime.core import console, files, locks
from unime.core.contents import fingerprint
from unime.core.errors import DataError, OutputError, UnimeError
from unime.core.overwrite import is_free, read_mark
from unime.data import rejected
from unime.data.own_data.judge_recipe import (
    RecipeJudge,
    data_command,
    is_without_judge,
    without_judge,
)
from unime.data.own_data.recipe import write_recipe
from unime.data.own_data.scan import FolderScan, Split, leaks, scan_folder, split_pictures
from unime.data.readers.base import Quoting
from unime.data.readers.hub_client import HUB

__all__ = ["FolderScan", "Split", "is_own_data", "prepare"]

REPORT = "report.json"
TEST_SHARE = 0.15
FEWEST = 12
"""Pictures; fewer cannot be trained on and tested at once."""


def is_own_data(place: str) -> bool:
    """Tell whether the argument of `unime data` is data rather than a recipe."""
    return place.startswith(HUB) or not place.endswith((".yaml", ".yml"))


def prepare(
    place: str,
    model: str | None = None,
    into: Path | None = None,
    language: str | None = None,
    echo: Callable[[str], None] = print,
    judge: RecipeJudge | None = None,
    encoding: str | None = None,
    quoting: Quoting = "auto",
) -> Path:
    """Check the data, split it, write the recipe; return the recipe's folder.

    Args:
        place: a folder, a captions file (CSV, TSV, JSON Lines, JSON, Parquet), or `hub:OWNER/NAME`.
        model: a folder or Hub id to start from; the checkout's tiny student by default.
        into: the recipe's folder; `recipes/NAME` by default.
        language: which captions to take where they come by language.
        echo: where the report goes.
        judge: what judges the mined candidates.
        encoding: of text files, where their bytes do not tell it.
        quoting: of CSV and TSV, see `unime.data.readers.base.DataSource`.

    Raises:
        DataError: when there is nothing to read, too little is usable, or the recipe is there.
        OutputError: when something else lies where the recipe or its data would be written.
    """
    recipe = into or Path("recipes") / _name(place)
    raw = _raw(recipe)
    asked = {"place": place, "language": language, "recipe": str(recipe)}
    raw.mkdir(parents=True, exist_ok=True)
    with locks.only_writer(raw):
        _check_place(recipe, raw, asked, judge)
        start = model or _default_model()
        scan = partial(scan_folder, place, raw, language, start, encoding, quoting)
        return _prepare(asked, recipe, raw, start, scan, echo, judge)


def _prepare(
    asked: Mapping[str, str | None],
    recipe: Path,
    raw: Path,
    start: str,
    read: Callable[[], FolderScan],
    echo: Callable[[str], None],
    judge: RecipeJudge | None,
) -> Path:
    place = str(asked["place"])
    # First of all, so that a killed run is known as this command's and can be done again.
    files.write_json(raw / REPORT, {**asked, "unfinished": True})
    try:
        scan = read()
    except UnimeError:
        files.write_json(raw / REPORT, {**asked, "failed": True})
        raise
    if len(scan.pictures) < FEWEST:
        rejected.write_rejected(raw / rejected.NAME, scan.rejected)
        files.write_json(raw / REPORT, {**asked, "failed": True})
        shown = "".join(f"\n  {reason}" for reason in rejected.first_reasons(scan.rejected))
        raise DataError(
            f"{place} has {len(scan.pictures)} usable captioned pictures, expected at least "
            f"{FEWEST}; {len(scan.rejected)} were rejected, listed in {raw / rejected.NAME}{shown}"
        )
    split = split_pictures(scan.pictures, TEST_SHARE)
    _write(scan, split, raw)
    facts = {**asked, "contents": _contents(place), **statistics(scan, split, start)}
    command = data_command(place, start, asked["language"])
    judging = write_recipe(recipe, start, scan, split, judge, command)
    files.write_json(raw / REPORT, facts)
    echo(f"{report(facts, raw)}\n{judging}")
    echo(f"recipe: {recipe} (model {start}). Next: unime run {recipe}")
    return recipe


def _write(scan: FolderScan, split: Split, raw: Path) -> None:
    """Write the images (as links where that is possible), the captions files, the rejects."""
    linked: set[str] = set()
    for picture in console.progress(scan.pictures, label="data: linking", unit="pictures"):
        name = _file_of(scan.root, picture.location)
        if name not in linked:
            _link((scan.root / name).resolve(), raw / "images" / name)
            linked.add(name)
    for name, chosen in (("train", ~split.test), ("test", split.test)):
        lines = [
            json.dumps(
                {"image": f"images/{p.location}", "captions": list(p.captions)}, ensure_ascii=False
            )
            for p, is_in in zip(scan.pictures, chosen, strict=True)
            if is_in
        ]
        files.write_text(raw / f"{name}.jsonl", "".join(f"{line}\n" for line in lines))
    rejected.write_rejected(raw / rejected.NAME, scan.rejected)


def _file_of(root: Path, location: str) -> str:
    """Return the picture's file, or the table it lies in."""
    table = location.partition("#")[0]
    return table if (root / table).is_file() else location


def _link(source: Path, place: Path) -> None:
    """Put a file into the run: no second copy on one disk."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists() and place.samefile(source):
        return
    # What else is there is of a run that was killed, and may be half a copy, or another image.
    place.unlink(missing_ok=True)
    try:
        os.link(source, place)
    except OSError:  # another disk, or one that knows no links
        with files.atomic_path(place) as temporary:
            shutil.copyfile(source, temporary)


def _raw(recipe: Path) -> Path:
    # `${run}` of a recipe is named by its folder.
    return Path("runs") / recipe.resolve().name / "raw"


def _check_place(
    recipe: Path, raw: Path, asked: Mapping[str, str | None], judge: RecipeJudge | None
) -> None:
    """Refuse places that hold anything but what this command wrote for the same data."""
    before = read_mark(raw / REPORT)
    same = [_whole(before.get("place")), before.get("language")] == [
        _whole(asked["place"]),
        asked["language"],
    ]
    begun = same and bool(before.get("unfinished")) and before.get("recipe") == asked["recipe"]
    if not is_free(recipe) and not begun:
        if same and judge is not None and is_without_judge(recipe):
            raise DataError(without_judge(recipe, str(asked["place"]), asked["language"], judge))
        if same and any(recipe.glob("*.yaml")):
            is_old = before.get("contents") not in (None, _contents(str(asked["place"])))
            raise DataError(
                f"{recipe} and {raw} are there already"
                + (f", and {asked['place']} has changed since" if is_old else "")
                + f"; run it with `unime run {recipe}`, or remove both, or choose another place by --into"
            )
        raise OutputError(
            f"{recipe} is there already and is no recipe of `unime data {asked['place']}`; it "
            f"stays as it is: choose another place, such as --into {_free_beside(recipe)}"
        )
    if not is_free(raw) and not same and not _is_failed(raw):
        raise OutputError(
            f"{raw} is there already and was not written by `unime data {asked['place']}`; it "
            f"stays as it is: choose another place, such as --into {_free_beside(recipe)}"
        )


def _contents(place: str) -> str | None:
    """Return what tells later whether the data was changed: texts and tables by their bytes."""
    return None if place.startswith(HUB) else fingerprint(Path(place).absolute())


def _is_failed(raw: Path) -> bool:
    """Tell whether there is nothing but what this command left when it refused some data."""
    names = {path.name for path in raw.iterdir()} if raw.is_dir() else set()
    return bool(read_mark(raw / REPORT).get("failed")) and names <= {
        REPORT,
        rejected.NAME,
        locks.NAME,
    }


def _whole(place: object) -> object:
    if not isinstance(place, str) or place.startswith(HUB):
        return place
    return str(Path(place).resolve())


def _free_beside(recipe: Path) -> Path:
    return next(
        place
        for number in count(2)
        if is_free(place := recipe.with_name(f"{recipe.resolve().name}_{number}"))
        and is_free(_raw(place))
    )


def _default_model() -> str:
    student = Path("assets/student")
    return student.as_posix() if student.is_dir() else "Qwen/Qwen2-VL-2B-Instruct"


def _name(place: str) -> str:
    path = Path(place.removeprefix(HUB))
    stem = path.stem if path.suffix and not path.is_dir() else path.resolve().name
    generic = stem.lower() in ("captions", "metadata", "train", "data")
    if generic and not path.is_dir() and path.resolve().parent.name:
        stem = path.resolve().parent.name
    return re.sub(r"[^\w-]+", "_", stem.lower()).strip("_") or "own"


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
        "first_rejected": rejected.first_reasons(scan.rejected),
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
    kinds = ", ".join(f"{kind} ({count})" for kind, count in facts["rejected"].items())
    count = sum(facts["rejected"].values())
    shared = facts["shared_by_train_and_test"]
    total = rejected.account(
        facts["place"], facts["rows"], facts["pictures"], count, facts["duplicate_pictures"]
    )
    lines = [
        f"{total}; {facts['captions']} captions",
        f"  rejected: {count}" + (f": {kinds}; listed in {raw / rejected.NAME}" if count else ""),
        *[f"    {reason}" for reason in facts["first_rejected"]],
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
    return console.printable("\n".join(lines))


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
