/* REDUCE but products: integer sums and maxima, whose order shows in no bit. Result k is that of the `length` elements x[of(kept, k) + of(along, e)].
 *
 * Lines: neighbouring threads take neighbouring elements of one result (32 or 256 threads for each). Columns: neighbouring threads take
 * neighbouring results, eight rows of threads share the elements. Where there are few results and many elements, blocks share a result
 * through atomics: first the largest magnitudes, then the sums, then the rounding.
 */

enum { SUM, MAXIMUM, WHOLE };

/* What a thread finds in its share of a result's elements. */
FN u32 top_part(const float *x, const i64 *along, u32 from, u32 to, u32 step) {
    u32 top = 0;
    for (u32 e = from; e < to; e += step) { u32 m = magnitude(x[offset_of(along, e)]); top = m > top ? m : top; }
    return top;
}
FN u32 rank_part(const float *x, const i64 *along, u32 from, u32 to, u32 step) {
    u32 most = 0;
    for (u32 e = from; e < to; e += step) { u32 r = rank_of(x[offset_of(along, e)]); most = r > most ? r : most; }
    return most;
}
FN u64 sum_part(const float *x, const i64 *along, u32 from, u32 to, u32 step, Scale by) {
    u64 total = 0;
    for (u32 e = from; e < to; e += step) total += (u64)fixed(x[offset_of(along, e)], by);
    return total;
}
FN u64 whole_part(const u64 *x, const i64 *along, u32 from, u32 to, u32 step) {
    u64 total = 0;
    for (u32 e = from; e < to; e += step) total += x[offset_of(along, e)];
    return total;
}

/* ---- a result is one group's ---- */

template <int GROUP, int WHAT> FN void lines(i64 n, i64 length, void *y, const void *x, i64 bits, const i64 *kept, const i64 *along, const float *more) {
    u32 lane = threadIdx.x % GROUP, groups = gridDim.x * (BLOCK / GROUP);
    for (u32 k = blockIdx.x * (BLOCK / GROUP) + threadIdx.x / GROUP; k < (u32)n; k += groups) {
        i64 at = offset_of(kept, k);
        const float *f = (const float *)x + at;
        if (WHAT == SUM) {
            u32 top = largest_of<GROUP>(top_part(f, along, lane, (u32)length, GROUP));
            u64 total = total_of<GROUP>(sum_part(f, along, lane, (u32)length, GROUP, scaling(top, bits)));
            if (lane == 0) ((float *)y)[k] = plus(sum_of(top, total, bits), more, k);
        } else if (WHAT == MAXIMUM) {
            u32 most = largest_of<GROUP>(rank_part(f, along, lane, (u32)length, GROUP));
            if (lane == 0) ((float *)y)[k] = of_rank(most);
        } else {
            u64 total = total_of<GROUP>(whole_part((const u64 *)x + at, along, lane, (u32)length, GROUP));
            if (lane == 0) ((u64 *)y)[k] = total;
        }
    }
}

/* ---- columns: blocks of 32 x 8 threads ---- */

template <int WHAT> FN void columns(i64 n, i64 length, void *y, const void *x, i64 bits, const i64 *kept, const i64 *along, const float *more) {
    for (u32 first = blockIdx.x * WARP; first < (u32)n; first += gridDim.x * WARP) {
        u32 k = first + threadIdx.x, to = k < (u32)n ? (u32)length : 0;
        i64 at = to ? offset_of(kept, k) : 0;
        const float *f = (const float *)x + at;
        bool writes = to && threadIdx.y == 0;
        if (WHAT == SUM) {
            u32 top = largest_of_rows(top_part(f, along, threadIdx.y, to, 8));
            u64 total = total_of_rows(sum_part(f, along, threadIdx.y, to, 8, scaling(top, bits)));
            if (writes) ((float *)y)[k] = plus(sum_of(top, total, bits), more, k);
        } else if (WHAT == MAXIMUM) {
            u32 most = largest_of_rows(rank_part(f, along, threadIdx.y, to, 8));
            if (writes) ((float *)y)[k] = of_rank(most);
        } else {
            u64 total = total_of_rows(whole_part((const u64 *)x + at, along, threadIdx.y, to, 8));
            if (writes) ((u64 *)y)[k] = total;
        }
    }
}

