"""Arguments that are not known: what was probably meant, in a sentence, and exit status 2."""

import argparse

import pytest

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
