// Where a run's time goes: seconds, flop and bytes by operation and direction.
#ifndef AUTOGRAD_PROFILE_H
#define AUTOGRAD_PROFILE_H

#include <stdint.h>

#include "core/memory.h"

enum { PROFILE_LINES = 64 };

typedef struct ProfileLine {
  const char *name, *direction;  // "linear + lora", "forward"; both live as long as the profile
  int64_t calls;
  double seconds, flop, bytes;  // bytes: of the tensors read and written, weights left out
} ProfileLine;

typedef struct Profile {
  ProfileLine lines[PROFILE_LINES];
  int count;
} Profile;

void profile_add(Profile *profile, const char *name, const char *direction, double seconds, double flop, double bytes);
// A table of the lines, the longest first, with shares of `seconds`; what no line accounts for comes last.
void profile_describe(Buffer *text, const Profile *profile, double seconds);

#endif
