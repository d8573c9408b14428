"""Tables of parts that were filled in: beside regression, neighbours and the mean, and from single parts."""

from multiebm.evaluation.filling import DRAWS
from multiebm.evaluation.regressions import COMPONENTS
from multiebm.evaluation.result import GIVEN, MATCH, Evaluation
from multiebm.evaluation.verdict import measure_of, parts_of
from multiebm.report.content import Block, Cell, Table
from multiebm.report.record import with_interval

NOTE = (
    f"A part of held-out rows is predicted by the mean of {DRAWS} completions from all other parts. The numbers of the "
    "model and those beside it are errors, less is better: root mean squares in standard deviations of training rows, "
    "so that always guessing the mean has about 1; log loss of categories, deviance of counts. Regression and "
    "neighbours are fitted to training rows and see the same parts of the same rows, parts of more than "
    f"{COMPONENTS} numbers by {COMPONENTS} principal components in all. Within 90%: the share of held-out values "
    "inside the intervals of completions, 0.9 at best. Match: how often a true row matches better than one whose part "
    "is another row's; 0.5 is chance."
)


def filled_blocks(evaluation: Evaluation) -> list[Block]:
    """Return how well each part is filled in, a row a part; nothing where that was not measured."""
    results, rows = evaluation.results, list[list[str | Cell]]()
    for part in parts_of(evaluation):
        errors = (measure_of(evaluation, part)[0], "regression", "neighbours", "mean", "r2", "coverage90")
        names = [*(f"fill/{name}/{part}" for name in errors), f"{MATCH}/{part}"]
        cells = [with_interval(results[name]) if name in results else "" for name in names]
        key, measure = measure_of(evaluation, part)
        rows.append([part if key == "rmse" else f"{part} ({measure})", *cells])
    if not rows:
        return []
    head = ["", "model", "regression", "10 neighbours", "the mean", "R2", "within 90%", "match"]
    return [Block("Held-out parts, filled in", [Table("numbers", head, rows)], NOTE)]


def given_blocks(evaluation: Evaluation) -> list[Block]:
    """Return the error of each part by the single part that is given, where there are three parts or more."""
    results, parts = evaluation.results, parts_of(evaluation)
    found = {(a, b): results.get(f"{GIVEN}/{a}/{b}") for a in parts for b in parts}
    if len(parts) < 3 or not any(found.values()):
        return []
    rows: list[list[str | Cell]] = [
        [given, *(with_interval(r) if (r := found[part, given]) else "" for part in parts)] for given in parts
    ]
    table = Table("numbers", ["", *parts], rows)
    return [Block("Error when filled in from one part alone", [table], "Row: given, column: filled in.")]
