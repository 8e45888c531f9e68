import gc
import re
import shutil
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

import graftage
import photos
from graftage import entrants, looking, rankstory
from graftage.data.catalog import Catalog
from graftage.entrants import Bounds, Cost, other_uses
from graftage.errors import BackboneError, OptionError
from graftage.features import extract
from graftage.features.backbone import find
from graftage.features.engine import Forward, open_forward
from graftage.features.facts import BackboneInfo
from graftage.features.preprocess import Fit
from graftage.measure.interval import Estimate
from graftage.rankstory import Ranked
from graftage.report.pareto import Spot, front, pareto_chart

LITE0 = "bundled/efficientnet_lite0"
SMALL = "mobilenetv3_small_050"


@pytest.fixture(scope="module")
def decoy(weights_file: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that sees nothing: its first layer has only zeros, so that all pictures look alike to it."""
    from safetensors.numpy import load_file, save_file

    state = load_file(weights_file(SMALL))
    state["conv_stem.weight"] = np.zeros_like(state["conv_stem.weight"])
    path = tmp_path_factory.mktemp("decoy") / f"{SMALL}.safetensors"
    save_file(state, path)
    return path


@pytest.fixture(scope="module")
def ranked(class_folders: Path, decoy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, photos.Said]:
    """A ranking of the bundled network and a decoy on 48 pictures: (its page, what the command said)."""
    page = tmp_path_factory.mktemp("rank") / "new" / "page.html"
    said = photos.graftage("rank", class_folders, "--candidates", f"{LITE0},{decoy}", "--scores", "-o", page)
    assert said.status == 0, said.err
    return page, said


def info(**changed: object) -> BackboneInfo:
    usual = {"parameters": 3_000_000, "licence": "Apache-2.0", "features": 1280, "input_size": 224}
    rest = {"id": "x", "architecture": "y", "weights_sha256": "0" * 64, "pretraining": "ImageNet-1k"}
    return BackboneInfo(**{**rest, **usual, **changed})  # type: ignore[arg-type]


# The command


def test_a_network_that_knows_nothing_is_never_recommended(ranked: tuple[Path, photos.Said], decoy: Path) -> None:
    page, said = ranked
    record = photos.read_json(page.with_suffix(".json"))
    best = record["networks"][0]
    assert best["backbone"].startswith(LITE0)
    assert f"Take {best['name']}" in record["recommendation"] in said.out
    assert {row["name"]: row["fate"] for row in record["networks"]}[str(decoy)] != "shut out"
    assert str(decoy) not in record["recommendation"].split(";")[0]


def test_the_table_says_what_each_costs_and_under_which_licence(ranked: tuple[Path, photos.Said]) -> None:
    page, said = ranked
    record = photos.read_json(page.with_suffix(".json"))
    rows = [row for row in record["networks"] if row["fate"] == "ranked"]
    assert rows
    for row in rows:
        assert 0 < row["picture_seconds"] <= row["picture_seconds_with_decoding"] * 1.5
        assert row["embed_seconds"] > 0
        assert row["megabytes"] == pytest.approx(row["parameters"] * 4e-6)
        assert row["accuracy"]["low"] <= row["accuracy"]["value"] <= row["accuracy"]["high"]
        assert {"logme", "knn", "probe", "log_loss"} <= set(row)
        assert re.search(rf"(?m)^{re.escape(row['name'])} .* % \(.*\).* ms .* MB .*{row['licence']}", said.out)
    chances = [row.get("probability_best") or 0.0 for row in record["networks"]]
    assert 0.5 < sum(chances) <= 1 + 1e-9  # what is left is that of ways of use without a turn, and of those dropped
    assert record["pictures"] == 48
    assert re.search(r"(24|48) of 48 pictures to learn from looked at, no test picture", said.out)


def test_the_page_tells_the_same_and_loads_nothing(ranked: tuple[Path, photos.Said]) -> None:
    page, text = ranked[0], ranked[0].read_text(encoding="utf-8")
    record = photos.read_json(page.with_suffix(".json"))
    assert sorted(path.name for path in page.parent.iterdir()) == ["page.html", "page.json"]
    assert "://" not in text
    assert "{{" not in text
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
    networks = text.partition('id="networks"')[2].partition("Not ranked")[0]
    shown = re.findall(r'<th scope="row">(.*?)(?:\s*<span class="tag chosen">recommended</span>)?</th>', networks)
    assert shown == [row["name"] for row in record["networks"] if row["fate"] == "ranked"]
    assert text.count('<g class="chosen">') == 1


def test_again_ranks_the_same_and_computes_no_features(
    ranked: tuple[Path, photos.Said], class_folders: Path, decoy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a picture that is in the store was looked at again")

    monkeypatch.setattr(extract._Seer, "see", never)
    found = graftage.rank(class_folders, candidates=f"{LITE0},{decoy}", output=tmp_path / "again.html")
    assert isinstance(found, Ranked)
    before = photos.read_json(ranked[0].with_suffix(".json"))["networks"]
    same = ("name", "fate", "reason", "pictures", "accuracy", "probability_best", "expected_half_brier")
    assert [[row.get(k) for k in same] for row in found.table] == [[row.get(k) for k in same] for row in before]
    assert found.best == before[0]["backbone"]


def test_pictures_to_test_on_are_not_looked_at_in_the_race(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos.two_classes(tmp_path / "photos" / "train", 10)
    photos.two_classes(tmp_path / "photos" / "test", 6, seed=1)
    seen: list[Path] = []
    original = looking.Looked.features

    def spy(self: looking.Looked, catalog: Catalog, rows: np.ndarray, fits: Sequence[Fit]) -> object:
        seen.extend(catalog.entries[i].path for i in rows)
        return original(self, catalog, rows, fits)

    monkeypatch.setattr(looking.Looked, "features", spy)
    found = graftage.rank(tmp_path / "photos", candidates=LITE0, output=tmp_path / "r.html", fit="squash")
    assert len(set(seen)) == photos.read_json(found.path.with_suffix(".json"))["pictures"] == 20
    assert not [path for path in seen if "test" in path.relative_to(tmp_path / "photos").parts]


@dataclass
class Held:
    """What runs networks: how many of them are alive, were alive at once, and were opened at all."""

    alive: weakref.WeakSet[object] = field(default_factory=weakref.WeakSet)
    most: int = 0
    opened: int = 0


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """Networks are counted as they are opened; a network goes with its last use, not when the collector comes by."""
    found, original = Held(), looking.open_forward

    def counted(*args: object, **kwargs: object) -> Forward:
        forward = original(*args, **kwargs)  # type: ignore[arg-type]
        found.alive.add(forward.run)
        found.most, found.opened = max(found.most, len(found.alive)), found.opened + 1
        return forward

    monkeypatch.setattr(looking, "open_forward", counted)
    gc.collect()
    gc.disable()
    yield found
    gc.enable()


def test_no_two_networks_are_held_at_once(class_folders: Path, decoy: Path, tmp_path: Path, held: Held) -> None:
    graftage.rank(class_folders, candidates=f"{LITE0},{decoy}", output=tmp_path / "r.html", fit="squash")
    assert held.opened > 4
    assert held.most == 1
    assert not held.alive


def test_train_with_backbone_auto_lets_its_first_network_go_before_others_race(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoy: Path, held: Held
) -> None:
    monkeypatch.setattr(entrants, "at_hand", lambda: [str(decoy), LITE0])
    graftage.train(class_folders, output=tmp_path / "run", backbone="auto", recipe="linear", fit="squash")
    assert held.opened > 4
    assert held.most == 1


def test_a_network_that_was_let_go_is_still_known_but_runs_no_more() -> None:
    backbone = find(LITE0)
    forward = open_forward(backbone, backbone.preprocess)
    gone, runs = forward.let_go(), weakref.ref(forward.run)
    assert (gone.key, gone.features, gone.batch) == (forward.key, forward.features, forward.batch)
    del forward
    assert runs() is None
    with pytest.raises(AssertionError, match="was let go"):
        gone(np.zeros((1, 224, 224, 3), np.uint8))


def test_train_with_backbone_auto_takes_the_best_and_corrects_for_the_choice(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoy: Path
) -> None:
    monkeypatch.setattr(entrants, "at_hand", lambda: [str(decoy), LITE0])
    run = graftage.train(class_folders, output=tmp_path / "run", backbone="auto", recipe="linear", fit="squash")
    named = run.model.bundle.backbone.id
    assert named.startswith(LITE0)
    assert any(f"--backbone auto took {named}" in note for note in run.notes)
    metrics = photos.read_json(run.folder / "metrics.json")
    rivals = [row["name"] for row in metrics["tried"] if "@" in row["name"] or "#" in row["name"]]
    assert rivals  # what was not taken is among what the corrected estimate knows of
    assert 'backbone = "auto"' in (run.folder / "config.toml").read_text(encoding="utf-8")


# What a person may get wrong


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--candidates", "bundled/efficientnet_lite9"), "Did you mean bundled/efficientnet_lite"),
        (
            ("--candidates", "nothing,neither"),
            r"(?s)none of the candidates can be used:\n  nothing: .*\n  neither: .*\nName others",
        ),
        (("--candidates", "resnt50"), "Did you mean timm/resnet50.a1_in1k or "),
        (("--candidates", "timm/resnt50"), "no pretrained model of this name. Close to it: timm/resnet50"),
        (
            ("--candidates", "timm/convnextv2_tiny.fcmae_ft_in1k", "--licence", "commercial"),
            "allows no use in a product",
        ),
        (("--candidates", ","), "no candidate is named"),
        (("--max-latency", "20"), "max-latency must be such as 20ms"),
        (("--max-size", "50 bananas"), "max-size must be such as 50MB"),
        (("--licence", "comercial"), "licence must be"),
        (("--budget", "soon"), "budget must be a time"),
        (("--budget", "0.001s", "--candidates", LITE0), "budget is too small for any of 1 candidates"),
        (
            ("--max-size", "1MB", "--candidates", LITE0),
            r"13.* MB of weights, more than the 1 MB allowed\n.* allow more with --max-size",
        ),
        (
            ("--max-latency", "1us", "--candidates", LITE0),
            r"ms for a picture, more than the 0.001 ms allowed\n.*--max-latency",
        ),
        (("-o", "table.csv"), "no name for a page"),
    ],
)
def test_faults_are_told(class_folders: Path, tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    output = () if "-o" in options else ("-o", tmp_path / "r.html")
    said = photos.graftage("rank", class_folders, *options, *output)
    assert said.status == 2
    assert re.search(words, said.err), said.err


def test_one_that_cannot_be_had_is_a_row_with_its_reason(class_folders: Path, tmp_path: Path) -> None:
    found = graftage.rank(
        class_folders, candidates=f"{LITE0},no/such.safetensors", output=tmp_path / "r.html", fit="squash"
    )
    assert found.table[-1]["name"] == "no/such.safetensors"
    assert "no such weights file" in found.table[-1]["reason"]
    assert "no such weights file" in found.path.read_text(encoding="utf-8")


class Code:
    """Makes a file where its pickle is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.target,))


