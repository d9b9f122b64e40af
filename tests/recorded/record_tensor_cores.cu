// Products of single tensor core instructions, and of chains of them, on Hopper: nvcc -gencode=arch=compute_90a,
// code=sm_90a -shared.  Called from record_gpu.py through ctypes; every function returns a cudaError_t.
//
// A product is  d = c + sum over steps of A_s B_s,  one instruction a step, the sum handed from one to the next.
// Memory, in 32-bit words: a[product][step][M][W], b[product][step][N][W] (column n of B in a row), c and d
// [product][M][V].  W is 8 words of k (32 bytes: 16 halves, 8 floats, 32 bytes), 4 in the instructions of half that
// length.  V is N words, or N / 2 where the sum is fp16.  Fragments are alike in all of them when counted in words:
// lane l with g = l / 4, t = l % 4 holds words t (and t + 4) of rows g and g + 8 of A and of row g of B.

#include <cstdint>
#include <cuda_runtime.h>
#include <mma.h>

namespace {

enum Kind {
    FP16 = 0, FP16_K8, FP16_SUM16, BF16, BF16_K8, TF32, TF32_K4, E4M3, E5M2, E4M3_E5M2, E4M3_SUM16, E5M2_SUM16, INT8,
    WMMA_TF32 = 20,
    WG_FP16 = 30, WG_FP16_SUM16, WG_BF16, WG_TF32, WG_E4M3, WG_E5M2, WG_E4M3_SUM16, WG_E5M2_SUM16, WG_INT8
};

__device__ float as_float(uint32_t u) { return __uint_as_float(u); }
__device__ uint32_t as_word(float x) { return __float_as_uint(x); }

// mma.sync

#define MMA_LONG_F32(NAME)                                                                                            \
    {                                                                                                                 \
        float x[4] = {as_float(d[0]), as_float(d[1]), as_float(d[2]), as_float(d[3])};                                \
        asm volatile("mma.sync.aligned." NAME " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"               \
                     : "+f"(x[0]), "+f"(x[1]), "+f"(x[2]), "+f"(x[3])                                                 \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                             \
        for (int i = 0; i < 4; i++) d[i] = as_word(x[i]);                                                             \
    }                                                                                                                 \
    break
#define MMA_SHORT16_F32(NAME)                                                                                         \
    {                                                                                                                 \
        float x[4] = {as_float(d[0]), as_float(d[1]), as_float(d[2]), as_float(d[3])};                                \
        asm volatile("mma.sync.aligned." NAME " {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"                        \
                     : "+f"(x[0]), "+f"(x[1]), "+f"(x[2]), "+f"(x[3])                                                 \
                     : "r"(a[0]), "r"(a[1]), "r"(b[0]));                                                              \
        for (int i = 0; i < 4; i++) d[i] = as_word(x[i]);                                                             \
    }                                                                                                                 \
    break
#define MMA_LONG_16(NAME)                                                                                             \
    asm volatile("mma.sync.aligned." NAME " {%0,%1}, {%2,%3,%4,%5}, {%6,%7}, {%0,%1};"                               \
                 : "+r"(d[0]), "+r"(d[1])                                                                             \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                                 \
    break
#define MMA_LONG_S32(NAME)                                                                                            \
    asm volatile("mma.sync.aligned." NAME " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                   \
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])                                                     \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                                 \
    break

template <int KIND>
__device__ void one_mma(uint32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    switch (KIND) {
        case FP16: MMA_LONG_F32("m16n8k16.row.col.f32.f16.f16.f32");
        case FP16_K8: MMA_SHORT16_F32("m16n8k8.row.col.f32.f16.f16.f32");
        case FP16_SUM16: MMA_LONG_16("m16n8k16.row.col.f16.f16.f16.f16");
        case BF16: MMA_LONG_F32("m16n8k16.row.col.f32.bf16.bf16.f32");
        case BF16_K8: MMA_SHORT16_F32("m16n8k8.row.col.f32.bf16.bf16.f32");
        case TF32: MMA_LONG_F32("m16n8k8.row.col.f32.tf32.tf32.f32");
        case TF32_K4: MMA_SHORT16_F32("m16n8k4.row.col.f32.tf32.tf32.f32");
        case E4M3: MMA_LONG_F32("m16n8k32.row.col.f32.e4m3.e4m3.f32");
        case E5M2: MMA_LONG_F32("m16n8k32.row.col.f32.e5m2.e5m2.f32");
        case E4M3_E5M2: MMA_LONG_F32("m16n8k32.row.col.f32.e4m3.e5m2.f32");
        case E4M3_SUM16: MMA_LONG_16("m16n8k32.row.col.f16.e4m3.e4m3.f16");
        case E5M2_SUM16: MMA_LONG_16("m16n8k32.row.col.f16.e5m2.e5m2.f16");
        case INT8: MMA_LONG_S32("m16n8k32.row.col.s32.s8.s8.s32");
    }
}

// Fragments of c and d: float32 (g, 2t + i), (g + 8, 2t + i); fp16 pairs: word t of rows g and g + 8.

template <bool HALVES>
__device__ int place(int i, int g, int t) {
    return HALVES ? (g + 8 * i) * 4 + t : (g + 8 * (i / 2)) * 8 + 2 * t + i % 2;
}

template <int KIND, int WORDS, bool HALVES>
__global__ void by_mma(int steps, const uint32_t* a, const uint32_t* b, const uint32_t* c, uint32_t* d) {
    const int g = threadIdx.x / 4, t = threadIdx.x % 4, sums = HALVES ? 2 : 4, size = 16 * (HALVES ? 4 : 8);
    uint32_t s[4] = {0, 0, 0, 0};
    c += blockIdx.x * size;
    d += blockIdx.x * size;
    for (int i = 0; i < sums; i++) s[i] = c[place<HALVES>(i, g, t)];
    for (int step = 0; step < steps; step++) {
        const uint32_t* left = a + (blockIdx.x * steps + step) * 16 * WORDS;
        const uint32_t* right = b + (blockIdx.x * steps + step) * 8 * WORDS;
        uint32_t x[4] = {left[g * WORDS + t], left[(g + 8) * WORDS + t], 0, 0}, y[2] = {right[g * WORDS + t], 0};
        if (WORDS == 8) {
            x[2] = left[g * WORDS + t + 4];
            x[3] = left[(g + 8) * WORDS + t + 4];
            y[1] = right[g * WORDS + t + 4];
        }
        one_mma<KIND>(s, x, y);
    }
    for (int i = 0; i < sums; i++) d[place<HALVES>(i, g, t)] = s[i];
}

// wgmma: 128 threads, warp w the rows 16 w ... 16 w + 15; A from registers, B (8 columns) from shared memory as two
// core matrices of 8 columns x 16 bytes, 128 bytes apart, not swizzled.

#define WGMMA(NAME, D, REST)                                                                                          \
    "{\n.reg .pred p;\nsetp.eq.u32 p, 0, 0;\nwgmma.fence.sync.aligned;\n"                                             \
    "wgmma.mma_async.sync.aligned." NAME " " D REST ";\n"                                                             \
    "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n}\n"
#define WG_F32(NAME, SCALES)                                                                                          \
    {                                                                                                                 \
        float x[4] = {as_float(d[0]), as_float(d[1]), as_float(d[2]), as_float(d[3])};                                \
        asm volatile(WGMMA(NAME, "{%0,%1,%2,%3}, ", "{%4,%5,%6,%7}, %8, p" SCALES)                                   \
                     : "+f"(x[0]), "+f"(x[1]), "+f"(x[2]), "+f"(x[3])                                                 \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)                                             \
                     : "memory");                                                                                     \
        for (int i = 0; i < 4; i++) d[i] = as_word(x[i]);                                                             \
    }                                                                                                                 \
    break
#define WG_16(NAME, SCALES)                                                                                           \
    asm volatile(WGMMA(NAME, "{%0,%1}, ", "{%2,%3,%4,%5}, %6, p" SCALES)                                             \
                 : "+r"(d[0]), "+r"(d[1])                                                                             \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)                                                 \
                 : "memory");                                                                                         \
    break
#define WG_S32(NAME)                                                                                                  \
    asm volatile(WGMMA(NAME, "{%0,%1,%2,%3}, ", "{%4,%5,%6,%7}, %8, p")                                              \
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])                                                     \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)                                                 \
                 : "memory");                                                                                         \
    break

