#pragma once

#include <cstddef>
#include <cstdint>

namespace holdfast {

// The register of CRC-32C after more bytes, by the processor's fastest way. It begins as 0xffffffff, and its complement
// is the checksum.
uint32_t Crc32cExtend(uint32_t state, const uint8_t* data, size_t length);

}  // namespace holdfast
