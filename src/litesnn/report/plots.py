"""The charts of the report: numbers in, SVG text out, one pure function per figure.

Matplotlib draws with placeholder colours (``#fe01xx``), each of which stands for a CSS variable of the page,
so one inline SVG follows the light and the dark theme. Text stays text, every id carries the figure's name
(many figures share a page), and nothing depends on the clock: the same numbers give the same bytes.
Figures are drawn near 320 units wide with 10.5-unit text, legible on a phone without scaling.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from litesnn.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "PLACEHOLDER",
    "accuracy_over_time",
    "alpha_entropy",
    "by_depth",
    "curves",
    "si",
    "timestep_shares",
]

PLACEHOLDER = re.compile(r"#fe01[0-9a-f]{2}", re.IGNORECASE)
_PALETTES = tuple(f"{kind}-{number}" for kind in ("series", "seq") for number in range(1, 7))
_VARIABLES = ("ink", "muted", "grid", "surface", "limit", *_PALETTES)
_HEX = {variable: f"#fe01{index:02x}" for index, variable in enumerate(_VARIABLES)}

Values = Sequence[float | None]


_LARGER = {"nJ": ("J", "mJ", "µJ")}
"""Of a unit that has a prefix already, the names of 10⁹, 10⁶ and 10³ of it."""


def si(value: float, unit: str = "", *, digits: int = 3) -> str:
    """``1234567`` as ``1.23 M``: decimal prefixes, ``digits`` significant digits, a thin no-break space."""
    names = _LARGER.get(unit, (f"G{unit}", f"M{unit}", f"k{unit}"))
    for factor, name in zip((1e9, 1e6, 1e3), names, strict=True):
        if abs(value) >= factor * (1 - 0.5 * 10**-digits):
            return f"{_significant(value / factor, digits)}\u202f{name}"
    return _significant(value, digits) + (f"\u202f{unit}" if unit else "")


def timestep_shares(epochs: Sequence[int], psi: Sequence[Sequence[float]], *, alt: str) -> str:
    """softmax(ψ) over the epochs as stacked areas, T = 1 at the bottom. ``psi`` is [epochs, T_max]."""

    def draw(axes: Axes) -> None:
        shares = [list(column) for column in zip(*psi, strict=True)]  # [T_max, epochs]
        count = len(shares)
        colours = [_HEX[f"seq-{_step(index, count)}"] for index in range(count)]
        x = list(epochs) if len(epochs) > 1 else [epochs[0] - 0.5, epochs[0] + 0.5]
        stacked = shares if len(epochs) > 1 else [column * 2 for column in shares]
        axes.stackplot(x, stacked, colors=colours, edgecolor=_HEX["surface"], linewidth=0.8)
        bottom = 0.0
        for index, column in enumerate(shares):
            if column[-1] > 0.06:
                middle = bottom + column[-1] / 2
                axes.annotate(
                    f"T = {index + 1}", (1, middle), xycoords=("axes fraction", "data"), xytext=(4, 0),
                    textcoords="offset points", va="center", annotation_clip=False,
                )  # fmt: skip
            bottom += column[-1]
        axes.set(xlim=(x[0], x[-1]), ylim=(0, 1))
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}\u202f%")
        axes.grid(False)

    return _chart("psi", alt, draw)


def curves(
    name: str,
    epochs: Sequence[int],
    series: Mapping[str, Values],
    *,
    alt: str,
    limit: float | None = None,
    log: bool = False,
    percent: bool = False,
    unit: str = "",
    mark: int | None = None,
    limit_name: str = "budget",
) -> str:
    """Lines over the epochs, with a ``limit`` as a dashed line and the epoch ``mark`` as a dot.

    A value of ``None`` is a gap. ``log`` makes the vertical axis logarithmic, ``percent`` labels shares.
    """

    def draw(axes: Axes) -> None:
        for index, (label, values) in enumerate(series.items(), start=1):
            numbers = [float("nan") if value is None else value for value in values]
            colour = _HEX[f"series-{(index - 1) % 6 + 1}"]
            marker = "o" if len(epochs) < 3 else ""
            axes.plot(epochs, numbers, color=colour, label=label, marker=marker, markersize=3.5)
            if mark is not None and mark in epochs and index == len(series):
                value = numbers[list(epochs).index(mark)]
                axes.plot([mark], [value], "o", color=colour, markersize=5, markeredgecolor=_HEX["surface"])
        if log:
            axes.set_yscale("log")
        if limit is not None:
            axes.axhline(limit, color=_HEX["limit"], linestyle=(0, (4, 2.5)), linewidth=1.2, label=limit_name)
        if percent:
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}\u202f%")
        elif log:
            _log_ticks(axes, unit)
        else:
            axes.yaxis.set_major_formatter(lambda value, _: si(value, unit))
        if len(series) + (limit is not None) > 1:
            _legend(axes)

    return _chart(name, alt, draw)


def alpha_entropy(epochs: Sequence[int], entropies: Sequence[Sequence[float]], *, alt: str) -> str:
    """Entropy of each edge's softmax(α), as a share of its maximum: thin lines; their mean is the thick one.

    ``entropies`` is [epochs, E].
    """

    def draw(axes: Axes) -> None:
        for number, column in enumerate(zip(*entropies, strict=True)):
            axes.plot(
                epochs, column, color=_HEX["muted"], alpha=0.55, linewidth=0.8, label="edges" if not number else ""
            )
        means = [sum(row) / len(row) for row in entropies]
        axes.plot(epochs, means, color=_HEX["series-1"], linewidth=2.2, label="mean")
        axes.set_ylim(0, 1.04)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}\u202f%")
        _legend(axes)

    return _chart("alpha-entropy", alt, draw)


def by_depth(name: str, epochs: Sequence[int], series: Mapping[str, Values], *, alt: str, percent: bool = False) -> str:
    """Thin lines over the epochs for layers from the first to the last, and their mean as the thick one.

    Colours go with the depth; the legend names the first and the last layer. A value of ``None`` is a gap.
    """

    def draw(axes: Axes) -> None:
        rows = {key: [float("nan") if value is None else value for value in values] for key, values in series.items()}
        marker = "o" if len(epochs) < 3 else ""
        for index, (label, values) in enumerate(rows.items()):
            shown = label if index in (0, len(rows) - 1) else ""
            colour = _HEX[f"seq-{_step(index, len(rows))}"]
            axes.plot(epochs, values, color=colour, linewidth=1.0, label=shown, marker=marker, markersize=2.5)
        means = [sum(row) / len(row) for row in zip(*rows.values(), strict=True)]
        axes.plot(epochs, means, color=_HEX["series-1"], linewidth=2.2, label="mean", marker=marker, markersize=3.5)
        axes.set_ylim(bottom=0)
        if percent:
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}\u202f%")
        _legend(axes)

    return _chart(name, alt, draw)


def accuracy_over_time(accuracy: Sequence[float], *, alt: str) -> str:
    """Test accuracy of the mean logits after each timestep, labelled where there are few."""

    def draw(axes: Axes) -> None:
        steps = range(1, len(accuracy) + 1)
        axes.plot(steps, accuracy, color=_HEX["series-1"], marker="o", markersize=5)
        if len(accuracy) <= 8:
            axes.set_xticks(list(steps))
            for step, value in zip(steps, accuracy, strict=True):
                axes.annotate(
                    f"{100 * value:.1f}", (step, value), xytext=_label_offset(accuracy, step - 1),
                    textcoords="offset points", ha="center",
                )  # fmt: skip
        axes.margins(x=0.12, y=0.25)
        axes.set_xlabel("timestep t")
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}\u202f%")

    return _chart("accuracy-at", alt, draw)


def _label_offset(values: Sequence[float], index: int) -> tuple[float, float]:
    """Where the label of a point is off the line through ``values``: above or below it, and to one side of a slope."""
    came = values[index] - values[index - 1] if index else 0.0
    goes = values[index + 1] - values[index] if index + 1 < len(values) else 0.0
    if came <= 0 <= goes and (came or goes):
        return (4 if not index else -4 if not goes else 0, -14)
    return (-6 if came > 0 and goes > 0 else 6 if came < 0 and goes < 0 else 0, 7)


def _chart(name: str, alt: str, draw: Callable[[Axes], None]) -> str:
    """Draw one pair of axes over epochs and return the page-ready SVG."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        raise InputError("the report needs matplotlib: pip install 'litesnn[report]'") from None
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same layout on every machine
        "font.size": 10.5,
        "text.color": _HEX["ink"],
        "axes.labelcolor": _HEX["muted"],
        "axes.edgecolor": _HEX["grid"],
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "grid.color": _HEX["grid"],
        "grid.linewidth": 0.8,
        "lines.linewidth": 1.8,
        "axes.labelsize": 9.5,
        "xtick.labelsize": 10,
        "ytick.labelsize": 10,
        "legend.fontsize": 10,
        "xtick.color": _HEX["grid"],
        "ytick.color": _HEX["grid"],
        "xtick.labelcolor": _HEX["muted"],
        "ytick.labelcolor": _HEX["muted"],
        "ytick.major.size": 0,
        "ytick.minor.size": 0,
        "figure.facecolor": "none",
        "figure.constrained_layout.use": True,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4.4, 2.7))
        axes = figure.add_subplot()
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _inline(buffer.getvalue(), name, alt)


