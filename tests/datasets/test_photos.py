"""Any folder of images: CelebA, classes, or images that lie anyhow; decoded by threads or by worker processes."""

import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from unweave.capture import capture
from unweave.core.config import from_json, to_json
from unweave.core.errors import InputError
from unweave.datasets import decoding, image_folder
from unweave.datasets.base import DatasetConfig
from unweave.datasets.decoding import FileDecoder, default_workers
from unweave.datasets.folder_scan import scan_loose
from unweave.datasets.image_folder import FolderImages
from unweave.datasets.photos import Photos, Unlabelled, labelled


def shade(path, value, size=(6, 5)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def shades(images):
    return images.pixels(torch.arange(len(images)))[:, 0, 0, 0].tolist()


@pytest.fixture
def loose(tmp_path):
    """Ten images at several depths, told by their greys."""
    for number in range(10):
        shade(tmp_path / "loose" / ("a" if number < 5 else "b/c/d") / f"{number}.png", number)
    shade(tmp_path / "loose" / "top.png", 99)
    return tmp_path / "loose"


@pytest.fixture
def celeba(tmp_path):
    """CelebA's layout with twelve images: eight train, one validation, three test; told by their greys."""
    root = tmp_path / "celeba"
    names = [f"{number:06}.png" for number in range(1, 13)]
    for number, name in enumerate(names):
        shade(root / "img_align_celeba" / "img_align_celeba" / name, number)
    rows = [f"{name},{1 if n % 2 else -1},{1 if n < 3 else -1}" for n, name in enumerate(names)]
    (root / "list_attr_celeba.csv").write_text("\n".join(["image_id,Smiling,Young", *rows]) + "\n")
    parts = [f"{name},{0 if n < 8 else 1 if n < 9 else 2}" for n, name in enumerate(names)]
    (root / "list_eval_partition.csv").write_text("\n".join(["image_id,partition", *parts]) + "\n")
    return root


def test_it_is_registered_and_survives_json():
    config = Photos(size=32, attribute="Smiling")
    assert from_json(DatasetConfig, to_json(config)) == config


def test_loose_images_of_any_depth_have_one_class_that_says_nothing(loose):
    train, test = (Photos().load(split, loose) for split in ("train", "test"))
    assert (len(train), len(test)) == (9, 2)
    assert sorted(shades(train) + shades(test)) == [*range(10), 99]
    assert train.class_names == ["image"]
    assert train.layout == "images without classes"
    assert all(name.endswith(".png") and not name.startswith(".") for name in train.names)
    assert isinstance(labelled(train), Unlabelled)


def test_unlabelled_images_are_captured_without_labels(loose):
    images = labelled(Photos().load("train", loose))
    rows = capture(torch.nn.Flatten(), images, at="", batch_size=4)
    assert rows.label is None
    assert rows.class_names is None
    assert rows.n == 9
    assert [len(batch.labels) for batch in images.batches(4)] == [4, 4, 1]


def test_two_subfolders_are_classes(tmp_path):
    for number in range(10):
        shade(tmp_path / "cat" / f"{number}.png", number)
        shade(tmp_path / "dog" / f"{number}.png", 100 + number)
    train = Photos().load("train", tmp_path)
    assert train.class_names == ["cat", "dog"]
    assert [value // 100 for value in shades(train)] == train.labels.tolist()
    assert labelled(train) is train
    assert train.id == image_folder.ImageFolder(size=5).load("train", tmp_path).id


def test_folders_of_splits_are_no_classes(tmp_path):
    for number in range(6):
        shade(tmp_path / ("train" if number < 3 else "val") / f"{number}.png", number)
    assert Photos().load("train", tmp_path).class_names == ["image"]


def test_celeba_has_its_own_split_and_attributes(celeba):
    config = Photos(attribute="Smiling")
    train, test = (config.load(split, celeba) for split in ("train", "test"))
    assert shades(train) == list(range(8))
    assert shades(test) == [9, 10, 11]
    assert test.class_names == ["not Smiling", "Smiling"]
    assert test.labels.tolist() == [1, 0, 1]
    assert test.attributes.names == ["Smiling", "Young"]
    assert test.attributes.column("Smiling").tolist() == [True, False, True]
    assert train.attributes.column("Young").tolist() == [True] * 3 + [False] * 5
    assert Photos().load("test", celeba).class_names == ["image"]


def test_celeba_as_the_original_texts(celeba):
    kaggle = Photos(attribute="Young").load("train", celeba)
    for name in ("list_attr_celeba", "list_eval_partition"):
        lines = [line.replace(",", "  ") for line in (celeba / f"{name}.csv").read_text().splitlines()]
        lines = ["12", lines[0].removeprefix("image_id"), *lines[1:]] if "attr" in name else lines[1:]
        (celeba / f"{name}.txt").write_text("\n".join(lines) + "\n")
        (celeba / f"{name}.csv").unlink()
    original = Photos(attribute="Young").load("train", celeba)
    assert original.id == kaggle.id
    assert np.array_equal(original.attributes.values, kaggle.attributes.values)


def test_celeba_without_its_tables_is_split_and_has_no_attributes(celeba):
    for name in ("list_attr_celeba.csv", "list_eval_partition.csv"):
        (celeba / name).unlink()
    train, test = (Photos().load(split, celeba) for split in ("train", "test"))
    assert (len(train), len(test)) == (10, 2)
    assert test.attributes is None
    with pytest.raises(InputError, match=r"no list_attr_celeba\.csv or \.txt, so 'Smiling' is not known"):
        Photos(attribute="Smiling").load("test", celeba)


def test_attributes_stay_with_their_images_when_broken_ones_are_left_out(celeba):
    (celeba / "img_align_celeba" / "img_align_celeba" / "000002.png").write_bytes(b"no image")
    with pytest.warns(UserWarning, match=r"000002\.png"):
        train = Photos(on_broken="skip").load("train", celeba)
    assert shades(train) == [0, 2, 3, 4, 5, 6, 7]
    assert train.attributes.column("Young").tolist() == [True, True] + [False] * 5
    assert "000002.png" not in train.names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attribute": "Smilling"}, "no attribute 'Smilling'.*Smiling"),
        ({"size": 0}, "size is 0"),
        ({"test_share": 1.0}, "test_share"),
    ],
)
def test_wrong_settings_are_explained(celeba, change, message):
    with pytest.raises(InputError, match=message):
        Photos(**change).load("train", celeba)


