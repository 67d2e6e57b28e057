"""Sources of videos: which videos each source has, and how one of them is made."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from sop.download import fetch, published_lists, synthetic, urmp
from sop.download.container import to_mp4
from sop.download.fetch_settings import access_of, check_fetch_settings
from sop.download.local import LocalVideo, find_videos
from sop.download.manifest import UNAVAILABLE, VideoRow
from sop.download.own_list import read_own_list
from sop.download.published_lists import ListedVideo
from sop.media import binary
from sop.media.decoding import Probe, probe
from sop.media.ffmpeg import Limits
from sop.params import DatasetParams, Params, SyntheticParams
from sop.runtime.errors import LeftOut
from sop.runtime.files import replacing
from sop.runtime.hashes import HashCache, sha256
from sop.runtime.log import printable
from sop.runtime.parallel import Workers

VIDEO_SUFFIX = ".mp4"
WITH_TRUTH = (VIDEO_SUFFIX, ".truth.npz")


@dataclass(frozen=True)
class CachePaths:
    """Where a source keeps files that are not part of the result."""

    lists: Path
    """Folder of published lists."""
    partial: Path
    """Folder of partially downloaded videos."""
    hashes: Path
    """Database of the hashes of the user's files."""


@dataclass(frozen=True)
class SourceVideo:
    """A video of a source."""

    category: str
    id: str
    shown_as: str
    """Name for the user: an address, or one of their files."""
    made_from: str
    """Everything that the bytes of the file depend on; the file is up to date while it is equal."""
    recipe: Any
    """Argument of `VideoSource.make`."""
    suffixes: tuple[str, ...] = (VIDEO_SUFFIX,)
    """Suffixes of its files; the video comes first."""


