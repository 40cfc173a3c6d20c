// `lora doctor`: what this machine has for the program, and whether its kernels compute here what they should.
#include <assert.h>
#include <hdf5.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <jansson.h>
#include <pcre2.h>
#include <utf8proc.h>
#include <yaml.h>

#include "cli/command.h"
#include "cli/doctor_tune.h"
#include "cli/options.h"
#include "core/log.h"
#include "core/text.h"
#include "kernels/cuda_library.h"
#include "kernels/selfcheck.h"
#include "parallel/group.h"

enum { MOST_CHECKS = 256 };  // of two tables, each kernel with activations of two types

typedef struct Doctor {
  const Arguments *arguments;
  Backend *cpu;
  Backend *device;  // whose kernels are checked besides; NULL: none
  char *devices;  // a line each
  char *no_devices;  // why there are none
  char *library;
  int runtime, driver;
  KernelCheck checks[MOST_CHECKS];
  const char *checked[MOST_CHECKS];  // the table's name
  int check_count, wrong;
} Doctor;

static char *last_line(const char *text) {
  char *copy = memory_copy_string(text);
  for (size_t length = strlen(copy); length > 0 && copy[length - 1] == '\n'; length--) copy[length - 1] = 0;
  return copy;
}

// No device is no failure, unless one was asked for.
static Status find_devices(Doctor *doctor) {
  const char *asked = doctor->arguments->device;
  bool is_asked = asked && strcmp(asked, "cpu") != 0, is_cpu_only = asked && !is_asked;
  Buffer text = {0};
  int count = 0;
  Status status = cuda_library_path(&doctor->library);
  if (status == STATUS_OK) status = cuda_library_versions(&doctor->runtime, &doctor->driver);
  if (status == STATUS_OK) status = cuda_library_describe(&text, &count);
  if (status == STATUS_OK && count > 0) doctor->devices = last_line(text.data);
  else doctor->no_devices = memory_copy_string(status == STATUS_OK ? "the CUDA driver sees no device" : status_message());
  buffer_release(&text);
  if (is_asked) return backend_new(&doctor->device, asked, (int)doctor->arguments->threads);
  if (!doctor->devices || is_cpu_only) return STATUS_OK;
  if (backend_new(&doctor->device, "cuda", (int)doctor->arguments->threads) != STATUS_OK)
    doctor->no_devices = memory_copy_string(status_message());
  return STATUS_OK;
}

typedef struct LibraryVersion {
  const char *name;
  char version[64];
} LibraryVersion;
enum { LIBRARIES = 5 };

static void library_versions(LibraryVersion out[LIBRARIES]) {
  const char *names[LIBRARIES] = {"HDF5", "libyaml", "PCRE2", "jansson", "utf8proc"};
  for (int i = 0; i < LIBRARIES; i++) out[i].name = names[i];
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  snprintf(out[0].version, sizeof out[0].version, "%u.%u.%u", major, minor, release);
  snprintf(out[1].version, sizeof out[1].version, "%s", yaml_get_version_string());
  char pcre[64] = "";
  if (pcre2_config(PCRE2_CONFIG_VERSION, NULL) < (int)sizeof pcre) pcre2_config(PCRE2_CONFIG_VERSION, pcre);
  pcre[strcspn(pcre, " ")] = 0;
  snprintf(out[2].version, sizeof out[2].version, "%s", pcre);
  snprintf(out[3].version, sizeof out[3].version, "%s", jansson_version_str());
  snprintf(out[4].version, sizeof out[4].version, "%s", utf8proc_version());
}

static const char *between_devices(const Doctor *doctor) {
  const Collectives *collectives = doctor->device ? doctor->device->collectives : NULL;
  return collectives ? collectives->library(doctor->device) : NULL;
}

static void print_processes(const Doctor *doctor) {
  const char *messages, *devices = between_devices(doctor);
  if (group_library(&messages) != STATUS_OK) printf("processes: one (%s)\n", status_message());
  else printf("processes: many, by %s%s%s\n", messages, devices ? "; devices by " : "", devices ? devices : "");
}

