import msgspec
import pytest
from synthetic import make_space

from qaedge.borders import borders
from qaedge.candidate import BlockSpec
from qaedge.errors import InvalidFile, MissingFile, QaedgeError, UsageError
from qaedge.space import AXES, ENUMERATORS, Axes, SearchSpace, SpaceFile

TEXT = """
name = "two"
[[block]]
name = "stage1"
depths = [1, 2]
kernels = [3, 5]
expansions = [3, 6]
schemes = ["w8a8", "w7a8"]
[[block]]
name = "head"
kind = "context"
kernels = [1, 3]
widths = [64]
pooling = [true, false]
dilation = 6
"""
SHAPES = {"stage1": ((16, 32, 32), (24, 16, 16)), "head": ((24, 16, 16), (11, 16, 16))}
OWN = {"stage1": "a" * 12, "head": "b" * 12}


def write(tmp_path, text):
    path = tmp_path / "space.toml"
    path.write_text(text)
    return path


def test_the_product_of_the_axes_is_enumerated_after_the_teachers_own_block(tmp_path):
    space = SpaceFile.read(write(tmp_path, TEXT)).resolve(SHAPES, OWN, "c" * 64)
    stage, head = space.blocks
    assert [str(c.spec) for c in stage.candidates[:2]] == ["own_" + "a" * 12] * 2
    assert [str(c.scheme) for c in stage.candidates[:2]] == ["w8a8", "w7a8"]
    assert len(stage.candidates) == 2 * (1 + 2 * 2 * 2)
    assert {str(c.spec) for c in stage.candidates[2:]} == {
        text
        for kernel in (3, 5)
        for e in (3, 6)
        for text in (
            f"ir_k{kernel}_s2_e{e}_c24",
            f"ir_k{kernel}_s2_e{e}_c24+ir_k{kernel}_s1_e{e}_c24",
        )
    }
    assert [str(c.spec) for c in head.candidates[1:]] == [
        "poolcontext_k1_c64+logits_c11",
        "context_k1_c64+logits_c11",
        "poolcontext_k3_c64_d6+logits_c11",
        "context_k3_c64_d6+logits_c11",
    ]
    assert space.networks == 18 * 5
    for block in space.blocks:
        for candidate in block.candidates:
            assert BlockSpec.parse(str(candidate.spec)) == candidate.spec
            assert candidate.input_shape == block.input_shape


def test_a_resolved_space_survives_its_file(tmp_path):
    space = make_space()
    space.save(tmp_path / "space.json")
    again = SearchSpace.load(tmp_path / "space.json")
    assert again == space
    assert again.hash == space.hash
    assert len(space.hash) == 12


def test_the_hash_changes_with_anything():
    space = make_space()
    assert make_space(candidates=5).hash != space.hash
    assert make_space(teacher="cd" * 32).hash != space.hash
    assert msgspec.structs.replace(space, name="other").hash != space.hash


def test_equal_candidates_are_listed_once():
    space = make_space(blocks=1)
    twice = msgspec.structs.replace(space, blocks=space.blocks * 2)
    assert list(twice.unique()) == list(space.blocks[0].candidates)


def test_an_unknown_block_is_told_with_the_known_ones():
    with pytest.raises(UsageError, match=r"No block 'stage9'\.\nKnown: stage0, stage1, stage2\."):
        make_space().block("stage9")
    assert make_space().block("stage1").name == "stage1"


