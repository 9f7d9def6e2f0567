#include "tls_context.h"

#include "napi_util.h"
#include "registration.h"
#include "tls_handshake.h"

namespace holdfast {

namespace {

// Numbers from openssl/ssl.h, tls1.h and bio.h, which are part of OpenSSL's interface.
constexpr int kSetMode = 33;
constexpr int kSetSessionCacheMode = 44;
constexpr int kSetMaxCertificateList = 51;
constexpr int kAddChainCertificate = 89;
constexpr int kSetGroups = 92;
constexpr int kSetMinVersion = 123;
constexpr int kSetMaxVersion = 124;
constexpr long kTls13 = 0x0304;
constexpr long kReleaseBuffers = 0x10;
constexpr uint64_t kNoTicket = 1 << 14;
constexpr int kVerifyPeer = 1;
constexpr int kEndOfMemory = 130;

constexpr char kCipher[] = "TLS_AES_128_GCM_SHA256";
// The key keeps a quantum computer out. A share that does so too would only make the ClientHello five times as long.
constexpr char kGroups[] = "X25519:P-256";
// A leaf and two CAs between take 5 KiB. OpenSSL would take 100 KiB of a peer that has proved nothing, and make four times that of it.
constexpr long kCertificatesMax = 8 << 10;
constexpr size_t kTextMax = 1 << 20;
constexpr size_t kKeyMax = 256;

constexpr napi_type_tag kTag = {0x5d0c7e0ba1f14c52, 0x9b1f0a6de2c84f37};

// A key with a passphrase cannot be used: nobody is there to type it.
int NoPassphrase(char*, int, int, void*) { return 0; }

int GoOn(int, void*) { return 1; }

class BioOf {
 public:
  BioOf(const TlsLibrary& library, const std::vector<uint8_t>& text)
      : library_(library), bio_(library.bio_of_memory(text.data(), static_cast<int>(text.size()))) {
    if (bio_ != nullptr) library.bio_control(bio_, kEndOfMemory, 0, nullptr);
  }
  ~BioOf() { library_.bio_free(bio_); }
  BioOf(const BioOf&) = delete;
  BioOf& operator=(const BioOf&) = delete;
  Bio* get() const { return bio_; }

