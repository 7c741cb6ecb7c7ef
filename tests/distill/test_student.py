"""Students made of their teachers: what is taken is taken as it is, and what is refused names both sides."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biomlm.convert.load import Loaded, load_model
from biomlm.core.errors import MismatchError
from biomlm.distill.config import DistillConfig
from biomlm.distill.student import cut_width, from_teacher, taken_layers
from biomlm.model.config import Activation, EncoderConfig, ModelConfig, Shape
from biomlm.model.encoder import MaskedLM
from biomlm.model.packed import pack
from biomlm.pretrain.data.config import BatchConfig
from biomlm.pretrain.data.dataset import Shards

Make = Callable[..., MaskedLM]


@pytest.fixture(scope="module")
def teacher(teacher_run: Path) -> Loaded:
    return load_model(teacher_run)


@pytest.fixture(scope="module")
def reader(tiny_shards: Path) -> Shards:
    return Shards([tiny_shards], "train")


def config(start_layers: str = "every", start_width: str = "important", **shape: object) -> DistillConfig:
    numbers = {"num_hidden_layers": 2, "hidden_size": 48, "num_attention_heads": 2, **shape}
    return DistillConfig(
        shards="",
        out="",
        teacher="t",
        start="teacher",
        start_layers=start_layers,
        start_width=start_width,  # type: ignore[arg-type]
        model=ModelConfig(**numbers),  # type: ignore[arg-type]
        batch=BatchConfig(max_length=32),
    )


def test_a_student_of_the_teachers_shape_is_the_teacher(teacher: Loaded, reader: Shards) -> None:
    student = from_teacher(teacher, config(pad_vocab_to=64), reader).eval()
    batch = pack([[0, 5, 6, 7, 2], [0, 8, 2]])
    assert student.config.vocab_size == 320
    with torch.no_grad():
        ours, theirs = student(batch), teacher.model(batch)
    torch.testing.assert_close(ours[:, :300], theirs)
    assert (ours[:, 300:] < -9000).all()


@settings(max_examples=25, deadline=None)
@given(
    st.builds(
        dict,
        layer_norm_eps=st.sampled_from([1e-12, 1e-5, 1e-3]),
        type_vocab_size=st.sampled_from([0, 1, 2]),
        initializer_range=st.sampled_from([0.02, 0.2]),
        shape=st.sampled_from(get_args(Shape)),
        activation=st.sampled_from(get_args(Activation)),
        head_activation=st.sampled_from(get_args(Activation)),
        local_window=st.integers(1, 5),
        global_every=st.integers(1, 3),
        rope_thetas=st.tuples(st.sampled_from([160_000.0, 10.0]), st.sampled_from([10_000.0, 7.0])),
        max_positions=st.sampled_from([32, 40]),
    )
)
def test_a_student_of_its_teachers_size_is_its_teacher_bit_for_bit(reader: Shards, fields: dict[str, Any]) -> None:
    torch.manual_seed(0)
    shape = EncoderConfig(
        vocab_size=reader.vocab_size,
        hidden_size=48,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=96,
        **fields,
    )
    teacher = Loaded(MaskedLM(shape).eval(), shape, "native", None, Path("t"), "")
    sizes = {"num_hidden_layers": 4, "intermediate_size": 96, "shape": shape.shape}
    student = from_teacher(teacher, config(**sizes), reader).eval()
    batch = pack([list(range(5, 35)), [0, 8, 2]])
    with torch.no_grad():
        assert torch.equal(student(batch), teacher.model(batch))


@pytest.mark.parametrize(
    ("text", "student", "teacher", "expected"),
    [
        ("every", 3, 6, [1, 3, 5]),
        ("every", 6, 12, [1, 3, 5, 7, 9, 11]),
        ("uniform", 3, 6, [2, 4, 6]),
        ("uniform", 2, 3, [2, 3]),
        ("1:1,2:4,3:6", 3, 6, [1, 4, 6]),
    ],
)
def test_which_layers_are_taken(text: str, student: int, teacher: int, expected: list[int]) -> None:
    assert taken_layers(text, student, teacher, "t") == expected


def test_the_layers_and_embeddings_are_copied(teacher: Loaded, reader: Shards) -> None:
    student = from_teacher(teacher, config("1:2", num_hidden_layers=1), reader)
    theirs = teacher.model.state_dict()
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, theirs[name.replace("layers.0.", "layers.1.")]), name


@pytest.mark.parametrize("how", ["important", "svd"])
def test_neurons_that_do_nothing_are_the_first_to_go(make_model: Make, how: str) -> None:
    """Half the neurons have no output; a student with the other half computes the same."""
    model = make_model(16).eval()
    with torch.no_grad():
        for layer in model.encoder.layers:
            layer.mlp.down.weight[:, ::2] = 0  # type: ignore[union-attr, operator, index]
    small = EncoderConfig(50, 16, 2, 2, 16)
    student = MaskedLM(small).eval()
    student.load_state_dict(cut_width(model.state_dict(), model.config, small, how))
    batch = pack([[0, 5, 6, 7, 2], [0, 8, 2]])
    with torch.no_grad():
        torch.testing.assert_close(student(batch), model(batch))


def test_heads_coordinates_and_scores_of_a_narrower_student(make_model: Make) -> None:
    """One head and half the stream carry large weights: they are what the student consists of."""
    model = make_model(32, heads=4).eval()
    kept = torch.arange(1, 32, 2)
    with torch.no_grad():
        model.encoder.word_embeddings.weight[:, kept] *= 100
        for layer in model.encoder.layers:
            qkv, out = layer.attention.qkv, layer.attention.out  # type: ignore[union-attr]
            for weight in (qkv.weight, layer.mlp.up.weight):  # type: ignore[union-attr]
                weight[:, kept] *= 100  # type: ignore[index, operator]
            for weight in (out.weight, layer.mlp.down.weight):  # type: ignore[union-attr]
                weight[kept] *= 100  # type: ignore[index, operator]
            for head in (1, 3):
                qkv.weight[64 + 8 * head : 72 + 8 * head] *= 10  # type: ignore[index, operator, union-attr]
    small = EncoderConfig(50, 16, 2, 2, 32)
    tensors = cut_width(model.state_dict(), model.config, small, "important")
    theirs = model.state_dict()
    torch.testing.assert_close(
        tensors["encoder.word_embeddings.weight"], theirs["encoder.word_embeddings.weight"][:, kept]
    )
    heads = torch.cat([torch.arange(8, 16), torch.arange(24, 32)])
    name = "encoder.layers.1.attention.qkv.weight"
    torch.testing.assert_close(tensors[name][32:], theirs[name][64 + heads][:, kept])
    torch.testing.assert_close(
        tensors["encoder.layers.0.attention.out.weight"],
        theirs["encoder.layers.0.attention.out.weight"][kept][:, heads],
    )
    torch.testing.assert_close(tensors["head.norm.weight"], torch.ones(16))


def test_narrower_heads_keep_the_size_of_their_scores(make_model: Make) -> None:
    """Half the coordinates of queries and keys are 0 and go: scores over √d stay what they were."""
    model = make_model(32, heads=2).eval()
    with torch.no_grad():
        for layer in model.encoder.layers:
            layer.attention.qkv.weight[:64].view(2, 2, 16, 32)[:, :, 8:] = 0  # type: ignore[union-attr, index, operator]
    small = EncoderConfig(50, 16, 2, 2, 32)
    tensors = cut_width(model.state_dict(), model.config, small, "svd")
    name = "encoder.layers.0.attention.qkv.weight"
    _, vectors = torch.linalg.eigh(
        model.encoder.word_embeddings.weight.T @ model.encoder.word_embeddings.weight
    )  # rising
    r_hh = vectors.flip(1)[:, :16].T
    q, k = (x @ r_hh.T for x in model.state_dict()[name][:64].view(2, 2, 16, 32)[:, :, :8])
    ours_q, ours_k = tensors[name][:32].view(2, 2, 8, 16)
    for i in range(2):
        ours, theirs = ours_q[i] @ ours_k[i].T / 8**0.5, q[i] @ k[i].T / 16**0.5
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_rotary_heads_are_cut_out_whole(make_model: Make, reader: Shards, teacher: Loaded) -> None:
    modern = make_model(32, heads=2, shape="modernbert")
    small = EncoderConfig(50, 16, 2, 1, 16, shape="modernbert")
    student = MaskedLM(small)
    student.load_state_dict(cut_width(modern.state_dict(), modern.config, small, "important"))
    loaded = Loaded(modern, modern.config, "native", None, Path("modern"), "")
    with pytest.raises(MismatchError, match="heads are 8 wide, this teacher's 16"):
        from_teacher(loaded, config(shape="modernbert", hidden_size=16), reader)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ({"num_hidden_layers": 3}, "the student has 3 layers, this teacher only 2"),
        ({"hidden_size": 64}, "the student's hidden_size is 64, this teacher's only 48"),
        ({"num_attention_heads": 4}, "the student's num_attention_heads is 4, this teacher's only 2"),
        ({"shape": "bert"}, "the student's shape is bert, this teacher's roberta"),
    ],
)
def test_what_no_teacher_can_give_is_refused(
    shape: dict[str, object], said: str, teacher: Loaded, reader: Shards
) -> None:
    with pytest.raises(MismatchError, match=said):
        from_teacher(teacher, config(**shape), reader)  # type: ignore[arg-type]


def test_a_map_that_leaves_a_layer_empty_is_refused() -> None:
    with pytest.raises(MismatchError, match="gives the student's layer 2 of 2 no layer"):
        taken_layers("1:1", 2, 4, "t")
    with pytest.raises(MismatchError, match="gives the student's layer 1 of 1 2 layers"):
        taken_layers("1:1,1:2", 1, 4, "t")
