"""Small git repositories, made in this process."""

from pathlib import Path

import pygit2

AUTHOR = pygit2.Signature("test", "test@localhost", 1_700_000_000)


class Repository:
    """A repository with a project in one of its folders, by default its root.

    Attributes:
        folder: of the project.
        git: the repository.
    """

    def __init__(self, root: Path, folder: str = "") -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.git = pygit2.init_repository(str(root), initial_head="main")
        self.folder = root / folder

    def write(self, files: dict[str, str | bytes]) -> None:
        """Write files of the project."""
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    def commit(self, onto: str | None = None) -> str:
        """Commit the working tree and return the hash.

        Args:
            onto: hash of the parent of a commit that no branch contains; None commits to `HEAD`.
        """
        index = self.git.index
        index.clear()
        index.add_all()
        index.write()
        tree = index.write_tree()
        parents = [] if self.git.head_is_unborn else [self.git.head.target]
        ref = "HEAD" if onto is None else None
        parents = parents if onto is None else [pygit2.Oid(hex=onto)]
        return str(self.git.create_commit(ref, AUTHOR, AUTHOR, "results", tree, parents))

    def experiment(self, name: str, baseline: str, commit: str) -> str:
        """Name a commit as DVC names an experiment; return the ref."""
        ref = f"refs/exps/{baseline[:2]}/{baseline[2:]}/{name}"
        self.git.references.create(ref, commit)
        return ref

    @property
    def head(self) -> str:
        """Hash of the commit that is checked out."""
        return str(self.git.head.target)
