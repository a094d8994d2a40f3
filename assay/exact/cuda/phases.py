"""The phases of a group of rows (rows.py) as C++: what a thread does with its elements of a row, and how it keeps, reduces and stores them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Protocol

from assay.exact.cuda.groups import REDUCTIONS, Group, Phase, Shape, Value
from assay.exact.cuda.maps import TYPES

SHORT = 7
"""Values of an element in a phase of a long row, up to which four elements at a time fit in the 64 registers that a thread of 1024 has; else two."""


class Left(Protocol):
    """Of rows of which `some` elements are made, counted from `from` on, in C++: what is known of the others, of which there are `left`
    (spans.py)."""

    def of(self, v: Value) -> str:
        """A value that is reduced; empty where it counts for nothing."""
        ...

    def lines(self, group: Group, at: int) -> list[str]:
        """What is made before the elements of a phase."""
        ...


def phases(group: Group, shape: Shape, left: Left | None = None) -> list[str]:
    """Lines of C++ for a row, once what it reads is declared; with `left`, of a part of its elements."""
    return [line for at, phase in enumerate(group.phases) for line in _phase(group, at, phase, shape, left)]


def _phase(group: Group, at: int, phase: Phase, shape: Shape, left: Left | None) -> list[str]:
    """Lines of one phase: values of an element a row, the elements, the ends of reductions."""
    lines = []
    for v in group.values:
        if not v.wide and v.kernel not in REDUCTIONS and v.level == at:
            lines.append(f"const {TYPES[v.dtype]} {v.name} = {v.kernel}({', '.join(o.name for o in v.operands)});")
    lines += [f"if (lane == 0) y{k}[r] = canon({v.name});" for k, v in enumerate(group.writes) if not v.wide and v.level == at]
    lines += left.lines(group, at) if left is not None else []
    end, begin = ("some", "from") if left is not None else ("n", "0u")

    def others(v: Value, counted: Callable[[str], str], none: str) -> str:
        """What a reduction begins with."""
        one = left.of(v) if left is not None else ""
        return f"left ? {counted(one)} : {none}" if one else none

    if not phase.made and not phase.again:
        return lines
    held = group.held() if shape.held else set()

    def of(v: Value) -> str:
        if v in held or (shape.held and v.wide and not v.kernel and not v.near):
            return f"{v.name}[k]"
        return f"{v.name}[i]" if shape.full and v.wide else v.name

    def two(v: Value) -> str:
        return f"{v.name} + 2 * g" if v in held else v.name

    brief: list[str] = []
    loads, body, twos, stays = [], [], [], []
    quotients: list[tuple[int, str]] = []
    """Where in the body what is made of two elements at once comes."""
    for v in phase.made:
        kind = TYPES[v.dtype]
        if shape.held and (v in held or not (v.kernel or v.near)):
            (lines if v in held else brief).append(f"{kind} {v.name}[{shape.held}];")
        elif shape.full:
            brief.append(f"{kind} {v.name}[2];")
        if (v.near or v.there) and shape.full:
            loads.append(f"even(p{v.name}, own, {v.name});" if v.even or v.there else f"both(p{v.name}, 64u * (u32)g, 2u * lane, {v.name});")
        elif v.near or v.there:
            body.append(f"const {kind} {v.name} = p{v.name}[e];")
        elif not v.kernel:
            loads.append(f"{of(v)} = e < {end} ? p{v.name}[e] : ({kind})0;" if shape.held else f"const {kind} {v.name} = p{v.name}[e];")
        else:
            more = f", e, n, {v.bits:#x}u" if v.kernel == "scatter_value" else ""
            if v.whole and shape.full and not v.operands[1].wide:
                lines.append(f"const Divisor d{v.name}_{at} = divisor_of({v.operands[1].name});")
                quotients.append((len(body), f"two_quotients({two(v.operands[0])}, d{v.name}_{at}, {two(v)});"))
                continue
            call = "exp_low_f32" if v.low else v.kernel
            body.append(f"{'' if v in held or shape.full else f'const {kind} '}{of(v)} = {call}({', '.join(map(of, v.operands))}{more});")
        if v.stays and not any(v in later.made for later in group.phases[at + 1 :]):
            if shape.full:
                twos.append(f"kept(k{v.name}, own, {two(v)});")
            else:
                stays.append(f"k{v.name}[e] = {of(v)};")
    for k, v in enumerate(group.writes):
        if v in phase.stores:
            body.append(f"y{k}[(i64)r * length + e] = canon({of(v)});")
    ends = []
    for v in (v for v in group.tops if v in phase.stores):
        lines.append(f"u32 high_{v.name} = 0;")
        body += [f"const u32 size_{v.name} = magnitude(canon({of(v)}));", f"high_{v.name} = larger(high_{v.name}, size_{v.name});"]
        body.append(f"if (size_{v.name} > column_{v.name}[e]) atomicMax(&column_{v.name}[e], size_{v.name});")
        ends += [f"high_{v.name} = largest_of<{shape.group}>(high_{v.name});", f"if (lane == 0) row_{v.name}[r] = high_{v.name};"]
    for v in phase.highs:
        body.append(f"if (magnitude({of(v)}) > column_{v.name}[e]) atomicMax(&column_{v.name}[e], magnitude({of(v)}));")
    for v in phase.tops:
        x, *index = v.operands
        match v.kernel:
            case "gather_f32":
                lines.append(f"u32 t{v.name} = 0;")
                body.append(f"t{v.name} = e == clamped({index[0].name}, n) ? __float_as_uint({of(x)}) : t{v.name};")
                ends.append(f"const float {v.name} = of_bits(largest_of<{shape.group}>(t{v.name}));")
            case "sum_i64":
                lines.append(f"u64 q{v.name} = 0;")
                body.append(f"q{v.name} += (u64){of(x)};")
                ends.append(f"const i64 {v.name} = (i64)total_of<{shape.group}>(q{v.name});")
            case kernel:
                of_sum = kernel == "sum_f32"
                more, rank, none = ("maximum_of_size", "magnitude", "0.0f") if of_sum else ("maximum", "rank_of", "of_bits(0xff800000u)")
                lines.append(f"float h{v.name} = {others(x, ('abs_f32({})' if of_sum else '{}').format, none)};")
                body.append(f"h{v.name} = {more}(h{v.name}, {of(x)});")
                ends.append(f"const u32 t{v.name} = largest_of<{shape.group}>({rank}(h{v.name}));")
                if kernel == "amax_f32":
                    ends.append(f"const float {v.name} = of_rank(t{v.name});")
    for v in phase.sums:
        (x,) = v.operands
        of_left = others(x, f"lane ? 0 : (u64)left * (u64)fixed({{}}, scaling(t{v.name}, bits_{v.name}))".format, "0")
        lines.append(f"u64 q{v.name} = {of_left};")
        if shape.held or shape.twos:
            lines += [f"const Halver s{v.name} = halver_of(scale_of(t{v.name}, bits_{v.name}));", f"Halves f{v.name} = {{0u, 0u}};"]
            body.append(f"const Halves g{v.name} = halves_of({of(x)}, s{v.name});")
            body.append(f"f{v.name} = {{f{v.name}.high + g{v.name}.high, f{v.name}.low + g{v.name}.low}};")
            count = f"lane < {end} ? ({end} - lane - 1u) / {shape.group}u + 1u : 0u"
            if shape.twos:
                count = f"{end} / 64u * 2u + ({end} % 64u > 2u * lane) + ({end} % 64u > 2u * lane + 1u)"
            ends.append(f"q{v.name} += (u64)joined_halves(f{v.name}, {count}, s{v.name});")
        else:
            lines.append(f"const Scale s{v.name} = scaling(t{v.name}, bits_{v.name});")
            body.append(f"q{v.name} += (u64)fixed({of(x)}, s{v.name});")
        ends.append(f"const float {v.name} = sum_of(t{v.name}, total_of<{shape.group}>(q{v.name}), bits_{v.name});")
    for v in phase.puts:
        lines.append(f"Line p{v.name} = line_of<BR>(digits, (int)warp, {begin}, {end}, t{v.name}, (int)bits);")
        lines.append(f"if (lane == 0) tops[warp] = t{v.name};")
        x = v.operands[0]
        if shape.full:
            twos.append(f"put_two<BR>(p{v.name}, g, {two(x)});")
        else:
            body.append(f"put<BR>(p{v.name}, (int)e, {of(x)});")
        ends.append(f"line_done<BR>(p{v.name});")
    if shape.twos:
        end_of_unit = f"if ({64}u * (u32)g >= {end}) break;"
        steps = ["#pragma unroll", f"for (int g = 0; g < {shape.held // 2}; g++) {{", f"    {end_of_unit}"] if shape.held else [
            "#pragma unroll 2", f"for (int g = 0; 64u * (u32)g < {end}; g++) {{"]  # fmt: skip
        made = [*brief, *loads]
        for begin_, (end_, line) in zip((0, *(at for at, _ in quotients)), (*quotients, (len(body), "")), strict=True):
            made += [*_of_two(body[begin_:end_] if shape.full else [f"if (e < {end}) {{", *inner([*body, *stays]), "}"]), *([line] if line else [])]
        return [*lines, *steps, *inner(["const u32 own = 64u * (u32)g + 2u * lane;", *made, *twos]), "}", *ends]
    if not shape.held:
        unrolled = f"#pragma unroll {4 if len(phase.made) <= SHORT else 2}"
        return [*lines, unrolled, f"for (u32 e = lane; e < {end}; e += {shape.group}u) {{", *inner([*loads, *body]), "}", *ends]
    head = f"for (int k = 0; k < {shape.held}; k++) {{", f"    const u32 e = lane + (u32)k * {shape.group}u;"
    first = ["#pragma unroll", *head, *inner(loads), "}"] if loads else []
    return [*lines, "{", *inner([*brief, *first, "#pragma unroll", *head, f"    if (e < {end}) {{", *inner(inner(body)), "    }", "}"]), "}", *ends]


def _of_two(each: list[str]) -> list[str]:
    """What is done with each of a thread's two neighbouring elements."""
    named = [f"const {kind} {name} = {what};" for kind, name, what in (("int", "k", "2 * g + i"), ("u32", "e", "own + (u32)i"))
             if any(re.search(rf"\b{name}\b", line) for line in each)]  # fmt: skip
    return ["#pragma unroll", "for (int i = 0; i < 2; i++) {", *inner([*named, *each]), "}"] if each else []


def inner(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" for line in lines]
