"""Reasons to doubt a separation."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sop.inference.localization import Region
from sop.inference.pictures import Look, features_of, look, mean_of, picture_card
from sop.inference.separator import Separator
from sop.model.card import CategoryCard, DataCard, ModelAbout, ModelCard
from sop.params import Params
from sop.separate.doubt import Impression, Likeness, impression_of, notes_of
from sop.separate.separation import SeparationOptions, write_separation
from tests.support.planted import HIGH_HZ, LOW_HZ, film, plant, separator_of

pytestmark = pytest.mark.usefixtures("one_thread")

UNKNOWN = Impression(None, ())


def likeness_of(*masks: Any) -> Likeness:
    """Likeness of components whose masks are given over four bins of equal power."""
    likeness = Likeness()
    stacked = np.array(masks, np.float32)[:, :, None]
    for _ in range(2):
        likeness.add(stacked, np.ones((4, 1), np.float32))
    return likeness


def region_of(rows: int, columns: int) -> Region:
    cells = np.zeros((10, 10), bool)
    cells[:rows, :columns] = True
    return Region(cells, 0.5)


SMALL = region_of(3, 3)


def test_copies_of_one_sound_are_named_together(planted: Separator) -> None:
    low, high, rest = [0.5, 0.5, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]
    likeness = likeness_of(low, high, low, rest)
    assert likeness.correlations[0, 2] == pytest.approx(1)
    assert likeness.correlations[0, 1] == 0
    (note,) = notes_of(planted, [SMALL] * 3, likeness, UNKNOWN)
    assert (note.kind, note.regions) == ("copies", (1, 3))
    assert "regions 1 and 3 sound alike" in note.text
    assert "--regions 2" in note.text
    every = likeness_of(low, low, low, rest)
    (note,) = notes_of(planted, [SMALL] * 3, every, UNKNOWN)
    assert note.regions == (1, 2, 3)


def test_different_sounds_raise_no_doubt(planted: Separator) -> None:
    likeness = likeness_of([1, 0.3, 0, 0], [0, 0.7, 1, 0], [0, 0, 0, 1])
    assert notes_of(planted, [SMALL] * 2, likeness, UNKNOWN) == ()


def test_silent_regions_are_no_copies(planted: Separator) -> None:
    likeness = likeness_of([0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1])
    kinds = {note.kind for note in notes_of(planted, [SMALL] * 2, likeness, UNKNOWN)}
    assert kinds == {"rest"}


def test_a_region_across_half_of_the_picture(planted: Separator) -> None:
    likeness = likeness_of([1, 1, 0, 0], [0, 0, 0, 1])
    (note,) = notes_of(planted, [region_of(10, 5)], likeness, UNKNOWN)
    assert (note.kind, note.regions) == ("large", (1,))
    assert "50%" in note.text
    assert notes_of(planted, [region_of(9, 5)], likeness, UNKNOWN) == ()


def test_energy_in_the_rest(planted: Separator) -> None:
    (note,) = notes_of(
        planted, [SMALL], likeness_of([1, 0, 0, 0], [0, 1, 1, 0]), Impression(None, (None,))
    )
    assert note.kind == "rest"
    assert note.text.startswith("67% of the energy")
    # Without regions, another line says that the rest is everything.
    assert notes_of(planted, [], likeness_of([1, 1, 1, 1]), UNKNOWN) == ()


def pictures(colour: int, seed: int) -> np.ndarray:
    """Four noisy pictures around a colour."""
    noise = np.random.default_rng(seed).normal(0, 4, (4, 60, 160, 3))
    return np.clip(colour + noise, 0, 255).astype(np.uint8)


def with_card(separator: Separator, seen: dict[str, list[Look]], source: str) -> Separator:
    """Return a separator whose card says that it was trained on what was seen."""
    where = np.ones(next(iter(seen.values()))[0].cells.shape[1:3], bool)
    pooling = separator.params.model.image_pooling
    pooled = {
        name: [features_of(one.cells, where, pooling) for one in looks]
        for name, looks in seen.items()
    }
    textures = [one.texture for looks in seen.values() for one in looks]
    categories = {
        name: CategoryCard(videos=len(own), hours=0, features=mean_of(own))
        for name, own in pooled.items()
    }
    data = DataCard(source=source, categories=categories, pictures=picture_card(textures, pooled))
    separator.about = ModelAbout("model.pt", "0" * 64, ModelCard(data=data))
    return separator


@pytest.fixture
def trained(planted_params: Params) -> Separator:
    """A separator that was trained on dark `flute` and bright `violin` videos."""
    separator = separator_of(planted_params)
    seen = {
        name: [look(separator.player, pictures(colour + seed, seed)) for seed in range(8)]
        for name, colour in (("flute", 60), ("violin", 160))
    }
    return with_card(separator, seen, "local")


class Pictured:
    """A recording of given pictures."""

    def __init__(self, frames: np.ndarray) -> None:
        self.frames = frames

    def pictures(self, size: int) -> np.ndarray:
        return self.frames


def test_regions_are_guessed_and_unlike_pictures_noted(trained: Separator) -> None:
    shape = look(trained.player, pictures(60, 9)).cells.shape[1:3]
    regions = [Region(np.ones(shape, bool), 0.5)]
    likeness = likeness_of([1, 1, 1, 1])
    for colour, name in ((62, "flute"), (163, "violin")):
        recording: Any = Pictured(pictures(colour, 20))
        impression = impression_of(trained, recording, regions)
        (like,) = impression.like
        assert like is not None
        assert like[0] == name
        assert 0.5 < like[1] <= 1
        assert impression.distance is not None
        assert impression.distance < 1.1
        assert notes_of(trained, [], likeness, impression) == ()
    checks = (np.indices((60, 160)).sum(axis=0) % 8 < 4) * np.uint8(255)
    other: Any = Pictured(np.repeat(np.repeat(checks[None, :, :, None], 4, 0), 3, 3))
    impression = impression_of(trained, other, regions)
    (note,) = notes_of(trained, [], likeness, impression)
    assert note.kind == "unlike"
    assert trained.about is not None
    data = trained.about.card.data
    assert data is not None
    drawn = data.model_copy(update={"source": "synthetic"})
    trained.about = replace(trained.about, card=ModelCard(data=drawn))
    (note,) = notes_of(trained, [], likeness, impression)
    assert note.kind == "drawn"


def test_models_without_such_a_card_give_no_guess(planted: Separator) -> None:
    recording: Any = None
    assert impression_of(planted, recording, [SMALL]) == Impression(None, (None,))


def test_looking_keeps_the_mode_of_the_model(planted_params: Params) -> None:
    player = separator_of(planted_params).player
    player.train()
    before = {name: value.clone() for name, value in player.state_dict().items()}
    look(player, pictures(60, 1))
    assert player.training
    assert player.vision.training
    after = player.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_doubts_reach_the_files_and_the_page(planted_params: Params, tmp_path: Path) -> None:
    # The second patch of the picture lets the same frequencies through.
    separator = plant(separator_of(planted_params), between_hz=1e6)
    video = film(tmp_path / "tone.mp4", f"0.2*sin(2*PI*{LOW_HZ}*t)|0.2*sin(2*PI*{HIGH_HZ}*t)", 2.0)
    options = SeparationOptions(page_seconds=1.0, places=((0.05, 0.9), (0.2, 0.9)))
    written = write_separation(video, tmp_path / "out", separator, options)
    assert [note.kind for note in written.doubts] == ["copies"]
    (entry,) = written.description["notes"]
    assert (entry["kind"], entry["regions"]) == ("copies", [1, 2])
    assert entry["text"] == written.doubts[0].text
    page = (tmp_path / "out" / "page" / "index.html").read_text(encoding="utf-8")
    assert "regions 1 and 2 sound alike" in page
    assert all("like" not in region for region in written.description["regions"])
