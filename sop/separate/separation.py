"""Separation of a video into files: the sound of each region, overlay, remix and page.

Shapes: K regions, K + 1 components (the regions and the rest).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sop.denoise.settings import FilterSettings
from sop.inference.localization import MAX_REGIONS, Localization, regions_at
from sop.inference.recording import Recording
from sop.inference.separator import Separator, region_envelopes
from sop.player.clip import limits_of, write_clip
from sop.player.player import PlayerClip, PlayerRegion, write_player
from sop.runtime.errors import LeftOut, UserError
from sop.runtime.files import write_json
from sop.separate.activity import Activity, Interval, silence_energy
from sop.separate.description import REST, describe
from sop.separate.doubt import Note, impression_of, notes_of
from sop.separate.overlay import write_overlay
from sop.separate.sound_files import FORMATS, SoundFormat, check_format
from sop.separate.sounds import usable_filter, write_sounds
from sop.separate.source import Source, open_source
from sop.separate.staging import DESCRIPTION, check_paths, staged
from sop.separate.video import SoundStream, open_sound, read_pictures, write_remix

BLOCK_SAMPLES = 1 << 15

# A filter that removes a larger share of the regions' energy removes more than interference.
MAX_REMOVED = 0.5


@dataclass(frozen=True)
class SeparationOptions:
    """Options of `write_separation`."""

    regions: int | None = None
    """Number of regions; None determines it from the sound."""
    places: Sequence[tuple[float, float]] = ()
    """Points to use as regions: x and y as shares of width and height, or in pixels if one of them
    is above 1."""
    gains: Mapping[str, float] | None = None
    """Volume of components in a remix, by number or `rest`; other components keep theirs. None
    writes no remix unless components are muted or soloed."""
    muted: frozenset[str] = frozenset()
    """Components with volume 0 in the remix, by number or `rest`."""
    solo: frozenset[str] = frozenset()
    """Components to which the remix is limited, by number or `rest`; empty for all."""
    model_rate: bool = False
    """True to write mono sounds at the model's sample rate instead of the format of the video."""
    page_seconds: float | None = None
    """Length of the stretch of the video on the page; None writes no page."""
    stems_only: bool = False
    """True to write sounds and the description alone, without overlay and pictures."""
    sound_format: SoundFormat = "wav"
    """Format of the sounds: wav (32-bit floats), flac (24 bits) or mp3."""
    denoise: FilterSettings | None = None
    """Filter that removes from each channel of a region's sound what the other regions' sounds
    predict of it; that is added to the rest."""

    @property
    def remixes(self) -> bool:
        """True if a remix is written."""
        return self.gains is not None or bool(self.muted or self.solo)


@dataclass(frozen=True)
class SeparationOutput:
    """Result of `write_separation`."""

    files: tuple[str, ...]
    """Paths of the files relative to the folder, the description last."""
    description: Mapping[str, Any]
    """Content of `regions.json`."""
    remix_peak: float
    """Largest sample of the remix, full scale 1; 0 without a remix."""
    page: Interval | None
    """Stretch of the video on the page; None without a page."""
    doubts: tuple[Note, ...]
    """Reasons to doubt the result, with what to try."""
    notes: tuple[str, ...]
    """Options that had no effect, not everywhere, or may have removed wanted sound, and why."""


@dataclass(frozen=True)
class LocatedVideo:
    """A decoded video and its regions."""

    video: Path
    """The file that is read."""
    source: Source
    """What the user named, from which it was made."""
    recording: Recording
    """Input of the model."""
    size: tuple[int, int]
    """Width and height of the picture on display, pixels."""
    localization: Localization
    """The regions and the energy of each cell."""


def write_separation(
    video: Path | Source,
    folder: Path,
    separator: Separator,
    options: SeparationOptions | None = None,
) -> SeparationOutput:
    """Separate a video of any length, and write the results to a folder.

    The results appear in the folder all at once at the end. Results of an earlier run that this run
    does not replace are removed; other files stay. Memory does not grow with the length of the
    video, except for some hundred bytes per second.

    Args:
        video: any file that ffmpeg reads, or a part of one, or a sound with a picture.
        folder: folder for `region-1.wav`, ..., `rest.wav`, `overlay.mp4`, `heat.png`,
            `colours.png`, `regions.json` and, if requested, `remix.<container>` and `page/`.
        separator: the model.
        options: what to write; None for the defaults.

    Raises:
        UserError: the video or an option cannot be used, or the folder cannot be written.
    """
    options = options or SeparationOptions()
    source = video if isinstance(video, Source) else Source(video)
    for path in filter(None, (source.video, source.image)):
        check_paths(path, folder)
    check_options(options)
    source.check()
    extract = separator.params.extract
    with staged(folder) as stage, open_source(source, extract) as (file, recording), about(source):
        located = locate(separator, source, file, recording, options.regions, options.places)
        return write_results(separator, located, stage, options)


@contextmanager
def about(source: Source) -> Iterator[None]:
    """Name the file in what the block says is wrong with it."""
    try:
        yield
    except LeftOut as reason:
        raise UserError(f"{source.video}: {reason}") from None


def locate(
    separator: Separator,
    source: Source,
    video: Path,
    recording: Recording,
    regions: int | None = None,
    places: Sequence[tuple[float, float]] = (),
) -> LocatedVideo:
    """Find the regions of a decoded video, or take places as regions.

    Args:
        separator: the model.
        source: what the user named.
        video: the file that is read.
        recording: what `decoded_recording` made of it.
        regions: number of regions; None determines it from the sound.
        places: points to use as regions, as in `SeparationOptions`.

    Raises:
        LeftOut: the video is damaged.
        UserError: there are fewer regions, or a place is outside the picture.
    """
    # At the rate of the model's frames: a second may be longer than the video.
    frame_rate = separator.params.extract.frame_rate
    limits = limits_of(recording.seconds)
    picture = next(read_pictures(video, recording.source, frame_rate, None, limits), None)
    if picture is None:
        raise LeftOut("contains no pictures")
    size = picture.shape[1], picture.shape[0]
    return LocatedVideo(
        video, source, recording, size, _localize(separator, recording, size, regions, places)
    )


def write_results(
    separator: Separator, located: LocatedVideo, stage: Path, options: SeparationOptions
) -> SeparationOutput:
    """Write the files of a separation to an empty folder.

    Args:
        separator: the model.
        located: the video and its regions; those of the options are not read.
        stage: the folder.
        options: what to write.

    Raises:
        LeftOut: the video is damaged.
        UserError: an option names a region that does not exist, or a file cannot be written.
    """
    video, recording, localization = located.video, located.recording, located.localization
    found, limits = recording.source, limits_of(recording.seconds)
    count = len(localization.regions)
    gains = remix_gains(options, count)
    names = [*(f"region-{number}" for number in range(1, count + 1)), REST]
    files = [f"{name}.{options.sound_format}" for name in names]
    paths = [stage / name for name in files]
    mix = stage / "mix.wav"
    remix = (mix, gains) if options.remixes else None
    with open_sound_of(located, options.model_rate) as sound:
        check_format(options.sound_format, sound.sample_rate, sound.channels)
        denoise, notes = usable_filter(options.denoise, count, sound.samples)
        written = write_sounds(
            separator, recording, sound, localization.regions, paths, denoise, remix
        )
    if options.remixes:
        files.append(write_remix(video, found, mix, stage / "remix", limits).name)
        mix.unlink()
    activity = activity_of(separator, recording, written.levels)
    impression = impression_of(separator, recording, localization.regions)
    doubts = notes_of(separator, localization.regions, written.likeness, impression)
    if not options.stems_only:
        files += write_overlay(video, found, stage, localization, activity, limits)
    page = None
    if options.page_seconds is not None:
        stretch = activity.busiest_frames(options.page_seconds)
        page = _write_page(located, stage / "page", separator, doubts, *stretch)
        files += ["page/index.html", "page/video.mp4"]
    files.append(DESCRIPTION)
    description = describe(
        located.source,
        located.size,
        sound,
        localization,
        activity,
        written.energy,
        files,
        denoise,
        written.kept,
        separator.about,
        doubts,
        impression.like,
    )
    write_json(stage / DESCRIPTION, description)
    if denoise is not None and written.removed > MAX_REMOVED:
        notes += (
            f"--denoise {denoise.method}: moved {written.removed:.0%} of the regions' energy to "
            "the rest; the regions contain traces of each other, so wanted sound is removed too",
        )
    if options.sound_format != "wav" and written.peak > 1:
        notes += (
            f"--format {options.sound_format}: a sound exceeds full scale by "
            f"{20 * math.log10(written.peak):.1f} dB and is clipped; wav keeps it",
        )
    if denoise is not None and written.kept:
        notes += (f"--denoise {denoise.method}: regions: {written.kept}",)
    return SeparationOutput(tuple(files), description, written.remix_peak, page, doubts, notes)


def fractions_of(x: float, y: float, size: tuple[int, int]) -> tuple[float, float]:
    """Convert a point to shares of the picture's width and height.

    Args:
        x: share of the width, or pixels if `x` or `y` is above 1.
        y: share of the height, or pixels.
        size: width and height, pixels.

    Raises:
        UserError: the point is outside the picture.
    """
    width, height = size
    in_pixels = max(x, y) > 1
    across, down = (x / width, y / height) if in_pixels else (x, y)
    # Written so that NaN is outside, too.
    if not (0 <= across <= 1 and 0 <= down <= 1):
        raise UserError(
            f"--at {x:g},{y:g}: outside the picture of {width} x {height} pixels; use pixels, or "
            "fractions from 0 to 1"
        )
    return across, down


