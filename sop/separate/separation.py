"""A video's separation as files: the sound of each region, and where and when it sounds.

Shapes: K regions, M spectrogram frames, h x w cells of the picture, H x W pixels.
"""

import errno
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image

from sop.cancellation.filter_bank import FilterBank, filter_bank
from sop.cancellation.wav import WavWriter, writing_wav
from sop.denoise.settings import FilterSettings
from sop.inference.localization import (
    MAX_REGIONS,
    SILENCE_AMPLITUDE,
    Localization,
    Region,
    regions_at,
)
from sop.inference.recording import Recording, decoded_recording
from sop.inference.separator import Separator
from sop.params import SpectrogramParams
from sop.player.overlay import Heat, Picture, hex_colour, overlaid
from sop.player.player import PlayerClip, PlayerRegion, write_player
from sop.player.video import (
    Sound,
    limits_of,
    reading_pictures,
    reading_sound,
    write_clip,
    write_remix,
    write_video,
)
from sop.runtime.errors import LeftOut, UserError
from sop.runtime.files import PARTIAL_PREFIX, writable, write_json
from sop.runtime.progress import progress
from sop.separate.full_rate import components

Values = NDArray[np.float32]
Interval = tuple[float, float]

REST = "rest"
DESCRIPTION = "regions.json"

# All that a run may leave; of nothing else is it assumed that an earlier run left it.
_OURS = re.compile(
    r"region-\d+\.wav|rest\.wav|overlay\.mp4|colours\.png|heat\.png|regions\.json"
    r"|remix\.(mp4|m4v|mov|mkv|webm)|page/(index\.html|video\.mp4)"
)

_STAGE_PREFIX = f"{PARTIAL_PREFIX}separation-"

# What writing may end in, and reading hardly.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

OVERLAY_LINES = 360
OVERLAY_RATE = 12
# Of the overlay whose light is worked out at a time.
CHUNK_SECONDS = 10

# A region is silent below this part of its own loudest moment's energy, and of the whole sound's.
QUIET = 10 ** (-30 / 10)
QUIET_OF_ALL = 10 ** (-45 / 10)
# Shorter silence is part of the sound, and shorter sound is none.
SHORTEST_SILENCE_SECONDS = 0.3
SHORTEST_SOUND_SECONDS = 0.1

# Light goes with the mean of so much sound, lest it flicker.
LIGHT_SECONDS = 0.15

BLOCK_SAMPLES = 1 << 15

# More of the regions' energy than this is no noise that was taken out of them.
MUCH_MOVED = 0.5


@dataclass(frozen=True)
class Request:
    """What is to be made of a video."""

    regions: int | None = None
    """How many there are; None finds out."""
    places: Sequence[tuple[float, float]] = ()
    """Take these as the regions: x and y as shares of width and height, or in pixels where one of
    the two is over 1."""
    gains: Mapping[str, float] | None = None
    """Volume of each component in a new video, by number or `rest`; others keep theirs. None makes
    no video."""
    muted: frozenset[str] = frozenset()
    """Components at volume 0, by number or `rest`."""
    solo: frozenset[str] = frozenset()
    """If any, all others are muted."""
    model_rate: bool = False
    """Whether sound is mono, at the model's rate, instead of what the video has."""
    page_seconds: float | None = None
    """How much of the video a page lets one hear pixel by pixel; None makes no page."""
    denoise: FilterSettings | None = None
    """What takes out of each region's sound what the other regions' sounds predict of it, channel
    by channel; that goes to the rest."""

    @property
    def remixes(self) -> bool:
        """Whether a new video is made."""
        return self.gains is not None or bool(self.muted or self.solo)


@dataclass(frozen=True)
class Written:
    """What was made of a video."""

    files: tuple[str, ...]
    """Paths below the folder, the description last."""
    description: Mapping[str, Any]
    """What `regions.json` holds."""
    remix_peak: float
    """The largest sample of the remix, full scale being 1; 0 without one."""
    page: Interval | None
    """Which seconds the page plays; None without one."""
    notes: tuple[str, ...]
    """What was asked for and could not be done, or did what was hardly meant, and why."""


@dataclass(frozen=True)
class _Apart:
    """The sound of a video, taken apart and written."""

    sound: Sound
    energy: NDArray[np.float64]
    """Of each component, (K + 1,)."""
    levels: Values
    """Of each component, before any filter, at each spectrogram frame, (K + 1, M)."""
    peak: float
    """The largest sample of the mix."""
    denoise: FilterSettings | None
    """What it was filtered with."""
    notes: tuple[str, ...]


