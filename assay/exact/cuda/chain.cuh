/* What the kernels of attend.py read: operands of one of a batch, and values along a line whose elements do not lie side by side. */

/* blocks: of 128 elements of k; `at`: which of the operand's products. One has less than 2^32 bytes. */
__device__ __forceinline__ Packed packed_of(const i8 *digits, const u32 *top, const i32 *across, const u64 *along, const i8 *checked, i64 lanes, i64 padded, i64 blocks, u32 at) {
    u32 size = (u32)blocks * ROW * (u32)padded;
    return {digits + (u64)at * (OWN * size), top + (u64)at * (u32)padded, across + (u64)at * (size / GROUP), along + (u64)at * (u32)padded, checked + (u64)at * ((u32)blocks * ROW * CHECKED),
            (i32)lanes, (i32)padded};
}

#ifdef ASSAY_FAKE
#define MEMBER inline
#else
#define MEMBER __device__ __forceinline__
#endif

template <class T> struct Along {
    const T *first;
    i64 step;
    MEMBER T operator[](int e) const { return first[(i64)e * step]; }
};

/* A mask that has one value in an interval and another one beside it. */
template <class T> struct Told {
    u32 begin, size;
    T inside, outside;
    MEMBER T operator[](int e) const { return (u32)e - begin < size ? inside : outside; }
};

/* One that has one value before `end` and another one from there on. */
template <class T> struct Cut {
    int end;
    T before, behind;
    MEMBER T operator[](int e) const { return e < end ? before : behind; }
};

/* Two neighbouring elements of a line, from `unit` + `own` on; `even` where they lie in a multiple of their bytes. */
template <class P, class T> MEMBER void both(const P &p, u32 unit, u32 own, T *x) {
    x[0] = p[(int)(unit + own)];
    x[1] = p[(int)(unit + own) + 1];
}
template <class T> MEMBER void both(const Cut<T> &p, u32 unit, u32 own, T *x) {
    int end = p.end - (int)own; /* the same for all units, whose places are known when a kernel is compiled */
    x[0] = (int)unit < end ? p.before : p.behind;
    x[1] = (int)unit + 1 < end ? p.before : p.behind;
}
MEMBER void even(const float *p, u32 e, float *x) {
    float2 both = *(const float2 *)(p + e);
    x[0] = both.x, x[1] = both.y;
}
MEMBER void even(const u8 *p, u32 e, u8 *x) {
    uchar2 both = *(const uchar2 *)(p + e);
    x[0] = both.x, x[1] = both.y;
}
MEMBER void kept(float *p, u32 e, const float *x) { *(float2 *)(p + e) = make_float2(x[0], x[1]); }
template <class T> MEMBER void even(const T *p, u32 e, T *x) { both(p, 0u, e, x); }

template <class T> struct Walked {
    const T *first;
    const i64 *walk;
    u32 from;
    MEMBER T operator[](int e) const { return first[offset_of(walk, from + (u32)e)]; }
};
