"""What our own benchmark measured of each pretrained network, into `prior.json` of the package.

    python bench/prior.py --keep FOLDER [--sizes 300] [--draws 10] [--networks ID...] [--write] FOLDER_OR_NAME...

The score of a network by n pictures of a set is the truth of `choose.py`: the accuracy of the head that `graftage
train` would fit to n pictures on the network's frozen features, as it was pretrained, squashed; on the pictures not
drawn, mean over the draws. Its standard error is that of the mean over the set's pictures. Heads that `choose.py` left
in FOLDER are not fitted again, and a set's features are computed only where one is lacking. With --write the lines
printed replace those of the same network, set and n in `prior.json`; the others stay.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from choose import LEAST_REST, Answers, Judged
from contenders import Contender, Pictures, as_pretrained, embedded, pictures_of
from graftage.data.split import exact_groups
from graftage.features import zoo
from graftage.features.bundled import BUNDLED
from graftage.features.zoo import Measured, known
from saved import machine

PRIOR = Path(zoo.__file__).with_name("prior.json")


class Embedded(dict[str, np.ndarray]):
    """Features by the name of a network, computed when they are first asked for."""

    def __init__(self, work: Path, pictures: Pictures, networks: Sequence[Contender]) -> None:
        super().__init__()
        self._work, self._pictures, self._networks = work, pictures, {c.name: c for c in networks}

    def __missing__(self, name: str) -> np.ndarray:
        self[name] = embedded(self._work, self._pictures, self._networks[name])
        return self[name]


def judged_set(data: str, work: Path, networks: Sequence[Contender], answers: Answers, draws: int) -> Judged:
    """A set of which every network can tell its truth."""
    pictures = pictures_of(data, work)
    entries = [pictures.catalog.entries[i] for i in pictures.rows]
    y = np.unique(pictures.catalog.labels()[pictures.rows], return_inverse=True)[1]
    groups = exact_groups([e.digest for e in entries])
    X = Embedded(work, pictures, networks)
    return Judged(pictures.name, list(networks), X, y, groups, {}, answers, draws)


def measured(judged: Judged, sizes: Iterable[int]) -> Iterator[tuple[str, Measured]]:
    """(id, what was found) for every network and n; an n that leaves too few pictures for a truth is passed over."""
    for n in sizes:
        if n + LEAST_REST > len(judged.y):
            continue
        for network in judged.contenders:
            score = 100 * judged.truth((network.name,), n)
            shares = 100 * judged.by_picture((network.name,), n)
            error = float(np.sqrt(np.nanvar(shares, ddof=1) / np.isfinite(shares).sum()))
            yield network.spec, Measured(judged.name, n, round(score, 2), round(error, 2))


def merged(prior: dict[str, list[dict[str, object]]], found: Sequence[tuple[str, Measured]]) -> dict[str, object]:
    """The section "measured" with new lines in place of those of the same network, set and n."""
    new = {(name, m.set, m.n): m for name, m in found}
    rows = {(name, str(row["set"]), int(str(row["n"]))): Measured(**row) for name, own in prior.items() for row in own}
    rows |= new
    order = list(known())
    names = sorted({name for name, _, _ in rows}, key=order.index)
    return {name: [asdict(rows[key]) for key in sorted(rows) if key[0] == name] for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", help="folders, or solar")
    parser.add_argument("--keep", type=Path, default=Path("choose-features"), help="where features and truths are kept")
    parser.add_argument("--sizes", type=int, nargs="+", default=[300], help="pictures that are learnt from")
    parser.add_argument("--draws", type=int, default=10, help="of each size")
    parser.add_argument("--networks", nargs="+", default=list(BUNDLED), choices=[*known()], metavar="ID")
    parser.add_argument("--write", action="store_true", help="change prior.json of the package")
    args = parser.parse_args()
    args.keep.mkdir(parents=True, exist_ok=True)
    print(machine("graftage", "torch", "timm", "openvino"), flush=True)
    networks, answers = [as_pretrained(name) for name in args.networks], Answers(args.keep / "answers.jsonl")
    found = list[tuple[str, Measured]]()
    for data in args.data:
        for name, m in measured(judged_set(data, args.keep, networks, answers, args.draws), args.sizes):
            print(f"{name:<36} {m.set:<16} {m.n:>5,} pictures  {m.score:.2f} ± {m.standard_error:.2f} %", flush=True)
            found.append((name, m))
    if args.write:
        prior = json.loads(PRIOR.read_text(encoding="utf-8"))
        prior["measured"] = merged(prior["measured"], found)
        PRIOR.write_text(json.dumps(prior, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
