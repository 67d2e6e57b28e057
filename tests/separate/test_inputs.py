"""Several videos, parts of videos, sounds with a picture, and formats of the sounds."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

import sop
from sop.cli.main import main
from sop.inference.separator import Separator as Model
from sop.media.binary import binary
from sop.media.decoding import probe
from sop.media.ffmpeg import Limits
from sop.model.checkpoint import save_player
from sop.params import Params
from sop.runtime.errors import UserError
from sop.separate.api import folder_names
from tests.support.planted import HIGH_HZ, LOW_HZ, film, plant, separator_of

pytestmark = pytest.mark.usefixtures("one_thread")

SECONDS = 4.0
STEREO = f"0.2*sin(2*PI*{LOW_HZ}*t)|0.2*sin(2*PI*{HIGH_HZ}*t)*lt(t\\,2)"


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film(tmp_path_factory.mktemp("video") / "my duet.mp4", STEREO, SECONDS)


@pytest.fixture
def command(
    tmp_path: Path, planted_params: Params, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[str]]:
    """A command with a model file from which planted separators are loaded."""
    path = tmp_path / "model.pt"
    save_player(path, separator_of(planted_params).player, planted_params, step=0)
    load = Model.load
    monkeypatch.setattr(Model, "load", lambda *arguments: plant(load(*arguments)))
    yield ["separate", "--model", str(path), "--device", "cpu"]


@pytest.fixture(scope="module")
def separator(planted: Model) -> sop.Separator:
    return sop.Separator(planted)


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def sound_of(path: Path, folder: Path) -> Path:
    """The sound of a video as a file of its own."""
    out = folder / "sound.wav"
    done = [binary(), "-v", "error", "-y", "-i", str(path), "-vn", str(out)]
    subprocess.run(done, check=True, stdin=subprocess.DEVNULL)
    return out


def test_several_videos(
    tmp_path: Path, command: list[str], video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "my duet.mkv"
    damaged = tmp_path / "damaged.mp4"
    other.write_bytes(video.read_bytes())
    damaged.write_text("?")
    videos = [str(path) for path in (video, damaged, tmp_path / "none.mp4", other)]
    out = tmp_path / "out"
    assert main([*command, *videos, "--out", str(out), "--stems-only"]) == 2
    stems = {"region-1.wav", "region-2.wav", "rest.wav", "regions.json"}
    assert names(out) == {
        f"{folder}/{name}" for folder in ("my duet", "my duet-2") for name in stems
    }
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3] == "2 of 4 videos could not be separated:"
    assert lines[-2].startswith(f"  {damaged}: not a video")
    assert lines[-1] == f"  {tmp_path / 'none.mp4'}: no such file"


def test_results_are_named_like_the_video(
    tmp_path: Path, command: list[str], video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*command, str(video), "--stems-only"]) == 0
    assert (tmp_path / "separated" / "my duet" / "rest.wav").is_file()


def test_folder_names_are_inside() -> None:
    videos = [Path("a/x.mp4"), Path("b/X.mkv"), Path(".."), Path("/..mp4"), Path("c/.hidden")]
    found = folder_names(videos)
    assert found == ["x", "X-2", "video", "video-2", "hidden"]


def test_stems_only_contradicts_what_needs_pictures(
    tmp_path: Path, command: list[str], video: Path
) -> None:
    for extra in (["--page"], ["--gain", "1=2"], ["--solo", "1"]):
        with pytest.raises(UserError, match="--stems-only: contradicts"):
            main([*command, str(video), "--out", str(tmp_path / "out"), "--stems-only", *extra])
    assert not (tmp_path / "out").exists()


def test_formats(tmp_path: Path, command: list[str], video: Path) -> None:
    sounds = {}
    for kind in ("wav", "flac", "mp3"):
        out = tmp_path / "out"
        options = ["--out", str(out), "--stems-only", "--format", kind]
        assert main([*command, str(video), *options]) == 0
        # Sounds of the earlier format are removed.
        assert names(out) == {
            *(f"{name}.{kind}" for name in ("region-1", "region-2", "rest")),
            "regions.json",
        }
        values = json.loads((out / "regions.json").read_text())
        assert values["regions"][0]["file"] == f"region-1.{kind}"
        sounds[kind], rate = soundfile.read(out / f"region-1.{kind}")
        assert rate == 44100
    np.testing.assert_allclose(sounds["flac"], sounds["wav"], atol=2**-22)
    length = len(sounds["wav"])
    mp3 = sounds["mp3"][:length]
    assert len(mp3) == length
    # Decoders of MP3 add a delay, which libsndfile removes.
    assert np.corrcoef(mp3[:, 0], sounds["wav"][:, 0])[0, 1] > 0.999


def test_sound_that_a_format_cannot_hold(
    tmp_path: Path, separator: sop.Separator, video: Path
) -> None:
    sound = "|".join(f"0.1*sin(2*PI*{LOW_HZ}*t)" for _ in range(6))
    surround = film(tmp_path / "surround.mp4", sound, 1.0)
    with pytest.raises(UserError, match=r"surround\.mp4: MP3 holds at most 2 channels"):
        separator.write(surround, tmp_path / "out", sop.SeparationOptions(sound_format="mp3"))
    assert not (tmp_path / "out").exists()


def test_part_of_a_video(tmp_path: Path, command: list[str], video: Path) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert main([*command, str(video), "--out", str(whole), "--stems-only"]) == 0
    times = ["--start", "0:01.5", "--end", "3"]
    assert main([*command, str(video), "--out", str(out), *times, "--gain", "1=0.5"]) == 0
    values = json.loads((out / "regions.json").read_text())
    assert values["video"] == "my duet.mp4"
    assert values["part"] == {"start": 1.5, "end": 3.0}
    assert values["seconds"] == pytest.approx(1.5, abs=0.05)
    assert (values["width"], values["height"]) == (160, 60)
    assert probe(out / "overlay.mp4", Limits(60.0)).seconds == pytest.approx(1.5, abs=0.1)
    assert "remix.mp4" in names(out)
    part, rate = soundfile.read(out / "region-1.wav")
    of_whole, _ = soundfile.read(whole / "region-1.wav")
    begin = round(1.5 * rate)
    expected = of_whole[begin : begin + len(part), 0]
    assert np.corrcoef(part[:, 0], expected)[0, 1] > 0.999
    # The high tone ends half a second after the begin of the part.
    ((_, end),) = values["regions"][1]["sounds"]
    assert end == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (["--start", "9"], r"--start 9: .*my duet\.mp4 has only 4\.0 s"),
        (["--start", "3", "--end", "2"], "the end after the start"),
        (["--start", "1:2:3:4"], "--start 1:2:3:4: must be seconds"),
        (["--end", "nan"], "--end nan: must be seconds"),
        (["--end", "0"], "the end after the start"),
    ],
)
def test_parts_that_are_refused(
    tmp_path: Path, command: list[str], video: Path, times: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        main([*command, str(video), "--out", str(tmp_path / "out"), *times])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("extra", [[], ["--start", "1"]])
def test_sound_alone(tmp_path: Path, command: list[str], video: Path, extra: list[str]) -> None:
    sound = sound_of(video, tmp_path)
    with pytest.raises(UserError, match=r"sound only.*--image FILE.*sop denoise") as error:
        main([*command, str(sound), "--out", str(tmp_path / "out"), *extra])
    assert "\n" not in str(error.value)


def test_sound_with_a_picture(tmp_path: Path, command: list[str], video: Path) -> None:
    sound, image = sound_of(video, tmp_path), tmp_path / "still.png"
    Image.new("RGB", (161, 61), "red").save(image)
    out = tmp_path / "out"
    assert main([*command, str(sound), "--out", str(out), "--image", str(image)]) == 0
    values = json.loads((out / "regions.json").read_text())
    assert (values["video"], values["image"]) == ("sound.wav", "still.png")
    assert values["seconds"] == pytest.approx(SECONDS, abs=0.05)
    assert len(values["regions"]) == 2
    assert "overlay.mp4" in names(out)
    parts = [soundfile.read(out / name)[0] for name in ("region-1.wav", "region-2.wav", "rest.wav")]
    original, _ = soundfile.read(sound)
    np.testing.assert_allclose(sum(parts), original[: len(parts[0])], atol=1e-4)
    # The pictures of a video are replaced, too.
    options = [*command, str(video), "--out", str(out), "--image", str(image), "--end", "1"]
    assert main(options) == 0
    values = json.loads((out / "regions.json").read_text())
    assert (values["width"], values["height"]) == (162, 62)
    assert values["seconds"] == pytest.approx(1.0, abs=0.05)


def test_pictures_that_are_refused(
    tmp_path: Path, separator: sop.Separator, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, large = tmp_path / "text.png", tmp_path / "large.png"
    text.write_text("no picture")
    Image.new("1", (3000, 2000)).save(large)
    monkeypatch.setattr("sop.separate.source.MAX_IMAGE_PIXELS", 5_000_000)
    for image, message in ((text, "not a picture"), (large, "too many"), (tmp_path, "not a file")):
        with pytest.raises(UserError, match=message):
            separator.separate(video, image=image)


def test_python_takes_the_same_inputs(
    tmp_path: Path, command: list[str], separator: sop.Separator, video: Path
) -> None:
    times = ["--start", "1", "--end", "2.5", "--stems-only", "--format", "flac"]
    assert main([*command, str(video), "--out", str(tmp_path / "a"), *times]) == 0
    options = sop.SeparationOptions(stems_only=True, sound_format="flac")
    with separator.separate(video, start=1.0, end=2.5) as separation:
        separation.save(tmp_path / "b", options)
        assert separation.seconds == pytest.approx(1.5, abs=0.02)
    for name in ("region-1.flac", "region-2.flac", "rest.flac"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
