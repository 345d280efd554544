"""Which module of the project imports which: every import statement counts, at any depth and for types alone too."""

import ast
from collections.abc import Collection
from pathlib import Path

from tests.helpers.paths import ROOT

PACKAGES = ("synth", "models", "train", "probes")
Graph = dict[str, set[str]]


def module_name(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def imports(tree: ast.AST, modules: Collection[str] = ()) -> set[str]:
    """Dotted names that a module imports; `from a import b` is `a.b` where `modules` has that, else `a`.

    `importlib.import_module("a.b")` counts too. The project has no relative imports, which could hide one.
    """
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"relative import at line {node.lineno}"
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in modules else node.module for name in full}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names |= {a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return names


def import_graph(root: Path = ROOT, packages: tuple[str, ...] = PACKAGES) -> Graph:
    """Each module of the project with the names that it imports."""
    paths = {module_name(p, root): p for package in packages for p in (root / package).rglob("*.py")}
    trees = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in paths.items()}
    return {module: imports(tree, paths.keys()) - {module} for module, tree in trees.items()}


def cycles(graph: Graph) -> list[list[str]]:
    """The groups of modules that reach each other (Tarjan's strongly connected components of more than one)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in graph[module] & graph.keys():
            if other not in index:
                visit(other)
            if other in stack:
                low[module] = min(low[module], low[other])
        if low[module] == index[module]:
            cut = stack.index(module)
            found.append(sorted(stack[cut:]))
            del stack[cut:]

    for module in graph:
        if module not in index:
            visit(module)
    return [group for group in found if len(group) > 1]
