// CRC-32C (Castagnoli, polynomial 0x1EDC6F41 reflected) of the blocks of a buffer.
//
// x86-64 with SSE4.2: three crc32 instructions in flight (latency 3, throughput 1), joined by a multiplication with
// x^(8n) through a table. arm64 compiled with the CRC extension: its instruction. Otherwise a table, with eight bytes
// in each step.

#include <cstdint>
#include <cstring>

#include "crc32c.h"
#include "napi_util.h"
#include "registration.h"

#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
#endif

namespace holdfast {

namespace {

constexpr uint32_t kPolynomial = 0x82f63b78;  // reflected
// Three lanes of this length cover a 4 KiB block except 16 bytes.
constexpr size_t kLaneBytes = 1360;

struct Tables {
  uint32_t slice[8][256];
  // shift[i][b]: the effect of byte i (value b) of a crc register after kLaneBytes zero bytes.
  uint32_t shift[4][256];
};

uint32_t ZeroBytes(const Tables& tables, uint32_t crc, size_t count) {
  for (size_t i = 0; i < count; ++i) crc = tables.slice[0][crc & 0xff] ^ (crc >> 8);
  return crc;
}

Tables MakeTables() {
  Tables tables;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kPolynomial : 0);
    tables.slice[0][byte] = crc;
  }
  for (uint32_t byte = 0; byte < 256; ++byte) {
    for (int i = 1; i < 8; ++i) {
      const uint32_t crc = tables.slice[i - 1][byte];
      tables.slice[i][byte] = tables.slice[0][crc & 0xff] ^ (crc >> 8);
    }
  }
  // The register is linear over GF(2), so the 32 values with a single bit give all others.
  for (int i = 0; i < 4; ++i) {
    tables.shift[i][0] = 0;
    for (int bit = 0; bit < 8; ++bit) {
      const uint32_t base = 1u << bit;
      tables.shift[i][base] = ZeroBytes(tables, base << (8 * i), kLaneBytes);
      for (uint32_t rest = 1; rest < base; ++rest) {
        tables.shift[i][base + rest] = tables.shift[i][base] ^ tables.shift[i][rest];
      }
    }
  }
  return tables;
}

const Tables& TablesOnce() {
  static const Tables tables = MakeTables();
  return tables;
}

#if !(defined(__aarch64__) && defined(__ARM_FEATURE_CRC32))
uint32_t CrcByTable(uint32_t crc, const uint8_t* data, size_t length) {
  const Tables& tables = TablesOnce();
  while (length >= 8) {
    uint32_t low;
    uint32_t high;
    memcpy(&low, data, 4);
    memcpy(&high, data + 4, 4);
    low ^= crc;
    crc = tables.slice[7][low & 0xff] ^ tables.slice[6][(low >> 8) & 0xff] ^ tables.slice[5][(low >> 16) & 0xff] ^
          tables.slice[4][low >> 24] ^ tables.slice[3][high & 0xff] ^ tables.slice[2][(high >> 8) & 0xff] ^
          tables.slice[1][(high >> 16) & 0xff] ^ tables.slice[0][high >> 24];
    data += 8;
    length -= 8;
  }
  while (length-- > 0) crc = tables.slice[0][(crc ^ *data++) & 0xff] ^ (crc >> 8);
  return crc;
}
#endif

#if defined(__x86_64__)
uint64_t Load64(const uint8_t* data) {
  uint64_t value;
  memcpy(&value, data, 8);
  return value;
}

uint32_t Shift(const Tables& tables, uint64_t crc) {
  return tables.shift[0][crc & 0xff] ^ tables.shift[1][(crc >> 8) & 0xff] ^ tables.shift[2][(crc >> 16) & 0xff] ^
         tables.shift[3][(crc >> 24) & 0xff];
}

__attribute__((target("sse4.2"))) uint32_t CrcBySse42(uint32_t start, const uint8_t* data, size_t length) {
  const Tables& tables = TablesOnce();
  uint64_t crc = start;
  while (length >= 3 * kLaneBytes) {
    uint64_t second = 0;
    uint64_t third = 0;
    for (size_t i = 0; i < kLaneBytes; i += 8) {
      crc = _mm_crc32_u64(crc, Load64(data + i));
      second = _mm_crc32_u64(second, Load64(data + kLaneBytes + i));
      third = _mm_crc32_u64(third, Load64(data + 2 * kLaneBytes + i));
    }
    crc = Shift(tables, crc) ^ second;
    crc = Shift(tables, crc) ^ third;
    data += 3 * kLaneBytes;
    length -= 3 * kLaneBytes;
  }
  for (; length >= 8; data += 8, length -= 8) crc = _mm_crc32_u64(crc, Load64(data));
  for (; length > 0; ++data, --length) crc = _mm_crc32_u8(static_cast<uint32_t>(crc), *data);
  return static_cast<uint32_t>(crc);
}
#elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
uint32_t CrcByArm(uint32_t crc, const uint8_t* data, size_t length) {
  for (; length >= 8; data += 8, length -= 8) {
    uint64_t value;
    memcpy(&value, data, 8);
    crc = __crc32cd(crc, value);
  }
  for (; length > 0; ++data, --length) crc = __crc32cb(crc, *data);
  return crc;
}
#endif

using CrcFunction = uint32_t (*)(uint32_t, const uint8_t*, size_t);

CrcFunction Fastest() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("sse4.2") != 0 ? CrcBySse42 : CrcByTable;
#elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
  return CrcByArm;
#else
  return CrcByTable;
#endif
}

napi_value Blocks(napi_env env, napi_callback_info info, CrcFunction crc) {
  const Arguments args(env, info);
  uint8_t* data;
  size_t length;
  uint32_t block_bytes;
  if (!args.Bytes(0, &data, &length) || !args.Uint32(1, &block_bytes)) return nullptr;
  if (block_bytes == 0) return ThrowType(env, "the block size must be above 0");
  const size_t count = (length + block_bytes - 1) / block_bytes;
  napi_value memory;
  napi_value result;
  void* out;
  HOLDFAST_NAPI(env, napi_create_arraybuffer(env, count * sizeof(uint32_t), &out, &memory));
  auto* sums = static_cast<uint32_t*>(out);
  for (size_t i = 0; i < count; ++i) {
    const size_t start = i * block_bytes;
    const size_t bytes = length - start < block_bytes ? length - start : block_bytes;
    sums[i] = crc(0xffffffff, data + start, bytes) ^ 0xffffffff;
  }
  HOLDFAST_NAPI(env, napi_create_typedarray(env, napi_uint32_array, count, memory, 0, &result));
  return result;
}

napi_value Crc32cBlocks(napi_env env, napi_callback_info info) {
  return Blocks(env, info, Crc32cExtend);
}

// The code for a processor without the instruction; a test checks that both agree.
napi_value Crc32cBlocksPortable(napi_env env, napi_callback_info info) {
#if defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
  return Blocks(env, info, CrcByArm);
#else
  return Blocks(env, info, CrcByTable);
#endif
}

}  // namespace

uint32_t Crc32cExtend(uint32_t state, const uint8_t* data, size_t length) {
  static const CrcFunction fastest = Fastest();
  return fastest(state, data, length);
}

bool RegisterCrc32c(napi_env env, napi_value exports) {
  return DefineFunction(env, exports, "crc32cBlocks", Crc32cBlocks) &&
         DefineFunction(env, exports, "crc32cBlocksPortable", Crc32cBlocksPortable);
}

}  // namespace holdfast
