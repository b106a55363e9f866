"""A picture of one's own: its latents and its nearest examples, by hand and against a loop."""

import numpy as np
import pytest
import torch
from torch import nn

from unweave.analyze import analyze
from unweave.analyze.query import image_rows, nearest_codes, nearest_rows, query
from unweave.capture import capture
from unweave.core.codes import Codes
from unweave.core.errors import InputError
from unweave.dictionaries.topk import TopK
from unweave.train import Training, train


@pytest.fixture(scope="module")
def images():
    return torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def net():
    layer = nn.Conv2d(1, 6, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(1)))
    return nn.Sequential(layer, nn.ReLU())


@pytest.fixture(scope="module", params=["flatten", "pool", "position"])
def parts(request, net, images, tmp_path_factory):
    store = capture(net, images, at="0", rows=request.param, out=tmp_path_factory.mktemp(request.param) / "store")
    return store, train(store, TopK(d_sae=12, k=3), Training(epochs=3, batch_size=16), seed=0)


def test_an_example_finds_itself(parts, net, images):
    store, sae = parts
    found = query(net, sae, store, images[7], latents=4, nearest=5)
    assert found.examples[0] == 7
    assert found.similarities[0] == pytest.approx(1, abs=1e-5)
    assert found.similarities_by_code[0] == pytest.approx(1, abs=1e-5)
    assert found.similarities_by_code[found.examples_by_code == 7] == pytest.approx([1], abs=1e-5)
    assert (np.diff(found.similarities) <= 0).all()
    assert (np.diff(found.values) <= 0).all()
    assert (found.values > 0).all()


def test_it_is_what_a_loop_gives(parts, net, images):
    store, sae = parts
    image = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(5))
    rows = image_rows(net, store, image)
    found = query(net, sae, store, image, latents=12, nearest=40)
    value = sae.encode(rows).max(0).values
    assert dict(zip(found.latents.tolist(), found.values.tolist(), strict=True)) == pytest.approx(
        {j: float(v) for j, v in enumerate(value) if v > 0}
    )
    kept, example = store.rows(0, store.n), store.example
    for j, similarity in zip(found.examples.tolist(), found.similarities, strict=True):
        own = kept[example == j]
        best = max(float(torch.cosine_similarity(a, b, dim=0)) for a in own for b in rows)
        assert similarity == pytest.approx(best, abs=1e-5)


def test_codes_of_an_atlas_serve_as_well(parts, net, images):
    store, sae = parts
    codes = analyze(sae, store).codes
    one, other = (query(net, sae, store, images[3], codes=given) for given in (None, codes))
    assert np.array_equal(one.examples_by_code, other.examples_by_code)
    assert np.array_equal(one.latents, other.latents)


def test_cosines_by_hand():
    rows = np.array([[3.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    assert nearest_rows(rows, np.array([[2.0, 0.0]])).tolist() == pytest.approx([1, 0.5**0.5, 0])
    assert nearest_rows(rows, np.array([[2.0, 0.0], [0.0, 1.0]])).tolist() == pytest.approx([1, 0.5**0.5, 0])
    codes = Codes.from_dense(torch.tensor([[3.0, 0.0, 4.0], [0.0, 0.0, 0.0], [0.0, 2.0, 0.0]]))
    row = np.array([1.0, 0.0, 0.0], np.float32)
    assert nearest_codes(codes, row).tolist() == pytest.approx([0.6, 0, 0])
    assert nearest_codes(codes, np.zeros(3, np.float32)).tolist() == [0, 0, 0]


def test_normalisation_at_capture_is_done_again(net, images):
    store = capture(net, images, at="0", mean=[0.5], std=[2.0])
    torch.testing.assert_close(image_rows(net, store, images[2])[0], store.rows(2, 3)[0])


def test_what_does_not_fit_is_explained(parts, net, images):
    store, sae = parts
    with pytest.raises(InputError, match="width"):
        query(net, TopK(d_sae=4, k=1).build(3), store, images[0])
    with pytest.raises(InputError, match="at least 1"):
        query(net, sae, store, images[0], nearest=0)
    with pytest.raises(InputError, match="are not of"):
        query(net, sae, store, images[0], codes=Codes.from_dense(torch.ones(2, 12)))
    with pytest.raises(InputError, match="does not take an image"):
        query(net, sae, store, torch.rand(2, 4, 4))


def test_an_image_of_another_size_is_named(net, images):
    store = capture(net, images, at="0")
    with pytest.raises(InputError, match="at the size that was captured"):
        image_rows(net, store, torch.rand(1, 6, 6))
