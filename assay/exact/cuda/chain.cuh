/* What the kernels of attend.py read: operands of one of a batch, and values along a line whose elements do not lie side by side. */

/* blocks: of 128 elements of k; `at`: which of the operand's products. One has less than 2^32 bytes. */
__device__ __forceinline__ Packed packed_of(const i8 *digits, const u32 *top, const i32 *across, const u64 *along, i64 lanes, i64 padded, i64 blocks, u32 at) {
    u32 size = (u32)blocks * ROW * (u32)padded;
    return {digits + (u64)at * (OWN * size), top + (u64)at * (u32)lanes, across + (u64)at * (size / GROUP), along + (u64)at * (u32)padded, (i32)lanes, (i32)padded};
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

template <class T> struct Walked {
    const T *first;
    const i64 *walk;
    u32 from;
    MEMBER T operator[](int e) const { return first[offset_of(walk, from + (u32)e)]; }
};