@dataclass(frozen=True)
class VideoSource:
    """Videos of a source, and how to make them."""

    videos: list[SourceVideo]
    make: Callable[[Any, Path], Probe]
    """Writes a video (recipe, path) atomically; may raise `LeftOut`."""
    workers: Workers
    action: str
    """Name of the work, for the progress display."""
    processes: bool = False
    """True if `make` is CPU work in Python, see `map_unordered`."""
    unusable: list[VideoRow] = field(default_factory=list)
    """Rows of the videos that are known to be unusable beforehand."""
    duets: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Instruments of each category that the source knows to be a duet."""
    splits: dict[str, str] = field(default_factory=dict)
    """List in which each video belongs, train, validation or test, by `<category>/<id>`."""
    min_success_fraction: float = 0.0
    """The stage fails if a smaller fraction of the videos can be made."""
    retry_unavailable: bool = False
    """True tries permanently unavailable videos again."""
    access: str = ""
    """What servers are asked with, see `access_of`."""
    remote: bool = False
    """True if videos come from a network."""

    @cached_property
    def suffixes(self) -> dict[tuple[str, str], tuple[str, ...]]:
        """Suffixes of the files of each video, by category and id."""
        return {(video.category, video.id): video.suffixes for video in self.videos}


def open_source(params: Params, caches: CachePaths) -> VideoSource:
    """Return the source that `dataset.source` names.

    Args:
        params: all of params.yaml.
        caches: where the source keeps its own files.

    Raises:
        UserError: the source is empty or its parameters are invalid.
    """
    dataset = params.dataset
    workers = Workers(params.worker_count, params.cluster.scheduler)
    if dataset.source == "synthetic":
        return _synthetic(dataset.synthetic, workers)
    memory = params.extract.memory_limit_mib
    if dataset.source == "local":
        limits = Limits.of_parameters(Limits.seconds, memory)
        return _local(dataset, workers, caches.hashes, limits)
    if dataset.source == "urmp":
        limits = Limits.of_parameters(Limits.seconds, memory)
        return _urmp(dataset, workers, caches.hashes, limits)
    limits = Limits.of_parameters(dataset.fetch.timeout_seconds, memory)
    return _listed(dataset, params.cluster.scheduler, caches, limits)


def _synthetic(params: SyntheticParams, workers: Workers) -> VideoSource:
    code = sorted(Path(synthetic.__file__).parent.glob("*.py"))
    tools = f"{_hash(' '.join(sha256(path) for path in code))} {binary.version()}"
    # The number of videos changes none of them; the seed is named on its own.
    numbers = {"solos", "duets", "resting_solos", "same_duets", "resting_duets"}
    numbers |= {"talkers", "talker_pairs"}
    look = params.model_dump(exclude={*numbers, "seed"})
    videos, planned = [], synthetic.plan(params, params.seed)
    for video in planned:
        made_from = "synthetic:" + _hash(f"{video} {look} {params.seed} {tools}")
        shown_as = f"{video.category}/{video.name}"
        recipe = (video.category, video.name, shown_as, made_from, video)
        videos.append(SourceVideo(*recipe, suffixes=WITH_TRUTH))
    return VideoSource(
        videos,
        partial(_render, params=params),
        workers,
        "render",
        processes=True,
        duets={v.category: v.instruments for v in planned if len(v.instruments) > 1},
    )


def _render(video: synthetic.PlannedVideo, path: Path, params: SyntheticParams) -> Probe:
    synthetic.render(video, params, params.seed, path.parents[1])
    return probe(path, Limits())


def _local(
    dataset: DatasetParams,
    workers: Workers,
    hashes: Path,
    limits: Limits,
    skip: Collection[str] | None = None,
) -> VideoSource:
    """Return the user's files; with folders to `skip`, always by their folders."""
    params, splits = dataset.local, dict[str, str]()
    found, unusable = find_videos(
        Path(params.folder),
        params.category if skip is None else None,
        may_be_empty=skip is not None,
    )
    if skip is not None:
        unusable = [row for row in unusable if row.category not in skip]
        found = [video for video in found if video.category not in skip]
    elif params.by_list:
        found, missing, splits = _by_list(found, dataset)
        unusable += missing
    wanted = dict.fromkeys(path for video in found for path in (video.path, video.sound) if path)
    with HashCache(hashes) as cache:
        digests = dict(cache.hash_files(wanted, workers))
    videos = []
    for video in found:
        files = [video.path] if video.sound is None else [video.path, video.sound]
        failed = next((digests[f] for f in files if isinstance(digests[f], LeftOut)), None)
        if failed is not None:
            shown_as = str(video.path)
            row = VideoRow(video.category, video.id, UNAVAILABLE, str(failed), source=shown_as)
            unusable.append(row)
            continue
        made_from = " ".join(f"sha256:{digests[file]} {file.suffix.lower()}" for file in files)
        if video.clip is not None:
            made_from += f" {video.clip[0]:.10g}-{video.clip[1]:.10g} s"
        shown_as = str(video.path)
        videos.append(SourceVideo(video.category, video.id, shown_as, made_from, video))
    copy = partial(_copy, limits=limits)
    return VideoSource(videos, copy, workers, "copy", unusable=unusable, splits=splits)


def _by_list(
    found: Iterable[LocalVideo], dataset: DatasetParams
) -> tuple[list[LocalVideo], list[VideoRow], dict[str, str]]:
    """Return the files that a list names, with its categories and parts; the others are no videos.

    A file is named by the id, or as those of VGGSound by the id and the begin of its part, of
    which it then has no more: `<id>_000030`. Of several files of one name, it is the one in the
    folder of its category.

    Returns:
        The videos; rows of those without a file; the list in which each belongs.
    """
    lists = dataset.lists
    listed = read_own_list(Path(lists.own), dataset.fetch.video_url, of_files=True)
    listed = published_lists.select_videos(listed, lists.categories, lists.max_per_category)
    files: dict[str, list[LocalVideo]] = defaultdict(list)
    for local in found:
        files[local.path.stem].append(local)
    videos: list[LocalVideo] = []
    missing: list[VideoRow] = []
    for video in listed:
        clip = video.clip
        named = [] if clip is None else files.get(f"{video.of}_{int(clip[0]):06d}", [])
        if named:
            clip = None
        else:
            named = files.get(video.of, [])
        named = [file for file in named if file.category == video.category] or named
        if len(named) == 1:
            [file] = named
            videos.append(LocalVideo(file.path, video.category, video.id, file.sound, clip))
            continue
        reason = "no file of this name in dataset.local.folder"
        if named:
            first, second = (printable(str(file.path)) for file in named[:2])
            reason = f"{first} and {second} have this name; rename one of them"
        row = VideoRow(video.category, video.id, UNAVAILABLE, reason, source=video.of)
        missing.append(row)
    return videos, missing, _splits(listed)


