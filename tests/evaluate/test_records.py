from pathlib import Path

import numpy as np
import pytest
import torch

from sop.denoise.trial import Trial
from sop.evaluate.records import Record, evaluation_rule, read_record, record_paths, write_record
from sop.evaluate.validation import SeparatedMixture, separate_mixtures
from sop.model.pixelplayer import build
from sop.runtime.errors import UserError
from tests.support.experiment import with_values

pytestmark = pytest.mark.usefixtures("one_thread")


def record(number: int = 3) -> Record:
    rng = np.random.default_rng(number)
    sources = (0.1 * rng.standard_normal((2, 16383))).astype(np.float32)
    masks = rng.random((2, 256, 32)).astype(np.float32)
    return Record(number, ("flute/ä", 'cello/"b"'), sources, masks)


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    written = record()
    write_record(tmp_path, written)
    (path,) = record_paths(tmp_path)
    read = read_record(path)
    assert (read.number, read.videos) == (written.number, written.videos)
    assert read.categories == ("flute", "cello")
    np.testing.assert_array_equal(read.sources, written.sources)
    np.testing.assert_array_equal(read.masks, written.masks)


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_record(tmp_path / name, record())
    first, second = (record_paths(tmp_path / name)[0] for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_records_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (12000, 2, 10, 1):
        write_record(tmp_path, record(number))
    assert [read_record(path).number for path in record_paths(tmp_path)] == [1, 2, 10, 12000]


@pytest.mark.parametrize("power", [None, 2.0])
@pytest.mark.parametrize("mask", ["binary", "ratio"])
@pytest.mark.parametrize("log_frequency", [True, False])
def test_estimates_are_those_that_were_evaluated(
    tiny_videos, tiny_params, mask: str, log_frequency: bool, power: float | None
) -> None:
    # With this size, a spectrogram on the linear axis has a height that the U-Net accepts.
    params = with_values(
        tiny_params,
        {
            "model.mask": mask,
            "train.loss": "bce" if mask == "binary" else "l1",
            "spectrogram.log_frequency": log_frequency,
            "spectrogram.stft_frame": 1022,
            "evaluate.mask_power": power,
        },
    )
    player = build(params.model, params.spectrogram, seed=0)
    torch.nn.init.normal_(player.synthesizer.scale)
    made = separate_mixtures(
        player, tiny_videos, params, 2, 1234, evaluation_rule(params), torch.device("cpu")
    )
    for separation in made:
        assert isinstance(separation, SeparatedMixture)
        kept = Record(separation.number, ("a", "b"), separation.sources, separation.masks)
        np.testing.assert_allclose(kept.estimates(params), separation.estimates, atol=1e-6)
        np.testing.assert_array_equal(kept.truth(params), separation.truth)
        np.testing.assert_array_equal(Trial(kept, params).before, kept.estimates(params))
        if power is not None:
            # The shares of the sources sum to 1.
            np.testing.assert_allclose(
                separation.estimates.sum(axis=0), separation.mixture, atol=1e-5
            )


def test_no_records_are_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="contains no mixtures; run `dvc repro evaluate`"):
        record_paths(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no zip at all"])
def test_a_damaged_record_is_named(tmp_path: Path, content: bytes) -> None:
    write_record(tmp_path, record())
    (path,) = record_paths(tmp_path)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"0003\.npz: not readable"):
        read_record(path)


def test_a_foreign_record_is_no_program(tmp_path: Path) -> None:
    path = tmp_path / "records" / "0000.npz"
    path.parent.mkdir()
    evil = np.array([print], dtype=object)
    np.savez(path, number=evil, videos=evil, sources=evil, masks=evil)
    with pytest.raises(UserError, match="not readable"):
        read_record(path)
