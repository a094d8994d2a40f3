"""The ways of multiplying on a CUDA device: digits of operands, and the tiles that blocks of threads make."""

from __future__ import annotations

from typing import Literal, NamedTuple

from assay.exact.cuda.device import Description

ROW, LANES = 128, 64
"""As in digits.cuh and pack.cu."""
Kind = Literal["int8", "bf16", "fp8"]
"""What digits are numbers of; fp8 is e4m3."""
Floating = Literal["bf16", "fp8"]
FLOATING: tuple[Floating, ...] = ("bf16", "fp8")
"""Those that are summed in f32 first, as far as the chip does that exactly."""
MOST_HELD = 22
"""The largest power of two up to which such a sum may go (`fold` in gemm.cu)."""


class Digits(NamedTuple):
    """How digits.cuh writes operands of some bits."""

    planes: int
    karatsuba: bool
    run: int
    """Elements of k that one int32 takes."""
    kind: Kind = "int8"
    holds: int = 0
    """Floating: sums of magnitudes are exact up to 2^holds."""

    @property
    def item(self) -> int:
        """Bytes of a digit."""
        return 2 if self.kind == "bf16" else 1

    @property
    def sums(self) -> int:
        return 3 if self.karatsuba else 2 * self.planes - 1

    @property
    def held(self) -> int:
        """Planes of which each is multiplied with each."""
        return 1 if self.karatsuba else self.planes