def remix_gains(options: SeparationOptions, regions: int) -> list[float]:
    """Return the volume of each component in the remix, (K + 1,).

    Raises:
        UserError: an option names a component that does not exist.
    """
    names = [*map(str, range(1, regions + 1)), REST]
    gains = options.gains or {}
    for option, wanted in (("--gain", gains), ("--mute", options.muted), ("--solo", options.solo)):
        for name in sorted(wanted):
            if name not in names:
                choices = " or ".join(filter(None, (", ".join(names[:-1]), REST)))
                raise UserError(f"{option} {name}: no such region; use {choices}")
    return [
        0.0
        if name in options.muted or (options.solo and name not in options.solo)
        else gains.get(name, 1.0)
        for name in names
    ]


def check_options(options: SeparationOptions) -> None:
    """Check the options as far as possible before the work.

    Raises:
        UserError: there cannot be that many regions, or two options contradict each other.
    """
    if (options.regions or 0) > MAX_REGIONS:
        raise UserError(f"--regions {options.regions}: must be at most {MAX_REGIONS}")
    if options.sound_format not in FORMATS:
        raise UserError(f"--format {options.sound_format}: must be {', '.join(FORMATS)}")
    if options.stems_only and (options.remixes or options.page_seconds is not None):
        other = "--page" if options.page_seconds is not None else "--gain, --mute and --solo"
        raise UserError(f"--stems-only: contradicts {other}; leave one of them out")
    remix_gains(options, len(options.places) or options.regions or MAX_REGIONS)
    gains = set(options.gains or ())
    for other, names in (("--gain", gains), ("--solo", options.solo)):
        for name in sorted(options.muted & names):
            raise UserError(f"--mute {name}: contradicts {other} {name}; leave one of them out")
    if options.solo and (silent := sorted(gains - options.solo)):
        raise UserError(
            f"--gain {silent[0]}: without effect, --solo leaves this region out; leave one of "
            "them out"
        )


def open_sound_of(located: LocatedVideo, model_rate: bool) -> AbstractContextManager[SoundStream]:
    """Open the sound of a video, or the model's mono version of it.

    Args:
        located: the video.
        model_rate: True for mono sound at the model's sample rate.
    """
    recording = located.recording
    if not model_rate:
        return open_sound(located.video, recording.source, limits_of(recording.seconds))
    cuts = [*range(0, recording.samples, BLOCK_SAMPLES), recording.samples]
    blocks = (recording.sound(begin, end)[:, None] for begin, end in pairwise(cuts))
    return nullcontext(SoundStream(recording.sample_rate, 1, 0, recording.samples, blocks))


def activity_of(
    separator: Separator, recording: Recording, levels: NDArray[np.float32]
) -> Activity:
    """Return when the components of a recording sound.

    Args:
        separator: the model.
        recording: its input.
        levels: energy of each component at each spectrogram frame, (K + 1, M).
    """
    spectrogram = separator.params.spectrogram
    hop_seconds = spectrogram.stft_hop / recording.sample_rate
    return Activity(levels, hop_seconds, recording.seconds, silence_energy(spectrogram))


def _localize(
    separator: Separator,
    recording: Recording,
    size: tuple[int, int],
    wanted: int | None,
    points: Sequence[tuple[float, float]],
) -> Localization:
    """Find the regions, or take the requested places as regions."""
    # Checked before the work.
    places = [fractions_of(x, y, size) for x, y in points]
    # Finite weights of a damaged file may be so large that what they compute overflows.
    overflow = UserError(
        "the model computes values that are not finite; restore its file, or train it again"
    )
    try:
        with np.errstate(all="ignore"):
            localization = separator.localize(recording, None if places else wanted, "localizing")
    except np.linalg.LinAlgError:
        raise overflow from None
    if not np.isfinite(localization.energy).all():
        raise overflow
    if places:
        height, width = localization.energy.shape
        return replace(localization, regions=tuple(regions_at(places, (height, width))))
    found = len(localization.regions)
    if wanted is not None and found < wanted:
        raise UserError(
            f"--regions {wanted}: only {found} found that differ in sound; use a smaller number or "
            "--regions auto"
        )
    return localization


def _write_page(
    located: LocatedVideo,
    folder: Path,
    separator: Separator,
    doubts: Sequence[Note],
    first: int,
    count: int,
) -> Interval:
    """Write the pixel player of a stretch of spectrogram frames, and return its begin and end."""
    video, recording, localization = located.video, located.recording, located.localization
    hop_seconds = separator.params.spectrogram.stft_hop / recording.sample_rate
    begin, seconds = first * hop_seconds, (count - 1) * hop_seconds
    embedding = separator.embed(recording, first, count)
    motion = embedding.motion
    regions = tuple(
        PlayerRegion(
            name=f"Region {number}",
            cells=region.cells,
            features=separator.features(embedding, region),
            envelopes=None if motion is None else region_envelopes(motion, region),
        )
        for number, region in enumerate(localization.regions, start=1)
    )
    title, colours = located.source.name, localization.colours
    texts = tuple(note.text for note in doubts)
    clip = PlayerClip(title, embedding, regions, embedding.heat(), colours, notes=texts)
    cut = folder / "video.mp4"
    write_clip(video, begin, seconds, cut, limits_of(recording.seconds), recording.source)
    write_player(folder, clip, cut)
    return begin, min(begin + seconds, recording.seconds)
