"""Separation from Python: videos or arrays in; sounds, regions and files out.

`sop separate` is made of these calls.

Shapes: K regions, K + 1 components (the regions and the rest), h x w cells, L samples, C channels
of the sound, T pictures of H x W pixels.
"""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from sop.catalogue.find import find_model
from sop.dataset.clips import Audio
from sop.inference.embedding import Embedding
from sop.inference.localization import Localization, Region, regions_at
from sop.inference.separator import Separator as Model
from sop.model.card import ModelAbout
from sop.params import InferenceParams
from sop.runtime.errors import NotWritable, UserError
from sop.runtime.files import temporary_folder
from sop.runtime.progress import ProgressCallback, progress_to
from sop.separate.activity import Activity, Interval
from sop.separate.arrays import write_arrays
from sop.separate.doubt import Impression, Likeness, Note, impression_of, notes_of
from sop.separate.full_rate import components
from sop.separate.separation import (
    LocatedVideo,
    SeparationOptions,
    SeparationOutput,
    about,
    activity_of,
    check_options,
    fractions_of,
    locate,
    open_sound_of,
    remix_gains,
    write_results,
    write_separation,
)
from sop.separate.sounds import component_masks
from sop.separate.source import Source, open_source
from sop.separate.staging import check_paths, staged

# What the networks found is kept for recordings up to this length: about 400 kB for each second
# with the default model.
MAX_KEPT_SECONDS = 120.0

NAME_OF_ARRAYS = "arrays"


@dataclass(frozen=True)
class SeparatedRegion:
    """A region of a video and its sound."""

    number: int
    """Number of the region, from 1; the loudest region is first."""
    cells: NDArray[np.bool_]
    """True for the cells of the region, (h, w)."""
    box: tuple[float, float, float, float]
    """Left, top, right and bottom edge, as shares of the picture's width and height."""
    energy: float
    """Share of the energy of all components."""
    times: tuple[Interval, ...]
    """Begin and end of each stretch in which the region sounds, seconds."""
    sound: Audio
    """Its sound: (L,) at the model's rate, (C, L) at full rate."""
    like: tuple[str, float] | None = None
    """Category of training that it looks most like, and its probability among those: a guess. None
    if the card of the model has no features of categories."""


