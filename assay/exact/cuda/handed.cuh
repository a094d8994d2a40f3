/* Values of the lines of attend.py's kernels that go from one by rows to one by columns through memory (handed.py): [column][row], so that columns are lines.
 * Wants attend.cuh before it. */

/* A warp writes its line of such a value over one of a product: what lies at a multiple of 8 elements goes to another one of the same 32, so that a column's
 * four lines of four warps lie in different banks when they are read. */
template <int BR> __device__ __forceinline__ constexpr int turned_by(int line) { return 128 / BR * (line / 4); }
/* How far from its own two elements of 64 a lane has them. */
template <int BR> __device__ __forceinline__ int turned_in_line() { return ((2 * LANE) ^ turned_by<BR>((int)(threadIdx.x / 32))) - 2 * LANE; }

/* to[k][column * rows + first + line] = planes[k][line][column], for columns of the span, which is whole units of 64; 16 bytes at a time. All threads. */
template <int BR, int COUNT> __device__ __forceinline__ void handed(float *const (&to)[COUNT], i64 rows, const float *planes, int pitch, i32 first, Span span) {
    const int QUADS = BR / 4, quad = (int)(threadIdx.x % QUADS), step = 32 * BR / QUADS;
    int column = span.begin + (int)(threadIdx.x / QUADS);
    i64 at = column * rows + first + 4 * quad;
    const float *from = planes + 4 * quad * pitch + (column ^ turned_by<BR>(4 * quad)); /* `step` is a multiple of 32 */
#pragma unroll 2
    for (; column < span.end; column += step, from += step, at += step * rows) {
#pragma unroll
        for (int k = 0; k < COUNT; k++) {
            const float *own = from + k * BR * pitch;
            *(float4 *)(to[k] + at) = make_float4(own[0], own[pitch], own[2 * pitch], own[3 * pitch]);
        }
    }
}

/* Starts to bring the span of this warp's line to a plane. */
__device__ __forceinline__ void line_coming(float *plane, int pitch, const float *from, Span span) {
    float *to = plane + (int)(threadIdx.x / 32) * pitch;
    for (int e = span.begin + 4 * LANE; e < span.end; e += 128) async_copy(to + e, from + e);
    async_commit();
}
/* It is there for all of the warp, where LEFT lines that were wanted later may be on their way still. */
template <int LEFT> __device__ __forceinline__ void line_there() {
    async_wait<LEFT>();
    __syncwarp();
}
