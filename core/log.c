#define _GNU_SOURCE
#include "core/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

static bool quiet, silent;
static bool bar_shown;

void log_set_quiet(bool value) { quiet = value; }
bool log_is_quiet(void) { return quiet || silent; }
void log_set_silent(bool value) { silent = value; }

static void print(const char *prefix, const char *format, va_list arguments) {
  progress_clear();
  fputs(prefix, stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
}

void log_info(const char *format, ...) {
  if (log_is_quiet()) return;
  va_list arguments;
  va_start(arguments, format);
  print("", format, arguments);
  va_end(arguments);
}

void log_notice(const char *format, ...) {
  if (log_is_quiet()) return;
  va_list arguments;
  va_start(arguments, format);
  print("notice: ", format, arguments);
  va_end(arguments);
}

void log_warning(const char *format, ...) {
  if (silent) return;
  va_list arguments;
  va_start(arguments, format);
  print("warning: ", format, arguments);
  va_end(arguments);
}

static int terminal_width(void) {
  struct winsize size;
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

void progress_show(int64_t done, int64_t total, const char *format, ...) {
  if (log_is_quiet() || !isatty(STDERR_FILENO)) return;
  char detail[256];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(detail, sizeof detail, format, arguments);
  va_end(arguments);
  int width = terminal_width();
  int bar = width / 5 < 30 ? width / 5 : 30;
  int filled = total > 0 ? (int)(bar * done / total) : 0;
  if (filled > bar) filled = bar;
  char line[1024];
  int used = 0;
  for (int i = 0; i < bar && used < (int)sizeof line - 8; i++)
    used += snprintf(line + used, sizeof line - (size_t)used, "%s", i < filled ? "█" : "░");
  line[used] = 0;
  char text[320];
  snprintf(text, sizeof text, " %lld/%lld  %s", (long long)done, (long long)total, detail);
  int room = width - bar - 1;
  fprintf(stderr, "\r%s%.*s\033[K", line, room > 0 ? room : 0, text);
  fflush(stderr);
  bar_shown = true;
}

void progress_clear(void) {
  if (!bar_shown) return;
  fputs("\r\033[K", stderr);
  bar_shown = false;
}

double time_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

const char *format_bytes(char text[32], double bytes) {
  static const char *units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  int unit = 0;
  while (bytes >= 1024 && unit < 4) bytes /= 1024, unit++;
  snprintf(text, 32, unit == 0 ? "%.0f %s" : "%.2f %s", bytes, units[unit]);
  return text;
}

const char *format_duration(char text[32], double seconds) {
  long whole = seconds < 0 ? 0 : (long)(seconds + 0.5);
  if (whole < 60) snprintf(text, 32, "%lds", whole);
  else if (whole < 3600) snprintf(text, 32, "%ldm%02lds", whole / 60, whole % 60);
  else snprintf(text, 32, "%ldh%02ldm", whole / 3600, whole / 60 % 60);
  return text;
}
