"""The next season from those before it: Holt-Winters, by statsmodels.

The smoothing is fixed. Fitting it too was tried: it takes ten times as long, and over two to seven noisy seasons it came out further
from the truth.
"""

from __future__ import annotations

from collections.abc import Sequence

_LEVEL, _TREND, _SEASONAL, _DAMPING = 0.3, 0.01, 0.2, 0.9


def load() -> None:
    """Loads the library: for whoever has seconds for that now, and would not have them in the middle of a season. What it leaves in memory
    makes the garbage collector's rounds longer by some 60 ms, unless ``gc.freeze`` is called behind it."""
    import statsmodels.tsa.holtwinters  # noqa: F401


def season_ahead(values: Sequence[float], parts: int) -> tuple[float, ...]:
    """The ``parts`` values that come next, none negative; empty before two whole seasons are known."""
    if len(values) < 2 * parts:
        return ()
    # Here, not above: without two seasons nobody needs it. See ``load``.
    import numpy as np
    from statsmodels.tsa.holtwinters import ExponentialSmoothing

    model = ExponentialSmoothing(
        np.asarray(values, dtype=np.float64),
        trend="add",
        damped_trend=True,
        seasonal="add",
        seasonal_periods=parts,
        initialization_method="heuristic",
    )
    fitted = model.fit(
        optimized=False, smoothing_level=_LEVEL, smoothing_trend=_TREND, smoothing_seasonal=_SEASONAL, damping_trend=_DAMPING
    )
    return tuple(max(0.0, float(value)) for value in fitted.forecast(parts))
