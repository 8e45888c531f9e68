"""A finished run, as `train` gives it; and what can be compared: runs and models, on disk or in memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from graftage import outcome
from graftage.measure.scores import Scores
from graftage.serve import predict
from graftage.serve.predict import Predictor


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes:
        folder: where it lies.
        scores: on pictures held out.
        summary: about ten lines for a person.
        notes: notices that belong on top.
    """

    folder: Path
    scores: Scores
    summary: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def model_path(self) -> Path:
        """The model file."""
        return self.folder / outcome.MODEL

    @cached_property
    def model(self) -> Predictor:
        """The model, ready to predict."""
        return predict.load(self.model_path)

    def predict(self, paths: Sequence[str | Path]) -> list[predict.Prediction]:
        """Predictions of the trained model; see `Predictor.predict`."""
        return self.model.predict(paths)


Contender = str | Path | Run | Predictor  # a run, or a model: what can be compared


def plain(contender: Contender) -> Path | Predictor:
    """The contender as a path, or as the loaded model that it is."""
    if isinstance(contender, Run):
        return contender.folder
    return contender if isinstance(contender, Predictor) else Path(contender)
