// cl_khr_fp16 for devices that lack it and whose compiler, clang, has _Float16 (PoCL on a CPU).
// It goes before a kernel's source. Functions compute in float and round to half, to nearest even.
// Left out: conversions from and to double, and other rounding modes than _rte.
#ifndef __FLT16_MAX__
#error "this device has neither cl_khr_fp16 nor a compiler with _Float16: half cannot be emulated"
#endif
#pragma clang diagnostic ignored "-Wignored-pragmas"  // the one that enables cl_khr_fp16
#define cl_khr_fp16 1
#define half _Float16
typedef half half2 __attribute__((ext_vector_type(2)));
typedef half half3 __attribute__((ext_vector_type(3)));
typedef half half4 __attribute__((ext_vector_type(4)));
typedef half half8 __attribute__((ext_vector_type(8)));
typedef half half16 __attribute__((ext_vector_type(16)));
#define as_half(x) __builtin_astype((x), half)
#define as_half2(x) __builtin_astype((x), half2)
#define as_half3(x) __builtin_astype((x), half3)
#define as_half4(x) __builtin_astype((x), half4)
#define as_half8(x) __builtin_astype((x), half8)
#define as_half16(x) __builtin_astype((x), half16)

#define H_FN static inline __attribute__((overloadable, always_inline))
#define H_SCALAR(x, type) ((type)(x))
#define H_VECTOR(x, type) __builtin_convertvector((x), type)

// N is what stands behind the name of a type, CV how a value of that width is converted.
#define H_UNARY(name, N, CV) \
  H_FN half##N name(half##N x) { return CV(name(CV(x, float##N)), half##N); }
