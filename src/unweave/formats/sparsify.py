"""Sparsify of EleutherAI (the package eai-sparsify, before that `sae`): `cfg.json` beside `sae.safetensors`."""

from pathlib import Path

from unweave.core.config import Json
from unweave.core.errors import InputError, StoreError
from unweave.core.registry import register
from unweave.dictionaries.base import Dictionary
from unweave.dictionaries.exchange import CFG
from unweave.dictionaries.topk import TopK
from unweave.formats.base import Format, Weights, assemble, in_words, json_object, peek_json
from unweave.formats.checks import shown, switch, whole_number
from unweave.store.artifact import write_json
from unweave.store.files import save_tensors

_WEIGHTS = "sae.safetensors"
_OTHERS = {"d_sae", "hook_name", "hook_point", "architecture"}  # SAELens once used the same file names
_REFUSED = {
    "transcode": "it predicts another layer's output, not the rows it reads",
    "skip_connection": "it adds a linear map of the row to what the latents give",
    "signed": "it keeps the latents of largest size, whatever their sign",
}


@register("sparsify")
class Sparsify(Format):
    """A folder for each hook point, with k latents a row: f = the k largest of relu((x − b_dec) W_encᵀ + b).

    W_dec lies there as [latents, d_in]. `num_latents` 0 means `d_in · expansion_factor`. Refused are what computes
    something else: transcoders, skip connections, and the activation groupmax.
    """

    def recognises(self, place: Path) -> bool:
        """`cfg.json` with k and expansion_factor, and the weights beside it."""
        folder = _folder(place)
        keys = peek_json(folder / CFG).keys()
        ours = {"d_in", "k", "expansion_factor"} <= keys and not _OTHERS & keys
        return ours and (folder / _WEIGHTS).is_file()

    def read(self, place: Path) -> Dictionary:
        """The dictionary of one hook point."""
        folder = _folder(place)
        path = folder / CFG
        cfg, weights = json_object(path), Weights.of(folder / _WEIGHTS)
        _expect_readable(cfg, path)
        d_sae, d_in = weights.matrix("W_dec")
        _expect_sizes(cfg, path, d_in=d_in, d_sae=d_sae)
        state = {
            "W_enc": weights.take("encoder.weight", d_sae, d_in).T,
            "b_enc": weights.take("encoder.bias", d_sae),
            "W_dec": weights.take("W_dec", d_sae, d_in),
            "b_dec": weights.take("b_dec", d_in),
        }
        weights.expect_all_taken()
        config = TopK(d_sae=d_sae, k=whole_number(cfg.get("k"), "k", path, most=d_sae), decoder_norm="free")
        return assemble(config, d_in, state, hook_name=_hook_name(folder), origin={"format": self.kind})

    def write(self, dictionary: Dictionary, folder: Path) -> None:
        """The folder that `SparseCoder.load_from_disk` reads."""
        exchange = in_words(dictionary, "sparsify")
        if exchange is None or exchange.architecture != "topk":
            raise InputError(
                f"sparsify keeps the k largest latents of each row; the dictionary {dictionary.config.kind!r} computes "
                "something else"
            )
        tensors = exchange.tensors
        names = {"encoder.bias": tensors["b_enc"], "W_dec": tensors["W_dec"], "b_dec": tensors["b_dec"]}
        save_tensors(folder / _WEIGHTS, {"encoder.weight": tensors["W_enc"].T, **names})
        cfg: Json = {
            "activation": "topk",
            "expansion_factor": max(1, dictionary.d_sae // dictionary.d_in),
            "normalize_decoder": False,
            "num_latents": dictionary.d_sae,
            "k": exchange.options["k"],
            "multi_topk": False,
            "skip_connection": False,
            "transcode": False,
            "d_in": dictionary.d_in,
        }
        write_json(folder / CFG, cfg)


def _expect_readable(cfg: Json, path: Path) -> None:
    for name, reason in _REFUSED.items():
        if switch(cfg.get(name, False), name, path):
            raise InputError(f"{path}: {name} is set: {reason}, which no dictionary of Unweave does")
    activation = cfg.get("activation", "topk")
    if activation != "topk":
        raise InputError(f"{path}: the activation {shown(activation)} is that of no dictionary of Unweave")


def _expect_sizes(cfg: Json, path: Path, *, d_in: int, d_sae: int) -> None:
    said = cfg.get("num_latents") or None
    factor = cfg.get("expansion_factor")
    if said is None and isinstance(factor, int) and not isinstance(factor, bool):
        said = d_in * factor
    for name, value, found in (("d_in", cfg.get("d_in"), d_in), ("num_latents", said, d_sae)):
        if value is not None and (isinstance(value, bool) or value != found):
            raise StoreError(f"{path} says {name} {shown(value)}, the weights have {found}")


def _folder(place: Path) -> Path:
    return place if place.is_dir() else place.parent


def _hook_name(folder: Path) -> str:
    """The folder's name, where the run's configuration one level up says that it is a hook point."""
    points = peek_json(folder.resolve().parent / "config.json").get("hookpoints")
    return folder.resolve().name if isinstance(points, list) and folder.resolve().name in points else ""