template <int KIND>
__device__ void one_wgmma(uint32_t (&d)[4], const uint32_t (&a)[4], uint64_t b) {
    switch (KIND) {
        case WG_FP16: WG_F32("m64n8k16.f32.f16.f16", ", 1, 1, 0");
        case WG_FP16_SUM16: WG_16("m64n8k16.f16.f16.f16", ", 1, 1, 0");
        case WG_BF16: WG_F32("m64n8k16.f32.bf16.bf16", ", 1, 1, 0");
        case WG_TF32: WG_F32("m64n8k8.f32.tf32.tf32", ", 1, 1");
        case WG_E4M3: WG_F32("m64n8k32.f32.e4m3.e4m3", ", 1, 1");
        case WG_E5M2: WG_F32("m64n8k32.f32.e5m2.e5m2", ", 1, 1");
        case WG_E4M3_SUM16: WG_16("m64n8k32.f16.e4m3.e4m3", ", 1, 1");
        case WG_E5M2_SUM16: WG_16("m64n8k32.f16.e5m2.e5m2", ", 1, 1");
        case WG_INT8: WG_S32("m64n8k32.s32.s8.s8");
    }
}

// start address, leading and stride byte offsets (one core matrix both), in units of 16 bytes; no swizzling
__device__ uint64_t descriptor(const void* tile) {
    const uint64_t address = static_cast<uint64_t>(__cvta_generic_to_shared(tile));
    return ((address & 0x3FFFF) >> 4) | (uint64_t(128 >> 4) << 16) | (uint64_t(128 >> 4) << 32);
}

