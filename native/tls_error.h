// Why TLS has broken, and the Error that JavaScript gets of it.
#pragma once

#include <string>

#include <node_api.h>

#include "tls_library.h"

namespace holdfast {

// Of RFC 8446.
enum class Alert : int {
  kCloseNotify = 0,
  kUnexpectedMessage = 10,
  kBadRecordMac = 20,
  kRecordOverflow = 22,
  kDecodeError = 50,
  kInternalError = 80,
  kUserCanceled = 90,
};

struct TlsError {
  // As OpenSSL says it, in small letters; empty: there is no error.
  std::string reason;
  // The alert that the peer has sent; 0: none. 0 would be close_notify, which is no error.
  int received = 0;
  // The alert that tells the peer; not for an error that came from it.
  int sends = 0;
  // Instead of one that is made of the reason.
  const char* code = nullptr;
};

TlsError OwnTlsError(Alert alert, const char* reason);
TlsError ReceivedTlsError(const TlsLibrary& library, int alert);
// The first error in OpenSSL's queue of this thread, which is empty then.
TlsError QueuedTlsError(const TlsLibrary& library);

// An Error as those of node:tls: code ERR_SSL_REASON and `reason`; and `alert` if the peer has sent one.
// @returns nullptr if that failed.
napi_value TlsErrorValue(napi_env env, const TlsError& error);

}  // namespace holdfast
