"""What a model raises, told with the examples that it was given."""

from collections.abc import Iterator
from contextlib import contextmanager

from unweave.capture.examples import Batch
from unweave.core.errors import InputError


@contextmanager
def with_examples(batch: Batch) -> Iterator[None]:
    """Say for which examples a model failed.

    Raises:
        InputError: the model raised something; that is its cause.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        first, last = int(batch.example.min()), int(batch.example.max())
        raise InputError(
            f"the model failed on a batch of {len(batch.example)} (examples {first} to {last}): "
            f"{type(error).__name__}: {error}"
        ) from error
