"""Dictionaries read from the folders that they were written into."""

from pathlib import Path

from torch import Tensor

from unweave.core.config import from_json
from unweave.core.errors import StoreError
from unweave.dictionaries.base import HISTORY, KIND, OWN, WEIGHTS, Dictionary, DictionaryConfig
from unweave.dictionaries.exchange import CFG
from unweave.dictionaries.normalised import NormalisedRows
from unweave.store.artifact import Manifest, read_manifest
from unweave.store.files import load_table, load_tensors


def load(folder: str | Path) -> Dictionary:
    """Read a dictionary that `Dictionary.save` or training wrote.

    Raises:
        StoreError: the folder is no dictionary, or a file in it is missing, damaged or does not fit.
    """
    folder = Path(folder)
    manifest = read_manifest(folder, KIND, verify=True, large=True)
    config = from_json(DictionaryConfig, manifest.config["dictionary"], where=f"{folder}: dictionary")
    dictionary = config.build(int(manifest.config["d_in"]))
    tensors = _state(folder, manifest, dictionary)
    try:
        dictionary.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()})
    except RuntimeError as error:
        raise StoreError(f"{folder / WEIGHTS} does not fit {config}: {error}") from None
    if (row_norm := manifest.config.get("row_norm")) is not None:
        dictionary = NormalisedRows(dictionary, row_norm)
    dictionary.hook_name = str(manifest.details.get("hook_name", ""))
    dictionary.origin = dict(manifest.details.get("origin", {}))
    if HISTORY in manifest.files:
        dictionary.history = load_table(folder / HISTORY).to_pydict()
    return dictionary.to_inference()


def _state(folder: Path, manifest: Manifest, dictionary: Dictionary) -> dict[str, Tensor]:
    """The state that an artifact holds: what is published, and beside it what of it is not there to the bit."""
    tensors = load_tensors(folder / WEIGHTS)
    if CFG not in manifest.files:
        return tensors  # from before there was one, when the weights were the state
    if OWN in manifest.files:
        tensors = {**tensors, **load_tensors(folder / OWN)}
    return {name: tensors[name] for name in dictionary.tensors() if name in tensors}
