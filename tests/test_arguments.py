"""Arguments in any order; those that are not known: what was probably meant, in a sentence, and exit status 2."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftage.arguments import SYNONYMS, KindParser
from graftage.cli import _parser
from photos import graftage


def commands() -> dict[str, argparse.ArgumentParser]:
    (found,) = (a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(found.choices)


def named(parser: argparse.ArgumentParser) -> set[str]:
    """Every flag and every place of a command."""
    places = {str(a.metavar) for a in parser._actions if not a.option_strings}
    return places.union(*(a.option_strings for a in parser._actions))


def refused(*arguments: object) -> str:
    """The sentence with which a command line is refused."""
    said = graftage(*arguments)
    assert (said.status, said.out) == (2, "")
    sentence, where = said.err.splitlines()
    assert where.endswith("--help lists what there is)")
    return sentence


@pytest.mark.parametrize(
    ("flag", "meant"),
    [
        ("--learning-rate=0.1", "--lr"),
        ("--learning_rate=0.1", "--lr"),
        ("--lr0=0.1", "--lr"),
        ("-lr=0.1", "--lr"),
        ("--epoch=3", "--epochs"),
        ("--num-epochs=3", "--epochs"),
        ("--num_train_epochs=3", "--epochs"),
        ("--batch=3", "--batch-size"),
        ("--BATCH_SIZE=3", "--batch-size"),
        ("--weight_decay=0.1", "--weight-decay"),
        ("--wd=0.1", "--weight-decay"),
        ("--patiense=0.1", "--patience"),
        ("--model=resnet50", "--backbone"),
        ("--arch=resnet50", "--architecture"),
        ("--data-dir=photos", "PHOTOS without a flag"),
        ("--data=photos", "PHOTOS without a flag"),
        ("--output-dir=here", "--output"),
        ("--outpt=here", "--output"),
        ("--no-amp", "--amp none"),
        ("--gpu=0", "--device cuda"),
        ("--early_stopping", "--patience"),
        ("--over", "--overwrite"),
        ("--no-overwrit", "--no-overwrite"),
    ],
)
def test_training_knows_what_was_meant(flag: str, meant: str) -> None:
    expected = f"graftage train: error: unrecognized arguments: {flag}; did you mean {meant}?"
    assert refused("train", "photos", flag) == expected


def test_the_value_of_an_unknown_flag_is_not_complained_of() -> None:
    expected = "graftage train: error: unrecognized arguments: --learning-rate; did you mean --lr?"
    assert refused("train", "photos", "--learning-rate", "0.1") == expected
    assert refused("train", "--learning-rate", "0.1", "photos") == expected


def test_several_are_told_together() -> None:
    assert refused("train", "photos", "--lr0", "1", "--colour", "--epoch=3").endswith(
        "unrecognized arguments: --lr0 --colour --epoch=3; did you mean --lr for --lr0, --epochs for --epoch?"
    )


def test_what_is_like_nothing_gets_no_guess() -> None:
    assert refused("train", "photos", "--colour", "red").endswith("unrecognized arguments: --colour")
    assert refused("train", "photos", "more", "still").endswith("unrecognized arguments: more still")


def test_a_command_is_told_its_own_flags_only() -> None:
    assert refused("predict", "m", "a.jpg", "--lr=1").endswith("unrecognized arguments: --lr=1")
    assert refused("predict", "--model", "m", "a.jpg").endswith("did you mean MODEL without a flag?")
    assert refused("predict", "m", "--images=x").endswith("did you mean PATH without a flag?")
    assert refused("evaluate", "m", "photos", "--compare=n").endswith("did you mean --against?")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("trian", "train"),
        ("Train", "train"),
        ("finetune", "train"),
        ("eval", "evaluate"),
        ("val", "evaluate"),
        ("infer", "predict"),
        ("predcit", "predict"),
        ("backbone", "backbones"),
    ],
)
def test_a_command_that_was_meant(word: str, meant: str) -> None:
    sentence = refused(word, "photos")
    assert sentence.startswith(f"graftage: error: argument COMMAND: invalid choice: '{word}' (choose from ")
    assert sentence.endswith(f"; did you mean {meant}?")


def test_a_choice_that_was_meant() -> None:
    assert refused("predict", "m", "a.jpg", "--format", "json").endswith("; did you mean jsonl?")
    assert refused("predict", "m", "a.jpg", "--format", "CSV").endswith("; did you mean csv?")
    assert refused("predict", "m", "a.jpg", "--format", "zip").endswith(")")
    assert refused("zzz").endswith(")")


def test_other_mistakes_are_one_sentence_too() -> None:
    assert "the following arguments are required: MODEL, PHOTOS" in refused("evaluate")
    assert "invalid int value: 'x'" in refused("train", "photos", "--seed", "x")


def test_negative_numbers_are_values() -> None:
    assert "unrecognized arguments: -5" in refused("train", "photos", "-5")


def test_flags_are_not_abbreviated() -> None:
    assert refused("train", "photos", "--see", "7").endswith("unrecognized arguments: --see; did you mean --seed?")


def parsed(*words: str) -> dict[str, object]:
    """What a command is given, text for text."""
    return {name: str(value) for name, value in vars(_parser().parse_args(words)).items()}


ORDERS = {
    "predict": (["M", "a.jpg", "t.csv"], [["--id-col", "sku"], ["-o", "x.csv"], ["--all"], ["-j2"], ["--ray", "h:1"]]),
    "embed": (["a.jpg", "-", "-"], [["-o", "x.npz"], ["-0"], ["--fit=crop"], ["--root", "r"], ["--ray"]]),
    "explain": (["M", "a.jpg", "b.jpg"], [["--class", "robin"], ["--similar", "3"], ["-o", "x.html"]]),
    "serve": (["M", "ants=N"], [["--port", "9000"], ["--no-auth"], ["--host", "here"]]),
    "clean": (["photos", "problems.csv"], [["--undo"]]),
    "evaluate": (["M", "photos"], [["--against", "N"], ["--seed", "7"]]),
}


@pytest.mark.parametrize("command", ORDERS)
@given(draws=st.data())
def test_arguments_and_flags_come_in_any_order(command: str, draws: st.DataObject) -> None:
    places, flags = ORDERS[command]
    shuffled = draws.draw(st.permutations([*(("place", [place]) for place in places), *(("flag", f) for f in flags)]))
    left: Iterator[str] = iter(places)  # they keep their own order
    words = [word for kind, some in shuffled for word in ([next(left)] if kind == "place" else some)]
    assert parsed(command, *words) == parsed(command, *places, *(word for flag in flags for word in flag))


def test_behind_two_dashes_all_are_arguments() -> None:
    found = vars(_parser().parse_args(["predict", "M", "--ray", "a.jpg", "-0o", "x.csv", "--", "--all", "-5", "b.jpg"]))
    assert (str(found["model"]), found["paths"]) == ("M", ["a.jpg", "--all", "-5", "b.jpg"])
    assert (found["ray"], found["null"], str(found["output"]), found["all"]) == ("local", True, "x.csv", False)


def test_a_flag_that_takes_several_takes_those_behind_it() -> None:
    found = parsed("export", "M", "--check", "a", "b", "--to", "onnx")
    assert found == parsed("export", "--to", "onnx", "--check", "a", "b", "-o", "x", "M") | {"output": "None"}


def test_but_for_an_argument_that_would_be_missing() -> None:
    found = parsed("export", "M", "--to", "onnx", "--check", "a", "b")
    assert found == parsed("export", "--to", "onnx", "--check", "a", "b", "M")
    assert found == parsed("export", "--check", "a", "b", "M", "--to", "onnx")
    assert refused("export", "--to", "onnx", "--check", "a").endswith("the following arguments are required: MODEL")


@pytest.mark.parametrize(
    "address", ["auto", "local", "10.0.0.7:6379", "head-node.lan:6379", "[::1]:6379", "ray://head:10001"]
)
@pytest.mark.parametrize("command", ["predict M", "embed -o x.npz"])
def test_ray_takes_an_address(command: str, address: str) -> None:
    for words in (["--ray", address, "a.jpg"], ["a.jpg", f"--ray={address}"]):
        found = vars(_parser().parse_args([*command.split(), *words]))
        assert (found["ray"], found["paths"]) == (address, ["a.jpg"])


@pytest.mark.parametrize(
    "path", ["photos", "photos/", "./auto", "a.jpg", "s-{000..999}.tar", "-", "photos/a:b.jpg", "C:\\photos", ""]
)
@pytest.mark.parametrize("command", ["predict M", "embed -o x.npz"])
def test_what_is_no_address_behind_ray_is_an_input(
    command: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    found = vars(_parser().parse_args([*command.split(), "--ray", path, "b.jpg"]))
    assert (found["ray"], found["paths"]) == ("local", [path, "b.jpg"])
    says = f"argument --ray: {path!r} is no address: auto, local, HOST:PORT or ray://HOST:PORT"
    assert refused(*command.split(), f"--ray={path}", "b.jpg").endswith(says)


@pytest.mark.parametrize("command", ["predict M", "embed -o x.npz"])
def test_what_is_neither_is_told(command: str) -> None:
    says = "neither a file or folder that is there nor an address: auto, local, HOST:PORT or ray://HOST:PORT"
    for words in (["--ray", "photoss"], ["a.jpg", "--ray", "photoss"]):
        said = graftage(*command.split(), *words)
        assert (said.status, said.err) == (2, f"graftage: --ray photoss: {says}\n")


def test_known_arguments_pass() -> None:
    parser = KindParser(prog="x")
    parser.add_argument("--lr", type=float)
    assert parser.parse_args(["--lr", "0.1"]).lr == 0.1
    assert graftage("--version").status == 0
    assert graftage().status == 0


def test_only_what_exists_is_ever_suggested() -> None:
    every = set().union(*map(named, commands().values()))
    suggested = {candidate.split()[0] for candidates in SYNONYMS.values() for candidate in candidates}
    assert suggested - every <= {"--img-size"}  # not yet a flag; a candidate that a command lacks is passed over
    for name, parser in commands().items():
        assert isinstance(parser, KindParser)
        for flag in SYNONYMS.keys() - named(parser):
            meant = parser._meant(flag)
            assert not meant or meant.split()[0] in named(parser), f"{name} {flag}"
