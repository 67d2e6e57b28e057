"""Models by name: fetched, listed, described and shared."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml

import sop
from sop.catalogue import published as published_module
from sop.catalogue.export import card_page, export_model
from sop.catalogue.find import find_model, list_models
from sop.catalogue.names import cache_folder, parse_name
from sop.catalogue.published import PARAMS, fetch_published
from sop.cli.main import main
from sop.dataset.index import Video
from sop.model.card import CategoryCard, DataCard, MetricCard, ModelCard, card_values, read_card
from sop.model.checkpoint import load_model, save_checkpoint, save_player, with_later_keys
from sop.model.pixelplayer import PixelPlayer, build
from sop.model.safetensors import read_safetensors, write_safetensors
from sop.params import InferenceParams, Params, load_params, validate
from sop.presets import apply_preset
from sop.runtime.errors import UserError
from sop.runtime.hashes import sha256
from sop.train.description import training_card
from sop.train.published import FILES, export_published
from tests.support.experiment import ROOT, assert_same_weights
from tests.support.server import Server, file_of, serving, status

pytestmark = pytest.mark.usefixtures("one_thread")

CARD = ModelCard(
    title="a | b <script>",
    data=DataCard(
        source="local", videos=3, hours=0.5, categories={"flute": CategoryCard(videos=3, hours=0.5)}
    ),
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of fetched models, and an empty folder to work in."""
    monkeypatch.setenv("SOP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path: Path, tiny_params: Params) -> Path:
    path = tmp_path / "files" / "model.pt"
    player = build(tiny_params.model, tiny_params.spectrogram, seed=1)
    save_player(path, player, tiny_params, 7, CARD)
    return path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "files").mkdir(exist_ok=True)
    with serving(tmp_path / "files") as running:
        yield running


def asked(server: Server) -> list[str]:
    return [name for name, _ in server.asked]


@pytest.mark.parametrize(
    ("text", "kind", "shown"),
    [
        ("data/model/last.pt", "path", "last.pt"),
        ("published", "published", "published"),
        ("./published", "path", "published"),
        ("a#b.pt", "path", "a#b.pt"),
        ("https://host/a/model.pt?token=secret", "address", "model.pt"),
        ("https://host/a/..%2f..%2fmodel.pt", "address", "model.pt"),
        ("https://host/user/model/", "address", "model.safetensors"),
    ],
)
def test_names(text: str, kind: str, shown: str) -> None:
    name = parse_name(text)
    assert (name.kind, name.shown) == (kind, shown)


@pytest.mark.parametrize(
    "text",
    [
        "https://host/model.pt#sha256=12",
        "https://host/model.pt#md5=" + 64 * "0",
        "https:///model.pt",
        "published#sha256=" + 64 * "0",
        "published#",
        "",
    ],
)
def test_names_that_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^--model"):
        parse_name(text)


