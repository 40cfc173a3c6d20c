#include "server/auth.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "core/file.h"
#include "core/text.h"

enum { KEY_FILE_LIMIT = 1 << 20 };

Status key_list_read(KeyList *keys, const char *path) {
  Buffer text = {0};
  Status status = file_read(&text, path, KEY_FILE_LIMIT);
  for (const char *line = text.data; status == STATUS_OK && line && *line;) {
    const char *end = line + strcspn(line, "\n"), *key = line;
    size_t length = (size_t)(end - line);
    text_strip(&key, &length);
    if (length) SHA256((const uint8_t *)key, length, ARRAY_PUSH(keys->hashes, keys->count, keys->capacity));
    line = *end ? end + 1 : end;
  }
  if (text.data) OPENSSL_cleanse(text.data, text.length);
  buffer_release(&text);
  TRY(status);
  return keys->count ? STATUS_OK : status_fail(STATUS_BAD_INPUT, "%s: there is no key in it; write one a line", path);
}

void key_list_release(KeyList *keys) {
  free(keys->hashes);
  *keys = (KeyList){0};
}

bool key_list_allows(const KeyList *keys, const char *authorization) {
  static const char scheme[] = "Bearer ";
  if (keys->count == 0) return true;
  if (!authorization || strncasecmp(authorization, scheme, sizeof scheme - 1) != 0) return false;
  const char *key = authorization + sizeof scheme - 1;
  size_t length = strlen(key);
  text_strip(&key, &length);
  uint8_t hash[32];
  SHA256((const uint8_t *)key, length, hash);
  int matches = 0;
  for (int i = 0; i < keys->count; i++) matches |= CRYPTO_memcmp(hash, keys->hashes[i], sizeof hash) == 0;
  return matches != 0;
}
