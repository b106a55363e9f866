"""The one table and the figure of docs/performance.md, from the results of a machine: `python -m benchmarks.table`."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tyro

from benchmarks.figure import draw
from benchmarks.peers.protocol import OURS, OURS_FULL

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
ROOT = Path(__file__).resolve().parent.parent
Row = dict[str, Any]
_HEADER = (
    "| | Unweave | best peer as shipped | times | in float32 | best peer tuned | times | over the floor |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |"
)
_NOTHING = "–"
_FLOOR = ("floor", "floor-bf16", "product", "product-bf16", "adam", "read")


def load(results: Path) -> dict[str, dict[str, Any]]:
    """Suites by name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))}


def build(results: Path) -> str:
    """The table in Markdown, with a line on what it was measured on."""
    found = load(results)
    if not found:
        return "No results yet: `make bench` writes them."
    parts: Sequence[Callable[[dict[str, Any]], Iterable[str]]] = (
        _steps,
        _quality,
        _analysis,
        _ablation,
        _reading,
        _streaming,
        _app,
        _rating,
    )
    lines = [line for part in parts for line in part(found)]
    return "\n".join([_measured_on(found), "", _HEADER, *lines])


def write(results: Path, page: Path, images: Path) -> None:
    """Put table and figure in place of what stands between the page's markers."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page} has no place for the table: it needs the lines {BEGIN} and {END}")
    drawn = draw(load(results), images)
    figure = f"\n\n![Step time and quality beside the peers](images/{drawn.name})" if drawn else ""
    page.write_text(f"{before}{BEGIN}\n{build(results)}{figure}\n{END}{after}", encoding="utf-8")


def _measured_on(found: dict[str, Any]) -> str:
    machine = next(iter(found.values()))["machine"]
    known = {name: version for suite in found.values() for name, version in suite["machine"]["versions"].items()}
    versions = ", ".join(f"{name} {version}" for name, version in known.items())
    flags = ", ".join(machine["flags"]) or "none that matter"
    quick = " A quick look, not a result." if any(suite["quick"] for suite in found.values()) else ""
    return (
        f"Measured on {machine['cpu']}, {machine['cores']} cores ({flags}), {machine['memory_gib']} GiB, "
        f"{machine['system']}, Python {machine['python']}; {versions}.{quick}"
    )


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _steps(found: dict[str, Any]) -> Iterator[str]:
    """A line for each shape, kind and number of threads; more threads than one for the largest shape only."""
    yield from _steps_of(found.get("steps", {}).get("rows", []), found.get("steps-tuned", {}).get("rows", []))
    yield from _steps_of(found.get("steps-gpu", {}).get("rows", []), [])


def _steps_of(shipped: Sequence[Row], tuned: Sequence[Row]) -> Iterator[str]:
    largest = max((row["shape"]["d_sae"] for row in shipped), default=0)
    for case in _cases(shipped):
        shape, kind, threads = case
        if threads > 1 and shape["d_sae"] < largest:
            continue
        rows = {row["side"]: row for row in shipped if _case(row) == case}
        beside = {row["side"]: row for row in tuned if _case(row) == case}
        what = f"step, {kind}, d_in {shape['d_in']}, d_sae {shape['d_sae']:,}, batch {shape['batch']:,}, "
        yield _line(
            what + (f"{threads} thread{'s' if threads > 1 else ''}" if _device(rows) == "cpu" else _device(rows)),
            f"{_number(rows[OURS]['ms']['median'])} ms",
            *_best_peer(rows, "times_unweave"),
            _best_peer(rows, "times_float32")[1],
            *_best_peer(beside, "times_unweave"),
            _over_the_floor(rows),
        )


def _device(rows: dict[str, Row]) -> str:
    return str(rows[OURS].get("device", "cpu"))


def _case(row: Row) -> tuple[Any, ...]:
    return row["shape"], row["kind"], row["threads"]


def _cases(rows: Sequence[Row]) -> list[tuple[Any, ...]]:
    cases: list[tuple[Any, ...]] = []
    for row in rows:
        if _case(row) not in cases:
            cases.append(_case(row))
    return cases


def _best_peer(rows: dict[str, Row], over: str) -> tuple[str, str]:
    """The fastest of the others, and how many times Unweave's time it takes: the median of ratios within rounds."""
    peers = [row for name, row in rows.items() if name not in (OURS, OURS_FULL, *_FLOOR)]
    if not peers:
        return _NOTHING, _NOTHING
    best = min(peers, key=lambda row: row[over]["median"])
    times = best[over]
    spread = f"{_number(times['median'])} ({_number(times['q1'])}–{_number(times['q3'])})"
    return f"{best['side']}, {_number(best['ms']['median'])} ms", spread


def _over_the_floor(rows: dict[str, Row]) -> str:
    """Unweave over the floor, each with its product in bfloat16, then in float32."""
    pairs = (("floor-bf16", "times_unweave"), ("floor", "times_float32"))
    return " / ".join(_number(1 / rows[name][over]["median"]) for name, over in pairs if name in rows) or _NOTHING


