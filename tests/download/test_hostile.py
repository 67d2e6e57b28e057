"""Damaged and malicious files."""

import struct
import subprocess
import time
import wave
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sop.download import sources
from sop.download.local import DESCRIPTIONS
from sop.extract import extraction
from sop.extract.extraction import extract
from sop.media.ffmpeg import binary
from sop.params import ExtractParams, Params
from sop.runtime.parallel import Workers
from tests.support.downloads import download, local, rows
from tests.support.server import Server, serving
from tests.support.stress import repeats

pytestmark = pytest.mark.slow

PARAMS = ExtractParams(
    frame_rate=8.0,
    frame_height=48,
    jpeg_quality=5,
    sample_rate=11025,
    motion_rate=None,
    motion_height=24,
    timeout_seconds=10.0,
    memory_limit_mib=512,
)
SECONDS_PER_FILE = 10.0
CATEGORY = "hostile"
MARKER_HZ = 2000
# What a file that points beside itself points to; hidden, so that it is no video of the folder's.
MARKER_NAME = ".marker.mp4"

GOOD = 3
# Pixels of a side; ffmpeg itself refuses a little more.
HUGE = 16000
BOXES = ("moov", "trak", "mdia", "minf", "dinf")

# Texts that name a file, {path}, and an address, {url}.
TEXTS = {
    "m3u8": (
        "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{url}\n#EXTINF:3,\n{path}\n"
        "#EXTINF:3,\nfile://{path}\n#EXT-X-ENDLIST\n"
    ),
    "m3u8 with a map": (
        '#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXT-X-MAP:URI="{path}"\n#EXTINF:3,\n{url}\n'
        "#EXT-X-ENDLIST\n"
    ),
    "m3u8 that joins": "#EXTM3U\n#EXTINF:3,\nconcat:{path}|{url}\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile '{path}'\nfile '{url}'\n",
    "ffconcat of an address": "ffconcat version 1.0\nfile '{url}'\n",
    "sdp": (
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\na=control:{url}\n"
        "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    ),
    "avs": 'AviSource("{path}")\n# {url}\n',
    "mpd": (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT2S"><Period><AdaptationSet mimeType="video/mp4">'
        '<Representation id="1" bandwidth="1"><BaseURL>{url}</BaseURL></Representation>'
        '<Representation id="2" bandwidth="1"><BaseURL>{path}</BaseURL></Representation>'
        "</AdaptationSet></Period></MPD>"
    ),
    "svg": (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
        '<image xlink:href="file://{path}"/><image xlink:href="{url}"/></svg>'
    ),
    "srt": "1\n00:00:00,000 --> 00:00:02,000\n{path} {url}\n",
    "webvtt": "WEBVTT\n\n00:00.000 --> 00:02.000\n{path} {url}\n",
    "asx": '<asx version="3.0"><entry><ref href="{url}"/><ref href="{path}"/></entry></asx>',
    "pls": "[playlist]\nFile1={url}\nFile2={path}\nNumberOfEntries=2\n",
    "smil": '<smil><body><video src="{url}"/><video src="{path}"/></body></smil>',
    "quicktime link": '<?xml version="1.0"?><?quicktime type="application/x-quicktime-media-link"?>'
    '<embed src="{url}"/>',
    "rtsptext": "rtsptext\n{url}\n",
    "html": '<html><body><video src="{url}"></video><img src="file://{path}"></body></html>',
    "path": "{path}\n",
    "address": "{url}\n",
}


def box(kind: str, *parts: bytes) -> bytes:
    """A box of an MP4."""
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind.encode()) + body


