"""A model file goes to work: pictures in, one row each out, by the very path that trained it.

Decoding, making the square, the network, the head, the temperature and the class names all come from the file.
"""

import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from graftage.data.decode import DEFAULT_LIMITS, Limits, decode
from graftage.data.inputs import Input
from graftage.data.sources import read
from graftage.data.traces import UNKNOWN
from graftage.errors import BackboneError, BundleError, OptionError, PictureError
from graftage.features.engine import Forward, open_forward
from graftage.features.extract import Job, Seen, see, stream
from graftage.features.facts import Backbone
from graftage.learn.temperature import softmax
from graftage.measure.decide import Answers, Decisions, decided
from graftage.serve.bundle import Bundle, model_file
from graftage.serve.bundle import load as load_bundle
from graftage.serve.neighbours import Similar

if TYPE_CHECKING:
    from graftage.serve.explain import Explainer, Heat

_TOGETHER = 32  # features turned into logits at a time; the results do not depend on it


@dataclass(frozen=True)
class Prediction:
    """What the model says of one input.

    Attributes:
        path: the input as the caller named it.
        status: "ok", "repaired" (a damaged picture, as far as it decodes) or "rejected".
        reason: why it was rejected, or what decoding did to it; may be empty.
        label: the most probable class, "" if rejected.
        probability: calibrated, 0 to 1; 0 if rejected.
        runner_up: the second class, "" if rejected.
        probabilities: of all classes in the model's order; empty if rejected.
        prediction_set: classes that hold the true one as often as the model promises, most probable first; empty if
            rejected, or if the model makes no such promise: `Predictor.decisions` says why.
        abstained: whether the model is not sure enough to promise its error; None if rejected, or without a promise.
        unlike_p: p-value of a picture like those trained on, 0 to 1, low is odd; None if rejected or not judged.
        unlike: whether it is flagged as unlike anything seen in training; None likewise.
    """

    path: str
    status: Literal["ok", "repaired", "rejected"]
    reason: str
    label: str
    probability: float
    runner_up: str
    probabilities: tuple[float, ...]
    prediction_set: tuple[str, ...] = ()
    abstained: bool | None = None
    unlike_p: float | None = None
    unlike: bool | None = None

    @property
    def runner_up_probability(self) -> float:
        """Probability of the second class, 0 to 1; 0 if rejected."""
        return sorted(self.probabilities)[-2] if self.probabilities else 0.0


