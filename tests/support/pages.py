"""A real browser, real video files, and clips whose sounds are known."""

import base64
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sop.inference.embedding import Embedding
from sop.media.ffmpeg import binary
from sop.params import Activation, SpectrogramParams
from sop.player.player import PlayerClip, PlayerRegion, write_player

RATE = 11025
SECONDS = 3.0
LOW, HIGH = 500.0, 2500.0
LOW_LEVEL, HIGH_LEVEL = 0.2 / np.sqrt(2), 0.1 / np.sqrt(2)


# Not session-scoped: Playwright runs an event loop in this thread, which breaks other tests.
@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        yield driver


def program(variable: str, *names: str) -> str:
    """Return the path of a browser, or skip the test."""
    found = os.environ.get(variable) or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(names)} on PATH ({variable})")
    return found


@pytest.fixture(scope="module")
def browser(driver: Any) -> Iterator[Any]:
    found = program("SOP_CHROMIUM", "chromium", "chromium-browser", "google-chrome")
    # Chromium has no sandbox for root, the usual user in a container.
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    switches = ["--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    launched = driver.chromium.launch(
        executable_path=found, args=switches + ["--no-sandbox"] * root
    )
    yield launched
    launched.close()


@pytest.fixture(scope="module")
def firefox_downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which Firefox saves what it downloads; Playwright has no event for it."""
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def firefox(
    driver: Any, tmp_path_factory: pytest.TempPathFactory, firefox_downloads: Path
) -> Iterator[Any]:
    """An unmodified Firefox, with a sound output that nobody hears."""
    if "SOP_FIREFOX" not in os.environ:
        # Driven by Playwright, Firefox stopped answering in a run of all tests, which then hung.
        pytest.skip("Firefox is used only where SOP_FIREFOX names it")
    found = program("SOP_FIREFOX", "firefox-esr", "firefox")
    server = shutil.which("pulseaudio")
    if server is None:
        # Without an output, Firefox does not run the clock of a page's sound.
        pytest.skip("no sound output for Firefox: pulseaudio is not on PATH")
    folder = tmp_path_factory.mktemp("firefox")
    folder.chmod(0o700)
    relay = folder / "firefox"
    source = Path(__file__).parent / "firefox_relay.py"
    relay.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{source}' '{found}' \"$@\"\n")
    relay.chmod(0o700)
    own = {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)}
    socket = folder / "sound"
    modules = ("module-null-sink", f"module-native-protocol-unix socket={socket} auth-anonymous=1")
    options = [
        "-n",
        "--daemonize=no",
        "--use-pid-file=no",
        "--exit-idle-time=-1",
        "--log-level=error",
    ]
    command = [server, *options, *(f"--load={module}" for module in modules)]
    with subprocess.Popen(command, env=os.environ | own, stderr=subprocess.DEVNULL) as sound:
        try:
            until = time.monotonic() + 20
            while not socket.exists() and time.monotonic() < until:
                time.sleep(0.05)
            # `moz-firefox` is driven over WebDriver BiDi, not by changes to Firefox.
            launched = driver.firefox.launch(
                channel="moz-firefox",
                executable_path=relay,
                env=os.environ | {"PULSE_SERVER": f"unix:{socket}"},
                downloads_path=firefox_downloads,
                timeout=180_000,
            )
            yield launched
            launched.close()
        finally:
            sound.terminate()


@pytest.fixture(scope="module", params=["chromium", "firefox"])
def any_browser(request: pytest.FixtureRequest) -> Any:
    """Chromium, then Firefox."""
    return request.getfixturevalue("browser" if request.param == "chromium" else "firefox")


def make_video(path: Path, seconds: float = SECONDS, size: str = "160x120") -> Path:
    """Write a video of a test picture and a tone, H.264 and AAC."""
    pictures = f"testsrc=size={size}:rate=24:duration={seconds}"
    tone = f"sine=frequency=440:sample_rate=44100:duration={seconds}"
    command = [binary(), "-v", "error", "-y", "-f", "lavfi", "-i", pictures]
    command += ["-f", "lavfi", "-i", tone, "-c:v", "libx264", "-pix_fmt", "yuv420p"]
    command += ["-c:a", "aac", "-movflags", "+faststart", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("video") / "a video.mp4")


def clip_of(embedding: Embedding, regions: tuple[PlayerRegion, ...], title: str) -> PlayerClip:
    windows, height, width, _ = embedding.cells.shape
    heat = np.ones((windows, height, width), np.float32)
    heat[:, 0, 0] = 3
    colours = np.zeros((height, width, 3), np.uint8)
    colours[..., 0] = np.linspace(0, 255, width)
    return PlayerClip(title, embedding, regions, heat, colours)


def tones(audio: np.ndarray | None = None, names: tuple[str, str] = ("low", "high")) -> PlayerClip:
    """Return a low tone on the left of the picture and a high one at half the level on the right.

    The picture has two rows of four cells. The top right cell is silent, and the bottom right cell
    has a part of the high tone.
    """
    spectrogram = SpectrogramParams(stft_frame=1022, stft_hop=512, log_frequency=False)
    time = np.arange(int(RATE * SECONDS)) / RATE
    if audio is None:
        audio = 0.2 * np.sin(2 * np.pi * LOW * time) + 0.1 * np.sin(2 * np.pi * HIGH * time)
    audio = audio.astype(np.float32)
    frames = 1 + len(audio) // 512
    is_low = np.arange(512) * RATE / 1022 < 1200
    components = np.where([is_low, ~is_low], 8, -8)[..., None].repeat(frames, axis=-1)
    cells = np.zeros((1, 2, 4, 2), np.float32)
    cells[:, :, :2] = (1, 0)
    cells[:, :, 2:] = (0, 1)
    cells[:, 0, 3] = (-1, -1)
    cells[:, 1, 3] = (0.1, 0.2)
    embedding = Embedding(
        audio=audio,
        sample_rate=RATE,
        spectrogram=spectrogram,
        components=components.astype(np.float32),
        cells=cells,
        scale=np.ones(2, np.float32),
        crossfade=np.ones((1, frames), np.float32),
        bias=0.0,
        activation="tanh",
    )
    regions = []
    for k, (name, column) in enumerate(zip(names, (0, 2), strict=True)):
        chosen = np.zeros((2, 4), bool)
        chosen[:, column : column + 2 - k] = True
        regions.append(PlayerRegion(name, chosen, cells[:, 0, column]))
    return clip_of(embedding, tuple(regions), "Two tones")


def noise(
    activation: Activation = "sigmoid",
    log_frequency: bool = True,
    frame: int = 1022,
    hop: int = 512,
    channels: int = 5,
    seconds: float = SECONDS,
    grid: tuple[int, int] = (3, 4),
) -> PlayerClip:
    """Return random data of three windows, with components that 8 bits store exactly."""
    random = np.random.default_rng(3)
    spectrogram = SpectrogramParams(stft_frame=frame, stft_hop=hop, log_frequency=log_frequency)
    audio = random.uniform(-0.5, 0.5, int(RATE * seconds)).astype(np.float32)
    frames = 1 + len(audio) // hop
    rows = 256 if log_frequency else frame // 2 + 1
    levels = random.integers(0, 256, (channels, rows, frames))
    levels[:, 0, 0], levels[:, 1, 0] = 0, 255
    crossfade = random.uniform(0, 1, (3, frames))
    cells = random.normal(size=(3, *grid, channels)).astype(np.float32)
    embedding = Embedding(
        audio=audio,
        sample_rate=RATE,
        spectrogram=spectrogram,
        components=(levels / 64 - 2).astype(np.float32),
        cells=cells,
        scale=random.normal(size=channels).astype(np.float32),
        crossfade=(crossfade / crossfade.sum(axis=0)).astype(np.float32),
        bias=-0.3,
        activation=activation,
    )
    regions = tuple(
        PlayerRegion(f"region {k}", np.arange(12).reshape(3, 4) % 3 == k, f)
        for k, f in enumerate(random.normal(size=(2, 3, channels)).astype(np.float32))
        if grid == (3, 4)
    )
    return clip_of(embedding, regions, "Noise")


def open_in(context: Any, folder: Path, clip: PlayerClip, video: Path) -> Any:
    """Write the page of a clip and open it."""
    return open_written(context, write_player(folder, clip, video))


def open_written(context: Any, written: Path) -> Any:
    """Open a page; it records messages and requests."""
    page = context.new_page()
    page.mistakes, page.requested = [], []
    page.on("console", lambda message: page.mistakes.append(message.text))
    page.on("pageerror", lambda error: page.mistakes.append(str(error)))
    page.on("request", lambda request: page.requested.append(request))
    page.goto(written.as_uri())
    page.evaluate("player.ready")
    page.folder = written.parent
    return page


def check(page: Any) -> None:
    """Check that the page had no error and requested nothing outside its folder."""
    assert page.mistakes == []
    inside = (page.folder.as_uri() + "/", "blob:", "data:")
    sent = [request.url for request in page.requested if request.failure != "csp"]
    assert [url for url in sent if not url.startswith(inside)] == []


def click(page: Any, x: float, y: float) -> None:
    """Click at shares of the picture."""
    box = page.locator("#picture").bounding_box()
    page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])


def samples(page: Any, expression: str) -> np.ndarray:
    """Return an array of a page, given by an expression, or its promise."""
    text = page.evaluate(
        f"""async () => {{
          const bytes = new Uint8Array(Float32Array.from(await {expression}).buffer);
          let text = "";
          for (let i = 0; i < bytes.length; i += 8192) {{
            text += String.fromCharCode(...bytes.subarray(i, i + 8192));
          }}
          return btoa(text);
        }}"""
    )
    return np.frombuffer(base64.b64decode(text), np.float32)


def wait_for_level(page: Any, level: float) -> None:
    """Wait until the output has a level, to 5 %."""
    tolerance = 0.05 * level + 2e-3
    levels = []
    until = time.monotonic() + 20
    while time.monotonic() < until:
        levels.append(page.evaluate("player.level()"))
        if abs(levels[-1] - level) < tolerance:
            return
        page.wait_for_timeout(30)
    raise AssertionError(f"expected {level:.4f}, got {np.round(levels, 4)}")


def wait_until(page: Any, condition: str) -> None:
    """Wait until an expression is true in the page."""
    # As a function: the content security policy forbids evaluating text.
    page.wait_for_function(f"() => {condition}", timeout=20000)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return the correlation of two sounds of one length."""
    return float(np.corrcoef(a, b)[0, 1])
