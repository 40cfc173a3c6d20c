// The table behind models/config.h: a model's dimensions by their keys in both formats.
#ifndef MODELS_CONFIG_KEYS_H
#define MODELS_CONFIG_KEYS_H

#include "models/config.h"

typedef enum KeyKind { KEY_INTEGER, KEY_REAL, KEY_BOOL } KeyKind;

typedef struct ConfigKey {
  KeyKind kind;
  size_t offset;  // in ModelConfig, of an int64_t, double or bool
  unsigned families;  // FamilyBits
  const char *name, *other_name;  // in config.json; NULL: it has none
  const char *gguf;  // after "{arch}."; NULL: it has none
  bool is_needed;  // by either format that has it
  double absent;  // the value where config.json leaves it out; null there is 0
} ConfigKey;

extern const ConfigKey config_keys[];  // up to the first without names

#endif
