"""Pieces in the layout of URMP: a video of an ensemble, and each player's recording of its own.

A piece is a folder `NN_Piece_inst1_inst2`. It has `Vid_NN_Piece.mp4`, whose name may end as that of
the folder, and `AuSep_k_inst_NN_Piece.wav` of each player k. Players are numbered from left to
right. Other files (`AuMix`, `Sco`, `Notes`, `F0s`) are not read.

Source: Li, Liu, Dinesh, Duan, Sharma, Creating a multitrack classical music performance dataset for
multimodal music analysis, IEEE Transactions on Multimedia 2019.

Shapes: N players, L samples.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import librosa
import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy import signal

from sop.download.container import to_mp4
from sop.download.local import check_file
from sop.download.manifest import UNAVAILABLE, VideoRow
from sop.download.synthetic.truth import Truth, write_truth
from sop.media.decoding import Probe, SoundOutput, decode, probe
from sop.media.ffmpeg import Limits, probe_header
from sop.runtime.errors import LeftOut, UserError
from sop.runtime.files import is_litter, replacing, temporary_folder
from sop.runtime.log import printable

INSTRUMENTS = {
    **{"vn": "violin", "va": "viola", "vc": "cello", "db": "double_bass"},
    **{"fl": "flute", "ob": "oboe", "cl": "clarinet", "sax": "saxophone", "bn": "bassoon"},
    **{"tpt": "trumpet", "hn": "horn", "tbn": "trombone", "tba": "tuba"},
}
"""Name of each instrument by its code in file names."""

MAX_PLAYERS = 5

# Sample rate of the truth, Hz: that of the data set.
RATE = 48_000

# Sample rates of recordings, Hz.
MIN_RATE, MAX_RATE = 8_000, 384_000

# All sounds of a piece are in memory at once.
MAX_SECONDS = 900.0

# Largest difference in length of a player's recording and the video.
MAX_DIFFERENCE_SECONDS = 1.0

# Largest delay of the recordings against the sound of the video, such as that of an AAC encoder.
MAX_DELAY_SECONDS = 0.25

# There is no delay if as much is explained without it, up to this share: lossy sound is not exact.
NO_DELAY = 0.999

# Least share of the energy of the video's sound that the recordings explain.
MIN_EXPLAINED = 0.8

# Least energy of a player relative to that of the video's sound: -40 dB.
MIN_SHARE = 1e-4

# A recording whose samples all stay below this is silent: -60 dB of full scale.
SILENCE = 1e-3

_CODES = "|".join(INSTRUMENTS)
_FOLDER = re.compile(rf"(\d+_.+?)((?:_(?:{_CODES}))+)")

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Piece:
    """A video of an ensemble with a recording of each player."""

    folder: Path
    """`NN_Piece_inst1_inst2`."""
    video: Path
    """`Vid_...`"""
    stems: tuple[Path, ...]
    """`AuSep_...` of each player, from left to right."""
    instruments: tuple[str, ...]
    """Instrument of each player, from left to right."""

    @property
    def id(self) -> str:
        """Name of the video."""
        return self.folder.name

    @property
    def category(self) -> str:
        """Names of the instruments."""
        return category_of(self.instruments)


def find_pieces(folder: Path) -> tuple[list[Piece], list[VideoRow]]:
    """List the pieces of a folder, and those of which something is missing.

    No file is read. Folders without the name of a piece and without recordings of players are
    skipped.

    Raises:
        UserError: the folder is missing, not readable, or contains no piece.
    """
    if not folder.is_dir():
        raise UserError(f"dataset.local.folder: {folder} is not a folder; name that of the pieces")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise UserError(f"dataset.local.folder: {folder} is not readable; check its permissions")
    pieces, unusable = [], []
    for path in sorted(folder.iterdir()):
        name = _FOLDER.fullmatch(path.name)
        if is_litter(path) or not path.is_dir():
            continue
        if name is None:
            if any(path.glob("AuSep_*")):
                reason = LeftOut(f"its name does not end with codes of instruments, {_CODES}")
                unusable.append(row_of(path, path.name, reason))
            continue
        codes = name[2].split("_")[1:]
        try:
            pieces.append(_piece(path, name[1], codes, folder))
        except LeftOut as reason:
            unusable.append(row_of(path, category_of(INSTRUMENTS[code] for code in codes), reason))
    if not pieces and not unusable:
        raise UserError(
            f"dataset.local.folder: {folder} contains no piece in the layout of URMP, such as "
            "01_Jupiter_vn_vc/Vid_01_Jupiter.mp4 with AuSep_1_vn_01_Jupiter.wav and "
            "AuSep_2_vc_01_Jupiter.wav"
        )
    return pieces, unusable


def category_of(instruments: Iterable[str]) -> str:
    """Return the category of an ensemble, whatever the order of the players."""
    return "_".join(sorted(instruments))


def row_of(folder: Path, category: str, reason: LeftOut) -> VideoRow:
    """Return the row of a piece that cannot be used."""
    shown = printable(str(folder))
    return VideoRow(category, folder.name, UNAVAILABLE, str(reason), source=shown)


def make_piece(piece: Piece, path: Path, limits: Limits) -> Probe:
    """Write the video of a piece, and its truth beside it, `<id>.truth.npz`.

    Args:
        piece: the piece.
        path: MP4 to write.
        limits: limits of each run of ffmpeg.

    Raises:
        LeftOut: a file cannot be used, or the recordings are not those of the video.
    """
    try:
        with replacing(path) as partial_file:
            to_mp4(piece.video, partial_file, limits)
            found = probe(partial_file, limits)
            if found.seconds > MAX_SECONDS:
                raise LeftOut(f"longer than {MAX_SECONDS:g} s, the most of a piece")
            width, height = probe_header(partial_file, limits).size
            mixture = _sound(partial_file, found, limits)
            stems = np.stack([_read_stem(stem, len(mixture)) for stem in piece.stems])
            truth = Truth(
                piece.instruments,
                _fit(stems, mixture),
                sample_rate=RATE,
                frame_rate=1,
                width=width,
                height=height,
                boxes=strips(len(stems), width, height)[:, None],
                onsets_seconds=np.zeros(0),
                onset_instruments=np.zeros(0, np.int64),
                rests=np.zeros((len(stems), 1), np.bool_),
            )
            write_truth(path.with_suffix(".truth.npz"), truth)
            return found
    except FileNotFoundError:
        raise LeftOut("was removed while it was read") from None


def strips(players: int, width: int, height: int) -> NDArray[np.float32]:
    """Return the boxes of players from left to right: equal vertical strips of the picture.

    The data set says in which order players stand, not where.

    Returns:
        Left, top, right, bottom in pixels, (N, 4).
    """
    edges = np.linspace(0, width, players + 1, dtype=np.float32)
    top, bottom = np.zeros(players, np.float32), np.full(players, height, np.float32)
    return np.stack([edges[:-1], top, edges[1:], bottom], axis=1)


def _piece(path: Path, piece: str, codes: Sequence[str], folder: Path) -> Piece:
    """Return the piece of a folder; raise `LeftOut` if a file is missing or unusable."""
    if len(codes) > MAX_PLAYERS:
        raise LeftOut(f"{len(codes)} players are more than {MAX_PLAYERS}")
    videos = [
        file
        for file in sorted(path.iterdir())
        if file.stem in (f"Vid_{piece}", f"Vid_{path.name}") and not is_litter(file)
    ]
    if len(videos) != 1:
        raise LeftOut(f"has {len(videos)} videos Vid_{piece}.mp4, expected one")
    stems = [path / f"AuSep_{k}_{code}_{piece}.wav" for k, code in enumerate(codes, start=1)]
    for file in (*videos, *stems):
        if not file.exists():
            raise LeftOut(f"{file.name} is missing")
        check_file(file, folder)
    return Piece(path, videos[0], tuple(stems), tuple(INSTRUMENTS[code] for code in codes))


def _sound(video: Path, found: Probe, limits: Limits) -> Samples:
    """Return the sound of a video, mono at `RATE`, (L,)."""
    with temporary_folder() as folder:
        output = SoundOutput(folder / "sound.wav", RATE)
        for _ in decode(video, found, output, None, limits):
            pass
        sound: Samples = soundfile.read(output.path, dtype="float32")[0]
    return sound


def _read_stem(path: Path, samples: int) -> Samples:
    """Return a player's recording, mono at `RATE`, as long as the video's sound, (L,)."""
    with _opened(path) as file:
        difference = file.frames / file.samplerate - samples / RATE
        if abs(difference) > MAX_DIFFERENCE_SECONDS:
            longer = "longer" if difference > 0 else "shorter"
            raise LeftOut(f"{path.name} is {abs(difference):.1f} s {longer} than the video")
        audio = file.read(dtype="float32", always_2d=True).mean(axis=1)
        rate = file.samplerate
    if not np.isfinite(audio).all():
        raise LeftOut(f"{path.name} contains samples that are not finite")
    if np.abs(audio).max(initial=0) < SILENCE:
        raise LeftOut(f"{path.name} is silent")
    if rate != RATE:
        audio = librosa.resample(audio, orig_sr=rate, target_sr=RATE)
    stem: Samples = np.pad(audio, (0, max(0, samples - len(audio))))[:samples]
    return stem


@contextmanager
def _opened(path: Path) -> Iterator[soundfile.SoundFile]:
    """Open a WAV file; an error in the block is one of the file."""
    try:
        with soundfile.SoundFile(path) as file:
            if file.format not in ("WAV", "WAVEX", "RF64") or file.channels > 2:
                raise LeftOut(f"{path.name} is no WAV file of one or two channels")
            if not MIN_RATE <= file.samplerate <= MAX_RATE:
                raise LeftOut(f"{path.name} has a sample rate of {file.samplerate} Hz")
            yield file
    except soundfile.SoundFileError as error:
        raise LeftOut(f"{path.name} is not readable ({printable(str(error))})") from None


def _fit(stems: Samples, mixture: Samples) -> NDArray[np.int16]:
    """Return the recordings with the delay and the levels that they have in the mixture.

    Delay and levels are those with which the sum comes nearest to the mixture (least squares). All
    recordings have the same delay.

    Args:
        stems: recordings of the players, (N, L).
        mixture: sound of the video, (L,).

    Raises:
        LeftOut: the recordings do not explain the mixture.
    """
    exact = _delayed(stems.astype(np.float64), _delay(stems, mixture))
    targets = exact @ mixture
    levels = np.linalg.lstsq(exact @ exact.T, targets, rcond=None)[0]
    energy = float(np.square(mixture, dtype=np.float64).sum())
    explained = float(levels @ targets) / energy if energy else 0.0
    if explained < MIN_EXPLAINED:
        raise LeftOut(
            f"the players' recordings explain {explained:.0%} of the sound of the video, at least "
            f"{MIN_EXPLAINED:.0%} are expected: they are of another performance, or others play too"
        )
    fitted = levels[:, None] * exact
    shares = np.square(fitted).sum(axis=1) / energy
    if shares.min() < MIN_SHARE:
        missing = int(shares.argmin()) + 1
        raise LeftOut(f"the recording AuSep_{missing} is not part of the sound of the video")
    # The sum of the players may be within full scale where one of them is not.
    fitted /= max(1.0, float(np.abs(fitted).max()))
    return np.round(fitted * (2**15 - 1)).astype(np.int16)


def _delay(stems: Samples, mixture: Samples) -> int:
    """Return by how many samples recordings are later in a mixture; negative if earlier."""
    reach = round(MAX_DELAY_SECONDS * RATE)
    # Inner products of each recording and the mixture, from the latest delay to the earliest.
    targets = np.stack(
        [signal.correlate(np.pad(one, reach), mixture, "valid", "fft") for one in stems]
    )
    weights = np.linalg.lstsq(stems @ stems.T, targets, rcond=None)[0]
    explained = (weights * targets).sum(axis=0)
    if explained[reach] >= NO_DELAY * explained.max():
        return 0
    return int(reach - explained.argmax())


def _delayed(sounds: NDArray[np.float64], delay: int) -> NDArray[np.float64]:
    """Return sounds (N, L) later by some samples, with zeros before or after them."""
    before, after = max(delay, 0), max(-delay, 0)
    return np.pad(sounds, ((0, 0), (before, after)))[:, after : after + sounds.shape[1]]
