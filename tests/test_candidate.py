import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaedge.candidate import FAMILY, LAYER_FIELDS, BlockSpec, Candidate, LayerSpec, Mix, QuantScheme, expand_family
from qaedge.errors import UsageError

numbers = st.integers(1, 999)


@st.composite
def layers(draw):
    kind = draw(st.sampled_from(sorted(LAYER_FIELDS)))
    if kind == "own":
        return LayerSpec("own", digest=draw(st.text("0123456789abcdef", min_size=6, max_size=64)))
    return LayerSpec(kind, **{field: draw(numbers) for _, field in LAYER_FIELDS[kind]})


blocks = st.lists(layers(), min_size=1, max_size=6).map(lambda made: BlockSpec(tuple(made)))


@st.composite
def mixes(draw):
    base = draw(st.integers(2, 7))
    more = st.just(0) | st.integers(base + 1, 8)
    kept = Mix(base, draw(more), draw(more), draw(st.integers(0, 12)))
    listed = Mix(layers=tuple(draw(st.lists(st.integers(2, 8), min_size=2, max_size=14))))
    mix = draw(st.sampled_from([kept, listed]))
    return QuantScheme(mix.widest, draw(widths), None if mix == Mix(base) else mix)


widths = st.sampled_from([8, 16])
schemes = st.just(QuantScheme(32, 32)) | st.builds(QuantScheme, st.integers(2, 8), widths) | mixes()


@given(layers())
def test_a_layer_prints_and_parses(layer):
    assert LayerSpec.parse(str(layer)) == layer


@given(blocks, st.integers(1, 5))
def test_a_block_prints_and_parses(block, times):
    repeated = BlockSpec(block.layers * times)
    assert BlockSpec.parse(str(repeated)) == repeated


@given(schemes)
def test_a_scheme_prints_and_parses(scheme):
    assert QuantScheme.parse(str(scheme)) == scheme


@given(blocks, schemes, st.tuples(numbers, numbers, numbers))
def test_a_candidate_survives_json_and_keeps_its_key(block, scheme, shape):
    candidate = Candidate(block, scheme, shape)
    again = msgspec.json.decode(msgspec.json.encode(candidate), type=Candidate)
    assert again == candidate
    assert again.key == candidate.key


def test_texts_are_the_documented_ones():
    strided = LayerSpec("ir", kernel=3, stride=2, expansion=6, channels=32)
    plain = msgspec.structs.replace(strided, stride=1)
    block = BlockSpec((strided, plain, plain))
    assert str(block) == "ir_k3_s2_e6_c32+r2_ir_k3_s1_e6_c32"
    assert str(LayerSpec("ir", kernel=5, channels=8, dilation=2)) == "ir_k5_s1_e1_c8_d2"
    assert Candidate(block, QuantScheme(7, 8), (24, 45, 60)).key == f"{block}@w7a8@24x45x60"
    assert str(QuantScheme(32, 32)) == "fp32"
    assert BlockSpec((LayerSpec("own", digest="ab12cd"),)).is_own
    assert not block.is_own


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ir",
        "ir_",
        "ir_k3",
        "ir_k3_s1_e6_c32_x1",
        "ir_k3_k3_s1_e6_c32",
        "ir_k\u00b2_s1_e6_c32",
        "ir_k0_s1_e6_c32",
        "ir_k-3_s1_e6_c32",
        "ir_k99999999999_s1_e6_c32",
        "mystery_k3",
        "own_",
        "own_xyz",
        "logits_c32+",
    ],
)
def test_what_is_not_a_block_is_refused(text):
    with pytest.raises(UsageError, match="is not a layer"):
        BlockSpec.parse(text)


@pytest.mark.parametrize("text", ["r0_logits_c3", "r1000000000_logits_c3"])
def test_a_block_repeats_a_layer_a_sane_number_of_times(text):
    with pytest.raises(UsageError, match="From 1 to 1000"):
        BlockSpec.parse(text)