def _inline(svg: str, name: str, alt: str) -> str:
    """Matplotlib's SVG document as an element of a page: themed, with its own ids, without page-wide styles."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<defs>\s*</defs>", "", body, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]+)"', body)
    assert box is not None, "matplotlib writes a viewBox"
    opening = f'<svg class="plot" viewBox="{box[1]}" role="img" aria-label="{html.escape(alt)}">'
    body = opening + body[body.index(">") + 1 :]
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', body)
    body = re.sub(r"font: ([0-9.]+px) [^;\"]*", r"font-size: \1", body)
    variables = {colour: f"var(--{variable})" for variable, colour in _HEX.items()}
    body = PLACEHOLDER.sub(lambda match: variables[match[0].lower()], body)
    return re.sub(r"\n\s*", "\n", body).strip()


def _legend(axes: Axes) -> None:
    axes.legend(
        loc="lower right", bbox_to_anchor=(1.0, 0.99), ncols=4, frameon=False, borderaxespad=0.2,
        handlelength=1.3, handletextpad=0.5, columnspacing=1.2,
    )  # fmt: skip


def _log_ticks(axes: Axes, unit: str) -> None:
    """Plain numbers on a logarithmic axis, also where it spans less than one decade."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axes.get_ylim()
    steps = [1.0] if high / low > 300 else [1.0, 3.0] if high / low > 20 else [1.0, 2.0, 5.0]
    if high / low < 3:
        steps = [1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0]
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=steps, numticks=9))
    axes.yaxis.set_major_formatter(lambda value, _: si(value, unit))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _significant(value: float, digits: int) -> str:
    text = f"{value:.{digits}g}"
    return f"{float(text):.0f}" if "e+" in text else text


def _step(index: int, count: int) -> int:
    """The step 1…6 of the ordered palette for item ``index`` of ``count``: spread over the palette."""
    return 1 + round(5 * index / (count - 1)) if count > 1 else 4
