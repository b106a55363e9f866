"""One image of one's own: its strongest latents, and the examples nearest to it."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor, nn

from unweave.analyze.stage import encode_store
from unweave.core.codes import Codes
from unweave.core.errors import InputError
from unweave.dictionaries.base import Dictionary
from unweave.models.hooks import HookPoints, Side
from unweave.models.rows import RowMeaning, to_rows
from unweave.store.activations import Activations

_ROWS_A_BLOCK = 65_536


@dataclass(frozen=True, eq=False)
class Query:
    """What a dictionary sees in one image.

    Attributes:
        latents: the strongest, strongest first; only those that fire.
        values: of these.
        examples: of the store, nearest first by cosine of their rows with the image's.
        similarities: those cosines.
        examples_by_code: nearest first by cosine of their codes with the image's.
        similarities_by_code: those cosines; 0 where nothing fires.
        explained: share of the image's row that the dictionary gives back, 1 − ‖x − x̂‖² / ‖x − mean‖².
    """

    latents: Int64[np.ndarray, " m"]
    values: Float32[np.ndarray, " m"]
    examples: Int64[np.ndarray, " k"]
    similarities: Float64[np.ndarray, " k"]
    examples_by_code: Int64[np.ndarray, " k"]
    similarities_by_code: Float64[np.ndarray, " k"]
    explained: float


@torch.no_grad()
def query(
    model: nn.Module,
    sae: Dictionary,
    activations: Activations,
    image: Float[Tensor, "c h w"],
    *,
    latents: int = 8,
    nearest: int = 8,
    codes: Codes | None = None,
) -> Query:
    """The strongest latents of an image, and the captured examples nearest to it in the layer and in code space.

    Where an example has several rows (places, tokens), a latent's value is that of its strongest row, and two examples
    are as similar as their most similar rows.

    Args:
        model: the network that was captured.
        sae: a dictionary of its rows.
        activations: the store to look in; its manifest says where in the network rows come from, and what a row is.
        image: in [0, 1], of the size that was captured.
        latents: how many of the strongest to give.
        nearest: how many examples to give, each way.
        codes: of the store's rows under `sae`, where they are known (an atlas has them); else they are computed.

    Raises:
        InputError: the dictionary or the codes are of other rows, or the image does not go through the model to rows of
            this width.
    """
    if sae.d_in != activations.d_in:
        raise InputError(f"the dictionary takes rows of width {sae.d_in}, the store has {activations.d_in}")
    if codes is not None and (codes.n, codes.d_sae) != (activations.n, sae.d_sae):
        raise InputError(f"codes [{codes.n}, {codes.d_sae}] are not of {activations.n} rows and {sae.d_sae} latents")
    if latents < 1 or nearest < 1:
        raise InputError(f"latents and nearest must be at least 1, got {latents} and {nearest}")
    rows = image_rows(model, activations, image)
    on_device = rows.to(sae.device)
    own = sae.encode(on_device)
    missed = (rows - sae.reconstruct(own, on_device).cpu()).square().sum()
    about = (rows - activations.moments().mean.to(rows)).square().sum()
    value = own.max(0).values.float().cpu().numpy()
    strongest = np.argsort(-value, kind="stable")[:latents]
    strongest = strongest[value[strongest] > 0]
    known = encode_store(sae, activations)[0] if codes is None else codes
    by_row = _of_examples(activations, nearest_rows_of_store(activations, rows.numpy()))
    by_code = _of_examples(
        activations, np.stack([nearest_codes(known, one) for one in own.float().cpu().numpy()]).max(0)
    )
    return Query(
        strongest.astype(np.int64),
        value[strongest],
        *_largest(by_row, nearest),
        *_largest(by_code, nearest),
        float(1 - missed / about.clamp_min(torch.finfo(about.dtype).tiny)),
    )


def image_rows(model: nn.Module, activations: Activations, image: Float[Tensor, "c h w"]) -> Float[Tensor, "m d_in"]:
    """The rows that a store would hold of an image.

    Raises:
        InputError: the model does not take the image, or gives rows of another width.
    """
    details, config = activations.manifest.details, activations.manifest.config
    meaning: RowMeaning = details["rows"]
    side: Side = config["side"]
    name = activations.hook_name
    given = image[None]
    for number, apply in (("mean", torch.sub), ("std", torch.div)):
        if config[number]:
            given = apply(given, torch.tensor(config[number]).view(1, -1, 1, 1))
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    try:
        found = HookPoints(model, name, side=side).read(given.to(device))[name]
    except InputError:
        raise
    except Exception as error:  # a model may fail in any way at an image that it was not made for
        raise InputError(f"the model does not take an image {list(image.shape)}: {error}") from error
    rows = to_rows(found, meaning, examples=1, name=name, layout=activations.layout, width=activations.d_in).values
    rows = rows.float().cpu()
    if rows.shape[1] != activations.d_in:
        raise InputError(
            f"an image {list(image.shape)} gives rows of width {rows.shape[1]}, the store has {activations.d_in}: "
            "give it at the size that was captured"
        )
    return rows


def nearest_rows_of_store(activations: Activations, rows: Float[np.ndarray, "m d_in"]) -> Float64[np.ndarray, " n"]:
    """For each row of a store its largest cosine with any of some rows, a block at a time."""
    blocks = (block.float().numpy() for block in activations.blocks(_ROWS_A_BLOCK))
    return np.concatenate([nearest_rows(block, rows) for block in blocks])


def nearest_rows(store: Float[np.ndarray, "n d_in"], rows: Float[np.ndarray, "m d_in"]) -> Float64[np.ndarray, " n"]:
    """For each row of `store` its largest cosine with any of `rows`; 0 with a row of length 0."""
    lengths = np.linalg.norm(store, axis=1)[:, None] * np.linalg.norm(rows, axis=1)
    products = (store @ rows.T).astype(np.float64)
    found = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return np.asarray(found.max(1))


def nearest_codes(codes: Codes, row: Float[np.ndarray, " d_sae"]) -> Float64[np.ndarray, " n"]:
    """Cosine of each row's code with another code, from active entries alone; 0 where either is empty."""
    which = codes.row()
    product = np.bincount(which, weights=codes.value.astype(np.float64) * row[codes.latent], minlength=codes.n)
    square = np.bincount(which, weights=codes.value.astype(np.float64) ** 2, minlength=codes.n)
    length = np.sqrt(square) * float(np.linalg.norm(row))
    return np.divide(product, length, out=np.zeros(codes.n), where=length > 0)


def _of_examples(activations: Activations, similarity: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " examples"]:
    """The largest over each example's rows; −1 for examples that were not captured."""
    example = activations.example.numpy()
    found = np.full(int(example.max()) + 1, -1.0)
    np.maximum.at(found, example, similarity)
    return found


def _largest(values: Float64[np.ndarray, " n"], most: int) -> tuple[Int64[np.ndarray, " k"], Float64[np.ndarray, " k"]]:
    most = min(most, len(values))
    some = np.argpartition(-values, most - 1)[:most]
    order = some[np.lexsort((some, -values[some]))]
    return order.astype(np.int64), values[order]
