"""Full and read-only disks: every stage and command ends in one line, and the next run goes on."""

import json

import pytest

from tests.support.disks import run_with_disks
from tests.support.project import Project

pytestmark = pytest.mark.slow

# Each stage with the folders that it writes; `data/training` is not needed for the result.
WRITTEN = {
    "download": ["data/videos", "metrics"],
    "extract": ["data/audio", "data/frames", "data/motion", "metrics"],
    "index": ["data/index"],
    "train": ["data/model", "metrics/train"],
    "evaluate": ["data/evaluate", "metrics/evaluate", "metrics"],
    "localize": ["metrics"],
    "denoise": ["data/denoise", "metrics/denoise", "metrics"],
    "report": ["data/report", "metrics/report"],
}

PROGRAM = """
import contextlib, importlib, io, os, shutil, traceback
from sop.cli.main import main as command
from sop.runtime.errors import UserError

results = []


def attempt(what, kind, place, run):
    with kind(place):
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                run()
            message = 'no error'
        except UserError as error:
            message = str(error)
        except BaseException as error:
            message = 'TRACEBACK ' + ''.join(traceback.format_exception(error))
        results.append([what, kind.__name__, place, message, names(place)])


for stage, folders in json.loads(sys.argv[1]).items():
    main = importlib.import_module(f'stages.{stage}').main
    for folder in folders:
        for kind in (full, read_only):
            attempt(stage, kind, folder, main)
    if stage in ('download', 'train', 'evaluate', 'report'):
        attempt(stage, nearly_full, folders[0], main)
    # The next run goes on.
    with contextlib.redirect_stdout(io.StringIO()):
        main()

videos = sorted(Path('data/videos').glob('*/*.mp4'))
separate = ['separate', str(videos[0]), '--page', '--gain', '1=0.5', '--regions', 'auto']
sounds = [str(path) for path in sorted(Path('data/audio').glob('*/*.wav'))[:2]]
denoise = ['denoise', *sounds, '--filter', 'nlms', '--taps', '4']
os.environ['TMPDIR'] = 'temporary'
os.mkdir('temporary')
for kind in (full, read_only):
    attempt('separate', kind, 'out', lambda: command([*separate, '--out', 'out']))
    attempt('denoise command', kind, 'out', lambda: command([*denoise, '--out', 'out/a.wav']))
# What only saves time is done without: compiled code, and the text of locks.
with full('compiled'):
    fresh = os.environ | {'NUMBA_CACHE_DIR': os.path.abspath('compiled')}
    run = [sys.executable, '-m', 'sop', *denoise, '--out', 'a.wav']
    done = subprocess.run(run, capture_output=True, text=True, env=fresh)
    assert done.returncode == 0, done.stderr
with full('data/locks'):
    run = [sys.executable, '-m', 'stages.index']
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
import tempfile
tempfile.tempdir = 'temporary'
attempt('TMPDIR', full, 'temporary', lambda: command([*separate, '--out', 'out']))
assert not Path('out').is_dir() or names('out') == []
shutil.copytree('presets', 'place/presets')
shutil.copy('params.yaml', 'place/params.yaml')
subprocess.run(['mount', '--bind', 'place', 'place'], check=True)
subprocess.run(['mount', '-o', 'remount,ro,bind', 'place'], check=True)
os.chdir('place')
try:
    command(['preset', 'music'])
except UserError as error:
    results.append(['preset', 'read_only', 'params.yaml', str(error), names('.')])
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str, str, str, list[str]]]:
    project = Project(tmp_path_factory.mktemp("disks"))
    project.set({"workers": 1, "device": "cpu", "dataset.synthetic.duets": 0})
    done = run_with_disks(PROGRAM, json.dumps(WRITTEN), cwd=project.folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Exception ignored" not in done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_stage_and_command_ends_in_one_line(
    results: list[tuple[str, str, str, str, list[str]]],
) -> None:
    assert {what for what, *_ in results} >= {*WRITTEN, "separate", "denoise command", "preset"}
    for what, kind, place, message, left in results:
        case = f"{what}, {kind} {place}: {message}"
        assert message.startswith(place), case
        assert "\n" not in message, case
        reason = "Read-only file system" if kind == "read_only" else "No space left on device"
        assert f" cannot be written ({reason}); " in message, case
        assert not [name for name in left if ".part-" in name or "sop-" in name], case


def test_full_folder_of_temporary_files_is_named(
    results: list[tuple[str, str, str, str, list[str]]],
) -> None:
    (message,) = (message for what, _, _, message, _ in results if what == "TMPDIR")
    assert message == (
        "temporary: cannot be written (No space left on device); free some space there, or set "
        "TMPDIR to a folder on another disk"
    )
