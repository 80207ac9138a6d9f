from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from ssa_jax.experiment.hlo import Program

# What a TPU's programs look like: 64 channels padded to 128 lanes, buffers in vector memory (S(1)),
# copies into it, a loop whose body takes one slice of `all` and replaces one of `out`.
TEXT = (Path(__file__).parent / "tpu_program.txt").read_text()
SLICE = 8 * 128 * 2  # bytes of a slice of x


def test_traffic_counts_main_memory_padding_slices_and_loops():
    assert Program(TEXT).traffic() == {
        "jit(step)/norm/psum": 3 * 8 * 128 * 4,  # y, read by the copy with its padding; no more
        "jit(step)/scan/read": 7 * SLICE,  # into vector memory
        "jit(step)/scan/write": 7 * SLICE,  # out of it, in place
    }


def test_traffic_of_a_gpus_kernels_libraries_loops_and_copies():
    # A call of cuDNN, a loop whose kernels read one of six slices (parameters not in order) and
    # multiply it, and a copy of an argument that is given away.
    text = (Path(__file__).parent / "gpu_program.txt").read_text()
    image, kernel = 2 * 8 * 8 * 4 * 2, 4 * 3 * 3 * 4 * 2
    part = 16 * 8
    assert Program(text).traffic() == {
        "jit(step)/jvp(SSANet)/encoder/stem/conv_general_dilated": 2 * image + kernel,
        "jit(step)/while/body/take": 6 * (4 * part + 4 * 8 + 4 + 2 * part),
        "jit(step)/while/body/dot_general": 6 * (2 * part + 2 * 8 * 4 + 4 * 16 * 4),
        "jit(step)/add": 2 * 4 * 6 * part,
    }
    assert Program(text).started() == 1 + 6 * 2 + 1


def test_collectives_have_their_bytes():
    size = 3 * 8 * 128 * 4
    assert Program(TEXT).collectives() == [("all-reduce", size, 0, "jit(step)/norm/psum")]


@pytest.mark.parametrize(
    ("groups", "size"), [("{{0,1},{2,3}}", 2), ("[4,8]<=[32]", 8), ("[1,4]<=[4]", 0), ("{}", 0)]
)
def test_groups_of_a_collective(groups, size):
    (found,) = Program(TEXT.replace("{{0,1}}", groups)).collectives()
    assert found.group == size


def test_collectives_in_a_loop_count_each_time():
    line = "  %r = f32[8,128]{1,0:T(8,128)} all-reduce(%slice), to_apply=%add\n  %written ="
    found = Program(TEXT.replace("  %written =", line, 1)).collectives()
    assert [item.size for item in found].count(8 * 128 * 4) == 7


def test_traffic_of_a_compiled_matmul_and_of_one_in_a_loop():
    a, b = jnp.ones((96, 64)), jnp.ones((64, 64))
    once = jax.jit(lambda a, b: a @ b).lower(a, b).compile()
    size = 4 * (96 * 64 + 64 * 64 + 96 * 64)
    assert sum(Program(once.as_text()).traffic().values()) == size

    def looped(a, b):
        return jax.lax.scan(lambda x, _: (x @ b, None), a, length=5)[0]

    many = Program(jax.jit(looped).lower(a, b).compile().as_text()).traffic()
    dots = sum(size for scope, size in many.items() if "dot_general" in scope)
    assert 5 * size <= dots <= 5 * (size + 2 * 4 * 96 * 64)  # XLA may copy x in each turn


def test_other_texts_are_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        Program("HloModule x\n")
