#include "oci/archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "oci/digest.h"
#include "oci/manifest.h"
#include "runtime/base/atomic_file.h"
#include "runtime/base/fd.h"
#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::oci {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

// Calls `visit` with every entry of a tar, compressed or not, and its name without "./".
absl::Status ForEachEntry(
    const std::string& file,
    const std::function<absl::Status(archive*, archive_entry*, const std::string&)>& visit) {
  std::unique_ptr<archive, int (*)(archive*)> reader(archive_read_new(), archive_read_free);
  auto broken = [&] {
    return absl::InvalidArgumentError(Cat("read archive: ", archive_error_string(reader.get())));
  };
  archive_read_support_filter_all(reader.get());
  archive_read_support_format_tar(reader.get());
  if (archive_read_open_filename(reader.get(), file.c_str(), 1 << 16) != ARCHIVE_OK) return broken();
  archive_entry* entry;
  int result;
  while ((result = archive_read_next_header(reader.get(), &entry)) == ARCHIVE_OK) {
    std::string name = archive_entry_pathname(entry) ? archive_entry_pathname(entry) : "";
    if (name.starts_with("./")) name.erase(0, 2);
    RETURN_IF_ERROR(visit(reader.get(), entry, name));
  }
  return result == ARCHIVE_EOF ? absl::OkStatus() : broken();
}

// Writes the entry's data to `path`, which must not exist; its digest and size.
absl::StatusOr<Descriptor> WriteEntry(archive* reader, const std::string& path) {
  ASSIGN_OR_RETURN(Fd out, OpenPath(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
  Sha256Hash hash;
  Descriptor written;
  std::string buffer(256 << 10, '\0');
  for (;;) {
    const la_ssize_t n = archive_read_data(reader, buffer.data(), buffer.size());
    if (n < 0) return absl::InvalidArgumentError(Cat("read archive: ", archive_error_string(reader)));
    if (n == 0) break;
    const std::string_view bytes(buffer.data(), static_cast<size_t>(n));
    RETURN_IF_ERROR(WriteAll(out.get(), bytes));
    hash.Update(bytes.data(), bytes.size());
    written.size += bytes.size();
  }
  written.digest = hash.Digest();
  return written;
}

// Makes an OCI layout at `dir` of a `docker save` archive: layers are plain tars under any name, or links to
// such.
absl::Status ConvertDockerArchive(const std::string& file, const std::string& dir) {
  ASSIGN_OR_RETURN(std::string text, ReadFile(dir + "/manifest.json", 4 << 20));
  ASSIGN_OR_RETURN(const std::vector<DockerArchiveImage> images, ParseDockerArchive(text));
  std::map<std::string, std::string> links;
  RETURN_IF_ERROR(ForEachEntry(file, [&](archive*, archive_entry* entry, const std::string& name) {
    if (const char* hard = archive_entry_hardlink(entry)) {
      links[name] = fs::path(hard).lexically_normal().string();
    } else if (const char* soft = archive_entry_symlink(entry); soft && links.size() < 10000) {
      links[name] = (fs::path(name).parent_path() / soft).lexically_normal().string();
    }
    return absl::OkStatus();
  }));
  auto resolve = [&](std::string name) {
    for (int hops = 0; hops < 8 && links.contains(name); ++hops) name = links[name];
    return name;
  };
  std::map<std::string, Descriptor> files;
  for (const DockerArchiveImage& image : images) {
    files[resolve(image.config)];
    for (const std::string& layer : image.layers) files[resolve(layer)];
  }
  RETURN_IF_ERROR(
      ForEachEntry(file, [&](archive* reader, archive_entry* entry, const std::string& name) -> absl::Status {
        auto wanted = files.find(name);
        if (wanted == files.end() || !wanted->second.digest.empty() ||
            archive_entry_filetype(entry) != AE_IFREG || archive_entry_hardlink(entry))
          return absl::OkStatus();
        const std::string aside = dir + "/blob";
        ASSIGN_OR_RETURN(wanted->second, WriteEntry(reader, aside));
        if (rename(aside.c_str(), Cat(dir, "/blobs/sha256/", Hex(wanted->second.digest)).c_str()) < 0)
          return ErrnoStatus(errno, Cat("keep `", name, "`"));
        return absl::OkStatus();
      }));
  for (const auto& [name, descriptor] : files)
    if (descriptor.digest.empty())
      return absl::InvalidArgumentError(Cat("manifest.json names `", name, "`, which is not there"));
  auto as_json = [&](const std::string& name) {
    const Descriptor& descriptor = files[resolve(name)];
    return json{{"digest", descriptor.digest}, {"size", descriptor.size}};
  };
  json index = {{"schemaVersion", 2}, {"manifests", json::array()}};
  for (const DockerArchiveImage& image : images) {
    json layers = json::array();
    for (const std::string& layer : image.layers) layers.push_back(as_json(layer));
    const std::string manifest =
        json{{"schemaVersion", 2}, {"config", as_json(image.config)}, {"layers", layers}}.dump();
    const std::string digest = Sha256(manifest);
    RETURN_IF_ERROR(WriteFileAtomic(Cat(dir, "/blobs/sha256/", Hex(digest)), manifest, Durability::kProcess));
    json one = {{"digest", digest}, {"size", manifest.size()}};
    if (image.tags.empty()) index["manifests"].push_back(one);
    for (const std::string& tag : image.tags) {
      one["annotations"] = {{"io.containerd.image.name", tag}};
      index["manifests"].push_back(one);
    }
  }
  return WriteFileAtomic(dir + "/index.json", index.dump(-1, ' ', false, json::error_handler_t::replace),
                         Durability::kProcess);
}

}  // namespace

absl::Status ExtractArchive(const std::string& file, const std::string& dir) {
  RETURN_IF_ERROR(MakeDirs(dir + "/blobs/sha256", 0700));
  RETURN_IF_ERROR(ForEachEntry(file, [&](archive* reader, archive_entry* entry, const std::string& name) {
    const bool blob =
        name.starts_with("blobs/sha256/") && CheckDigest("sha256:" + name.substr(13), "blob").ok();
    // Only the files that a layout has, by their own names.
    if (archive_entry_filetype(entry) != AE_IFREG || archive_entry_hardlink(entry) ||
        (!blob && name != "index.json" && name != "manifest.json"))
      return absl::OkStatus();
    unlink(Cat(dir, "/", name).c_str());  // a later entry of the same name wins
    return WriteEntry(reader, Cat(dir, "/", name)).status();
  }));
  if (access((dir + "/index.json").c_str(), F_OK) == 0) return absl::OkStatus();
  if (access((dir + "/manifest.json").c_str(), F_OK) < 0)
    return absl::InvalidArgumentError(
        "neither index.json nor manifest.json: no OCI layout, nor of `docker save`");
  return ConvertDockerArchive(file, dir);
}

}  // namespace sock::oci
