import time
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sop.model.spectrogram import istft, stft
from sop.params import SpectrogramParams
from sop.separate.full_rate import components, frame_and_hop

pytestmark = pytest.mark.usefixtures("one_thread")

Values = NDArray[np.float32]

MODEL_RATE = 11025
DEFAULT = SpectrogramParams(stft_frame=1022, stft_hop=512, log_frequency=True)
PUBLISHED = SpectrogramParams(stft_frame=1022, stft_hop=256, log_frequency=True)
RATES = [8000, 11025, 12000, 22050, 44100, 48000, 96000]


def sounds(samples: int, channels: int = 1, seed: int = 0) -> Values:
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (samples, channels)).astype(np.float32)


def random_masks(k: int, frames: int, params: SpectrogramParams = DEFAULT) -> Values:
    """Random masks that sum to one."""
    rng = np.random.default_rng(1)
    return (
        rng.dirichlet(np.full(k, 0.3), (params.stft_frame // 2 + 1, frames))
        .T.astype(np.float32)
        .transpose(0, 2, 1)
    )


def cut(values: Values, axis: int, seed: int | None) -> Iterator[Values]:
    """Yield pieces of random lengths, including empty ones; without a seed, yield everything."""
    if seed is None:
        yield values
        return
    rng = np.random.default_rng(seed)
    begin = 0
    while begin < values.shape[axis]:
        length = int(rng.choice([0, 1, 2, 7, 400, 5000]))
        yield np.take(values, range(begin, min(begin + length, values.shape[axis])), axis)
        begin += length


def separated(
    sound: Values,
    rate: int,
    masks: Values,
    params: SpectrogramParams = DEFAULT,
    seed: int | None = None,
) -> Values:
    blocks = components(
        cut(sound, 0, seed),
        rate,
        cut(masks, 2, None if seed is None else seed + 1),
        MODEL_RATE,
        params,
    )
    return np.concatenate(list(blocks), axis=1)


def mask_frames(samples: int, rate: int, params: SpectrogramParams = DEFAULT) -> int:
    return 1 + int(samples / rate * MODEL_RATE) // params.stft_hop


@pytest.mark.parametrize("params", [DEFAULT, PUBLISHED], ids=["default", "published"])
@pytest.mark.parametrize(
    ("rate", "channels"), [*((rate, 2) for rate in RATES), (11025, 1), (48000, 6)]
)
def test_components_sum_to_the_sound(rate: int, channels: int, params: SpectrogramParams) -> None:
    samples = int(1.37 * rate)
    sound = sounds(samples, channels)
    masks = random_masks(3, mask_frames(samples, rate, params), params)
    parts = separated(sound, rate, masks, params)
    assert parts.shape == (3, samples, channels)
    assert parts.dtype == np.float32
    np.testing.assert_allclose(parts.sum(axis=0), sound, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 11025, 48000])
@pytest.mark.parametrize("samples", [1, 2, 100, 511, 512, 513, 1022, 2229, 2230, 4458, 9001])
def test_short_sounds(samples: int, rate: int) -> None:
    sound = sounds(samples, 2)
    parts = separated(sound, rate, random_masks(4, mask_frames(samples, rate)))
    np.testing.assert_allclose(parts.sum(axis=0), sound, atol=1e-6)


def test_no_sound() -> None:
    masks = iter([random_masks(2, 1)])
    assert list(components([sounds(0, 2)], 48000, masks, MODEL_RATE, DEFAULT)) == []
    assert list(components([], 48000, masks, MODEL_RATE, DEFAULT)) == []


@pytest.mark.parametrize(
    ("frame", "hop"), [(1022, 256), (1022, 512), (1022, 300), (64, 16), (16, 9)]
)
@pytest.mark.parametrize("samples", [65536, 40003])
def test_mono_at_the_model_rate_equals_istft(frame: int, hop: int, samples: int) -> None:
    params = SpectrogramParams(stft_frame=frame, stft_hop=hop, log_frequency=True)
    sound = 0.3 * sounds(samples)
    spectrum = stft(torch.from_numpy(sound[:, 0]), params)
    masks = random_masks(3, spectrum.shape[-1], params)
    expected = istft(torch.from_numpy(masks) * spectrum, params).numpy()
    # Without the last half frame if the last hop is incomplete: istft ends before it.
    compared = expected.shape[1] - (frame // 2 if samples % hop else 0)
    parts = separated(sound, MODEL_RATE, masks, params)
    assert parts.shape == (3, samples, 1)
    np.testing.assert_allclose(
        parts[:, :compared, 0], expected[:, :compared], atol=1e-5, strict=True
    )


@pytest.mark.parametrize("rate", [8000, 11025, 48000])
def test_division_into_blocks(rate: int) -> None:
    samples = 2 * rate + 77
    sound = sounds(samples, 2)
    masks = random_masks(3, mask_frames(samples, rate))
    whole = separated(sound, rate, masks)
    for seed in range(3):
        np.testing.assert_allclose(separated(sound, rate, masks, seed=seed), whole, atol=1e-6)


@pytest.mark.parametrize("rate", RATES)
def test_last_mask_applies_to_the_end(rate: int) -> None:
    sound = sounds(3 * rate)
    few = random_masks(2, 20)
    held = np.concatenate([few, np.repeat(few[..., -1:], 300, axis=-1)], axis=-1)
    np.testing.assert_array_equal(separated(sound, rate, few), separated(sound, rate, held))


@pytest.mark.parametrize("rate", [8000, 11025])
def test_channels_are_independent_below_nyquist(rate: int) -> None:
    sound = sounds(2 * rate, 3)
    masks = random_masks(3, mask_frames(2 * rate, rate))
    together = separated(sound, rate, masks)
    for channel in range(3):
        alone = separated(sound[:, [channel]], rate, masks)
        np.testing.assert_allclose(together[..., [channel]], alone, atol=1e-6)


def tone(hertz: float, rate: int, seconds: float = 2.0) -> Values:
    at = np.arange(round(rate * seconds)) / rate
    return (0.3 * np.sin(2 * np.pi * hertz * at))[:, None].astype(np.float32)


def by_frequency(hertz: float, share: float, frames: int = 60) -> Values:
    """Two masks: the first is `share` above a frequency and 0 below."""
    bins = np.arange(DEFAULT.stft_frame // 2 + 1) * MODEL_RATE / DEFAULT.stft_frame
    first = np.where(bins > hertz, share, 0).astype(np.float32)
    return np.repeat(np.stack([first, 1 - first])[..., None], frames, axis=-1)


def level(sound: Values) -> float:
    middle = sound[len(sound) // 4 : -len(sound) // 4]
    return float(np.sqrt(np.mean(middle.astype(np.float64) ** 2)))


@pytest.mark.parametrize("rate", [11025, 22050, 44100, 48000, 96000])
def test_frequency_of_masks(rate: int) -> None:
    sound = tone(900, rate) + tone(1100, rate)
    parts = separated(sound, rate, by_frequency(1000, 1.0))
    assert level(parts[0] - tone(1100, rate)) < 1e-3
    assert level(parts[1] - tone(900, rate)) < 1e-3


@pytest.mark.parametrize("rate", [8000, 11025, 44100])
def test_time_of_masks(rate: int) -> None:
    """Positions stay exact after minutes, although the hops of sound and masks differ."""
    seconds = 120
    change = 100.0
    frames = mask_frames(seconds * rate, rate)
    first = (np.arange(frames) * DEFAULT.stft_hop / MODEL_RATE > change).astype(np.float32)
    masks = np.stack([first, 1 - first])[:, None].repeat(512, axis=1)
    silent, loud = int((change - 0.1) * rate), int((change + 0.15) * rate)
    begin = 0
    ones = (np.ones((rate, 1), np.float32) for _ in range(seconds))
    for block in components(ones, rate, [masks], MODEL_RATE, DEFAULT):
        at = np.arange(begin, begin + block.shape[1])
        assert np.abs(block[0, at < silent]).max(initial=0) < 1e-5
        assert np.abs(block[1, at > loud]).max(initial=0) < 1e-5
        begin += block.shape[1]
    assert begin == seconds * rate


@pytest.mark.parametrize("rate", [22050, 44100, 48000, 96000])
def test_share_above_the_model_nyquist(rate: int) -> None:
    low, octave, high = tone(500, rate), tone(3500, rate), tone(8000, rate)
    # The first component has 70 % of the octave and nothing below.
    parts = separated(low + octave + high, rate, by_frequency(2000, 0.7))
    np.testing.assert_allclose(level(parts[0]), level(0.7 * (octave + high)), rtol=2e-3)
    assert level(parts[0] - 0.7 * (octave + high)) < 2e-3


@pytest.mark.parametrize("rate", [22050, 48000])
def test_share_if_the_octave_is_silent(rate: int) -> None:
    # 3/4 of the energy below the model's Nyquist frequency is at 1500 Hz.
    low, middle, high = tone(500, rate), np.sqrt(3) * tone(1500, rate), tone(8000, rate)
    parts = separated(low + middle + high, rate, by_frequency(1000, 1.0))
    assert level(parts[0] - (middle + 0.75 * high)) < 5e-3


def test_silence_and_sound_above_the_masks() -> None:
    rate = 48000
    sound = np.concatenate([np.zeros((rate, 1), np.float32), tone(9000, rate), tone(20, rate)])
    parts = separated(sound, rate, random_masks(3, 90))
    assert np.isfinite(parts).all()
    np.testing.assert_allclose(parts.sum(axis=0), sound, atol=1e-6)


def test_gain_has_no_step_in_frequency() -> None:
    """A click has a flat spectrum, so the spectrum of its component is the gain."""
    rate = 48000
    click = np.zeros((rate, 1), np.float32)
    click[rate // 2] = 1
    # The first component has the octave except its end, so the gain falls to 0 and rises again.
    bins = np.arange(512) * MODEL_RATE / DEFAULT.stft_frame
    first = np.clip((5100 - bins) / 300, 0, 1).astype(np.float32)
    masks = np.repeat(np.stack([first, 1 - first])[..., None], 30, axis=-1)
    gain = np.abs(np.fft.rfft(separated(click, rate, masks)[0, :, 0]))
    assert gain[4000] == pytest.approx(1, abs=0.01)
    assert gain[6000] == pytest.approx(gain[20000], abs=0.01)
    assert 0.5 < gain[20000] < 0.95
    assert np.abs(np.diff(gain)).max() < 0.01


@pytest.mark.parametrize(("rate", "channels"), [(48000, 2), (44100, 6)])
def test_memory_does_not_grow_with_length(rate: int, channels: int) -> None:
    def peak(seconds: int) -> int:
        blocks = (sounds(4096, channels) for _ in range(seconds * rate // 4096))
        stretches = (random_masks(3, 12) for _ in range(seconds * 2))
        tracemalloc.start()
        for _ in components(blocks, rate, stretches, MODEL_RATE, DEFAULT):
            pass
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return held

    peak(2)
    assert peak(12) < 1.1 * peak(4)


def test_speed() -> None:
    rate, seconds = 48000, 8
    blocks = [sounds(rate, 2)] * seconds
    masks = random_masks(4, mask_frames(seconds * rate, rate))
    times = []
    for _ in range(3):
        began = time.process_time()
        for _ in components(blocks, rate, [masks], MODEL_RATE, DEFAULT):
            pass
        times.append(time.process_time() - began)
    assert min(times) < seconds / 10


@pytest.mark.parametrize("rate", RATES)
def test_frame_length(rate: int) -> None:
    frame, hop = frame_and_hop(rate, MODEL_RATE, DEFAULT)
    assert frame % 2 == 0
    assert 1 - 1e-3 < frame / rate / (DEFAULT.stft_frame / MODEL_RATE) < 1.05
    assert hop / rate == pytest.approx(DEFAULT.stft_hop / MODEL_RATE, rel=2e-3)


def test_invalid_masks() -> None:
    with pytest.raises(ValueError, match=r"masks of shape \(2, 500, 9\), expected \(K, 512, m\)"):
        list(components([sounds(9)], 48000, [np.ones((2, 500, 9), "f4")], MODEL_RATE, DEFAULT))
    with pytest.raises(ValueError, match="no mask"):
        list(components([sounds(9)], 48000, [], MODEL_RATE, DEFAULT))
