"""Sounds, pictures, videos and players of the mixtures in the report, as files next to its page.

Shapes: N sources, R x M rows x frames of masks, T frames, H x W pixels, L samples.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from sop.dataset.clips import sound_seconds, window_start
from sop.dataset.index import Video
from sop.dataset.mixtures import Mixture, MixtureReader, middle_frame
from sop.evaluate.listed import clips_of
from sop.evaluate.records import Record, write_sound
from sop.model.pixelplayer import PixelPlayer
from sop.model.spectrogram import (
    LOG_FREQUENCY_ROWS,
    binary_masks,
    network_input,
    network_magnitude,
    ratio_masks,
    stft,
    unwarp_rows,
)
from sop.params import Params
from sop.player.clip import limits_of, write_clip, write_side_by_side
from sop.player.player import write_player
from sop.report.example import DYNAMIC_RANGE_DB, heat_maps, overlay
from sop.report.mixture_player import mixture_clip
from sop.report.page import PAGE, Axes, MixtureFiles
from sop.runtime.errors import LeftOut
from sop.runtime.files import make_folder, replacing

Sound = NDArray[np.float32]
"""(L,) samples."""

MIXTURES_FOLDER = "mixtures"
PLAYER_PIXELS = 240

# Frequencies that an axis may name, and the smallest distance of two names, as a share of the axis.
_HERTZ = (100, 200, 500, 1000, 2000, 5000, 10000, 20000)
_MIN_DISTANCE = 0.13
_MAX_TIMES = 5


@dataclass(frozen=True)
class MixtureFileWriter:
    """Writes the files of one mixture below the folder of the report."""

    folder: Path
    """Folder of the report."""
    params: Params
    videos: Mapping[str, Video]
    """Sound and frames of the validation videos, by name."""
    originals: Path
    """Folder of the videos themselves, `<category>/<id>.mp4`."""
    player: PixelPlayer | None
    """The model; None writes neither heat maps nor players."""
    record: Record
    """The mixture."""

    def write(self, denoised: NDArray[np.float32] | None, with_player: bool) -> MixtureFiles:
        """Write the files. Files that need a missing or unreadable video are left out.

        Args:
            denoised: separated sounds after denoising, (N, L); None without denoising.
            with_player: whether to write its pixel player.

        Returns:
            Paths relative to the folder.
        """
        record = self.record
        truth, estimates = record.truth(self.params), record.estimates(self.params)
        ideal = ideal_masks(record, self.params)[self.params.model.mask]
        mixture = truth.sum(axis=0)
        loudest = self._level(mixture).max()
        # How much each bin counts in the loss.
        weighting = np.log1p(self._magnitude(mixture)).clip(1e-3, 10)
        of_mixture = {
            "sound": self._sound("mixture", mixture),
            "spectrogram": self._spectrogram("mixture", mixture, loudest),
            "weighting": self._picture("weighting", weighting / weighting.max(), "viridis"),
        }
        of_sources = []
        for n in range(len(truth)):
            sounds = {"true": truth[n], "separated": estimates[n]}
            if denoised is not None:
                sounds["denoised"] = denoised[n]
            own = {
                "predicted_mask": self._picture(f"{n + 1}-mask", record.masks[n], "viridis"),
                "true_mask": self._picture(f"{n + 1}-true-mask", ideal[n], "viridis"),
            }
            for kind, sound in sounds.items():
                own[kind] = self._sound(f"{n + 1}-{kind}", sound)
                own[f"{kind}_spectrogram"] = self._spectrogram(f"{n + 1}-{kind}", sound, loudest)
            of_sources.append(own)
        videos = clips_of(record, self.videos)
        if len(videos) == len(record.videos):
            clips = self._add_clips(videos, len(mixture), of_sources)
            read = self._read(videos)
            if self.player is not None and read is not None:
                self._add_pictures(self.player, mixture, read, of_sources)
                if with_player and len(clips) == len(videos):
                    of_mixture["player"] = self._player(self.player, clips, read)
        return MixtureFiles(of_mixture, of_sources)

    def _add_clips(
        self, videos: Sequence[Video], samples: int, of_sources: Sequence[dict[str, str]]
    ) -> list[Path]:
        """Cut the evaluated clips out of the videos; return those that could be read."""
        seconds = samples / self.params.extract.sample_rate
        clips = []
        for n, (video, own) in enumerate(zip(videos, of_sources, strict=True), start=1):
            path = self._path(f"{n}-video.mp4")
            try:
                begin = clip_begin(video, self.params)
                original = self.originals / f"{video.name}.mp4"
                write_clip(original, begin, seconds, path, limits_of(seconds))
            except LeftOut:
                continue
            clips.append(path)
            own["video"] = self._name(path)
        return clips

    def _read(self, videos: Sequence[Video]) -> Mixture | None:
        """Read the evaluated frames and motion; None if a video cannot be read."""
        params = self.params
        moving = params.model.motion != "none"
        try:
            return MixtureReader(params.mixture, params.extract, moving).middle(videos)
        except LeftOut:
            return None

    def _add_pictures(
        self,
        player: PixelPlayer,
        mixture: Sound,
        read: Mixture,
        of_sources: Sequence[dict[str, str]],
    ) -> None:
        """Draw the middle frame of each video and its heat map."""
        heats = heat_maps(player, mixture, read.frames, read.motion)
        middle = read.frames[:, read.frames.shape[1] // 2]
        for n, (own, frame, heat) in enumerate(zip(of_sources, middle, heats, strict=True), 1):
            own["heat"] = self._still(f"{n}-heat", overlay(frame, heat))
            own["frame"] = self._still(f"{n}-frame", frame)

    def _player(self, player: PixelPlayer, clips: Sequence[Path], read: Mixture) -> str:
        """Write the pixel player of a mixture: its videos side by side, with its sound."""
        clip = mixture_clip(player, self.record, read.frames, self.params, read.motion)
        audio, rate = clip.embedding.audio, clip.embedding.sample_rate
        video, sound = self._path("player/video.mp4"), self._path("player/mixture.wav")
        write_sound(sound, audio, rate)
        write_side_by_side(clips, sound, PLAYER_PIXELS, video, limits_of(len(audio) / rate))
        sound.unlink()
        page = Path(os.path.relpath(self.folder / PAGE, video.parent)).as_posix()
        clip = replace(clip, report=f"{page}#mixture-{self.record.number}")
        return self._name(write_player(video.parent, clip, video))

    def _path(self, name: str) -> Path:
        path = self.folder / MIXTURES_FOLDER / f"{self.record.number:03d}" / name
        make_folder(path.parent)
        return path

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _sound(self, name: str, sound: Sound) -> str:
        # Browsers play FLAC, which is half the size of WAV.
        path = self._path(f"{name}.flac")
        write_sound(path, sound, self.params.extract.sample_rate)
        return self._name(path)

    def _magnitude(self, sound: Sound) -> NDArray[np.float32]:
        """Return the spectrogram on the frequency axis of the masks, (R, M)."""
        spectrum = stft(torch.from_numpy(np.ascontiguousarray(sound)), self.params.spectrogram)
        rows: NDArray[np.float32] = network_magnitude(spectrum, self.params.spectrogram).numpy()
        return rows

    def _level(self, sound: Sound) -> NDArray[np.float32]:
        """Return the spectrogram in dB, (R, M)."""
        level: NDArray[np.float32] = 20 * np.log10(self._magnitude(sound).clip(1e-6))
        return level

    def _spectrogram(self, name: str, sound: Sound, loudest: float) -> str:
        shown = (self._level(sound) - loudest) / DYNAMIC_RANGE_DB + 1
        return self._picture(f"{name}-spectrogram", shown, "magma")

    def _picture(self, name: str, values: NDArray[np.floating], colours: str) -> str:
        """Draw values, clipped to [0, 1], (R, M), with the lowest frequency at the bottom."""
        pixels = colormaps[colours](values[::-1].clip(0, 1))[..., :3] * 255
        return self._still(name, pixels.astype(np.uint8))

    def _still(self, name: str, pixels: NDArray[np.uint8]) -> str:
        path = self._path(f"{name}.png")
        with replacing(path) as partial:
            Image.fromarray(pixels).save(partial, "PNG")
        return self._name(path)


def picture_axes(params: Params) -> Axes:
    """Return the axes of the spectrograms and masks of evaluated mixtures.

    A column of a picture shows the spectrogram frame around its time, a row the bin around its
    frequency, so that the first and the last of them reach half a frame, or bin, beyond.
    """
    rate, hop = params.extract.sample_rate, params.spectrogram.stft_hop
    bins = params.spectrogram.stft_frame // 2 + 1
    columns = 1 + params.mixture.audio_samples // hop
    begin, end = -0.5 * hop / rate, (columns - 0.5) * hop / rate
    step = next(
        size * 10.0**power
        for power in range(-3, 6)
        for size in (1, 2, 5)
        if end / (size * 10.0**power) < _MAX_TIMES
    )
    times = [step * n for n in range(_MAX_TIMES) if step * n < end - 0.15 * (end - begin)]
    log = params.spectrogram.log_frequency
    rows = LOG_FREQUENCY_ROWS if log else bins
    # Place of each bin, from 0 in the lowest row to 1 in the highest one.
    places = ((unwarp_rows(bins) + 1) / 2).numpy() if log else np.linspace(0, 1, bins)
    hertz: list[tuple[float, str]] = []
    for frequency in _HERTZ:
        place = np.interp(frequency, np.linspace(0, rate / 2, bins), places)
        share = (float(place) * (rows - 1) + 0.5) / rows
        if frequency < rate / 2 and share - (hertz[-1][0] if hertz else -1) > _MIN_DISTANCE:
            name = f"{frequency} Hz" if frequency < 1000 else f"{frequency // 1000} kHz"
            hertz.append((round(share, 4), name))
    seconds = [(round((time - begin) / (end - begin), 4), f"{time:g} s") for time in times]
    return Axes(seconds, hertz, (round(begin, 6), round(end, 6)), DYNAMIC_RANGE_DB)


def ideal_masks(record: Record, params: Params) -> dict[str, NDArray[np.float32]]:
    """Return the `binary` and the `ratio` masks of the true sources, each (N, R, M)."""
    spectra = stft(torch.from_numpy(record.sources), params.spectrogram)
    mixture = network_input(spectra.sum(dim=0), params.spectrogram)
    sources = network_magnitude(spectra, params.spectrogram)
    return {
        "binary": binary_masks(sources[None], mixture[None])[0].numpy(),
        "ratio": ratio_masks(sources[None], mixture[None])[0].numpy(),
    }


def clip_begin(video: Video, params: Params) -> float:
    """Return the second at which the evaluated clip of a video begins.

    Raises:
        LeftOut: its sound cannot be read.
    """
    rate, samples = params.extract.sample_rate, params.mixture.audio_samples
    centre = (middle_frame(video) - 0.5) / params.extract.frame_rate
    length = round(sound_seconds(video.audio) * rate)
    return window_start(int(centre * rate), samples, length) / rate
