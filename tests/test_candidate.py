import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaedge.candidate import LAYER_FIELDS, BlockSpec, Candidate, LayerSpec, QuantScheme
from qaedge.errors import UsageError

numbers = st.integers(1, 999)


@st.composite
def layers(draw):
    kind = draw(st.sampled_from(sorted(LAYER_FIELDS)))
    if kind == "own":
        return LayerSpec("own", digest=draw(st.text("0123456789abcdef", min_size=6, max_size=64)))
    return LayerSpec(kind, **{field: draw(numbers) for _, field in LAYER_FIELDS[kind]})


blocks = st.lists(layers(), min_size=1, max_size=6).map(lambda made: BlockSpec(tuple(made)))
schemes = st.just(QuantScheme(32, 32)) | st.builds(QuantScheme, st.integers(2, 8), st.sampled_from([8, 16]))


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


@pytest.mark.parametrize("text", ["", "w8", "w9a8", "w8a4", "int8", "W8A8", "fp16"])
def test_what_is_not_a_scheme_is_refused(text):
    with pytest.raises(UsageError, match=r"not a quantization scheme\.\nKnown: fp32, w8a8"):
        QuantScheme.parse(text)


def test_a_kind_without_a_text_cannot_be_made():
    with pytest.raises(ValueError, match=r"one of conv, ir, .* got `dense`"):
        LayerSpec("dense")
