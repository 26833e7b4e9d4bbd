#include "oci/image_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <future>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "absl/cleanup/cleanup.h"
#include "oci/archive.h"
#include "oci/digest.h"
#include "oci/layer_pool.h"
#include "oci/manifest.h"
#include "oci/reference.h"
#include "oci/registry.h"
#include "oci/unpack.h"
#include "runtime/base/atomic_file.h"
#include "runtime/base/fd.h"
#include "runtime/base/ids.h"
#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::oci {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

// Where the bytes of a manifest, config or layer come from: a registry, or a folder in OCI layout.
class Source {
 public:
  virtual ~Source() = default;
  virtual absl::Status Blob(const Descriptor& descriptor, const BlobSink& sink) = 0;
};

// Collects at most `limit` bytes in `out`, which must outlive it.
BlobSink IntoString(std::string& out, size_t limit, const std::string& what) {
  return {[&out, limit, what](std::string_view bytes) {
            if (out.size() + bytes.size() > limit)
              return absl::ResourceExhaustedError(Cat(what, " is over ", limit >> 20, " MiB"));
            out += bytes;
            return absl::OkStatus();
          },
          [&out] {
            out.clear();
            return absl::OkStatus();
          }};
}

class RegistrySource final : public Source {
 public:
  RegistrySource(RegistryClient& client, Reference reference, Credentials credentials,
                 std::function<bool()> cancelled)
      : client_(client),
        reference_(std::move(reference)),
        credentials_(std::move(credentials)),
        cancelled_(std::move(cancelled)) {}
  absl::Status Blob(const Descriptor& descriptor, const BlobSink& sink) override {
    return client_.FetchBlob(reference_, descriptor.digest, descriptor.size, credentials_, sink, cancelled_);
  }

 private:
  RegistryClient& client_;
  const Reference reference_;
  const Credentials credentials_;
  const std::function<bool()> cancelled_;
};

class LayoutSource final : public Source {
 public:
  explicit LayoutSource(std::string dir) : dir_(std::move(dir)) {}
  absl::Status Blob(const Descriptor& descriptor, const BlobSink& sink) override {
    RETURN_IF_ERROR(CheckDigest(descriptor.digest, "blob"));
    // A layout is a stranger's: its files are opened inside it only.
    ASSIGN_OR_RETURN(Fd root, OpenPath(dir_, O_RDONLY | O_DIRECTORY));
    ASSIGN_OR_RETURN(Fd file, OpenInRoot(root.get(), "blobs/sha256/" + Hex(descriptor.digest), O_RDONLY));
    char buffer[65536];
    for (;;) {
      ssize_t n = read(file.get(), buffer, sizeof buffer);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return ErrnoStatus(errno, Cat("read blob `", descriptor.digest, "`"));
      if (n == 0) return absl::OkStatus();
      RETURN_IF_ERROR(sink.write({buffer, static_cast<size_t>(n)}));
    }
  }

 private:
  const std::string dir_;
};

// A malformed document of a registry's is not the caller's fault, as a malformed reference is.
absl::Status FromRegistry(const absl::Status& status) {
  return absl::IsInvalidArgument(status) ? WithCode(status, absl::StatusCode::kDataLoss) : status;
}

// What images.json holds of an image: the rest is read from its manifest and config.
struct Record {
  std::set<std::string> tags, digests;  // full references
};

constexpr size_t kReadyLayers = 16;

class Store final : public ImageStore {
 public:
  explicit Store(ImageStoreOptions options) : options_(std::move(options)), client_(options_.certs_dir) {}

  absl::Status Load();
  absl::StatusOr<Image> Pull(const std::string& text, const Credentials& credentials,
                             std::function<bool()> cancelled) override;
  absl::StatusOr<std::vector<Image>> Import(const std::string& path, const std::string& name) override;
  absl::StatusOr<Image> Get(const std::string& reference) const override;
  std::vector<Image> List() const override;
  absl::Status Remove(const std::string& reference) override;
  absl::StatusOr<Rootfs> CreateSnapshot(const std::string& id, const std::string& image_id, uint32_t uid,
                                        uint32_t gid) override;
  absl::StatusOr<Rootfs> GetSnapshot(const std::string& id) const override;
  absl::Status RemoveSnapshot(const std::string& id) override;
  std::vector<std::string> ListSnapshots() const override;
  absl::StatusOr<Usage> SnapshotUsage(const std::string& id) const override;
  absl::StatusOr<Usage> FilesystemUsage() const override;
  std::string root() const override { return options_.root; }

