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

from sop.cancellation import recordings as module
from sop.cancellation.recordings import cancel
from sop.cancellation.wav import WavWriter
from sop.cli.main import main
from sop.denoise.adaptive import Rls
from sop.denoise.settings import FilterSettings, LmsSettings, NlmsSettings, RlsSettings
from sop.runtime.errors import UserError
from tests.support.experiment import ROOT

RATE = 8000
SECONDS = 3
FILTERS = (["rls"], ["nlms", "0.1"], ["lms", "0.01"])

# Impulse responses of two paths from the noise to a microphone.
PATHS = np.array([[0.0, 0.6, -0.3, 0.2, 0.1, -0.05], [0.3, 0.1, 0.4, -0.2, 0.0, 0.1]])


def noise(channels: int = 1, seconds: float = SECONDS, seed: int = 0) -> np.ndarray:
    """Return white noise, (L, channels)."""
    rng = np.random.default_rng(seed)
    return rng.uniform(-0.5, 0.5, (round(seconds * RATE), channels))


def speech(seconds: float = SECONDS) -> np.ndarray:
    """Return the wanted sound, a quiet tone, (L, 1)."""
    return 0.01 * np.sin(2 * np.pi * 300 * np.arange(round(seconds * RATE)) / RATE)[:, None]


def through(path: np.ndarray, sound: np.ndarray) -> np.ndarray:
    """Return the first channel of a sound after a path, (L, 1)."""
    return np.convolve(sound[:, 0], path)[: len(sound), None]