template <int KIND, bool HALVES>
__global__ void by_wgmma(int steps, const uint32_t* a, const uint32_t* b, const uint32_t* c, uint32_t* d) {
    __shared__ __align__(128) uint32_t tile[64];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const int sums = HALVES ? 2 : 4, size = 16 * (HALVES ? 4 : 8);
    uint32_t s[4] = {0, 0, 0, 0};
    c += (blockIdx.x * 4 + warp) * size;
    d += (blockIdx.x * 4 + warp) * size;
    for (int i = 0; i < sums; i++) s[i] = c[place<HALVES>(i, g, t)];
    for (int step = 0; step < steps; step++) {
        const uint32_t* left = a + ((blockIdx.x * steps + step) * 4 + warp) * 16 * 8;
        const uint32_t* right = b + (blockIdx.x * steps + step) * 8 * 8;
        if (threadIdx.x < 64) {
            const int n = threadIdx.x / 8, w = threadIdx.x % 8;
            tile[(w / 4) * 32 + n * 4 + w % 4] = right[n * 8 + w];
        }
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncthreads();
        const uint32_t x[4] = {left[g * 8 + t], left[(g + 8) * 8 + t], left[g * 8 + t + 4], left[(g + 8) * 8 + t + 4]};
        one_wgmma<KIND>(s, x, descriptor(tile));
        __syncthreads();
    }
    for (int i = 0; i < sums; i++) d[place<HALVES>(i, g, t)] = s[i];
}

// The C++ interface: 16 x 16 x 8 in tf32

__global__ void by_wmma_tf32(int steps, const uint32_t* a, const uint32_t* b, const uint32_t* c, uint32_t* d) {
    using namespace nvcuda::wmma;
    fragment<accumulator, 16, 16, 8, float> s;
    load_matrix_sync(s, reinterpret_cast<const float*>(c) + blockIdx.x * 256, 16, mem_row_major);
    for (int step = 0; step < steps; step++) {
        fragment<matrix_a, 16, 16, 8, precision::tf32, row_major> x;
        fragment<matrix_b, 16, 16, 8, precision::tf32, col_major> y;
        load_matrix_sync(x, reinterpret_cast<const float*>(a) + (blockIdx.x * steps + step) * 128, 8);
        load_matrix_sync(y, reinterpret_cast<const float*>(b) + (blockIdx.x * steps + step) * 128, 8);
        mma_sync(s, x, y, s);
    }
    store_matrix_sync(reinterpret_cast<float*>(d) + blockIdx.x * 256, s, 16, mem_row_major);
}

// Host

struct Device {
    uint32_t* words = nullptr;
    cudaError_t error;
    explicit Device(size_t count, const uint32_t* from = nullptr) {
        error = cudaMalloc(&words, count * 4);
        if (error == cudaSuccess && from) error = cudaMemcpy(words, from, count * 4, cudaMemcpyHostToDevice);
    }
    ~Device() { cudaFree(words); }
};