def test_model_of_an_address_is_fetched_once(
    server: Server, model: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"{server.root}/model.pt"
    separator = sop.Separator.load(address, "cpu")
    assert separator.about is not None
    assert separator.about.name == "model.pt"
    assert separator.about.sha256 == sha256(model)
    assert separator.about.card == CARD
    assert f"#sha256={sha256(model)}" in capsys.readouterr().out
    _, path = find_model(f"{address}#sha256={sha256(model)}")
    assert path.is_relative_to(cache)
    assert asked(server) == ["model.pt"]
    assert [found.path for found in list_models()] == [path]


def test_address_with_another_hash(server: Server, model: Path, cache: Path) -> None:
    with pytest.raises(UserError, match=f"its SHA-256 is {sha256(model)}, not 0000"):
        find_model(f"{server.root}/model.pt#sha256={64 * '0'}")
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_cached_file_that_changed_is_fetched_again(server: Server, model: Path) -> None:
    address = f"{server.root}/model.pt#sha256={sha256(model)}"
    _, path = find_model(address)
    path.write_bytes(b"changed")
    assert find_model(address)[1].read_bytes() == model.read_bytes()


def test_address_of_something_else(server: Server, model: Path, cache: Path) -> None:
    (model.parent / "text.pt").write_text("no model")
    server.answers["page.pt"] = file_of(model.parent / "text.pt", "text/html")
    kinds = {"none.pt": "404", "text.pt": "rejected", "page.pt": "web page"}
    for name, reason in kinds.items():
        with pytest.raises(UserError, match=reason) as error:
            find_model(f"{server.root}/{name}")
        assert "\n" not in str(error.value)
        assert "save the file as" in str(error.value)
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_published_parameters_are_those_of_the_preset(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text())
    apply_preset("music", path, ROOT / "presets")
    expected = load_params(path).for_inference()
    found = validate(InferenceParams, with_later_keys(PARAMS), "published").for_inference()
    for values in (expected, found):
        values["model"].pop("weights")
    assert found == expected


@pytest.fixture
def published(tiny_params: Params, server: Server, monkeypatch: pytest.MonkeyPatch) -> PixelPlayer:
    """A small model in place of the published one, on a server that stands for the second."""
    monkeypatch.setattr(published_module, "PARAMS", tiny_params.for_inference())
    player = build(tiny_params.model, tiny_params.spectrogram, seed=5)
    export_published(player, server.folder / published_module.MODEL)
    return player


def test_published_model_comes_from_the_second_address(
    published: PixelPlayer, server: Server, cache: Path
) -> None:
    server.answers |= {
        f"down/{published_module.MODEL}/{file}": status(503) for file in FILES.values()
    }
    addresses = (f"{server.root}/down", server.root)
    path = fetch_published({}, addresses)
    assert_same_weights(load_model(path).player, published)
    assert len(server.asked) == 6
    hashes = {net: sha256(cache / "published" / file) for net, file in FILES.items()}
    assert fetch_published(hashes, addresses) == path
    assert len(server.asked) == 6
    with pytest.raises(UserError, match=r"its SHA-256 is .*, not 0000"):
        fetch_published(hashes | {"vision": 64 * "0"}, addresses)


def test_published_model_by_hand(published: PixelPlayer, server: Server, cache: Path) -> None:
    with pytest.raises(UserError) as error:
        fetch_published({}, (f"{server.root}/nowhere", f"{server.root}/neither"))
    message = str(error.value)
    assert "\n" not in message
    assert message.count("404") == 2
    assert f"save {', '.join(FILES.values())} of {published_module.MODEL} by hand" in message
    assert message.endswith(f"in {cache / 'published'}")
    export_published(published, cache / "published")
    assert_same_weights(load_model(fetch_published({}, ())).player, published)
    # A file that is replaced by hand is not hidden by what was made of the earlier one.
    generator = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(published.synthesizer.scale, generator=generator)
    export_published(published, cache / "published")
    assert_same_weights(load_model(fetch_published({}, ())).player, published)


def test_export_is_read_back(tmp_path: Path, model: Path) -> None:
    out = tmp_path / "share" / "flute model"
    assert main(["export", str(out), "--model", str(model), "--licence", "mit"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "model.safetensors"]
    before, after = load_model(model), load_model(out)
    assert_same_weights(after.player, before.player)
    assert after.params == before.params
    assert after.step == 7
    assert after.card.data == CARD.data
    assert (after.card.title, after.card.licence) == ("flute model", "mit")
    separator = sop.Separator.load(out, "cpu")
    assert separator.about is not None
    assert separator.about.name == "flute model"
    header = yaml.safe_load((out / "README.md").read_text().split("---\n")[1])
    assert header["license"] == "mit"
    assert header["pipeline_tag"] == "audio-to-audio"


def test_card_page_shows_names_as_they_are(model: Path) -> None:
    card = CARD.model_copy(
        update={"metrics": (MetricCard(name="SDR", value=7.1, unit="dB"),), "licence": "a: b\n- c"}
    )
    page = card_page(card, load_model(model))
    assert "<script>" not in page.split("---\n", 2)[2]
    assert "# a \\| b \\<script\\>" in page
    assert "| flute | 3 | 0.50 |" in page
    header = yaml.safe_load(page.split("---\n")[1])
    assert header["license"] == "a: b\n- c"
    (index,) = header["model-index"]
    assert index["results"][0]["metrics"][0]["value"] == 7.1


def test_metrics_of_another_model_are_not_exported(
    tmp_path: Path, model: Path, tiny_params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real files of DVC: the committed metrics and dvc.lock."""
    for name in ("metrics/details/evaluate.json", "dvc.lock"):
        place = Path(name)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((ROOT / name).read_bytes())
    Path("data/model").mkdir(parents=True)
    for name in ("last.pt", "best.pt"):
        (Path("data/model") / name).write_bytes(model.read_bytes())
    assert main(["export", "out"]) == 0
    assert "NOTE no metrics: metrics/details/evaluate.json: dvc.lock does not say" in (
        capsys.readouterr().out
    )
    assert not Path("out/metrics.json").exists()
    lock = yaml.safe_load(Path("dvc.lock").read_text())
    (entry,) = (dep for dep in lock["stages"]["evaluate"]["deps"] if dep["path"] == "data/model")
    entry["md5"] = f"{dvc_hash(Path('data/model'))}.dir"
    Path("dvc.lock").write_text(yaml.safe_dump(lock))
    assert main(["export", "out"]) == 0
    assert "no metrics" not in capsys.readouterr().out
    exported = json.loads(Path("out/metrics.json").read_text())
    assert exported["evaluate"] == json.loads(Path("metrics/details/evaluate.json").read_text())
    assert [metric.name for metric in load_model(Path("out")).card.metrics][:2] == ["SDR", "SIR"]


def dvc_hash(folder: Path) -> str:
    """The hash that DVC itself gives a folder."""
    from dvc_data.hashfile.build import build as build_tree
    from dvc_data.hashfile.db import HashFileDB
    from dvc_objects.fs.local import LocalFileSystem

    fs = LocalFileSystem()
    database = HashFileDB(fs, str(folder.parent / "odb"))
    _, _, tree = build_tree(database, str(folder.resolve()), fs, "md5")
    return str(tree.hash_info.value).removesuffix(".dir")


def test_show_and_list(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("data/model").mkdir(parents=True)
    Path("data/model/last.pt").write_bytes(model.read_bytes())
    Path("data/model/damaged.pt").write_text("?")
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("data/model/damaged.pt: rejected, it is not a checkpoint")
    assert lines[1] == "data/model/last.pt: trained on local, 3 videos of 1 categories"
    assert any(line.startswith("published: the weights of the paper") for line in lines)
    assert main(["models", "show", "data/model/last.pt"]) == 0
    shown = capsys.readouterr().out
    assert "trained on  local, 3 videos of 1 categories, 0.50 hours" in shown
    assert "flute: 3, 0.50" in shown
    with pytest.raises(UserError, match=r"none\.pt: no such checkpoint"):
        main(["models", "show", "none.pt"])


def test_model_without_a_card(tmp_path: Path, tiny_params: Params) -> None:
    player = build(tiny_params.model, tiny_params.spectrogram, seed=1)
    save_player(tmp_path / "old.pt", player, tiny_params, step=3)
    assert "card" not in torch.load(tmp_path / "old.pt", weights_only=True)
    assert load_model(tmp_path / "old.pt").card == ModelCard()
    assert main(["models", "show", str(tmp_path / "old.pt")]) == 0


@pytest.mark.parametrize(
    "card",
    [
        7,
        {"data": {"source": "x" * 501}},
        {"data": {"source": "x", "videos": -1}},
        {"metrics": [{"name": "SDR", "value": float("inf")}]},
        {"metrics": [{"name": "SDR", "value": 1.0}] * 101},
        {"title": ["x"]},
    ],
)
def test_cards_that_are_refused(model: Path, card: Any) -> None:
    content = torch.load(model, weights_only=True)
    save_checkpoint(model, content | {"card": card})
    with pytest.raises(UserError, match=r"model\.pt: its card is not valid"):
        load_model(model)


def test_card_of_a_later_version_is_read() -> None:
    assert read_card({"title": "x", "colour": "red"}, "model.pt").title == "x"
    assert read_card(card_values(CARD), "model.pt") == CARD


def test_card_of_equal_trainings_is_equal(tmp_path: Path, default_params: Params) -> None:
    videos = []
    for category, seconds in (("flute", 36), ("violin", 18), ("flute", 18)):
        path = tmp_path / category / f"{seconds}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, np.zeros(seconds * 8000), 8000)
        videos.append(Video(path, path, 1))
    card = training_card(default_params, videos)
    assert card == training_card(default_params, videos)
    assert (card.date, card.revision, card.metrics) == ("", "", ())
    assert card.data is not None
    assert (card.data.source, card.data.videos, card.data.hours) == ("synthetic", 3, 0.02)
    assert card.data.categories["flute"] == CategoryCard(videos=2, hours=0.015)
    missing = Video(tmp_path / "flute" / "none.wav", tmp_path, 1)
    data = training_card(default_params, [missing]).data
    assert data is not None
    assert (data.videos, data.hours) == (1, 0)


def test_safetensors(tmp_path: Path) -> None:
    tensors = {
        "a": torch.arange(6.0).reshape(2, 3),
        "b": torch.tensor(7),
        "c": torch.zeros(0, 4, dtype=torch.float16),
        "d": torch.tensor([True, False]),
        "e": torch.randn(3, dtype=torch.bfloat16),
    }
    path = tmp_path / "x.safetensors"
    write_safetensors(path, tensors, {"note": "é", "step": 3})
    found, description = read_safetensors(path)
    assert description == {"note": "é", "step": 3}
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def header_of(**changes: Any) -> bytes:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes
    text = json.dumps({"a": entry}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(8)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b"\xff{}\x00",
        struct.pack("<Q", 40_000) + b"[" * 40_000,
        header_of(dtype="F99"),
        header_of(shape=[3]),
        header_of(shape=[2**40], data_offsets=[0, 2**42]),
        header_of(shape=[-2], data_offsets=[8, 0]),
        header_of(shape=[True, 2]),
        header_of(data_offsets=[4, 12]),
        header_of(shape=[1], data_offsets=[0, 4]),
        header_of(shape="2"),
        header_of(data_offsets=[0]),
        header_of(dtype="F8_E4M3", shape=[8]),
        header_of(dtype="F4", shape=[16]),
    ],
)
def test_safetensors_that_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a readable safetensors file") as error:
        read_safetensors(path)
    assert "\n" not in str(error.value)


def test_export_of_another_kind_of_file(tmp_path: Path, model: Path) -> None:
    out = tmp_path / "out"
    export_model(load_model(model), model, out, "x", "")
    tensors, description = read_safetensors(out / "model.safetensors")
    for changed, message in (
        ({"params": []}, "its params are a list"),
        ({"params": {}}, "parameters are missing"),
        ({"card": 7}, "its card is not valid"),
    ):
        write_safetensors(out / "model.safetensors", tensors, description | changed)
        with pytest.raises(UserError, match=message):
            load_model(out)
    with pytest.raises(UserError, match="not a folder of `sop export`"):
        sop.Separator.load(tmp_path)


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SOP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "sound-of-pixels"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path.home() / ".cache" / "sound-of-pixels"
