"""What `--ranks` and torchrun are refused for before any process is started or any work begun."""

import pytest

from unweave.cli import ranks
from unweave.cli.commands import COMMANDS
from unweave.cli.main import main
from unweave.core import distributed
from unweave.core.distributed import Ranks
from unweave.core.errors import InputError


@pytest.mark.parametrize("command", sorted({*COMMANDS, "trian"} - {"capture", "train", "sweep"}))
def test_a_command_that_is_one_process_s(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--ranks", "2", command, "rows", "--out", "sae"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("error:") == 1
    assert f"share the work of capture, train and sweep only; start {command!r} as one process" in said


@pytest.mark.parametrize("given", [[], ["2"], ["two", "train"], ["0", "train"]])
def test_without_a_number_or_a_command(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--ranks", *given]) == 2
    assert "--ranks wants a number and a command" in " ".join(capsys.readouterr().err.split())


class Two(Ranks):
    """A rank of two that agrees with the other."""

    def same(self, what: str, value: object) -> None:
        """They are."""

    def close(self) -> None:
        """Nobody waits."""


def test_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "ranks", lambda: Two(0, 2))
    for given in (["train", "rows"], ["capture"], ["sweep"], ["--help"], []):
        with ranks.begin(given):
            pass
    with pytest.raises(InputError, match="without --ranks or torchrun"), ranks.begin(["report", "run"]):
        pytest.fail("it was begun")
