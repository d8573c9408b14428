"""Tables of parts that were filled in: beside regression, neighbours and the mean, from all others and from each."""

from multiebm.evaluation.filling import DRAWS
from multiebm.evaluation.regressions import COMPONENTS, NEAREST
from multiebm.evaluation.result import FILL, FOUND, GEN, MATCH, PART, SCORE, VARIETY, Evaluation, Result
from multiebm.evaluation.verdict import measure_of, parts_of
from multiebm.report.content import Block, Cell, Table
from multiebm.report.record import with_interval

NOTE = (
    f"A part of held-out rows is predicted by the mean of {DRAWS} completions from all other parts. The first columns "
    "are errors, less is better: root mean squares in standard deviations of training rows, so that always guessing "
    "the mean has about 1; log loss of categories, deviance of counts. Regression (ridge, logistic or Poisson) and "
    f"{NEAREST} neighbours are fitted to training rows and see the same parts of the same rows, parts of more than "
    f"{COMPONENTS} numbers by principal components. Within 90%: the share of held-out values inside the intervals of "
    "completions, 0.9 at best. Match: how often a true row matches better than one whose part is another row's; 0.5 "
    "is chance. Variety: variance of samples as a share of that of real rows, 1 at best. The smallest error is marked."
)
MORE = (
    "Nats: log density of a held-out part given the others. Accuracy of categories and words, captions that are right "
    "as a whole, structural similarity (SSIM) of pictures. Training rows: the error of the model on rows that it "
    "learned from. Score: as match, by the energy or by the likelihood. Match of the part: as match, by the number of "
    "the part alone. Part found: how often a part of another row is told to belong least of its item's."
)
MARK = 0.15  # opacity behind the smallest error
BESIDE = {"regression": "regression", "neighbours": f"{NEAREST} neighbours", "mean": "the mean"}
FIRST = BESIDE | {"r2": "R2", "coverage90": "within 90%", MATCH: "match", f"{GEN}/{VARIETY}": "variety"}
SECOND = {
    "r2": "R2",
    "log_likelihood": "nats",
    "accuracy": "accuracy",
    "exact": "whole captions",
    "ssim": "SSIM",
    "learned": "training rows",
    "coverage50": "within 50%",
    "coverage90": "within 90%",
    MATCH: "match",
    SCORE: "score",
    PART: "match of the part",
    FOUND: "part found",
}


def filled_blocks(evaluation: Evaluation) -> list[Block]:
    """Return how well each part is filled in, a row a part; nothing where that was not measured."""
    parts = {part: measure_of(evaluation, part) for part in parts_of(evaluation)}
    if not parts:
        return []
    own = {part: {"model": evaluation.results.get(f"{FILL}/{key}/{part}")} for part, (key, _) in parts.items()}
    names = {part: part if key == "rmse" else f"{part} ({of.title})" for part, (key, of) in parts.items()}
    rows = {names[part]: own[part] | _numbers(evaluation, part, FIRST) for part in parts}
    return [Block("Held-out parts, filled in", [_table(rows, {"model": "model"} | FIRST)], NOTE)]


def more_blocks(evaluation: Evaluation) -> list[Block]:
    """Return what else was measured of parts that were filled in, and by the single part that is given."""
    parts = parts_of(evaluation)
    rows = {part: _numbers(evaluation, part, SECOND) for part in parts}
    found = [Block("More of held-out parts", [_table(rows, SECOND)], MORE)] if parts else []
    alone = {
        f"{part} from {given}": {
            "model": evaluation.results.get(f"{FILL}/{measure_of(evaluation, part)[0]}/{part}/{given}")
        }
        | _numbers(evaluation, f"{part}/{given}", FIRST)
        for part in parts
        for given in parts
    }
    if alone := {name: of for name, of in alone.items() if of["model"]}:
        heads = {"model": "model"} | FIRST
        note = "As above, and regression and neighbours see the one part alone as well."
        found.append(Block("Filled in from one part alone", [_table(alone, heads)], note))
    return found


def _numbers(evaluation: Evaluation, part: str, keys: dict[str, str]) -> dict[str, Result | None]:
    return {key: evaluation.results.get(f"{key}/{part}" if "/" in key else f"{FILL}/{key}/{part}") for key in keys}


def _table(rows: dict[str, dict[str, Result | None]], heads: dict[str, str]) -> Table:
    """Return the results of each row under the headings of which there are any, the smallest error marked."""
    there = {key: head for key, head in heads.items() if any(of[key] for of in rows.values())}
    body = list[list[str | Cell]]()
    for name, of in rows.items():
        least = min((r.value for key in ("model", *BESIDE) if (r := of.get(key))), default=None)
        cells: list[str | Cell] = [name]
        for key in there:
            words = with_interval(r) if (r := of[key]) else ""
            marked = r is not None and r.value == least and key in ("model", *BESIDE)
            cells.append(Cell(words, strength=MARK) if marked else words)
        body.append(cells)
    return Table("numbers", ["", *there.values()], body)
