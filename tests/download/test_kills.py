"""Download and extract, killed again and again at random moments."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sop.params import Params, validate
from tests.support.server import serving

ROOT = Path(__file__).parents[2]
KILLS = 200
LONGEST_SECONDS = 1.2

# Forks, so that no run needs seconds to import what it uses and kills meet the work itself.
RUNS = """
import json, os, random, signal, sys, time
from pathlib import Path

from sop.download.download import download
from sop.extract.extraction import extract
from sop.runtime.parallel import Workers
from sop.download.sources import Places
from sop.params import validate

values, root = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
kills, longest = int(sys.argv[3]), float(sys.argv[4])
videos, audio, frames = (root / name for name in ("videos", "audio", "frames"))
hashes = root / "hashes.sqlite"
rng = random.Random(0)


def run(values):
    params = validate(values, "test")
    download(params, videos, Places(root / "lists", root / "unfinished", hashes))
    extract(params.extract, videos, audio, frames, Workers(2), hashes)


def disturb(pattern):
    '''Other parameters, and one file that is missing, so that there is work in every run.'''
    other = json.loads(json.dumps(values))
    other["extract"]["frame_rate"] = rng.choice((8.0, 4.0))
    other["extract"]["sample_rate"] = rng.choice((11025, 8000))
    other["dataset"]["lists"]["max_per_category"] = rng.choice((1, None, None))
    files = [path for path in root.glob(pattern) if path.is_file()]
    if files:
        rng.choice(files).unlink()
    return other


def fetched():
    return sum(path.stat().st_size for path in (root / "unfinished").rglob("*") if path.is_file())


def wait_for_a_partial_file(child, before):
    '''However slow the machine is, some kills meet a fetch at work.'''
    until = time.monotonic() + 60
    while time.monotonic() < until and os.waitid(os.P_PID, child, ENDED) is None:
        try:
            if fetched() > before:
                break
        except FileNotFoundError:
            pass
        time.sleep(0.01)


ENDED = os.WEXITED | os.WNOHANG | os.WNOWAIT
completed = 0
for number in range(kills):
    is_fetch = number % 8 == 0
    other = disturb("videos/*/*.mp4" if is_fetch else "[!u]*/*/*")
    before = fetched()
    child = os.fork()
    if child == 0:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        run(other)
        os._exit(0)
    time.sleep(rng.uniform(0.0, longest))
    if is_fetch:
        wait_for_a_partial_file(child, before)
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        pass
    completed += os.waitpid(child, 0)[1] == 0
print("completed", completed)
run(values)
"""


def tree(root: Path) -> dict[str, bytes]:
    return {
        f"{name}/{path.relative_to(root / name)}": path.read_bytes()
        for name in ("videos", "audio", "frames", "unfinished")
        for path in (root / name).rglob("*")
        if path.is_file()
    }


@pytest.mark.slow
def test_killed_two_hundred_times_the_tree_is_that_of_an_undisturbed_run(
    tmp_path: Path, params: Params, make_video: Callable
) -> None:
    site = tmp_path / "site"
    for number in range(6):
        make_video(site / f"aaaaaaaaaa{number}.mp4", "-vf", f"hue=h={60 * number}", "-c:a", "copy")
    list_file = tmp_path / "list.csv"
    list_file.write_text(
        "category,id\n" + "".join(f"{'ab'[n % 2]},aaaaaaaaaa{n}\n" for n in range(7))
    )
    values = params.model_dump()
    values["dataset"]["source"] = "list"
    values["dataset"]["lists"]["own"] = str(list_file)
    values["dataset"]["fetch"] |= {"backoff_seconds": 0.0, "min_success_fraction": 0.0}
    with serving(site) as server:
        # So that kills find half of a file.
        server.seconds_per_block = 0.02
        values["dataset"]["fetch"]["video_url"] = f"{server.root}/{{id}}.mp4"
        place = tmp_path / "params.json"
        place.write_text(validate(values, "test").model_dump_json())

        def run(root: Path, kills: int) -> int:
            done = subprocess.run(
                [sys.executable, "-c", RUNS, place, root, str(kills), str(LONGEST_SECONDS)],
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                timeout=900,
            )
            return int(done.stdout.partition("completed ")[2].partition("\n")[0])

        completed = run(tmp_path / "killed", KILLS)
        run(tmp_path / "undisturbed", 0)
        resumed = [wanted for _, wanted in server.asked if wanted]
    assert tree(tmp_path / "killed") == tree(tmp_path / "undisturbed")
    assert len(tree(tmp_path / "undisturbed")) == 3 * 6 + 3
    assert completed < KILLS / 2, "too few kills met a run at work"
    assert resumed, "no partial file was resumed"