def digits(bits: int, kind: Kind = "int8", holds: int = MOST_HELD) -> Digits:
    held = 0 if kind == "int8" else holds
    if kind == "fp8":
        return Digits(3, True, 1 << 17, kind, held) if bits <= 8 else Digits(-(-bits // 5), False, 1 << 17, kind, held)
    if bits <= 8:
        return Digits(1, False, 1 << 17, kind, held)
    if bits <= 14:
        return Digits(3, True, 1 << 17, kind, held)
    return Digits(2, False, 1 << 16, kind, held) if bits == 15 else Digits(3, False, 1 << 15, kind, held)


class Layout(NamedTuple):
    """How packed operands lie in memory (digits.cuh)."""

    plain: bool = False
    """As libraries want them."""
    width: int = ROW
    """Bytes of k that lie together."""
    summed: bool = True
    """Whether the plane of A that is the sum of the others (Karatsuba's) lies there, too."""


ROWS, NARROW, PLAIN = Layout(), Layout(width=ROW // 2, summed=False), Layout(plain=True)


class Tile(NamedTuple):
    """What a block of threads makes (tm x tn elements), what a warp of it does (wm x wn), bytes of k in a stage (64 or 128), stages."""

    tm: int
    tn: int
    wm: int
    wn: int
    kw: int
    stages: int

    @property
    def threads(self) -> int:
        return self.tm // self.wm * (self.tn // self.wn) * 32

    @property
    def lanes(self) -> tuple[int, int]:
        """Multiples to which rows and columns are padded."""
        pad = LANES if max(self.tm, self.tn) <= LANES else 2 * LANES
        return pad, pad

    def blocks(self, m: int, n: int) -> int:
        """Blocks of threads of a product."""
        return -(-m // self.tm) * -(-n // self.tn)

    def shared(self, how: Digits) -> int:
        """Bytes of shared memory."""
        return self.stages * how.planes * (self.tm + self.tn) * self.kw

    @property
    def layout(self) -> Layout:
        return ROWS

    def grid(self, tiles: int, processors: int) -> int:
        """Blocks that are launched for so many tiles."""
        return tiles

    @property
    def arch(self) -> str:
        """For what exactly it has to be compiled."""
        return ""

    @property
    def files(self) -> tuple[str, ...]:
        return ("digits.cuh", "tensor.cuh", "gemm.cu")

    def defined(self) -> str:
        return "".join(f"#define {name.upper()} {value}\n" for name, value in self._asdict().items())

    def __str__(self) -> str:
        return "x".join(map(str, self))


class Group(NamedTuple):
    """A tile of wgmma.cu: what a block makes, slots of its ring, tiles of a cluster (cm x cn). Or of persistent.cu, whose blocks make several."""

    tm: int
    tn: int
    slots: int
    cm: int
    cn: int
    persistent: bool = False

    @property
    def kw(self) -> int:
        """Bytes of k that `run` counts in."""
        return ROW

    @property
    def threads(self) -> int:
        return 128 * (self.tm // 64 + 1)

    @property
    def lanes(self) -> tuple[int, int]:
        return self.tm * self.cm, self.tn * self.cn

    def blocks(self, m: int, n: int) -> int:
        return -(-m // (self.tm * self.cm)) * -(-n // (self.tn * self.cn)) * self.cm * self.cn

    @property
    def layout(self) -> Layout:
        return NARROW if self.persistent else ROWS

    def grid(self, tiles: int, processors: int) -> int:
        """Blocks that are launched for so many tiles: with blocks that stay, as many as run at a time. Larger clusters do not fill a chip evenly, so
        they make a few tiles each, and the hardware gives out what is left."""
        size = self.cm * self.cn
        if not self.persistent:
            return tiles
        at_once = processors // size if size <= 2 else -(-tiles // size // STAY)
        return min(max(1, at_once), tiles // size) * size

    def shared(self, how: Digits) -> int:
        """With what may be lost in front of the ring, two barriers for each slot, and the tile's place (where blocks stay several)."""
        if self.persistent:
            return 1024 + self.slots * ((2 * self.tm + how.planes * self.tn) * ROW // 2 + 16) + (self.slots // 2 + 3) * (32 + 4 * (self.tm + self.tn))
        return 1024 + self.slots * (how.held * (self.tm + self.tn) * ROW + 16) + 32

    @property
    def arch(self) -> str:
        return "sm_90a"

    @property
    def files(self) -> tuple[str, ...]:
        return ("digits.cuh", "hopper.cuh", "tiles.cuh", "persistent.cu" if self.persistent else "wgmma.cu")

    def defined(self) -> str:
        """With the operands of an instruction that has tn / 2 registers."""
        count = self.tn // 2
        places = ", ".join(f"%{i}" for i in range(count))
        operands_ = ", ".join(f'"+r"(d[{i}])' for i in range(count))
        text = "".join(f"#define {name.upper()} {int(value)}\n" for name, value in self._asdict().items())
        text += f'#define D_PLACES "{places}"\n#define D_OPERANDS {operands_}\n#define DESCRIPTORS "%{count}, %{count + 1}"\n'
        return f'{text}#define FRAGMENT "{{%{count}, %{count + 1}, %{count + 2}, %{count + 3}}}, %{count + 4}"\n'

    def __str__(self) -> str:
        return ("persistent " if self.persistent else "wgmma ") + "x".join(map(str, self[:5]))


class Way(NamedTuple):
    """How to multiply; without a tile by the library."""

    tile: Tile | Group | None
    kind: Kind = "int8"
    holds: int = MOST_HELD
    """As in Digits."""

    def digits(self, bits: int) -> Digits:
        return digits(bits, self.kind, self.holds)

    @property
    def layout(self) -> Layout:
        return PLAIN if self.tile is None else self.tile.layout

    def __str__(self) -> str:
        return "library" if self.tile is None else f"{self.kind} {self.tile}"


class Size(NamedTuple):
    bits: int
    products: int
    m: int
    n: int
    k: int

    def __str__(self) -> str:
        return f"b={self.bits} {self.products}x{self.m}x{self.n}x{self.k}"


TILES: dict[int, tuple[Tile, ...]] = {
    1: (
        Tile(128, 128, 64, 64, 128, 3), Tile(128, 64, 64, 32, 128, 3), Tile(64, 64, 32, 32, 128, 4), Tile(32, 32, 16, 16, 128, 4),
        Tile(16, 16, 16, 16, 128, 4),
    ),
    3: (
        Tile(128, 128, 64, 32, 64, 4), Tile(128, 128, 64, 32, 64, 3), Tile(128, 128, 64, 32, 64, 2), Tile(128, 64, 64, 32, 64, 2),
        Tile(64, 64, 32, 32, 64, 3), Tile(32, 32, 16, 16, 64, 4), Tile(16, 16, 16, 16, 64, 4),
    ),
    5: (Tile(128, 64, 32, 32, 64, 3), Tile(64, 64, 32, 32, 64, 3), Tile(32, 32, 16, 16, 64, 4), Tile(16, 16, 16, 16, 64, 4)),
}  # fmt: skip
"""Number of sums -> tiles to choose from, large ones first: accumulators are at most 192 registers a thread."""
BF16_TILES: dict[int, tuple[Tile, ...]] = {
    1: (Tile(128, 128, 64, 32, 64, 3), Tile(128, 64, 64, 32, 64, 3), Tile(64, 64, 32, 32, 64, 4), Tile(32, 32, 16, 16, 64, 4)),
    3: (Tile(128, 64, 32, 32, 64, 2), Tile(64, 64, 32, 32, 64, 3), Tile(32, 32, 16, 16, 64, 4)),
    5: (Tile(64, 64, 32, 16, 64, 3), Tile(32, 32, 16, 16, 64, 4)),
}
"""The same for bf16, whose sums are kept twice: in f32, and in int32."""
FP8_TILES: dict[int, tuple[Tile, ...]] = {
    3: (Tile(64, 64, 32, 16, 64, 3), Tile(32, 32, 16, 16, 64, 4)),
    5: (Tile(64, 64, 32, 16, 64, 3), Tile(32, 32, 16, 16, 64, 4)),
    7: (Tile(64, 32, 16, 16, 64, 3), Tile(32, 32, 16, 16, 64, 3)),
    9: (Tile(64, 32, 16, 16, 64, 3), Tile(32, 32, 16, 16, 64, 3)),
}
"""The same for fp8. Those of 7 and 9 sums have more than 255 registers a thread: up to 240 bytes go to local memory, by NVRTC's assembler."""
ALL_TILES: dict[Kind, dict[int, tuple[Tile, ...]]] = {"int8": TILES, "bf16": BF16_TILES, "fp8": FP8_TILES}
SHARED = {"sm_80": 163 << 10, "sm_86": 99 << 10, "sm_87": 163 << 10, "sm_89": 99 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "sm_120": 99 << 10}
"""Bytes of shared memory that a block may have (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability")."""
LEAST_SHARED = 99 << 10
BEFORE_FP8 = ("sm_80", "sm_86", "sm_87")
"""Architectures whose tensor cores take no e4m3 (PTX ISA, "mma": sm_89 and later)."""


def takes(arch: str, kind: Kind) -> bool:
    """Whether the tensor cores multiply such numbers at all."""
    return kind != "fp8" or arch not in BEFORE_FP8


def tiles(how: Digits, arch: str) -> list[Tile]:
    """Those that fit the device."""
    if not takes(arch, how.kind):
        return []
    room = SHARED.get(arch, LEAST_SHARED)
    return [t for t in ALL_TILES[how.kind][how.sums] if t.shared(how) <= room]


WIDE = {1: 256, 3: 128, 5: 64}
"""Number of sums -> columns of a Group's tile: sums of 64 rows take at most 192 of a thread's 232 registers."""
CLUSTERS = {True: ((2, 1), (2, 2), (1, 1)), False: ((2, 1),)}
"""With Karatsuba's planes, or without."""
STAYING = ((2, 1), (2, 2))
"""Clusters of persistent.cu, which has Karatsuba's planes alone."""
STAY = 4
"""Tiles that a larger cluster makes."""


def groups(how: Digits, arch: str) -> list[Group]:
    """The tiles of wgmma, for the one architecture that has it; with as many slots as fit."""
    if arch != "sm_90" or how.kind != "int8":
        return []
    tn = WIDE[how.sums]
    out = [Group(128, tn, 0, cm, cn) for cm, cn in CLUSTERS[how.karatsuba]]
    out += [Group(128, tn, 0, cm, cn, True) for cm, cn in STAYING if how.karatsuba]
    return [_filled(group, how, SHARED[arch]) for group in out]


def _filled(group: Group, how: Digits, room: int) -> Group:
    none = group.shared(how)
    return group._replace(slots=(room - none) // (group._replace(slots=1).shared(how) - none))


def fitting(how: Digits, products: int, m: int, n: int, description: Description) -> Tile:
    """The tile to take where nothing was measured: little of it beyond the edges, all processors busy, and large, since a tile reads
    1/tm + 1/tn as much as it multiplies."""

    def cost(t: Tile) -> float:
        waves = -(-products * -(-m // t.tm) * -(-n // t.tn) // description.processors)
        return waves * t.tm * t.tn * (1 + 32 / t.tm + 32 / t.tn)

    return min(tiles(how, description.arch), key=cost)
