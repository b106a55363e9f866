"""The stage: run a network over examples and write what its hook points give."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, overload

from torch import Tensor, nn

from unweave.capture.config import Capture, Precision
from unweave.capture.examples import Examples, ExampleStream
from unweave.capture.forward import Forward
from unweave.capture.stores import write_stores
from unweave.core.config import fingerprint
from unweave.core.distributed import ranks
from unweave.core.errors import InputError
from unweave.core.hashing import hash_module
from unweave.models.hooks import Side, resolve
from unweave.models.places import Prefix
from unweave.models.rows import RowMeaning
from unweave.store.activations import KIND, Activations
from unweave.store.artifact import Identity, library_versions
from unweave.store.layout import Layout, as_details
from unweave.store.remote import as_place, below
from unweave.store.scratch import Scratch
from unweave.store.uploads import CaptureDraft, existing_at, has_artifact, writing_at


@overload
def capture(
    model: nn.Module,
    examples: Examples,
    *,
    at: str,
    rows: RowMeaning = ...,
    labels: Tensor | Sequence[int] | None = ...,
    out: str | Path | None = ...,
    side: Side = ...,
    dtype: Precision = ...,
    mean: Sequence[float] = ...,
    std: Sequence[float] = ...,
    layout: Layout | None = ...,
    prefix: Prefix = ...,
    batch_size: int = ...,
    class_names: Sequence[str] | None = ...,
    shard_bytes: int = ...,
    overwrite: bool = ...,
    source: Mapping[str, Any] | None = ...,
) -> Activations: ...
@overload
def capture(
    model: nn.Module,
    examples: Examples,
    *,
    at: list[str] | tuple[str, ...],
    rows: RowMeaning = ...,
    labels: Tensor | Sequence[int] | None = ...,
    out: str | Path | None = ...,
    side: Side = ...,
    dtype: Precision = ...,
    mean: Sequence[float] = ...,
    std: Sequence[float] = ...,
    layout: Layout | None = ...,
    prefix: Prefix = ...,
    batch_size: int = ...,
    class_names: Sequence[str] | None = ...,
    shard_bytes: int = ...,
    overwrite: bool = ...,
    source: Mapping[str, Any] | None = ...,
) -> dict[str, Activations]: ...
def capture(
    model: nn.Module,
    examples: Examples,
    *,
    at: str | list[str] | tuple[str, ...],
    rows: RowMeaning = "flatten",
    labels: Tensor | Sequence[int] | None = None,
    out: str | Path | None = None,
    side: Side = "output",
    dtype: Precision = "float32",
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    layout: Layout | None = None,
    prefix: Prefix = "keep",
    batch_size: int = 256,
    class_names: Sequence[str] | None = None,
    shard_bytes: int = 256 << 20,
    overwrite: bool = False,
    source: Mapping[str, Any] | None = None,
) -> Activations | dict[str, Activations]:
    """Capture hidden activations of any module into an activation store; cut short, it goes on when called again.

    Args:
        model: any module; it runs where its parameters lie, in evaluation mode, and is left as it was.
        examples: a tensor [n, …], a data set (of texts, for a model with a tokenizer), a `DataLoader`, or any iterable
            of batches: tensors, (inputs, labels), or mappings that become keyword arguments.
        at: one module's dotted name; or a list of names and globs, all captured in the same pass.
        rows: what a row is: `flatten`, `pool` (mean over positions), `position` (each place or token), `cls`.
        labels: class of each example, in the order of the data set.
        out: folder of the store, or a URL (s3://, gs://, …; needs the extra `remote`); with a list, each hook point
            gets a subfolder of its name. Temporary by default: gone with the returned object.
        side: what the module gives, or its first input.
        dtype: precision of the stored rows.
        mean: subtracted from the inputs, one number or one a channel.
        std: the inputs are divided by it.
        layout: how positions lie in an example (a grid over the image, tokens); found from the shapes by default.
        prefix: whether tokens before those of an image's patches (class token, registers) give rows: keep or drop.
        batch_size: examples a forward pass, where `examples` does not come in batches.
        class_names: names of the classes.
        shard_bytes: size of a shard; memory stays below two of them for each hook point.
        overwrite: replace another artifact in `out`.
        source: what the manifest is to say of where model and examples came from, as JSON values.

    Returns:
        The store, or one for each hook point where `at` is a list.

    Raises:
        InputError: an unknown hook point (with the closest names), a module without a single tensor value, rows that do
            not fit the tensor, labels that do not fit the examples, NaN or Inf.
    """
    config = Capture(
        at=(at,) if isinstance(at, str) else tuple(at),
        rows=rows,
        side=side,
        dtype=dtype,
        mean=tuple(mean),
        std=tuple(std),
        layout=layout,
        prefix=prefix,
    )
    config.check()
    names = resolve(model, config.at)
    if isinstance(at, str) and len(names) > 1:
        raise InputError(f"{at!r} stands for {len(names)} modules; give a list, at=[{at!r}], to capture them all")
    named = list(class_names) if class_names is not None else None
    stream = ExampleStream(examples, labels, batch_size, named, tokenize=getattr(model, "tokenize", None))
    if stream.total == 0:
        raise InputError("there are no examples to capture: the data set is empty")
    scratch = _scratch() if out is None else None
    root = scratch.path / "activations" if scratch is not None else as_place(str(out))
    folders = {name: root if isinstance(at, str) else below(root, name or "(model)") for name in names}
    _capture(model, stream, config, folders, shard_bytes, overwrite, source)
    stores = {name: Activations(folder) for name, folder in folders.items()}
    if scratch is not None:
        stores = {name: store.keep(scratch) for name, store in stores.items()}
    return stores[names[0]] if isinstance(at, str) else stores


def _scratch() -> Scratch:
    if ranks().size > 1:
        raise InputError("several processes that capture together need a folder that all of them see; give out=")
    return Scratch()


def _capture(
    model: nn.Module,
    stream: ExampleStream,
    config: Capture,
    folders: Mapping[str, Path | str],
    shard_bytes: int,
    overwrite: bool,
    source: Mapping[str, Any] | None,
) -> None:
    model_id = hash_module(model)
    inputs = {
        name: {"model": model_id, "examples": stream.id or "a loader", "labels": stream.labels_id} for name in folders
    }
    settings = {name: getattr(config, name) for name in ("rows", "side", "dtype", "mean", "std")}
    if config.layout is not None or config.prefix != "keep":  # stores of earlier versions know neither
        settings |= {"layout": as_details(config.layout), "prefix": config.prefix}
    identities = {
        name: Identity(
            kind=KIND, config={"at": name, **settings, "class_names": stream.class_names}, inputs=inputs[name]
        )
        for name in folders
    }
    there = [folder for folder in folders.values() if stream.id is None and has_artifact(folder)]
    if there and not overwrite:
        raise InputError(
            f"{there[0]} is there already, and what a loader will give cannot be compared with it; choose another "
            "folder or overwrite it"
        )
    here = ranks()
    here.same("what they capture", [identity.id for identity in identities.values()])
    missing: list[str] = []
    if here.first:
        missing = [name for name in folders if not existing_at(folders[name], identities[name], overwrite=overwrite)]
    missing = here.from_first(missing)
    if not missing:
        return
    with ExitStack() as stack:
        drafts: dict[str, CaptureDraft] = {}
        for name in missing if here.first else []:
            work = fingerprint(identities[name].id, stream.batch_size, shard_bytes, library_versions())
            place = writing_at(folders[name], identities[name], overwrite=overwrite, capture=work)
            drafts[name] = stack.enter_context(place)
        forward = Forward(model, config)
        examples = write_stores(stream, forward, missing, drafts, here, shard_bytes)
        for name, draft in drafts.items():
            draft.details.update(hook_name=name, rows=config.rows, examples=examples, class_names=stream.class_names)
            draft.details["layout"] = as_details(forward.layouts.known(name))
            if source is not None:
                draft.details["source"] = dict(source)
            if stream.id is None:  # what a loader gave is known by now: two loaders never leave the same fingerprint
                inputs[name]["examples"] = fingerprint([entry.crc32 for entry in draft.files().values()])
    here.barrier()
