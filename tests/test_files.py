import json
from pathlib import Path

import pytest

from sop.files import (
    remove_empty_folders,
    remove_partials,
    replacing,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "inner" / "sound.wav"
    with replacing(path) as partial:
        partial.write_bytes(b"half")
        assert partial.parent == path.parent
        assert partial.suffix == ".wav"
        assert not path.exists()
        partial.write_bytes(b"whole")
    assert path.read_bytes() == b"whole"
    assert names(tmp_path) == ["inner", "inner/sound.wav"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_failed_write_leaves_the_previous_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "sound.wav"
    path.write_bytes(b"previous")
    with pytest.raises(error), replacing(path) as partial:
        partial.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"previous"
    assert names(tmp_path) == ["sound.wav"]


def test_block_that_writes_nothing_is_an_error_and_keeps_the_file(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    path.write_bytes(b"previous")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert path.read_bytes() == b"previous"


def test_text_is_the_same_bytes_everywhere(tmp_path: Path) -> None:
    write_text(tmp_path / "list.csv", "二胡\nflûte\n")
    assert (tmp_path / "list.csv").read_bytes() == "二胡\nflûte\n".encode()


def test_json_is_readable_and_ends_in_a_newline(tmp_path: Path) -> None:
    values = {"sdr": {"mean": 1.25}, "reasons": {"erhu/二胡": "silent"}, "none": None}
    write_json(tmp_path / "metrics.json", values)
    text = (tmp_path / "metrics.json").read_text("utf-8")
    assert json.loads(text) == values
    assert text.endswith("}\n")
    assert "二胡" in text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_json_refuses_numbers_that_are_not_finite(tmp_path: Path, value: float) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"sdr": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"sdr": {"mean": [value]}})
    assert json.loads(path.read_text()) == {"sdr": 1.0}
    assert names(tmp_path) == ["metrics.json"]


def test_what_a_kill_left_is_found_and_removed(tmp_path: Path) -> None:
    kept = tmp_path / "flute" / "a.wav"
    write_text(kept, "whole")
    writer = replacing(tmp_path / "flute" / "b.wav")
    writer.__enter__().write_text("half")
    assert len(names(tmp_path)) == 3
    remove_partials(tmp_path)
    assert names(tmp_path) == ["flute", "flute/a.wav"]
    remove_partials(tmp_path / "not there")


def test_folders_are_removed_when_nothing_is_left_in_them(tmp_path: Path) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "d" / "e").mkdir(parents=True)
    write_text(tmp_path / "d" / "file", "")
    remove_empty_folders(tmp_path)
    assert names(tmp_path) == ["d", "d/file"]
    remove_empty_folders(tmp_path / "d" / "file")
