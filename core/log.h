// What a run tells its user, on stderr; results go to stdout and are not this file's business.
#ifndef CORE_LOG_H
#define CORE_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "core/status.h"

void log_set_quiet(bool quiet);  // silences info and notices, and the progress bar
bool log_is_quiet(void);
void log_set_silent(bool silent);  // warnings, too: of many processes of one run one speaks
void log_info(const char *format, ...) PRINTF_LIKE(1, 2);
void log_notice(const char *format, ...) PRINTF_LIKE(1, 2);  // "notice: ..."
void log_warning(const char *format, ...) PRINTF_LIKE(1, 2);  // "warning: ...", quiet or not, but not silent

// A bar on the terminal's last line: `done` of `total`, with `detail` behind it; nothing where
// stderr is no terminal. Log lines print above it.
void progress_show(int64_t done, int64_t total, const char *format, ...) PRINTF_LIKE(3, 4);
void progress_clear(void);

double time_seconds(void);  // monotonic
const char *format_bytes(char text[32], double bytes);  // "1.25 GiB"
const char *format_duration(char text[32], double seconds);  // "3m05s"

#endif