 private:
  std::string BlobPath(const std::string& digest) const { return options_.root + "/blobs/" + Hex(digest); }
  std::string LayerPath(const std::string& chain) const { return options_.root + "/layers/" + Hex(chain); }
  std::string SnapshotPath(const std::string& id) const { return options_.root + "/snapshots/" + id; }

  absl::Status PutBlob(const std::string& digest, const std::string& bytes);
  absl::StatusOr<Image> Install(Source& source, const std::string& manifest_bytes, const std::string& tag,
                                const std::string& digest_reference, const std::function<bool()>& cancelled);
  absl::Status EnsureLayer(Source& source, const Descriptor& layer, const std::vector<std::string>& chains,
                           size_t index, const std::string& diff_id, const std::function<bool()>& cancelled);
  absl::Status MakeLayer(Source& source, const Descriptor& layer, const std::vector<std::string>& chains,
                         size_t index, const std::string& diff_id, const std::function<bool()>& cancelled);
  // The directories of the layers below chains[index], topmost first, once all are there.
  absl::StatusOr<std::vector<std::string>> AwaitLayersBelow(const std::vector<std::string>& chains,
                                                            size_t index,
                                                            const std::function<bool()>& cancelled);
  absl::StatusOr<Image> ReadImage(const std::string& manifest_digest) const;
  absl::Status Save(const std::map<std::string, Record>& records, const std::map<std::string, Image>& images);
  absl::StatusOr<std::string> FindLocked(const std::string& reference) const;  // the image's id
  Image Named(const Image& image, const Record& record) const;
  std::vector<std::string> SnapshotLayers(const std::string& id) const;
  // With mutex_ held: moves what nothing uses aside. The caller removes it without the lock (RemoveAll): a
  // large layer takes long, and a container that starts must not wait for it.
  [[nodiscard]] std::vector<std::string> CollectGarbage();
  static void RemoveAll(const std::vector<std::string>& paths) {
    // What can't be removed now is removed when the store is opened again.
    for (const std::string& path : paths) RemoveTree(path).IgnoreError();
  }
  void Use(const std::vector<std::string>& chains, int by);

  const ImageStoreOptions options_;
  RegistryClient client_;
  mutable std::mutex mutex_;               // guards what follows; never held across the network or unpacking
  std::map<std::string, Image> images_;    // by id
  std::map<std::string, Record> records_;  // by id
  std::map<std::string, int> in_use_;      // layers and blobs that a pull or a snapshot being made needs
  std::map<std::string, std::shared_future<absl::Status>> making_;  // layers, by chain id: one maker each
  std::condition_variable layer_made_;                              // with mutex_
  std::unique_ptr<LayerPool> pool_;
  mutable std::mutex usage_mutex_;
  mutable std::map<std::string, Usage> usage_;  // of whole layers, by folder
};

// What cri/convert_mounts.cpp mounts in each container. The modes are those of mount points made in a
// container.
absl::Status MakeMountPoints(const std::string& root) {
  for (const char* path : {"", "/dev", "/etc", "/proc", "/sys"}) {
    RETURN_IF_ERROR(MakeDirs(root + path, 0755));
    if (chmod((root + path).c_str(), 0755) < 0) return ErrnoStatus(errno, Cat("chmod `", root, path, "`"));
  }
  for (const char* path : {"/etc/hostname", "/etc/hosts", "/etc/resolv.conf"}) {
    ASSIGN_OR_RETURN(Fd file, OpenPath(root + path, O_WRONLY | O_CREAT, 0644));
    if (fchmod(file.get(), 0644) < 0) return ErrnoStatus(errno, Cat("chmod `", root, path, "`"));
  }
  return absl::OkStatus();
}

