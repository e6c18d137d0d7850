"""The drawings of the report that no chart library lays out: records in, SVG text or PNG bytes out.

The cell's graph runs from top to bottom, so that it fits a phone. Each edge takes the bow, and each label the
place along its edge, that meets the fewest nodes, edges and labels drawn before it.
"""

from __future__ import annotations

import base64
import html
import itertools
import math
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from litesnn.genotype import OPS, Edge

__all__ = ["cell_graph", "heat_map", "op_class", "png_image", "png_levels"]

Point = tuple[float, float]

_RADIUS = 19.0
_WIDTH = 360.0
_TOP, _STEP = 40.0, 104.0
_BUS = 342.0


def op_class(op: str) -> str:
    """The CSS class that colours an operation: the muted one for an identity, a series colour for the others."""
    if OPS[op].identity:
        return "op-0"
    return f"op-{1 + [name for name, row in OPS.items() if not row.identity].index(op) % 5}"


def cell_graph(edges: Sequence[Edge], *, alt: str) -> str:
    """The found cell: two input cells on top, its nodes below, a bus on the right that concatenates them."""
    nodes = 1 + max(edge.node for edge in edges)
    places = [(92.0, _TOP), (248.0, _TOP)]
    places += [(122.0 if node % 2 == 0 else 218.0, _TOP + 108 + _STEP * node) for node in range(nodes)]
    bottom = places[-1][1] + 74
    height = bottom + 34

    lines, labels = [], []
    taken: list[Point] = []  # samples of the edges drawn so far
    boxes: list[tuple[float, float, float]] = [(x, y, _RADIUS) for x, y in places[2:]]  # centre and half width
    order = sorted(edges, key=lambda edge: (edge.node + 2 - edge.source, edge.node))  # short edges choose first
    for edge in order:
        curve = _best_curve(places[edge.source], places[edge.node + 2], places, taken)
        x, y, half = _best_label(curve, edge.op, boxes, taken)
        taken += _samples(curve)
        boxes.append((x, y, half))
        lines.append(f'<path class="edge {op_class(edge.op)}" d="{_path(curve)}"/>' + _arrow(curve, op_class(edge.op)))
        labels.append(
            f'<rect class="pill {op_class(edge.op)}" x="{x - half:.1f}" y="{y - 9:.1f}" width="{2 * half:.1f}" '
            f'height="18" rx="9"/><text class="op" x="{x:.1f}" y="{y + 3.8:.1f}">{html.escape(edge.op)}</text>'
        )

    drawn = [f'<path class="bus" d="M{_BUS} {places[2][1]:.1f} V{bottom:.1f} H{_WIDTH / 2 + 62}"/>']
    for x, y in places[2:]:
        drawn.append(f'<path class="bus" d="M{x + _RADIUS:.1f} {y:.1f} H{_BUS}"/>')
    drawn += lines
    for (x, y), name in zip(places[:2], ("cell k−2", "cell k−1"), strict=True):
        drawn.append(f'<rect class="box" x="{x - 42:.1f}" y="{y - 17:.1f}" width="84" height="34" rx="7"/>')
        drawn.append(f'<text x="{x:.1f}" y="{y + 4.5:.1f}">{name}</text>')
    for node, (x, y) in enumerate(places[2:]):
        drawn.append(f'<circle class="node" cx="{x}" cy="{y}" r="{_RADIUS}"/>')
        drawn.append(f'<text class="strong" x="{x:.1f}" y="{y + 4.5:.1f}">{node}</text>')
    middle = _WIDTH / 2
    drawn.append(f'<rect class="box" x="{middle - 62}" y="{bottom - 17:.1f}" width="124" height="34" rx="7"/>')
    drawn.append(f'<text x="{middle}" y="{bottom + 4.5:.1f}">cell k: concat</text>')
    return (
        f'<svg class="cell-graph" viewBox="0 0 {_WIDTH:.0f} {height:.0f}" role="img" aria-label="{html.escape(alt)}">'
        + "\n".join(drawn + labels)
        + "</svg>"
    )


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    shades: Sequence[Sequence[float]],
    texts: Sequence[Sequence[str]],
    *,
    alt: str,
    cell_width: float,
    framed: frozenset[tuple[int, int]] = frozenset(),
    slanted: bool = False,
) -> str:
    """A table of shaded cells with their numbers. ``shades`` in 0…1; cells in ``framed`` get an outline."""
    rows = [_shortened(name) for name in rows]
    columns = [_shortened(name) for name in columns]
    left = 12 + 6.4 * max(map(len, rows))
    top = 12 + (4.9 * max(map(len, columns)) if slanted else 12)
    right = 4.9 * len(columns[-1]) if slanted else 4
    cell_height = 25.0
    width, height = left + cell_width * len(columns) + right, top + cell_height * len(rows) + 4
    parts = []
    for column, name in enumerate(columns):
        x = left + cell_width * (column + 0.5)
        turn = f' class="slanted" transform="rotate(-45 {x:.1f} {top - 6:.1f})"' if slanted else ""
        parts.append(f'<text x="{x:.1f}" y="{top - 6:.1f}"{turn}>{html.escape(name)}</text>')
    for row, name in enumerate(rows):
        y = top + cell_height * row
        parts.append(f'<text class="row" x="{left - 7:.1f}" y="{y + 16.5:.1f}">{html.escape(name)}</text>')
        for column in range(len(columns)):
            shade = min(1.0, max(0.0, shades[row][column]))
            x = left + cell_width * column
            frame = " framed" if (row, column) in framed else ""
            parts.append(
                f'<rect class="heat{frame}" x="{x + 1:.1f}" y="{y + 1:.1f}" width="{cell_width - 2:.1f}" '
                f'height="{cell_height - 2:.1f}" rx="3" fill-opacity="{0.06 + 0.94 * shade:.3f}"/>'
            )
            if text := texts[row][column]:
                tone = "on" if shade > 0.75 else "off"
                parts.append(
                    f'<text class="{tone}" x="{x + cell_width / 2:.1f}" y="{y + 16.5:.1f}">{html.escape(text)}</text>'
                )
    return (
        f'<svg class="heat-map" viewBox="0 0 {width:.0f} {height:.0f}" style="max-width:{1.35 * width:.0f}px" '
        f'role="img" aria-label="{html.escape(alt)}">' + "\n".join(parts) + "</svg>"
    )


