import io

import pytest
from rich.console import Console

from unweave.core import progress as module
from unweave.core.progress import Bar, progress, silenced


@pytest.fixture
def _shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show progress, which the other tests do not."""
    monkeypatch.setattr(module, "_enabled", True)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("_shown")
def test_piped_output_is_one_plain_line_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("capture [conv1]", total=3000, unit="rows") as bar:
        bar.advance(1000)
        bar.advance(2000, loss=0.125, l0=8)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "capture [conv1]: 3,000 rows in 0.0 s  loss 0.125  l0 8\n"


@pytest.mark.usefixtures("_shown")
def test_long_work_says_so_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 40.0, 40.0, 50.0, 50.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with progress("train", total=400, unit="steps") as bar:
        for _ in range(3):
            bar.advance(100)
    assert capsys.readouterr().err.splitlines() == [
        "train: 200 of 400 steps in 40.0 s (5 steps/s)",
        "train: 300 steps in 50.0 s (6 steps/s)",
    ]


@pytest.mark.usefixtures("_shown")
def test_work_that_fails_is_not_called_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), progress("train", total=1, unit="steps"):
        raise ZeroDivisionError
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("_shown")
def test_work_of_unknown_size_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("read", total=None, unit="letters") as bar:
        for _ in "abc":
            bar.advance()
    assert capsys.readouterr().err.startswith("read: 3 letters in ")


@pytest.mark.usefixtures("_shown")
def test_nothing_is_shown_when_silenced(capsys: pytest.CaptureFixture[str]) -> None:
    with silenced(), progress("train", total=1, unit="steps") as bar:
        bar.advance()
    assert capsys.readouterr() == ("", "")
    with progress("train", total=1, unit="steps"):
        pass
    assert capsys.readouterr().err != ""


def test_tests_show_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("train", total=3, unit="steps") as bar:
        bar.advance(3)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_with_the_label_as_it_is() -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, color_system=None, width=120)
    with Bar("train [topk]", 3, "rows", console) as bar:
        bar.advance(3, loss=0.5)
    assert "train [topk]" in shown.getvalue()
    assert "3/3" in shown.getvalue()
    assert "loss 0.5" in shown.getvalue()
