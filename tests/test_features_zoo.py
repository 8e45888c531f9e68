"""The table of pretrained networks: true to timm, complete, light; licences, the prior and searching in it."""

import subprocess
import sys
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
import timm
import torch

from graftage.errors import BackboneError, OptionError
from graftage.features import zoo
from graftage.features.bundled import BUNDLED
from graftage.features.zoo import (
    SETS,
    Facts,
    Measured,
    Wish,
    allowed,
    alternatives,
    commercial_use,
    expected_top1,
    facts_of,
    families,
    known,
    matching,
    prior_gap,
    regressors,
    require_licence,
    spdx,
)

NETWORKS = known()
SAME_TIMM = f"with timm {timm.__version__};" in files("graftage.features").joinpath("zoo.csv").read_text(
    encoding="utf-8"
)
pinned = pytest.mark.skipif(not SAME_TIMM, reason="the table is that of another timm")


def known_fact(name: str) -> Facts:
    found = facts_of(name)
    assert found is not None
    return found


# ---------------------------------------------------------------- the table


@pinned
def test_every_pretrained_network_of_timm_is_there() -> None:
    assert {f"timm/{name}" for name in timm.list_pretrained()} == {n for n in NETWORKS if n.startswith("timm/")}
    assert {n for n in NETWORKS if n.startswith("bundled/")} == set(BUNDLED)


@pytest.mark.parametrize(
    ("name", "parameters", "gmacs", "size", "features"),
    [  # from the papers, without the classifier
        ("timm/resnet50.a1_in1k", 23.5e6, 4.1, 224, 2048),
        ("timm/resnet18.a1_in1k", 11.2e6, 1.8, 224, 512),
        ("timm/vgg16.tv_in1k", 134.3e6, 15.5, 224, 4096),
        ("keras/VGG16", 14.7e6, 15.3, 224, 512),
        ("timm/vit_base_patch16_224.augreg_in21k_ft_in1k", 85.8e6, 17.6, 224, 768),
        ("timm/vit_base_patch16_384.augreg_in21k_ft_in1k", 86.1e6, 55.5, 384, 768),
        ("timm/convnext_tiny.fb_in1k", 27.8e6, 4.5, 224, 768),
        ("timm/swin_tiny_patch4_window7_224.ms_in1k", 27.5e6, 4.5, 224, 768),
        ("timm/efficientnet_b0.ra_in1k", 4.0e6, 0.39, 224, 1280),
        ("bundled/efficientnet_lite0", 3.37e6, 0.384, 224, 1280),
        ("timm/vit_base_patch14_dinov2.lvd142m", 86.6e6, 151.7, 518, 768),
    ],
)
def test_known_networks(name: str, parameters: float, gmacs: float, size: int, features: int) -> None:
    facts = known_fact(name)
    assert facts.parameters == pytest.approx(parameters, rel=0.01)
    assert facts.macs / 1e9 == pytest.approx(gmacs, rel=0.02)
    assert (facts.input_size, facts.features) == (size, features)


@pytest.mark.parametrize("name", ["resnet18.a1_in1k", "mobilenetv3_small_050.lamb_in1k", "vgg11.tv_in1k"])
def test_costs_are_those_counted_layer_by_layer(name: str) -> None:
    module = timm.create_model(name, num_classes=0).eval()
    macs = 0

    def count(layer: torch.nn.Module, given: tuple[torch.Tensor, ...], made: torch.Tensor) -> None:
        nonlocal macs
        if isinstance(layer, torch.nn.Conv2d):
            macs += made.numel() * layer.weight[0].numel()
        elif isinstance(layer, torch.nn.Linear):
            macs += made.numel() * layer.in_features

    for layer in module.modules():
        layer.register_forward_hook(count)
    with torch.inference_mode():
        width = module(torch.zeros(1, *module.pretrained_cfg["input_size"])).shape[-1]
    facts = known_fact(f"timm/{name}")
    assert (facts.macs, facts.features) == (macs, width)
    assert facts.parameters == sum(p.numel() for p in module.parameters())


@pinned
def test_what_timm_says_of_a_network_is_what_the_table_says() -> None:
    for name in timm.list_pretrained():
        config, facts = timm.get_pretrained_cfg(name), NETWORKS[f"timm/{name}"]
        assert facts.input_size == config.input_size[-1]
        assert facts.any_size != config.fixed_input_size
        assert facts.hub == (config.hf_hub_id or "")
        if facts.family != "gcvit":  # timm says it at the top of the file, not in the configurations
            assert facts.licence == spdx(config.license)