 private:
  const TlsLibrary& library_;
  Bio* bio_;
};

bool IsUndefined(napi_env env, napi_value value) {
  napi_valuetype type;
  return napi_typeof(env, value, &type) == napi_ok && type == napi_undefined;
}

// A copy of an argument that may be absent.
bool BytesOrNone(napi_env env, const Arguments& args, size_t index, size_t max, std::vector<uint8_t>* out) {
  if (IsUndefined(env, args[index])) return true;
  uint8_t* data;
  size_t length;
  if (!args.Bytes(index, &data, &length)) return false;
  if (length == 0 || length > max) {
    ThrowRange(env, "a text or key of TLS is empty or too long");
    return false;
  }
  out->assign(data, data + length);
  return true;
}

using Shared = std::shared_ptr<TlsContext>;

}  // namespace

TlsContext::~TlsContext() {
  library_.context_free(context_);
  library_.cleanse(key_.data(), key_.size());
}

bool TlsContext::Begin() {
  context_ = library_.context_new(library_.tls_method());
  if (context_ == nullptr) return false;
  char groups[sizeof kGroups];
  for (size_t i = 0; i < sizeof groups; ++i) groups[i] = kGroups[i];
  library_.context_set_options(context_, kNoTicket);
  library_.context_control(context_, kSetMode, kReleaseBuffers, nullptr);
  library_.context_control(context_, kSetSessionCacheMode, 0, nullptr);
  library_.context_control(context_, kSetMaxCertificateList, kCertificatesMax, nullptr);
  TlsHandshake::Prepare(library_, context_, is_server_, !key_.empty());
  return library_.context_control(context_, kSetMinVersion, kTls13, nullptr) == 1 &&
         library_.context_control(context_, kSetMaxVersion, kTls13, nullptr) == 1 &&
         library_.context_control(context_, kSetGroups, 0, groups) == 1 &&
         library_.context_set_ciphersuites(context_, kCipher) == 1 && library_.context_set_tickets(context_, 0) == 1;
}

bool TlsContext::UseFiles(const std::vector<uint8_t> texts[3]) {
  library_.context_set_verify(context_, kVerifyPeer, GoOn);
  // OpenSSL wants a name for sessions, and takes a handshake by key for one.
  static constexpr unsigned char kName[] = {'H', 'F'};
  return library_.context_set_session_context(context_, kName, sizeof kName) == 1 && UseCertificates(texts[0]) &&
         UsePrivateKey(texts[1]) && UseCas(texts[2]);
}

// The first is ours, the others lead to the CA.
bool TlsContext::UseCertificates(const std::vector<uint8_t>& text) {
  const BioOf bio(library_, text);
  if (bio.get() == nullptr) return false;
  for (bool first = true;; first = false) {
    X509* certificate = library_.read_certificate(bio.get(), nullptr, NoPassphrase, nullptr);
    if (certificate == nullptr) {
      if (first) return false;
      library_.error_clear();
      return true;
    }
    const bool used = first ? library_.context_use_certificate(context_, certificate) == 1
                            : library_.context_control(context_, kAddChainCertificate, 1, certificate) == 1;
    library_.certificate_free(certificate);
    if (!used) return false;
  }
}

bool TlsContext::UsePrivateKey(const std::vector<uint8_t>& text) {
  const BioOf bio(library_, text);
  if (bio.get() == nullptr) return false;
  PrivateKey* key = library_.read_private_key(bio.get(), nullptr, NoPassphrase, nullptr);
  if (key == nullptr) return false;
  const bool used = library_.context_use_private_key(context_, key) == 1 &&
                    library_.context_check_private_key(context_) == 1;
  library_.private_key_free(key);
  return used;
}

bool TlsContext::UseCas(const std::vector<uint8_t>& text) {
  const BioOf bio(library_, text);
  if (bio.get() == nullptr) return false;
  for (bool first = true;; first = false) {
    X509* certificate = library_.read_certificate(bio.get(), nullptr, NoPassphrase, nullptr);
    if (certificate == nullptr) {
      if (first) return false;
      library_.error_clear();
      return true;
    }
    // A server tells its clients which CAs count.
    const bool used = library_.store_add(library_.context_store(context_), certificate) == 1 &&
                      (!is_server_ || library_.context_add_client_ca(context_, certificate) == 1);
    library_.certificate_free(certificate);
    if (!used) return false;
  }
}

// new TlsContext(isServer, certificate, privateKey, ca, identity, key)
napi_value TlsContext::Construct(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  napi_value target = nullptr;
  HOLDFAST_NAPI(env, napi_get_new_target(env, info, &target));
  if (target == nullptr) return ThrowType(env, "TlsContext is a class");
  bool is_server;
  if (!args.Bool(0, &is_server)) return nullptr;
  const TlsLibrary& library = *FindTlsLibrary();
  auto made = std::make_shared<TlsContext>(library, is_server);
  std::vector<uint8_t> texts[3];
  bool good = true;
  for (size_t i = 0; i < 3 && good; ++i) good = BytesOrNone(env, args, i + 1, kTextMax, &texts[i]);
  good = good && (IsUndefined(env, args[4]) || args.CString(4, &made->identity_)) &&
         BytesOrNone(env, args, 5, kKeyMax, &made->key_);
  if (good) {
    library.error_clear();
    good = made->Begin() && (IsUndefined(env, args[1]) || made->UseFiles(texts));
    if (!good) {
      const TlsError error = QueuedTlsError(library);
      napi_value thrown = TlsErrorValue(env, error);
      if (thrown == nullptr || napi_throw(env, thrown) != napi_ok) ThrowNapiFailure(env);
    }
    library.error_clear();
  }
  library.cleanse(texts[1].data(), texts[1].size());
  if (!good) return nullptr;
  auto* kept = new Shared(made);
  const auto finalize = [](napi_env, void* data, void*) { delete static_cast<Shared*>(data); };
  if (napi_type_tag_object(env, args.self(), &kTag) != napi_ok ||
      napi_wrap(env, args.self(), kept, finalize, nullptr, nullptr) != napi_ok) {
    delete kept;
    return ThrowNapiFailure(env);
  }
  return args.self();
}

Shared TlsContext::Of(napi_env env, napi_value value) {
  bool is_context = false;
  void* data = nullptr;
  if (napi_check_object_type_tag(env, value, &kTag, &is_context) != napi_ok || !is_context ||
      napi_unwrap(env, value, &data) != napi_ok) {
    napi_value thrown;
    bool pending = false;
    if (napi_is_exception_pending(env, &pending) == napi_ok && pending) napi_get_and_clear_last_exception(env, &thrown);
    ThrowType(env, "not a TlsContext");
    return nullptr;
  }
  return *static_cast<Shared*>(data);
}

bool RegisterTlsContext(napi_env env, napi_value exports) {
  // Whoever misses the class uses node:tls.
  if (FindTlsLibrary() == nullptr) return true;
  napi_value constructor;
  return napi_define_class(env, "TlsContext", NAPI_AUTO_LENGTH, TlsContext::Construct, nullptr, 0, nullptr, &constructor) == napi_ok &&
         napi_set_named_property(env, exports, "TlsContext", constructor) == napi_ok;
}

}  // namespace holdfast
