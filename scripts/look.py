"""How the project's plots look: colours, sizes, and what holds for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

BLUE, GREY, LIGHT, RED = "#2563ab", "#a3a3a3", "#a8cbe8", "#c0392b"
SMALL = 10
"""Points."""
BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
"""A label's ground."""


@contextmanager
def style() -> Iterator[None]:
    """Plots that are made in this block look like the others."""
    with plt.rc_context():
        plt.rc("font", size=11)
        plt.rc("axes", titlesize=12.5, titleweight="bold", titlelocation="left")
        plt.rc("axes.spines", top=False, right=False)
        plt.rc("figure", facecolor="white")
        yield
