"""What the API answers with: the same that the pages show."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from unweave.app.shelf import State


class RunSummary(BaseModel):
    """A run in the list."""

    run: str = Field(description="its name in addresses")
    title: str = Field(description="name of the recipe")
    state: State
    problem: str = Field(description="what is missing or wrong; empty where nothing is")
    folder: str
    atlases: list[str] = Field(description="roles of its atlases, the dictionary's own first")


class ArtifactSummary(BaseModel):
    """An artifact of a run."""

    role: str
    kind: str
    id: str
    created: str
    wall_seconds: float


class RunDetail(RunSummary):
    """A run with its numbers."""

    findings: list[str]
    metrics: dict[str, float | None]
    config: Any = None
    seed: int | None = None
    artifacts: list[ArtifactSummary]
    broken: dict[str, str] = Field(description="what is wrong with artifacts that cannot be read, by role")


class LatentRow(BaseModel):
    """A latent in the table; label numbers are null where rows have no labels."""

    latent: int
    name: str = ""
    status: str
    count: int
    rate: float
    mean: float
    max: float
    importance: float | None = None
    mutual_information: float | None = None
    p: float | None = None
    q: float | None = None
    top_class: str | None = None
    top_class_share: float | None = None
    best_class: str | None = None
    average_precision: float | None = None


class LatentPage(BaseModel):
    """A part of the table."""

    total: int
    offset: int
    limit: int
    items: list[LatentRow]


class ClassShare(BaseModel):
    """How a latent's firing examples fall on one class, beside the share of all examples."""

    name: str
    count: int
    share: float
    prior: float


class Histogram(BaseModel):
    """Counts of a latent's values over equal parts of [0, largest], where it fires."""

    counts: list[int]
    largest: float


class LatentDetail(LatentRow):
    """Everything that the tables say of one latent."""

    note: str = ""
    classes: list[ClassShare]
    histogram: Histogram


class Example(BaseModel):
    """An example that a latent is shown by."""

    example: int
    position: int
    value: float
    label: str | None = None
    image: str = Field(description="address of its picture")
    places: str | None = Field(None, description="address of a strip: its strongest place framed, enlarged, all places")
    context: list["ContextToken"] = Field([], description="tokens around its strongest one, where rows are tokens")


class ContextToken(BaseModel):
    """A token of an example; its value is null where it has no row."""

    text: str
    value: float | None
    strongest: bool


class TokenShare(BaseModel):
    """A token that a latent fires on beyond its frequency."""

    token: str
    count: int = Field(description="rows of it on which the latent fires")
    share: float = Field(description="of all rows on which it fires")
    expected: float = Field(description="the token's share of all rows: the null")


class Neighbour(BaseModel):
    """A latent whose direction is close."""

    latent: int
    name: str = ""
    cosine: float
    chance: float | None = Field(None, description="median of the largest cosine among as many random directions")


class Companion(BaseModel):
    """A latent that fires on the same rows."""

    latent: int
    name: str = ""
    both: int = Field(description="rows on which both fire")
    expected: float = Field(description="rows on which both would fire if they were independent")
    lift: float | None = Field(description="both / expected")
    z: float | None = Field(description="deviations beyond it, where each fires as often as it does on random rows")


class MapPoints(BaseModel):
    """Where latents lie on the map, and the number behind their colour; dead ones have no place."""

    method: str
    colouring: str
    latent: list[int]
    x: list[float]
    y: list[float]
    value: list[float]


class NoteText(BaseModel):
    """What a person writes about a latent."""

    name: str = Field("", max_length=80)
    text: str = Field("", max_length=10_000)


class EditOrder(BaseModel):
    """What is done to one latent."""

    latent: int
    op: Literal["add", "set", "scale", "ablate"] = "set"
    value: float = 0.0


class SteerOrder(BaseModel):
    """What is steered, by which edits: an example, the mean over a class's images, or a text of one's own."""

    example: int | None = None
    of_class: str | None = None
    text: str | None = Field(default=None, max_length=20_000, description="for models that read texts")
    edits: list[EditOrder] = []


class ActiveLatent(BaseModel):
    """A latent that is active."""

    latent: int
    name: str = ""
    value: float


class Near(BaseModel):
    """An example whose row is close."""

    example: int
    cosine: float
    label: str | None = None
    image: str = Field(description="address of its picture; empty of a text")
    text: str = Field("", description="where its row lies in a text")


class ClassAnswer(BaseModel):
    """The model's probability of one class or token, and its logit."""

    name: str
    before: float
    after: float
    logit_before: float
    logit_after: float


class Steered(BaseModel):
    """What moving latents did."""

    source: str
    active: list[ActiveLatent]
    answers: list[ClassAnswer] = Field(description="classes, or the tokens that matter most; none where it is a vector")
    answer_moved: float = Field(description="divergence of the probabilities in nats; 1 - cosine where it is a vector")
    answer_control: float = Field(description="the same where rows move as far along random directions; a mean of 4")
    moved: float = Field(description="length of the change of the row, as a share of the row's own length")
    tokens: list["ContextToken"] = Field([], description="of a text, with the value of the latent moved last")
    picture_before: str | None = Field(None, description="PNG as a data address; null without a pixel decoder")
    picture_after: str | None = None
    near_before: list[Near]
    near_after: list[Near]


class DoseCurve(BaseModel):
    """The model's answer over values that one latent is set to."""

    latent: int
    doses: list[float]
    classes: list[str]
    probabilities: list[list[float]] = Field(description="by class or token, then dose; none where it is a vector")
    logits: list[list[float]]
    cosines: list[float] = Field(
        default=[], description="of the answer with the answer as it was, where it is a vector"
    )


class ImageAnswer(BaseModel):
    """What a picture of the user's own gives."""

    width: int = Field(description="of the file, in pixels")
    height: int
    seen: str = Field(description="what the model is shown, PNG as a data address")
    explained: float | None = Field(description="share of its row that the dictionary gives back")
    active: list[ActiveLatent]
    near: list[Near] = Field(description="captured images by the cosine of their rows")
    near_by_code: list[Near] = Field(description="captured images by the cosine of their codes")
    answers: list[ClassAnswer]


class Attributed(BaseModel):
    """Where in an image a latent's value comes from."""

    latent: int
    method: str
    value: float
    map: str = Field(description="PNG as a data address: red for, blue against")
    control: str | None = Field(None, description="the same map of a control")
    said: str


class EffectOfLatent(BaseModel):
    """What the model loses without a latent, as a mean over examples that activate it."""

    classes: list[str]
    change: list[float] = Field(description="of each class's logit; of its probability, in points of %")
    probabilities: bool = Field(False, description="whether `change` is one of probabilities: no answer is wrong here")
    loss: float = Field(
        description="rise of the cross-entropy, in nats; or how far answers move, in nats or 1 - cosine"
    )
    control: float = Field(description="the same when rows move as far along random directions instead")
    said: str


class ComparedTable(BaseModel):
    """A comparison of instances."""

    title: str
    sentence: str
    headings: list[str]
    rows: list[list[str]]
    note: str


class StudyProgress(BaseModel):
    """How far a rating study is."""

    name: str
    question: str
    each: int = Field(description="grids that each rater is shown")
    rated: dict[str, int]
    said: str
