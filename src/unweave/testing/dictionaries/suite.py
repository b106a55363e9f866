"""The conformance suite of dictionaries: as one function, and as a pytest class to subclass."""

from collections.abc import Callable
from typing import Any, ClassVar

from unweave.dictionaries.base import DictionaryConfig
from unweave.testing.dictionaries.claims import Claims
from unweave.testing.dictionaries.edges import check_broken_rows, check_edges
from unweave.testing.dictionaries.gradients import check_gradients, check_loss
from unweave.testing.dictionaries.inference import check_batch_independence, check_inference, check_rescale
from unweave.testing.dictionaries.learning import check_planted, check_seeds, check_sparsity
from unweave.testing.dictionaries.sparse_step import check_sparse_step
from unweave.testing.dictionaries.storage import check_exchange, check_saving, check_state
from unweave.testing.dictionaries.subject import Subject
from unweave.testing.dictionaries.surface import (
    check_codes,
    check_configuration,
    check_directions,
    check_linear_decoder,
    check_reconstruct,
    check_shapes,
    check_sparse_codes,
)
from unweave.testing.report import Report, name_of, run_checks

CHECKS: tuple[Callable[[Subject], None], ...] = (
    check_configuration,
    check_shapes,
    check_codes,
    check_directions,
    check_linear_decoder,
    check_reconstruct,
    check_sparse_codes,
    check_loss,
    check_gradients,
    check_sparse_step,
    check_batch_independence,
    check_inference,
    check_rescale,
    check_state,
    check_saving,
    check_exchange,
    check_seeds,
    check_planted,
    check_sparsity,
    check_edges,
    check_broken_rows,
)


def check_dictionary(config: DictionaryConfig, *, d_in: int = 16, claims: Claims | None = None) -> Report:
    """Run every check on a kind of dictionary; a few seconds.

    Args:
        config: a small example of the kind: about 32 latents, and a k of about 3 where it has one.
        d_in: width of the rows it is tried on.
        claims: what is asked of it; by default what its classes declare.

    Returns:
        The report, in which every check holds or does not apply.

    Raises:
        ConformanceError: a check fails; the message is the report, with the reason of each failure.
    """
    return run_checks(str(config), Subject(config, d_in=d_in, claims=claims), CHECKS)


class DictionaryConformance:
    """The suite as pytest tests: subclass it, name a small example, and each check is a test.

    ```python
    class TestMine(DictionaryConformance):
        config = Mine(d_sae=32, k=3)
    ```

    Attributes:
        config: a small example of the kind: about 32 latents, and a k of about 3 where it has one.
        d_in: width of the rows it is tried on.
        claims: what is asked of it; by default what its classes declare.
    """

    config: ClassVar[DictionaryConfig]
    d_in: ClassVar[int] = 16
    claims: ClassVar[Claims | None] = None
    _subject: ClassVar[Subject | None] = None

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """One test for each check; pytest calls this."""
        if "check" in metafunc.fixturenames:
            metafunc.parametrize("check", CHECKS, ids=name_of)

    def test_conformance(self, check: Callable[[Subject], None]) -> None:
        """A check holds, or is skipped because what it proves is not claimed."""
        cls = type(self)
        if "_subject" not in cls.__dict__:
            cls._subject = Subject(cls.config, d_in=cls.d_in, claims=cls.claims)
        assert cls._subject is not None
        check(cls._subject)
