"""Separate a video: find what sounds in it, and hand over the sound of each.

Shapes: W windows, T frames of each, h x w cells, C channels, F x M frequency bins x spectrogram
frames, K regions, L samples.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sop.inference.embedding import Embedding, Values, shares
from sop.inference.localization import Listener, Localization, Region, pool
from sop.inference.recording import Recording, recorded
from sop.model.checkpoint import load_player
from sop.model.pixelplayer import PixelPlayer, normalise_frames
from sop.model.spectrogram import network_input
from sop.params import Params
from sop.runtime.device import choose_device
from sop.runtime.progress import progress

# Windows that the networks see at once, and that a stretch of a long recording is made of.
BATCH_WINDOWS = 8
STRETCH_WINDOWS = 16


@dataclass(frozen=True)
class Separation:
    """A video's sound, taken apart; mono, at the model's sample rate."""

    sample_rate: int
    """Hz."""
    mixture: Values
    """What was heard, (L,)."""
    components: Values
    """The sound of each region, and last what belongs to none: they sum to the mixture,
    (K + 1, L)."""
    localization: Localization
    """Where it sounds, and the K regions."""


class Separator:
    """A trained model, ready for videos of any length.

    Args:
        player: the model.
        params: what it was trained under.
        device: where it computes.
    """

    def __init__(self, player: PixelPlayer, params: Params, device: torch.device) -> None:
        self.player = player.to(device).eval()
        self.params = params
        self.device = device
        self._hop = params.spectrogram.stft_hop
        self._window_frames = 1 + params.mixture.audio_samples // self._hop

    @classmethod
    def load(cls, checkpoint: Path | str, device: str = "auto") -> "Separator":
        """Read a model of the pipeline.

        Raises:
            UserError: it is missing, damaged or foreign.
        """
        player, params = load_player(Path(checkpoint))
        return cls(player, params, choose_device(device))

    def separate(self, video: Path | str, regions: int | None = None) -> Separation:
        """Take a whole video apart, in memory; `stretches` does it piece by piece.

        Args:
            video: any file that ffmpeg reads.
            regions: how many there are; None finds out.

        Raises:
            UserError: the video cannot be read.
        """
        with recorded(Path(video), self.params.extract) as recording:
            where = self.localize(recording, regions)
            embedding = self.embed(recording, 0, self.frames(recording))
            masks = self.shares(embedding, where.regions)
        length = recording.samples
        components = np.zeros((len(masks), length), np.float32)
        sounds = embedding.sounds(masks)[:, :length]
        components[:, : sounds.shape[1]] = sounds
        return Separation(recording.sample_rate, embedding.audio[:length], components, where)

    def frames(self, recording: Recording) -> int:
        """Spectrogram frames of a recording, M: the last lies at or after its end."""
        return 1 + -(-recording.samples // self._hop)

    def localize(
        self, recording: Recording, regions: int | None = None, task: str | None = None
    ) -> Localization:
        """Listen to a whole recording and find what sounds.

        Args:
            recording: of any length.
            regions: how many there are; None finds out.
            task: what this is called where its progress is shown; None shows none.
        """
        listener = Listener(self.params.model.image_pooling)
        for first, embedding in self.stretches(recording, task):
            listener.hear(embedding, self.power(recording, first, embedding.fades.shape[1]))
        return listener.localize(regions)

    def stretches(
        self, recording: Recording, task: str | None = None
    ) -> Iterator[tuple[int, Embedding]]:
        """A recording piece by piece: the spectrogram frame at which each begins, and the piece.

        Args:
            recording: of any length.
            task: what this is called where its progress is shown; None shows none.
        """
        total = self.frames(recording)
        step = STRETCH_WINDOWS * max(1, self._window_frames // 2)
        starts: Iterable[int] = range(0, total, step)
        if task is not None:
            starts = progress(starts, task, -(-total // step), "piece")
        for first in starts:
            yield first, self.embed(recording, first, min(step, total - first))

    def shares(self, embedding: Embedding, regions: tuple[Region, ...]) -> Values:
        """How the sound is shared out among regions and the rest, (K + 1, F, M); they sum to 1."""
        bins = self.params.spectrogram.stft_frame // 2 + 1
        if not regions:
            return np.ones((1, bins, embedding.fades.shape[1]), np.float32)
        features = [self.features(embedding, region) for region in regions]
        return shares(embedding.masks(np.stack(features, axis=1)))

    def features(self, embedding: Embedding, region: Region) -> Values:
        """Features of a region in each window, (W, C)."""
        if region.features is not None:
            return np.tile(region.features, (len(embedding.cells), 1))
        return pool(embedding.cells, region.cells, self.params.model.image_pooling)

    def power(self, recording: Recording, first: int, count: int) -> Values:
        """Energy of the sound's bins in frames `first` to before `first + count`, (F, count).

        Other than that of the stretch alone, it does not fade where a recording is cut.
        """
        power: Values = self._spectra(recording, [first], count)[0].abs().square().cpu().numpy()
        return power

    def embed(self, recording: Recording, first: int, count: int) -> Embedding:
        """What the networks make of spectrogram frames `first` to before `first + count`.

        The windows are those of the whole recording, wherever a stretch of it is cut.
        """
        total = max(self.frames(recording), self._window_frames)
        starts, fades = _windows(total, self._window_frames, first, count)
        weights = self.player.synthesizer.scale
        channels = self.params.model.channels
        components = None
        cells = []
        with torch.inference_mode():
            for position in range(0, len(starts), BATCH_WINDOWS):
                batch = starts[position : position + BATCH_WINDOWS]
                maps, features = self._see_and_hear(recording, batch)
                cells.append(features)
                if components is None:
                    components = np.zeros((channels, maps.shape[2], count), np.float32)
                for start, window in zip(batch, maps, strict=True):
                    begin, end = max(start, first), min(start + window.shape[-1], first + count)
                    fade = fades[starts.index(start), begin - first : end - first]
                    components[:, :, begin - first : end - first] += (
                        fade * window[:, :, begin - start : end - start]
                    )
        assert components is not None
        begin = first * self._hop
        return Embedding(
            audio=recording.sound(begin, begin + (count - 1) * self._hop),
            sample_rate=recording.sample_rate,
            spectrogram=self.params.spectrogram,
            components=components,
            cells=np.concatenate(cells),
            scale=np.ones(channels, np.float32)
            if weights is None
            else weights.detach().cpu().numpy(),
            fades=fades,
            bias=float(self.player.synthesizer.bias.detach()),
            activation=self.params.model.output_activation,
            image_activation=self.params.model.image_activation,
        )

    def _see_and_hear(self, recording: Recording, starts: list[int]) -> tuple[Values, Values]:
        """Component maps (W, C, R, M) and features of cells (W, h, w, C) of windows."""
        mixture, model = self.params.mixture, self.params.model
        half = self._window_frames * self._hop / 2 / recording.sample_rate
        seconds = [start * self._hop / recording.sample_rate + half for start in starts]
        frames = np.stack(
            [
                recording.frames(at, mixture.frames, mixture.frame_stride, mixture.image_size)
                for at in seconds
            ]
        )
        pixels = normalise_frames(torch.from_numpy(frames).to(self.device))
        features = self.player.vision(pixels)
        pooled = features.mean(dim=1) if model.image_pooling == "avgpool" else features.amax(dim=1)
        cells = pooled.permute(0, 2, 3, 1)
        magnitude = self._magnitude(recording, starts)
        maps = self.player.sound_features(magnitude)
        return maps.float().cpu().numpy(), cells.float().cpu().numpy()

    def _magnitude(self, recording: Recording, starts: list[int]) -> torch.Tensor:
        """The mixture's magnitude in windows, as the sound net wants it, (W, R, M)."""
        spectra = self._spectra(recording, starts, self._window_frames)
        return network_input(spectra, self.params.spectrogram)

    def _spectra(self, recording: Recording, starts: list[int], count: int) -> torch.Tensor:
        """Spectrograms of stretches of as many frames, complex, (stretches, F, count)."""
        params = self.params.spectrogram
        margin = params.stft_frame // 2
        length = (count - 1) * self._hop
        sounds = [
            recording.sound(start * self._hop - margin, start * self._hop + length + margin)
            for start in starts
        ]
        return torch.stft(
            torch.from_numpy(np.stack(sounds)).to(self.device),
            params.stft_frame,
            hop_length=self._hop,
            window=torch.hann_window(params.stft_frame, device=self.device),
            center=False,
            return_complex=True,
        )


def _windows(total: int, size: int, first: int, count: int) -> tuple[list[int], Values]:
    """Where the windows of a recording begin that touch a stretch, and how they fade over it.

    Windows overlap by half; the last ends with the recording.

    Args:
        total: spectrogram frames of the recording, at least `size`.
        size: of a window.
        first: frame of the stretch.
        count: its frames.

    Returns:
        W starts, and (W, count) weights, whose sum over W is 1.
    """
    step = max(1, size // 2)
    every = [*range(0, total - size, step), total - size]
    starts = [start for start in every if start < first + count and start + size > first]
    frames = np.arange(first, first + count)
    # A triangle over each window; all that hear a frame share it.
    distance = np.abs(frames + 0.5 - (np.array(starts)[:, None] + size / 2))
    rising = np.maximum(size / 2 - distance, 0)
    fades: NDArray[np.float32] = (rising / rising.sum(axis=0)).astype(np.float32)
    return starts, fades
