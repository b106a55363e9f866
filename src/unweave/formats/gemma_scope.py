"""Gemma Scope of Google DeepMind: `params.npz`, and `params.safetensors` with `config.json` from the second one on."""

import math
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unweave.core.config import Json
from unweave.core.errors import InputError, StoreError
from unweave.core.registry import register
from unweave.dictionaries.base import Dictionary
from unweave.dictionaries.jumprelu import JumpReLU
from unweave.formats.base import Format, Weights, assemble, centred_bias, json_object
from unweave.formats.checks import only_file, shown
from unweave.store.files import load_tensors

_NAMES = {"w_enc", "w_dec", "b_enc", "b_dec", "threshold"}
_OUTPUT = ".output"
_ARRAY = ".npy"


@register("gemma-scope")
class GemmaScope(Format):
    """JumpReLU: f = z where z = x W_enc + b_enc is above the threshold, else 0; x̂ = f W_dec + b_dec.

    b_dec is not subtracted from the rows, which is folded into the encoder's bias. The first Gemma Scope has arrays and
    nothing else, so a transcoder of it is told by the word in its path; those of the second say what they are. Both are
    refused: they predict another layer's output than the one they read.
    """

    def recognises(self, place: Path) -> bool:
        """Arrays of these five names; SAELens' in safetensors are the same in capitals."""
        path = _params(place)
        try:
            return path is not None and _names(path) >= _NAMES
        except (OSError, ValueError, zipfile.BadZipFile, StoreError):
            return False

    def read(self, place: Path) -> Dictionary:
        """The dictionary of one file."""
        path = _params(place)
        if path is None:
            raise StoreError(f"{place} holds no params.npz or params.safetensors, nor any one file like that")
        beside = path.parent / "config.json"
        said = json_object(beside) if beside.exists() else {}
        weights = Weights(_tensors(path), path)
        _expect_dictionary(path, said, weights)
        d_sae, d_in = weights.matrix("w_dec")
        W_enc, b_dec = weights.take("w_enc", d_in, d_sae), weights.take("b_dec", d_in)
        state = {
            "W_enc": W_enc,
            "b_enc": centred_bias(weights.take("b_enc", d_sae), b_dec, W_enc),
            "W_dec": weights.take("w_dec", d_sae, d_in),
            "b_dec": b_dec,
            "threshold": weights.take("threshold", d_sae, infinite=True).clamp_min(0.0),
        }
        weights.expect_all_taken()
        config = JumpReLU(d_sae=d_sae, target=min(32.0, float(d_sae)), decoder_norm="free")
        return assemble(config, d_in, state, hook_name=_hook_name(said), origin=_origin(said, self.kind))


def _params(place: Path) -> Path | None:
    return only_file(place, ".npz") or only_file(place, ".safetensors")


def _names(path: Path) -> set[str]:
    if path.suffix != ".npz":
        return set(load_tensors(path))
    with zipfile.ZipFile(path) as archive:
        return {_name(member) for member in archive.namelist()}


def _name(member: str) -> str:
    """Of an array: files of the first Gemma Scope write W_enc or w_enc."""
    return member.removesuffix(_ARRAY).lower()


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name.

    Raises:
        StoreError: it is damaged, or claims more than it has.
    """
    if path.suffix != ".npz":
        return load_tensors(path)
    try:
        with zipfile.ZipFile(path) as archive:
            there = path.stat().st_size
            return {_name(one.filename): torch.from_numpy(_array(archive, one, there)) for one in archive.infolist()}
    except Exception as error:  # a damaged archive makes its reader fail in any way
        raise StoreError(f"{path} is no whole file of numpy.savez: {error}") from None


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, there: int) -> np.ndarray:
    """One array, whose size is compared with the bytes that are `there` before memory is asked for."""
    if member.compress_type != zipfile.ZIP_STORED:
        raise StoreError(f"{member.filename} is compressed; save it by numpy.savez")
    with archive.open(member) as opened:
        version = np.lib.format.read_magic(opened)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, _, dtype = header(opened)
        if dtype.hasobject or math.prod(shape) * dtype.itemsize > min(member.file_size, there):
            raise StoreError(f"{member.filename} claims to be {dtype} of shape {shape}, which it is not")
    with archive.open(member) as opened:
        array: np.ndarray = np.lib.format.read_array(opened, allow_pickle=False)
    return array


def _expect_dictionary(path: Path, said: Json, weights: Weights) -> None:
    """Refuse a transcoder, and another function than JumpReLU.

    Raises:
        InputError: it is one.
    """
    architecture = said.get("architecture", "jump_relu")
    if architecture != "jump_relu":
        raise InputError(f"{path}: the architecture {shown(architecture)} is not known; Gemma Scope's is jump_relu")
    leaves = said.get("hf_hook_point_out")
    elsewhere = leaves is not None and leaves != said.get("hf_hook_point_in")
    if elsewhere or "affine_skip_connection" in weights or "transcoder" in str(path.absolute()).lower():
        raise InputError(f"{path} is a transcoder: it predicts another layer's output than the rows that it reads")


def _hook_name(said: Json) -> str:
    """The module, where its output is meant."""
    point = said.get("hf_hook_point_in")
    return point.removesuffix(_OUTPUT) if isinstance(point, str) and point.endswith(_OUTPUT) else ""


def _origin(said: Json, kind: str) -> Json:
    model = said.get("model_name")
    return {"format": kind, **({"model_name": model} if isinstance(model, str) else {})}
