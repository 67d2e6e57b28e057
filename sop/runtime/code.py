"""The source files that a script depends on, found from its imports."""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from sop.runtime.files import is_litter

ROOT = Path(__file__).parents[2]

# Code that never decides an output, as paths relative to the root: it validates parameters, reports
# errors and progress, replaces files atomically and distributes work.
WITHOUT_INFLUENCE = ("sop/params.py", "sop/presets.py", "sop/runtime/")

# It exports classes lazily: to import any module of the package does not import those.
LAZY_EXPORTS = Path("sop/__init__.py")


def code_dependencies(script: Path, root: Path = ROOT) -> list[Path]:
    """List the files of this project that a script's output depends on, the script included.

    These are the modules that it imports, directly or not and wherever in a file, and the other
    files (templates, scripts, styles) in sibling folders that are not packages. Modules without
    influence on an output are left out, but what they import is not.

    Args:
        script: a Python file, relative to `root`.
        root: folder of the packages.

    Returns:
        Paths relative to `root`, sorted.

    Raises:
        SyntaxError: a file is not valid Python; the error names it.
    """
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        file = waiting.pop()
        if file in found or file == LAZY_EXPORTS:
            continue
        found.add(file)
        waiting += _imports(file, root)
    files = {file for file in found if not file.as_posix().startswith(WITHOUT_INFLUENCE)}
    return sorted(files | {path for file in files for path in _page_files(file, root)})


def code_hash(script: Path, root: Path = ROOT) -> str:
    """Return one SHA-256 of all files that a script's output depends on, by name and content."""
    digest = hashlib.sha256()
    for path in code_dependencies(script, root):
        digest.update(f"{path.as_posix()}\0".encode())
        digest.update(hashlib.sha256((root / path).read_bytes()).digest())
    return digest.hexdigest()


def _imports(file: Path, root: Path) -> Iterator[Path]:
    """The files that one file imports (absolutely), and the `__init__.py` of their packages."""
    for node in ast.walk(ast.parse((root / file).read_text(encoding="utf-8"), str(file))):
        if isinstance(node, ast.Import):
            names: Iterable[str] = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            for length in range(1, len(parts) + 1):
                place = Path(*parts[:length])
                candidates = (place / "__init__.py", place.with_suffix(".py"))
                yield from (path for path in candidates if (root / path).is_file())


def _page_files(file: Path, root: Path) -> Iterator[Path]:
    """The non-code files in folders next to a module, such as the templates of a page."""
    for folder in (root / file).parent.iterdir():
        if folder.is_dir() and not (folder / "__init__.py").exists():
            paths = (path for path in folder.rglob("*") if path.is_file() and not is_litter(path))
            yield from (p.relative_to(root) for p in paths if "__pycache__" not in p.parts)
