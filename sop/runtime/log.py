"""The log of a program: what the library reports through `logging`, as plain lines."""

import logging
import sys

from tqdm import tqdm


def show_log() -> None:
    """Print what `sop` logs to standard output, without breaking a progress bar.

    Programs call this. Code that imports the library gets no output, as with any logger, unless it
    configures `logging`.
    """
    logger = logging.getLogger("sop")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if not any(isinstance(handler, _LineHandler) for handler in logger.handlers):
        logger.addHandler(_LineHandler())


class _LineHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()
