"""Mix-and-separate training data: choice of the clips, mixtures and batches.

Shapes: B mixtures, N sources, T frames, H x W pixels, L samples.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sop.dataset.clips import CENTRE, Audio, Crop, Frames, read_audio, read_frames
from sop.dataset.index import TRAIN, VALIDATION, Video
from sop.dataset.seeding import generator
from sop.params import ExtractParams, MixtureParams
from sop.runtime.errors import LeftOut, UserError

# As in the published training: frames are scaled to 1.1 of the crop, sounds by 0.5 to 1.5.
CROP_ZOOM = 1.1
VOLUME = (0.5, 1.5)

# Training stops after this number of unreadable clips in a row.
MAX_ATTEMPTS = 20


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


class Batch(NamedTuple):
    """Batch of B mixtures."""

    audio: Tensor
    """Samples of each source, already divided by N, (B, N, L) float32."""
    frames: Tensor
    """Frames of each source, RGB, (B, N, T, H, W, 3) uint8."""
    left_out: tuple[str, ...]
    """Reasons why clips could not be read and were replaced by others."""

    def pin_memory(self) -> "Batch":
        """Return a copy in pinned memory, which a GPU reads while the CPU goes on."""
        return Batch(self.audio.pin_memory(), self.frames.pin_memory(), self.left_out)


class MixtureReader:
    """Reads clips of videos and mixes them.

    Args:
        params: number of sources, and length and size of the clips.
        extract: rates of sound and frames.
    """

    def __init__(self, params: MixtureParams, extract: ExtractParams) -> None:
        self.params = params
        self.extract = extract

    @property
    def mixture_bytes(self) -> int:
        """Size of the arrays of a mixture."""
        sounds = self.params.audio_samples * np.dtype(np.float32).itemsize
        pictures = self.params.frames * self.params.image_size**2 * 3
        return self.params.sources * (sounds + pictures)

    def middle(self, videos: Sequence[Video]) -> Mixture:
        """Mix the middles of videos, as for evaluation.

        Raises:
            LeftOut: a clip cannot be read.
        """
        clips = [self._clip(video, middle_frame(video), CENTRE) for video in videos]
        return self._mix(videos, clips, [1.0] * len(videos))

    def random(self, videos: Sequence[Video], rng: np.random.Generator) -> Mixture:
        """Mix random moments with random crops, mirroring and volumes, as for training.

        Raises:
            LeftOut: a clip cannot be read.
        """
        clips, volumes = [], []
        for video in videos:
            left, top = rng.random(2)
            crop = Crop(CROP_ZOOM, left, top, mirrored=bool(rng.random() < 0.5))
            clips.append(self._clip(video, self._random_frame(video, rng), crop))
            volumes.append(rng.uniform(*VOLUME))
        return self._mix(videos, clips, volumes)

    def _random_frame(self, video: Video, rng: np.random.Generator) -> int:
        """Return a random frame within the published margin; the middle of a shorter video."""
        params = self.params
        margin = max(
            int(params.margin_seconds * self.extract.frame_rate),
            params.frames // 2 * params.frame_stride,
        )
        first, last = margin + 1, video.frame_count - margin
        return int(rng.integers(first, last + 1)) if first <= last else middle_frame(video)

    def _clip(self, video: Video, centre: int, crop: Crop) -> tuple[Audio, Frames]:
        """Read sound and frames around frame `centre`; at the ends the last frame is repeated."""
        params, extract = self.params, self.extract
        offsets = (np.arange(params.frames) - params.frames // 2) * params.frame_stride
        numbers = np.clip(centre + offsets, 1, video.frame_count)
        frames = read_frames(video.frames, numbers.tolist(), params.image_size, crop)
        # Frame n covers second (n - 0.5) / frame_rate.
        seconds = (centre - 0.5) / extract.frame_rate
        audio = read_audio(video.audio, seconds, params.audio_samples, extract.sample_rate)
        return audio, frames

    def _mix(
        self,
        videos: Sequence[Video],
        clips: Sequence[tuple[Audio, Frames]],
        volumes: Sequence[float],
    ) -> Mixture:
        audio = np.stack([sound for sound, _ in clips]) * np.array(volumes, np.float32)[:, None]
        mixed = np.clip(audio, -1, 1).astype(np.float32) / np.float32(len(clips))
        return Mixture(mixed, np.stack([frames for _, frames in clips]), tuple(videos), ())


class MixtureSampler:
    """Sampler of the videos of a mixture: the first is given, the others are random.

    No video is mixed with itself. Two videos share an instrument only if `same_category` is true.

    Args:
        videos: a list of the index.
        params: number of sources, and whether two may be of the same category.
        name: name of the list, for messages.

    Raises:
        UserError: the list has too few videos or instruments for a mixture.
    """

    def __init__(self, videos: Sequence[Video], params: MixtureParams, name: str) -> None:
        self.videos = tuple(videos)
        self.name = name
        self.sources = params.sources
        self.same_category = params.same_category
        self._instruments = [set(video.instruments) for video in videos]
        distinct = len(videos) if params.same_category else len(set().union(*self._instruments))
        if distinct < params.sources:
            counts = Counter(video.category for video in videos)
            categories = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
            what, advice = "videos", ""
            if not params.same_category:
                what, advice = "instruments", ", or set mixture.same_category: true"
            raise UserError(
                f"{name}: mixture.sources: {params.sources} is not possible with {distinct} {what} "
                f"in this list ({categories or 'empty'}); add videos, change "
                f"index.train_fraction{advice}"
            )

    def sample(self, first: int, rng: np.random.Generator) -> list[Video]:
        """Return the videos of one mixture: number `first` of the list and random others."""
        drawn = [first]
        while len(drawn) < self.sources:
            taken = set().union(*(self._instruments[number] for number in drawn))
            candidates = [
                number
                for number, instruments in enumerate(self._instruments)
                if number not in drawn and (self.same_category or not instruments & taken)
            ]
            if not candidates:
                names = ", ".join(self.videos[number].name for number in drawn)
                raise UserError(
                    f"{self.name}: no other instrument is left to mix with {names}, as "
                    f"mixture.sources: {self.sources} requires; add videos or lower it"
                )
            drawn.append(int(rng.choice(candidates)))
        return [self.videos[number] for number in drawn]


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
    """

    def __init__(
        self, videos: Sequence[Video], reader: MixtureReader, repeats: int, batch: int, seed: int
    ) -> None:
        self.sampler = MixtureSampler(videos, reader.params, TRAIN)
        self.reader = reader
        self.seed = seed
        self.length = max(1, len(videos) * repeats // batch) * batch
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
        count = len(self.sampler.videos)
        first = int(_order(self.seed, epoch, self.length, count)[position])
        left_out: list[str] = []
        while len(left_out) < MAX_ATTEMPTS:
            try:
                mixture = self.reader.random(self.sampler.sample(first, rng), rng)
                return mixture._replace(left_out=tuple(left_out))
            except LeftOut as reason:
                left_out.append(str(reason))
                first = int(rng.integers(count))
        raise UserError(f"training: {MAX_ATTEMPTS} clips in a row are unreadable: {left_out[-1]}")


def evaluation_videos(
    videos: Sequence[Video], params: MixtureParams, count: int, seed: int
) -> Iterator[list[Video]]:
    """Yield the videos of `count` fixed mixtures; their first videos follow the shuffled list."""
    sampler = MixtureSampler(videos, params, VALIDATION)
    order = generator(seed, "evaluation order").permutation(len(videos))
    for number in range(count):
        rng = generator(seed, "evaluation", number)
        yield sampler.sample(int(order[number % len(order)]), rng)


def stack(mixtures: Sequence[Mixture]) -> Mixture:
    """Stack mixtures along a new first axis; `videos` has those of all mixtures, in order."""
    audio, frames, videos, left_out = zip(*mixtures, strict=True)
    return Mixture(np.stack(audio), np.stack(frames), sum(videos, ()), sum(left_out, ()))


def collate(mixtures: Sequence[Mixture]) -> Batch:
    """Stack mixtures to a batch."""
    return to_batch(stack(mixtures))


def to_batch(stacked: Mixture) -> Batch:
    """Return stacked mixtures as a batch, in the same memory."""
    audio, frames = torch.from_numpy(stacked.audio), torch.from_numpy(stacked.frames)
    return Batch(audio, frames, stacked.left_out)


def middle_frame(video: Video) -> int:
    """Return the number of the middle frame of a video, which evaluation uses."""
    return max(1, video.frame_count // 2)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, length: int, count: int) -> NDArray[np.int64]:
    """Return the first video of each mixture of an epoch: the list, repeated and shuffled."""
    return generator(seed, "order", epoch).permutation(length) % count
