"""What a program prints: results, and what the library reports through `logging`, line by line."""

import logging
import sys

from tqdm import tqdm


def printable(text: str) -> str:
    r"""Return text on one line, without characters that control a terminal.

    Names of files, keys of files and messages of other programs may contain anything. Control
    characters, line breaks, spaces other than ` ` and marks that reverse the direction of text are
    shown as escapes, such as `\x1b`; so are bytes of file names that are not UTF-8.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def say(*lines: str) -> None:
    """Print lines to standard output, each made printable."""
    for line in lines:
        print(printable(line))


def counted(count: int, one: str, several: str) -> str:
    """Return a number with the words for one or for several: `1 video stands`."""
    return f"{count} {one if count == 1 else several}"


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
        tqdm.write(printable(self.format(record)), file=sys.stdout)
        sys.stdout.flush()


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    # Python represents a byte that is not UTF-8 as a surrogate.
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
