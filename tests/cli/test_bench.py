"""`unweave bench`: lists what there is, and prints the table of the one that is asked for."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from unweave.cli.bench import BENCHES
from unweave.recipes.base import RECIPES

LINE = (
    "bench recovery --preset quick --seeds 2 --kinds topk random nmf --data.n 400 --test-rows 200 "
    "--training.steps 40 --tuning 0 --out bench"
)


def test_alone_it_lists_the_benches(cli: Callable) -> None:
    for line in ("bench", "bench --help"):
        ended = cli(line)
        assert ended.code == 0
        for name in BENCHES:
            assert name in ended.out
    assert all(bench.recipe in RECIPES.members() for bench in BENCHES.values())


def test_recovery_prints_a_table_and_leaves_a_page(
    cli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = cli(LINE)
    assert ended.code == 0, ended.err
    assert re.search(r"MCC +recall +explained +L0", ended.out)
    assert re.search(r"^topk +0\.\d{3} ± ", ended.out, re.MULTILINE)
    assert re.search(r"^nmf +0\.\d{3} ± ", ended.out, re.MULTILINE)
    assert ended.out.index("any sign rows") < ended.out.index("non-negative rows")
    assert (tmp_path / "bench" / "report.html").is_file()
    assert (tmp_path / "bench" / "recovery.csv").is_file()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bench recoveri", "no bench 'recoveri': did you mean 'recovery'"),
        ("bench recovery --preset fast", "no preset 'fast'"),
        ("bench recovery --kinds topkk --out x", "no dictionary 'topkk'"),
        ("bench recovery --seeds 0", "seeds must be at least 1"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    cli: Callable, line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = cli(line)
    assert ended.code == 2
    assert message in ended.err
