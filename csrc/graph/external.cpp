// External data: contained in one folder, memory-mapped, checked against the file's size.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "graph/proto_io.h"

namespace ortmod {
namespace {

[[noreturn]] void refuse(const std::string& what, const std::string& location, const std::string& tensor) {
  fail(ErrorKind::kModel, "import",
       what + ": external data \"" + shown(location) + "\" of tensor \"" + shown(tensor) + "\"");
}

struct Fd {
  int fd = -1;
  Fd() = default;
  explicit Fd(int f) : fd(f) {}
  Fd(Fd&& o) noexcept : fd(o.fd) { o.fd = -1; }
  Fd& operator=(Fd&& o) noexcept {
    std::swap(fd, o.fd);
    return *this;
  }
  ~Fd() {
    if (fd >= 0) close(fd);
  }
};

ExternalFiles::Range map_fd(int fd, size_t size) {
  if (size == 0) return {nullptr, "", 0};
  void* p = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (p == MAP_FAILED) return {};
  return {std::shared_ptr<const void>(p, [size](const void* q) { munmap(const_cast<void*>(q), size); }),
          static_cast<const char*>(p), size};
}

/// Opens `location` below `base` without following any link.
Fd open_contained(const std::string& base, const std::string& location, const std::string& tensor) {
  if (location.empty() || location.find('\0') != std::string::npos)
    refuse("the location is empty or not a path", location, tensor);
  if (location[0] == '/' || location[0] == '\\' || (location.size() > 1 && location[1] == ':'))
    refuse("the location is absolute, expected a path below the model's folder", location, tensor);
  Fd dir(open(base.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (dir.fd < 0) refuse("the model's folder \"" + shown(base) + "\" cannot be opened", location, tensor);
  size_t at = 0;
  for (;;) {
    const size_t slash = location.find('/', at);
    const std::string part = location.substr(at, slash == std::string::npos ? slash : slash - at);
    if (part == "..") refuse("the location leaves the model's folder", location, tensor);
    const bool last = slash == std::string::npos;
    if (part.empty() || part == ".") {
      if (last) refuse("the location names no file", location, tensor);
    } else {
      Fd next(openat(dir.fd, part.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | (last ? 0 : O_DIRECTORY)));
      if (next.fd < 0) {
        if (errno == ENOENT) refuse("the file is missing", location, tensor);
        struct stat st {};
        if (fstatat(dir.fd, part.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode))
          refuse("symbolic links are refused (copy the file to the model's folder)", location, tensor);
        refuse(std::string("the file cannot be opened (") + std::strerror(errno) + ")", location, tensor);
      }
      dir = std::move(next);
    }
    if (last) return dir;
    at = slash + 1;
  }
}

}  // namespace

ExternalFiles::Range ExternalFiles::map(const std::string& location, int64_t offset, int64_t length,
                                        const std::string& tensor) {
  if (base_dir_.empty())
    refuse("a model given as bytes has no folder to read from (give a path, or hand the tensor in)", location, tensor);
  auto it = files_.find(location);
  if (it == files_.end()) {
    const Fd file = open_contained(base_dir_, location, tensor);
    struct stat st {};
    if (fstat(file.fd, &st) != 0 || !S_ISREG(st.st_mode)) refuse("not a regular file", location, tensor);
    if (st.st_nlink > 1) refuse("a file with several hard links is refused (copy it)", location, tensor);
    Range r = map_fd(file.fd, static_cast<size_t>(st.st_size));
    if (!r.data) refuse("the file cannot be mapped", location, tensor);
    it = files_.emplace(location, std::move(r)).first;
  }
  const Range& f = it->second;
  const size_t start = static_cast<size_t>(offset);
  if (start > f.size || (length >= 0 && static_cast<size_t>(length) > f.size - start))
    refuse("the file is too short: got " + std::to_string(f.size) + " bytes, expected offset " +
               std::to_string(offset) + " and length " + std::to_string(length),
           location, tensor);
  return {f.owner, f.data + start, length >= 0 ? static_cast<size_t>(length) : f.size - start};
}

ExternalFiles::Range map_file(const std::string& path) {
  const Fd file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.fd < 0)
    fail(ErrorKind::kModel, "import",
         "the file \"" + shown(path) + "\" cannot be opened (" + std::strerror(errno) + ")");
  struct stat st {};
  if (fstat(file.fd, &st) != 0 || !S_ISREG(st.st_mode))
    fail(ErrorKind::kModel, "import", "\"" + shown(path) + "\" is not a regular file");
  ExternalFiles::Range r = map_fd(file.fd, static_cast<size_t>(st.st_size));
  if (!r.data) fail(ErrorKind::kModel, "import", "the file \"" + shown(path) + "\" cannot be mapped");
  return r;
}

}  // namespace ortmod
