// System calls of ordinary programs that Node does not offer: flock, fcntl locks, shared mappings. The demo's workload
// makes them, in processes of its own; the client and the server do not.
//
// A mapping is an object that owns its address range until unmap() or until it is collected. Its bytes are copied in
// and out, never exposed as an ArrayBuffer: an access to an unreadable page would kill the process at an unexpected
// place.

#include <cerrno>
#include <cstring>
#include <memory>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "napi_util.h"
#include "registration.h"

namespace holdfast {

namespace {

struct Mapping {
  uint8_t* address = nullptr;
  size_t length = 0;
  ~Mapping() { Unmap(); }
  void Unmap() {
    if (address != nullptr) munmap(address, length);
    address = nullptr;
  }
};

bool LockType(napi_env env, const std::string& type, int shared, int exclusive, int unlock, int* out) {
  if (type == "shared") *out = shared;
  else if (type == "exclusive") *out = exclusive;
  else if (type == "unlock") *out = unlock;
  else {
    ThrowType(env, "a lock is shared, exclusive or unlock");
    return false;
  }
  return true;
}

// flock(fd, type, wait)
napi_value Flock(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  int32_t fd;
  std::string type;
  bool wait = false;
  int operation;
  if (!args.Int32(0, &fd) || !args.String(1, &type) || !args.Bool(2, &wait) ||
      !LockType(env, type, LOCK_SH, LOCK_EX, LOCK_UN, &operation)) {
    return nullptr;
  }
  if (flock(fd, operation | (wait ? 0 : LOCK_NB)) != 0) return ThrowErrno(env, errno, "flock");
  return Undefined(env);
}

// lockRange(fd, type, start, length, wait)
napi_value LockRange(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  int32_t fd;
  std::string type;
  uint64_t start;
  uint64_t length;
  bool wait = false;
  int kind;
  if (!args.Int32(0, &fd) || !args.String(1, &type) || !args.Uint53(2, &start) || !args.Uint53(3, &length) ||
      !args.Bool(4, &wait) || !LockType(env, type, F_RDLCK, F_WRLCK, F_UNLCK, &kind)) {
    return nullptr;
  }
  struct flock lock = {};
  lock.l_type = static_cast<short>(kind);
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(start);
  lock.l_len = static_cast<off_t>(length);
  if (fcntl(fd, wait ? F_SETLKW : F_SETLK, &lock) != 0) return ThrowErrno(env, errno, "fcntl");
  return Undefined(env);
}

// Tells our objects from those of others, which a caller may pass as `this`.
constexpr napi_type_tag kMappingTag = {0x686f6c6466617374, 0x6d617070696e6731};

Mapping* Of(napi_env env, const Arguments& args) {
  void* data = nullptr;
  bool is_ours = false;
  if (napi_check_object_type_tag(env, args.self(), &kMappingTag, &is_ours) != napi_ok || !is_ours ||
      napi_unwrap(env, args.self(), &data) != napi_ok ||
      static_cast<Mapping*>(data)->address == nullptr) {
    ThrowType(env, "not mapped");
    return nullptr;
  }
  return static_cast<Mapping*>(data);
}

// read(offset, length): a copy.
napi_value MappingRead(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  const Mapping* mapping = Of(env, args);
  uint64_t offset;
  uint64_t length;
  if (mapping == nullptr || !args.Uint53(0, &offset) || !args.Uint53(1, &length)) return nullptr;
  if (offset > mapping->length || length > mapping->length - offset) return ThrowRange(env, "outside the mapping");
  napi_value buffer;
  HOLDFAST_NAPI(env, napi_create_buffer_copy(env, length, mapping->address + offset, nullptr, &buffer));
  return buffer;
}

// write(offset, bytes)
napi_value MappingWrite(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  Mapping* mapping = Of(env, args);
  uint64_t offset;
  uint8_t* bytes;
  size_t length;
  if (mapping == nullptr || !args.Uint53(0, &offset) || !args.Bytes(1, &bytes, &length)) return nullptr;
  if (offset > mapping->length || length > mapping->length - offset) return ThrowRange(env, "outside the mapping");
  memcpy(mapping->address + offset, bytes, length);
  return Undefined(env);
}

// sync(): msync(MS_SYNC)
napi_value MappingSync(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  Mapping* mapping = Of(env, args);
  if (mapping == nullptr) return nullptr;
  if (msync(mapping->address, mapping->length, MS_SYNC) != 0) return ThrowErrno(env, errno, "msync");
  return Undefined(env);
}

napi_value MappingUnmap(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  Mapping* mapping = Of(env, args);
  if (mapping != nullptr) mapping->Unmap();
  return Undefined(env);
}

// map(fd, length): shared, readable and writable, from the start of the file.
napi_value Map(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  int32_t fd;
  uint64_t length;
  if (!args.Int32(0, &fd) || !args.Uint53(1, &length)) return nullptr;
  // An access behind the end of the file would end the process. Whoever makes the file shorter later does just that.
  struct stat status;
  if (fstat(fd, &status) != 0) return ThrowErrno(env, errno, "fstat");
  if (length > static_cast<uint64_t>(status.st_size)) return ThrowRange(env, "the file ends before that");
  void* address = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (address == MAP_FAILED) return ThrowErrno(env, errno, "mmap");
  auto mapping = std::make_unique<Mapping>();
  mapping->address = static_cast<uint8_t*>(address);
  mapping->length = length;
  napi_value object;
  HOLDFAST_NAPI(env, napi_create_object(env, &object));
  const auto finalize = [](napi_env, void* data, void*) { delete static_cast<Mapping*>(data); };
  HOLDFAST_NAPI(env, napi_wrap(env, object, mapping.get(), finalize, nullptr, nullptr));
  mapping.release();
  HOLDFAST_NAPI(env, napi_type_tag_object(env, object, &kMappingTag));
  if (!DefineFunction(env, object, "read", MappingRead) || !DefineFunction(env, object, "write", MappingWrite) ||
      !DefineFunction(env, object, "sync", MappingSync) || !DefineFunction(env, object, "unmap", MappingUnmap)) {
    return ThrowNapiFailure(env);
  }
  return object;
}

}  // namespace

bool RegisterPosixCalls(napi_env env, napi_value exports) {
  return DefineFunction(env, exports, "flock", Flock) && DefineFunction(env, exports, "lockRange", LockRange) &&
         DefineFunction(env, exports, "map", Map);
}

}  // namespace holdfast
