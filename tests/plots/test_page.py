"""The page of `dvc plots show` and `dvc plots diff` in a browser that has no network."""

import configparser
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from sop.plots.page import PLOTS_PAGE, plots_page
from tests.support.experiment import ROOT
from tests.support.repository import Repository

DECLARED = yaml.safe_load((ROOT / "dvc.yaml").read_text("utf-8"))["plots"]
HOSTILE = '</script><script>document.title="taken"</script><img src=x>'


def test_page_in_the_repository_is_up_to_date() -> None:
    assert (ROOT / PLOTS_PAGE).read_text("utf-8") == plots_page(), "run `python -m sop.plots.page`"
    config = configparser.ConfigParser()
    config.read(ROOT / ".dvc/config", "utf-8")
    assert ROOT / ".dvc" / config["plots"]["html_template"] == ROOT / PLOTS_PAGE


def test_page_names_the_licenses_of_what_it_contains() -> None:
    text = plots_page()
    for holder in ("University of Washington Interactive Data Lab", "Mike Bostock", "Mapbox"):
        assert holder in text[:20_000]


def dvc(folder: Path, *arguments: str) -> None:
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    command = [sys.executable, "-m", "dvc", *arguments]
    subprocess.run(command, cwd=folder, check=True, env=environment, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the default experiment, in two commits with different losses."""
    repository = Repository(tmp_path_factory.mktemp("plots") / "project")
    for name in (".dvc/config", ".dvc/plots.html", "dvc.yaml", "params.yaml"):
        repository.write({name: (ROOT / name).read_bytes()})
    shutil.copytree(ROOT / ".dvc/plots", repository.folder / ".dvc/plots")
    shutil.copytree(ROOT / "metrics", repository.folder / "metrics")
    repository.commit()
    table = repository.folder / "metrics/train/plots/metrics/train/loss.tsv"
    table.write_text("step\tloss\n0\t1.0\n700\t0.5\n1400\t0.2\n")
    repository.commit()
    return repository.folder


@pytest.fixture
def offline(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1400, "height": 900}, offline=True)
    yield context
    context.close()


def opened(context: Any, written: Path) -> Any:
    page = context.new_page()
    page.requested, page.mistakes = [], []
    page.on("request", lambda request: page.requested.append(request.url))
    page.on("pageerror", lambda error: page.mistakes.append(str(error)))
    page.set_default_timeout(120_000)
    page.goto(written.as_uri())
    page.drawn = page.evaluate("plots")
    return page


def check_all_plots(page: Any, folder: Path) -> None:
    """Check that every declared plot is on the picture of its place, and no network was asked."""
    assert page.drawn == len(DECLARED)
    places = page.locator("#plots > div")
    for k in range(page.drawn):
        picture = folder / f"{k}.png"
        places.nth(k).screenshot(path=picture)
        colours = np.unique(np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3), axis=0)
        # A message or an empty chart would be a few shades of gray.
        assert (np.ptp(colours.astype(int), axis=1) > 60).sum() > 5, places.nth(k).inner_text()
    assert page.locator("#plots svg.marks").count() == len(DECLARED) - 2
    widths = page.eval_on_selector_all("#plots img", "all => all.map(one => one.naturalWidth)")
    assert len(widths) >= 2 and min(widths) > 600
    assert page.mistakes == []
    assert [url for url in page.requested if not url.startswith(("file:", "data:"))] == []


@pytest.mark.slow
def test_every_plot_is_drawn_without_network(offline: Any, project: Path, tmp_path: Path) -> None:
    """In any folder, as `dvc plots show --out` can name one."""
    dvc(project, "plots", "show", "--out", "some where/plots")
    page = opened(offline, project / "some where/plots/index.html")
    check_all_plots(page, tmp_path)
    texts = set(page.locator("#plots svg text").all_text_contents())
    assert {name for plot in DECLARED if isinstance(plot, dict) for name in plot} <= texts


@pytest.mark.slow
def test_every_plot_of_two_revisions(offline: Any, project: Path, tmp_path: Path) -> None:
    dvc(project, "plots", "diff", "HEAD~1", "HEAD", "--out", "two")
    page = opened(offline, project / "two/index.html")
    check_all_plots(page, tmp_path)
    texts = page.locator("#plots svg").first.locator("text").all_text_contents()
    assert {"HEAD~1", "HEAD"} <= set(texts)
    assert page.locator("#plots img").count() == 4


@pytest.mark.slow
def test_hostile_names_run_no_script(offline: Any, project: Path, tmp_path: Path) -> None:
    """Names of videos are in the tables; DVC writes them into scripts as they are."""
    copy = tmp_path / "copy"
    shutil.copytree(project, copy)
    table = copy / "metrics/evaluate/categories.csv"
    table.write_text(table.read_text().replace("flute", f'"{HOSTILE.replace(chr(34), "")}"', 1))
    dvc(copy, "plots", "show")
    page = opened(offline, copy / "dvc_plots/index.html")
    assert page.title() == "DVC plots"
    assert page.locator("#plots svg.marks").count() == len(DECLARED) - 3
    assert "SDR_by_category cannot be drawn" in page.locator("#plots").inner_text()