def write_separation(
    video: Path, folder: Path, separator: Separator, request: Request | None = None
) -> Written:
    """Take a video of any length apart, and write what it is made of.

    All is written beside its place and put there at the end. What an earlier run left in the
    folder, and this one does not make, is removed then; other files stay. Memory does not grow
    with the length of the video, but for its regions' levels, some hundred bytes a second.

    Args:
        video: any file that ffmpeg reads.
        folder: gets `region-1.wav`, ..., `rest.wav`, `overlay.mp4`, `heat.png`, `colours.png`,
            `regions.json`, and `remix.<container>` and `page/` if asked for.
        separator: the model.
        request: what is asked for.

    Raises:
        UserError: the video or a wish cannot be used, or nothing can be written there.
    """
    request = request or Request()
    _check_place(video, folder)
    with (
        _staged(folder) as stage,
        decoded_recording(video, separator.params.extract) as recording,
    ):
        work = _Work(video, stage.folder, separator, recording, request)
        written = work.run()
        stage.files += written.files
    return written


class _Work:
    """One run over one video, into a folder that is still hidden."""

    def __init__(
        self,
        video: Path,
        folder: Path,
        separator: Separator,
        recording: Recording,
        request: Request,
    ) -> None:
        self._video = video
        self._folder = folder
        self._separator = separator
        self._recording = recording
        self._request = request
        self._limits = limits_of(recording.seconds)
        self._hop_seconds = separator.params.spectrogram.stft_hop / recording.sample_rate

    def run(self) -> Written:
        size = self._size()
        where, regions = self._regions(size)
        gains = volumes(self._request, len(regions))
        names = [f"region-{number}.wav" for number in range(1, len(regions) + 1)] + [f"{REST}.wav"]
        with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
            mix = Path(scratch) / "mix.wav" if self._request.remixes else None
            apart = self._take_apart(regions, names, mix, gains)
            files = list(names)
            if mix is not None:
                remix = write_remix(self._video, mix, self._folder / "remix", self._limits)
                files.append(remix.name)
        levels = apart.levels
        files += self._pictures(where, regions, levels)
        page = None
        if self._request.page_seconds is not None:
            page = self._page(where, regions, levels, self._request.page_seconds)
            files += ["page/index.html", "page/video.mp4"]
        files.append(DESCRIPTION)
        shares = apart.energy / (apart.energy.sum() or 1.0)
        times = [self._times(level, levels) for level in levels]
        width, height = size
        described = {
            "video": _shown(self._video.name),
            "seconds": round(self._recording.seconds, 6),
            "width": width,
            "height": height,
            "sample_rate": apart.sound.sample_rate,
            "channels": apart.sound.channels,
            "denoise": _told(apart.denoise),
            "regions": [
                {
                    "number": number,
                    "file": name,
                    "colour": hex_colour(number - 1),
                    **_position(region, where.energy, size),
                    "energy": round(float(share), 6),
                    "sounds": sounds,
                }
                for number, (region, name, share, sounds) in enumerate(
                    zip(regions, names, shares, times, strict=False), start=1
                )
            ],
            REST: {
                "file": names[-1],
                "energy": round(float(shares[-1]), 6),
                "sounds": times[-1],
            },
            "files": files,
        }
        write_json(self._folder / DESCRIPTION, described)
        return Written(tuple(files), described, apart.peak, page, apart.notes)

    def _size(self) -> tuple[int, int]:
        """Width and height of the picture on display, pixels."""
        pictures = reading_pictures(self._video, self._recording.seconds, 1.0, None, self._limits)
        for picture in pictures:
            return picture.shape[1], picture.shape[0]
        raise LeftOut("holds no pictures")

    def _regions(self, size: tuple[int, int]) -> tuple[Localization, tuple[Region, ...]]:
        request = self._request
        # Said before any work.
        places = [place_of(x, y, size) for x, y in request.places]
        if request.regions is not None and request.regions > MAX_REGIONS:
            raise UserError(f"--regions {request.regions}: {MAX_REGIONS} at most")
        where = self._separator.localize(
            self._recording, None if places else request.regions, "localizing"
        )
        if places:
            height, width = where.energy.shape
            return where, tuple(regions_at(places, (height, width)))
        if request.regions is not None and len(where.regions) < request.regions:
            raise UserError(
                f"--regions {request.regions}: only {len(where.regions)} found that sound "
                "different from each other; ask for fewer, or leave it to --regions auto"
            )
        return where, where.regions

    def _take_apart(
        self,
        regions: tuple[Region, ...],
        names: list[str],
        mix: Path | None,
        gains: list[float],
    ) -> _Apart:
        """Write the sound of each region and the rest, and their mix."""
        separator, recording = self._separator, self._recording
        levels: list[Values] = []

        def masks() -> Iterator[Values]:
            for first, embedding in separator.segments(recording, "separating"):
                shared = separator.region_masks(embedding, regions)
                power = separator.power(recording, first, shared.shape[2])
                levels.append(np.einsum("kfm,kfm,fm->km", shared, shared, power))
                yield shared

        energy = np.zeros(len(names))
        peak = heard = moved = 0.0
        weights = np.array(gains, np.float32)[:, None, None]
        with ExitStack() as stack:
            sound = stack.enter_context(self._sound())
            denoise, notes = _feasible(self._request.denoise, len(regions), sound.samples)
            bank = None
            if denoise is not None:
                others = [len(regions) - 1] * (len(regions) * sound.channels)
                bank = stack.enter_context(filter_bank(denoise, others))

            def writer(path: Path) -> WavWriter:
                return stack.enter_context(
                    writing_wav(path, sound.sample_rate, sound.channels, sound.channel_mask)
                )

            writers = [writer(self._folder / name) for name in names]
            mixer = writer(mix) if mix is not None else None
            stretches = masks()
            for block in components(
                sound.blocks,
                sound.sample_rate,
                stretches,
                recording.sample_rate,
                separator.params.spectrogram,
            ):
                if bank is not None:
                    raw, block = block, _denoised(block, bank)
                    heard += _energy(raw[:-1])
                    moved += _energy(raw[:-1] - block[:-1])
                for file, part in zip(writers, block, strict=True):
                    file.write(part)
                energy += np.einsum("ksc,ksc->k", block, block, dtype=np.float64)
                if mixer is not None:
                    mixed = (weights * block).sum(axis=0)
                    peak = max(peak, float(np.abs(mixed).max(initial=0)))
                    mixer.write(mixed)
            # Masks of after the end of the sound.
            for _ in stretches:
                pass
        if denoise is not None and moved > MUCH_MOVED * heard:
            notes += (
                f"--denoise {denoise.method}: moved {moved / heard:.0%} of the regions' energy to "
                "the rest; they hold traces of one another, which predict what is wanted too",
            )
        return _Apart(sound, energy, np.concatenate(levels, axis=1), peak, denoise, notes)

    @contextmanager
    def _sound(self) -> Iterator[Sound]:
        recording = self._recording
        if not self._request.model_rate:
            with reading_sound(self._video, recording.seconds, self._limits) as sound:
                yield sound
            return
        cuts = [*range(0, recording.samples, BLOCK_SAMPLES), recording.samples]
        blocks = (recording.sound(begin, end)[:, None] for begin, end in pairwise(cuts))
        yield Sound(recording.sample_rate, 1, 0, recording.samples, blocks)

    def _times(self, level: Values, levels: Values) -> list[Interval]:
        floor = silence_energy(self._separator.params.spectrogram)
        loudest = max(float(levels.sum(axis=0).max()) * QUIET_OF_ALL, floor)
        least = max(float(level.max()) * QUIET, loudest)
        return intervals(level >= least, self._hop_seconds, self._recording.seconds)

    def _pictures(
        self, where: Localization, regions: tuple[Region, ...], levels: Values
    ) -> list[str]:
        """Write the overlay, and two pictures of its loudest moment."""
        seconds = self._recording.seconds
        light = _light(levels[:-1], self._hop_seconds)
        loudest = (light.sum(axis=0) if regions else levels[-1]).argmax() * self._hop_seconds
        moment = _Moment(int(loudest * OVERLAY_RATE))
        cells = np.array([_brightness(region, where.energy) for region in regions], np.float32)
        frames = reading_pictures(self._video, seconds, OVERLAY_RATE, OVERLAY_LINES, self._limits)
        count = math.ceil(seconds * OVERLAY_RATE)
        write_video(
            _lit(
                moment.watch(progress(frames, "drawing", count, "picture")),
                light,
                cells.reshape(len(regions), *where.energy.shape),
                self._hop_seconds,
            ),
            OVERLAY_RATE,
            self._video,
            seconds,
            self._folder / "overlay.mp4",
            self._limits,
        )
        still = moment.picture
        assert still is not None
        most = float(where.energy.max(initial=0))
        warmth = np.sqrt(where.energy / most if most else where.energy).astype(np.float32)
        heat = Heat(warmth[None, None], np.array([0.0]))
        _save(next(overlaid([still], 1.0, heat)), self._folder / "heat.png")
        _save(_painted(still, where.colours), self._folder / "colours.png")
        return ["overlay.mp4", "heat.png", "colours.png"]

    def _page(
        self,
        where: Localization,
        regions: tuple[Region, ...],
        levels: Values,
        seconds: float,
    ) -> Interval:
        """Write the page of the stretch in which the regions sound most."""
        light = _light(levels[:-1], self._hop_seconds)
        activity = light.sum(axis=0) if regions else levels[-1]
        count = min(max(2, 1 + round(seconds / self._hop_seconds)), len(activity))
        first = _busiest(activity, count)
        begin = first * self._hop_seconds
        long = (count - 1) * self._hop_seconds
        embedding = self._separator.embed(self._recording, first, count)
        clip = PlayerClip(
            title=_shown(self._video.name),
            embedding=embedding,
            regions=tuple(
                PlayerRegion(
                    name=f"Region {number + 1}",
                    cells=region.cells,
                    features=self._separator.features(embedding, region),
                    colour=hex_colour(number),
                    download=None,
                )
                for number, region in enumerate(regions)
            ),
            heat=embedding.heat(),
            colours=where.colours,
        )
        cut = self._folder / "page" / "video.mp4"
        write_clip(self._video, begin, long, cut, self._limits)
        write_player(cut.parent, clip, cut)
        return begin, min(begin + long, self._recording.seconds)


