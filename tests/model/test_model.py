from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18

from sop.inference.localization import pixel_energy
from sop.model.motion import padded
from sop.model.pixelplayer import (
    PixelPlayer,
    activate,
    build,
    normalize_frames,
    separation_loss,
    spectrum_loss,
)
from sop.model.sound import SoundNet
from sop.model.spectrogram import to_linear_frequency
from sop.model.synthesizer import Synthesizer
from sop.model.vision import VisionNet, pool_background, pool_pixels
from sop.params import Params, SoundKind, VisionKind
from tests.support.experiment import with_values

pytestmark = pytest.mark.usefixtures("one_thread")

SAMPLES = 16383


def tiny_player(params: Params, seed: int = 0, **changes: Any) -> PixelPlayer:
    values = {key.replace("__", "."): value for key, value in changes.items()}
    params = with_values(params, values)
    return build(params.model, params.spectrogram, seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))


def positive(*shape: int, seed: int = 0) -> Tensor:
    return noise(*shape, seed=seed).abs() + 0.1


def with_large_weights(player: PixelPlayer) -> PixelPlayer:
    """Return the player with weights so large that every input changes the output."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in player.sound.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return player


@pytest.mark.parametrize(("kind", "rows"), [("unet5", 32), ("unet6", 64), ("unet7", 128)])
def test_sound_net_keeps_height_and_width(kind: SoundKind, rows: int) -> None:
    net = SoundNet(kind, channels=3, width=2)
    for height, width in ((rows, rows), (2 * rows, rows)):
        assert net(noise(2, 1, height, width)).shape == (2, 3, height, width)


def test_channels_of_the_sound_net() -> None:
    net = SoundNet("unet7", channels=32, width=64)
    assert [layer.out_channels for layer in net.down] == [64, 128, 256, 512, 512, 512, 512]
    assert net.up[0].out_channels == 32


@pytest.mark.parametrize(
    ("kind", "side"), [("resnet18fc", 2), ("resnet18dilated", 4), ("resnet18half", 8)]
)
def test_stride_of_vision_nets(kind: VisionKind, side: int) -> None:
    net = VisionNet(channels=5, kind=kind, width=2).eval()
    assert net(noise(2, 3, 3, 64, 64)).shape == (2, 3, 5, side, side)
    assert net(noise(1, 1, 3, 64, 96)).shape == (1, 1, 5, side, side * 3 // 2)


def test_vision_trunk_equals_torchvision() -> None:
    net = VisionNet(kind="resnet18fc", width=64).eval()
    published = resnet18(weights=None).eval()
    layers = [*published.children()][:-2]
    published = nn.Sequential(*layers)
    assert net.trunk.state_dict().keys() == published.state_dict().keys()
    net.trunk.load_state_dict(published.state_dict())
    frames = noise(1, 2, 3, 64, 64)
    with torch.inference_mode():
        expected = net.head(published(frames[0]))
        torch.testing.assert_close(net(frames)[0], expected)


def test_dilated_net_contains_the_plain_one() -> None:
    dilated = VisionNet(4, "resnet18dilated", 2).eval()
    plain = VisionNet(4, "resnet18fc", 2).eval()
    dilated.load_state_dict(plain.state_dict())
    with torch.inference_mode():
        full, coarse = (net.trunk(noise(1, 3, 64, 64)) for net in (dilated, plain))
    torch.testing.assert_close(full[..., ::2, ::2], coarse)


@pytest.mark.parametrize(("pooling", "reduce"), [("maxpool", torch.amax), ("avgpool", torch.mean)])
def test_pooling_over_frames_and_pixels(pooling: Any, reduce: Any) -> None:
    features = noise(2, 3, 4, 5, 6)
    torch.testing.assert_close(pool_pixels(features, pooling), reduce(features, dim=(1, 3, 4)))


def test_attention_pooling() -> None:
    features = noise(2, 3, 4, 5, 6)
    places = features.transpose(1, 2).flatten(2)
    weights = places.amax(1).exp() / places.amax(1).exp().sum(-1, keepdim=True)
    expected = torch.einsum("bcp,bp->bc", places, weights)
    torch.testing.assert_close(pool_pixels(features, "attention"), expected)
    features[:, 1, :, 2, 3] += torch.tensor([30.0, 0, 0, 0])
    torch.testing.assert_close(pool_pixels(features, "attention"), features[:, 1, :, 2, 3])


def test_background_pooling() -> None:
    features = noise(2, 3, 4, 5, 6)
    lower = features.permute(0, 2, 1, 3, 4).reshape(2, 4, 90).sort(dim=-1).values[..., 21]
    torch.testing.assert_close(pool_background(features), lower)


def test_backgrounds_follow_the_sources(tiny_params: Params) -> None:
    player = tiny_player(tiny_params).eval()
    magnitude, frames = positive(2, 256, 32), noise(2, 2, 2, 3, 32, 32)
    with torch.inference_mode():
        alone, both = (player(magnitude, frames, flag).logits for flag in (False, True))
    assert both.shape == (2, 4, 256, 32)
    torch.testing.assert_close(both[:, :2], alone)


@pytest.mark.parametrize("kind", ["linear", "bias"])
def test_synthesizer(kind: Any) -> None:
    net = Synthesizer(kind, channels=3)
    with torch.no_grad():
        net.bias.fill_(0.25)
        if net.scale is not None:
            net.scale.copy_(torch.tensor([1.0, 2.0, -1.0]))
    scale = [1.0, 2.0, -1.0] if kind == "linear" else [1.0, 1.0, 1.0]
    image, sound = noise(2, 4, 3), noise(2, 3, 6, 7, seed=1)
    logits = net(image, sound).detach()
    assert logits.shape == (2, 4, 6, 7)
    for mixture, source, row, column in ((0, 0, 0, 0), (1, 3, 5, 6), (0, 2, 3, 1)):
        expected = 0.25 + sum(
            scale[c] * float(image[mixture, source, c]) * float(sound[mixture, c, row, column])
            for c in range(3)
        )
        assert float(logits[mixture, source, row, column]) == pytest.approx(expected, abs=1e-5)


def test_synthesizer_of_pixels() -> None:
    net = Synthesizer("linear", channels=3)
    nn.init.normal_(net.scale)
    image, sound = noise(2, 3, 4, 5), noise(2, 3, 6, 7, seed=1)
    masks = net.pixelwise(image, sound)
    assert masks.shape == (2, 4, 5, 6, 7)
    for y, x in ((0, 0), (3, 4), (2, 1)):
        torch.testing.assert_close(masks[:, y, x], net(image[:, None, :, y, x], sound)[:, 0])


@pytest.mark.parametrize(("synthesizer", "log"), [("linear", True), ("bias", False)])
@pytest.mark.parametrize(
    ("sound", "vision"),
    [("unet5", "resnet18fc"), ("unet6", "resnet18dilated"), ("unet7", "resnet18half")],
)
def test_shapes_of_all_nets(
    tiny_params: Params, sound: str, vision: str, synthesizer: str, log: bool
) -> None:
    player = tiny_player(
        tiny_params,
        model__sound=sound,
        model__sound_width=1,
        model__vision=vision,
        model__vision_width=1,
        model__synthesizer=synthesizer,
        spectrogram__log_frequency=log,
        mixture__audio_samples=65535,
    ).eval()
    spectra = player.spectra(0.1 * noise(1, 3, 65535))
    rows = 256 if log else 512
    assert spectra.mixture.shape == (1, 512, 128)
    assert spectra.magnitude.shape == (1, rows, 128)
    assert spectra.sources.shape == (1, 3, rows, 128)
    with torch.inference_mode():
        logits = player(spectra.magnitude, noise(1, 3, 2, 3, 32, 32)).logits
    assert logits.shape == player.true_masks(spectra).shape == (1, 3, rows, 128)
    assert torch.isfinite(logits).all()


def test_silence_stays_finite(tiny_params: Params) -> None:
    player = tiny_player(tiny_params).eval()
    spectra = player.spectra(torch.zeros(1, 2, SAMPLES))
    with torch.inference_mode():
        assert torch.isfinite(player(spectra.magnitude, noise(1, 2, 1, 3, 32, 32)).logits).all()
    assert player.true_masks(spectra).sum() == 0


def test_mixture_is_the_sum_of_the_sources(tiny_params: Params) -> None:
    player = tiny_player(tiny_params)
    audio = 0.1 * noise(2, 3, SAMPLES)
    spectra, alone = player.spectra(audio), player.spectra(audio.sum(1, keepdim=True))
    torch.testing.assert_close(spectra.mixture, alone.mixture)
    torch.testing.assert_close(spectra.magnitude, alone.sources[:, 0], atol=1e-5, rtol=1e-5)


def test_seed_of_the_weights(tiny_params: Params) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = tiny_player(tiny_params, seed=3).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    again, other = (tiny_player(tiny_params, seed=seed).state_dict() for seed in (3, 4))
    for name, value in first.items():
        assert torch.equal(again[name], value), name
    assert not torch.equal(other["sound.down.0.weight"], first["sound.down.0.weight"])
    assert not torch.equal(other["vision.trunk.0.weight"], first["vision.trunk.0.weight"])
    assert not torch.equal(other["vision.head.weight"], first["vision.head.weight"])


def test_distributions_of_initial_weights(tiny_params: Params) -> None:
    player = tiny_player(tiny_params, model__sound_width=16, model__vision_width=16)
    convolution = player.sound.down[3].weight.detach()
    assert float(convolution.mean()) == pytest.approx(0, abs=1e-4)
    assert float(convolution.std()) == pytest.approx(1e-3, rel=0.05)
    norm = player.sound.up_norm[3].weight.detach()
    assert float(norm.mean()) == pytest.approx(1, abs=0.01)
    assert float(norm.std()) == pytest.approx(0.02, rel=0.3)
    trunk = player.vision.trunk[7][1].conv2.weight.detach()
    assert float(trunk.std()) == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.05)
    assert player.synthesizer.scale.tolist() == [1.0] * 8
    assert player.synthesizer.bias.tolist() == [0.0]


def test_he_weights_of_the_sound_net(tiny_params: Params) -> None:
    """The outputs begin near 0, and the other nets are the published ones."""
    sizes = {"model__sound_width": 16, "model__vision_width": 16}
    player = tiny_player(tiny_params, model__sound_init="he", **sizes)
    convolution = player.sound.down[3].weight.detach()
    fan_in = convolution.shape[1] * 16
    assert float(convolution.std()) == pytest.approx((2 / (1.04 * fan_in)) ** 0.5, rel=0.05)
    assert float(player.sound.up[0].weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    published = tiny_player(tiny_params, **sizes).state_dict()
    for name, value in player.state_dict().items():
        if not name.startswith("sound."):
            assert torch.equal(value, published[name]), name


def test_spectrum_loss_is_the_distance_of_the_separated_magnitudes(tiny_params: Params) -> None:
    player = tiny_player(tiny_params)
    spectra = player.spectra(0.1 * noise(3, 2, SAMPLES))
    logits = 3 * noise(*spectra.sources.shape)
    heard = torch.ones(3, 2, dtype=torch.bool)
    squares = logits.sigmoid().square().numpy()
    shares = squares / squares.sum(axis=1, keepdims=True)
    mixture, sources = spectra.magnitude.numpy(), spectra.sources.numpy()
    distance = np.abs(shares * mixture[:, None] - sources).mean(axis=(1, 2, 3))
    expected = distance / mixture.mean(axis=(1, 2))
    found = spectrum_loss(logits, spectra, heard)
    assert float(found) == pytest.approx(expected.mean(), rel=1e-4)
    # Its sound is that of another moment than its frames: nobody who is seen has that sound.
    heard[1, 0] = False
    found = spectrum_loss(logits, spectra, heard)
    assert float(found) == pytest.approx((expected[0] + expected[2]) / 3, rel=1e-4)


def test_spectrum_loss_of_a_silent_source_and_of_silence(tiny_params: Params) -> None:
    player = tiny_player(tiny_params)
    audio = 0.1 * noise(1, 2, SAMPLES)
    audio[:, 0] = 0
    spectra = player.spectra(audio)
    right = torch.tensor([-9.0, 9.0])[None, :, None, None].expand_as(spectra.sources)
    heard = torch.tensor([[False, True]])
    assert float(spectrum_loss(right, spectra, heard)) < 1e-5
    assert float(spectrum_loss(-right, spectra, heard)) == pytest.approx(1, rel=1e-3)
    silence = player.spectra(torch.zeros(1, 2, SAMPLES))
    assert float(spectrum_loss(right, silence, heard)) < 1e-3


def test_evaluation_equals_single_sources(tiny_params: Params) -> None:
    player = with_large_weights(tiny_player(tiny_params)).double().eval()
    magnitude, frames = positive(2, 256, 32).double(), noise(2, 3, 2, 3, 32, 32).double()
    with torch.inference_mode():
        together = player(magnitude, frames).logits
        for mixture in range(2):
            for source in range(3):
                alone = player(
                    magnitude[mixture : mixture + 1], frames[mixture, source][None, None]
                )
                torch.testing.assert_close(together[mixture, source], alone.logits[0, 0])
    assert (together[:, 0] - together[:, 1]).abs().max() > 1e-4


def test_training_uses_batch_statistics_per_source(tiny_params: Params) -> None:
    frames = noise(4, 2, 2, 3, 32, 32)
    frames[:, 1] = 5 * frames[:, 1] + 3
    player = tiny_player(tiny_params).train()
    features = player.image_features(frames)
    for source in range(2):
        alone = tiny_player(tiny_params).train().image_features(frames[:, source : source + 1])
        torch.testing.assert_close(features[:, source : source + 1], alone)


def test_pooled_pixels_are_the_image_features(tiny_params: Params) -> None:
    player = tiny_player(tiny_params, model__image_activation="sigmoid").eval()
    frames = noise(2, 1, 3, 3, 32, 32)
    with torch.inference_mode():
        pixels = player.pixel_features(frames[:, 0])
        pooled = player.image_features(frames)[:, 0]
    assert pixels.shape == (2, 3, 8, 2, 2)
    # A sigmoid is monotonic, so that the maximum stays the maximum.
    torch.testing.assert_close(pixels.amax(dim=(1, 3, 4)), pooled)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", [[-1.0, 2.0], [0.0, 1.0]]),
        ("relu", [[0.0, 2.0], [0.0, 1.0]]),
        ("sigmoid", [[0.268941, 0.880797], [0.5, 0.731059]]),
        ("tanh", [[-0.761594, 0.964028], [0.0, 0.761594]]),
        ("softmax", [[0.047426, 0.952574], [0.268941, 0.731059]]),
    ],
)
def test_activations(name: Any, expected: list[list[float]]) -> None:
    x = torch.tensor([[-1.0, 2.0], [0.0, 1.0]])
    torch.testing.assert_close(activate(x, name, 1), torch.tensor(expected), atol=1e-5, rtol=0)


def test_axis_of_softmax(tiny_params: Params) -> None:
    player = tiny_player(
        tiny_params,
        model__image_activation="softmax",
        model__sound_activation="softmax",
        model__output_activation="softmax",
    ).eval()
    with torch.inference_mode():
        image = player.image_features(noise(2, 3, 1, 3, 32, 32))
        sound = player.sound_features(positive(2, 256, 32))
        pixels = player.pixel_features(noise(2, 1, 3, 32, 32))
    torch.testing.assert_close(image.sum(-1), torch.ones(2, 3))
    torch.testing.assert_close(sound.sum(1), torch.ones(2, 256, 32))
    torch.testing.assert_close(pixels.sum(2), torch.ones(2, 1, 2, 2))
    torch.testing.assert_close(player.masks(noise(2, 3, 4, 5)).sum(1), torch.ones(2, 4, 5))


def test_frames_are_normalized() -> None:
    frames = torch.zeros(1, 2, 4, 6, 3, dtype=torch.uint8)
    frames[0, 1, 2, 3] = torch.tensor([255, 0, 51], dtype=torch.uint8)
    normalised = normalize_frames(frames)
    assert normalised.shape == (1, 2, 3, 4, 6)
    assert normalised.dtype == torch.float32
    expected = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    np.testing.assert_allclose(normalised[0, 1, :, 2, 3], expected, rtol=1e-5)


def test_loss_is_a_weighted_mean(tiny_params: Params) -> None:
    logits, magnitude = noise(2, 2, 8, 4), 30 * positive(2, 8, 4, seed=1)
    magnitude[0, 0, 0], magnitude[0, 0, 1] = 1e-9, 1e9
    truth = (noise(2, 2, 8, 4, seed=2) > 0).float()
    weight = np.clip(np.log(1 + magnitude.numpy()), 0.001, 10)[:, None]
    for activation, binary in (("sigmoid", True), ("softmax", True), ("none", False)):
        masks = activate(logits, activation, 1).numpy()  # type: ignore[arg-type]
        distances = {"l1": np.abs(masks - truth.numpy()), "l2": (masks - truth.numpy()) ** 2}
        if binary:
            distances = {"bce": -np.log(np.where(truth.numpy() == 1, masks, 1 - masks))}
        for loss, distance in distances.items():
            for weighted in (True, False):
                values = {
                    "model.mask": "binary" if binary else "ratio",
                    "model.output_activation": activation,
                    "train.loss": loss,
                    "train.weighted_loss": weighted,
                }
                params = with_values(tiny_params, values)
                player = build(params.model, params.spectrogram, 0)
                spectra = player.spectra(torch.zeros(1, 2, SAMPLES))._replace(magnitude=magnitude)
                got = separation_loss(logits, spectra, truth, params.model, params.train)
                expected = float((distance * weight if weighted else distance).mean())
                assert float(got) == pytest.approx(expected, rel=1e-4)


def test_pixel_energy(tiny_params: Params) -> None:
    player = with_large_weights(tiny_player(tiny_params, spectrogram__log_frequency=False)).eval()
    with torch.inference_mode():
        spectra = player.spectra(0.1 * noise(2, 2, SAMPLES))
        frames = noise(2, 3, 3, 32, 48)
        energy = pixel_energy(player, spectra, frames)
        assert energy.shape == (2, 3, 2, 3)
        sound = player.sound_features(spectra.magnitude)
        pixel = player.pixel_features(frames)[:, 2, :, 1, 0]
        mask = player.masks(player.synthesizer(pixel[:, None], sound))[:, 0]
        expected = ((mask * spectra.mixture.abs()) ** 2).sum(dim=(1, 2))
    torch.testing.assert_close(energy[:, 2, 1, 0], expected, rtol=1e-4, atol=0)


def test_pixel_energy_with_motion(tiny_params: Params) -> None:
    values = {"model__motion": "synchrony", "extract__motion_rate": 8.0}
    player = with_large_weights(tiny_player(tiny_params, **values)).eval()
    torch.nn.init.normal_(
        player.synchrony.filter.weight, generator=torch.Generator().manual_seed(0)
    )
    spectra = player.spectra(0.1 * noise(1, 2, SAMPLES))
    frames = noise(1, 2, 3, 32, 32)
    motion = (127 + 40 * noise(1, 2, 9, 16, 16)).clamp(0, 255).byte()
    with torch.inference_mode():
        energy = pixel_energy(player, spectra, frames, motion)
        logits = player.synthesizer.pixelwise(
            player.pixel_features(frames)[:, 1], player.sound_features(spectra.magnitude)
        )
        # The envelopes are as coarse as the features: 2 x 2 cells of 4 x 4.
        cells = F.adaptive_avg_pool3d(player.motion(motion[:, 1]), (9, 2, 2))[..., 1, 0]
        count = spectra.magnitude.shape[-1]
        envelopes = F.interpolate(cells, size=count, mode="linear", align_corners=False)
        maps = player.synchrony(spectra.magnitude)
        added = player.synchrony.logits(padded(envelopes[:, None]), maps)
        mask = player.masks(logits[:, 1, 0][:, None] + added)
        linear = to_linear_frequency(mask, spectra.mixture.shape[-2])[0, 0]
        expected = (linear * spectra.mixture[0].abs()).square().sum()
        others = pixel_energy(player, spectra, frames, motion.flip(2))
    torch.testing.assert_close(energy[0, 1, 1, 0], expected, rtol=1e-3, atol=0)
    assert (energy / others - 1).abs().max() > 0.01


def test_pixel_energy_of_full_and_empty_masks(tiny_params: Params) -> None:
    player = tiny_player(tiny_params).eval()
    with torch.inference_mode():
        spectra = player.spectra(0.1 * noise(1, 2, SAMPLES))
        player.synthesizer.bias.fill_(60.0)
        energy = pixel_energy(player, spectra, noise(1, 1, 3, 32, 32))
        whole = spectra.mixture.abs().square().sum()
        torch.testing.assert_close(energy, whole.expand(1, 1, 2, 2), rtol=1e-3, atol=0)
        player.synthesizer.bias.fill_(-60.0)
        assert pixel_energy(player, spectra, noise(1, 1, 3, 32, 32)).max() < 1e-6 * whole


def test_every_weight_learns(tiny_params: Params) -> None:
    player = with_large_weights(tiny_player(tiny_params)).train()
    spectra = player.spectra(0.1 * noise(2, 2, SAMPLES))
    logits = player(spectra.magnitude, noise(2, 2, 2, 3, 32, 32)).logits
    F.binary_cross_entropy_with_logits(logits, player.true_masks(spectra)).backward()
    for name, parameter in player.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
