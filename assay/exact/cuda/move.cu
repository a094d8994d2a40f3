/* MOVE: copies from one walk to another, fills, and places that come from an index. n counts elements. */

template <class T> FN void copy_walks(i64 n, T *to, const T *of, const i64 *to_walk, const i64 *of_walk) {
    FOR_EACH(i, n) to[offset_of(to_walk, i)] = of[offset_of(of_walk, i)];
}
/* Copies that turn round: neighbours of the target lie `of_step` apart in the source, where `rows` lie side by side. Tiles of 32 x 32 go through
 * shared memory (a column more, so that its banks are all met once), by blocks of 32 x 8 threads; `outer` walks over what is left. */
template <class T> FN void copy_tiles(i64 outer, i64 rows, i64 columns, T *to, const T *of, i64 to_step, i64 of_step, const i64 *to_walk, const i64 *of_walk) {
    __shared__ T tile[32][33];
    u32 high = (u32)((rows + 31) / 32), wide = (u32)((columns + 31) / 32), tiles = (u32)outer * high * wide, x = threadIdx.x;
    for (u32 t = blockIdx.x; t < tiles; t += gridDim.x) {
        u32 o = t / (high * wide), row = t / wide % high * 32, column = t % wide * 32;
        const T *from = of + offset_of(of_walk, o);
        T *into = to + offset_of(to_walk, o);
        for (u32 y = threadIdx.y; y < 32; y += 8)
            if (row + x < (u32)rows && column + y < (u32)columns) tile[y][x] = from[row + x + (i64)(column + y) * of_step];
        __syncthreads();
        for (u32 y = threadIdx.y; y < 32; y += 8)
            if (row + y < (u32)rows && column + x < (u32)columns) into[(i64)(row + y) * to_step + column + x] = tile[x][y];
        __syncthreads();
    }
}
template <class T> FN void fill_with(i64 n, T *to, i64 bits) { FOR_EACH(i, n) to[i] = (T)bits; }

/* Row i of the result is row index[i] of a table; `width` elements each. */
template <class T> FN void rows_by_index(i64 n, T *to, const T *table, const u8 *index, i64 item, i64 rows, i64 width) {
    FOR_EACH(i, n) to[i] = table[inside(index, item, i / (u32)width, rows) * width + i % (u32)width];
}
/* Shapes [outer, size, inner] of the source, [outer, taken, inner] of index and result. */
template <class T> FN void along_axis(i64 n, T *to, const T *of, const u8 *index, i64 item, i64 size, i64 taken, i64 inner) {
    FOR_EACH(i, n) {
        i64 outer = i / (u32)(taken * inner);
        to[i] = of[(outer * size + inside(index, item, i, size)) * inner + i % (u32)inner];
    }
}
/* The places that the index names get one bit pattern; the rest of the target is there already. */
template <class T> FN void put_value(i64 n, T *to, const u8 *index, i64 item, i64 size, i64 taken, i64 inner, i64 bits) {
    FOR_EACH(i, n) {
        i64 outer = i / (u32)(taken * inner);
        to[(outer * size + inside(index, item, i, size)) * inner + i % (u32)inner] = (T)bits;
    }
}

KERNEL copy_walks_1(i64 n, u8 *to, const u8 *of, const i64 *to_walk, const i64 *of_walk) { copy_walks(n, to, of, to_walk, of_walk); }
KERNEL copy_tiles_1(i64 outer, i64 rows, i64 columns, u8 *to, const u8 *of, i64 to_step, i64 of_step, const i64 *to_walk, const i64 *of_walk) {
    copy_tiles(outer, rows, columns, to, of, to_step, of_step, to_walk, of_walk);
}
KERNEL fill_1(i64 n, u8 *to, i64 bits) { fill_with(n, to, bits); }
KERNEL take_rows_1(i64 n, u8 *to, const u8 *table, const u8 *index, i64 item, i64 rows, i64 width) {
    rows_by_index(n, to, table, index, item, rows, width);
}
KERNEL gather_1(i64 n, u8 *to, const u8 *of, const u8 *index, i64 item, i64 size, i64 taken, i64 inner) {
    along_axis(n, to, of, index, item, size, taken, inner);
}
KERNEL scatter_value_1(i64 n, u8 *to, const u8 *index, i64 item, i64 size, i64 taken, i64 inner, i64 bits) {
    put_value(n, to, index, item, size, taken, inner, bits);
}

KERNEL copy_walks_4(i64 n, u32 *to, const u32 *of, const i64 *to_walk, const i64 *of_walk) { copy_walks(n, to, of, to_walk, of_walk); }
KERNEL copy_tiles_4(i64 outer, i64 rows, i64 columns, u32 *to, const u32 *of, i64 to_step, i64 of_step, const i64 *to_walk, const i64 *of_walk) {
    copy_tiles(outer, rows, columns, to, of, to_step, of_step, to_walk, of_walk);
}
KERNEL fill_4(i64 n, u32 *to, i64 bits) { fill_with(n, to, bits); }
KERNEL take_rows_4(i64 n, u32 *to, const u32 *table, const u8 *index, i64 item, i64 rows, i64 width) {
    rows_by_index(n, to, table, index, item, rows, width);
}
KERNEL gather_4(i64 n, u32 *to, const u32 *of, const u8 *index, i64 item, i64 size, i64 taken, i64 inner) {
    along_axis(n, to, of, index, item, size, taken, inner);
}
KERNEL scatter_value_4(i64 n, u32 *to, const u8 *index, i64 item, i64 size, i64 taken, i64 inner, i64 bits) {
    put_value(n, to, index, item, size, taken, inner, bits);
}

KERNEL copy_walks_8(i64 n, u64 *to, const u64 *of, const i64 *to_walk, const i64 *of_walk) { copy_walks(n, to, of, to_walk, of_walk); }
KERNEL copy_tiles_8(i64 outer, i64 rows, i64 columns, u64 *to, const u64 *of, i64 to_step, i64 of_step, const i64 *to_walk, const i64 *of_walk) {
    copy_tiles(outer, rows, columns, to, of, to_step, of_step, to_walk, of_walk);
}
KERNEL fill_8(i64 n, u64 *to, i64 bits) { fill_with(n, to, bits); }
KERNEL take_rows_8(i64 n, u64 *to, const u64 *table, const u8 *index, i64 item, i64 rows, i64 width) {
    rows_by_index(n, to, table, index, item, rows, width);
}
KERNEL gather_8(i64 n, u64 *to, const u64 *of, const u8 *index, i64 item, i64 size, i64 taken, i64 inner) {
    along_axis(n, to, of, index, item, size, taken, inner);
}
KERNEL scatter_value_8(i64 n, u64 *to, const u8 *index, i64 item, i64 size, i64 taken, i64 inner, i64 bits) {
    put_value(n, to, index, item, size, taken, inner, bits);
}
