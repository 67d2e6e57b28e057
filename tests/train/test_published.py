import hashlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sop.model.pixelplayer import PixelPlayer, build
from sop.params import Net, Params, PublishedParams
from sop.runtime import web
from sop.runtime.errors import UserError
from sop.train import published
from sop.train.initial_weights import load_initial_weights, published_player
from sop.train.published import FILES, download, export_published
from tests.support.experiment import Reference, assert_same_weights, with_values
from tests.support.server import (
    Answer,
    Handler,
    Server,
    file_of,
    redirect,
    serving,
    stalled,
    status,
    truncated,
)

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL = "MUSIC-tiny"
ALL_PUBLISHED = {"sound": "published", "vision": "published", "synthesizer": "published"}


class Trap:
    """Creates a folder when it is unpickled without restrictions."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"mkdir '{self.path}'",)


@pytest.fixture
def player(tiny_params: Params) -> PixelPlayer:
    return build(tiny_params.model, tiny_params.spectrogram, seed=1)


@pytest.fixture
def server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, player: PixelPlayer
) -> Iterator[Server]:
    """Serve the files of the player; the working directory is another folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    export_published(player, tmp_path / "served" / "release" / MODEL)
    with serving(tmp_path / "served") as server:
        yield server


@pytest.fixture
def params(server: Server) -> PublishedParams:
    return PublishedParams(url=f"{server.root}/release/", model=MODEL, sha256={})


def served(server: Server, name: str) -> Path:
    return server.folder / "release" / MODEL / FILES[name]


def with_hash(params: PublishedParams, name: str, sha256: str) -> PublishedParams:
    return params.model_copy(update={"sha256": {name: sha256}})


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def raw(data: bytes, kind: str = "application/octet-stream") -> Answer:
    return lambda handler: handler.body(data, kind)


def failure(params: PublishedParams, name: Net = "sound") -> str:
    """Return the one-line error of a download, which keeps no file."""
    with pytest.raises(UserError) as error:
        download(name, params)
    line = str(error.value)
    assert line.isprintable()
    assert line.startswith(
        f"{params.url.rstrip('/')}/{MODEL}/{FILES[name]}: cannot be downloaded ("
    )
    for part in (
        f"save the file as data/published/{MODEL}/{FILES[name]}",
        f"model.weights.{name} to scratch",
    ):
        assert part in line
    assert len(line) < 800
    assert not [path for path in Path().rglob("*") if path.is_file()]
    return line


# Download


@pytest.mark.parametrize("end", ["", "/"])
def test_file_is_downloaded_once(server: Server, params: PublishedParams, end: str) -> None:
    params = params.model_copy(update={"url": f"{server.root}/release{end}"})
    for name in FILES:
        path = download(name, params)
        assert path == Path("data/published") / MODEL / FILES[name]
        assert path.read_bytes() == served(server, name).read_bytes()
        download(name, params)
    assert [path for path, _ in server.asked] == [
        f"release/{MODEL}/{file}"
        for file in ("sound_best.pth", "frame_best.pth", "synthesizer_best.pth")
    ]


def test_hash_is_logged_if_none_is_expected(
    server: Server, params: PublishedParams, capsys: pytest.CaptureFixture[str]
) -> None:
    download("vision", params)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"downloading {params.url}{MODEL}/frame_best.pth"
    assert hash_of(served(server, "vision")) in said[1]
    assert "model.published.sha256.vision" in said[1]


def test_file_of_the_expected_hash(
    server: Server, params: PublishedParams, capsys: pytest.CaptureFixture[str]
) -> None:
    params = with_hash(params, "sound", hash_of(served(server, "sound")))
    download("sound", params)
    download("sound", params)
    assert len(server.asked) == 1
    assert "sha256" not in capsys.readouterr().out


def test_file_of_another_hash(server: Server, params: PublishedParams) -> None:
    line = failure(with_hash(params, "vision", "0" * 64), "vision")
    for part in (hash_of(served(server, "vision")), "0" * 64, "model.published.sha256.vision"):
        assert part in line
    assert "scratch, imagenet or the path" in line


def test_wrong_file_is_downloaded_again(server: Server, params: PublishedParams) -> None:
    params = with_hash(params, "sound", hash_of(served(server, "sound")))
    place = Path("data/published") / MODEL / FILES["sound"]
    place.parent.mkdir(parents=True)
    place.write_bytes(b"half of it")
    assert download("sound", params).read_bytes() == served(server, "sound").read_bytes()