@pytest.mark.parametrize(
    ("old", "new", "key", "expected", "found"),
    [
        ('name = "two"', 'name = "two"\nspeed = 3', "speed", "a known key (name, block)", "'speed'"),
        (
            "depths = [1, 2]",
            "dephts = [1, 2]",
            "block[0].dephts",
            "a known key (name, kind, depths, kernels, expansions, widths, pooling, first_dilation, dilation, schemes)",
            "'dephts'",
        ),
        (
            "kernels = [1, 3]",
            "kernels = [1, 3]\nexpansions = [6]",
            "block[1].expansions",
            "an axis of the kind 'context' (kernels, widths, pooling, dilation)",
            "'expansions'",
        ),
        (
            "depths = [1, 2]",
            'kind = "stem"\ndilation = 1',
            "block[0].dilation",
            "an axis of the kind 'stem' (depths, kernels, expansions, widths)",
            "'dilation'",
        ),
        ("depths = [1, 2]", "depths = []", "block[0].depths", "at least one number", "none"),
        ("depths = [1, 2]", "depths = [0]", "block[0].depths", "numbers from 1", "0"),
        ("depths = [1, 2]", 'depths = ["1"]', "block[0].depths[0]", "a whole number", "text"),
        ("kernels = [3, 5]", "kernels = [4]", "block[0].kernels", "odd numbers from 1", "4"),
        ('kind = "context"', 'kind = "aspp"', "block[1].kind", "one of inverted_residual, stem, context", "'aspp'"),
        ('["w8a8", "w7a8"]', '["int8"]', "block[0].schemes", "quantization schemes such as w8a8", "'int8'"),
        ('["w8a8", "w7a8"]', '["w8a12"]', "block[0].schemes", "quantization schemes such as w8a8", "'w8a12'"),
        ('["w8a8", "w7a8"]', "[]", "block[0].schemes", "at least one", "none"),
        ('["w8a8", "w7a8"]', '["w8a8", "w8a8"]', "block[0].schemes", "each once", "['w8a8', 'w8a8']"),
        ("pooling = [true, false]", "pooling = []", "block[1].pooling", "at least one", "none"),
        ("dilation = 6", "dilation = 0", "block[1].dilation", "a number from 1", "0"),
        ('name = "head"', 'name = "stage1"', "block[1].name", "each block once", "'stage1'"),
    ],
)
def test_a_wrong_key_is_told_with_file_key_expected_and_found(tmp_path, old, new, key, expected, found):
    assert old in TEXT
    path = write(tmp_path, TEXT.replace(old, new))
    with pytest.raises(InvalidFile) as caught:
        SpaceFile.read(path)
    assert caught.value.message == f"{path}: {key}: expected {expected}, found {found}."


def test_activations_of_16_bits_stand_beside_those_of_8(tmp_path):
    text = TEXT.replace('["w8a8", "w7a8"]', '["w8a8", "w8a16", "w4dw8a16"]')
    space = SpaceFile.read(write(tmp_path, text)).resolve(SHAPES, OWN, "c" * 64)
    stage, head = space.blocks
    assert [str(c.scheme) for c in stage.candidates[:3]] == ["w8a8", "w8a16", "w4dw8a16"]
    assert {str(c.scheme) for c in head.candidates} == {"w8a8"}
    space.save(tmp_path / "space.json")
    again = SearchSpace.load(tmp_path / "space.json")
    assert again == space and again.precisions == (False,)
    assert set(borders(again)) == {"border_a8a16@16x32x32", "border_a16a8@24x16x16"}, (
        "at the start, and before the head"
    )


def test_a_family_of_schemes_is_expanded_and_lists_hold_for_blocks_of_as_many_layers(tmp_path):
    text = TEXT.replace('["w8a8", "w7a8"]', '["w8a8", "w4*", "w8.4.8a8", "w4a8"]')
    space = SpaceFile.read(write(tmp_path, text))
    resolved = space.resolve(
        {axes.name: ((24, 16, 16), (24, 16, 16)) for axes in space.block},
        {axes.name: "abcdef" for axes in space.block},
        "t",
        layers={space.block[0].name: 12},
    )
    found = resolved.blocks[0].candidates
    own = [str(c.scheme) for c in found if c.spec.is_own]
    assert own == ["w8a8", "w4a8", "w4dw8a8", "w4fl8a8", "w4dw8fl8a8", "w4s2a8"]
    listed = [c.spec for c in found if str(c.scheme) == "w8.4.8a8"]
    assert listed and all(len(spec.layers) == 1 for spec in listed)
    assert {len(c.spec.layers) for c in found} > {1}


