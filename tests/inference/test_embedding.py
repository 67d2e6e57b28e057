import dataclasses

import numpy as np
import pytest

from sop.inference.embedding import Embedding, normalize_masks
from sop.model.spectrogram import stft_power
from sop.params import Activation, SpectrogramParams

FRAMES, HOP, BINS = 70, 512, 512


def embedding_of(activation: Activation = "sigmoid", log_frequency: bool = True) -> Embedding:
    """Three windows, 2 x 3 cells, four channels; all numbers random."""
    rng = np.random.default_rng(0)
    crossfade = rng.uniform(0.1, 1, (3, FRAMES)).astype(np.float32)
    return Embedding(
        audio=rng.uniform(-0.5, 0.5, HOP * (FRAMES - 1)).astype(np.float32),
        sample_rate=11025,
        spectrogram=SpectrogramParams(stft_frame=1022, stft_hop=HOP, log_frequency=log_frequency),
        components=rng.normal(size=(4, 256 if log_frequency else BINS, FRAMES)).astype(np.float32),
        cells=rng.normal(size=(3, 2, 3, 4)).astype(np.float32),
        scale=rng.normal(size=4).astype(np.float32),
        crossfade=crossfade / crossfade.sum(axis=0),
        bias=0.3,
        activation=activation,
    )


def test_masks() -> None:
    embedding = embedding_of(log_frequency=False)
    masks = embedding.masks(embedding.cells[:, 1])
    assert masks.shape == (3, BINS, FRAMES)
    assert masks.dtype == np.float32
    place, k, m = 2, 100, 33
    features = embedding.crossfade[:, m] @ embedding.cells[:, 1, place]
    logit = (features * embedding.scale) @ embedding.components[:, k, m] + 0.3
    assert masks[place, k, m] == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-5)


@pytest.mark.parametrize("activation", ["sigmoid", "none", "relu", "tanh", "softmax"])
def test_masks_are_not_negative(activation: Activation) -> None:
    embedding = embedding_of(activation)
    before = embedding.components.copy(), embedding.cells.copy()
    masks = embedding.masks(embedding.cells[:, 0])
    assert masks.shape == (3, BINS, FRAMES)
    assert masks.min() >= 0
    if activation == "softmax":
        np.testing.assert_allclose(masks.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(embedding.components, before[0])
    np.testing.assert_array_equal(embedding.cells, before[1])


def test_masks_of_some_frames() -> None:
    embedding = embedding_of()
    features = embedding.cells[:, 0]
    np.testing.assert_allclose(
        embedding.masks(features, slice(20, 45)), embedding.masks(features)[:, :, 20:45], atol=1e-6
    )


def test_sounds() -> None:
    embedding = embedding_of()
    sounds = embedding.sounds(np.stack([np.ones((BINS, FRAMES)), np.zeros((BINS, FRAMES))]))
    assert sounds.shape == (2, len(embedding.audio))
    np.testing.assert_allclose(sounds[0], embedding.audio, atol=1e-5)
    assert not sounds[1].any()


def test_heat() -> None:
    embedding = embedding_of()
    heat = embedding.heat()
    assert heat.shape == (3, 2, 3)
    assert heat.dtype == np.float32
    power = stft_power(embedding.audio, embedding.spectrogram)
    masks = embedding.masks(embedding.cells.reshape(3, 6, 4)).reshape(2, 3, BINS, FRAMES)
    energy = (masks**2 * power).sum(axis=2)
    np.testing.assert_allclose(heat.sum(axis=0), energy.sum(axis=-1), rtol=1e-4)
    np.testing.assert_allclose(
        heat[1, 0, 2], (embedding.crossfade[1] * energy[0, 2]).sum(), rtol=1e-4
    )


def test_heat_of_silence() -> None:
    silent = dataclasses.replace(embedding_of(), audio=np.zeros(HOP * (FRAMES - 1), np.float32))
    assert not silent.heat().any()


@pytest.mark.parametrize("places", [1, 2, 5])
def test_normalized_masks_sum_to_one(places: int) -> None:
    masks = np.random.default_rng(places).uniform(0, 1, (places, 30, 20)).astype(np.float32)
    shared = normalize_masks(masks)
    assert shared.shape == (places + 1, 30, 20)
    assert shared.min() >= 0
    np.testing.assert_allclose(shared.sum(axis=0), 1, atol=1e-6)


def test_normalize_masks() -> None:
    for masks, shares in (
        ([0.5], [0.5, 0.5]),
        ([0.2], [1 / 17, 16 / 17]),
        ([0.0, 0.0], [0.0, 0.0, 1.0]),
        ([0.75, 0.25], [9 / 11, 1 / 11, 1 / 11]),
        ([1.0, 1.0], [0.5, 0.5, 0.0]),
        # Masks of some output activations exceed 1.
        ([3.0, 1.0], [0.9, 0.1, 0.0]),
    ):
        found = normalize_masks(np.array(masks, np.float32)[:, None, None])
        np.testing.assert_allclose(found.ravel(), shares, atol=1e-6)
