// Reads records of the metadata database, and checks the pages on the path to them; also before lmdb changes a record.
//
// lmdb trusts what it maps. If a page was exchanged or zeroed, a record looks as if it had never been there, and a page
// of noise ends the process. So this file reads records, on a mapping of our own. Each page on the path must be the one
// that the page above refers to, of the right kind, and no younger than that page, and its keys must lie within the
// bounds there. A page that is seen for the first time is checked as a whole, through read(2), so that an unreadable
// sector gives an error and not a signal. After that its transaction shows whether it is still the same page.
//
// The database changes meanwhile. lmdb writes changed pages to places that neither of the last two transactions uses,
// and begins a transaction only when the caller of these functions asks it to. So the newest transaction does not
// change during a call. That does not hold for the threads that read ahead: they may find faults that are none, and do
// not report them.
//
// "There is no such record" is an answer, too. If a bit of a key flips, the record stays in its place among the others,
// and a search for the old key does not find it. So before that answer the records on both sides of the gap must match
// their checksums, which cover the keys. At the edge of a leaf, the next leaf must lie within the bounds of the pages
// above it.
//
// For the layout see src/storage/meta/meta_probe.ts and fsck/page.ts, which does the same checks one by one; for
// checksums of records src/storage/meta/record_checksums.ts.

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "background.h"
#include "crc32c.h"
#include "napi_util.h"
#include "registration.h"

namespace holdfast {

namespace {

constexpr size_t kPageBytes = 4096;
// Pages that are read together from the device: as many as the kernel reads around a fault.
constexpr uint64_t kRunPages = 32;
constexpr size_t kHeader = 24;
constexpr size_t kNodeHeader = 8;
constexpr size_t kOverflowNodeBytes = 24;
constexpr uint16_t kBranch = 1;
constexpr uint16_t kLeaf = 2;
constexpr uint16_t kOverflow = 4;
constexpr uint16_t kBigData = 1;
constexpr uint32_t kMagic = 0xbeefc0de;
constexpr uint64_t kNoPage = ~uint64_t{0};
constexpr int kDepthMax = 32;
constexpr uint8_t kSuperblockKey = 0x01;
constexpr uint8_t kHasChecksum = 0x80;
constexpr size_t kChecksumBytes = 4;
// A record's checksum covers the value itself up to this length, and the checksum of the value beyond it.
constexpr size_t kPlainBytesMax = 512;

template <typename T>
T Load(const uint8_t* at) {
  T value;
  memcpy(&value, at, sizeof value);
  return value;
}

struct Key {
  const uint8_t* data = nullptr;  // nullptr: no bound
  size_t length = 0;
};

int Compare(const Key& a, const Key& b) {
  const int order = memcmp(a.data, b.data, std::min(a.length, b.length));
  if (order != 0) return order;
  return a.length < b.length ? -1 : a.length > b.length ? 1 : 0;
}

struct Meta {
  uint64_t transaction;
  uint64_t last_page;
  uint64_t root;
  int depth;
};

struct Fault {
  uint64_t page = 0;
  const char* what = nullptr;
};

struct Walk {
  // Go to the leaf before, if the key is the first that its leaf may have.
  bool before = false;
  // Check the pages beside the path too: a removal may merge pages with their neighbours.
  bool neighbours = false;
  // The bounds of the leaf's keys, from the pages above it.
  Key from;
  Key below;
  // nullptr: the database has no record at all.
  const uint8_t* leaf = nullptr;
  uint64_t number = 0;
  Meta meta = {};
};

// A record, where it lies in the mapping.
struct Record {
  Key key;
  const uint8_t* value;
  size_t length;
};

class MetaPages {
 public:
  MetaPages(int fd, uint64_t bytes, bool checks_gaps)
      : fd_(fd), bytes_(bytes), pages_(bytes / kPageBytes), checks_gaps_(checks_gaps) {}
  ~MetaPages() {
    if (map_ != nullptr) munmap(const_cast<uint8_t*>(map_), bytes_);
    if (seen_ != nullptr) munmap(seen_, SeenBytes());
    if (ahead_ != nullptr) munmap(ahead_, AheadBytes());
    close(fd_);
  }

