// Block-device and loop-device calls that Node has no function for. For opening, reading, writing and syncing Node's
// own functions serve (src/runtime/node_block.ts).

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "background.h"
#include "napi_util.h"
#include "registration.h"

#ifndef LOOP_CONFIGURE  // Linux 5.8; older userland headers
#define LOOP_CONFIGURE 0x4C0A
struct loop_config {
  __u32 fd;
  __u32 block_size;
  struct loop_info64 info;
  __u64 reserved[8];
};
#endif

#ifndef SYS_cachestat  // Linux 6.5
#define SYS_cachestat 451
#endif

namespace holdfast {

namespace {

// struct cachestat and cachestat_range of linux/mman.h, 6.5 and later.
struct CacheRange {
  uint64_t offset;
  uint64_t length;
};
struct CachePages {
  uint64_t cached;
  uint64_t dirty;
  uint64_t writeback;
  uint64_t evicted;
  uint64_t recently_evicted;
};

constexpr uint64_t kPageBytes = 4096;
// Of one call. A wrong length must not take all memory of the machine.
constexpr uint32_t kMemoryMax = 1u << 30;

bool SetNumber(napi_env env, napi_value object, const char* key, uint64_t number) {
  napi_value value;
  return napi_create_double(env, static_cast<double>(number), &value) == napi_ok &&
         napi_set_named_property(env, object, key, value) == napi_ok;
}

// blockGeometry(fd): size and sector sizes in bytes. ENOTTY if fd is no block device.
napi_value BlockGeometry(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  int32_t fd;
  if (!args.Int32(0, &fd)) return nullptr;
  uint64_t size = 0;
  int logical = 0;
  unsigned int physical = 0;
  if (ioctl(fd, BLKGETSIZE64, &size) != 0) return ThrowErrno(env, errno, "BLKGETSIZE64");
  if (ioctl(fd, BLKSSZGET, &logical) != 0) return ThrowErrno(env, errno, "BLKSSZGET");
  if (ioctl(fd, BLKPBSZGET, &physical) != 0) return ThrowErrno(env, errno, "BLKPBSZGET");
  napi_value result;
  HOLDFAST_NAPI(env, napi_create_object(env, &result));
  if (!SetNumber(env, result, "sizeBytes", size) ||
      !SetNumber(env, result, "logicalSectorBytes", static_cast<uint64_t>(logical)) ||
      !SetNumber(env, result, "physicalSectorBytes", physical)) {
    return ThrowNapiFailure(env);
  }
  return result;
}

// blockDiscard(fd, offset, length): both multiples of the logical sector size.
napi_value BlockDiscard(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  int32_t fd;
  uint64_t offset;
  uint64_t length;
  if (!args.Int32(0, &fd) || !args.Uint53(1, &offset) || !args.Uint53(2, &length)) return nullptr;
  return RunInBackground(env, "BLKDISCARD", "", [fd, offset, length] {
    uint64_t range[2] = {offset, length};
    return ioctl(fd, BLKDISCARD, range) == 0 ? 0 : errno;
  });
}

// reserveFile(fd, length): reserves space for the whole file in its filesystem. Content and size do not change.
napi_value ReserveFile(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  int32_t fd;
  uint64_t length;
  if (!args.Int32(0, &fd) || !args.Uint53(1, &length)) return nullptr;
  return RunInBackground(env, "fallocate", "", [fd, length] {
    int result;
    do {
      result = fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(length));
    } while (result != 0 && errno == EINTR);
    return result == 0 ? 0 : errno;
  });
}

// blockDropCache(fd): makes the kernel write back and forget what it has cached of the device.
napi_value BlockDropCache(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  int32_t fd;
  if (!args.Int32(0, &fd)) return nullptr;
  return RunInBackground(env, "BLKFLSBUF", "", [fd] { return ioctl(fd, BLKFLSBUF, 0) == 0 ? 0 : errno; });
}

// One readOnce(): a read that need not leave anything in the page cache.
struct ReadOnce {
  napi_async_work work = nullptr;
  napi_deferred deferred = nullptr;
  napi_ref target = nullptr;
  int cached;
  int direct;
  uint8_t* data;
  size_t length;
  uint64_t offset;
  int error = 0;
};

// Reads directly, unless the page cache has at least half of the range: data that was just written comes from there. On
// a kernel without cachestat(2) (before 6.5) it reads directly too; the kernel writes dirty pages of the range back
// first.
void ReadOnceExecute(napi_env, void* raw) {
  auto* read = static_cast<ReadOnce*>(raw);
  CacheRange range = {read->offset, read->length};
  CachePages pages = {};
  const bool told = syscall(SYS_cachestat, read->cached, &range, &pages, 0) == 0;
  const bool mostly = told && pages.cached * kPageBytes * 2 >= read->length;
  const int fd = mostly ? read->cached : read->direct;
  size_t done = 0;
  while (done < read->length) {
    const ssize_t count =
        pread(fd, read->data + done, read->length - done, static_cast<off_t>(read->offset + done));
    if (count > 0) {
      done += static_cast<size_t>(count);
    } else if (count == 0) {
      read->error = ENODATA;
      return;
    } else if (errno != EINTR) {
      read->error = errno;
      return;
    }
  }
}

void ReadOnceDone(napi_env env, napi_status status, void* raw) {
  auto* read = static_cast<ReadOnce*>(raw);
  napi_delete_reference(env, read->target);
  napi_delete_async_work(env, read->work);
  if (status == napi_ok && read->error == 0) {
    napi_resolve_deferred(env, read->deferred, Undefined(env));
  } else {
    napi_value reason = ErrnoError(env, read->error == 0 ? ECANCELED : read->error, "pread", "");
    napi_reject_deferred(env, read->deferred, reason != nullptr ? reason : Undefined(env));
  }
  delete read;
}

// blockReadOnce(cached, direct, target, offset): two descriptors of one device, the second with O_DIRECT; target,
// offset and length are aligned for O_DIRECT. ENODATA: past the end.
napi_value BlockReadOnce(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  auto read = std::make_unique<ReadOnce>();
  if (!args.Int32(0, &read->cached) || !args.Int32(1, &read->direct) ||
      !args.Bytes(2, &read->data, &read->length) || !args.Uint53(3, &read->offset)) {
    return nullptr;
  }
  napi_value promise;
  napi_value name;
  HOLDFAST_NAPI(env, napi_create_string_utf8(env, "blockReadOnce", NAPI_AUTO_LENGTH, &name));
  HOLDFAST_NAPI(env, napi_create_reference(env, args[2], 1, &read->target));
  if (napi_create_promise(env, &read->deferred, &promise) != napi_ok ||
      napi_create_async_work(env, nullptr, name, ReadOnceExecute, ReadOnceDone, read.get(), &read->work) != napi_ok) {
    napi_delete_reference(env, read->target);
    return ThrowNapiFailure(env);
  }
  if (napi_queue_async_work(env, read->work) != napi_ok) {
    napi_delete_reference(env, read->target);
    napi_delete_async_work(env, read->work);
    return ThrowNapiFailure(env);
  }
  read.release();  // ReadOnceDone owns it
  return promise;
}

// isAligned(bytes, alignment): whether direct I/O may use this memory.
napi_value IsAligned(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  uint8_t* data;
  size_t length;
  uint32_t alignment;
  if (!args.Bytes(0, &data, &length) || !args.Uint32(1, &alignment)) return nullptr;
  if (alignment == 0) return ThrowRange(env, "the alignment must be above 0");
  napi_value result;
  HOLDFAST_NAPI(env, napi_get_boolean(env, reinterpret_cast<uintptr_t>(data) % alignment == 0, &result));
  return result;
}

// alignedBuffer(length, alignment): memory for direct I/O, zeroed.
napi_value AlignedBuffer(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  uint32_t length;
  uint32_t alignment;
  if (!args.Uint32(0, &length) || !args.Uint32(1, &alignment)) return nullptr;
  if (length > kMemoryMax) return ThrowRange(env, "that is more memory than one call may take");
  if (alignment < sizeof(void*) || (alignment & (alignment - 1)) != 0) {
    return ThrowRange(env, "the alignment must be a power of two, 8 or more");
  }
  void* memory = nullptr;
  const int error = posix_memalign(&memory, alignment, length == 0 ? 1 : length);
  if (error != 0) return ThrowErrno(env, error, "posix_memalign");
  memset(memory, 0, length);
  napi_value result;
  const auto release = [](napi_env, void* data, void*) { free(data); };
  if (napi_create_external_buffer(env, length, memory, release, nullptr, &result) != napi_ok) {
    free(memory);
    return ThrowNapiFailure(env);
  }
  return result;
}

// Memory that direct I/O may use. The call and the thread share it: if one of them ends, the other still has it.
using DirectMemory = std::shared_ptr<uint8_t>;

// A multiple of every logical sector size of Linux.
constexpr size_t kDirectAlignment = 4096;

DirectMemory MakeDirectMemory(size_t length) {
  void* memory = nullptr;
  if (posix_memalign(&memory, kDirectAlignment, length == 0 ? 1 : length) != 0) return nullptr;
  return DirectMemory(static_cast<uint8_t*>(memory), free);
}

// Moves all of [0, length) by calls of `step`, which is pread or pwrite. @returns 0 or an errno; EIO at the device's end.
template <typename Step>
int MoveAll(size_t length, Step step) {
  size_t done = 0;
  while (done < length) {
    const ssize_t moved = step(done, length - done);
    if (moved < 0 && errno == EINTR) continue;
    if (moved < 0) return errno;
    if (moved == 0) return EIO;
    done += static_cast<size_t>(moved);
  }
  return 0;
}

// blockReadDirect(fd, offset, length): a promise of the bytes. fd was opened with O_DIRECT.
napi_value BlockReadDirect(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  int32_t fd;
  uint64_t offset;
  uint32_t length;
  if (!args.Int32(0, &fd) || !args.Uint53(1, &offset) || !args.Uint32(2, &length)) return nullptr;
  if (length > kMemoryMax) return ThrowRange(env, "that is more memory than one call may take");
  const DirectMemory memory = MakeDirectMemory(length);
  if (memory == nullptr) return ThrowErrno(env, ENOMEM, "posix_memalign");
  const auto work = [fd, offset, length, memory] {
    return MoveAll(length, [&](size_t at, size_t rest) {
      return pread(fd, memory.get() + at, rest, static_cast<off_t>(offset + at));
    });
  };
  const auto result = [length, memory](napi_env result_env) -> napi_value {
    napi_value bytes;
    HOLDFAST_NAPI(result_env, napi_create_buffer_copy(result_env, length, memory.get(), nullptr, &bytes));
    return bytes;
  };
  return RunInBackground(env, "pread", "", work, result);
}

// blockWriteDirect(fd, offset, bytes): fd was opened with O_DIRECT.
napi_value BlockWriteDirect(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  int32_t fd;
  uint64_t offset;
  uint8_t* bytes;
  size_t length;
  if (!args.Int32(0, &fd) || !args.Uint53(1, &offset) || !args.Bytes(2, &bytes, &length)) return nullptr;
  const DirectMemory memory = MakeDirectMemory(length);
  if (memory == nullptr) return ThrowErrno(env, ENOMEM, "posix_memalign");
  memcpy(memory.get(), bytes, length);
  return RunInBackground(env, "pwrite", "", [fd, offset, length, memory] {
    return MoveAll(length, [&](size_t at, size_t rest) {
      return pwrite(fd, memory.get() + at, rest, static_cast<off_t>(offset + at));
    });
  });
}

// lockFile(fd): flock(LOCK_EX), in the background. Closing the descriptor releases it.
napi_value LockFile(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  int32_t fd;
  if (!args.Int32(0, &fd)) return nullptr;
  return RunInBackground(env, "flock", "", [fd] {
    int result;
    do {
      result = flock(fd, LOCK_EX);
    } while (result != 0 && errno == EINTR);
    return result == 0 ? 0 : errno;
  });
}

// loopGetFree(control): the number of an unattached loop device; the kernel makes one if there is none.
napi_value LoopGetFree(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  int32_t control;
  if (!args.Int32(0, &control)) return nullptr;
  const int number = ioctl(control, LOOP_CTL_GET_FREE);
  if (number < 0) return ThrowErrno(env, errno, "LOOP_CTL_GET_FREE");
  napi_value result;
  HOLDFAST_NAPI(env, napi_create_int32(env, number, &result));
  return result;
}

// loopAttach(loop, backing, name, direct): attaches; the kernel detaches when the last descriptor is closed. EBUSY if
// another process has taken the device meanwhile.
napi_value LoopAttach(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  int32_t loop;
  int32_t backing;
  std::string name;
  bool direct = false;
  if (!args.Int32(0, &loop) || !args.Int32(1, &backing) || !args.CString(2, &name) || !args.Bool(3, &direct)) {
    return nullptr;
  }
  loop_config config = {};
  config.fd = static_cast<uint32_t>(backing);
  config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
  if (direct) config.info.lo_flags |= LO_FLAGS_DIRECT_IO;
  // The name is for losetup's listing; the kernel does not use it. It always ends in NUL.
  strncpy(reinterpret_cast<char*>(config.info.lo_file_name), name.c_str(), LO_NAME_SIZE - 1);
  if (ioctl(loop, LOOP_CONFIGURE, &config) != 0) return ThrowErrno(env, errno, "LOOP_CONFIGURE");
  return Undefined(env);
}

// loopBacking(loop): the file behind an attached loop device. ENXIO if no file is attached.
napi_value LoopBacking(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  int32_t loop;
  if (!args.Int32(0, &loop)) return nullptr;
  loop_info64 status = {};
  if (ioctl(loop, LOOP_GET_STATUS64, &status) != 0) return ThrowErrno(env, errno, "LOOP_GET_STATUS64");
  napi_value result;
  napi_value inode;
  napi_value device;
  HOLDFAST_NAPI(env, napi_create_object(env, &result));
  HOLDFAST_NAPI(env, napi_create_bigint_uint64(env, status.lo_device, &device));
  HOLDFAST_NAPI(env, napi_create_bigint_uint64(env, status.lo_inode, &inode));
  HOLDFAST_NAPI(env, napi_set_named_property(env, result, "device", device));
  HOLDFAST_NAPI(env, napi_set_named_property(env, result, "inode", inode));
  if (!SetNumber(env, result, "offsetBytes", status.lo_offset) ||
      !SetNumber(env, result, "sizeLimitBytes", status.lo_sizelimit) ||
      !SetNumber(env, result, "flags", status.lo_flags)) {
    return ThrowNapiFailure(env);
  }
  return result;
}

// loopDetach(loop): detaches now, or when the last descriptor is closed.
napi_value LoopDetach(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  int32_t loop;
  if (!args.Int32(0, &loop)) return nullptr;
  if (ioctl(loop, LOOP_CLR_FD, 0) != 0) return ThrowErrno(env, errno, "LOOP_CLR_FD");
  return Undefined(env);
}

// makeBlockNode(path, major, minor): mknod(2), for hosts on which the kernel does not make the nodes in /dev.
napi_value MakeBlockNode(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  std::string path;
  uint32_t major;
  uint32_t minor;
  if (!args.CString(0, &path) || !args.Uint32(1, &major) || !args.Uint32(2, &minor)) return nullptr;
  if (mknod(path.c_str(), S_IFBLK | 0660, makedev(major, minor)) != 0) return ThrowErrno(env, errno, "mknod", path);
  return Undefined(env);
}

}  // namespace

