"""Checks of params.yaml and of what it names."""

from collections.abc import Callable
from pathlib import Path

import pygit2

from sop.dataset.index import read_split
from sop.dataset.protocol import read_pairs
from sop.download.download import LOCAL_SOURCES, check_apart
from sop.download.fetch_settings import check_fetch_settings
from sop.download.local import find_videos
from sop.download.own_list import read_own_list
from sop.download.urmp import find_pieces
from sop.params import NETS, Params
from sop.runtime.errors import UserError
from sop.runtime.log import printable

# Folders in which stages write.
OUTPUTS = ("data", "metrics")

# Where DVC makes the folders of experiments that do not run in the project's own.
TEMPORARY = ".dvc/tmp/exps/"

VIDEOS = Path("data/videos")
# DVC removes it before the stage `train` starts.
MODEL = Path("data/model")


def check(params: Params) -> None:
    """Check what can be checked before any work.

    Initial weights from the web are downloaded, if they are not there yet.

    Args:
        params: all parameters.

    Raises:
        UserError: something is wrong; one message names all of it.
    """
    checks: list[Callable[[], None]] = [
        check_folders,
        check_git,
        lambda: check_videos(params),
        lambda: check_fetch_settings(params.dataset),
        lambda: check_boxes(params),
        lambda: check_lists(params),
        lambda: check_training(params),
        lambda: check_weights(params),
    ]
    problems = []
    for one in checks:
        try:
            one()
        except UserError as error:
            problems.append(str(error))
    if problems:
        if TEMPORARY in str(Path.cwd()):
            problems.append(
                "`dvc exp run` with --temp or --queue works in a copy of what Git and DVC track: "
                "use absolute paths for everything else, or `dvc add` it"
            )
        raise UserError("; ".join(problems))


def check_folders() -> None:
    """Check that DVC can store what stages write.

    Raises:
        UserError: a folder is a link to a place outside of the repository.
    """
    for name in OUTPUTS:
        if Path(name).is_symlink():
            raise UserError(
                f"{name}: it is a symbolic link, behind which DVC stores nothing; make it a folder "
                "in which single folders, such as data/videos, are links to another disk"
            )


def check_git() -> None:
    """Check that the repository has a commit, if there is a repository.

    Raises:
        UserError: it has none.
    """
    try:
        repository = pygit2.Repository(".")
    except pygit2.GitError:
        # DVC works without Git if its option core.no_scm is set.
        return
    if repository.head_is_unborn:
        raise UserError(
            "git: the repository has no commit, which training needs; run `git add --all`, "
            "then `git commit`"
        )


def check_videos(params: Params) -> None:
    """Check the folder or the list of the user's own videos.

    Raises:
        UserError: it is missing, empty or invalid.
    """
    dataset = params.dataset
    if dataset.source in LOCAL_SOURCES:
        check_apart(params, VIDEOS)
        folder = Path(dataset.local.folder)
        _check_names(folder)
        if dataset.source == "urmp":
            find_pieces(folder)
        else:
            find_videos(folder, dataset.local.category)
        if dataset.source == "local" and dataset.local.by_list:
            read_own_list(Path(dataset.lists.own), dataset.fetch.video_url, of_files=True)
    elif dataset.source == "list":
        read_own_list(Path(dataset.lists.own), dataset.fetch.video_url)


def _check_names(folder: Path) -> None:
    """Check that DVC, on which `download` depends for this folder, can write all names in it."""
    for path in sorted(folder.rglob("*")):
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise UserError(
                f"dataset.local.folder: {printable(str(path))}: the name is not UTF-8; rename it"
            ) from None


def check_boxes(params: Params) -> None:
    """Check the files of boxes.

    Raises:
        UserError: one is missing or of another format.
    """
    if params.localize.boxes:
        # Imports PyTorch, which takes seconds.
        from sop.localize.boxes import read_boxes

        read_boxes(map(Path, params.localize.boxes))


def check_lists(params: Params) -> None:
    """Check the lists of the split and of the mixtures.

    Raises:
        UserError: one is missing, is outside of its folder, or has another form.
    """
    split, pairs = params.index.split, params.evaluate.pairs
    folder = Path(split.folder)
    names = {
        f"index.split.{side}": getattr(split, side) for side in ("train", "validation", "test")
    }
    named = {key: name for key, name in {**names, "evaluate.pairs": pairs}.items() if name}
    # Stages depend on it, with or without lists.
    if not folder.is_dir():
        raise UserError(f"index.split.folder: {folder} is not a folder; create it")
    for key, name in named.items():
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{key}: {name} leads out of {folder}; copy the list into that folder")
    lists = read_split(split)
    if pairs is not None:
        measured = lists.get("test", lists.get("validation", ()))
        if measured:
            read_pairs(folder / pairs, "evaluate.pairs", measured)
        elif not (folder / pairs).is_file():
            raise UserError(f"evaluate.pairs: {folder / pairs} not found; copy the list there")


def check_training(params: Params) -> None:
    """Check the device, and settings of the training that depend on the devices.

    Raises:
        UserError: this machine lacks the device, a batch cannot be divided among the devices, or
            the devices have no GPU.
    """
    train = params.train
    if params.device.startswith("cuda"):
        # Imports PyTorch, which takes seconds.
        from sop.runtime.device import choose_device

        choose_device(params.device)
    if train.devices != "auto":
        # Imports PyTorch, which takes seconds.
        from sop.train.loader import make_plan

        make_plan(train, train.batch_size, train.devices)
    if train.sync_batch_norm and params.device == "cpu":
        raise UserError("train.sync_batch_norm: PyTorch supports it on GPUs only; set it to false")


def check_weights(params: Params) -> None:
    """Check that the initial weights exist and fit the networks.

    Raises:
        UserError: a file is missing, damaged, of another architecture, or cannot be downloaded.
    """
    sources = {net: getattr(params.model.weights, net) for net in NETS}
    for net, source in sources.items():
        if Path(source).resolve().is_relative_to(MODEL.resolve()):
            raise UserError(
                f"model.weights.{net}: {source} is removed before the training that would start "
                "from it; copy it to a place outside of data/model"
            )
    if set(sources.values()) != {"scratch"}:
        # Imports PyTorch, which takes seconds.
        from sop.model.pixelplayer import build
        from sop.train.initial_weights import load_initial_weights

        load_initial_weights(
            build(params.model, params.spectrogram, params.train.seed), params.model
        )
