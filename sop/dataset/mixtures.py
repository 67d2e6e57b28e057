"""Mix and separate: which clips are mixed, and what the networks get of them.

Shapes: B mixtures, N sources, T frames, H x W pixels, L samples.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from sop.dataset.clips import CENTRE, Audio, Crop, Frames, read_audio, read_frames
from sop.dataset.index import Video
from sop.dataset.instruments import instruments_of
from sop.dataset.seeding import generator
from sop.params import ExtractParams, MixtureParams
from sop.runtime.errors import LeftOut, UserError

# The published training scales frames to 1.1 of the crop, and sounds to 0.5 to 1.5 of their volume.
CROP_ZOOM = 1.1
VOLUME = (0.5, 1.5)

# After so many unreadable clips in a row the data are not worth training on.
ATTEMPTS = 20


class Mixture(NamedTuple):
    """What is mixed, before it is batched."""

    audio: Audio
    """Samples of each source, already divided by N, (N, L)."""
    frames: Frames
    """Frames of each source, RGB, (N, T, H, W, 3)."""
    videos: tuple[Video, ...]
    """Where they are from."""
    left_out: tuple[str, ...]
    """Clips that could not be read and were replaced by others, with the reason."""


class Batch(NamedTuple):
    """B mixtures."""

    audio: Tensor
    """(B, N, L) float32."""
    frames: Tensor
    """(B, N, T, H, W, 3) uint8."""
    left_out: tuple[str, ...]
    """As in `Mixture`, of all of them."""

    def pin_memory(self) -> "Batch":
        """A copy that a GPU can fetch by itself; the data loader calls this."""
        return Batch(self.audio.pin_memory(), self.frames.pin_memory(), self.left_out)


class MixtureReader:
    """Reads clips of videos and mixes them.

    Args:
        params: what a mixture is made of.
        extract: the rates of sound and frames.
    """

    def __init__(self, params: MixtureParams, extract: ExtractParams) -> None:
        self.params = params
        self.extract = extract

    def middle(self, videos: Sequence[Video]) -> Mixture:
        """The mixture of the middles of videos, as evaluation has it.

        Raises:
            LeftOut: a clip cannot be read.
        """
        clips = [self._clip(video, middle_frame(video), CENTRE) for video in videos]
        return self._mix(videos, clips, [1.0] * len(videos))

    def random(self, videos: Sequence[Video], rng: np.random.Generator) -> Mixture:
        """A mixture of random moments, crops, mirrorings and volumes, as training has it.

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
        """A frame that lies by the published margin inside the video, or else its middle."""
        params = self.params
        margin = max(
            int(params.margin_seconds * self.extract.frame_rate),
            params.frames // 2 * params.frame_stride,
        )
        first, last = margin + 1, video.frame_count - margin
        return int(rng.integers(first, last + 1)) if first <= last else middle_frame(video)

    def _clip(self, video: Video, centre: int, crop: Crop) -> tuple[Audio, Frames]:
        """Sound and frames around frame `centre`; frames beyond an end are the last ones there."""
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
    """Draws the videos of mixtures: the first is given, the others are random.

    No video is mixed with itself; `same_category` says whether instruments may meet again.

    Raises:
        UserError: there are too few videos, or too few instruments, for a mixture.
    """

    def __init__(self, videos: Sequence[Video], params: MixtureParams) -> None:
        self.videos = tuple(videos)
        self.sources = params.sources
        self.same_category = params.same_category
        known = {video.category for video in videos}
        self._instruments = [set(instruments_of(video.category, known)) for video in videos]
        distinct = len(videos) if params.same_category else len(set().union(*self._instruments))
        if distinct < params.sources:
            what = "videos" if params.same_category else "instruments"
            raise UserError(
                f"mixture.sources: {params.sources} is not possible with {distinct} {what} in the "
                "list; add videos, or set mixture.same_category: true"
            )

    def sample(self, first: int, rng: np.random.Generator) -> list[Video]:
        """Video number `first` and random others for one mixture."""
        drawn = [first]
        while len(drawn) < self.sources:
            drawn.append(int(rng.choice(self._candidates(drawn))))
        return [self.videos[number] for number in drawn]

    def _candidates(self, drawn: Sequence[int]) -> list[int]:
        taken = set().union(*(self._instruments[number] for number in drawn))
        candidates = [
            number
            for number, instruments in enumerate(self._instruments)
            if number not in drawn and (self.same_category or not instruments & taken)
        ]
        if not candidates:
            names = ", ".join(self.videos[number].name for number in drawn)
            raise UserError(f"mixture.sources: no other instrument is left to mix with {names}")
        return candidates


class TrainingMixtures(Dataset[Mixture]):
    """Endless training mixtures, numbered through all epochs.

    Item `epoch * len(self) + position` depends on the seed, the epoch and the position alone, so
    training can begin anywhere. A clip that cannot be read is named in the mixture and another is
    drawn for it; nothing takes the place of sound.

    Args:
        videos: the training list.
        reader: reads and mixes clips.
        repeats: how often an epoch goes through the list.
        batch: mixtures of a step; an epoch is a whole number of steps, at least one.
        seed: of all random choices.
    """

    def __init__(
        self, videos: Sequence[Video], reader: MixtureReader, repeats: int, batch: int, seed: int
    ) -> None:
        self.sampler = MixtureSampler(videos, reader.params)
        self.reader = reader
        self.seed = seed
        self.length = max(1, len(videos) * repeats // batch) * batch

    def __len__(self) -> int:
        """Mixtures of an epoch."""
        return self.length

    def __getitem__(self, item: int) -> Mixture:
        """Mixture number `item`, counted from the first of the first epoch."""
        epoch, position = divmod(item, self.length)
        rng = generator(self.seed, "mixture", epoch, position)
        count = len(self.sampler.videos)
        first = int(_order(self.seed, epoch, self.length, count)[position])
        left_out: list[str] = []
        while len(left_out) < ATTEMPTS:
            try:
                mixture = self.reader.random(self.sampler.sample(first, rng), rng)
                return mixture._replace(left_out=tuple(left_out))
            except LeftOut as reason:
                left_out.append(str(reason))
                first = int(rng.integers(count))
        raise UserError(f"training: {ATTEMPTS} clips in a row are unreadable: {left_out[-1]}")


def evaluation_videos(
    videos: Sequence[Video], params: MixtureParams, count: int, seed: int
) -> Iterator[list[Video]]:
    """The videos of `count` mixtures fixed by the seed; the first runs over the shuffled list."""
    sampler = MixtureSampler(videos, params)
    order = generator(seed, "evaluation order").permutation(len(videos))
    for number in range(count):
        rng = generator(seed, "evaluation", number)
        yield sampler.sample(int(order[number % len(order)]), rng)


def collate(mixtures: Sequence[Mixture]) -> Batch:
    """Batch mixtures."""
    return Batch(
        torch.from_numpy(np.stack([mixture.audio for mixture in mixtures])),
        torch.from_numpy(np.stack([mixture.frames for mixture in mixtures])),
        tuple(reason for mixture in mixtures for reason in mixture.left_out),
    )


def middle_frame(video: Video) -> int:
    """Number of the frame in the middle of a video, which evaluation is about."""
    return max(1, video.frame_count // 2)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, length: int, count: int) -> NDArray[np.int64]:
    """The first video of each mixture of an epoch: the list again and again, shuffled."""
    return generator(seed, "order", epoch).permutation(length) % count
