"""What benchmarks/scaling.py reads off a program; and a training step communicates what it must, and little more."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from collectives import Traffic, collectives_in, num_bytes, traffic
from scaling import Setting, communication

PROGRAM = """HloModule jit_step, is_scheduled=true, num_partitions=8

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%wrapped (p: f32[8,4]) -> f32[1,4] {
  %p = f32[8,4]{1,0} parameter(0)
  ROOT %rs = f32[1,4]{1,0} reduce-scatter(%p), dimensions={0}, to_apply=%add
}

ENTRY %main (a: f32[2,16], b: bf16[100], c: f32[3,3,8,8], d: f32[]) -> f32[] {
  %a = f32[2,16]{1,0:T(8,128)} parameter(0), metadata={op_name="state.batch_stats"}
  %b = bf16[100]{0} parameter(1)
  %c = f32[3,3,8,8]{3,2,1,0} fusion(%b), kind=kLoop, metadata={op_name="jit(f)/transpose(jvp(ResNet))/conv1/mul"}
  %d = f32[] constant(0)
  %ar = f32[2,16]{1,0} all-reduce(%a), to_apply=%add, metadata={op_name="jit(f)/jvp(ResNet)/bn1/psum"}
  %late = f32[2,16]{1,0} all-reduce(%ar), to_apply=%add, metadata={op_name="jit(f)/transpose(jvp(ResNet))/bn1/psum"}
  %start = TUPLE all-reduce-start(%c, %a, /*index=2*/%d, %b), to_apply=%add, metadata={op_name="jit(f)/(psum:…/psum)"}
  %done = TUPLE all-reduce-done(%start)
  %g0 = f32[3,3,8,8]{3,2,1,0} get-tuple-element(%done), index=0, metadata={op_name="jit(f)/psum"}
  %g1 = f32[2,16]{1,0} get-tuple-element(%done), index=1, metadata={op_name="jit(f)/psum"}
  %g2 = f32[] get-tuple-element(%done), index=2, metadata={op_name="jit(f)/psum"}
  %g3 = bf16[100]{0} get-tuple-element(%done), index=3, metadata={op_name="jit(f)/transpose(jvp(ResNet))/bn2/psum"}
  %as = ((f32[8,4]{1,0}), f32[1,4]{1,0}) async-start(%x), calls=%wrapped
  %ad = f32[1,4]{1,0} async-done(%as), calls=%wrapped
  %cp = (u8[7]{0}, u8[7]{0}, u32[], u32[]) collective-permute-start(%e), source_target_pairs={{0,1}}
  %cpd = u8[7]{0} collective-permute-done(%cp)
  %e = u8[7]{0} parameter(2)
  ROOT %out = f32[] add(%g2, %g2)
}
""".replace("TUPLE", "(f32[3,3,8,8]{3,2,1,0}, f32[2,16]{1,0}, /*index=2*/f32[], bf16[100]{0})")


def test_collectives_of_a_known_program():
    found = collectives_in(PROGRAM)
    summary = [(each.opcode, sum(operand.num_bytes for operand in each.operands)) for each in found]
    assert summary == [
        ("reduce-scatter", 128),
        ("all-reduce", 128),
        ("all-reduce", 128),
        ("all-reduce", 2304 + 128 + 4 + 200),
        ("collective-permute", 7),
    ]
    reduced = [each for each in found if each.opcode == "all-reduce"]
    assert traffic(reduced) == Traffic(gradients=2304, forward=128, backward=128 + 200, metrics=4, other=128)


@pytest.mark.parametrize(
    ("shape", "size"),
    [("f32[]", 4), ("(bf16[3]{0}, pred[5])", 11), ("s4[3]", 2), ("f8e4m3fn[<=6]", 6), ("token[]", 0), ("c64[2,2]", 32)],
)
def test_sizes(shape, size):
    assert num_bytes(shape) == size


def tiny(**changes) -> Setting:
    return Setting("resnet18", 8, width=4, image_size=32)._replace(**changes)


NUM_CHANNELS = 4 * 5 + 8 * 5 + 16 * 5 + 32 * 5  # Of all BatchNorm layers of a ResNet18 of width 4.
STATISTICS = 2 * 4 * NUM_CHANNELS  # Two numbers a channel.
SHARED = 4 * (8 + 16 + 32)  # The gradient of a shortcut's bias is its neighbour's: XLA sends it once.


def test_a_step_sends_its_gradients_once_and_the_statistics_twice():
    found = communication(tiny())
    # Of 20 layers, 3 are a shortcut's, which go along with their neighbours.
    assert found.collectives == f"{1 + 2 * (20 - 3)} all-reduce"
    assert found.trainable - SHARED <= found.traffic.gradients <= found.trainable
    assert (found.traffic.forward, found.traffic.backward, found.traffic.metrics) == (STATISTICS, STATISTICS, 2 * 4)
    assert found.traffic.other <= STATISTICS


def test_without_synchronised_statistics_one_all_reduce_is_all():
    found = communication(tiny(sync_bn=False, freeze="layer3"))
    assert found.collectives == "1 all-reduce"
    assert (found.traffic.forward, found.traffic.backward) == (0, 0)
    assert sum(found.traffic) <= found.trainable + STATISTICS + 2 * 4


@pytest.mark.parametrize("parallel", ["jit", "pmap"])
def test_what_is_frozen_sends_nothing(parallel):
    found = communication(tiny(freeze="backbone", parallel=parallel))
    assert found.trainable == 4 * (32 * 2 + 2)
    assert found.traffic._replace(other=0) == Traffic(gradients=found.trainable, metrics=2 * 4)