void launch(int kind, int count, int steps, const uint32_t* a, const uint32_t* b, const uint32_t* c, uint32_t* d) {
    switch (kind) {
        case FP16: by_mma<FP16, 8, false><<<count, 32>>>(steps, a, b, c, d); break;
        case FP16_K8: by_mma<FP16_K8, 4, false><<<count, 32>>>(steps, a, b, c, d); break;
        case FP16_SUM16: by_mma<FP16_SUM16, 8, true><<<count, 32>>>(steps, a, b, c, d); break;
        case BF16: by_mma<BF16, 8, false><<<count, 32>>>(steps, a, b, c, d); break;
        case BF16_K8: by_mma<BF16_K8, 4, false><<<count, 32>>>(steps, a, b, c, d); break;
        case TF32: by_mma<TF32, 8, false><<<count, 32>>>(steps, a, b, c, d); break;
        case TF32_K4: by_mma<TF32_K4, 4, false><<<count, 32>>>(steps, a, b, c, d); break;
        case E4M3: by_mma<E4M3, 8, false><<<count, 32>>>(steps, a, b, c, d); break;
        case E5M2: by_mma<E5M2, 8, false><<<count, 32>>>(steps, a, b, c, d); break;
        case E4M3_E5M2: by_mma<E4M3_E5M2, 8, false><<<count, 32>>>(steps, a, b, c, d); break;
        case E4M3_SUM16: by_mma<E4M3_SUM16, 8, true><<<count, 32>>>(steps, a, b, c, d); break;
        case E5M2_SUM16: by_mma<E5M2_SUM16, 8, true><<<count, 32>>>(steps, a, b, c, d); break;
        case INT8: by_mma<INT8, 8, false><<<count, 32>>>(steps, a, b, c, d); break;
        case WMMA_TF32: by_wmma_tf32<<<count, 32>>>(steps, a, b, c, d); break;
        case WG_FP16: by_wgmma<WG_FP16, false><<<count, 128>>>(steps, a, b, c, d); break;
        case WG_FP16_SUM16: by_wgmma<WG_FP16_SUM16, true><<<count, 128>>>(steps, a, b, c, d); break;
        case WG_BF16: by_wgmma<WG_BF16, false><<<count, 128>>>(steps, a, b, c, d); break;
        case WG_TF32: by_wgmma<WG_TF32, false><<<count, 128>>>(steps, a, b, c, d); break;
        case WG_E4M3: by_wgmma<WG_E4M3, false><<<count, 128>>>(steps, a, b, c, d); break;
        case WG_E5M2: by_wgmma<WG_E5M2, false><<<count, 128>>>(steps, a, b, c, d); break;
        case WG_E4M3_SUM16: by_wgmma<WG_E4M3_SUM16, true><<<count, 128>>>(steps, a, b, c, d); break;
        case WG_E5M2_SUM16: by_wgmma<WG_E5M2_SUM16, true><<<count, 128>>>(steps, a, b, c, d); break;
        case WG_INT8: by_wgmma<WG_INT8, false><<<count, 128>>>(steps, a, b, c, d); break;
    }
}

}  // namespace

// sizes: words of a, b and c (d is as large as c)
extern "C" int products(int kind, int count, int steps, const int64_t* sizes, const uint32_t* a, const uint32_t* b,
                        const uint32_t* c, uint32_t* d) {
    Device left(sizes[0], a), right(sizes[1], b), start(sizes[2], c), result(sizes[2]);
    for (cudaError_t error : {left.error, right.error, start.error, result.error})
        if (error != cudaSuccess) return error;
    launch(kind, count, steps, left.words, right.words, start.words, result.words);
    cudaError_t error = cudaGetLastError();
    if (error == cudaSuccess) error = cudaDeviceSynchronize();
    return error == cudaSuccess ? cudaMemcpy(d, result.words, sizes[2] * 4, cudaMemcpyDeviceToHost) : error;
}

extern "C" const char* error_name(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

// text: at least 256 characters
extern "C" int device_name(char* text, int* driver, int* runtime) {
    cudaDeviceProp properties;
    const cudaError_t error = cudaGetDeviceProperties(&properties, 0);
    if (error != cudaSuccess) return error;
    for (int i = 0; i < 256; i++) text[i] = properties.name[i];
    cudaDriverGetVersion(driver);
    return cudaRuntimeGetVersion(runtime);
}
