# Sourced by test scripts: what a run of ours may leave on a machine, as a list to compare before and after.
snapshot_machine() {
  ip -o link | awk -F': ' '{print "link", $2}' | sed 's/@.*//' | grep -E ' (veth|cri-sock|csock)' || true
  awk '{print "mount", $5}' /proc/self/mountinfo | grep -E 'cri-sock|sock-' || true
  find /sys/fs/cgroup -maxdepth 4 -type d -name '*cri-sock*' 2>/dev/null | sed 's/^/cgroup /' || true
  nft list tables 2>/dev/null | grep cri_sock || true
  # A zombie has ended: whose init does not reap is the machine's own matter.
  ps -eo stat=,comm=,pid= | awk '$1 !~ /^Z/ && $2 ~ /^(cri-sock|sock-)/ { print "process", $3 }'
}
