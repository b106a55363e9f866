"""One layer of any network, taken apart: dictionary, patches or tokens, what the model loses, what moving does."""

from dataclasses import dataclass

from torch import nn

from unweave.analyze import Atlas, analyze
from unweave.analyze.stage import label_metrics_when_shuffled
from unweave.capture import capture
from unweave.datasets.base import Dataset, ImageDataset, Split, TextDataset
from unweave.dictionaries.base import Dictionary, DictionaryConfig
from unweave.models.adopted import ReadsText
from unweave.models.trained import Trained
from unweave.recipes.base import Run, recipe
from unweave.recipes.classifier import controls
from unweave.recipes.layer.moving import tell_moves
from unweave.recipes.layer.study import SPLITS, LayerStudy, Subject, open_subject, sized
from unweave.recipes.layer.telling import Layer, tell_findings, tell_places, tell_splice, tell_subject
from unweave.recipes.sources import Source
from unweave.store.activations import Activations
from unweave.train import train

DEFAULT = LayerStudy()
_BATCH = 128


@recipe("layer", and_atlas=True, default=DEFAULT)
def layer(config: LayerStudy, run: Run) -> None:
    """What does one layer of your own network see in your own data, where in it, and what hangs on it?"""
    subject = open_subject(config, run)
    train_rows, test_rows = (_captured(config, subject.module, subject, split, run) for split in SPLITS)
    tell_subject(subject, train_rows, run)
    size = sized(config, train_rows.n, train_rows.d_in)
    judge = _Judge(config, subject, run)
    sae, atlas = judge.trained(size, train_rows, test_rows, "")
    k = max(1, round(atlas.metrics["dictionary/l0"]))
    beside = {
        name: judge.trained(control, train_rows, test_rows, name)[0] for name, control in controls(sae.d_sae, k).items()
    }
    if subject.untrained is not None:
        rows = [_captured(config, subject.untrained, subject, split, run, "untrained") for split in SPLITS]
        judge.trained(size, rows[0], rows[1], "untrained")
    if subject.labelled:
        run.record(label_metrics_when_shuffled(atlas, test_rows, seed=run.seed), condition="misaligned")
    found = Layer(config, subject, test_rows, sae, atlas, beside)
    tell_places(found, run)
    tell_splice(found, run)
    tell_moves(found, run)
    tell_findings(found, run)


def _captured(
    config: LayerStudy, module: nn.Module, subject: Subject, split: Split, run: Run, of: str = ""
) -> Activations:
    data: Dataset = subject.train if split == "train" else subject.test
    what = config.what(data)
    model = Trained(folder=run.place("model")) if config.taught else config.model
    source = Source(data=config.data, split=split, data_dir=run.data_dir, model=model, seed=run.seed)
    return capture(
        module,
        data,
        at=config.at,
        rows=what.rows,
        side=what.side,
        prefix=what.prefix,
        layout=what.layout,
        class_names=data.class_names if subject.labelled else None,
        batch_size=_BATCH,
        out=run.place(f"activations@{f'{of},' if of else ''}{split}"),
        source=None if of else source.as_json(),
    )


@dataclass(frozen=True, eq=False)
class _Judge:
    """Trains a dictionary and looks at it on held-out rows."""

    config: LayerStudy
    subject: Subject
    run: Run

    def trained(
        self, sae: DictionaryConfig, train_rows: Activations, test_rows: Activations, condition: str
    ) -> tuple[Dictionary, Atlas]:
        """The dictionary and its atlas; its numbers are recorded under the condition."""
        run, suffix = self.run, f"@{condition}" if condition else ""
        made = train(
            train_rows, sae, self.config.training, seed=run.seed, out=run.place(f"sae{suffix}"), runtime=run.runtime
        )
        test = self.subject.test
        atlas = analyze(
            made,
            test_rows,
            images=test if isinstance(test, ImageDataset) else None,
            tokens=self._tokens(test_rows),
            analysis=self.config.analysis,
            seed=run.seed,
            out=run.place(f"atlas{suffix}"),
        )
        run.record(atlas.metrics, condition=condition)
        return made, atlas

    def _tokens(self, rows: Activations) -> list[list[str]] | None:
        """The tokens of the held-out texts, where rows are tokens."""
        test, layout = self.subject.test, rows.layout
        module: object = self.subject.module
        if not isinstance(test, TextDataset) or not isinstance(module, ReadsText):
            return None
        if layout is None or layout.kind != "tokens":
            return None
        return module.tokens(list(test.texts))