def test_each_candidate_that_fails_says_why_and_the_others_race(
    class_folders: Path, weights_file: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    coded, other, broken = (tmp_path / name for name in ("test_vit.pth", "test_vit.safetensors", "test_resnet.bin"))
    torch.save({"fc.weight": Code(tmp_path / "owned")}, coded)
    shutil.copy(weights_file("test_resnet"), other)
    broken.write_bytes(b"no weights")
    wanted = {
        "timm/resnet10t.c3_in1k": "HF_HUB_OFFLINE is set.*hf download timm/resnet10t.c3_in1k model.safetensors",
        str(coded): "graftage runs no code from a file",
        str(other): "do not fit the network.*first cls_token.*these tensors look like test_resnet",
        str(broken): "cannot be read.*get the file again",
        "resnt50": "Did you mean timm/resnet50",
    }
    found = graftage.rank(
        class_folders, candidates=",".join((*wanted, LITE0)), output=tmp_path / "r.html", fit="squash"
    )
    assert found.best.startswith(LITE0)
    said = {row["name"]: row["reason"] for row in found.table if row["fate"] == "shut out"}
    assert list(said) == list(wanted)
    for name, words in wanted.items():
        assert re.search(words, said[name]), said[name]
        assert not said[name].startswith((name, f"backbone {name}"))  # it stands before the reason already
    assert not (tmp_path / "owned").exists()


def test_auto_leaves_sizes_to_itself(class_folders: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--backbone auto chooses the size"):
        graftage.train(class_folders, output=tmp_path / "run", backbone="auto", img_size=192)


# Bounds and candidates


def test_bounds_are_read_as_people_type_them() -> None:
    bounds = Bounds.of("20ms", "0.05 GB")
    assert (bounds.latency, bounds.megabytes) == pytest.approx((0.02, 50))
    assert bounds.too_slow(Cost(0.03, 0.04)) == "30.0 ms for a picture, more than the 20 ms allowed"
    assert not bounds.too_slow(Cost(0.019, 0.5))
    assert not bounds.too_large(info(parameters=12_000_000))
    assert bounds.too_large(info(parameters=13_000_000))


def test_candidates_are_named_once_in_their_canonical_form() -> None:
    assert entrants.named(f"{LITE0}, {LITE0}@192#2,{LITE0}") == [LITE0, f"{LITE0}#2@192"]
    assert set(entrants.named("auto")) >= {LITE0, "bundled/efficientnet_lite1"}
    assert entrants.named(f"auto,{LITE0}") == entrants.named("auto")


def test_weights_in_the_hubs_cache_are_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    commit = "0" * 40
    for name in ("resnet18.a1_in1k", "resnet50.a1_in1k"):
        folder = tmp_path / f"models--timm--{name}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(commit)
        (folder / "snapshots" / commit).mkdir(parents=True)
    (tmp_path / "models--timm--resnet18.a1_in1k" / "snapshots" / commit / "model.safetensors").touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    found = entrants.at_hand()
    assert "timm/resnet18.a1_in1k" in found
    assert "timm/resnet50.a1_in1k" not in found


def test_better_known_networks_are_expected_to_do_better() -> None:
    assert entrants.prior_of("bundled/efficientnet_lite2") < entrants.prior_of("bundled/efficientnet_lite1") < 0
    assert entrants.prior_of(LITE0) == 0 < entrants.prior_of("my/weights.safetensors") == entrants.STRANGER
    assert entrants.prior_of("bundled/efficientnet_lite2@160") == entrants.prior_of("bundled/efficientnet_lite2")
    assert abs(entrants.prior_of("bundled/efficientnet_lite2")) < 0.05


def test_other_uses_of_a_network() -> None:
    backbone = find(LITE0)
    assert other_uses(LITE0, backbone) == [f"{LITE0}#2", f"{LITE0}@160", f"{LITE0}@288"]
    assert other_uses(LITE0, backbone, layers=False) == [f"{LITE0}@160", f"{LITE0}@288"]
    assert other_uses(f"{LITE0}@192", find(f"{LITE0}@192")) == []


# The figure and the words


def estimate(value: float) -> Estimate:
    return Estimate(value, value - 0.02, value + 0.02, "wilson")


def test_the_front_holds_what_nothing_beats_in_both() -> None:
    spots = [Spot(n, t, estimate(s)) for n, t, s in (("a", 10, 0.9), ("b", 5, 0.85), ("c", 7, 0.84), ("d", 20, 0.9))]
    assert [spot.name for spot in front(spots)] == ["b", "a"]
    chart = pareto_chart([*spots, Spot("<x>", 3.0, estimate(0.7), chosen=True)])
    assert chart.count("<circle") == 5
    assert chart.count('class="front"') == 2
    assert "<x>" not in chart
    assert pareto_chart([]) == ""
    alone = pareto_chart([Spot("a", 30.3, estimate(0.9))])  # no round number of milliseconds is near
    assert re.search(r'text-anchor="middle">30</text>', alone)


def test_the_recommendation_names_a_faster_one() -> None:
    def row(name: str, value: float, seconds: float, best: float, fate: str = "ranked") -> dict[str, object]:
        accuracy = vars(estimate(value))
        return {
            "name": name, "fate": fate, "accuracy": accuracy, "picture_seconds": seconds, "probability_best": best
        }  # fmt: skip

    rows = (row("a", 0.9, 0.02, 0.7), row("b", 0.88, 0.01, 0.3), row("c", 0.2, 0.01, 0.0, "dropped"))
    assert rankstory.recommendation(rows) == (
        "Take a: 90.0 % (88.0 to 92.0) expected, the best of 3 with probability 70 %; b takes 50 % of its time for "
        "2.0 points less, and is the best with probability 30 %."
    )
    alone = rankstory.recommendation((rows[0], rows[2]))
    assert alone.endswith("expected, the other fell behind on these pictures.")


def test_the_recommendation_says_when_more_time_may_find_a_better_one() -> None:
    def row(name: str, best: float, fate: str) -> dict[str, object]:
        found = {"name": name, "fate": fate, "accuracy": vars(estimate(0.9)), "picture_seconds": 0.01, "reason": "few"}
        return {**found, "probability_best": best}

    rows = (row("a", 0.4, "ranked"), row("b", 0.35, "left out"), row("c", 0.25, "left out"))
    assert rankstory.recommendation(rows) == (
        "Take a: 90.0 % (88.0 to 92.0) expected, the best of 3 with probability 40 %. 2 others were given fewer "
        "pictures or none and may be better: a longer --budget tells."
    )
    sure = rankstory.recommendation((row("a", 0.9, "ranked"), row("b", 0.1, "left out")))
    assert sure.endswith("the best of 2 with probability 90 %.")


def test_a_candidate_of_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(BackboneError, match="Did you mean"):
        find("bundled/efficientnet_lite")
