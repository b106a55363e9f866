"""The model card: what pushed dictionaries are, how they came about, what was measured beside which controls."""

import inspect
import json
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any

from unweave.core.config import Json
from unweave.dictionaries.base import DictionaryConfig
from unweave.formats.pushed import Pushed
from unweave.store.artifact import Manifest

_HEADLINES = {
    "dictionary/explained_variance": "explained variance",
    "dictionary/l0": "L0",
    "dictionary/d_sae": "latents",
    "dictionary/dead": "dead",
    "labels/mutual_information_mean": "bits on the class, mean",
    "labels/significant_share": "beyond shuffled labels",
}
_CONTROLS = {
    "neurons": "control: the layer's own units",
    "pca": "control: principal components",
    "random": "control: random directions",
    "untrained": "control: an untrained network",
    "misaligned": "control: labels dealt out at random",
    "shuffled": "control: labels dealt out at random",
}


def card(given: Pushed, repo: str, license: str) -> str:  # noqa: A002 - the hub's word
    """A model card in Markdown, with its YAML head.

    Args:
        given: what is pushed.
        repo: `ORG/NAME` that it goes to.
        license: the hub's identifier of a licence.
    """
    parts = [_head(given, license), f"# {repo.partition('/')[2]}", _what(given)]
    parts += ["## What was measured", *_measured(given)]
    parts += ["## How to load it", _loading(given, repo)]
    parts += ["## How it was made", *(_made(name, manifest) for name, manifest in given.manifests.items())]
    if given.run:
        told: Json = {
            key: _without_places(given.run[key])
            for key in ("recipe", "seed", "config", "versions", "hardware")
            if key in given.run
        }
        parts.append(_folded("The run that they come from", _json(told)))
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(given: Pushed, license: str) -> str:  # noqa: A002
    tags = ["unweave", "sparse-autoencoder", "dictionary-learning", "interpretability"]
    if any(given.saelens.values()):
        tags.append("saelens")
    lines = ["library_name: unweave", f"license: {json.dumps(license)}", "tags:", *(f"- {tag}" for tag in tags)]
    model = _facts(given).get("model_name")
    if isinstance(model, str) and model.count("/") == 1 and " " not in model:
        lines.append(f"base_model: {json.dumps(model)}")
    return "\n".join(["---", *lines, "---"])


def _what(given: Pushed) -> str:
    controls = sum(bool(_control(name.partition("@")[2])) for name in given.manifests)
    text = _counted(len(given.manifests) - controls, "sparse dictionary", "sparse dictionaries")
    beside = f", with {_counted(controls, 'control')}" if controls else ""
    text += f" of a network's hidden activations{beside}, made with Unweave."
    rows = [
        (
            f"`{name}`",
            _kind(manifest),
            *_sizes(manifest),
            _code(manifest.details.get("hook_name")),
        )
        for name, manifest in given.manifests.items()
    ]
    table = _table(("dictionary", "kind", "d_in", "d_sae", "hook point"), rows)
    facts = [f"- {label}: {_inline(value)}" for label, value in _facts(given).items()]
    return "\n\n".join([text, table, *(["\n".join(facts)] if facts else [])])


def _kind(manifest: Manifest) -> str:
    row_norm = manifest.config.get("row_norm")
    return str(manifest.config["dictionary"]["kind"]) + (f", rows by {row_norm}" if row_norm else "")


def _facts(given: Pushed) -> dict[str, Any]:
    """What is known of the network and the data."""
    known: dict[str, Any] = {}
    config = given.run.get("config")
    if isinstance(config, dict):
        known.update({key: _without_places(config[key]) for key in ("model", "data", "at") if key in config})
    for manifest in given.manifests.values():
        for key, value in dict(manifest.details.get("origin", {})).items():
            known.setdefault(key, value)
    return known