  int Map() {
    void* map = mmap(nullptr, bytes_, PROT_READ, MAP_SHARED, fd_, 0);
    if (map == MAP_FAILED) return errno;
    map_ = static_cast<const uint8_t*>(map);
    void* seen = mmap(nullptr, SeenBytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (seen == MAP_FAILED) return errno;
    seen_ = static_cast<std::atomic<uint64_t>*>(seen);
    void* ahead = mmap(nullptr, AheadBytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (ahead == MAP_FAILED) return errno;
    ahead_ = static_cast<std::atomic<uint8_t>*>(ahead);
    return 0;
  }

  // Walks to the leaf that has a key, or would have it. @returns false, with the fault, if a page is bad.
  bool To(const Key& key, Walk* walk, Fault* fault) const {
    walk->from = {};
    walk->below = {};
    walk->leaf = nullptr;
    if (!Newest(&walk->meta, fault)) return false;
    if (walk->meta.root == kNoPage) return true;
    uint64_t number = walk->meta.root;
    uint64_t youngest = walk->meta.transaction;
    for (int depth = walk->meta.depth;; --depth) {
      const uint8_t* page = Sound(walk->meta, number, depth, youngest, fault);
      if (page == nullptr) return false;
      // Each transaction rewrites the counters, and with them the root.
      if (depth == walk->meta.depth && Load<uint64_t>(page + 8) != walk->meta.transaction) {
        return Bad(fault, number, "it is older than the database");
      }
      if (!Within(page, number, depth, walk->from, walk->below, fault)) return false;
      if (depth == 1) {
        walk->leaf = page;
        walk->number = number;
        return true;
      }
      youngest = Load<uint64_t>(page + 8);
      int index = Search(page, key, 1) - 1;
      Key there;
      if (walk->before && index > 0 && NodeKey(page, index, &there) && Compare(there, key) == 0) --index;
      if (walk->neighbours && !Sides(walk->meta, page, index, depth, youngest, fault)) return false;
      if (index > 0 && !NodeKey(page, index, &walk->from)) return Bad(fault, number, "a record lies outside of it");
      if (index + 1 < Count(page) && !NodeKey(page, index + 1, &walk->below)) {
        return Bad(fault, number, "a record lies outside of it");
      }
      number = Child(page, index);
    }
  }

  // Index of the first record of a leaf whose key is at or above this one.
  static int FirstAt(const uint8_t* leaf, const Key& key) {
    int index = Search(leaf, key, 0);
    Key before;
    if (index > 0 && NodeKey(leaf, index - 1, &before) && Compare(before, key) == 0) index--;
    return index;
  }

  static int Count(const uint8_t* page) { return Load<uint16_t>(page + 20) / 2; }

  // Finds a record of a walk's leaf.
  bool At(const Walk& walk, int index, Record* record, Fault* fault) const {
    const uint8_t* page = walk.leaf;
    if (!NodeKey(page, index, &record->key)) return Bad(fault, walk.number, "a record lies outside of it");
    const size_t node = NodeAt(page, index);
    const size_t value = node + kNodeHeader + record->key.length;
    record->length = Load<uint32_t>(page + node);
    record->value = page + value;
    if ((Load<uint16_t>(page + node + 4) & kBigData) != 0) return Large(walk, value, record, fault);
    return value + record->length <= kPageBytes || Bad(fault, walk.number, "a record reaches beyond it");
  }

  // Whether the records on both sides of a place in a walk's leaf are sound: then no record lies between them.
  bool Gap(const Walk& walk, int place, Fault* fault) const {
    return Edge(walk, place, false, fault) && Edge(walk, place, true, fault);
  }

  // The same for one side of the place.
  bool Edge(const Walk& walk, int place, bool after, Fault* fault) const {
    if (!checks_gaps_) return true;
    const int index = after ? place : place - 1;
    if (index >= 0 && index < Count(walk.leaf)) {
      Record record;
      if (!At(walk, index, &record, fault)) return false;
      return Matches(record) || Bad(fault, walk.number, "a record does not match its checksum");
    }
    const Key& edge = after ? walk.below : walk.from;
    if (edge.data == nullptr) return true;
    Walk beside;
    beside.before = !after;
    return To(edge, &beside, fault);
  }

 private:
  // Records of earlier releases have no checksum.
  static bool Matches(const Record& record) {
    if (record.length <= kChecksumBytes || record.key.length == 0 || record.key.data[0] == kSuperblockKey) return true;
    if ((record.value[0] & kHasChecksum) == 0) return true;
    const size_t length = record.length - kChecksumBytes;
    uint32_t state = Crc32cExtend(0xffffffff, record.key.data, record.key.length);
    if (length <= kPlainBytesMax) {
      state = Crc32cExtend(state, record.value, length);
    } else {
      const uint32_t inner = ~Crc32cExtend(0xffffffff, record.value, length);
      state = Crc32cExtend(state, reinterpret_cast<const uint8_t*>(&inner), sizeof inner);
    }
    return Load<uint32_t>(record.value + length) == ~state;
  }

  size_t AheadBytes() const { return pages_ / kRunPages + 1; }
  size_t SeenBytes() const { return std::max<size_t>(pages_, 1) * sizeof(uint64_t); }

  const uint8_t* Page(uint64_t number) const { return map_ + number * kPageBytes; }

  static size_t NodeAt(const uint8_t* page, int index) {
    return kHeader + Load<uint16_t>(page + kHeader + 2 * static_cast<size_t>(index));
  }

  bool Newest(Meta* meta, Fault* fault) const {
    const uint64_t first = Load<uint64_t>(Page(0) + 152);
    const uint64_t second = Load<uint64_t>(Page(1) + 152);
    const uint64_t number = first >= second ? 0 : 1;
    const uint8_t* page = Page(number);
    if (Load<uint32_t>(page + 24) != kMagic) return Bad(fault, number, "it is no longer the start of a database");
    *meta = {std::max(first, second), Load<uint64_t>(page + 144), Load<uint64_t>(page + 136),
             static_cast<int>(Load<uint16_t>(page + 102))};
    if (meta->last_page >= pages_ || meta->depth > kDepthMax || (meta->root == kNoPage) != (meta->depth == 0)) {
      return Bad(fault, number, "it is no longer the start of a database");
    }
    return true;
  }

  static bool Bad(Fault* fault, uint64_t page, const char* what) {
    *fault = {page, what};
    return false;
  }

  bool Sides(const Meta& meta, const uint8_t* page, int index, int depth, uint64_t youngest, Fault* fault) const {
    if (index > 0 && Sound(meta, Child(page, index - 1), depth - 1, youngest, fault) == nullptr) return false;
    return index + 1 >= Count(page) || Sound(meta, Child(page, index + 1), depth - 1, youngest, fault) != nullptr;
  }

  // The page, if it is sound; nullptr with the fault if not.
  const uint8_t* Sound(const Meta& meta, uint64_t number, int depth, uint64_t youngest, Fault* fault) const {
    if (number < 2 || number > meta.last_page) {
      Bad(fault, number, "it is referred to, but not there");
      return nullptr;
    }
    const uint16_t kind = depth > 1 ? kBranch : kLeaf;
    const uint64_t seen = seen_[number].load(std::memory_order_relaxed);
    const uint8_t* page = Page(number);
    if (seen == 0 || Load<uint64_t>(page + 8) + 1 != seen || Load<uint64_t>(page) != number) {
      uint8_t bytes[kPageBytes];
      if (!Read(number, bytes)) {
        Bad(fault, number, "it cannot be read");
        return nullptr;
      }
      const char* what = PageFault(bytes, number, kind, youngest);
      if (what != nullptr) {
        Bad(fault, number, what);
        return nullptr;
      }
      seen_[number].store(Load<uint64_t>(bytes + 8) + 1, std::memory_order_relaxed);
    }
    if (Load<uint16_t>(page + 18) != kind) {
      Bad(fault, number, "it is of another kind than it should be");
      return nullptr;
    }
    if (Load<uint64_t>(page + 8) > youngest) {
      Bad(fault, number, "it is younger than the page above it");
      return nullptr;
    }
    if (!Packed(page)) {
      Bad(fault, number, "its free space does not lie within it");
      return nullptr;
    }
    return page;
  }

  bool Read(uint64_t number, uint8_t* bytes, size_t pages = 1) const {
    // A server that has just started reads most pages of a database, in no order. The kernel would read each page alone from the
    // device; it reads the pages around a fault of a mapping together, but a fault on a bad block would end the process.
    const uint64_t run = number / kRunPages;
    if (ahead_[run].exchange(1, std::memory_order_relaxed) == 0) {
      posix_fadvise(fd_, static_cast<off_t>(run * kRunPages * kPageBytes), kRunPages * kPageBytes, POSIX_FADV_WILLNEED);
    }
    size_t done = 0;
    while (done < pages * kPageBytes) {
      const ssize_t count = pread(fd_, bytes + done, pages * kPageBytes - done,
                                  static_cast<off_t>(number * kPageBytes + done));
      if (count > 0) {
        done += static_cast<size_t>(count);
      } else if (count == 0 || errno != EINTR) {
        return false;
      }
    }
    return true;
  }

  static bool Packed(const uint8_t* page) {
    const uint16_t lower = Load<uint16_t>(page + 20);
    const uint16_t upper = Load<uint16_t>(page + 22);
    return lower % 2 == 0 && lower > 0 && lower <= upper && kHeader + upper <= kPageBytes;
  }

  // What is wrong with the page itself; nullptr: nothing.
  static const char* PageFault(const uint8_t* page, uint64_t number, uint16_t kind, uint64_t youngest) {
    if (Load<uint64_t>(page) != number) return "it is not the page it should be";
    if (Load<uint16_t>(page + 18) != kind) return "it is of another kind than it should be";
    if (Load<uint64_t>(page + 8) > youngest) return "it is younger than the page above it";
    if (!Packed(page)) return "its free space does not lie within it";
    const int count = Load<uint16_t>(page + 20) / 2;
    const size_t upper = Load<uint16_t>(page + 22);
    std::vector<std::pair<size_t, size_t>> spans;
    spans.reserve(static_cast<size_t>(count));
    Key previous;
    for (int index = 0; index < count; ++index) {
      Key key;
      const size_t at = NodeAt(page, index);
      if (at < kHeader + upper || !NodeKey(page, index, &key)) return "a record lies outside of it";
      const bool unused = kind == kBranch && index == 0;
      if (!unused && (key.length == 0 || (previous.data != nullptr && Compare(previous, key) >= 0))) {
        return "its keys are not in order";
      }
      if (!unused) previous = key;
      size_t end = at + kNodeHeader + key.length;
      if (kind == kLeaf) {
        const uint16_t flags = Load<uint16_t>(page + at + 4);
        if ((flags & ~kBigData) != 0) return "a record has unknown flags";
        end += flags == kBigData ? kOverflowNodeBytes : Load<uint32_t>(page + at);
      }
      if (end > kPageBytes) return "a record reaches beyond it";
      spans.emplace_back(at, end);
    }
    std::sort(spans.begin(), spans.end());
    size_t at = kHeader + upper;
    for (const auto& [start, end] : spans) {
      if (start != at) return "its records do not lie side by side";
      at = end + end % 2;
    }
    return at == kPageBytes ? nullptr : "its records do not lie side by side";
  }

  static bool NodeKey(const uint8_t* page, int index, Key* key) {
    const size_t at = NodeAt(page, index);
    if (at + kNodeHeader > kPageBytes) return false;
    const size_t length = Load<uint16_t>(page + at + 6);
    if (at + kNodeHeader + length > kPageBytes) return false;
    *key = {page + at + kNodeHeader, length};
    return true;
  }

  static uint64_t Child(const uint8_t* page, int index) {
    const size_t at = NodeAt(page, index);
    if (at + kNodeHeader > kPageBytes) return kNoPage;
    return Load<uint32_t>(page + at) + (static_cast<uint64_t>(Load<uint16_t>(page + at + 4)) << 32);
  }

  // The place after the last key that is not above this one; at least `low`.
  static int Search(const uint8_t* page, const Key& key, int low) {
    int high = Count(page);
    while (low < high) {
      const int middle = (low + high) / 2;
      Key there;
      if (NodeKey(page, middle, &there) && Compare(there, key) <= 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  // Whether the keys of the page lie within the bounds from the page above.
  static bool Within(const uint8_t* page, uint64_t number, int depth, const Key& from, const Key& below,
                     Fault* fault) {
    const int count = Load<uint16_t>(page + 20) / 2;
    const int first = depth > 1 ? 1 : 0;
    if (first >= count) return true;
    Key low;
    Key high;
    if (!NodeKey(page, first, &low) || !NodeKey(page, count - 1, &high)) {
      return Bad(fault, number, "a record lies outside of it");
    }
    if ((from.data != nullptr && Compare(low, from) < 0) || (below.data != nullptr && Compare(high, below) >= 0)) {
      return Bad(fault, number, "its keys are those of another page");
    }
    return true;
  }

  // Finds a value that lies on pages of its own. @param at where in the leaf their number stands.
  bool Large(const Walk& walk, size_t at, Record* record, Fault* fault) const {
    if (at + kOverflowNodeBytes > kPageBytes) return Bad(fault, walk.number, "a record lies outside of it");
    const uint64_t first = Load<uint64_t>(walk.leaf + at);
    const uint64_t pages = Load<uint64_t>(walk.leaf + at + 16);
    const Meta& meta = walk.meta;
    if (pages != (kHeader - 1 + record->length) / kPageBytes + 1) {
      return Bad(fault, walk.number, "a record has other pages than its length needs");
    }
    if (first < 2 || first > meta.last_page || pages > meta.last_page - first + 1) {
      return Bad(fault, walk.number, "a record lies on pages that are not there");
    }
    record->value = Page(first) + kHeader;
    const uint64_t seen = seen_[first].load(std::memory_order_relaxed);
    if (seen != 0 && Load<uint64_t>(Page(first) + 8) + 1 == seen &&
        OverflowSound(Page(first), first, pages, meta.transaction)) {
      return true;
    }
    // Read all of them: access through the mapping to an unreadable page would end the process.
    std::vector<uint8_t> bytes(pages * kPageBytes);
    if (!Read(first, bytes.data(), pages)) return Bad(fault, first, "it cannot be read");
    if (!OverflowSound(bytes.data(), first, pages, meta.transaction)) {
      return Bad(fault, first, "it does not hold the record it should");
    }
    seen_[first].store(Load<uint64_t>(bytes.data() + 8) + 1, std::memory_order_relaxed);
    return true;
  }

  static bool OverflowSound(const uint8_t* page, uint64_t number, uint64_t pages, uint64_t youngest) {
    return Load<uint64_t>(page) == number && Load<uint16_t>(page + 18) == kOverflow &&
           Load<uint32_t>(page + 20) == pages && Load<uint64_t>(page + 8) <= youngest;
  }

  const int fd_;
  const uint64_t bytes_;
  const uint64_t pages_;
  const bool checks_gaps_;
  const uint8_t* map_ = nullptr;
  // For each page its transaction + 1 when it was checked; 0: never checked.
  std::atomic<uint64_t>* seen_ = nullptr;
  // By run of pages: 1 if it was read ahead.
  std::atomic<uint8_t>* ahead_ = nullptr;
};

using Shared = std::shared_ptr<MetaPages>;

// The handles of this thread's environment. Node makes such values for other purposes too, and one must not be taken for a handle.
thread_local std::unordered_set<const void*> open_handles;

// metaPagesOpen(path, sizeBytes, checksGaps): a handle for the calls below, valid until it is collected. checksGaps: 0
// for a caller that reads all records and judges itself what is missing; else 1.
napi_value Open(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  std::string path;
  uint64_t bytes;
  uint32_t checks_gaps;
  if (!args.CString(0, &path) || !args.Uint53(1, &bytes) || !args.Uint32(2, &checks_gaps)) return nullptr;
  if (bytes < 2 * kPageBytes) return ThrowRange(env, "a database has two pages at least");
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ThrowErrno(env, errno, "open", path);
  auto pages = std::make_unique<Shared>(std::make_shared<MetaPages>(fd, bytes, checks_gaps != 0));
  // An access behind the end would end the process.
  const off_t end = lseek(fd, 0, SEEK_END);
  if (end < 0) return ThrowErrno(env, errno, "lseek", path);
  if (static_cast<uint64_t>(end) < bytes) return ThrowRange(env, "the device ends before that");
  const int error = (*pages)->Map();
  if (error != 0) return ThrowErrno(env, error, "mmap", path);
  napi_value handle;
  const auto finalize = [](napi_env, void* raw, void*) {
    open_handles.erase(raw);
    delete static_cast<Shared*>(raw);
  };
  HOLDFAST_NAPI(env, napi_create_external(env, pages.get(), finalize, nullptr, &handle));
  open_handles.insert(pages.release());
  return handle;
}

Shared* HandleOf(napi_env env, napi_value value) {
  void* raw = nullptr;
  if (napi_get_value_external(env, value, &raw) == napi_ok && open_handles.count(raw) > 0 &&
      *static_cast<Shared*>(raw)) {
    return static_cast<Shared*>(raw);
  }
  ThrowType(env, "argument 0 must be an open handle of metaPagesOpen");
  return nullptr;
}

napi_value Close(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  Shared* pages = HandleOf(env, args[0]);
  if (pages == nullptr) return nullptr;
  pages->reset();
  return Undefined(env);
}

napi_value Text(napi_env env, const Fault& fault) {
  const std::string text = "database page " + std::to_string(fault.page) + ": " + fault.what;
  napi_value value;
  HOLDFAST_NAPI(env, napi_create_string_utf8(env, text.data(), text.size(), &value));
  return value;
}

// metaPagesGet(handle, key, target): the length of the value, which is in target if that is large enough; undefined:
// there is no such record; a string says what is wrong.
napi_value Get(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  uint8_t* data;
  size_t length;
  uint8_t* target;
  size_t room;
  Shared* pages = HandleOf(env, args[0]);
  if (pages == nullptr || !args.Bytes(1, &data, &length) || !args.Bytes(2, &target, &room)) return nullptr;
  Walk walk;
  Fault fault;
  const Key key = {data, length};
  if (!(*pages)->To(key, &walk, &fault)) return Text(env, fault);
  if (walk.leaf == nullptr) return Undefined(env);
  const int index = MetaPages::FirstAt(walk.leaf, key);
  Record record;
  if (index < MetaPages::Count(walk.leaf) && !(*pages)->At(walk, index, &record, &fault)) return Text(env, fault);
  if (index >= MetaPages::Count(walk.leaf) || Compare(record.key, key) != 0) {
    if (!(*pages)->Gap(walk, index, &fault)) return Text(env, fault);
    return Undefined(env);
  }
  if (record.length <= room) memcpy(target, record.value, record.length);
  napi_value result;
  HOLDFAST_NAPI(env, napi_create_uint32(env, static_cast<uint32_t>(record.length), &result));
  return result;
}

void Append(std::string* to, const void* data, size_t length) { to->append(static_cast<const char*>(data), length); }

template <typename T>
void AppendNumber(std::string* to, T number) {
  Append(to, &number, sizeof number);
}

// metaPagesLeaf(handle, start, end, limit): records of one leaf with start <= key < end, at most `limit`: u16 length of
// the key where the next leaf begins if there may be more (else 0), that key; then for each record u16 and u32 lengths
// of key and value, key, value. A string says what is wrong.
napi_value Leaf(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  Key start;
  Key end;
  uint8_t* data;
  uint32_t limit;
  Shared* pages = HandleOf(env, args[0]);
  if (pages == nullptr || !args.Bytes(1, &data, &start.length)) return nullptr;
  start.data = data;
  if (!args.Bytes(2, &data, &end.length) || !args.Uint32(3, &limit)) return nullptr;
  end.data = data;
  Walk walk;
  Fault fault;
  if (!(*pages)->To(start, &walk, &fault)) return Text(env, fault);
  std::string packed;
  packed.reserve(kPageBytes);
  const bool more = walk.below.data != nullptr && Compare(walk.below, end) < 0;
  AppendNumber(&packed, static_cast<uint16_t>(more ? walk.below.length : 0));
  if (more) Append(&packed, walk.below.data, walk.below.length);
  const int count = walk.leaf == nullptr ? 0 : MetaPages::Count(walk.leaf);
  const int first = count == 0 ? 0 : MetaPages::FirstAt(walk.leaf, start);
  if (walk.leaf != nullptr && !(*pages)->Edge(walk, first, false, &fault)) return Text(env, fault);
  for (int index = first; index < count && limit > 0; ++index, --limit) {
    Record record;
    if (!(*pages)->At(walk, index, &record, &fault)) return Text(env, fault);
    if (Compare(record.key, end) >= 0) {
      if (!(*pages)->Edge(walk, index, true, &fault)) return Text(env, fault);
      break;
    }
    // This is the last record of the leaf, and the next leaf begins behind the range.
    if (index + 1 == count && !more && !(*pages)->Edge(walk, count, true, &fault)) return Text(env, fault);
    AppendNumber(&packed, static_cast<uint16_t>(record.key.length));
    AppendNumber(&packed, static_cast<uint32_t>(record.length));
    Append(&packed, record.key.data, record.key.length);
    Append(&packed, record.value, record.length);
  }
  napi_value result;
  HOLDFAST_NAPI(env, napi_create_buffer_copy(env, packed.size(), packed.data(), nullptr, &result));
  return result;
}

constexpr uint16_t kRemoved = 0x8000;

// metaPagesCheck(handle, keys): what is wrong on the path to one of these keys; undefined: nothing. `keys`: for each a
// u16 length in the machine's byte order and the key, one behind the other. 0x8000 is added to the length of a key that
// will be removed.
napi_value Check(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  uint8_t* data;
  size_t length;
  Shared* pages = HandleOf(env, args[0]);
  if (pages == nullptr || !args.Bytes(1, &data, &length)) return nullptr;
  Walk walk;
  Fault fault;
  for (size_t at = 0; at + 2 <= length;) {
    const uint16_t head = Load<uint16_t>(data + at);
    const Key key = {data + at + 2, static_cast<size_t>(head & ~kRemoved)};
    at += 2 + key.length;
    if (at > length) return ThrowType(env, "argument 1 must be keys with their lengths");
    const bool removed = (head & kRemoved) != 0;
    // Keys that follow each other in a batch often lie on one leaf.
    const bool same = walk.leaf != nullptr && (!removed || walk.neighbours) &&
                      (walk.from.data == nullptr || Compare(walk.from, key) <= 0) &&
                      (walk.below.data == nullptr || Compare(key, walk.below) < 0);
    if (!same) {
      walk.neighbours = removed;
      if (!(*pages)->To(key, &walk, &fault)) return Text(env, fault);
      if (walk.leaf == nullptr) return Undefined(env);
    }
    const int index = MetaPages::FirstAt(walk.leaf, key);
    Record record;
    if (index < MetaPages::Count(walk.leaf) && !(*pages)->At(walk, index, &record, &fault)) return Text(env, fault);
  }
  return Undefined(env);
}

// metaPagesPrefetch(handle, keys): reads the pages on the paths to these keys into memory and checks them. `keys`: for
// each a u16 length in the machine's byte order and the key, one behind the other. It reports no faults: a later read
// of the record does.
napi_value Prefetch(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  uint8_t* data;
  size_t length;
  Shared* pages = HandleOf(env, args[0]);
  if (pages == nullptr || !args.Bytes(1, &data, &length)) return nullptr;
  return RunInBackground(env, "read", "", [pages = *pages, keys = std::vector<uint8_t>(data, data + length)] {
    for (size_t at = 0; at + 2 <= keys.size();) {
      const size_t bytes = Load<uint16_t>(keys.data() + at);
      at += 2;
      if (at + bytes > keys.size()) break;
      Walk walk;
      Fault fault;
      const Key key = {keys.data() + at, bytes};
      Record record;
      if (pages->To(key, &walk, &fault) && walk.leaf != nullptr) {
        const int index = MetaPages::FirstAt(walk.leaf, key);
        if (index < MetaPages::Count(walk.leaf)) pages->At(walk, index, &record, &fault);
      }
      at += bytes;
    }
    return 0;
  });
}

}  // namespace

bool RegisterMetaPages(napi_env env, napi_value exports) {
  return DefineFunction(env, exports, "metaPagesOpen", Open) && DefineFunction(env, exports, "metaPagesClose", Close) &&
         DefineFunction(env, exports, "metaPagesGet", Get) && DefineFunction(env, exports, "metaPagesLeaf", Leaf) &&
         DefineFunction(env, exports, "metaPagesCheck", Check) &&
         DefineFunction(env, exports, "metaPagesPrefetch", Prefetch);
}

}  // namespace holdfast
