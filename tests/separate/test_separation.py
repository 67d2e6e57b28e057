import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from sop.cli.main import main
from sop.denoise.settings import FilterSettings, LmsSettings, NlmsSettings, RlsSettings
from sop.inference import separator as streaming
from sop.inference.localization import regions_at
from sop.inference.separator import Separator
from sop.media.decoding import probe
from sop.media.ffmpeg import Limits, binary, probe_header
from sop.model.checkpoint import save_player
from sop.params import Params
from sop.player.video import reading_pictures, reading_sound
from sop.runtime.errors import UserError
from sop.separate import separation as module
from sop.separate.full_rate import components
from sop.separate.separation import Request, intervals, place_of, volumes, write_separation
from tests.support.experiment import ROOT, with_values
from tests.support.planted import (
    COLUMNS,
    HIGH_HZ,
    LOW_HZ,
    RATE,
    ROWS,
    ArrayRecording,
    film,
    plant,
    plant_noise,
    separator_of,
    tone,
)

pytestmark = pytest.mark.usefixtures("one_thread")

LIMITS = Limits(60.0)
SECONDS = 4.0
WIDTH, HEIGHT = 160, 60

# The low tone on the left, throughout; the high one on the right, up to second 2.
STEREO = f"0.2*sin(2*PI*{LOW_HZ}*t)|0.2*sin(2*PI*{HIGH_HZ}*t)*lt(t\\,2)"


@pytest.fixture(scope="module")
def params(tiny_params: Params) -> Params:
    changes = {"spectrogram.log_frequency": False, "model.vision_width": 8}
    return with_values(tiny_params, changes)


@pytest.fixture(scope="module")
def planted(params: Params) -> Separator:
    return plant(separator_of(params))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film(tmp_path_factory.mktemp("video") / "duet.mp4", STEREO, SECONDS)


@pytest.fixture
def checkpoint(tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that the command finds what is planted with."""
    path = tmp_path / "model.pt"
    save_player(path, separator_of(params).player, params, step=0)
    load = Separator.load
    monkeypatch.setattr(Separator, "load", lambda *arguments: plant(load(*arguments)))
    return path


@pytest.fixture(scope="module")
def separated(tmp_path_factory: pytest.TempPathFactory, planted: Separator, video: Path) -> Path:
    folder = tmp_path_factory.mktemp("out")
    write_separation(video, folder, planted)
    return folder


def sound_of(video: Path) -> np.ndarray:
    """(L, channels)."""
    with reading_sound(video, probe(video, LIMITS).seconds, LIMITS) as sound:
        return np.concatenate(list(sound.blocks))


def read(path: Path) -> tuple[np.ndarray, int]:
    """(L, channels), and the rate."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return samples, rate


def decibels(error: np.ndarray, of: np.ndarray) -> float:
    return float(10 * np.log10(np.square(error).sum() / np.square(of).sum() + 1e-20))


def described(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "regions.json").read_text(encoding="utf-8"))
    return values


def everything(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir()}


def test_sounds_are_as_long_as_the_video_and_sum_to_its_sound(separated: Path, video: Path) -> None:
    original = sound_of(video)
    parts = []
    for name in ("region-1.wav", "region-2.wav", "rest.wav"):
        samples, rate = read(separated / name)
        assert rate == 44100
        assert samples.shape == original.shape == (round(SECONDS * 44100), 2)
        parts.append(samples)
    assert decibels(sum(parts) - original, original) < -60
    low, high, rest = parts
    assert decibels(low[:, 0] - original[:, 0], original[:, 0]) < -20
    assert decibels(high[:, 1] - original[:, 1], original[:, 1]) < -20
    assert decibels(rest, original) < -20


def test_sound_at_the_rate_of_the_model(tmp_path: Path, planted: Separator, video: Path) -> None:
    written = write_separation(video, tmp_path, planted, Request(model_rate=True))
    assert (written.description["sample_rate"], written.description["channels"]) == (RATE, 1)
    parts = []
    for name in ("region-1.wav", "region-2.wav", "rest.wav"):
        samples, rate = read(tmp_path / name)
        assert rate == RATE
        assert samples.shape == (round(SECONDS * RATE), 1)
        parts.append(samples)
    heard = planted.separate(video).mixture[:, None]
    assert decibels(sum(parts) - heard, heard) < -60


