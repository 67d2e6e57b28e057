import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from sop.cli.main import main
from sop.denoise.settings import LmsSettings, NlmsSettings
from sop.inference import separator as separator_module
from sop.inference.localization import regions_at
from sop.inference.separator import Separator
from sop.media.decoding import Probe, probe
from sop.media.ffmpeg import Limits, binary, probe_header
from sop.model.checkpoint import save_player
from sop.params import Params
from sop.runtime.errors import UserError
from sop.separate import api, overlay, separation, sounds
from sop.separate.full_rate import components
from sop.separate.separation import SeparationOptions, fractions_of, remix_gains, write_separation
from sop.separate.staging import staged
from sop.separate.video import open_sound, read_pictures
from tests.support.experiment import ROOT
from tests.support.planted import (
    COLUMNS,
    HIGH_HZ,
    LOW_HZ,
    RATE,
    ROWS,
    ArrayRecording,
    film,
    plant,
    separator_of,
    tone,
)

pytestmark = pytest.mark.usefixtures("one_thread")

LIMITS = Limits(60.0)
SECONDS = 2.0
WIDTH, HEIGHT = 160, 60

# A low tone on the left, and a high one on the right during the first second.
STEREO = f"0.2*sin(2*PI*{LOW_HZ}*t)|0.2*sin(2*PI*{HIGH_HZ}*t)*lt(t\\,1)"


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film(tmp_path_factory.mktemp("video") / "duet.mp4", STEREO, SECONDS)


