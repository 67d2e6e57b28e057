"""Write the code that each stage depends on into dvc.yaml, from the imports of its script.

`python -m stages.dependencies` (or `make deps`) updates dvc.yaml; with `--check` it changes nothing
and fails if dvc.yaml is not up to date.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from ruamel.yaml import YAML

from sop.runtime.code import code_dependencies
from sop.runtime.errors import UserError, run
from sop.runtime.files import replacing
from sop.runtime.log import say

PIPELINE = Path("dvc.yaml")

# Top-level folders of code. All other dependencies in dvc.yaml are data and are left as they are.
CODE_FOLDERS = ("sop", "stages")


def code_entries(script: Path, root: Path = Path()) -> list[str]:
    """List what a stage depends on: a folder where it uses all of the folder, else single files.

    Args:
        script: of the stage, relative to `root`.
        root: of the repository.

    Returns:
        Paths relative to `root`: the script, then folders and files in order.
    """
    used = set(code_dependencies(script, root)) - {script}
    # An `__init__.py` with only a docstring is not a dependency.
    used = {path for path in used if not _is_marker(root / path)}
    return [script.as_posix(), *sorted(_collapsed(root / "sop", used, root))]


def updated(pipeline: str, root: Path = Path()) -> str:
    """Return the text of dvc.yaml with the code entries of every stage brought up to date.

    Args:
        pipeline: its text.
        root: of the repository.
    """
    lines, stages = pipeline.splitlines(), YAML(typ="safe", pure=True).load(pipeline)["stages"]
    for stage in stages:
        start = lines.index(f"  {stage}:")
        begin = lines.index("    deps:", start) + 1
        end = next(n for n in range(begin, len(lines)) if not lines[n].startswith("      - "))
        entries = [line.removeprefix("      - ") for line in lines[begin:end]]
        data = [entry for entry in entries if entry.partition("/")[0] not in CODE_FOLDERS]
        code = code_entries(Path(f"stages/{stage}.py"), root)
        lines[begin:end] = [f"      - {entry}" for entry in (*code, *data)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail if out of date")
    options = parser.parse_args()
    before = PIPELINE.read_text(encoding="utf-8")
    after = updated(before)
    if after == before:
        say(f"{PIPELINE}: up to date")
        return
    if options.check:
        raise UserError(f"{PIPELINE}: not up to date with the imports; run `make deps`")
    with replacing(PIPELINE) as partial:
        partial.write_text(after, encoding="utf-8")
    say(f"{PIPELINE}: updated")


def _collapsed(folder: Path, used: set[Path], root: Path) -> Iterable[str]:
    """The entries below a folder: the folder itself if everything in it is used."""
    inside = [path for path in _files(folder) if not _is_marker(path)]
    missing = [path for path in inside if path.relative_to(root) not in used]
    if inside and not missing:
        return [folder.relative_to(root).as_posix()]
    entries: list[str] = []
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            entries += _collapsed(path, used, root)
        elif path.relative_to(root) in used:
            entries.append(path.relative_to(root).as_posix())
    return entries


def _files(folder: Path) -> list[Path]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return [path for path in paths if "__pycache__" not in path.parts]


def _is_marker(path: Path) -> bool:
    """Whether a file only marks its folder as a package: an `__init__.py` without code."""
    return path.name == "__init__.py" and not any(
        line.startswith(("from ", "import ", "def ", "class "))
        for line in path.read_text(encoding="utf-8").splitlines()
    )


if __name__ == "__main__":
    run(main)