#define H_BINARY(name, N, CV)                       \
  H_FN half##N name(half##N x, half##N y) {         \
    return CV(name(CV(x, float##N), CV(y, float##N)), half##N); \
  }
#define H_TERNARY(name, N, CV)                              \
  H_FN half##N name(half##N x, half##N y, half##N z) {      \
    return CV(name(CV(x, float##N), CV(y, float##N), CV(z, float##N)), half##N); \
  }
#define H_CONVERT(T, N, CV)                                                 \
  H_FN half##N convert_half##N(T##N x) { return CV(CV(x, float##N), half##N); } \
  H_FN half##N convert_half##N##_rte(T##N x) { return CV(CV(x, float##N), half##N); } \
  H_FN T##N convert_##T##N(half##N x) { return CV(CV(x, float##N), T##N); }

#define H_WIDTH(N, CV)                                                                       \
  H_UNARY(exp, N, CV) H_UNARY(exp2, N, CV) H_UNARY(exp10, N, CV) H_UNARY(expm1, N, CV)       \
  H_UNARY(log, N, CV) H_UNARY(log2, N, CV) H_UNARY(log10, N, CV) H_UNARY(log1p, N, CV)       \
  H_UNARY(sqrt, N, CV) H_UNARY(rsqrt, N, CV) H_UNARY(cbrt, N, CV) H_UNARY(erf, N, CV)        \
  H_UNARY(sin, N, CV) H_UNARY(cos, N, CV) H_UNARY(tan, N, CV) H_UNARY(asin, N, CV)           \
  H_UNARY(acos, N, CV) H_UNARY(atan, N, CV) H_UNARY(sinh, N, CV) H_UNARY(cosh, N, CV)        \
  H_UNARY(tanh, N, CV) H_UNARY(fabs, N, CV) H_UNARY(floor, N, CV) H_UNARY(ceil, N, CV)       \
  H_UNARY(round, N, CV) H_UNARY(rint, N, CV) H_UNARY(trunc, N, CV) H_UNARY(sign, N, CV)      \
  H_BINARY(min, N, CV) H_BINARY(max, N, CV) H_BINARY(fmin, N, CV) H_BINARY(fmax, N, CV)      \
  H_BINARY(pow, N, CV) H_BINARY(fmod, N, CV) H_BINARY(atan2, N, CV) H_BINARY(copysign, N, CV) \
  H_TERNARY(fma, N, CV) H_TERNARY(mad, N, CV) H_TERNARY(clamp, N, CV) H_TERNARY(mix, N, CV)  \
  H_CONVERT(char, N, CV) H_CONVERT(uchar, N, CV) H_CONVERT(short, N, CV)                     \
  H_CONVERT(ushort, N, CV) H_CONVERT(int, N, CV) H_CONVERT(uint, N, CV)                      \
  H_CONVERT(long, N, CV) H_CONVERT(ulong, N, CV) H_CONVERT(float, N, CV)                     \
  H_FN half##N convert_half##N(half##N x) { return x; }

H_WIDTH(, H_SCALAR)
H_WIDTH(2, H_VECTOR)
H_WIDTH(3, H_VECTOR)
H_WIDTH(4, H_VECTOR)
H_WIDTH(8, H_VECTOR)
H_WIDTH(16, H_VECTOR)

H_FN int isnan(half x) { return isnan((float)x); }
H_FN int isinf(half x) { return isinf((float)x); }
H_FN int isfinite(half x) { return isfinite((float)x); }
H_FN half select(half a, half b, short c) { return c ? b : a; }
H_FN half select(half a, half b, ushort c) { return c ? b : a; }

// Of a vector, the sign bit of a condition's element chooses.
#define H_MIXED(N)                                                                             \
  H_FN half##N select(half##N a, half##N b, short##N c) {                                      \
    return as_half##N(select(__builtin_astype(a, short##N), __builtin_astype(b, short##N), c)); \
  }                                                                                            \
  H_FN half##N select(half##N a, half##N b, ushort##N c) {                                     \
    return select(a, b, __builtin_astype(c, short##N));                                        \
  }                                                                                            \
  H_FN short##N isnan(half##N x) { return x != x; }                                            \
  H_FN half##N min(half##N x, half y) { return min(x, (half##N)(y)); }                         \
  H_FN half##N max(half##N x, half y) { return max(x, (half##N)(y)); }                         \
  H_FN half##N fmin(half##N x, half y) { return fmin(x, (half##N)(y)); }                       \
  H_FN half##N fmax(half##N x, half y) { return fmax(x, (half##N)(y)); }                       \
  H_FN half##N clamp(half##N x, half y, half z) { return clamp(x, (half##N)(y), (half##N)(z)); }

H_MIXED(2)
H_MIXED(3)
H_MIXED(4)
H_MIXED(8)
H_MIXED(16)

H_FN half dot(half x, half y) { return x * y; }
H_FN half dot(half2 x, half2 y) { return (half)dot(convert_float2(x), convert_float2(y)); }
H_FN half dot(half3 x, half3 y) { return (half)dot(convert_float3(x), convert_float3(y)); }
H_FN half dot(half4 x, half4 y) { return (half)dot(convert_float4(x), convert_float4(y)); }

// Vectors in memory are aligned as one half; a half3 there is three. vload_half and vstore_half are of OpenCL itself, but
// for its own type half, which here is hidden.
typedef half2 h_packed2 __attribute__((aligned(2)));
typedef half4 h_packed4 __attribute__((aligned(2)));
typedef half8 h_packed8 __attribute__((aligned(2)));
typedef half16 h_packed16 __attribute__((aligned(2)));
#define H_LOAD(N, space, ...)                                  \
  H_FN half##N vload##N(size_t i, const space half *p) {       \
    __VA_ARGS__                                                \
  }                                                            \
  H_FN float##N vload_half##N(size_t i, const space half *p) { \
    return convert_float##N(vload##N(i, p));                   \
  }
#define H_STORE(N, space, ...)                                          \
  H_FN void vstore##N(half##N x, size_t i, space half *p) {             \
    __VA_ARGS__                                                         \
  }                                                                     \
  H_FN void vstore_half##N(float##N x, size_t i, space half *p) {       \
    vstore##N(convert_half##N(x), i, p);                                \
  }                                                                     \
  H_FN void vstore_half##N##_rte(float##N x, size_t i, space half *p) { \
    vstore##N(convert_half##N(x), i, p);                                \
  }
#define H_LOAD_WHOLE(N, space) \
  H_LOAD(N, space, return *(const space h_packed##N *)(p + i * N);)
#define H_STORE_WHOLE(N, space) \
  H_STORE(N, space, *(space h_packed##N *)(p + i * N) = x;)
#define H_LOADS(space)                                                                  \
  H_FN float vload_half(size_t i, const space half *p) { return (float)p[i]; }          \
  H_LOAD(3, space, return (half3)(p[3 * i], p[3 * i + 1], p[3 * i + 2]);)               \
  H_LOAD_WHOLE(2, space) H_LOAD_WHOLE(4, space) H_LOAD_WHOLE(8, space) H_LOAD_WHOLE(16, space)
#define H_STORES(space)                                                                      \
  H_FN void vstore_half(float x, size_t i, space half *p) { p[i] = (half)x; }                \
  H_FN void vstore_half_rte(float x, size_t i, space half *p) { p[i] = (half)x; }            \
  H_STORE(3, space, for (int k = 0; k < 3; ++k) p[3 * i + k] = x[k];)                        \
  H_STORE_WHOLE(2, space) H_STORE_WHOLE(4, space) H_STORE_WHOLE(8, space)                    \
  H_STORE_WHOLE(16, space)

H_LOADS(__constant)
H_LOADS(__global)
H_LOADS(__local)
H_LOADS(__private)
H_STORES(__global)
H_STORES(__local)
H_STORES(__private)
#line 1
