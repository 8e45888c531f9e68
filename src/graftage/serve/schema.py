"""The server's answers, as its OpenAPI document describes them (P)."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_PICTURE = {"type": "string", "format": "binary"}
LONGEST_MODEL = 200  # characters
WHICH = "which model; default: the first"
REJECTED = ("error", "row")
PREDICT_QUERY: list[dict[str, Any]] = [
    {
        "name": "model",
        "in": "query",
        "required": False,
        "description": WHICH,
        "schema": {"type": "string", "maxLength": LONGEST_MODEL, "default": ""},
    },
    {
        "name": "rejected",
        "in": "query",
        "required": False,
        "description": "what a request gets of whose pictures none can be used",
        "schema": {"type": "string", "enum": [*REJECTED], "default": "error"},
    },
]
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"pictures": {"type": "array", "minItems": 1, "items": _PICTURE}},
                    "required": ["pictures"],
                }
            },
            "application/octet-stream": {"schema": {**_PICTURE, "minLength": 1}},
        },
    }
}


class Row(BaseModel):
    """What the model says of one picture; of a rejected one, why."""

    path: str = Field(description="the file name that was sent, or empty")
    status: Literal["ok", "repaired", "rejected"]
    reason: str = Field(description="why it was rejected, or what decoding did to it")
    label: str = Field(description="the most probable class, empty if rejected")
    probability: float = Field(description="calibrated, 0 to 1")
    runner_up: str
    probabilities: list[float] = Field(description="in the order of the classes; empty if rejected")
    prediction_set: list[str] = Field(description="classes that hold the true one as often as the model promises")
    abstained: bool | None = Field(description="true: not sure enough; null: no promise")
    unlike_p: float | None = Field(description="p-value of a picture like those trained on; low is odd")
    unlike: bool | None = Field(description="true: unlike anything seen in training; null: not judged")


class Predictions(BaseModel):
    """One row per picture, in the order sent."""

    model: str
    classes: list[str]
    predictions: list[Row]


class SimilarPicture(BaseModel):
    """A training picture that is like the one sent."""

    id: str = Field(description="its path inside the folder of training pictures")
    label: str
    similarity: float = Field(description="cosine, -1 to 1")
    thumbnail: str | None = Field(description="data URI, if the model file holds one")


class Heat(BaseModel):
    """Where in the picture the class comes from."""

    png: str = Field(description="data URI of a see-through PNG that lies over the upright picture; orange: for")
    width: int = Field(description="of the upright picture, as decoded")
    height: int
    log_odds: float = Field(description="of the class, for this picture")
    empty_log_odds: float = Field(description="of the class, for a picture of its mean colour")
    method: str


class Explanation(BaseModel):
    """Why the model says what it says of one picture."""

    model: str
    label: str = Field(description="the class explained")
    prediction: Row
    heat: Heat
    similar: list[SimilarPicture]
    picture: str | None = Field(description="data URI of the upright picture in small, if asked for")


class CardPart(BaseModel):
    """A part of the model card."""

    heading: str
    text: str


class Model(BaseModel):
    """What a model says of itself."""

    model_config = ConfigDict(extra="allow")

    name: str
    classes: list[str]
    card: list[CardPart]
    scores: dict[str, Any] = Field(description="each with its 95 % interval")
    decisions: dict[str, Any] = Field(description="what it promises beyond probabilities, and why not")
    similar: int = Field(description="training pictures that it can name")


class Models(BaseModel):
    """The models served; the first is meant where none is named."""

    models: list[str]


class Health(BaseModel):
    """Whether the server is up."""

    status: str


class Problem(BaseModel):
    """Why a request was not answered as it was meant."""

    error: str = Field(description="a word for programs")
    detail: str = Field(description="a sentence for people")
    predictions: list[Row] | None = Field(default=None, description="where no picture could be used: why")


PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "malformed body, file name or request"},
    401: {"model": Problem, "description": "no key, or another"},
    404: {"model": Problem, "description": "no such model or class"},
    408: {"model": Problem, "description": "the body arrived too slowly"},
    413: {"model": Problem, "description": "too many bytes or pictures"},
    415: {"model": Problem, "description": "not pictures"},
    421: {"model": Problem, "description": "another host name"},
    422: {"model": Problem, "description": "no picture could be used, or a wrong query"},
    503: {"model": Problem, "description": "busy; Retry-After says how long"},
}
READ_PROBLEMS: dict[int | str, dict[str, Any]] = {status: PROBLEMS[status] for status in (401, 404, 421, 422)}
