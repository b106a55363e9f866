"""ViT-Prisma: weights in a `.pt` file, with the configuration inside it or as `config.json` beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from unweave.core.config import Json
from unweave.core.errors import InputError, StoreError
from unweave.core.registry import register
from unweave.dictionaries.base import Dictionary, DictionaryConfig
from unweave.dictionaries.gated import Gated
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.topk import TopK
from unweave.formats.base import Format, Weights, assemble, json_object, peek_json
from unweave.formats.checks import only_file, row_norm_of, shown, whole_number
from unweave.formats.torch_files import Inert, load_torch, peek_torch, state_of

_FILE, _CONFIG = "weights.pt", "config.json"
_FOUR = {"W_enc", "b_enc", "W_dec", "b_dec"}
_MARKS = {"d_in", "activation_fn_str", "normalize_activations"}
_KNOWN = {
    "vit_prisma.sae.config.VisionModelSAERunnerConfig",
    "vit_prisma.configs.HookedViTConfig.HookedViTConfig",
    "sae_training.config.LanguageModelSAERunnerConfig",
    "sae_training.config.ViTSAERunnerConfig",
    "sae_lens.training.config.LanguageModelSAERunnerConfig",
    "sae_lens.config.LanguageModelSAERunnerConfig",
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.linear.Identity",
}
_TOLD = ("model_name", "dataset_name", "hook_point_layer", "cls_token_only", "use_patches_only")


@register("prisma")
class Prisma(Format):
    """A repository or file of ViT-Prisma, and the older files of that family, which hold `cfg` and `state_dict`.

    f = activation((x − b_dec) W_enc + b_enc), x̂ = f W_dec + b_dec, with relu or topk, or gated, for rows as they come
    or normalised one by one (`layer_norm`, its default, and `constant_norm_rescale`). A configuration that was pickled
    with the weights is read for its values; its class is not needed and not run.

    Its first versions normalised rows and then encoded them as they were, with relu and topk; this reads files as all
    later versions do.
    """

    def recognises(self, place: Path) -> bool:
        """Weights with a configuration of Prisma's inside or beside them."""
        path = _weights(place)
        if path is None:
            return False
        loaded = state_of(peek_torch(path, known=_KNOWN))
        if _inside(loaded) is not None:
            return True
        return loaded.keys() >= _FOUR and peek_json(path.parent / _CONFIG).keys() >= _MARKS

    def read(self, place: Path) -> Dictionary:
        """The dictionary of one file."""
        path = _weights(place)
        if path is None:
            raise StoreError(f"{place} holds no {_FILE}, and no or several other files with weights; name one of them")
        loaded = state_of(load_torch(path, known=_KNOWN))
        inside = _inside(loaded)
        cfg, state = inside if inside is not None else (json_object(path.parent / _CONFIG), loaded)
        weights = Weights(state, path)
        d_sae, d_in = weights.matrix("W_dec")
        _expect_readable(cfg, path)
        _expect_sizes(cfg, path, d_in=d_in, d_sae=d_sae)
        state = {"W_enc": weights.take("W_enc", d_in, d_sae), "b_enc": weights.take("b_enc", d_sae)}
        state.update(W_dec=weights.take("W_dec", d_sae, d_in), b_dec=weights.take("b_dec", d_in))
        gated = str(cfg.get("architecture") or "standard") == "gated"
        config = _gated(cfg, weights, state, path) if gated else _standard(cfg, d_sae, path)
        weights.expect_all_taken()
        told = {name: cfg[name] for name in _TOLD if isinstance(cfg.get(name), (str, int))}
        origin, row_norm = {"format": self.kind, **told}, row_norm_of(cfg.get("normalize_activations"))
        return assemble(config, d_in, state, hook_name=_hook_name(cfg), origin=origin, row_norm=row_norm)


def _weights(place: Path) -> Path | None:
    named = place / _FILE
    return named if named.is_file() else only_file(place, ".pt", ".pth")


