"""Motion net, synchrony net and envelopes."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sop.model.motion import (
    ENVELOPES,
    LAGS,
    REACH,
    MotionNet,
    SynchronyNet,
    lagged,
    on_grid,
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


def test_lags_delay_the_envelopes() -> None:
    envelopes = torch.arange(1.0, 13).view(1, 2, 6)
    delayed = lagged(envelopes)
    assert delayed.shape == (1, ENVELOPES * LAGS, 6)
    torch.testing.assert_close(delayed[:, :2], envelopes)
    torch.testing.assert_close(delayed[0, 2 * 3], torch.tensor([0, 0, 0, 1.0, 2, 3]))
    torch.testing.assert_close(delayed[0, 2 * 3 + 1], torch.tensor([0, 0, 0, 7.0, 8, 9]))
    assert not delayed[0, 2 * 6 :].any()


def test_logits_are_linear_in_the_envelopes() -> None:
    generator = torch.Generator().manual_seed(1)
    one, other = torch.randn(2, 1, 3, ENVELOPES, 9, generator=generator)
    maps = torch.randn(1, ENVELOPES * LAGS, 4, 9, generator=generator)
    both = synchrony(2 * one + other, maps)
    torch.testing.assert_close(both, 2 * synchrony(one, maps) + synchrony(other, maps))
    # The product of one envelope at lag 2 with its map, at one bin.
    alone = torch.zeros(1, 1, ENVELOPES, 9)
    alone[0, 0, 1, 5] = 3.0
    torch.testing.assert_close(
        synchrony(alone, maps)[0, 0, :, 7], 3 * maps[0, 2 * ENVELOPES + 1, :, 7]
    )


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


def test_envelopes_do_not_depend_on_the_level() -> None:
    sources = torch.rand(2, 2, ROWS, COLUMNS, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        true_envelopes(100 * sources), true_envelopes(sources), rtol=1e-3, atol=1e-3
    )


def test_rests_and_onsets_show_in_the_envelopes() -> None:
    sources = torch.zeros(1, 2, ROWS, COLUMNS)
    sources[0, 0, :, 10:20] = 1.0
    sources[0, 1] = 0.5
    loudness, onsets = true_envelopes(sources)[0, 0]
    assert loudness[10:20].min() > loudness[:10].max() + 3
    assert onsets.argmax() == 10
    assert (onsets[:10] == 0).all()
    assert (onsets[11:] == 0).all()
    assert torch.isfinite(true_envelopes(torch.zeros(1, 2, ROWS, COLUMNS))).all()


def test_sources_that_are_not_heard_have_no_envelope_loss() -> None:
    sources = torch.rand(2, 2, ROWS, COLUMNS, generator=torch.Generator().manual_seed(4))
    spectra = Spectra(torch.zeros(0), torch.zeros(0), sources)
    predicted = true_envelopes(sources)
    predicted[0, 1] += 1.0
    heard = torch.tensor([[True, False], [True, True]])
    assert envelope_loss(predicted, spectra, heard) == 0
    assert envelope_loss(predicted, spectra, torch.ones(2, 2, dtype=torch.bool)) == 0.25


def test_without_motion_nothing_is_added(tiny_params: Params) -> None:
    plain = build(tiny_params.model, tiny_params.spectrogram, 0).eval()
    with_motion = player_with_motion(tiny_params).eval()
    with_motion.load_state_dict(plain.state_dict(), strict=False)
    magnitude, frames, motion = inputs()
    with torch.inference_mode():
        assert plain(magnitude, frames).envelopes is None
        # The maps are zero before training.
        expected = plain(magnitude, frames, True).logits
        predicted = with_motion(magnitude, frames, True, motion)
    assert torch.equal(predicted.logits, expected)
    assert predicted.envelopes is not None
    assert predicted.envelopes.shape == (2, 2, ENVELOPES, COLUMNS)


def test_motion_changes_the_masks_of_its_own_source(tiny_params: Params) -> None:
    player = player_with_motion(tiny_params).eval()
    assert player.synchrony is not None
    torch.nn.init.normal_(player.synchrony.last.weight)
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
    torch.nn.init.normal_(player.synchrony.last.weight)
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
    assert maps.shape == (1, ENVELOPES * LAGS, ROWS, 7)
    assert torch.isfinite(maps).all()