def test_wrong_folders_are_explained(loose, celeba, tmp_path):
    with pytest.raises(InputError, match="--images DIR"):
        Photos().load("train")
    with pytest.raises(InputError, match="nowhere is not a folder"):
        Photos().load("train", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no image"):
        Photos().load("train", tmp_path / "empty")
    with pytest.raises(InputError, match="holds no CelebA"):
        Photos(attribute="Smiling").load("train", loose)
    shade(celeba / "img_align_celeba" / "img_align_celeba" / "999999.png", 7)
    with pytest.raises(InputError, match=r"has no line for 999999\.png"):
        Photos().load("train", celeba)


def test_the_size_is_that_of_the_images_but_64_at_most(tmp_path):
    for number, side in enumerate((10, 12, 14)):
        shade(tmp_path / "small" / f"{number}.png", 1, (side, 40))
        shade(tmp_path / "large" / f"{number}.png", 1, (300, 200 + side))
    assert Photos().load("train", tmp_path / "small").shape == (3, 12, 12)
    assert Photos().load("train", tmp_path / "large").shape == (3, 64, 64)
    assert Photos(size=20).load("train", tmp_path / "large").shape == (3, 20, 20)


def noisy(folder, count):
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = generator.integers(0, 256, (12, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.jpg")
    return folder


def test_worker_processes_give_what_threads_give_in_order(tmp_path):
    files = scan_loose(noisy(tmp_path / "some", 23), ["image"])
    batches = [[3, 1, 2], [22, 0], list(range(4, 20))]
    decoder = FileDecoder(files, 8, 3)
    with_threads = list(decoder.batches(batches, workers=0))
    with_processes = list(decoder.batches(batches, workers=2))
    assert [len(pixels) for pixels, _ in with_threads] == [3, 2, 16]
    for (one, broken), (other, none) in zip(with_threads, with_processes, strict=True):
        assert torch.equal(one, other)
        assert not broken
        assert not none


def test_a_broken_image_is_named_by_a_worker_process_and_workers_are_gone_after_an_error(tmp_path):
    folder = noisy(tmp_path / "some", 12)
    images = FolderImages(scan_loose(folder, ["image"]), 8, 3, workers=2)
    (folder / "007.jpg").write_bytes((folder / "007.jpg").read_bytes()[:200])
    with pytest.raises(InputError, match=r"1 image broken: .*007\.jpg"):
        list(images.stream(torch.arange(12).split(3)))
    before = {child.pid for child in torch.multiprocessing.active_children()}
    assert not before


def test_a_worker_that_dies_is_an_error_in_words(tmp_path, monkeypatch):
    files = scan_loose(noisy(tmp_path / "some", 4), ["image"])
    decoder = Suicidal(files, 8, 3)
    with pytest.raises(InputError, match="a process that decodes images has died"):
        list(decoder.batches([[0], [1]], workers=1))


class Suicidal(FileDecoder):
    def __getitems__(self, rows):
        os.kill(os.getpid(), signal.SIGKILL)


def test_reading_may_stop_early(tmp_path):
    files = scan_loose(noisy(tmp_path / "some", 40), ["image"])
    for workers in (0, 1):
        batches = FileDecoder(files, 8, 3).batches([[row] for row in range(40)], workers=workers)
        next(batches)
        batches.close()
    assert not torch.multiprocessing.active_children()


def test_workers_are_worth_it_for_many_files_and_never_more_than_memory_allows(tmp_path, monkeypatch):
    assert default_workers(100) == 0
    assert default_workers(100_000) >= 1
    files = scan_loose(noisy(tmp_path / "some", 6), ["image"])
    monkeypatch.setattr(decoding, "_room", lambda: 10)  # no batch fits: threads do it
    monkeypatch.setattr(FileDecoder, "_by_processes", lambda *_: pytest.fail("processes without room"))
    assert len(list(FileDecoder(files, 8, 3).batches([[0, 1], [2]], workers=4))) == 2


def test_a_folder_beyond_memory_gives_the_same_batches(tmp_path, monkeypatch):
    folder = noisy(tmp_path / "some", 10)
    whole = Photos(size=8).load("train", folder)
    monkeypatch.setattr(image_folder, "MEMORY_BUDGET", 1)
    read = Photos(size=8).load("train", folder)
    for one, other in zip(whole.batches(3), read.batches(3), strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.example, other.example)
