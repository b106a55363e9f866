"""Small stores and dictionaries to be analysed."""

import pytest
import torch
from torch import nn

from unweave.capture import capture
from unweave.dictionaries.topk import TopK
from unweave.store.rows import TensorRows

CLASS_NAMES = ["no", "yes", "never"]


@pytest.fixture
def rows():
    """[90, 5]; two classes, the first entry tells them apart; a third class has no example."""
    x = torch.randn(90, 5, generator=torch.Generator().manual_seed(0))
    label = (torch.arange(90) % 3 == 0).long()
    x[:, 0] += 4 * label
    return x, label


@pytest.fixture
def store_of(tmp_path):
    """A function: a store of rows [n, d] or [n, t, d]."""

    def make(x, labels=None, class_names=None, **options):
        return capture(
            nn.Sequential(nn.Identity()), x, at="0", labels=labels, class_names=class_names, shard_bytes=600, **options
        )

    return make


@pytest.fixture
def dictionary_of():
    """A function: a TopK dictionary with random weights for rows [n, d]; its last latent is dead."""

    def make(x, d_sae: int = 12, k: int = 3, *, all_dead: bool = False):
        sae = TopK(d_sae=d_sae, k=k).build(x.shape[-1])
        sae.prepare(TensorRows(x.reshape(-1, x.shape[-1])), torch.Generator().manual_seed(1))
        with torch.no_grad():
            sae.b_enc[0 if all_dead else -1 :] = -1e6
        return sae.to_inference()

    return make
