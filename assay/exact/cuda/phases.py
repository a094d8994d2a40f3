"""The phases of a group of rows (rows.py) as C++: what a thread does with its elements of a row, and how it keeps, reduces and stores them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Protocol

from assay.exact.cuda.groups import REDUCTIONS, Group, Phase, Shape, Value
from assay.exact.cuda.maps import TYPES

ADDED = 256
"""Elements whose halves a thread adds up at most (`halves_of` in common.cuh)."""
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


def _narrow(group: Group, at: int) -> list[str]:
    """What has one element a row, and what is alike but for one, as far as a phase finds its operands; narrow results."""
    lines = []
    indices = {v.operands[1]: v for v in group.values if v.kernel in ("gather_f32", "scatter_value")}

    def placed(index: Value) -> list[str]:
        """Which element an index names, and what is read there."""
        if index not in indices:
            return []
        named = [(v, x) for v in group.values if v.kernel == "gather_f32" and v.operands[1] is index for x in _made_of(v.operands[0]) if not x.kernel]
        return [f"const u32 at_{index.name} = clamped({index.name}, n);",
                *(f"const {TYPES[x.dtype]} {v.name}_{x.name} = p{x.name}[at_{index.name}];" for v, x in named)]  # fmt: skip

    if at == 0:
        lines += [line for v in group.reads for line in placed(v)]
    for v in group.values:
        if v.level != at:
            continue
        kind = TYPES[v.dtype]
        if v.spike is not None:
            for which in ("odd", "common"):
                put = f"of_bits({v.bits:#x}u)" if which == "odd" else _of(which, v.operands[0])
                made = put if v.kernel == "scatter_value" else f"{v.kernel}({', '.join(_of(which, o) for o in v.operands)})"
                lines.append(f"const {kind} {which}_{v.name} = {made};")
        elif v.wide and v.flat and indices:
            lines.append(f"const {kind} common_{v.name} = {v.kernel}({', '.join(_of('common', o) for o in v.operands)});")
        elif v.told:
            x, *_ = v.operands
            if v.kernel == "gather_f32":
                lines += _gathered(v)
            elif v.kernel in REDUCTIONS:
                odd, common = (_of(which, x) for which in ("odd", "common"))
                more = f", n, bits_{v.name}" if v.kernel == "sum_f32" else ", n" if v.kernel == "sum_i64" else ""
                lines.append(f"const {kind} {v.name} = {v.kernel}_of_two({odd}, {common}{more});")
            else:
                lines.append(f"const {kind} {v.name} = {v.kernel}({', '.join(o.name for o in v.operands)});")
            lines += placed(v)
    return lines + [f"if (lane == 0) y{k}[r] = canon({v.name});" for k, v in enumerate(group.writes) if not v.wide and v.level == at]


def _of(which: str, v: Value) -> str:
    """The one element of a row that is another (`odd`), or all the others (`common`)."""
    return v.name if not v.wide else f"common_{v.name}" if v.flat else f"{which}_{v.name}"


def _made_of(v: Value) -> list[Value]:
    """Wide values that one is made of, itself among them, operands first."""
    found: dict[Value, None] = {}

    def visit(v: Value) -> None:
        if v.wide and v not in found:
            for o in () if v.flat or v.spike is not None else v.operands:
                visit(o)
            found[v] = None

    visit(v)
    return list(found)


def _gathered(v: Value) -> list[str]:
    """The element of a row that an index names: made there by itself."""
    x, index = v.operands
    lines, names = [], dict[Value, str]()
    for w in _made_of(x):
        names[w] = f"{v.name}_{w.name}"
        if w.flat:
            names[w] = f"common_{w.name}"
        elif w.kernel:
            more = f", at_{index.name}, n, {w.bits:#x}u" if w.kernel == "scatter_value" else ""
            made = f"{w.kernel}({', '.join(names.get(o, o.name) for o in w.operands)}{more})"
            if w.spike is not None:
                made = f"at_{index.name} == at_{w.spike.name} ? odd_{w.name} : common_{w.name}"
            lines.append(f"const {TYPES[w.dtype]} {names[w]} = {made};")
    return [*lines, f"const float {v.name} = {names[x]};"]


def _phase(group: Group, at: int, phase: Phase, shape: Shape, left: Left | None) -> list[str]:
    """Lines of one phase: values of an element a row, the elements, the ends of reductions."""
    lines = _narrow(group, at)
    lines += left.lines(group, at) if left is not None else []
    end = "some" if left is not None else "n"
    width = shape.width

    def others(v: Value, counted: Callable[[str], str], none: str) -> str:
        """What a reduction begins with."""
        one = left.of(v) if left is not None else ""
        return f"left ? {counted(one)} : {none}" if one else none

    if not phase.made and not phase.again:
        return lines
    held = group.held() if shape.held else set()
    loaded = {v for v in phase.made if shape.held and not (v.kernel or v.near or v.there or v.repeated)}
    """What all of a thread's elements are read of before anything is made."""

    def of(v: Value) -> str:
        if v in held or v in loaded:
            return f"{v.name}[k]"
        return f"{v.name}[i]" if shape.full and v.wide else v.name

    def many(v: Value) -> str:
        """The first of neighbouring elements."""
        return f"{v.name} + {width} * g" if v in held or v in loaded else v.name

    first: list[str] = []
    brief: list[str] = []
    early: list[str] = []
    loads, body, ended, stays = [], [], [], []
    quotients: list[tuple[int, str]] = []
    """Where in the body what is made of neighbouring elements at once comes."""
    for v in phase.made:
        kind = TYPES[v.dtype]
        if v in held or v in loaded:
            (lines if v in held else first).append(f"{kind} {v.name}[{shape.held}];")
        elif shape.full:
            brief.append(f"{kind} {v.name}[{width}];")
        if (v.near or v.there) and shape.full:
            loads.append(f"even(p{v.name}, own, {many(v)});" if v.even or v.there else f"both(p{v.name}, 64u * (u32)g, 2u * lane, {v.name});")
        elif v.near or v.there:
            body.append(f"const {kind} {v.name} = p{v.name}[e];")
        elif not v.kernel and shape.full:
            (early if v in loaded else loads).append(f"{'many_of' if v.even else 'each_of'}<{width}>(p{v.name}, own, {many(v)});")
        elif not v.kernel:
            (early if v in loaded else loads).append(f"{'' if v in loaded else f'const {kind} '}{of(v)} = p{v.name}[e];")
        else:
            more = f", e, n, {v.bits:#x}u" if v.kernel == "scatter_value" else ""
            if v.whole and shape.full and not v.operands[1].wide:
                lines.append(f"const Divisor d{v.name}_{at} = divisor_of({v.operands[1].name});")
                quotients.append((len(body), f"quotients_of<{width}>({many(v.operands[0])}, d{v.name}_{at}, {many(v)});"))
                continue
            call = "exp_low_f32" if v.low else v.kernel
            how = f"{call}({', '.join(map(of, v.operands))}{more})"
            if v.spike is not None:
                how = f"e == at_{v.spike.name} ? odd_{v.name} : common_{v.name}"
            body.append(f"{'' if v in held or shape.full else f'const {kind} '}{of(v)} = {how};")
        if v.stays and not any(v in later.made for later in group.phases[at + 1 :]):
            if shape.full:
                ended.append(f"kept(k{v.name}, own, {many(v)});")
            else:
                stays.append(f"k{v.name}[e] = {of(v)};")
    if group.hands and at == len(group.phases) - 1:
        lines.append("__syncwarp(); /* all have read the lines that these are put over */")
        ended += [f"kept(h{v.name}, own, {many(v)});" for v in group.hands]
    for k, v in enumerate(group.writes):
        if v in phase.stores and shape.full:
            ended.append(f"put_many<{width}>(y{k} + (i64)r * length, own, {many(v)});")
        elif v in phase.stores:
            body.append(f"y{k}[(i64)r * length + e] = canon({of(v)});")
    ends = []
    for v in (v for v in group.tops if v in phase.stores):
        lines.append(f"float high_{v.name} = 0.0f;")
        body.append(f"high_{v.name} = maximum_of_size(high_{v.name}, {of(v)});")
        ends.append(f"const u32 top_{v.name} = largest_of<{shape.group}>(magnitude(canon(high_{v.name})));")
        ends.append(f"if (lane == 0) row_{v.name}[r] = top_{v.name};")
    for v in (*(v for v in group.tops if v in phase.stores), *phase.highs):
        if shape.full:
            ended.append(f"raise_columns<{width}, {'true' if v.even_tops else 'false'}>(column_{v.name}, own, {many(v)});")
        else:
            body.append(f"raise_column(column_{v.name}, e, {of(v)});")
    for v in phase.tops:
        (x,) = v.operands
        match v.kernel:
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
    parted: list[str] = []
    """What begins again with each part of a row whose elements are not held, since halves are added up in 32 bits each, and what ends with it."""
    joined: list[str] = []
    for v in phase.sums:
        (x,) = v.operands
        if v.most is not None:
            lines.append(f"const u32 t{v.name} = top_of_exponentials({v.most.name});")
        of_left = others(x, f"lane ? 0 : (u64)left * (u64)fixed({{}}, scaling(t{v.name}, bits_{v.name}))".format, "0")
        lines += [f"u64 q{v.name} = {of_left};", f"const Halver s{v.name} = halver_of(scale_of(t{v.name}, bits_{v.name}));"]
        parted.append(f"Halves f{v.name} = {{0u, 0u}};")
        body.append(f"const Halves g{v.name} = halves_of({of(x)}, s{v.name});")
        body.append(f"f{v.name} = {{f{v.name}.high + g{v.name}.high, f{v.name}.low + g{v.name}.low}};")
        length = "to - part" if not (shape.held or shape.line) else f"{shape.held * shape.group}u" if shape.exact else end
        count = f"({length} + {shape.unit - 1}u - {width}u * lane) / {shape.unit}u" + (f" * {width}u" if width > 1 else "")
        if shape.line and not shape.full:
            count = f"{end} / 64u * 2u + ({end} % 64u > 2u * lane) + ({end} % 64u > 2u * lane + 1u)"
        joined.append(f"q{v.name} += (u64)joined_halves(f{v.name}, {count}, s{v.name});")
        ends.append(f"const float {v.name} = sum_of(t{v.name}, total_of<{shape.group}>(q{v.name}), bits_{v.name});")
    if shape.held or shape.line:
        lines, ends = [*lines, *parted], [*joined, *ends]
    begin = "from" if left is not None else "0u"
    for v in phase.puts:
        lines.append(f"Line p{v.name} = line_of<BR>(digits, (int)warp, {begin}, {end}, t{v.name}, (int)bits);")
        lines.append(f"if (lane == 0) tops[warp] = t{v.name};")
        x = v.operands[0]
        if shape.full:
            ended.append(f"put_two<BR>(p{v.name}, g, {many(x)});")
        else:
            body.append(f"put<BR>(p{v.name}, (int)e, {of(x)});")
        ends.append(f"line_done<BR>(p{v.name});")
    if shape.full:
        made = [*brief, *loads]
        for begin_, (end_, line) in zip((0, *(at for at, _ in quotients)), (*quotients, (len(body), "")), strict=True):
            made += [*_of_many(width, body[begin_:end_]), *([line] if line else [])]
        made += ended
    if shape.line:
        steps = ["#pragma unroll", f"for (int g = 0; g < {shape.held // 2}; g++) {{", f"    if (64u * (u32)g >= {end}) break;"] if shape.held else [
            "#pragma unroll 2", f"for (int g = 0; 64u * (u32)g < {end}; g++) {{"]  # fmt: skip
        if not shape.full:
            made = [*brief, *loads, *_of_many(2, [f"if (e < {end}) {{", *inner([*body, *stays]), "}"])]
        return [*lines, *steps, *inner(["const u32 own = 64u * (u32)g + 2u * lane;", *made]), "}", *ends]
    if not shape.held:
        start, stop = ("part + ", "to") if parted else ("", end)
        if shape.full:
            turns, each = 2 if len(phase.made) <= SHORT else 1, made
            counter = f"u32 own = {start}{width}u * lane; own < {stop}; own += {shape.unit}u"
        else:
            turns, each = 4 if len(phase.made) <= SHORT else 2, [*loads, *body]
            counter = f"u32 e = {start}lane; e < {stop}; e += {shape.group}u"
        loop = [f"#pragma unroll {turns}", f"for ({counter}) {{", *inner(each), "}"]
        if parted:
            most = ADDED * shape.group
            of_part = f"const u32 to = n - part < {most}u ? n : part + {most}u;"
            loop = [f"for (u32 part = 0; part < n; part += {most}u) {{", *inner([of_part, *parted, *loop, *joined]), "}"]
        return [*lines, *loop, *ends]
    if shape.full:
        place, each = f"const u32 own = (u32)g * {shape.unit}u + {width}u * lane;", made
        head, condition = f"for (int g = 0; g < {shape.held // width}; g++) {{", "if (own < n) {"
    else:
        place, each = f"const u32 e = lane + (u32)k * {shape.group}u;", [*loads, *body]
        head, condition = f"for (int k = 0; k < {shape.held}; k++) {{", f"if (e < {end}) {{"
        first += brief
    for some in (early, each):
        guarded = some if shape.exact else [condition, *inner(some), "}"]
        first += ["#pragma unroll", head, *inner([place, *guarded]), "}"] if some else []
    return [*lines, "{", *inner(first), "}", *ends]


def _of_many(width: int, each: list[str]) -> list[str]:
    """What is done with each of a thread's neighbouring elements."""
    if not each:
        return []
    named = [f"const {kind} {name} = {what};" for kind, name, what in (("int", "k", f"{width} * g + i"), ("u32", "e", "own + (u32)i"))
             if any(re.search(rf"\b{name}\b", line) for line in each)]  # fmt: skip
    return ["#pragma unroll", f"for (int i = 0; i < {width}; i++) {{", *inner([*named, *each]), "}"]


def inner(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" for line in lines]
