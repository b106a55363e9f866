"""Timing in turns, the data, and the table that is made of results."""
# ruff: noqa: D103

import json
from pathlib import Path

import pytest
import torch

from benchmarks import table
from benchmarks.data import batches, planted
from benchmarks.peers import Coder
from benchmarks.quality import judge
from benchmarks.timing import Side, Spread, ratios, take_turns


def test_a_spread_is_median_and_quartiles() -> None:
    assert Spread.of([4.0, 1.0, 3.0, 2.0, 5.0]) == Spread(3.0, 2.0, 4.0, 5)


def test_sides_take_turns_and_each_round_has_another_first() -> None:
    seen: list[str] = []
    sides = [Side(name, lambda name=name: seen.append(name)) for name in "abc"]
    seconds = take_turns(sides, rounds=3, sample_seconds=0.0, warm=1)
    assert "".join(seen) == "abc" + "abc" + "bca" + "cab"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_ratios_are_taken_within_rounds() -> None:
    assert ratios({"ours": [1.0, 2.0], "peer": [3.0, 8.0]}, "ours") == {"peer": [3.0, 4.0]}


def test_planted_rows_have_variance_1_and_the_stated_truth() -> None:
    data = planted(32, 64, 4, n=4096, held_out=100)
    both = torch.cat([data.train, data.held_out])
    assert float((both - both.mean(0)).square().mean()) == pytest.approx(1, abs=1e-4)
    assert data.truth.norm(dim=1).tolist() == pytest.approx([1.0] * 64, abs=1e-5)
    assert torch.equal(planted(32, 64, 4, n=4096, held_out=100).train, data.train)


def test_batches_visit_every_row_once_an_epoch() -> None:
    order = torch.cat(batches(torch.zeros(100, 2), 10, 20))
    assert order.view(2, 100).sort(dim=1).values.tolist() == [list(range(100))] * 2


def test_the_true_dictionary_is_recovered_whole() -> None:
    data = planted(32, 64, 4, n=1000, held_out=100)
    perfect = Coder(lambda x: torch.cat([x, x], 1), lambda codes: codes[:, :32], data.truth)
    judged = judge(perfect, data)
    assert judged.fvu == pytest.approx(0, abs=1e-12)
    assert (judged.mean_max_cosine, judged.recovered) == (pytest.approx(1, abs=1e-5), 1.0)


def _steps(times: float) -> dict[str, object]:
    shape = {"name": "A", "d_in": 128, "d_sae": 1024, "k": 32, "batch": 64}
    spread = {"median": 2.0, "q1": 2.0, "q3": 2.0, "n": 3}

    def row(side: str, ms: float) -> dict[str, object]:

        def over(ours: float) -> dict[str, float]:
            return {**spread, **dict.fromkeys(("median", "q1", "q3"), ms / ours)}

        return {
            "shape": shape,
            "kind": "topk",
            "threads": 1,
            "side": side,
            "ms": {**spread, "median": ms},
            "times_unweave": over(2.0),
            "times_float32": over(4.0),
            "l0": [32, 32],
        }

    peers = [row("unweave", 2.0), row("SAELens", 2 * times), row("sparsify", 3 * times)]
    peers += [row("unweave (float32)", 4.0), row("floor", 1.0), row("floor-bf16", 0.8)]
    machine = {
        "cpu": "a processor",
        "cores": 2,
        "flags": [],
        "memory_gib": 8,
        "system": "a system",
        "python": "3.11",
        "versions": {"torch": "2"},
        "allocator": "as shipped",
    }
    return {"suite": "steps", "quick": False, "machine": machine, "rows": peers}


def test_the_table_names_the_best_peer_and_stands_between_its_markers(tmp_path: Path) -> None:
    results, page = tmp_path / "results", tmp_path / "page.md"
    results.mkdir()
    (results / "steps.json").write_text(json.dumps(_steps(10.0)))
    (results / "steps-tuned.json").write_text(json.dumps(_steps(5.0)))
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    table.write(results, page, tmp_path / "images")
    text = page.read_text()
    assert text.startswith(f"before\n{table.BEGIN}\n")
    assert text.endswith(f"{table.END}\nafter\n")
    assert "old" not in text
    assert "| 2 ms | SAELens, 20 ms | 10 (10–10) | 5 (5–5) | SAELens, 10 ms | 5 (5–5) | 2.5 / 4 |" in text
    assert (tmp_path / "images" / "performance.svg").is_file()
    table.write(results, page, tmp_path / "images")
    assert page.read_text() == text


def test_a_page_without_markers_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing here\n")
    with pytest.raises(SystemExit, match="no place for the table"):
        table.write(tmp_path, page, tmp_path)
    assert page.read_text() == "nothing here\n"


def test_streams_stand_beside_both_other_ways() -> None:
    sides = {"one stream": 2.0, "a stream each": 8.0, "stored first": 3.0}
    row = {
        "dictionaries": 8,
        "rows": 262_144,
        "store_mib": 64.0,
        "seconds": {side: {"median": seconds} for side, seconds in sides.items()},
        "times_as_fast": {side: {"median": sides[side] / 2} for side in ("a stream each", "stored first")},
    }
    each, stored = table._streaming({"streaming": {"rows": [row]}})
    assert each.startswith("| streaming, 8 dictionaries at once, 262,144 rows | 2 s | a stream each: 8 s | 4 |")
    assert "| 2 s | stored first (64 MiB): 3 s | 1.5 |" in stored
