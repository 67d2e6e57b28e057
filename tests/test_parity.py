"""Networks, masks, losses and reconstructions equal those of the published implementation.

All numbers and shapes come from the reference folder (see `reference` in conftest.py).
"""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sop.evaluate.measures import bss_eval
from sop.model.checkpoint import load_net
from sop.model.pixelplayer import PixelPlayer, Spectra, build, separation_loss
from sop.model.sound import SoundNet
from sop.model.spectrogram import MaskRule, separate, stft, unwarp_rows, warp_rows
from sop.model.synthesizer import Synthesizer
from sop.params import Params, load_params
from sop.presets import apply_preset
from sop.train.state import make_optimizer
from tests.support.experiment import ROOT, Reference
from tests.support.stress import repeats

# Networks of the published size.
pytestmark = pytest.mark.slow

ROUNDING = 1e-4
TRAINING = 1e-3
DECIBELS = 0.01


@pytest.fixture(scope="module")
def params(tmp_path_factory) -> Params:
    """Return the published settings, as `sop preset music` writes them."""
    path = tmp_path_factory.mktemp("music") / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text())
    apply_preset("music", path, ROOT / "presets")
    return load_params(path)


def weights(reference: Reference, net: str) -> dict[str, Tensor]:
    return {k: torch.from_numpy(v) for k, v in reference.recipe.state_dict(net).items()}


@pytest.fixture(scope="module")
def player(reference, params) -> PixelPlayer:
    player = build(params.model, params.spectrogram, seed=0)
    load_net(player.sound, weights(reference, "sound.unet7"), "sound.unet7")
    load_net(player.vision, weights(reference, "frame.resnet18dilated"), "frame.resnet18dilated")
    load_net(player.synthesizer, weights(reference, "synthesizer.linear"), "synthesizer.linear")
    return player.eval()


@pytest.fixture(scope="module")
def audio(reference) -> Tensor:
    return torch.from_numpy(reference.recipe.inputs()["audios"])


@pytest.fixture(scope="module")
def frames(reference) -> Tensor:
    """(B, N, T, 3, H, W); the recipe has channels before frames."""
    return torch.from_numpy(reference.recipe.inputs()["frames"]).movedim(3, 2)


@pytest.fixture(scope="module")
def spectra(player, audio) -> Spectra:
    return player.spectra(audio)


@pytest.fixture(scope="module")
def image_features(player, frames) -> Tensor:
    with torch.inference_mode():
        return player.image_features(frames)


@pytest.fixture(scope="module")
def sound_features(player, spectra) -> Tensor:
    with torch.inference_mode():
        return player.sound_features(spectra.magnitude)


@pytest.fixture(scope="module")
def logits(player, spectra, frames) -> Tensor:
    with torch.inference_mode():
        return player(spectra.magnitude, frames).logits


