"""A folder of images: what is found, split, refused and decoded when."""

import logging
import os
import tarfile
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from unweave.core.config import from_json, to_json
from unweave.core.errors import InputError
from unweave.datasets import image_folder
from unweave.datasets.base import DatasetConfig, MemoryImages
from unweave.datasets.image_folder import FolderImages, ImageFolder

BROKEN_IN_BOTH = 0.6  # at this share the split deals broken files of `damaged` to train and to test


def grey(path, value, size=(6, 5)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


@pytest.fixture
def root(tmp_path):
    """Two classes with ten images each, told by their greys: cats 0..9, dogs 100..109."""
    for number in range(10):
        grey(tmp_path / "images" / "cat" / f"{number}.png", number)
        grey(tmp_path / "images" / "dog" / "deeper" / "still" / f"{number}.BMP", 100 + number)
    return tmp_path / "images"


@pytest.fixture(params=["memory", "on demand"])
def where(request, monkeypatch):
    """Both ways in which pixels are held."""
    if request.param == "on demand":
        monkeypatch.setattr(image_folder, "MEMORY_BUDGET", 1)
    return FolderImages if request.param == "on demand" else MemoryImages


def shades(data):
    return data.pixels(torch.arange(len(data)))[:, 0, 0, 0].tolist()


def test_it_is_registered_and_survives_json():
    assert DatasetConfig.registry["image-folder"] is ImageFolder
    config = ImageFolder(size=32, channels=1, on_broken="skip")
    assert from_json(DatasetConfig, to_json(config)) == config


@pytest.mark.parametrize("channels", [1, 3])
def test_images_lie_where_their_labels_say(root, where, channels):
    config = ImageFolder(size=4, channels=channels)
    train, test = config.load("train", root), config.load("test", root)
    assert type(train) is type(test) is where
    assert train.shape == (channels, 4, 4)
    assert train.class_names == ["cat", "dog"]
    assert train.labels.tolist() == [0] * 8 + [1] * 8
    assert test.labels.tolist() == [0] * 2 + [1] * 2
    assert sorted(shades(train) + shades(test)) == [*range(10), *range(100, 110)]
    for data in (train, test):
        assert [shade // 100 for shade in shades(data)] == data.labels.tolist()


def test_both_ways_give_the_same_pixels(root, monkeypatch):
    memory = ImageFolder(size=4).load("train", root)
    monkeypatch.setattr(image_folder, "MEMORY_BUDGET", 16 * 3 * 4 * 4 - 1)
    demand = ImageFolder(size=4).load("train", root)
    assert isinstance(memory, MemoryImages)
    assert isinstance(demand, FolderImages)
    index = torch.tensor([5, 0, 15, 5])
    assert torch.equal(memory.pixels(index), demand.pixels(index))
    assert demand.pixels(index[:0]).shape == (0, 3, 4, 4)


def test_the_budget_is_of_the_split(root, monkeypatch):
    monkeypatch.setattr(image_folder, "MEMORY_BUDGET", 16 * 3 * 4 * 4)
    assert isinstance(ImageFolder(size=4).load("train", root), MemoryImages)


def test_the_fingerprint_follows_the_content(root, where):
    config = ImageFolder(size=4)
    first = config.load("train", root).id
    assert config.load("train", root).id == first
    assert config.load("test", root).id != first
    assert ImageFolder(size=5).load("train", root).id != first
    assert ImageFolder(size=4, channels=1).load("train", root).id != first
    for file in (root / "cat").iterdir():
        grey(file, 77)
        os.utime(file, ns=(1, 1))
    assert config.load("train", root).id != first


def test_hidden_files_are_passed_over_and_others_named_in_the_log(root, caplog):
    for name in (".hidden.png", "cat/.DS_Store", ".git/x.png"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"")
    for name in ("labels.csv", "cat/notes.txt", "dog/deeper/film.mpg"):
        (root / name).write_bytes(b"")
    with caplog.at_level(logging.INFO):
        train = ImageFolder(size=4).load("train", root)
    assert len(train) == 16
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "ignored 3 files: labels.csv, cat/notes.txt, dog/deeper/film.mpg" in record.message


def test_an_image_in_no_class_is_a_warning_in_the_log(root, caplog):
    grey(root / "loose.png", 1)
    ImageFolder(size=4).load("train", root)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "ignored 1 files (1 of them images that lie in no class folder): loose.png" in record.message


def test_links_are_followed_but_not_in_circles(root, tmp_path):
    (tmp_path / "linked").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "linked" / name).symlink_to(root / name)
    (root / "cat" / "round").symlink_to(root / "cat")
    data = ImageFolder(size=4).load("train", tmp_path / "linked")
    assert data.id == ImageFolder(size=4).load("train", root).id


@pytest.fixture
def damaged(root):
    """Three broken cats and one broken dog; some in each split at BROKEN_IN_BOTH."""
    for number in range(3):
        (root / "cat" / f"broken{number}.jpg").write_bytes(b"no image")
    (root / "dog" / "nowhere.png").symlink_to(root / "missing.png")
    return root


def test_broken_files_are_an_error_that_counts_and_names_them(damaged, where):
    seen = []
    for split in ("train", "test"):
        with pytest.raises(InputError, match=r"images? of \d+ in .* broken: .*--data\.on-broken skip") as caught:
            ImageFolder(size=4, test_share=BROKEN_IN_BOTH).load(split, damaged)
        named = [name for name in (*(f"broken{n}.jpg" for n in range(3)), "nowhere.png") if name in str(caught.value)]
        assert str(caught.value).startswith(f"{len(named)} image")
        seen += named
    assert sorted(seen) == ["broken0.jpg", "broken1.jpg", "broken2.jpg", "nowhere.png"]


def test_the_error_names_the_first_ten(root):
    for number in range(40):
        (root / "cat" / f"broken{number:02}.jpg").write_bytes(b"no image")
    with pytest.raises(InputError) as caught:
        ImageFolder(size=4).load("train", root)
    assert str(caught.value).count("no image in a format") == 10
    assert " more;" in str(caught.value)


def test_skip_leaves_broken_files_out_with_a_warning_that_names_them(damaged, where):
    config = ImageFolder(size=4, test_share=BROKEN_IN_BOTH, on_broken="skip")
    left, messages = 0, ""
    for split in ("train", "test"):
        with pytest.warns(UserWarning, match="broken and left out") as caught:
            data = config.load(split, damaged)
        assert type(data) is where
        assert [shade // 100 for shade in shades(data)] == data.labels.tolist()
        left += len(data)
        messages += str(caught[0].message)
    assert left == 20
    assert all(name in messages for name in ("broken0.jpg", "broken1.jpg", "broken2.jpg", "nowhere.png"))


def test_skip_warns_of_nothing_where_all_is_well(root, where):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ImageFolder(size=4, on_broken="skip").load("train", root)


def test_a_class_of_broken_images_only_is_an_error_even_with_skip(root, where):
    for number in range(3):
        (root / "eel").mkdir(exist_ok=True)
        (root / "eel" / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="no image is left of the class eel"):
        ImageFolder(size=4, on_broken="skip").load("train", root)


def test_a_file_broken_behind_its_header_is_named_when_it_is_asked_for(root, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for number in range(10):
        path = root / "cat" / f"{number}.png"
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"8 images of 16 in .* broken"):
        ImageFolder(size=4).load("train", root)
    monkeypatch.setattr(image_folder, "MEMORY_BUDGET", 1)
    data = ImageFolder(size=4).load("train", root)
    with pytest.raises(InputError, match=r"1 image broken: .*cat/\d\.png: .*truncated"):
        data.pixels(torch.tensor([9, 0]))
    assert data.pixels(torch.arange(8, 16)).min() >= 100


def test_wrong_folders_are_explained(root, tmp_path):
    config = ImageFolder(size=4)
    with pytest.raises(InputError, match="needs --data-dir"):
        config.load("train")
    with pytest.raises(InputError, match="nowhere is not a folder"):
        config.load("train", tmp_path / "nowhere")
    with pytest.raises(InputError, match="has no subfolder"):
        config.load("train", root / "cat")
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "images").symlink_to(root)
    with pytest.raises(InputError, match=r"one subfolder, images, whose own .* \(cat, dog\): give .*images as"):
        config.load("train", tmp_path / "up")
    (root / "empty").mkdir()
    with pytest.raises(InputError, match=r"no image in the class folder empty: .*\.png"):
        config.load("train", root)


def test_folders_of_splits_are_no_classes(root, tmp_path):
    for name in ("train", "val"):
        grey(tmp_path / "parts" / name / "cat" / "1.png", 1)
    with pytest.raises(InputError, match=r"subfolders for splits \(train, val\)"):
        ImageFolder(size=4).load("train", tmp_path / "parts")


def test_one_class_is_enough_and_one_image_is_too_few_for_a_test_split(tmp_path):
    grey(tmp_path / "all" / "a.png", 1)
    assert len(ImageFolder(size=4).load("train", tmp_path)) == 1
    with pytest.raises(InputError, match="no class has two images"):
        ImageFolder(size=4).load("test", tmp_path)


@pytest.mark.parametrize("fields", [{"size": 0}, {"channels": 2}, {"test_share": 0.0}, {"on_broken": "drop"}], ids=str)
def test_wrong_fields_are_refused_by_name(fields):
    with pytest.raises(InputError, match=next(iter(fields))):
        from_json(ImageFolder, fields)


def test_real_photos(data_dir, tmp_path, where):
    archive = data_dir / "cifar10-5000.tar"
    if not archive.is_file():
        pytest.skip(f"{archive} is not there")
    with tarfile.open(archive) as tar:
        wanted = [member for member in tar.getmembers() if "/cat/" in member.name or "/ship/" in member.name]
        tar.extractall(tmp_path, wanted[:60] + wanted[-60:], filter="data")
    root = tmp_path / "cifar10-5000"
    config = ImageFolder(size=32)
    train, test = config.load("train", root), config.load("test", root)
    assert train.class_names == ["cat", "ship"]
    assert torch.bincount(train.labels).tolist() == [48, 48]
    assert torch.bincount(test.labels).tolist() == [12, 12]
    # At their own size photos are not resampled: pixels are those that Pillow decodes.
    wanted = {np.asarray(Image.open(path)).tobytes() for path in root.glob("*/*.jpg")}
    got = [data.pixels(torch.arange(len(data))).permute(0, 2, 3, 1).numpy() for data in (train, test)]
    assert {image.tobytes() for image in np.concatenate(got)} == wanted
