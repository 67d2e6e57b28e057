import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from sop.download.synthetic import plan, render
from sop.inference.embedding import Embedding, normalize_masks
from sop.media.ffmpeg import binary
from sop.model.pixelplayer import build, normalize_frames
from sop.params import Params
from sop.player.player import PlayerClip, PlayerRegion, quantise, write_player
from sop.runtime.errors import UserError
from tests.support.pages import (
    HIGH_LEVEL,
    LOW,
    LOW_LEVEL,
    RATE,
    SECONDS,
    check,
    click,
    clip_of,
    correlation,
    make_video,
    noise,
    open_in,
    samples,
    tones,
    wait_for_level,
    wait_until,
)

pytestmark = pytest.mark.usefixtures("one_thread")

MIXTURE_LEVEL = float(np.hypot(LOW_LEVEL, HIGH_LEVEL))
PAGE_BYTES = 3e6

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def context(browser: Any) -> Any:
    return browser.new_context(viewport={"width": 1200, "height": 900})


@pytest.fixture
def open_page(context: Any, browser: Any, tmp_path: Path, video: Path) -> Any:
    """Open the page of a clip, which is checked at the end of the test."""
    pages = []

    def opened(clip: PlayerClip, of: Path = video, **options: Any) -> Any:
        page = open_in(
            browser.new_context(**options) if options else context, tmp_path / "page", clip, of
        )
        pages.append(page)
        return page

    yield opened
    for page in pages:
        check(page)
        page.close()


@pytest.fixture(scope="module")
def shared_page(context: Any, tmp_path_factory: pytest.TempPathFactory, video: Path) -> Any:
    page = open_in(context, tmp_path_factory.mktemp("shared"), tones(), video)
    yield page
    page.close()


@pytest.fixture
def tones_page(shared_page: Any) -> Any:
    """The page of `tones`, with all controls in their initial state."""
    shared_page.evaluate(
        """() => {
          for (const [id, checked] of [["loop", true], ["outlines", true]]) {
            const control = document.getElementById(id);
            if (control.checked !== checked) control.click();
          }
          document.querySelector("input[name=overlay][value=heat]").click();
          if (document.getElementById("silence").ariaPressed === "true") {
            document.getElementById("silence").click();
          }
          for (const k of [0, 1, 2]) {
            player.setGain(k, 1);
            player.setMuted(k, false);
            player.setSolo(k, false);
          }
          player.pause();
          document.querySelector("video").currentTime = 0;
          document.activeElement.blur();
        }"""
    )
    yield shared_page
    check(shared_page)


def cell_sounds(embedding: Embedding) -> np.ndarray:
    """Python's sound of every cell, (h, w, samples)."""
    _, height, width, channels = embedding.cells.shape
    features = embedding.cells.reshape(-1, height * width, channels)
    return embedding.sounds(embedding.masks(features)).reshape(height, width, -1)


def region_sounds(clip: PlayerClip) -> np.ndarray:
    """Python's sounds of the regions and the rest."""
    features = np.stack([region.features for region in clip.regions], axis=1)
    return clip.embedding.sounds(normalize_masks(clip.embedding.masks(features)))