@pytest.mark.parametrize(
    ("schemes", "own", "said"),
    [
        ('["w8a8", "w8.4a8"]', 3, r"'stage1': w8\.4a8 names 2 layers; the candidates have 3 or 6 with weights"),
        ('["w8.4.8.4a8"]', 3, r"w8\.4\.8\.4a8 names 4 layers; the candidates have 3 or 6"),
        ('["w8.4.8a8"]', 5, "the teacher's own block has no scheme; it has 5 layers with weights"),
    ],
)
def test_lists_of_bits_that_fit_nothing_are_refused(schemes, own, said, tmp_path):
    space = SpaceFile.read(write(tmp_path, TEXT.replace('["w8a8", "w7a8"]', schemes)))
    with pytest.raises(QaedgeError, match=said) as caught:
        space.resolve(SHAPES, OWN, "t", layers={"stage1": own, "head": 3})
    assert "a scheme without a list" in caught.value.hint


def test_float_blocks_beside_integer_blocks_make_no_network(tmp_path):
    space = SpaceFile.read(write(tmp_path, TEXT.replace('["w8a8", "w7a8"]', '["fp32"]')))
    with pytest.raises(QaedgeError, match="no network: stage1 in float alone, head in integers alone") as caught:
        space.resolve(SHAPES, OWN, "t")
    assert "as a whole" in caught.value.hint
    both = SpaceFile.read(write(tmp_path, TEXT.replace('["w8a8", "w7a8"]', '["fp32", "w8a8"]')))
    assert both.resolve(SHAPES, OWN, "t").precisions == (False,)


def test_every_kind_says_which_axes_it_takes():
    fields = set(Axes.__struct_fields__) - {"name", "kind", "schemes"}
    assert AXES.keys() == ENUMERATORS.keys()
    assert all(set(takes) <= fields for takes in AXES.values())
    assert set().union(*AXES.values()) == fields


def test_a_space_without_blocks_is_refused(tmp_path):
    with pytest.raises(InvalidFile, match="block: expected at least one block, found none"):
        SpaceFile.read(write(tmp_path, 'name = "none"\nblock = []'))


def test_a_space_for_other_blocks_is_refused(tmp_path):
    space = SpaceFile.read(write(tmp_path, TEXT))
    with pytest.raises(QaedgeError, match="do not have the same blocks: only in the space file: head"):
        space.resolve({"stage1": SHAPES["stage1"]}, OWN, "c" * 64)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda text: text.replace('"ir"', '"mystery"', 1), r"layers\[0\].*: expected one of conv, ir"),
        (lambda text: text[:-40], "expected a valid file"),
        (lambda _: '{"name":"a","teacher":"b","blocks":[]}', "blocks: expected at least one block, found none"),
        (
            lambda _: (
                '{"name":"a","teacher":"b","blocks":[{"name":"c","input_shape":[1,1,1],'
                '"output_shape":[1,1,1],"candidates":[]}]}'
            ),
            r"blocks\[0\].candidates: expected at least one candidate, found none",
        ),
    ],
)
def test_a_broken_resolved_space_is_told(tmp_path, change, match):
    path = tmp_path / "space.json"
    make_space().save(path)
    path.write_text(change(path.read_text()))
    with pytest.raises(InvalidFile, match=match):
        SearchSpace.load(path)


def test_a_space_not_resolved_yet_names_the_command(tmp_path):
    with pytest.raises(MissingFile, match="Make it with: qaedge space"):
        SearchSpace.load(tmp_path / "space.json")


def test_what_was_distilled_outlives_a_space_that_grows():
    space = make_space(candidates=4)
    assert make_space(candidates=5).origin == space.origin
    assert make_space(teacher="cd" * 32).origin != space.origin
    assert make_space(blocks=2).origin != space.origin
