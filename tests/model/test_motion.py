"""Motion net, synchrony net and envelopes."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sop.model.motion import (
    ENVELOPES,
    LEAD,
    MAPS,
    REACH,
    TAIL,
    TRUE_ENVELOPES,
    MotionNet,
    SynchronyNet,
    on_grid,
    padded,
    pool_envelopes,
    synchrony,
    true_envelopes,
)
from sop.model.pixelplayer import PixelPlayer, Spectra, build, envelope_loss
from sop.params import Params

FRAMES, SIZE, ROWS, COLUMNS = 12, 20, 256, 32


def moving(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def player_with_motion(params: Params, **changes: Any) -> PixelPlayer:
    model = params.model.model_copy(update={"motion": "synchrony", **changes})
    return build(model, params.spectrogram, seed=0)


def inputs(batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(6)
    magnitude = torch.rand(batch, ROWS, COLUMNS, generator=generator) + 0.1
    frames = torch.randn(batch, 2, 1, 3, 32, 32, generator=generator)
    return magnitude, frames, moving(batch, 2, FRAMES, SIZE, SIZE)


def test_the_filter_sees_envelopes_before_and_after_a_moment() -> None:
    """An impulse in one envelope at one frame weighs the maps from TAIL before to LEAD after."""
    generator = torch.Generator().manual_seed(1)
    net = SynchronyNet()
    torch.nn.init.normal_(net.filter.weight, generator=generator)
    taps = net.filter.weight.detach()
    frames, impulse = LEAD + TAIL + 10, TAIL + 4
    maps = torch.zeros(1, MAPS, 3, frames)
    maps[0, 7, 1] = torch.rand(frames, generator=generator)
    envelopes = torch.zeros(1, 2, ENVELOPES, frames)
    envelopes[0, 1, 3, impulse] = 2.0
    with torch.inference_mode():
        logits = net.logits(padded(envelopes), maps)
    expected = torch.zeros(1, 2, 3, frames)
    for frame in range(impulse - TAIL, impulse + LEAD + 1):
        # Tap i sees the envelope i - LEAD frames later.
        tap = impulse - frame + LEAD
        expected[0, 1, 1, frame] = 2 * taps[7, 3, tap] * maps[0, 7, 1, frame]
    torch.testing.assert_close(logits, expected)
    assert (logits != 0).sum() == LEAD + 1 + TAIL


def test_padding_adds_frames_of_zeros() -> None:
    around = padded(torch.ones(1, 2, ENVELOPES, 7))
    assert around.shape == (1, 2, ENVELOPES, LEAD + 7 + TAIL)
    assert around[..., LEAD:-TAIL].min() == 1
    assert not around[..., :LEAD].any()
    assert not around[..., -TAIL:].any()


def test_logits_are_linear_in_the_envelopes() -> None:
    generator = torch.Generator().manual_seed(1)
    one, other = torch.randn(2, 1, 3, ENVELOPES, LEAD + 9 + TAIL, generator=generator)
    maps = torch.randn(1, MAPS, 4, 9, generator=generator)
    taps = torch.randn(MAPS, ENVELOPES, LEAD + 1 + TAIL, generator=generator)
    both = synchrony(2 * one + other, maps, taps)
    assert both.shape == (1, 3, 4, 9)
    expected = 2 * synchrony(one, maps, taps) + synchrony(other, maps, taps)
    torch.testing.assert_close(both, expected, rtol=1e-4, atol=1e-3)


def test_a_still_picture_has_the_same_features_everywhere_in_time() -> None:
    net = MotionNet().eval()
    still = moving(1, 1, SIZE, SIZE).expand(1, FRAMES, SIZE, SIZE)
    with torch.inference_mode():
        features = net(still)
    # Away from the ends, where convolutions see zeros beyond the clip.
    inner = features[:, :, 5:-5]
    torch.testing.assert_close(inner, inner[:, :, :1].expand_as(inner))
    with torch.inference_mode():
        assert not torch.allclose(features, net(moving(1, FRAMES, SIZE, SIZE)))


def test_brightness_alone_moves_nothing() -> None:
    """Only differences count: a picture that is brighter all through gives the same features."""
    net = MotionNet().eval()
    dark = moving(1, FRAMES, SIZE, SIZE) // 2
    with torch.inference_mode():
        torch.testing.assert_close(net(dark + 100), net(dark), rtol=1e-4, atol=1e-4)


def test_envelopes_are_pooled_where_the_vision_net_attends_to() -> None:
    cells = torch.randn(1, 2, 4, 5, 6, generator=torch.Generator().manual_seed(2))
    pixels = torch.zeros(1, 2, 8, 5, 6)
    pixels[0, :, 3, 2, 4] = 50.0
    pooled = pool_envelopes(cells, pixels, 4)
    # The 30 cells have a weight of 0.001 each, and the attended one 1 more.
    wanted = (cells[0, :, :, 2, 4] + 1e-3 * cells.flatten(3).sum(-1)[0]) / 1.03
    torch.testing.assert_close(pooled[0], wanted)


def test_envelopes_of_a_moment_depend_on_the_frames_within_reach() -> None:
    net = MotionNet().eval()
    clip = moving(1, 4 * REACH, SIZE, SIZE)
    changed = clip.clone()
    changed[0, 2 * REACH] = 255 - changed[0, 2 * REACH]
    with torch.inference_mode():
        differs = (net(clip) != net(changed)).flatten(3).any(-1)[0].any(0).nonzero()[:, 0]
    assert differs.min() == 2 * REACH - (REACH - 1)
    assert differs.max() == 2 * REACH + REACH


def test_cells_of_both_nets_match() -> None:
    features = torch.arange(16.0).view(1, 1, 1, 4, 4)
    torch.testing.assert_close(
        on_grid(features, torch.Size((2, 2)))[0, 0, 0], torch.tensor([[2.5, 4.5], [10.5, 12.5]])
    )
    assert on_grid(features, torch.Size((4, 4))) is features


def random_sources(*shape: int) -> Tensor:
    return torch.rand(*shape, ROWS, COLUMNS, generator=torch.Generator().manual_seed(3))


def phrase() -> Tensor:
    """Magnitudes of one mixture: the first source plays from frame 10 to 19, the second always."""
    sources = torch.zeros(1, 2, ROWS, COLUMNS)
    sources[0, 0, :, 10:20] = 1.0
    sources[0, 1] = 0.5
    return sources


def test_true_envelopes_do_not_depend_on_the_level() -> None:
    sources = random_sources(2, 2)
    for level in (0.01, 100):
        torch.testing.assert_close(
            true_envelopes(level * sources), true_envelopes(sources), rtol=1e-3, atol=1e-3
        )
    # Nor on the level of a source among others, if it is well above the floors.
    softer = sources * torch.tensor([0.5, 1.0]).view(1, 2, 1, 1)
    assert correlation(true_envelopes(softer), true_envelopes(sources)) > 0.98


def correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


def test_true_envelopes_have_a_mean_of_zero_and_the_same_range() -> None:
    sources = random_sources(2, 2)
    # Notes that end, of different lengths in both sources.
    times = torch.arange(COLUMNS)
    sources[:, 0] *= 0.7 ** (times % 8)
    sources[:, 1] *= 0.4 ** (times % 5)
    found = true_envelopes(sources)
    assert found.shape == (2, 2, TRUE_ENVELOPES, COLUMNS)
    torch.testing.assert_close(found.mean(dim=-1), torch.zeros(2, 2, 2), rtol=0, atol=1e-5)
    deviations = found.std(dim=-1, correction=0)
    assert deviations.max() < 1
    assert deviations[:, :, 0].min() > 0.9
    assert deviations[:, :, 1].min() > 0.6


def test_phrases_and_onsets_show_in_the_true_envelopes() -> None:
    loudness, onsets = true_envelopes(phrase())[0, 0]
    assert loudness[10:20].min() > loudness[:10].max() + 1.5
    assert loudness[10:20].min() > loudness[20:].max() + 1.5
    # One onset, at the beginning of the phrase; its end is none.
    assert onsets.argmax() == 10
    rest = torch.cat([onsets[:10], onsets[11:]])
    assert (rest == rest[0]).all()
    assert rest[0] < 0 < onsets[10] - 3


def test_true_envelopes_of_silence_and_of_a_steady_sound_are_zero() -> None:
    steady = true_envelopes(phrase())[0, 1]
    assert steady.abs().max() < 1e-4
    for silent in (torch.zeros(1, 2, ROWS, COLUMNS), phrase() * torch.tensor([[[[1]], [[0]]]])):
        assert true_envelopes(silent)[0, 1].abs().max() < 1e-4


@pytest.mark.parametrize("begin", [0, 9], ids=["steady", "from a moment on"])
def test_noise_of_a_player_at_rest_stays_near_zero(begin: int) -> None:
    """A recording of a player at rest has noise, here 60 dB below the mixture."""
    sources = phrase()
    level = sources.sum(dim=1).square().mean().sqrt()
    parts = torch.randn(2, ROWS, COLUMNS, generator=torch.Generator().manual_seed(7))
    noise = parts.square().mean(dim=0).sqrt()
    noise[:, :begin] = 0
    sources[0, 1] = 1e-3 * level * noise
    heard, resting = true_envelopes(sources)[0].std(dim=-1, correction=0)
    assert heard.min() > 0.8
    assert resting.max() < 0.1
    # At 20 dB below the mixture, the same noise is heard.
    sources[0, 1] *= 100
    assert true_envelopes(sources)[0, 1].std(dim=-1, correction=0).min() > 0.3


def test_sources_that_are_not_heard_have_no_envelope_loss() -> None:
    sources = torch.rand(2, 2, ROWS, COLUMNS, generator=torch.Generator().manual_seed(4))
    spectra = Spectra(torch.zeros(0), torch.zeros(0), sources)
    predicted = torch.full((2, 2, ENVELOPES, COLUMNS), 9.0)
    # Only loudness and onsets are compared; the other envelopes are free.
    predicted[:, :, :TRUE_ENVELOPES] = true_envelopes(sources)
    predicted[0, 1] += 1.0
    heard = torch.tensor([[True, False], [True, True]])
    assert envelope_loss(predicted, spectra, heard) == 0
    found = envelope_loss(predicted, spectra, torch.ones(2, 2, dtype=torch.bool))
    torch.testing.assert_close(found, torch.tensor(0.25))


def test_without_motion_nothing_is_added(tiny_params: Params) -> None:
    plain = build(tiny_params.model, tiny_params.spectrogram, 0).eval()
    with_motion = player_with_motion(tiny_params).eval()
    with_motion.load_state_dict(plain.state_dict(), strict=False)
    magnitude, frames, motion = inputs()
    with torch.inference_mode():
        assert plain(magnitude, frames).envelopes is None
        # The taps of the filter are zero before training.
        expected = plain(magnitude, frames, True).logits
        predicted = with_motion(magnitude, frames, True, motion)
    assert torch.equal(predicted.logits, expected)
    assert predicted.envelopes is not None
    assert predicted.envelopes.shape == (2, 2, ENVELOPES, COLUMNS)


def test_motion_changes_the_masks_of_its_own_source(tiny_params: Params) -> None:
    player = player_with_motion(tiny_params).eval()
    assert player.synchrony is not None
    torch.nn.init.normal_(player.synchrony.filter.weight)
    magnitude, frames, motion = inputs()
    other = motion.clone()
    other[:, 1] = other[:, 1].flip(1)
    with torch.inference_mode():
        before = player(magnitude, frames, True, motion).logits
        after = player(magnitude, frames, True, other).logits
    # The second source changes; the first one and both backgrounds do not.
    assert torch.equal(before[:, [0, 2, 3]], after[:, [0, 2, 3]])
    assert (before[:, 1] - after[:, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("background", [False, True])
def test_every_weight_of_the_motion_nets_learns(tiny_params: Params, background: bool) -> None:
    player = player_with_motion(tiny_params).train()
    assert player.synchrony is not None
    assert player.motion is not None
    torch.nn.init.normal_(player.synchrony.filter.weight)
    magnitude, frames, motion = inputs(3)
    logits = player(magnitude, frames, background, motion).logits
    logits.square().mean().backward()
    for net in (player.motion, player.synchrony):
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_synchrony_net_keeps_the_shape_and_is_finite_for_silence() -> None:
    net = SynchronyNet().eval()
    with torch.inference_mode():
        maps = net(torch.full((1, ROWS, 7), 1e-10))
    assert maps.shape == (1, MAPS, ROWS, 7)
    assert torch.isfinite(maps).all()


def test_weights_in_channels_last_give_the_same_masks(tiny_params: Params) -> None:
    """The filter over time has no such format, and stays as it is."""
    player = player_with_motion(tiny_params).eval()
    assert player.synchrony is not None
    torch.nn.init.normal_(player.synchrony.filter.weight)
    with torch.inference_mode():
        before = player(*inputs()[:2], False, inputs()[2]).logits
        player.to_channels_last()
        after = player(*inputs()[:2], False, inputs()[2]).logits
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)
    assert player.synchrony.filter.weight.is_contiguous()
    first = next(player.synchrony.first.parameters())
    assert first.is_contiguous(memory_format=torch.channels_last)
