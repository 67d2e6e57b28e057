"""The frames and the sound of one video on disk, read piece by piece.

Shapes: T frames, H x W pixels, L samples.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from sop.dataset.clips import (
    Audio,
    Frames,
    Motion,
    pack,
    pack_motion,
    read_audio,
    read_pictures,
    read_whole_motion,
    sound_seconds,
)
from sop.dataset.index import Video
from sop.inference.pictures import spread_numbers
from sop.media.decoding import MotionOutput, PictureOutput, Probe, SoundOutput, decode, probe
from sop.media.ffmpeg import free_memory_limits
from sop.params import ExtractParams
from sop.runtime.errors import LeftOut, UserError
from sop.runtime.files import require_file, temporary_folder, writing_temporary

logger = logging.getLogger(__name__)


class Recording:
    """The input of the networks for one video.

    Args:
        video: paths of its sound and frames, and of its motion track if there is one.
        extract: sample rate, frame rate and motion rate.
        sound: samples that replace the video's own sound, (L,); None to use its own.
        source: how the streams of the original video are read; None if there is none.

    Raises:
        LeftOut: the sound cannot be read.
    """

    def __init__(
        self,
        video: Video,
        extract: ExtractParams,
        sound: Audio | None = None,
        source: Probe | None = None,
    ) -> None:
        self._video = video
        self._extract = extract
        self._sound = sound
        self.sample_rate = extract.sample_rate
        self.samples = (
            round(sound_seconds(video.audio) * extract.sample_rate) if sound is None else len(sound)
        )
        self.seconds = self.samples / extract.sample_rate
        # As long as the decoded sound, up to rounding to whole samples.
        self.source = replace(source or Probe(0.0), seconds=self.seconds)

    def sound(self, begin: int, end: int) -> Audio:
        """Return the samples in [begin, end), padded with zeros outside the recording."""
        audio = np.zeros(end - begin, np.float32)
        first, last = max(begin, 0), min(end, self.samples)
        if first < last:
            # A quarter of a sample after the centre, so that rounding cannot select the previous
            # sample.
            centre = (first + (last - first) // 2 + 0.25) / self.sample_rate
            audio[first - begin : last - begin] = (
                read_audio(self._video.audio, centre, last - first, self.sample_rate)
                if self._sound is None
                else self._sound[first:last]
            )
        return audio

    def frames(self, seconds: float, count: int, stride: int, size: int) -> Frames:
        """Return whole frames around a moment, spaced as in a training clip.

        Args:
            seconds: time of the centre frame.
            count: T, number of frames.
            stride: distance of consecutive frames; the first and the last frame of the video are
                repeated beyond its ends.
            size: length of the shorter side, pixels.

        Returns:
            (T, H, W, 3) RGB.
        """
        centre = round(seconds * self._extract.frame_rate + 0.5)
        numbers = centre + (np.arange(count) - count // 2) * stride
        numbers = np.clip(numbers, 1, self._video.frame_count)
        return read_pictures(self._video.frames, numbers.tolist(), size)

    def pictures(self, size: int) -> Frames:
        """Return the whole frames that are compared with those of training.

        Args:
            size: length of the shorter side, pixels.

        Returns:
            (PICTURES, H, W, 3) RGB.
        """
        numbers = spread_numbers(self._video.frame_count)
        return read_pictures(self._video.frames, numbers, size)

    def motion(self, begin: float, count: int, size: int) -> Motion:
        """Return whole, consecutive motion frames from a moment on.

        Args:
            begin: second at which they begin: frame i shows second begin + (i + 0.5) /
                `extract.motion_rate`. Beyond the ends of the video its first and last frame are
                repeated.
            count: T, number of frames.
            size: length of the shorter side, pixels.

        Returns:
            (T, H, W).

        Raises:
            LeftOut: there is no motion track, or it is damaged.
        """
        track, rate = self._video.motion, self._extract.motion_rate
        if track is None or rate is None:
            raise LeftOut("it has no motion track; set extract.motion_rate")
        return read_whole_motion(track, begin, count, rate, size)


@contextmanager
def decoded_recording(video: Path, extract: ExtractParams) -> Iterator[Recording]:
    """Decode a video into a temporary folder, which is removed at the end of the block.

    Args:
        video: any file that ffmpeg reads.
        extract: rates, height and quality with which the model was trained.

    Raises:
        UserError: the video cannot be read, or has no pictures or no sound; or the disk of
            temporary files is full.
    """
    require_file(video)
    with temporary_folder() as folder:
        audio, frames = folder / "sound.wav", folder / "frames.zip"
        # No time limit, because the length of the video is unlimited.
        limits = free_memory_limits(float("inf"))
        try:
            found = probe(video, limits)
            for note in found.notes:
                logger.info(f"{video}: {note}")
            sound = SoundOutput(audio, extract.sample_rate)
            pictures = PictureOutput(extract.frame_rate, extract.frame_height, extract.jpeg_quality)
            luminance = motion = None
            if extract.motion_rate is not None:
                luminance = MotionOutput(
                    folder / "motion.y4m", extract.motion_rate, extract.motion_height
                )
                motion = folder / "motion.npy"
            with writing_temporary(folder):
                count = pack(decode(video, found, sound, pictures, limits, luminance), frames)
                if luminance is not None and motion is not None:
                    pack_motion(luminance.path, motion)
                    luminance.path.unlink()
            if not count:
                raise LeftOut("contains no pictures")
            yield Recording(Video(audio, frames, count, motion=motion), extract, source=found)
        except LeftOut as reason:
            raise UserError(f"{video}: {reason}") from None
