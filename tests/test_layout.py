"""The layout of the code: layers, import direction, no cycles."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.support.experiment import ROOT

# From the lowest layer to the highest. Code imports from its own package and from lower layers;
# packages of one layer do not import each other.
LAYERS = (
    ("sop.runtime",),
    ("sop.params", "sop.presets"),
    ("sop.media", "sop.dataset"),
    ("sop.model",),
    ("sop.download", "sop.extract", "sop.inference"),
    ("sop.evaluate",),
    ("sop.train", "sop.localize", "sop.denoise"),
    ("sop.cancellation", "sop.validate", "sop.catalogue"),
    ("sop.player",),
    ("sop.separate", "sop.report"),
    ("sop.cli", "sop.plots", "stages"),
)
LAYER = {package: layer for layer, packages in enumerate(LAYERS) for package in packages}

# Presets are validated parameters; the program calls the command line.
ALLOWED = {("sop.presets", "sop.params"), ("sop.__main__", "sop.cli")}

MAX_TOP_MODULES = 6
MAX_CODE_ENTRIES = 56


def modules() -> dict[str, Path]:
    """Return the modules of `sop` and `stages`, without `sop/__init__.py`, which imports lazily."""
    files = [path for folder in ("sop", "stages") for path in (ROOT / folder).rglob("*.py")]
    named = {path.relative_to(ROOT).with_suffix(""): path for path in files}
    dotted = {".".join(name.parts).removesuffix(".__init__"): file for name, file in named.items()}
    return {name: file for name, file in dotted.items() if name not in ("sop", "stages")}


def imported(file: Path, known: dict[str, Path]) -> Iterator[str]:
    """Yield the modules that a file imports, at its top or in a function."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # Of `from a import b`, b is a module or a name in a.
            names = [
                full if (full := f"{node.module}.{alias.name}") in known else node.module
                for alias in node.names
            ]
        else:
            continue
        yield from (name for name in names if name in known)


def package(module: str) -> str:
    return ".".join(module.split(".")[:2]) if module.startswith("sop.") else "stages"


def test_imports_point_to_lower_layers() -> None:
    known = modules()
    wrong = [
        f"{module} imports {name}"
        for module, file in known.items()
        for name in imported(file, known)
        if package(name) != package(module)
        and (package(module), package(name)) not in ALLOWED
        and LAYER[package(name)] >= LAYER[package(module)]
    ]
    assert wrong == []


def test_no_import_cycle() -> None:
    known = modules()
    imports = {module: set(imported(file, known)) - {module} for module, file in known.items()}
    # What imports nothing that is left, or is imported by nothing that is left, is in no cycle.
    while outside := {
        module
        for module, names in imports.items()
        if not names & imports.keys() or module not in set().union(*imports.values())
    }:
        imports = {module: names for module, names in imports.items() if module not in outside}
    assert sorted(imports) == []


def test_imports_in_functions_have_a_reason() -> None:
    """A comment above the first one says why; to avoid a cycle is no reason."""
    wrong = []
    for file in modules().values():
        lines = file.read_text(encoding="utf-8").splitlines()
        explained: set[str] = set()
        for node in imports_in_functions(ast.parse("\n".join(lines))):
            name = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
            above = node.lineno - 2
            # A comment covers the whole block of imports under it.
            while lines[above].lstrip().startswith(("import ", "from ", ")")) or not lines[above]:
                above -= 1
            if lines[above].lstrip().startswith("#"):
                explained.add(name)
            elif name not in explained:
                wrong.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert wrong == []


def imports_in_functions(tree: ast.Module) -> list[ast.Import | ast.ImportFrom]:
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    found = {
        node.lineno: node
        for function in functions
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    return [found[line] for line in sorted(found)]


def test_few_modules_at_the_top() -> None:
    assert len(list((ROOT / "sop").glob("*.py"))) <= MAX_TOP_MODULES


def test_code_dependencies_stay_readable() -> None:
    lines = (ROOT / "dvc.yaml").read_text(encoding="utf-8").splitlines()
    entries = [line for line in lines if line.strip().startswith(("- sop/", "- stages/"))]
    assert len(entries) <= MAX_CODE_ENTRIES


def test_everything_is_printed_by_the_log() -> None:
    """It shows control characters, so that no caller has to."""
    printing = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in modules().values()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name) and node.id == "print"
    ]
    assert {place.partition(":")[0] for place in printing} == {
        "sop/runtime/errors.py",
        "sop/runtime/log.py",
    }
