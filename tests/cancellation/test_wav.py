import wave
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


@pytest.mark.parametrize("encoding", ["int16", "float32"])
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44100, 2), (48000, 6), (96000, 3)])
def test_what_is_written_in_blocks_is_read_back(
    rate: int, channels: int, encoding: str, tmp_path: Path
) -> None:
    sound = noise(5000, channels, 0.99)
    place = tmp_path / "new" / "sound.wav"
    with writing_wav(place, rate, channels, encoding=encoding) as file:
        for block in np.split(sound, [0, 1, 700, 701]):
            file.write(block)
        assert not place.exists()
    assert (file.samples, file.clipped) == (5000, 0)
    read, read_rate = soundfile.read(place, dtype="float32", always_2d=True)
    assert read_rate == rate
    tolerance = 0 if encoding == "float32" else 0.5 / 2**15 + 1e-9
    np.testing.assert_allclose(read, sound, rtol=0, atol=tolerance)
    assert [p.name for p in place.parent.iterdir()] == ["sound.wav"]


def test_the_simplest_reader_reads_16_bit_stereo(tmp_path: Path) -> None:
    with writing_wav(tmp_path / "a.wav", 44100, 2, 0x3, "int16") as file:
        file.write(noise(10, 2))
    with wave.open(str(tmp_path / "a.wav")) as read:
        assert (read.getnchannels(), read.getsampwidth(), read.getnframes()) == (2, 2, 10)


def test_over_full_scale_is_clipped_and_counted_and_never_wraps_around(tmp_path: Path) -> None:
    loud = np.array([[1.0], [-1.0], [1.5], [-70000.0], [0.99999], [0.5]], np.float32)
    with writing_wav(tmp_path / "a.wav", 8000, 1, encoding="int16") as file:
        file.write(loud)
    values, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert values.tolist() == [32767, -32768, 32767, -32768, 32767, 16384]
    # -1 is a value of 16 bits, 1 is not.
    assert file.clipped == 4
    with writing_wav(tmp_path / "b.wav", 8000, 1) as file:
        file.write(loud)
    np.testing.assert_array_equal(
        soundfile.read(tmp_path / "b.wav", dtype="float32")[0], loud[:, 0]
    )
    assert file.clipped == 0


def test_no_sound_is_a_file_without_samples(tmp_path: Path) -> None:
    with writing_wav(tmp_path / "a.wav", 48000, 2):
        pass
    assert soundfile.info(tmp_path / "a.wav").frames == 0


@pytest.mark.parametrize("encoding", ["int16", "float32"])
def test_a_file_too_long_for_riff_is_an_rf64(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if 4 GiB were a little.
    monkeypatch.setattr(sop.cancellation.wav, "RIFF_BYTES", 1000)
    sound = noise(5000, 6)
    with writing_wav(tmp_path / "a.wav", 48000, 6, FRONT_AND_SIDES, encoding) as file:
        file.write(sound)
    with soundfile.SoundFile(tmp_path / "a.wav") as read:
        assert (read.format, read.frames, read.samplerate) == ("RF64", 5000, 48000)
        np.testing.assert_allclose(read.read(), sound, atol=4e-5)
    with (tmp_path / "a.wav").open("rb") as stream:
        header = read_header(stream)
    assert header is not None
    assert (header.channels, header.channel_mask) == (6, FRONT_AND_SIDES)


def test_an_error_on_the_way_leaves_what_was_there(tmp_path: Path) -> None:
    place = tmp_path / "a.wav"
    place.write_text("before")
    with pytest.raises(ZeroDivisionError), writing_wav(place, 8000, 1) as file:
        file.write(noise(100, 1))
        raise ZeroDivisionError
    assert place.read_text() == "before"
    assert list(tmp_path.iterdir()) == [place]


def test_a_place_that_cannot_be_written_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for place in (tmp_path / "file" / "a.wav", tmp_path / "folder"):
        with (
            pytest.raises(UserError, match=r"cannot be written \(.+\)$"),
            writing_wav(place, 8000, 1),
        ):
            pass


def test_blocks_of_other_channels_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match=r"shape \(9, 3\), expected \(s, 2\)"),
        writing_wav(tmp_path / "a.wav", 8000, 2) as file,
    ):
        file.write(noise(9, 3))


@pytest.mark.parametrize("length", [0, 11, 30, 60, 70])
def test_half_a_header_is_none(length: int, tmp_path: Path) -> None:
    with writing_wav(tmp_path / "a.wav", 8000, 1) as file:
        file.write(noise(100, 1))
    whole = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "half.wav").write_bytes(whole[:length])
    with (tmp_path / "half.wav").open("rb") as stream:
        assert read_header(stream) is None
