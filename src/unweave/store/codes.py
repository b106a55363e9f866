"""Sparse codes on disk: offsets, latents and values in one safetensors file."""

from pathlib import Path

import torch

from unweave.core.codes import Codes
from unweave.core.errors import StoreError
from unweave.store.files import load_tensors, save_tensors


def save_codes(path: Path, codes: Codes) -> None:
    """Write codes; the file's size follows the number of active entries."""
    arrays = {"offsets": codes.offsets, "latent": codes.latent, "value": codes.value}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    save_tensors(path, {**tensors, "d_sae": torch.tensor(codes.d_sae)})


def load_codes(path: Path) -> Codes:
    """Read codes, mapped into memory.

    Raises:
        StoreError: the file is missing, damaged or holds something else.
    """
    tensors = load_tensors(path)
    if set(tensors) != {"offsets", "latent", "value", "d_sae"}:
        raise StoreError(f"{path} holds {sorted(tensors)}, not sparse codes")
    arrays = {name: tensors[name].numpy() for name in ("offsets", "latent", "value")}
    return Codes(**arrays, d_sae=int(tensors["d_sae"]))