@dataclass
class _Stage:
    folder: Path
    files: list[str]
    """Paths below the folder that are to be kept."""


def place_of(x: float, y: float, size: tuple[int, int]) -> tuple[float, float]:
    """A place as shares of the picture's width and height.

    Args:
        x: share of the width, or pixels if it or `y` is over 1.
        y: share of the height, or pixels.
        size: width and height, pixels.

    Raises:
        UserError: it lies outside the picture.
    """
    width, height = size
    in_pixels = max(x, y) > 1
    across, down = (x / width, y / height) if in_pixels else (x, y)
    # A NaN is in no range.
    if not (0 <= across <= 1 and 0 <= down <= 1):
        raise UserError(
            f"--at {x:g},{y:g}: outside the picture, which is {width} x {height} pixels; give "
            "pixels, or shares from 0 to 1"
        )
    return across, down


def volumes(request: Request, regions: int) -> list[float]:
    """Volume of each region and the rest in a remix, (K + 1,).

    Raises:
        UserError: a component is named that there is not.
    """
    names = [*map(str, range(1, regions + 1)), REST]
    gains = request.gains or {}
    for option, wanted in (
        ("--gain", gains),
        ("--mute", request.muted),
        ("--solo", request.solo),
    ):
        for name in sorted(wanted):
            if name not in names:
                there = f"are regions 1 to {regions}" if regions > 1 else "is region 1"
                there = there if regions else "is no region"
                raise UserError(f"{option} {name}: there {there} in this video, and {REST!r}")
    return [
        0.0
        if name in request.muted or (request.solo and name not in request.solo)
        else gains.get(name, 1.0)
        for name in names
    ]


