"""Put labels next to their points so that none covers another label or a point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEADER = 16.0
"""A label further from its point than this (in points) is tied to it by a line."""


class Box(NamedTuple):
    """A rectangle in points."""

    x0: float
    y0: float
    x1: float
    y1: float


class Placed(NamedTuple):
    """Where a label stands and how far it is from its point, in points."""

    box: Box
    distance: float


_RADII = np.array([9.0, 13.0, 19.0, 28.0, 39.0, 52.0, 68.0, 86.0, 108.0, 134.0])
_ANGLES = np.radians([0, 35, -35, 180, 145, -145, 90, -90, 65, -65, 115, -115])


def place(
    points: Sequence[tuple[float, float]], sizes: Sequence[tuple[float, float]], obstacles: Sequence[Box], bounds: Box
) -> list[Placed]:
    """Return a place for each label.

    Args:
        points: what each label belongs to.
        sizes: width and height of each label.
        obstacles: what labels should keep clear of, such as error bars; the points themselves are added.
        bounds: what labels must stay inside of.
    """
    if not points:
        return []
    at = np.asarray(points, dtype=float)
    candidates = [_candidates(p, s) for p, s in zip(at, sizes, strict=True)]
    distances = np.repeat(_RADII, len(_ANGLES))
    fixed = [_fixed_cost(boxes, distances, at, i, obstacles, bounds) for i, boxes in enumerate(candidates)]
    crowding = (np.linalg.norm(at[:, None] - at[None], axis=-1) < 60).sum(axis=1)
    chosen: dict[int, int] = {}
    for _ in range(4):  # the first round sees only the labels before it; later ones see all
        before = dict(chosen)
        for i in sorted(range(len(points)), key=lambda i: (-crowding[i], points[i])):
            cost = fixed[i]
            others = np.array([candidates[j][c] for j, c in chosen.items() if j != i]).reshape(-1, 4)
            cost = cost + 30 * _overlap(candidates[i] + np.array([-2.0, -1.0, 2.0, 1.0]), others).sum(axis=1)
            chosen[i] = int(cost.argmin())
        if chosen == before:
            break
    return [Placed(Box(*map(float, candidates[i][chosen[i]])), float(distances[chosen[i]])) for i in range(len(points))]


def _candidates(point: np.ndarray, size: tuple[float, float]) -> np.ndarray:
    """Boxes [candidates, 4] around a point, ring after ring."""
    half = np.asarray(size) / 2
    directions = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
    centres = point + directions[None] * (_RADII[:, None, None] + half)
    centres = centres.reshape(-1, 2)
    return np.concatenate([centres - half, centres + half], axis=1)


def _overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Areas [boxes, others] that two sets of boxes share."""
    a, b = boxes.T[:, :, None], others.T[:, None, :]
    wide = np.minimum(a[2], b[2]) - np.maximum(a[0], b[0])
    tall = np.minimum(a[3], b[3]) - np.maximum(a[1], b[1])
    shared: np.ndarray = np.maximum(wide, 0.0) * np.maximum(tall, 0.0)
    return shared


def _fixed_cost(
    boxes: np.ndarray, distances: np.ndarray, points: np.ndarray, own: int, obstacles: Sequence[Box], bounds: Box
) -> np.ndarray:
    """What a candidate costs whatever the other labels do."""
    padded = boxes + np.array([-2.0, -1.0, 2.0, 1.0])
    signs = np.concatenate([points - 5, points + 5], axis=1)
    blocked = _overlap(padded, np.asarray(obstacles, dtype=float).reshape(-1, 4)).sum(axis=1)
    outside = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) - _overlap(boxes, np.array([bounds]))[:, 0]
    near = np.clip(points[own], boxes[:, :2], boxes[:, 2:])
    crossed = _passes(points[own], near, np.delete(points, own, axis=0)) * (distances > LEADER)
    covered = _overlap(padded, signs).sum(axis=1)
    total: np.ndarray = 100 * outside + 12 * covered + 1.5 * blocked + 90 * crossed + 0.9 * distances
    return total


def _passes(start: np.ndarray, ends: np.ndarray, points: np.ndarray) -> np.ndarray:
    """How many of the points each segment from `start` to one of `ends` comes near."""
    along = ends - start
    length = np.maximum((along**2).sum(axis=1), 1e-9)
    share = np.clip(((points[None] - start) * along[:, None]).sum(axis=-1) / length[:, None], 0.0, 1.0)
    nearest = start + share[..., None] * along[:, None]
    close: np.ndarray = (np.linalg.norm(points[None] - nearest, axis=-1) < 7).sum(axis=1)
    return close
