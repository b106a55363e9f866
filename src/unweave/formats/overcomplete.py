"""Overcomplete: whole modules that were pickled, read as data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unweave.core.errors import InputError, StoreError
from unweave.core.registry import register
from unweave.dictionaries.base import Dictionary, DictionaryConfig
from unweave.dictionaries.jumprelu import JumpReLU
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.topk import TopK
from unweave.formats.base import Format, Weights, assemble
from unweave.formats.checks import only_file, shown, whole_number
from unweave.formats.torch_files import Inert, load_torch, peek_torch, state_of

_NORMALISATIONS = ("l2", "max_l2", "l1", "max_l1", "identity")
_TINY = 1e-8
_LAYERS = (
    "activation.ReLU",
    "activation.GELU",
    "activation.Identity",
    "batchnorm.BatchNorm1d",
    "batchnorm.BatchNorm2d",
    "container.ModuleList",
    "container.Sequential",
    "conv.Conv2d",
    "linear.Identity",
    "linear.Linear",
    "normalization.LayerNorm",
)
_OWN = (
    "base.SAE",
    "topk_sae.TopKSAE",
    "batchtopk_sae.BatchTopKSAE",
    "jump_sae.JumpSAE",
    "mp_sae.MpSAE",
    "omp_sae.OMPSAE",
    "qsae.QSAE",
    "rasae.RATopKSAE",
    "rasae.RAJumpSAE",
    "ra_sae.RATopKSAE",
    "ra_sae.RAJumpSAE",
    "dictionary.DictionaryLayer",
    "archetypal_dictionary.RelaxedArchetypalDictionary",
    "modules.IdentityEncoder",
    "modules.MLPEncoder",
    "modules.TieableEncoder",
    "modules.AttentionEncoder",
    "modules.ResNetEncoder",
    *(f"dictionary.normalize_{name}" for name in _NORMALISATIONS),
    *(
        f"kernels.{name}_kernel"
        for name in ["rectangle", "gaussian", "triangular", "cosine", "epanechnikov", "quartic", "silverman", "cauchy"]
    ),
)
_KNOWN = {f"overcomplete.sae.{name}" for name in _OWN} | {f"torch.nn.modules.{name}" for name in _LAYERS}
_HOW = (
    "Unweave reads whole modules (torch.save(sae, path)) of Overcomplete's SAE, TopKSAE, BatchTopKSAE, JumpSAE, "
    "RATopKSAE and RAJumpSAE; a state dict alone does not say which of them it is, nor its k or threshold"
)


@register("overcomplete")
class Overcomplete(Format):
    """One file with a whole module: f = activation(x W_enc + b_enc), x̂ = f D, as the module computes it in `eval`.

    Overcomplete has no format of its own: its users save the module, which is a pickle of its objects. It is read here
    as data, and no class of Overcomplete is needed or run. The dictionary D is normalised and multiplied with
    exp(multiplier); that of RA-SAEs is a convex combination of points and a bounded relaxation. A batch norm after the
    encoder is folded into its weights; encoders that are deeper, or that normalise each row, are refused by name.
    Nothing is written: D has no bias beside it, and the pickles of modules are no format for others to write.
    """

    def recognises(self, place: Path) -> bool:
        """A pickled module of Overcomplete, or the tensors of one."""
        path = only_file(place, ".pt", ".pth", ".pkl", ".ckpt")
        if path is None:
            return False
        loaded = peek_torch(path, known=_KNOWN)
        return _is_module(loaded) or any(name.startswith("dictionary.") for name in state_of(loaded))

    def read(self, place: Path) -> Dictionary:
        """The dictionary of one file."""
        path = only_file(place, ".pt", ".pth", ".pkl", ".ckpt") or place
        module = load_torch(path, known=_KNOWN)
        if not _is_module(module):
            raise InputError(f"{path} holds a {type(module).__name__}. {_HOW}")
        kind = module.name.rpartition(".")[2]
        if kind not in _KINDS:
            raise InputError(f"{path}: the class {kind} computes something that no dictionary of Unweave does. {_HOW}")
        D = _dictionary(_part(module, "dictionary", path), path)
        d_sae, d_in = D.shape
        W_enc, b_enc = _encoder(_part(module, "encoder", path), D, path)
        config, extra = _KINDS[kind](module, d_sae, path)
        state = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": D, "b_dec": torch.zeros(d_in), **extra}
        return assemble(config, d_in, state, origin={"format": self.kind, "class": kind})


def _is_module(loaded: object) -> bool:
    return isinstance(loaded, Inert) and loaded.name.startswith("overcomplete.")


def _part(module: Inert, name: str, path: Path) -> Inert:
    """A module within a module."""
    found = _entries(module, "_modules").get(name)
    if not isinstance(found, Inert):
        raise StoreError(f"{path}: the module {module.name} has no {name}")
    return found


def _entries(module: Inert, *kinds: str) -> dict[str, Any]:
    return {name: value for kind in kinds for name, value in state_of(module.get(kind)).items() if value is not None}


def _tensors(module: Inert, path: Path) -> Weights:
    return Weights(_entries(module, "_parameters", "_buffers"), path)


def _named(value: object) -> str:
    """The last part of a class's or function's name."""
    if isinstance(value, Inert):
        return value.name.rpartition(".")[2]
    return value.__name__ if isinstance(value, type) else shown(value)


def _dictionary(layer: Inert, path: Path) -> Float[Tensor, "d_sae d_in"]:
    """D as `eval` has it: what was fused then, or the same computed from the parameters."""
    weights = _tensors(layer, path)
    fused = layer.get("_fused_dictionary")
    if layer.get("training") is False and isinstance(fused, Tensor):
        kept = Weights({"_fused_dictionary": fused}, path)
        return kept.take("_fused_dictionary", *kept.matrix("_fused_dictionary"))
    scale = weights.take("multiplier").exp()
    if _named(layer) == "RelaxedArchetypalDictionary":
        return _archetypal(layer, weights, path) * scale
    rows = weights.take("_weights", *weights.matrix("_weights"))
    return _normalised(rows, _named(layer.get("normalization")), path) * scale


def _normalised(rows: Float[Tensor, "d_sae d_in"], name: str, path: Path) -> Float[Tensor, "d_sae d_in"]:
    kind = name.removeprefix("normalize_")
    if kind not in _NORMALISATIONS:
        raise InputError(f"{path}: its dictionary is normalised by {name}, which is not one of {_NORMALISATIONS}")
    if kind == "identity":
        return rows
    lengths = rows.norm(p=1 if kind.endswith("l1") else 2, dim=1, keepdim=True)
    scaled: Tensor = rows / (lengths.amax() if kind.startswith("max") else lengths + _TINY)
    return scaled


def _archetypal(layer: Inert, weights: Weights, path: Path) -> Float[Tensor, "d_sae d_in"]:
    """Convex combinations of points, and a relaxation of at most delta in length."""
    points = weights.take("C", *weights.matrix("C"))
    shares = weights.take("W", weights.matrix("W")[0], len(points)).relu()
    shares = shares / (shares.sum(dim=1, keepdim=True) + _TINY)
    relaxed = weights.take("Relax", len(shares), points.shape[1])
    delta = layer.get("delta")
    if isinstance(delta, bool) or not isinstance(delta, (int, float)):
        raise StoreError(f"{path}: delta should be a number, it is {shown(delta)}")
    made: Tensor = shares @ points + relaxed * (delta / relaxed.norm(dim=1, keepdim=True)).clamp(max=1)
    return made


def _encoder(
    encoder: Inert, D: Float[Tensor, "d_sae d_in"], path: Path
) -> tuple[Float[Tensor, "d_in d_sae"], Float[Tensor, " d_sae"]]:
    """W_enc and b_enc of an encoder that is linear up to its relu."""
    d_sae, d_in = D.shape
    kind = _named(encoder)
    if kind == "TieableEncoder":
        weights = _tensors(encoder, path)
        own = weights.take("weight", d_sae, d_in) if "weight" in weights else D
        return own.T, weights.take("bias", d_sae) if "bias" in weights else torch.zeros(d_sae)
    if kind != "MLPEncoder":
        raise InputError(f"{path}: its encoder is a {kind}; Unweave's are one linear layer")
    if _entries(_part(encoder, "mlp_blocks", path), "_modules"):
        raise InputError(f"{path}: its encoder has hidden layers (nb_blocks above 1); Unweave's are one linear layer")
    activation = _named(_part(encoder, "final_activation", path))
    if activation != "ReLU":
        raise InputError(f"{path}: its encoder ends with {activation}; Unweave's end with ReLU")
    block = _part(encoder, "final_block", path)
    linear = _tensors(_part(block, "0", path), path)
    W = linear.take("weight", d_sae, d_in).double()
    b = linear.take("bias", d_sae).double() if "bias" in linear else torch.zeros(d_sae, dtype=torch.float64)
    gain, offset = _norm(_part(block, "1", path), d_sae, path)
    return (W * gain[:, None]).T.float(), (b * gain + offset).float()


def _norm(norm: Inert, d_sae: int, path: Path) -> tuple[Float[Tensor, " d_sae"], Float[Tensor, " d_sae"]]:
    """Factor and offset of a batch norm with its running statistics."""
    kind, eps = _named(norm), norm.get("eps")
    if kind == "Identity":
        return torch.ones(d_sae, dtype=torch.float64), torch.zeros(d_sae, dtype=torch.float64)
    weights = _tensors(norm, path)
    if kind != "BatchNorm1d" or "running_mean" not in weights:
        raise InputError(f"{path}: its encoder ends with {kind}, whose result depends on more than fixed weights")
    if isinstance(eps, bool) or not isinstance(eps, (int, float)):
        raise StoreError(f"{path}: eps of the batch norm should be a number, it is {shown(eps)}")
    gain = (weights.take("running_var", d_sae).double() + eps).rsqrt()
    if "weight" in weights:
        gain = gain * weights.take("weight", d_sae).double()
    offset = -weights.take("running_mean", d_sae).double() * gain
    return gain, offset + weights.take("bias", d_sae).double() if "bias" in weights else offset


_Made = tuple[DictionaryConfig, dict[str, Tensor]]


def _relu(module: Inert, d_sae: int, path: Path) -> _Made:
    return ReLU(d_sae=d_sae, decoder_norm="free"), {}


def _topk(module: Inert, d_sae: int, path: Path) -> _Made:
    k = whole_number(module.get("top_k"), "top_k", path, most=d_sae)
    return TopK(d_sae=d_sae, k=k, decoder_norm="free"), {}


def _batch_topk(module: Inert, d_sae: int, path: Path) -> _Made:
    threshold = module.get("running_threshold")
    if threshold is None:
        raise InputError(f"{path}: its running threshold was never set; run it on a batch in train() before saving it")
    kept = Weights({"running_threshold": threshold}, path)
    return _jumps_at(kept.take("running_threshold").expand(d_sae))


def _jump(module: Inert, d_sae: int, path: Path) -> _Made:
    return _jumps_at(_tensors(module, path).take("thresholds", d_sae).exp())


def _jumps_at(least: Float[Tensor, " d_sae"]) -> _Made:
    """Codes from a smallest value on: those above the next smaller number."""
    below = torch.nextafter(least, torch.full_like(least, -torch.inf)).clamp_min(0.0)
    config = JumpReLU(d_sae=len(least), target=min(32.0, float(len(least))), decoder_norm="free")
    return config, {"threshold": below}


_KINDS: dict[str, Callable[[Inert, int, Path], _Made]] = {
    "SAE": _relu,
    "TopKSAE": _topk,
    "RATopKSAE": _topk,
    "BatchTopKSAE": _batch_topk,
    "JumpSAE": _jump,
    "RAJumpSAE": _jump,
}
