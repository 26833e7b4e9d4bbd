#include "zygote/requirement.h"

#include <sys/utsname.h>

#include <algorithm>
#include <map>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::zygote {
namespace {

constexpr size_t kMaxBytes = 16384;
constexpr size_t kMaxItems = 256;
constexpr int kMaxDepth = 16;  // parentheses in a marker

bool IsSpace(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
bool IsAlnum(char c) { return absl::ascii_isalnum(static_cast<unsigned char>(c)); }
bool IsOperatorChar(char c) { return c == '<' || c == '>' || c == '=' || c == '!' || c == '~'; }
bool IsVersionVariable(std::string_view name) {
  return name == "python_version" || name == "python_full_version";
}

std::string Quoted(std::string_view text) {
  std::string escaped = absl::CEscape({text.data(), std::min(text.size(), size_t{80})});
  return Cat("`", absl::StrReplaceAll(escaped, {{"\\'", "'"}, {"\\\"", "\""}}), "`");
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  absl::StatusOr<std::vector<Requirement>> ParseList() {
    std::vector<Requirement> list;
    SkipSpace();
    if (AtEnd()) return list;
    do {
      if (list.size() == kMaxItems)
        return absl::InvalidArgumentError(Cat("more than ", kMaxItems, " requirements"));
      SkipSpace();
      size_t begin = at_;
      Requirement requirement;
      RETURN_IF_ERROR(ParseOne(requirement));
      requirement.text = text_.substr(begin, at_ - begin);
      while (IsSpace(requirement.text.back())) requirement.text.pop_back();
      list.push_back(std::move(requirement));
    } while (Take(","));
    if (!AtEnd()) return Error("expected `,` or the end");
    return list;
  }

 private:
  bool AtEnd() const { return at_ == text_.size(); }
  char Peek() const { return AtEnd() ? '\0' : text_[at_]; }
  void SkipSpace() {
    while (!AtEnd() && IsSpace(text_[at_])) ++at_;
  }
  bool Take(std::string_view token) {
    if (!text_.substr(at_).starts_with(token)) return false;
    at_ += token.size();
    return true;
  }
  // A keyword: no letter or digit follows.
  bool TakeWord(std::string_view word) {
    size_t end = at_ + word.size();
    if (end < text_.size() && (IsAlnum(text_[end]) || text_[end] == '_')) return false;
    return Take(word);
  }
  template <typename F>
  std::string_view TakeWhile(F fits) {
    size_t begin = at_;
    while (!AtEnd() && fits(text_[at_])) ++at_;
    return text_.substr(begin, at_ - begin);
  }
  absl::Status Error(std::string_view reason) const {
    std::string_view rest = text_.substr(at_);
    return absl::InvalidArgumentError(Cat(
        "character ", at_ + 1, ", ", rest.empty() ? "the end" : Quoted(rest.substr(0, 20)), ": ", reason));
  }

  absl::StatusOr<std::string> ParseName(std::string_view what) {
    size_t begin = at_;
    std::string_view name = TakeWhile([](char c) { return IsAlnum(c) || c == '-' || c == '_' || c == '.'; });
    if (name.empty()) return Error(Cat("expected ", what));
    if (!IsAlnum(name.front()) || !IsAlnum(name.back())) {
      at_ = begin;
      return Error(Cat(what, " begins and ends with a letter or digit"));
    }
    return NormalizeName(name);
  }

  absl::Status ParseOne(Requirement& out) {
    ASSIGN_OR_RETURN(out.name, ParseName("the name of a package"));
    SkipSpace();
    if (Take("[")) {
      SkipSpace();
      while (!Take("]")) {
        ASSIGN_OR_RETURN(out.extras.emplace_back(), ParseName("the name of an extra"));
        SkipSpace();
        if (Take(",")) {
          SkipSpace();
          if (Peek() == ']') return Error("expected the name of an extra");
        } else if (Peek() != ']') {
          return Error("expected `,` or `]`");
        }
      }
      SkipSpace();
    }
    if (Peek() == '@')  // not shown: it may hold a password
      return absl::InvalidArgumentError(
          Cat("`", out.name,
              "`: a URL tells nothing that an installed package can be compared with; name a version"));
    if (Take("(")) {
      SkipSpace();
      if (!IsOperatorChar(Peek())) return Error("expected a comparison operator");
      RETURN_IF_ERROR(ParseClauses(out, true));
      if (!Take(")")) return Error("expected `)`");
      SkipSpace();
    } else if (IsOperatorChar(Peek())) {
      RETURN_IF_ERROR(ParseClauses(out, false));
    }
    if (Take(";")) {
      RETURN_IF_ERROR(ParseOr(out.marker, 0));
    }
    return absl::OkStatus();
  }

  absl::Status ParseClauses(Requirement& out, bool in_parentheses) {
    for (;;) {
      size_t begin = at_;
      ASSIGN_OR_RETURN(std::string op, ParseOperator());
      SkipSpace();
      std::string_view version = TakeWhile([&](char c) {
        if (op == "===") return !IsSpace(c) && c != ',' && c != ';' && c != ')';
        return IsAlnum(c) || c == '-' || c == '_' || c == '.' || c == '*' || c == '+' || c == '!';
      });
      auto clause = ParseClause(op, version);
      if (!clause.ok()) {
        at_ = begin;
        return Error(Cat(clause.status().message()));
      }
      out.clauses.push_back(*std::move(clause));
      SkipSpace();
      // A comma that begins the next requirement is left to the list.
      size_t comma = at_;
      if (!Take(",")) return absl::OkStatus();
      SkipSpace();
      if (IsOperatorChar(Peek())) continue;
      if (in_parentheses) return Error("expected a comparison operator");
      at_ = comma;
      return absl::OkStatus();
    }
  }

  absl::StatusOr<std::string> ParseOperator() {
    for (std::string_view op : {"===", "==", "~=", "!=", "<=", ">=", "<", ">"})
      if (Take(op)) return std::string(op);
    return Error("expected one of ==, !=, <=, >=, <, >, ~=, ===");
  }

  absl::Status ParseOr(std::vector<MarkerStep>& out, int depth) {
    RETURN_IF_ERROR(ParseAnd(out, depth));
    for (SkipSpace(); TakeWord("or"); SkipSpace()) {
      RETURN_IF_ERROR(ParseAnd(out, depth));
      out.push_back({.kind = MarkerStep::Kind::kOr});
    }
    return absl::OkStatus();
  }

  absl::Status ParseAnd(std::vector<MarkerStep>& out, int depth) {
    RETURN_IF_ERROR(ParseTerm(out, depth));
    for (SkipSpace(); TakeWord("and"); SkipSpace()) {
      RETURN_IF_ERROR(ParseTerm(out, depth));
      out.push_back({.kind = MarkerStep::Kind::kAnd});
    }
    return absl::OkStatus();
  }

  absl::Status ParseTerm(std::vector<MarkerStep>& out, int depth) {
    SkipSpace();
    if (Take("(")) {
      if (depth == kMaxDepth) return Error(Cat("more than ", kMaxDepth, " parentheses in each other"));
      RETURN_IF_ERROR(ParseOr(out, depth + 1));
      SkipSpace();
      return Take(")") ? absl::OkStatus() : Error("expected `)`");
    }
    size_t begin = at_;
    MarkerStep step;
    ASSIGN_OR_RETURN(bool left_is_literal, ParseOperand(step));
    SkipSpace();
    if (TakeWord("in")) {
      step.op = "in";
    } else if (TakeWord("not")) {
      SkipSpace();
      if (!TakeWord("in")) return Error("expected `in`");
      step.op = "not in";
    } else {
      ASSIGN_OR_RETURN(step.op, ParseOperator());
    }
    SkipSpace();
    ASSIGN_OR_RETURN(bool right_is_literal, ParseOperand(step));
    step.literal_first = left_is_literal;
    std::string reason;
    if (left_is_literal == right_is_literal) {
      reason = "a marker compares a variable with a text in quotes";
    } else if ((step.op == "~=" || step.op == "===") && !IsVersionVariable(step.variable)) {
      reason = Cat("`", step.op, "` compares versions only");
    } else if (step.op != "in" && step.op != "not in" && IsVersionVariable(step.variable)) {
      // The left side must fit the right one.
      auto checked =
          left_is_literal ? ParseVersion(step.literal).status() : ParseClause(step.op, step.literal).status();
      reason = Cat(checked.message());
    }
    if (!reason.empty()) {
      at_ = begin;
      return Error(reason);
    }
    out.push_back(std::move(step));
    return absl::OkStatus();
  }

  // True: a literal.
  absl::StatusOr<bool> ParseOperand(MarkerStep& step) {
    if (char quote = Peek(); quote == '"' || quote == '\'') {
      size_t begin = at_++;
      std::string_view literal = TakeWhile([&](char c) { return c != quote; });
      if (AtEnd()) {
        at_ = begin;
        return Error("the quote is not closed");
      }
      ++at_;
      step.literal = literal;
      return true;
    }
    size_t begin = at_;
    std::string_view name = TakeWhile([](char c) { return IsAlnum(c) || c == '_' || c == '.'; });
    static const std::set<std::string, std::less<>> known = {
        "python_version",  "python_full_version", "sys_platform", "platform_machine",
        "platform_system", "implementation_name", "os_name"};
    if (!known.contains(name)) {
      at_ = begin;
      return Error(name.empty() ? "expected a variable or a text in quotes"
                                : Cat("the variable ", Quoted(name), " is not supported in markers"));
    }
    step.variable = name;
    return false;
  }

  std::string_view text_;
  size_t at_ = 0;
};

const std::string& ValueOf(const std::string& variable, const MarkerEnvironment& environment) {
  static const std::string linux = "linux", system = "Linux", cpython = "cpython", posix = "posix";
  if (variable == "python_version") return environment.python_version;
  if (variable == "python_full_version") return environment.python_full_version;
  if (variable == "platform_machine") return environment.platform_machine;
  if (variable == "sys_platform") return linux;
  if (variable == "platform_system") return system;
  if (variable == "implementation_name") return cpython;
  return posix;
}

bool Holds(const MarkerStep& step, const MarkerEnvironment& environment) {
  const std::string& value = ValueOf(step.variable, environment);
  const std::string& left = step.literal_first ? step.literal : value;
  const std::string& right = step.literal_first ? value : step.literal;
  if (step.op == "in") return right.find(left) != right.npos;
  if (step.op == "not in") return right.find(left) == right.npos;
  if (IsVersionVariable(step.variable)) {
    auto clause = ParseClause(step.op, right);
    return clause.ok() && Fits(*clause, left);
  }
  if (step.op == "!=") return left != right;
  // Texts have no order: none is less than another (as pip has it).
  return step.op != "<" && step.op != ">" && left == right;
}

}  // namespace

std::string Requirement::Wanted() const {
  return Cat("`", name, "`", clauses.empty() ? "" : " ",
             absl::StrJoin(clauses, ",",
                           [](std::string* out, const Clause& clause) { out->append(clause.String()); }));
}

absl::StatusOr<std::vector<Requirement>> ParseRequirements(std::string_view text) {
  if (text.size() > kMaxBytes) return absl::InvalidArgumentError(Cat("more than ", kMaxBytes, " bytes"));
  return Parser(text).ParseList();
}

absl::StatusOr<std::vector<std::string>> ParseImports(std::string_view text) {
  if (text.size() > kMaxBytes) return absl::InvalidArgumentError(Cat("more than ", kMaxBytes, " bytes"));
  std::vector<std::string> modules = absl::StrSplit(absl::string_view(text.data(), text.size()),
                                                    absl::ByAnyChar(", \t\r\n"), absl::SkipEmpty());
  std::vector<std::string> unique;
  for (const std::string& module : modules) {
    for (absl::string_view part : absl::StrSplit(module, '.')) {
      bool valid = !part.empty() && !absl::ascii_isdigit(static_cast<unsigned char>(part[0])) &&
                   std::ranges::all_of(part, [](char c) { return IsAlnum(c) || c == '_'; });
      if (!valid) return absl::InvalidArgumentError(Cat(Quoted(module), " is no dotted name of a module"));
    }
    if (std::ranges::find(unique, module) == unique.end()) unique.push_back(module);
    if (unique.size() > kMaxItems)
      return absl::InvalidArgumentError(Cat("more than ", kMaxItems, " modules"));
  }
  return unique;
}

std::string NormalizeName(std::string_view name) {
  std::string normalized;
  for (char c : name) {
    bool separator = c == '-' || c == '_' || c == '.';
    if (!separator) {
      normalized += absl::ascii_tolower(static_cast<unsigned char>(c));
    } else if (normalized.empty() || normalized.back() != '-') {
      normalized += '-';
    }
  }
  return normalized;
}

absl::StatusOr<MarkerEnvironment> MakeMarkerEnvironment(std::string_view python_full_version) {
  if (python_full_version.ends_with('+')) python_full_version.remove_suffix(1);
  ASSIGN_OR_RETURN_AS(Version version, ParseVersion(python_full_version), "version of Python");
  MarkerEnvironment environment;
  environment.python_full_version = python_full_version;
  environment.python_version =
      Cat(version.release[0].text, ".", version.release.size() > 1 ? version.release[1].text : "0");
  utsname name{};
  if (uname(&name) == 0) environment.platform_machine = name.machine;
  return environment;
}

bool Applies(const Requirement& requirement, const MarkerEnvironment& environment) {
  std::vector<bool> values;
  for (const MarkerStep& step : requirement.marker) {
    if (step.kind == MarkerStep::Kind::kCompare) {
      values.push_back(Holds(step, environment));
      continue;
    }
    bool last = values.back();
    values.pop_back();
    values.back() = step.kind == MarkerStep::Kind::kAnd ? values.back() && last : values.back() || last;
  }
  return values.empty() || values.back();
}

bool Satisfies(const Requirement& requirement, std::string_view version) {
  return std::ranges::all_of(requirement.clauses,
                             [&](const Clause& clause) { return Fits(clause, version); });
}

absl::StatusOr<std::vector<std::string>> Match(const std::vector<Requirement>& requirements,
                                               const std::vector<InstalledPackage>& installed,
                                               std::string_view python_full_version) {
  ASSIGN_OR_RETURN(MarkerEnvironment environment, MakeMarkerEnvironment(python_full_version));
  std::map<std::string, const InstalledPackage*> by_name;
  for (const InstalledPackage& package : installed) by_name.emplace(NormalizeName(package.name), &package);
  std::vector<std::string> modules;
  for (const Requirement& requirement : requirements) {
    if (!Applies(requirement, environment)) continue;
    auto it = by_name.find(requirement.name);
    if (it == by_name.end())
      return absl::FailedPreconditionError(Cat(requirement.Wanted(), ": not installed"));
    const InstalledPackage& package = *it->second;
    if (!Satisfies(requirement, package.version))
      return absl::FailedPreconditionError(
          Cat(requirement.Wanted(), ": installed is ", Quoted(package.version)));
    for (const std::string& module : package.modules)
      if (std::ranges::find(modules, module) == modules.end()) modules.push_back(module);
  }
  return modules;
}

}  // namespace sock::zygote
