#include "autograd/profile.h"

#include <stdlib.h>
#include <string.h>

void profile_add(Profile *profile, const char *name, const char *direction, double seconds, double flop, double bytes) {
  int i = 0;
  while (i < profile->count && (strcmp(profile->lines[i].name, name) != 0 || strcmp(profile->lines[i].direction, direction) != 0)) i++;
  if (i == PROFILE_LINES) return;
  if (i == profile->count) profile->lines[profile->count++] = (ProfileLine){.name = name, .direction = direction};
  ProfileLine *line = &profile->lines[i];
  line->calls++;
  line->seconds += seconds;
  line->flop += flop;
  line->bytes += bytes;
}

static int compare_lines(const void *a, const void *b) {
  const ProfileLine *x = a, *y = b;
  return x->seconds < y->seconds ? 1 : x->seconds > y->seconds ? -1 : 0;
}

void profile_describe(Buffer *text, const Profile *profile, double seconds) {
  Profile sorted = *profile;
  double left = seconds;
  qsort(sorted.lines, (size_t)sorted.count, sizeof *sorted.lines, compare_lines);
  buffer_format(text, "%-16s %-10s %8s %9s %6s %9s %8s\n", "op", "direction", "calls", "seconds", "share", "GFLOP/s", "GB/s");
  for (int i = 0; i < sorted.count; i++) {
    const ProfileLine *line = &sorted.lines[i];
    double time = line->seconds > 0 ? line->seconds : 1e-9;
    buffer_format(text, "%-16s %-10s %8lld %9.3f %5.1f%% %9.1f %8.1f\n", line->name, line->direction, (long long)line->calls, line->seconds,
                  100 * line->seconds / seconds, line->flop / time / 1e9, line->bytes / time / 1e9);
    left -= line->seconds;
  }
  buffer_format(text, "%-16s %-10s %8s %9.3f %5.1f%%\n", "the rest", "", "", left, 100 * left / seconds);
}
