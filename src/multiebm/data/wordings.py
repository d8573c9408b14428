"""What `shapes` shows and how English says it: attributes of a scene, wordings, and the parser that inverts them."""

import re
from typing import Final

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = ("red", "green", "blue", "yellow", "white", "black")  # of shapes and of backgrounds
SIZES = ("small", "large")
PLACES = ("left", "right", "top", "bottom", "centre")
ATTRIBUTES: Final = {"colour": COLOURS, "shape": SHAPES, "size": SIZES, "place": PLACES, "background": COLOURS}
_AT = {place: f"in the {place}" if place == "centre" else f"at the {place}" for place in PLACES}

# Every wording names colour and shape, which make the class; size, place and background may be left out.
WORDINGS = (
    "a {size} {colour} {shape} {place} on a {background} background",
    "there is a {size} {colour} {shape}",
    "a {colour} {shape} {place}",
    "a {colour} {shape} on {background}",
    "the {shape} {place} is {size} and {colour}",
    "on a {background} background there is a {colour} {shape}",
    "{place}, there is a {size} {shape} in {colour} on {background}",
    "this {colour} {shape} is {size}",
)


def _group(name: str) -> str:
    said = _AT.values() if name == "place" else ATTRIBUTES[name]
    return f"(?P<{name}>{'|'.join(said)})"


_PATTERNS = tuple(re.compile(w.format(**{name: _group(name) for name in ATTRIBUTES})) for w in WORDINGS)
_PLACE_OF = {said: place for place, said in _AT.items()}

VOCABULARY = tuple(
    sorted(
        {word for wording in WORDINGS for word in re.sub(r"\{\w+\}", " ", wording).replace(",", " , ").split()}
        | {word for values in (*ATTRIBUTES.values(), _AT.values()) for said in values for word in said.split()}
    )
)


def say(scene: dict[str, str], wording: int) -> str:
    """Return the caption of a scene, which has a word for each of ATTRIBUTES, by the number of one of WORDINGS."""
    return WORDINGS[wording].format(**{**scene, "place": _AT[scene["place"]]})


def parse(caption: str) -> dict[str, str] | None:
    """Return the attributes that a caption names, by ATTRIBUTES; None where it is none of WORDINGS."""
    for pattern in _PATTERNS:
        if found := pattern.fullmatch(caption):
            said = found.groupdict()
            return {**said, "place": _PLACE_OF[said["place"]]} if "place" in said else said
    return None
