"""Stage `report`: write one page on the run, with pictures and sounds."""

from pathlib import Path

from sop.params import load_params
from sop.report.contents import write_report
from sop.runtime.log import say
from sop.runtime.stage import run_stage


def main() -> None:
    page = write_report(
        Path(), folder=Path("data/report"), plots=Path("metrics/report"), params=load_params()
    )
    say(f"Open {page}")


if __name__ == "__main__":
    run_stage("report", main, __doc__)
