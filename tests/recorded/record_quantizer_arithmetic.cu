// INT8 row quantization as a widely used CUDA library publishes it, in float32 arithmetic of the GPU, and the divisions
// it rests on.  Built twice, with and without nvcc's --use_fast_math (that library builds with it); called from
// record_gpu.py through ctypes, every function returns a cudaError_t.
//
//     a = max |x| of the row, in fp16, NaN left out, and with a threshold all |x| >= fp16(threshold)
//     q = int8(round_half_even(x * __fdividef(127, a)))      with a threshold 0 where not |x| < threshold
//     y = fp16(fma((acc r) c, 6.200012e-05, bias))

#include <cstdint>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace {

constexpr float DEQUANTIZE = 6.200012e-05f;

__global__ void divide(int count, const uint16_t* halves, float* approximate, float* slash, float* reciprocal,
                       float* rounded) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const float a = __half2float(__ushort_as_half(halves[i]));
    approximate[i] = __fdividef(127.0f, a);
    slash[i] = 127.0f / a;
    asm volatile("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal[i]) : "f"(a));
    rounded[i] = __frcp_rn(a);
}

// One block a row.  Magnitudes of halves are ordered as their patterns are.
__global__ void quantize(int columns, float threshold, const uint16_t* x, int8_t* codes, float* absmax, float* scale) {
    __shared__ unsigned largest;
    const uint16_t* row = x + size_t(blockIdx.x) * columns;
    const bool outliers = threshold > 0.0f;
    const float limit = __half2float(__float2half(threshold));
    if (threadIdx.x == 0) largest = 0;
    __syncthreads();
    for (int j = threadIdx.x; j < columns; j += blockDim.x) {
        const unsigned magnitude = row[j] & 0x7FFFu;
        const float value = __half2float(__ushort_as_half(magnitude));
        if (magnitude <= 0x7C00u && (!outliers || value < limit)) atomicMax(&largest, magnitude);
    }
    __syncthreads();
    const float a = __half2float(__ushort_as_half(largest)), s = __fdividef(127.0f, a);
    if (threadIdx.x == 0) absmax[blockIdx.x] = a, scale[blockIdx.x] = s;
    for (int j = threadIdx.x; j < columns; j += blockDim.x) {
        const float value = __half2float(__ushort_as_half(row[j]));
        const bool kept = !outliers || fabsf(value) < threshold;
        codes[size_t(blockIdx.x) * columns + j] = kept ? int8_t(__float2int_rn(value * s)) : int8_t(0);
    }
}

__global__ void dequantize(int rows, int columns, const int* sums, const float* r, const float* c,
                           const uint16_t* bias, uint16_t* y) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= rows * columns) return;
    const float start = __half2float(__ushort_as_half(bias[i % columns]));
    y[i] = __half_as_ushort(__float2half(fmaf(sums[i] * r[i / columns] * c[i % columns], DEQUANTIZE, start)));
}

template <typename T>
struct OnDevice {
    T* data = nullptr;
    size_t bytes;
    explicit OnDevice(size_t count, const T* from = nullptr) : bytes(count * sizeof(T)) {
        if (cudaMalloc(&data, bytes) == cudaSuccess && from) cudaMemcpy(data, from, bytes, cudaMemcpyHostToDevice);
    }
    ~OnDevice() { cudaFree(data); }
    void copy(T* to) const { cudaMemcpy(to, data, bytes, cudaMemcpyDeviceToHost); }
};

int finish() {
    const cudaError_t error = cudaGetLastError();
    return error == cudaSuccess ? cudaDeviceSynchronize() : error;
}

}  // namespace

extern "C" int divisions(int count, const uint16_t* halves, float* approximate, float* slash, float* reciprocal,
                         float* rounded) {
    OnDevice<uint16_t> x(count, halves);
    OnDevice<float> q(count), s(count), r(count), n(count);
    divide<<<(count + 255) / 256, 256>>>(count, x.data, q.data, s.data, r.data, n.data);
    if (const int error = finish()) return error;
    q.copy(approximate), s.copy(slash), r.copy(reciprocal), n.copy(rounded);
    return finish();
}

extern "C" int quantize_rows(int rows, int columns, float threshold, const uint16_t* x, int8_t* codes, float* absmax,
                             float* scale) {
    OnDevice<uint16_t> values(size_t(rows) * columns, x);
    OnDevice<int8_t> q(size_t(rows) * columns);
    OnDevice<float> a(rows), s(rows);
    quantize<<<rows, 128>>>(columns, threshold, values.data, q.data, a.data, s.data);
    if (const int error = finish()) return error;
    q.copy(codes), a.copy(absmax), s.copy(scale);
    return finish();
}

extern "C" int dequantize_sums(int rows, int columns, const int* sums, const float* r, const float* c,
                               const uint16_t* bias, uint16_t* y) {
    const size_t size = size_t(rows) * columns;
    OnDevice<int> total(size, sums);
    OnDevice<float> row(rows, r), column(columns, c);
    OnDevice<uint16_t> start(columns, bias), result(size);
    dequantize<<<(size + 255) / 256, 256>>>(rows, columns, total.data, row.data, column.data, start.data, result.data);
    if (const int error = finish()) return error;
    result.copy(y);
    return finish();
}

extern "C" const char* error_name(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }
