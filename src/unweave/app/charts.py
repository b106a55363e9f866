"""Charts as ECharts takes them: numbers in, options out; greys that read on light and on dark."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_LARGE_SHARE = 0.25  # from which on an axis of probabilities runs to 100 %
Options = dict[str, Any]
INK, FAINT, ACCENT, WARM, GREEN = "#7d8590", "#7d859033", "#3b82c4", "#d9822b", "#4c9a6a"
CLASS_COLOURS = (
    "#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2", "#c9a227", "#ff7fa0", "#9c755f", "#8a8f98",
    "#1f4e79", "#a85a0f", "#2f6b2a", "#8f2022", "#6b3f63", "#2f7d78", "#7d6410", "#b83a62", "#5f4433", "#4a4f57",
)  # fmt: skip
_SCALE = ("#3b4cc0", "#6f92f3", "#aac7fd", "#f7b89c", "#e7745b", "#b40426")
_LEAST_RATE = 1e-5
_ON_TOP = {"color": "#fff", "backgroundColor": "#1f3347", "padding": [3, 5], "borderRadius": 3}


def _axis(name: str, **more: Any) -> Options:
    return {
        "name": name,
        "nameLocation": "middle",
        "nameGap": 28,
        "nameTextStyle": {"color": INK},
        "axisLabel": {"color": INK},
        "axisLine": {"lineStyle": {"color": FAINT}},
        "splitLine": {"lineStyle": {"color": FAINT}},
        **more,
    }


def _base(x: Options, y: Options, *, title: str = "", left: int = 56) -> Options:
    return {
        "animation": False,
        "backgroundColor": "transparent",
        "title": {"text": title, "left": 0, "textStyle": {"fontSize": 13, "color": INK, "fontWeight": "normal"}},
        "grid": {"left": left, "right": 16, "top": 40 if title else 14, "bottom": 46},
        "xAxis": x,
        "yAxis": y,
        "aria": {"enabled": True},
    }


def curves(
    x: Sequence[float], lines: Mapping[str, Sequence[float]], *, title: str, x_name: str = "step", log: bool = False
) -> Options:
    """Lines over the same x; NaN leaves a gap."""
    options = _base(
        _axis(x_name, type="value", max="dataMax"),
        _axis("", type="log" if log else "value", scale=True),
        title=title,
    )
    colours = (ACCENT, WARM, GREEN, INK)
    options["series"] = [
        {
            "type": "line",
            "name": name,
            "showSymbol": len(x) < 30,
            "symbolSize": 4,
            "connectNulls": True,
            "color": colours[number % len(colours)],
            "data": [[a, _json(b)] for a, b in zip(x, values, strict=True) if not (log and not b > 0)],
        }
        for number, (name, values) in enumerate(lines.items())
    ]
    options["tooltip"] = {"trigger": "axis"}
    if len(lines) > 1:
        options["legend"] = {"top": 0, "right": 0, "textStyle": {"color": INK}}
    return options


def frequencies(rate: np.ndarray, *, bins: int = 30) -> Options:
    """How many latents fire how often, on a logarithmic axis; the dead ones in a bar of their own."""
    firing = rate[rate > 0]
    lowest = math.log10(max(float(firing.min()), _LEAST_RATE)) if len(firing) else -3.0
    edges = np.linspace(min(lowest, -0.5), 0, bins + 1)
    counts, _ = np.histogram(np.log10(np.clip(firing, 10**lowest, 1)), edges)
    dead = int((rate == 0).sum())
    names = ["never", *(f"{100 * 10**low:.2g} %" for low in edges[:-1])]
    options = _base(
        _axis("share of rows on which a latent fires", type="category", data=names), _axis("", type="value"),
        title="Latents by firing frequency",
    )  # fmt: skip
    options["series"] = [
        {
            "type": "bar",
            "name": "latents",
            "barCategoryGap": "8%",
            "color": ACCENT,
            "data": [{"value": dead, "itemStyle": {"color": INK}}, *(int(count) for count in counts)],
        }
    ]
    options["tooltip"] = {"trigger": "axis"}
    return options


def selectivity(latent: np.ndarray, rate: np.ndarray, information: np.ndarray) -> Options:
    """Frequency against what firing says of the class, a dot a latent."""
    lowest = 10.0 ** math.floor(math.log10(max(_LEAST_RATE, float(rate.min())))) if len(rate) else _LEAST_RATE
    options = _base(
        _axis("share of rows on which it fires", type="log", min=lowest, max=1),
        _axis("bits about the class", type="value", nameGap=34),
        title="What firing says of the class",
    )
    points = zip(rate.tolist(), information.tolist(), latent.tolist(), strict=True)
    options["series"] = [
        {
            "type": "scatter",
            "symbolSize": 5,
            "color": ACCENT,
            "itemStyle": {"opacity": 0.6},
            "encode": {"x": 0, "y": 1, "itemName": 2},
            "data": [[round(x, 6), round(y, 4), name] for x, y, name in points],
        }
    ]
    options["tooltip"] = {"formatter": "latent {b}"}
    return options


def map_of_latents(
    latent: Sequence[int],
    x: Sequence[float],
    y: Sequence[float],
    value: Sequence[float],
    *,
    label: str,
    class_names: Sequence[str] = (),
    picture: str = "",
    log: bool = False,
) -> Options:
    """Latents as points, coloured by a number or by a class.

    Args:
        latent: which.
        x: across.
        y: up.
        value: what the colour tells; with class names, the class's index.
        label: what it is, in words.
        class_names: colours are these classes' where there are any.
        picture: address of a latent's picture, shown while the pointer is over it; `{b}` stands for its number.
        log: whether colours follow the number's logarithm.
    """
    hidden = {"show": False, "type": "value", "min": "dataMin", "max": "dataMax"}
    options: Options = {
        "animation": False,
        "backgroundColor": "transparent",
        "grid": {"left": 12, "right": 12, "top": 24, "bottom": 44},
        "xAxis": hidden,
        "yAxis": dict(hidden),
        "aria": {"enabled": True},
        "dataZoom": [{"type": "inside", "xAxisIndex": 0}, {"type": "inside", "yAxisIndex": 0}],
    }
    shown = [math.log10(max(v, 1e-9)) for v in value] if log else list(value)
    points = [[round(a, 3), round(b, 3), round(v, 4), name] for name, a, b, v in zip(latent, x, y, shown, strict=True)]
    look = {
        "type": "scatter",
        "encode": {"x": 0, "y": 1, "itemName": 3},
        "symbolSize": 9 if len(latent) < 1500 else 5,
        "itemStyle": {"opacity": 0.85},
        "emphasis": {
            "itemStyle": {"borderColor": INK, "borderWidth": 1.5, "opacity": 1},
            "label": {**_ON_TOP, "show": True, "formatter": "latent {b}", "position": "top"},
        },
        "progressive": 0,  # all at once: in parts they would come over seconds
    }
    if class_names:
        options["series"] = [
            {
                **look,
                "name": class_name,
                "color": CLASS_COLOURS[number % len(CLASS_COLOURS)],
                "data": [point for point, v in zip(points, value, strict=True) if int(v) == number],
            }
            for number, class_name in enumerate(class_names)
        ]
        options["legend"] = {
            "type": "scroll", "bottom": 0, "itemWidth": 10, "itemGap": 14, "textStyle": {"color": INK},
            "pageIconColor": INK, "pageIconInactiveColor": FAINT, "pageTextStyle": {"color": INK},
        }  # fmt: skip
    else:
        options["series"] = [{**look, "name": label, "data": points}]
        options["visualMap"] = _colours(shown, label, log=log)
    # A template may name the point only once, so the picture stands here and the number beside the point.
    frame = f'<img src="{picture}" alt="" width="132" style="display:block;min-height:40px">' if picture else ""
    options["tooltip"] = {"formatter": frame or "latent {b}", "padding": 6, "enterable": False}
    return options


def _colours(value: Sequence[float], label: str, *, log: bool) -> Options:
    low, high = (min(value), max(value)) if len(value) else (0.0, 1.0)
    words = [f"{10**end:.2g}" if log else f"{end:.3g}" for end in (high, low)]
    return {
        "dimension": 2,
        "orient": "horizontal",
        "left": "center",
        "bottom": 0,
        "textStyle": {"color": INK},
        "type": "continuous",
        "min": low,
        "max": high if high > low else low + 1,
        "calculable": False,
        "itemHeight": 90,
        "text": [f"{words[0]}  {label}", words[1]],
        "inRange": {"color": list(_SCALE)},
    }


def histogram(counts: Sequence[int], largest: float) -> Options:
    """Values of a latent where it fires."""
    step = largest / max(1, len(counts))
    options = _base(
        _axis("value, where it fires", type="category", data=[f"{step * (n + 0.5):.3g}" for n in range(len(counts))]),
        _axis("", type="value"),
    )
    options["series"] = [{"type": "bar", "name": "rows", "barCategoryGap": "4%", "color": ACCENT, "data": list(counts)}]
    options["tooltip"] = {"trigger": "axis"}
    return options


def class_bars(
    names: Sequence[str], share: Sequence[float], prior: Sequence[float], *, labels: tuple[str, str] = ("firing", "all")
) -> Options:
    """Two bars for each class."""
    options = _base(
        _axis("%", type="value"),
        _axis("", type="category", data=list(names), inverse=True, axisTick={"show": False}),
        left=min(140, 20 + 7 * max((len(name) for name in names), default=1)),
    )
    pairs = ((labels[0], share, ACCENT), (labels[1], prior, INK + "88"))
    options["series"] = [
        {"type": "bar", "name": name, "color": colour, "data": [round(100 * value, 2) for value in values]}
        for name, values, colour in pairs
    ]
    options["legend"] = {"bottom": 0, "right": 0, "textStyle": {"color": INK}, "itemHeight": 8}
    options["tooltip"] = {"trigger": "axis", "axisPointer": {"type": "shadow"}}
    return options


def effects(names: Sequence[str], change: Sequence[float], *, probabilities: bool = False) -> Options:
    """Change of each class's logit, or of its probability in points of %."""
    options = _base(
        _axis("change of the probability, points of %" if probabilities else "change of the logit", type="value"),
        _axis("", type="category", data=list(names), inverse=True, axisTick={"show": False}),
        left=min(140, 20 + 7 * max((len(name) for name in names), default=1)),
    )
    options["series"] = [
        {"type": "bar", "name": "without it", "color": ACCENT, "data": [round(value, 4) for value in change]}
    ]
    options["tooltip"] = {"trigger": "axis", "axisPointer": {"type": "shadow"}}
    return options


