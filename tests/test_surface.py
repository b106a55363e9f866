"""The Python surface, used as the README uses it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import unweave as uw
from unweave.datasets.base import DatasetConfig
from unweave.datasets.rows import RowsConfig
from unweave.dictionaries.base import DictionaryConfig
from unweave.models.base import ModelConfig

FAMILIES = (DictionaryConfig, ModelConfig, DatasetConfig, RowsConfig)
REGISTERED = [member for family in FAMILIES for member in family.registry.members().values()]


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def labels() -> Tensor:
    return torch.arange(60) % 3


@pytest.fixture(scope="module")
def acts(images: Tensor, labels: Tensor, tmp_path_factory: pytest.TempPathFactory) -> uw.Activations:
    model = uw.MLP(widths=(8, 6)).build((1, 4, 4), 3, torch.Generator().manual_seed(1))
    out = tmp_path_factory.mktemp("store") / "acts"
    return uw.capture(model, images, at="fc2", rows="flatten", labels=labels, out=out)


@pytest.fixture(scope="module")
def sae(acts: uw.Activations) -> uw.Dictionary:
    return uw.train(acts, uw.TopK(d_sae=12, k=2), uw.Training(epochs=3, batch_size=16, learning_rate=1e-3), seed=0)


def test_capture_gives_the_rows_of_the_layer(acts: uw.Activations, labels: Tensor) -> None:
    assert isinstance(acts, uw.Activations)
    assert (acts.n, acts.d_in, acts.hook_name) == (60, 6, "fc2")
    assert acts.label is not None
    assert torch.equal(acts.label, labels)
    assert torch.equal(uw.Activations(acts.folder).rows(0, 60), acts.rows(0, 60))


def test_capture_takes_labels_as_a_list_and_needs_no_folder(images: Tensor, labels: Tensor) -> None:
    store = uw.capture(nn.Flatten(), images, at="", labels=labels.tolist())
    assert torch.equal(store.rows(0, 60), images.flatten(1))
    assert store.label is not None
    assert torch.equal(store.label, labels)


def test_encode_and_decode(sae: uw.Dictionary, acts: uw.Activations) -> None:
    x = acts.rows(0, 60)
    codes = sae.encode(x)
    assert codes.shape == (60, 12)
    assert ((codes != 0).sum(1) <= 2).all()
    assert sae.decode(codes).shape == x.shape
    assert torch.equal(sae(x), sae.decode(codes))
    assert not codes.requires_grad, "a trained dictionary is frozen"


def test_the_same_seed_gives_the_same_bits(sae: uw.Dictionary, acts: uw.Activations) -> None:
    settings = uw.Training(epochs=3, batch_size=16, learning_rate=1e-3)
    again, other = (uw.train(acts, uw.TopK(d_sae=12, k=2), settings, seed=seed) for seed in (0, 1))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in sae.state_dict().items())
    assert not torch.equal(sae.state_dict()["W_dec"], other.state_dict()["W_dec"])


def test_save_and_load_give_the_same_bits(sae: uw.Dictionary, acts: uw.Activations, tmp_path: Path) -> None:
    sae.save(tmp_path / "dir")
    for folder in (tmp_path / "dir", str(tmp_path / "dir")):
        back = uw.load(folder)
        assert type(back) is type(sae)
        assert (back.config, back.hook_name) == (sae.config, "fc2")
        assert torch.equal(back.encode(acts.rows(0, 60)), sae.encode(acts.rows(0, 60)))
        assert back.history == sae.history
    with pytest.raises(uw.StoreError, match="no dictionary that is recognised"):
        uw.load(tmp_path)


def test_train_takes_a_tensor_or_a_stream_of_batches(acts: uw.Activations) -> None:
    x = acts.rows(0, 60).clone()
    config, settings = uw.ReLU(d_sae=12, l1=3e-3), uw.Training(epochs=2, batch_size=20, shuffle=False)
    from_tensor = uw.train(x, config, settings, seed=0)

    def stream() -> Iterator[Tensor]:
        yield from x.split(20)

    from_stream = uw.train(stream(), config, settings, seed=0)
    for dictionary in (from_tensor, from_stream):
        assert isinstance(dictionary, uw.Dictionary)
        assert dictionary.encode(x).min() >= 0
    assert from_tensor.history["step"][-1] == 6
    assert from_stream.history["step"][-1] == 3


def test_analyze_shows_a_latent(sae: uw.Dictionary, acts: uw.Activations, images: Tensor) -> None:
    atlas = uw.analyze(sae, acts, images=images, analysis=uw.Analysis(permutations=9))
    assert isinstance(atlas, uw.Atlas)
    latent = int(atlas.column("count").argmax())
    assert isinstance(atlas.show(latent), Figure)
    assert 0 < atlas.metrics["dictionary/l0"] <= 2
    with pytest.raises(uw.InputError, match="no latent 12"):
        atlas.show(12)


def test_a_class_may_be_called_as_it_likes(sae: uw.Dictionary, images: Tensor, tmp_path: Path) -> None:
    model = uw.MLP(widths=(8, 6)).build((1, 4, 4), 3, torch.Generator().manual_seed(1))
    names = ["$x^", "$\\frac$", "<b>&"]
    store = uw.capture(model, images, at="fc2", labels=torch.arange(60) % 3, class_names=names)
    atlas = uw.analyze(sae, store, analysis=uw.Analysis(permutations=9))
    path = tmp_path / "latent.svg"
    atlas.show(int(atlas.column("count").argmax())).savefig(path)
    assert all(name in path.read_text() for name in ("$x^", "$\\frac$", "&lt;b&gt;&amp;"))


def test_results_without_a_place_go_with_their_objects(sae: uw.Dictionary, images: Tensor) -> None:
    store = uw.capture(uw.MLP(widths=(8, 6)).build((1, 4, 4), 3, torch.Generator()), images, at="fc2")
    atlas = uw.analyze(sae, store, analysis=uw.Analysis(permutations=9))
    folders = [store.folder, atlas.folder]
    assert all(folder.is_dir() for folder in folders)
    del store, atlas
    assert not any(folder.exists() for folder in folders)


@pytest.mark.parametrize("member", REGISTERED, ids=lambda member: member.__name__)
def test_every_registered_class_is_an_attribute_of_the_package(member: type) -> None:
    assert getattr(uw, member.__name__) is member
    assert member.__name__ in dir(uw)


def test_class_names_are_told_apart_across_families() -> None:
    names = [member.__name__ for member in REGISTERED]
    assert len(set(names)) == len(names)
    assert not set(names) & set(uw.__all__)


def test_every_exported_name_is_there() -> None:
    assert all(hasattr(uw, name) for name in uw.__all__)
    assert set(uw.__all__) <= set(dir(uw))


@pytest.mark.parametrize("name", ["TopKK", "topk", "_DatasetConfig_", "execute"])
def test_an_unknown_attribute_is_an_attribute_error(name: str) -> None:
    assert not hasattr(uw, name)
    with pytest.raises(AttributeError, match=f"no attribute '{name}'"):
        getattr(uw, name)


def test_errors_are_value_errors() -> None:
    assert issubclass(uw.StoreError, uw.InputError)
    assert issubclass(uw.InputError, ValueError)
    with pytest.raises(ValueError, match="k must lie between 1 and d_sae"):
        uw.TopK(d_sae=4, k=5)
