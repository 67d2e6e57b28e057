"""Scenes on which localization is measured: videos with known boxes and sounds of the players.

Shapes: N players, L samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import librosa
import numpy as np

from sop.dataset.index import Video
from sop.download.synthetic import TALKER
from sop.download.synthetic.truth import Truth, read_truth
from sop.evaluate.measures import Sounds
from sop.inference.recording import Recording
from sop.params import ExtractParams

Kind = Literal[
    "silent",
    "solo",
    "distractor",
    "duet",
    "same_duet",
    "unheard_resting",
    "unheard_same",
    "talker",
    "talker_pair",
    "unheard_talker",
    "trio",
    "quartet",
    "quintet",
]
Box = tuple[float, float, float, float]
Players = tuple[int, ...]
T = TypeVar("T")

KINDS: Mapping[Kind, int] = {
    "silent": 0,
    "solo": 1,
    "distractor": 1,
    "duet": 2,
    "same_duet": 2,
    "unheard_resting": 1,
    "unheard_same": 1,
    "talker": 1,
    "talker_pair": 2,
    "unheard_talker": 1,
    "trio": 3,
    "quartet": 4,
    "quintet": 5,
}
"""Number of regions in each kind of scene. In a distractor, a player of another instrument than the
one heard is muted; in the unheard kinds, a player rests, or one of the same instrument or another
talker is muted. Trios to quintets are of any instruments."""

SHIFT_SECONDS = 1.5
"""Time by which the sound of shifted scenes is late. What was learned from motion fails on them."""

SHIFTED: tuple[Kind, ...] = ("same_duet", "unheard_same", "talker_pair", "unheard_talker")
"""Kinds whose players only motion tells apart; they are measured with shifted sound, too."""

_ENSEMBLES: Mapping[int, Kind] = {3: "trio", 4: "quartet", 5: "quintet"}

_WITH_ONE_MUTED: Mapping[Kind, Kind] = {
    "duet": "distractor",
    "same_duet": "unheard_same",
    "talker_pair": "unheard_talker",
}


@dataclass(frozen=True)
class PlannedScene:
    """A scene of a video whose truth is known."""

    video: Video
    kind: Kind
    heard: Players
    """Players that sound."""
    shifted: bool = False
    """Whether the sound is `SHIFT_SECONDS` late, with its end at the beginning."""


@dataclass(frozen=True)
class LocalizationScene:
    """A recording with the known positions and sounds of its players."""

    name: str
    kind: Kind
    recording: Recording
    boxes: tuple[Box, ...]
    """Boxes of the players that sound: left, top, right, bottom as shares of the picture."""
    stems: Sounds
    """Sounds of these players, at the recording's sample rate, (N, L)."""
    mute_boxes: tuple[Box, ...] = ()
    """Boxes of the players that are seen and not heard, if another one is heard."""
    shifted: bool = False
    """Whether the sound is `SHIFT_SECONDS` late."""


def plan_scenes(
    duets: Sequence[Video], solos: Sequence[Video], videos: Path, limit: int
) -> list[PlannedScene]:
    """Choose the scenes of videos whose truth is known; the other videos are skipped.

    A duet is one scene as it is, and one with one player muted. A duet in which a player rests all
    through, a talker, and more than two players are scenes as they are. A solo is one scene as it
    is, and one in silence.

    Args:
        duets: videos of two players or more.
        solos: videos of one player.
        videos: folder of the videos and their truth, `<category>/<id>.truth.npz`.
        limit: largest number of videos of each kind: duets of two instruments, of one, with a
            player at rest, and so on. Of more duets, these are spread evenly over the list; of
            more solos, these are the first.
    """
    by_kind: dict[Kind, list[tuple[Video, Players]]] = {kind: [] for kind in KINDS}
    for video in (*duets, *solos):
        path = videos / f"{video.name}.truth.npz"
        if path.is_file():
            truth = read_truth(path)
            heard = tuple(n for n, rests in enumerate(truth.resting) if not rests)
            by_kind[_kind(truth)].append((video, heard))
    planned = []
    for kind, muted in _WITH_ONE_MUTED.items():
        for number, (video, players) in enumerate(_spread(by_kind[kind], limit)):
            planned.append(PlannedScene(video, kind, players))
            planned.append(PlannedScene(video, muted, (players[number % len(players)],)))
    for kind in ("unheard_resting", *_ENSEMBLES.values()):
        for video, players in _spread(by_kind[kind], limit):
            planned.append(PlannedScene(video, kind, players))
    for video, players in by_kind["talker"][:limit]:
        planned.append(PlannedScene(video, "talker", players))
    for video, players in by_kind["solo"][:limit]:
        planned += [PlannedScene(video, "solo", players), PlannedScene(video, "silent", ())]
    return planned + [replace(one, shifted=True) for one in planned if one.kind in SHIFTED]


def make_scene(planned: PlannedScene, videos: Path, extract: ExtractParams) -> LocalizationScene:
    """Read the truth of a planned scene.

    Args:
        planned: the scene.
        videos: folder of the videos and their truth, `<category>/<id>.truth.npz`.
        extract: sample rate and frame rate.

    Raises:
        LeftOut: the sound cannot be read.
    """
    video = planned.video
    boxes, stems = _players(read_truth(videos / f"{video.name}.truth.npz"), extract.sample_rate)
    if planned.shifted:
        stems = np.roll(stems, round(SHIFT_SECONDS * extract.sample_rate), axis=1)
    heard = list(planned.heard)
    own_sound = not planned.shifted and planned.kind not in ("silent", *_WITH_ONE_MUTED.values())
    sound = None if own_sound else stems[heard].sum(axis=0)
    mute = [box for n, box in enumerate(boxes) if n not in heard] if heard else []
    return LocalizationScene(
        video.name,
        planned.kind,
        Recording(video, extract, sound),
        tuple(boxes[n] for n in heard),
        stems[heard],
        tuple(mute),
        planned.shifted,
    )


def _kind(truth: Truth) -> Kind:
    """The kind of the scene that a video is as it is."""
    talks = truth.instruments[0] == TALKER
    if len(truth.instruments) == 1:
        return "talker" if talks else "solo"
    if len(truth.instruments) > 2:
        return _ENSEMBLES[len(truth.instruments)]
    if any(truth.resting):
        return "unheard_resting"
    if talks:
        return "talker_pair"
    return "duet" if len(set(truth.instruments)) > 1 else "same_duet"


def _spread(videos: Sequence[T], limit: int) -> Sequence[T]:
    """At most `limit` videos, evenly spaced: a list is sorted by category."""
    if len(videos) <= limit:
        return videos
    return [videos[number * len(videos) // limit] for number in range(limit)]


def _players(truth: Truth, sample_rate: int) -> tuple[tuple[Box, ...], Sounds]:
    """Return the mean boxes and the sounds of the players of a video."""
    boxes: Any = truth.boxes.mean(axis=1) / np.array([truth.width, truth.height] * 2)
    stems: Sounds = librosa.resample(
        truth.stems.astype(np.float32) / 2**15, orig_sr=truth.sample_rate, target_sr=sample_rate
    )
    return tuple(map(tuple, boxes.tolist())), stems
