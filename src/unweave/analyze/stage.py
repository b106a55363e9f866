"""The stage: encode once, then everything from the codes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from unweave.analyze.atlas import (
    BY_LATENT,
    CODES,
    EXAMPLES,
    HISTOGRAMS,
    KIND,
    LABELS,
    LATENTS,
    ROWS,
    SELECTIVE,
    THUMBNAILS,
    TOKENS,
    TOP_TOKENS,
    Analysis,
    Atlas,
)
from unweave.analyze.tables import LabelTables, example_columns, label_tables, latent_columns, selective_columns
from unweave.analyze.thumbnails import ImageReader
from unweave.analyze.tokens import TokenRows, top_token_columns
from unweave.core.codes import Codes
from unweave.core.config import Json, fingerprint
from unweave.core.errors import InputError
from unweave.core.hashing import hash_module
from unweave.core.progress import progress
from unweave.core.seeds import numpy_generator
from unweave.datasets.base import ImageDataset
from unweave.datasets.streamed import StreamedImages
from unweave.dictionaries.base import Dictionary
from unweave.metrics.contribution import contribution_shares
from unweave.metrics.entries import Entries, by_example, by_latent
from unweave.metrics.reconstruction import ReconstructionSums
from unweave.metrics.sparsity import Firing, firing, histograms, l0
from unweave.store.activations import Activations
from unweave.store.artifact import Draft, Identity, existing, writing
from unweave.store.codes import save_codes
from unweave.store.files import load_table, load_tensors, save_table, save_tensors
from unweave.store.keyed import ROWS_A_GROUP
from unweave.store.layout import as_details
from unweave.store.scratch import Scratch

_ROWS_A_BLOCK = 8192
_TOKENS_A_LATENT = 12
_TEXTS_A_GROUP = 64


def analyze(
    dictionary: Dictionary,
    activations: Activations,
    *,
    images: ImageDataset | StreamedImages | Tensor | None = None,
    tokens: Sequence[Sequence[str]] | None = None,
    analysis: Analysis | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    overwrite: bool = False,
) -> Atlas:
    """Say of every latent how often it fires, on what, and what that tells of the class.

    Args:
        dictionary: any dictionary, trained or a control.
        activations: rows to judge it on; held-out ones, for numbers that mean something.
        images: the captured examples as images, in the same order, to show the strongest ones; a stream is read again.
        tokens: of each captured text, in the same order, as the model's tokenizer splits it, to show them in context.
        analysis: sizes and thresholds.
        seed: decides the label permutations, and the examples drawn at random.
        out: folder of the atlas; temporary by default, gone with the returned object.
        overwrite: replace another artifact in `out`.

    Returns:
        The atlas. Label statistics count examples: where several rows belong to one, it counts as firing once.

    Raises:
        InputError: the dictionary takes other rows or gives negative codes, or there are fewer images than examples.
    """
    analysis = analysis or Analysis()
    if not isinstance(activations, Activations):
        raise InputError(f"activations must be a store that capture gave, got a {type(activations).__name__}")
    if dictionary.d_in != activations.d_in:
        raise InputError(f"the dictionary takes rows of width {dictionary.d_in}, the store has {activations.d_in}")
    reader = None if images is None else ImageReader(images)
    captured = activations.manifest.details.get("examples")
    if isinstance(images, ImageDataset) and captured not in (None, len(images)):
        raise InputError(
            f"the data set has {len(images):,} images, but {captured:,} examples were captured: give the split that was"
        )
    inputs = {
        "dictionary": hash_module(dictionary),
        "activations": activations.id,
        "images": reader.id if reader else "",
    }
    if tokens is not None:
        inputs["tokens"] = fingerprint([list(one) for one in tokens])
    identity = Identity(kind=KIND, config=analysis, inputs=inputs, seed=seed)
    scratch = Scratch() if out is None else None
    folder = scratch.path / "atlas" if scratch is not None else Path(str(out))
    if not existing(folder, identity, overwrite=overwrite):
        with writing(folder, identity, overwrite=overwrite) as draft:
            codes, sums, scales = encode_store(dictionary, activations)
            lengths = dictionary.directions().detach().cpu().double().norm(dim=1).numpy()
            _write(draft, codes, sums, lengths, scales, activations, analysis, reader, seed)
            if tokens is not None:
                _write_tokens(draft.folder, activations, tokens)
            draft.details.update(dictionary=repr(dictionary), d_sae=dictionary.d_sae, hook_name=activations.hook_name)
            draft.details["layout"] = as_details(activations.layout)
    return Atlas(folder, scratch)


@torch.no_grad()
def encode_store(
    dictionary: Dictionary, activations: Activations
) -> tuple[Codes, ReconstructionSums, Float32[np.ndarray, " n"]]:
    """Codes of every row of a store, how well they reconstruct it, and its rows' `scales`, in one pass."""
    sums = ReconstructionSums(activations.d_in)
    parts, scales = [], []
    chunk = max(1, min(_ROWS_A_BLOCK, (64 << 20) // (4 * dictionary.d_sae)))
    with progress("Encoding", total=activations.n, unit="rows") as bar:
        for rows in activations.blocks(chunk):
            own = rows.to(dictionary.device)
            codes = dictionary.encode(own)
            if bool((codes < 0).any()):
                raise InputError(
                    f"{dictionary} gives negative codes, but an atlas needs one-sided latents; split each into its "
                    "positive and its negative part"
                )
            sums.add(rows, dictionary.reconstruct(codes, own))
            parts.append(Codes.from_dense(codes))
            scales.append(dictionary.scales(own).squeeze(1).float().cpu().numpy())
            bar.advance(len(rows))
    return Codes.concatenate(parts, dictionary.d_sae), sums, np.concatenate(scales)


def _write(
    draft: Draft,
    codes: Codes,
    sums: ReconstructionSums,
    lengths: Float64[np.ndarray, " d_sae"],
    scales: Float32[np.ndarray, " n"],
    activations: Activations,
    analysis: Analysis,
    reader: ImageReader | None,
    seed: int,
) -> None:
    entries = by_latent(codes)
    fires = firing(entries)
    status = fires.status(live_share=analysis.live_share, dense_share=analysis.dense_share)
    example, position = activations.example.numpy(), activations.position.numpy()
    labels = _labels(activations, entries, analysis, seed)
    importance = contribution_shares(entries, lengths, sums.variance, scales)
    drawn = numpy_generator(seed, "random examples")
    examples = example_columns(codes, entries, analysis.top, example, position, drawn)
    counts, largest = histograms(entries, analysis.bins)

    save_codes(draft.folder / CODES, codes)
    _save_arrays(draft.folder / BY_LATENT, offsets=entries.offsets, row=entries.row, value=entries.value)
    where = {"example": activations.example, "position": activations.position, "label": activations.label}
    save_tensors(draft.folder / ROWS, {name: tensor for name, tensor in where.items() if tensor is not None})
    save_table(draft.folder / LATENTS, latent_columns(fires, status, importance, labels))
    save_table(draft.folder / EXAMPLES, examples, rows_a_group=ROWS_A_GROUP)
    _save_arrays(draft.folder / HISTOGRAMS, counts=counts, largest=largest)
    if labels is not None:
        save_table(draft.folder / LABELS, labels.long_columns(), rows_a_group=ROWS_A_GROUP)
        save_table(draft.folder / SELECTIVE, selective_columns(labels, analysis.selective))
    if reader is not None:
        with_places = activations.layout is not None and activations.layout.kind == "grid"
        reader.thumbnails(examples["example"], with_places=with_places).save(draft.folder / THUMBNAILS)
    draft.details["metrics"] = _metrics(codes, sums, fires, status, labels)
    draft.details["class_names"] = None if labels is None else labels.class_names
    draft.details["class_totals"] = None if labels is None else labels.class_totals.tolist()


def _write_tokens(folder: Path, activations: Activations, tokens: Sequence[Sequence[str]]) -> None:
    """The tokens of the examples that are shown, and those that each latent fires on."""
    rows = TokenRows(tokens, activations.example.numpy(), activations.position.numpy())
    arrays = {name: tensor.numpy() for name, tensor in load_tensors(folder / BY_LATENT).items()}
    table = top_token_columns(Entries(**arrays, n=activations.n), rows, _TOKENS_A_LATENT)
    save_table(folder / TOP_TOKENS, table, rows_a_group=ROWS_A_GROUP)
    chosen = np.unique(load_table(folder / EXAMPLES, ["example"])["example"].to_numpy())
    texts = {"example": chosen, "tokens": [list(tokens[example]) for example in chosen.tolist()]}
    save_table(folder / TOKENS, texts, rows_a_group=_TEXTS_A_GROUP)


def _save_arrays(path: Path, **arrays: np.ndarray) -> None:
    save_tensors(path, {name: torch.from_numpy(array) for name, array in arrays.items()})


def label_metrics_when_shuffled(atlas: Atlas, activations: Activations, *, seed: int) -> dict[str, float]:
    """The atlas's label numbers with the labels dealt out again at random: what misaligned labels would have shown."""
    if atlas.manifest.inputs["activations"] != activations.id:
        raise InputError(f"{atlas.folder} was made from other activations than {activations.place}")
    labels = _labels(activations, atlas.entries, atlas.analysis, seed, shuffled=True)
    if labels is None:
        raise InputError(f"{activations.place} has no labels")
    status = np.asarray(atlas.latents["status"].to_pylist())
    return labels.metrics(np.isin(status, ["live", "dense"]))


def _labels(
    activations: Activations, entries: Entries, analysis: Analysis, seed: int, *, shuffled: bool = False
) -> LabelTables | None:
    if activations.label is None or len(torch.unique(activations.label)) < 2:
        return None  # of a single class nothing can be told apart
    dense_example = np.unique(activations.example.numpy(), return_inverse=True)[1].astype(np.int64)
    label = np.zeros(int(dense_example.max()) + 1, np.int64)
    label[dense_example] = activations.label.numpy()
    if shuffled:
        label = numpy_generator(seed, "misaligned labels").permutation(label)
    generator = numpy_generator(seed, "label permutations")
    return label_tables(by_example(entries, dense_example), label, activations.class_names, analysis, generator)


def _metrics(
    codes: Codes,
    sums: ReconstructionSums,
    fires: Firing,
    status: list[str],
    labels: LabelTables | None,
) -> Json:
    live = np.isin(status, ["live", "dense"])
    numbers = {
        "dictionary/explained_variance": sums.explained_variance,
        "dictionary/reconstruction_sum_squares": sums.sum_squares,
        "dictionary/l0": l0(codes),
        "dictionary/live": int(live.sum()),
        "dictionary/dead": int((fires.count == 0).sum()),
        "dictionary/dense": status.count("dense"),
        "dictionary/d_sae": codes.d_sae,
        "dictionary/rows": codes.n,
    }
    return {**numbers, **(labels.metrics(live) if labels is not None else {})}
