// y = x W' + b for a W that lies in few bits, as effkit/models/packed.py stores it: bit planes of 4, 2 and 1 bits (8 is a
// plane of its own), a scale and perhaps a zero point for each group of a row. A thread unpacks one row at a time into a
// buffer that stays in its cache, so memory gives only the packed bytes: that is what makes it faster than dense weights.
// Everything is computed in float32. Compiled by native.py, called through ctypes.

#include <cstdint>
#include <cstring>
#include <vector>
#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif
typedef float Floats __attribute__((vector_size(4 * LANES)));

inline Floats load(const float* from) {
  Floats v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

// LANES integers as floats. Intrinsics, since compilers (gcc 12) make five instructions of what is one.
inline Floats widen(const uint8_t* from) {
#if defined(__AVX512F__)
  return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)from)));
#elif defined(__AVX2__)
  return (Floats)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)from)));
#else
  Floats v;
  for (int i = 0; i < LANES; i++) v[i] = float(from[i]);
  return v;
#endif
}

inline float sum(Floats v) {
  float total = 0;
  for (int i = 0; i < LANES; i++) total += v[i];
  return total;
}

inline float from_bfloat16(uint16_t bits) {
  const uint32_t word = uint32_t(bits) << 16;
  float value;
  std::memcpy(&value, &word, 4);
  return value;
}

inline float from_float16(uint16_t bits) {
  _Float16 value;
  std::memcpy(&value, &bits, 2);
  return float(value);
}

// A plane of `width` bits: byte j holds integers j, j + length, j + 2 length, ... from its low bits up.
template <int width, bool first>
inline void plane(const uint8_t* __restrict in, uint8_t* __restrict out, long length, int shift) {
  for (int part = 0; part < 8 / width; part++) {
    uint8_t* __restrict to = out + part * length;
    for (long j = 0; j < length; j++) {
      const uint8_t value = uint8_t(((in[j] >> (part * width)) & ((1 << width) - 1)) << shift);
      to[j] = first ? value : uint8_t(to[j] | value);
    }
  }
}

// `count` integers of 2 to 7 bits; `out` has room for 7 more than that.
void unpack(const uint8_t* in, uint8_t* out, long count, int bits) {
  const long four = (count * 4 + 7) / 8, two = (count * 2 + 7) / 8, one = (count + 7) / 8;
  int done = 0;
  if (bits & 4) {
    plane<4, true>(in, out, four, 0);
    in += four;
    done = 4;
  }
  if (bits & 2) {
    if (done) plane<2, false>(in, out, two, done);
    else plane<2, true>(in, out, two, 0);
    in += two;
    done += 2;
  }
  if (bits & 1) plane<1, false>(in, out, one, done);
}

// sum over the groups of scale * sum((q - zero) * x)
float one_row(const uint8_t* q, const float* scales, const float* zeros, const float* x, long groups, long group) {
  Floats even = {}, odd = {};
  float rest = 0;
  for (long g = 0; g < groups; g++, q += group, x += group) {
    const float zero = zeros[g], scale = scales[g];
    Floats a = {}, b = {};
    long j = 0;
    for (; j + 2 * LANES <= group; j += 2 * LANES) {
      a += (widen(q + j) - zero) * load(x + j);
      b += (widen(q + j + LANES) - zero) * load(x + j + LANES);
    }
    for (; j + LANES <= group; j += LANES) a += (widen(q + j) - zero) * load(x + j);
    even += a * scale;
    odd += b * scale;
    float tail = 0;
    for (; j < group; j++) tail += (float(q[j]) - zero) * x[j];
    rest += tail * scale;
  }
  return sum(even + odd) + rest;
}

void expand(const uint8_t* q, const float* scales, const float* zeros, float* out, long groups, long group) {
  for (long g = 0; g < groups; g++, q += group, out += group) {
    long j = 0;
    for (; j + LANES <= group; j += LANES) {
      const Floats v = (widen(q + j) - zeros[g]) * scales[g];
      std::memcpy(out + j, &v, sizeof v);
    }
    for (; j < group; j++) out[j] = (float(q[j]) - zeros[g]) * scales[g];
  }
}

float dot(const float* a, const float* b, long count) {
  Floats s0 = {}, s1 = {}, s2 = {}, s3 = {};
  long j = 0;
  for (; j + 4 * LANES <= count; j += 4 * LANES) {
    s0 += load(a + j) * load(b + j);
    s1 += load(a + j + LANES) * load(b + j + LANES);
    s2 += load(a + j + 2 * LANES) * load(b + j + 2 * LANES);
    s3 += load(a + j + 3 * LANES) * load(b + j + 3 * LANES);
  }
  for (; j + LANES <= count; j += LANES) s0 += load(a + j) * load(b + j);
  float rest = 0;
  for (; j < count; j++) rest += a[j] * b[j];
  return sum((s0 + s1) + (s2 + s3)) + rest;
}

}  // namespace

// x [m, columns], y [m, rows] and bias [rows] (or null) are float32; integers [rows, row_bytes]; scales 16-bit floats
// [rows, columns / group], bfloat16 where `bfloat16` is not 0, else float16; zeros [rows, zero_bytes], null where symmetric.
extern "C" void effkit_packed_linear(const float* x, long m, const uint8_t* integers, long row_bytes, const uint16_t* scales,
                                     int bfloat16, const uint8_t* zeros, long zero_bytes, const float* bias, float* y,
                                     long rows, long columns, long group, int bits, int threads) {
  const long groups = columns / group;
#pragma omp parallel num_threads(threads)
  {
    std::vector<uint8_t> unpacked(columns + 8), unpacked_zeros(groups + 8);
    std::vector<float> scale(groups), zero(groups, float(1 << (bits - 1))), weights(m > 1 ? columns : 0);
#pragma omp for schedule(static)
    for (long r = 0; r < rows; r++) {
      const uint8_t *q = integers + r * row_bytes, *z = zeros + r * zero_bytes;
      if (bits != 8) {
        unpack(q, unpacked.data(), columns, bits);
        q = unpacked.data();
      }
      if (zeros) {
        if (bits != 8) {
          unpack(z, unpacked_zeros.data(), groups, bits);
          z = unpacked_zeros.data();
        }
        for (long g = 0; g < groups; g++) zero[g] = float(z[g]);
      }
      const uint16_t* s = scales + r * groups;
      if (bfloat16)
        for (long g = 0; g < groups; g++) scale[g] = from_bfloat16(s[g]);
      else
        for (long g = 0; g < groups; g++) scale[g] = from_float16(s[g]);
      const float b = bias ? bias[r] : 0.0f;
      if (m == 1) {
        y[r] = one_row(q, scale.data(), zero.data(), x, groups, group) + b;
        continue;
      }
      expand(q, scale.data(), zero.data(), weights.data(), groups, group);
      for (long i = 0; i < m; i++) y[i * rows + r] = dot(weights.data(), x + i * columns, columns) + b;
    }
  }
}
