// Names of the parts of a split file: PREFIX-00001-of-00003.gguf, as llama.cpp's gguf-split and gguf-py write them.
#ifndef CORE_SHARD_NAME_H
#define CORE_SHARD_NAME_H

#include <stdbool.h>

enum { SHARDS_MAX = 4096 };  // real models have some dozens

typedef struct ShardName {
  int prefix;  // bytes before "-00001-of-00003.gguf"; folders are part of it
  int number, count;  // 1 <= number <= count <= SHARDS_MAX
} ShardName;

bool shard_name_parse(ShardName *shard, const char *path);  // false for a name of another form
char *shard_name_make(const ShardName *shard, const char *path, int number);  // the path of part `number`, a new string

#endif
