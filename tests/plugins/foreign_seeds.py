"""Whole files of each foreign format, small, as a start for changing them in every way."""

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import safetensors.torch
import torch
from foreign_files import random_tensors, standing_in
from torch import Tensor, nn

from unweave.dictionaries.base import Dictionary, DictionaryConfig, RowNorm
from unweave.dictionaries.batch_topk import BatchTopK
from unweave.dictionaries.gated import Gated
from unweave.dictionaries.jumprelu import JumpReLU
from unweave.dictionaries.normalised import NormalisedRows
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.topk import TopK
from unweave.formats.base import named

Files = dict[str, bytes]
D, S = 3, 5
_WRITTEN: dict[str, tuple[DictionaryConfig, ...]] = {
    "dictionary-learning": (ReLU(d_sae=S), TopK(d_sae=S, k=2), Gated(d_sae=S), JumpReLU(d_sae=S, target=2)),
    "openai": (ReLU(d_sae=S),),
    "saelens": (ReLU(d_sae=S), TopK(d_sae=S, k=2), Gated(d_sae=S), JumpReLU(d_sae=S, target=2)),
    "saev": (ReLU(d_sae=S), BatchTopK(d_sae=S, k=2)),
    "sparsify": (TopK(d_sae=S, k=2),),
}


class _Thing(nn.Module):
    """A pickled module is its attributes."""

    def __init__(self, **values: Any) -> None:
        super().__init__()
        for name, value in values.items():
            setattr(self, name, value)


def seeds() -> dict[str, list[Files]]:
    """Files by name, for each format that is registered: one set for each kind it has words for."""
    made = {name: [_written(name, config) for config in configs] for name, configs in _WRITTEN.items()}
    for name in ("openai", "saelens"):
        made[name].append(_written(name, TopK(d_sae=S, k=2), row_norm="layer_norm"))
    others = {"overcomplete": [_overcomplete()], "prisma": [_prisma(), _prisma_pickled()], "gemma-scope": gemma_scope()}
    return {**made, **others}


def _written(name: str, config: DictionaryConfig, row_norm: RowNorm | None = None) -> Files:
    own: Dictionary = config.build(D)
    generator = torch.Generator().manual_seed(0)
    for tensor in own.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape, generator=generator))
    own = own if row_norm is None else NormalisedRows(own, row_norm)
    with TemporaryDirectory() as folder:
        named(name).write(own, Path(folder))
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def _four() -> dict[str, Tensor]:
    return random_tensors(0, W_enc=(D, S), b_enc=(S,), W_dec=(S, D), b_dec=(D,))


def gemma_scope() -> list[Files]:
    """Of the first one and of the second."""
    tensors = {**_four(), "threshold": torch.linspace(0.1, 0.5, S)}
    npz = io.BytesIO()
    np.savez(npz, **{name: tensor.numpy() for name, tensor in tensors.items()})
    said = {"architecture": "jump_relu", "hf_hook_point_in": "model.layers.9.output", "model_name": "gemma-v3-1b-pt"}
    params = safetensors.torch.save({name.lower(): tensor for name, tensor in tensors.items()})
    return [
        {"params.npz": npz.getvalue()},
        {"params.safetensors": params, "config.json": json.dumps(said).encode()},
    ]


def torch_bytes(contents: Any) -> bytes:
    """What torch.save makes of it."""
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    return buffer.getvalue()


_PRISMA: Mapping[str, Any] = {
    "architecture": "standard",
    "d_in": D,
    "d_sae": S,
    "activation_fn_str": "topk",
    "activation_fn_kwargs": {"k": 2},
    "normalize_activations": "none",
}


def _prisma() -> Files:
    return {"config.json": json.dumps(_PRISMA).encode(), "weights.pt": torch_bytes(_four())}


def _prisma_pickled() -> Files:
    kind = type("VisionModelSAERunnerConfig", (), {})
    with standing_in(vit_prisma__sae__config__VisionModelSAERunnerConfig=kind):
        config = kind()
        config.__dict__.update(_PRISMA)
        return {"sae.pt": torch_bytes({"cfg": config, "state_dict": _four()})}


def _overcomplete() -> Files:
    kinds = {
        "topk_sae__TopKSAE": type("TopKSAE", (_Thing,), {}),
        "modules__MLPEncoder": type("MLPEncoder", (_Thing,), {}),
        "dictionary__DictionaryLayer": type("DictionaryLayer", (_Thing,), {}),
    }
    sae, encoder, layer = kinds.values()
    normalize: Any = type("normalize_l2", (), {})
    stand_ins = {f"overcomplete__sae__{name}": kind for name, kind in kinds.items()}
    with standing_in(**stand_ins, overcomplete__sae__dictionary__normalize_l2=normalize):
        atoms = layer(_weights=nn.Parameter(_four()["W_dec"]), normalization=normalize, _fused_dictionary=None)
        atoms.register_buffer("multiplier", torch.tensor(0.2))
        block = nn.Sequential(nn.Linear(D, S), nn.BatchNorm1d(S))
        inner = encoder(mlp_blocks=nn.ModuleList(), final_block=block, final_activation=nn.ReLU())
        return {"sae.pt": torch_bytes(sae(encoder=inner, dictionary=atoms, top_k=2))}


def split(content: bytes) -> tuple[bytes, dict[str, bytes]]:
    """What lies before an archive of torch.save, and its members; none where it is no archive."""
    start = content.find(b"PK\x03\x04")
    if start < 0:
        return content, {}
    with zipfile.ZipFile(io.BytesIO(content[start:])) as archive:
        return content[:start], {name: archive.read(name) for name in archive.namelist()}


def joined(before: bytes, members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """The same put together again, with right checksums."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return before + buffer.getvalue()