def test_description(separated: Path, video: Path) -> None:
    values = described(separated)
    assert values["video"] == "duet.mp4"
    assert values["seconds"] == pytest.approx(SECONDS, abs=0.05)
    assert (values["width"], values["height"]) == (WIDTH, HEIGHT)
    assert (values["sample_rate"], values["channels"]) == (44100, 2)
    assert sorted(values["files"]) == sorted(everything(separated))
    low, high = values["regions"]
    for number, region in enumerate((low, high), start=1):
        assert region["number"] == number
        assert region["file"] == f"region-{number}.wav"
        assert re.fullmatch(r"#[0-9a-f]{6}", region["colour"])
        assert region["size"] == pytest.approx(6 / (ROWS * COLUMNS))
    assert low["box"] == {"left": 0, "top": 1 / ROWS, "right": 3 / COLUMNS, "bottom": 1}
    assert low["box_pixels"] == {"left": 0, "top": 20, "right": 60, "bottom": 60}
    assert high["box_pixels"] == {"left": 100, "top": 0, "right": 160, "bottom": 40}
    assert low["centre"] == {"x": pytest.approx(3 / 16), "y": pytest.approx(2 / 3)}
    assert low["centre_pixels"] == {"x": 30, "y": 40}
    energies = [low["energy"], high["energy"], values["rest"]["energy"]]
    assert sum(energies) == pytest.approx(1, abs=1e-5)
    assert energies == pytest.approx([2 / 3, 1 / 3, 0], abs=0.02)
    assert values["rest"]["file"] == "rest.wav"
    ((begin, end),) = low["sounds"]
    assert (begin, end) == (pytest.approx(0, abs=0.1), pytest.approx(SECONDS, abs=0.1))
    ((begin, end),) = high["sounds"]
    assert (begin, end) == (pytest.approx(0, abs=0.1), pytest.approx(2, abs=0.15))


def test_pictures_show_where_and_when_it_sounds(separated: Path) -> None:
    overlay = separated / "overlay.mp4"
    assert probe(overlay, LIMITS).seconds == pytest.approx(SECONDS, abs=0.1)
    frames = list(reading_pictures(overlay, SECONDS, 15, None, LIMITS))
    assert frames[0].shape == (HEIGHT, WIDTH, 3)
    saturation = [np.ptp(frame[0:35, 105:155].astype(int), axis=2).mean() for frame in frames]
    assert np.mean(saturation[8:25]) > 2 * np.mean(saturation[40:55])
    level = np.sqrt(np.square(sound_of(overlay)).mean(axis=0))
    assert level == pytest.approx([0.2 / np.sqrt(2), 0.1], abs=0.01)
    with Image.open(separated / "heat.png") as heat:
        assert heat.size == (WIDTH, HEIGHT)
        lit = np.ptp(np.asarray(heat).astype(int), axis=2)
        assert lit[45:, 5:50].mean() > 3 * lit[45:, 70:90].mean()
    with Image.open(separated / "colours.png") as colours:
        assert colours.size == (2 * WIDTH, HEIGHT)


def remixed(folder: Path, separator: Separator, video: Path, **wishes: Any) -> np.ndarray:
    """The sound of the remix, (L, 2)."""
    write_separation(video, folder, separator, Request(**wishes))
    (remix,) = folder.glob("remix.*")
    assert remix.name in described(folder)["files"]
    samples = sound_of(remix)[: round(SECONDS * 44100)]
    return np.pad(samples, ((0, round(SECONDS * 44100) - len(samples)), (0, 0)))


@pytest.mark.parametrize(
    ("wishes", "low", "high"),
    [
        ({"gains": {}}, 1.0, 1.0),
        ({"gains": {"1": 0.5, "2": 2.0}}, 0.5, 2.0),
        ({"muted": frozenset({"1"})}, 0.0, 1.0),
        ({"solo": frozenset({"1"})}, 1.0, 0.0),
        ({"solo": frozenset({"1", "2"}), "muted": frozenset({"2"})}, 1.0, 0.0),
    ],
)
def test_remix_has_the_volumes_asked_for(
    tmp_path: Path,
    planted: Separator,
    video: Path,
    wishes: dict[str, Any],
    low: float,
    high: float,
) -> None:
    original = sound_of(video)
    samples = remixed(tmp_path, planted, video, **wishes)
    expected = original * [low, high]
    # What AAC does to tones that stop, and to silence.
    assert decibels(samples - expected, original) < -20


