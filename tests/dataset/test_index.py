import json
from pathlib import Path

import pytest

from sop.dataset.index import (
    DUETS,
    INSTRUMENTS,
    TRAIN,
    VALIDATION,
    Index,
    Video,
    build_index,
    count_frames,
    read_duets,
    read_index,
    write_index,
)
from sop.dataset.seeding import generator
from sop.runtime.errors import LeftOut, UserError
from tests.support.index import FRAME_RATE, JPEG, OF_SOURCE, PARAMS, Extracted

ODD_NAMES = ("two words", 'quote\'s "both"', "-dash", "comma,comma", "naïve 二胡 ё", "[x]*?")


def sides(index: Index) -> dict[str, str]:
    return {
        video.name: side for side in ("train", "validation", "duets") for video in vars(index)[side]
    }


@pytest.fixture
def extracted(tmp_path: Path) -> Extracted:
    """Twelve videos of three instruments, and two duets."""
    extracted = Extracted(tmp_path / "data")
    for instrument in ("acoustic_guitar", "flute", "violin"):
        for number in range(4):
            extracted.add(f"{instrument}/{number}")
    extracted.add("acoustic_guitar_violin/0")
    extracted.add("flute_violin/0")
    return extracted


def test_two_runs_give_the_same_bytes(extracted: Extracted, tmp_path: Path) -> None:
    written = []
    for run in ("first", "second"):
        index = extracted.index()
        write_index(index, tmp_path / run)
        files = {path.name: path.read_bytes() for path in (tmp_path / run).iterdir()}
        written.append((files, json.dumps(index.summary())))
    assert written[0] == written[1]
    assert sorted(written[0][0]) == sorted([TRAIN, VALIDATION, DUETS, INSTRUMENTS])