def boxes(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The boxes of an MP4, or of one of its boxes: kind and body."""
    place = 0
    while place < len(data):
        size, kind = struct.unpack(">I4s", data[place : place + 8])
        yield kind.decode(), data[place + 8 : place + size]
        place += size


def with_reference(data: bytes, reference: bytes) -> bytes:
    """An MP4's boxes, all whose tracks lie where a reference says instead of in the file."""
    parts = []
    for kind, body in boxes(data):
        if kind == "dref":
            body = struct.pack(">II", 0, 1) + reference
        elif kind in BOXES:
            body = with_reference(body, reference)
        parts.append(box(kind, body))
    return b"".join(parts)


def alias(name: str) -> bytes:
    """A reference as Mac OS had them: to a file beside this one."""
    path = f"/x/{name}".encode()
    path += b"\0" * (len(path) % 2)
    head = bytes(4) + bytes(10) + b"\0" + bytes(27) + bytes(12) + b"\0" + bytes(63) + bytes(16)
    levels = struct.pack(">hh", 1, 1) + bytes(16)
    return box(
        "alis", head, levels, struct.pack(">hh", 2, len(path)), path, struct.pack(">hh", -1, 0)
    )


def turned(data: bytes, begin: float, end: float, density: float, seed: int) -> bytes:
    """Bits turned at random places between two shares of the file."""
    rng = np.random.default_rng(seed)
    part = np.frombuffer(data, np.uint8).copy()
    first, last = int(begin * len(data)), int(end * len(data))
    count = max(1, round(density * (last - first)))
    np.bitwise_xor.at(
        part, rng.integers(first, last, count), (1 << rng.integers(0, 8, count)).astype(np.uint8)
    )
    return part.tobytes()


def grey_png(side: int) -> bytes:
    """A picture of many pixels in few bytes."""
    packer = zlib.compressobj(1)
    row = bytes(1 + side)
    body = b"".join([*(packer.compress(row) for _ in range(side)), packer.flush()])
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0),
        b"IDAT": body,
        b"IEND": b"",
    }
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )


def write_mutilated(folder: Path, make_video: Callable) -> None:
    """Videos with bits turned, bytes missing and boxes moved."""
    master = make_video(folder / "master")  # An MP4 whose index comes first.
    late = make_video(folder / "late", "-c", "copy", "-f", "mp4")
    mkv = make_video(folder / "mkv", "-c", "copy", "-f", "matroska")
    data, late_index, matroska = (place.read_bytes() for place in (master, late, mkv))
    for place in (master, late, mkv):
        place.unlink()
    parts = dict(boxes(data))
    index_end = data.index(b"mdat") / len(data)
    files: dict[str, bytes] = {}
    for seed, density in enumerate((1e-4, 1e-3, 3e-3, 1e-2, 1e-1)):
        files[f"turned header {seed}"] = turned(data, 0, 64 / len(data), 10 * density, seed)
        files[f"turned index {seed}"] = turned(data, 0, index_end, density, seed)
        files[f"turned media {seed}"] = turned(data, index_end, 1, density, seed)
        files[f"turned all {seed}"] = turned(data, 0, 1, density, seed)
        files[f"turned late index {seed}"] = turned(late_index, 0.5, 1, density, seed)
        files[f"turned mkv {seed}"] = turned(matroska, 0, 1, density, seed)
    for share in (0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        files[f"cut at {share}"] = data[: int(share * len(data))]
        files[f"cut late index at {share}"] = late_index[: int(share * len(late_index))]
        files[f"cut mkv at {share}"] = matroska[: int(share * len(matroska))]
    order = {name: box(name, body) for name, body in parts.items()}
    files["boxes swapped"] = order["mdat"] + order["moov"] + order["ftyp"]
    files["index twice"] = order["ftyp"] + 2 * order["moov"] + order["mdat"]
    files["no type"] = order["moov"] + order["mdat"]
    files["no index"] = order["ftyp"] + order["mdat"]
    files["no media"] = order["ftyp"] + order["moov"]
    files["media of another"] = order["ftyp"] + order["moov"] + box("mdat", late_index[48:])
    files["head overwritten"] = bytes(32) + data[32:]
    files["size 0"] = data.replace(order["mdat"][:8], struct.pack(">I4s", 0, b"mdat"))
    files["size of 4 GiB"] = data.replace(
        order["moov"][:8], struct.pack(">I4s", 2**32 - 1, b"moov")
    )
    for kind in (b"stsz", b"stts", b"stco", b"stsc", b"ctts", b"elst", b"mdhd", b"avcC"):
        places = [at for at in range(len(data)) if data.startswith(kind, at)]
        for name, value in (("all", b"\xff"), ("none", b"\0")):
            changed = bytearray(data)
            for at in places:
                changed[at + 8 : at + 24] = 16 * value
            files[f"{kind.decode()} {name}"] = bytes(changed)
    files["joined"] = data + data
    files["joined with mkv"] = data + matroska
    files["mkv joined"] = matroska + matroska
    files["after rubbish"] = bytes(range(256)) * 40 + data
    assert len(files) >= 60
    # All of them in the stress test.
    for name in list(files)[:: repeats(4, 1)]:
        (folder / f"{name}.mp4").write_bytes(files[name])


def write_others(folder: Path, ffmpeg_run: Callable) -> None:
    """What is no video, or of no sensible size."""
    rng = np.random.default_rng(0)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "one byte.mp4").write_bytes(b"\0")
    (folder / "text.mp4").write_text("not a video\n" * 1000)
    (folder / "zeros.mp4").write_bytes(bytes(1 << 20))
    (folder / "ones.mp4").write_bytes(b"\xff" * (1 << 20))
    (folder / "noise.mp4").write_bytes(rng.bytes(1 << 20))
    for seed in range(3):
        noise = np.random.default_rng(seed).bytes(50_000)
        (folder / f"noise as mp4 {seed}.mp4").write_bytes(b"\0\0\0\x18ftypisom" + noise)
        (folder / f"noise as mkv {seed}.mp4").write_bytes(b"\x1a\x45\xdf\xa3" + noise)
        (folder / f"noise as ts {seed}.mp4").write_bytes(
            b"".join(b"G" + noise[n : n + 187] for n in range(0, 40_000, 187))
        )
    with zipfile.ZipFile(folder / "bomb.mp4", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.mp4", bytes(100 << 20))
    picture = Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8))
    for kind in ("PNG", "JPEG", "GIF"):
        picture.save(folder / f"{kind} picture.mp4", kind)
    tone = ("-f", "lavfi", "-i", "sine=440:d=2")
    huge = folder / "huge.png"
    huge.write_bytes(grey_png(HUGE))
    pictures = ("-loop", "1", "-framerate", "1", "-t", "2", "-f", "image2", "-i", huge)
    ffmpeg_run(*pictures, *tone, "-c:v", "copy", "-f", "mov", folder / "huge PNG.mp4")
    huge.unlink()
    small = ("-f", "lavfi", "-i", "color=gray:s=64x48:r=8:d=2")
    ffmpeg_run(*small, *tone, "-c:v", "mjpeg", "-f", "mov", folder / "huge MJPEG.mp4")
    data = bytearray((folder / "huge MJPEG.mp4").read_bytes())
    at = -1
    while (at := data.find(b"\xff\xc0\x00\x11\x08", at + 1)) >= 0:
        data[at + 5 : at + 9] = struct.pack(">HH", HUGE, HUGE)
    (folder / "huge MJPEG.mp4").write_bytes(data)
    wide = ("-f", "lavfi", "-i", "color=gray:s=16384x16:r=8:d=2")
    ffmpeg_run(*wide, *tone, "-preset", "ultrafast", "-f", "mp4", folder / "wide.mp4")


def write_pointers(folder: Path, marker: Path, url: str) -> None:
    """What names another file or an address, under the names of videos."""
    for name, text in TEXTS.items():
        endings = ["mp4", "mkv", "avi", name.split()[0]]
        # All suffixes in the stress test, otherwise mp4 and its own.
        for ending in (*endings[:3][:: repeats(3, 1)], endings[3]):
            content = text.format(path=marker, url=url)
            (folder / f"{name} as {ending}.{ending}").write_text(content)
    for name, there in (("playlist", MARKER_NAME), ("playlist up", f"../{MARKER_NAME}")):
        (folder / f"{name}.mp4").write_text(
            f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{there}\n#EXT-X-ENDLIST\n"
        )
    data = marker.read_bytes()
    # The offsets that remain are those of the marker's own media.
    hollow = data[: data.index(b"mdat") - 4]
    (folder / MARKER_NAME).write_bytes(data)
    for name, reference in {
        "alias": alias(MARKER_NAME),
        "absolute alias": alias(str(marker).removeprefix("/")),
        "path": box("url ", bytes(4), f"{marker}\0".encode()),
        "file address": box("url ", bytes(4), f"file://{marker}\0".encode()),
        "address": box("url ", bytes(4), f"{url}\0".encode()),
        "name": box("urn ", bytes(4), f"x\0{url}\0".encode()),
    }.items():
        (folder / f"reference by {name}.mp4").write_bytes(with_reference(hollow, reference))


