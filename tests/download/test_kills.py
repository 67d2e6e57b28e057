"""Download and extract, killed again and again at random moments."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sop.extract.extraction import extract
from sop.params import Params, validate
from sop.runtime.parallel import Workers
from tests.support.downloads import changed, download, tree
from tests.support.kills import run_killed
from tests.support.server import serving
from tests.support.stress import repeats

pytestmark = pytest.mark.slow

KILLS = repeats(16, 200)
RENDER_KILLS = repeats(2, 20)
MAX_SECONDS = 1.2

RUNS = """
import json
from pathlib import Path

from sop.download.download import download
from sop.extract.extraction import extract
from sop.runtime.parallel import Workers
from sop.download.sources import CachePaths
from sop.params import Params, validate

values, root = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
kills, longest = int(sys.argv[3]), float(sys.argv[4])
videos, audio, frames = (root / name for name in ("videos", "audio", "frames"))
hashes = root / "hashes.sqlite"


def run(values):
    params = validate(Params, values, "test")
    download(params, videos, CachePaths(root / "lists", root / "partial", hashes))
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
    try:
        return sum(p.stat().st_size for p in (root / "partial").rglob("*") if p.is_file())
    except FileNotFoundError:
        return 0


completed = 0
for number in range(kills):
    is_fetch = number % 8 == 0
    other = disturb("videos/*/*.mp4" if is_fetch else "[!p]*/*/*")
    before = fetched()
    wait = (lambda: fetched() > before) if is_fetch else None
    completed += kill_after(lambda: run(other), longest, wait)
print(completed)
run(values)
"""

RENDER_RUNS = """
from pathlib import Path

from sop.download.download import download
from sop.download.sources import CachePaths
from sop.params import load_params

if __name__ == "__main__":
    params, root = load_params(Path(sys.argv[1])), Path(sys.argv[2])
    caches = CachePaths(root / "lists", root / "partial", root / "hashes.sqlite")
    partials = lambda: list((root / "videos").glob("*/.part-*"))
    for _ in range(int(sys.argv[3])):
        kill_after(lambda: download(params, root / "videos", caches), 0.3, partials)
"""


def test_killed_runs_end_with_the_same_files(
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
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    with serving(site) as server:
        # So that kills meet partial downloads.
        server.seconds_per_block = 0.02
        values["dataset"]["fetch"]["video_url"] = f"{server.root}/{{id}}.mp4"
        listed = validate(Params, values, "test")
        file = tmp_path / "params.json"
        file.write_text(listed.model_dump_json())
        completed = int(run_killed(RUNS, file, killed, KILLS, MAX_SECONDS).splitlines()[0])
        server.seconds_per_block = 0.0
        download(listed, undisturbed / "videos")
        folders = [undisturbed / name for name in ("videos", "audio", "frames")]
        extract(listed.extract, *folders, Workers(2), undisturbed / "hashes.sqlite")
        resumed = [wanted for _, wanted in server.asked if wanted]
    for root in (killed, undisturbed):
        (root / "hashes.sqlite").unlink()
    assert tree(killed) == tree(undisturbed)
    assert len(tree(undisturbed)) == 3 * 6 + 3
    assert completed < KILLS / 2, "too few kills met a run at work"
    assert resumed, "no partial file was resumed"


def test_killed_rendering_ends_with_the_same_files(params: Params, tmp_path: Path) -> None:
    tiny = {"solos": 1, "duets": 0, "seconds": 2.0, "width": 64, "height": 48, "frame_rate": 12}
    params = changed(params, synthetic=tiny)
    file, killed, undisturbed = (tmp_path / name for name in ("params.yaml", "killed", "again"))
    file.write_text(params.model_dump_json())
    run_killed(RENDER_RUNS, file, killed, RENDER_KILLS)
    assert list((killed / "videos").glob("*/.part-*")), "no kill met a file half-written"
    download(params, killed / "videos")
    download(params, undisturbed / "videos")
    assert tree(killed / "videos") == tree(undisturbed / "videos")