@pytest.mark.parametrize(
    ("name", "pretraining"),
    [
        ("timm/resnet50.a1_in1k", "in1k"),
        ("timm/vit_base_patch16_224.augreg_in21k_ft_in1k", "in21k→in1k"),
        ("timm/convnext_base.clip_laion2b_augreg_ft_in12k_in1k", "laion2b→in12k→in1k"),
        ("timm/vit_base_patch16_clip_224.openai", "openai-clip"),
        ("timm/vit_base_patch14_dinov2.lvd142m", "lvd142m"),
        ("timm/convnextv2_base.fcmae_ft_in22k_in1k", "fcmae:in1k→in22k→in1k"),
        ("timm/tf_efficientnet_b0.ns_jft_in1k", "jft300m→in1k"),
        ("timm/beit_base_patch16_224.in22k_ft_in22k", "in22k"),
        ("keras/ConvNeXtBase", "in21k→in1k"),
        ("timm/vit_pe_core_base_patch16_224.fb", "unknown"),
    ],
)
def test_what_a_network_learnt_from(name: str, pretraining: str) -> None:
    assert known_fact(name).pretraining == pretraining


def test_accuracy_is_that_at_the_size_that_graftage_gives_it() -> None:
    assert known_fact("timm/resnet50.a1_in1k").top1 == 80.382  # at 224 pixels; at 288 it is 81.24
    assert known_fact("timm/vgg16.tv_in1k").top1 == 71.6
    assert known_fact("bundled/efficientnet_lite0").top1 == 74.846
    assert known_fact("timm/vit_base_patch14_dinov2.lvd142m").top1 is None


def test_every_row_is_sound() -> None:
    for name, facts in NETWORKS.items():
        assert facts.id == name
        assert facts.parameters > 1e4
        assert facts.macs > 1e7
        assert 100 < facts.input_size <= 1024
        assert facts.features >= 0
        assert facts.family
        assert facts.pretraining
        assert facts.top1 is None or 40 < facts.top1 < 91
        assert facts.licence == spdx(facts.licence)


def test_a_variant_of_a_network_has_its_facts() -> None:
    plain = known_fact("timm/resnet50.a1_in1k")
    for suffix in ("@160", "#2", "#3@160", "@160#3"):
        assert facts_of(plain.id + suffix) is plain
    assert facts_of("timm/gcvit_tiny@224") is known_fact("timm/gcvit_tiny.in1k")  # its only weights
    for no in ("timm/resnet50", "timm/gcvit", "timm/resnet50.a1_in1k@", "weights.safetensors", ""):
        assert facts_of(no) is None


def test_it_loads_at_once_and_no_network_library() -> None:
    code = (
        "import sys, time; start = time.process_time()\n"
        "from graftage.features.zoo import known\nn = len(known())\n"
        "print(n, time.process_time() - start, *sys.modules)"
    )
    said = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(3)
    ]
    assert int(said[0][0]) == len(NETWORKS) > 1800
    assert min(float(words[1]) for words in said) < 0.5  # of the processor; 0.04 s on an idle machine
    assert {"torch", "timm", "keras", "openvino", "numpy", "huggingface_hub"} & set(said[0]) == set()


# ---------------------------------------------------------------- licences


@pytest.mark.parametrize(
    ("licence", "use"),
    [
        ("Apache-2.0", True),
        ("apache-2.0", True),
        ("BSD-3-Clause", True),
        ("CC-BY-NC-4.0", False),
        ("cc-by-nc-sa-4.0", False),
        ("apple-amlr", False),
        ("gemma", None),
        ("unknown", None),
        ("", None),
        ("Apache-2.0 AND MIT", True),
        ("Apache-2.0 AND gemma", None),
        ("gemma AND CC-BY-NC-4.0", False),
    ],
)
def test_what_a_licence_allows(licence: str, use: bool | None) -> None:
    assert commercial_use(licence) is use
    assert zoo.use_words(licence) == {True: "yes", False: "no", None: "unknown"}[use]
    assert allowed(licence, "")
    assert allowed(licence, "commercial") is (use is True)
    assert allowed(licence, "commercial-or-unknown") is (use is not False)


