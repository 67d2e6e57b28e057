"""The commands `models` and `export`: which models there are, and folders to share them."""

import argparse
from pathlib import Path
from typing import Any

from sop.catalogue.names import PUBLISHED, cache_folder, require_model
from sop.cli.options import add_model_option, path_of
from sop.runtime.errors import UserError
from sop.runtime.files import require_place
from sop.runtime.log import say

MAX_LINE = 200


def add_parser(commands: Any) -> None:
    """Add the arguments of both commands."""
    models = commands.add_parser(
        "models",
        help="list the models that are there, or show one",
        description="List the models of this project and those that were fetched. `sop models "
        "show NAME` prints the card of one: what it was trained on, its size, its results.",
    )
    actions = models.add_subparsers(dest="action", metavar="ACTION")
    show = actions.add_parser("show", help="print the card of a model")
    show.add_argument("model", metavar="NAME", help="as for `sop separate --model`")
    show.set_defaults(run=run_show)
    models.set_defaults(run=run_list)
    export = commands.add_parser(
        "export",
        help="write a model as a folder to share",
        description="Write a folder with the weights (safetensors), a card for model hubs "
        "(README.md) and the metrics. `--model DIR` reads it.",
    )
    export.add_argument("folder", type=path_of("DIR"), metavar="DIR", help="folder for the files")
    add_model_option(export)
    export.add_argument("--title", type=_line("--title"), help="name on the card")
    export.add_argument(
        "--licence",
        type=_line("--licence"),
        help="licence of the weights, as model hubs name it, such as mit or cc-by-4.0",
    )
    export.set_defaults(run=run_export)


def run_list(options: argparse.Namespace) -> int:
    """Print the models, one a line."""
    # Imports PyTorch, which takes seconds.
    from sop.catalogue.find import list_models
    from sop.model.checkpoint import load_model

    found = list(list_models())
    for model in found:
        try:
            data = load_model(model.path).card.data if model.path.exists() else None
            about = "training videos not recorded" if data is None else f"trained on {data.source}"
            if data is not None and data.categories:
                about += f", {data.videos} videos of {len(data.categories)} categories"
        except UserError as error:
            about = str(error).removeprefix(f"{model.path}: ")
        say(f"{model.name}: {about}")
    if not found:
        say("No model is here; `dvc repro train` makes data/model/last.pt.")
    if all(model.name != PUBLISHED for model in found):
        say(f"{PUBLISHED}: the weights of the paper, which `--model {PUBLISHED}` fetches (160 MB)")
    say(f"Fetched models are in {cache_folder()}.")
    return 0


def run_show(options: argparse.Namespace) -> int:
    """Print the card of a model."""
    require_model(options.model)

    # Imports PyTorch, which takes seconds.
    from sop.catalogue.export import facts
    from sop.catalogue.find import find_model
    from sop.model.checkpoint import load_model
    from sop.runtime.hashes import sha256

    name, path = find_model(options.model)
    model = load_model(path)
    card = model.card
    say(card.title or name.shown)
    lines = [("file", str(path)), ("SHA-256", sha256(path)), *facts(card, model)]
    lines += [(metric.name, f"{metric.value:.2f} {metric.unit}") for metric in card.metrics]
    if card.protocol:
        lines.append(("protocol", card.protocol))
    width = max(len(label) for label, _ in lines)
    say(*(f"  {label:<{width}}  {value}" for label, value in lines))
    if card.data is not None and card.data.categories:
        say("  categories (videos, hours):")
        say(
            *(
                f"    {category}: {found.videos}, {found.hours:.2f}"
                for category, found in card.data.categories.items()
            )
        )
    return 0


def run_export(options: argparse.Namespace) -> int:
    """Write the folder and print its files."""
    name = require_model(options.model)
    require_place(options.folder, "folder")

    # Imports PyTorch, which takes seconds.
    from sop.catalogue.export import export_model
    from sop.catalogue.find import find_model
    from sop.model.checkpoint import load_model

    _, path = find_model(options.model)
    title = options.title or Path(options.folder).resolve().name or name.shown
    model = load_model(path)
    files, reason = export_model(model, path, options.folder, title, options.licence or "")
    if reason:
        say(f"NOTE no metrics: {reason}")
    if not options.licence and not model.card.licence:
        say("NOTE no licence: nobody may use the weights without one; --licence states it")
    say(f"{options.folder}: {', '.join(files)}")
    return 0


def _line(option: str) -> Any:
    """Return the conversion of an option to one line of text."""

    def convert(text: str) -> str:
        if not text.isprintable() or not text.strip() or len(text) > MAX_LINE:
            raise UserError(f"{option}: must be one line of at most {MAX_LINE} characters")
        return text

    return convert
