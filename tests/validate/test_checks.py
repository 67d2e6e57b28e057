"""What the stage `validate` finds before any stage runs."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from sop.model.checkpoint import save_player
from sop.model.pixelplayer import build
from sop.params import Params
from sop.runtime.errors import UserError
from sop.validate.checks import check
from tests.support.experiment import with_values
from tests.support.repository import Repository


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "protocols").mkdir()
    return tmp_path


def error_of(params: Params, values: dict[str, Any]) -> str:
    try:
        check(with_values(params, values))
    except UserError as error:
        assert "\n" not in str(error)
        return str(error)
    return ""


def test_default_is_valid(tiny_params: Params, root: Path) -> None:
    assert error_of(tiny_params, {}) == ""
    assert list(root.rglob("*")) == [root / "protocols"]


def test_all_mistakes_are_named(tiny_params: Params) -> None:
    values = {"dataset.source": "local", "model.weights.sound": "none.pt"}
    message = error_of(tiny_params, values)
    assert "dataset.local.folder: videos is not a folder" in message
    assert "none.pt: no such checkpoint" in message


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"dataset.source": "list"}, "videos/list.csv"),
        (
            {"dataset.source": "local", "dataset.local.folder": "data/videos/mine"},
            "dataset.local.folder: data/videos/mine is where this stage writes",
        ),
        (
            {"dataset.source": "music", "dataset.fetch.cookies": "cookies.json"},
            "dataset.fetch.cookies: cookies.json",
        ),
        ({"dataset.source": "music", "dataset.fetch.proxy": "host:80"}, "dataset.fetch.proxy"),
        ({"dataset.source": "music", "dataset.fetch.format": "b[["}, "dataset.fetch.format"),
        ({"train.devices": 3}, "train.batch_size 4 .* cannot be shared by 3 devices"),
        ({"device": "cuda:99"}, "device: 'cuda:99' does not exist on this machine"),
        ({"train.sync_batch_norm": True}, "train.sync_batch_norm: .* on GPUs only"),
        ({"model.weights.vision": "data/model/last.pt"}, "model.weights.vision: .* copy it"),
    ],
)
def test_mistake(tiny_params: Params, values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check(with_values(tiny_params, values))


def test_initial_weights_must_fit(tiny_params: Params) -> None:
    player = build(tiny_params.model, tiny_params.spectrogram, seed=1)
    save_player(Path("start.pt"), player, tiny_params, 1)
    values = {"model.weights.sound": "start.pt"}
    assert error_of(tiny_params, values) == ""
    assert "start.pt: not a checkpoint of this SoundNet" in error_of(
        tiny_params, values | {"model.sound_width": 8}
    )
    torch.save([1], "other.pt")
    assert "other.pt: not a checkpoint" in error_of(
        tiny_params, {"model.weights.vision": "other.pt"}
    )


def test_list_of_files_has_the_categories(tiny_params: Params, root: Path) -> None:
    (root / "videos").mkdir()
    (root / "videos" / "a.mp4").touch()
    (root / "videos" / "list.csv").write_text("category,id\nflute,a\n")
    values = {"dataset.source": "local", "dataset.local.by_list": True}
    assert error_of(tiny_params, values) == ""
    assert error_of(tiny_params, values | {"dataset.local.category": "talker"}) == (
        "params.yaml: dataset.local.category 'talker' does not fit dataset.local.by_list: the list "
        "says the category of each file; set it to null"
    )


@pytest.mark.parametrize("piece", [None, "01_Jupiter_vn_vc"])
def test_folder_of_pieces_without_files(tiny_params: Params, root: Path, piece: str | None) -> None:
    values = {"dataset.source": "urmp", "dataset.local.folder": "pieces"}
    assert error_of(tiny_params, values) == (
        "dataset.local.folder: pieces is not a folder; name that of the pieces"
    )
    (root / "pieces" / (piece or "")).mkdir(parents=True)
    said = error_of(tiny_params, values)
    if piece is None:
        assert said.startswith(
            "dataset.local.folder: pieces contains no piece in the layout of URMP, such as "
            "01_Jupiter_vn_vc/Vid_01_Jupiter.mp4"
        )
    else:
        assert said == "", "the stage says what is missing in it"


def test_lists_of_a_protocol(tiny_params: Params, root: Path) -> None:
    values = {"index.split.test": "test.csv", "evaluate.pairs": "pairs.csv"}
    folder = root / "protocols"
    folder.rmdir()
    for wrong in ({}, values):
        assert error_of(tiny_params, wrong) == (
            "index.split.folder: protocols is not a folder; create it"
        )
    folder.mkdir()
    assert error_of(tiny_params, values).startswith(
        "index.split.test: protocols/test.csv not found; copy the list there"
    )
    (folder / "test.csv").write_text("a\nb\n")
    assert error_of(tiny_params, values).startswith("evaluate.pairs: protocols/pairs.csv not found")
    (folder / "pairs.csv").write_text("0,7\n")
    assert "index 7 exceeds the list of 2 videos" in error_of(tiny_params, values)
    # Without a list of videos, indices are of the drawn one.
    assert error_of(tiny_params, {"evaluate.pairs": "pairs.csv"}) == ""
    (folder / "pairs.csv").write_text("0,1\n")
    assert error_of(tiny_params, values) == ""
    (root / "elsewhere.csv").write_text("a\n")
    (folder / "test.csv").unlink()
    (folder / "test.csv").symlink_to(root / "elsewhere.csv")
    assert "index.split.test: test.csv leads out of protocols" in error_of(tiny_params, values)


@pytest.mark.parametrize("name", ["data", "metrics"])
def test_folder_on_another_disk(tiny_params: Params, root: Path, name: str) -> None:
    disk = root / "disk"
    disk.mkdir()
    (root / name).symlink_to(disk)
    assert error_of(tiny_params, {}).startswith(f"{name}: it is a symbolic link")
    (root / name).unlink()
    (root / name).mkdir()
    (root / name / "videos").symlink_to(disk)
    assert error_of(tiny_params, {}) == ""


def test_folder_of_an_experiment(
    tiny_params: Params, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = root / ".dvc/tmp/exps/standalone/x"
    (folder / "protocols").mkdir(parents=True)
    monkeypatch.chdir(folder)
    values = {"dataset.source": "local"}
    assert "a copy of what Git and DVC track: use absolute paths" in error_of(tiny_params, values)
    (root / "videos").mkdir()
    (root / "videos" / "a.mp4").write_bytes(b"x")
    assert error_of(tiny_params, values | {"dataset.local.folder": str(root / "videos")}) == ""


def test_repository_without_a_commit(tiny_params: Params, root: Path) -> None:
    repository = Repository(root)
    assert error_of(tiny_params, {}).startswith("git: the repository has no commit")
    repository.write({"params.yaml": "x: 1\n"})
    repository.commit()
    assert error_of(tiny_params, {}) == ""


def test_name_that_dvc_cannot_write_is_named(tiny_params: Params, root: Path) -> None:
    folder = root / "own" / "violin"
    folder.mkdir(parents=True)
    (folder / "a.mp4").write_bytes(b"x")
    values = {"dataset.source": "local", "dataset.local.folder": "own"}
    assert error_of(tiny_params, values) == ""
    try:
        (folder / os.fsdecode(b"b\xff.mp4")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system has no such names")
    said = r"dataset.local.folder: own/violin/b\xff.mp4: the name is not UTF-8; rename it"
    assert error_of(tiny_params, values) == said
