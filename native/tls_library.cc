#include "tls_library.h"

#include <dlfcn.h>

namespace holdfast {

namespace {

// OPENSSL_version_major() was new in OpenSSL 3.
bool IsOpenSsl3() {
  const auto major = reinterpret_cast<unsigned (*)()>(dlsym(RTLD_DEFAULT, "OPENSSL_version_major"));
  return major != nullptr && major() == 3;
}

template <typename Function>
bool Find(const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
  return *function != nullptr;
}

const TlsLibrary* Load() {
  static TlsLibrary library;
  bool complete = IsOpenSsl3();
#define HOLDFAST_TLS_FIND(member, name, result, arguments) complete = complete && Find(#name, &library.member);
  HOLDFAST_TLS_FUNCTIONS(HOLDFAST_TLS_FIND)
#undef HOLDFAST_TLS_FIND
  return complete ? &library : nullptr;
}

}  // namespace

const TlsLibrary* FindTlsLibrary() {
  static const TlsLibrary* const library = Load();
  return library;
}

}  // namespace holdfast