absl::Status Store::Load() {
  RETURN_IF_ERROR(RemoveTree(options_.root + "/aside"));
  for (const char* folder : {"/blobs", "/layers", "/snapshots", "/aside", "/empty"})
    RETURN_IF_ERROR(MakeDirs(options_.root + folder, 0700));
  // Containers in user namespaces of their own must get to their layers, and nobody else need look here.
  if (chmod((options_.root + "/empty").c_str(), 0755) < 0) return ErrnoStatus(errno, "chmod the image store");
  RETURN_IF_ERROR(MakeMountPoints(options_.root + "/mount-points"));
  pool_ = std::make_unique<LayerPool>(options_.root + "/aside", kReadyLayers);
  for (const char* folder : {"/layers", "/snapshots"}) {
    if (chmod((options_.root + folder).c_str(), 0711) < 0) return ErrnoStatus(errno, "chmod the image store");
  }
  for (const char* folder : {"/blobs", "/layers", "/snapshots"}) {
    std::error_code ignored;
    std::vector<std::string> unfinished;
    for (const auto& entry : fs::directory_iterator(options_.root + folder, ignored))
      if (entry.path().filename().string().starts_with(".tmp-") ||
          entry.path().string().find(".tmp-") != std::string::npos)
        unfinished.push_back(entry.path().string());
    for (const std::string& path : unfinished) RETURN_IF_ERROR(RemoveTree(path));
  }
  absl::StatusOr<std::string> text = ReadFile(options_.root + "/images.json");
  if (absl::IsNotFound(text.status())) return absl::OkStatus();
  RETURN_IF_ERROR(text.status());
  json saved = json::parse(*text, nullptr, false);
  if (!saved.is_object() || !saved.contains("images") || !saved["images"].is_array())
    return absl::DataLossError(Cat("`", options_.root, "/images.json` can't be read"));
  std::lock_guard lock(mutex_);
  for (const json& one : saved["images"]) {
    if (!one.is_object()) continue;
    auto words = [&](const char* key) {
      std::vector<std::string> found;
      if (auto list = one.find(key); list != one.end() && list->is_array())
        for (const json& word : *list)
          if (word.is_string()) found.push_back(word);
      return found;
    };
    auto manifest = one.find("manifest");
    if (manifest == one.end() || !manifest->is_string()) continue;
    absl::StatusOr<Image> image = ReadImage(*manifest);
    if (!image.ok()) continue;  // its files are gone: it is no image any more, and is pulled again
    bool whole = std::all_of(image->layers.begin(), image->layers.end(), [&](const std::string& chain) {
      return access(LayerPath(chain).c_str(), F_OK) == 0;
    });
    if (!whole) continue;
    const std::string id = image->id;
    Record& record = records_[id];
    for (const std::string& tag : words("tags")) record.tags.insert(tag);
    for (const std::string& digest : words("digests")) record.digests.insert(digest);
    images_[id] = *std::move(image);
  }
  RemoveAll(CollectGarbage());
  return absl::OkStatus();
}

absl::Status Store::Save(const std::map<std::string, Record>& records,
                         const std::map<std::string, Image>& images) {
  json list = json::array();
  for (const auto& [id, record] : records)
    list.push_back(
        {{"manifest", images.at(id).manifest_digest}, {"tags", record.tags}, {"digests", record.digests}});
  return WriteFileAtomic(options_.root + "/images.json", json{{"version", 1}, {"images", list}}.dump(1),
                         Durability::kReboot);
}

absl::StatusOr<Image> Store::ReadImage(const std::string& manifest_digest) const {
  RETURN_IF_ERROR(CheckDigest(manifest_digest, "manifest digest"));
  ASSIGN_OR_RETURN(std::string bytes, ReadFile(BlobPath(manifest_digest)));
  ASSIGN_OR_RETURN(Manifest manifest, ParseManifest(bytes));
  ASSIGN_OR_RETURN(std::string config_bytes, ReadFile(BlobPath(manifest.config.digest)));
  ASSIGN_OR_RETURN(Config config, ParseConfig(config_bytes));
  Image image;
  image.id = manifest.config.digest;
  image.manifest_digest = manifest_digest;
  image.layers = ChainIds(config.diff_ids);
  image.size = manifest.config.size;
  for (const Descriptor& layer : manifest.layers) image.size += layer.size;
  image.config = config.config;
  image.annotations = manifest.annotations;
  return image;
}

absl::Status Store::PutBlob(const std::string& digest, const std::string& bytes) {
  if (Sha256(bytes) != digest) return absl::DataLossError(Cat("blob `", digest, "` has another digest"));
  return WriteFileAtomic(BlobPath(digest), bytes, Durability::kReboot);
}

