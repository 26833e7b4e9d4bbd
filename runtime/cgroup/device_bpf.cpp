// Device rules on cgroup v2: a program that the kernel asks at each open and mknod (bpf(2), linux/bpf.h:
// struct bpf_cgroup_dev_ctx).
#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>

#include "runtime/base/status.h"
#include "runtime/base/text.h"
#include "runtime/cgroup/internal.h"

namespace sock::runtime::cgroup {
namespace {

// Our programs are told from others' (systemd's) by name.
constexpr char kProgramName[] = "sock_devices";

enum Register : uint8_t { kR0, kR1, kType, kMajor, kMinor, kAccess };

bpf_insn Op(uint8_t code, uint8_t dst, uint8_t src, int16_t off, int32_t imm) {
  bpf_insn insn{};
  insn.code = code;
  insn.dst_reg = dst;
  insn.src_reg = src;
  insn.off = off;
  insn.imm = imm;
  return insn;
}
bpf_insn Load(Register dst, size_t offset) {
  return Op(BPF_LDX | BPF_MEM | BPF_W, dst, kR1, static_cast<int16_t>(offset), 0);
}
bpf_insn Alu(uint8_t op, Register dst, int32_t imm) { return Op(BPF_ALU | op | BPF_K, dst, 0, 0, imm); }
bpf_insn Jump(uint8_t op, Register dst, int64_t imm) {
  return Op(BPF_JMP32 | op | BPF_K, dst, 0, 0, static_cast<int32_t>(imm));
}

int32_t Mask(const std::string& access) {
  int32_t mask = 0;
  for (char c : access)
    mask |= c == 'r' ? BPF_DEVCG_ACC_READ : c == 'w' ? BPF_DEVCG_ACC_WRITE : BPF_DEVCG_ACC_MKNOD;
  return mask;
}

int Bpf(int command, bpf_attr* attr) {
  return static_cast<int>(syscall(SYS_bpf, command, attr, sizeof *attr));
}

uint64_t Pointer(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }

// The attached programs of ours.
absl::StatusOr<std::vector<Fd>> Ours(int dir) {
  uint32_t ids[64] = {};  // BPF_CGROUP_MAX_PROGS
  bpf_attr attr{};
  attr.query.target_fd = static_cast<uint32_t>(dir);
  attr.query.attach_type = BPF_CGROUP_DEVICE;
  attr.query.prog_ids = Pointer(ids);
  attr.query.prog_cnt = 64;
  if (Bpf(BPF_PROG_QUERY, &attr) != 0) return ErrnoStatus(errno, "query device programs");
  std::vector<Fd> ours;
  for (uint32_t i = 0, n = attr.query.prog_cnt; i < n; ++i) {
    bpf_attr get{};
    get.prog_id = ids[i];
    Fd program(Bpf(BPF_PROG_GET_FD_BY_ID, &get));
    if (!program.valid()) continue;
    bpf_prog_info info{};
    bpf_attr query{};
    query.info.bpf_fd = static_cast<uint32_t>(program.get());
    query.info.info_len = sizeof info;
    query.info.info = Pointer(&info);
    if (Bpf(BPF_OBJ_GET_INFO_BY_FD, &query) == 0 && std::string_view(info.name) == kProgramName) {
      ours.push_back(std::move(program));
    }
  }
  return ours;
}

int Attach(int command, int dir, int program) {
  bpf_attr attr{};
  attr.target_fd = static_cast<uint32_t>(dir);
  attr.attach_bpf_fd = static_cast<uint32_t>(program);
  attr.attach_type = BPF_CGROUP_DEVICE;
  attr.attach_flags = command == BPF_PROG_ATTACH ? BPF_F_ALLOW_MULTI : 0;
  return Bpf(command, &attr);
}

}  // namespace

std::vector<bpf_insn> DeviceProgram(const std::vector<oci::DeviceRule>& rules) {
  // kAccess holds the asked bits that no rule has decided yet, from the last rule to the first.
  std::vector<bpf_insn> code = {
      Load(kType, offsetof(bpf_cgroup_dev_ctx, access_type)),
      Op(BPF_ALU | BPF_MOV | BPF_X, kAccess, kType, 0, 0),
      Alu(BPF_AND, kType, 0xffff),
      Alu(BPF_RSH, kAccess, 16),
      Load(kMajor, offsetof(bpf_cgroup_dev_ctx, major)),
      Load(kMinor, offsetof(bpf_cgroup_dev_ctx, minor)),
  };
  auto exit_with = [](int32_t value) {
    return std::vector<bpf_insn>{Op(BPF_ALU64 | BPF_MOV | BPF_K, kR0, 0, 0, value),
                                 Op(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)};
  };
  for (auto rule = rules.rbegin(); rule != rules.rend(); ++rule) {
    std::vector<bpf_insn> block;
    std::vector<size_t> to_next;  // jumps taken where the rule does not match
    auto unless = [&](bpf_insn insn) {
      to_next.push_back(block.size());
      block.push_back(insn);
    };
    int32_t mask = Mask(rule->access);
    bool any = rule->type == 'a' && !rule->major && !rule->minor && mask == 7;
    if (rule->type != 'a') {
      unless(Jump(BPF_JNE, kType, rule->type == 'b' ? BPF_DEVCG_DEV_BLOCK : BPF_DEVCG_DEV_CHAR));
    }
    if (rule->major) unless(Jump(BPF_JNE, kMajor, *rule->major));
    if (rule->minor) unless(Jump(BPF_JNE, kMinor, *rule->minor));
    if (!any && rule->allow) {
      block.push_back(Alu(BPF_AND, kAccess, ~mask));
      unless(Jump(BPF_JNE, kAccess, 0));
    } else if (!any) {
      bpf_insn hit = Jump(BPF_JSET, kAccess, mask);
      hit.off = 1;
      block.push_back(hit);
      unless(Op(BPF_JMP | BPF_JA, 0, 0, 0, 0));
    }
    std::vector<bpf_insn> end = exit_with(rule->allow ? 1 : 0);
    block.insert(block.end(), end.begin(), end.end());
    for (size_t at : to_next) block[at].off = static_cast<int16_t>(block.size() - at - 1);
    code.insert(code.end(), block.begin(), block.end());
    if (any) return code;  // decides everything: what stands before it, the verifier would call unreachable
  }
  std::vector<bpf_insn> end = exit_with(1);
  code.insert(code.end(), end.begin(), end.end());
  return code;
}

absl::Status AttachDevices(int dir, const std::vector<oci::DeviceRule>& rules) {
  ASSIGN_OR_RETURN(std::vector<Fd> old, Ours(dir));
  std::vector<bpf_insn> code = DeviceProgram(rules);
  static constexpr char kLicense[] = "Apache-2.0";
  bpf_attr attr{};
  attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
  attr.insns = Pointer(code.data());
  attr.insn_cnt = static_cast<uint32_t>(code.size());
  attr.license = Pointer(kLicense);
  std::copy(std::begin(kProgramName), std::end(kProgramName), attr.prog_name);
  Fd program(Bpf(BPF_PROG_LOAD, &attr));
  if (!program.valid()) return ErrnoStatus(errno, Cat("load device program of ", rules.size(), " rules"));
  if (Attach(BPF_PROG_ATTACH, dir, program.get()) != 0) return ErrnoStatus(errno, "attach device program");
  // Until the old one is gone both must allow: never more than either.
  for (const Fd& fd : old) {
    if (Attach(BPF_PROG_DETACH, dir, fd.get()) != 0) {
      absl::Status status = ErrnoStatus(errno, "detach old device program");
      Attach(BPF_PROG_DETACH, dir, program.get());
      return status;
    }
  }
  return absl::OkStatus();
}

}  // namespace sock::runtime::cgroup
