"""Moving latents at some places only, in maps, patches and texts; and what the answers keep."""

import pytest
import torch
from torch import nn

from unweave.capture import capture
from unweave.core.errors import InputError
from unweave.datasets.base import MemoryTexts
from unweave.dictionaries.topk import TopK
from unweave.models.hooks import HookPoints
from unweave.steer import ablation_effects, dose_response, splice, steer
from unweave.steer.fidelity import fidelity
from unweave.store.layout import Layout


def dictionary(d_in, seed=0):
    torch.manual_seed(seed)
    sae = TopK(d_sae=8, k=3).build(d_in)
    with torch.no_grad():
        sae.W_enc.copy_(torch.randn(d_in, 8))
        sae.W_dec.copy_(torch.randn(8, d_in))
        sae.b_enc.fill_(0.3)
    return sae.to_inference()


class Conv(nn.Module):
    """A feature map [b, 4, 3, 3], and logits of its mean over places."""

    def __init__(self, *, last=False):
        super().__init__()
        self.conv, self.out, self.head, self.last = nn.Conv2d(1, 4, 2, 2), nn.Identity(), nn.Linear(4, 3), last

    def forward(self, x):
        made = self.conv(x)
        made = self.out(made.permute(0, 2, 3, 1) if self.last else made)
        return self.head(made.mean((1, 2) if self.last else (2, 3)))


class Tokens(nn.Module):
    """A class token and two registers before nine patches; the class token is the mean of the patches."""

    def __init__(self):
        super().__init__()
        self.conv, self.out, self.head = nn.Conv2d(1, 4, 2, 2), nn.Identity(), nn.Linear(4, 3)

    def forward(self, x):
        patches = self.conv(x).flatten(2).transpose(1, 2)
        rows = self.out(torch.cat([torch.ones(len(x), 3, 4), patches], 1))
        return self.head(rows[:, 3:].mean(1) + rows[:, 0])


def tensor_under(model, sae, x, at, **options):
    with steer(model, sae, at=at, rows="position", edits={2: ("add", 1.0)}, **options):
        return HookPoints(model, at).read(x)[at]


@pytest.mark.parametrize("last", [False, True])
def test_one_place_of_a_map_is_moved_and_no_other(last):
    torch.manual_seed(1)
    model, x, sae = Conv(last=last), torch.rand(2, 1, 6, 6), dictionary(4)
    store = capture(model, x, at="out", rows="position")
    own = HookPoints(model, "out").read(x)["out"]
    moved = tensor_under(model, sae, x, "out", layout=store.layout, positions=[store.layout.position(1, 2)]) - own
    places = moved if last else moved.permute(0, 2, 3, 1)
    assert torch.allclose(places[:, 1, 2], sae.W_dec[2].expand(2, 4), atol=1e-5)
    places[:, 1, 2] = 0
    assert not places.any()
    everywhere = tensor_under(model, sae, x, "out") - own
    assert torch.allclose(
        everywhere if last else everywhere.permute(0, 2, 3, 1), sae.W_dec[2].expand(2, 3, 3, 4), atol=1e-5
    )


def test_tokens_that_gave_no_rows_stay_as_they_are():
    torch.manual_seed(2)
    model, x, sae = Tokens(), torch.rand(2, 1, 6, 6), dictionary(4)
    store = capture(model, x, at="out", rows="position", prefix="drop")
    assert store.layout == Layout(kind="grid", height=3, width=3, prefix=3, prefix_dropped=True)
    own = HookPoints(model, "out").read(x)["out"]
    moved = tensor_under(model, sae, x, "out", layout=store.layout) - own
    assert not moved[:, :3].any()
    assert torch.allclose(moved[:, 3:], sae.W_dec[2].expand(2, 9, 4), atol=1e-5)
    with steer(model, sae, at="out", rows="position", edits={}, keep_error=False, layout=store.layout, positions=[4]):
        spliced = HookPoints(model, "out").read(x)["out"]
    assert torch.allclose(spliced[:, 4], sae.decode(sae.encode(own[:, 4])), atol=1e-5)
    spliced[:, 4] = own[:, 4]
    assert torch.equal(spliced, own)


