// y = x W' + b for a W that lies in few bits, as effkit/models/stored/packed.py stores it: bit planes of 4, 2 and 1 bits (8 is a
// plane of its own), a scale and perhaps a zero point for each group of a row. A thread unpacks one row at a time into a
// buffer that stays in its cache, so memory gives only the packed bytes: that is what makes it faster than dense weights.
// Everything is computed in float32. Compiled by native.py, called through ctypes.

#include <algorithm>
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
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));

inline Floats load(const float* from) {
  Floats v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

// LANES bytes as 32-bit integers. Intrinsics, since compilers (gcc 12) make five instructions of what is one.
inline Ints widen_ints(const uint8_t* from) {
#if defined(__AVX512F__)
  return (Ints)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)from));
#elif defined(__AVX2__)
  return (Ints)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)from));
#else
  Ints v;
  for (int i = 0; i < LANES; i++) v[i] = from[i];
  return v;
#endif
}

inline Floats floats(Ints v) { return __builtin_convertvector(v, Floats); }
inline Floats widen(const uint8_t* from) { return floats(widen_ints(from)); }

inline float sum(Floats v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#endif
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
constexpr int BLOCK = 8;  // rows whose scales and zero points are read together

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

// One row of 4 bits without unpacking first: a byte holds an integer of group g and one of group g + groups / 2. Returns
// sum over the groups of scale * sum(q * x); what zero points take off is `taken_off` below, once a group and not once a weight.
template <int group>
Floats one_row_of_four_bits(const uint8_t* bytes, const float* scales, const float* x, long groups) {
  const long half = groups / 2;
  Floats low = {}, high = {};
  for (long g = 0; g < half; g++, bytes += group, x += group) {
    const float* upper = x + half * group;
    Floats a = {}, b = {};
    for (int j = 0; j < group; j += LANES) {
      const Ints v = widen_ints(bytes + j);
      a += floats(v & 15) * load(x + j);
      b += floats(v >> 4) * load(upper + j);
    }
    low += a * scales[g];
    high += b * scales[g + half];
  }
  return low + high;
}

Floats one_row_of_four_bits(const uint8_t* bytes, const float* scales, const float* x, long groups, long group) {
  if (group == 32) return one_row_of_four_bits<32>(bytes, scales, x, groups);
  if (group == 64) return one_row_of_four_bits<64>(bytes, scales, x, groups);
  return one_row_of_four_bits<128>(bytes, scales, x, groups);
}

// sum over the groups of scale * zero * sum(x). Beyond the groups, up to a whole vector, sums are 0 and the others numbers.
Floats taken_off(const float* scales, const float* zeros, const float* sums, long groups) {
  Floats total = {};
  for (long g = 0; g < groups; g += LANES) total += load(scales + g) * load(zeros + g) * load(sums + g);
  return total;
}

void group_sums(const float* x, float* sums, long groups, long group) {
  for (long g = 0; g < groups; g++, x += group) {
    Floats total = {};
    for (long j = 0; j < group; j += LANES) total += load(x + j);
    sums[g] = sum(total);
  }
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

// Row r of the scales (or of real zero points), as floats; `out` has PAD elements more.
void read_scales(const uint16_t* scales, long r, long rows, long groups, int bfloat16, float* out) {
  const uint16_t* from = scales + r * groups;
  uint16_t end[LANES] = {};
  for (long g = 0; g < groups; g += LANES) {
    const uint16_t* at = from + g;
    if (rows - r <= LANES && groups - g < LANES) {  // near the end of the tensor a whole vector may reach beyond it
      std::memcpy(end, at, 2 * (groups - g));
      at = end;
    }
    const Floats v = bfloat16 ? widen_bfloat16(at) : widen_float16(at);
    std::memcpy(out + g, &v, sizeof v);
  }
}

// The zero points of a row, as floats. Those of eight rows are read before any is used: a processor waits when it reads
// a vector that was just written in smaller pieces.
void read_zeros(const uint8_t* packed, long groups, int bits, bool last, uint8_t* unpacked, uint8_t* scratch, float* out) {
  if (bits == 4) {
    const long half = (groups + 1) / 2;
    if (last) packed = (uint8_t*)std::memcpy(scratch, packed, half);  // a whole vector may reach beyond the tensor's end
    for (int part = 0; part < 2; part++, out += half)
      for (long g = 0; g < half; g += LANES) {
        const Floats v = floats((widen_ints(packed + g) >> (4 * part)) & 15);
        std::memcpy(out + g, &v, sizeof v);
      }
    return;
  }
  if (bits == 8) std::memcpy(unpacked, packed, groups);
  else unpack(packed, unpacked, scratch, groups, bits);
  for (long g = 0; g < groups; g += LANES) {
    const Floats v = widen(unpacked + g);
    std::memcpy(out + g, &v, sizeof v);
  }
}

}  // namespace

// x [m, columns], y [m, rows] and bias [rows] (or null) are float32; integers [rows, row_bytes]; scales 16-bit floats
// [rows, columns / group], bfloat16 where `bfloat16` is not 0, else float16; zeros packed [rows, zero_bytes], or 16-bit
// floats as scales are where `real_zeros` is 1 (float16) or 2 (bfloat16), or null where symmetric.
extern "C" void effkit_packed_linear(const float* x, long m, const uint8_t* integers, long row_bytes, const uint16_t* scales,
                                     int bfloat16, const void* zeros, long zero_bytes, int real_zeros, const float* bias,
                                     float* y, long rows, long columns, long group, int bits, int threads) {
  const long groups = columns / group, wide = groups + PAD;
  const bool direct = m == 1 && bits == 4 && groups % 2 == 0 && (group == 32 || group == 64 || group == 128);
#pragma omp parallel num_threads(threads)
  {
    thread_local std::vector<uint8_t> bytes;  // kept from call to call, and looked up once a call
    thread_local std::vector<float> numbers;
    bytes.resize(2 * (columns + PAD));
    numbers.resize((2 * BLOCK + 1) * wide + columns);
    uint8_t *const unpacked = bytes.data(), *const scratch = unpacked + columns + PAD;
    float *const scale = numbers.data(), *const zero = scale + BLOCK * wide, *const sums = zero + BLOCK * wide, *const weights = sums + wide;
    std::fill(sums, sums + wide, 0.0f);
    if (direct) group_sums(x, sums, groups, group);
    std::fill(zero, zero + BLOCK * wide, float(1 << (bits - 1)));
#pragma omp for schedule(static)
    for (long block = 0; block < rows; block += BLOCK) {
      const long end = block + BLOCK < rows ? block + BLOCK : rows;
      for (long r = block; r < end; r++) read_scales(scales, r, rows, groups, bfloat16, scale + (r - block) * wide);
      for (long r = block; zeros && r < end; r++) {
        float* const out = zero + (r - block) * wide;
        if (real_zeros) read_scales((const uint16_t*)zeros, r, rows, groups, real_zeros == 2, out);
        else read_zeros((const uint8_t*)zeros + r * zero_bytes, groups, bits, rows - r <= LANES, unpacked, scratch, out);
      }
      for (long r = block; r < end; r++) {
        const uint8_t* q = integers + r * row_bytes;
        const float *const s = scale + (r - block) * wide, *const z = zero + (r - block) * wide, b = bias ? bias[r] : 0.0f;
        if (direct) {
          y[r] = sum(one_row_of_four_bits(q, s, x, groups, group) - taken_off(s, z, sums, groups)) + b;
          continue;
        }
        if (bits != 8) {
          unpack(q, unpacked, scratch, columns, bits);
          q = unpacked;
        }
        if (m == 1) {
          y[r] = one_row(q, s, z, x, groups, group) + b;
          continue;
        }
        expand(q, s, z, weights, groups, group);
        for (long i = 0; i < m; i++) y[i * rows + r] = dot(weights, x + i * columns, columns) + b;
      }
    }
  }
}