static void print_machine(const Doctor *doctor) {
  char bytes[32];
  printf("processor: kernels");
  for (int i = 0; backend_cpu_kernels(i); i++) printf("%s %s", i ? "," : "", backend_cpu_kernels(i)->name);
  printf("; chosen: %s; threads: %d; memory free: %s\n", doctor->cpu->kernels->name, pool_threads(doctor->cpu->pool),
         format_bytes(bytes, (double)doctor->cpu->available_bytes(doctor->cpu)));
  printf("devices: %s\n", doctor->devices ? doctor->devices : "none");
  if (doctor->no_devices) printf("  %s\n", doctor->no_devices);
  LibraryVersion libraries[LIBRARIES];
  library_versions(libraries);
  printf("libraries:");
  for (int i = 0; i < LIBRARIES; i++) printf("%s %s %s", i ? "," : "", libraries[i].name, libraries[i].version);
  printf("\n");
  print_processes(doctor);
  if (doctor->library)
    printf("CUDA library: %s, runtime %d.%d, driver %d.%d\n", doctor->library, doctor->runtime / 1000, doctor->runtime % 1000 / 10,
           doctor->driver / 1000, doctor->driver % 1000 / 10);
  fflush(stdout);
}

static void print_check(const KernelCheck *check) {
  printf("  %-8s %.1e of %.1e", float_name(check->type), check->error, check->tolerance);
  if (!check->is_ok) printf(" (%s)", check->worst);
}

// A line for each kernel: both types of activations.
static Status check_table(Doctor *doctor, Backend *backend, Backend *reference) {
  const FloatType types[] = {FLOAT_32, selfcheck_short_type(backend)};
  bool prints = !doctor->arguments->json;
  if (prints) printf("\nkernels of %s against plain C, the largest difference of what is allowed:\n", backend->kernels->name);
  for (int kernel = 0; selfcheck_name(kernel); kernel++) {
    KernelCheck checks[2];
    bool is_ok = true;
    for (int i = 0; i < 2; i++) {
      TRY(selfcheck_run(&checks[i], kernel, types[i], backend, reference));
      if (!checks[i].cases) continue;
      is_ok &= checks[i].is_ok;
      assert(doctor->check_count < MOST_CHECKS);
      doctor->checked[doctor->check_count] = backend->kernels->name;
      doctor->checks[doctor->check_count++] = checks[i];
    }
    doctor->wrong += !is_ok;
    if (!prints) continue;
    printf("%-22s %-8s", checks[0].kernel, is_ok ? "ok" : "MISMATCH");
    for (int i = 0; i < 2; i++)
      if (checks[i].cases) print_check(&checks[i]);
    printf("\n");
    fflush(stdout);
  }
  return STATUS_OK;
}

static Status check_kernels(Doctor *doctor) {
  Backend *reference;
  TRY(backend_new(&reference, NULL, (int)doctor->arguments->threads));
  reference->kernels = &kernels_scalar;
  Status status = STATUS_OK;
  if (doctor->device && doctor->device->upload_matrix) status = check_table(doctor, doctor->device, reference);
  if (status == STATUS_OK) status = check_table(doctor, doctor->cpu, reference);
  backend_free(reference);
  return status;
}

static json_t *checks_json(const Doctor *doctor) {
  json_t *checks = json_array();
  for (int i = 0; i < doctor->check_count; i++) {
    const KernelCheck *check = &doctor->checks[i];
    json_t *object =
        json_pack("{s:s, s:s, s:s, s:b, s:i, s:f, s:s}", "table", doctor->checked[i], "kernel", check->kernel, "activations",
                  float_name(check->type), "ok", check->is_ok, "cases", check->cases, "tolerance", check->tolerance, "case", check->worst);
    json_object_set_new(object, "error", isfinite(check->error) ? json_real(check->error) : json_null());
    json_array_append_new(checks, object);
  }
  return checks;
}

