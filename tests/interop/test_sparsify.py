"""sparsify: what its SparseCoder computes and saves, read by Unweave, and the way back."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from unweave.core.errors import InputError
from unweave.dictionaries.topk import TopK
from unweave.formats import export, load

peer: ModuleType = pytest.importorskip(
    "sparsify.sparse_coder", reason="eai-sparsify is not installed; make test-interop installs it"
)
config = pytest.importorskip("sparsify.config")


def encode(coder: Any) -> Any:
    """Its codes, dense."""

    def dense(rows: Tensor) -> Tensor:
        values, indices, _ = coder.encode(rows)
        return torch.zeros(len(rows), coder.num_latents).scatter(1, indices, values)

    return dense


def decode(coder: Any) -> Any:
    """Its reconstruction of dense codes."""

    def rows(codes: Tensor) -> Tensor:
        values, indices = codes.topk(coder.cfg.k)
        return coder.decode(values, indices)

    return rows


@pytest.mark.parametrize(
    ("d_in", "options"),
    [(16, {"num_latents": 40, "k": 5}), (784, {"num_latents": 64, "k": 8}), (24, {"expansion_factor": 3, "k": 7})],
)
def test_what_it_computes(d_in: int, options: dict[str, Any], tmp_path: Path, same: Any, scrambled: Any) -> None:
    coder = peer.SparseCoder(d_in, config.SparseCoderConfig(**options))
    scrambled(coder, seed=d_in)
    coder.save_to_disk(tmp_path / "layers.4.mlp")
    same(load(tmp_path / "layers.4.mlp"), encode(coder), decode(coder), d_in)


def test_after_some_training(tmp_path: Path, same: Any) -> None:
    torch.manual_seed(1)
    coder = peer.SparseCoder(16, config.SparseCoderConfig(num_latents=48, k=4))
    optimiser = torch.optim.Adam(coder.parameters(), lr=1e-2)
    for _ in range(30):
        coder.set_decoder_norm_to_unit_norm()
        loss = coder(torch.randn(128, 16) + torch.arange(16.0)).fvu
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    coder.save_to_disk(tmp_path)
    same(load(tmp_path), encode(coder), decode(coder), 16)


@pytest.mark.parametrize("option", [{"transcode": True}, {"skip_connection": True}, {"activation": "groupmax"}])
def test_what_computes_something_else_is_refused(option: dict[str, Any], tmp_path: Path) -> None:
    peer.SparseCoder(8, config.SparseCoderConfig(num_latents=16, k=4, **option)).save_to_disk(tmp_path)
    with pytest.raises(InputError, match=next(iter(option))):
        load(tmp_path)


def test_the_way_back(tmp_path: Path, same: Any, scrambled: Any) -> None:
    own = TopK(d_sae=33, k=6).build(10)
    scrambled(own, seed=2)
    export(own, tmp_path / "out", format="sparsify")
    coder = peer.SparseCoder.load_from_disk(tmp_path / "out")
    same(own, encode(coder), decode(coder), 10)
