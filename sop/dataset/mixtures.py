"""Mix-and-separate training data: choice of the clips, mixtures and batches.

Shapes: B mixtures, N sources, T frames, T_m motion frames, H x W pixels, L samples.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from math import ceil, floor
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sop.dataset.clips import (
    CENTRE,
    Audio,
    Crop,
    Frames,
    Motion,
    motion_count,
    read_frames,
    read_motion,
    read_window,
)
from sop.dataset.index import TRAIN, VALIDATION, Video
from sop.dataset.seeding import generator
from sop.params import ExtractParams, MixtureParams, TrainParams
from sop.runtime.errors import LeftOut, UserError
from sop.runtime.log import counted

# As in the published training: frames are scaled to 1.1 of the crop, sounds by 0.5 to 1.5.
CROP_ZOOM = 1.1
VOLUME = (0.5, 1.5)

# Minimum distance of the frames of a shifted source from its sound, where the video allows it.
SHIFT_SECONDS = 0.8

# Training stops after this number of unreadable clips in a row.
MAX_ATTEMPTS = 20


# How the videos of a mixture are chosen; see `MixtureSampler.sample`.
Choice = Literal["any", "different", "same"]

# The order of an epoch's mixtures is in memory, once for each worker.
MAX_EPOCH = 10**7


class Mixture(NamedTuple):
    """Sounds and frames of the sources of one mixture."""

    audio: Audio
    """Samples of each source, already divided by N, (N, L)."""
    frames: Frames
    """Frames of each source, RGB, (N, T, H, W, 3)."""
    videos: tuple[Video, ...]
    """Videos of the sources, N."""
    left_out: tuple[str, ...]
    """Reasons why clips could not be read and were replaced by others."""
    heard: NDArray[np.bool_]
    """Whether the frames of each source match its sound in the mixture, (N,). False for a source
    that is silent or of another moment: nothing of the mixture belongs to what is seen."""
    motion: Motion | None = None
    """Luminance of each source while it sounds, (N, T_m, H, W); None without motion."""


class Batch(NamedTuple):
    """Batch of B mixtures."""

    audio: Tensor
    """Samples of each source, already divided by N, (B, N, L) float32."""
    frames: Tensor
    """Frames of each source, RGB, (B, N, T, H, W, 3) uint8."""
    left_out: tuple[str, ...]
    """Reasons why clips could not be read and were replaced by others."""
    heard: Tensor
    """Whether the frames of each source match its sound, (B, N) bool; see `Mixture.heard`."""
    motion: Tensor | None = None
    """Luminance of each source, (B, N, T_m, H, W) uint8; None without motion."""

    def pin_memory(self) -> "Batch":
        """Return a copy in pinned memory, which a GPU reads while the CPU goes on."""
        motion = None if self.motion is None else self.motion.pin_memory()
        tensors = (tensor.pin_memory() for tensor in (self.audio, self.frames, self.heard))
        audio, frames, heard = tensors
        return Batch(audio, frames, self.left_out, heard, motion)

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device; from pinned memory without waiting."""
        move = partial(torch.Tensor.to, device=device, non_blocking=True)
        motion = None if self.motion is None else move(self.motion)
        return Batch(move(self.audio), move(self.frames), self.left_out, move(self.heard), motion)

    def chunks(self, count: int) -> Iterator["Batch"]:
        """Yield `count` equal parts of the batch."""
        motion = [None] * count if self.motion is None else self.motion.chunk(count)
        tensors = (tensor.chunk(count) for tensor in (self.audio, self.frames, self.heard))
        for audio, frames, heard, moving in zip(*tensors, motion, strict=True):
            yield Batch(audio, frames, self.left_out, heard, moving)


class _Clip(NamedTuple):
    """Sound and frames of one source; arrays as in `Mixture`, without N."""

    audio: Audio
    frames: Frames
    motion: Motion | None
    is_heard: bool


