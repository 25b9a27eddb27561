"""Logistic regression on handwritten digits, plotted at every step and never waited for.

Open digits.html in a browser while it runs, or afterwards: the loss, the accuracy, and what the weights of one digit
look like. The digits are real ones that scikit-learn brings along (UCI, 1998: 1,797 images of 8 by 8 pixels).
"""

import time

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

import asyncjobs as aj

STEPS = 400
RATE = 0.5
Array = NDArray[np.float64]


def picture(weights: Array, digit: int) -> dict[str, object]:
    """The weights of one digit as a picture, made in the background: red speaks for it, blue against."""
    bare = {"visible": False, "constrain": "domain"}
    return {
        "data": [{"type": "heatmap", "z": weights[:, digit].reshape(8, 8)[::-1], "colorscale": "RdBu", "zmid": 0}],
        "layout": {"title": {"text": f"what makes a {digit}"}, "xaxis": bare, "yaxis": bare | {"scaleanchor": "x"}},
    }


def softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def load() -> tuple[Array, NDArray[np.int64]]:
    images, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(digits))
    return images[order] / 16.0, digits[order]


def main() -> None:
    images, digits = load()
    wanted = np.eye(10)[digits]
    seen = slice(0, 1400)
    weights, handing_over = np.zeros((64, 10)), 0.0
    with aj.plot("digits.html", title="handwritten digits") as p:
        for step in range(STEPS):
            guess = softmax(images @ weights)
            error = guess - wanted
            weights -= RATE * images[seen].T @ error[seen] / 1400
            loss = -float(np.log(guess[seen][wanted[seen] > 0]).mean())
            right = guess.argmax(axis=1) == digits
            train, test = float(right[seen].mean()), float(right[1400:].mean())
            mistakes = np.bincount(digits[~right], minlength=10)
            began = time.perf_counter()
            p.log(step, loss=loss, train=train, test=test)
            p.write(np.arange(10), mistakes, name="mistakes by digit", mode="markers")
            handing_over += time.perf_counter() - began
            if step % 50 == 0:
                p.draw(picture, weights, 3)
    print(f"{right[1400:].mean():.1%} of {len(digits) - 1400} unseen digits are right, the loss is {loss:.3f}")
    print(f"a step waited {handing_over / STEPS * 1e6:.0f} µs for its plots; open digits.html")


main()
