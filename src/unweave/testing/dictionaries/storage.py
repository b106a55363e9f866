"""Checks of what is kept: all of a dictionary is in its state, a saved one comes back, and others can read it."""

import copy
import tempfile
from pathlib import Path

from unweave.dictionaries.stored import load
from unweave.formats.places import export
from unweave.formats.places import load as load_any
from unweave.testing.dictionaries.compare import expect_close, expect_same_bits, expect_same_state
from unweave.testing.dictionaries.subject import Subject
from unweave.testing.report import expect, not_claimed

_KEPT = {".safetensors", ".parquet", ".json"}


def check_state(subject: Subject) -> None:
    """All that inference needs is a parameter or a buffer: the state alone makes the same dictionary again."""
    for dictionary in (subject.stepped(), subject.trained):
        again = subject.config.build(subject.d_in)
        again.load_state_dict(dictionary.state_dict())
        expected = dictionary.to_inference()
        rows, found = subject.held_out, again.to_inference()
        expect_same_bits(found.encode(rows), expected.encode(rows), "codes of a dictionary with the same state")
        expect_same_bits(found(rows), expected(rows), "reconstructions of a dictionary with the same state")


def check_saving(subject: Subject) -> None:
    """`save` and `load` give the same weights, codes and reconstructions to the last bit, and all that is known of it.

    What lies on disk is safetensors, Parquet and JSON.
    """
    trained, rows = copy.deepcopy(subject.trained), subject.held_out
    trained.hook_name = "layer.3"
    trained.history = trained.history or {"step": [1.0, 2.0], "loss": [0.5, 0.25]}
    expected = copy.deepcopy(trained)  # apart from what is saved: saving must not change it
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "dictionary"
        trained.save(place)
        others = sorted(path.name for path in place.rglob("*") if path.is_file() and path.suffix not in _KEPT)
        expect(not others, f"it writes {', '.join(others)}; weights are safetensors, tables Parquet, the rest JSON")
        found = load(place)
    expect(type(found) is type(expected), f"it comes back as {type(found).__name__}, was {type(expected).__name__}")
    for name in ("config", "d_in", "d_sae", "hook_name", "history"):
        was, now = getattr(expected, name), getattr(found, name)
        expect(was == now, f"{name} was {was!r} and comes back as {now!r}")
    expect_same_state(found, expected, "read back")
    expect_same_bits(found.encode(rows), expected.encode(rows), "codes after reading back")
    expect_same_bits(found(rows), expected(rows), "reconstructions after reading back")


def check_exchange(subject: Subject) -> None:
    """What `saelens` says it computes is what it computes: read back from SAELens' files, codes are the same.

    A kind that inherits `saelens` and changes what it computes has to change that too, or return None.
    """
    trained, rows = subject.trained.to_inference(), subject.held_out
    if trained.saelens() is None:
        not_claimed("SAELens has no word for it")
    with tempfile.TemporaryDirectory() as folder:
        found = load_any(export(trained, Path(folder) / "saelens"), format="saelens")
    expect_close(found.encode(rows), trained.encode(rows), "codes in SAELens' words")
    expect_close(found(rows), trained(rows), "reconstructions in SAELens' words")
