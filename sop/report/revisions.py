"""Revisions of the project: look up a revision by its name, and read the files in it.

The repository is read through libgit2 (pygit2, which DVC uses too): the git program is not needed.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import pygit2

from sop.runtime.errors import UserError

WORKSPACE = "workspace"
"""The name of the working tree among revisions, as in DVC's own commands."""


@dataclass(frozen=True)
class Revision:
    """A commit, or the working tree."""

    name: str
    """The name that the user gave."""
    commit: str | None
    """Its full hash; None for the working tree."""

    def __str__(self) -> str:
        """Return the name, followed by the short hash unless the name is a hash itself."""
        if self.commit is None or self.commit.startswith(self.name):
            return self.name
        return f"{self.name} ({self.commit[:7]})"

    def place(self, path: Path, folder: Path) -> str:
        """Return how messages name a file of this revision."""
        return str(folder / path) if self.commit is None else f"{path} of {self}"


def find_revision(name: str, folder: Path) -> Revision:
    """Look up a revision by its name.

    Args:
        name: a git revision, the name of a DVC experiment, or `workspace`. A git revision takes
            precedence over an experiment, as in DVC's own commands.
        folder: the project's, inside a git repository.

    Raises:
        UserError: the name is not a revision, or there is no repository.
    """
    if name == WORKSPACE:
        return Revision(name, None)
    if name.startswith("-") or not name or not name.isprintable():
        raise UserError(
            f"{name!r} is not a revision; give a branch, tag, commit, experiment or {WORKSPACE}"
        )
    try:
        repository = _repository(folder)
    except pygit2.GitError as error:
        raise UserError(
            f"{name}: cannot be looked up in {folder} ({error}); "
            "run from the root of the project's git repository"
        ) from None
    try:
        found = repository.revparse_single(name)
    except (KeyError, ValueError) as error:
        if "ambiguous" in str(error) and "too short" not in str(error):
            raise UserError(f"{name}: ambiguous abbreviation; give more digits of it") from None
        found = repository[_experiment(name, repository)]
    try:
        return Revision(name, str(found.peel(pygit2.Commit).id))
    except (pygit2.GitError, ValueError):
        raise UserError(f"{name}: not a commit; give a branch, tag, commit or experiment") from None


def read_text(revision: Revision, path: Path, folder: Path, stage: str | None = None) -> str:
    """Read a file of the project as it is in a revision.

    Args:
        revision: the commit or working tree.
        path: of the file, relative to `folder`.
        folder: the project's, inside a git repository.
        stage: the stage that writes the file; None if it is written by hand.

    Raises:
        UserError: the file is missing or cannot be read.
    """
    place = revision.place(path, folder)
    try:
        if revision.commit is None:
            data = (folder / path).read_bytes()
        else:
            data = _committed(revision.commit, path, folder)
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        if revision.commit is not None:
            remedy = "compare a revision whose results were committed"
        else:
            remedy = "`dvc repro` creates it" if stage else "`git checkout` restores it"
        raise UserError(f"{place}: not found; {remedy}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UserError(
            f"{place}: cannot be read ({reason}); {how_to_repair(revision, stage)}"
        ) from None


def how_to_repair(revision: Revision, stage: str | None = None) -> str:
    """Return what a user can do about a damaged file; arguments as in `read_text`."""
    if revision.commit is not None:
        return "compare another revision"
    return f"`dvc repro --force {stage}` writes it again" if stage else "correct it"


def describe_head(folder: Path) -> tuple[str, bool]:
    """Return which commit is checked out, and whether tracked files differ from it.

    The first is `commit 1b5ed50 (branch main)`, say, or `no commit` outside of git.
    """
    try:
        repository = _repository(folder)
        commit = repository.head.peel(pygit2.Commit)
    except pygit2.GitError:
        return "no commit", False
    branch = "detached" if repository.head_is_detached else f"branch {repository.head.shorthand}"
    changed = bool(repository.status(untracked_files="no"))
    return f"commit {str(commit.id)[:7]} ({branch})", changed


def _repository(folder: Path) -> pygit2.Repository:
    """Open the repository that a folder is in.

    Raises:
        pygit2.GitError: the folder is not in a repository, or the repository cannot be read.
    """
    found = pygit2.discover_repository(str(folder))
    if found is None:
        raise pygit2.GitError("not a git repository" if folder.is_dir() else "no such folder")
    return pygit2.Repository(found)


def _experiment(name: str, repository: pygit2.Repository) -> str:
    """Return the hash of a DVC experiment, stored at `refs/exps/<hash of its baseline>/<name>`."""
    pattern = re.compile(rf"refs/exps/([0-9a-f]{{2}})/([0-9a-f]{{38,62}})/{re.escape(name)}")
    matches = filter(None, map(pattern.fullmatch, repository.references))
    found = {match[1] + match[2]: match[0] for match in matches}
    if not found:
        raise UserError(
            f"{name}: neither a git revision nor an experiment; "
            "list them with `git log --all --oneline` and `dvc exp list --all`"
        )
    if len(found) > 1:
        head = str(repository.head.target)
        if head not in found:
            raise UserError(
                f"{name}: several commits have an experiment of this name; "
                f"give {' or '.join(found.values())}"
            )
        found = {head: found[head]}
    (ref,) = found.values()
    return str(repository.references[ref].target)


def _committed(commit: str, path: Path, folder: Path) -> bytes:
    repository = _repository(folder)
    inside = (folder.resolve() / path).relative_to(Path(repository.workdir).resolve())
    try:
        found = repository[commit].peel(pygit2.Tree)[inside.as_posix()]
    except KeyError:
        raise FileNotFoundError from None
    if not isinstance(found, pygit2.Blob):
        raise IsADirectoryError(0, "not a file")
    return found.data