@pytest.fixture(scope="module")
def marker(tmp_path_factory: pytest.TempPathFactory, ffmpeg_run: Callable) -> Path:
    """A video that must not get into anything: a tone of 2 kHz."""
    place = tmp_path_factory.mktemp("elsewhere") / "marker.mp4"
    ffmpeg_run(
        *("-f", "lavfi", "-i", "testsrc=s=96x72:r=24:d=2.5"),
        *("-f", "lavfi", "-i", f"sine={MARKER_HZ}:d=2.5:r=22050"),
        *("-preset", "ultrafast", "-movflags", "+faststart", place),
    )
    return place


@pytest.fixture(scope="module")
def server(marker: Path) -> Iterator[Server]:
    """Serves the marker, and knows who asked."""
    with serving(marker.parent) as server:
        yield server


@pytest.fixture(scope="module")
def hostile(
    tmp_path_factory: pytest.TempPathFactory,
    marker: Path,
    server: Server,
    make_video: Callable,
    ffmpeg_run: Callable,
) -> Path:
    """A folder of local videos, three of which are good."""
    own = tmp_path_factory.mktemp("hostile") / "own"
    folder = own / CATEGORY
    for number in range(GOOD):
        make_video(folder / f"good {number}.mp4")
    write_mutilated(folder, make_video)
    write_others(folder, ffmpeg_run)
    write_pointers(folder, marker, f"{server.root}/marker.mp4")
    return own