def silence_energy(spectrogram: SpectrogramParams) -> float:
    """Energy of a spectrogram frame of a tone as quiet as what counts as silent.

    By Parseval's theorem: half of the bins of a windowed frame, of a tone at `SILENCE_AMPLITUDE`.
    """
    mean_square_of_hann = 3 / 8
    frame = spectrogram.stft_frame
    return frame / 2 * frame * mean_square_of_hann * SILENCE_AMPLITUDE**2 / 2


def intervals(sounding: NDArray[np.bool_], hop_seconds: float, seconds: float) -> list[Interval]:
    """When something sounds.

    Args:
        sounding: whether it does at each spectrogram frame, (M,).
        hop_seconds: from one frame to the next.
        seconds: where the last one ends at the latest.

    Returns:
        Begin and end of each time, in seconds; silence that is too short is left out, and sound
        that is.
    """
    edges = np.flatnonzero(np.diff(sounding.astype(np.int8), prepend=0, append=0))
    # A frame tells of the time around it.
    times = np.clip((edges - 0.5) * hop_seconds, 0, seconds).reshape(-1, 2)
    joined: list[Interval] = []
    for begin, end in times.tolist():
        if joined and begin - joined[-1][1] < SHORTEST_SILENCE_SECONDS:
            begin = joined.pop()[0]
        joined.append((begin, end))
    return [
        (round(begin, 3), round(end, 3))
        for begin, end in joined
        if end - begin > 0.999 * min(SHORTEST_SOUND_SECONDS, seconds)
    ]


