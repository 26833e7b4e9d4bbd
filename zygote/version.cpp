#include "zygote/version.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::zygote {
namespace {

constexpr size_t kMaxVersionBytes = 256;

Digits MakeDigits(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of('0'), text.size()));
  return text.empty() ? Digits{} : Digits{std::string(text)};
}

// Walks over a version in lower case.
class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}

  bool AtEnd() const { return at_ == text_.size(); }
  bool Take(std::string_view word) {
    if (!text_.substr(at_).starts_with(word)) return false;
    at_ += word.size();
    return true;
  }
  std::string_view TakeDigits() { return TakeWhile(absl::ascii_isdigit); }
  std::string_view TakeAlnum() { return TakeWhile(absl::ascii_isalnum); }
  void TakeSeparator() {
    if (!AtEnd() && IsSeparator(text_[at_])) ++at_;
  }
  static bool IsSeparator(char c) { return c == '-' || c == '_' || c == '.'; }

  // `[-_.]? WORD [-_.]? [0-9]*`: the first of `words` that is there; nullopt and nothing taken otherwise.
  std::optional<std::pair<std::string_view, Digits>> TakeMarked(
      std::initializer_list<std::string_view> words) {
    size_t before = at_;
    TakeSeparator();
    for (std::string_view word : words) {
      if (!Take(word)) continue;
      TakeSeparator();
      return std::pair(word, MakeDigits(TakeDigits()));
    }
    at_ = before;
    return std::nullopt;
  }
  // `-[0-9]+`, a post release without a word.
  std::optional<Digits> TakeDashed() {
    size_t before = at_;
    if (Take("-"))
      if (std::string_view digits = TakeDigits(); !digits.empty()) return MakeDigits(digits);
    at_ = before;
    return std::nullopt;
  }
  // `.[0-9]+`
  std::optional<Digits> TakeDotted() {
    size_t before = at_;
    if (Take("."))
      if (std::string_view digits = TakeDigits(); !digits.empty()) return MakeDigits(digits);
    at_ = before;
    return std::nullopt;
  }

 private:
  std::string_view TakeWhile(bool (*fits)(unsigned char)) {
    size_t begin = at_;
    while (!AtEnd() && fits(static_cast<unsigned char>(text_[at_]))) ++at_;
    return text_.substr(begin, at_ - begin);
  }

  std::string_view text_;
  size_t at_ = 0;
};

absl::Status NoVersion(std::string_view text) {
  return absl::InvalidArgumentError(
      Cat("`", absl::CEscape({text.data(), std::min(text.size(), size_t{80})}), "` is no version (PEP 440)"));
}

std::strong_ordering CompareRelease(const Version& a, const Version& b) {
  for (size_t i = 0; i < std::max(a.release.size(), b.release.size()); ++i) {
    const Digits left = i < a.release.size() ? a.release[i] : Digits{};
    const Digits right = i < b.release.size() ? b.release[i] : Digits{};
    if (auto order = left <=> right; order != 0) return order;
  }
  return std::strong_ordering::equal;
}

// 1.dev0 < 1a1 < 1b1 < 1rc1 < 1 <= 1.post1
int PreRank(const Version& version) {
  if (version.pre == "a") return 1;
  if (version.pre == "b") return 2;
  if (version.pre == "rc") return 3;
  return !version.post && version.dev ? 0 : 4;
}

bool IsNumber(const std::string& text) { return std::ranges::all_of(text, absl::ascii_isdigit); }

// Words before numbers, a longer list after what it begins with.
std::strong_ordering CompareLocal(const std::vector<std::string>& a, const std::vector<std::string>& b) {
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    bool left = IsNumber(a[i]), right = IsNumber(b[i]);
    if (left != right) return left <=> right;
    auto order = left ? Digits{a[i]} <=> Digits{b[i]} : a[i] <=> b[i];
    if (order != 0) return order;
  }
  return a.size() <=> b.size();
}

bool SameBase(const Version& a, const Version& b) { return a.epoch == b.epoch && CompareRelease(a, b) == 0; }

// The first `count` numbers are equal.
bool SamePrefix(const Version& version, const Version& prefix, size_t count) {
  if (version.epoch != prefix.epoch) return false;
  for (size_t i = 0; i < count; ++i)
    if ((i < version.release.size() ? version.release[i] : Digits{}) != prefix.release[i]) return false;
  return true;
}

}  // namespace

std::strong_ordering Digits::operator<=>(const Digits& other) const {
  if (auto order = text.size() <=> other.text.size(); order != 0) return order;
  return text <=> other.text;
}