def png_image(image: npt.NDArray[np.uint8]) -> str:
    """A [C, H, W] image as a PNG data URI: grey for one channel, colour for three, red and blue for two.

    Other channel counts (spectra, feature maps) show their mean.
    """
    channels = image.shape[0]
    if channels == 2:
        image = np.stack([image[0], np.zeros_like(image[0]), image[1]])
    elif channels not in (1, 3):
        image = image.mean(axis=0, keepdims=True).astype(np.uint8)
    return _png(np.ascontiguousarray(image.transpose(1, 2, 0)), colour_type=2 if image.shape[0] == 3 else 0)


def png_levels(levels: npt.NDArray[np.floating], *, colour: tuple[int, int, int] = (66, 138, 226)) -> str:
    """A [H, W] map of shares in 0…1 as a PNG data URI: one colour, opaque at 1, so it suits any background."""
    steps = 15
    codes = np.rint(np.clip(levels, 0, 1) * steps).astype(np.uint8)
    palette = _chunk(b"PLTE", bytes(colour) * (steps + 1))
    opacity = _chunk(b"tRNS", bytes(255 * step // steps for step in range(steps + 1)))
    return _png(codes[:, :, None], colour_type=3, between=palette + opacity)


def _png(pixels: npt.NDArray[np.uint8], *, colour_type: int, between: bytes = b"") -> str:
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    lines = np.pad(pixels.reshape(height, -1), ((0, 0), (1, 0)))  # filter byte 0 before each line
    data = (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + between
        + _chunk(b"IDAT", zlib.compress(lines.tobytes(), 9))
        + _chunk(b"IEND", b"")
    )
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


Curve = tuple[Point, Point, Point, Point]


def _best_curve(start: Point, end: Point, places: Sequence[Point], taken: Sequence[Point]) -> Curve:
    box = start[1] == _TOP
    dx, dy = end[0] - start[0], end[1] - start[1]
    # An edge leaves and enters a circle on the side that faces the other end, give or take some room for others.
    angle = max(-0.9, min(0.9, math.atan2(dx, dy)))
    sx, sy = math.sin(angle), math.cos(angle)
    starts = [(start[0] + shift, start[1] + 17) for shift in (-26, -9, 9, 26)]
    if not box:
        starts = [(start[0] + _RADIUS * sx, start[1] + _RADIUS * sy)]
    turns = [turn for turn in (0.0, -0.45, 0.45, -0.9, 0.9) if abs(angle + turn) <= 1.1]
    others = np.array([place for place in places if place not in (start, end)])
    drawn = np.array(taken).reshape(-1, 2)

    def cost(curve: Curve) -> float:
        points = np.array(_samples(curve))
        hits = _close(points, others, _RADIUS + 12)
        near = _close(points, drawn, 13)
        outside = int(((points[:, 0] <= 14) | (points[:, 0] >= _BUS - 16)).sum())
        return 40.0 * hits + 3.0 * near + 30.0 * outside

    candidates: list[tuple[float, int, Curve]] = []
    for (x0, y0), turn, bow in itertools.product(starts, turns, (0, 20, -20, 40, -40, 60, -60, 80, -80, 110, -110)):
        x1 = end[0] - (_RADIUS + 4) * math.sin(angle + turn)
        y1 = end[1] - (_RADIUS + 4) * math.cos(angle + turn)
        reach = (y1 - y0) * 0.38
        curve = ((x0, y0), (x0 + bow, y0 + reach), (x1 + bow, y1 - reach), (x1, y1))
        detour = 0.08 * abs(bow) + 6.0 * abs(turn) + 0.1 * abs(x0 - start[0] - 26 * sx)
        candidates.append((cost(curve) + detour, len(candidates), curve))
    return min(candidates)[2]


def _close(points: npt.NDArray[np.float64], others: npt.NDArray[np.float64], reach: float) -> int:
    """How many pairs of a point and another are less than ``reach`` apart."""
    return int((np.hypot(*(points[:, None] - others[None]).transpose(2, 0, 1)) < reach).sum())


def _best_label(
    curve: Curve, text: str, boxes: Sequence[tuple[float, float, float]], taken: Sequence[Point]
) -> tuple[float, float, float]:
    half = 9 + 3.3 * len(text)

    def cost(point: Point) -> float:
        x, y = point
        overlaps = sum(abs(x - bx) < half + bhalf + 3 and abs(y - by) < (30 if bhalf == _RADIUS else 21)
                       for bx, by, bhalf in boxes)  # fmt: skip
        covered = sum(abs(x - tx) < half and abs(y - ty) < 12 for tx, ty in taken)
        outside = max(0.0, half + 2 - x, x + half + 4 - _BUS)
        return 100 * overlaps + 2.0 * covered + 20 * outside

    points = [_at(curve, 0.5 + side * 0.02 * step) for step, side in itertools.product(range(17), (1, -1))]
    best = min(range(len(points)), key=lambda index: (cost(points[index]) + 0.15 * index, index))
    return (*points[best], half)


def _at(curve: Curve, t: float) -> Point:
    weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
    return (
        sum(weight * point[0] for weight, point in zip(weights, curve, strict=True)),
        sum(weight * point[1] for weight, point in zip(weights, curve, strict=True)),
    )


def _samples(curve: Curve) -> list[Point]:
    return [_at(curve, step / 24) for step in range(25)]


def _path(curve: Curve) -> str:
    (x0, y0), *rest = curve
    return f"M{x0:.1f} {y0:.1f} C" + " ".join(f"{x:.1f} {y:.1f}" for x, y in rest)


def _arrow(curve: Curve, css: str) -> str:
    (x0, y0), (x1, y1) = _at(curve, 0.96), curve[3]
    length = math.dist((x0, y0), (x1, y1)) or 1.0
    ux, uy = (x1 - x0) / length, (y1 - y0) / length
    tip = (x1 + 2 * ux, y1 + 2 * uy)
    base = (tip[0] - 8 * ux, tip[1] - 8 * uy)
    corners = (tip, (base[0] - 4 * uy, base[1] + 4 * ux), (base[0] + 4 * uy, base[1] - 4 * ux))
    return f'<polygon class="tip {css}" points="' + " ".join(f"{x:.1f},{y:.1f}" for x, y in corners) + '"/>'


def _shortened(text: str) -> str:
    return text if len(text) <= 12 else text[:11] + "…"