def test_answers_at_a_place_are_those_of_a_steered_pass():
    torch.manual_seed(3)
    model, x, sae = Tokens(), torch.rand(5, 1, 6, 6), dictionary(4)
    store = capture(model, x, at="out", rows="position", prefix="drop")
    how = {"at": "out", "rows": "position", "layout": store.layout}
    latent = 0
    few = {"doses": (0.0, 2.0), "unit": "value", "op": "add", "controls": 2, "resamples": 5}
    response = dose_response(model, sae, x, latents=[latent], positions=[5], **few, **how)
    with torch.no_grad():
        own = model(x).mean(0)
        with steer(model, sae, edits={latent: ("add", 2.0)}, positions=[5], **how):
            expected = model(x).mean(0) - own
    table = [row for row in response.table.to_pylist() if row["dose"] == 2.0]
    assert [row["logit_change"] for row in table] == pytest.approx(expected.tolist(), abs=1e-5)
    with pytest.raises(InputError, match=r"no row has a position of \[1\]"):
        dose_response(model, sae, x, latents=[latent], positions=[1], unit="value", **how)


class Reader(nn.Module):
    """Texts of letters: an embedding, a layer, and logits of the mean over real tokens."""

    def __init__(self):
        super().__init__()
        self.embed, self.layer, self.head = nn.Embedding(30, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def encode(self, texts, *, length=None):
        longest = max(map(len, texts))
        ids = torch.tensor([[ord(c) - 96 for c in text] + [0] * (longest - len(text)) for text in texts])
        return torch.stack([ids, (ids > 0).long()], 1)

    def forward(self, x):
        ids, mask = x.unbind(1)
        rows = self.layer(self.embed(ids))
        share = mask.float() / mask.sum(1, keepdim=True)
        return self.head((rows * share.unsqueeze(2)).sum(1))


TEXTS = MemoryTexts(["ab", "hello", "a", "zebra", "on"], torch.tensor([0, 1, 0, 1, 0]), ["short", "long"])


@torch.no_grad()
def test_texts_are_spliced_and_ablated_without_their_padding():
    torch.manual_seed(4)
    model, sae = Reader(), dictionary(4)
    found = splice(model, sae, TEXTS, at="layer", rows="position", batch_size=2)
    assert found == splice(model, sae, TEXTS, at="layer", rows="position", batch_size=2)
    rows = torch.cat([model.layer(model.embed(model.encode([text])[0, 0])) for text in TEXTS.texts])
    new = torch.stack(
        [model.head(part.mean(0)) for part in sae.decode(sae.encode(rows)).split([len(text) for text in TEXTS.texts])]
    )
    assert found.spliced.cross_entropy == pytest.approx(float(nn.functional.cross_entropy(new, TEXTS.labels)), rel=1e-5)
    mean = model.head(rows.mean(0)).expand(5, 2)
    assert found.mean.cross_entropy == pytest.approx(float(nn.functional.cross_entropy(mean, TEXTS.labels)), rel=1e-5)
    lost = ablation_effects(model, sae, TEXTS, at="layer", rows="position", latents=[1], batch_size=3, controls=1)
    codes = sae.encode(rows)
    without = rows - codes[:, 1:2] * sae.W_dec[1]
    answers = torch.stack([model.head(p.mean(0)) for p in without.split([len(text) for text in TEXTS.texts])])
    own = torch.stack([model(model.encode([text]))[0] for text in TEXTS.texts])
    rise = nn.functional.cross_entropy(answers, TEXTS.labels) - nn.functional.cross_entropy(own, TEXTS.labels)
    assert float(lost.total_loss[0]) == pytest.approx(float(rise), abs=1e-5)


def test_texts_need_a_network_that_reads_them():
    with pytest.raises(InputError, match="a Sequential takes no texts"):
        splice(nn.Sequential(nn.Linear(4, 2)), dictionary(4), TEXTS, at="0", rows="position")


def test_fidelity_is_one_for_what_changes_nothing_and_needs_no_labels(tmp_path):
    torch.manual_seed(5)
    model, x, sae = Conv(), torch.rand(12, 1, 6, 6), dictionary(4)
    found = fidelity(model, sae, x, at="out", rows="position", out=tmp_path / "kept")
    assert fidelity(model, sae, x, at="out", rows="position", out=tmp_path / "kept") == found
    rows = HookPoints(model, "out").read(x)["out"].permute(0, 2, 3, 1)
    own, new = model(x), model.head(sae.decode(sae.encode(rows)).mean((1, 2)))
    about = (own - own.mean(0)).square().sum()
    assert found.spliced.explained == pytest.approx(float(1 - (new - own).square().sum() / about), rel=1e-4)
    assert found.spliced.agreement == pytest.approx(float((new.argmax(1) == own.argmax(1)).float().mean()))
    assert found.mean.explained == pytest.approx(0, abs=1e-4)  # the head is linear: the mean row gives the mean answer
    plain = fidelity(model, sae, x, at="out", rows="position", logits=False)
    assert (plain.spliced.kl, plain.spliced.agreement) == (None, None)
    assert plain.metrics["splice/answers_explained_spliced"] == found.spliced.explained
    assert "splice/kl_spliced" not in plain.metrics
