import librosa
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sop.model.spectrogram import (
    MAGNITUDE_FLOOR,
    MaskRule,
    binary_masks,
    istft,
    network_input,
    network_magnitude,
    ratio_masks,
    separate,
    stft,
    to_linear_frequency,
    to_log_frequency,
    unwarp_rows,
    warp_rows,
)
from sop.params import SpectrogramParams

pytestmark = pytest.mark.usefixtures("one_thread")

PUBLISHED = SpectrogramParams(stft_frame=1022, stft_hop=256, log_frequency=True)
LINEAR = SpectrogramParams(stft_frame=1022, stft_hop=256, log_frequency=False)


def sounds(*shape: int) -> Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.uniform(-0.3, 0.3, shape).astype(np.float32))


def through_grid_sample(values: Tensor, rows: Tensor) -> Tensor:
    """Return rows of (R, M) values at positions in [-1, 1], by a bilinear `grid_sample`."""
    columns = torch.linspace(-1, 1, values.shape[-1])
    x, y = torch.meshgrid(columns, rows.float(), indexing="xy")
    grid = torch.stack([x, y], dim=-1)[None]
    return F.grid_sample(values[None, None], grid, align_corners=True)[0, 0]


@pytest.mark.parametrize(
    ("frame", "hop", "samples"),
    [(1022, 256, 65535), (1024, 512, 8000), (64, 16, 1000), (16, 9, 99)],
)
def test_stft_equals_librosa(frame: int, hop: int, samples: int) -> None:
    params = SpectrogramParams(stft_frame=frame, stft_hop=hop, log_frequency=True)
    audio = sounds(samples)
    expected = librosa.stft(audio.numpy(), n_fft=frame, hop_length=hop)
    ours = stft(audio, params)
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-4)


def test_stft_keeps_leading_axes() -> None:
    audio = sounds(2, 3, 4096)
    together = stft(audio, PUBLISHED)
    assert together.shape == (2, 3, 512, 17)
    np.testing.assert_allclose(together[1, 2], stft(audio[1, 2], PUBLISHED), atol=1e-6)
    assert istft(together, PUBLISHED).shape == (2, 3, 4096)


@pytest.mark.parametrize(("frame", "hop"), [(1022, 256), (1022, 512), (64, 33), (512, 1)])
def test_istft_inverts_stft(frame: int, hop: int) -> None:
    params = SpectrogramParams(stft_frame=frame, stft_hop=hop, log_frequency=True)
    audio = sounds(2, 4099)
    back = istft(stft(audio, params), params)
    assert back.shape[-1] == 4099 // hop * hop
    np.testing.assert_allclose(back, audio[:, : back.shape[-1]], atol=1e-5)


def test_istft_clips_to_full_scale() -> None:
    audio = istft(stft(5 * sounds(4096), PUBLISHED), PUBLISHED)
    assert audio.max() == 1
    assert audio.min() == -1
    inside = (5 * sounds(4096)).abs() < 0.99
    np.testing.assert_allclose(audio[inside], 5 * sounds(4096)[inside], atol=1e-5)


def test_warp_and_unwarp_are_inverse() -> None:
    for rows in (warp_rows(256), unwarp_rows(512)):
        assert rows.dtype == torch.float64
        assert rows[0] == pytest.approx(-1)
        assert rows[-1] == pytest.approx(1)
        assert (rows.diff() > 0).all()
    # Each row of one axis, mapped to the other and back, keeps its position.
    on_linear = np.interp(unwarp_rows(512), np.linspace(-1, 1, 256), warp_rows(256))
    np.testing.assert_allclose(on_linear, np.linspace(-1, 1, 512), atol=1e-4)


def test_low_rows_are_spread_about_tenfold() -> None:
    steps = warp_rows(256).diff() / (2 / 255)
    assert float(steps[0]) == pytest.approx(np.log(21) / 20, rel=0.01)
    assert float(steps[-1]) == pytest.approx(21 * np.log(21) / 20, rel=0.01)


@pytest.mark.parametrize("columns", [1, 7])
def test_rows_equal_grid_sample(columns: int) -> None:
    magnitude = sounds(512, columns).abs()
    expected = through_grid_sample(magnitude, warp_rows(256))
    np.testing.assert_allclose(to_log_frequency(magnitude), expected, atol=1e-5)
    masks = sounds(256, columns).abs()
    expected = through_grid_sample(masks, unwarp_rows(512))
    np.testing.assert_allclose(to_linear_frequency(masks, 512), expected, atol=1e-5)


def test_first_and_last_rows_stay_in_place() -> None:
    magnitude = sounds(2, 512, 5)
    warped = to_log_frequency(magnitude)
    assert warped.shape == (2, 256, 5)
    np.testing.assert_allclose(warped[:, 0], magnitude[:, 0], atol=1e-6)
    np.testing.assert_allclose(warped[:, -1], magnitude[:, -1], atol=1e-6)


def test_log_frequency_and_back() -> None:
    rows = torch.linspace(0, 1, 512)[:, None]
    mask = 0.5 + 0.4 * torch.sin(2 * np.pi * (2 * rows + torch.linspace(0, 1, 16)))
    back = to_linear_frequency(to_log_frequency(mask), 512)
    np.testing.assert_allclose(back, mask, atol=5e-3)
    ones = torch.ones(2, 256, 4)
    np.testing.assert_array_equal(to_linear_frequency(ones, 512), torch.ones(2, 512, 4))


