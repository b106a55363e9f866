"""Downloads: whole, resumed, checked, from the next mirror."""

import pytest

from unweave.core.errors import InputError
from unweave.datasets.download import download

GOOD = bytes(range(256)) * 1000
# Port 9 is the discard service: nothing listens there, a connection is refused at once.
NOBODY = "http://127.0.0.1:9/"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def check(path):
    if path.read_bytes() != GOOD:
        raise InputError("wrong content")


def test_a_whole_download(tmp_path, mirror):
    target, one = tmp_path / "deep" / "file", mirror({"file": GOOD})
    download([one.url + "file"], target, check)
    assert target.read_bytes() == GOOD
    assert one.asked == [("file", None)]
    assert [path.name for path in target.parent.iterdir()] == ["file"]


def test_a_cut_connection_is_taken_up_again_at_once(tmp_path, mirror):
    one = mirror({"file": GOOD}, cuts=[100_000, 50_000])
    download([one.url + "file"], tmp_path / "file", check)
    assert (tmp_path / "file").read_bytes() == GOOD
    assert one.asked == [("file", None), ("file", "bytes=100000-"), ("file", "bytes=150000-")]


def test_a_later_call_takes_up_what_an_earlier_one_left(tmp_path, mirror):
    broken, whole = mirror({"file": GOOD}, cuts=[1000, 0]), mirror({"file": GOOD})
    with pytest.raises(InputError, match="cut after 1,000 of"):
        download([broken.url + "file"], tmp_path / "file", check)
    assert not (tmp_path / "file").exists()
    assert (tmp_path / "file.part").read_bytes() == GOOD[:1000]
    download([whole.url + "file"], tmp_path / "file", check)
    assert whole.asked == [("file", "bytes=1000-")]
    assert (tmp_path / "file").read_bytes() == GOOD


def test_the_next_mirror_takes_up_what_the_first_left(tmp_path, mirror):
    first, second = mirror({"file": GOOD}, cuts=[1000, 0]), mirror({"file": GOOD})
    download([first.url + "file", second.url + "file"], tmp_path / "file", check)
    assert second.asked == [("file", "bytes=1000-")]
    assert (tmp_path / "file").read_bytes() == GOOD


def test_a_server_that_knows_no_ranges_sends_all_again(tmp_path, mirror):
    (tmp_path / "file.part").write_bytes(GOOD[:1000])
    one = mirror({"file": GOOD}, ranges=False)
    download([one.url + "file"], tmp_path / "file", check)
    assert one.asked == [("file", "bytes=1000-")]
    assert (tmp_path / "file").read_bytes() == GOOD


def test_a_whole_part_is_only_checked(tmp_path, mirror):
    (tmp_path / "file.part").write_bytes(GOOD)
    one = mirror({"file": GOOD})
    download([one.url + "file"], tmp_path / "file", check)
    assert one.asked == [("file", f"bytes={len(GOOD)}-")]
    assert (tmp_path / "file").read_bytes() == GOOD


@pytest.mark.parametrize("left", [b"x" * 1000, GOOD + b"x"], ids=["other bytes", "too long"])
def test_a_wrong_part_is_thrown_away(tmp_path, mirror, left):
    (tmp_path / "file.part").write_bytes(left)
    one = mirror({"file": GOOD})
    download([one.url + "file"], tmp_path / "file", check)
    assert one.asked == [("file", f"bytes={len(left)}-"), ("file", None)]
    assert (tmp_path / "file").read_bytes() == GOOD


def test_an_answer_with_another_range_is_not_believed(tmp_path, mirror):
    (tmp_path / "file.part").write_bytes(GOOD[:1000])
    bad, good = mirror({"file": GOOD}, wrong_range=True), mirror({"file": GOOD})
    download([bad.url + "file", good.url + "file"], tmp_path / "file", check)
    assert good.asked == [("file", "bytes=1000-")]
    assert (tmp_path / "file").read_bytes() == GOOD


def test_a_corrupted_mirror_then_a_good_one(tmp_path, mirror):
    bad, good = mirror({"file": GOOD[::-1]}), mirror({"file": GOOD})
    download([bad.url + "file", good.url + "file"], tmp_path / "file", check)
    assert (tmp_path / "file").read_bytes() == GOOD
    assert bad.asked == good.asked == [("file", None)]


def test_one_error_tells_why_each_mirror_failed(tmp_path, mirror):
    bad, empty = mirror({"file": b"other"}), mirror({})
    with pytest.raises(InputError) as caught:
        download([NOBODY + "file", bad.url + "file", empty.url + "file"], tmp_path / "file", check)
    for part in ("refused", "wrong content", "404", NOBODY, bad.url, empty.url):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_another_process_made_meanwhile_is_taken(tmp_path, mirror):
    def check_but_lose_the_race(path):
        path.replace(tmp_path / "file")

    download([mirror({"file": GOOD}).url + "file"], tmp_path / "file", check_but_lose_the_race)
    assert (tmp_path / "file").read_bytes() == GOOD


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="taken"):
        download([NOBODY], tmp_path / "taken" / "file", check)
