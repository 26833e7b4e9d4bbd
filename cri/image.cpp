#include <absl/strings/numbers.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cri/cri.h"
#include "runtime/base/text.h"

namespace sock::cri {

namespace {

void Fill(const oci::Image& image, api::Image* out) {
  out->set_id(image.id);
  out->mutable_repo_tags()->Assign(image.repo_tags.begin(), image.repo_tags.end());
  out->mutable_repo_digests()->Assign(image.repo_digests.begin(), image.repo_digests.end());
  out->set_size(image.size);
  out->set_pinned(image.pinned);
  out->mutable_spec()->set_image(image.id);
  *out->mutable_spec()->mutable_annotations() = {image.annotations.begin(), image.annotations.end()};
  // "user[:group]": a number is the uid, anything else a name.
  const std::string user = image.config.user.substr(0, image.config.user.find(':'));
  int64_t uid = 0;
  if (user.empty()) {
    out->mutable_uid()->set_value(0);
  } else if (absl::SimpleAtoi(user, &uid)) {
    out->mutable_uid()->set_value(uid);
  } else {
    out->set_username(user);
  }
}

}  // namespace

absl::Status Cri::ListImages(const api::ListImagesRequest& request, api::ListImagesResponse* response) {
  if (const std::string& name = request.filter().image().image(); !name.empty()) {
    auto image = images_->Get(name);
    if (image.ok()) Fill(*image, response->add_images());
    return absl::IsNotFound(image.status()) ? absl::OkStatus() : image.status();
  }
  for (const oci::Image& image : images_->List()) Fill(image, response->add_images());
  return absl::OkStatus();
}

absl::Status Cri::ImageStatus(const api::ImageStatusRequest& request, api::ImageStatusResponse* response) {
  auto image = images_->Get(request.image().image());
  // The CRI: an image that is not there is no error but an empty answer.
  if (absl::IsNotFound(image.status())) return absl::OkStatus();
  RETURN_IF_ERROR(image.status());
  Fill(*image, response->mutable_image());
  if (request.verbose()) {
    const oci::ImageConfig& c = image->config;
    nlohmann::json info = {{"manifestDigest", image->manifest_digest},
                           {"layers", image->layers},
                           {"imageSpec",
                            {{"config",
                              {{"User", c.user},
                               {"WorkingDir", c.working_dir},
                               {"StopSignal", c.stop_signal},
                               {"Entrypoint", c.entrypoint},
                               {"Cmd", c.cmd},
                               {"Env", c.env},
                               {"Volumes", c.volumes},
                               {"Labels", c.labels}}}}}};
    (*response->mutable_info())["info"] = info.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  }
  return absl::OkStatus();
}

absl::Status Cri::PullImage(const api::PullImageRequest& request, std::function<bool()> cancelled,
                            api::PullImageResponse* response) {
  if (request.image().image().empty()) return absl::InvalidArgumentError("image.image is empty");
  const std::string& handler = request.image().runtime_handler();
  const auto& known = config_.handlers;
  if (!handler.empty() && std::find(known.begin(), known.end(), handler) == known.end()) {
    return absl::InvalidArgumentError(Cat("image.runtime_handler `", handler, "` is not configured"));
  }
  const api::AuthConfig& auth = request.auth();
  oci::Credentials credentials{auth.username(),       auth.password(),       auth.auth(),
                               auth.server_address(), auth.identity_token(), auth.registry_token()};
  ASSIGN_OR_RETURN(oci::Image image,
                   images_->Pull(request.image().image(), credentials, std::move(cancelled)));
  response->set_image_ref(image.id);
  return absl::OkStatus();
}

absl::Status Cri::RemoveImage(const api::RemoveImageRequest& request, api::RemoveImageResponse*) {
  if (request.image().image().empty()) return absl::InvalidArgumentError("image.image is empty");
  return images_->Remove(request.image().image());
}

absl::Status Cri::ImageFsInfo(const api::ImageFsInfoRequest&, api::ImageFsInfoResponse* response) {
  ASSIGN_OR_RETURN(oci::Usage usage, images_->FilesystemUsage());
  const int64_t now = NowNs();
  auto fill = [&](api::FilesystemUsage* out, const oci::Usage& used) {
    out->set_timestamp(now);
    out->mutable_fs_id()->set_mountpoint(images_->root());
    out->mutable_used_bytes()->set_value(used.bytes);
    out->mutable_inodes_used()->set_value(used.inodes);
  };
  fill(response->add_image_filesystems(), usage);
  oci::Usage snapshots;
  {
    std::lock_guard lock(usage_mutex_);
    for (const auto& [id, one] : usage_) {
      snapshots.bytes += one.layer ? one.layer->bytes : 0;
      snapshots.inodes += one.layer ? one.layer->inodes : 0;
    }
  }
  fill(response->add_container_filesystems(), snapshots);
  return absl::OkStatus();
}

}  // namespace sock::cri