def _splits(listed: Iterable[ListedVideo]) -> dict[str, str]:
    return {f"{video.category}/{video.id}": video.split for video in listed if video.split}


def _copy(video: LocalVideo, path: Path, limits: Limits) -> Probe:
    try:
        with replacing(path) as partial_file:
            to_mp4(video.path, partial_file, limits, video.sound, video.clip)
            return probe(partial_file, limits)
    except FileNotFoundError:
        raise LeftOut("was removed while it was read") from None


def _urmp(dataset: DatasetParams, workers: Workers, hashes: Path, limits: Limits) -> VideoSource:
    pieces, unusable = urmp.find_pieces(Path(dataset.local.folder))
    folders = {*(piece.id for piece in pieces), *(row.id for row in unusable)}
    solos = _local(dataset, workers, hashes, limits, skip=folders)
    names = {(video.category, video.id) for video in solos.videos}
    files = [file for piece in pieces for file in (piece.video, *piece.stems)]
    digests: dict[Path, str | LeftOut] = {}
    with HashCache(hashes) as cache:
        digests.update(cache.hash_files(files, workers))
    tools = f"{_hash(sha256(Path(urmp.__file__)))} {binary.version()}"
    videos = []
    for piece in pieces:
        own = [digests[file] for file in (piece.video, *piece.stems)]
        problems = [digest for digest in own if isinstance(digest, LeftOut)]
        if (piece.category, piece.id) in names:
            problems.append(LeftOut(f"{piece.category}/{piece.id} exists; rename one of them"))
        if problems:
            unusable.append(urmp.row_of(piece.folder, piece.category, problems[0]))
            continue
        made_from = f"urmp:{_hash(f'{own} {tools}')} {piece.video.suffix.lower()}"
        recipe = (piece.category, piece.id, str(piece.folder), made_from, piece)
        videos.append(SourceVideo(*recipe, suffixes=WITH_TRUTH))
    return VideoSource(
        solos.videos + videos,
        partial(_copy_or_make, limits=limits),
        workers,
        "copy",
        unusable=solos.unusable + unusable,
        duets={
            piece.category: tuple(sorted(piece.instruments))
            for piece in pieces
            if len(piece.instruments) > 1
        },
    )


def _copy_or_make(recipe: LocalVideo | urmp.Piece, path: Path, limits: Limits) -> Probe:
    if isinstance(recipe, LocalVideo):
        return _copy(recipe, path, limits)
    return urmp.make_piece(recipe, path, limits)


def _listed(
    dataset: DatasetParams, scheduler: str | None, caches: CachePaths, limits: Limits
) -> VideoSource:
    params, lists = dataset.fetch, dataset.lists
    check_fetch_settings(dataset)
    if dataset.source == "list":
        listed = read_own_list(Path(lists.own), params.video_url)
    else:
        solos = {"music": published_lists.MUSIC_SOLOS, "music21": published_lists.MUSIC21_SOLOS}
        names = [solos[dataset.source]] + [published_lists.MUSIC_DUETS] * lists.duets
        listed = published_lists.read_lists(
            names, lists.published, caches.lists, params.stall_timeout_seconds
        )
    listed = published_lists.select_videos(listed, lists.categories, lists.max_per_category)
    partials = [fetch.partial_name(video, params) for video in listed]
    fetch.remove_stale_partials(caches.partial, partials)
    quality = f"format {params.format}" if params.format else f"height<={params.height}"
    videos = []
    for video in listed:
        url, clip = fetch.video_address(video, params), fetch.clip_of(video, params)
        made_from = f"{url} {quality}" + (f" {clip[0]:.10g}-{clip[1]:.10g} s" if clip else "")
        videos.append(SourceVideo(video.category, video.id, url, made_from, video))
    return VideoSource(
        videos,
        partial(fetch.fetch, params=params, partial=caches.partial, limits=limits),
        Workers(params.parallel_downloads, scheduler, limit=params.parallel_downloads),
        "download",
        duets={video.category: video.duet_of for video in listed if video.duet_of},
        splits=_splits(listed),
        min_success_fraction=params.min_success_fraction,
        retry_unavailable=params.retry_unavailable,
        access=access_of(params),
        remote=True,
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
