from pathlib import Path

import numpy as np
import pytest
import soundfile

import sop.cancellation.wav
from sop.cancellation.wav import read_header, writing_wav
from sop.runtime.errors import UserError

FRONT_AND_SIDES = 0x60F


def noise(samples: int, channels: int, peak: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.uniform(-peak, peak, (samples, channels)).astype(np.float32)


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44100, 2), (48000, 6), (96000, 3)])
def test_blocks_are_read_back(rate: int, channels: int, tmp_path: Path) -> None:
    # Beyond full scale too: nothing is clipped.
    sound = noise(5000, channels, 70_000.0)
    place = tmp_path / "new" / "sound.wav"
    with writing_wav(place, rate, channels) as file:
        for block in np.split(sound, [0, 1, 700, 701]):
            file.write(block)
        assert not place.exists()
    assert file.samples == 5000
    read, read_rate = soundfile.read(place, dtype="float32", always_2d=True)
    assert read_rate == rate
    np.testing.assert_array_equal(read, sound)
    assert [p.name for p in place.parent.iterdir()] == ["sound.wav"]


def test_stereo_needs_no_extensible_format(tmp_path: Path) -> None:
    with writing_wav(tmp_path / "a.wav", 44100, 2, 0x3) as file:
        file.write(noise(10, 2))
    assert soundfile.info(tmp_path / "a.wav").format == "WAV"
    with writing_wav(tmp_path / "b.wav", 44100, 2, 0xC) as file:
        file.write(noise(10, 2))
    assert soundfile.info(tmp_path / "b.wav").format == "WAVEX"


def test_file_without_samples(tmp_path: Path) -> None:
    with writing_wav(tmp_path / "a.wav", 48000, 2):
        pass
    assert soundfile.info(tmp_path / "a.wav").frames == 0


def test_file_too_long_for_riff_is_rf64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As if the limit were 1000 bytes instead of 4 GiB.
    monkeypatch.setattr(sop.cancellation.wav, "RIFF_BYTES", 1000)
    sound = noise(5000, 6)
    with writing_wav(tmp_path / "a.wav", 48000, 6, FRONT_AND_SIDES) as file:
        file.write(sound)
    with soundfile.SoundFile(tmp_path / "a.wav") as read:
        assert (read.format, read.frames, read.samplerate) == ("RF64", 5000, 48000)
        np.testing.assert_array_equal(read.read(dtype="float32"), sound)
    with (tmp_path / "a.wav").open("rb") as stream:
        header = read_header(stream)
    assert header == (48000, 6, FRONT_AND_SIDES)


def test_error_keeps_the_previous_file(tmp_path: Path) -> None:
    place = tmp_path / "a.wav"
    place.write_text("before")
    with pytest.raises(ZeroDivisionError), writing_wav(place, 8000, 1) as file:
        file.write(noise(100, 1))
        raise ZeroDivisionError
    assert place.read_text() == "before"
    assert list(tmp_path.iterdir()) == [place]


def test_unwritable_path_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for place in (tmp_path / "file" / "a.wav", tmp_path / "folder"):
        with (
            pytest.raises(UserError, match=r"cannot be written \(.+\); "),
            writing_wav(place, 8000, 1),
        ):
            pass


def test_block_of_other_channels_is_rejected(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match=r"shape \(9, 3\), expected \(s, 2\)"),
        writing_wav(tmp_path / "a.wav", 8000, 2) as file,
    ):
        file.write(noise(9, 3))


@pytest.mark.parametrize("length", [0, 11, 30, 60, 70])
def test_incomplete_header_is_none(length: int, tmp_path: Path) -> None:
    with writing_wav(tmp_path / "a.wav", 8000, 1) as file:
        file.write(noise(100, 1))
    whole = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "half.wav").write_bytes(whole[:length])
    with (tmp_path / "half.wav").open("rb") as stream:
        assert read_header(stream) is None