def test_wrong_file_stays_if_the_server_has_no_better_one(params: PublishedParams) -> None:
    place = Path("data/published") / MODEL / FILES["sound"]
    place.parent.mkdir(parents=True)
    place.write_bytes(b"by hand")
    with pytest.raises(
        UserError, match=r"cannot be downloaded \(its SHA-256 is .*, expected 0{64}"
    ):
        download("sound", with_hash(params, "sound", "0" * 64))
    assert place.read_bytes() == b"by hand"


def test_existing_file_needs_no_server(params: PublishedParams, tmp_path: Path) -> None:
    place = tmp_path / "kept" / MODEL / FILES["sound"]
    place.parent.mkdir(parents=True)
    place.write_bytes(b"by hand")
    offline = params.model_copy(update={"url": "http://no-such-host.invalid"})
    assert download("sound", offline, tmp_path / "kept") == place


def test_redirect_is_followed(server: Server, params: PublishedParams) -> None:
    place = f"release/{MODEL}/sound_best.pth"
    server.answers[place] = redirect("/elsewhere.pth")
    server.answers["elsewhere.pth"] = file_of(served(server, "sound"))
    assert download("sound", params).read_bytes() == served(server, "sound").read_bytes()


def endless(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    while True:
        handler.wfile.write(bytes(65536))


def broken_chunks(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"1000\r\nonly a little")
    handler.close_connection = True


def rude(handler: Handler) -> None:
    handler.send_response(500, "\x1b[31mred" + "x" * 5000)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


PAGE = b"<!DOCTYPE html>\n<title>Sign in</title>"

ANSWERS: dict[str, tuple[Callable[[Path], Answer], str]] = {
    "absent": (lambda _: status(404), "answers 404"),
    "web page": (lambda _: raw(PAGE, "text/html; charset=utf-8"), "a web page"),
    "web page in disguise": (lambda _: raw(PAGE), "not a checkpoint"),
    "nothing": (lambda _: raw(b""), "not a readable checkpoint"),
    "half": (lambda path: truncated(path, 0.5), "it ends after"),
    "half, unannounced": (lambda path: truncated(path, 0.5, False), "not a readable checkpoint"),
    "nearly all, unannounced": (lambda path: truncated(path, 0.999, False), "not a readable"),
    "broken chunks": (lambda _: broken_chunks, "IncompleteRead"),
    "redirect loop": (lambda _: redirect("sound_best.pth"), "infinite loop"),
    "redirect elsewhere": (lambda _: redirect("file:///etc/passwd"), "not allowed"),
    "endless": (lambda _: endless, "larger than"),
    "rude": (lambda _: rude, "answers 500"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_bad_answer_gives_one_line_and_no_file(
    server: Server, params: PublishedParams, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "MAX_FILE_BYTES", 10_000_000)
    answer, said = ANSWERS[case]
    server.answers[f"release/{MODEL}/sound_best.pth"] = answer(served(server, "sound"))
    assert said in failure(params)


@pytest.mark.parametrize("drip", [False, True])
def test_stalled_or_slow_server(
    server: Server, params: PublishedParams, monkeypatch: pytest.MonkeyPatch, drip: bool
) -> None:
    monkeypatch.setattr(published, "STALL_SECONDS", 0.5)
    monkeypatch.setattr(web, "TIMEOUT_SECONDS", 1.0)
    over = threading.Event()
    answer = stalled(served(server, "sound"), over, drip)
    server.answers[f"release/{MODEL}/sound_best.pth"] = answer
    assert ("takes longer" if drip else "timed out") in failure(params)
    over.set()


def test_no_network_gives_one_line(params: PublishedParams) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        assert "refused" in failure(params.model_copy(update={"url": address}))
    address = "http://no-such-host.invalid/release"
    assert "cannot be downloaded" in failure(params.model_copy(update={"url": address}))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("old_format", [False, True])
def test_code_in_a_file_is_not_executed(
    server: Server, params: PublishedParams, tmp_path: Path, old_format: bool
) -> None:
    executed = tmp_path / "executed"
    torch.save(
        {"bn0.weight": torch.ones(1), "bn0.bias": Trap(executed)},
        served(server, "sound"),
        _use_new_zipfile_serialization=not old_format,
    )
    assert "could execute code are never loaded" in failure(params)
    assert not executed.exists()
    torch.load(served(server, "sound"), weights_only=False)
    assert executed.exists()


# Loading and export


def test_exported_model_is_loaded_bit_for_bit(
    server: Server, params: PublishedParams, player: PixelPlayer, tiny_params: Params
) -> None:
    for value in player.buffers():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5)
    export_published(player.to(memory_format=torch.channels_last), served(server, "sound").parent)
    values = {"model.weights": ALL_PUBLISHED, "model.published": params.model_dump()}
    model = with_values(tiny_params, values).model
    other = build(model, tiny_params.spectrogram, seed=2)
    load_initial_weights(other, model)
    assert_same_weights(other, player)


def test_only_published_nets_are_downloaded(
    server: Server, params: PublishedParams, player: PixelPlayer, tiny_params: Params
) -> None:
    values = {"model.weights.vision": "published", "model.published": params.model_dump()}
    model = with_values(tiny_params, values).model
    other = build(model, tiny_params.spectrogram, seed=2)
    load_initial_weights(other, model)
    assert_same_weights(other.vision, player.vision)
    assert not torch.equal(other.sound.down[0].weight, player.sound.down[0].weight)
    assert [path for path, _ in server.asked] == [f"release/{MODEL}/frame_best.pth"]


def test_published_player_has_published_weights(
    params: PublishedParams, player: PixelPlayer, tiny_params: Params
) -> None:
    asked = with_values(tiny_params, {"model.published": params.model_dump()})
    loaded, of = published_player(asked)
    assert_same_weights(loaded, player)
    assert of.model.weights.model_dump() == ALL_PUBLISHED
    assert not loaded.training


def test_other_parameters_fail_before_the_download(
    server: Server, params: PublishedParams, tiny_params: Params
) -> None:
    name = tiny_params.model.published.model
    where = params.model_copy(update={"model": name})
    with pytest.raises(UserError, match=r"set model\.sound unet7 instead of unet5, model\."):
        published_player(with_values(tiny_params, {"model.published": where.model_dump()}))
    assert server.asked == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("bn0.bias"), "norm.bias is missing"),
        (lambda state: state.update(extra=torch.zeros(1)), "'extra' is unknown"),
        (lambda state: state.update({"bn0.bias": torch.zeros(2)}), r"norm.bias is \(2,\), not \(1"),
        (lambda state: state.update({"bn0.bias": 3}), "norm.bias is a int"),
    ],
)
def test_file_of_other_tensors_names_the_architecture(
    server: Server,
    params: PublishedParams,
    tiny_params: Params,
    change: Callable[[dict[str, Any]], object],
    said: str,
) -> None:
    state = torch.load(served(server, "sound"), weights_only=True)
    change(state)
    torch.save(state, served(server, "sound"))
    with pytest.raises(UserError, match=said) as error:
        published_player(with_values(tiny_params, {"model.published": params.model_dump()}))
    line = str(error.value)
    assert line.isprintable()
    for part in ("sound_best.pth: ", "unet7, sound_width 64", "vision_width 64", "channels 32"):
        assert part in line


