"""Instruments of the MUSIC datasets, and the instruments of a category."""

from collections.abc import Collection

MUSIC21_INSTRUMENTS = (
    *("accordion", "acoustic_guitar", "bagpipe", "banjo", "bassoon", "cello", "clarinet"),
    *("congas", "drum", "electric_bass", "erhu", "flute", "guzheng", "piano", "pipa"),
    *("saxophone", "trumpet", "tuba", "ukulele", "violin", "xylophone"),
)


def instruments_of(category: str, known: Collection[str]) -> tuple[str, ...]:
    """Return the instruments of a category: one, or two for a duet (`acoustic_guitar_violin`).

    Args:
        category: name of a folder.
        known: names of instruments in addition to those of MUSIC21; it may contain other
            categories, including duets.

    Returns:
        Both names if the category is two known ones joined by an underscore, else the category.
    """
    if category not in MUSIC21_INSTRUMENTS:
        names = {*known, *MUSIC21_INSTRUMENTS}
        words = category.split("_")
        for split in range(1, len(words)):
            first, second = "_".join(words[:split]), "_".join(words[split:])
            if first in names and second in names:
                return (first, second)
    return (category,)
