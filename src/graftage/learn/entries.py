"""What a race of pretrained networks is told and what comes of it: entrants, questions, soundings and places (P)."""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Literal

from graftage.learn.gram import Floats, Labels
from graftage.learn.search import Trial

Fate = Literal["ranked", "dropped", "left out", "failed"]


@dataclass(frozen=True)
class Entrant:
    """What takes part.

    Attributes:
        name: unique.
        network: name of the network that it is a way of using; its own for a network as it was pretrained.
        work: what one picture costs, in one unit for all.
        prior: error rate that is expected of its network, less that of a reference common to all.
        gap: what this way of using it is expected to add.
        way: what this way is called; other networks used alike are expected to fare alike. Empty: as pretrained.
        parts: the two entrants whose features it joins, else empty.
    """

    name: str
    network: str
    work: float
    prior: float = 0.0
    gap: float = 0.0
    way: str = ""
    parts: "tuple[Entrant, ...]" = ()

    @property
    def foreseen(self) -> float:
        """What is expected of it in all, on the scale of `prior`."""
        return self.prior + self.gap


@dataclass(frozen=True, eq=False)
class Ask:
    """The question how an entrant does.

    Attributes:
        entrant: which.
        rows: int64 (m,) of the n pictures, rising.
        y: int64 (m,) their classes, renumbered so that none is missing.
        groups: int64 (m,), what must not be torn apart.
        held: int64 (R, m) folds for them.
        work: what it costs: rows that this entrant was asked about before are free.
    """

    entrant: Entrant
    rows: Labels
    y: Labels
    groups: Labels
    held: Labels
    work: float


@dataclass(frozen=True, eq=False)
class Sounding:
    """How an entrant does on the pictures that it was asked about.

    Attributes:
        trial: the linear probe, held out.
        scores: float64 (m,) what entrants are compared by, an error rate picture by picture; lower is better.
    """

    trial: Trial
    scores: Floats


@dataclass(frozen=True, eq=False)
class Place:
    """Where an entrant came in.

    Attributes:
        entrant: which.
        fate: "ranked" to the end, or why not.
        reason: what befell it, in words.
        pictures: on how many it was last measured.
        sounding: how it did there; None if it was never measured.
        expected: mean score, shrunk to the prior; infinite if it was never measured.
        best: probability that it is the best of all that take part, 0 to 1; of one dropped, of being better than the
            winner; not a number if it failed.
    """

    entrant: Entrant
    fate: Fate
    reason: str
    pictures: int
    sounding: Sounding | None
    expected: float
    best: float

    @property
    def trial(self) -> Trial | None:
        """The linear probe there; None if it was never measured."""
        return None if self.sounding is None else self.sounding.trial


@dataclass(frozen=True, eq=False)
class Raced:
    """The result.

    Attributes:
        places: best first: those ranked, then those for whom there was no more work, measured on fewer pictures,
            then those dropped, then those never measured.
        rows: int64 (m,) of the last round; y: their classes; held: int64 (R, m) their folds.
        work: spent.
        rounds: pictures of each round.
    """

    places: tuple[Place, ...]
    rows: Labels
    y: Labels
    held: Labels
    work: float
    rounds: tuple[int, ...]

    @property
    def winner(self) -> Place:
        """The best."""
        return self.places[0]


Answer = Sounding | str | None
Questions = Generator[Ask, Answer, Raced]
Variants = Callable[[Entrant], Iterable[Entrant]]
Joined = Callable[[Entrant, Entrant], Entrant | None]
