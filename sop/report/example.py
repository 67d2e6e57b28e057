"""A picture of one separated mixture: the pixels that sound, and the spectrograms."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from sop.dataset.clips import Frames, Motion
from sop.dataset.index import Video
from sop.dataset.mixtures import MixtureReader
from sop.evaluate.listed import clips_of
from sop.evaluate.records import read_record
from sop.inference.localization import pixel_energy
from sop.model.pixelplayer import PixelPlayer, normalize_frames
from sop.model.spectrogram import stft
from sop.params import Params
from sop.runtime.errors import LeftOut
from sop.runtime.files import replacing

DYNAMIC_RANGE_DB = 60.0


def write_example(
    path: Path,
    player: PixelPlayer,
    shown: Sequence[Path],
    scores: pd.DataFrame,
    videos: Mapping[str, Video],
    params: Params,
) -> None:
    """Draw the mixture of median SDR, if there is a mixture and its videos can be read.

    The picture shows the pixels that sound, and the separated and true sound of each source.

    Args:
        path: the PNG file.
        player: the model, in evaluation mode.
        shown: records of the mixtures to choose from.
        scores: `mixture`, `sdr` and `sdr_mixture` of each source.
        videos: sound and frames of the validation videos, by name.
        params: parameters of the run.
    """
    paths = {int(record.stem): record for record in shown}
    means = scores[scores["mixture"].isin(list(paths))].groupby("mixture")["sdr"].mean()
    if means.empty:
        return
    number = means.sort_values(kind="stable").index[len(means) // 2]
    record = read_record(paths[number])
    reader = MixtureReader(params.mixture, params.extract, params.model.motion != "none")
    try:
        clips = clips_of(record, videos)
        if len(clips) < len(record.videos):
            return
        read = reader.middle(clips)
    except LeftOut:
        return
    frames = read.frames
    sources, sample_rate = len(frames), params.extract.sample_rate
    figure = Figure(figsize=(13, 3.1 * sources), dpi=80, layout="constrained")
    grid = figure.subplots(sources, 5, squeeze=False)
    truth = record.truth(params)
    mixture = truth.sum(axis=0)
    heats = heat_maps(player, mixture, frames, read.motion)
    levels = [_level(player, sound) for sound in (mixture, *record.estimates(params), *truth)]
    loudest = max(float(level.max()) for level in levels)
    extent = (0, len(mixture) / sample_rate, 0, sample_rate / 2000)
    measures = scores.loc[scores["mixture"] == number, ["sdr_mixture", "sdr"]]
    for row, (sdr_mixture, sdr) in enumerate(measures.to_numpy()):
        frame = frames[row, frames.shape[1] // 2]
        name = record.categories[row].replace("_", " ")
        pictures = {name: frame, "sound heard at each pixel": overlay(frame, heats[row])}
        for axes, (title, picture) in zip(grid[row, :2], pictures.items(), strict=True):
            axes.imshow(picture)
            axes.set_title(title, fontsize=10)
            axes.set_axis_off()
        spectrograms = {
            f"mixture, SDR {sdr_mixture:.1f} dB": levels[0],
            f"separated, SDR {sdr:.1f} dB": levels[1 + row],
            "true": levels[1 + sources + row],
        }
        for axes, (title, level) in zip(grid[row, 2:], spectrograms.items(), strict=True):
            axes.imshow(
                level,
                origin="lower",
                aspect="auto",
                cmap="magma",
                vmin=loudest - DYNAMIC_RANGE_DB,
                vmax=loudest,
                extent=extent,
            )
            axes.set_title(title, fontsize=10)
            axes.set_xlabel("s")
        grid[row, 2].set_ylabel("kHz")
    with replacing(path) as partial:
        # Without the software version, the file is the same wherever it is drawn.
        figure.savefig(partial, format="png", metadata={"Software": None})


def heat_maps(
    player: PixelPlayer, mixture: NDArray[np.float32], frames: Frames, motion: Motion | None = None
) -> NDArray[np.float32]:
    """Return the energy that the model assigns to each pixel of the middle frame of each source.

    Args:
        player: the model, in evaluation mode.
        mixture: sound of all sources, a whole number of hops, (L,).
        frames: (N, T, H, W, 3).
        motion: (N, T_m, H_m, W_m); required by a model with motion, and ignored by others.

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
        moving = None if motion is None else torch.from_numpy(motion)[None].to(device)
        energy = pixel_energy(player, spectra, pictures[None], moving)[0].cpu().numpy()
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
