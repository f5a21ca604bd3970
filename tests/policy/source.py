"""The repository's source files as syntax trees."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]

PACK_FOLDERS = ("wan_model", "nodes")
ALL_FOLDERS = (*PACK_FOLDERS, "render_farm", "tests", "tools", "benchmarks")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Import:
    """One name that a file imports."""

    module: str
    """Dotted module; relative imports are resolved, so "nodes._comfy" for `from . import`."""
    name: str
    """The name bound in the file."""
    relative: bool
    line: int

    @property
    def top(self) -> str:
        """First part of the module."""
        return self.module.partition(".")[0]


@dataclass(frozen=True)
class Source:
    """One Python file. `path` is relative to the repository."""

    path: Path

    def __str__(self) -> str:
        return self.path.as_posix()

    @cached_property
    def text(self) -> str:
        return (REPOSITORY / self.path).read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def lines(self) -> int:
        return len(self.text.splitlines())

    @property
    def module(self) -> tuple[str, ...]:
        """Dotted name in parts; a package for its `__init__.py`."""
        parts = self.path.with_suffix("").parts
        return parts[:-1] if parts[-1] == "__init__" else parts

    @property
    def package(self) -> tuple[str, ...]:
        """The package that relative imports start from."""
        return self.path.parent.parts

    def walk(self) -> Iterator[ast.AST]:
        """Every node of the syntax tree."""
        return ast.walk(self.tree)

    def functions(self) -> Iterator[Function]:
        """Every function and method."""
        return (node for node in self.walk() if isinstance(node, Function))

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        """Every import, those inside functions too."""
        return tuple(found for node in self.walk() for found in self._imports(node))

    def _imports(self, node: ast.AST) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.partition(".")[0]
                yield Import(alias.name, bound, False, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                base = self.package[: len(self.package) - node.level + 1]
                module = ".".join((*base, module) if module else base)
            for alias in node.names:
                # `from . import x` imports the submodule x as likely as a name.
                full = f"{module}.{alias.name}" if not node.module else module
                yield Import(full, alias.asname or alias.name, bool(node.level), node.lineno)


@cache
def sources(*folders: str) -> tuple[Source, ...]:
    """Returns the Python files below the folders, sorted; the empty name is the root itself."""
    paths: set[Path] = set()
    for folder in folders:
        pattern = "**/*.py" if folder else "*.py"
        paths.update((REPOSITORY / folder).glob(pattern))
    return tuple(Source(path.relative_to(REPOSITORY)) for path in sorted(paths))


def pack_sources() -> tuple[Source, ...]:
    """Returns the files that ComfyUI loads: the entry point, nodes and the library."""
    root = [source for source in sources("") if source.path.name == "__init__.py"]
    return (*root, *sources(*PACK_FOLDERS))