def test_remix_keeps_the_pictures(tmp_path: Path, planted: Separator, video: Path) -> None:
    remixed(tmp_path, planted, video, gains={"rest": 0.0})
    remix = tmp_path / "remix.mp4"
    before, after = (list(reading_pictures(v, SECONDS, 12, None, LIMITS)) for v in (video, remix))
    assert len(before) == len(after) == 48
    np.testing.assert_array_equal(before, after)
    assert "h264 160x60" in probe_header(remix, LIMITS).format


def test_solo_of_the_rest_contains_no_region(
    tmp_path: Path, planted: Separator, video: Path
) -> None:
    samples = remixed(tmp_path, planted, video, solo=frozenset({"rest"}))
    assert decibels(samples, sound_of(video)) < -20


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({"gains": {"3": 1.0}}, "--gain 3: there are regions 1 to 2 in this video, and 'rest'"),
        ({"muted": frozenset({"0"})}, "--mute 0:"),
        ({"solo": frozenset({"tuba"})}, "--solo tuba:"),
        ({"regions": 9}, "--regions 9: 8 at most"),
        ({"places": [(1.5, 0.5), (200.0, 30.0)]}, "--at 200,30: outside the picture.*160 x 60"),
        ({"places": [(-0.1, 0.5)]}, "--at -0.1,0.5: outside"),
        ({"places": [(float("nan"), 0.5)]}, "--at nan,0.5: outside"),
    ],
)
def test_wishes_that_cannot_be_met_leave_nothing(
    tmp_path: Path, planted: Separator, video: Path, wishes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        write_separation(video, tmp_path / "a" / "out", planted, Request(**wishes))
    assert not (tmp_path / "a").exists()


def test_more_regions_than_sounding_cells_leave_nothing(
    tmp_path: Path, params: Params, video: Path
) -> None:
    one_cell = plant(separator_of(params), low=(slice(0, 1), slice(0, 1)), high=None)
    with pytest.raises(UserError, match="--regions 2: only 1 found"):
        write_separation(video, tmp_path / "out", one_cell, Request(regions=2))
    assert not (tmp_path / "out").exists()


def test_components_are_named_as_there_are() -> None:
    for regions, there in ((0, "is no region"), (1, "is region 1"), (3, "are regions 1 to 3")):
        with pytest.raises(UserError, match=rf"--mute 7: there {there} in this video, and 'rest'"):
            volumes(Request(muted=frozenset({"7"})), regions)
    assert volumes(Request(gains={"rest": 0.5, "1": 3.0}), 2) == [3.0, 1.0, 0.5]


def test_place_is_given_as_shares_or_in_pixels() -> None:
    assert place_of(0.25, 1.0, (640, 360)) == (0.25, 1.0)
    assert place_of(320, 180, (640, 360)) == (0.5, 0.5)
    assert place_of(0, 180, (640, 360)) == (0, 0.5)


def test_sound_of_a_place(tmp_path: Path, planted: Separator, video: Path) -> None:
    places = [(WIDTH * 0.9, 10.0), (0.5, 0.5)]
    written = write_separation(video, tmp_path, planted, Request(places=places))
    original = sound_of(video)
    high, nothing, rest = (
        read(tmp_path / name)[0] for name in ("region-1.wav", "region-2.wav", "rest.wav")
    )
    assert decibels(high[:, 1] - original[:, 1], original[:, 1]) < -20
    assert decibels(nothing, original) < -40
    assert decibels(high + nothing + rest - original, original) < -60
    region = written.description["regions"][0]
    assert region["size"] == pytest.approx(1 / (ROWS * COLUMNS))
    assert region["box_pixels"] == {"left": 140, "top": 0, "right": 160, "bottom": 20}
    assert written.description["regions"][1]["sounds"] == []


def test_silence_has_no_region(tmp_path: Path, planted: Separator) -> None:
    silent = film(tmp_path / "silent.mp4", "0|0", 2.0)
    written = write_separation(
        silent, tmp_path / "out", planted, Request(page_seconds=6.0, gains={})
    )
    assert written.description["regions"] == []
    assert written.description["rest"]["sounds"] == []
    assert not read(tmp_path / "out" / "rest.wav")[0].any()
    assert everything(tmp_path / "out") == {
        *("rest.wav", "regions.json", "overlay.mp4", "heat.png", "colours.png", "remix.mp4"),
        *("page/index.html", "page/video.mp4"),
    }


def test_video_shorter_than_a_window(tmp_path: Path, planted: Separator) -> None:
    short = film(tmp_path / "short.mp4", STEREO, 0.5)
    written = write_separation(short, tmp_path / "out", planted, Request(page_seconds=6.0))
    assert len(written.description["regions"]) == 2
    samples, rate = read(tmp_path / "out" / "rest.wav")
    assert len(samples) == round(written.description["seconds"] * rate)


def test_page_of_the_stretch_that_sounds_most(
    tmp_path: Path, planted: Separator, video: Path
) -> None:
    written = write_separation(video, tmp_path, planted, Request(page_seconds=1.5))
    assert written.page is not None
    begin, end = written.page
    assert 0 <= begin < end <= 2.1
    assert end - begin == pytest.approx(1.5, abs=0.05)
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert "Region 2" in page
    assert "#e69f00" in page
    clip = probe(tmp_path / "page" / "video.mp4", LIMITS).seconds
    assert clip == pytest.approx(end - begin, abs=0.1)


@pytest.mark.parametrize(
    "name",
    [
        "-x a \"b\" 'c' & <script>alert(1)<.mp4",
        "é 日本 %d;$(a):.mp4",
        "a\nb.mp4",
    ],
)
def test_hostile_names(tmp_path: Path, planted: Separator, video: Path, name: str) -> None:
    (tmp_path / name).write_bytes(video.read_bytes())
    out = tmp_path / f"out {name}"
    wishes = Request(gains={"1": 0.5}, page_seconds=1.0, model_rate=True)
    written = write_separation(tmp_path / name, out, planted, wishes)
    assert described(out)["video"] == name
    assert sorted(everything(out)) == sorted(written.files)
    page = (out / "page" / "index.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert page.count("<script") <= 3


def test_names_that_are_no_text_are_refused(
    tmp_path: Path, planted: Separator, video: Path
) -> None:
    name = os.fsdecode(b"\xff.mp4")
    (tmp_path / name).write_bytes(video.read_bytes())
    with pytest.raises(UserError, match="its name is not UTF-8; rename it"):
        write_separation(tmp_path / name, tmp_path / "out", planted)
    with pytest.raises(UserError, match="its name is not UTF-8; choose another folder"):
        write_separation(video, tmp_path / os.fsdecode(b"\xfe"), planted)
    assert everything(tmp_path) == {name}


def test_files_of_an_earlier_run_go_and_foreign_ones_stay(
    tmp_path: Path, planted: Separator, video: Path
) -> None:
    out = tmp_path / "out"
    wishes = Request(gains={}, page_seconds=1.0)
    write_separation(video, out, planted, wishes)
    for name in ("region-9.wav", "notes.txt", "page/mine.html"):
        (out / name).write_text("mine")
    # A description that was tampered with.
    (tmp_path / "precious.wav").write_text("mine")
    values = described(out)
    values["files"] += ["../precious.wav", "notes.txt", 7]
    (out / "regions.json").write_text(json.dumps(values))
    write_separation(video, out, planted, Request(regions=1))
    assert (tmp_path / "precious.wav").exists()
    assert everything(out) >= {"region-2.wav", "remix.mp4", "notes.txt"}
    values["files"] = values["files"][:-3]
    (out / "regions.json").write_text(json.dumps(values))
    write_separation(video, out, planted, Request(regions=1))
    assert everything(out) == {
        *("region-1.wav", "rest.wav", "regions.json", "overlay.mp4", "heat.png", "colours.png"),
        *("region-9.wav", "notes.txt", "page/mine.html"),
    }


def test_what_a_killed_run_left_is_removed(tmp_path: Path, planted: Separator, video: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    stale = tmp_path / f".part-separation-{ended.pid}-abc"
    alive = tmp_path / f".part-separation-{os.getpid()}-abc"
    for folder in (stale, alive):
        folder.mkdir()
        (folder / "rest.wav").write_text("half")
    write_separation(video, tmp_path, planted)
    assert not stale.exists()
    assert alive.exists()


@pytest.mark.parametrize("stopped", ["write_video", "write_clip", "write_remix", "components"])
def test_interrupted_run_leaves_what_was_there(
    tmp_path: Path,
    planted: Separator,
    video: Path,
    monkeypatch: pytest.MonkeyPatch,
    stopped: str,
) -> None:
    def stop(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    monkeypatch.setattr(module, stopped, stop)
    with pytest.raises(KeyboardInterrupt):
        write_separation(video, out, planted, Request(gains={}, page_seconds=1.0))
    assert not out.exists()
    out.mkdir()
    (out / "rest.wav").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_separation(video, out, planted, Request(gains={}, page_seconds=1.0))
    assert everything(out) == {"rest.wav"}
    assert (out / "rest.wav").read_text() == "old"
    assert [path.name for path in out.iterdir()] == ["rest.wav"]


def test_full_disk_is_one_line(
    tmp_path: Path, planted: Separator, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_json", full)
    with pytest.raises(UserError, match=r"out: cannot be written \(No space left"):
        write_separation(video, tmp_path / "out", planted)
    assert not (tmp_path / "out").exists()


def test_video_is_not_written_over(tmp_path: Path, planted: Separator, video: Path) -> None:
    mine = tmp_path / "remix.mp4"
    mine.write_bytes(video.read_bytes())
    with pytest.raises(UserError, match=r"remix\.mp4: would be written over"):
        write_separation(mine, tmp_path, planted)
    assert mine.read_bytes() == video.read_bytes()


def bad_inputs(folder: Path, video: Path) -> Iterator[tuple[list[str], str]]:
    (folder / "text.mp4").write_text("not a video")
    (folder / "folder").mkdir()
    (folder / "file").write_text("")
    mute, blind = folder / "mute.mp4", folder / "blind.mp4"
    for kept, path in (("-an", mute), ("-vn", blind)):
        command = [binary(), "-v", "error", "-i", str(video), kept, "-c", "copy", str(path)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    out = ["--out", str(folder / "out")]
    good = str(video)
    yield [str(folder / "none.mp4"), *out], "none.mp4: no such file"
    yield [str(folder / "folder"), *out], "folder: not a file"
    yield [str(folder / "text.mp4"), *out], "text.mp4: not a video"
    yield [str(mute), *out], "mute.mp4: holds no sound"
    yield [str(blind), *out], "blind.mp4: holds no pictures"
    yield [good, *out, "--taps", "8"], "--taps requires --denoise"
    yield [good, *out, "--denoise", "lms"], "--denoise lms requires --rate"
    yield [good, *out, "--denoise", "rls", "--rate", "0.1"], "--rate: an option of lms and nlms"
    yield [good, *out, "--denoise", "rls", "--forgetting", "2"], "--forgetting 2: must be"
    yield [good, *out, "--denoise", "rls", "--taps", "4097"], "rls: 1 references x 4097 taps"
    yield [good, *out, "--denoise", "lms", "--rate", "9"], "lms: rate 9: diverges"
    yield [good, "--out", str(folder / "file")], "file: cannot be written"
    yield [good, "--out", str(folder / "file" / "out")], "out: cannot be written"
    yield [good, "--out", "/proc/out"], "/proc/out: cannot be written"
    yield [good, *out, "--checkpoint", str(folder / "none.pt")], "none.pt: no such checkpoint"
    yield [good, *out, "--device", "toaster"], "--device toaster"
    yield [good, *out, "--regions", "some"], "--regions some"
    yield [good, *out, "--regions", "0"], "--regions 0"
    yield [good, *out, "--at", "0.5"], "--at 0.5"
    yield [good, *out, "--at", "a,b"], "--at a,b"
    yield [good, *out, "--at", "9000,9"], "--at 9000,9"
    yield [good, *out, "--gain", "1"], "--gain 1"
    yield [good, *out, "--gain", "1=-1"], "--gain 1=-1"
    yield [good, *out, "--gain", "1=nan"], "--gain 1=nan"
    yield [good, *out, "--gain", "5=1"], "--gain 5"
    yield [good, *out, "--page", "--page-seconds", "0"], "--page-seconds 0"


def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path, checkpoint: Path, video: Path
) -> None:
    before: set[str] = set()
    for arguments, said in bad_inputs(tmp_path, video):
        before = before or everything(tmp_path)
        if "--checkpoint" not in arguments:
            arguments = [*arguments, "--checkpoint", str(checkpoint)]
        with pytest.raises(UserError, match=re.escape(said)) as error:
            main(["separate", *arguments])
        assert "\n" not in str(error.value)
        assert everything(tmp_path) == before
        assert not (tmp_path / "out").exists()


def test_command_says_what_it_made(
    tmp_path: Path, checkpoint: Path, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["separate", str(video), "--out", str(out), "--checkpoint", str(checkpoint)]
    command += ["--device", "cpu", "--gain", "1=9", "--gain", "rest=0", "--page"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "region 1: 67% of the energy, around 30,40, sounds 4.0 of 4.0 s" in lines
    assert any(line.startswith(f"{out}: region-1.wav, region-2.wav, rest.wav") for line in lines)
    assert any("exceeds full scale by" in line for line in lines)
    assert lines[-1].startswith(f"Open {out}/page/index.html")
    assert main([*command[:6], "--at", "0.1,0.9"]) == 0
    shown = capsys.readouterr().out
    assert "region 1: 67%" in shown
    assert "region 2" not in shown
    assert not (out / "page").exists()
    assert not (out / "remix.mp4").exists()


def test_one_of_places_and_regions(checkpoint: Path, video: Path, tmp_path: Path) -> None:
    command = ["separate", str(video), "--out", str(tmp_path), "--at", "0,0", "--regions", "2"]
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 2


PLACES = ((0.1, 0.5), (0.5, 0.5), (0.9, 0.5))


def parts_of(folder: Path, regions: int) -> tuple[list[np.ndarray], np.ndarray]:
    """The sounds of the regions, and the rest."""
    names = [f"region-{number}.wav" for number in range(1, regions + 1)]
    return [read(folder / name)[0] for name in names], read(folder / "rest.wav")[0]


@pytest.mark.parametrize(
    "setting",
    [
        RlsSettings(8, 0.9999),
        NlmsSettings(8, 0.01),
        LmsSettings(8, 0.001),
    ],
    ids=lambda setting: setting.method,
)
def test_denoised_sounds_are_filtered_with_the_others_and_sum_to_the_sound(
    tmp_path: Path, uncertain: Separator, video: Path, setting: FilterSettings
) -> None:
    # Each place has a share of the whole sound, so that any predicts the others.
    before, after = tmp_path / "before", tmp_path / "after"
    write_separation(video, before, uncertain, Request(places=PLACES))
    wishes = Request(places=PLACES, gains={"1": 0.5}, denoise=setting)
    written = write_separation(video, after, uncertain, wishes)
    raw, raw_rest = parts_of(before, 3)
    filtered, rest = parts_of(after, 3)
    original = sound_of(video)
    assert decibels(sum(filtered) + rest - original, original) < -100
    for region, sound in enumerate(filtered):
        others = np.delete(np.array(raw), region, axis=0)
        for channel in range(2):
            expected = setting.make(2).clean(raw[region][:, channel], others[:, :, channel])
            np.testing.assert_allclose(sound[:, channel], expected, rtol=0, atol=1e-5)
        assert decibels(sound, raw[region]) < -1
    assert decibels(raw_rest, rest) < -1
    energies = np.array([np.square(part).sum() for part in (*filtered, rest)])
    told = [*written.description["regions"], written.description["rest"]]
    shares = [component["energy"] for component in told]
    assert shares == pytest.approx(energies / energies.sum(), abs=1e-3)
    mix = 0.5 * filtered[0] + filtered[1] + filtered[2] + rest
    (remix,) = after.glob("remix.*")
    assert decibels(sound_of(remix)[: len(mix)] - mix, mix) < -20
    assert described(after)["denoise"] == {"filter": setting.method, **setting.values}
    assert described(before)["denoise"] is None
    # Each region was nothing but the others' sound.
    assert setting.method == "lms" or "of the regions' energy" in written.notes[0]


def test_denoising_keeps_what_others_do_not_predict(
    tmp_path: Path, planted: Separator, video: Path
) -> None:
    setting = LmsSettings(64, 0.01)
    written = write_separation(video, tmp_path, planted, Request(denoise=setting))
    original = sound_of(video)
    (low, high), rest = parts_of(tmp_path, 2)
    assert decibels(low + high + rest - original, original) < -60
    assert decibels(rest, original) < -20
    assert written.notes == ()


def test_regions_that_are_emptied_by_traces_of_one_another_are_said(
    tmp_path: Path, planted: Separator, video: Path, separated: Path
) -> None:
    # From its trace at -70 dB a tone is predicted as well as from itself.
    setting = RlsSettings(64, 0.9999)
    written = write_separation(video, tmp_path, planted, Request(denoise=setting))
    (low, high), rest = parts_of(tmp_path, 2)
    original = sound_of(video)
    assert decibels(low + high + rest - original, original) < -60
    (note,) = written.notes
    share = float(re.search(r"moved (\d+)% of the regions' energy to the rest", note)[1]) / 100
    (raw_low, raw_high), _ = parts_of(separated, 2)
    moved = [raw_low - low, raw_high - high]
    energy = np.square([raw_low, raw_high]).sum()
    assert share == pytest.approx(np.square(moved).sum() / energy, abs=0.01)


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({"regions": 1}, "it takes two regions that sound, and there is 1"),
        ({"places": PLACES[:1]}, "it takes two regions that sound, and there is 1"),
        ({"denoise": NlmsSettings(10**9, 0.01)}, "1000000000 taps are more than the 176"),
    ],
)
def test_denoising_that_can_have_no_effect_is_said(
    tmp_path: Path, planted: Separator, video: Path, wishes: dict[str, Any], said: str
) -> None:
    wishes = {"denoise": RlsSettings(8, 0.999), **wishes}
    written = write_separation(video, tmp_path / "with", planted, Request(**wishes))
    write_separation(video, tmp_path / "without", planted, Request(**{**wishes, "denoise": None}))
    (note,) = written.notes
    assert said in note
    assert described(tmp_path / "with")["denoise"] is None
    for name in described(tmp_path / "with")["files"]:
        if name.endswith(".wav"):
            files = [tmp_path / folder / name for folder in ("with", "without")]
            assert files[0].read_bytes() == files[1].read_bytes()


def test_silence_is_denoised(tmp_path: Path, planted: Separator) -> None:
    silent = film(tmp_path / "silent.mp4", "0|0", 1.0)
    setting = RlsSettings(8, 0.999)
    written = write_separation(silent, tmp_path / "out", planted, Request(denoise=setting))
    assert written.notes == (
        "--denoise rls: nothing was filtered, it takes two regions that sound, and there is none",
    )
    wishes = Request(denoise=setting, places=PLACES)
    write_separation(silent, tmp_path / "out", planted, wishes)
    assert not np.any(parts_of(tmp_path / "out", 3)[0])


def test_rate_that_diverges_in_the_middle_leaves_nothing(
    tmp_path: Path, uncertain: Separator
) -> None:
    louder = film(tmp_path / "louder.mp4", f"sin(2*PI*{LOW_HZ}*t)*(0.01+0.5*gt(t\\,2))", SECONDS)
    quiet = film(tmp_path / "quiet.mp4", f"0.01*sin(2*PI*{LOW_HZ}*t)", SECONDS)
    wishes = Request(places=PLACES, denoise=LmsSettings(64, 2.0))
    write_separation(quiet, tmp_path / "out", uncertain, wishes)
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(UserError, match=r"lms: rate 2: diverges.*must be below.*nlms"):
        write_separation(louder, tmp_path / "out", uncertain, wishes)
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_command_denoises(
    tmp_path: Path, checkpoint: Path, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["separate", str(video), "--out", str(out), "--checkpoint", str(checkpoint)]
    command += ["--device", "cpu", "--denoise"]
    assert main([*command, "rls", "--forgetting", "0.999", "--taps", "4"]) == 0
    assert "nothing was filtered" not in capsys.readouterr().out
    assert described(out)["denoise"] == {"filter": "rls", "taps": 4, "forgetting": 0.999}
    assert main([*command, "nlms", "--regions", "1"]) == 0
    note = "NOTE --denoise nlms: nothing was filtered, it takes two regions that sound"
    assert any(line.startswith(note) for line in capsys.readouterr().out.splitlines())


def test_times_leave_out_what_is_too_short() -> None:
    sounding = np.zeros(100, bool)
    sounding[[0, 1, 2, 3, 5, 6, 40, *range(60, 100)]] = True
    assert intervals(sounding, 0.1, 9.8) == [(0.0, 0.65), (3.95, 4.05), (5.95, 9.8)]
    assert intervals(sounding, 0.05, 5.0) == [(0.0, 0.325), (2.975, 4.975)]
    assert intervals(~np.zeros(3, bool), 0.05, 0.08) == [(0.0, 0.08)]
    assert intervals(np.zeros(3, bool), 0.05, 0.1) == []


@pytest.fixture(scope="module")
def uncertain(params: Params) -> Separator:
    """Finds something else in each window."""
    return plant_noise(separator_of(params))


def component(
    separator: Separator, recording: ArrayRecording, monkeypatch: Any, windows: int
) -> np.ndarray:
    """What the cell at the top left lets through, stretch by stretch, (L,)."""
    monkeypatch.setattr(streaming, "SEGMENT_WINDOWS", windows)
    regions = tuple(regions_at([(0, 0)], (ROWS, COLUMNS)))
    stretches = separator.segments(recording)
    masks = (separator.region_masks(embedding, regions) for _, embedding in stretches)
    blocks = [recording.sound(0, recording.samples)[:, None]]
    made = components(blocks, RATE, masks, RATE, separator.params.spectrogram)
    return np.concatenate(list(made), axis=1)[0, :, 0]


def test_windows_have_no_seams(uncertain: Separator, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = ArrayRecording(tone(440.0, 30.0, level=0.5))
    heard = component(uncertain, recording, monkeypatch, 16)
    # A click would be heard at all frequencies.
    spectrum = np.abs(np.fft.rfft(heard[RATE:-RATE] * np.hanning(len(heard) - 2 * RATE))) ** 2
    frequencies = np.fft.rfftfreq(len(heard) - 2 * RATE, 1 / RATE)
    away = np.abs(frequencies - 440) > 200
    assert spectrum[away].sum() < 1e-7 * spectrum.sum()
    # The masks do change, and no faster at a seam than elsewhere.
    step = (1 + uncertain.params.mixture.audio_samples // 512) // 2
    level = np.sqrt(np.square(heard[: len(heard) // 512 * 512].reshape(-1, 512)).mean(axis=1))
    flux = np.abs(np.diff(level))[4:-4]
    seams = np.arange(len(flux)) + 4
    at_seam = np.minimum(seams % step, -seams % step) <= 1
    assert np.ptp(level[4:-4]) > 0.05
    assert flux[at_seam].max() < 1.5 * flux[~at_seam].max()


def test_sound_does_not_depend_on_how_stretches_are_cut(
    uncertain: Separator, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = ArrayRecording(np.random.default_rng(0).uniform(-0.5, 0.5, 30 * RATE))
    one, other = (component(uncertain, recording, monkeypatch, windows) for windows in (4, 16))
    np.testing.assert_allclose(one, other, atol=1e-5)


# Of this process alone: what `getrusage` tells begins with the size of the one that forked it.
MEASURED = """
import re, sys
from pathlib import Path
from sop.cli.main import main
main(["separate", *sys.argv[1:], "--device", "cpu"])
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to measure memory by")
def test_memory_does_not_grow_with_length(tmp_path: Path, default_params: Params) -> None:
    changes = {"model.vision": "resnet18half", "mixture.image_size": 96, "mixture.frames": 2}
    params = with_values(default_params, changes)
    save_player(tmp_path / "model.pt", separator_of(params).player, params, step=0)
    peaks = []
    for seconds in (20, 120):
        video = film(tmp_path / f"{seconds}.mp4", "random(0)-0.5", seconds, "testsrc=s=80x60:r=4")
        command = [sys.executable, "-c", MEASURED, str(video), "--out", str(tmp_path / "out")]
        shown = subprocess.run(
            [*command, "--checkpoint", str(tmp_path / "model.pt")],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(shown.stdout.splitlines()[-1]) << 10)
    assert peaks[1] < peaks[0] + (64 << 20)
    assert peaks[1] < 2 << 30
