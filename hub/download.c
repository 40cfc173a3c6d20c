// The file comes into blobs/<etag>.incomplete under the blob's lock. A broken connection is taken up again with Range (RFC 9110, 14.2),
// as often as it takes while bytes are coming, else HTTP_ATTEMPTS times. What has come is then checked as a whole, on the disk: an ETag of
// 64 hexadecimal digits is its SHA-256 (LFS), one of 40 its git blob id, the SHA-1 of "blob <size>", a NUL and the content.
#define _GNU_SOURCE
#include "hub/download.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "core/file.h"
#include "core/log.h"
#include "core/text.h"

typedef struct Download {
  const HubRemote *remote;
  const HubFile *file;
  HubProgress *progress;
  char *path;  // of the incomplete file
  int descriptor;
  int64_t length;  // bytes in it
  int64_t received;  // bytes of the present attempt
} Download;

// --- receiving ---

static Status restart(Download *download) {
  if (ftruncate(download->descriptor, 0) != 0 || lseek(download->descriptor, 0, SEEK_SET) != 0)
    return status_errno(STATUS_FAILED, errno, "%s: cannot be written", download->path);
  download->length = 0;
  return STATUS_OK;
}

// The first piece of an answer: is it the part that was asked for, or the whole file again?
static Status begin_answer(Download *download, const HttpResponse *response) {
  if (response->code == 200) return download->length ? restart(download) : STATUS_OK;
  const char *range = http_header(response, "content-range");
  char *expected = memory_format("bytes %" PRId64 "-", download->length);
  bool right = range && text_starts_with(range, expected);
  free(expected);
  return right ? STATUS_OK : status_fail(STATUS_FAILED, "%s: the server sends another part than it was asked for", download->file->url);
}

static void show_progress(const Download *download) {
  HubProgress *progress = download->progress;
  const int64_t unit = 1 << 20;
  char speed[32];
  double now = time_seconds(), seconds = now - progress->started;
  if (now - progress->shown < 0.1) return;
  progress->shown = now;
  format_bytes(speed, seconds > 0 ? (double)progress->received / seconds : 0);
  progress_show((progress->done + download->length) / unit, progress->total / unit, "MiB, %s/s, %s", speed, download->file->name);
}

static Status receive(void *context, const HttpResponse *response, const void *bytes, size_t length) {
  Download *download = context;
  if (download->received == 0) TRY(begin_answer(download, response));
  if (download->file->size >= 0 && download->length + (int64_t)length > download->file->size)
    return status_fail(STATUS_FAILED, "%s: the server sends more than the %" PRId64 " bytes that it told", download->file->url,
                       download->file->size);
  for (const char *p = bytes; length;) {
    ssize_t written = write(download->descriptor, p, length);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return status_errno(STATUS_FAILED, errno, "%s: cannot be written", download->path);
    p += written, length -= (size_t)written;
    download->length += written, download->received += written, download->progress->received += written;
  }
  show_progress(download);
  return STATUS_OK;
}

// One attempt; *again: another one may do better.
static Status attempt(Download *download, HttpResponse *response, bool *again) {
  const HubFile *file = download->file;
  download->received = 0;
  HttpRequest request = {
      .url = file->url, .token = download->remote->settings->token, .from = download->length, .receiver = receive, .context = download};
  Status status = http_send(response, download->remote->http, &request);
  *again = http_is_transient(response) || response->outcome == HTTP_UNREACHABLE;
  if (status != STATUS_OK) return status;
  if (response->code == 416 && download->length) {  // what is there cannot be a beginning of the file
    *again = true;
    TRY(restart(download));
    return status_fail(STATUS_FAILED, "%s: the server has no bytes behind those that were there", file->url);
  }
  if (response->code != 200 && response->code != 206) return hub_remote_refusal(download->remote, response, file->name);
  if (file->size >= 0 && download->length < file->size) {
    *again = true;
    return status_fail(STATUS_FAILED, "%s: the server sent %" PRId64 " of %" PRId64 " bytes", file->url, download->length, file->size);
  }
  return STATUS_OK;
}

static Status receive_all(Download *download) {
  if (download->file->size == 0 || (download->file->size > 0 && download->length == download->file->size)) return STATUS_OK;
  for (int fruitless = 0;;) {
    HttpResponse response;
    bool again;
    Status status = attempt(download, &response, &again);
    fruitless = download->received ? 0 : fruitless + 1;
    bool over = status == STATUS_OK || !again || fruitless == HTTP_ATTEMPTS;
    if (!over) http_wait(&response, fruitless);
    http_response_release(&response);
    if (over) return status;
  }
}

// --- checking ---

static bool is_hexadecimal(const char *text, size_t length) { return strlen(text) == length && strspn(text, "0123456789abcdef") == length; }