def test_index_does_not_depend_on_the_order_of_the_folder(
    extracted: Extracted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = extracted.index()
    glob = Path.glob
    monkeypatch.setattr(Path, "glob", lambda *arguments: reversed(list(glob(*arguments))))
    assert extracted.index() == expected


def test_every_video_is_on_one_side(extracted: Extracted) -> None:
    index = extracted.index()
    names = [video.name for video in (*index.train, *index.validation, *index.duets)]
    assert len(names) == len(set(names)) == 14
    assert len(index.train) > 0
    assert len(index.validation) > 0


def test_adding_a_video_moves_no_other(extracted: Extracted) -> None:
    before = sides(extracted.index())
    for number in range(4, 20):
        extracted.add(f"flute/{number}")
        extracted.add(f"cello/{number}")
    after = sides(extracted.index())
    assert len(after) == len(before) + 32
    assert before.items() <= after.items()


def test_both_sides_have_every_category_of_two_or_more_videos(extracted: Extracted) -> None:
    for number in range(2):
        extracted.add(f"cello/{number}")
    extracted.add("tuba/0")
    categories = {"acoustic_guitar", "cello", "flute", "violin"}
    for seed in range(60):
        index = extracted.index(seed, train_fraction=0.8)
        for side in (index.train, index.validation):
            assert {video.category for video in side} | {"tuba"} == categories | {"tuba"}


def test_only_the_nearest_video_moves_to_a_side_without_any(tmp_path: Path) -> None:
    extracted, moved = Extracted(tmp_path / "data"), 0
    for number in range(4):
        extracted.add(f"flute/{number}")
    extracted.add("tuba/0")
    extracted.add("tuba/1")
    names = [f"flute/{number}" for number in range(4)]
    for seed in range(40):
        found = sides(extracted.index(seed, train_fraction=0.8))
        drawn = {name: float(generator(seed, "split", name).random()) for name in names}
        expected = {name: "train" if drawn[name] < 0.8 else "validation" for name in names}
        if set(expected.values()) == {"train"}:
            expected[max(names, key=drawn.__getitem__)] = "validation"
            moved += 1
        assert {name: found[name] for name in names} == expected
    assert 5 <= moved <= 35


def test_a_new_video_moves_back_at_most_the_one_that_was_moved(tmp_path: Path) -> None:
    extracted = Extracted(tmp_path / "data")
    extracted.add("tuba/0")
    extracted.add("tuba/1")
    extracted.add("flute/0")
    before, moves = {seed: sides(extracted.index(seed)) for seed in range(20)}, 0
    for number in range(1, 6):
        extracted.add(f"flute/{number}")
        for seed in before:
            after = sides(extracted.index(seed))
            differ = [name for name in before[seed] if before[seed][name] != after[name]]
            assert len(differ) <= 1
            moves += len(differ)
            before[seed] = after
    assert moves > 0


def test_a_category_that_a_side_lacks_is_reported(
    extracted: Extracted, caplog: pytest.LogCaptureFixture
) -> None:
    extracted.add("tuba/0")
    lacking = "training" if sides(extracted.index())["tuba/0"] == "validation" else "validation"
    with caplog.at_level("INFO", "sop"):
        extracted.index()
    assert (
        f"no video for {lacking} in 1 category with a single video: tuba; add videos there"
        in caplog.text
    )


def test_removing_a_video_moves_no_other(extracted: Extracted) -> None:
    before = sides(extracted.index())
    (extracted.audio / "flute" / "2.wav").unlink()
    assert sides(extracted.index()) == {k: v for k, v in before.items() if k != "flute/2"}


def test_raising_the_share_moves_videos_to_training_only(extracted: Extracted) -> None:
    few = {video.name for video in extracted.index(train_fraction=0.3).train}
    many = {video.name for video in extracted.index(train_fraction=0.7).train}
    assert few < many


def test_split(tmp_path: Path) -> None:
    extracted = Extracted(tmp_path / "data")
    for number in range(150):
        extracted.add(f"flute/{number}", seconds=0.25)
    first, second = (extracted.index(seed, min_seconds=0.1, train_fraction=0.8) for seed in (1, 2))
    assert sides(first) != sides(second)
    for index in (first, second):
        assert 105 <= len(index.train) <= 135


def test_short_and_damaged_videos_are_counted_with_their_reasons(extracted: Extracted) -> None:
    extracted.add("flute/short", seconds=0.5)
    extracted.add("flute/few pictures", seconds=2, frames=4)
    extracted.add_sound("flute/no pictures.wav")
    extracted.add("flute/garbage")
    (extracted.audio / "flute" / "garbage.wav").write_bytes(b"garbage" * 99)
    extracted.add("flute/cut")
    whole = (extracted.audio / "flute" / "cut.wav").read_bytes()
    (extracted.audio / "flute" / "cut.wav").write_bytes(whole[:-1000])
    extracted.add("flute/bad zip")
    (extracted.frames / "flute" / "bad zip.zip").write_bytes(b"garbage" * 99)
    extracted.add("flute/empty zip", frames=0)
    extracted.add("flute/gap")
    extracted.add_loose("flute/gap.mp4")
    (extracted.frames / "flute" / "gap.zip").unlink()
    (extracted.frames / "flute" / "gap.mp4" / "000007.jpg").unlink()

    index = extracted.index()

    reasons = {
        "flute/short": "0.5 s is shorter than index.min_seconds, 1 s",
        "flute/few pictures": "0.5 s is shorter",
        "flute/no pictures": "no frames for this sound",
        "flute/garbage": "garbage.wav: not readable as sound",
        "flute/cut": "cut.wav: shorter than its header says",
        "flute/bad zip": "bad zip.zip: not readable as frames",
        "flute/empty zip": "empty zip.zip: contains no frames",
        "flute/gap": "gap.mp4: frame 000007.jpg is missing",
    }
    assert index.left_out.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert reason in index.left_out[name]
        assert "\n" not in index.left_out[name]
    assert len(sides(index)) == 14
    summary = index.summary()
    assert summary["left_out"] == {"count": 8, "reasons": index.left_out}
    assert summary["train"] + summary["validation"] + summary["duets"] == 14
    assert summary["frames"] == 12 * 16
    counted = summary["category"]
    assert counted["train"]["flute"] + counted["validation"].get("flute", 0) == 4


def test_duets_are_listed_apart_or_join(extracted: Extracted, tmp_path: Path) -> None:
    duets = {"acoustic_guitar_violin/0", "flute_violin/0"}
    apart = extracted.index()
    assert {video.name for video in apart.duets} == duets
    together = extracted.index(duets=True)
    assert together.duets == ()
    assert sides(together).keys() == sides(apart).keys()
    solos = {name: side for name, side in sides(apart).items() if name not in duets}
    assert solos.items() <= sides(together).items()
    for index in (apart, together):
        write_index(index, tmp_path / "index")
        assert read_index(tmp_path / "index" / DUETS) == list(index.duets)
        assert read_index(tmp_path / "index" / TRAIN) == list(index.train)
    found = {video.instruments for video in (*together.train, *together.validation)}
    assert ("flute", "violin") in found
    assert ("acoustic_guitar",) in found


def test_duets_of_one_instrument_are_duets(extracted: Extracted, tmp_path: Path) -> None:
    extracted.add("flute_flute/0")
    known = {**OF_SOURCE, "flute_flute": ("flute", "flute")}
    index = build_index(extracted.audio, extracted.frames, PARAMS, FRAME_RATE, known)
    write_index(index, tmp_path / "index")
    duets = {video.category: video for video in read_index(tmp_path / "index" / DUETS)}
    assert duets.keys() == {"acoustic_guitar_violin", "flute_violin", "flute_flute"}
    assert duets["flute_flute"].instruments == ("flute", "flute")


def test_duets_that_are_kept_out_are_counted_with_their_reason(
    extracted: Extracted, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "sop"):
        summary = extracted.index().summary()
    assert summary["duets"] == 2
    assert summary["category"]["duets"] == {"acoustic_guitar_violin": 1, "flute_violin": 1}
    assert summary["kept_out"]["flute_violin"] == (
        "a duet of flute and violin, and index.duets is false"
    )
    assert "2 duets in 2 categories are in neither list" in caplog.text
    assert extracted.index(duets=True).summary()["kept_out"] == {}
    for sound in (extracted.audio / "flute_violin").iterdir():
        sound.unlink()
    with caplog.at_level("INFO", "sop"):
        extracted.index()
    assert "index: 1 duet in 1 category is in neither list" in caplog.text


def test_an_underscore_does_not_make_a_duet(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    extracted = Extracted(tmp_path / "data")
    for category in ("bass", "clarinet", "bass_clarinet", "piano_accordion"):
        for number in range(4):
            extracted.add(f"{category}/{number}")
    with caplog.at_level("INFO", "sop"):
        index = extracted.index()
    assert index.duets == ()
    assert len(index.train) + len(index.validation) == 16
    # The user may have meant one; piano and accordion are not there.
    assert "index.duet_categories: {bass_clarinet: [bass, clarinet]}" in caplog.text
    assert "piano" not in caplog.text


def test_duets_may_be_named_by_a_parameter(
    extracted: Extracted, caplog: pytest.LogCaptureFixture
) -> None:
    extracted.add("tuba trio/0")
    named = {"tuba trio": ["tuba", "flute", "viola da gamba"], "typo": ["flute", "tuba"]}
    with caplog.at_level("INFO", "sop"):
        index = extracted.index(duet_categories=named)
    assert {video.category for video in index.duets} == {"tuba trio", *OF_SOURCE}
    assert index.duets[-1].instruments == ("tuba", "flute", "viola da gamba")
    assert "index.duet_categories: there is no category 'typo'" in caplog.text


def test_duets_of_the_source_are_in_the_details_of_the_download(tmp_path: Path) -> None:
    details = tmp_path / "download.json"
    details.write_text(json.dumps({"source": "music", "duets": OF_SOURCE}))
    assert {name: tuple(of) for name, of in read_duets(details).items()} == OF_SOURCE
    # Data in the published layout has no download.
    details.write_text("{}")
    assert read_duets(details) == {}
    for text in ('{"source": "music"}', "[1]", "garbage"):
        details.write_text(text)
        with pytest.raises(UserError, match="does not say which categories are duets"):
            read_duets(details)


def test_published_layout_is_indexed(tmp_path: Path) -> None:
    extracted = Extracted(tmp_path / "data")
    for number in range(6):
        extracted.add_sound(f"flute/id-{number}.mp3")
        extracted.add_loose(f"flute/id-{number}.mp4")
    index = extracted.index()
    videos = sorted((*index.train, *index.validation), key=lambda video: video.name)
    assert videos[0] == Video(
        extracted.audio / "flute" / "id-0.mp3", extracted.frames / "flute" / "id-0.mp4", 16
    )
    assert len(videos) == 6


def test_folder_of_frames_may_be_named_like_the_sound(tmp_path: Path) -> None:
    extracted = Extracted(tmp_path / "data")
    for number in range(6):
        extracted.add_sound(f"flute/{number}.wav")
        extracted.add_loose(f"flute/{number}")
    index = extracted.index()
    assert len(index.train) + len(index.validation) == 6


def test_hidden_files_are_no_videos(extracted: Extracted) -> None:
    before = extracted.index()
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "0.wav~"):
        for folder in (extracted.audio, extracted.frames):
            (folder / "flute" / name).write_bytes(b"x")
            (folder / name).write_bytes(b"x")
    (extracted.audio / "manifest.json").write_text("{}")
    assert extracted.index() == before


def test_odd_names_survive_writing_and_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    extracted = Extracted(Path("data"))
    for name in ODD_NAMES:
        extracted.add(f"flute/{name}")
        extracted.add(f"{name}/plain")
    index = extracted.index()
    write_index(index, Path("index"))
    assert read_index(Path("index") / TRAIN) == list(index.train)
    assert read_index(Path("index") / VALIDATION) == list(index.validation)
    for video in read_index(Path("index") / TRAIN):
        assert video.audio.is_file()
        assert video.frames.is_file()
        assert count_frames(video.frames) == video.frame_count


def test_list_has_the_published_form(
    extracted: Extracted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    index = build_index(Path("data/audio"), Path("data/frames"), PARAMS, FRAME_RATE)
    write_index(index, Path("index"))
    text = (Path("index") / TRAIN).read_bytes().decode()
    lines = text.split("\n")
    assert lines.pop() == ""
    assert len(lines) == len(index.train)
    for line, video in zip(lines, index.train, strict=True):
        name = f"{video.category}/{video.audio.stem}"
        assert line == f"data/audio/{name}.wav,data/frames/{name}.zip,16"


def test_published_list_is_read(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text(
        "./data/audio/flute/jA2r.mp3,./data/frames/flute/jA2r.mp4,1580\r\n"
        "./data/audio/acoustic_guitar/M3.mp3,./data/frames/acoustic_guitar/M3.mp4, 1762\r\n\r\n"
    )
    flute, guitar = read_index(path)
    assert flute.name == "flute/jA2r"
    assert flute.audio == Path("data/audio/flute/jA2r.mp3")
    assert guitar.category == "acoustic_guitar"
    assert guitar.frame_count == 1762
    assert flute.motion is None
    flute, _ = read_index(path, Path("data/motion"))
    assert flute.motion == Path("data/motion/flute/jA2r.npy")


@pytest.mark.parametrize(
    "row",
    [
        "a.wav,a.zip",
        "a.wav,a.zip,16,1",
        "a.wav,a.zip,many",
        "a.wav,a.zip,-3",
        "a.wav,a.zip,",
        "a.wav,a.zip,1234567890",
    ],
)
def test_row_of_another_form_is_named(tmp_path: Path, row: str) -> None:
    path = tmp_path / "train.csv"
    path.write_text(f"b.wav,b.zip,16\n{row}\n")
    with pytest.raises(UserError, match="row 2: ") as error:
        read_index(path)
    assert str(path) in str(error.value)
    assert row in str(error.value)
    assert "AUDIO_PATH,FRAMES_PATH,NUMBER_FRAMES" in str(error.value)


@pytest.mark.parametrize("content", ["naïve.wav,naïve.zip,16\n".encode("latin-1"), b"\0,a,3\n\xff"])
def test_list_that_is_no_text_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "train.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"train\.csv: not readable as CSV"):
        read_index(path)


def test_list_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"val\.csv: no such list"):
        read_index(tmp_path / "val.csv")


def test_side_without_videos_says_what_to_change(extracted: Extracted, tmp_path: Path) -> None:
    singles = Extracted(tmp_path / "singles")
    for category in ("acoustic_guitar", "flute", "flute_violin"):
        singles.add(f"{category}/0")
    for fraction, side, other in ((0.999, VALIDATION, TRAIN), (0.001, TRAIN, VALIDATION)):
        with pytest.raises(
            UserError,
            match=rf"singles.*: no video for the list {side}: of 3 videos 2 are for {other}, "
            rf"0 left out, 1 duet; add videos or change index\.train_fraction {fraction}, "
            r"index\.duets false$",
        ):
            singles.index(train_fraction=fraction)
    with pytest.raises(UserError, match=r"14 left out \(for.* or change index\.min_seconds 60$"):
        extracted.index(min_seconds=60.0)
    with pytest.raises(UserError, match="contains no sound"):
        Extracted(tmp_path / "empty").index()


def test_frames_with_names_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    for name in ("1.jpg", "0001.jpg", "000002.jpg", "000001.png", "999999999.jpg"):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        (folder / name).write_bytes(JPEG)
        with pytest.raises(LeftOut, match=r"000001\.jpg is missing|contains no frames"):
            count_frames(folder)
