"""Colours of regions."""

# Distinguishable with colour blindness and bright enough on dark grey. Source: Okabe and Ito, Color
# Universal Design, 2008, in another order.
COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (204, 121, 167),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (0, 114, 178),
)


def hex_colour(number: int) -> str:
    """Return the colour of a region as `#rrggbb`; colours repeat.

    Args:
        number: index of the region, from 0.
    """
    return "#" + bytes(COLOURS[number % len(COLOURS)]).hex()
