import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sop.download.synthetic.truth import Truth, read_truth
from sop.download.urmp import INSTRUMENTS, find_pieces, make_piece, strips
from sop.media.ffmpeg import Limits
from sop.params import Params
from sop.runtime.errors import LeftOut, UserError
from tests.support.downloads import changed, download, times, tree
from tests.support.urmp import RATE, Written, write_piece

pytestmark = pytest.mark.usefixtures("one_thread")

DUET = "01_Jupiter_vn_vc"


@pytest.fixture(scope="module")
def duet(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A duet as it is in the data set; tests change copies."""
    return write_piece(tmp_path_factory.mktemp("urmp"), DUET)


@pytest.fixture
def copied(duet: Written, tmp_path: Path) -> Path:
    """The folder of a copy of the duet, in the folder `pieces`."""
    return Path(shutil.copytree(duet.folder, tmp_path / "pieces" / DUET))


@pytest.fixture
def params(default_params: Params) -> Params:
    return default_params


def truth_of(folder: Path) -> Truth:
    """Make the only piece of a folder, and return its truth."""
    (piece,), unusable = find_pieces(folder)
    assert unusable == []
    make_piece(piece, folder.parent / "made.mp4", Limits())
    return read_truth(folder.parent / "made.truth.npz")


def error_db(truth: Truth, written: Written) -> float:
    """Level of the largest difference of a stem from the sound in the mixture, relative to it."""
    length = min(truth.stems.shape[1], written.stems.shape[1])
    stems, wanted = truth.stems[:, :length] / (2**15 - 1), written.stems[:, :length]
    errors = np.square(stems - wanted).sum(axis=1) / np.square(wanted).sum(axis=1)
    return float(10 * np.log10(errors.max()))


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_bytes(b"x")


def test_codes_are_those_of_the_data_set() -> None:
    assert " ".join(INSTRUMENTS) == "vn va vc db fl ob cl sax bn tpt hn tbn tba"


@pytest.mark.parametrize(
    ("name", "expected"),
    [(name, True) for name in (DUET, "02_Sonata_vn_vn", "44_K515_vn_vn_va_va_vc", "7_A_b_c_db")]
    + [(name, False) for name in ("violin", "Supplementary_Files", "vn_vc", "01_Jupiter_vn_xx")],
)
def test_folders_are_told_by_their_names(tmp_path: Path, name: str, expected: bool) -> None:
    (tmp_path / "00_A_vn_vc").mkdir()
    (tmp_path / name).mkdir()
    _, unusable = find_pieces(tmp_path)
    assert (name in {row.id for row in unusable}) == expected


def test_piece_of_unknown_instruments_is_named(tmp_path: Path) -> None:
    touch(tmp_path / "03_Bad_vn_xx", "Vid_03_Bad.mp4", "AuSep_1_vn_03_Bad.wav")
    pieces, (row,) = find_pieces(tmp_path)
    assert pieces == []
    assert (row.category, row.id) == ("03_Bad_vn_xx", "03_Bad_vn_xx")
    assert row.reason.startswith("its name does not end with codes of instruments, vn|va|vc|")


def test_players_are_in_the_order_of_the_name(tmp_path: Path) -> None:
    files = ["Vid_09_Jesus_vn_tpt_fl.mp4", "AuMix_09_Jesus_vn_tpt_fl.wav", "Sco_09_Jesus.mid"]
    stems = [f"AuSep_{k}_{code}_09_Jesus.wav" for k, code in enumerate(("vn", "tpt", "fl"), 1)]
    touch(tmp_path / "09_Jesus_vn_tpt_fl", *files, *stems)
    ((piece,), _) = find_pieces(tmp_path)
    assert piece.instruments == ("violin", "trumpet", "flute")
    assert (piece.category, piece.id) == ("flute_trumpet_violin", "09_Jesus_vn_tpt_fl")
    assert [path.name for path in piece.stems] == stems
    assert piece.video.name == files[0]


def test_pieces_that_lack_something_are_named(tmp_path: Path) -> None:
    vid, first = "Vid_01_A.mp4", "AuSep_1_vn_01_A.wav"
    touch(tmp_path / "01_A_vn_vc", vid, first)
    touch(tmp_path / "01_A_vn", first)
    touch(tmp_path / "01_A_vn_va", vid, "Vid_01_A_vn_va.mp4", first)
    touch(tmp_path / "01_A_vn_vn_vn_vn_vn_vn", vid)
    touch(tmp_path / "01_A_vn_db", vid, first)
    (tmp_path / "outside.wav").write_bytes(b"x")
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("01_A_vn_vc", "01_A_vn", "01_A_vn_va", "01_A_vn_vn_vn_vn_vn_vn", "01_A_vn_db"):
        (tmp_path / name).rename(folder / name)
    (folder / "01_A_vn_db" / "AuSep_2_db_01_A.wav").symlink_to(tmp_path / "outside.wav")
    pieces, unusable = find_pieces(folder)
    assert pieces == []
    assert {row.id: row.reason for row in unusable} == {
        "01_A_vn_vc": "AuSep_2_vc_01_A.wav is missing",
        "01_A_vn": "has 0 videos Vid_01_A.mp4, expected one",
        "01_A_vn_va": "has 2 videos Vid_01_A.mp4, expected one",
        "01_A_vn_vn_vn_vn_vn_vn": "6 players are more than 5",
        "01_A_vn_db": "a link that leaves the folder; copy the file into it",
    }
    assert {row.category for row in unusable} >= {"cello_violin", "violin"}


def test_folder_without_pieces(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="contains no piece in the layout of URMP"):
        find_pieces(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        find_pieces(tmp_path / "none")


def test_stage_names_what_an_empty_piece_lacks(params: Params, tmp_path: Path) -> None:
    (tmp_path / "pieces" / DUET).mkdir(parents=True)
    params = changed(params, source="urmp", local={"folder": str(tmp_path / "pieces")})
    with pytest.raises(UserError, match=r"0 of 1 videos downloaded.* has 0 videos Vid_01_Jupiter"):
        download(params, tmp_path / "videos")


def test_truth_is_what_the_players_recorded(duet: Written, copied: Path) -> None:
    truth = truth_of(copied.parent)
    assert truth.instruments == ("violin", "cello")
    assert (truth.sample_rate, truth.width, truth.height) == (RATE, 160, 48)
    assert truth.resting == (False, False)
    assert error_db(truth, duet) < -40


def test_players_stand_in_equal_strips() -> None:
    assert strips(3, 90, 48).tolist() == [[0, 0, 30, 48], [30, 0, 60, 48], [60, 0, 90, 48]]


@pytest.mark.parametrize(
    "changes",
    [
        {"levels": (0.3, 1.1)},
        {"delay": 2112},
        {"delay": -700},
        {"extra_samples": (7, -5), "video": "Vid_{piece}.mp4"},
        pytest.param({"rates": (44_100, 48_000)}, marks=pytest.mark.slow),
    ],
)
def test_level_delay_rate_and_length_are_made_equal(changes: dict, tmp_path: Path) -> None:
    written = write_piece(tmp_path / "pieces", DUET, **changes)
    assert error_db(truth_of(tmp_path / "pieces"), written) < -40


def test_loud_players_whose_sum_is_within_full_scale_are_not_clipped(
    duet: Written, copied: Path
) -> None:
    """One recording contains the other with the opposite sign, so that the mixture lacks it."""
    first, second = (copied / f"AuSep_{k}_01_Jupiter.wav" for k in ("1_vn", "2_vc"))
    loud = 4 * duet.stems[1]
    soundfile.write(first, (duet.stems[0] + loud) / 8, RATE, subtype="PCM_24")
    soundfile.write(second, (duet.stems[1] - loud) / 8, RATE, subtype="PCM_24")
    stems = truth_of(copied.parent).stems.astype(float)
    assert np.abs(stems).max() == 2**15 - 1
    mixture = duet.stems.sum(axis=0)
    scale = np.abs(loud + duet.stems[0]).max()
    np.testing.assert_allclose(stems.sum(axis=0) / 2**15 * scale, mixture, atol=0.03)


def broken(copied: Path, player: int, sound: np.ndarray) -> None:
    name = ("AuSep_1_vn_01_Jupiter.wav", "AuSep_2_vc_01_Jupiter.wav")[player]
    soundfile.write(copied / name, sound, RATE)


@pytest.mark.parametrize(
    ("sound", "reason"),
    [
        (lambda stem: 0 * stem, "AuSep_2_vc_01_Jupiter.wav is silent"),
        (lambda stem: stem[: RATE // 2], "is 2.5 s shorter than the video"),
        (lambda stem: np.tile(stem, 2), "is 3.0 s longer than the video"),
        (lambda stem: np.stack([stem] * 3, axis=1), "no WAV file of one or two channels"),
    ],
)
def test_unusable_recordings(sound, reason: str, duet: Written, copied: Path) -> None:
    broken(copied, 1, sound(duet.stems[1]))
    with pytest.raises(LeftOut, match=reason):
        truth_of(copied.parent)
    assert not (copied.parents[1] / "made.mp4").exists()


def test_recording_of_another_player(copied: Path) -> None:
    third = np.random.default_rng(1).standard_normal(3 * RATE)
    shutil.rmtree(copied)
    write_piece(copied.parent, DUET, levels=(1.0, 0.001))
    broken(copied, 1, 0.1 * third)
    with pytest.raises(LeftOut, match="recording AuSep_2 is not part of the sound of the video"):
        truth_of(copied.parent)


def test_inverted_recording_becomes_what_is_in_the_mixture(duet: Written, copied: Path) -> None:
    broken(copied, 1, -duet.stems[1])
    assert error_db(truth_of(copied.parent), duet) < -40


def test_recordings_of_another_performance(copied: Path) -> None:
    rng = np.random.default_rng(1)
    for player in (0, 1):
        broken(copied, player, 0.1 * rng.standard_normal(3 * RATE))
    with pytest.raises(LeftOut, match=r"explain \d% of the sound of the video"):
        truth_of(copied.parent)


def test_damaged_recording(copied: Path) -> None:
    (copied / "AuSep_2_vc_01_Jupiter.wav").write_bytes(b"RIFF....WAVE")
    with pytest.raises(LeftOut, match=r"AuSep_2_vc_01_Jupiter\.wav is not readable"):
        truth_of(copied.parent)


@pytest.mark.slow
def test_pieces_and_solos_of_one_folder(
    params: Params, copied: Path, tmp_path: Path, make_video
) -> None:
    folder, videos = copied.parent, tmp_path / "videos"
    make_video(folder / "violin" / "a.mp4")
    write_piece(folder, "02_Sonata_vn_vn")
    (write_piece(folder, "03_Dance_fl_vc").folder / "AuSep_2_vc_03_Dance.wav").unlink()
    params = changed(params, source="urmp", local={"folder": str(folder)})
    summary = download(params, videos)
    assert summary["duets"] == {
        "cello_violin": ("cello", "violin"),
        "violin_violin": ("violin", "violin"),
    }
    assert summary["unavailable"]["reasons"] == {
        str(folder / "03_Dance_fl_vc"): "AuSep_2_vc_03_Dance.wav is missing"
    }
    assert sorted(tree(videos)) == [
        "cello_violin/01_Jupiter_vn_vc.mp4",
        "cello_violin/01_Jupiter_vn_vc.truth.npz",
        "manifest.csv",
        "violin/a.mp4",
        "violin_violin/02_Sonata_vn_vn.mp4",
        "violin_violin/02_Sonata_vn_vn.truth.npz",
    ]
    # Only what changed is made again: a piece whose recording is another file, or without truth.
    before = times(videos)
    (videos / "violin_violin" / "02_Sonata_vn_vn.truth.npz").unlink()
    path = copied / "AuSep_1_vn_01_Jupiter.wav"
    audio, _ = soundfile.read(path)
    soundfile.write(path, audio / 2, RATE, subtype="PCM_24")
    assert download(params, videos)["videos"] == 3
    assert [name for name, time in times(videos).items() if before[name] == time] == [
        "violin/a.mp4"
    ]
