"""Check built distributions: `python .ci/check_release.py DIST [TAG]`, as `make release` does.

One sdist and one wheel, of the version that unime, CITATION.cff and (with a tag) CHANGELOG and the tag
say; the wheel holds unime alone, with its data. Uses the standard library only.
"""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

DATA = (
    "py.typed", "_prompts/LOCK", "_prompts/embed/hierarchical.v1.yaml", "_benchmarks/mmeb_v1.yaml",
    "_published.yaml", "eval/report/page.html.j2", "eval/report/page.css", "eval/report/page.js",
    "export/card.md.jinja", "judge/audit/page.html.jinja", "search/page.html.jinja",
    "data/readers/instructions.yaml",
)  # fmt: skip
"""Files without which a command fails."""


def problems(dist: Path, tag: str = "", root: Path = ROOT) -> list[str]:
    """Return what is wrong with the distributions in a folder, one sentence each."""
    version = _find(r'__version__ = "(.+?)"', root / "unime/__init__.py")
    cited = _find(r"^version: (\S+)$", root / "CITATION.cff")
    found = [] if cited == version else [f"CITATION.cff says version {cited}, unime {version}"]
    expected = {f"unime-{version}.tar.gz", f"unime-{version}-py3-none-any.whl"}
    names = {path.name for path in dist.iterdir()}
    if names != expected:
        return [*found, f"{dist} holds {sorted(names)}, expected {sorted(expected)}"]
    if tag:
        found += _of_tag(tag, version, root)
    with zipfile.ZipFile(dist / f"unime-{version}-py3-none-any.whl") as wheel:
        inside = set(wheel.namelist())
    found += [f"the wheel lacks unime/{name}" for name in DATA if f"unime/{name}" not in inside]
    tops = {name.partition("/")[0] for name in inside} - {f"unime-{version}.dist-info"}
    found += [f"the wheel holds {top}/ beside unime/" for top in sorted(tops - {"unime"})]
    with tarfile.open(dist / f"unime-{version}.tar.gz") as sdist:
        packed = {name.partition("/")[2] for name in sdist.getnames()}
    wanted = {"CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "pyproject.toml"}
    return found + [f"the sdist lacks {name}" for name in sorted(wanted - packed)]


def _of_tag(tag: str, version: str, root: Path) -> list[str]:
    found = [] if tag == f"v{version}" else [f"the tag is {tag}, the version {version}"]
    headings = re.findall(r"^## (.+)$", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    if not re.fullmatch(rf"{re.escape(version)} \(\d{{4}}-\d\d-\d\d\)", headings[0]):
        found.append(f"CHANGELOG.md begins with '{headings[0]}', expected '{version} (YYYY-MM-DD)'")
    return found


def _find(pattern: str, path: Path) -> str:
    match = re.search(pattern, path.read_text(), re.MULTILINE)
    return match[1] if match else "nothing"


if __name__ == "__main__":
    wrong = problems(Path(sys.argv[1]), *sys.argv[2:3])
    sys.exit("\n".join(["not fit for a release:", *wrong]) if wrong else 0)
