"""BibTeX of the papers whose methods are in the package, by key: `references.bib`."""

import re
from functools import cache
from importlib.resources import files

COOPERATIVE = ("multimodalebm2026", "cui2023dualmcmc")  # what cooperative learning comes from


@cache
def references() -> dict[str, str]:
    """Return the BibTeX of every entry by its key."""
    text = files(__package__).joinpath("references.bib").read_text(encoding="utf-8")
    entries = re.split(r"\n\s*\n", text.strip())
    return {entry[entry.index("{") + 1 : entry.index(",")]: entry for entry in entries}
