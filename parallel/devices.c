// Buffers of devices between the ranks: by the device's own library; else, or where the device's memory is the host's, by messages.
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "parallel/messages.h"

enum { PIECE = 16 << 20 };  // bytes of a device that are in the host's memory at a time

static bool has_own_library(const Group *group) {
  Backend *backend = group->backend;
  return backend->collectives && backend->collectives->library(backend);
}

static bool is_host_memory(const Group *group) { return !group->backend->upload_matrix; }

static void while_waiting(void *context) {
  Group *group = context;
  group->messages->poll(group);
}

Status group_join_devices(Backend *backend, Group *group) {
  group->backend = backend;
  if (group->size == 1) return STATUS_OK;
  backend->while_waiting = while_waiting;
  backend->waiting_context = group;
  if (is_host_memory(group)) return STATUS_OK;
  double without = !has_own_library(group);  // one that has none, and none is used
  TRY(group_sum(&without, 1, "the devices' library", group));
  if (without > 0) {
    backend->collectives = NULL;
    log_notice("NCCL is not installed on every machine: what the devices tell each other goes through the hosts' memory, which is slower");
    return STATUS_OK;
  }
  uint8_t id[COLLECTIVE_ID_BYTES] = {0};
  if (group_is_first(group)) TRY(backend->collectives->make_id(id, backend));
  TRY(group_broadcast(id, sizeof id, "the devices' meeting", group));
  group->doing = "the devices' meeting";
  return backend->collectives->join(id, group->rank, group->size, backend);
}

// Runs each piece of a device's block through `send` in the host's memory.
static Status by_pieces(void *block, int64_t bytes, bool is_read, Status (*send)(void *piece, int64_t bytes, Group *group), Group *group) {
  Backend *backend = group->backend;
  char *piece = memory_new(PIECE, 1);
  Status status = STATUS_OK;
  for (int64_t at = 0, length; status == STATUS_OK && at < bytes; at += length) {
    length = bytes - at < PIECE ? bytes - at : PIECE;
    if (is_read) backend->download(piece, (char *)block + at, length, backend);
    status = send(piece, length, group);
    if (status == STATUS_OK) backend->upload((char *)block + at, piece, length, backend);
  }
  free(piece);
  return status;
}

static Status sum_piece(void *piece, int64_t bytes, Group *group) {
  return group->messages->sum_floats(piece, bytes / (int64_t)sizeof(float), group);
}

static Status broadcast_piece(void *piece, int64_t bytes, Group *group) { return group->messages->broadcast(piece, bytes, group); }

Status group_sum_floats(float *values, int64_t count, const char *doing, Group *group) {
  if (group->size == 1) return STATUS_OK;
  group->doing = doing;
  if (is_host_memory(group)) return group->messages->sum_floats(values, count, group);
  if (!has_own_library(group)) return by_pieces(values, count * (int64_t)sizeof(float), true, sum_piece, group);
  group->backend->collectives->sum(values, count, group->backend);
  return STATUS_OK;
}

Status group_broadcast_device(void *block, int64_t bytes, const char *doing, Group *group) {
  if (group->size == 1) return STATUS_OK;
  group->doing = doing;
  if (is_host_memory(group)) return group->messages->broadcast(block, bytes, group);
  return by_pieces(block, bytes, group_is_first(group), broadcast_piece, group);
}

// Without a library of the devices' own there is nothing beside which it could run: it is done at once.
static Status gather_by_host(void *whole, const void *part, int64_t bytes, Group *group) {
  Backend *backend = group->backend;
  char *host = memory_new((size_t)(group->size * bytes), 1);
  backend->download(host + group->rank * bytes, part, bytes, backend);
  Status status = group_exchange(host, bytes, group->doing, group);
  if (status == STATUS_OK) backend->upload(whole, host, group->size * bytes, backend);
  free(host);
  return status;
}

Status group_gather(int64_t *number, void *whole, const void *part, int64_t bytes, Group *group) {
  *number = -1;
  group->gathered_bytes += (group->size - 1) * bytes;
  if (is_host_memory(group)) {
    char *place = (char *)whole + group->rank * bytes;
    if (place != part) memcpy(place, part, (size_t)bytes);
    return group->size == 1 ? STATUS_OK : group->messages->gather(number, whole, bytes, group);
  }
  if (!has_own_library(group)) return gather_by_host(whole, part, bytes, group);
  *number = group->backend->collectives->gather(whole, part, bytes, group->backend);
  return STATUS_OK;
}

Status group_await_gather(int64_t number, const char *doing, Group *group) {
  if (number < 0) return STATUS_OK;
  group->doing = doing;
  if (is_host_memory(group)) return group->messages->wait(number, group);
  group->backend->await_copy(number, group->backend);
  return STATUS_OK;
}

void group_progress(Group *group) {
  if (is_host_memory(group)) group->messages->progress(group);
}
