"""saev: one file, its first line JSON, after it what `torch.save` wrote."""

import json
from pathlib import Path

from unweave.core.config import Json
from unweave.core.errors import InputError, StoreError
from unweave.core.registry import register
from unweave.dictionaries.base import Dictionary, DictionaryConfig
from unweave.dictionaries.jumprelu import JumpReLU
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.topk import TopK
from unweave.formats.base import Format, Weights, assemble, centred_bias, in_words
from unweave.formats.checks import only_file, shown, whole_number
from unweave.formats.torch_files import load_torch, save_torch, state_of

_LONGEST_HEADER = 1 << 20
_NEWEST = 5
_FILE = "sae.pt"
_THRESHOLD = "activation.threshold"
_WRITES = "0.3.0"


@register("saev")
class Saev(Format):
    """f = activation(x W_enc + b_enc), x̂ = f W_dec + b_dec: b_dec is not subtracted from the rows.

    It was at first: files without `schema` are those of saev 0.1, whose encoder takes x − b_dec. From schema 1 on
    files are read as saev's own loader reads them today. TopK keeps the k largest whatever their sign. BatchTopK keeps
    what exceeds its threshold; before schema 3 it had none and kept the k largest of a row (schema 2), or of a whole
    batch (schema 1), which is refused.
    """

    def recognises(self, place: Path) -> bool:
        """A first line of JSON that names the width of a row, and an archive after it."""
        path = only_file(place, ".pt", ".pth", ".ckpt")
        if path is None:
            return False
        try:
            header, skip = _header(path)
            with path.open("rb") as opened:
                opened.seek(skip)
                archive = opened.read(2) == b"PK"
        except (OSError, InputError):
            return False
        return archive and any(name in _settings(header) for name in ("d_vit", "d_model"))

    def read(self, place: Path) -> Dictionary:
        """The dictionary of one file."""
        path = only_file(place, ".pt", ".pth", ".ckpt") or place
        header, skip = _header(path)
        schema = whole_number(header.get("schema", 0), "schema", path, least=0, most=_NEWEST)
        weights = Weights(state_of(load_torch(path, skip=skip)), path)
        d_sae, d_in = weights.matrix("W_dec")
        _expect_sizes(_settings(header), path, d_in=d_in, d_sae=d_sae)
        W_enc, b_dec = weights.take("W_enc", d_in, d_sae), weights.take("b_dec", d_in)
        bias = weights.take("b_enc", d_sae)
        state = {
            "W_enc": W_enc,
            "b_enc": bias if schema == 0 else centred_bias(bias, b_dec, W_enc),
            "W_dec": weights.take("W_dec", d_sae, d_in),
            "b_dec": b_dec,
        }
        config = _config(header, schema, d_sae, path, thresholded=_THRESHOLD in weights)
        if isinstance(config, JumpReLU):  # up to zero a threshold cuts nothing: codes are relu'd
            state["threshold"] = weights.take(_THRESHOLD).clamp_min(0.0).expand(d_sae).clone()
        weights.expect_all_taken()
        return assemble(config, d_in, state, origin={"format": self.kind})

    def write(self, dictionary: Dictionary, folder: Path) -> None:
        """One file of schema 5."""
        exchange = in_words(dictionary, "saev")
        kind = dictionary.config.kind
        architecture = "signed" if exchange is None else exchange.architecture
        if exchange is None or architecture not in {"standard", "jumprelu"}:
            raise InputError(
                f"saev's format takes relu dictionaries and those with one threshold; {kind!r} computes something else "
                "(saev's TopK keeps the largest of a row even where they are negative)"
            )
        tensors = dict(exchange.tensors)
        activation: Json = {"cls": "Relu", "params": {}}
        contents = {
            "W_dec": tensors["W_dec"],
            "b_dec": tensors["b_dec"],
            "W_enc": tensors["W_enc"],
            "b_enc": centred_bias(tensors["b_enc"], -tensors["b_dec"], tensors["W_enc"]),
        }
        if architecture == "jumprelu":
            threshold = tensors["threshold"]
            if not bool((threshold == threshold[0]).all()):
                raise InputError(f"saev's format has one threshold for all latents; those of {kind!r} have their own")
            activation = {"cls": "BatchTopK", "params": {"top_k": getattr(dictionary.config, "k", 1)}}
            contents[_THRESHOLD] = threshold[0]
        cfg = {
            "d_model": dictionary.d_in,
            "d_sae": dictionary.d_sae,
            "activation": activation,
            "normalize_w_dec": False,
        }
        header = {"schema": _NEWEST, "cfg": cfg, "commit": "unknown", "lib": _WRITES}
        save_torch(contents, folder / _FILE, before=json.dumps(header).encode() + b"\n")


def _header(path: Path) -> tuple[Json, int]:
    """The first line as JSON, and where the archive begins."""
    if not path.is_file():
        raise StoreError(f"{path} is no file" if path.exists() else f"{path} does not exist")
    try:
        with path.open("rb") as opened:
            line = opened.readline(_LONGEST_HEADER)
        header = json.loads(line) if line.endswith(b"\n") and line.startswith(b"{") else None
    except (OSError, ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise StoreError(f"{path} does not begin with a line of JSON, as files of saev do")
    return header, len(line)


def _settings(header: Json) -> Json:
    """The dictionary's configuration, which stood in the header itself before there was a schema."""
    inner = header.get("cfg")
    return inner if isinstance(inner, dict) else header


def _expect_sizes(settings: Json, path: Path, *, d_in: int, d_sae: int) -> None:
    width = settings.get("d_model", settings.get("d_vit"))
    latents, factor = settings.get("d_sae"), settings.get("exp_factor")
    if latents is None and isinstance(factor, int) and not isinstance(factor, bool):
        latents = d_in * factor
    for name, said, found in (("the width of a row", width, d_in), ("the number of latents", latents, d_sae)):
        if said is not None and (isinstance(said, bool) or said != found):
            raise StoreError(f"{path}: the header says that {name} is {shown(said)}, the weights have {found}")


def _config(header: Json, schema: int, d_sae: int, path: Path, *, thresholded: bool) -> DictionaryConfig:
    activation, settings = _activation(header, schema, path)
    if activation == "BatchTopK" and thresholded:
        return JumpReLU(d_sae=d_sae, target=min(32.0, float(d_sae)), decoder_norm="free")
    if activation == "Relu":
        return ReLU(d_sae=d_sae, decoder_norm="free")
    if activation == "TopK" or (activation == "BatchTopK" and schema == 2):
        k = whole_number(settings.get("top_k", 32), "top_k", path, most=1 << 31)
        return TopK(d_sae=d_sae, k=min(k, d_sae), signed=True, decoder_norm="free")
    if activation == "BatchTopK":
        raise InputError(
            f"{path}: a BatchTopK without threshold keeps what is largest in a batch; a row has no codes of its own"
        )
    raise InputError(f"{path}: the activation {shown(activation)} is that of no dictionary of Unweave")


def _activation(header: Json, schema: int, path: Path) -> tuple[str, Json]:
    """Name of the activation, and where its settings stand."""
    settings = _settings(header)
    if schema == 0:
        return "Relu", settings
    named = header.get("cls")
    if schema == 1 and named in {"Relu", "TopK", "BatchTopK", "JumpRelu"}:
        return str(named), settings
    kept = settings.get("activation", {"cls": "Relu"} if schema == 1 else None)
    if not isinstance(kept, dict) or not isinstance(kept.get("cls"), str):
        raise StoreError(f"{path}: the header names no activation")
    params = kept.get("params", {})
    return kept["cls"], params if isinstance(params, dict) else {}