class Separation:
    """A separated video: its regions, and their sounds when they are asked for.

    The regions are known at once. Sounds are computed where they are first used, and kept. The
    decoded video is in a temporary folder until the object is closed or deleted.
    """

    def __init__(
        self,
        model: Model,
        located: LocatedVideo,
        full_rate: bool,
        progress: ProgressCallback | bool,
        resources: ExitStack,
    ) -> None:
        self._model = model
        self._located = located
        self._full_rate = full_rate
        self._progress = progress
        self._close = weakref.finalize(self, resources.close)
        self._kept: list[tuple[int, Embedding]] | None = None

    @property
    def localization(self) -> Localization:
        """The regions as the model found them, and the energy of each cell."""
        return self._located.localization

    @property
    def seconds(self) -> float:
        """Length of the part that has both pictures and sound."""
        return self._located.recording.seconds

    @property
    def sample_rate(self) -> int:
        """Sample rate of all sounds, Hz."""
        return self._separated.sample_rate

    @property
    def mixture(self) -> Audio:
        """Sound of the video: mono at the model's rate, (L,); at full rate, (C, L)."""
        return self._separated.mixture

    @property
    def components(self) -> Audio:
        """Sound of each region and, last, the rest: (K + 1, L); at full rate, (K + 1, C, L).

        They sum to the mixture.
        """
        return self._separated.components

    @cached_property
    def regions(self) -> tuple[SeparatedRegion, ...]:
        """The regions with their sounds, the loudest first."""
        separated = self._separated
        energy = np.square(separated.components, dtype=np.float64)
        shares = energy.reshape(len(energy), -1).sum(axis=1)
        shares = shares / (shares.sum() or 1.0)
        times = separated.activity.intervals()
        return tuple(
            SeparatedRegion(
                number=n + 1,
                cells=region.cells,
                box=region.box,
                energy=float(shares[n]),
                times=tuple(times[n]),
                sound=separated.components[n],
                like=self._impression.like[n],
            )
            for n, region in enumerate(self.localization.regions)
        )

    @cached_property
    def notes(self) -> tuple[Note, ...]:
        """Reasons to doubt the result, each with what to try; empty if there are none."""
        likeness = self._separated.likeness
        return notes_of(self._model, self.localization.regions, likeness, self._impression)

    @property
    def rest(self) -> Audio:
        """The sound that belongs to no region, in the form of `mixture`."""
        rest: Audio = self._separated.components[-1]
        return rest

    def at(self, x: float, y: float) -> Audio:
        """Return the sound of a place, in the form of `mixture`.

        Args:
            x: share of the picture's width, or pixels if `x` or `y` is above 1.
            y: share of its height, or pixels.

        Raises:
            UserError: the place is outside the picture.
        """
        height, width = self.localization.energy.shape
        place = fractions_of(x, y, self._located.size)
        with self._working():
            separated = self._separate(tuple(regions_at([place], (height, width))))
        sound: Audio = separated.components[0]
        return sound

    def remix(self, gains: Mapping[int | str, float]) -> Audio:
        """Return the sum of the components with other volumes, in the form of `mixture`.

        Args:
            gains: factor of each component, by the number of the region or `rest`; the others keep
                their volume.

        Raises:
            UserError: there is no such region.
        """
        options = SeparationOptions(gains={str(name): gain for name, gain in gains.items()})
        factors = remix_gains(options, len(self.localization.regions))
        weights = np.array(factors, np.float32).reshape(-1, *[1] * (self.components.ndim - 1))
        mixed: Audio = (weights * self.components).sum(axis=0)
        return mixed

    def save(
        self, folder: Path | str, options: SeparationOptions | None = None
    ) -> SeparationOutput:
        """Write the files that `sop separate` writes, with the same bytes.

        The files have the sample rate and channels of the video, unless the options say
        `model_rate`.

        Args:
            folder: folder for the files; files of an earlier run are replaced.
            options: what to write; its regions and places are not read.

        Raises:
            UserError: an option cannot be used, or the folder cannot be written.
        """
        options = options or SeparationOptions()
        options = replace(options, regions=None, places=())
        source = self._located.source
        for path in filter(None, (source.video, source.image)):
            check_paths(path, Path(folder))
        check_options(options)
        with self._working(), staged(Path(folder)) as stage:
            return write_results(self._model, self._located, stage, options)

    def close(self) -> None:
        """Remove the decoded video; sounds that were not used before cannot be computed then."""
        self._close()

    def __enter__(self) -> "Separation":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def _impression(self) -> Impression:
        with self._working():
            return impression_of(self._model, self._located.recording, self.localization.regions)

    @cached_property
    def _separated(self) -> "_Separated":
        with self._working():
            return self._separate(self.localization.regions)

    def _separate(self, regions: tuple[Region, ...]) -> "_Separated":
        """Compute the components of regions."""
        model, recording = self._model, self._located.recording
        levels: list[NDArray[np.float32]] = []
        blocks: list[Audio] = []
        mixture: list[Audio] = []

        def heard(sound: Iterator[Audio]) -> Iterator[Audio]:
            for block in sound:
                mixture.append(block)
                yield block

        likeness = Likeness()
        masks = component_masks(model, recording, self._segments(), regions, levels, likeness)
        with open_sound_of(self._located, not self._full_rate) as sound:
            spectrogram = model.params.spectrogram
            rates = sound.sample_rate, recording.sample_rate
            blocks += components(heard(sound.blocks), rates[0], masks, rates[1], spectrogram)
        # The last masks are for frames after the end of the sound; they count for the levels.
        for _ in masks:
            pass
        made = np.concatenate(blocks, axis=1).swapaxes(1, 2)
        whole = np.concatenate(mixture).T
        if not self._full_rate:
            made, whole = made[:, 0], whole[0]
        activity = activity_of(model, recording, np.concatenate(levels, axis=1))
        return _Separated(
            sound.sample_rate,
            np.ascontiguousarray(whole),
            np.ascontiguousarray(made),
            activity,
            likeness,
        )

    def _segments(self) -> Iterator[tuple[int, Embedding]]:
        """Yield the embedded segments, and keep those of a short recording for the next call."""
        if self._kept is not None:
            yield from self._kept
            return
        segments = self._model.segments(self._located.recording, "separating")
        if self.seconds > MAX_KEPT_SECONDS:
            yield from segments
            return
        kept = []
        for segment in segments:
            kept.append(segment)
            yield segment
        self._kept = kept

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Report progress, and what is wrong with the video, of the block."""
        if not self._close.alive:
            raise ValueError("the separation is closed")
        with progress_to(self._progress), about(self._located.source):
            yield


@dataclass(frozen=True)
class _Separated:
    """The sounds of a separation."""

    sample_rate: int
    mixture: Audio
    components: Audio
    activity: Activity
    likeness: Likeness


class Separator:
    """A trained model that separates videos of any length.

    Args:
        model: the model at work on recordings.
    """

    def __init__(self, model: Model) -> None:
        self._model = model

    @classmethod
    def load(cls, model: Path | str, device: str = "auto") -> "Separator":
        """Load a model.

        Args:
            model: path of a model file, such as `data/model/last.pt`, or of a folder of
                `sop export`; an http(s) address of one of them; or `published`, the weights of the
                paper. What is fetched is kept in the user's folder of caches. The SHA-256 of a
                file may follow an address: `https://host/model.pt#sha256=...`.
            device: `cpu`, `cuda`, `cuda:1`, or `auto` for a GPU if there is one.

        Raises:
            UserError: the file is missing, damaged or not a model of this project, or it cannot
                be fetched.
        """
        name, path = find_model(str(model))
        return cls(Model.load(path, device, name.shown))

    @property
    def params(self) -> InferenceParams:
        """Parameters with which the model was trained."""
        return self._model.params

    @property
    def about(self) -> ModelAbout | None:
        """Name, SHA-256 and card of the model; None if it was not loaded from a file."""
        return self._model.about

    @property
    def device(self) -> torch.device:
        """Device on which the model computes."""
        return self._model.device

    def separate(
        self,
        video: Path | str,
        regions: int | None = None,
        *,
        at: Sequence[tuple[float, float]] = (),
        full_rate: bool = False,
        start: float | None = None,
        end: float | None = None,
        image: Path | str | None = None,
        progress: ProgressCallback | bool = False,
    ) -> Separation:
        """Find the regions of a video; their sounds follow when they are used.

        Args:
            video: any file that ffmpeg reads.
            regions: number of regions; None determines it from the sound.
            at: points to use as regions: x and y as shares of width and height, or in pixels if
                one of them is above 1.
            full_rate: True for sounds at the video's sample rate and with its channels; False for
                mono sounds at the model's sample rate.
            start: begin of the part that is separated, seconds; None for that of the video.
            end: its end; None for that of the video.
            image: a still picture instead of the pictures of the video, which may be a sound.
            progress: a function that is called with the name of the work, the number of its
                steps that are done, and their total number; or True to show progress, or False.

        Raises:
            UserError: the video cannot be read, fewer regions differ in sound, or a point is
                outside the picture.
        """
        source = Source(Path(video), start, end, None if image is None else Path(image))
        with ExitStack() as resources:
            return self._located(source, regions, at, full_rate, progress, resources)

    def separate_arrays(
        self,
        frames: ArrayLike | torch.Tensor,
        audio: ArrayLike | torch.Tensor,
        sample_rate: int,
        frame_rate: float,
        regions: int | None = None,
        *,
        at: Sequence[tuple[float, float]] = (),
        full_rate: bool = False,
        progress: ProgressCallback | bool = False,
    ) -> Separation:
        """Find the regions of pictures and a sound in memory, as `separate` does of a video.

        The part is separated that has both pictures and sound.

        Args:
            frames: pictures, (T, H, W, 3) RGB, uint8: array or tensor on any device.
            audio: sound, (C, L) or (L,), full scale 1 (floats) or 16-bit integers.
            sample_rate: sample rate of the sound, Hz.
            frame_rate: pictures per second.
            regions: as in `separate`.
            at: as in `separate`.
            full_rate: as in `separate`.
            progress: as in `separate`.

        Raises:
            ValueError: a shape, type or rate is not as described.
            UserError: as in `separate`.
        """
        with ExitStack() as resources:
            folder = resources.enter_context(temporary_folder())
            video = folder / f"{NAME_OF_ARRAYS}.nut"
            write_arrays(_array(frames), _array(audio), sample_rate, frame_rate, video)
            return self._located(Source(video), regions, at, full_rate, progress, resources)

    def write(
        self,
        video: Path | str | Source,
        folder: Path | str,
        options: SeparationOptions | None = None,
        *,
        progress: ProgressCallback | bool = False,
    ) -> SeparationOutput:
        """Separate a video of any length into files, as `sop separate` does.

        All options are checked before the work, and memory does not grow with the length of the
        video. `separate` with `Separation.save` writes the same files.

        Args:
            video: any file that ffmpeg reads; a `Source` also says which part of it, or a still
                picture.
            folder: folder for the files; see `write_separation`.
            options: what to write; None for the defaults.
            progress: as in `separate`.

        Raises:
            UserError: the video or an option cannot be used, or the folder cannot be written.
        """
        with progress_to(progress):
            source = video if isinstance(video, Source) else Source(Path(video))
            return write_separation(source, Path(folder), self._model, options)

    def write_all(
        self,
        sources: Sequence[Source],
        folder: Path | str,
        options: SeparationOptions | None = None,
        *,
        progress: ProgressCallback | bool = False,
    ) -> Iterator[tuple[Source, Path, SeparationOutput | UserError]]:
        """Separate several videos into a folder each, named like the video.

        A video that cannot be separated does not stop the others.

        Args:
            sources: the videos.
            folder: folder of the folders.
            options: what to write for each; None for the defaults.
            progress: as in `separate`.

        Yields:
            Each video, its folder, and the result or what is wrong.

        Raises:
            UserError: an option cannot be used, or a file cannot be written.
        """
        check_options(options or SeparationOptions())
        for source, name in zip(sources, folder_names([s.video for s in sources]), strict=True):
            place = Path(folder) / name
            try:
                yield source, place, self.write(source, place, options, progress=progress)
            except NotWritable:
                raise
            except UserError as error:
                yield source, place, error

    def _located(
        self,
        source: Source,
        regions: int | None,
        places: Sequence[tuple[float, float]],
        full_rate: bool,
        progress: ProgressCallback | bool,
        resources: ExitStack,
    ) -> Separation:
        """Decode a video, and find its regions; the result takes over the resources."""
        check_options(SeparationOptions(regions=regions, places=places))
        source.check()
        video, recording = resources.enter_context(open_source(source, self.params.extract))
        with progress_to(progress), about(source):
            located = locate(self._model, source, video, recording, regions, places)
        return Separation(self._model, located, full_rate, progress, resources.pop_all())


def folder_names(videos: Sequence[Path]) -> list[str]:
    """Return a name of a folder for each video: its own without suffix, and a number if taken."""
    names: list[str] = []
    for video in videos:
        name = base = video.stem.strip(". ") or "video"
        number = 1
        while name.casefold() in map(str.casefold, names):
            number += 1
            name = f"{base}-{number}"
        names.append(name)
    return names


def _array(values: Any) -> NDArray[Any]:
    """Return an array or a tensor as an array."""
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().numpy()
    return np.asarray(values)
