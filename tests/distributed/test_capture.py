from pathlib import Path

import pytest
import rank_capture

from unweave.store.artifact import MANIFEST, read_json


def _content(folder: Path) -> dict[str, object]:
    """Every file's bytes; of manifests what does not tell the time."""
    found: dict[str, object] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.name == MANIFEST:
            found[name] = {
                key: value for key, value in read_json(path).items() if key not in {"created", "wall_seconds"}
            }
        else:
            found[name] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("alone")
    rank_capture.captured(folder)
    return _content(folder)


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_store_is_the_same_whatever_the_number_of_ranks(run, tmp_path: Path, alone, size: int) -> None:
    ended = run(size, rank_capture.__file__, tmp_path)
    assert [code for code, _ in ended] == [0] * size, ended
    found = _content(tmp_path)
    assert found.keys() == alone.keys()
    assert not [name for name in alone if found[name] != alone[name]]