def test_binary_masks() -> None:
    mixture = torch.tensor([[[4.0, 4.0, 4.0, 0.0, 1.0]]])
    sources = torch.tensor([[[[2.0, 2.1, 0.0, 0.0, 0.9]], [[2.0, 1.9, 4.0, 0.1, 0.8]]]])
    expected = [[[[0, 1, 0, 0, 1]], [[0, 0, 1, 1, 1]]]]
    assert binary_masks(sources, mixture).tolist() == expected
    assert binary_masks(sources.double(), mixture.double()).dtype == torch.float64


def test_ratio_masks() -> None:
    mixture = torch.tensor([[[4.0, 0.5, 1e-10]], [[1.0, 2.0, 3.0]]])
    sources = torch.tensor([[[[1.0, 2.0, 0.0]], [[4.0, 3.0, 1.0]]], [[[1, 1, 1]], [[0, 4, 3]]]])
    expected = [[[[0.25, 4, 0]], [[1, 5, 5]]], [[[1, 0.5, 1 / 3]], [[0, 2, 1]]]]
    torch.testing.assert_close(ratio_masks(sources, mixture), torch.tensor(expected))


@pytest.mark.parametrize("params", [PUBLISHED, LINEAR], ids=["log", "linear"])
@pytest.mark.parametrize("threshold", [None, 0.5])
def test_masks_of_ones_and_zeros(params: SpectrogramParams, threshold: float | None) -> None:
    mixture = sounds(2, 4096)
    masks = torch.ones(2, 3, 256 if params.log_frequency else 512, 17)
    masks[:, 2] = 0
    separated = separate(stft(mixture, params), masks, params, MaskRule(threshold))
    assert separated.shape == (2, 3, 4096)
    for source in range(2):
        np.testing.assert_allclose(separated[:, source], mixture, atol=1e-5)
    assert separated[:, 2].abs().max() == 0


def test_threshold_on_linear_frequency() -> None:
    spectrum = torch.ones(1, 512, 17, dtype=torch.complex64)
    masks = torch.zeros(1, 1, 256, 17)
    masks[:, :, 100:] = 1
    soft = to_linear_frequency(masks, 512)[0, 0, :, 8]
    [boundary] = torch.nonzero((soft > 0) & (soft < 1)).flatten().tolist()[:1]
    at = float(soft[boundary])
    below, above = (
        separate(spectrum, masks, PUBLISHED, MaskRule(at + step)) for step in (-0.01, 0.01)
    )
    assert (below - above).abs().max() > 0


def test_thresholds_may_differ_by_source() -> None:
    mixture = stft(sounds(1, 4096), PUBLISHED)
    masks = torch.full((1, 2, 256, 17), 0.6)
    thresholds = torch.tensor([0.5, 0.7])[:, None, None]
    kept, dropped = separate(mixture, masks, PUBLISHED, MaskRule(thresholds))[0]
    np.testing.assert_allclose(kept, sounds(4096), atol=1e-5)
    assert dropped.abs().max() == 0


def test_powers_of_masks_share_the_mixture() -> None:
    masks = torch.tensor([[0.8, 0.0, 0.3, 1e-30], [0.4, 0.0, 0.0, 3e-30]])[None, ..., None]
    gains = MaskRule(power=2.0).gains(masks)[0, ..., 0]
    expected = torch.tensor([[0.8, 0.5, 1.0, 0.1], [0.2, 0.5, 0.0, 0.9]])
    torch.testing.assert_close(gains, expected)
    torch.testing.assert_close(
        MaskRule(power=1000.0).gains(masks)[0, ..., 0],
        torch.tensor([[1, 0.5, 1, 0], [0, 0.5, 0, 1]]),
    )
    # A mask that is not a number must not become a usable one.
    masks[0, 0, 0] = torch.nan
    assert MaskRule(power=2.0).gains(masks)[0, :, 0].isnan().all()


@pytest.mark.parametrize("params", [PUBLISHED, LINEAR], ids=["log", "linear"])
def test_sounds_of_shares_sum_to_the_mixture(params: SpectrogramParams) -> None:
    mixture = sounds(2, 4096)
    masks = torch.rand(2, 3, 256 if params.log_frequency else 512, 17)
    separated = separate(stft(mixture, params), masks, params, MaskRule(power=2.0))
    np.testing.assert_allclose(separated.sum(dim=1), mixture, atol=1e-5)


def test_rule_of_a_type_of_masks() -> None:
    assert MaskRule.of("binary", 0.7) == MaskRule(threshold=0.7)
    assert MaskRule.of("ratio", 0.7) == MaskRule()
    assert MaskRule.of("binary", 0.7, 2.0) == MaskRule.of("ratio", 0.7, 2.0) == MaskRule(power=2.0)


@pytest.mark.parametrize("params", [PUBLISHED, LINEAR], ids=["log", "linear"])
def test_network_input(params: SpectrogramParams) -> None:
    spectrum = stft(sounds(2, 4096), params)
    spectrum[0] = 0
    silent, loud = network_input(spectrum, params)
    magnitude = network_magnitude(spectrum, params)
    assert magnitude.shape == (2, 256 if params.log_frequency else 512, 17)
    torch.testing.assert_close(silent, torch.full_like(silent, MAGNITUDE_FLOOR))
    torch.testing.assert_close(loud, magnitude[1])
    assert magnitude[0].max() == 0


def test_gradients_flow_to_the_magnitudes() -> None:
    magnitude = sounds(512, 3).abs().requires_grad_()
    to_log_frequency(magnitude).sum().backward()
    assert magnitude.grad is not None
    assert float(magnitude.grad.sum()) == pytest.approx(256 * 3, rel=1e-4)