// SHA-1 of "blob <size>", NUL, content; 40 hexadecimal digits.
static Status git_blob_id(char hex[65], const char *path, int64_t size) {
  FILE *stream = fopen(path, "rbe");
  if (!stream) return status_errno(STATUS_FAILED, errno, "%s: cannot be opened", path);
  enum { PIECE = 1 << 16 };
  char *piece = memory_new(1, PIECE);
  unsigned char digest[EVP_MAX_MD_SIZE];
  EVP_MD_CTX *digester = EVP_MD_CTX_new();
  EVP_DigestInit_ex(digester, EVP_sha1(), NULL);
  int header = snprintf(piece, PIECE, "blob %" PRId64, size);
  EVP_DigestUpdate(digester, piece, (size_t)header + 1);
  for (size_t got; (got = fread(piece, 1, PIECE, stream)) > 0;) EVP_DigestUpdate(digester, piece, got);
  Status status = ferror(stream) ? status_errno(STATUS_FAILED, errno, "%s: cannot be read", path) : STATUS_OK;
  EVP_DigestFinal_ex(digester, digest, NULL);
  for (int i = 0; i < 20; i++) snprintf(hex + 2 * i, 3, "%02x", digest[i]);
  EVP_MD_CTX_free(digester);
  free(piece);
  fclose(stream);
  return status;
}

// *matches: the file is what its ETag says, or the ETag is no digest.
static Status check_digest(bool *matches, const Download *download) {
  const char *etag = download->file->etag;
  char hex[65] = "";
  *matches = true;
  if (is_hexadecimal(etag, 64)) TRY(sha256_file(hex, download->path));
  else if (is_hexadecimal(etag, 40)) TRY(git_blob_id(hex, download->path, download->length));
  else return STATUS_OK;
  *matches = strcmp(hex, etag) == 0;
  return STATUS_OK;
}

// Receives and checks. A wrong digest may be the fault of an old beginning, so then it is all fetched once more.
static Status fetch(Download *download) {
  bool matches, resumed = download->length > 0;
  TRY(receive_all(download));
  TRY(check_digest(&matches, download));
  if (!matches && resumed) {
    log_notice("%s: what an earlier download had left does not fit; downloading all of it", download->file->name);
    TRY(restart(download));
    TRY(receive_all(download));
    TRY(check_digest(&matches, download));
  }
  if (matches) return STATUS_OK;
  unlink(download->path);
  return status_fail(STATUS_FAILED, "%s: what came does not have the digest that the server told (%s), and was not kept; try again",
                     download->file->url, download->file->etag);
}

// --- the file ---

static int64_t file_length(const char *path) {
  struct stat information;
  return stat(path, &information) == 0 && S_ISREG(information.st_mode) ? (int64_t)information.st_size : -1;
}

static bool has_blob(const HubCache *cache, const HubFile *file) {
  char *path = hub_cache_blob(cache, file->etag);
  int64_t length = file_length(path);
  free(path);
  return length >= 0 && (file->size < 0 || length == file->size);
}

void hub_download_measure(int64_t *whole, int64_t *missing, const HubCache *cache, const HubFile *file) {
  *whole = *missing = 0;
  if (has_blob(cache, file) || file->size < 0) return;
  char *blob = hub_cache_blob(cache, file->etag), *path = memory_format("%s.incomplete", blob);
  int64_t length = file_length(path);
  *whole = file->size;
  *missing = length > 0 && length <= file->size ? file->size - length : file->size;
  free(blob), free(path);
}

static Status open_incomplete(Download *download) {
  download->descriptor = open(download->path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (download->descriptor < 0) return status_errno(STATUS_FAILED, errno, "%s: cannot be written", download->path);
  download->length = lseek(download->descriptor, 0, SEEK_END);
  bool is_beginning = download->file->size >= 0 && download->length <= download->file->size;
  return is_beginning ? STATUS_OK : restart(download);
}

static Status finish(Download *download, const char *blob) {
  if (fsync(download->descriptor) != 0 || rename(download->path, blob) != 0)
    return status_errno(STATUS_FAILED, errno, "%s: cannot be written", blob);
  download->progress->done += download->length;
  return STATUS_OK;
}

static Status download_blob(const HubRemote *remote, const HubCache *cache, const HubFile *file, HubProgress *progress) {
  char *blob = hub_cache_blob(cache, file->etag), *folder = path_parent(blob);
  Download download = {
      .remote = remote, .file = file, .progress = progress, .path = memory_format("%s.incomplete", blob), .descriptor = -1};
  Status status = directory_create(folder);
  if (status == STATUS_OK) status = open_incomplete(&download);
  if (status == STATUS_OK) status = fetch(&download);
  if (status == STATUS_OK) status = finish(&download, blob);
  if (download.descriptor >= 0) close(download.descriptor);
  free(download.path), free(folder), free(blob);
  return status;
}

Status hub_download(const HubRemote *remote, const HubCache *cache, const char *commit, const HubFile *file, HubProgress *progress) {
  Status status = STATUS_OK;
  if (!has_blob(cache, file)) {
    int lock;
    TRY(hub_cache_lock(&lock, cache, file->etag));
    if (!has_blob(cache, file)) status = download_blob(remote, cache, file, progress);  // another process may have fetched it meanwhile
    close(lock);
    progress_clear();
  }
  return status == STATUS_OK ? hub_cache_link(cache, commit, file->name, file->etag) : status;
}
