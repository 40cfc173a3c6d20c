#include "core/status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MESSAGE_SIZE = 2048 };
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
  if (length >= 0 && length < MESSAGE_SIZE)
    snprintf(text + length, sizeof text - (size_t)length, ": %s", message);
  memcpy(message, text, sizeof text);
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
