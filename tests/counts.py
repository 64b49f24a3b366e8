"""The layout of the code in figures: `python -m tests.counts`. `test_architecture` holds the bounds.

Imports are read from the source, wherever they stand in a file: inside functions and under
`TYPE_CHECKING` too.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
ORDER = (
    "core", "data", "models", "mine", "judge", "select", "losses", "train", "rerank", "eval",
    "export", "scale", "search",
)  # fmt: skip
"""The rooms of `unime/`, lowest first; what lies beside them (the command, the API) is above all."""
ABOVE = ("unime", "research", "benchmarks")
SHARED_NAMES = {"__init__", "__main__", "stage", "commands"}
"""Names that more than one module may have."""


@cache
def modules(package: str) -> dict[str, Path]:
    """Return the modules of a top-level package by their dotted names."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    assert found, f"no Python in {package}/"
    return found


@cache
def tree_of(path: Path) -> ast.Module:
    """Return a file's syntax tree."""
    return ast.parse(path.read_text())


def imported_names(path: Path) -> set[str]:
    """Return every dotted name that a file imports, and every `package.name` it may mean."""
    names: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def module_imports(path: Path, known: dict[str, Path]) -> set[str]:
    """Return the modules among `known` that a file imports: the module itself, not its packages."""
    found: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in known}
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= below & known.keys()
            if below - known.keys():
                found.add(node.module)
    return found


def graph(packages: tuple[str, ...] = ABOVE) -> dict[str, set[str]]:
    """Return which module imports which."""
    known = {name: path for package in packages for name, path in modules(package).items()}
    return {name: module_imports(path, known) - {name} for name, path in known.items()}


def room_of(module: str) -> str:
    """Return a module's room: "core", ...; what is above all rooms is "unime" or its package."""
    parts = module.split(".")
    return parts[1] if parts[0] == "unime" and len(parts) > 1 and parts[1] in ORDER else parts[0]


def against_the_order() -> list[str]:
    """Return the imports that go from a room to a higher one."""
    wrong = []
    for module, targets in graph(("unime",)).items():
        here = room_of(module)
        if here not in ORDER:
            continue
        # The version and nothing else may be asked of the package itself.
        there = {target: room_of(target) for target in targets if target != "unime"}
        wrong += [
            f"{module} -> {target}"
            for target, room in there.items()
            if room not in ORDER or ORDER.index(room) > ORDER.index(here)
        ]
    return sorted(wrong)


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of nodes that reach one another (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in edges.get(node, ()):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in edges:
        if node not in index:
            visit(node)
    return found


def room_graph() -> dict[str, set[str]]:
    """Return which room imports which."""
    edges: dict[str, set[str]] = defaultdict(set)
    for module, targets in graph(("unime",)).items():
        if room_of(module) in ORDER:
            edges[room_of(module)] |= {room_of(t) for t in targets} - {room_of(module), "unime"}
    return edges


def repeated_module_names() -> dict[str, list[str]]:
    """Return names that several modules of `unime/` have."""
    by_name: dict[str, list[str]] = defaultdict(list)
    for module, path in modules("unime").items():
        if path.stem not in SHARED_NAMES:
            by_name[path.stem].append(module)
    return {name: found for name, found in by_name.items() if len(found) > 1}


def repeated_class_names() -> dict[str, list[str]]:
    """Return names that several public classes of `unime/` and `research/` have."""
    by_name: dict[str, list[str]] = defaultdict(list)
    for package in ("unime", "research"):
        for module, path in modules(package).items():
            for node in tree_of(path).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    by_name[node.name].append(f"{module}.{node.name}")
    return {name: found for name, found in by_name.items() if len(found) > 1}


def lines_of(path: Path) -> int:
    """Return how many lines a file has."""
    return path.read_text().count("\n")


def long_files(limit: int = 400) -> list[str]:
    """Return files above a number of lines."""
    found = [(lines_of(p), p) for package in ABOVE for p in modules(package).values()]
    return [f"{p.relative_to(ROOT)}: {n} lines" for n, p in found if n > limit]


def functions(package: str) -> list[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Return every function of a package."""
    return [
        (path, node)
        for path in modules(package).values()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def long_functions(limit: int = 100) -> list[str]:
    """Return functions above a number of lines."""
    return [
        f"{path.relative_to(ROOT)}:{node.name}: {(node.end_lineno or 0) - node.lineno + 1} lines"
        for package in ABOVE
        for path, node in functions(package)
        if (node.end_lineno or 0) - node.lineno + 1 > limit
    ]


def median_lines() -> float:
    """Return the median length of a file of `unime/`, faces counted."""
    return median(lines_of(path) for path in modules("unime").values())


def small_and_used_once(limit: int = 50) -> list[str]:
    """Return modules under a number of lines that a single other module imports."""
    importers: Counter[str] = Counter()
    only: dict[str, str] = {}
    for module, targets in graph().items():
        for target in targets:
            importers[target] += 1
            only[target] = module
    return [
        f"{module} ({lines_of(path)} lines) -> {only[module]}"
        for module, path in modules("unime").items()
        if path.stem not in SHARED_NAMES and lines_of(path) < limit and importers[module] == 1
    ]


def docstring_share() -> float:
    """Return the share of public modules, classes and functions of `unime/` with a docstring."""
    has = total = 0
    for path in modules("unime").values():
        public = [tree_of(path), *_public(tree_of(path))]
        total += len(public)
        has += sum(ast.get_docstring(node) is not None for node in public)
    return has / total


def _public(node: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    found = []
    for child in getattr(node, "body", []):
        is_definition = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if is_definition and not child.name.startswith("_"):
            found.append(child)
            if isinstance(child, ast.ClassDef):
                found += _public(child)
    return found


def report() -> str:
    """Return the figures, one a line."""
    unime = modules("unime")
    faces = sum(path.name == "__init__.py" for path in unime.values())
    rows = {
        "modules of unime/": len(unime) - faces,
        "faces (__init__.py)": faces,
        "lines of unime/": sum(map(lines_of, unime.values())),
        "median lines of a file": median_lines(),
        "files over 400 lines": len(long_files()),
        "functions over 100 lines": len(long_functions()),
        "imports against the order": len(against_the_order()),
        "circles of files": len(circles(graph())),
        "circles of rooms": len(circles(room_graph())),
        "module names twice": len(repeated_module_names()),
        "class names twice": len(repeated_class_names()),
        "modules under 50 lines with one importer": len(small_and_used_once()),
        "docstrings": f"{docstring_share():.1%}",
    }
    return "\n".join(f"{name:42} {value}" for name, value in rows.items())


def details() -> str:
    """Return every single finding."""
    parts = {
        "against the order": against_the_order(),
        "circles": [" ".join(group) for group in circles(graph())],
        "module names twice": [f"{k}: {' '.join(v)}" for k, v in repeated_module_names().items()],
        "class names twice": [f"{k}: {' '.join(v)}" for k, v in repeated_class_names().items()],
        "small and used once": small_and_used_once(),
        "long": [*long_files(), *long_functions()],
    }
    return "\n".join(f"\n{name}\n  " + "\n  ".join(lines) for name, lines in parts.items() if lines)


if __name__ == "__main__":
    print(report())  # noqa: T201
    print(details())  # noqa: T201
