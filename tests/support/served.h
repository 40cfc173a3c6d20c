// `lora serve` as a process of its own, and requests to it by libcurl.
#ifndef TESTS_SUPPORT_SERVED_H
#define TESTS_SUPPORT_SERVED_H

#include <jansson.h>
#include <sys/types.h>

#include "tests/support/test.h"

#define TINY TESTS_DIR "/data/tiny.gguf"
// Pieces of requests' bodies.
#define QUESTION "{\"role\": \"user\", \"content\": \"What is the capital of France?\"}"
#define LONG_ANSWER "\"prompt\": \"The\", \"ignore_eos\": true, \"max_tokens\": 480"
#define TOOLS                                                                                                                     \
  "\"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"weather\", \"description\": \"The weather\", \"parameters\": " \
  "{\"type\": \"object\", \"properties\": {\"city\": {\"enum\": [\"Paris\", \"Rome\"]}}, \"required\": [\"city\"], "              \
  "\"additionalProperties\": false}}}, {\"type\": \"function\", \"function\": {\"name\": \"time\"}}]"

typedef struct Served {
  pid_t process;
  int port;
  char *folder;  // with its log
} Served;

// Starts it with more arguments of the shell behind --port 0, and waits until it is ready.
void served_start(Served *served, const char *format, ...) PRINTF_LIKE(2, 3);
// Sends the signal and returns the exit status.
int served_stop(Served *served, int signal);
void served_log(Buffer *out, const Served *served);

typedef struct Reply {
  int status;  // 0: no answer
  bool is_whole;  // the answer came to its end
  Buffer head, body;
  json_t *json;  // the body, where it is JSON
} Reply;

typedef struct Ask {
  const char *method;  // NULL: POST where there is a body, else GET
  const char *path;
  const char *body;  // NULL: none
  size_t body_length;  // 0: the body is a string
  const char *headers[4];
  double seconds;  // then the client goes away; 0: it waits
} Ask;

// Release the reply.
Reply ask(int port, Ask request);
Reply ask_json(int port, const char *path, const char *format, ...) PRINTF_LIKE(3, 4);  // a POST that has to succeed
void reply_release(Reply *reply);

// A value within a tree: "choices.0.text"; NULL where there is none.
const json_t *json_at(const json_t *root, const char *path);
const char *json_string_at(const json_t *root, const char *path);  // fails the test where there is none
double json_number_at(const json_t *root, const char *path);

// The events of a stream, without "[DONE]"; *is_done: that came last. New.
json_t *reply_events(const Reply *reply, bool *is_done);
// A value of /metrics; -1: it is not there.
double metric_value(int port, const char *name);
void metric_wait(int port, const char *name, double value);  // fails the test when it does not come to that

#endif
