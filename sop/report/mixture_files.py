"""What the report plays and shows of each mixture, as files beside its page.

Shapes: N sources, R x M rows x frames of masks, T frames, H x W pixels, L samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sop.dataset.clips import CENTRE, Frames, read_frames, sound_seconds, window_start
from sop.dataset.index import Video
from sop.dataset.mixtures import MixtureReader, middle_frame
from sop.evaluate.figure import heat_maps, overlay
from sop.evaluate.records import Record, write_sound
from sop.inference.embedding import Embedding
from sop.inference.localization import Localizer, Region
from sop.inference.recording import Recording
from sop.inference.separator import Separator
from sop.model.spectrogram import (
    binary_masks,
    network_input,
    network_magnitude,
    ratio_masks,
    stft,
)
from sop.params import ExtractParams, Params
from sop.player.clip import limits_of, write_clip, write_side_by_side
from sop.player.colours import hex_colour
from sop.player.player import PlayerClip, PlayerRegion, write_player
from sop.report.page import MixtureFiles, SourceFiles
from sop.runtime.errors import LeftOut
from sop.runtime.files import replacing

DYNAMIC_RANGE_DB = 60.0
# Pixels; a heat map has few cells.
HEAT_PIXELS = 160
PLAYER_PIXELS = 240


@dataclass(frozen=True)
class Sources:
    """What the pictures of mixtures are made from."""

    params: Params
    videos: Mapping[str, Video]
    """The validation list, by name."""
    folder: Path
    """Of the videos themselves, `<category>/<id>.mp4`."""
    separator: Separator | None
    """The model; without one there are neither heat maps nor players."""


def write_mixture(
    folder: Path,
    place: str,
    record: Record,
    denoised: NDArray[np.float32] | None,
    sources: Sources,
    with_player: bool,
) -> tuple[MixtureFiles, list[SourceFiles]]:
    """Write the sounds, pictures and videos of one mixture.

    What cannot be made, because its video is gone or unreadable, is left out.

    Args:
        folder: of the report.
        place: of the mixture, below it.
        record: the mixture.
        denoised: its sounds after denoise, (N, L).
        sources: what they are made from.
        with_player: whether it gets a page on which any pixel can be heard.

    Returns:
        What was written: paths below the folder.
    """
    writer = _Writer(folder, place, sources.params)
    truth = record.truth(sources.params)
    estimates = record.estimates(sources.params)
    mixture = truth.sum(axis=0)
    loudest = writer.level(mixture).max()
    magnitude = _rows(stft(torch.from_numpy(mixture), sources.params.spectrogram), sources.params)
    weighting = np.log1p(magnitude).clip(1e-3, 10)
    files = MixtureFiles(
        sound=writer.sound("mixture", mixture),
        spectrogram=writer.spectrogram("mixture", mixture, loudest),
        weighting=writer.picture("weighting", weighting / weighting.max(), "viridis"),
    )
    ideal = ideal_masks(record, sources.params)[sources.params.model.mask]
    each = []
    for n in range(len(truth)):
        after = None if denoised is None else denoised[n]
        each.append(
            SourceFiles(
                true=writer.sound(f"{n + 1}-true", truth[n]),
                separated=writer.sound(f"{n + 1}-separated", estimates[n]),
                denoised=None if after is None else writer.sound(f"{n + 1}-denoised", after),
                true_spectrogram=writer.spectrogram(f"{n + 1}-true", truth[n], loudest),
                separated_spectrogram=writer.spectrogram(
                    f"{n + 1}-separated", estimates[n], loudest
                ),
                denoised_spectrogram=None
                if after is None
                else writer.spectrogram(f"{n + 1}-denoised", after, loudest),
                predicted_mask=writer.picture(
                    f"{n + 1}-mask", record.masks[n].clip(0, 1), "viridis"
                ),
                true_mask=writer.picture(f"{n + 1}-true-mask", ideal[n].clip(0, 1), "viridis"),
            )
        )
    videos = [sources.videos.get(name) for name in record.videos]
    if None not in videos:
        listed = [video for video in videos if video is not None]
        files, each = _seen(writer, listed, mixture, files, each, sources, with_player)
    return files, each


def ideal_masks(record: Record, params: Params) -> dict[str, NDArray[np.float32]]:
    """The `binary` and the `ratio` masks that know the sources, each (N, R, M)."""
    spectra = stft(torch.from_numpy(record.sources), params.spectrogram)
    whole = network_input(spectra.sum(dim=0), params.spectrogram)
    parts = network_magnitude(spectra, params.spectrogram)
    return {
        "binary": binary_masks(parts[None], whole[None])[0].numpy(),
        "ratio": ratio_masks(parts[None], whole[None])[0].numpy(),
    }


def _seen(
    writer: "_Writer",
    videos: Sequence[Video],
    mixture: NDArray[np.float32],
    files: MixtureFiles,
    each: list[SourceFiles],
    sources: Sources,
    with_player: bool,
) -> tuple[MixtureFiles, list[SourceFiles]]:
    """Add what is made of the videos."""
    params = sources.params
    seconds = len(mixture) / params.extract.sample_rate
    clips = []
    for n, video in enumerate(videos):
        original = sources.folder / f"{video.name}.mp4"
        try:
            begin = clip_begin(video, params)
            path = writer.path(f"{n + 1}-video.mp4")
            write_clip(original, begin, seconds, path, limits_of(seconds))
        except LeftOut:
            continue
        clips.append(path)
        each[n] = replace(each[n], video=writer.name(path))
    if sources.separator is None:
        return files, each
    try:
        frames = MixtureReader(params.mixture, params.extract).middle(videos).frames
    except LeftOut:
        return files, each
    heats = heat_maps(sources.separator.player, mixture, frames)
    for n, heat in enumerate(heats):
        frame = frames[n, frames.shape[1] // 2]
        each[n] = replace(
            each[n],
            heat=writer.still(f"{n + 1}-heat", overlay(frame, heat)),
            frame=writer.still(f"{n + 1}-frame", frame),
        )
    if with_player and len(clips) == len(videos):
        page = _write_player(writer, videos, clips, mixture, sources.separator, params)
        files = replace(files, player=writer.name(page))
    return files, each


def clip_begin(video: Video, params: Params) -> float:
    """Second at which the clip of a video begins that is mixed for evaluation.

    Raises:
        LeftOut: its sound cannot be read.
    """
    rate, samples = params.extract.sample_rate, params.mixture.audio_samples
    centre = (middle_frame(video) - 0.5) / params.extract.frame_rate
    length = round(sound_seconds(video.audio) * rate)
    return window_start(int(centre * rate), samples, length) / rate


class _Clip(Recording):
    """The clip of a video as it is evaluated: its middle square, under the mixture's sound."""

    def __init__(
        self, video: Video, extract: ExtractParams, sound: NDArray[np.float32], size: int
    ) -> None:
        super().__init__(video, extract, sound)
        self._size = size

    def frames(self, seconds: float, count: int, stride: int, size: int) -> Frames:
        """Always those of the clip's middle, however long after its begin."""
        numbers = middle_frame(self._video) + (np.arange(count) - count // 2) * stride
        numbers = np.clip(numbers, 1, self._video.frame_count)
        return read_frames(self._video.frames, numbers.tolist(), self._size, CENTRE)


def _write_player(
    writer: "_Writer",
    videos: Sequence[Video],
    clips: Sequence[Path],
    mixture: NDArray[np.float32],
    separator: Separator,
    params: Params,
) -> Path:
    """Write the pixel player of a mixture: its videos beside each other, under its sound."""
    count = 1 + len(mixture) // params.spectrogram.stft_hop
    size = params.mixture.image_size
    embeddings = [
        separator.embed(_Clip(video, params.extract, mixture, size), 0, count) for video in videos
    ]
    beside = _beside(embeddings)
    localizer = Localizer(params.model.image_pooling)
    localizer.update(beside)
    width = embeddings[0].cells.shape[2]
    regions = []
    for n, video in enumerate(videos):
        cells = np.zeros(beside.cells.shape[1:3], bool)
        cells[:, n * width : (n + 1) * width] = True
        regions.append(
            PlayerRegion(
                name=video.category.replace("_", " "),
                cells=cells,
                features=separator.features(beside, Region(cells, energy=0.0)),
                colour=hex_colour(n),
            )
        )
    clip = PlayerClip(
        title=" + ".join(video.name for video in videos),
        embedding=beside,
        regions=tuple(regions),
        heat=beside.heat(),
        colours=localizer.localize().colours,
    )
    together = writer.path("player/video.mp4")
    sound = writer.path("player/mixture.wav")
    write_sound(sound, mixture, params.extract.sample_rate)
    seconds = len(mixture) / params.extract.sample_rate
    write_side_by_side(clips, sound, PLAYER_PIXELS, together, limits_of(seconds))
    sound.unlink()
    return write_player(together.parent, clip, together)


def _beside(embeddings: Sequence[Embedding]) -> Embedding:
    """One embedding of pictures beside each other, under the same sound."""
    return replace(embeddings[0], cells=np.concatenate([one.cells for one in embeddings], axis=2))


def _rows(spectrum: Tensor, params: Params) -> NDArray[np.float32]:
    """Magnitude on the frequency axis of the masks, (R, M)."""
    rows: NDArray[np.float32] = network_magnitude(spectrum, params.spectrogram).numpy()
    return rows


class _Writer:
    """Writes files of one mixture, and knows what the page calls them."""

    def __init__(self, folder: Path, place: str, params: Params) -> None:
        self._folder = folder
        self._place = folder / place
        self._params = params

    def path(self, name: str) -> Path:
        path = self._place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def name(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()

    def sound(self, name: str, sound: NDArray[np.float32]) -> str:
        # Browsers play it, at half the size of a WAV.
        path = self.path(f"{name}.flac")
        write_sound(path, sound, self._params.extract.sample_rate)
        return self.name(path)

    def level(self, sound: NDArray[np.float32]) -> NDArray[np.float32]:
        spectrum = stft(torch.from_numpy(np.ascontiguousarray(sound)), self._params.spectrogram)
        level: NDArray[np.float32] = 20 * np.log10(_rows(spectrum, self._params).clip(1e-6))
        return level

    def spectrogram(self, name: str, sound: NDArray[np.float32], loudest: float) -> str:
        shown = (self.level(sound) - loudest) / DYNAMIC_RANGE_DB + 1
        return self.picture(f"{name}-spectrogram", shown.clip(0, 1), "magma")

    def picture(self, name: str, values: NDArray[np.floating], colours: str) -> str:
        """Values in [0, 1], (R, M), the lowest frequency at the bottom."""
        return self.still(name, (colormaps[colours](values[::-1])[..., :3] * 255).astype(np.uint8))

    def still(self, name: str, pixels: NDArray[np.uint8]) -> str:
        path = self.path(f"{name}.png")
        with replacing(path) as partial:
            Image.fromarray(pixels).save(partial, "PNG")
        return self.name(path)