absl::Status Store::MakeLayer(Source& source, const Descriptor& layer, const std::vector<std::string>& chains,
                              size_t index, const std::string& diff_id,
                              const std::function<bool()>& cancelled) {
  const std::string& chain = chains[index];
  std::string aside = Cat(options_.root, "/layers/.tmp-", NewId());
  absl::Cleanup clear = [&] { RemoveTree(aside).IgnoreError(); };
  // The compressed layer is kept only while it is unpacked: what serves containers is the unpacked one.
  Fd file(open((options_.root + "/blobs").c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (!file.valid()) return ErrnoStatus(errno, "make a file for the layer");
  BlobSink sink;
  sink.write = [&](std::string_view bytes) {
    if (cancelled && cancelled()) return absl::CancelledError("the pull was cancelled");
    return WriteAll(file.get(), bytes);
  };
  sink.restart = [&] {
    if (ftruncate(file.get(), 0) == 0 && lseek(file.get(), 0, SEEK_SET) == 0) return absl::OkStatus();
    return ErrnoStatus(errno, "empty the layer's file");
  };
  RETURN_IF_ERROR(source.Blob(layer, sink));
  if (lseek(file.get(), 0, SEEK_SET) < 0) return ErrnoStatus(errno, "rewind the layer's file");
  UnpackOptions unpack;
  unpack.max_bytes = options_.max_layer_bytes;
  unpack.diff_id = diff_id;
  unpack.cancelled = cancelled;
  ASSIGN_OR_RETURN_AS(const Unpacked unpacked, UnpackLayer(file.get(), aside, unpack),
                      Cat("layer `", layer.digest, "`"));
  if (!unpacked.implied.empty()) {
    ASSIGN_OR_RETURN(const std::vector<std::string> lower, AwaitLayersBelow(chains, index, cancelled));
    RETURN_IF_ERROR_AS(InheritDirectories(aside, unpacked.implied, lower), Cat("layer `", layer.digest, "`"));
  }
  if (rename(aside.c_str(), LayerPath(chain).c_str()) < 0 && errno != EEXIST && errno != ENOTEMPTY)
    return ErrnoStatus(errno, Cat("keep layer `", chain, "`"));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> Store::AwaitLayersBelow(const std::vector<std::string>& chains,
                                                                 size_t index,
                                                                 const std::function<bool()>& cancelled) {
  std::vector<std::string> paths;
  for (size_t below = index; below-- > 0;) paths.push_back(LayerPath(chains[below]));
  auto there = [&] {
    return std::all_of(paths.begin(), paths.end(),
                       [](const std::string& path) { return access(path.c_str(), F_OK) == 0; });
  };
  // Lower layers are begun first and wait for lower ones still: no circle. Their failure cancels this one.
  std::unique_lock lock(mutex_);
  while (!layer_made_.wait_for(lock, std::chrono::milliseconds(200), there))
    if (cancelled && cancelled()) return absl::CancelledError("the pull was cancelled");
  return paths;
}

absl::Status Store::EnsureLayer(Source& source, const Descriptor& layer,
                                const std::vector<std::string>& chains, size_t index,
                                const std::string& diff_id, const std::function<bool()>& cancelled) {
  const std::string& chain = chains[index];
  for (;;) {
    std::shared_future<absl::Status> other;
    std::promise<absl::Status> mine;
    {
      std::lock_guard lock(mutex_);
      if (access(LayerPath(chain).c_str(), F_OK) == 0) return absl::OkStatus();
      auto found = making_.find(chain);
      if (found == making_.end()) {
        making_[chain] = mine.get_future().share();
      } else {
        other = found->second;
      }
    }
    if (other.valid()) {
      // Another pull makes it. If that one fails, this one takes over: the reason may lie in the other's
      // credentials or registry.
      while (other.wait_for(std::chrono::milliseconds(200)) != std::future_status::ready)
        if (cancelled && cancelled()) return absl::CancelledError("the pull was cancelled");
      continue;
    }
    absl::Status made = MakeLayer(source, layer, chains, index, diff_id, cancelled);
    {
      std::lock_guard lock(mutex_);
      making_.erase(chain);
    }
    layer_made_.notify_all();
    mine.set_value(made);
    return made;
  }
}

void Store::Use(const std::vector<std::string>& names, int by) {
  std::vector<std::string> garbage;
  {
    std::lock_guard lock(mutex_);
    for (const std::string& name : names)
      if ((in_use_[name] += by) == 0) in_use_.erase(name);
    if (by < 0) garbage = CollectGarbage();
  }
  RemoveAll(garbage);
}

absl::StatusOr<Image> Store::Install(Source& source, const std::string& manifest_bytes,
                                     const std::string& tag, const std::string& digest_reference,
                                     const std::function<bool()>& cancelled) {
  ASSIGN_OR_RETURN(Manifest manifest, ParseManifest(manifest_bytes));
  std::string config_bytes;
  RETURN_IF_ERROR_AS(source.Blob(manifest.config, IntoString(config_bytes, 8 << 20, "the image's config")),
                     "fetch the image's config");
  ASSIGN_OR_RETURN(Config config, ParseConfig(config_bytes));
  Platform host = HostPlatform();
  if (config.platform.os != host.os || config.platform.architecture != host.architecture)
    return absl::NotFoundError(Cat("the image is for ", config.platform.os, "/", config.platform.architecture,
                                   ", this machine is ", host.os, "/", host.architecture));
  if (config.diff_ids.size() != manifest.layers.size())
    return absl::InvalidArgumentError(Cat("the manifest has ", manifest.layers.size(), " layers, its config ",
                                          config.diff_ids.size(), " diff_ids"));
  std::vector<std::string> chains = ChainIds(config.diff_ids);
  std::string manifest_digest = Sha256(manifest_bytes);
  std::vector<std::string> used = chains;
  used.push_back(manifest_digest);
  used.push_back(manifest.config.digest);
  Use(used, 1);
  absl::Cleanup unuse = [&] { Use(used, -1); };

  // A few workers take the layers in order; the first error ends all.
  std::atomic<size_t> next{0};
  std::atomic<bool> failed{false};
  std::mutex first_mutex;
  absl::Status first;
  auto stop = [&] { return failed || (cancelled && cancelled()); };
  auto work = [&] {
    for (size_t i; !failed && (i = next++) < chains.size();) {
      absl::Status made = EnsureLayer(source, manifest.layers[i], chains, i, config.diff_ids[i], stop);
      if (made.ok()) continue;
      std::lock_guard lock(first_mutex);
      if (!failed) first = made;
      failed = true;
    }
  };
  std::vector<std::thread> workers;
  size_t count =
      std::min<size_t>(static_cast<size_t>(std::max(1, options_.parallel_downloads)), chains.size());
  for (size_t i = 1; i < count; ++i) workers.emplace_back(work);
  work();
  for (std::thread& worker : workers) worker.join();
  RETURN_IF_ERROR(first);

  // The layers must be on the disk before the record that says so.
  ASSIGN_OR_RETURN(Fd layers, OpenPath(options_.root + "/layers", O_RDONLY | O_DIRECTORY));
  if (syncfs(layers.get()) < 0) return ErrnoStatus(errno, "write the layers to the disk");
  RETURN_IF_ERROR(PutBlob(manifest.config.digest, config_bytes));
  RETURN_IF_ERROR(PutBlob(manifest_digest, manifest_bytes));
  ASSIGN_OR_RETURN(Image image, ReadImage(manifest_digest));
  std::lock_guard lock(mutex_);
  auto records = records_;
  auto images = images_;
  images[image.id] = image;
  Record& record = records[image.id];
  if (!tag.empty()) {
    for (auto& [id, other] : records) other.tags.erase(tag);  // a tag moves
    record.tags.insert(tag);
  }
  if (!digest_reference.empty()) record.digests.insert(digest_reference);
  RETURN_IF_ERROR(Save(records, images));
  records_ = std::move(records);
  images_ = std::move(images);
  return Named(image, records_[image.id]);
}

absl::StatusOr<Image> Store::Pull(const std::string& text, const Credentials& credentials,
                                  std::function<bool()> cancelled) {
  ASSIGN_OR_RETURN(Reference reference, ParseReference(text));
  const std::string wanted = reference.digest.empty() ? reference.tag : reference.digest;
  ASSIGN_OR_RETURN_AS(FetchedManifest fetched,
                      client_.FetchManifest(reference, wanted, credentials, cancelled),
                      Cat("pull `", reference.String(), "`"));
  std::string top = fetched.digest;
  if (IsIndex(fetched.bytes)) {
    absl::StatusOr<std::vector<Descriptor>> parsed = ParseIndex(fetched.bytes);
    if (!parsed.ok()) return FromRegistry(Annotate(parsed.status(), Cat("pull `", reference.String(), "`")));
    const std::vector<Descriptor> index = *std::move(parsed);
    ASSIGN_OR_RETURN_AS(Descriptor chosen, ChoosePlatform(index, HostPlatform()),
                        Cat("pull `", reference.String(), "`"));
    ASSIGN_OR_RETURN_AS(fetched, client_.FetchManifest(reference, chosen.digest, credentials, cancelled),
                        Cat("pull `", reference.String(), "`"));
  }
  RegistrySource source(client_, reference, credentials, cancelled);
  absl::StatusOr<Image> image =
      Install(source, fetched.bytes, reference.tag.empty() ? "" : Cat(reference.Name(), ":", reference.tag),
              Cat(reference.Name(), "@", top), cancelled);
  if (!image.ok()) return FromRegistry(Annotate(image.status(), Cat("pull `", reference.String(), "`")));
  return image;
}

absl::StatusOr<std::vector<Image>> Store::Import(const std::string& path, const std::string& name) {
  struct stat st;
  if (stat(path.c_str(), &st) < 0)
    return WithCode(ErrnoStatus(errno, Cat("import `", path, "`")), absl::StatusCode::kNotFound);
  std::string dir = path, extracted;
  absl::Cleanup clear = [&] {
    if (!extracted.empty()) RemoveTree(extracted).IgnoreError();
  };
  if (!S_ISDIR(st.st_mode)) {
    dir = extracted = Cat(options_.root, "/blobs/.tmp-", NewId());
    RETURN_IF_ERROR_AS(ExtractArchive(path, extracted), Cat("import `", path, "`"));
  }
  absl::StatusOr<std::string> text = ReadFile(dir + "/index.json", 4 << 20);
  if (!text.ok())
    return absl::InvalidArgumentError(Cat("import `", path, "`: no index.json: not an OCI layout"));
  ASSIGN_OR_RETURN_AS(std::vector<Descriptor> index, ParseIndex(*text), Cat("import `", path, "`"));
  LayoutSource source(dir);
  auto read_document = [&](const Descriptor& descriptor) -> absl::StatusOr<std::string> {
    std::string bytes;
    RETURN_IF_ERROR(source.Blob(descriptor, IntoString(bytes, 4 << 20, "a manifest")));
    if (Sha256(bytes) != descriptor.digest)
      return absl::DataLossError(Cat("blob `", descriptor.digest, "` has another digest"));
    return bytes;
  };
  std::vector<Image> images;
  for (const Descriptor& top : index) {
    std::string wanted = name;
    if (wanted.empty()) {
      for (const char* key : {"io.containerd.image.name", "org.opencontainers.image.ref.name"})
        if (auto found = top.annotations.find(key); found != top.annotations.end() && wanted.empty())
          wanted = found->second;
    }
    if (wanted.empty())
      return absl::InvalidArgumentError(Cat("import `", path, "`: the image has no name: give one"));
    ASSIGN_OR_RETURN_AS(Reference reference, ParseReference(wanted), Cat("import `", path, "`"));
    ASSIGN_OR_RETURN_AS(std::string bytes, read_document(top), Cat("import `", path, "`"));
    if (IsIndex(bytes)) {
      ASSIGN_OR_RETURN(std::vector<Descriptor> inner, ParseIndex(bytes));
      ASSIGN_OR_RETURN_AS(Descriptor chosen, ChoosePlatform(inner, HostPlatform()),
                          Cat("import `", path, "`"));
      ASSIGN_OR_RETURN_AS(bytes, read_document(chosen), Cat("import `", path, "`"));
    }
    absl::StatusOr<Image> image = Install(source, bytes, Cat(reference.Name(), ":", reference.tag),
                                          Cat(reference.Name(), "@", top.digest), {});
    if (!image.ok()) return Annotate(image.status(), Cat("import `", path, "`"));
    images.push_back(*std::move(image));
    if (!name.empty()) break;
  }
  return images;
}

Image Store::Named(const Image& image, const Record& record) const {
  Image named = image;
  named.repo_tags.assign(record.tags.begin(), record.tags.end());
  named.repo_digests.assign(record.digests.begin(), record.digests.end());
  return named;
}

absl::StatusOr<std::string> Store::FindLocked(const std::string& text) const {
  if (images_.contains(text)) return text;
  std::string hex = text.starts_with("sha256:") ? text.substr(7) : text;
  if (hex.size() >= 12 && hex.find_first_not_of("0123456789abcdef") == std::string::npos) {
    std::string found;
    for (const auto& [id, image] : images_) {
      if (!Hex(id).starts_with(hex)) continue;
      if (!found.empty()) return absl::NotFoundError(Cat("image `", text, "` is ambiguous"));
      found = id;
    }
    if (!found.empty()) return found;
  }
  absl::StatusOr<Reference> reference = ParseReference(text);
  // What is no reference can't be the name of an image either.
  if (!reference.ok()) return WithCode(reference.status(), absl::StatusCode::kNotFound);
  std::string digest = Cat(reference->Name(), "@", reference->digest),
              tag = Cat(reference->Name(), ":", reference->tag);
  for (const auto& [id, record] : records_) {
    if (reference->digest.empty() ? record.tags.contains(tag) : record.digests.contains(digest)) return id;
  }
  return absl::NotFoundError(Cat("image `", text, "` is not on this node"));
}

absl::StatusOr<Image> Store::Get(const std::string& reference) const {
  std::lock_guard lock(mutex_);
  ASSIGN_OR_RETURN(std::string id, FindLocked(reference));
  return Named(images_.at(id), records_.at(id));
}

std::vector<Image> Store::List() const {
  std::lock_guard lock(mutex_);
  std::vector<Image> all;
  for (const auto& [id, image] : images_) all.push_back(Named(image, records_.at(id)));
  return all;
}

absl::Status Store::Remove(const std::string& reference) {
  std::unique_lock lock(mutex_);
  absl::StatusOr<std::string> id = FindLocked(reference);
  if (absl::IsNotFound(id.status())) return absl::OkStatus();
  RETURN_IF_ERROR(id.status());
  auto records = records_;
  auto images = images_;
  records.erase(*id);
  images.erase(*id);
  RETURN_IF_ERROR(Save(records, images));
  records_ = std::move(records);
  images_ = std::move(images);
  std::vector<std::string> garbage = CollectGarbage();
  lock.unlock();
  RemoveAll(garbage);
  return absl::OkStatus();
}

std::vector<std::string> Store::CollectGarbage() {
  std::vector<std::string> aside;
  std::set<std::string> keep;
  for (const auto& [name, count] : in_use_) keep.insert(Hex(name));
  for (const auto& [id, image] : images_) {
    keep.insert(Hex(id));
    keep.insert(Hex(image.manifest_digest));
    for (const std::string& chain : image.layers) keep.insert(Hex(chain));
  }
  for (const std::string& id : ListSnapshots())
    for (const std::string& chain : SnapshotLayers(id)) keep.insert(Hex(chain));
  for (const char* folder : {"/blobs", "/layers"}) {
    std::error_code ignored;
    std::vector<std::string> gone;
    for (const auto& entry : fs::directory_iterator(options_.root + folder, ignored)) {
      std::string name = entry.path().filename().string();
      if (name.find(".tmp-") == std::string::npos && !keep.contains(name))
        gone.push_back(entry.path().string());
    }
    for (const std::string& path : gone) {
      std::string to = Cat(options_.root, folder, "/.tmp-", NewId());
      if (rename(path.c_str(), to.c_str()) == 0) aside.push_back(std::move(to));
    }
  }
  return aside;
}

std::vector<std::string> Store::SnapshotLayers(const std::string& id) const {
  absl::StatusOr<std::string> text = ReadFile(SnapshotPath(id) + "/layers.json", 1 << 20);
  json layers = text.ok() ? json::parse(*text, nullptr, false) : json();
  std::vector<std::string> chains;
  if (layers.is_array())
    for (const json& chain : layers)
      if (chain.is_string() && CheckDigest(chain.get<std::string>(), "layer").ok()) chains.push_back(chain);
  return chains;
}

absl::StatusOr<Rootfs> Store::CreateSnapshot(const std::string& id, const std::string& image_id, uint32_t uid,
                                             uint32_t gid) {
  RETURN_IF_ERROR(CheckId(id, "snapshot id"));
  // The lock keeps the layers from being collected between the look-up and the record.
  std::lock_guard lock(mutex_);
  if (access((SnapshotPath(id) + "/layers.json").c_str(), F_OK) == 0) return GetSnapshot(id);
  auto image = images_.find(image_id);
  if (image == images_.end()) return absl::NotFoundError(Cat("image `", image_id, "` is not on this node"));
  ASSIGN_OR_RETURN(std::string made, pool_->Take());
  absl::Cleanup undo = [&] { pool_->Discard(made).IgnoreError(); };
  for (const char* name : {"/upper", "/work"}) {
    if ((uid != 0 || gid != 0) && chown((made + name).c_str(), uid, gid) < 0)
      return ErrnoStatus(errno, Cat("chown `", made, name, "`"));
  }
  // No fsync: this is on a container's start path, and a reboot ends the container.
  ASSIGN_OR_RETURN(Fd record, OpenPath(made + "/layers.json", O_WRONLY | O_CREAT | O_EXCL, 0600));
  RETURN_IF_ERROR_AS(WriteAll(record.get(), json(image->second.layers).dump()),
                     "record the snapshot's layers");
  if (rename(made.c_str(), SnapshotPath(id).c_str()) < 0)
    return ErrnoStatus(errno, Cat("make snapshot `", id, "`"));
  std::move(undo).Cancel();
  return GetSnapshot(id);
}

absl::StatusOr<Rootfs> Store::GetSnapshot(const std::string& id) const {
  RETURN_IF_ERROR(CheckId(id, "snapshot id"));
  if (access((SnapshotPath(id) + "/layers.json").c_str(), F_OK) < 0)
    return absl::NotFoundError(Cat("snapshot `", id, "` does not exist"));
  Rootfs rootfs;
  std::vector<std::string> chains = SnapshotLayers(id);
  for (auto chain = chains.rbegin(); chain != chains.rend(); ++chain)
    rootfs.lower_dirs.push_back(LayerPath(*chain));
  // An image without layers: overlayfs wants a lower directory all the same.
  if (rootfs.lower_dirs.empty()) rootfs.lower_dirs.push_back(options_.root + "/empty");
  rootfs.upper_dir = SnapshotPath(id) + "/upper";
  rootfs.work_dir = SnapshotPath(id) + "/work";
  rootfs.mount_points = options_.root + "/mount-points";
  return rootfs;
}

absl::Status Store::RemoveSnapshot(const std::string& id) {
  RETURN_IF_ERROR(CheckId(id, "snapshot id"));
  std::vector<std::string> layers = SnapshotLayers(id);
  RETURN_IF_ERROR(pool_->Discard(SnapshotPath(id)));
  std::unique_lock lock(mutex_);
  // Only layers whose image was removed while this snapshot used them can be free now.
  std::set<std::string> owned;
  for (const auto& [image_id, image] : images_) owned.insert(image.layers.begin(), image.layers.end());
  std::vector<std::string> garbage;
  if (!std::all_of(layers.begin(), layers.end(),
                   [&](const std::string& chain) { return owned.contains(chain); }))
    garbage = CollectGarbage();
  lock.unlock();
  RemoveAll(garbage);
  return absl::OkStatus();
}

std::vector<std::string> Store::ListSnapshots() const {
  std::vector<std::string> ids;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(options_.root + "/snapshots", ignored))
    ids.push_back(entry.path().filename().string());
  return ids;
}

absl::StatusOr<Usage> Store::SnapshotUsage(const std::string& id) const {
  RETURN_IF_ERROR(CheckId(id, "snapshot id"));
  return TreeUsage(SnapshotPath(id) + "/upper");
}

absl::StatusOr<Usage> Store::FilesystemUsage() const {
  ASSIGN_OR_RETURN(Usage total, TreeUsage(options_.root + "/blobs"));
  std::error_code ignored;
  std::vector<std::string> layers;
  for (const auto& entry : fs::directory_iterator(options_.root + "/layers", ignored))
    layers.push_back(entry.path().filename().string());
  // A layer that stands does not change any more: it is walked once.
  std::lock_guard lock(usage_mutex_);
  std::map<std::string, Usage> known;
  for (const std::string& name : layers) {
    auto before = usage_.find(name);
    absl::StatusOr<Usage> one =
        before != usage_.end() ? before->second : TreeUsage(options_.root + "/layers/" + name);
    if (absl::IsNotFound(one.status())) continue;  // just removed
    RETURN_IF_ERROR(one.status());
    total.bytes += one->bytes;
    total.inodes += one->inodes;
    if (!name.starts_with(".tmp-")) known[name] = *one;
  }
  usage_ = std::move(known);
  return total;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ImageStore>> ImageStore::Open(ImageStoreOptions options) {
  auto store = std::make_unique<Store>(std::move(options));
  RETURN_IF_ERROR(store->Load());
  return store;
}

}  // namespace sock::oci
