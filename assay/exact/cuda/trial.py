"""Whether a way of multiplying gives the right bits on this device, asked before it is measured or used: of a way that no chip has run yet.

Two questions. Small products, around edges and bounds of sums, against the reference. Larger ones, as often as it takes to keep all of a chip's
processors busy for a while, against the same products by ordinary tiles (gemm.cu): a race shows there, if anywhere. A finite
trial proves nothing about other products; each of those has its checksum (check.cu).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from assay.exact import reference
from assay.exact.cuda.device import Device
from assay.exact.cuda.operands import Axis, Operand
from assay.exact.cuda.product import Product, Products
from assay.exact.cuda.tiles import Size, Way, digits, fitting
from assay.exact.inputs import floats

SMALL = ((1, 1, 1), (131, 333, 69), (257, 1100, 262), (40, 4096, 24))
"""m, k, n."""
LARGE = ((2048, 4096, 2048), (4096, 1024, 8192), (3072, 8192, 768))
"""The last has 144 tiles, of which 132 processors make some in parts (cuts.py)."""
TIMES = 5
PARTS = (1, 3)


class _Run:
    """One product whose operands lie on the device."""

    def __init__(self, device: Device, bits: int, a: NDArray[np.float32], b: NDArray[np.float32]) -> None:
        (m, k), n = a.shape, b.shape[1]
        self._device, self._bits, self.size = device, bits, Size(bits, 1, m, n, k)
        one = Axis((1,), (0,))
        self._operands = Operand(one, Axis((m,), (k,)), Axis((k,), (1,))), Operand(one, Axis((n,), (1,)), Axis((k,), (n,)))
        self._inputs = [device.allocate(x.nbytes) for x in (a, b)]
        for buffer, x in zip(self._inputs, (a, b), strict=True):
            device.upload(buffer.address, x)

    def by(self, way: Way, parts: int | None = None) -> bytes | None:
        """The result, or None where its checksum is wrong."""
        device, products = self._device, Products(self._device)
        product = Product(self._bits, *self._operands, way, device.description.processors, parts)
        out, scratch = np.full((self.size.m, self.size.n), np.nan, np.float32), device.allocate(product.scratch)
        held = device.allocate(out.nbytes)
        device.upload(held.address, out)
        for launch in products.launches(product, held.address, self._inputs[0].address, self._inputs[1].address, scratch.address):
            device.launch(launch)
        wrong = np.zeros(1, np.uint64)
        device.download(products.faults.address, wrong)
        device.download(held.address, out)
        return None if wrong[0] else out.tobytes()


def right(device: Device, way: Way, bits: int) -> bool:
    """Raises MemoryError and DeviceError."""
    for seed, (m, k, n) in enumerate(SMALL):
        for kind in ("even", "wide"):
            a, b = floats(2 * seed, (m, k), kind), floats(2 * seed + 1, (k, n), kind)
            run, want = _Run(device, bits, a, b), reference.matmul(a, b, bits).tobytes()
            if any(run.by(way, parts) != want for parts in PARTS):
                return False
    for seed, (m, k, n) in enumerate(LARGE):
        run = _Run(device, bits, floats(seed, (m, k), "even"), floats(seed + 1, (k, n), "even"))
        first = run.by(Way(fitting(digits(bits), 1, m, n, device.description)))
        if first is None or any(run.by(way) != first for _ in range(TIMES)):
            return False
    return True
