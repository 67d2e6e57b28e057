"""The commands `export-published` and `import-published`: models of the published code."""

import argparse
from pathlib import Path
from typing import Any

from sop.catalogue.names import DEFAULT, require_model
from sop.cli.options import add_model_option, add_path_option
from sop.runtime.errors import UserError
from sop.runtime.files import require_place
from sop.runtime.log import say


def add_parser(commands: Any) -> None:
    """Add the arguments of both commands."""
    export = commands.add_parser(
        "export-published",
        help="write a model as the three files of the published code",
        description="Write a model as the three files that the published code loads.",
    )
    add_model_option(export)
    add_path_option(export, "--out", "DIR", "folder for the files", Path("data/published-export"))
    export.set_defaults(run=run_export)
    import_ = commands.add_parser(
        "import-published",
        help="download the published model, to evaluate it without training",
        description="Download the published model that params.yaml names and write it as a "
        "checkpoint of this project; `python -m stages.evaluate` evaluates it. The other values in "
        "params.yaml must match the model: `sop preset music` sets them.",
    )
    add_path_option(import_, "--out", "FILE", "the checkpoint to write", DEFAULT)
    import_.set_defaults(run=run_import)


def run_export(options: argparse.Namespace) -> int:
    """Write the files and print their paths."""
    require_model(options.model)
    require_place(options.out, "folder")

    # Imports PyTorch, which takes seconds.
    from sop.catalogue.find import find_model
    from sop.model.checkpoint import load_player
    from sop.params import PUBLISHED_WIDTH
    from sop.train.published import export_published

    player, params = load_player(find_model(options.model)[1])
    for path in export_published(player, options.out):
        say(str(path))
    if {params.model.sound_width, params.model.vision_width} != {PUBLISHED_WIDTH}:
        say(
            f"The published code cannot load these files: its nets are of width {PUBLISHED_WIDTH} "
            f"only, but model.sound_width is {params.model.sound_width} and model.vision_width is "
            f"{params.model.vision_width}."
        )
    return 0


def run_import(options: argparse.Namespace) -> int:
    """Download the model and write the checkpoint."""
    if options.out.exists():
        raise UserError(f"{options.out}: already exists; move it away, or set --out")
    require_place(options.out, "file")
    # Imports pydantic, which `sop --help` does not need.
    from sop.params import load_params

    wanted = load_params()

    # Imports PyTorch, which takes seconds.
    from sop.model.checkpoint import save_player
    from sop.train.initial_weights import published_player

    player, params = published_player(wanted)
    try:
        save_player(options.out, player, params, step=0)
    except OSError as error:
        raise UserError(f"{options.out}: cannot be written ({error.strerror})") from None
    say(str(options.out))
    say("`python -m stages.evaluate` evaluates it.")
    return 0