def _feasible(
    setting: FilterSettings | None, regions: int, samples: int
) -> tuple[FilterSettings | None, tuple[str, ...]]:
    """The filter, or None if it can have no effect, and the reason why."""
    if setting is None:
        return None, ()
    if regions < 2:
        why = f"it takes two regions that sound, and there is {regions or 'none'}"
    elif setting.taps > samples:
        why = f"{setting.taps} taps are more than the {samples} samples of the sound"
    else:
        return setting, ()
    return None, (f"--denoise {setting.method}: nothing was filtered, {why}",)


def _denoised(block: Values, bank: FilterBank) -> Values:
    """Move what the regions' sounds predict of one another to the rest.

    Args:
        block: the next of regions and rest, (K + 1, s, channels).
        bank: filters, those of a region's channels one after the other.

    Returns:
        (K + 1, s, channels), of the same sum.
    """
    regions = block[:-1]
    signals = np.moveaxis(regions, 2, 1)
    places = list(np.ndindex(*signals.shape[:2]))
    clean = bank.clean(
        (signals[place] for place in places),
        (np.delete(signals[:, channel], region, axis=0) for region, channel in places),
    )
    filtered = np.moveaxis(clean.reshape(signals.shape), 1, 2)
    rest = block[-1] + (regions - filtered).sum(axis=0)
    return np.concatenate([filtered, rest[None]])


def _energy(sound: Values) -> float:
    return float(np.square(sound, dtype=np.float64).sum())


def _told(setting: FilterSettings | None) -> dict[str, Any] | None:
    """What the description says of a filter."""
    if setting is None:
        return None
    return {"filter": setting.method, **setting.values}


class _Moment:
    """Keeps one of the pictures that go by; the last one, if there are fewer."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.picture: Picture | None = None

    def watch(self, pictures: Iterable[Picture]) -> Iterator[Picture]:
        for number, picture in enumerate(pictures):
            if number <= self._number:
                self.picture = picture
            yield picture


def _light(levels: Values, hop_seconds: float) -> Values:
    """How bright each region is at each frame, 1 at its loudest: (K, M) energies to (K, M)."""
    size = max(1, round(LIGHT_SECONDS / hop_seconds))
    kernel = np.ones(size) / size
    smooth = [np.convolve(np.sqrt(level), kernel, "same")[: len(level)] for level in levels]
    light = np.array(smooth, np.float32).reshape(levels.shape)
    light /= np.maximum(light.max(axis=1, keepdims=True, initial=0), 1e-12)
    return light


def _brightness(region: Region, energy: NDArray[np.float64]) -> Values:
    """How bright the cells of a region are, 1 where it is loudest, (h, w)."""
    inside = np.where(region.cells, energy, 0)
    most = inside.max()
    bright = np.sqrt(inside / most) if most > 0 else region.cells
    return bright.astype(np.float32)


def _lit(
    frames: Iterable[Picture], light: Values, cells: Values, hop_seconds: float
) -> Iterator[Picture]:
    """Light up the regions, (K, h, w), as they sound, (K, M)."""
    rest = iter(frames)
    for chunk, first in enumerate(rest):
        begin = chunk * CHUNK_SECONDS
        part = chain([first], islice(rest, CHUNK_SECONDS * OVERLAY_RATE - 1))
        last = light.shape[1] - 1
        low = min(int(begin / hop_seconds), last)
        high = min(math.ceil((begin + CHUNK_SECONDS) / hop_seconds), last)
        times = np.arange(low, high + 1, dtype=np.float64) * hop_seconds - begin
        values = light[:, low : high + 1, None, None] * cells[:, None]
        yield from overlaid(part, OVERLAY_RATE, Heat(values, times))


def _busiest(activity: Values, count: int) -> int:
    """Where the sum of `count` consecutive frames is largest; the first such place."""
    sums = np.concatenate([[0.0], np.cumsum(activity, dtype=np.float64)])
    return int(np.argmax(sums[count:] - sums[:-count]))


def _painted(still: Picture, colours: Picture) -> Picture:
    """A picture, and beside it the same in grey, with the colours of its cells' sounds over it."""
    picture = Image.fromarray(still)
    sounds = Image.fromarray(colours).resize(picture.size, Image.Resampling.BILINEAR)
    over = Image.blend(picture.convert("L").convert("RGB"), sounds, 0.7)
    return np.concatenate([still, np.asarray(over)], axis=1)


