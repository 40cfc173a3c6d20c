// PREFIX-NNNNN-of-NNNNN.gguf: both numbers have five digits and count from 1.
#include "core/shard_name.h"

#include <ctype.h>
#include <string.h>

#include "core/memory.h"

enum { DIGITS = 5 };

// Five digits at `text`, or -1.
static int take_number(const char *text) {
  int number = 0;
  for (int i = 0; i < DIGITS; i++) {
    if (!isdigit((unsigned char)text[i])) return -1;
    number = number * 10 + (text[i] - '0');
  }
  return number;
}

bool shard_name_parse(ShardName *shard, const char *path) {
  static const char form[] = "-00001-of-00003.gguf", between[] = "-of-", ending[] = ".gguf";
  size_t length = strlen(path), tail = sizeof form - 1;
  if (length <= tail) return false;
  const char *end = path + length - tail;
  if (end[0] != '-' || end[-1] == '/' || memcmp(end + 1 + DIGITS, between, sizeof between - 1) != 0 ||
      strcmp(end + 1 + DIGITS + sizeof between - 1 + DIGITS, ending) != 0)
    return false;
  *shard = (ShardName){
      .prefix = (int)(length - tail), .number = take_number(end + 1), .count = take_number(end + 1 + DIGITS + sizeof between - 1)};
  return shard->number >= 1 && shard->number <= shard->count && shard->count <= SHARDS_MAX;
}

char *shard_name_make(const ShardName *shard, const char *path, int number) {
  return memory_format("%.*s-%05d-of-%05d.gguf", shard->prefix, path, number, shard->count);
}