def test_a_gate_that_is_none_is_refused() -> None:
    with pytest.raises(OptionError, match=r"got 'comercial' \(did you mean commercial\?\)"):
        allowed("MIT", "comercial")


def test_weights_for_research_alone_are_refused_with_what_there_is_instead() -> None:
    name = "timm/resnet50.fb_swsl_ig1b_ft_in1k"
    with pytest.raises(BackboneError) as refused:
        require_licence(name, None, "commercial")
    said = str(refused.value)
    assert said.startswith(f"backbone {name}: its licence (CC-BY-NC-4.0) allows no use in a product")
    others = alternatives(known_fact(name), "commercial")
    assert 1 <= len(others) <= 3
    assert all(o.id in said and o.family == "resnet" and o.commercial for o in others)
    assert all(0.5 < o.macs / known_fact(name).macs < 2 for o in others)
    with pytest.raises(BackboneError, match=r"CC-BY-NC-4\.0"):  # whoever read it: research alone is research alone
        require_licence(name, None, "commercial-or-unknown")
    require_licence(name, None, "")


def test_a_family_of_research_weights_alone_has_alternatives_of_other_families() -> None:
    facts = known_fact("timm/gcvit_tiny.in1k")
    assert facts.commercial is False
    assert {f.family for f in alternatives(facts, "commercial")}.isdisjoint({"gcvit", ""})


def test_unknown_licences_are_refused_unless_somebody_has_read_them() -> None:
    for name, licence in (
        ("timm/res2net50d.in1k", None),
        ("weights.pth", "unknown"),
        ("timm/mobileone_s0.apple_in1k", None),
    ):
        with pytest.raises(BackboneError, match="give --licence commercial-or-unknown"):
            require_licence(name, licence, "commercial")
        require_licence(name, licence, "commercial-or-unknown")
    require_licence("weights.pth", None, "commercial")  # nothing is known yet: it is asked again with its licence
    require_licence("a+b", "Apache-2.0 AND MIT", "commercial")


def test_the_table_is_believed_before_the_configuration() -> None:
    with pytest.raises(BackboneError, match=r"CC-BY-NC-SA-4\.0"):
        require_licence("timm/gcvit_tiny.in1k", "apache-2.0", "commercial")


# ---------------------------------------------------------------- the prior


def test_the_regression_is_the_least_squares_solution() -> None:
    seen = [f for f in NETWORKS.values() if f.top1 is not None and f.macs > 1e8]
    X = np.array([list(regressors(f).values()) for f in seen])
    y = np.log([100 - f.top1 for f in seen])
    stored = np.array([zoo._prior()["top1"][name] for name in regressors(seen[0])])
    residual = y - X @ stored
    assert np.abs(X.T @ residual).max() / len(seen) < 1e-3  # orthogonal to every regressor
    assert np.sqrt(np.mean((np.exp(X @ stored) - np.exp(y)) ** 2)) < 3.0


def test_expected_accuracy_is_the_measured_one_where_there_is_one() -> None:
    facts = known_fact("timm/resnet50.a1_in1k")
    assert expected_top1(facts) == facts.top1
    blind = replace(facts, top1=None)
    assert expected_top1(blind) == pytest.approx(80, abs=4)
    assert expected_top1(replace(blind, macs=4 * blind.macs)) > expected_top1(blind)
    assert expected_top1(replace(blind, pretraining="in21k→in1k")) > expected_top1(blind)


def test_the_prior_is_a_difference() -> None:
    a, b, c = (
        known_fact(f"timm/{n}") for n in ("resnet18.a1_in1k", "resnet50.a1_in1k", "vit_base_patch14_dinov2.lvd142m")
    )
    ab, bc, ac = prior_gap(a, b), prior_gap(b, c), prior_gap(a, c)
    assert None not in (ab, bc, ac)
    assert ab == pytest.approx(0.5 * (80.382 - 71.488))  # the worse network's error is expected to be larger
    assert prior_gap(b, a) == pytest.approx(-ab)
    assert ac == pytest.approx(ab + bc)
    assert prior_gap(a, a) == 0