def _save(picture: Picture, path: Path) -> None:
    with writable(path) as partial:
        Image.fromarray(picture).save(partial, "PNG")


def _position(region: Region, energy: NDArray[np.float64], size: tuple[int, int]) -> dict[str, Any]:
    """Where a region is: shares of the picture, and pixels."""
    width, height = size
    left, top, right, bottom = region.box
    weights = _brightness(region, energy) ** 2
    rows, columns = region.cells.shape
    x = float((weights.sum(axis=0) @ (np.arange(columns) + 0.5)) / weights.sum() / columns)
    y = float((weights.sum(axis=1) @ (np.arange(rows) + 0.5)) / weights.sum() / rows)
    return {
        "box": {"left": left, "top": top, "right": right, "bottom": bottom},
        "box_pixels": {
            "left": round(left * width),
            "top": round(top * height),
            "right": round(right * width),
            "bottom": round(bottom * height),
        },
        "centre": {"x": x, "y": y},
        "centre_pixels": {"x": round(x * width), "y": round(y * height)},
        "size": float(region.cells.mean()),
    }


def _shown(name: str) -> str:
    """A file's name as text, whatever bytes it is made of."""
    return os.fsencode(name).decode("utf-8", "replace")


def _check_place(video: Path, folder: Path) -> None:
    """Refuse to write over the video itself, or where ffmpeg-python cannot."""
    if _shown(str(folder)) != str(folder):
        raise UserError(f"{_shown(str(folder))}: its name is not UTF-8; choose another folder")
    try:
        below = video.resolve().relative_to(folder.resolve())
    except ValueError:
        return
    if _OURS.fullmatch(below.as_posix()):
        raise UserError(f"{video}: would be written over; choose another folder than {folder}")


@contextmanager
def _staged(folder: Path) -> Iterator[_Stage]:
    """A hidden folder inside another, whose files move there if the block ends without an error.

    Raises:
        UserError: nothing can be written there.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder)
        hidden = Path(tempfile.mkdtemp(prefix=f"{_STAGE_PREFIX}{os.getpid()}-", dir=folder))
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from None
    stage = _Stage(hidden, [])
    try:
        yield stage
        _publish(stage, folder)
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from None
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        # Nothing was made: neither were they.
        with suppress(OSError):
            for place in missing:
                place.rmdir()


def _remove_stale(folder: Path) -> None:
    """Remove what killed runs left."""
    for hidden in folder.glob(f"{_STAGE_PREFIX}*"):
        number = hidden.name.removeprefix(_STAGE_PREFIX).partition("-")[0]
        if number.isdecimal() and not psutil.pid_exists(int(number)):
            shutil.rmtree(hidden, ignore_errors=True)


def _publish(stage: _Stage, folder: Path) -> None:
    """Move files to their places, and remove those of an earlier run that are no more."""
    former = _former(folder)
    for name in stage.files:
        if (folder / name).is_dir():
            raise UserError(f"{folder / name}: cannot be written (a folder of that name is there)")
    try:
        for name in stage.files:
            (folder / name).parent.mkdir(exist_ok=True)
            (stage.folder / name).replace(folder / name)
        for name in former - set(stage.files):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from None
    with suppress(OSError):
        (folder / "page").rmdir()


def _former(folder: Path) -> set[str]:
    """What an earlier run says it left, as far as a run would."""
    try:
        files = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["files"]
        return {name for name in files if _OURS.fullmatch(name)}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