@pytest.fixture
def checkpoint(tmp_path: Path, planted_params: Params, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model file from which the command loads a planted separator."""
    path = tmp_path / "model.pt"
    save_player(path, separator_of(planted_params).player, planted_params, step=0)
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
    with open_sound(video, probe(video, LIMITS), LIMITS) as sound:
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


def test_sounds_sum_to_the_sound_of_the_video(separated: Path, video: Path) -> None:
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


def test_sounds_at_the_model_rate(tmp_path: Path, planted: Separator, video: Path) -> None:
    written = write_separation(video, tmp_path, planted, SeparationOptions(model_rate=True))
    assert (written.description["sample_rate"], written.description["channels"]) == (RATE, 1)
    parts = []
    for name in ("region-1.wav", "region-2.wav", "rest.wav"):
        samples, rate = read(tmp_path / name)
        assert rate == RATE
        assert samples.shape == (round(SECONDS * RATE), 1)
        parts.append(samples)
    mixture = api.Separator(planted).separate(video).mixture[:, None]
    assert decibels(sum(parts) - mixture, mixture) < -60


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
    assert (begin, end) == (pytest.approx(0, abs=0.1), pytest.approx(SECONDS / 2, abs=0.15))


def test_pictures_show_the_regions(separated: Path) -> None:
    overlay = separated / "overlay.mp4"
    assert probe(overlay, LIMITS).seconds == pytest.approx(SECONDS, abs=0.1)
    frames = list(read_pictures(overlay, Probe(SECONDS), 15, None, LIMITS))
    assert frames[0].shape == (HEIGHT, WIDTH, 3)
    saturation = [np.ptp(frame[0:35, 105:155].astype(int), axis=2).mean() for frame in frames]
    assert np.mean(saturation[4:12]) > 2 * np.mean(saturation[20:27])
    level = np.sqrt(np.square(sound_of(overlay)).mean(axis=0))
    assert level == pytest.approx([0.2 / np.sqrt(2), 0.1], abs=0.01)
    with Image.open(separated / "heat.png") as heat:
        assert heat.size == (WIDTH, HEIGHT)
        lit = np.ptp(np.asarray(heat).astype(int), axis=2)
        assert lit[45:, 5:50].mean() > 3 * lit[45:, 70:90].mean()
    with Image.open(separated / "colours.png") as colours:
        assert colours.size == (2 * WIDTH, HEIGHT)


def test_remix(tmp_path: Path, planted: Separator, video: Path) -> None:
    options = SeparationOptions(gains={"1": 0.5, "2": 2.0})
    written = write_separation(video, tmp_path, planted, options)
    remix = tmp_path / "remix.mp4"
    assert remix.name in written.files
    original = sound_of(video)
    samples = sound_of(remix)[: len(original)]
    samples = np.pad(samples, ((0, len(original) - len(samples)), (0, 0)))
    expected = original * [0.5, 2.0]
    assert written.remix_peak == pytest.approx(np.abs(expected).max(), abs=0.02)
    # AAC changes tones that stop.
    assert decibels(samples - expected, original) < -20
    before, after = (
        list(read_pictures(v, Probe(SECONDS), 12, None, LIMITS)) for v in (video, remix)
    )
    assert len(before) == len(after) == 12 * SECONDS
    np.testing.assert_array_equal(before, after)
    assert "h264 160x60" in probe_header(remix, LIMITS).format


def test_solo_of_the_rest(tmp_path: Path, planted: Separator, video: Path) -> None:
    write_separation(video, tmp_path, planted, SeparationOptions(solo=frozenset({"rest"})))
    original = sound_of(video)
    assert decibels(sound_of(tmp_path / "remix.mp4"), original) < -20


def test_remix_gains() -> None:
    for options, expected in (
        (SeparationOptions(), [1, 1, 1]),
        (SeparationOptions(gains={"rest": 0.5, "1": 3.0}), [3, 1, 0.5]),
        (SeparationOptions(muted=frozenset({"1"})), [0, 1, 1]),
        (SeparationOptions(solo=frozenset({"1"})), [1, 0, 0]),
        (SeparationOptions(solo=frozenset({"1", "2"}), muted=frozenset({"2"})), [1, 0, 0]),
        (SeparationOptions(solo=frozenset({"2"}), gains={"2": 0.3}), [0, 0.3, 0]),
    ):
        assert remix_gains(options, 2) == expected
        assert options.remixes == (expected != [1, 1, 1])
    assert SeparationOptions(gains={}).remixes
    for regions, choices in ((0, "rest"), (1, "1 or rest"), (3, "1, 2, 3 or rest")):
        with pytest.raises(UserError, match=f"^--mute 7: no such region.*; use {choices}$"):
            remix_gains(SeparationOptions(muted=frozenset({"7"})), regions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gains": {"3": 1.0}}, "--gain 3: no such region; use 1, 2 or rest"),
        ({"regions": 2, "solo": frozenset({"3"})}, "--solo 3: no such region; use 1, 2 or rest"),
        ({"muted": frozenset("1"), "solo": frozenset("1")}, "--mute 1: contradicts --solo 1"),
        ({"muted": frozenset("1"), "gains": {"1": 2}}, "--mute 1: contradicts --gain 1"),
        ({"solo": frozenset("1"), "gains": {"2": 2}}, "--gain 2: without effect"),
        ({"regions": 9}, "--regions 9: must be at most 8"),
        ({"places": [(1.5, 0.5), (200.0, 30.0)]}, "--at 200,30: outside the picture.*160 x 60"),
        ({"places": [(-0.1, 0.5)]}, "--at -0.1,0.5: outside"),
        ({"places": [(float("nan"), 0.5)]}, "--at nan,0.5: outside"),
    ],
)
def test_impossible_options_leave_nothing(
    tmp_path: Path, planted: Separator, video: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        write_separation(video, tmp_path / "a" / "out", planted, SeparationOptions(**options))
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("net", ["sound", "vision"])
def test_weights_that_overflow_are_reported(
    tmp_path: Path, planted_params: Params, video: Path, net: str
) -> None:
    model, generator = separator_of(planted_params), torch.Generator().manual_seed(0)
    for weights in getattr(model.player, net).parameters():
        weights.data = 1e38 * torch.sign(torch.randn(weights.shape, generator=generator))
    with pytest.raises(UserError, match=r"^the model computes values that are not finite; "):
        write_separation(video, tmp_path / "out", model)
    assert not list(tmp_path.iterdir())


def test_more_regions_than_found(tmp_path: Path, planted_params: Params, video: Path) -> None:
    one_cell = plant(separator_of(planted_params), low=(slice(0, 1), slice(0, 1)), high=None)
    with pytest.raises(UserError, match="--regions 2: only 1 found"):
        write_separation(video, tmp_path / "out", one_cell, SeparationOptions(regions=2))
    assert not (tmp_path / "out").exists()


def test_fractions_of() -> None:
    assert fractions_of(0.25, 1.0, (640, 360)) == (0.25, 1.0)
    assert fractions_of(320, 180, (640, 360)) == (0.5, 0.5)
    assert fractions_of(0, 180, (640, 360)) == (0, 0.5)


def test_sound_of_a_place(tmp_path: Path, planted: Separator, video: Path) -> None:
    places = [(WIDTH * 0.9, 10.0), (0.5, 0.5)]
    written = write_separation(video, tmp_path, planted, SeparationOptions(places=places))
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


def test_silence(tmp_path: Path, planted: Separator) -> None:
    silent = film(tmp_path / "silent.mp4", "0|0", 1.0)
    written = write_separation(
        silent, tmp_path / "out", planted, SeparationOptions(page_seconds=6.0, gains={})
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
    written = write_separation(
        short, tmp_path / "out", planted, SeparationOptions(page_seconds=6.0)
    )
    assert len(written.description["regions"]) == 2
    samples, rate = read(tmp_path / "out" / "rest.wav")
    assert len(samples) == round(written.description["seconds"] * rate)


@pytest.mark.parametrize("seconds", [0.1, 0.25])
def test_video_of_a_few_pictures(tmp_path: Path, planted: Separator, seconds: float) -> None:
    short = film(tmp_path / "short.mp4", STEREO, seconds)
    written = write_separation(short, tmp_path / "out", planted)
    samples, rate = read(tmp_path / "out" / "rest.wav")
    assert len(samples) == round(written.description["seconds"] * rate)
    assert "overlay.mp4" in everything(tmp_path / "out")


def test_impossible_options_are_refused_before_the_work(tmp_path: Path, planted: Separator) -> None:
    damaged = tmp_path / "damaged.mp4"
    damaged.write_text("would be an error")
    with pytest.raises(UserError, match="--gain 9: no such region"):
        options = SeparationOptions(gains={"9": 1.0})
        write_separation(damaged, tmp_path / "out", planted, options)


def test_page_of_the_busiest_stretch(tmp_path: Path, planted: Separator, video: Path) -> None:
    written = write_separation(video, tmp_path, planted, SeparationOptions(page_seconds=0.8))
    assert written.page is not None
    begin, end = written.page
    assert 0 <= begin < end <= 1.1
    assert end - begin == pytest.approx(0.8, abs=0.05)
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert "Region 2" in page
    assert "#e69f00" in page
    clip = probe(tmp_path / "page" / "video.mp4", LIMITS).seconds
    assert clip == pytest.approx(end - begin, abs=0.1)


def test_hostile_name(tmp_path: Path, planted: Separator, video: Path) -> None:
    name = "-x a \"b\" 'c' & <script>alert(1)< é 日本\n%d;$(a):.mp4"
    (tmp_path / name).write_bytes(video.read_bytes())
    out = tmp_path / f"out {name}"
    options = SeparationOptions(gains={"1": 0.5}, page_seconds=1.0, model_rate=True)
    written = write_separation(tmp_path / name, out, planted, options)
    assert described(out)["video"] == name
    assert sorted(everything(out)) == sorted(written.files)
    page = (out / "page" / "index.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert page.count("<script") == 4


def test_names_that_are_not_utf_8(tmp_path: Path, planted: Separator, video: Path) -> None:
    name = os.fsdecode(b"\xff.mp4")
    (tmp_path / name).write_bytes(video.read_bytes())
    with pytest.raises(UserError, match="not UTF-8; rename it"):
        write_separation(tmp_path / name, tmp_path / "out", planted)
    with pytest.raises(UserError, match="the name is not UTF-8; choose another folder"):
        write_separation(video, tmp_path / os.fsdecode(b"\xfe"), planted)
    assert everything(tmp_path) == {name}


def test_files_of_an_earlier_run(tmp_path: Path, planted: Separator, video: Path) -> None:
    out = tmp_path / "out"
    options = SeparationOptions(gains={}, page_seconds=1.0)
    write_separation(video, out, planted, options)
    for name in ("region-9.wav", "notes.txt", "page/mine.html"):
        (out / name).write_text("mine")
    # A manipulated description must not make a run remove foreign files.
    (tmp_path / "precious.wav").write_text("mine")
    values = described(out)
    values["files"] += ["../precious.wav", "notes.txt", 7]
    (out / "regions.json").write_text(json.dumps(values))
    write_separation(video, out, planted, SeparationOptions(regions=1))
    assert (tmp_path / "precious.wav").exists()
    assert everything(out) >= {"region-2.wav", "remix.mp4", "notes.txt"}
    values["files"] = values["files"][:-3]
    (out / "regions.json").write_text(json.dumps(values))
    write_separation(video, out, planted, SeparationOptions(regions=1))
    assert everything(out) == {
        *("region-1.wav", "rest.wav", "regions.json", "overlay.mp4", "heat.png", "colours.png"),
        *("region-9.wav", "notes.txt", "page/mine.html"),
    }


def test_stages_of_killed_runs(tmp_path: Path) -> None:
    killed = "import os, sys, pathlib, sop.separate.staging as s\n"
    killed += "with s.staged(pathlib.Path(sys.argv[1])) as stage:\n    os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", killed, str(tmp_path)])
    (stale,) = tmp_path.iterdir()
    with staged(tmp_path) as alive:
        assert not stale.exists()
        with staged(tmp_path):
            assert alive.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "stopped"),
    [(sounds, "components"), (separation, "write_remix"), (overlay, "write_video")],
)
def test_interrupted_run_changes_nothing(
    tmp_path: Path,
    planted: Separator,
    video: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    stopped: str,
) -> None:
    def stop(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    new, old = tmp_path / "new", tmp_path / "old"
    old.mkdir()
    (old / "rest.wav").write_text("old")
    monkeypatch.setattr(module, stopped, stop)
    for out in (new, old) if stopped == "components" else (old,):
        with pytest.raises(KeyboardInterrupt):
            write_separation(video, out, planted, SeparationOptions(gains={}))
    assert not new.exists()
    assert [path.name for path in old.iterdir()] == ["rest.wav"]
    assert (old / "rest.wav").read_text() == "old"


def test_full_disk(
    tmp_path: Path, planted: Separator, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(separation, "write_json", full)
    with pytest.raises(UserError, match=r"out: cannot be written \(No space left"):
        write_separation(video, tmp_path / "out", planted)
    assert not (tmp_path / "out").exists()


def test_video_is_not_overwritten(tmp_path: Path, planted: Separator, video: Path) -> None:
    mine = tmp_path / "remix.mp4"
    mine.write_bytes(video.read_bytes())
    with pytest.raises(UserError, match=r"remix\.mp4: would be overwritten"):
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
    yield [str(mute), *out], "mute.mp4: "
    yield [str(blind), *out], "blind.mp4: "
    yield [good, *out, "--taps", "8"], "--taps requires --denoise"
    yield [good, *out, "--denoise", "lms"], "--denoise lms requires --rate"
    yield [good, *out, "--denoise", "rls", "--rate", "0.1"], "--rate: an option of lms and nlms"
    yield [good, *out, "--denoise", "rls", "--forgetting", "2"], "--forgetting 2: must be"
    yield [good, *out, "--denoise", "rls", "--taps", "4097"], "rls: 4097 weights"
    yield [good, *out, "--denoise", "lms", "--rate", "9"], "lms: rate 9 diverges"
    yield [good, "--out", str(folder / "file")], "file: cannot be written"
    yield [good, "--out", str(folder / "file" / "out")], "file is not a folder"
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
    yield [good, *out, "--gain", "1=1", "--gain", "1=2"], "--gain 1: given twice"
    yield [good, *out, "--gain", "x=1"], "--gain x=1: must be a region"
    yield [good, *out, "--mute", "x"], "--mute x: must be the number of a region, or rest"
    yield [good, *out, "--page-seconds", "3"], "--page-seconds requires --page"
    yield ["", *out], "VIDEO: empty"
    yield [good, "--out", ""], "--out: empty"
    yield [good, *out, "--checkpoint", ""], "--model: empty"
    yield [good, *out, "--page", "--page-seconds", "0"], "--page-seconds 0"


def test_bad_input(tmp_path: Path, checkpoint: Path, video: Path) -> None:
    before: set[str] = set()
    for arguments, message in bad_inputs(tmp_path, video):
        before = before or everything(tmp_path)
        if "--checkpoint" not in arguments:
            arguments = [*arguments, "--checkpoint", str(checkpoint)]
        with pytest.raises(UserError, match=re.escape(message)) as error:
            main(["separate", *arguments])
        assert "\n" not in str(error.value)
        assert everything(tmp_path) == before
        assert not (tmp_path / "out").exists()


def test_command(
    tmp_path: Path, checkpoint: Path, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["separate", str(video), "--out", str(out), "--checkpoint", str(checkpoint)]
    command += ["--device", "cpu", "--gain", "1=9", "--gain", "rest=0", "--page"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "region 1: 67% of the energy, around 30,40, sounds 2.0 of 2.0 s" in lines
    assert any(line.startswith(f"{out}: region-1.wav, region-2.wav, rest.wav") for line in lines)
    assert any("exceeds full scale by" in line for line in lines)
    assert lines[-2] == f"Play {out}/remix.mp4 to hear the new volumes."
    assert lines[-1].startswith(f"Open {out}/page/index.html")
    assert main([*command[:8], "--gain", "1=0.5"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"Play {out}/remix.mp4")
    assert main([*command[:6], "--at", "0.1,0.9"]) == 0
    shown = capsys.readouterr().out
    assert "Open overlay.mp4" in shown
    assert "region 1: 67%" in shown
    assert "region 2" not in shown
    assert not (out / "page").exists()
    assert not (out / "remix.mp4").exists()


def test_one_of_places_and_regions(checkpoint: Path, video: Path, tmp_path: Path) -> None:
    command = ["separate", str(video), "--out", str(tmp_path), "--at", "0,0", "--regions", "2"]
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 2


def test_denoise(tmp_path: Path, uncertain: Separator, video: Path) -> None:
    places = ((0.1, 0.5), (0.5, 0.5), (0.9, 0.5))
    setting = NlmsSettings(8, 0.01)
    options = SeparationOptions(places=places, denoise=setting)
    written = write_separation(video, tmp_path, uncertain, options)
    settings = dict(written.description["denoise"])
    kept = settings.pop("kept")
    assert settings == {"filter": "nlms", "taps": 8, "rate": 0.01}
    note, *others = written.notes
    # Where a tone begins or ends in one region only, for a moment.
    assert 0 < kept["seconds"] < 0.1
    assert kept["decibels"] > 4
    assert len(others) == 1
    assert re.match(r"--denoise nlms: regions: unchanged for 0\.\d\d s, where", others[0])
    share = float(re.search(r"moved (\d+)% of the regions' energy to the rest", note)[1]) / 100
    assert 0.5 < share <= 1
    parts = [read(tmp_path / name)[0] for name in ("region-1.wav", "region-2.wav", "region-3.wav")]
    rest = read(tmp_path / "rest.wav")[0]
    original = sound_of(video)
    assert decibels(sum(parts) + rest - original, original) < -100
    energies = np.array([np.square(part).sum() for part in (*parts, rest)])
    entries = [*written.description["regions"], written.description["rest"]]
    shares = [entry["energy"] for entry in entries]
    assert shares == pytest.approx(energies / energies.sum(), abs=1e-3)


def test_denoise_without_effect(
    tmp_path: Path, planted: Separator, video: Path, separated: Path
) -> None:
    setting = NlmsSettings(10**9, 0.01)
    written = write_separation(video, tmp_path, planted, SeparationOptions(denoise=setting))
    (note,) = written.notes
    assert "1000000000 taps are more than the 88" in note
    assert described(tmp_path)["denoise"] is described(separated)["denoise"] is None
    for name in ("region-1.wav", "region-2.wav", "rest.wav"):
        assert (tmp_path / name).read_bytes() == (separated / name).read_bytes()


def test_filter_that_diverges_changes_nothing(tmp_path: Path, uncertain: Separator) -> None:
    louder = film(tmp_path / "louder.mp4", f"sin(2*PI*{LOW_HZ}*t)*(0.01+0.5*gt(t\\,1))", SECONDS)
    out = tmp_path / "out"
    out.mkdir()
    (out / "rest.wav").write_text("old")
    places = ((0.1, 0.5), (0.5, 0.5), (0.9, 0.5))
    options = SeparationOptions(places=places, denoise=LmsSettings(64, 2.0))
    with pytest.raises(UserError, match=r"lms: rate 2.*nlms"):
        write_separation(louder, out, uncertain, options)
    assert [path.name for path in out.iterdir()] == ["rest.wav"]
    assert (out / "rest.wav").read_text() == "old"


def test_command_denoises(
    tmp_path: Path, checkpoint: Path, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["separate", str(video), "--out", str(out), "--checkpoint", str(checkpoint)]
    command += ["--device", "cpu", "--denoise"]
    assert main([*command, "rls", "--forgetting", "0.999", "--taps", "4"]) == 0
    assert "not applied" not in capsys.readouterr().out
    settings = described(out)["denoise"]
    assert set(settings.pop("kept")) == {"seconds", "decibels", "restarts"}
    assert settings == {"filter": "rls", "taps": 4, "forgetting": 0.999}
    assert main([*command, "nlms", "--regions", "1"]) == 0
    note = "NOTE --denoise nlms: not applied, it needs two regions"
    assert any(line.startswith(note) for line in capsys.readouterr().out.splitlines())


def component(
    separator: Separator, recording: ArrayRecording, monkeypatch: Any, windows: int
) -> np.ndarray:
    """Return the sound of the top left cell, separated segment by segment, (L,)."""
    monkeypatch.setattr(separator_module, "SEGMENT_WINDOWS", windows)
    regions = tuple(regions_at([(0, 0)], (ROWS, COLUMNS)))
    segments = separator.segments(recording)
    masks = (separator.region_masks(embedding, regions) for _, embedding in segments)
    blocks = [recording.sound(0, recording.samples)[:, None]]
    made = components(blocks, RATE, masks, RATE, separator.params.spectrogram)
    return np.concatenate(list(made), axis=1)[0, :, 0]


def test_windows_have_no_seams(uncertain: Separator, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = ArrayRecording(tone(440.0, 20.0, level=0.5))
    sound = component(uncertain, recording, monkeypatch, 16)
    # A click would have energy at all frequencies.
    spectrum = np.abs(np.fft.rfft(sound[RATE:-RATE] * np.hanning(len(sound) - 2 * RATE))) ** 2
    frequencies = np.fft.rfftfreq(len(sound) - 2 * RATE, 1 / RATE)
    away = np.abs(frequencies - 440) > 200
    assert spectrum[away].sum() < 1e-7 * spectrum.sum()
    # The masks change, but no faster at a seam than elsewhere.
    step = (1 + uncertain.params.mixture.audio_samples // 512) // 2
    level = np.sqrt(np.square(sound[: len(sound) // 512 * 512].reshape(-1, 512)).mean(axis=1))
    flux = np.abs(np.diff(level))[4:-4]
    seams = np.arange(len(flux)) + 4
    at_seam = np.minimum(seams % step, -seams % step) <= 1
    assert np.ptp(level[4:-4]) > 0.05
    assert flux[at_seam].max() < 1.5 * flux[~at_seam].max()


def test_segments_do_not_change_the_sound(
    uncertain: Separator, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = ArrayRecording(np.random.default_rng(0).uniform(-0.5, 0.5, 20 * RATE))
    one, other = (component(uncertain, recording, monkeypatch, windows) for windows in (4, 16))
    np.testing.assert_allclose(one, other, atol=1e-5)


# Peak memory is measured in a process of its own, and reset after the first video. `getrusage` does
# not work: it includes the memory of the parent before the fork.
MEASURED = """
import re, sys
from pathlib import Path
from sop.cli.main import main

*videos, out, checkpoint = sys.argv[1:]
for video in videos:
    Path("/proc/self/clear_refs").write_text("5")
    main(["separate", video, "--out", out, "--checkpoint", checkpoint, "--device", "cpu"])
    print("peak", re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to measure memory by")
def test_memory_does_not_grow_with_length(tmp_path: Path, planted_params: Params) -> None:
    save_player(tmp_path / "model.pt", separator_of(planted_params).player, planted_params, step=0)
    sound, picture = "random(0)-0.5|random(1)-0.5", "testsrc=s=80x60:r=4"
    videos = [film(tmp_path / f"{n}.mp4", sound, n, picture) for n in (3, 12, 48)]
    shown = subprocess.run(
        [sys.executable, "-c", MEASURED, *videos, tmp_path / "out", tmp_path / "model.pt"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    # The first video warms up caches.
    _, short, long = (int(kb) << 10 for kb in re.findall(r"^peak (\d+)$", shown.stdout, re.M))
    # The sound alone has 36 s x 44100 Hz x 2 channels x 4 bytes = 13 MB more in each of four files.
    assert long < short + (24 << 20)
    assert long < 2 << 30
