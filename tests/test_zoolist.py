"""`graftage backbones`, and the licence gate of the commands that open a network."""

import json
import socket
from pathlib import Path

import numpy as np
import pytest
import timm
from safetensors.torch import save_file

import photos
from graftage import looking, settings, zoolist
from graftage.data.catalog import scan
from graftage.data.sources import labelled
from graftage.errors import BackboneError, OptionError
from graftage.features import speeds
from graftage.features.bundled import DEFAULT
from graftage.features.speeds import Speed, note_speed
from graftage.features.zoo import facts_of, known
from graftage.progress import Journal, Silent
from graftage.settings import Settings
from photos import graftage, save

LITE = [f"bundled/efficientnet_lite{i}" for i in range(3)]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def ids(out: str) -> list[str]:
    """Ids in a table, in order."""
    words = [line.split()[0] for line in out.splitlines() if line and line[0] != " "]
    return [word for word in words if word.split("/")[0] in ("bundled", "timm", "keras") and word != "id"]


# ---------------------------------------------------------------- the list


def test_without_a_wish_it_lists_what_is_here() -> None:
    said = graftage("backbones").out
    assert ids(said.split("\n\n")[0]) == LITE[::-1]  # the best first
    assert said.count("  yes  yes") == 3  # may be used in a product; here
    assert f"{DEFAULT} is the default" in said
    assert f"{len(known()):,} networks are known" in said


def test_a_part_of_a_name_is_searched() -> None:
    said = graftage("backbones", "resnet10t").out
    assert "timm/resnet10t.c3_in1k" in ids(said)
    assert all("resnet10t" in name for name in ids(said))


def test_a_mistyped_name_is_answered_with_the_nearest() -> None:
    said = graftage("backbones", "resnet10tt")
    assert (said.status, said.out) == (2, "")
    assert "near to it: timm/resnet10t.c3_in1k" in said.err
    said = graftage("backbones", "--family", "convnet")
    assert said.status == 2
    assert "near to it: convnext" in said.err


@pytest.mark.parametrize(
    "flags",
    [
        ("--max-params", "lots"),
        ("--max-params", "0"),
        ("--max-macs", "-1G"),
        ("--input-size", "0"),
        ("--input-size", "224px"),
        ("--min-top1", "101"),
        ("--min-top1", "nan"),
        ("--licence", "free"),
        ("--sort", "beauty"),
        ("--limit", "-1"),
        ("--pretraining", "in2k"),
        ("--measure", "bundled/nothing"),
    ],
)
def test_nonsense_is_refused(flags: tuple[str, str]) -> None:
    said = graftage("backbones", *flags)
    assert (said.status, said.out) == (2, "")
    assert said.err.strip()


def test_flags_are_wishes() -> None:
    said = graftage("backbones", "--max-params", "10M", "--max-macs", "0.5g", "--min-top1", "70", "--limit", "0")
    found = [facts for facts in known().values() if facts.parameters <= 1e7 and facts.macs <= 5e8]
    assert sorted(ids(said.out)) == sorted(f.id for f in found if (f.top1 or 0) >= 70)
    said = graftage("backbones", "--licence", "commercial", "--family", "convnextv2").out
    assert said == f"none of {len(known()):,} networks is all that was asked for at once\n"


@pytest.mark.parametrize(
    ("order", "key"),
    [
        ("top1", lambda f: -(f.top1 or -1)),
        ("params", lambda f: f.parameters),
        ("macs", lambda f: f.macs),
    ],
)
def test_the_best_come_first(order: str, key: object) -> None:
    assert callable(key)
    said = graftage("backbones", "resnet", "--sort", order, "--limit", "12").out
    shown = [known()[name] for name in ids(said)]
    everything = [f for f in known().values() if "resnet" in f.id.lower()]
    assert [key(f) for f in shown] == sorted(map(key, everything))[:12]
    assert f"12 of {len(everything)} networks; --limit 0 shows all" in said


def test_the_table_fits_a_hundred_columns() -> None:
    for words in (("vit_betwixt",), ("--family", "fastvit"), ("--limit", "0", "vit"), ("dinov3",)):
        lines = graftage("backbones", *words).out.splitlines()
        assert len(lines) > 4
        assert max(map(len, lines)) <= 100


def test_an_id_that_leaves_no_room_has_a_line_of_its_own() -> None:
    long = "timm/vit_betwixt_patch16_reg4_gap_384.sbb2_e200_in12k_ft_in1k"
    lines = graftage("backbones", "vit_betwixt").out.splitlines()
    row = lines[lines.index(long) + 1]
    assert row.split() == ["60.0M", "39.7G", "384", "in12k→in1k", "86.6", "Apache-2.0", "yes"]
    assert row.index("60.0M") == lines[0].index("params") + 1  # under its head, to the right


def test_offline_lists_what_is_here() -> None:
    assert ids(graftage("backbones", "efficientnet_lite", "--offline").out) == LITE[::-1]
    assert graftage("backbones", "resnet18", "--offline").out.startswith("no network that is as asked for has its")


