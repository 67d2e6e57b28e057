from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sop.denoise.guard import GuardedFilter
from sop.denoise.settings import FilterSettings, LmsSettings, NlmsSettings, RlsSettings
from sop.inference.localization import regions_at
from sop.inference.separator import Separator
from sop.runtime.errors import UserError
from sop.separate.sounds import WrittenSounds, usable_filter, write_sounds
from sop.separate.video import SoundStream
from tests.support.planted import COLUMNS, HIGH_HZ, LOW_HZ, RATE, ROWS, ArrayRecording, tone

pytestmark = pytest.mark.usefixtures("one_thread")

SECONDS = 2.0
OUT_RATE = 44100
PLACES = ((0.1, 0.5), (0.5, 0.5), (0.9, 0.5))


def duet(rate: int) -> np.ndarray:
    """A low tone on the left and, for half of the time, a high one on the right, (L, 2)."""
    low, high = tone(LOW_HZ, SECONDS, rate), tone(HIGH_HZ, SECONDS, rate)
    high[len(high) // 2 :] = 0
    return np.stack([low, high], axis=1).astype(np.float32)


def write(
    folder: Path,
    separator: Separator,
    places: Sequence[tuple[float, float]],
    denoise: FilterSettings | None = None,
    gains: Sequence[float] | None = None,
    stereo: np.ndarray | None = None,
    mono: np.ndarray | None = None,
) -> tuple[WrittenSounds, list[np.ndarray]]:
    """Write the sounds of a duet; return the measurements and the sounds, the rest last."""
    stereo = duet(OUT_RATE) if stereo is None else stereo
    mono = duet(RATE).mean(axis=1) if mono is None else mono
    folder.mkdir(exist_ok=True)
    blocks = iter(np.array_split(stereo, 5))
    sound = SoundStream(OUT_RATE, stereo.shape[1], 0, len(stereo), blocks)
    regions = tuple(regions_at(places, (ROWS, COLUMNS)))
    paths = [folder / f"{k}.wav" for k in range(len(regions) + 1)]
    remix = None if gains is None else (folder / "mix.wav", gains)
    written = write_sounds(separator, ArrayRecording(mono), sound, regions, paths, denoise, remix)
    return written, [soundfile.read(path, dtype="float32", always_2d=True)[0] for path in paths]


def decibels(error: np.ndarray, of: np.ndarray) -> float:
    return float(10 * np.log10(np.square(error).sum() / np.square(of).sum() + 1e-20))


@pytest.mark.parametrize(
    "setting",
    [RlsSettings(8, 0.9999), NlmsSettings(8, 0.01), LmsSettings(8, 0.001)],
    ids=lambda setting: setting.method,
)
def test_denoised_sounds(tmp_path: Path, uncertain: Separator, setting: FilterSettings) -> None:
    before, raw = write(tmp_path, uncertain, PLACES)
    after, sounds = write(tmp_path, uncertain, PLACES, setting, [0.5, 1, 1, 1])
    original = duet(OUT_RATE)
    assert decibels(sum(sounds) - original, original) < -100
    for region, sound in enumerate(sounds[:-1]):
        others = np.delete(np.array(raw[:-1]), region, axis=0)
        for channel in range(2):
            guarded = GuardedFilter(setting.make(2), OUT_RATE)
            expected = [
                guarded.clean(raw[region][:, channel], others[:, :, channel]),
                guarded.finish(),
            ]
            np.testing.assert_allclose(sound[:, channel], np.concatenate(expected), atol=1e-5)
        assert decibels(sound, raw[region]) < -1
    assert decibels(raw[-1], sounds[-1]) < -1
    energies = [np.square(sound).sum() for sound in sounds]
    np.testing.assert_allclose(after.energy, energies, rtol=1e-3)
    mix = soundfile.read(tmp_path / "mix.wav", dtype="float32")[0]
    np.testing.assert_allclose(mix, original - 0.5 * sounds[0], atol=1e-5)
    assert after.remix_peak == pytest.approx(np.abs(mix).max())
    assert before.remix_peak == before.removed == 0
    # Each region contains only the sound of the others.
    assert setting.method == "lms" or after.removed > 0.5
    np.testing.assert_array_equal(after.levels, before.levels)


def test_filter_keeps_what_is_not_predicted(tmp_path: Path, planted: Separator) -> None:
    places = ((0.1, 0.9), (0.9, 0.1))
    original = duet(OUT_RATE)
    written, sounds = write(tmp_path, planted, places, LmsSettings(64, 0.01))
    assert decibels(sum(sounds) - original, original) < -60
    assert decibels(sounds[-1], original) < -20
    assert written.removed < 0.5


def test_faint_traces_do_not_remove_wanted_sound(tmp_path: Path, planted: Separator) -> None:
    # The masks are 1 and 0.0003, so that their squares leave traces at -140 dB in the other region.
    places = ((0.1, 0.9), (0.9, 0.1))
    _, raw = write(tmp_path, planted, places)
    written, sounds = write(tmp_path, planted, places, RlsSettings(64, 0.9999))
    original = duet(OUT_RATE)
    assert decibels(sum(sounds) - original, original) < -60
    removed = np.square(np.array(raw[:-1]) - sounds[:-1]).sum() / np.square(raw[:-1]).sum()
    assert written.removed == pytest.approx(removed, abs=0.01)
    assert written.removed < 0.01


def test_denoised_silence(tmp_path: Path, uncertain: Separator) -> None:
    silence = np.zeros((OUT_RATE, 2), np.float32)
    setting = RlsSettings(8, 0.999)
    _, sounds = write(
        tmp_path, uncertain, PLACES, setting, stereo=silence, mono=np.zeros(RATE, np.float32)
    )
    assert not np.any(sounds)


def test_filter_that_diverges_in_the_middle(tmp_path: Path, uncertain: Separator) -> None:
    quiet = 0.01 * duet(OUT_RATE)
    louder = quiet.copy()
    louder[OUT_RATE:] *= 250
    setting = LmsSettings(64, 2.0)
    write(tmp_path, uncertain, PLACES, setting, stereo=quiet)
    with pytest.raises(UserError, match=r"lms: rate 2.*nlms"):
        write(tmp_path, uncertain, PLACES, setting, stereo=louder)


def test_usable_filter() -> None:
    setting = RlsSettings(8, 0.999)
    assert usable_filter(None, 2, 100) == (None, ())
    assert usable_filter(setting, 2, 100) == (setting, ())
    for regions, samples, reason in (
        (0, 100, "it needs two regions, but no region was found"),
        (1, 100, "it needs two regions, but 1 region was found"),
        (2, 7, "8 taps are more than the 7 samples of the sound"),
    ):
        unused, (note,) = usable_filter(setting, regions, samples)
        assert unused is None
        assert note == f"--denoise rls: not applied, {reason}"


@pytest.mark.parametrize(
    "setting", [RlsSettings(8, 0.9999), NlmsSettings(8, 0.01)], ids=lambda setting: setting.method
)
def test_denoised_step_makes_no_burst(
    tmp_path: Path, planted: Separator, setting: FilterSettings
) -> None:
    places = ((0.1, 0.9), (0.9, 0.1))
    stereo = duet(OUT_RATE)
    stereo[OUT_RATE:] += 0.5
    stereo[: OUT_RATE // 2] *= 1e-4
    mono = duet(RATE).mean(axis=1)
    _, raw = write(tmp_path, planted, places, stereo=stereo, mono=mono)
    written, sounds = write(tmp_path, planted, places, setting, stereo=stereo, mono=mono)
    assert decibels(sum(sounds) - stereo, stereo) < -60
    for before, after in zip(raw[:-1], sounds[:-1], strict=True):
        assert np.abs(after).max() < 4 * np.abs(before).max()
        frames = [np.square(x).reshape(-1, 2205, 2).sum(axis=1) for x in (before, after)]
        assert (frames[1] <= 4 * frames[0] + 1e-9).all()
    assert written.kept.decibels >= 0
