#include "core/status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MESSAGE_SIZE = 16384 };  // a refused recipe lists its problems, a line each
static _Thread_local char message[MESSAGE_SIZE];

Status status_fail(Status code, const char *format, ...) {
  // Formatted apart first: an argument may be the present message itself.
  char text[MESSAGE_SIZE];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  memcpy(message, text, sizeof text);
  return code;
}

Status status_context(Status code, const char *format, ...) {
  if (code == STATUS_OK) return code;
  char text[MESSAGE_SIZE];
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  if (length < 0) return code;
  size_t used = (size_t)length < sizeof text - 3 ? (size_t)length : sizeof text - 3;
  memcpy(text + used, ": ", 2);
  size_t room = sizeof text - used - 3, rest = strlen(message);
  memmove(message + used + 2, message, rest < room ? rest : room);
  memcpy(message, text, used + 2);
  message[used + 2 + (rest < room ? rest : room)] = 0;
  return code;
}

Status status_errno(Status otherwise, int error_number, const char *format, ...) {
  char text[MESSAGE_SIZE];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  int no_space = error_number == ENOSPC || error_number == EDQUOT || error_number == ENOMEM || error_number == EFBIG;
  return status_fail(no_space ? STATUS_NO_SPACE : otherwise, "%s: %s", text, strerror(error_number));
}

const char *status_message(void) { return message; }
