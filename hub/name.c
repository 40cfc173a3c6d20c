// What is an id, and what a server may call a file.
#include "hub/name.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/text.h"
#include "hub/hub.h"

enum { LONGEST_ID = 96, LONGEST_NAME = 1024, LONGEST_PART = 255, LONGEST_ETAG = 128 };

// One part of an id by the Hub's rule: letters, digits, '.', '_', '-'; neither '.' nor '-' at an end; no ".." and no "--".
static bool is_id_part(const char *text, size_t length) {
  if (!length || strchr(".-", text[0]) || strchr(".-", text[length - 1])) return false;
  for (size_t i = 0; i < length; i++) {
    if (!isalnum((unsigned char)text[i]) && !strchr("._-", text[i])) return false;
    if (i && text[i] == text[i - 1] && strchr(".-", text[i])) return false;
  }
  return true;
}

static bool ends_like_a_file(const char *text) {
  static const char *const endings[] = {".gguf", ".safetensors", ".json", ".jsonl", ".csv", ".tsv", ".txt",
                                        ".gz",   ".parquet",     ".yml",  ".yaml",  ".bin", ".git"};
  for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
    if (text_ends_with(text, endings[i])) return true;
  return false;
}

bool hub_is_commit(const char *revision) { return strlen(revision) == 40 && strspn(revision, "0123456789abcdef") == 40; }

bool hub_file_name_is_safe(const char *name) {
  if (strlen(name) > LONGEST_NAME || !text_is_printable(name, strlen(name)) || strchr(name, '\\')) return false;
  for (const char *part = name;; part++) {
    size_t length = strcspn(part, "/");
    if (!length || length > LONGEST_PART || (length <= 2 && strspn(part, ".") >= length)) return false;
    part += length;
    if (!*part) return true;
  }
}

bool hub_revision_is_safe(const char *revision) {
  for (const char *p = revision; *p; p++)
    if (!isalnum((unsigned char)*p) && !strchr("._-/+", *p)) return false;
  return hub_file_name_is_safe(revision);
}

bool hub_etag_is_safe(const char *etag) {
  size_t length = strlen(etag);
  if (!length || length > LONGEST_ETAG || etag[0] == '.') return false;
  for (const char *p = etag; *p; p++)
    if (!isalnum((unsigned char)*p) && !strchr("._-", *p)) return false;
  return !text_ends_with(etag, ".incomplete");
}

bool hub_id_parse(HubId *id, const char *text) {
  *id = (HubId){0};
  const char *slash = strchr(text, '/');
  if (!slash || !is_id_part(text, (size_t)(slash - text))) return false;
  size_t name = strcspn(slash + 1, "/@");
  const char *end = slash + 1 + name;
  if (!is_id_part(slash + 1, name) || end - text > LONGEST_ID) return false;
  char *repository = memory_format("%.*s", (int)(end - text), text), *revision = NULL, *file = NULL;
  if (*end == '@') {
    // A revision with a '/' in it ("refs/pr/1") can only be given where no file follows.
    size_t length = strcspn(end + 1, text_ends_with(text, ".gguf") ? "/" : "");
    revision = memory_format("%.*s", (int)length, end + 1);
    end += 1 + length;
  }
  if (*end == '/') file = memory_copy_string(end + 1);
  *id = (HubId){repository, revision, file};
  bool good = !ends_like_a_file(repository) && (!revision || hub_revision_is_safe(revision)) &&
              (!file || (hub_file_name_is_safe(file) && text_ends_with(file, ".gguf")));
  if (!good) hub_id_release(id);
  return good;
}

void hub_id_release(HubId *id) {
  free(id->repository);
  free(id->revision);
  free(id->file);
  *id = (HubId){0};
}

bool hub_is_id(const char *text) {
  HubId id;
  if (!hub_id_parse(&id, text)) return false;
  hub_id_release(&id);
  return true;
}

void url_append(Buffer *url, const char *text, bool keep_slash) {
  for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
    if (isalnum(*p) || strchr("-._~", *p) || (keep_slash && *p == '/')) buffer_append(url, p, 1);
    else buffer_format(url, "%%%02X", *p);
  }
}
