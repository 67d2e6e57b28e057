"""Region-wise separation of pieces in the layout of URMP, from their files to the measures."""

import warnings

import numpy as np
import pytest

from sop.dataset.index import DUETS, VALIDATION, build_index, read_index, write_index
from sop.evaluate.measures import bss_eval
from sop.extract.extraction import extract
from sop.localize.measures import localization_summary, measure_localization
from sop.localize.scenes import LocalizationScene, make_scene, plan_scenes
from sop.params import Params
from sop.runtime.parallel import Workers
from tests.support.downloads import changed, download
from tests.support.experiment import with_values
from tests.support.planted import plant, separator_of
from tests.support.urmp import write_piece

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

# The planted separator assigns frequencies below and above to one region each.
SPLIT_HZ = 500.0

PIECES = ("01_Jupiter_vn_vc", "02_Sonata_fl_fl", "03_Dance_tpt_vn_tba")


@pytest.fixture(scope="module")
def params(tiny_params: Params) -> Params:
    return with_values(
        tiny_params, {"spectrogram.log_frequency": False, "index.train_fraction": 0.5}
    )


@pytest.fixture(scope="module")
def scenes(
    params: Params, tmp_path_factory: pytest.TempPathFactory, make_video
) -> dict[str, LocalizationScene]:
    """The scenes of three pieces, by kind, made by the stages from files on disk."""
    root = tmp_path_factory.mktemp("urmp")
    for name in PIECES:
        write_piece(root / "own", name, levels=(0.6, 1.0, 0.8)[: name.count("_") - 1], delay=1024)
    for name in "ab":
        make_video(root / "own" / "flute" / f"{name}.mp4")
    videos, audio, frames = root / "videos", root / "audio", root / "frames"
    urmp = changed(params, source="urmp", local={"folder": str(root / "own")})
    known = download(urmp, videos)["duets"]
    extract(params.extract, videos, audio, frames, Workers(1), root / "hashes")
    write_index(build_index(audio, frames, params.index, 8, known), root / "index")
    planned = plan_scenes(
        read_index(root / "index" / DUETS), read_index(root / "index" / VALIDATION), videos, 10
    )
    made = [make_scene(one, videos, params.extract) for one in planned if not one.shifted]
    return {scene.kind: scene for scene in made}


def test_solos_train_and_pieces_are_what_they_are(scenes: dict[str, LocalizationScene]) -> None:
    """A duet of one instrument is marked by its kind; solos from elsewhere have no truth."""
    assert {kind: scene.name for kind, scene in scenes.items()} == {
        "duet": "cello_violin/01_Jupiter_vn_vc",
        "distractor": "cello_violin/01_Jupiter_vn_vc",
        "same_duet": "flute_flute/02_Sonata_fl_fl",
        "unheard_same": "flute_flute/02_Sonata_fl_fl",
        "trio": "trumpet_tuba_violin/03_Dance_tpt_vn_tba",
    }
    assert scenes["duet"].boxes == ((0, 0, 0.5, 1), (0.5, 0, 1, 1))
    assert [len(scenes[kind].stems) for kind in ("duet", "distractor", "trio")] == [2, 1, 3]


@pytest.mark.parametrize("kind", ["duet", "same_duet", "trio"])
def test_stems_add_up_to_the_sound_of_the_video(
    kind: str, scenes: dict[str, LocalizationScene]
) -> None:
    scene = scenes[kind]
    mixture = scene.stems.sum(axis=0)
    error = scene.recording.sound(0, len(mixture)) - mixture
    assert np.square(error).sum() < 10**-3 * np.square(mixture).sum()


@pytest.mark.parametrize("kind", ["duet", "same_duet"])
def test_bss_eval_of_regions_equals_mir_eval(
    kind: str, scenes: dict[str, LocalizationScene], params: Params
) -> None:
    from mir_eval.separation import bss_eval_sources

    scene = scenes[kind]
    separator = plant(separator_of(params), between_hz=SPLIT_HZ)
    where = separator.localize(scene.recording)
    embedding = separator.embed(scene.recording, 0, separator.frames(scene.recording))
    sounds = embedding.sounds(separator.region_masks(embedding, where.regions))[:-1]
    length = min(sounds.shape[1], scene.stems.shape[1])
    # mir_eval computes in the precision of what it gets. Artifacts are as strong as those of
    # trained models: at 30 dB and more, rounding in either program is near the bound.
    stems, estimates = (one[:, :length].astype(np.float64) for one in (scene.stems, sounds))
    noise = np.random.default_rng(1).standard_normal(estimates.shape)
    estimates += 0.1 * estimates.std() * noise
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = bss_eval_sources(stems, estimates, compute_permutation=False)[:3]
    np.testing.assert_allclose(bss_eval(stems, estimates), expected, rtol=0, atol=1e-6)


def test_real_pieces_are_measured_as_rendered_ones(
    scenes: dict[str, LocalizationScene], params: Params
) -> None:
    separator = plant(separator_of(params), between_hz=SPLIT_HZ)
    summary = localization_summary(
        [measure_localization(separator, scene) for scene in scenes.values()], {}
    )
    measured = {kind: 1 for kind in ("duet", "distractor", "same_duet", "unheard_same", "trio")}
    assert summary["scenes"] == {"silent": 0, "solo": 0} | measured
    for key in ("duets", "same_duets", "trios"):
        assert np.isfinite(summary[key]["sdr_improvement"])
    # Low frequencies are in a region on the left, high ones on the right.
    assert summary["pointing"]["duet"] == 1
    assert summary["regions_right"]["trio"] == 0
