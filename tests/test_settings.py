"""Settings: what they allow, what they say of what they do not, and their round trip through config.toml."""

import tomllib
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftage.errors import OptionError
from graftage.settings import FITS, Settings, read_config

# Any text that a path can hold, undecodable bytes (as Python keeps them) included.
ANY_TEXT = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from('"\\\n\r\t\0\x1f\x7f\x85\u2028\ufeff\U0001f426'),
        st.integers(0xDC80, 0xDCFF).map(chr),
    ),
    min_size=1,
)
ANY_SETTINGS = st.builds(
    Settings,
    data=ANY_TEXT,
    output=ANY_TEXT,
    backbone=ANY_TEXT,
    architecture=ANY_TEXT,
    fit=st.sampled_from(FITS),
    test=st.sampled_from(["auto", "none", "0.25", "1e-3"]),
    folds=st.sampled_from(["auto", "2", "5x4", "1000x1000"]),
    seed=st.integers(min_value=0, max_value=2**70),
    workers=st.integers(min_value=0, max_value=99),
    repair=st.booleans(),
    max_bytes=st.integers(min_value=1),
    overwrite=st.booleans(),
    recipe=st.sampled_from(["auto", "tail", "scratch"]),
    budget=st.sampled_from(["", "30s", "10m", "2h", "1.5h"]),
    lr=st.none() | st.floats(min_value=1e-8, max_value=10.0),
    epochs=st.none() | st.integers(min_value=1, max_value=10_000),
)


@given(ANY_SETTINGS)
@settings(deadline=None, max_examples=60)
def test_toml_gives_back_the_same_settings(given_settings: Settings) -> None:
    again = Settings.from_mapping(tomllib.loads(given_settings.to_toml()), source="test")
    assert again == given_settings
    assert {type(value) for value in vars(again).values()} <= {str, int, float, bool, type(None)}


def test_a_config_file_gives_back_file_names_that_are_no_utf8(tmp_path: Path) -> None:
    odd = Settings(data="photos/caf\udce9", output="out\n")
    path = tmp_path / "config.toml"
    path.write_text(odd.to_toml(), encoding="utf-8", errors="surrogateescape")
    assert Settings.from_mapping(read_config(path), source=str(path)) == odd


def test_every_field_is_in_the_config_and_every_line_is_a_field() -> None:
    text = Settings("photos").to_toml()
    settings = Settings("photos")
    assert list(tomllib.loads(text)) == [f.name for f in fields(Settings) if getattr(settings, f.name) is not None]
    assert text.startswith("# Repeats this run: graftage train -c config.toml\n")


def test_settings_are_a_value() -> None:
    assert Settings("a", seed=1) == replace(Settings("a"), seed=1) != Settings("a")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": "1"}, r"seed must be a whole number, got '1'"),
        ({"seed": True}, r"seed must be a whole number, got True"),
        ({"seed": -1}, r"seed must be 0 or more, got -1"),
        ({"workers": -2}, r"workers must be 0 or more, got -2"),
        ({"max_bytes": 0}, r"max_bytes must be 1 or more, got 0"),
        ({"max_pixels": -5}, r"max_pixels must be 1 or more, got -5"),
        ({"repair": "yes"}, r"repair must be true or false, got 'yes'"),
        ({"backbone": None}, r"backbone must be text, got None"),
        ({"recipe": "tial"}, r"recipe must be one of auto, linear, .*got 'tial' \(did you mean tail\?\)"),
        ({"lr": 50.0}, r"lr must be 1e-08 to 10, got 50.0; the nearest allowed is 10"),
        ({"epochs": 0}, r"epochs must be 1 to 10000, got 0; the nearest allowed is 1"),
        ({"budget": "soon"}, r"budget must be a time such as 30s, 10m or 2h, got 'soon'"),
        ({"budget": "-3m"}, r"budget must be a time"),
        ({"data": ""}, r"data must name a folder of pictures"),
        ({"fit": "stretch"}, r"fit must be one of auto, crop, squash, pad, got 'stretch'"),
        ({"test": "0"}, r"test must be auto, none or a share such as 0\.2, got '0'"),
        ({"test": "1"}, r"test must be"),
        ({"test": "nan"}, r"test must be"),
        ({"test": "some"}, r"test must be"),
        ({"folds": "1"}, r"folds must be 2 to 1000, repeated 1 to 1000 times, got '1'"),
        ({"folds": "5x0"}, r"folds must be 2 to 1000"),
        ({"folds": "5×4"}, r"folds must be auto, K or KxR such as 5 or 5x4, got '5×4'"),
        ({"folds": "x3"}, r"folds must be auto"),
        ({"folds": "-3"}, r"folds must be auto"),
        ({"folds": "٣"}, r"folds must be auto"),
    ],
)
def test_a_value_outside_what_is_allowed_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Settings.from_mapping({"data": "photos", **changes}, source="test")


def test_the_test_share_and_the_folds_are_understood() -> None:
    assert [Settings("a", test=text).test_share() for text in ("auto", "none", "0.25")] == [None, 0.0, 0.25]
    assert [Settings("a", folds=text).fold_plan() for text in ("auto", "5", "5x4")] == [None, (5, 1), (5, 4)]


def test_unknown_names_are_all_listed_with_what_was_meant() -> None:
    with pytest.raises(OptionError) as caught:
        Settings.from_mapping({"data": "a", "sed": 1, "fold": "5", "zzz": 0}, source="my.toml")
    said = str(caught.value)
    assert said.startswith("my.toml: unknown options sed (did you mean seed?), fold (did you mean folds?), zzz; known")
    assert all(field.name in said for field in fields(Settings))


def test_without_data_there_is_nothing_to_do() -> None:
    with pytest.raises(OptionError, match=r"my\.toml: no data folder is named"):
        Settings.from_mapping({"seed": 1}, source="my.toml")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"seed = ", "not a valid TOML file"), (b"\xff\xfes\0", "not a valid TOML file"), (None, "cannot be read")],
)
def test_a_config_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "config.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(OptionError, match=rf"config\.toml: .*{message}"):
        read_config(path)


@pytest.mark.parametrize(("budget", "seconds"), [("30s", 30), ("10m", 600), ("2h", 7200), ("45", 45), ("", None)])
def test_a_budget_is_a_time(budget: str, seconds: float | None) -> None:
    assert Settings("photos", budget=budget).seconds() == seconds


def test_a_whole_number_serves_where_a_fraction_is_wanted() -> None:
    assert Settings.from_mapping({"data": "photos", "lr": 1}, source="test").lr == 1.0
