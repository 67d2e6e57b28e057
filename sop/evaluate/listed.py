"""Mixtures that a file lists, and checks of the lists that results are measured on."""

import logging
from collections.abc import Mapping, Sequence
from math import floor
from pathlib import Path
from typing import Any

from sop.dataset.index import (
    DUETS,
    TEST,
    TRAIN,
    VALIDATION,
    Video,
    has_split_lists,
    listed_names,
    read_index,
    reported_list,
)
from sop.dataset.protocol import Known, Source, Sources, SplitCheck, entry_of, read_pairs
from sop.evaluate.records import Record
from sop.params import Params
from sop.runtime.errors import UserError

logger = logging.getLogger(__name__)

# Metrics by which experiments are compared.
COMPARED = tuple(
    f"protocol.{key}"
    for key in (
        *("measured_on", "test_videos", "test_videos_in_training", "test_videos_in_validation"),
        *("mixtures", "distinct_mixtures", "mixtures_with_training_videos"),
    )
)


def evaluated_videos(index: Path, motion: Path) -> dict[str, Video]:
    """Return all videos of the index by name: listed mixtures may have videos of any list.

    Args:
        index: data/index.
        motion: folder of the motion tracks.

    Raises:
        UserError: a list is damaged.
    """
    paths = [reported_list(index), *(index / name for name in (VALIDATION, TRAIN, DUETS))]
    videos: dict[str, Video] = {}
    for path in paths:
        if path.is_file():
            for video in read_index(path, motion):
                videos.setdefault(video.name, video)
    return videos


def read_mixtures(path: Path, index: Path, sources: int) -> list[Sources]:
    """Read the file of `evaluate.pairs`.

    Args:
        path: the file.
        index: data/index, whose measured list its indices refer to: as it was listed, otherwise as
            it was drawn.
        sources: number of videos of a mixture. Of a longer row, the first ones are taken.

    Raises:
        UserError: the file is missing, has another form, or a row has fewer videos.
    """
    names = listed_names(index)
    if names is None:
        listed = [video.entry for video in read_index(reported_list(index))]
    else:
        listed = [entry_of(name) for name in names]
    rows = read_pairs(path, "evaluate.pairs", listed)
    for number, row in enumerate(rows, start=1):
        if len(row) < sources:
            raise UserError(
                f"{path}: mixture {number} has {len(row)} videos, mixture.sources is {sources}; "
                f"set mixture.sources: {len(row)}"
            )
    if longer := sum(len(row) > sources for row in rows):
        logger.info(
            f"evaluate.pairs: rows with more than mixture.sources videos: {longer} of {len(rows)}; "
            f"their first {sources} are mixed"
        )
    return [row[:sources] for row in rows]


def listed_mixtures(
    rows: Sequence[Sources], videos: Sequence[Video], params: Params
) -> list[list[Video] | str]:
    """Return the videos of each listed mixture, or the reason why it cannot be mixed.

    Args:
        rows: result of `read_mixtures`.
        videos: all videos that there are.
        params: frame rate, and length of a clip.
    """
    known = Known(video.entry for video in videos)
    mixtures: list[list[Video] | str] = []
    for row in rows:
        try:
            of_row = [_clip(source, known, videos, params) for source in row]
            if len({video.name for video in of_row}) < len(of_row):
                raise ValueError(f"{of_row[0].name} is mixed with itself")
            mixtures.append(of_row)
        except (ValueError, UserError) as reason:
            mixtures.append(str(reason))
    if all(isinstance(mixture, str) for mixture in mixtures):
        raise UserError(
            f"evaluate.pairs: none of the listed mixtures ({len(mixtures)}) can be mixed: "
            f"{mixtures[0]}"
        )
    return mixtures


def clips_of(record: Record, videos: Mapping[str, Video]) -> list[Video]:
    """Return the videos of a record with the centres of its clips, as far as they are known.

    Args:
        record: an evaluated mixture.
        videos: the videos by name.
    """
    found = [videos.get(name) for name in record.videos]
    centres = record.centres or (None,) * len(found)
    return [
        video if centre is None else video.at(centre)
        for video, centre in zip(found, centres, strict=True)
        if video is not None
    ]


def check_protocol(
    index: Path, motion: Path, rows: Sequence[Sources] = ()
) -> tuple[dict[str, Any], list[str]]:
    """Check the lists that made the index, and the listed mixtures.

    Args:
        index: data/index.
        motion: folder of the motion tracks.
        rows: the listed mixtures, if any.

    Returns:
        What metrics/evaluate.json has in addition, and a sentence on each problem. Both are empty
        if split and mixtures were drawn.
    """
    if not rows and not has_split_lists(index):
        return {}, []
    measured = reported_list(index)
    has_test = measured.name == TEST

    def known(path: Path) -> Known:
        return Known(video.entry for video in read_index(path, motion))

    validation = known(index / VALIDATION) if has_test else None
    # The index has each video once, the list that it was made from maybe not.
    names = listed_names(index)
    listed = None if names is None else tuple(map(entry_of, names))
    check = SplitCheck(known(index / TRAIN), known(measured), tuple(rows), validation, listed)
    values = {
        "measured_on": "test" if has_test else "validation",
        **check.counts(),
        "names": check.names(),
    }
    return {"protocol": values}, check.problems()


def _clip(source: Source, known: Known, videos: Sequence[Video], params: Params) -> Video:
    """Return the video of a source with the centre of its clip; raise ValueError if there is none.

    The clip is around the middle of the listed times, or begins at a listed begin.
    """
    found = known.find(source.entry)
    if not found:
        raise ValueError(f"{source.entry.name} is not among the extracted videos")
    if len(found) > 1:
        names = ", ".join(videos[number].name for number in found[:3])
        raise ValueError(f"{source.entry.name} has several parts: {names}")
    video, rate = videos[found[0]], params.extract.frame_rate
    if source.begin is None:
        return video
    seconds = params.mixture.audio_samples / params.extract.sample_rate
    end = source.begin + seconds if source.end is None else source.end
    if source.begin * rate >= video.frame_count:
        raise ValueError(
            f"{video.name}: its clip begins at {source.begin:g} s, the video has "
            f"{video.frame_count / rate:.1f} s"
        )
    # Frame n, from 1, covers second (n - 0.5) / rate.
    frame = floor((source.begin + end) / 2 * rate) + 1
    return video.at(min(frame, video.frame_count))
