"""A picture of one separated mixture: the pixels that sound, and the spectrograms."""

from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from sop.evaluate.validation import Score, SeparatedMixture
from sop.inference.localization import pixel_energy
from sop.model.pixelplayer import PixelPlayer, normalize_frames
from sop.model.spectrogram import stft
from sop.runtime.files import replacing

DYNAMIC_RANGE_DB = 60.0


def write_figure(
    path: Path, player: PixelPlayer, separation: SeparatedMixture, score: Score, sample_rate: int
) -> None:
    """Draw a mixture, the pixels that sound, and the separated and true sound of each source.

    Args:
        path: the PNG file.
        player: the model, in evaluation mode.
        separation: the mixture and the result of its separation.
        score: measures of the separated sounds.
        sample_rate: Hz.
    """
    sources = len(separation.videos)
    figure = Figure(figsize=(13, 3.1 * sources), dpi=80, layout="constrained")
    grid = figure.subplots(sources, 5, squeeze=False)
    heats = heat_maps(player, separation.mixture, separation.frames)
    sounds = [separation.mixture, *separation.estimates, *separation.truth]
    levels = [_level(player, sound) for sound in sounds]
    loudest = max(float(level.max()) for level in levels)
    seconds = len(separation.mixture) / sample_rate
    for row, video in enumerate(separation.videos):
        frame = separation.frames[row, separation.frames.shape[1] // 2]
        name = video.category.replace("_", " ")
        pictures = [frame, overlay(frame, heats[row])]
        for axes, picture, title in zip(
            grid[row, :2], pictures, (name, "sound heard at each pixel"), strict=True
        ):
            axes.imshow(picture)
            axes.set_title(title, fontsize=10)
            axes.set_axis_off()
        measured = score.measures
        titles = (
            f"mixture, SDR {measured['sdr_mixture'][row]:.1f} dB",
            f"separated, SDR {measured['sdr'][row]:.1f} dB",
            "true",
        )
        shown = (levels[0], levels[1 + row], levels[1 + sources + row])
        for axes, level, title in zip(grid[row, 2:], shown, titles, strict=True):
            axes.imshow(
                level,
                origin="lower",
                aspect="auto",
                cmap="magma",
                vmin=loudest - DYNAMIC_RANGE_DB,
                vmax=loudest,
                extent=(0, seconds, 0, sample_rate / 2000),
            )
            axes.set_title(title, fontsize=10)
            axes.set_xlabel("s")
        grid[row, 2].set_ylabel("kHz")
    with replacing(path) as partial:
        # Without the software version, the file is the same wherever it is drawn.
        figure.savefig(partial, format="png", metadata={"Software": None})


def heat_maps(
    player: PixelPlayer, mixture: NDArray[np.float32], frames: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Return the energy that the model assigns to each pixel of the middle frame of each source.

    Args:
        player: the model, in evaluation mode.
        mixture: sound of all sources, a whole number of hops, (L,).
        frames: (N, T, H, W, 3).

    Returns:
        Energy, scaled to [0, 1] in each frame, (N, h, w).
    """
    device = next(player.parameters()).device
    middle = frames.shape[1] // 2
    with torch.inference_mode():
        audio = torch.from_numpy(mixture)[None, None].to(device)
        # One sample more than whole hops gives as many spectrogram frames as the clip has.
        spectra = player.spectra(torch.nn.functional.pad(audio, (0, 1)))
        pictures = normalize_frames(torch.from_numpy(frames[:, middle]).to(device))
        energy = pixel_energy(player, spectra, pictures[None])[0].cpu().numpy()
    lowest = energy.min(axis=(-2, -1), keepdims=True)
    heats: NDArray[np.float32] = (energy - lowest) / np.maximum(
        energy.max(axis=(-2, -1), keepdims=True) - lowest, 1e-12
    )
    return heats


def overlay(frame: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Draw a heat map (h, w) over a gray frame (H, W, 3)."""
    size = (frame.shape[1], frame.shape[0])
    spread = np.asarray(Image.fromarray(heat).resize(size, Image.Resampling.BILINEAR))
    gray = np.asarray(Image.fromarray(frame).convert("L"))[..., None].repeat(3, axis=-1)
    colour = colormaps["inferno"](spread)[..., :3] * 255
    mixed: NDArray[np.uint8] = np.clip(0.4 * gray + 0.6 * colour, 0, 255).astype(np.uint8)
    return mixed


def _level(player: PixelPlayer, sound: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the spectrogram of a sound in dB."""
    magnitude = stft(torch.from_numpy(sound), player.spectrogram).abs().numpy()
    level: NDArray[np.float32] = 20 * np.log10(np.maximum(magnitude, 1e-6))
    return level
