"""The page that `dvc plots show` and `dvc plots diff` fill, with Vega-Lite in it.

DVC's own page loads Vega-Lite from the network. `.dvc/config` names this one instead. It is in git,
because DVC reads it before any stage has run: `python -m sop.plots.page` writes it again
after a change of `plots.html`, `plots.js` or of the version of Vega-Lite.
"""

import re
from pathlib import Path

from sop.player.embedded import digest
from sop.report import charts
from sop.runtime.files import write_text

PLOTS_PAGE = Path(".dvc/plots.html")
"""Relative to the root of the repository."""

_SOURCES = Path(__file__).parent


def plots_page() -> str:
    """Return the page, with DVC's placeholders `{refresh_tag}` and `{plot_divs}`.

    It contains no `{scripts}`, which is where DVC would load Vega-Lite from the network. The policy
    allows two scripts, those of this page, and no connections.
    """
    library = charts.library()
    script = (_SOURCES / "plots.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; script-src '{digest(library)}' '{digest(script)}'; "
        "style-src 'unsafe-inline'; img-src 'self' file: data:; base-uri 'none'; form-action 'none'"
    )
    parts = {"licenses": charts.licenses(), "policy": policy, "library": library, "script": script}
    page = (_SOURCES / "plots.html").read_text(encoding="utf-8")
    return re.sub(r"\[\[(\w+)\]\]", lambda found: parts[found[1]], page)


if __name__ == "__main__":
    write_text(PLOTS_PAGE, plots_page())