def test_texts_of_schemes_are_the_documented_ones():
    for text, weights in {"w8a8": 8, "w7a8": 7, "w4dw8a8": 8, "w2dw4a8": 4, "w4s2a8": 8, "w4.2a8": 4}.items():
        scheme = QuantScheme.parse(text)
        assert str(scheme) == text and scheme.weight_bits == weights
        assert scheme.activation_bits == 8
        wide = QuantScheme.parse(f"{text.removesuffix('a8')}a16")
        assert wide == msgspec.structs.replace(scheme, activation_bits=16) and str(wide).endswith("a16")
    assert QuantScheme.parse("w4dw8fl8s1a8").mix == Mix(4, 8, 8, 1)
    assert msgspec.json.encode(QuantScheme(8, 8)) == b'{"weight_bits":8,"activation_bits":8}', "hashes of spaces hold"
    assert [QuantScheme.parse(t).fewest_bits for t in ("w8a8", "w4dw8a8", "w8.2.4a8")] == [8, 4, 2]


def test_a_family_stands_for_its_schemes():
    family = expand_family("w4*")
    assert len(family) == len(FAMILY) and family[0] == "w4a8"
    assert [str(QuantScheme.parse(text)) for text in family] == list(family)
    assert expand_family("w8a8") == ("w8a8",) and expand_family("w8*") == ("w8*",)


@given(mixes(), st.lists(st.booleans(), min_size=1, max_size=14), st.randoms())
def test_bits_of_layers_are_among_those_of_the_scheme(scheme, depthwise, random):
    costs = [random.random() for _ in depthwise]
    if scheme.mix is not None and len(scheme.mix.layers) not in (0, len(depthwise)):
        with pytest.raises(UsageError, match=f"the block has {len(depthwise)} with weights"):
            scheme.layer_bits(depthwise, costs)
        return
    bits = scheme.layer_bits(depthwise, costs)
    assert len(bits) == len(depthwise) and all(scheme.fewest_bits <= b <= scheme.weight_bits for b in bits)
    if scheme.mix is not None and scheme.mix.sensitive:
        assert sum(b == 8 for b in bits) >= min(len(bits), scheme.mix.sensitive)


def test_the_most_sensitive_layers_are_those_not_kept_otherwise():
    scheme = QuantScheme.parse("w4dw8s1a8")
    assert scheme.layer_bits([False, True, False], [0.1, 0.9, 0.2]) == (4, 8, 8)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("conv_k3_s2_c8+ir_k3_s1_e1_c8", 3),
        ("r2_ir_k3_s1_e6_c8", 6),
        ("context_k1_c8+logits_c5", 3),
        ("poolcontext_k3_c8+logits_c5", 6),
        ("own_abcdef", None),
    ],
)
def test_convolutions_are_counted(text, count):
    assert BlockSpec.parse(text).convolutions == count


@pytest.mark.parametrize(
    "text",
    [
        "",
        "w8",
        "w9a8",
        "int8",
        "W8A8",
        "fp16",
        "w4dwa16",
        "w8dw8a8",
        "w8dw4a8",
        "w4dwa8",
        "w4fl8dw8a8",
        "w4s0a8",
        "w4.a8",
        "w.4a8",
        "w4.9a8",
        "w4.4dw8a8",
        "w8s1a8",
        "w4*",
        "w1a8",
        "w48a8",
    ],
)
def test_what_is_not_a_scheme_is_refused(text):
    with pytest.raises(UsageError, match=r"not a quantization scheme\.\nKnown: fp32, w8a8"):
        QuantScheme.parse(text)


@pytest.mark.parametrize(("text", "advice"), [("w8a12", "w8a8"), ("w4a4", "w4a8"), ("w4dw8s1a32", "w4dw8s1a8")])
def test_activations_that_no_runtime_holds_are_told(text, advice):
    with pytest.raises(UsageError, match=f"has activations of .* bits, which no runtime here holds[^$]*: {advice}"):
        QuantScheme.parse(text)


def test_a_kind_without_a_text_cannot_be_made():
    with pytest.raises(ValueError, match=r"one of conv, ir, .* got `dense`"):
        LayerSpec("dense")
