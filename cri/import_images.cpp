#include "cri/import_images.h"

#include <sys/file.h>

#include <iostream>

#include "oci/image_store.h"
#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::cri {

namespace {

absl::Status Import(const std::string& root, const std::string& path, const std::string& name) {
  RETURN_IF_ERROR(MakeDirs(root, 0711));
  // The daemon's own lock file.
  ASSIGN_OR_RETURN(Fd lock, OpenPath(root + "/daemon.lock", O_RDWR | O_CREAT, 0600));
  if (flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return ErrnoStatus(errno, Cat("lock `", root, "/daemon.lock`"));
    return absl::FailedPreconditionError(
        Cat("import images: a daemon runs over `", root, "`; stop it first"));
  }
  oci::ImageStoreOptions options;
  options.root = root + "/images";
  ASSIGN_OR_RETURN(auto store, oci::ImageStore::Open(options));
  ASSIGN_OR_RETURN(std::vector<oci::Image> images, store->Import(path, name));
  for (const oci::Image& image : images) {
    fmt::print("{} {}\n", image.id, image.repo_tags.empty() ? "-" : image.repo_tags.front());
  }
  return absl::OkStatus();
}

}  // namespace

int ImportImages(const std::string& root, const std::string& path, const std::string& name) {
  absl::Status status = Import(root, path, name);
  if (status.ok()) return 0;
  std::cerr << "sockctl: " << std::string(status.message()) << "\n";
  return 1;
}

}  // namespace sock::cri
