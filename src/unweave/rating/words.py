"""What the page says."""

import math

_SECONDS_A_GRID = 8

WELCOME = "Rating study"
GONE = "There is nothing here. If you were given a link, check that it was copied whole."
THANKS = "Thank you."
NOT_STORED = "That could not be stored. Please try again in a moment."
NOT_LOADED = "The picture could not be loaded. Please reload this page; nothing is lost."
ELSEWHERE = "This study moved on in another window; here is where it stands."
KEYS = "Keys: 1 to 7 rate, u or Backspace takes the last rating back."


def what_comes(total: int, images: int) -> list[str]:
    """The start page's explanation."""
    minutes = max(1, math.ceil(total * _SECONDS_A_GRID / 60))
    return [
        f"You will see {total} grids of {images} pictures, one grid after the other; most people need about {minutes} "
        f"minute{'s' if minutes > 1 else ''}. Look at each grid as a whole and press the number that fits best.",
        "There is no right answer; your first impression is what counts. Please do not talk about the grids with "
        "others before everybody is done.",
        "Every rating is stored at once. You can close this page at any time and come back by the same link.",
    ]


def pause(done: int, total: int) -> str:
    """Said after each third."""
    part = "One third" if done * 2 < total else "Two thirds"
    return f"{part} done. This is a good moment to look away from the screen for a minute."


def all_done(total: int) -> str:
    """Said at the end."""
    return f"All {total} grids are rated, and your ratings are stored. You can close this page."
