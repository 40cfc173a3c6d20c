// The order in which threads of a block, and streams, go on.
#include "kernels/cuda/simulator/internal.h"

namespace simulator {

static int chosen = -1;
static uint64_t random_state;

static void choose(int schedule) {
  chosen = schedule < 0 ? 0 : schedule;
  random_state = static_cast<uint64_t>(chosen) * 0x9e3779b97f4a7c15u + 1;
}

static void read_environment() {
  const char *text = getenv("LORA_SIMULATED_SCHEDULE");
  int schedule = 0;
  if (text && strcmp(text, "last") == 0) schedule = 1;
  if (text && strncmp(text, "random", 6) == 0) schedule = 2 + (text[6] == ':' ? atoi(text + 7) : 0);
  choose(schedule);
}

ScheduleKind schedule_kind() {
  if (chosen < 0) read_environment();
  return chosen >= SCHEDULE_RANDOM ? SCHEDULE_RANDOM : static_cast<ScheduleKind>(chosen);
}

unsigned schedule_random(unsigned count) {
  random_state ^= random_state << 13, random_state ^= random_state >> 7, random_state ^= random_state << 17;
  return static_cast<unsigned>((random_state >> 32) * count >> 32);
}

}  // namespace simulator

void simulator_set_schedule(int schedule) { simulator::choose(schedule); }
