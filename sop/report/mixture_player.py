"""The pixel player of an evaluated mixture: its regions play exactly the evaluated sounds.

Shapes: N sources, T frames, T_m motion frames, H x W pixels, h x w cells of a picture, C channels,
E envelopes, F x M frequency bins x spectrogram frames.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sop.dataset.clips import Frames, Motion
from sop.evaluate.records import Record, evaluation_rule
from sop.inference.embedding import Embedding, MotionEmbedding
from sop.inference.localization import Localizer
from sop.model.motion import cell_envelopes, padded, pool_envelopes
from sop.model.pixelplayer import PixelPlayer, normalize_frames
from sop.model.spectrogram import network_input
from sop.model.vision import pool_pixels
from sop.params import Params, Pooling
from sop.player.player import PlayerClip, PlayerRegion


def mixture_clip(
    player: PixelPlayer,
    record: Record,
    frames: Frames,
    params: Params,
    motion: Motion | None = None,
) -> PlayerClip:
    """Return the player of a mixture; its picture shows the videos side by side.

    Args:
        player: the model, in evaluation mode.
        record: the mixture.
        frames: evaluated frames of its videos, (N, T, H, W, 3).
        params: parameters of the run.
        motion: evaluated motion of its videos, (N, T_m, H_m, W_m); required by a model with motion,
            and ignored by others.
    """
    pooling = params.model.image_pooling
    with torch.inference_mode():
        spectrum = record.spectrum(params)
        magnitude = network_input(spectrum, params.spectrogram)[None]
        components = player.sound_features(magnitude)[0].numpy()
        pixels = player.vision(normalize_frames(torch.from_numpy(frames)))
        features = pool_pixels(pixels, pooling).numpy()
        cells = np.concatenate(list(_pool_frames(pixels, pooling).numpy()), axis=1)
        moving, envelopes = None, None
        if player.motion is not None and player.synchrony is not None:
            assert motion is not None, "a model with motion needs motion frames"
            predicted, count = player.motion(torch.from_numpy(motion)), spectrum.shape[1]
            squares = cell_envelopes(predicted, pixels.shape[-2:], count)
            row = torch.cat(list(squares), dim=-1)
            moving = MotionEmbedding(
                maps=player.synchrony(magnitude)[0].numpy(),
                # Zeros beyond the clip, as the model has them.
                cells=padded(row.movedim(1, -1)).movedim(-1, 1).numpy(),
                taps=player.synchrony.filter.weight.detach().numpy(),
            )
            envelopes = padded(pool_envelopes(predicted, pixels, count)).numpy()
    scale = player.synthesizer.scale
    embedding = Embedding(
        audio=record.sources.sum(axis=0),
        sample_rate=params.extract.sample_rate,
        spectrogram=params.spectrogram,
        components=components,
        cells=cells[None],
        scale=np.ones(len(components), np.float32) if scale is None else scale.detach().numpy(),
        crossfade=np.ones((1, spectrum.shape[1]), np.float32),
        bias=float(player.synthesizer.bias.detach()),
        activation=params.model.output_activation,
        image_activation=params.model.image_activation,
        motion=moving,
    )
    localizer = Localizer(pooling)
    localizer.update(embedding)
    return PlayerClip(
        title=" + ".join(record.videos),
        embedding=embedding,
        regions=tuple(_regions(record.categories, features, envelopes, cells.shape[:2])),
        heat=embedding.heat(),
        colours=localizer.localize().colours,
        rule=evaluation_rule(params),
    )


def _regions(
    categories: Sequence[str],
    features: NDArray[np.float32],
    envelopes: NDArray[np.float32] | None,
    shape: tuple[int, int],
) -> list[PlayerRegion]:
    """Return a region for each video: the whole of its picture."""
    owners = np.arange(shape[1]) * len(categories) // shape[1]
    return [
        PlayerRegion(
            name=category.replace("_", " "),
            cells=np.broadcast_to(owners == n, shape),
            features=features[n : n + 1],
            envelopes=None if envelopes is None else envelopes[n],
        )
        for n, category in enumerate(categories)
    ]


def _pool_frames(pixels: Tensor, pooling: Pooling) -> Tensor:
    """Pool the features of each pixel over the frames: (N, T, C, h, w) to (N, h, w, C)."""
    n, _, _, height, width = pixels.shape
    apart = pixels.permute(0, 3, 4, 1, 2).flatten(0, 2)[..., None, None]
    pooled: Tensor = pool_pixels(apart, pooling).unflatten(0, (n, height, width))
    return pooled
