"""Separation of videos with a trained model.

Shapes: W windows, T frames of each, h x w cells, C channels, R mask rows, F x M frequency bins x
spectrogram frames, K regions, L samples.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sop.inference.embedding import Embedding, MotionEmbedding, normalize_masks
from sop.inference.localization import Competition, Localization, Localizer, Region, pool_region
from sop.inference.recording import Recording
from sop.model.card import ModelAbout
from sop.model.checkpoint import load_model, model_file
from sop.model.motion import LEAD, REACH, TAIL, on_grid
from sop.model.pixelplayer import PixelPlayer, normalize_frames
from sop.model.spectrogram import network_input
from sop.params import InferenceParams
from sop.runtime.device import choose_device
from sop.runtime.files import unicode_name
from sop.runtime.hashes import sha256
from sop.runtime.progress import progress

# Number of windows in one pass of the networks, and in one segment of a long recording.
BATCH_WINDOWS = 8
SEGMENT_WINDOWS = 16


class Separator:
    """A trained model at work on recordings of any length; `sop.Separator` is its public form.

    Args:
        player: the model.
        params: parameters with which it was trained.
        device: device on which it computes.
        about: identity and card of the model; None if it is of no file.
    """

    def __init__(
        self,
        player: PixelPlayer,
        params: InferenceParams,
        device: torch.device,
        about: ModelAbout | None = None,
    ) -> None:
        self.player = player.to(device).eval()
        self.params = params
        self.device = device
        self.about = about
        self._hop = params.spectrogram.stft_hop
        self._window_frames = 1 + params.mixture.audio_samples // self._hop

    @classmethod
    def load(
        cls, checkpoint: Path | str, device: str = "auto", name: str | None = None
    ) -> "Separator":
        """Load a model that the pipeline has trained.

        Args:
            checkpoint: path of the model file, such as `data/model/last.pt`.
            device: `cpu`, `cuda`, `cuda:1`, or `auto` for a GPU if there is one.
            name: name of the model in results; None for that of the file.

        Raises:
            UserError: the file is missing, damaged or not a model of this project.
        """
        path = model_file(Path(checkpoint))
        model = load_model(path)
        about = ModelAbout(name or unicode_name(path), sha256(path), model.card)
        return cls(model.player, model.params, choose_device(device), about)

    def frames(self, recording: Recording) -> int:
        """Return M, the number of spectrogram frames; the last is at or after the end."""
        return 1 + -(-recording.samples // self._hop)

    def localize(
        self,
        recording: Recording,
        regions: int | None = None,
        task: str | None = None,
        part: slice = slice(None),
    ) -> Localization:
        """Find the regions of a recording that emit sound.

        Args:
            recording: a recording of any length.
            regions: number of regions; None determines it from the sound.
            task: name of the progress display; None shows no progress.
            part: spectrogram frames that are observed.

        Raises:
            UserError: regions are requested but the recording is silent.
        """
        localizer = Localizer(self.params.model.image_pooling)
        for first, embedding in self.segments(recording, task, part):
            frames = embedding.crossfade.shape[1]
            localizer.update(embedding, self.power(recording, first, frames))
        found = localizer.localize(regions)
        # A number of regions that the user gives is not questioned.
        if self.player.motion is None or regions is not None or len(found.regions) < 2:
            return found
        return replace(found, regions=self._heard(recording, found.regions, task, part))

    def _heard(
        self, recording: Recording, regions: tuple[Region, ...], task: str | None, part: slice
    ) -> tuple[Region, ...]:
        """Return the regions that emit sound, in comparison with each other."""
        competition = Competition(regions)
        title = task and f"{task}, comparing regions"
        for first, embedding in self.segments(recording, title, part):
            frames = embedding.crossfade.shape[1]
            masks = self._single_masks(embedding, regions)
            competition.update(masks, self.power(recording, first, frames))
        return competition.winners()

    def segments(
        self, recording: Recording, task: str | None = None, part: slice = slice(None)
    ) -> Iterator[tuple[int, Embedding]]:
        """Embed a recording segment by segment.

        Args:
            recording: a recording of any length.
            task: name of the progress display; None shows no progress.
            part: spectrogram frames that are embedded.

        Yields:
            The first spectrogram frame of each segment, and its embedding.
        """
        begin, end, _ = part.indices(self.frames(recording))
        step = SEGMENT_WINDOWS * max(1, self._window_frames // 2)
        starts: Iterable[int] = range(begin, end, step)
        if task is not None:
            starts = progress(starts, task, -(-(end - begin) // step), "segment")
        for first in starts:
            yield first, self.embed(recording, first, min(step, end - first))

    def region_masks(
        self, embedding: Embedding, regions: tuple[Region, ...]
    ) -> NDArray[np.float32]:
        """Return the masks of the regions and of the rest, (K + 1, F, M); they sum to 1."""
        bins = self.params.spectrogram.stft_frame // 2 + 1
        if not regions:
            return np.ones((1, bins, embedding.crossfade.shape[1]), np.float32)
        return normalize_masks(self._single_masks(embedding, regions))

    def _single_masks(
        self, embedding: Embedding, regions: tuple[Region, ...]
    ) -> NDArray[np.float32]:
        """Return the mask of each region by itself, (K, F, M)."""
        features = [self.features(embedding, region) for region in regions]
        envelopes = None
        if embedding.motion is not None:
            envelopes = np.stack([region_envelopes(embedding.motion, region) for region in regions])
        return embedding.masks(np.stack(features, axis=1), envelopes=envelopes)

    def features(self, embedding: Embedding, region: Region) -> NDArray[np.float32]:
        """Return the visual features of a region in each window, (W, C)."""
        if region.features is not None:
            return np.tile(region.features, (len(embedding.cells), 1))
        return pool_region(embedding.cells, region.cells, self.params.model.image_pooling)

    def power(self, recording: Recording, first: int, count: int) -> NDArray[np.float32]:
        """Return the energy of the sound's bins, (F, count).

        The frames at the edges include the sound beyond them, so that the result does not depend
        on how the recording is cut into segments.

        Args:
            recording: a recording of any length.
            first: first spectrogram frame.
            count: number of frames.
        """
        spectra = self._spectra(recording, [first], count)
        power: NDArray[np.float32] = spectra[0].abs().square().cpu().numpy()
        return power

    def embed(self, recording: Recording, first: int, count: int) -> Embedding:
        """Run the networks on a segment of a recording.

        The windows are those of the whole recording, wherever it is cut into segments.

        Args:
            recording: a recording of any length.
            first: first spectrogram frame of the segment.
            count: number of frames.
        """
        total = max(self.frames(recording), self._window_frames)
        starts, crossfade = _windows(total, self._window_frames, first, count)
        channels, scale = self.params.model.channels, self.player.synthesizer.scale
        components = None
        cells = []
        with torch.inference_mode():
            for position in range(0, len(starts), BATCH_WINDOWS):
                batch = starts[position : position + BATCH_WINDOWS]
                maps, features = self.run_networks(recording, batch)
                cells.append(features)
                if components is None:
                    components = np.zeros((maps.shape[1], maps.shape[2], count), np.float32)
                for number, (start, window) in enumerate(zip(batch, maps, strict=True), position):
                    begin, end = max(start, first), min(start + window.shape[-1], first + count)
                    segment = slice(begin - first, end - first)
                    components[:, :, segment] += (
                        crossfade[number, segment] * window[:, :, begin - start : end - start]
                    )
        assert components is not None
        motion = None
        if self.player.synchrony is not None:
            envelopes = self.run_motion(recording, first, count, cells[0].shape[1:3])
            taps = self.player.synchrony.filter.weight.detach().cpu().numpy()
            motion = MotionEmbedding(components[channels:], envelopes, taps)
        begin = first * self._hop
        return Embedding(
            audio=recording.sound(begin, begin + (count - 1) * self._hop),
            sample_rate=recording.sample_rate,
            spectrogram=self.params.spectrogram,
            components=components[:channels],
            cells=np.concatenate(cells),
            scale=np.ones(channels, np.float32) if scale is None else scale.detach().cpu().numpy(),
            crossfade=crossfade,
            bias=float(self.player.synthesizer.bias.detach()),
            activation=self.params.model.output_activation,
            image_activation=self.params.model.image_activation,
            motion=motion,
        )

    def run_networks(
        self, recording: Recording, starts: list[int]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run the sound net and the vision net on windows of a recording.

        Args:
            recording: a recording of any length.
            starts: first spectrogram frame of each window, (W,).

        Returns:
            Component maps, (W, C, R, M), with motion followed by the maps of the synchrony net; and
            features of the cells, (W, h, w, C).
        """
        mixture, model = self.params.mixture, self.params.model
        half = self._window_frames * self._hop / 2 / recording.sample_rate
        seconds = [start * self._hop / recording.sample_rate + half for start in starts]
        sampling = mixture.frames, mixture.frame_stride, mixture.image_size
        frames = np.stack([recording.frames(at, *sampling) for at in seconds])
        pixels = normalize_frames(torch.from_numpy(frames).to(self.device))
        features = self.player.vision(pixels)
        pooled = features.mean(dim=1) if model.image_pooling == "avgpool" else features.amax(dim=1)
        cells = pooled.permute(0, 2, 3, 1)
        spectra = self._spectra(recording, starts, self._window_frames)
        magnitude = network_input(spectra, self.params.spectrogram)
        maps = self.player.sound_features(magnitude)
        if self.player.synchrony is not None:
            maps = torch.cat([maps, self.player.synchrony(magnitude)], dim=1)
        return maps.float().cpu().numpy(), cells.float().cpu().numpy()

    def run_motion(
        self, recording: Recording, first: int, count: int, shape: Sequence[int]
    ) -> NDArray[np.float32]:
        """Run the motion net on a segment of a recording.

        Args:
            recording: a recording of any length.
            first: first spectrogram frame of the segment.
            count: M, number of frames.
            shape: number of cells, (h, w).

        Returns:
            Envelopes of each cell, (E, LEAD + M + TAIL, h, w), from `LEAD` frames before `first`.
        """
        net, rate = self.player.motion, self.params.extract.motion_rate
        assert net is not None
        assert rate is not None
        columns = np.arange(first - LEAD, first + count + TAIL)
        # As in training, where M spectrogram frames and the motion frames of a clip are stretched
        # to the same length. Motion frame i is in the middle of its interval.
        places = (columns + 0.5) * self._hop / recording.sample_rate * rate - 0.5
        begin = math.floor(places[0]) - REACH
        length = math.floor(places[-1]) + 2 + REACH - begin
        moving = recording.motion(begin / rate, length, self.params.mixture.motion_size)
        with torch.inference_mode():
            cells = net(torch.from_numpy(moving)[None].to(self.device))
            envelopes = on_grid(cells, shape)[0].float().cpu().numpy()
        lower = np.floor(places).astype(int) - begin
        part = (places - np.floor(places)).astype(np.float32)[:, None, None]
        between: NDArray[np.float32] = (1 - part) * envelopes[:, lower] + part * (
            envelopes[:, lower + 1]
        )
        return between

    def _spectra(self, recording: Recording, starts: list[int], count: int) -> torch.Tensor:
        """Return complex spectrograms of windows of `count` frames, (W, F, count)."""
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


