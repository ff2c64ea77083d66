"""What a message shows of foreign content: short, on lines of its own making, and never costly."""

import reprlib

LONGEST = 2000  # characters of a whole message

_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_SHORT.maxtuple = _SHORT.maxlist = _SHORT.maxarray = _SHORT.maxdict = _SHORT.maxset = 4
_SHORT.maxstring = _SHORT.maxother = 80


def shown(value: object) -> str:
    """A value in at most a few hundred characters, whatever its size, depth or sharing.

    Strings keep their beginning and end, collections their first entries; control characters stand
    as escapes, as `repr` writes them.
    """
    try:
        return _SHORT.repr(value)
    except ValueError:  # a whole number of more digits than Python writes out
        return f"a {type(value).__name__} too long to write"


def clipped(text: str) -> str:
    """A message of at most LONGEST characters; control characters but the line's end as escapes."""
    # Twice: escapes are longer than what they stand for, and need not be made of all of it.
    return _cut("".join(map(_escaped, _cut(text))))


def _escaped(char: str) -> str:
    return char if char.isprintable() or char == "\n" else ascii(char)[1:-1]


def _cut(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    middle = f" .. ({len(text) - LONGEST} characters left out) .. "
    kept = LONGEST - len(middle)
    return text[: kept - kept // 3] + middle + text[-(kept // 3) :]