static void print_json(const Doctor *doctor) {
  json_t *tables = json_array(), *libraries = json_object(), *devices = json_array(), *object;
  for (int i = 0; backend_cpu_kernels(i); i++) json_array_append_new(tables, json_string(backend_cpu_kernels(i)->name));
  LibraryVersion versions[LIBRARIES];
  library_versions(versions);
  for (int i = 0; i < LIBRARIES; i++) json_object_set_new(libraries, versions[i].name, json_string(versions[i].version));
  for (const char *line = doctor->devices; line && *line; line += strcspn(line, "\n"), line += *line == '\n')
    json_array_append_new(devices, json_stringn(line, strcspn(line, "\n")));
  object =
      json_pack("{s:o, s:s, s:i, s:I, s:o, s:o, s:o, s:b}", "instruction_sets", tables, "chosen", doctor->cpu->kernels->name, "threads",
                pool_threads(doctor->cpu->pool), "memory_available_bytes", (json_int_t)doctor->cpu->available_bytes(doctor->cpu), "devices",
                devices, "libraries", libraries, "kernels", checks_json(doctor), "ok", doctor->wrong == 0);
  const char *messages;
  json_object_set_new(object, "mpi", group_library(&messages) == STATUS_OK ? json_string(messages) : json_null());
  if (between_devices(doctor)) json_object_set_new(object, "nccl", json_string(between_devices(doctor)));
  if (doctor->no_devices) json_object_set_new(object, "no_devices", json_string(doctor->no_devices));
  if (doctor->library)
    json_object_set_new(object, "cuda",
                        json_pack("{s:s, s:i, s:i}", "library", doctor->library, "runtime", doctor->runtime, "driver", doctor->driver));
  json_dumpf(object, stdout, JSON_COMPACT);
  printf("\n");
  json_decref(object);
}

static Status examine(Doctor *doctor) {
  TRY(backend_new(&doctor->cpu, NULL, (int)doctor->arguments->threads));
  TRY(find_devices(doctor));
  if (!doctor->arguments->json) print_machine(doctor);
  TRY(check_kernels(doctor));
  if (doctor->arguments->json) print_json(doctor);
  if (doctor->wrong)
    return status_fail(STATUS_FAILED, "%d kernels do not compute what they should on this machine; LORA_CPU=scalar uses none but plain C",
                       doctor->wrong);
  return STATUS_OK;
}

static Status run(const Arguments *arguments) {
  Doctor *doctor = memory_new(1, sizeof *doctor);
  doctor->arguments = arguments;
  Status status = examine(doctor);
  backend_free(doctor->device);
  backend_free(doctor->cpu);
  free(doctor->devices);
  free(doctor->no_devices);
  free(doctor->library);
  free(doctor);
  return status;
}

Status command_doctor(int argc, char **argv) {
  DoctorTune tune = {.rows = 4096, .columns = 4096, .most = 512};
  bool tunes = false;
  const Option options[] = {
      {.name = "tune",
       .kind = OPTION_FLAG,
       .value = &tunes,
       .help = "with --device cuda: measure which kernel is the fastest for how many rows, and keep it for this card"},
      {.name = "tune-size",
       .kind = OPTION_INTEGER,
       .value = &tune.rows,
       .argument = "N",
       .help = "rows and columns of the matrix that --tune multiplies by, a multiple of 256 (4096)",
       .min = 256,
       .max = 65536},
      {.name = "tune-rows",
       .kind = OPTION_INTEGER,
       .value = &tune.most,
       .argument = "N",
       .help = "the most rows that --tune multiplies (512)",
       .min = 1,
       .max = 4096},
  };
  const CommandLine line = {.name = "doctor",
                            .usage = "[--device cuda [--tune]]",
                            .summary =
                                "Tells processors, devices and libraries, and checks every kernel of this machine against its definition "
                                "in plain C: those of the\n"
                                "CPU, and of a CUDA device where there is one or --device names it. A difference is an exit code of 1.",
                            .options = options,
                            .option_count = sizeof options / sizeof options[0]};
  Arguments arguments;
  Status status = options_parse(&arguments, &line, argc, argv);
  tune.columns = tune.rows;
  if (status == STATUS_OK && !arguments.help) status = tunes ? doctor_tune(&tune, &arguments) : run(&arguments);
  arguments_release(&arguments);
  return status;
}