def _measured(given: Pushed) -> Iterable[str]:
    if not given.metrics:
        yield (
            "Nothing was measured on it, or nothing was given along: neither how well it reconstructs, nor what its "
            "latents stand for, nor what raw neurons, principal components or random directions would give. "
            "`unweave analyze` measures it."
        )
        return
    conditions = list(dict.fromkeys(name.partition("@")[2] for name in given.metrics))
    shown = {
        name: label for name, label in _HEADLINES.items() if any(_of(given, name, c) is not None for c in conditions)
    }
    rows = [
        (_named(given, condition), *(_number(_of(given, name, condition)) for name in shown))
        for condition in conditions
    ]
    rows = [row for row in rows if any(cell != "–" for cell in row[1:])]
    if rows:
        yield _table(("", *shown.values()), rows)
    controls = [condition for condition in conditions if _control(condition)]
    if controls:
        yield "Controls follow the same rule and learn no dictionary: only what goes beyond them is a dictionary's own."
    else:
        yield (
            "There is no control beside these numbers: what raw neurons, principal components or random directions "
            "would give was not measured along with them."
        )
    if findings := given.run.get("findings"):
        yield "\n".join(f"- {finding}" for finding in findings)
    source = "the run" if given.measured == "run" else "an atlas on held-out rows"
    every = [(f"`{name}`", _number(value)) for name, value in sorted(given.metrics.items())]
    yield _folded(f"Every number ({len(every)}), from {source}", _table(("metric", "value"), every))


def _named(given: Pushed, condition: str) -> str:
    """Whose numbers a row holds."""
    role = f"sae@{condition}" if condition else next(iter(given.folders))
    control = _control(condition)
    shown = f"`{role}`" if role in given.folders else f"`{condition}`"
    return f"{shown} ({control})" if control else shown


def _control(condition: str) -> str:
    return _CONTROLS.get(condition.partition(",")[0], "")


def _of(given: Pushed, name: str, condition: str) -> float | None:
    return given.metrics.get(f"{name}@{condition}" if condition else name)


def _loading(given: Pushed, repo: str) -> str:
    first = next(iter(given.manifests))
    text = f'```python\nimport unweave as uw\n\nsae = uw.load("hf://{repo}/{first}")\n'
    text += "codes = sae.encode(rows)  # [n, d_in] to [n, d_sae]\n```\n\n"
    readable = [name for name, can in given.saelens.items() if can]
    if not readable:
        old = None in given.saelens.values()
        why = (
            "These files are from before Unweave wrote what SAELens reads"
            if old
            else "SAELens has no such architecture"
        )
        return f"{text}{why}{'; `unweave export` writes them.' if old else '.'}"
    text += f'In SAELens (6 or later):\n\n```python\nfrom sae_lens import SAE\n\nsae = SAE.from_pretrained("{repo}", '
    text += f'"{readable[0]}")\n```'
    others = [name for name in given.manifests if name not in readable]
    return text + (f"\n\nSAELens does not load {_listed(others)}." if others else "")


def _made(name: str, manifest: Manifest) -> str:
    kind = DictionaryConfig.registry.members().get(manifest.config["dictionary"].get("kind", ""))
    meaning = (inspect.getdoc(kind) or "").partition("\n\n")[0] if kind else ""
    config = {key: value for key, value in manifest.config.items() if value is not None}
    if manifest.seed is not None:
        config["seed"] = manifest.seed
    body = f"{meaning}\n\n" if meaning else ""
    return _folded(f"`{name}`", body + _json({**config, "versions": manifest.versions}), code_name=name)


def _sizes(manifest: Manifest) -> tuple[str, str]:
    return str(manifest.details.get("d_in", "")), str(manifest.details.get("d_sae", ""))


def _without_places(value: Any) -> Any:
    """The same without the folders of the machine that it was made on."""
    if isinstance(value, dict):
        return {key: _without_places(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_places(item) for item in value]
    return PurePath(value).name if isinstance(value, str) and PurePath(value).is_absolute() else value


def _counted(count: int, one: str, more: str = "") -> str:
    return f"{count} {one if count == 1 else more or f'{one}s'}"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.4g}"


def _code(value: object) -> str:
    return f"`{value}`" if value else "not known"


def _inline(value: Any) -> str:
    return f"`{json.dumps(value)}`" if isinstance(value, dict | list) else f"`{value}`"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _json(value: Json) -> str:
    return f"```json\n{json.dumps(value, indent=1)}\n```"


def _folded(title: str, body: str, *, code_name: str = "") -> str:
    summary = f"<code>{_escaped(code_name)}</code>" if code_name else _escaped(title)
    return f"<details>\n<summary>{summary}</summary>\n\n{body}\n\n</details>"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )
