"""`unime eval fetch`: a benchmark's data, in the folders that its YAML file expects, and checked.

What a command may fetch is said by the benchmark itself (`fetch`, or `hub`). What is behind a form, or
on many servers, stays to be done by hand: the benchmark says in words where it is.
"""

from __future__ import annotations

import json
import shutil
import stat
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from unime.core import console, files, overwrite
from unime.core.errors import DataError, OutputError, RecipeError
from unime.eval.benchmark import Benchmark, BenchmarkChoice, FetchStep, load_benchmark
from unime.eval.inspect_benchmarks import check_benchmarks

MARK = ".unime-fetch.json"
"""In a folder that this command fills: what is done there already."""

WAIT_SECONDS = 60.0


def fetch(name: str, to: Path, echo: Callable[[str], None] = console.log) -> str:
    """Download a benchmark's data into a folder and check it; return how a recipe names it.

    Args:
        name: the benchmark, or the path of a file of one.
        to: a new folder, or one that this command began to fill.
        echo: what is done, line by line.

    Raises:
        RecipeError: when the data can be had by hand alone.
        OutputError: when the folder holds something else.
        DataError: when a download fails, or the check does.
    """
    benchmark = load_benchmark(name)
    steps = steps_of(benchmark)
    done = _begin(benchmark, to)
    for number, step in enumerate(steps, start=1):
        words = step.model_dump_json()
        if words in done:
            continue
        echo(f"[{number}/{len(steps)}] {step.hub or step.url}")
        _do(step, to, echo)
        done.append(words)
        files.write_json(to / MARK, {"benchmark": benchmark.name, "done": done})
    choice = choice_of(name, benchmark, steps, to)
    values = choice.model_dump(exclude_none=True)
    lines = [f"in a recipe: - {json.dumps(values, ensure_ascii=False)}"]
    left = [task for task in benchmark.tasks if choice.tasks and task not in choice.tasks]
    if left:
        lines.append(f"to be had by hand: {', '.join(left)}: {benchmark.data}")
    echo("checking")
    return "\n".join([check_benchmarks([choice]), *lines])


def steps_of(benchmark: Benchmark) -> list[FetchStep]:
    """Return the downloads that make up a benchmark, as far as a command can do them.

    Raises:
        RecipeError: when there is none.
    """
    steps = list(benchmark.fetch)
    if not steps and benchmark.hub is not None:
        steps.append(FetchStep(hub=benchmark.hub, revision=benchmark.revision))
    for name, task in benchmark.tasks.items():
        if task.hub is not None:
            steps.append(FetchStep(hub=task.hub, revision=task.revision, into=name, tasks=(name,)))
    if not steps:
        raise RecipeError(
            f"no command can fetch {benchmark.name}; get it by hand: {benchmark.data or 'see its citation'}"
        )
    return steps


def choice_of(
    name: str, benchmark: Benchmark, steps: Sequence[FetchStep], root: Path
) -> BenchmarkChoice:
    """Return how a recipe names what was fetched."""
    values: dict[str, object] = {"name": name, "root": str(root)}
    if not benchmark.fetch and benchmark.hub is not None:
        # As with `root: hub`: the Hub may have the data in another form.
        values |= {"form": benchmark.hub_form, "files": benchmark.hub_files, "images": ""}
    if all(step.tasks for step in steps):
        covered = {task for step in steps for task in step.tasks}
        values["tasks"] = [task for task in benchmark.tasks if task in covered]
    return BenchmarkChoice.model_validate(values)


def _begin(benchmark: Benchmark, to: Path) -> list[str]:
    """Make the folder, or find what was done in it."""
    mark = to / MARK
    if not mark.is_file():
        if not overwrite.is_free(to):
            raise OutputError(f"{to} is not empty; fetch into a new folder (--to FOLDER)")
        to.mkdir(parents=True, exist_ok=True)
        files.write_json(mark, {"benchmark": benchmark.name, "done": []})
    begun = files.read_json(mark)
    if begun["benchmark"] != benchmark.name:
        raise OutputError(
            f"{to} holds {begun['benchmark']}; fetch {benchmark.name} into another folder"
        )
    return list(begun["done"])


def _do(step: FetchStep, root: Path, echo: Callable[[str], None]) -> None:
    place = root / step.into
    place.mkdir(parents=True, exist_ok=True)
    if step.hub is not None:
        _from_hub(step, place)
    else:
        assert step.url is not None
        for name in step.names or ("",):
            _download(step.url.format(name=name), place)
    if step.unpack is None:
        return
    archives = sorted(place.glob(step.unpack))
    if not archives:
        raise DataError(f"{step.hub or step.url} has no file {step.unpack}; did its layout change?")
    for archive in archives:
        echo(f"unpacking {archive.name}")
        unpack(archive, place, flatten=step.flatten)
        archive.unlink()


def _from_hub(step: FetchStep, place: Path) -> None:
    from huggingface_hub import snapshot_download

    assert step.hub is not None
    try:
        snapshot_download(
            step.hub,
            repo_type="dataset",
            revision=step.revision,
            local_dir=place,
            allow_patterns=list(step.files) or None,
        )
    # The client raises connection, HTTP, authorisation and local-entry errors alike.
    except Exception as error:
        raise DataError(
            f"cannot fetch {step.hub}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        ) from None


def _download(url: str, place: Path) -> None:
    """Download a file, whole or not at all."""
    parts = urlsplit(url)
    assert parts.scheme in ("http", "https")
    try:
        with urllib.request.urlopen(url, timeout=WAIT_SECONDS) as answer:  # noqa: S310
            expected = answer.headers.get("Content-Length")
            with files.atomic_path(place / PurePosixPath(parts.path).name) as path:
                with path.open("wb") as handle:
                    shutil.copyfileobj(answer, handle, 1 << 20)
                # A connection that ends early is no error to the client.
                size = path.stat().st_size
                if expected is not None and size != int(expected):
                    raise DataError(
                        f"{url}: {size} bytes came of {expected}; the same command tries again"
                    )
    except urllib.error.HTTPError as error:
        raise DataError(f"cannot fetch {url}: status {error.code} ({error.reason})") from None
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise DataError(f"cannot fetch {url}: {error}; the same command tries again") from None


def unpack(archive: Path, place: Path, *, flatten: bool = False) -> None:
    """Unpack a zip archive into a folder.

    Args:
        archive: a zip file of somebody else's.
        place: where its files go.
        flatten: leave out the one folder that all of them lie in.

    Raises:
        DataError: when it is damaged, or has a file that leads out of the folder or is a link.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = list(_members(archive, opened.infolist()))
            tops = {PurePosixPath(member.filename).parts[0] for member in members}
            skipped = 1 if flatten and len(tops) == 1 else 0
            for member in members:
                parts = PurePosixPath(member.filename).parts[skipped:]
                target = place.joinpath(*parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                # Not file by file on the disk for good, which takes hours for many pictures: what is
                # unpacked counts once the step is noted.
                with opened.open(member) as source, target.open("wb") as handle:
                    shutil.copyfileobj(source, handle, 1 << 20)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise DataError(
            f"{archive}: cannot be unpacked: {error}; remove it and try again"
        ) from None


def _members(archive: Path, listed: Sequence[zipfile.ZipInfo]) -> Iterator[zipfile.ZipInfo]:
    for member in listed:
        path = PurePosixPath(member.filename)
        if member.is_dir() or not path.parts or path.parts[0] == "__MACOSX":
            continue
        if path.is_absolute() or ".." in path.parts or stat.S_ISLNK(member.external_attr >> 16):
            raise DataError(f"{archive}: {member.filename} leads out of the folder, or is a link")
        yield member