def test_json_has_all_that_is_known() -> None:
    rows = json.loads(graftage("backbones", "resnet50.", "--json", "--limit", "0").out)
    assert {row["id"] for row in rows} == {f.id for f in known().values() if "resnet50." in f.id}
    (row,) = (row for row in rows if row["id"] == "timm/resnet50.fb_swsl_ig1b_ft_in1k")
    assert (row["commercial_use"], row["licence"], row["pretraining"]) == ("no", "CC-BY-NC-4.0", "ig1b→in1k")
    assert (row["here"], row["speed"], row["measured"]) == (False, None, [])
    assert len(json.loads(graftage("backbones", "--json", "--limit", "0").out)) == len(known())


def test_measured_speeds_are_shown_and_sorted_by(fresh_cache: Path) -> None:
    assert "pics/s" not in graftage("backbones").out
    note_speed(LITE[0], Speed(1234.4, 100, "openvino-float32", "a" * 24))
    note_speed(LITE[2], Speed(99.0, 100, "openvino-float32", "b" * 24))
    said = graftage("backbones", "bundled", "--sort", "speed").out
    assert ids(said) == [LITE[0], LITE[2], LITE[1]]
    assert "1,234" in said
    (row,) = json.loads(graftage("backbones", LITE[2], "--json").out)
    assert row["speed"] == {"per_second": 99.0, "pictures": 100, "engine": "openvino-float32", "key": "b" * 24}


def test_measuring_says_what_it_found_and_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speeds, "_SECONDS", 0.1)
    said = graftage("backbones", "--measure", DEFAULT)
    assert said.status == 0
    assert said.out.startswith(f"{DEFAULT}: ")
    assert "pictures a second (openvino-" in said.out
    assert "pics/s" in graftage("backbones", "bundled").out


def test_weights_that_are_not_here_are_not_measured() -> None:
    said = graftage("backbones", "--measure", "timm/resnet10t.c3_in1k")
    assert said.status == 2
    assert "is not on this machine" in said.err


@pytest.mark.parametrize(
    ("number", "said"),
    [(3371008, "3.37M"), (23508032, "23.5M"), (304.4e6, "304M"), (4.09e9, "4.09G"), (999, "999"), (761700, "762k")],
)
def test_amounts_have_three_figures(number: float, said: str) -> None:
    assert zoolist.amount(number) == said


# ---------------------------------------------------------------- the gate


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("gate")
    save(root / "palace", photos.crops("china.jpg", 12))
    save(root / "dahlia", photos.crops("flower.jpg", 12))
    return root


def opened(pictures: Path, **given: str) -> str:
    """Id of the network that a run with these settings opens."""
    wanted = Settings(str(pictures), precision="float32", **given)
    backbone, _ = looking.open_network(wanted, scan(labelled(pictures), workers=1), np.arange(4), Journal(Silent()))
    return backbone.info.id


@pytest.mark.parametrize("command", ["train", "check", "curve"])
def test_every_command_that_opens_a_network_has_the_gate(command: str, pictures: Path, tmp_path: Path) -> None:
    name = "timm/convnextv2_atto.fcmae"
    out = tmp_path / ("out.html" if command == "curve" else "out")
    said = graftage(command, pictures, "--backbone", name, "--licence", "commercial", "-o", out)
    assert said.status == 2
    assert f"backbone {name}: its licence (CC-BY-NC-4.0) allows no use in a product" in said.err
    said = graftage(command, pictures, "--backbone", name, "-o", out)
    assert "is not on this machine" in said.err  # without the gate it is only not here


def test_what_may_be_used_passes(pictures: Path) -> None:
    assert opened(pictures, licence="commercial") == DEFAULT


def test_weights_of_unknown_origin_pass_for_whoever_says_so(pictures: Path, tmp_path: Path) -> None:
    file = tmp_path / "test_byobnet.safetensors"
    save_file(timm.create_model("test_byobnet", num_classes=0).state_dict(), file)
    with pytest.raises(
        BackboneError, match="its licence is not known, and --licence commercial was asked for; if you have read"
    ):
        opened(pictures, backbone=str(file), licence="commercial")
    assert opened(pictures, backbone=str(file), licence="commercial-or-unknown") == str(file)
    assert opened(pictures, backbone=str(file)) == str(file)


def test_the_gate_is_a_setting_that_is_checked() -> None:
    assert Settings("x").licence == ""
    assert 'licence = "commercial"' in Settings("x", licence="commercial").to_toml()
    with pytest.raises(OptionError, match="licence must be one of commercial, commercial-or-unknown, got 'free'"):
        Settings("x", licence="free")
    assert settings.GATES[0] == ""


def test_every_alternative_that_is_named_passes(pictures: Path) -> None:
    said = graftage("check", pictures, "--backbone", "timm/convnextv2_tiny.fcmae", "--licence", "commercial")
    near = said.err.rpartition("near to it: ")[2].strip().rstrip(".").split(", ")
    assert len(near) == 3
    for name in near:
        found = facts_of(name)
        assert found is not None
        assert found.commercial