class MixtureReader:
    """Reads clips of videos and mixes them.

    Args:
        params: number of sources, and length and size of the clips.
        extract: rates of sound and frames.
        motion: whether to read motion frames, which needs `extract.motion_rate`.
    """

    def __init__(self, params: MixtureParams, extract: ExtractParams, motion: bool = False) -> None:
        self.params = params
        self.extract = extract
        self.motion_rate = extract.motion_rate if motion else None

    @property
    def mixture_bytes(self) -> int:
        """Size of the arrays of a mixture."""
        sounds = self.params.audio_samples * np.dtype(np.float32).itemsize
        pictures = self.params.frames * self.params.image_size**2 * 3
        moving = self.motion_frames * self.params.motion_size**2
        return self.params.sources * (sounds + pictures + moving + np.dtype(np.bool_).itemsize)

    @property
    def motion_frames(self) -> int:
        """Number of motion frames of a clip, T_m; 0 without motion."""
        if self.motion_rate is None:
            return 0
        return motion_count(self.params.audio_samples, self.extract.sample_rate, self.motion_rate)

    def middle(
        self, videos: Sequence[Video], shift_seconds: float = 0.0, silent: int | None = None
    ) -> Mixture:
        """Mix the middles of videos, or the clips around `Video.centre`, as for evaluation.

        Args:
            videos: videos of the sources.
            shift_seconds: time by which all frames and motion frames are later than the sound,
                rounded to whole frames. From the middle, there is at least as much room for later
                frames as for earlier ones; in a video that is too short the shift is smaller.
            silent: number of a source whose samples are replaced by zeros, although it is seen.

        Raises:
            LeftOut: a clip cannot be read.
        """
        shift = round(shift_seconds * self.extract.frame_rate)
        middles = [middle_frame(video) for video in videos]
        clips = [
            self._clip(video, middle, CENTRE, middle + shift)
            for video, middle in zip(videos, middles, strict=True)
        ]
        return self._mix(videos, clips, [1.0] * len(videos), silent)

    def random(
        self,
        videos: Sequence[Video],
        rng: np.random.Generator,
        silent: int | None = None,
        shifted: int | None = None,
        shifts: np.random.Generator | None = None,
        with_motion: bool = True,
    ) -> Mixture:
        """Mix random moments with random crops, mirroring and volumes, as for training.

        Args:
            videos: videos of the sources.
            rng: draws the clips, the same whatever the other arguments are.
            silent: number of a source that is seen, but whose samples are replaced by zeros.
            shifted: number of a source whose frames and motion frames are of another moment than
                its sound, at least `SHIFT_SECONDS` away if the video is long enough.
            shifts: draws that moment.
            with_motion: whether motion frames are read, if this reader reads them.

        Raises:
            LeftOut: a clip cannot be read.
        """
        clips, volumes = [], []
        for number, video in enumerate(videos):
            left, top = rng.random(2)
            crop = Crop(CROP_ZOOM, left, top, mirrored=bool(rng.random() < 0.5))
            heard = seen = self._random_frame(video, rng)
            if number == shifted and shifts is not None:
                seen = self._other_frame(video, heard, shifts)
            clips.append(self._clip(video, heard, crop, seen, with_motion))
            volumes.append(rng.uniform(*VOLUME))
        return self._mix(videos, clips, volumes, silent)

    def _frame_range(self, video: Video) -> tuple[int, int]:
        """Return the first and last centre frame within the published margin; may be empty."""
        params = self.params
        margin = max(
            int(params.margin_seconds * self.extract.frame_rate),
            params.frames // 2 * params.frame_stride,
        )
        return margin + 1, video.frame_count - margin

    def _random_frame(self, video: Video, rng: np.random.Generator) -> int:
        """Return a random frame within the published margin; the middle of a shorter video."""
        first, last = self._frame_range(video)
        return int(rng.integers(first, last + 1)) if first <= last else middle_frame(video)

    def _other_frame(self, video: Video, centre: float, rng: np.random.Generator) -> int:
        """Return the middle of a random clip away from another one, within the margin if possible.

        In a video that is too short for that, it is the end that is farther away.
        """
        rate, count = self.extract.frame_rate, video.frame_count
        half = self.params.audio_samples / self.extract.sample_rate / 2 * rate
        # Clips in this range lie inside the video, into which the sound is moved.
        inside = half + 0.5, count + 0.5 - half
        centre = min(max(centre, inside[0]), inside[1])
        numbers = np.arange(ceil(inside[0]), floor(inside[1]) + 1)
        far = numbers[np.abs(numbers - centre) >= SHIFT_SECONDS * rate]
        if not len(far):
            return 1 if centre - 1 > count - centre else count
        first, last = self._frame_range(video)
        within = far[(far >= first) & (far <= last)]
        return int(rng.choice(within if len(within) else far))

    def _clip(
        self, video: Video, heard: int, crop: Crop, seen: int, with_motion: bool = True
    ) -> _Clip:
        """Read the sound around frame `heard` and the frames around frame `seen`, numbered from 1.

        At the ends of the video its last frame is repeated.
        """
        params, extract = self.params, self.extract
        offsets = (np.arange(params.frames) - params.frames // 2) * params.frame_stride
        numbers = np.clip(seen + offsets, 1, video.frame_count)
        frames = read_frames(video.frames, numbers.tolist(), params.image_size, crop)
        # Frame n covers second (n - 0.5) / frame_rate.
        seconds = (heard - 0.5) / extract.frame_rate
        audio, begin = read_window(video.audio, seconds, params.audio_samples, extract.sample_rate)
        motion = None
        if self.motion_rate is not None and with_motion:
            if video.motion is None:
                raise LeftOut(f"{video.name}: its motion track is unknown")
            # Those of the samples that were read, or of another moment.
            first = begin if seen == heard else self._clip_begin(video, seen)
            clip = (first, self.motion_frames, self.motion_rate)
            motion = read_motion(video.motion, *clip, params.motion_size, crop)
        return _Clip(audio, frames, motion, is_heard=seen == heard)

    def _clip_begin(self, video: Video, centre: int) -> float:
        """Return the second at which a clip around a frame begins, if it were a sound.

        It is moved inside the video: repeated frames, which stand still, would give it away.
        """
        rate = self.extract.frame_rate
        seconds = self.params.audio_samples / self.extract.sample_rate
        begin = (centre - 0.5) / rate - seconds / 2
        return min(max(begin, 0.0), max(video.frame_count / rate - seconds, 0.0))

    def _mix(
        self,
        videos: Sequence[Video],
        clips: Sequence[_Clip],
        volumes: Sequence[float],
        silent: int | None,
    ) -> Mixture:
        audio = np.stack([clip.audio for clip in clips]) * np.array(volumes, np.float32)[:, None]
        mixed = np.clip(audio, -1, 1).astype(np.float32) / np.float32(len(clips))
        heard = np.array([clip.is_heard for clip in clips])
        if silent is not None:
            mixed[silent], heard[silent] = 0, False
        moving = [clip.motion for clip in clips if clip.motion is not None]
        return Mixture(
            mixed,
            np.stack([clip.frames for clip in clips]),
            tuple(videos),
            (),
            heard,
            np.stack(moving) if moving else None,
        )


class MixtureSampler:
    """Sampler of the videos of a mixture: the first is given, the others are random.

    No video is mixed with itself.

    Args:
        videos: a list of the index.
        params: number of sources, and whether two may be of the same category.
        name: name of the list, for messages.
        choices: how the videos may be chosen; by default as `params.same_category` says.

    Raises:
        UserError: the list has too few videos or instruments for a mixture.
    """

    def __init__(
        self,
        videos: Sequence[Video],
        params: MixtureParams,
        name: str,
        choices: Collection[Choice] = (),
    ) -> None:
        self.videos = tuple(videos)
        self.name = name
        self.sources = params.sources
        self.default: Choice = "any" if params.same_category else "different"
        self._instruments = [set(video.instruments) for video in videos]
        self._members = Counter(video.category for video in videos)
        needs_instruments = "different" in (choices or (self.default,))
        distinct = len(set().union(*self._instruments)) if needs_instruments else len(videos)
        if distinct < params.sources:
            categories = ", ".join(f"{name} {n}" for name, n in sorted(self._members.items()))
            what, advice = counted(distinct, "video", "videos"), ""
            if needs_instruments:
                what = counted(distinct, "instrument", "instruments")
                advice = ", or set mixture.same_category: true"
                if choices:
                    advice = (
                        ", or set train.same_category_share: 1, train.share_ramp: 0 and "
                        "train.motion_start: 0"
                    )
            raise UserError(
                f"{name}: mixture.sources: {params.sources} is not possible with {what} "
                f"in this list ({categories or 'empty'}); add videos, change "
                f"index.train_fraction or the lists of index.split{advice}"
            )

    def can_match(self, first: int) -> bool:
        """Return True if the category of a video has enough videos for a mixture."""
        return self._members[self.videos[first].category] >= self.sources

    def sample(
        self, first: int, rng: np.random.Generator, choice: Choice | None = None
    ) -> list[Video]:
        """Return the videos of one mixture.

        Args:
            first: number of the first video in the list.
            rng: draws the others.
            choice: "different": no two share an instrument; "same": all are of one category, or
                "different" if the category has too few videos; "any". None for the choice of
                `params.same_category`.
        """
        choice = choice or self.default
        if choice == "same" and not self.can_match(first):
            choice = "different"
        drawn = [first]
        while len(drawn) < self.sources:
            candidates = self._candidates(drawn, choice)
            if not candidates:
                names = ", ".join(self.videos[number].name for number in drawn)
                raise UserError(
                    f"{self.name}: no other instrument is left to mix with {names}, as "
                    f"mixture.sources: {self.sources} requires; add videos or lower it"
                )
            drawn.append(int(rng.choice(candidates)))
        return [self.videos[number] for number in drawn]

    def _candidates(self, drawn: Sequence[int], choice: Choice) -> list[int]:
        """Return the numbers of the videos that may be mixed with those already drawn."""
        if choice == "same":
            category = self.videos[drawn[0]].category
            allowed = [video.category == category for video in self.videos]
        elif choice == "different":
            taken = set().union(*(self._instruments[number] for number in drawn))
            allowed = [not instruments & taken for instruments in self._instruments]
        else:
            allowed = [True] * len(self.videos)
        return [
            number
            for number, is_allowed in enumerate(allowed)
            if is_allowed and number not in drawn
        ]


@dataclass(frozen=True)
class Shares:
    """Shares of the training mixtures that teach what motion tells."""

    same_category: float | None = None
    """Share whose sources are of one category; those of the others share no instrument. None:
    all mixtures are as `mixture.same_category` says."""
    silent: float = 0.0
    """Share in which one source is seen, but not heard."""
    shifted: float = 0.0
    """Share in which the frames of one source are of another moment than its sound."""
    ramp_epochs: float = 0.0
    """Number of epochs in which the shares rise linearly from 0."""
    begin_epochs: float = 0.0
    """Number of epochs before that rise. They train appearance alone, and read no motion."""

    @classmethod
    def of_parameters(cls, params: TrainParams) -> "Shares":
        """Return the shares that the parameters of the training set."""
        shares = params.same_category_share, params.silent_share, params.shifted_share
        ramp, begin = params.share_ramp * params.epochs, params.motion_start * params.epochs
        return cls(*shares, ramp, begin)

    @property
    def choices(self) -> tuple[Choice, ...]:
        """Return how videos may be chosen; nothing for `mixture.same_category`."""
        if self.same_category is None:
            return ()
        is_always = self.same_category == 1 and self.ramp_epochs == self.begin_epochs == 0
        return ("same",) if is_always else ("same", "different")

    def draw(self, progress: float, rng: np.random.Generator) -> "Lesson":
        """Draw what one mixture is to teach.

        Args:
            progress: number of epochs before it, with a fraction.
            rng: draws it.
        """
        since = progress - self.begin_epochs
        if since < 0:
            risen = 0.0
        else:
            risen = min(1.0, since / self.ramp_epochs) if self.ramp_epochs > 0 else 1.0
        category, kind = rng.random(2)
        choice: Choice | None = None
        if self.same_category is not None:
            choice = "same" if category < risen * self.same_category else "different"
        is_silent = kind < risen * self.silent
        is_shifted = not is_silent and kind < risen * (self.silent + self.shifted)
        return Lesson(choice, is_silent, is_shifted)


class Lesson(NamedTuple):
    """What one training mixture is to teach."""

    choice: Choice | None
    """How its videos are chosen; None for `mixture.same_category`."""
    is_silent: bool
    """Whether one source is seen, but not heard."""
    is_shifted: bool
    """Whether the frames of one source are of another moment than its sound."""


# The published training has none of them.
PUBLISHED_SHARES = Shares()


class TrainingMixtures:
    """Endless training mixtures, numbered through all epochs.

    Item `epoch * len(self) + position` depends only on the seed, the epoch and the position, so
    that training can resume anywhere. A clip that cannot be read is replaced by another one, never
    by silence, and the mixture lists the reason.

    Args:
        videos: the training list.
        reader: reads and mixes clips.
        repeats: number of passes through the list in an epoch.
        batch: mixtures per step; an epoch is a whole number of steps, at least one.
        seed: `train.seed` of params.yaml.
        shares: shares of mixtures of one category, and with a source that is seen but not heard.
    """

    def __init__(
        self,
        videos: Sequence[Video],
        reader: MixtureReader,
        repeats: int,
        batch: int,
        seed: int,
        shares: Shares = PUBLISHED_SHARES,
    ) -> None:
        self.sampler = MixtureSampler(videos, reader.params, TRAIN, shares.choices)
        self.reader = reader
        self.seed = seed
        self.length = max(1, len(videos) * repeats // batch) * batch
        self.motion_begin = round(shares.begin_epochs * self.length / batch) * batch
        """The first mixture with motion frames, at the beginning of a step."""
        self.shares = replace(shares, begin_epochs=self.motion_begin / self.length)
        if self.length > MAX_EPOCH:
            raise UserError(
                f"train.repeats: {repeats} passes over {len(videos)} videos are {self.length} "
                f"mixtures in an epoch, allowed are {MAX_EPOCH}; lower it and raise train.epochs"
            )

    def __len__(self) -> int:
        """Return the number of mixtures of an epoch."""
        return self.length

    def __getitem__(self, item: int) -> Mixture:
        """Return mixture number `item`, counted through all epochs."""
        epoch, position = divmod(item, self.length)
        rng = generator(self.seed, "mixture", epoch, position)
        # Of their own, so that the clips of a mixture do not depend on the shares.
        lessons = generator(self.seed, "lesson", epoch, position)
        lesson = self.shares.draw(item / self.length, lessons)
        count = len(self.sampler.videos)
        first = int(_order(self.seed, epoch, self.length, count)[position])
        left_out: list[str] = []
        while len(left_out) < MAX_ATTEMPTS:
            try:
                videos = self.sampler.sample(first, rng, lesson.choice)
                number = int(lessons.integers(len(videos)))
                mixture = self.reader.random(
                    videos,
                    rng,
                    silent=number if lesson.is_silent else None,
                    shifted=number if lesson.is_shifted else None,
                    shifts=lessons,
                    with_motion=item >= self.motion_begin,
                )
                return mixture._replace(left_out=tuple(left_out))
            except LeftOut as reason:
                left_out.append(str(reason))
                first = int(rng.integers(count))
        raise UserError(f"training: {MAX_ATTEMPTS} clips in a row are unreadable: {left_out[-1]}")


def evaluation_videos(
    videos: Sequence[Video],
    params: MixtureParams,
    count: int,
    seed: int,
    same_category: bool = False,
) -> Iterator[list[Video]]:
    """Yield the videos of `count` fixed mixtures; their first videos follow the shuffled list.

    Args:
        videos: the validation list.
        params: number of sources, and whether two may be of the same category.
        count: number of mixtures.
        seed: seed of the choice.
        same_category: True for mixtures of one category each. First videos are then those of the
            categories that have enough videos; without such a category there are no mixtures.
    """
    choices: tuple[Choice, ...] = ("same",) if same_category else ()
    sampler = MixtureSampler(videos, params, VALIDATION, choices)
    order = generator(seed, "evaluation order").permutation(len(videos))
    if same_category:
        order = np.array([first for first in order if sampler.can_match(first)], np.int64)
        if not len(order):
            return
    choice = choices[0] if choices else None
    for number in range(count):
        rng = generator(seed, "evaluation", number)
        yield sampler.sample(int(order[number % len(order)]), rng, choice)


def stack(mixtures: Sequence[Mixture]) -> Mixture:
    """Stack mixtures along a new first axis; `videos` has those of all mixtures, in order."""
    audio, frames, videos, left_out, heard, motion = zip(*mixtures, strict=True)
    return Mixture(
        np.stack(audio),
        np.stack(frames),
        sum(videos, ()),
        sum(left_out, ()),
        np.stack(heard),
        None if motion[0] is None else np.stack(motion),
    )


def collate(mixtures: Sequence[Mixture]) -> Batch:
    """Stack mixtures to a batch."""
    return to_batch(stack(mixtures))


def to_batch(stacked: Mixture) -> Batch:
    """Return stacked mixtures as a batch, in the same memory."""
    arrays = (stacked.audio, stacked.frames, stacked.heard)
    audio, frames, heard = (torch.from_numpy(array) for array in arrays)
    motion = None if stacked.motion is None else torch.from_numpy(stacked.motion)
    return Batch(audio, frames, stacked.left_out, heard, motion)


def middle_frame(video: Video) -> int:
    """Return the number of the frame in the middle of the evaluated clip of a video."""
    return max(1, video.frame_count // 2) if video.centre is None else video.centre


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, length: int, count: int) -> NDArray[np.int64]:
    """Return the first video of each mixture of an epoch: the list, repeated and shuffled."""
    return generator(seed, "order", epoch).permutation(length) % count
