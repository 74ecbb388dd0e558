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
  float part[LANES];
  std::memcpy(part, &v, sizeof v);
  for (int half = LANES / 2; half; half /= 2)
    for (int i = 0; i < half; i++) part[i] += part[i + half];
  return part[0];
}

// LANES 16-bit floats as floats.
inline Floats widen_bfloat16(const uint16_t* from) {
  Floats v;
  uint32_t words[LANES];
  for (int i = 0; i < LANES; i++) words[i] = uint32_t(from[i]) << 16;
  std::memcpy(&v, words, sizeof v);
  return v;
}

inline Floats widen_float16(const uint16_t* from) {
#if defined(__AVX512F__)
  return (Floats)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from));
#elif defined(__AVX2__) && defined(__F16C__)
  return (Floats)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from));
#else
  Floats v;
  _Float16 values[LANES];
  std::memcpy(values, from, sizeof values);
  for (int i = 0; i < LANES; i++) v[i] = float(values[i]);
  return v;
#endif
}

// All buffers below are PAD elements longer than what they hold, so that loops may run to whole words and vectors.
constexpr int PAD = 64;

// A plane of `width` bits: byte j holds integers j, j + length, j + 2 length, ... from its low bits up (little-endian words). A part may write
// up to 7 bytes too many: they lie where the next part writes afterwards, or in the padding.
template <int width>
inline void plane(const uint8_t* __restrict in, uint8_t* __restrict out, long length) {
  constexpr uint64_t mask = 0x0101010101010101ull * ((1 << width) - 1);
  const long whole = length / 8 * 8;
  uint64_t last = 0;
  for (long j = whole; j < length; j++) last |= uint64_t(in[j]) << (8 * (j - whole));
  for (int part = 0; part < 8 / width; part++, out += length) {
    for (long j = 0; j < whole; j += 8) {
      uint64_t word;
      std::memcpy(&word, in + j, 8);
      word = (word >> (part * width)) & mask;
      std::memcpy(out + j, &word, 8);
    }
    const uint64_t word = (last >> (part * width)) & mask;
    std::memcpy(out + whole, &word, 8);
  }
}

inline void add_plane(uint8_t* __restrict out, const uint8_t* __restrict upper, long count, int shift) {
  for (long j = 0; j < count; j += 8) {  // no bit leaves its byte: upper has at most 8 - shift bits
    uint64_t low, high;
    std::memcpy(&low, out + j, 8);
    std::memcpy(&high, upper + j, 8);
    low |= high << shift;
    std::memcpy(out + j, &low, 8);
  }
}

// `count` integers of 2 to 7 bits; `scratch` is as long as `out`.
void unpack(const uint8_t* in, uint8_t* out, uint8_t* scratch, long count, int bits) {
  const long four = (count * 4 + 7) / 8, two = (count * 2 + 7) / 8, one = (count + 7) / 8;
  int done = 0;
  if (bits & 4) {
    plane<4>(in, out, four);
    in += four;
    done = 4;
  }
  if (bits & 2) {
    plane<2>(in, done ? scratch : out, two);
    in += two;
    if (done) add_plane(out, scratch, count, done);
    done += 2;
  }
  if (bits & 1) {
    plane<1>(in, scratch, one);
    add_plane(out, scratch, count, done);
  }
}

// sum over the groups of scale * sum((q - zero) * x), for any group; the usual ones have a shorter way below
float one_row_any(const uint8_t* q, const float* scales, const float* zeros, const float* x, long groups, long group) {
  Floats total = {};
  float rest = 0;
  for (long g = 0; g < groups; g++, q += group, x += group) {
    Floats part = {};
    float tail = 0;
    long j = 0;
    for (; j + LANES <= group; j += LANES) part += (widen(q + j) - zeros[g]) * load(x + j);
    for (; j < group; j++) tail += (float(q[j]) - zeros[g]) * x[j];
    total += part * scales[g];
    rest += tail * scales[g];
  }
  return sum(total) + rest;
}

template <int group>
float one_row_of(const uint8_t* q, const float* scales, const float* zeros, const float* x, long groups) {
  Floats even = {}, odd = {};
  for (long g = 0; g < groups; g++, q += group, x += group) {
    Floats a = {}, b = {};
    for (int j = 0; j < group; j += 2 * LANES) {
      a += (widen(q + j) - zeros[g]) * load(x + j);
      b += (widen(q + j + LANES) - zeros[g]) * load(x + j + LANES);
    }
    even += a * scales[g];
    odd += b * scales[g];
  }
  return sum(even + odd);
}

float one_row(const uint8_t* q, const float* scales, const float* zeros, const float* x, long groups, long group) {
  switch (group) {
    case 32: return one_row_of<32>(q, scales, zeros, x, groups);
    case 64: return one_row_of<64>(q, scales, zeros, x, groups);
    case 128: return one_row_of<128>(q, scales, zeros, x, groups);
    default: return one_row_any(q, scales, zeros, x, groups, group);
  }
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
    thread_local std::vector<uint8_t> unpacked, scratch;  // kept from call to call
    thread_local std::vector<uint16_t> halves;
    thread_local std::vector<float> scale, zero, weights;
    unpacked.resize(columns + PAD);
    scratch.resize(columns + PAD);
    halves.resize(groups + PAD);
    scale.resize(groups + PAD);
    zero.assign(groups + PAD, float(1 << (bits - 1)));
    weights.resize(m > 1 ? columns : 0);
#pragma omp for schedule(static)
    for (long r = 0; r < rows; r++) {
      const uint16_t* s = scales + r * groups;
      if (rows - r <= LANES) {  // near the end of the tensor a whole vector may reach beyond it
        std::memcpy(halves.data(), s, 2 * groups);
        s = halves.data();
      }
      for (long g = 0; g < groups; g += LANES) {
        const Floats v = bfloat16 ? widen_bfloat16(s + g) : widen_float16(s + g);
        std::memcpy(scale.data() + g, &v, sizeof v);
      }
      if (zeros) {
        const uint8_t* z = zeros + r * zero_bytes;
        if (bits != 8) unpack(z, unpacked.data(), scratch.data(), groups, bits);
        else std::memcpy(unpacked.data(), z, groups);
        for (long g = 0; g < groups; g += LANES) {
          const Floats v = widen(unpacked.data() + g);
          std::memcpy(zero.data() + g, &v, sizeof v);
        }
      }
      const uint8_t* q = integers + r * row_bytes;
      if (bits != 8) {
        unpack(q, unpacked.data(), scratch.data(), columns, bits);
        q = unpacked.data();
      }
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
