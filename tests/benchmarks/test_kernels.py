"""The count of kernels in a compiled program."""

from benchmarks import kernels


def test_fusions_copies_and_library_calls_of_the_main_computation_are_counted():
    program = """HloModule jit_step
%called (p: f32[2]) -> f32[2] {
  ROOT %inner = f32[2]{0} fusion(%p), kind=kLoop
}
ENTRY %main (x: f32[2]) -> f32[2] {
  %x = f32[2]{0} parameter(0)
  %one = (f32[2]{0}, f32[2]{0}) fusion(%x), kind=kInput, calls=%called
  %two = (f32[2]{0}, u8[0]{0}) custom-call(%x), custom_call_target="__cudnn$convForward"
  %three = f32[2]{0} copy(%x)
  ROOT %four = f32[2]{0} fusion(%three), kind=kLoop, calls=%called
}
"""
    assert kernels.count(program) == {'fusion': 2, 'cudnn$convForward': 1, 'copy': 1}
