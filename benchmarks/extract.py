"""Extraction: against decoding alone, against two ffmpeg calls per video, and its memory.

Run: python -m benchmarks.extract
"""

import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from benchmarks.machine import environment
from sop.extract.extraction import extract, extract_video
from sop.media.ffmpeg import binary
from sop.params import ExtractParams, load_params
from sop.runtime.parallel import Workers

ROUNDS = 5
VIDEOS = 8
HOURS = 2
SOURCE = (
    *("-f", "lavfi", "-i", "mandelbrot=s=640x360:r=30,noise=alls=6:allf=t"),
    *("-f", "lavfi", "-i", "anoisesrc=c=pink:a=0.3:r=44100,tremolo=f=3"),
)


def main() -> None:
    """Print ratios taken in turn on the same file, and the peak of memory on a long one."""
    params = load_params().extract
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        video = root / "video.mp4"
        coded = ("-t", "60", "-pix_fmt", "yuv420p", "-preset", "medium", "-c:a", "aac")
        ffmpeg(*SOURCE, *coded, video)
        of_one_video(video, root, params)
        of_a_folder(video, root, params)
        of_memory(video, root)
        print(f"\n{environment()}")


def of_one_video(video: Path, root: Path, params: ExtractParams) -> None:
    """One video on one core: what is needed beyond decoding it."""
    rates = f"fps={params.frame_rate:g},scale=-2:{params.frame_height}"
    quality = ("-q:v", str(params.jpeg_quality))
    (root / "loose").mkdir()

    def decode() -> None:
        # Decoding in one thread, as a worker has one core.
        ffmpeg("-threads", "1", "-i", video, "-map", "0:v", "-map", "0:a", "-f", "null", "-")

    def two_calls() -> None:
        ffmpeg(
            *("-threads", "1", "-i", video, "-vf", rates, *quality, "-threads", "1"),
            root / "loose" / "%06d.jpg",
        )
        ffmpeg(
            *("-threads", "1", "-i", video, "-vn", "-ac", "1", "-ar", str(params.sample_rate)),
            root / "loose.wav",
        )

    def ours() -> None:
        extract_video(video, root / "a.wav", root / "a.zip", params)

    alone, theirs, here = [], [], []
    for _ in range(ROUNDS):
        alone.append(timed(decode))
        theirs.append(timed(two_calls))
        here.append(timed(ours))
    print(f"| one video of 60 s, 640x360 H.264, best of {ROUNDS} | s | s of CPU |")
    print("| --- | --- | --- |")
    for name, figures in (
        ("decoding alone, ffmpeg -f null", alone),
        ("two ffmpeg calls, loose JPEGs and a WAV", theirs),
        ("extract_video", here),
    ):
        wall, cpu = (min(column) for column in zip(*figures, strict=True))
        print(f"| {name} | {wall:.2f} | {cpu:.2f} |")
    ratios = [min(column) for column in zip(*here, strict=True)]
    bases = [min(column) for column in zip(*alone, strict=True)]
    print(
        f"| extract_video over decoding | {ratios[0] / bases[0]:.2f} | {ratios[1] / bases[1]:.2f} |"
    )


def of_a_folder(video: Path, root: Path, params: ExtractParams) -> None:
    """Some videos on all cores: the stage's function against a shell loop."""
    videos = root / "videos" / "a"
    videos.mkdir(parents=True)
    for number in range(VIDEOS):
        # Other bytes, same work.
        with (videos / f"{number}.mp4").open("wb") as copy:
            copy.write(video.read_bytes() + free_box(number))
    loop = f"""
        set -e
        for video in {videos}/*.mp4; do
          name=$(basename $video .mp4); mkdir -p {root}/loop/$name
          {binary()} -v error -nostdin -y -i $video \\
            -vf fps={params.frame_rate:g},scale=-2:{params.frame_height} \\
            -q:v {params.jpeg_quality} {root}/loop/$name/%06d.jpg
          {binary()} -v error -nostdin -y -i $video -vn -ac 1 -ar {params.sample_rate} \\
            {root}/loop/$name.wav
        done"""
    cores = len(os.sched_getaffinity(0))
    places = [root / name for name in ("videos", "audio", "frames")]
    theirs, _ = timed(lambda: subprocess.run(["sh", "-c", loop], check=True))
    here, _ = timed(lambda: extract(params, *places, Workers(cores), root / "hashes.sqlite"))
    again, _ = timed(lambda: extract(params, *places, Workers(cores), root / "hashes.sqlite"))
    print(f"\n| {VIDEOS} such videos on {cores} cores | s |")
    print("| --- | --- |")
    print(f"| shell loop of two ffmpeg calls, ffmpeg's own threads | {theirs:.2f} |")
    print(f"| extract | {here:.2f} |")
    print(f"| extract again, nothing to do | {again:.2f} |")


def of_memory(video: Path, root: Path) -> None:
    """The most memory of a process that extracts one long video, and of its ffmpeg."""
    long = root / "long.mp4"
    ffmpeg("-stream_loop", str(HOURS * 60 - 1), "-i", video, "-c", "copy", long)
    code = (
        "import sys; from pathlib import Path; from sop.params import load_params;"
        "from sop.extract.extraction import extract_video; root = Path(sys.argv[1]);"
        "params = load_params().extract;"
        "extract_video(root / 'long.mp4', root / 'long.wav', root / 'long.zip', params)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(root)])
    peak = [0, 0]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            try:
                own = psutil.Process(process.pid)
                sizes = [one.memory_info().rss for one in (own, *own.children(recursive=True))]
            except psutil.NoSuchProcess:
                continue
            peak[0] = max(peak[0], sizes[0])
            peak[1] = max(peak[1], sum(sizes))

    watcher = threading.Thread(target=watch)
    watcher.start()
    seconds, _ = timed(process.wait)
    over.set()
    watcher.join()
    assert process.returncode == 0
    print(f"\n| one video of {HOURS} h, {long.stat().st_size >> 20} MiB | MiB |")
    print("| --- | --- |")
    print(f"| peak of the Python process | {peak[0] >> 20} |")
    print(f"| peak of both, it and its ffmpeg | {peak[1] >> 20} |")
    print(f"\n{seconds:.0f} s")


def ffmpeg(*arguments: str | Path) -> None:
    """Run ffmpeg as a user would."""
    subprocess.run([binary(), "-v", "error", "-nostdin", "-y", *map(str, arguments)], check=True)


def free_box(number: int) -> bytes:
    """An MP4 box of no meaning, which makes a file another."""
    return (16).to_bytes(4, "big") + b"free" + number.to_bytes(8, "big")


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of time, and of CPU time of this process and its ended children."""
    began, busy = time.perf_counter(), cpu_seconds()
    work()
    return time.perf_counter() - began, cpu_seconds() - busy


def cpu_seconds() -> float:
    """CPU time so far."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


if __name__ == "__main__":
    main()
