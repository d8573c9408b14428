"""Kinds of modalities: a file each, which owns values, networks and density; no other asks for a kind."""

import json
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter, ValidationError

from multiebm.core.errors import ConfigError, ModalityError
from multiebm.core.names import name_problem
from multiebm.core.store import said
from multiebm.core.table import Table
from multiebm.modalities.base import Modality
from multiebm.modalities.category import Category
from multiebm.modalities.counts import Counts
from multiebm.modalities.picture import Picture, PictureNetworks
from multiebm.modalities.text import Text, TextNetworks
from multiebm.modalities.vector import Vector, VectorNetworks

__all__ = [
    "MODALITIES",
    "Category",
    "Counts",
    "Modality",
    "Picture",
    "PictureNetworks",
    "Text",
    "TextNetworks",
    "Vector",
    "VectorNetworks",
    "from_json",
    "to_json",
]

MODALITIES: Table[type[Modality]] = Table(  # the first of them that takes values without a declaration has them
    "modality.kind",
    {"picture": Picture, "text": Text, "category": Category, "counts": Counts, "vector": Vector},
    group="multiebm.modalities",
)


def to_json(modality: Modality) -> dict[str, Any]:
    """Return plain values, from which `from_json` restores an equal object."""
    return {"kind": modality.kind, **asdict(modality)}  # type: ignore[call-overload]


def from_json(values: Any) -> Modality:
    """Rebuild from `to_json`; ModalityError says the first thing that does not fit."""
    if not isinstance(values, dict):
        raise ModalityError(f"modality: got {type(values).__name__}, expected a description by key")
    if problem := name_problem(values.get("name")):
        raise ModalityError(f"modality: {problem}")
    if not isinstance(kind := values.get("kind"), str) or kind not in MODALITIES:
        known = " or ".join(MODALITIES)
        raise ModalityError(f"modality: got kind {kind!r:.80}, expected {known}; others come with a package to install")
    rest = {key: value for key, value in values.items() if key != "kind"}
    try:
        return TypeAdapter(MODALITIES[kind]).validate_json(json.dumps(rest), strict=True)
    except ValidationError as error:
        raise ModalityError(f"modality: {said(error)}") from error
    except ConfigError as error:
        raise ModalityError(f"modality: {error}") from error
