#include "tls_error.h"

#include <cctype>

namespace holdfast {

namespace {

// ERR_LIB_SSL, and the number at which the reasons begin that are alerts of the peer (SSL_AD_REASON_OFFSET).
constexpr unsigned long kSslLibrary = 20;
constexpr unsigned long kAlertReasons = 1000;
constexpr int kLibraryShift = 23;
constexpr unsigned long kReasonMask = 0x7fffff;

std::string ReasonText(const TlsLibrary& library, unsigned long packed) {
  const char* text = library.error_reason(packed);
  return text != nullptr ? text : "error " + std::to_string(packed & kReasonMask);
}

}  // namespace

TlsError OwnTlsError(Alert alert, const char* reason) { return {reason, 0, static_cast<int>(alert), nullptr}; }

TlsError ReceivedTlsError(const TlsLibrary& library, int alert) {
  const unsigned long packed = (kSslLibrary << kLibraryShift) | (kAlertReasons + static_cast<unsigned long>(alert));
  return {ReasonText(library, packed), alert, 0, nullptr};
}

TlsError QueuedTlsError(const TlsLibrary& library) {
  const unsigned long packed = library.error_get();
  library.error_clear();
  if (packed == 0) return {"unknown", 0, 0, nullptr};
  const unsigned long reason = packed & kReasonMask;
  const bool is_alert = ((packed >> kLibraryShift) & 0xff) == kSslLibrary && reason >= kAlertReasons &&
                        reason < kAlertReasons + 256;
  return {ReasonText(library, packed), is_alert ? static_cast<int>(reason - kAlertReasons) : 0, 0, nullptr};
}

napi_value TlsErrorValue(napi_env env, const TlsError& error) {
  std::string name = error.code != nullptr ? error.code : "ERR_SSL_";
  for (const char letter : error.code != nullptr ? "" : error.reason) {
    name += isalnum(static_cast<unsigned char>(letter)) != 0 ? static_cast<char>(toupper(static_cast<unsigned char>(letter))) : '_';
  }
  napi_value code;
  napi_value text;
  napi_value alert;
  napi_value result;
  if (napi_create_string_utf8(env, name.data(), name.size(), &code) != napi_ok ||
      napi_create_string_utf8(env, error.reason.data(), error.reason.size(), &text) != napi_ok ||
      napi_create_error(env, code, text, &result) != napi_ok ||
      napi_set_named_property(env, result, "reason", text) != napi_ok ||
      napi_create_int32(env, error.received, &alert) != napi_ok ||
      (error.received != 0 && napi_set_named_property(env, result, "alert", alert) != napi_ok)) {
    return nullptr;
  }
  return result;
}

}  // namespace holdfast