def _quality(found: dict[str, Any]) -> Iterator[str]:
    """A line for each data set, k, and what was equal: the lowest FVU of either side, kinds with a k only."""
    rows = [row for row in found.get("quality", {}).get("rows", []) if row["kind"] in ("topk", "batch-topk")]
    for case in dict.fromkeys((row["data"], row["k"], row["equal"]) for row in rows):
        here = [row for row in rows if (row["data"], row["k"], row["equal"]) == case]
        ours, full = (
            _lowest(row for row in here if row["side"] == OURS and row["recipe"] == recipe)
            for recipe in ("default", "float32")
        )
        shipped, tuned = (
            _lowest(row for row in here if row["side"] != OURS and (row["recipe"] == "tuned") == is_tuned)
            for is_tuned in (False, True)
        )
        cells = [
            _judged(ours) if ours else _NOTHING,
            *_beside(shipped, ours),
            _beside(shipped, full)[1],
            *_beside(tuned, ours),
        ]
        equal = f"{here[0]['steps']:,} steps" if case[2] == "steps" else "equal time"
        yield _line(f"quality, {case[0]}, k {case[1]}, {equal}", *cells, _NOTHING)


def _beside(peer: Row | None, ours: Row | None) -> tuple[str, str]:
    """A peer, and how many times Unweave's FVU it has."""
    times = _number(peer["fvu"] / ours["fvu"]) if peer and ours and ours["fvu"] else _NOTHING
    return f"{peer['side']} {_judged(peer)}" if peer else _NOTHING, times


def _lowest(rows: Iterable[Row]) -> Row | None:
    return min(rows, key=lambda row: row["fvu"], default=None)


def _judged(row: Row) -> str:
    recovered = "" if row["recovered"] is None else f", {100 * row['recovered']:.0f} % recovered"
    return (
        f"{row['kind']}: FVU {row['fvu']:.4f}, L0 {row['l0']:.0f}, {100 * row['dead']:.1f} % dead{recovered}, "
        f"{_number(row['seconds'])} s"
    )


def _analysis(found: dict[str, Any]) -> Iterator[str]:
    for row in found.get("analysis", {}).get("rows", []):
        if row["threads"] == 1:
            yield _line(
                f"analysis, {row['task']}, {row['n']:,} rows, d_sae {row['d_sae']:,}",
                f"{_number(row['sparse_seconds']['median'])} s",
                f"from dense codes: {_number(row['dense_seconds']['median'])} s",
                _number(row["times_sparse"]["median"]),
                *[_NOTHING] * 4,
            )


def _ablation(found: dict[str, Any]) -> Iterator[str]:
    for row in found.get("ablation", {}).get("rows", []):
        if row["threads"] == 1:
            yield _line(
                f"ablation of every latent, {row['codes']} codes, {row['n']:,} rows, d_sae {row['d_sae']:,}",
                f"{_number(row['closed_seconds']['median'])} s",
                f"decoding again without each: {_number(row['loop_seconds']['median'])} s",
                _number(row["times_closed"]["median"]),
                *[_NOTHING] * 4,
            )


_CACHES = {"cold": "cold cache", "warm": "warm cache", "again": "warm cache, a later epoch"}


def _reading(found: dict[str, Any]) -> Iterator[str]:
    for row in found.get("reading", {}).get("rows", []):
        speed = {name: _number(spread["median"]) for name, spread in row["gb_per_second"].items()}
        yield _line(
            f"reading, shuffled batches, {row['d_in']} wide, {row['dtype']}, {row['bytes'] / 2**30:.1f} GiB, "
            f"{_CACHES[row['cache']]}",
            f"{speed['shuffled']} GB/s",
            f"plain read in order: {speed['plain']} GB/s",
            _number(1 / row["share_of_plain"]["median"]),
            *[_NOTHING] * 4,
        )


def _streaming(found: dict[str, Any]) -> Iterator[str]:
    """Many dictionaries from one stream, beside a stream for each, and beside a store that is written first."""
    for row in found.get("streaming", {}).get("rows", []):
        others = {"a stream each": "a stream each", "stored first": f"stored first ({row['store_mib']:,.0f} MiB)"}
        for side, called in others.items():
            yield _line(
                f"streaming, {row['dictionaries']} dictionaries at once, {row['rows']:,} rows",
                f"{_number(row['seconds']['one stream']['median'])} s",
                f"{called}: {_number(row['seconds'][side]['median'])} s",
                _number(row["times_as_fast"][side]["median"]),
                *[_NOTHING] * 4,
            )


def _app(found: dict[str, Any]) -> Iterator[str]:
    for row in found.get("app", {}).get("rows", []):
        what = f"app, {row['page']}, {row['d_sae']:,} latents of {row['n']:,} rows, in the {row['where']}"
        yield _line(what, _waited(row["ms"]), *[_NOTHING] * 6)


def _rating(found: dict[str, Any]) -> Iterator[str]:
    for row in found.get("rating", {}).get("rows", []):
        what = f"rating study, {row['raters']} raters, {_number(row['per_second'])} ratings a second, an answer"
        yield _line(what, _waited(row["rating_ms"]), *[_NOTHING] * 6)


def _waited(milliseconds: Row) -> str:
    return f"{_number(milliseconds['p50'])} ms, 99 % within {_number(milliseconds['p99'])} ms"


def _number(value: float) -> str:
    """Three significant digits without an exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def main(
    results: Path = ROOT / "benchmarks" / "results",
    page: Path = ROOT / "docs" / "performance.md",
    images: Path = ROOT / "docs" / "images",
) -> None:
    """Write table and figure anew from results that are there.

    Args:
        results: folder of the JSON files.
        page: the page with the markers.
        images: folder of the figure.
    """
    write(results, page, images)
    print(f"wrote {page}")


if __name__ == "__main__":
    tyro.cli(main)
