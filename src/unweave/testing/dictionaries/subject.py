"""One dictionary under test, in the states that the checks look at: started, part-trained, trained."""

import copy
import dataclasses
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from unweave.core.errors import InputError
from unweave.core.progress import silenced
from unweave.core.runtime import Runtime
from unweave.core.seeds import torch_generator
from unweave.dictionaries.base import Dictionary, DictionaryConfig, Step
from unweave.store.rows import TensorRows
from unweave.testing.dictionaries.claims import Claims
from unweave.testing.planted import Planted, planted
from unweave.train.stage import train
from unweave.train.training import Training

TRAIN_ROWS = 4096
HELD_OUT_ROWS = 64
STEPS = 300
BATCH = 128
STEPPED = 100
LAST = Step(STEPPED, STEPPED)  # what an option lets change over the run has come to its end
RATE = 2e-2  # twenty times the default: the problem is small, and the time short


class Subject:
    """A configuration, its claims, the planted rows it is tried on, and dictionaries made of it.

    The rows are 16 wide unless told otherwise and hold half as many features again as they are wide (but not more than
    three quarters of d_sae), k of them at a time, or 3 where the configuration has no k.

    Attributes:
        config: what is under test.
        d_in: width of the rows.
        claims: what is asked of it beyond what all must do.
        planted: the rows it is trained on.
        held_out: rows with the same features that training does not see.
    """

    def __init__(self, config: DictionaryConfig, *, d_in: int = 16, claims: Claims | None = None) -> None:
        self.config = config
        self.d_in = d_in
        self.claims = claims or Claims.of(config, d_in)
        n_features = max(1, min(3 * d_in // 2, 3 * config.build(d_in).d_sae // 4))
        k = getattr(config, "k", None)
        l0 = max(1, min(3 if k is None else int(k), n_features // 4))
        everything = planted(
            TRAIN_ROWS + HELD_OUT_ROWS,
            d_in=d_in,
            n_features=n_features,
            l0=l0,
            non_negative=self.claims.non_negative_rows,
        )
        seen = slice(0, TRAIN_ROWS)
        self.planted = Planted(everything.rows[seen], everything.directions, everything.codes[seen])
        self.held_out = everything.rows[TRAIN_ROWS:]

    @cached_property
    def scales_inputs(self) -> bool:
        """Whether it can be trained on rescaled rows; one that cannot says so when it is rescaled."""
        try:
            self.started().rescale(2.0)
        except InputError:
            return False
        return True

    def fit(
        self,
        rows: Float[Tensor, "n d_in"],
        *,
        seed: int = 0,
        steps: int = STEPS,
        batch_size: int = BATCH,
        **options: Any,
    ) -> Dictionary:
        """What `unweave.train` makes of rows, quickly; `options` replace fields of the configuration."""
        training = Training(steps=steps, batch_size=batch_size, learning_rate=RATE, scale_inputs=self.scales_inputs)
        config = dataclasses.replace(self.config, **options)
        with silenced():
            return train(rows, config, training, seed=seed, runtime=Runtime(device="cpu", threads=1))

    @cached_property
    def trained(self) -> Dictionary:
        """The dictionary trained on the planted rows and frozen; shared by the checks, so copy it to change it."""
        return self.fit(self.planted.rows)

    @cached_property
    def _started(self) -> Dictionary:
        dictionary = self.config.build(self.d_in)
        dictionary.prepare(TensorRows(self.planted.rows), torch_generator(0, "start"))
        return dictionary

    def started(self) -> Dictionary:
        """A dictionary with its start set from the planted rows; a closed-form one is complete."""
        return copy.deepcopy(self._started)

    def moved(self) -> Dictionary:
        """As `started`, but every parameter moved off its start, so that none is special by chance.

        It is moved as by a step of training, though by noise, so that the kind can keep what it keeps after a step.
        """
        dictionary = self.started()
        if dictionary.trained_by_gradient:
            generator, step = torch_generator(0, "jitter"), Step(0, STEPPED)
            with torch.no_grad():
                dictionary.loss(self.planted.rows[:64], step)
                for parameter in dictionary.parameters():
                    parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
                _normalise(dictionary)
                dictionary.after_step(step)
        return dictionary

    @cached_property
    def _stepped(self) -> Dictionary:
        dictionary = self.started()
        if dictionary.trained_by_gradient:
            optimizer = torch.optim.Adam(dictionary.parameters(), lr=RATE)
            for index, batch in enumerate(self.planted.rows[: STEPPED * 40].split(40)):
                optimizer.zero_grad()
                step = Step(index, STEPPED)
                dictionary.loss(batch, step).total.backward()
                dictionary.project_gradients()
                optimizer.step()
                _normalise(dictionary)
                dictionary.after_step(step)
        return dictionary

    def stepped(self) -> Dictionary:
        """A dictionary after 100 steps of a plain loop on the dense loss, not yet made ready for inference."""
        return copy.deepcopy(self._stepped)

    def with_options(self, **options: Any) -> "Subject":
        """The same with other options, as far as the configuration has them."""
        names = {field.name for field in dataclasses.fields(self.config)}
        kept = {name: value for name, value in options.items() if name in names}
        return Subject(dataclasses.replace(self.config, **kept), d_in=self.d_in, claims=self.claims)

    def __repr__(self) -> str:
        return f"{self.config} on rows of width {self.d_in}"


@torch.no_grad()
def _normalise(dictionary: Dictionary) -> None:
    """Bring to length 1 the rows that an optimiser keeps there."""
    for name in dictionary.unit_rows():
        parameter = dictionary.get_parameter(name)
        parameter.copy_(normalize(parameter, dim=1))
