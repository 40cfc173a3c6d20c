// The one error convention: a fallible function returns a Status, 0 is success
// everywhere, and the message with its file, place and remedy waits in a
// thread-local context until somebody prints it. Only main() exits.
#ifndef CORE_STATUS_H
#define CORE_STATUS_H

// The values are the program's exit codes.
typedef enum Status {
  STATUS_OK = 0,
  STATUS_FAILED = 1,  // something broke while running
  STATUS_USAGE = 2,  // command line or recipe refused
  STATUS_BAD_INPUT = 3,  // an input file refused: model, adapter, dataset, checkpoint
  STATUS_NO_SPACE = 4,  // memory or disk exhausted
  STATUS_GUARD = 5,  // training stopped by its own guard (NaN, watchdog)
  STATUS_INTERRUPTED = 130,  // SIGINT, after a checkpoint
  STATUS_TERMINATED = 143,  // SIGTERM, after a checkpoint
} Status;

#if defined(__GNUC__)
#define PRINTF_LIKE(format_index, first) __attribute__((format(printf, format_index, first)))
#else
#define PRINTF_LIKE(format_index, first)
#endif

// Sets the calling thread's message and returns `code` (never STATUS_OK).
Status status_fail(Status code, const char *format, ...) PRINTF_LIKE(2, 3);

// Puts "prefix: " before the present message and returns `code`; does nothing when it is STATUS_OK.
Status status_context(Status code, const char *format, ...) PRINTF_LIKE(2, 3);

// As status_fail with STATUS_NO_SPACE for ENOSPC, EDQUOT and ENOMEM, `otherwise` for any other
// errno value; appends ": " and the system's words for `error_number`.
Status status_errno(Status otherwise, int error_number, const char *format, ...) PRINTF_LIKE(3, 4);

// The message of the last failure on this thread; "" when there was none.
const char *status_message(void);

// Returns from the enclosing function when `expression` fails.
#define TRY(expression)                               \
  do {                                                \
    Status try_status_ = (expression);                \
    if (try_status_ != STATUS_OK) return try_status_; \
  } while (0)

// Jumps to the enclosing function's label `done`, with `status` set, when `expression` fails.
#define TRY_DONE(expression)            \
  do {                                  \
    status = (expression);              \
    if (status != STATUS_OK) goto done; \
  } while (0)

#endif
