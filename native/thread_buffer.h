// Memory that all sockets of a thread use in turns: for what passes through within one call. It holds ciphertext only.
//
// A call of JavaScript while it is in use may need it too. Then that call gets memory of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace holdfast {

enum class BufferUse { kReceive, kSend };

template <BufferUse use, size_t size>
class ThreadBuffer {
 public:
  ThreadBuffer() : memory_(std::move(Spare())) {
    // Not value-initialised: nobody reads what nobody wrote.
    if (memory_ == nullptr) memory_.reset(new uint8_t[size]);
  }
  ~ThreadBuffer() { Spare() = std::move(memory_); }
  ThreadBuffer(const ThreadBuffer&) = delete;
  ThreadBuffer& operator=(const ThreadBuffer&) = delete;

  uint8_t* data() const { return memory_.get(); }

 private:
  static std::unique_ptr<uint8_t[]>& Spare() {
    thread_local std::unique_ptr<uint8_t[]> spare;
    return spare;
  }

  std::unique_ptr<uint8_t[]> memory_;
};

}  // namespace holdfast
