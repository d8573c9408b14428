"""Tables of any library, as data frames of pandas."""

from typing import Any

import numpy as np

from multiebm.core.errors import DataError

EXTRA = 'pip install "multiebm[tables]"'


def as_pandas(data: Any, what: str = "data") -> Any:
    """Return a table of any library as a data frame of pandas; None for what is no table."""
    if hasattr(data, "iloc"):
        return data if hasattr(data, "columns") else None  # a series is no table
    if not hasattr(data, "to_pandas") and not (hasattr(data, "columns") and hasattr(data, "to_numpy")):
        return None
    try:
        import pandas as pd
    except ImportError as error:
        raise DataError(
            f"{what}: got {type(data).__name__}, which pandas reads, and it is not here; {EXTRA}"
        ) from error
    if hasattr(data, "to_pandas"):
        try:
            return data.to_pandas()
        except ImportError:  # polars wants pyarrow for it
            pass
    if hasattr(data, "__getitem__") and hasattr(data, "columns"):
        return pd.DataFrame({str(name): np.asarray(data[name].to_numpy()) for name in data.columns})
    return pd.DataFrame(data.to_numpy(), columns=list(data.columns))
