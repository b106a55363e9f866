"""Places of images and tokens of texts on a latent's page and in the API."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

pytest.importorskip("nicegui", reason="needs the app's extra")

from unweave.analyze import Analysis, analyze
from unweave.app.places import STRIP_SIDE, context_html
from unweave.app.schema import ContextToken
from unweave.capture import capture
from unweave.dictionaries.topk import TopK

QUICK = Analysis(permutations=9, top=4)
TEXTS = [["<b>", "good", "day"], ["bad", "<script>"]]


@pytest.fixture(scope="module")
def asked(client, library, tmp_path_factory):
    """A folder with an atlas of images by place and one of texts, and the client to ask about them."""
    torch.manual_seed(0)
    sae = TopK(d_sae=6, k=2).build(3)
    with torch.no_grad():
        sae.W_enc.copy_(torch.randn(3, 6))
        sae.b_enc.fill_(0.5)
    sae = sae.to_inference()
    folder = tmp_path_factory.mktemp("places")
    images = torch.rand(5, 1, 8, 8)
    store = capture(nn.Sequential(nn.Conv2d(1, 3, 4, 4)), images, at="0", rows="position")
    analyze(sae, store, images=images, analysis=QUICK, out=folder / "atlas@images")
    rows = torch.rand(5, 3)
    ids = [{"x": rows[:3].unsqueeze(0)}, {"x": rows[3:].unsqueeze(0)}]

    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, x):
            return self.layer(x)

    store = capture(Reads(), ids, at="layer", rows="position")
    analyze(sae, store, tokens=TEXTS, analysis=QUICK, out=folder / "atlas@texts")
    library.shelf.places.append(folder)
    yield client, folder.name
    library.shelf.places.remove(folder)  # the other tests count the runs


def ask(asked, path, of):
    client, run = asked
    return client.get(f"/api/runs/{run}/{path}", params={"of": of})


def firing(asked, of):
    return ask(asked, "latents?sort=max", of).json()["items"][0]["latent"]


def test_an_example_of_images_has_a_strip_of_three(asked):
    latent = firing(asked, "atlas@images")
    shown = ask(asked, f"latents/{latent}/examples", "atlas@images").json()
    assert shown
    assert all(one["context"] == [] for one in shown)
    answer = asked[0].get(shown[0]["places"])
    picture = Image.open(io.BytesIO(answer.content))
    assert picture.size == (3 * STRIP_SIDE + 6, STRIP_SIDE)
    assert np.ptp(np.asarray(picture)) > 0
    assert asked[0].get("/api/heat-scale.png").status_code == 200
    assert ask(asked, f"latents/{latent}/places/99.png", "atlas@images").status_code == 404


def test_an_example_of_texts_has_tokens_and_no_strip(asked):
    latent = firing(asked, "atlas@texts")
    shown = ask(asked, f"latents/{latent}/examples", "atlas@texts").json()
    assert {tuple(token["text"] for token in one["context"]) for one in shown} <= {tuple(text) for text in TEXTS}
    assert all(one["places"] is None for one in shown)
    assert sum(token["strongest"] for token in shown[0]["context"]) == 1
    tokens = ask(asked, f"latents/{latent}/tokens", "atlas@texts").json()
    assert sum(one["share"] for one in tokens) == pytest.approx(1)
    assert all(one["expected"] == pytest.approx(0.2) for one in tokens)
    assert ask(asked, f"latents/{latent}/places/0.png", "atlas@texts").status_code == 404


def test_what_tokens_hold_is_escaped():
    tokens = [
        ContextToken(text="<script>", value=1.0, strongest=True),
        ContextToken(text="a&b", value=None, strongest=False),
    ]
    made = context_html(tokens, 2.0)
    assert "<script>" not in made
    assert "&lt;script&gt;" in made
    assert "a&amp;b" in made


@pytest.mark.parametrize("of", ["atlas@images", "atlas@texts"])
def test_the_page_opens(asked, of):
    client, run = asked
    assert client.get(f"/run/{run}/latent/{firing(asked, of)}", params={"of": of}).status_code == 200
