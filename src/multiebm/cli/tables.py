"""Tables for people."""

from rich.console import Console
from rich.table import Table

from multiebm.evaluation.result import TRUSTED_ACCURACY, Evaluation

FEW_ITEMS = 10  # below, a standard error is not to be relied on; of one item it is 0


def print_evaluation(evaluation: Evaluation) -> None:
    """Print the main results with their standard errors, how well the judges read real data, and what was left out."""
    console = Console()
    table = Table("metric", "value", "standard error", "n", title=f"{evaluation.dataset}, seed {evaluation.seed}")
    for name, result in evaluation.results.items():
        if is_main(name):
            digits = 1 if abs(result.value) >= 10 else 3
            table.add_row(name, f"{result.value:.{digits}f}", f"{result.standard_error:.{digits}f}", f"{result.n:,}")
    console.print(table)
    for line in remarks(evaluation):
        console.print(line, markup=False, highlight=False)


def is_main(name: str) -> bool:
    """Return whether a result belongs on the screen: not those of single pairs and modalities, which the file has."""
    return name.count("/") <= 1 and "->" not in name and not name.startswith("judge/")


def remarks(evaluation: Evaluation) -> list[str]:
    """Return the sentences without which the numbers would mislead."""
    lines = []
    if evaluation.accuracy is None:
        lines.append("No judges: what needs them was not measured.")
    else:
        listed = ", ".join(f"{name} {value:.3f}" for name, value in evaluation.accuracy.items())
        lines.append(f"Judges' accuracy on real test data: {listed}.")
        at_least = f"every judge reads at least {TRUSTED_ACCURACY:.0%} of real test items correctly"
        below = f"a judge reads less than {TRUSTED_ACCURACY:.0%} of real test items correctly"
        lines.append(
            f"Coherence can be trusted: {at_least}."
            if evaluation.trustworthy
            else f"Coherence is NOT to be trusted: {below}."
        )
    if evaluation.collapse is not None:
        lines.append(evaluation.collapse)
    if "latent/kl" in evaluation.results:
        lines.append("latent/kl: nats an item between its code's density and the prior (of an energy prior, its base).")
    if few := [name for name, result in evaluation.results.items() if is_main(name) and result.n < FEW_ITEMS]:
        lines.append(f"Fewer than {FEW_ITEMS} items, whose standard errors say little: {', '.join(few)}.")
    if evaluation.settings.temperature is not None:
        lines.append(f"Joint samples were drawn at temperature {evaluation.settings.temperature:g} of the prior.")
    if evaluation.provisional:
        n = evaluation.settings.samples
        lines.append(f"Frechet distances are provisional: {n:,} samples bias them upwards; compare equal numbers only.")
    return lines + [f"Not measured: {name} ({reason})." for name, reason in evaluation.skipped.items()]