def test_our_own_measurements_and_what_is_expected_are_weighed() -> None:
    a, b = known_fact("bundled/efficientnet_lite0"), known_fact("bundled/efficientnet_lite2")
    flowers, signs = Measured("flowers", 300, 75.0, 0.5), Measured("signs", 300, 96.0, 0.2)
    a = replace(a, measured=(flowers, signs, Measured("only a", 300, 10.0, 1.0)))
    b = replace(b, measured=(replace(flowers, score=74.0), replace(signs, score=96.5), replace(signs, n=100)))
    expected = prior_gap(a, replace(b, measured=()))
    assert expected == pytest.approx(0.5 * (expected_top1(b) - expected_top1(a)))
    assert prior_gap(a, b) == pytest.approx((SETS * expected - 1.0 + 0.5) / (SETS + 2))
    assert prior_gap(b, a) == pytest.approx(-prior_gap(a, b))
    without = prior_gap(a, b, without="flowers")  # judged there, it does not know the answer
    assert without == pytest.approx((SETS * expected + 0.5) / (SETS + 1))
    masked = replace(a, pretraining="mae:in1k")  # nothing is expected of it, but what was measured counts
    assert prior_gap(replace(masked, measured=()), b) is None
    assert prior_gap(masked, b) == pytest.approx(-0.25)


def test_our_own_measurements_are_read_from_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"set": "flowers", "n": 300, "score": 75.0, "standard_error": 0.5}
    prior = {**zoo._prior(), "measured": {"bundled/efficientnet_lite0": [found]}}
    monkeypatch.setattr(zoo, "_prior", lambda: prior)
    known.cache_clear()
    try:
        assert known_fact("bundled/efficientnet_lite0").measured == (Measured("flowers", 300, 75.0, 0.5),)
        assert not known_fact("bundled/efficientnet_lite1").measured
    finally:
        known.cache_clear()


def test_of_masked_pictures_alone_nothing_is_expected() -> None:
    other = known_fact("timm/resnet50.a1_in1k")
    for name in ("timm/convnextv2_tiny.fcmae", "timm/vit_base_patch16_224.mae", "timm/qwen3_vit_88m_enc.qwen3_5_0_8b"):
        assert prior_gap(known_fact(name), other) is None
    assert prior_gap(known_fact("timm/convnextv2_tiny.fcmae_ft_in1k"), other) is not None


# ---------------------------------------------------------------- searching


@pytest.mark.parametrize(
    ("wish", "fits"),
    [
        (Wish(text="ResNet50."), lambda f: "resnet50." in f.id.lower()),
        (Wish(family="vgg"), lambda f: f.family == "vgg"),
        (Wish(max_parameters=1e7), lambda f: f.parameters <= 1e7),
        (Wish(max_macs=1e9), lambda f: f.macs <= 1e9),
        (Wish(input_size=192), lambda f: f.input_size == 192 or f.any_size),
        (Wish(pretraining="in21k"), lambda f: "in21k" in f.pretraining),
        (Wish(min_top1=88.0), lambda f: (f.top1 or 0) >= 88),
        (Wish(licence="commercial"), lambda f: f.commercial is True),
        (Wish(licence="commercial-or-unknown"), lambda f: f.commercial is not False),
        (
            Wish(family="vit", max_macs=5e9, min_top1=80.0),
            lambda f: f.family == "vit" and f.macs <= 5e9 and (f.top1 or 0) >= 80,
        ),
        (Wish(), lambda f: bool(f.id)),
    ],
)
def test_what_is_found_is_what_was_wished(wish: Wish, fits: "object") -> None:
    assert callable(fits)
    found = matching(wish)
    assert found == tuple(f for f in NETWORKS.values() if fits(f))
    assert found


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (Wish(text="resnett50"), "near to it: .*timm/resnet50"),
        (Wish(text="timm/vit_basse_patch16_224"), "near to it: .*vit_base_patch16_224"),
        (Wish(text="qqqqq zzz"), "no pretrained network is known whose name holds 'qqqqq zzz'$"),
        (Wish(family="convnet"), "near to it: convnext"),
        (Wish(family="§§"), "there are .*, vgg, "),
        (Wish(pretraining="in2k"), "near to it: .*in22k"),
        (Wish(licence="free"), "licence must be one of commercial, commercial-or-unknown, got 'free'"),
    ],
)
def test_what_nothing_fits_is_answered_with_what_is_near(wish: Wish, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        matching(wish)


def test_families_are_those_of_the_table() -> None:
    assert set(families()) >= {"resnet", "vit", "convnext", "efficientnet", "swin", "vgg", "mobilenet", "densenet"}
    assert list(families()) == sorted(families())
