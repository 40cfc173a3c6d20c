// One request and its answer: what handlers are given, and what they reply with. Errors have OpenAI's form,
// {"error": {"message", "type", "param", "code"}}.
#ifndef SERVER_HTTP_H
#define SERVER_HTTP_H

#include <jansson.h>
#include <microhttpd.h>

#include "server/fields.h"
#include "server/server.h"

typedef struct Call Call;

typedef struct Route {
  const char *method, *path;
  // Queues a reply and returns STATUS_OK, or fails: the message goes to the client, and is its fault for STATUS_USAGE and STATUS_BAD_INPUT.
  Status (*handle)(Call *call);
  bool is_open;  // without a key
  bool is_early;  // before the model is open, too
  bool takes_list;  // its body is a list; else an object
} Route;

struct Call {
  Server *server;
  struct MHD_Connection *connection;
  const Route *route;  // NULL: there is none
  char *path;
  int socket;
  double begun;  // time_seconds()
  bool is_refused;  // the failure below is told once the body has come
  int64_t drained;  // bytes of the body of a refused request
  bool is_counted;  // in server->calls
  Buffer body;
  json_t *json;  // the body of a POST
  Fields fields;  // of it
  int status;  // of the reply; of a failure, where it is not the Status's own
  const char *code;  // a failure's; NULL: none
  const char *policy;  // Content-Security-Policy; NULL: none
  const char *allow;  // of 405: the methods that the path has
  void *work;  // what the answer still needs while it is sent
  void (*release)(void *work);
};

// A failure with a status of HTTP, OpenAI's code and the name of the parameter (both may be NULL; not copied). STATUS_FAILED.
Status call_fail(Call *call, int status, const char *code, const char *param, const char *format, ...) PRINTF_LIKE(5, 6);

Status call_reply(Call *call, int status, const char *type, const void *bytes, size_t length);  // copied
Status call_reply_json(Call *call, int status, json_t *object);  // takes the object
Status call_reply_failure(Call *call, Status failure);  // with this thread's message
// Text that comes piece by piece: read(context, ...) as MHD_ContentReaderCallback.
Status call_reply_events(Call *call, MHD_ContentReaderCallback read, void *context);

// {"error": ...} of a failure; new. `status` is of HTTP.
json_t *error_object(int status, const char *message, const char *param, const char *code);
char *json_text(const json_t *value);  // compact; floats in as many digits as a float32 needs; free() it

// While a handler waits for the engine no time runs out; while bytes are sent it does.
void call_pause_timeout(Call *call);
void call_resume_timeout(Call *call);

#endif
