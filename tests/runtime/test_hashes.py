import hashlib
import os
import random
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sop.runtime.hashes import CLOCK_SECONDS, FileStamp, HashCache, file_stamp, sha256

# Long enough ago that no write since could have the same time.
LONG_AGO = 1_600_000_000


def old_file(path: Path, content: bytes = b"sound", at: float = LONG_AGO) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (at, at))
    return path


def remembered(place: Path, *files: Path) -> None:
    with HashCache(place) as hashes:
        for file in files:
            hashes.remember(file, file_stamp(file), sha256(file))


def known(place: Path, *files: Path) -> dict[Path, str]:
    with HashCache(place) as hashes:
        return hashes.known(files)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "data" / "hashes.sqlite"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return old_file(tmp_path / "videos" / "flute" / "a.mp4")


@pytest.mark.parametrize("length", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_500_000])
def test_hash_of_a_file(tmp_path: Path, length: int) -> None:
    content = bytes(range(251)) * (length // 251 + 1)
    file = old_file(tmp_path / "a.mp4", content[:length])
    assert sha256(file) == hashlib.sha256(content[:length]).hexdigest()


def test_unreadable_file(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(OSError):
            sha256(path)
    with pytest.raises(FileNotFoundError):
        file_stamp(tmp_path / "missing")


def test_hashes_are_stored(place: Path, file: Path) -> None:
    other = old_file(file.with_name("b.mp4"), b"other")
    assert known(place, file, other) == {}
    remembered(place, file)
    assert known(place, file, other) == {file: hashlib.sha256(b"sound").hexdigest()}
    remembered(place, other)
    assert known(place, other, file) == {file: sha256(file), other: sha256(other)}
    assert [path.name for path in place.parent.iterdir()] == [place.name]


def test_hashes_of_relative_paths(place: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    remembered(place, Path(file.name))
    monkeypatch.chdir(file.parents[1])
    same = Path("flute", file.name)
    assert set(known(place, file, same)) == {file, same}
    old_file(file.parents[1] / file.name)
    assert known(place, Path(file.name)) == {}


@pytest.mark.parametrize("name", ["a'b;--.mp4", "二胡.mp4", "line\nbreak.mp4", "-rf", "100%.mp4"])
def test_odd_file_names(place: Path, tmp_path: Path, name: str) -> None:
    file = old_file(tmp_path / name)
    remembered(place, file)
    assert known(place, file) == {file: sha256(file)}


def longer(file: Path) -> None:
    old_file(file, b"sound and more")


def later(file: Path) -> None:
    old_file(file, b"SOUND", LONG_AGO + 1)


def earlier(file: Path) -> None:
    old_file(file, b"SOUND", LONG_AGO - 1)


def in_place_of_it(file: Path) -> None:
    old_file(file.with_name("new"), b"SOUND").replace(file)


def by_a_nanosecond(file: Path) -> None:
    file.write_bytes(b"SOUND")
    os.utime(file, ns=(0, LONG_AGO * 10**9 + 1))


@pytest.mark.parametrize("change", [longer, later, earlier, in_place_of_it, by_a_nanosecond])
def test_changed_file(place: Path, file: Path, change: Callable[[Path], None]) -> None:
    remembered(place, file)
    change(file)
    assert known(place, file) == {}
    remembered(place, file)
    assert known(place, file) == {file: sha256(file)}


def test_removed_file(place: Path, file: Path) -> None:
    other = old_file(file.with_name("b.mp4"))
    remembered(place, file, other)
    file.unlink()
    assert known(place, file, other) == {other: sha256(other)}


def test_change_during_hashing(place: Path, file: Path) -> None:
    stamp, digest = file_stamp(file), sha256(file)
    later(file)
    with HashCache(place) as hashes:
        hashes.remember(file, stamp, digest)
        assert hashes.known([file]) == {}


def test_recent_change_is_not_stored(place: Path, file: Path) -> None:
    for age, is_remembered in ((CLOCK_SECONDS - 1, False), (CLOCK_SECONDS + 1, True)):
        now = time.time()
        os.utime(file, (now, now - age))
        remembered(place, file)
        assert bool(known(place, file)) == is_remembered
    # A clock that was wrong says nothing about the order of writes.
    os.utime(file, (now, now + 3600))
    remembered(place, file)
    assert known(place, file) == {}


@pytest.mark.parametrize("at", [0, -LONG_AGO, 2**33])
def test_any_modification_time(place: Path, file: Path, at: int) -> None:
    os.utime(file, (at, at))
    remembered(place, file)
    assert known(place, file) == ({} if at > time.time() else {file: sha256(file)})


@pytest.mark.parametrize("stamp", [FileStamp(5, 10**18, 2**64 - 1), FileStamp(5, -(2**70), 1)])
def test_integers_too_large_for_the_database(place: Path, file: Path, stamp: FileStamp) -> None:
    # Some network file systems number their files with all of 64 bits.
    with HashCache(place) as hashes:
        hashes.remember(file, stamp, sha256(file))
        assert hashes.known([file]) == {}


def test_file_name_that_is_not_unicode(place: Path, tmp_path: Path) -> None:
    try:
        file = old_file(tmp_path / os.fsdecode(b"fl\xfbte.mp4"))
    except OSError as error:
        pytest.skip(f"this file system refuses such names ({error.strerror})")
    remembered(place, file)
    assert known(place, file) == {}


GARBAGE = {
    "nothing": b"",
    "text": b"not a database\n" * 100,
    "half a header": b"SQLite format 3\0",
    "zeros": bytes(8192),
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_garbage_instead_of_a_database(place: Path, file: Path, content: bytes) -> None:
    old_file(place, content)
    assert known(place, file) == {}
    remembered(place, file)
    assert known(place, file) == {file: sha256(file)}


@pytest.mark.parametrize("seed", range(8))
def test_damaged_database(place: Path, tmp_path: Path, seed: int) -> None:
    files = [old_file(tmp_path / "videos" / f"{n}.mp4", b"%d" % n) for n in range(200)]
    remembered(place, *files)
    content = bytearray(place.read_bytes())
    pages = len(content) // 4096
    assert pages > 8
    start = seed * pages // 8 * 4096
    content[start : start + 6000] = random.Random(seed).randbytes(6000)
    place.write_bytes(content[: len(content) // 2 if seed % 2 else None])
    for _ in range(2):
        found = known(place, *files)
        assert all(digest == sha256(file) for file, digest in found.items())
        remembered(place, *files)


def test_table_with_other_columns(place: Path, file: Path) -> None:
    place.parent.mkdir()
    with sqlite3.connect(place) as table:
        table.execute("CREATE TABLE hash (name TEXT)")
    table.close()
    remembered(place, file)
    assert known(place, file) == {}


def test_rows_of_wrong_types(place: Path, file: Path) -> None:
    remembered(place, file)
    for row in (None, "x", 1.5, b"\xff"):
        with sqlite3.connect(place) as table:
            table.execute("UPDATE hash SET inode = ?", (row,))
        table.close()
        assert known(place, file) == {}


def test_folder_instead_of_a_database(place: Path, file: Path) -> None:
    (place / "inner").mkdir(parents=True)
    remembered(place, file)
    assert known(place, file) == {}
    assert [path.name for path in place.iterdir()] == ["inner"]


def test_database_that_cannot_be_created(tmp_path: Path, file: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "hashes.sqlite", Path("/dev/null/hashes"), Path("/proc/x/y")):
        remembered(place, file)
        assert known(place, file) == {}


@pytest.fixture
def not_root() -> Iterator[Path]:
    """A folder of an ordinary user, who then is this process: root may write to anything."""
    user = os.geteuid() or 65534
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, user, -1)
        if os.geteuid() == 0:
            os.seteuid(user)
        try:
            yield Path(folder)
        finally:
            os.seteuid(os.getuid())
            Path(folder).chmod(0o700)


@pytest.mark.skipif(os.name != "posix", reason="needs users and their rights")
def test_read_only_database(not_root: Path) -> None:
    place = not_root / "hashes.sqlite"
    files = [old_file(not_root / name) for name in ("a.mp4", "b.mp4")]
    remembered(place, files[0])
    place.chmod(0o400)
    not_root.chmod(0o500)
    remembered(place, files[1])
    assert known(place, *files) == {files[0]: sha256(files[0])}
    place.chmod(0o000)
    remembered(place, files[1])
    assert known(place, *files) == {}


@pytest.mark.skipif(os.name != "posix", reason="needs users and their rights")
@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_that_is_read_only_costs_only_time(not_root: Path, exists: bool) -> None:
    place = not_root / "inner" / "hashes.sqlite"
    file = old_file(not_root / "a.mp4")
    if exists:
        place.parent.mkdir()
        place.touch(0o400)
        place.parent.chmod(0o500)
    not_root.chmod(0o500)
    remembered(place, file)
    assert known(place, file) == {}
    not_root.chmod(0o700)
    if exists:
        place.parent.chmod(0o700)


def test_a_database_that_is_deleted_meanwhile_costs_only_time(place: Path, file: Path) -> None:
    other = old_file(file.with_name("b.mp4"))
    with HashCache(place) as hashes:
        hashes.remember(file, file_stamp(file), sha256(file))
        place.unlink()
        place.parent.rmdir()
        hashes.remember(other, file_stamp(other), sha256(other))
        assert set(hashes.known([file, other])) <= {file, other}
    assert known(place, file, other) == {}
    remembered(place, file)
    assert known(place, file) == {file: sha256(file)}


def test_two_openings_at_once(place: Path, tmp_path: Path) -> None:
    files = [old_file(tmp_path / "videos" / f"{n}.mp4", b"%d" % n) for n in range(100)]
    with HashCache(place) as one, HashCache(place) as two:
        for number, file in enumerate(files):
            (one, two)[number % 2].remember(file, file_stamp(file), sha256(file))
        assert one.known(files) == two.known(files) == {file: sha256(file) for file in files}


def test_many_openings_at_once(place: Path, tmp_path: Path) -> None:
    files = [old_file(tmp_path / "videos" / f"{n}.mp4", b"%d" % n) for n in range(20)]
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(5):
                remembered(place, *files)
                found = known(place, *files)
                assert all(digest == sha256(file) for file, digest in found.items())
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    # What one could not write while another did, it would the next time.
    remembered(place, *files)
    assert known(place, *files) == {file: sha256(file) for file in files}


@pytest.fixture
def locked(place: Path, file: Path) -> Iterator[sqlite3.Connection]:
    """The database of one file, which another process keeps to itself."""
    remembered(place, file)
    other = sqlite3.connect(place, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    yield other
    other.close()


@pytest.mark.slow
def test_locked_database(place: Path, file: Path, locked: sqlite3.Connection) -> None:
    remembered(place, file)
    assert known(place, file) in ({}, {file: sha256(file)})


def test_a_database_that_is_locked_is_not_removed(
    place: Path, file: Path, locked: sqlite3.Connection
) -> None:
    assert known(place, file) == {}
    locked.execute("COMMIT")
    assert known(place, file) == {file: sha256(file)}


def test_nothing_is_known_outside_of_the_block(place: Path, file: Path) -> None:
    hashes = HashCache(place)
    hashes.remember(file, file_stamp(file), sha256(file))
    assert hashes.known([file]) == {}
    with hashes:
        hashes.remember(file, file_stamp(file), sha256(file))
        assert file in hashes.known([file])
    assert hashes.known([file]) == {}
    with pytest.raises(KeyError), hashes:
        raise KeyError
    assert hashes.known([file]) == {}


def test_file_stamps(file: Path) -> None:
    stamp = file_stamp(file)
    assert stamp == file_stamp(file) == FileStamp(5, LONG_AGO * 10**9, file.stat().st_ino)
    for change in ({"bytes": 6}, {"changed_ns": 0}, {"inode": 0}):
        assert replace(stamp, **change) != stamp