def save(path: Path, samples: np.ndarray, rate: int = RATE, subtype: str = "FLOAT") -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def read(path: Path) -> np.ndarray:
    """Read a sound, (L, channels)."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    assert rate == RATE
    return samples


def decibels(error: np.ndarray, of: np.ndarray) -> float:
    """Return the level of an error, without the first second, in which filters adapt."""
    return float(10 * np.log10(np.square(error[RATE:]).sum() / np.square(of[RATE:]).sum()))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def command(*arguments: Any) -> list[str]:
    """Return the arguments of `sop denoise` as text."""
    return ["denoise", *map(str, arguments)]


@pytest.mark.parametrize("chosen", FILTERS, ids=lambda chosen: chosen[0])
def test_noise_is_removed(
    tmp_path: Path, chosen: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    heard = noise()
    disturbed = speech() + through(PATHS[0], heard)
    target = save(tmp_path / "target.wav", disturbed)
    reference = save(tmp_path / "noise.wav", heard)
    out = tmp_path / "clean.wav"
    arguments = command(target, reference, "--out", out, "--filter", chosen[0], "--taps", 8)
    assert main([*arguments, *(["--rate", chosen[1]] if chosen[1:] else [])]) == 0
    assert decibels(read(out) - speech(), disturbed - speech()) < -20
    message = capsys.readouterr().out.splitlines()[-1]
    taken = re.fullmatch(rf"{out}: (\d+\.\d) dB quieter than the input", message)
    before, after = (np.square(read(path)).sum() for path in (target, out))
    assert float(taken[1]) == pytest.approx(10 * np.log10(before / after), abs=0.06)
    info = soundfile.info(out)
    assert (info.format, info.subtype, info.frames) == ("WAV", "FLOAT", SECONDS * RATE)


def test_default_filter_options(tmp_path: Path) -> None:
    heard = noise()
    disturbed = (speech() + through(PATHS[0], heard)).astype(np.float32)
    save(tmp_path / "target.wav", disturbed)
    save(tmp_path / "noise.wav", heard)
    out = tmp_path / "clean.wav"
    assert main(command(tmp_path / "target.wav", tmp_path / "noise.wav", "--out", out)) == 0
    reference = heard[:, 0].astype(np.float32)
    level = float(np.mean(reference.astype(float) ** 2))
    expected = Rls(1, 64, 0.9999, levels=[level]).clean(disturbed[:, 0], reference)
    np.testing.assert_allclose(read(out)[:, 0], expected, atol=1e-5)
    nlms = tmp_path / "nlms.wav"
    arguments = command(
        tmp_path / "target.wav", tmp_path / "noise.wav", "--filter", "nlms", "--out"
    )
    assert main([*arguments, str(nlms)]) == 0
    other = tmp_path / "other.wav"
    assert main([*arguments, str(other), "--taps", "64", "--rate", "0.01"]) == 0
    np.testing.assert_array_equal(read(nlms), read(other))


def test_each_channel_has_its_own_filter(tmp_path: Path) -> None:
    heard = noise()
    disturbed = np.hstack([speech() + through(path, heard) for path in PATHS])
    target = save(tmp_path / "target.wav", disturbed)
    reference = save(tmp_path / "noise.wav", heard)
    cancel(target, [reference], tmp_path / "clean.wav", RlsSettings(8, 0.9999))
    clean = read(tmp_path / "clean.wav")
    assert clean.shape == disturbed.shape
    for channel in range(2):
        assert decibels(clean[:, [channel]] - speech(), disturbed[:, [channel]]) < -20
    save(tmp_path / "right.wav", disturbed[:, 1])
    right = [tmp_path / "right.wav", [reference], tmp_path / "alone.wav"]
    cancel(*right, RlsSettings(8, 0.9999))
    np.testing.assert_array_equal(read(tmp_path / "alone.wav")[:, 0], clean[:, 1])


@pytest.mark.parametrize("split", [False, True])
def test_all_channels_of_all_references_are_used(tmp_path: Path, split: bool) -> None:
    heard = noise(2)
    both = sum(through(path, heard[:, [at]]) for at, path in enumerate(PATHS))
    target = save(tmp_path / "target.wav", speech() + both)
    if split:
        references = [save(tmp_path / f"{at}.flac", heard[:, at], RATE, "PCM_24") for at in (0, 1)]
    else:
        references = [save(tmp_path / "noise.wav", heard)]
    cancel(target, references, tmp_path / "clean.wav", RlsSettings(8, 0.9999))
    assert decibels(read(tmp_path / "clean.wav") - speech(), both) < -20
    one = save(tmp_path / "one.wav", heard[:, 0])
    cancel(target, [one], tmp_path / "less.wav", RlsSettings(8, 0.9999))
    assert decibels(read(tmp_path / "less.wav") - speech(), both) > -10


@pytest.mark.parametrize(
    "settings", [RlsSettings(8, 0.999), NlmsSettings(8, 0.1), LmsSettings(8, 0.001)]
)
def test_result_does_not_depend_on_blocks(
    tmp_path: Path, settings: FilterSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = noise(seconds=0.3)
    target = save(tmp_path / "target.wav", speech(0.3) + through(PATHS[0], heard))
    reference = save(tmp_path / "noise.wav", heard)
    results = []
    # The last block length is shorter than the filter.
    for seconds in (100.0, 0.04, 5 / RATE):
        monkeypatch.setattr(module, "BLOCK_SECONDS", seconds)
        cancel(target, [reference], tmp_path / "clean.wav", settings)
        results.append(read(tmp_path / "clean.wav"))
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=0, atol=1e-6)


def test_result_does_not_depend_on_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "target.wav", noise(5, seed=1))
    save(tmp_path / "noise.wav", noise(2))
    results = []
    for cores in (1, 7):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        out = tmp_path / f"{cores}.wav"
        setting = RlsSettings(4, 0.999)
        cancel(tmp_path / "target.wav", [tmp_path / "noise.wav"], out, setting)
        results.append(out.read_bytes())
    assert results[0] == results[1]


def test_silent_references_change_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disturbed = noise(2, seed=1)
    target = save(tmp_path / "target.wav", disturbed)
    silent = save(tmp_path / "silent.wav", np.zeros(len(disturbed)))
    out = tmp_path / "clean.wav"
    for name in ("rls", "nlms"):
        assert main(command(target, silent, "--out", out, "--filter", name)) == 0
        np.testing.assert_array_equal(read(out), read(target))
        lines = capsys.readouterr().out.splitlines()
        assert f"NOTE {silent}: silent, so it predicts nothing" in lines
        assert f"NOTE {target}: copied unchanged, all references are silent" in lines
        assert lines[-1] == f"{out}: 0.0 dB quieter than the input"


def test_silent_reference_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heard = noise()
    target = save(tmp_path / "target.wav", speech() + through(PATHS[0], heard))
    silent = save(tmp_path / "silent.wav", np.zeros((len(heard), 2)))
    reference = save(tmp_path / "noise.wav", heard)
    out = tmp_path / "clean.wav"
    assert main(command(target, silent, reference, "--out", out, "--taps", 8)) == 0
    assert decibels(read(out) - speech(), read(target)) < -20
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("NOTE")]
    assert notes == [f"NOTE {silent}: silent, so it predicts nothing"]


def test_more_taps_than_samples_change_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = save(tmp_path / "target.wav", noise(seed=1)[:50])
    reference = save(tmp_path / "noise.wav", noise()[:50])
    for taps in (51, 10**6):
        arguments = command(target, reference, "--out", tmp_path / "clean.wav", "--taps", taps)
        assert main(arguments) == 0
        np.testing.assert_array_equal(read(tmp_path / "clean.wav"), read(target))
        note = f"NOTE {target}: copied unchanged, {taps} taps are more than its 50 samples"
        assert note in capsys.readouterr().out.splitlines()
    # With as many taps as samples, one sample is filtered.
    assert main(command(target, reference, "--out", tmp_path / "clean.wav", "--taps", 50)) == 0
    assert "NOTE" not in capsys.readouterr().out


@pytest.mark.parametrize("chosen", [["rls"], ["nlms"], ["nlms", "0.5"]], ids=str)
@pytest.mark.parametrize("quiet", [0.0, 1e-4])
def test_reference_that_is_quiet_at_first_makes_no_burst(
    tmp_path: Path, chosen: list[str], quiet: float, capsys: pytest.CaptureFixture[str]
) -> None:
    heard = noise()
    heard[:RATE] *= quiet
    disturbed = 0.1 * np.sin(0.3 * np.arange(len(heard)))[:, None] + through(PATHS[0], heard)
    target = save(tmp_path / "target.wav", disturbed)
    hiss = 1e-4 * np.random.default_rng(1).standard_normal(heard.shape)
    reference = save(tmp_path / "noise.wav", heard + hiss)
    out = tmp_path / "clean.wav"
    arguments = command(target, reference, "--out", out, "--filter", chosen[0])
    assert main([*arguments, *(["--rate", chosen[1]] if chosen[1:] else [])]) == 0
    assert np.abs(read(out)).max() < 2 * np.abs(disturbed).max()
    assert "quieter than the input" in capsys.readouterr().out


def test_what_was_kept_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = save(tmp_path / "target.wav", np.hstack([speech(), noise(seed=1)]))
    reference = save(tmp_path / "noise.wav", noise())
    out = tmp_path / "clean.wav"
    arguments = command(target, reference, "--out", out, "--filter", "nlms", "--rate", "1.9")
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    (note,) = [line for line in lines if line.startswith("NOTE")]
    kept = re.fullmatch(
        rf"NOTE {re.escape(str(target))}: unchanged for (\d+\.\d\d) s, where the filter would have "
        r"made it up to (\d+) dB louder(; .*)?",
        note,
    )
    assert kept is not None
    assert 2 < float(kept[1]) <= SECONDS
    assert 5 <= int(kept[2]) < 30
    for channel in range(2):
        louder = decibels(read(out)[:, [channel]], read(target)[:, [channel]])
        assert louder < 5.8


def test_silent_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = save(tmp_path / "target.wav", np.zeros(RATE))
    reference = save(tmp_path / "noise.wav", noise(seconds=1))
    assert main(command(target, reference, "--out", tmp_path / "clean.wav")) == 0
    assert not read(tmp_path / "clean.wav").any()
    assert "0.0 dB quieter than the input" in capsys.readouterr().out


def test_unrelated_references_make_it_louder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = save(tmp_path / "target.wav", noise(seed=1))
    reference = save(tmp_path / "noise.wav", noise())
    arguments = command(target, reference, "--out", tmp_path / "clean.wav", "--forgetting", 0.98)
    assert main(arguments) == 0
    assert "louder than the input: the references do not predict it" in capsys.readouterr().out


def bad_files(folder: Path) -> Iterator[tuple[list[Any], str]]:
    """Yield arguments and the error that they cause."""
    target = save(folder / "target.wav", noise(seed=1))
    good = save(folder / "good.wav", noise())
    out = ["--out", folder / "clean.wav"]
    yield [target, folder / "none.wav", *out], "none.wav: no such file"
    yield [folder / "none.wav", good, *out], "none.wav: no such file"
    (folder / "folder.wav").mkdir()
    yield [target, folder / "folder.wav", *out], "folder.wav: not a file"
    for name in ("text.wav", "text.raw"):
        (folder / name).write_text("not a sound")
        yield [target, folder / name, *out], f"{name}: not a sound file"
    (folder / "nothing.wav").touch()
    yield [target, folder / "nothing.wav", *out], "nothing.wav: not a sound file"
    empty = save(folder / "empty.wav", np.zeros(0))
    yield [target, empty, *out], "empty.wav: contains no audio"
    short = save(folder / "short.wav", noise()[:-3])
    message = "short.wav: differs in length (23997 samples, 3.000 s) from"
    yield [target, good, short, *out], message
    yield [short, good, *out], "(24000 samples, 3.000 s)"
    fast = save(folder / "fast.wav", noise(), 44100)
    yield [target, fast, *out], "fast.wav: has 44100 Hz, "
    yield [target, fast, *out], "target.wav has 8000 Hz; resample one of them"
    for value in (np.nan, np.inf):
        broken = noise(2)
        broken[2 * RATE + 40, 1] = value
        name = save(folder / f"{value}.wav", broken)
        message = f"{value}.wav: contains NaN or infinity at second 2.005"
        yield [target, name, *out], message
        yield [name, good, *out], message
        yield [target, name, *out, "--taps", 10**6], message
    loud = noise(2)
    loud[RATE + 8, 0] = -3e38
    name = save(folder / "loud.wav", loud)
    message = "loud.wav: contains a sample of 3e+38, beyond the limit of 2.1e+09, at second 1.001"
    yield [target, name, *out], message
    yield [name, good, *out], message
    whole = save(folder / "whole.flac", noise(), RATE, "PCM_16")
    (folder / "cut.flac").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    yield [target, folder / "cut.flac", *out], "cut.flac: damaged, cannot be read beyond second 1."
    for name in (target, good):
        yield [target, good, "--out", name], f"{name.name}: is also an input"
    (folder / "link.wav").symlink_to(good)
    (folder / "hard.wav").hardlink_to(good)
    for name in ("link.wav", "hard.wav"):
        yield [target, good, "--out", folder / name], f"{name}: is also an input"
    yield [target, good, "--out", folder / "clean.flac"], "clean.flac: the result is a WAV"
    yield [target, good, "--out", folder / "text.raw" / "clean.wav"], "clean.wav: cannot be written"
    yield [target, good, "--out", folder / "folder.wav"], "folder.wav: cannot be written"
    yield [target, good, "--out", "/proc/clean.wav"], "/proc/clean.wav: cannot be written"


def bad_numbers() -> Iterator[tuple[list[Any], str]]:
    for taps in (0, -3, 1.5, "many"):
        yield [f"--taps={taps}"], f"--taps {taps}: must be a whole number"
    yield ["--filter", "nlms", "--rate", "fast"], "--rate fast: must be a positive number"
    yield ["--forgetting", "much"], "--forgetting much: must be 0.5 to 1"
    for rate in ("0", "-1", "nan", "inf"):
        yield ["--filter", "nlms", f"--rate={rate}"], f"--rate {rate}: must be a positive number"
        yield ["--filter", "lms", f"--rate={rate}"], f"--rate {rate}: must be a positive number"
    yield ["--filter", "nlms", "--rate", 2], "--rate 2: nlms diverges; must be below 2"
    for forgetting in (0, 0.4, 1.1, "nan"):
        yield ["--forgetting", forgetting], f"--forgetting {forgetting}: must be 0.5 to 1"
    yield ["--filter", "lms"], "--filter lms requires --rate"
    yield ["--rate", "0.1"], "--rate: an option of lms and nlms; rls takes --forgetting"
    for name in ("lms", "nlms"):
        message = f"--forgetting: an option of rls; {name} takes --rate"
        yield ["--filter", name, "--forgetting", "0.99"], message
    yield (["--taps", 4097], "rls: 4097 weights (4097 taps for each reference): RLS supports")
    # The limit is one over the energy of two samples, each of at most 0.5.
    yield ["--filter", "lms", "--rate", 10, "--taps", 2], "lms: rate 10 diverges"


def test_unusable_files_are_errors_of_one_line(tmp_path: Path) -> None:
    cases = bad_files(tmp_path)
    for arguments, message in cases:
        before = names(tmp_path)
        contents = {name: (tmp_path / name).read_bytes() for name in ("target.wav", "good.wav")}
        with pytest.raises(UserError, match=re.escape(message)) as error:
            main(command(*arguments))
        assert "\n" not in str(error.value)
        assert names(tmp_path) == before
        for name, content in contents.items():
            assert (tmp_path / name).read_bytes() == content


def test_invalid_options_are_errors_of_one_line(tmp_path: Path) -> None:
    target = save(tmp_path / "target.wav", noise(seed=1))
    good = save(tmp_path / "good.wav", noise())
    for arguments, message in bad_numbers():
        with pytest.raises(UserError, match=re.escape(message)) as error:
            main(command(target, good, "--out", tmp_path / "clean.wav", *arguments))
        assert "\n" not in str(error.value)
        assert names(tmp_path) == {"target.wav", "good.wav"}


def test_diverging_rate_is_an_error_with_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = 0.1 * noise(2)
    # Loud only around the border of two blocks.
    heard[2 * RATE - 8 : 2 * RATE + 8] *= 10
    save(tmp_path / "target.wav", noise(seed=1))
    save(tmp_path / "noise.wav", heard)
    files = [tmp_path / "target.wav", tmp_path / "noise.wav", "--out", tmp_path / "clean.wav"]
    arguments = command(*files, "--filter", "lms", "--taps", 16, "--rate")
    energy = np.square(heard[2 * RATE - 8 : 2 * RATE + 8]).sum()
    with pytest.raises(UserError, match="diverges with these references") as error:
        main([*arguments, "5"])
    allowed = re.search(r"must be below (\S+),", str(error.value))[1]
    assert float(allowed) == pytest.approx(1 / energy, rel=0.01)
    assert main([*arguments, allowed]) == 0
    with pytest.raises(UserError, match=re.escape(f"must be below {allowed},")):
        main([*arguments, str(float(allowed) * 1.02)])


@pytest.mark.parametrize("stopped", ["scan", "cancel"])
def test_interrupted_run_changes_no_files(
    tmp_path: Path, stopped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "target.wav", noise(seed=1))
    save(tmp_path / "noise.wav", noise())
    (tmp_path / "old.wav").write_text("old")
    progress = module.progress

    def interrupted(items: Any, what: str, *arguments: Any) -> Any:
        for number, item in enumerate(progress(items, what, *arguments)):
            if what.startswith(stopped) and number == 1:
                raise KeyboardInterrupt
            yield item

    monkeypatch.setattr(module, "progress", interrupted)
    for out in ("clean.wav", "old.wav"):
        with pytest.raises(KeyboardInterrupt):
            main(command(tmp_path / "target.wav", tmp_path / "noise.wav", "--out", tmp_path / out))
        assert names(tmp_path) == {"target.wav", "noise.wav", "old.wav"}
        assert (tmp_path / "old.wav").read_text() == "old"


def test_full_disk_is_an_error_of_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "target.wav", noise(seed=1))
    save(tmp_path / "noise.wav", noise())
    written = WavWriter.write

    def full(self: WavWriter, block: np.ndarray) -> None:
        if self.samples:
            raise UserError("clean.wav: cannot be written (No space left on device)")
        written(self, block)

    monkeypatch.setattr(WavWriter, "write", full)
    with pytest.raises(UserError, match="No space left"):
        main(command(tmp_path / "target.wav", tmp_path / "noise.wav", "--out", tmp_path / "c.wav"))
    assert names(tmp_path) == {"target.wav", "noise.wav"}


def test_file_names_of_any_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("-x \"b\" 'c' é日.wav", os.fsdecode(b"\xff.wav")):
        folder = tmp_path / name
        folder.mkdir()
        target = save(tmp_path / "target.wav", noise(seed=1)).rename(folder / f"t{name}")
        reference = save(tmp_path / "noise.wav", noise() * 0).rename(folder / f"n{name}")
        assert main(command(target, reference, "--out", folder / f"c{name}")) == 0
        assert names(folder) == {f"{letter}{name}" for letter in "tnc"}
        assert "0.0 dB" in capsys.readouterr().out


def test_program_prints_one_line(tmp_path: Path) -> None:
    save(tmp_path / "target.wav", noise(seed=1))
    save(tmp_path / "noise.wav", noise())

    def sop(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sop", "denoise", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )

    shown = sop("target.wav", "noise.wav", "--out", "clean.wav")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert re.fullmatch(r"clean\.wav: \S+ dB .*", shown.stdout.splitlines()[-1])
    shown = sop("target.wav", "target.mp3", "--out", "clean.wav")
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr == "error: target.mp3: no such file\n"


# Peak memory of this process alone; `getrusage` would include the process that forked it.
MEASURED = """
import re, sys
from pathlib import Path
from sop.cli.main import main
for folder in map(Path, sys.argv[1:]):
    files = [folder / "target.wav", folder / "noise.wav", "--out", folder / "clean.wav"]
    main(["denoise", *map(str, files), "--filter", "nlms"])
    print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to measure memory by")
def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    folders = []
    for seconds in (10, 300):
        folder = tmp_path / str(seconds)
        folder.mkdir()
        sound = np.tile(noise(4, 1).astype(np.float32), (seconds, 1))
        save(folder / "target.wav", sound[:, :2])
        save(folder / "noise.wav", sound[:, 2:])
        folders.append(str(folder))
    shown = subprocess.run(
        [sys.executable, "-c", MEASURED, *folders],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    short, long = [int(line) << 10 for line in shown.stdout.splitlines() if line.isdecimal()]
    # The longer files have 19 MB each.
    assert long < short + (8 << 20)
