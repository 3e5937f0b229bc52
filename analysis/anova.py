"""How much of a score's variance each factor of a study explains: exact analysis of variance of a full grid."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import f as f_distribution

from analysis.results import column

RESIDUAL = "seeds"
"""What the factors do not explain: the differences between seeds of one cell."""

COLUMNS = ("source", "degrees", "sum_squares", "mean_square", "f", "p", "eta_squared", "partial_eta_squared")


def anova(frame: pd.DataFrame, axes: Sequence[str], score: str = "macro_f1") -> pd.DataFrame:
    """Return the analysis of variance of a full factorial grid, with all interactions; seeds are replicas.

    In a balanced grid the sums of squares of all factors and interactions are orthogonal: they add up, with the
    residual, to the total, in any order (Montgomery, Design and Analysis of Experiments, chapter 5). Seeds that lack a
    cell are left out, so that the grid is balanced.

    Args:
        frame: rows of one arm, of cells that agree in all but axes and seed (`analysis.groups.split`), no controls.
        axes: factors as ``section.field``; those with one level are left out.
        score: column to be explained.

    Returns:
        One row per factor, interaction (``a x b``) and residual, and the total: degrees of freedom, sum of squares,
        mean square, F and its p (missing with one seed), eta squared (share of the total) and partial eta squared.
        Without a single complete seed, no rows.
    """
    names = [axis for axis in axes if len(frame[column(axis)].unique()) > 1]
    cube = _cube(frame, names, score)
    if cube is None or not names:
        return pd.DataFrame(columns=COLUMNS)
    rows, residual = _effects(cube, names), _residual(cube)
    total = float(((cube - cube.mean()) ** 2).sum())
    rows = [_row(*row, residual=residual, total=total) for row in rows]
    degrees, squares = residual
    rows.append(_row(RESIDUAL, degrees, squares, residual=None, total=total))
    rows.append(_row("total", cube.size - 1, total, residual=None, total=total))
    return pd.DataFrame(rows, columns=COLUMNS)


def complete_seeds(frame: pd.DataFrame, axes: Sequence[str], score: str = "macro_f1") -> list[int]:
    """Return the seeds that have one score in every cell of the grid; arguments as in `anova`."""
    keys = ["seed", *map(column, axes)]
    known = frame.loc[frame[score].notna(), keys]
    cells = math.prod(len(frame[column(axis)].unique()) for axis in axes)
    each, once = (rows["seed"].value_counts() for rows in (known, known.drop_duplicates()))
    return sorted(int(seed) for seed, count in each.items() if count == once[seed] == cells)


def _cube(frame: pd.DataFrame, names: Sequence[str], score: str) -> np.ndarray | None:
    """Return the scores by the levels of every factor, and by seed last, or None without a complete seed."""
    seeds = complete_seeds(frame, names, score)
    if not seeds:
        return None
    keys = [*map(column, names), "seed"]
    rows = frame.loc[frame["seed"].isin(seeds)]
    levels = [list(dict.fromkeys(rows[key].tolist())) for key in keys]
    cube = np.full([len(each) for each in levels], np.nan)
    for values, value in zip(rows[keys].itertuples(index=False), rows[score], strict=True):
        cube[tuple(each.index(item) for each, item in zip(levels, values, strict=True))] = value
    return cube


def _effects(cube: np.ndarray, names: Sequence[str]) -> list[tuple[str, int, float]]:
    """Return (source, degrees of freedom, sum of squares) of every factor and interaction, the simple ones first."""
    found = []
    for size in range(1, len(names) + 1):
        for chosen in itertools.combinations(range(len(names)), size):
            effect = _effect(cube, chosen)
            degrees = math.prod(cube.shape[axis] - 1 for axis in chosen)
            squares = float((effect**2).sum()) * cube.size / effect.size
            found.append((" x ".join(names[axis] for axis in chosen), degrees, squares))
    return found


def _effect(cube: np.ndarray, chosen: Sequence[int]) -> np.ndarray:
    """Return an interaction: marginal means less all that fewer of its factors explain (inclusion-exclusion)."""
    effect = np.zeros([cube.shape[axis] if axis in chosen else 1 for axis in range(cube.ndim)])
    for size in range(len(chosen) + 1):
        for kept in itertools.combinations(chosen, size):
            gone = tuple(axis for axis in range(cube.ndim) if axis not in kept)
            effect = effect + (-1) ** (len(chosen) - size) * cube.mean(axis=gone, keepdims=True)
    return effect


def _residual(cube: np.ndarray) -> tuple[int, float]:
    within = cube - cube.mean(axis=-1, keepdims=True)
    cells, seeds = cube.size // cube.shape[-1], cube.shape[-1]
    return cells * (seeds - 1), float((within**2).sum())


def _row(
    source: str, degrees: int, squares: float, *, residual: tuple[int, float] | None, total: float
) -> dict[str, object]:
    mean = squares / degrees if degrees else math.nan
    row: dict[str, object] = {"source": source, "degrees": degrees, "sum_squares": squares, "mean_square": mean}
    row["eta_squared"] = squares / total if total else math.nan
    if residual is not None and residual[0] and residual[1]:
        ratio = mean / (residual[1] / residual[0])
        row |= {"f": ratio, "p": float(f_distribution.sf(ratio, degrees, residual[0]))}
        row["partial_eta_squared"] = squares / (squares + residual[1])
    return row
