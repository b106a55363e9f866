"""Names and notes that people give to latents, kept in the run's folder."""

import threading
from dataclasses import dataclass
from pathlib import Path

from unweave.core.config import from_json, to_json
from unweave.core.errors import InputError, StoreError
from unweave.store.artifact import read_json, write_json

NOTES = "notes.json"
LONGEST_NAME = 80
LONGEST_NOTE = 10_000
_LOCK = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Note:
    """What a person wrote about one latent."""

    name: str = ""
    text: str = ""


class Notes:
    """`notes.json`: by the atlas's role, by latent."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NOTES

    def all(self, role: str) -> dict[int, Note]:
        """Every note about an atlas's latents.

        Raises:
            StoreError: the file is damaged.
        """
        found = self._read().get(role, {})
        return {int(latent): from_json(Note, note, where=str(self._path)) for latent, note in found.items()}

    def of(self, role: str, latent: int) -> Note:
        """What was written about one latent; an empty note where nothing was."""
        return self.all(role).get(latent, Note())

    def write(self, role: str, latent: int, note: Note) -> None:
        """Keep a note in place of the one before; an empty one removes it.

        Raises:
            InputError: it is too long, or the folder cannot be written to.
            StoreError: the file is damaged; it is left as it is.
        """
        if len(note.name) > LONGEST_NAME or len(note.text) > LONGEST_NOTE:
            raise InputError(f"a name has up to {LONGEST_NAME} letters and a note up to {LONGEST_NOTE:,}; shorten it")
        with _LOCK:
            everything = self._read()
            notes = dict(everything.get(role, {}))
            notes.pop(str(latent), None)
            if note != Note():
                notes[str(latent)] = to_json(note)
            try:
                write_json(self._path, {**everything, role: dict(sorted(notes.items(), key=lambda one: int(one[0])))})
            except OSError as error:
                raise InputError(f"{self._path} cannot be written: {error.strerror}") from None

    def _read(self) -> dict[str, dict[str, object]]:
        if not self._path.is_file():
            return {}
        found = read_json(self._path)
        if not isinstance(found, dict) or not all(
            isinstance(notes, dict) and all(str(latent).isdigit() for latent in notes) for notes in found.values()
        ):
            raise StoreError(f"{self._path} holds no notes; move it away to write new ones")
        return found
