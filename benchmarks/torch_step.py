r"""Images/s of the train step of configs/base.py in PyTorch: eager, compiled, or in bfloat16.

    python -m benchmarks.torch_step --size=128 --width=32 --batch=8 --compile
    STEP_PEER='python -m benchmarks.torch_step --compile' benchmarks/run.sh

The networks are those that tests/parity/ holds against ours with the same weights: pix2pix's U-Net
and PatchGAN, one generator update and two discriminator updates, without moving average. Weights
and images are random. Prints the median over --steps and the peak memory of the process as
JSON. Needs PyTorch (the extra `[parity]`); --compile needs a C++ compiler on a CPU.
"""

import importlib
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from benchmarks import command

_SIZE = flags.DEFINE_integer('size', 128, 'Side of an image, px; a power of two.', lower_bound=16)
_WIDTH = flags.DEFINE_integer('width', 32, 'Features of the first layers.', lower_bound=1)
_BATCH = flags.DEFINE_integer('batch', 8, 'Images in a batch.', lower_bound=1)
_STEPS = flags.DEFINE_integer('steps', 8, 'Measured steps.', lower_bound=1)
_WARM_UP = flags.DEFINE_integer('warm_up', 4, 'Steps before the measured ones.', lower_bound=0)
_DEVICE = flags.DEFINE_string('device', 'cpu', 'Device of PyTorch.')
_COMPILE = flags.DEFINE_bool('compile', False, 'Compile the networks with Inductor.')
_BF16 = flags.DEFINE_bool('bf16', False, 'Compute in bfloat16 (autocast).')
_CHANNELS_LAST = flags.DEFINE_bool('channels_last', False, 'NHWC in memory instead of NCHW.')
L1, REAL = 100.0, 0.9  # weight of L1, and the label of real images


def main(argv: Sequence[str]) -> None:
    """Measures the step and prints its rate."""
    del argv
    import torch

    step = make_step()
    seconds = []
    for number in range(_WARM_UP.value + _STEPS.value):
        began = time.perf_counter()
        step()
        if _DEVICE.value != 'cpu':
            torch.cuda.synchronize()
        if number >= _WARM_UP.value:
            seconds.append(time.perf_counter() - began)
    options = [flag.name for flag in (_COMPILE, _BF16, _CHANNELS_LAST) if flag.value]
    line = {
        'name': ' '.join(['torch_step', *options]),
        **{'size': _SIZE.value, 'width': _WIDTH.value, 'batch': _BATCH.value},
        'images_per_second': _BATCH.value / statistics.median(seconds),
        'peak_bytes': command.peak_bytes(),
        **command.describe(),
    }
    print(json.dumps({**line, 'torch': torch.__version__}))


def make_step() -> Callable[[], None]:
    """One generator update and two discriminator updates on one random batch."""
    import torch

    generator, discriminator = _networks()
    condition, target = (
        _placed(torch.rand(_BATCH.value, channels, _SIZE.value, _SIZE.value) * 2 - 1)
        for channels in (1, 2)
    )
    optimizers = [
        torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999))
        for network in (generator, discriminator)
    ]
    cast = torch.autocast(_DEVICE.value, torch.bfloat16, enabled=_BF16.value)

    def bce(logits: Any, label: float) -> Any:
        logits = logits.float()
        return torch.nn.functional.binary_cross_entropy_with_logits(
            logits, torch.full_like(logits, label)
        )

    def update(optimizer: Any, loss: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def step() -> None:
        discriminator.requires_grad_(False)
        with cast:
            fake = generator(condition)
            judged = discriminator(torch.cat([condition, fake], 1))
        update(optimizers[0], bce(judged, 1.0) + L1 * (fake.float() - target).abs().mean())
        discriminator.requires_grad_(True)
        fake = fake.detach()
        for _ in range(2):
            with cast:
                real_logits, fake_logits = (
                    discriminator(torch.cat([condition, images], 1)) for images in (target, fake)
                )
            update(optimizers[1], 0.5 * (bce(real_logits, REAL) + bce(fake_logits, 0.0)))

    return step


def _networks() -> tuple[Any, Any]:
    import torch

    twins: Any = importlib.import_module('tests.parity.test_pix2pix')
    levels = _SIZE.value.bit_length() - 1  # down to 1x1
    widths = [_WIDTH.value * min(2**level, 8) for level in range(levels)]
    networks = _placed(twins.UNetTwin(widths)), _placed(twins.PatchTwin(_WIDTH.value))
    if _COMPILE.value:
        return torch.compile(networks[0]), torch.compile(networks[1])
    return networks


def _placed(value: Any) -> Any:
    """A network or images, on the device and in the layout of the flags."""
    import torch

    layout = torch.channels_last if _CHANNELS_LAST.value else torch.contiguous_format
    return value.to(_DEVICE.value).to(memory_format=layout)


if __name__ == '__main__':
    command.start(main)