def before_and_after(
    names: Sequence[str], before: Sequence[float], after: Sequence[float], *, percent: bool
) -> Options:
    """The model's answer by class: probabilities in percent, or logits."""
    scale = 1.0 if percent else 0.01  # class_bars shows shares in percent
    options = class_bars(names, [scale * v for v in after], [scale * v for v in before], labels=("after", "before"))
    options["xAxis"]["name"] = "probability, %" if percent else "logit"
    return options


def doses(
    values: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    *,
    percent: bool,
    at: float | None = None,
    unit: str = "logit",
) -> Options:
    """The model's answer over the values that a latent is set to: probabilities, or `unit`; `at` is its value now."""
    scale = 100 if percent else 1
    options = curves(
        values, {name: [scale * y for y in line] for name, line in lines.items()}, title="", x_name="value"
    )
    for number, series in enumerate(options["series"]):
        series["color"] = CLASS_COLOURS[number % len(CLASS_COLOURS)]
        series["showSymbol"] = False
    if options["series"]:
        options["series"][0]["markLine"] = {
            "symbol": "none",
            "silent": True,
            "label": {"show": False},
            "lineStyle": {"color": INK, "type": "dashed"},
            "data": [] if at is None else [{"xAxis": at}],
        }
    largest = max((value for line in lines.values() for value in line), default=1.0)
    limits = {"min": 0, **({"max": 100} if largest > _LARGE_SHARE else {})} if percent else {"scale": True}
    options["yAxis"] = _axis("probability, %" if percent else unit, type="value", nameGap=34, **limits)
    options["legend"] = {"top": 0, "type": "scroll", "textStyle": {"color": INK}, "itemHeight": 8}
    options["grid"]["top"] = 34
    return options


def _json(value: float) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
