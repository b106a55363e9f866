"""How far answers of any kind move: against moves made by hand, with their control, and texts that are kept."""

import math

import pytest
import torch
from torch import nn

from unweave.core.errors import InputError
from unweave.datasets.base import MemoryTexts
from unweave.dictionaries.topk import TopK
from unweave.steer import MovedAnswers, moved_answers, steer

WORDS = ["a", "b", "c", "d", "e", "f", "g"]
TEXTS = MemoryTexts(["abc", "b", "gfedc", "aa", "dbc", "cab"])


class Reader(nn.Module):
    """Texts of letters: an embedding, a layer, and answers to the mean over real tokens."""

    def __init__(self, width):
        super().__init__()
        torch.manual_seed(3)
        self.embed, self.layer, self.head = nn.Embedding(8, 4), nn.Linear(4, 4), nn.Linear(4, width)

    def encode(self, texts, *, length=None):
        longest = max(map(len, texts))
        ids = torch.tensor([[ord(c) - 96 for c in text] + [0] * (longest - len(text)) for text in texts])
        return torch.stack([ids, (ids > 0).long()], 1)

    def tokenize(self, texts, *, length=None):
        ids, mask = self.encode(texts).unbind(1)
        return {"input_ids": ids, "attention_mask": mask}

    def tokens(self, texts):
        return [list(text) for text in texts]

    def forward(self, x):
        ids, mask = x.unbind(1)
        rows = self.layer(self.embed(ids))
        share = mask.float() / mask.sum(1, keepdim=True)
        return self.head((rows * share.unsqueeze(2)).sum(1))


@pytest.fixture
def sae():
    torch.manual_seed(0)
    made = TopK(d_sae=6, k=2).build(4)
    with torch.no_grad():
        made.W_enc.copy_(torch.randn(4, 6))
        made.W_dec.copy_(torch.randn(6, 4))
        made.b_enc.fill_(0.5)
    return made.to_inference()


HOW = {"at": "layer", "doses": (0.0, 1.5), "op": "add", "unit": "value", "controls": 5, "resamples": 20}


@torch.no_grad()
def by_hand(model, sae, latent, positions=None):
    x = model.encode(TEXTS.texts)
    own = model(x)
    with steer(model, sae, at="layer", rows="position", edits={latent: ("add", 1.5)}, positions=positions):
        return x, own, model(x)


def test_logits_move_by_the_divergence_and_followed_ones_by_their_probability(sae):
    model = Reader(7)
    found = moved_answers(model, sae, TEXTS, latents=[2, 0], names=WORDS, most=3, batch_size=4, **HOW)
    _, own, new = by_hand(model, sae, 2)  # filled-up places are moved too there, and do not count in this model
    p, q = own.double().softmax(1), new.double().softmax(1)
    rows = [row for row in found.examples.to_pylist() if row["latent"] == 2 and row["dose"] == 1.5]
    assert [row["change"] for row in rows] == pytest.approx((p * (p / q).log()).sum(1).tolist(), rel=1e-3)
    assert [row["answer_before"] for row in rows] == own.argmax(1).tolist()
    assert [row["answer_after"] for row in rows] == new.argmax(1).tolist()
    assert [row["probability_kept"] for row in rows] == pytest.approx(q.gather(1, own.argmax(1, True))[:, 0].tolist())
    followed = found.followed_of(2)
    change = (q - p).mean(0)
    order = change.abs().argsort(descending=True)[:3].tolist()
    assert [one.name for one in followed] == [WORDS[one] for one in order]
    assert [one.change[1] for one in followed] == pytest.approx(change[order].tolist(), abs=1e-6)
    assert found.curve(2, "change")[0] == pytest.approx(0, abs=1e-6)
    assert found.name(int(own.argmax(1)[0])) == WORDS[int(own.argmax(1)[0])]


def test_vectors_move_by_their_cosine_and_have_no_names(sae):
    model = Reader(5)
    found = moved_answers(model, sae, TEXTS, latents=[1], **HOW)
    _, own, new = by_hand(model, sae, 1)
    expected = 1 - torch.cosine_similarity(own.double(), new.double(), dim=1)
    assert found.curve(1, "change")[1] == pytest.approx(float(expected.mean()), rel=1e-4)
    (effect,) = found.strongest()
    assert (effect.answer, found.followed, found.logits) == ("", None, False)
    assert math.isnan(effect.probability)
    assert found.figure(1).axes


