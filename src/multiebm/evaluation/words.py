"""An evaluation as text to be read: its main figures by title, and below whether the model works."""

from collections.abc import Sequence

from multiebm.evaluation.learning import Lines, Sentence
from multiebm.evaluation.metrics import METRICS
from multiebm.evaluation.result import DIFFUSION, EBM, GEN, REAL, Evaluation
from multiebm.evaluation.verdict import CONFIDENCE, verdict

QUESTION = "Does it work?"
HEADS = {GEN: "Gen", EBM: "EBM", DIFFUSION: "Diffusion", REAL: "Real"}  # of joint samples, by their source


def told(evaluation: Evaluation, lines: Lines | None = None) -> str:
    """Return a table of the main figures, each with half of its 95 % interval and by name, and the verdict."""
    heads = ("figure", "value", "±", "items", "name in results")
    rows = [
        (label(name), figure(r.value), figure(CONFIDENCE * r.standard_error, r.value), f"{r.n:,}", name)
        for name, r in evaluation.results.items()
        if is_main(name)
    ]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    table = [
        "  ".join(
            f"{cell:{'>' if 0 < i < 4 else '<'}{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (heads, *rows)
    ]
    said = marked(verdict(evaluation, lines))
    body = [line.rstrip() for line in table] if rows else ["Nothing was measured."]
    return "\n".join(
        [f"Data set {evaluation.dataset}, seed {evaluation.seed}", "", *body, *(["", QUESTION, *said] if said else [])]
    )


def marked(sentences: Sequence[Sentence]) -> list[str]:
    """Return sentences as lines, "+" before good news and "-" before others."""
    return [f"{'+' if good else '-'} {words}" for good, words in sentences]


def figure(value: float, beside: float | None = None) -> str:
    """Return a value with three digits after the point, one from 10 on; an error as what it stands `beside`."""
    return f"{value:.{1 if abs(value if beside is None else beside) >= 10 else 3}f}"


def is_main(name: str) -> bool:
    """Return whether a result is one of those to be read first: not those of single pairs and modalities."""
    return name.count("/") <= 1 and "->" not in name and not name.startswith("judge/")


def label(name: str) -> str:
    """Return the title of a metric, of what source, and of what part it is: "gen/fcd/m0" gives "Gen: FCD, m0"."""
    source, _, rest = name.partition("/")
    head = f"{HEADS[source]}: " if source in HEADS else ""
    key = rest if head else name
    metric = next((k for k in METRICS if key == k or key.startswith(f"{k}/")), key)
    title, part = METRICS[metric].title if metric in METRICS else metric, key.removeprefix(metric)
    return f"{head}{title[:1].upper()}{title[1:]}{part.replace('/', ', ', 1)}"
