"""Draw the picture of training.md, `python docs/draw_history.py`, into docs/pictures.

What is trained is written here; how it is drawn is known to `fastopt.plotting.plot_history`.
"""

from pathlib import Path

import fastopt
from fastopt.plotting import plot_history, save
from fastopt.schedules import cosine, warmup

STEPS = 600

if __name__ == "__main__":
    training, validation = fastopt.datasets.load_mnist()
    trainer = fastopt.Trainer(
        fastopt.MultiLayerNet(784, [100], 10, rng=0),
        fastopt.AdamW(lr=warmup(60, cosine(0.003, STEPS - 60)), weight_decay=0.1),
        batch_size=100,
        rng=0,
        progress=False,
    )
    history = trainer.fit(*training, iterations=STEPS, validation=validation, evaluate_every=30)
    picture = Path(__file__).parent / "pictures" / "training-history.svg"
    save(plot_history(history, "A net on digits, with warm-up and cosine decay"), picture)