@pytest.mark.parametrize(
    ("sound", "vision", "synthesizer"),
    [
        ("unet5", "resnet18fc", "bias"),
        ("unet6", "resnet18dilated", "linear"),
        ("unet7", "resnet18dilated", "linear"),
    ],
)
def test_exported_names_are_published(
    tmp_path: Path,
    tiny_params: Params,
    reference: Reference,
    sound: str,
    vision: str,
    synthesizer: str,
) -> None:
    shapes = json.loads((Path(reference.recipe.__file__).parent / "shapes.json").read_text())
    values = {"model.sound": sound, "model.vision": vision, "model.synthesizer": synthesizer}
    values["mixture.audio_samples"] = 65535
    params = with_values(tiny_params, values)
    paths = export_published(build(params.model, params.spectrogram, seed=1), tmp_path)
    assert [path.name for path in paths] == list(FILES.values())
    for path, name in zip(paths, (sound, vision, synthesizer), strict=True):
        state = torch.load(path, weights_only=True)
        published_net = f"{path.name.removesuffix('_best.pth')}.{name}"
        assert type(state) is dict
        assert state.keys() == shapes[published_net].keys()
        assert {key: value.dim() for key, value in state.items()} == {
            key: len(shape) for key, shape in shapes[published_net].items()
        }


def test_exported_files_have_the_old_format(player: PixelPlayer, tmp_path: Path) -> None:
    for path in export_published(player, tmp_path):
        assert not path.read_bytes().startswith(b"PK")


def test_export_that_cannot_be_written(player: PixelPlayer, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/sound_best\.pth: cannot be written \("):
        export_published(player, tmp_path / "file")