def region_envelopes(motion: MotionEmbedding, region: Region) -> NDArray[np.float32]:
    """Return the envelopes of a region, (E, LEAD + M + TAIL)."""
    equal = region.cells / np.float32(region.cells.sum())
    weights = equal if region.weights is None else region.weights
    pooled: NDArray[np.float32] = motion.pool(weights[None].astype(np.float32))[0]
    return pooled


def _windows(
    total: int, size: int, first: int, count: int
) -> tuple[list[int], NDArray[np.float32]]:
    """Return the windows of a recording that overlap a segment, and their cross-fade weights.

    Consecutive windows overlap by half; the last ends with the recording.

    Args:
        total: number of spectrogram frames of the recording, at least `size`.
        size: number of frames of a window.
        first: first frame of the segment.
        count: number of frames of the segment.

    Returns:
        The first frame of each window, (W,), and weights, (W, count), that sum to 1 over W.
    """
    step = max(1, size // 2)
    every = [*range(0, total - size, step), total - size]
    starts = [start for start in every if start < first + count and start + size > first]
    frames = np.arange(first, first + count)
    # A triangle over each window, normalised over the windows at each frame.
    distance = np.abs(frames + 0.5 - (np.array(starts)[:, None] + size / 2))
    triangles = np.maximum(size / 2 - distance, 0)
    crossfade: NDArray[np.float32] = (triangles / triangles.sum(axis=0)).astype(np.float32)
    return starts, crossfade