def held_to(seconds: float, monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[float]:
    """Makes a function note how long it takes, and fail after more than so long."""
    work, taken = getattr(module, name), []

    def timed(*arguments: Any, **options: Any) -> Any:
        began = time.monotonic()
        try:
            return work(*arguments, **options)
        finally:
            taken.append(time.monotonic() - began)
            assert taken[-1] <= seconds, f"{arguments[0]} took {taken[-1]:.1f} s"

    monkeypatch.setattr(module, name, timed)
    return taken


def marker_share(sound: Path) -> float:
    """How much of a WAV's energy is the marker's tone, in the loudest window."""
    with wave.open(str(sound)) as file:
        rate = file.getframerate()
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(float)
    windows = samples[: len(samples) // 1024 * 1024].reshape(-1, 1024) * np.hanning(1024)
    power = np.abs(np.fft.rfft(windows)) ** 2
    place = round(MARKER_HZ * 1024 / rate)
    share = power[:, place - 3 : place + 4].sum(1) / (power.sum(1) + 1e9)
    return float(share.max(initial=0.0))


def check_nothing_got_in(folders: list[Path], marker: Path, server: Server) -> None:
    """Fail if any file below holds what only the marker has, or it was asked for."""
    assert server.asked == []
    data = marker.read_bytes()
    media = data[data.index(b"mdat") + 4 :]
    bits = [media[at : at + 48] for at in range(0, len(media) - 48, len(media) // 20)]
    sounds = 0
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        assert not any(bit in content for bit in bits), path
        if path.suffix == ".wav":
            sounds += 1
            assert marker_share(path) < 0.5, path
    assert sounds >= GOOD


def check_accounted_for(names: set[str], done: set[str], left_out: dict[str, str]) -> None:
    """Fail unless each video is either done or left out, with its reason on one line."""
    assert done | left_out.keys() == names
    assert not done & left_out.keys()
    for name, reason in left_out.items():
        assert reason.strip(), name
        assert reason.isprintable(), name
        assert len(reason) < 300, name
        assert "took longer than" not in reason, name
    assert {f"{CATEGORY}/good {number}" for number in range(GOOD)} <= done


def check_extracted(videos: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Extract a folder of videos, check the result of each and return the names that are done."""
    audio, frames = folder / "audio", folder / "frames"
    names = {f"{path.parent.name}/{path.stem}" for path in videos.glob("*/[!.]*.mp4")}
    monkeypatch.setattr(extraction, "REASONS_SHOWN", len(names))
    taken = held_to(SECONDS_PER_FILE, monkeypatch, extraction, "extract_video")
    summary = extract(PARAMS, videos, audio, frames, Workers(2), folder / "hashes.sqlite")
    assert len(taken) == len(names)
    done = {f"{path.parent.name}/{path.stem}" for path in audio.glob("*/*.wav")}
    assert done == {f"{path.parent.name}/{path.stem}" for path in frames.glob("*/*.zip")}
    assert summary["videos"] == len(done)
    check_accounted_for(names, done, summary["left_out"]["reasons"])
    assert not list(folder.rglob(".part-*"))
    return done


def test_hostile_files_are_left_out_by_download(
    hostile: Path,
    marker: Path,
    server: Server,
    params: Params,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    videos = out / "videos"
    taken = held_to(SECONDS_PER_FILE, monkeypatch, sources, "_copy")
    summary = download(local(params, hostile), videos)
    every = hostile.glob("*/[!.]*")
    files = {str(path) for path in every if path.suffix.lower() not in DESCRIPTIONS}
    assert len(taken) == len(files) > repeats(70, 150)
    table = rows(videos)
    assert {row["source"] for row in table} == files
    assert summary["listed"] == len(files)
    done = {f"{row['category']}/{row['id']}" for row in table if row["status"] == "done"}
    assert done == {f"{path.parent.name}/{path.stem}" for path in videos.glob("*/*.mp4")}
    check_accounted_for(
        {f"{row['category']}/{row['id']}" for row in table},
        done,
        {f"{r['category']}/{r['id']}": r["reason"] for r in table if r["status"] != "done"},
    )
    check_extracted(videos, out, monkeypatch)
    check_nothing_got_in([out], marker, server)


def test_hostile_files_are_left_out_by_extract(
    hostile: Path, marker: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    done = check_extracted(hostile, out, monkeypatch)
    check_nothing_got_in([out], marker, server)
    assert not any(" as " in name or "reference by" in name for name in done)
    assert not done & {f"{CATEGORY}/{name}" for name in ("huge PNG", "huge MJPEG", "no media")}


def test_ffmpeg_follows_references_if_allowed(
    marker: Path, tmp_path: Path, make_video: Callable
) -> None:
    write_pointers(tmp_path, marker, "http://127.0.0.1:9/")
    sound = tmp_path / "sound.wav"
    for options, heard in (("-enable_drefs", "1"), True), ((), False):
        sound.unlink(missing_ok=True)
        video = ("-i", tmp_path / "reference by alias.mp4")
        command = [binary(), "-v", "error", *options, *video, "-vn", "-ar", "11025", sound]
        subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        assert (sound.is_file() and marker_share(sound) > 0.9) == heard
    subprocess.run([binary(), "-v", "error", "-y", "-i", marker, "-ar", "11025", sound], check=True)
    assert marker_share(sound) > 0.9
    good = make_video(tmp_path / "good.mp4")
    subprocess.run([binary(), "-v", "error", "-y", "-i", good, "-ar", "11025", sound], check=True)
    assert marker_share(sound) < 0.1


def test_truncated_sei_message_is_ignored(tmp_path: Path, make_video: Callable) -> None:
    video = make_video(tmp_path / "video.mp4")
    data = bytearray(video.read_bytes())
    # The length of what x264 notes down of its settings, before the UUID that announces them.
    data[data.index(bytes.fromhex("dc45e9bde6d948b7962cd820d923eeef")) - 1] += 5
    video.write_bytes(data)
    assert extraction.extract_video(video, None, tmp_path / "frames.zip", PARAMS).frames == 20