def strided(values: Tensor | np.ndarray, like: np.ndarray, axes: int = 2) -> np.ndarray:
    """Return every k-th value of the last axes, in the shape of the stored array `like`."""
    values = np.asarray(values)
    wanted = like.shape[-axes:]
    steps = (-(-full // few) for full, few in zip(values.shape[-axes:], wanted, strict=True))
    picked = values[(..., *(slice(None, None, step) for step in steps))]
    return picked.reshape(like.shape)


def assert_equal(got: Tensor | np.ndarray, expected: np.ndarray, bound: float = ROUNDING) -> None:
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape
    assert np.linalg.norm(got - expected) <= bound * np.linalg.norm(expected)


def test_magnitudes(reference, params, audio):
    expected = reference.expected
    mixture = stft(audio.sum(dim=1), params.spectrogram).abs()
    assert_equal(strided(mixture, expected["mag_mix"]), expected["mag_mix"])
    sources = stft(audio, params.spectrogram).abs()
    assert_equal(strided(sources, expected["mag_source"]), expected["mag_source"])


def test_frequency_warps(reference):
    warp, unwarp = reference.expected["warp_rows"], reference.expected["unwarp_rows"]
    assert_equal(warp_rows(len(warp)), warp)
    assert_equal(unwarp_rows(len(unwarp)), unwarp)


def test_log_magnitude_weight_and_binary_masks(reference, player, spectra):
    expected = reference.expected
    log = spectra.magnitude.log()
    assert_equal(strided(log, expected["log_mag_mix_warped"]), expected["log_mag_mix_warped"])
    weight = torch.log1p(spectra.magnitude).clamp(1e-3, 10)
    assert_equal(strided(weight, expected["weight"]), expected["weight"])
    masks = player.true_masks(spectra)
    assert_equal(strided(masks, expected["gt_mask"]), expected["gt_mask"])


def test_features_masks_and_loss(
    reference, params, player, spectra, image_features, sound_features, logits
):
    expected = reference.expected
    assert_equal(image_features, expected["frame_feature"])
    assert_equal(strided(sound_features, expected["sound_feature"]), expected["sound_feature"])
    assert_equal(strided(player.masks(logits), expected["pred_mask"]), expected["pred_mask"])
    loss = separation_loss(logits, spectra, player.true_masks(spectra), params.model, params.train)
    assert_equal(loss[None], expected["loss_eval"])


def test_pixelwise_features_and_masks(reference, player, sound_features, frames):
    expected = reference.expected
    with torch.inference_mode():
        pixels = player.pixel_features(frames[:, 0])
        masks = player.synthesizer.pixelwise(pixels[:, 1], sound_features)
    features = pixels.movedim(2, 1)
    assert_equal(strided(features, expected["pixel_feature"]), expected["pixel_feature"])
    assert_equal(strided(masks, expected["pixel_logit"], axes=4), expected["pixel_logit"])


def test_loss_on_linear_frequency(reference, params, player, audio, image_features):
    linear = params.spectrogram.model_copy(update={"log_frequency": False})
    player = copy.copy(player)
    player.spectrogram = linear
    with torch.inference_mode():
        spectra = player.spectra(audio)
        sound = player.sound_features(spectra.magnitude)
        loss = separation_loss(
            player.synthesizer(image_features, sound),
            spectra,
            player.true_masks(spectra),
            params.model,
            params.train,
        )
    assert_equal(loss[None], reference.expected["loss_eval_linear_frequency"])


def test_ratio_masks_and_their_losses(reference, params, player, spectra, logits):
    expected = reference.expected
    ratio = params.model.model_copy(update={"mask": "ratio"})
    masks = build(ratio, params.spectrogram, seed=0).true_masks(spectra)
    assert_equal(strided(masks, expected["gt_ratio_mask"]), expected["gt_ratio_mask"])
    for loss, weighted, name in (
        ("l1", False, "loss_ratio_l1"),
        ("l2", True, "loss_ratio_l2_weighted"),
    ):
        train = params.train.model_copy(update={"loss": loss, "weighted_loss": weighted})
        got = separation_loss(logits, spectra, masks, ratio, train)
        assert_equal(got[None], expected[name])


@pytest.mark.parametrize("net", ["unet5", "unet6"])
def test_smaller_sound_nets(reference, spectra, net):
    expected = reference.expected[f"sound_feature_{net}"]
    # The numbers of the other architectures were stored in training mode, with batch statistics.
    sound = SoundNet(net).train()
    load_net(sound, weights(reference, f"sound.{net}"), net)
    with torch.inference_mode():
        features = sound(spectra.magnitude.log()[:, None])
    assert_equal(strided(features, expected), expected)


def test_undilated_vision_net(reference, params, frames):
    model = params.model.model_copy(update={"vision": "resnet18fc"})
    player = build(model, params.spectrogram, seed=0).train()
    load_net(player.vision, weights(reference, "frame.resnet18fc"), "frame.resnet18fc")
    with torch.inference_mode():
        assert_equal(player.image_features(frames), reference.expected["frame_feature_resnet18fc"])


def test_bias_synthesizer(reference, image_features, sound_features):
    expected = reference.expected["bias_logit"]
    synthesizer = Synthesizer("bias")
    load_net(synthesizer, weights(reference, "synthesizer.bias"), "synthesizer.bias")
    with torch.inference_mode():
        masks = synthesizer(image_features, sound_features)
    assert_equal(strided(masks[:, 0], expected), expected)


def test_sounds_and_bss_eval(reference, params, player, spectra, logits, audio):
    expected = reference.expected
    thresholds = torch.from_numpy(expected["wav_threshold"])[..., None, None]
    sounds = separate(
        spectra.mixture, player.masks(logits), params.spectrogram, MaskRule(thresholds)
    )
    samples = sounds.shape[-1]
    assert_equal(strided(sounds, expected["wav"], axes=1), expected["wav"])
    whole = torch.ones_like(spectra.mixture.real)[:, None].expand(-1, audio.shape[1], -1, -1)
    linear = params.spectrogram.model_copy(update={"log_frequency": False})
    unseparated = separate(spectra.mixture, whole, linear, MaskRule())
    for mixture, truth in enumerate(audio[..., :samples].numpy()):
        scores = bss_eval(truth, sounds[mixture].numpy())
        np.testing.assert_allclose(
            np.stack(scores), expected["sdr_sir_sar"][mixture], atol=DECIBELS
        )
        scores = bss_eval(truth, unseparated[mixture].numpy())
        np.testing.assert_allclose(scores.sdr, expected["sdr_mix"][mixture], atol=DECIBELS)


def gradient_norm(net: nn.Module) -> float:
    # In float64: a float32 sum over millions of squares has an error of half a percent.
    return float(sum(p.grad.double().square().sum() for p in net.parameters()).sqrt())


def test_training_steps(reference, params, player, audio, frames):
    """Batch statistics per source, learning rates per net, momentum and weight decay."""
    expected = reference.expected
    # The third step is the first whose loss depends on the momentum.
    steps = repeats(3, 4)
    player = copy.deepcopy(player).train()
    optimizer = make_optimizer(player, params.train)
    losses, norms = [], []
    for _ in range(steps):
        optimizer.zero_grad()
        spectra = player.spectra(audio)
        logits = player(spectra.magnitude, frames).logits
        loss = separation_loss(
            logits, spectra, player.true_masks(spectra), params.model, params.train
        )
        loss.backward()
        losses.append(loss.item())
        nets = (player.sound, player.vision, player.synthesizer)
        norms.append([gradient_norm(net) for net in nets])
        optimizer.step()
    np.testing.assert_allclose(losses, expected["loss_train_steps"][:steps], rtol=TRAINING)
    expected_norms = expected["grad_norm_sound_frame_synthesizer"][:steps]
    np.testing.assert_allclose(norms, expected_norms, rtol=TRAINING)