def _inside(loaded: Mapping[str, Any]) -> tuple[Json, dict[str, Any]] | None:
    """Configuration and tensors of a file that holds both."""
    cfg, state = loaded.get("cfg"), loaded.get("state_dict")
    if cfg is None and isinstance(loaded.get("autoencoder"), Mapping):
        cfg, state = loaded.get("config"), loaded["autoencoder"].get("state_dict")
    values = vars(cfg) if isinstance(cfg, Inert) else cfg
    if not isinstance(values, Mapping) or "d_in" not in values or not isinstance(state, Mapping):
        return None
    return state_of(values), state_of(state)


def _expect_readable(cfg: Json, path: Path) -> None:
    architecture = cfg.get("architecture") or "standard"
    if architecture not in {"standard", "gated"}:
        raise InputError(f"{path}: the architecture {shown(architecture)} is that of no dictionary of Unweave")
    if cfg.get("is_transcoder"):
        raise InputError(f"{path}: a transcoder predicts another layer's output, which no dictionary of Unweave does")
    mode = cfg.get("normalize_activations")
    taken_as_they_are = mode is None or mode is False or (isinstance(mode, str) and mode.lower() == "none")
    if not taken_as_they_are and row_norm_of(mode) is None:
        raise InputError(f"{path}: normalize_activations={shown(mode)} does to rows what no dictionary of Unweave does")


def _expect_sizes(cfg: Json, path: Path, *, d_in: int, d_sae: int) -> None:
    factor, latents = cfg.get("expansion_factor"), cfg.get("d_sae")
    if latents is None and isinstance(factor, int) and not isinstance(factor, bool):
        latents = d_in * factor
    for name, said, found in (("d_in", cfg.get("d_in"), d_in), ("d_sae", latents, d_sae)):
        if said is not None and (isinstance(said, bool) or said != found):
            raise StoreError(f"{path}: the configuration says {name} {shown(said)}, the weights have {found}")


def _standard(cfg: Json, d_sae: int, path: Path) -> DictionaryConfig:
    activation = cfg.get("activation_fn_str", "relu")
    if activation == "relu":
        return ReLU(d_sae=d_sae, decoder_norm="free")
    if activation != "topk":
        raise InputError(f"{path}: the activation {shown(activation)} is that of no dictionary of Unweave")
    options = cfg.get("activation_fn_kwargs")
    options = options if isinstance(options, Mapping) else {}
    after = options.get("postact_fn")
    name = after.name.rpartition(".")[2] if isinstance(after, Inert) else "ReLU" if after is None else shown(after)
    if name not in {"ReLU", "Identity"}:
        raise InputError(f"{path}: the largest latents go through {name}, which no dictionary of Unweave does")
    k = whole_number(options.get("k"), "k", path, most=d_sae)
    return TopK(d_sae=d_sae, k=k, signed=name == "Identity", decoder_norm="free")


def _gated(cfg: Json, weights: Weights, state: dict[str, Tensor], path: Path) -> DictionaryConfig:
    """The gate's bias is b_gate, b_enc is unused; here it is part of the magnitude, too."""
    activation = cfg.get("activation_fn_str", "relu")
    if activation != "relu":
        raise InputError(f"{path}: a gated dictionary with the activation {shown(activation)} is none of Unweave's")
    d_sae = len(state["b_enc"])
    gate, r_mag, b_mag = (weights.take(name, d_sae) for name in ("b_gate", "r_mag", "b_mag"))
    own = b_mag.double() - r_mag.double().exp() * gate.double()
    state.update(b_enc=gate, r_mag=r_mag, b_mag=own.float())
    return Gated(d_sae=d_sae, decoder_norm="free")


def _hook_name(cfg: Json) -> str:
    named, layer, kind = cfg.get("hook_point"), cfg.get("hook_point_layer"), cfg.get("layer_subtype")
    if isinstance(named, str):
        return named
    return f"blocks.{layer}.{kind}" if isinstance(layer, int) and isinstance(kind, str) else ""