absl::StatusOr<Version> ParseVersion(std::string_view text) {
  if (text.size() > kMaxVersionBytes) return NoVersion(text);
  std::string lower(text);
  absl::AsciiStrToLower(&lower);
  Reader reader(lower);
  Version version;
  reader.Take("v");
  std::string_view digits = reader.TakeDigits();
  if (!digits.empty() && reader.Take("!")) {
    version.epoch = MakeDigits(digits);
    digits = reader.TakeDigits();
  }
  if (digits.empty()) return NoVersion(text);
  version.release.push_back(MakeDigits(digits));
  while (auto number = reader.TakeDotted()) version.release.push_back(*number);
  if (auto pre = reader.TakeMarked({"alpha", "a", "beta", "b", "preview", "pre", "c", "rc"})) {
    version.pre = pre->first[0] == 'a' ? "a" : pre->first[0] == 'b' ? "b" : "rc";
    version.pre_number = pre->second;
  }
  if (auto number = reader.TakeDashed()) {
    version.post = *number;
  } else if (auto post = reader.TakeMarked({"post", "rev", "r"})) {
    version.post = post->second;
  }
  if (auto dev = reader.TakeMarked({"dev"})) version.dev = dev->second;
  if (reader.Take("+")) {
    do {
      std::string part(reader.TakeAlnum());
      if (part.empty()) return NoVersion(text);
      version.local.push_back(IsNumber(part) ? MakeDigits(part).text : part);
    } while (reader.Take(".") || reader.Take("-") || reader.Take("_"));
  }
  if (!reader.AtEnd()) return NoVersion(text);
  return version;
}

std::weak_ordering Compare(const Version& a, const Version& b) {
  if (auto order = a.epoch <=> b.epoch; order != 0) return order;
  if (auto order = CompareRelease(a, b); order != 0) return order;
  if (auto order = PreRank(a) <=> PreRank(b); order != 0) return order;
  if (auto order = a.pre_number <=> b.pre_number; order != 0) return order;
  if (auto order = a.post <=> b.post; order != 0) return order;  // none is first
  if (a.dev.has_value() != b.dev.has_value())
    return a.dev ? std::weak_ordering::less : std::weak_ordering::greater;
  if (a.dev)
    if (auto order = *a.dev <=> *b.dev; order != 0) return order;
  return CompareLocal(a.local, b.local);
}

absl::StatusOr<Clause> ParseClause(std::string_view op, std::string_view version) {
  Clause clause{.op = std::string(op), .text = std::string(version)};
  if (version.empty()) return absl::InvalidArgumentError(Cat("`", op, "` without a version"));
  if (op == "===") return clause;
  if (version.ends_with(".*")) {
    if (op != "==" && op != "!=")
      return absl::InvalidArgumentError(Cat("`", op, "`: `.*` is for `==` and `!=` only"));
    clause.prefix = true;
    version.remove_suffix(2);
  }
  ASSIGN_OR_RETURN_AS(clause.version, ParseVersion(version), Cat("`", op, "`"));
  const Version& v = clause.version;
  if (clause.prefix && (v.IsPrerelease() || v.post || !v.local.empty()))
    return absl::InvalidArgumentError(Cat("`", op, "`: `.*` may follow numbers only"));
  if (!v.local.empty() && op != "==" && op != "!=")
    return absl::InvalidArgumentError(Cat("`", op, "`: a local version (`+`) is for `==` and `!=` only"));
  if (op == "~=" && v.release.size() < 2)
    return absl::InvalidArgumentError("`~=`: the version needs at least two numbers");
  return clause;
}

bool Fits(const Clause& clause, std::string_view text) {
  if (clause.op == "===")
    return absl::EqualsIgnoreCase({clause.text.data(), clause.text.size()}, {text.data(), text.size()});
  auto parsed = ParseVersion(text);
  if (!parsed.ok()) return false;
  const Version& version = *parsed;
  const Version& wanted = clause.version;
  Version open = version;  // without its local part, which only a clause with one looks at
  open.local.clear();
  auto equals = [&] {
    if (clause.prefix) return SamePrefix(version, wanted, wanted.release.size());
    return Compare(wanted.local.empty() ? open : version, wanted) == 0;
  };
  if (clause.op == "==") return equals();
  if (clause.op == "!=") return !equals();
  if (clause.op == "<=") return Compare(open, wanted) <= 0;
  if (clause.op == ">=") return Compare(open, wanted) >= 0;
  if (clause.op == "~=")
    return Compare(open, wanted) >= 0 && SamePrefix(version, wanted, wanted.release.size() - 1);
  if (clause.op == "<") {  // "<1" does not let 1rc1 in
    Version bound = wanted;
    if (!wanted.IsPrerelease()) bound.dev = Digits{};
    return Compare(open, bound) < 0;
  }
  // ">1" lets neither 1+local nor 1.post1 in.
  bool post_of_wanted = version.post && !wanted.post && !wanted.dev && SameBase(version, wanted) &&
                        version.pre == wanted.pre && version.pre_number == wanted.pre_number;
  return Compare(open, wanted) > 0 && !post_of_wanted;
}

}  // namespace sock::zygote
