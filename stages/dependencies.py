"""Write the code that each stage depends on into dvc.yaml, from the imports of its script.

`python -m stages.dependencies` (or `make deps`) updates dvc.yaml; with `--check` it changes nothing
and fails if dvc.yaml is not up to date.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from sop.runtime.code import code_dependencies
from sop.runtime.errors import UserError, run
from sop.runtime.files import is_litter, replacing
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

    Raises:
        UserError: the script is missing, or a file is not valid Python.
    """
    try:
        used = set(code_dependencies(script, root)) - {script}
    except FileNotFoundError:
        raise UserError(f"{script}: not found; each stage in {PIPELINE} needs a script") from None
    except SyntaxError as error:
        raise UserError(
            f"{error.filename}, line {error.lineno}: not valid Python: {error.msg}"
        ) from None
    # An `__init__.py` with only a docstring is not a dependency.
    used = {path for path in used if not _is_marker(root / path)}
    return [script.as_posix(), *sorted(_collapsed(root / "sop", used, root))]


def updated(pipeline: str, root: Path = Path()) -> str:
    """Return the text of dvc.yaml with the code entries of every stage brought up to date.

    A stage without `deps` gets none: what it writes does not depend on code.

    Args:
        pipeline: its text.
        root: of the repository.

    Raises:
        UserError: the text is not a pipeline, or the code of a stage cannot be read.
    """
    lines = pipeline.splitlines()
    for stage, definition in _stages(pipeline).items():
        if "deps" not in definition:
            continue
        try:
            begin = lines.index("    deps:", lines.index(f"  {stage}:")) + 1
        except ValueError:
            raise UserError(
                f"{PIPELINE}: the entries of stage {stage} are not indented by two spaces for each "
                "level, with `deps:` on a line of its own; they cannot be updated"
            ) from None
        end = begin
        while end < len(lines) and lines[end].startswith("      - "):
            end += 1
        entries = [line.removeprefix("      - ") for line in lines[begin:end]]
        data = [entry for entry in entries if entry.partition("/")[0] not in CODE_FOLDERS]
        code = code_entries(Path(f"stages/{stage}.py"), root)
        lines[begin:end] = [f"      - {entry}" for entry in (*code, *data)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m stages.dependencies", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--check", action="store_true", help="change nothing; fail if out of date")
    options = parser.parse_args()
    try:
        before = PIPELINE.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "not found" if isinstance(error, FileNotFoundError) else f"not readable ({error})"
        raise UserError(f"{PIPELINE}: {reason}; run from the root of the repository") from None
    after = updated(before)
    if after == before:
        say(f"{PIPELINE}: up to date")
        return
    if options.check:
        raise UserError(
            f"{PIPELINE}: not up to date with the imports ({differences(before, after)}); "
            "run `make deps`"
        )
    with replacing(PIPELINE) as partial:
        partial.write_text(after, encoding="utf-8")
    say(f"{PIPELINE}: updated")


def differences(before: str, after: str) -> str:
    """Describe the entries of each stage that differ between two texts of dvc.yaml."""
    old, new = _stages(before), _stages(after)
    changes = []
    for stage in new:
        was, now = (set(stages[stage].get("deps", ())) for stages in (old, new))
        entries = [f"add {name}" for name in sorted(now - was)]
        entries += [f"remove {name}" for name in sorted(was - now)]
        if entries:
            changes.append(f"{stage}: {', '.join(entries)}")
    return "; ".join(changes) or "only their order differs"


def _stages(pipeline: str) -> dict[str, Any]:
    """Return the definition of each stage in a text of dvc.yaml."""
    try:
        values = YAML(typ="safe", pure=True).load(pipeline)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError(f"{PIPELINE}, line {line}: not valid YAML: {error.problem}") from None
    except YAMLError as error:
        raise UserError(f"{PIPELINE}: not valid YAML: {' '.join(str(error).split())}") from None
    stages = values.get("stages") if isinstance(values, dict) else None
    if not isinstance(stages, dict) or not all(isinstance(one, dict) for one in stages.values()):
        raise UserError(f"{PIPELINE}: contains no stages; `git checkout {PIPELINE}` restores it")
    return stages


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
    paths = (path for path in folder.rglob("*") if path.is_file() and not is_litter(path))
    return [path for path in paths if "__pycache__" not in path.parts]


def _is_marker(path: Path) -> bool:
    """Whether a file only marks its folder as a package: an `__init__.py` without code."""
    return path.name == "__init__.py" and not any(
        line.startswith(("from ", "import ", "def ", "class "))
        for line in path.read_text(encoding="utf-8").splitlines()
    )


if __name__ == "__main__":
    run(main)
