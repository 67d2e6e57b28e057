"""Where videos come from: what each source has, and how one of its videos is made."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from sop.download import fetching, published_lists, synthetic
from sop.download.container import to_mp4
from sop.download.local import LocalVideo, find_videos, printable
from sop.download.own_list import read_own_list
from sop.media import ffmpeg
from sop.media.decoding import Probe, probe
from sop.params import DatasetParams, FetchParams, LocalParams, Params, SyntheticParams
from sop.runtime.errors import LeftOut, UserError
from sop.runtime.files import replacing
from sop.runtime.hashes import FileStamp, HashCache, file_stamp, sha256
from sop.runtime.parallel import Workers, map_unordered

VIDEO_ENDING = ".mp4"


@dataclass(frozen=True)
class Places:
    """Where a source keeps what is not the result."""

    lists: Path
    """Folder of published lists."""
    unfinished: Path
    """Folder of half-fetched videos."""
    hashes: Path
    """Database of the hashes of the user's files."""


@dataclass(frozen=True)
class Wanted:
    """A video that should be there."""

    category: str
    id: str
    shown_as: str
    """What the user knows it by: an address, or a file of theirs."""
    made_from: str
    """All that its bytes follow from: while this stays the same, the file is as good as new."""
    recipe: synthetic.PlannedVideo | LocalVideo | published_lists.Entry

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
    make: Callable[[Wanted, Path], Probe]
    """Writes a video into its place below a folder, whole or not at all; may raise `LeftOut`."""
    workers: Workers
    processes: bool = False
    """Whether making is work for processes of Python, see `map_unordered`."""
    absent: list[Absent] = field(default_factory=list)
    endings: tuple[str, ...] = (VIDEO_ENDING,)
    """Of the files of one video."""
    min_success_fraction: float = 0.0
    """Of the list; with less, the stage fails."""
    retry_unavailable: bool = False
    """Whether to try again what was left out for good."""
    remote: bool = False
    """Whether it takes a network."""


def open_source(params: Params, places: Places) -> Source:
    """The source that `dataset.source` names.

    Args:
        params: all of params.yaml.
        places: where the source keeps what it needs.

    Raises:
        UserError: there is nothing to begin with.
    """
    dataset = params.dataset
    workers = Workers(params.worker_count, params.cluster.scheduler)
    if dataset.source == "synthetic":
        return _synthetic(dataset.synthetic, params.seed, workers)
    if dataset.source == "local":
        return _local(dataset.local, workers, places.hashes)
    return _listed(dataset, params.cluster.scheduler, places)


def _synthetic(params: SyntheticParams, seed: int, workers: Workers) -> Source:
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


def _render(wanted: Wanted, folder: Path, params: SyntheticParams, seed: int) -> Probe:
    assert isinstance(wanted.recipe, synthetic.PlannedVideo)
    synthetic.render(wanted.recipe, params, seed, folder)
    return probe(folder / f"{wanted.name}{VIDEO_ENDING}", ffmpeg.Limits())


def _code_hash() -> str:
    """Of the code that renders: what it drew before a change is stale."""
    code = sorted(Path(synthetic.__file__).parent.glob("*.py"))
    return _hash(" ".join(sha256(path) for path in code))


def _local(params: LocalParams, workers: Workers, hashes: Path) -> Source:
    videos, refused = find_videos(Path(params.folder))
    absent = [Absent(r.category, r.id, printable(r.path), r.reason) for r in refused]
    wanted = []
    for video, digest in _local_hashes(videos, workers, hashes):
        shown_as = str(video.path)
        if isinstance(digest, LeftOut):
            absent.append(Absent(video.category, video.id, shown_as, str(digest)))
        else:
            made_from = f"sha256:{digest} {video.path.suffix.lower()}"
            wanted.append(Wanted(video.category, video.id, shown_as, made_from, video))
    return Source(wanted, _copy, workers, absent=absent)


def _local_hashes(
    videos: list[LocalVideo], workers: Workers, place: Path
) -> Iterator[tuple[LocalVideo, str | LeftOut]]:
    with HashCache(place) as hashes:
        known = hashes.known(video.path for video in videos)
        yield from ((video, known[video.path]) for video in videos if video.path in known)
        new = (video for video in videos if video.path not in known)
        for video, found in map_unordered(_local_hash, new, workers):
            if isinstance(found, LeftOut):
                yield video, found
            else:
                stamp, digest = found
                hashes.remember(video.path, stamp, digest)
                yield video, digest


def _local_hash(video: LocalVideo) -> tuple[FileStamp, str]:
    try:
        return file_stamp(video.path), sha256(video.path)
    except OSError as error:
        raise LeftOut(f"not readable ({error.strerror})") from None


def _copy(wanted: Wanted, folder: Path) -> Probe:
    assert isinstance(wanted.recipe, LocalVideo)
    limits = ffmpeg.Limits()
    try:
        with replacing(folder / f"{wanted.name}{VIDEO_ENDING}") as partial_file:
            to_mp4(wanted.recipe.path, partial_file, limits)
            return probe(partial_file, limits)
    except FileNotFoundError:
        raise LeftOut("went missing while it was read") from None


def _listed(dataset: DatasetParams, scheduler: str | None, places: Places) -> Source:
    params, lists = dataset.fetch, dataset.lists
    _check_files_and_options(params)
    if dataset.source == "list":
        entries = read_own_list(Path(lists.own), params.video_url)
    else:
        solos = {"music": published_lists.MUSIC_SOLOS, "music21": published_lists.MUSIC21_SOLOS}
        names = [solos[dataset.source]] + [published_lists.MUSIC_DUETS] * lists.duets
        entries = published_lists.read_lists(
            names, lists.published, places.lists, params.stall_timeout_seconds
        )
    entries = published_lists.chosen(entries, lists.categories, lists.max_per_category)
    fetching.sweep_unfinished(
        places.unfinished, (fetching.unfinished_name(entry, params) for entry in entries)
    )
    wanted = [
        Wanted(entry.category, entry.id, url, _made_from(url, entry, params), entry)
        for entry in entries
        for url in [fetching.address(entry, params)]
    ]
    return Source(
        wanted,
        partial(_fetch, params=params, unfinished=places.unfinished),
        Workers(params.parallel_downloads, scheduler, most=params.parallel_downloads),
        min_success_fraction=params.min_success_fraction,
        retry_unavailable=params.retry_unavailable,
        remote=True,
    )


def _made_from(url: str, entry: published_lists.Entry, params: FetchParams) -> str:
    quality = f"format {params.format}" if params.format else f"height<={params.height}"
    clip = fetching.clip_of(entry, params)
    return f"{url} {quality}" + (f" {clip[0]:.10g}-{clip[1]:.10g} s" if clip else "")


def _check_files_and_options(params: FetchParams) -> None:
    if params.cookies is not None and not Path(params.cookies).is_file():
        raise UserError(
            f"dataset.fetch.cookies: {params.cookies} not found; export it from your browser, "
            "or set null"
        )
    if params.yt_dlp:
        # Takes a while to import, which other sources need not pay.
        from sop.download.youtube import unknown_options

        if unknown := unknown_options(params.yt_dlp):
            raise UserError(
                f"dataset.fetch.yt_dlp: {', '.join(unknown)} is not allowed; allowed are the "
                "options that yt-dlp's YoutubeDL class describes, less those set by other "
                "parameters and by the pipeline itself"
            )


def _fetch(wanted: Wanted, folder: Path, params: FetchParams, unfinished: Path) -> Probe:
    assert isinstance(wanted.recipe, published_lists.Entry)
    return fetching.fetch(wanted.recipe, params, folder, unfinished)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