@pytest.fixture(scope="module")
def duet(
    tmp_path_factory: pytest.TempPathFactory, default_params: Params
) -> tuple[PlayerClip, Path]:
    """Six rendered seconds of two instruments, embedded by networks of the default sizes."""
    folder = tmp_path_factory.mktemp("duet")
    settings = default_params.dataset.synthetic.model_copy(
        update={"solos": 0, "duets": 1, "seconds": 6.0}
    )
    planned = plan(settings, 5)[0]
    render(planned, settings, 5, folder)
    file = folder / planned.category / f"{planned.name}.mp4"
    decode = [binary(), "-v", "error", "-i", str(file)]
    sound = subprocess.run(
        [*decode, "-ac", "1", "-ar", str(RATE), "-f", "f32le", "-"], check=True, capture_output=True
    )
    audio = np.frombuffer(sound.stdout, np.float32)[: 6 * RATE].copy()
    seen = subprocess.run(
        [*decode, "-r", "1", "-s", "128x96", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
        check=True,
        capture_output=True,
    )
    frames = np.frombuffer(seen.stdout, np.uint8).reshape(-1, 96, 128, 3)[:3].copy()
    player = build(default_params.model, default_params.spectrogram, seed=0).eval()
    with torch.inference_mode():
        magnitude = player.spectra(torch.from_numpy(audio)[None, None]).magnitude
        count = magnitude.shape[-1]
        padded = torch.nn.functional.pad(magnitude, (0, -count % 32), value=1e-10)
        components = player.sound_features(padded)[0, :, :, :count].numpy()
        cells = player.pixel_features(normalize_frames(torch.from_numpy(frames))[None])[0]
    # Outputs of untrained networks are small; scale them to those of trained networks.
    components = 2 * standard(components, (1, 2))
    cells = standard(cells.permute(0, 2, 3, 1).numpy(), (0, 1, 2))
    peaks = np.abs(np.linspace(0, 2, count) - np.arange(3)[:, None])
    embedding = Embedding(
        audio=audio,
        sample_rate=RATE,
        spectrogram=default_params.spectrogram,
        components=components,
        cells=cells,
        scale=np.linspace(0.5, 1, cells.shape[-1], dtype=np.float32),
        crossfade=np.maximum(1 - peaks, 0).astype(np.float32),
        bias=-1.0,
        activation="sigmoid",
    )
    height, width = cells.shape[1:3]
    regions = []
    for k, name in enumerate(planned.instruments):
        chosen = np.zeros((height, width), bool)
        chosen[height // 3 :, k * width // 2 : (k + 1) * width // 2] = True
        regions.append(PlayerRegion(name, chosen, cells[:, chosen].mean(axis=1)))
    return clip_of(embedding, tuple(regions), "A duet"), file


@pytest.fixture(scope="module")
def duet_page(
    context: Any, tmp_path_factory: pytest.TempPathFactory, duet: tuple[PlayerClip, Path]
) -> Any:
    page = open_in(context, tmp_path_factory.mktemp("duet-page"), *duet)
    yield page
    check(page)
    page.close()


def standard(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    centred = values - values.mean(axis=axes, keepdims=True)
    return (centred / centred.std(axis=axes, keepdims=True)).astype(np.float32)


# Files


def test_quantise() -> None:
    components = np.random.default_rng(0).normal(size=(3, 20, 30)).astype(np.float32)
    components[2] = 7
    levels, steps, offsets = quantise(components)
    restored = levels * steps[:, None, None] + offsets[:, None, None]
    assert np.all(np.abs(restored - components) <= 0.501 * steps[:, None, None] + 1e-6)
    assert np.all(restored[2] == 7)


@pytest.mark.parametrize(("channels", "hop"), [(16, 512), (32, 256)])
def test_size_of_a_page_of_noise(tmp_path: Path, video: Path, channels: int, hop: int) -> None:
    clip = noise(channels=channels, hop=hop, seconds=65535 / RATE, grid=(14, 14))
    shape = clip.embedding.components.shape
    components = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    clip = replace(clip, embedding=replace(clip.embedding, components=components))
    assert write_player(tmp_path, clip, video).stat().st_size < PAGE_BYTES


def test_files(tmp_path: Path, video: Path) -> None:
    page = write_player(tmp_path / "new" / "folder", tones(), video)
    assert page == tmp_path / "new" / "folder" / "index.html"
    assert sorted(path.name for path in page.parent.iterdir()) == ["index.html", "video.mp4"]
    assert (page.parent / "video.mp4").read_bytes() == video.read_bytes()


def test_reproducible(tmp_path: Path, video: Path) -> None:
    first = write_player(tmp_path / "a", noise(), video).read_bytes()
    assert write_player(tmp_path / "b", noise(), video).read_bytes() == first


def test_rewritten_page(tmp_path: Path, video: Path) -> None:
    write_player(tmp_path, tones(), video)
    write_player(tmp_path, noise(), tmp_path / "video.mp4")
    assert (tmp_path / "video.mp4").read_bytes() == video.read_bytes()


def test_missing_or_unsupported_video(tmp_path: Path) -> None:
    (tmp_path / "a.avi").write_bytes(b"")
    for name, reason in (("none.mp4", "no such file"), ("a.avi", "convert it")):
        with pytest.raises(UserError, match=reason):
            write_player(tmp_path / "page", tones(), tmp_path / name)
    assert not (tmp_path / "page").exists()


def test_invalid_clip(tmp_path: Path, video: Path) -> None:
    clip = tones()
    embedding, region = clip.embedding, clip.regions[0]
    broken = [
        (replace(clip, heat=clip.heat[:, :1]), "heat"),
        (replace(clip, colours=clip.colours[:, :1]), "colours"),
        (
            replace(clip, regions=(replace(region, cells=np.ones((1, 1), bool)),)),
            "cells of region 0",
        ),
        (replace(clip, heat=clip.heat * np.nan), "not finite"),
        (replace(clip, embedding=replace(embedding, audio=embedding.audio[:9999])), "samples"),
    ]
    for wrong, reason in broken:
        with pytest.raises(ValueError, match=reason):
            write_player(tmp_path / "page", wrong, video)


# Computation


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "log_frequency", "frame", "hop"),
    [
        ("sigmoid", True, 1022, 256),
        ("softmax", True, 1022, 512),
        ("tanh", False, 1022, 512),
        ("relu", True, 512, 128),
        ("none", False, 510, 200),
    ],
)
def test_page_computes_the_same_as_python(
    open_page: Open, activation: Any, log_frequency: bool, frame: int, hop: int
) -> None:
    clip = noise(activation, log_frequency, frame, hop, seconds=1.0)
    page = open_page(clip)
    expected = cell_sounds(clip.embedding)
    for row, column in ((0, 0), (2, 1), (1, 3)):
        sound = samples(page, f"player.soundAt({(column + 0.5) / 4}, {(row + 0.5) / 3})")
        np.testing.assert_allclose(sound, expected[row, column], atol=2e-4)
    for k, sound in enumerate(region_sounds(clip)):
        np.testing.assert_allclose(samples(page, f"player.regionSound({k})"), sound, atol=2e-4)


@pytest.mark.slow
def test_sound_of_clicked_pixels(duet_page: Any, duet: tuple[PlayerClip, Path]) -> None:
    clip, page = duet[0], duet_page
    expected = cell_sounds(clip.embedding)
    height, width = expected.shape[:2]
    cells = [(0, 0), (height - 1, width - 1), (height // 2, width // 3), (1, width - 2)]
    for row, column in cells:
        click(page, (column + 0.7) / width, (row + 0.2) / height)
        wait_until(
            page, f"player.selected().row === {row} && player.selected().column === {column}"
        )
        sound = samples(page, "player.selected().samples")
        assert correlation(sound, expected[row, column]) >= 0.999
    # The sounds of different cells differ.
    assert correlation(expected[cells[0]], expected[cells[1]]) < 0.98


def test_regions_and_rest_sum_to_the_mixture(duet_page: Any, duet: tuple[PlayerClip, Path]) -> None:
    clip, page = duet[0], duet_page
    expected = region_sounds(clip)
    sounds = [samples(page, f"player.regionSound({k})") for k in range(len(expected))]
    for sound, wanted in zip(sounds, expected, strict=True):
        assert correlation(sound, wanted) >= 0.999
    mixture = samples(page, "player.mixture()")
    np.testing.assert_allclose(mixture, clip.embedding.audio, atol=2e-5)
    np.testing.assert_allclose(sum(sounds), mixture[: len(sounds[0])], atol=1e-4)


def test_latency_of_a_click(duet_page: Any) -> None:
    page = duet_page
    took = page.evaluate(
        """async () => {
          const times = [];
          for (let column = 0; column < 8; column++) {
            const began = performance.now();
            await player.select(1, column);
            times.push(performance.now() - began);
          }
          return times;
        }"""
    )
    # Milliseconds; the minimum, because other processes may run at the same time.
    assert min(took) < 150


# Playback


def test_clicked_pixel_is_played(tones_page: Any) -> None:
    page = tones_page
    click(page, 0.1, 0.2)
    wait_for_level(page, LOW_LEVEL)
    assert page.locator("#playing").inner_text() == "Place in row 1, column 1 of 2 \u00d7 4"
    click(page, 0.6, 0.9)
    wait_for_level(page, HIGH_LEVEL)
    click(page, 0.9, 0.2)
    wait_for_level(page, 0)
    page.get_by_role("button", name="Back to the mixture").click()
    wait_for_level(page, MIXTURE_LEVEL)
    assert page.locator("#playing").inner_text() == "Mixture"


def test_drag_over_pixels(tones_page: Any) -> None:
    page = tones_page
    box = page.locator("#picture").bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 5, steps=5)
    page.mouse.up()
    wait_until(page, "player.selected().column === 2")
    wait_for_level(page, HIGH_LEVEL)


@pytest.mark.slow
def test_volume_mute_and_solo(tones_page: Any) -> None:
    page = tones_page
    page.get_by_role("button", name="Play").click()
    wait_for_level(page, MIXTURE_LEVEL)
    page.get_by_role("button", name="Mute low").click()
    wait_for_level(page, HIGH_LEVEL)
    page.get_by_role("button", name="Mute low").click()
    page.get_by_role("button", name="Solo low").click()
    wait_for_level(page, LOW_LEVEL)
    page.get_by_role("slider", name="Volume of low").fill("0.5")
    wait_for_level(page, LOW_LEVEL / 2)
    assert page.locator(".card output").first.inner_text() == "50%"
    page.get_by_role("button", name="Solo low").click()
    wait_for_level(page, float(np.hypot(LOW_LEVEL / 2, HIGH_LEVEL)))
    page.evaluate("player.setGain(0, 0)")
    wait_for_level(page, HIGH_LEVEL)
    page.evaluate("player.setMuted(1, true)")
    wait_for_level(page, 0)


def test_region_controls_select_the_mixture(tones_page: Any) -> None:
    page = tones_page
    click(page, 0.1, 0.2)
    wait_for_level(page, LOW_LEVEL)
    page.get_by_role("button", name="Solo high").click()
    wait_for_level(page, HIGH_LEVEL)
    assert page.locator("#playing").inner_text() == "Remix of the regions"


@pytest.mark.slow
def test_sound_is_synchronised(open_page: Open) -> None:
    # Loudness grows with time and so tells the position of the sound.
    seconds = np.arange(int(RATE * SECONDS)) / RATE
    page = open_page(tones((0.1 + 0.2 * seconds) * np.sin(2 * np.pi * LOW * seconds)))

    def wait_until_synchronised() -> None:
        """Wait until level and drift fit the video; a busy machine starts the sound late."""
        for _ in range(50):
            page.wait_for_timeout(100)
            level, now, drift = page.evaluate(
                "[player.level(), document.querySelector('video').currentTime, player.drift()]"
            )
            apart = (level * np.sqrt(2) - 0.1) / 0.2 - now
            if abs(apart) < 0.25 and abs(drift) < 0.06:
                return
        raise AssertionError(f"the sound is {apart:.2f} s from the video, drift {drift:.2f} s")

    page.get_by_role("button", name="Play").click()
    wait_until_synchronised()
    page.evaluate("document.querySelector('video').currentTime = 2")
    wait_until_synchronised()
    page.evaluate(
        "Object.assign(document.querySelector('video'), { currentTime: 0.5, playbackRate: 0.5 })"
    )
    wait_until_synchronised()
    page.evaluate("player.pause()")
    wait_for_level(page, 0)


@pytest.mark.slow
def test_loop_and_end(tones_page: Any) -> None:
    page = tones_page
    now = "document.querySelector('video').currentTime"
    page.evaluate(f"{now} = 2.5")
    page.get_by_role("button", name="Play").click()
    wait_until(page, f"{now} > 0.3 && {now} < 2")
    wait_for_level(page, MIXTURE_LEVEL)
    page.get_by_label("Loop").uncheck()
    page.evaluate(f"{now} = 2.5")
    wait_until(page, "document.querySelector('video').ended")
    wait_for_level(page, 0)
    assert page.locator("#play").inner_text() == "Play"


# Display


def test_no_request_outside_the_folder(tones_page: Any) -> None:
    page = tones_page
    names = {request.url.rsplit("/", 1)[1] for request in page.requested}
    assert names == {"index.html", "video.mp4"}
    refused = page.evaluate(
        """async () => {
          const refused = [];
          addEventListener("securitypolicyviolation", (e) => refused.push(e.effectiveDirective));
          await fetch("https://example.org/").catch(() => {});
          for (const name of ["img", "script"]) {
            const element = document.createElement(name);
            element.src = "https://example.org/";
            document.body.append(element);
            await new Promise((resolve) => element.addEventListener("error", resolve));
          }
          document.body.setAttribute("onclick", "window.hacked = 1");
          document.body.click();
          return [...refused, window.hacked ?? null];
        }"""
    )
    assert refused[:3] == ["connect-src", "img-src", "script-src-elem"]
    assert refused[-1] is None
    failures = [request.failure for request in page.requested if "example" in request.url]
    assert set(failures) == {"csp"}
    page.mistakes.clear()


def test_names_are_text(open_page: Open) -> None:
    names = ("</script><script>window.hacked = 1</script>", "\"Ünï\" & 'côde' <b>\u2028日本 $title")
    title = "</title><img src=x onerror='window.hacked = 1'> & \"more\" </script>"
    page = open_page(replace(tones(names=names), title=title))
    assert page.title() == title.strip()
    assert page.locator("h1").text_content() == title
    assert page.locator(".card .name").all_text_contents() == [*names, "Rest"]
    assert page.evaluate("window.hacked === undefined")
    assert page.locator("#cards b, #cards script, h1 img").count() == 0


@pytest.mark.slow
def test_keyboard(tones_page: Any) -> None:
    page = tones_page
    press = page.keyboard.press
    press("Space")
    wait_for_level(page, MIXTURE_LEVEL)
    page.locator("#picture").focus()
    assert page.locator("#cursor").is_visible()
    for key in ("ArrowUp", "ArrowUp", "ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowRight"):
        press(key)
    picture, cursor = (page.locator(name).bounding_box() for name in ("#picture", "#cursor"))
    assert cursor["x"] == pytest.approx(picture["x"] + picture["width"] / 4, abs=1)
    assert cursor["y"] == pytest.approx(picture["y"], abs=1)
    press("Enter")
    wait_for_level(page, LOW_LEVEL)
    assert page.evaluate("[player.selected().row, player.selected().column]") == [0, 1]
    press("Escape")
    wait_for_level(page, MIXTURE_LEVEL)
    press("2")
    wait_for_level(page, HIGH_LEVEL)
    press("2")
    press("Shift+2")
    wait_for_level(page, LOW_LEVEL)
    press("0")
    wait_for_level(page, 0)
    press("0")
    press("Shift+2")
    press("m")
    wait_for_level(page, 0)
    press("m")
    wait_for_level(page, MIXTURE_LEVEL)
    press("o")
    assert page.get_by_label("Colours").is_checked()
    press("l")
    assert not page.get_by_label("Loop").is_checked()
    press("Space")
    wait_until(page, "document.querySelector('video').paused")


def test_controls_have_names_and_focus(tones_page: Any) -> None:
    page = tones_page
    for element in page.locator("button, input, a").all():
        assert element.evaluate(
            """e => (e.getAttribute("aria-label") ?? e.labels?.[0]?.textContent ?? e.textContent)
              .trim()"""
        )
    for name in ("Mute low", "Solo rest", "Save high as WAV"):
        button = page.get_by_role("button", name=name)
        button.focus()
        assert button.evaluate("e => e === document.activeElement")


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (400, "dark")])
def test_page_fits_its_window(open_page: Open, tmp_path: Path, width: int, scheme: str) -> None:
    clip = tones(names=("a" * 150, "b"))
    page = open_page(clip, viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    shades = [int(shade) for shade in ground[4:-1].split(",")]
    assert max(shades) < 64 if scheme == "dark" else min(shades) > 192
    picture = tmp_path / f"player-{width}-{scheme}.png"
    page.screenshot(path=picture, full_page=True)
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize("size", ["160x120", "120x420"])
def test_controls_of_tall_videos_are_within_the_window(
    open_page: Open, tmp_path: Path, size: str
) -> None:
    tall = make_video(tmp_path / "tall.mp4", size=size)
    page = open_page(tones(), tall, viewport={"width": 1200, "height": 900})
    play = page.locator("#play").bounding_box()
    assert play["y"] + play["height"] <= 900
    picture = page.locator("#picture").bounding_box()
    width, height = map(int, size.split("x"))
    assert picture["width"] / picture["height"] == pytest.approx(width / height, rel=0.02)
    assert picture["width"] >= 150
    click(page, 0.1, 0.9)
    wait_until(page, "player.selected().row === 1 && player.selected().column === 0")


def flipped(text: str, at: int) -> str:
    return text[:at] + "".join("B" if c == "A" else "A" for c in text[at : at + 4]) + text[at + 4 :]


def half(text: str) -> str:
    return text[: len(text) // 2]


def without_script_part(text: str) -> str:
    return flipped(text, text.index("class Sound"))


@pytest.mark.parametrize(
    "damage",
    [
        half,
        lambda text: text[: text.index("<main>")],
        lambda text: text[: text.rindex("</script>")],
        lambda text: flipped(text, text.index('id="data"') + 5000),
        lambda text: flipped(text, text.index('"sampleRate"') + 2),
        without_script_part,
    ],
    ids=["half", "no main", "no end", "data", "description", "script"],
)
def test_damaged_page_says_so(
    browser: Any, tmp_path: Path, video: Path, damage: Callable[[str], str]
) -> None:
    written = write_player(tmp_path / "page", noise(), video)
    text = written.read_text("utf-8")
    assert damage(text) != text
    written.write_text(damage(text), "utf-8")
    page = browser.new_page()
    page.goto(written.as_uri())
    page.get_by_text("This page is damaged: a part of the file is missing").wait_for(timeout=5000)
    page.close()


def test_overlays(tones_page: Any) -> None:
    page = tones_page
    pixel = """([x, y]) => {
      const canvas = document.getElementById("overlay");
      const { data } = canvas.getContext("2d").getImageData(x, y, 1, 1);
      return [canvas.width, canvas.height, ...data];
    }"""
    loudest, other = page.evaluate(pixel, [0, 0]), page.evaluate(pixel, [2, 1])
    assert loudest[:2] == [4, 2]
    assert sum(loudest[2:]) > sum(other[2:])
    page.get_by_label("Colours").check()
    left, right = page.evaluate(pixel, [0, 0]), page.evaluate(pixel, [3, 0])
    assert left[2] < 5 and right[2] > 250
    # Discard the browser's warnings about this test.
    page.mistakes.clear()
    page.get_by_label("None").check()
    assert not page.locator("#overlay").is_visible()
    page.get_by_label("Outlines").uncheck()
    assert not page.locator("#marks").is_visible()


def test_silent_clip(open_page: Open, tmp_path: Path) -> None:
    clip = replace(tones(np.zeros(int(RATE * SECONDS))), regions=())
    page = open_page(replace(clip, heat=np.zeros_like(clip.heat)))
    assert page.locator("#note").inner_text() == "This clip is silent."
    assert page.locator(".card .name").all_text_contents() == ["Whole sound"]
    click(page, 0.6, 0.6)
    wait_until(page, "player.selected().row === 1")
    wait_for_level(page, 0)


def test_clip_without_regions(open_page: Open) -> None:
    page = open_page(replace(tones(), regions=()))
    assert page.locator("#note").inner_text() == "No region with sound was found in this clip."
    page.get_by_role("button", name="Play").click()
    wait_for_level(page, MIXTURE_LEVEL)


def test_sounds_are_saved_as_wav(tones_page: Any, tmp_path: Path) -> None:
    clip, page = tones(), tones_page
    for name, expected in (
        ("Save the mixture", clip.embedding.audio),
        ("Save low as WAV", region_sounds(clip)[0]),
    ):
        with page.expect_download() as saved:
            page.get_by_role("button", name=name).click()
        assert saved.value.suggested_filename.endswith(".wav")
        saved.value.save_as(tmp_path / "saved.wav")
        audio, rate = soundfile.read(tmp_path / "saved.wav", dtype="float32")
        assert rate == RATE
        np.testing.assert_allclose(audio, expected, atol=1e-4)


def test_unplayable_video(open_page: Open, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    page = open_page(tones(), broken)
    assert "cannot play the video" in page.locator("#note").inner_text()
    assert len(samples(page, "player.soundAt(0, 0)")) == 512 * (int(RATE * SECONDS) // 512)


def test_webm(open_page: Open, tmp_path: Path) -> None:
    webm = tmp_path / "video.webm"
    command = [binary(), "-v", "error", "-i", str(make_video(tmp_path / "a.mp4", 1.0)), "-an"]
    subprocess.run([*command, "-c:v", "libvpx", str(webm)], check=True)
    page = open_page(tones(), webm)
    page.get_by_role("button", name="Play").click()
    wait_until(page, "document.querySelector('video').currentTime > 0.1")