def test_the_control_moves_rows_as_far_along_random_directions(sae):
    model = Reader(7)
    found = moved_answers(model, sae, TEXTS, latents=[2], names=WORDS, **HOW)
    length = found.curve(2, "length")
    assert length == pytest.approx([0, 1.5 * float(sae.W_dec[2].norm())], rel=1e-5)
    low, mean, high = (found.curve(2, f"control_change{end}")[1] for end in ("_low", "", "_high"))
    assert 0 < low < mean < high
    (effect,) = found.strongest()
    assert effect.beyond == (effect.band[0] > high)
    assert effect.by_chance > 0


def test_effects_are_of_the_dose_that_chance_was_measured_at(sae):
    with torch.no_grad():
        sae.b_enc[2] = 50.0  # set to 0 it moves further than set to 1
    found = moved_answers(Reader(7), sae, TEXTS, latents=[2], names=WORDS, **{**HOW, "op": "set", "doses": (0.0, 1.0)})
    (far,) = found.manifest.details["far"]
    (effect,) = found.strongest()
    assert found.curve(2, "length").argmax() != far
    assert effect.dose == found.doses[far]
    assert effect.change == found.curve(2, "change")[far]


def test_numbers_below_zero_are_tokens_from_the_end(sae):
    model = Reader(7)
    found = moved_answers(model, sae, TEXTS, latents=[2], names=WORDS, positions=[-1], **HOW)
    with torch.no_grad():
        own = model(model.encode(TEXTS.texts)).double().softmax(1)
    rows = [row for row in found.examples.to_pylist() if row["dose"] == 1.5]
    for number, text in enumerate(TEXTS.texts):
        with (
            torch.no_grad(),
            steer(model, sae, at="layer", rows="position", edits={2: ("add", 1.5)}, positions=[len(text) - 1]),
        ):
            new = model(model.encode([text])).double().softmax(1)[0]
        expected = float((own[number] * (own[number] / new).log()).sum())
        assert rows[number]["change"] == pytest.approx(expected, rel=1e-3, abs=1e-7)
    with pytest.raises(InputError, match="no row has a position"):
        moved_answers(model, sae, TEXTS, latents=[2], names=WORDS, positions=[9], **HOW)


def test_texts_are_kept_with_the_codes_of_their_tokens(sae, tmp_path):
    model = Reader(7)
    how = {**HOW, "names": lambda ids: [WORDS[one] for one in ids], "shown": 2}
    with torch.no_grad():
        dense = [sae.encode(model.layer(model.embed(model.encode([text])[0, 0]))) for text in TEXTS.texts]
    latent = int(torch.stack([one.amax(0) for one in dense]).mean(0).argmax())
    found = moved_answers(model, sae, TEXTS, latents=[latent], out=tmp_path / "moved", **how)
    kept = found.texts_of(latent)
    codes = [one[:, latent] for one in dense]
    strongest = sorted((float(one.max()) for one in codes), reverse=True)[:2]
    assert [float(one.values.max()) for one in kept] == pytest.approx(strongest, rel=1e-5)
    for one in kept:
        assert one.tokens == list(TEXTS.texts[one.example])
        assert one.values.tolist() == pytest.approx(codes[one.example].tolist(), rel=1e-5)
        assert one.before.split()[0] in WORDS
    assert MovedAnswers(tmp_path / "moved").examples.equals(found.examples)
    assert found.figure(latent).axes


def test_what_cannot_be_is_refused(sae):
    model = Reader(7)
    with pytest.raises(InputError, match="there are 3 names; the model answers with 7"):
        moved_answers(model, sae, TEXTS, latents=[2], names=["x", "y", "z"], **HOW)
    with pytest.raises(InputError, match="doses must increase"):
        moved_answers(model, sae, TEXTS, latents=[2], **{**HOW, "doses": (1.0, 0.0)})
