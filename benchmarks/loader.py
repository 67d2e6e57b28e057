"""Training mixtures per second and process: the published loader and ours, on several layouts.

Run: python -m benchmarks.loader
"""

import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast

import librosa
import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision import transforms

from benchmarks.machine import environment
from sop.dataset.clips import FRAME_NAME
from sop.dataset.index import Video, count_frames
from sop.dataset.mixtures import Batch, Mixture, MixtureReader, TrainingMixtures, collate
from sop.extract.extraction import extract_video
from sop.media.ffmpeg import binary
from sop.params import PARAMS_PATH, Params, load_params
from sop.presets import apply_preset
from sop.runtime.device import keep_freed_memory
from sop.train.distributed import ProcessGroup
from sop.train.loader import training_batches

VIDEOS = 8
SECONDS = 90
EXTRACTED = "zips and WAVs of our extract stage"
WIDTH, HEIGHT = 640, 360
LOOSE_QUALITY = 90
RATES = (11025, 44100)
BATCH = 20
MIXTURES = 60
ROUNDS = 3
PROCESSES = 2
STEPS = 16
ONE_BATCH = {"batch_size": BATCH, "micro_batches": 1}
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    """Measure all loaders alternately on the same videos, and print speeds and ratios."""
    torch.set_num_threads(1)
    # Training does the same before it starts its workers.
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        params = published_settings(root)
        layouts = make_layouts(root, params)
        ways: dict[str, Callable[[int], object]] = {}
        for name, videos in layouts.items():
            if name != EXTRACTED:
                ways[f"published, {name}"] = PublishedMixtures(videos, params).__getitem__
            reader = MixtureReader(params.mixture, params.extract)
            mixtures = TrainingMixtures(videos, reader, 100, BATCH, params.train.seed)
            ways[f"ours, {name}"] = mixtures.__getitem__
        report(ways)
        report_processes(layouts[EXTRACTED], params)
        print(f"\n{environment()}")


def published_settings(root: Path) -> Params:
    """Return the parameters of the preset `music`."""
    path = root / "params.yaml"
    shutil.copyfile(PARAMS_PATH, path)
    apply_preset("music", path)
    return load_params(path)


def make_layouts(root: Path, params: Params) -> dict[str, list[Video]]:
    """Make the same videos as JPEGs with MP3s of both rates, and in the layout of our extract."""
    layouts: dict[str, list[Video]] = {
        f"loose {WIDTH}x{HEIGHT} JPEGs and MP3s of {rate} Hz": [] for rate in RATES
    } | {EXTRACTED: []}
    for number in range(VIDEOS):
        video = root / f"{number}.mp4"
        make_video(video, number)
        audio, frames = root / "audio" / f"a/{number}.wav", root / "frames" / f"a/{number}.zip"
        for place in (audio, frames):
            place.parent.mkdir(parents=True, exist_ok=True)
        extract_video(video, audio, frames, params.extract)
        layouts[EXTRACTED].append(Video(audio, frames, count_frames(frames)))
        loose = root / "loose" / f"{number}.mp4"
        make_loose(video, loose, params.extract.frame_rate)
        for rate, layout in zip(RATES, layouts.values(), strict=False):
            mp3 = root / f"{rate}" / f"{number}.mp3"
            mp3.parent.mkdir(exist_ok=True)
            ffmpeg("-i", video, "-ac", "1", "-ar", rate, mp3)
            layout.append(Video(mp3, loose, count_frames(loose)))
    return layouts


def make_video(path: Path, number: int, seconds: int = SECONDS) -> None:
    """Render a video of fine detail with loud noise."""
    # Deeper zooms take minutes to render.
    begin = 1 / (1 + number)
    zoom = f"start_scale={begin}:end_scale={begin / 10}:end_pts={8 * seconds}:maxiter=500"
    ffmpeg(
        *("-f", "lavfi", "-i", f"mandelbrot=s={WIDTH}x{HEIGHT}:r=8:{zoom}"),
        *("-f", "lavfi", "-i", f"anoisesrc=c=pink:a=0.3:r=44100:seed={number},tremolo=f=3"),
        *("-vf", f"noise=alls=8:allf=t:all_seed={number}", "-t", seconds, "-pix_fmt", "yuv420p"),
        *("-preset", "veryfast", "-crf", "20", "-c:a", "aac", path),
    )


def make_loose(video: Path, folder: Path, frame_rate: float) -> None:
    """Write frames in the layout of the published scripts."""
    folder.mkdir(parents=True)
    for number, pixels in enumerate(decoded(video, frame_rate), start=1):
        image = Image.fromarray(pixels)
        image.save(folder / FRAME_NAME.format(number), quality=LOOSE_QUALITY)