KERNEL sum_f32_by_warp(i64 n, i64 length, void *y, const void *x, i64 bits, const i64 *kept, const i64 *along, const float *more) {
    lines<WARP, SUM>(n, length, y, x, bits, kept, along, more);
}
KERNEL sum_f32_by_block(i64 n, i64 length, void *y, const void *x, i64 bits, const i64 *kept, const i64 *along, const float *more) {
    lines<BLOCK, SUM>(n, length, y, x, bits, kept, along, more);
}
KERNEL sum_f32_by_columns(i64 n, i64 length, void *y, const void *x, i64 bits, const i64 *kept, const i64 *along, const float *more) {
    columns<SUM>(n, length, y, x, bits, kept, along, more);
}
KERNEL amax_f32_by_warp(i64 n, i64 length, void *y, const void *x, i64 bits, const i64 *kept, const i64 *along, const float *more) {
    lines<WARP, MAXIMUM>(n, length, y, x, bits, kept, along, more);
}
KERNEL amax_f32_by_block(i64 n, i64 length, void *y, const void *x, i64 bits, const i64 *kept, const i64 *along, const float *more) {
    lines<BLOCK, MAXIMUM>(n, length, y, x, bits, kept, along, more);
}
KERNEL amax_f32_by_columns(i64 n, i64 length, void *y, const void *x, i64 bits, const i64 *kept, const i64 *along, const float *more) {
    columns<MAXIMUM>(n, length, y, x, bits, kept, along, more);
}
KERNEL sum_i64_by_warp(i64 n, i64 length, void *y, const void *x, i64 bits, const i64 *kept, const i64 *along, const float *more) {
    lines<WARP, WHOLE>(n, length, y, x, bits, kept, along, more);
}
KERNEL sum_i64_by_block(i64 n, i64 length, void *y, const void *x, i64 bits, const i64 *kept, const i64 *along, const float *more) {
    lines<BLOCK, WHOLE>(n, length, y, x, bits, kept, along, more);
}
KERNEL sum_i64_by_columns(i64 n, i64 length, void *y, const void *x, i64 bits, const i64 *kept, const i64 *along, const float *more) {
    columns<WHOLE>(n, length, y, x, bits, kept, along, more);
}

/* ---- a result is shared by the blocks along grid.y, `chunk` elements each; tops and totals start as zeros ---- */

/* Lines by a block of 256, columns by one of 32 x 8: what both need to know. */
#define SHARED_PART \
    bool line = blockDim.y == 1; \
    u32 k = line ? blockIdx.x : blockIdx.x * WARP + threadIdx.x, step = line ? BLOCK : 8, end = (u32)((i64)(blockIdx.y + 1) * chunk < length ? (i64)(blockIdx.y + 1) * chunk : length); \
    u32 from = (u32)(blockIdx.y * chunk) + (line ? threadIdx.x : threadIdx.y), to = k < (u32)n ? end : 0; \
    i64 at = to ? offset_of(kept, k) : 0; \
    bool writes = to && (line ? threadIdx.x : threadIdx.y) == 0

KERNEL shared_tops(i64 n, i64 length, i64 chunk, u32 *tops, const float *x, const i64 *kept, const i64 *along) {
    SHARED_PART;
    u32 top = top_part(x + at, along, from, to, step);
    top = line ? largest_of<BLOCK>(top) : largest_of_rows(top);
    if (writes) atomicMax(tops + k, top);
}
KERNEL shared_ranks(i64 n, i64 length, i64 chunk, u32 *ranks, const float *x, const i64 *kept, const i64 *along) {
    SHARED_PART;
    u32 most = rank_part(x + at, along, from, to, step);
    most = line ? largest_of<BLOCK>(most) : largest_of_rows(most);
    if (writes) atomicMax(ranks + k, most);
}
KERNEL shared_sums(i64 n, i64 length, i64 chunk, u64 *totals, const u32 *tops, const float *x, i64 bits, const i64 *kept, const i64 *along) {
    SHARED_PART;
    u64 total = sum_part(x + at, along, from, to, step, scaling(to ? tops[k] : 0, bits));
    total = line ? total_of<BLOCK>(total) : total_of_rows(total);
    if (writes) atomicAdd(totals + k, total);
}
KERNEL shared_wholes(i64 n, i64 length, i64 chunk, u64 *totals, const u64 *x, const i64 *kept, const i64 *along) {
    SHARED_PART;
    u64 total = whole_part(x + at, along, from, to, step);
    total = line ? total_of<BLOCK>(total) : total_of_rows(total);
    if (writes) atomicAdd(totals + k, total);
}
KERNEL end_of_sums(i64 n, float *y, const u64 *totals, const u32 *tops, i64 bits, const float *more) {
    FOR_EACH(k, n) y[k] = plus(sum_of(tops[k], totals[k], bits), more, k);
}
KERNEL end_of_ranks(i64 n, float *y, const u32 *ranks) { FOR_EACH(k, n) y[k] = of_rank(ranks[k]); }

/* ---- prefix sums of [outer, length, inner]: a thread for each line ---- */

