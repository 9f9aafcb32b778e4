"""Draw the pictures of schedules.md, `python docs/draw_schedules.py`, into docs/pictures.

What is in each picture is listed here; how it is drawn is known to `fastopt.schedules.plot`.
"""

from pathlib import Path

from fastopt.plotting import save
from fastopt.schedules import (
    ReduceOnPlateau,
    constant,
    cosine,
    cosine_restarts,
    exponential,
    inverse_sqrt,
    join,
    linear,
    one_cycle,
    piecewise,
    plot,
    polynomial,
    step,
    warmup,
)

FOLDER = Path(__file__).parent / "pictures"
STEPS = 200


def plateau():
    """Return by label a rate, and a loss whose noise keeps it above a floor set by that rate."""
    rate = ReduceOnPlateau(1.0, factor=0.5, patience=10, threshold=0.01)
    rates, losses = [], [1.0]
    for t in range(STEPS + 1):
        rates.append(rate(t))
        losses.append(losses[t] + 0.1 * (0.1 + 0.5 * rate(t) - losses[t]))
        rate.report(losses[-1])
    return {repr(rate): rates.__getitem__, "the loss that is reported": losses.__getitem__}


PICTURES = {
    "schedules-smooth": [
        linear(0.1, 0.0, STEPS),
        cosine(0.1, STEPS),
        polynomial(0.1, STEPS, power=2),
        exponential(0.1, 0.1, every=STEPS),
        inverse_sqrt(0.1, timescale=20),
    ],
    "schedules-steps": [
        constant(0.08),
        step(0.1, every=50, factor=0.5),
        piecewise({0: 0.06, 30: 0.1, 150: 0.01}),
    ],
    "schedules-cycles": [
        cosine_restarts(0.1, STEPS, cycles=4),
        one_cycle(0.1, STEPS),
    ],
    "schedules-together": [
        warmup(20, cosine(0.1, STEPS - 20)),
        join([(60, linear(0.0, 0.08, 60)), (80, 0.08), polynomial(0.08, 60, power=0.5)]),
    ],
    "schedules-plateau": plateau(),
}

if __name__ == "__main__":
    for name, drawn in PICTURES.items():
        save(plot(drawn, STEPS), FOLDER / f"{name}.svg")