def decoded(video: Path, frame_rate: float) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of a video, (height, width, 3) each."""
    command = [binary(), "-v", "error", "-i", str(video), "-r", str(frame_rate)]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while frame := process.stdout.read(3 * WIDTH * HEIGHT):
            yield np.frombuffer(frame, np.uint8).reshape(HEIGHT, WIDTH, 3)


class PublishedMixtures:
    """The published dataset up to the computation of spectrograms."""

    def __init__(self, videos: Sequence[Video], params: Params) -> None:
        self.videos = videos
        self.mixture = params.mixture
        self.extract = params.extract
        size = params.mixture.image_size
        self.augment = transforms.Compose(
            [
                transforms.Resize(int(size * 1.1), transforms.InterpolationMode.BICUBIC),
                transforms.RandomCrop(size),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, DEVIATION),
            ]
        )

    def __getitem__(self, item: int) -> tuple[list[NDArray[np.float32]], list[Tensor]]:
        """Return sounds, (L,) each, and frames, (3, T, H, W) each, of the sources of a mixture."""
        del item
        margin = int(self.extract.frame_rate * self.mixture.margin_seconds)
        sounds, clips = [], []
        for video in random.sample(self.videos, self.mixture.sources):
            centre = random.randint(margin + 1, video.frame_count - margin)
            sounds.append(self.sound(video.audio, (centre - 0.5) / self.extract.frame_rate))
            span = self.mixture.frames // 2 * self.mixture.frame_stride
            numbers = range(centre - span, centre + span + 1, self.mixture.frame_stride)
            pictures = [
                self.augment(Image.open(video.frames / FRAME_NAME.format(number)).convert("RGB"))
                for number in numbers
            ]
            clips.append(torch.stack(pictures, dim=1))
        return [sound / len(sounds) for sound in sounds], clips

    def sound(self, path: Path, seconds: float) -> NDArray[np.float32]:
        """Decode and resample a whole file, and return one window of it."""
        rate, samples = self.extract.sample_rate, self.mixture.audio_samples
        whole, own_rate = soundfile.read(path, dtype="float32")
        if own_rate > rate:
            whole = librosa.resample(whole, orig_sr=own_rate, target_sr=rate)
        start = max(0, int(seconds * rate) - samples // 2)
        return np.clip(whole[start : start + samples] * (random.random() + 0.5), -1, 1)


def report(ways: dict[str, Callable[[int], object]]) -> None:
    """Measure all loaders alternately, `ROUNDS` times, and print the best of each."""
    best = dict.fromkeys(ways, 0.0)
    for round_number in range(ROUNDS):
        for name, item in ways.items():
            best[name] = max(best[name], mixtures_per_second(item, round_number * MIXTURES))
    print(f"| one process, best of {ROUNDS} | mixtures/s | ratio to published |")
    print("| --- | --- | --- |")
    first = base = next(iter(best.values()))
    for name, speed in best.items():
        if name.startswith("published"):
            base = speed
        elif EXTRACTED in name:
            base = first
        print(f"| {name} | {speed:.0f} | {speed / base:.1f} |")


def report_processes(videos: list[Video], params: Params) -> None:
    """Print the speed of batches from worker processes: PyTorch's DataLoader, and our readers.

    The two run alternately, because other work on the machine slows both.
    """
    reader = MixtureReader(params.mixture, params.extract)
    mixtures = TrainingMixtures(videos, reader, 100, BATCH, params.train.seed)
    speeds: dict[str, list[float]] = {"PyTorch's DataLoader": [], "our readers": []}
    for first in range(0, 2 * ROUNDS * STEPS, STEPS):
        steps = range(first, first + STEPS)
        loader = DataLoader(
            cast("Dataset[Mixture]", mixtures),
            batch_sampler=[range(BATCH * step, BATCH * (step + 1)) for step in steps],
            num_workers=PROCESSES,
            collate_fn=collate,
            prefetch_factor=4,
        )
        settings = {"workers": PROCESSES, "train": params.train.model_copy(update=ONE_BATCH)}
        ours = training_batches(
            mixtures,
            steps,
            params.model_copy(update=settings),
            ProcessGroup(0, 1, torch.device("cpu")),
        )
        for name, batches in zip(speeds, (loader, ours), strict=True):
            speeds[name].append(batches_per_second(batches) * BATCH)
    base, own = (np.array(found) for found in speeds.values())
    print(f"\n| {PROCESSES} processes, batches of {BATCH}, best of {2 * ROUNDS} | mixtures/s |")
    print("| --- | --- |")
    for name, found in speeds.items():
        print(f"| {name} | {max(found):.0f} |")
    print(f"\nMedian of the ratios of pairs: {np.median(own / base):.2f}.")


def batches_per_second(batches: Iterable[Batch]) -> float:
    """Return the speed of batches after the first one, which includes the start of processes."""
    arrived = [time.perf_counter() for _ in batches]
    return (len(arrived) - 1) / (arrived[-1] - arrived[0])


def mixtures_per_second(item: Callable[[int], object], first: int) -> float:
    """Return the speed of loading and batching the mixtures from number `first` on."""
    began = time.perf_counter()
    for start in range(first, first + MIXTURES, BATCH):
        batch = [item(number) for number in range(start, start + BATCH)]
        if isinstance(batch[0], Mixture):
            collate([mixture for mixture in batch if isinstance(mixture, Mixture)])
        else:
            default_collate(batch)
    return MIXTURES / (time.perf_counter() - began)


def ffmpeg(*arguments: object) -> None:
    """Run ffmpeg with the given arguments."""
    subprocess.run([binary(), "-v", "error", "-nostdin", "-y", *map(str, arguments)], check=True)


if __name__ == "__main__":
    main()
