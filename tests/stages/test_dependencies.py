"""The code dependencies in dvc.yaml, which are written from the imports."""

import shutil
import sys
from pathlib import Path

import pytest
from dvc.repo import Repo

from sop.runtime.code import code_dependencies, code_hash
from sop.runtime.errors import UserError
from stages.dependencies import code_entries, differences, main, updated
from tests.support.experiment import ROOT

FILES = {
    "stages/train.py": "from sop.train import loop\n",
    "sop/__init__.py": "",
    "sop/params.py": "from sop.dsp.mel import mel\n",
    "sop/train/__init__.py": '"""Training."""\n',
    "sop/train/loop.py": "import sop.model\nfrom sop.params import load\n",
    "sop/train/resume.py": "",
    "sop/model/__init__.py": '"""Networks."""\nfrom sop.model.unet import UNet\n',
    "sop/model/unet.py": "def build():\n    import sop.dsp.stft\n",
    "sop/dsp/__init__.py": "",
    "sop/dsp/stft.py": "",
    "sop/dsp/mel.py": "",
    "sop/page/__init__.py": "",
    "sop/page/page.py": "",
    "sop/page/templates/page.html": "<html>",
}
PIPELINE = """\
stages:
  train:
    cmd: python -m stages.train
    deps:
      - stages/train.py
      - sop/old.py
      - data/index
    outs:
      - data/model
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def add_import(root: Path, name: str, line: str) -> None:
    path = root / name
    path.write_text(f"{path.read_text()}{line}\n")


def entries(root: Path) -> list[str]:
    return code_entries(Path("stages/train.py"), root)


def test_pipeline_is_up_to_date() -> None:
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    assert updated(text, ROOT) == text, "run `make deps`"


def test_folder_where_all_of_it_is_used(root: Path) -> None:
    # Imports in functions and in parameters count; the parameters themselves do not.
    assert entries(root) == ["stages/train.py", "sop/dsp", "sop/model", "sop/train/loop.py"]


def test_changed_import_changes_the_entries(root: Path) -> None:
    add_import(root, "sop/train/loop.py", "from sop.train.resume import resume")
    assert "sop/train" in entries(root)
    (root / "sop/model/unet.py").write_text("")
    (root / "sop/params.py").write_text("")
    assert not any(entry.startswith("sop/dsp") for entry in entries(root))


def test_templates_belong_to_the_module_beside_them(root: Path) -> None:
    add_import(root, "sop/train/loop.py", "import sop.page.page")
    assert "sop/page" in entries(root)
    assert Path("sop/page/templates/page.html") in code_dependencies(Path("stages/train.py"), root)


def test_update_keeps_data(root: Path) -> None:
    text = updated(PIPELINE, root)
    assert text == PIPELINE.replace(
        "      - sop/old.py\n", "      - sop/dsp\n      - sop/model\n      - sop/train/loop.py\n"
    )
    assert updated(text, root) == text


def test_stage_without_dependencies_gets_none(root: Path) -> None:
    text = "stages:\n  check:\n    cmd: check\n    outs: [x]\n" + PIPELINE.partition("\n")[2]
    assert updated(text, root) == text.replace(PIPELINE[8:], updated(PIPELINE, root)[8:])


def test_differences_are_named(root: Path) -> None:
    assert differences(PIPELINE, updated(PIPELINE, root)) == (
        "train: add sop/dsp, add sop/model, add sop/train/loop.py, remove sop/old.py"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stages: [", "dvc.yaml, line 1: not valid YAML"),
        ("stages: 3\n", "dvc.yaml: contains no stages"),
        ("", "dvc.yaml: contains no stages"),
        ("stages:\n  train: {deps: [a]}\n", "dvc.yaml: the entries of stage train"),
        (PIPELINE.replace("train:", "walk:"), "stages/walk.py: not found"),
    ],
)
def test_pipeline_that_cannot_be_updated(root: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        updated(text, root)
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


def test_file_that_is_not_python(root: Path) -> None:
    add_import(root, "sop/model/unet.py", "def (:")
    with pytest.raises(UserError, match=r"^sop/model/unet.py, line 3: not valid Python"):
        updated(PIPELINE, root)


def test_outside_of_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dependencies"])
    with pytest.raises(UserError, match=r"^dvc.yaml: not found; run from the root"):
        main()


def test_hash_follows_names_and_content(root: Path) -> None:
    hashes = [code_hash(Path("stages/train.py"), root)]
    for name in ("sop/dsp/mel.py", "sop/model/__init__.py"):
        add_import(root, name, "x = 1")
        hashes.append(code_hash(Path("stages/train.py"), root))
    assert len(set(hashes)) == 3
    for name in ("sop/params.py", "sop/train/resume.py", "sop/page/page.py"):
        add_import(root, name, "x = 1")
    assert code_hash(Path("stages/train.py"), root) == hashes[-1]


def test_files_of_file_managers_make_no_stage_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / ".dvcignore", tmp_path)
    folders = [tmp_path / "data" / name for name in ("videos", "videos/flute", "model")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    (folders[1] / "a.mp4").write_bytes(b"video")
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  train:\n    cmd: cp data/videos/flute/a.mp4 data/model/last.pt\n"
        "    deps: [data/videos]\n    outs: [data/model: {persist: true}]\n"
    )
    with Repo.init(str(tmp_path), no_scm=True) as repo:
        repo.reproduce()
        for folder in folders:
            for name in (".DS_Store", "._a.mp4", "Thumbs.db", "desktop.ini", "a.mp4~", ".a.swp"):
                (folder / name).write_bytes(b"\0")
    with Repo(str(tmp_path)) as repo:
        assert repo.status() == {}
        (folders[1] / "b.mp4").write_bytes(b"another")
        assert list(repo.status()) == ["train"]


def test_files_of_file_managers_are_no_code(root: Path) -> None:
    add_import(root, "sop/train/loop.py", "import sop.page.page")
    before = entries(root), code_hash(Path("stages/train.py"), root)
    assert "sop/page" in before[0]
    for folder in (root / "sop").rglob("*"):
        if folder.is_dir():
            (folder / ".DS_Store").write_bytes(b"\0")
            (folder / "Thumbs.db").write_bytes(b"\0")
    assert (entries(root), code_hash(Path("stages/train.py"), root)) == before