bool RegisterBlockDevice(napi_env env, napi_value exports) {
  return DefineFunction(env, exports, "blockGeometry", BlockGeometry) &&
         DefineFunction(env, exports, "blockDiscard", BlockDiscard) &&
         DefineFunction(env, exports, "reserveFile", ReserveFile) &&
         DefineFunction(env, exports, "blockDropCache", BlockDropCache) &&
         DefineFunction(env, exports, "blockReadOnce", BlockReadOnce) &&
         DefineFunction(env, exports, "isAligned", IsAligned) &&
         DefineFunction(env, exports, "alignedBuffer", AlignedBuffer) &&
         DefineFunction(env, exports, "blockReadDirect", BlockReadDirect) &&
         DefineFunction(env, exports, "blockWriteDirect", BlockWriteDirect) &&
         DefineFunction(env, exports, "lockFile", LockFile) &&
         DefineFunction(env, exports, "loopGetFree", LoopGetFree) &&
         DefineFunction(env, exports, "loopAttach", LoopAttach) &&
         DefineFunction(env, exports, "loopBacking", LoopBacking) &&
         DefineFunction(env, exports, "loopDetach", LoopDetach) &&
         DefineFunction(env, exports, "makeBlockNode", MakeBlockNode);
}

}  // namespace holdfast