KERNEL cumsum_f32(i64 n, i64 length, i64 inner, float *y, const float *x, i64 bits) {
    FOR_EACH(k, n) {
        i64 at = (i64)(k / (u32)inner) * length * inner + k % (u32)inner;
        u32 top = 0;
        u64 total = 0;
        for (i64 e = 0; e < length; e++) { u32 m = magnitude(x[at + e * inner]); top = m > top ? m : top; }
        Scale by = scaling(top, bits);
        for (i64 e = 0; e < length; e++) {
            total += (u64)fixed(x[at + e * inner], by);
            y[at + e * inner] = sum_of(top, total, bits);
        }
    }
}
KERNEL cumsum_i64(i64 n, i64 length, i64 inner, u64 *y, const u64 *x, i64 bits) {
    FOR_EACH(k, n) {
        i64 at = (i64)(k / (u32)inner) * length * inner + k % (u32)inner;
        u64 total = 0;
        for (i64 e = 0; e < length; e++) y[at + e * inner] = total += x[at + e * inner];
    }
}

/* The same by a block of 256 for each line: 256 elements at a time, and what came before them. */
FN u64 prefix_of(u64 v, u64 *total) {
    u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    for (u32 by = 1; by < WARP; by <<= 1) { u64 other = __shfl_up_sync(ALL_LANES, v, by); if (lane >= by) v += other; }
    __shared__ u64 each[BLOCK / WARP];
    __syncthreads();
    if (lane == WARP - 1) each[warp] = v;
    __syncthreads();
    *total = 0;
    for (u32 w = 0; w < BLOCK / WARP; w++) { if (w < warp) v += each[w]; *total += each[w]; }
    return v;
}
KERNEL cumsum_f32_by_block(i64 n, i64 length, i64 inner, float *y, const float *x, i64 bits) {
    for (u32 k = blockIdx.x; k < (u32)n; k += gridDim.x) {
        i64 at = (i64)(k / (u32)inner) * length * inner + k % (u32)inner;
        u32 top = 0;
        for (i64 e = threadIdx.x; e < length; e += BLOCK) { u32 m = magnitude(x[at + e * inner]); top = m > top ? m : top; }
        top = largest_of<BLOCK>(top);
        Scale by = scaling(top, bits);
        u64 before = 0, total;
        for (i64 first = 0; first < length; first += BLOCK, before += total) {
            i64 e = first + threadIdx.x;
            u64 sum = before + prefix_of(e < length ? (u64)fixed(x[at + e * inner], by) : 0, &total);
            if (e < length) y[at + e * inner] = sum_of(top, sum, bits);
        }
    }
}
KERNEL cumsum_i64_by_block(i64 n, i64 length, i64 inner, u64 *y, const u64 *x, i64 bits) {
    for (u32 k = blockIdx.x; k < (u32)n; k += gridDim.x) {
        i64 at = (i64)(k / (u32)inner) * length * inner + k % (u32)inner;
        u64 before = 0, total;
        for (i64 first = 0; first < length; first += BLOCK, before += total) {
            i64 e = first + threadIdx.x;
            u64 sum = before + prefix_of(e < length ? x[at + e * inner] : 0, &total);
            if (e < length) y[at + e * inner] = sum;
        }
    }
}

/* ---- scatter-add of rows: one scale for all values, int64 atomics, one rounding. Only rows that an index names have totals, in the order in
 * which they are claimed, which shows in no bit: slots[row] is 1 + the place of its totals. Tops, claims, slots and totals start as zeros. ---- */

KERNEL top_of_all(i64 n, u32 *top, const float *x) {
    u32 most = 0;
    FOR_EACH(i, n) { u32 m = magnitude(x[i]); most = m > most ? m : most; }
    most = largest_of<BLOCK>(most);
    if (threadIdx.x == 0) atomicMax(top, most);
}
KERNEL claim_rows(i64 n, u32 *claimed, u32 *slots, const u8 *index, i64 item, i64 rows) {
    FOR_EACH(i, n) {
        u32 *slot = slots + inside(index, item, i, rows);
        if (atomicCAS(slot, 0u, 0xffffffffu) == 0) *slot = 1 + atomicAdd(claimed, 1u);
    }
}
KERNEL scatter_rows(i64 n, u64 *totals, const u32 *top, const u32 *slots, const u8 *index, const float *x, i64 item, i64 rows, i64 width, i64 bits) {
    Scale by = scaling(*top, bits);
    FOR_EACH(i, n) {
        i64 q = fixed(x[i], by);
        if (q) atomicAdd(totals + (i64)(slots[inside(index, item, i / (u32)width, rows)] - 1) * width + i % (u32)width, (u64)q);
    }
}
KERNEL end_of_rows(i64 n, float *y, const u64 *totals, const u32 *top, const u32 *slots, i64 width, i64 bits, const float *more) {
    FOR_EACH(i, n) {
        u32 slot = slots[i / (u32)width];
        y[i] = plus(sum_of(*top, slot ? totals[(i64)(slot - 1) * width + i % (u32)width] : 0, bits), more, i);
    }
}
