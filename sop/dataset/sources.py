"""Where videos come from: what each source has, and how one of its videos is made."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from sop.dataset import catalogue, ffmpeg, synthetic, youtube
from sop.dataset.container import to_mp4
from sop.dataset.local import LocalVideo, find_videos, printable
from sop.dataset.manifest import sha256
from sop.dataset.parallel import each
from sop.errors import LeftOut
from sop.files import replacing
from sop.params import LocalParams, MusicParams, Params, SyntheticParams

# More at a time would get this machine blocked sooner than done.
CONCURRENT_FETCHES = 4

VIDEO_ENDING = ".mp4"


@dataclass(frozen=True)
class Wanted:
    """A video that should be there."""

    category: str
    id: str
    shown_as: str
    """What the user knows it by: an address, or a file of theirs."""
    made_from: str
    """All that its bytes follow from: while this stays the same, the file is as good as new."""
    recipe: synthetic.PlannedVideo | LocalVideo | catalogue.Entry

    @property
    def name(self) -> str:
        """`<category>/<id>`."""
        return f"{self.category}/{self.id}"


@dataclass(frozen=True)
class Absent:
    """A video that is known to be of no use before anything is made, and why."""

    category: str
    id: str
    shown_as: str
    reason: str


@dataclass(frozen=True)
class Source:
    """What a source has."""

    wanted: list[Wanted]
    make: Callable[[Wanted, Path], None]
    """Writes a video into its place below a folder, whole or not at all; may raise `LeftOut`."""
    workers: int
    processes: bool = False
    """Whether making is work for processes of Python, see `each`."""
    absent: list[Absent] = field(default_factory=list)
    endings: tuple[str, ...] = (VIDEO_ENDING,)
    """Of the files of one video."""
    shortest_share: float = 0.0
    """Of the list; with less, the stage fails."""


def open_source(params: Params, lists: Path) -> Source:
    """The source that `dataset.source` names.

    Args:
        params: all of params.yaml.
        lists: folder where published lists are kept.

    Raises:
        UserError: there is nothing to begin with.
    """
    dataset, workers = params.dataset, params.worker_count
    if dataset.source == "synthetic":
        return _synthetic(dataset.synthetic, params.seed, workers)
    if dataset.source == "local":
        return _local(dataset.local, workers)
    names = [catalogue.MUSIC21_SOLOS]
    if dataset.source == "music":
        names = [catalogue.MUSIC_SOLOS] + [catalogue.MUSIC_DUETS] * dataset.music.duets
    return _music(dataset.music, names, lists)


def _synthetic(params: SyntheticParams, seed: int, workers: int) -> Source:
    tools = f"{_code_hash()} {ffmpeg.version()}"
    # How many there are changes none of them.
    look = params.model_dump(exclude={"solos", "duets"})
    wanted = [
        Wanted(
            video.category,
            video.name,
            f"{video.category}/{video.name}",
            "synthetic:" + _hash(f"{video} {look} {seed} {tools}"),
            video,
        )
        for video in synthetic.plan(params, seed)
    ]
    return Source(
        wanted,
        partial(_render, params=params, seed=seed),
        workers,
        processes=True,
        endings=(VIDEO_ENDING, ".truth.npz"),
    )


def _render(wanted: Wanted, folder: Path, params: SyntheticParams, seed: int) -> None:
    assert isinstance(wanted.recipe, synthetic.PlannedVideo)
    synthetic.render(wanted.recipe, params, seed, folder)


def _code_hash() -> str:
    """Of the code that renders: what it drew before a change is stale."""
    code = sorted(Path(synthetic.__file__).parent.glob("*.py"))
    return _hash(" ".join(sha256(path) for path in code))


def _local(params: LocalParams, workers: int) -> Source:
    videos, refused = find_videos(Path(params.folder))
    absent = [Absent(r.category, r.id, printable(r.path), r.reason) for r in refused]
    wanted = []
    for video, digest in each(_local_hash, videos, workers):
        shown_as = str(video.path)
        if isinstance(digest, LeftOut):
            absent.append(Absent(video.category, video.id, shown_as, str(digest)))
        else:
            made_from = f"sha256:{digest} {video.path.suffix.lower()}"
            wanted.append(Wanted(video.category, video.id, shown_as, made_from, video))
    return Source(wanted, _copy, workers, absent=absent)


def _local_hash(video: LocalVideo) -> str:
    try:
        return sha256(video.path)
    except OSError as error:
        raise LeftOut(f"not readable ({error.strerror})") from None


def _copy(wanted: Wanted, folder: Path) -> None:
    assert isinstance(wanted.recipe, LocalVideo)
    try:
        with replacing(folder / wanted.category / f"{wanted.id}{VIDEO_ENDING}") as partial_file:
            to_mp4(wanted.recipe.path, partial_file)
    except FileNotFoundError:
        raise LeftOut("went missing while it was read") from None


def _music(params: MusicParams, names: list[str], lists: Path) -> Source:
    entries = catalogue.read_lists(names, params.list_url, lists, params.timeout_seconds)
    wanted = [
        Wanted(entry.category, entry.id, url, f"{url} height<={params.height}", entry)
        for entry in entries
        for url in [youtube.address(entry, params)]
    ]
    return Source(
        wanted,
        partial(_fetch, params=params),
        CONCURRENT_FETCHES,
        shortest_share=params.shortest_list,
    )


def _fetch(wanted: Wanted, folder: Path, params: MusicParams) -> None:
    assert isinstance(wanted.recipe, catalogue.Entry)
    youtube.fetch(wanted.recipe, params, folder)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