@dataclass(frozen=True, eq=False)
class Answered:
    """What the model says of one input.

    Attributes:
        input: without its bytes.
        prediction: named as the input is.
        features: float32 (D,), what the network made of the picture; None if it was rejected.
        trace: what the picture was, see `data.traces`.
    """

    input: Input
    prediction: Prediction
    features: NDArray[np.float32] | None
    trace: bytes = UNKNOWN


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why the model says what it says of one input.

    Attributes:
        prediction: what it says.
        label: the class that is explained, "" if the input was rejected.
        heat: where in the picture that comes from; None if it was rejected.
        pixels: the upright picture, uint8 (H, W, 3), as the heat map's `picture` lies over it; None if rejected.
        similar: the training pictures most like it, the most similar first; empty where the model file knows none.
    """

    prediction: Prediction
    label: str
    heat: "Heat | None"
    pixels: NDArray[np.uint8] | None
    similar: tuple[Similar, ...]


class Predictor:
    """A classifier, ready to answer. Make one with `load`. Safe to call from several threads.

    Args:
        bundle: the model.
        forward: its network, running.
        limits: largest file and picture accepted.
        repair: answer for damaged pictures as far as they decode, instead of rejecting them.
        source: the file that it came from, "" if it came from none.
    """

    def __init__(
        self,
        bundle: Bundle,
        forward: Forward,
        *,
        limits: Limits = DEFAULT_LIMITS,
        repair: bool = False,
        source: str = "",
    ) -> None:
        self.bundle = bundle
        self.forward = forward
        self.limits = limits
        self.repair = repair
        self.source = source
        self._explainer: Explainer | None = None
        self._explaining = threading.Lock()  # PyTorch's own network: one heat map at a time

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the probabilities."""
        return self.bundle.classes

    @property
    def decisions(self) -> Decisions:
        """What the model promises beyond probabilities, and why not where it does not."""
        return self.bundle.decisions

    def predict(self, paths: Sequence[str | Path], *, workers: int = 0) -> list[Prediction]:
        """One prediction per path, in order. Pictures that cannot be used come back with status "rejected"."""
        return list(self.stream(paths, workers=workers))

    def stream(self, paths: Iterable[str | Path], *, workers: int = 0) -> Iterator[Prediction]:
        """Predictions in the order of the paths, as they are ready, in constant memory however many there are."""
        inputs = (Input(str(path), Path(path)) for path in paths)
        return (answered.prediction for answered in self.answers(inputs, workers=workers))

    def answers(self, inputs: Iterable[Input], *, workers: int = 0) -> Generator[Answered, None, None]:
        """An answer for every input, in order, as they are ready; inputs are taken as they are needed.

        Raises:
            OptionError: a negative number of workers.
        """
        if workers < 0:
            raise OptionError(f"workers must be 0 or more, got {workers}")
        return self._stream(inputs, workers)

    def _stream(self, inputs: Iterable[Input], workers: int) -> Generator[Answered, None, None]:
        asked: deque[Input] = deque()  # as short as what is under way

        def jobs() -> Iterator[Job]:
            for i, each in enumerate(inputs):
                asked.append(each if each.data is None else replace(each, data=None))
                yield Job(i, each.path or Path(each.name), data=each.data, reason=each.reason)

        seen = stream(
            jobs(),
            forward=self.forward,
            preprocesses=[self.bundle.preprocess],
            limits=self.limits,
            repair=self.repair,
            workers=workers,
        )
        while chunk := list(islice(seen, _TOGETHER)):
            for found, answer in zip(chunk, self._answers(chunk), strict=True):
                own = asked.popleft()
                features = None if found.reason else found.vectors[0]
                yield Answered(own, replace(answer, path=own.name), features, found.trace)

    def predict_bytes(self, data: bytes, *, name: str = "") -> Prediction:
        """One prediction for a picture held in memory."""
        try:
            vector, picture = see(
                data,
                forward=self.forward,
                preprocess=self.bundle.preprocess,
                limits=self.limits,
                repair=self.repair,
            )
        except PictureError as error:
            return _rejected(name, str(error))
        seen = Seen(Job(0, Path(name)), (vector,), notes="; ".join(picture.notes), repaired=picture.repaired)
        return replace(self._answers([seen])[0], path=name)

    def explain(
        self,
        picture: str | Path | bytes,
        *,
        label: str | None = None,
        similar: int = 5,
        without: frozenset[str] = frozenset(),
    ) -> Explanation:
        """Where in a picture the answer comes from, and which training pictures are most like it.

        Args:
            picture: a file, or its bytes.
            label: the class to explain; default: the predicted one.
            similar: how many training pictures, at most.
            without: names of training pictures that are not to be shown, such as the picture's own.

        Raises:
            OptionError: the model knows no such class.
        """
        k = None if label is None else self._class(label)
        name = "" if isinstance(picture, bytes) else str(picture)
        try:
            data = picture if isinstance(picture, bytes) else read(Path(picture), limits=self.limits)
            pixels = decode(data, cover=self.bundle.preprocess.cover, limits=self.limits, repair=self.repair).pixels
        except PictureError as error:
            return Explanation(_rejected(name, str(error)), "", None, None, ())
        prediction = self.predict_bytes(data, name=name)
        k = self.classes.index(prediction.label) if k is None else k
        with self._explaining:
            heat = self._heats().heat(pixels, k)
        known = self.bundle.neighbours
        near = [] if known is None else known.nearest(heat.features, similar, without=without)
        return Explanation(prediction, self.classes[k], heat, pixels, tuple(near))

    def _class(self, label: str) -> int:
        if label not in self.classes:
            shown = ", ".join(map(repr, self.classes[:10])) + (" …" if len(self.classes) > 10 else "")
            raise OptionError(f"the model knows no class {label!r}; its classes are {shown}")
        return self.classes.index(label)

    def _heats(self) -> "Explainer":
        if self._explainer is None:
            from graftage.serve.explain import Explainer  # PyTorch, which predicting does not need

            self._explainer = Explainer(self.bundle, self.forward)
        return self._explainer

    def probabilities(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Features (n, D) float32 → calibrated probabilities (n, K)."""
        return softmax(self.bundle.head.logits(X) / self.bundle.temperature)

    def _answers(self, chunk: list[Seen]) -> list[Prediction]:
        good = [seen for seen in chunk if not seen.reason]
        features = np.array([seen.vectors[0] for seen in good], np.float32).reshape(len(good), self.forward.features)
        p = self.probabilities(features)
        found, rows = decided(self.decisions, features, p), iter(range(len(good)))
        return [
            _rejected(str(s.job.path), s.reason) if s.reason else self._answer(s, p, found, next(rows)) for s in chunk
        ]

    def _answer(self, seen: Seen, p: NDArray[np.float64], found: Answers, i: int) -> Prediction:
        """The answer that is the i-th row of the probabilities and of what was decided."""
        order = np.argsort(-p[i], kind="stable")  # of equal ones the first class, as argmax says
        first, second = order[:2]
        return Prediction(
            path=str(seen.job.path),
            status="repaired" if seen.repaired else "ok",
            reason=seen.notes,
            label=self.classes[first],
            probability=float(p[i, first]),
            runner_up=self.classes[second],
            probabilities=tuple(p[i].tolist()),
            prediction_set=() if found.sets is None else tuple(self.classes[k] for k in order if found.sets[i, k]),
            abstained=None if found.abstained is None else bool(found.abstained[i]),
            unlike_p=None if found.unlike_p is None else float(found.unlike_p[i]),
            unlike=None if found.unlike is None else bool(found.unlike[i]),
        )


def load(
    path: str | Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    limits: Limits = DEFAULT_LIMITS,
    repair: bool = False,
) -> Predictor:
    """Opens a model file and prepares its network on this machine. Runs no code from the file.

    Args:
        path: a model.safetensors that graftage wrote, or the folder of a run that holds one.
        device: "auto", "cpu" or "cuda".
        precision: "auto" takes what the model was trained with, where this machine has it; or "float32", "bfloat16".
        limits: largest file and picture accepted.
        repair: answer for damaged pictures as far as they decode.

    Raises:
        BundleError: no model file, or a damaged one, or its weights do not fit its network.
        OptionError: a device or precision that is not to be had.
    """
    path = model_file(path)
    bundle = load_bundle(path)
    wanted = "float32" if precision == "auto" and bundle.backbone.precision == "float32" else precision
    backbone = Backbone(bundle.backbone, bundle.preprocess, path)
    try:
        forward = open_forward(
            backbone, bundle.preprocess, device=device, precision=wanted, weights=dict(bundle.weights)
        )
    except BackboneError as error:
        raise BundleError(f"{path}: its network cannot be built here: {error}") from error
    return Predictor(bundle, forward, limits=limits, repair=repair, source=str(path))


def _rejected(name: str, reason: str) -> Prediction:
    return Prediction(name, "rejected", reason, "", 0.0, "", ())
