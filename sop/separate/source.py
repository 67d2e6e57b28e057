"""What is separated: a video, a part of it, or a sound with a still picture.

A part, and a sound with a picture, become a temporary video with exact times (NUT), whose sound is
stored without loss.

Shapes: H x W pixels.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from sop.inference.recording import Recording, decoded_recording
from sop.media.decoding import probe
from sop.media.ffmpeg import (
    Limits,
    check_run,
    file_url,
    free_memory_limits,
    probe_header,
    run_to_end,
    sound_file,
)
from sop.params import ExtractParams
from sop.player.clip import limits_of, pictures_input, stretch, wav_input
from sop.runtime.errors import LeftOut, UserError
from sop.runtime.files import replacing, require_file, temporary_folder, unicode_name

# Pictures of a part of a video.
PART_LINES = 2160
PART_RATE = 60

# Pictures per second of a still picture; it is shown a little longer than its sound.
STILL_RATE = 2
STILL_SPARE_SECONDS = 1.0
STILL_SIDE = 1920

# A file of a picture may claim any size.
MAX_IMAGE_PIXELS = 100_000_000

# Almost without a visible loss.
QUALITY = {"crf": 14, "preset": "veryfast", "bf": 0}


@dataclass(frozen=True)
class Source:
    """What is separated."""

    video: Path
    """File that has the sound."""
    start: float | None = None
    """Begin of the separated part, seconds; None for the begin of the video."""
    end: float | None = None
    """Its end; None for the end of the video."""
    image: Path | None = None
    """Still picture instead of the pictures of the video."""

    @property
    def name(self) -> str:
        """Name of the file, for results."""
        return unicode_name(self.video)

    def check(self) -> None:
        """Check what can be checked without reading the files.

        Raises:
            UserError: a file is missing, or the part is empty.
        """
        require_file(self.video)
        if self.image is not None:
            require_file(self.image)
        start, end = self.start or 0.0, math.inf if self.end is None else self.end
        # Written so that NaN is refused, too.
        if not (0 <= start < end and start < math.inf):
            raise UserError(
                f"--start {start:g} --end {end:g}: must be 0 or more, and the end after the start"
            )


@contextmanager
def open_source(source: Source, extract: ExtractParams) -> Iterator[tuple[Path, Recording]]:
    """Yield the video that is separated, and what is decoded of it, for the time of the block.

    Args:
        source: what is separated.
        extract: rates, height and quality with which the model was trained.

    Raises:
        UserError: it cannot be read, or has no pictures or no sound.
    """
    with ExitStack() as resources:
        video = source.video
        if source.start is not None or source.end is not None or source.image is not None:
            video = resources.enter_context(temporary_folder()) / "part.nut"
            try:
                _write(source, video)
            except LeftOut as reason:
                raise UserError(f"{source.video}: {reason}") from None
        try:
            recording = resources.enter_context(decoded_recording(video, extract))
        except UserError:
            if source.image is None and _is_sound_only(source.video):
                raise _nothing_to_see(source.video) from None
            raise
        yield video, recording


def _write(source: Source, out: Path) -> None:
    """Write the temporary video."""
    limits = free_memory_limits(math.inf)
    if source.image is not None:
        _write_still(source, source.image, out, limits)
        return
    try:
        _write_part(source, out, limits)
    except LeftOut:
        if _is_sound_only(source.video):
            raise _nothing_to_see(source.video) from None
        raise


def _write_part(source: Source, out: Path, limits: Limits) -> None:
    """Write a part of a video; the sound keeps its rate, channels and samples."""
    found = probe(source.video, limits)
    begin, end = _part(source, found.seconds)
    seconds = end - begin
    rate = f"if(gte(source_fps,{PART_RATE / 4}),min(source_fps,{PART_RATE}),{PART_RATE / 2})"
    pictures, sound = stretch(source.video, found, begin, seconds, rate, PART_LINES)
    _encode(pictures, sound, out, limits_of(seconds))


def _write_still(source: Source, image: Path, out: Path, limits: Limits) -> None:
    """Write a sound with a still picture."""
    picture = read_image(image)
    header = probe_header(source.video, limits, is_sound=True)
    if not header.sounds:
        raise LeftOut("contains no sound")
    track = next((track for track in header.sounds if track.is_default), header.sounds[0])
    wav = out.with_suffix(".wav")
    decoded = sound_file(source.video)[str(track.index)].filter(
        "aresample", first_pts=0, **{"async": 1}
    )
    if source.start is not None or source.end is not None:
        limits_ = {"start": source.start or 0.0}
        if source.end is not None:
            limits_["end"] = source.end
        decoded = decoded.filter("atrim", **limits_).filter("asetpts", "PTS-STARTPTS")
    command = ffmpeg.output(
        decoded, file_url(wav), format="wav", acodec="pcm_f32le", rf64="auto", bitexact=None
    )
    check_run(run_to_end(command, limits))
    length = soundfile.info(wav)
    if not length.frames:
        raise LeftOut("contains no sound in this part")
    seconds = length.frames / length.samplerate
    height, width, _ = picture.shape
    raw = pictures_input(width, height, STILL_RATE)
    pictures = (
        raw.filter("loop", loop=-1, size=1)
        .filter("trim", end=seconds + STILL_SPARE_SECONDS)
        .filter("format", "yuv420p")
    )
    _encode(pictures, wav_input(wav), out, limits_of(seconds), picture.tobytes())
    wav.unlink()


def read_image(path: Path) -> NDArray[np.uint8]:
    """Return a picture, upright, with sides of at most `STILL_SIDE` pixels.

    Args:
        path: a file that Pillow reads: JPEG, PNG, WebP, ...

    Returns:
        (H, W, 3), RGB, both sizes even.

    Raises:
        UserError: it is not a picture, or too large.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise UserError(
                    f"{path}: {image.width} x {image.height} pixels are too many; scale it down"
                )
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise UserError(f"{path}: not a picture that can be read; use a JPEG or PNG") from None
    upright.thumbnail((STILL_SIDE, STILL_SIDE))
    pixels = np.asarray(upright)
    odd = [(0, size % 2) for size in pixels.shape[:2]]
    return np.pad(pixels, (*odd, (0, 0)), mode="edge")


def _encode(pictures: Any, sound: Any, out: Path, limits: Limits, raw: bytes | None = None) -> None:
    """Write streams as the temporary video."""
    with replacing(out) as partial:
        command = ffmpeg.output(
            pictures,
            sound.filter("aformat", sample_fmts="flt"),
            file_url(partial),
            format="nut",
            vcodec="libx264",
            acodec="pcm_f32le",
            flags="+global_header",
            **QUALITY,
        )
        check_run(run_to_end(command, limits, None if raw is None else [raw]))


def _part(source: Source, seconds: float) -> tuple[float, float]:
    """Return begin and end of the part in a video of this length."""
    begin = source.start or 0.0
    end = seconds if source.end is None else min(source.end, seconds)
    if begin >= end:
        raise UserError(
            f"--start {begin:g}: {source.video} has only {seconds:.1f} s; use a smaller number"
        )
    return begin, end


def _is_sound_only(video: Path) -> bool:
    """Tell whether a file has a sound and nothing to look at."""
    with suppress(LeftOut):
        header = probe_header(video, free_memory_limits(60.0), is_sound=True)
        return bool(header.sounds) and not header.pictures
    return False


def _nothing_to_see(video: Path) -> UserError:
    return UserError(
        f"{video}: has sound only, there is nothing to look at; add a picture with --image FILE, "
        "or remove noise with `sop denoise`"
    )
