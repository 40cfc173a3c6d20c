#include "server/completion_stream.h"

#include <stdlib.h>
#include <string.h>

static void append_event(Buffer *events, json_t *object) {
  char *text = json_text(object);
  json_decref(object);
  if (text) buffer_format(events, "data: %s\n\n", text);
  free(text);
}

// Every chunk has `usage` where it is wanted, null but in the last.
static json_t *chunk(const Completion *completion, json_t *choices, json_t *usage) {
  json_t *object = json_pack("{s:s, s:s, s:I, s:s, s:o}", "id", completion->id, "object", completion->form->chunk_object, "created",
                             (json_int_t)completion->created, "model", completion->model, "choices", choices);
  if (completion->includes_usage) json_object_set_new(object, "usage", usage ? usage : json_null());
  return object;
}

void completion_event(Completion *completion, json_t *choice) {
  append_event(&completion->events, chunk(completion, json_pack("[o]", choice), NULL));
}

static void tell_failure(Completion *completion, const Answer *answer) {
  bool is_stopping = answer->finish == FINISH_CANCEL;
  const char *message = is_stopping ? "the server is stopping" : answer->message ? answer->message : "the text failed";
  append_event(&completion->events,
               error_object(is_stopping ? MHD_HTTP_SERVICE_UNAVAILABLE : MHD_HTTP_INTERNAL_SERVER_ERROR, message, NULL, NULL));
  completion->is_ended = completion->has_failed = true;
}

static void tell_end(Completion *completion) {
  if (completion->includes_usage) append_event(&completion->events, chunk(completion, json_array(), completion_usage(completion)));
  buffer_append_string(&completion->events, "data: [DONE]\n\n");
  completion->is_ended = true;
}

// Appends events for all that is new, under the set's lock.
static void collect(Completion *completion) {
  AnswerSet *set = &completion->answers;
  int ended = 0;
  for (int i = 0; i < set->count && !completion->is_ended; i++) {
    const Answer *answer = &set->answers[i];
    bool has_failed = answer->is_ended && (answer->finish == FINISH_ERROR || answer->finish == FINISH_CANCEL);
    if (has_failed) tell_failure(completion, answer);
    else if (!completion->told[i].is_ended) completion->form->tell(completion, i);
    completion->told[i].is_ended = answer->is_ended;
    ended += answer->is_ended;
  }
  if (ended == set->count && !completion->is_ended) tell_end(completion);
}

// False: the client has gone.
static bool fill(Completion *completion) {
  AnswerSet *set = &completion->answers;
  completion->events.length = completion->events_sent = 0;
  pthread_mutex_lock(&set->lock);
  collect(completion);
  uint64_t seen = set->events;
  pthread_mutex_unlock(&set->lock);
  if (completion->events.length) return true;
  return answers_wait(set, seen, completion->call->socket);
}

static ssize_t read_events(void *context, uint64_t position, char *out, size_t most) {
  (void)position;
  Completion *completion = context;
  call_pause_timeout(completion->call);
  bool is_there = true;
  while (is_there && completion->events_sent == completion->events.length && !completion->is_ended) is_there = fill(completion);
  call_resume_timeout(completion->call);
  size_t left = completion->events.length - completion->events_sent, length = left < most ? left : most;
  if (!is_there || (left == 0 && completion->has_failed)) return MHD_CONTENT_READER_END_WITH_ERROR;
  if (left == 0) return MHD_CONTENT_READER_END_OF_STREAM;
  memcpy(out, completion->events.data + completion->events_sent, length);
  completion->events_sent += length;
  return (ssize_t)length;
}

Status completion_stream(Completion *completion) { return call_reply_events(completion->call, read_events, completion); }
