// The entries of attention, and by which engine they go (attention_engine.h).
#include "kernels/cuda/attention_engine.h"

#include <vector>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/memory.h"

namespace {

enum Mode { MODE_AUTO, MODE_OWN, MODE_OTHER };
enum { CLASSES = 16, TILE = 32, TILE_ROWS = 8 };

// What a verdict holds for.
struct ShapeClass {
  FloatType type;
  int64_t heads, kv_heads, head_size, value_size;
  int64_t length;  // of the documents that it was timed with
  bool is_even;
};

struct Verdict {
  ShapeClass of;
  bool takes[2];  // forward, backward
};

bool is_same(const ShapeClass &a, const ShapeClass &b) {
  return a.type == b.type && a.heads == b.heads && a.kv_heads == b.kv_heads && a.head_size == b.head_size && a.value_size == b.value_size &&
         a.length == b.length && a.is_even == b.is_even;
}

bool own_forward(const AttentionCall *c, Device *device) {
  attention_forward_own(c->o, c->lse, c->q, c->k, c->v, c->type, c->spans, c->span_count, NULL, c->shape, device);
  return true;
}
bool own_backward(const AttentionCall *c, Device *device) {
  attention_backward_own(c->dq, c->dk, c->dv, c->scratch, c->go, c->o, c->lse, c->q, c->k, c->v, c->type, c->spans, c->span_count, NULL,
                         c->shape, device);
  return true;
}
bool own_fits(const AttentionCall *, bool, Device *) { return true; }
int64_t own_workspace(const AttentionCall *, bool, Device *) { return 0; }
void own_close(Device *) {}

const AttentionEngine own_engine = {"own", own_fits, own_forward, own_backward, own_workspace, own_close};

bool run(const AttentionEngine *engine, const AttentionCall &call, bool is_backward, Device *device) {
  return is_backward ? engine->backward(&call, device) : engine->forward(&call, device);
}

}  // namespace

struct AttentionChoices {
  Mode mode;
  bool is_sought;
  const AttentionEngine *other;  // NULL: none
  Verdict verdicts[CLASSES];
  int count;
  bool is_reserved;
  int64_t reserved;  // bytes of the other's workspace
};

namespace {

// The larger of two, NaN above all.
double worse(double a, double b) { return std::isnan(a) || a > b ? a : b; }

// Random documents on the device, some of them of one row or with rows between that belong to none, and what engines make of them.
class Documents {
 public:
  enum { RESULTS = 3, REST = 0x5a };  // ours, the other's twice; what bytes begin as

  Documents(const ShapeClass &shape, const std::vector<int> &lengths, int between, Device *on);
  ~Documents() { pool_give(device->pool, block); }
  Documents(const Documents &) = delete;
  Documents &operator=(const Documents &) = delete;

  bool is_there() const { return block != NULL; }
  // As `call`, writing result `to`; the backward pass reads ours of the forward pass.
  AttentionCall call(int to, bool is_backward) const;
  // Results to their first bytes.
  void clear();
  void compare(AttentionTrial *trial, bool is_backward);
  double time(const AttentionEngine *engine, bool is_backward);

 private:
  struct Array {
    int64_t offset, columns, size;  // bytes of an element
  };
  enum Name { O, LSE, DQ, DK, DV, SCRATCH, NAMES };

  void *at(const Array &array, int result) const { return static_cast<char *>(block) + array.offset + result * bytes_of(array); }
  int64_t bytes_of(const Array &array) const { return round_up(rows * array.columns * array.size, 256); }
  std::vector<uint8_t> read(const Array &array, int result, int64_t columns);
  double value(const std::vector<uint8_t> &bytes, const Array &array, int64_t i) const;

  ShapeClass shape;
  Device *device;
  std::vector<AttentionSpan> spans;
  std::vector<bool> is_document;  // row
  int64_t rows = 0;
  Array inputs[4], results[NAMES];
  int64_t results_offset = 0, bytes = 0;
  void *block;
};

Documents::Documents(const ShapeClass &of, const std::vector<int> &lengths, int between, Device *on) : shape(of), device(on) {
  for (int length : lengths) {
    spans.push_back({rows, rows + length, rows, rows + length});
    rows += length + between;
    is_document.resize(static_cast<size_t>(rows - between), true);
    is_document.resize(static_cast<size_t>(rows), false);
  }
  int64_t query = shape.heads * shape.head_size, key = shape.kv_heads * shape.head_size, value = shape.kv_heads * shape.value_size,
          out = shape.heads * shape.value_size;
  const int64_t columns[] = {query, key, value, out, out, shape.heads, query, key, value, shape.heads * (1 + shape.head_size)};
  for (int i = 0; i < 4 + NAMES; i++) {
    int name = i - 4;
    Array *array = i < 4 ? &inputs[i] : &results[name];
    if (i == 4) results_offset = bytes;
    *array = {bytes, columns[i], name == LSE || name == SCRATCH ? 4 : 2};
    bytes += bytes_of(*array) * (i < 4 ? 1 : static_cast<int>(RESULTS));
  }
  block = pool_take(device->pool, bytes, "a trial of attention");
  if (!block) return;
  // Of magnitude 1/2 to 1, either sign.
  std::vector<uint16_t> values(static_cast<size_t>(results_offset / 2));
  uint32_t state = 12345;
  for (uint16_t &v : values) {
    state = state * 1664525 + 1013904223;
    uint32_t random = state >> 16;
    v = static_cast<uint16_t>((random & 0x8000) | (shape.type == FLOAT_BF16 ? 0x3f00 | (random & 0x7f) : 0x3800 | (random & 0x3ff)));
  }
  CHECK(device, cudaMemcpyAsync(block, values.data(), static_cast<size_t>(results_offset), cudaMemcpyHostToDevice, device->stream));
  device_wait(device, device->stream);
}

AttentionCall Documents::call(int to, bool is_backward) const {
  AttentionCall c = {};
  c.type = shape.type, c.spans = spans.data(), c.span_count = static_cast<int64_t>(spans.size());
  c.shape.heads = shape.heads, c.shape.kv_heads = shape.kv_heads, c.shape.head_size = shape.head_size,
  c.shape.value_size = shape.value_size;
  c.shape.scale = 1 / sqrtf(static_cast<float>(shape.head_size));
  c.q = at(inputs[0], 0), c.k = at(inputs[1], 0), c.v = at(inputs[2], 0);
  c.o = at(results[O], is_backward ? 0 : to), c.lse = static_cast<float *>(at(results[LSE], is_backward ? 0 : to));
  if (!is_backward) return c;
  c.go = at(inputs[3], 0);
  c.dq = at(results[DQ], to), c.dk = at(results[DK], to), c.dv = at(results[DV], to);
  c.scratch = static_cast<float *>(at(results[SCRATCH], to));
  return c;
}

void Documents::clear() {
  CHECK(device,
        cudaMemsetAsync(static_cast<char *>(block) + results_offset, REST, static_cast<size_t>(bytes - results_offset), device->stream));
}

// The first [rows, columns].
std::vector<uint8_t> Documents::read(const Array &array, int result, int64_t columns) {
  std::vector<uint8_t> host(static_cast<size_t>(rows * columns * array.size));
  device_read(device, host.data(), at(array, result), static_cast<int64_t>(host.size()));
  return host;
}

double Documents::value(const std::vector<uint8_t> &bytes, const Array &array, int64_t i) const {
  const uint8_t *from = bytes.data() + i * array.size;
  if (array.size == 2 && shape.type == FLOAT_F16) {
    fp16 half;
    memcpy(&half, from, sizeof half);
    return static_cast<double>(__half2float(half));
  }
  uint32_t bits = 0;  // bfloat16 is the upper half of float32
  memcpy(reinterpret_cast<uint8_t *>(&bits) + 4 - array.size, from, static_cast<size_t>(array.size));
  float x;
  memcpy(&x, &bits, sizeof x);
  return static_cast<double>(x);
}

void Documents::compare(AttentionTrial *trial, bool is_backward) {
  for (int name = is_backward ? DQ : O; name <= (is_backward ? SCRATCH : LSE); name++) {
    const Array &array = results[name];
    int64_t columns = name == SCRATCH ? shape.heads : array.columns;  // of the scratch no more is promised
    std::vector<uint8_t> own = read(array, 0, columns), other = read(array, 1, columns), again = read(array, 2, columns);
    double largest = 0, difference = 0;
    for (int64_t i = 0; i < rows * columns; i++) {
      if (!is_document[static_cast<size_t>(i / columns)]) {
        for (int64_t b = i * array.size; name != SCRATCH && b < (i + 1) * array.size; b++)
          trial->keeps_others = trial->keeps_others && other[static_cast<size_t>(b)] == REST;
        continue;
      }
      double a = value(own, array, i);
      largest = worse(fabs(a), largest);
      difference = worse(fabs(value(other, array, i) - a), difference);
    }
    trial->difference = worse(difference / largest, trial->difference);
    trial->repeats = trial->repeats && other == again;
  }
}

// Milliseconds of a call, the least of some; NaN where it cannot be run.
double Documents::time(const AttentionEngine *engine, bool is_backward) {
  cudaEvent_t begin, end;
  float least = INFINITY;
  bool is_run = true;
  CHECK(device, cudaEventCreateWithFlags(&begin, cudaEventDefault));
  CHECK(device, cudaEventCreateWithFlags(&end, cudaEventDefault));
  for (int i = 0; i < 4 && is_run && device->error == cudaSuccess; i++) {  // the first warms up
    float milliseconds = 0;
    CHECK(device, cudaEventRecord(begin, device->stream));
    is_run = run(engine, call(engine == &own_engine ? 0 : 1 + i % 2, is_backward), is_backward, device);
    CHECK(device, cudaEventRecord(end, device->stream));
    device_wait_event(device, end);
    CHECK(device, cudaEventElapsedTime(&milliseconds, begin, end));
    if (i > 0 && milliseconds < least) least = milliseconds;
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return is_run && device->error == cudaSuccess ? static_cast<double>(least) : static_cast<double>(NAN);
}

// Both passes by both engines: documents of several lengths in a small case, and in a larger one, which is timed. Where only the bits of the
// larger differ, that counts too: it is where sums in any order show. Documents all of one length need no small case, and have plans of their
// own for each number of them, some of which take cuDNN more than a second.
void try_out(AttentionTrial trials[2], const ShapeClass &shape, const AttentionEngine *other, Device *device) {
  int length = static_cast<int>(shape.length);
  Documents few(shape, {37, 128, 1, 200, 66}, 3, device), large(shape, {length, shape.is_even ? length : length - 7}, 0, device);
  Documents &small = shape.is_even ? large : few;
  if (!few.is_there() || !large.is_there()) return;
  for (Documents *documents : {&few, &large}) {
    documents->clear();
    run(&own_engine, documents->call(0, false), false, device);
  }
  for (int pass = 0; pass < 2 && device->error == cudaSuccess; pass++) {
    AttentionTrial *trial = &trials[pass];
    bool is_backward = pass == 1;
    run(&own_engine, small.call(0, is_backward), is_backward, device);
    AttentionCall calls[] = {small.call(1, is_backward), small.call(2, is_backward)};
    trial->is_run = other->fits(&calls[0], is_backward, device) && run(other, calls[0], is_backward, device) &&
                    run(other, calls[1], is_backward, device);
    if (!trial->is_run) continue;
    trial->keeps_others = trial->repeats = true;
    small.compare(trial, is_backward);
    AttentionCall call = large.call(1, is_backward);
    if (!attention_judge(trial, false, NULL)) continue;
    if (!other->fits(&call, is_backward, device)) {
      trial->is_run = false;
      continue;
    }
    trial->own_ms = large.time(&own_engine, is_backward);
    trial->other_ms = large.time(other, is_backward);
    large.compare(trial, is_backward);
  }
}

int64_t longest(const AttentionCall &call) {
  int64_t most = 0;
  for (int64_t i = 0; i < call.span_count; i++) {
    int64_t length = call.spans[i].query_end - call.spans[i].query_begin;
    most = length > most ? length : most;
  }
  return most;
}

// Causal and nothing else, 16 bits, documents that begin with their first key, enough of them.
bool is_plain(const AttentionCall &call, const int32_t *query_ends) {
  if (call.type == FLOAT_32 || query_ends || call.shape.window > 0 || call.shape.softcap > 0) return false;
  int64_t rows = 0;
  for (int64_t i = 0; i < call.span_count; i++) {
    int64_t queries = call.spans[i].query_end - call.spans[i].query_begin, keys = call.spans[i].key_end - call.spans[i].key_begin;
    if (queries != keys) return false;
    rows += queries;
  }
  return rows >= ATTENTION_LEAST_ROWS;
}

void tell(const ShapeClass &shape, const char *pass, bool is_taken, const AttentionTrial &trial, const char *why, const char *name) {
  char times[64] = "";
  if (trial.other_ms > 0) snprintf(times, sizeof times, ", %.3g ms to our %.3g", trial.other_ms, trial.own_ms);
  log_info("cuda: attention %s, %s, %d heads of %d on %d, documents of %s %d: %s (%s: %s%s)", pass,
           shape.type == FLOAT_BF16 ? "bfloat16" : "float16", static_cast<int>(shape.heads), static_cast<int>(shape.head_size),
           static_cast<int>(shape.kv_heads), shape.is_even ? "all" : "some", static_cast<int>(shape.length),
           is_taken ? name : "our kernels", name, why, times);
}

const Verdict *verdict_of(const ShapeClass &shape, AttentionChoices *choices, Device *device) {
  for (int i = 0; i < choices->count; i++)
    if (is_same(choices->verdicts[i].of, shape)) return &choices->verdicts[i];
  if (choices->count == CLASSES) return NULL;
  AttentionTrial trials[2] = {};
  try_out(trials, shape, choices->other, device);
  Verdict *verdict = &choices->verdicts[choices->count++];
  verdict->of = shape;
  for (int pass = 0; pass < 2; pass++) {
    const char *why;
    verdict->takes[pass] = attention_judge(&trials[pass], choices->mode == MODE_AUTO, &why) && device->error == cudaSuccess;
    tell(shape, pass ? "back" : "forward", verdict->takes[pass], trials[pass], why, choices->other->name);
  }
  return verdict;
}

// What was found for calls like this one; NULL where they are ours without a question.
const Verdict *verdict_on(const AttentionCall &call, const int32_t *query_ends, Device *device) {
  AttentionChoices *choices = device->attention;
  if (!choices || choices->mode == MODE_OWN || !is_plain(call, query_ends)) return NULL;
  if (!choices->is_sought) {
    choices->is_sought = true;
    choices->other = attention_other_engine(device);
    if (!choices->other && choices->mode == MODE_OTHER) log_warning("cuda: LORA_CUDA_ATTENTION=cudnn, and there is no cuDNN 9 here");
  }
  if (!choices->other) return NULL;
  int64_t most = longest(call);
  ShapeClass shape = {call.type,
                      call.shape.heads,
                      call.shape.kv_heads,
                      call.shape.head_size,
                      call.shape.value_size,
                      most < 512    ? 256
                      : most < 2048 ? 1024
                                    : 2048,
                      attention_is_even(&call)};
  return verdict_of(shape, choices, device);
}

// Whether the other engine is to do this call.
bool is_for_other(const AttentionCall &call, const int32_t *query_ends, bool is_backward, Device *device) {
  const Verdict *verdict = verdict_on(call, query_ends, device);
  return verdict && verdict->takes[is_backward] && device->attention->other->fits(&call, is_backward, device);
}

// Tiles of 32 rows and 32 heads of a document go through shared memory, so that both sides are read and written in order.
// evidence: threads 256
template <bool TO_ROWS>
__global__ void transpose_stats(float *to, const float *from, const int32_t *begins, const int32_t *lengths, int length, int heads) {
  SHARED(float, tile, [TILE][TILE + 1]);
  int x = threadIdx.x % TILE, y = threadIdx.x / TILE, row = blockIdx.x * TILE, head = blockIdx.y * TILE, document = blockIdx.z;
  int count = lengths[document];
  int64_t begin = begins[document], stats = static_cast<int64_t>(document) * heads;
  for (int i = y; i < TILE; i += TILE_ROWS) {
    int r = row + (TO_ROWS ? x : i), h = head + (TO_ROWS ? i : x);
    bool is_there = r < count && h < heads;
    int64_t at = TO_ROWS ? (stats + h) * length + r : (begin + r) * heads + h;
    tile[i][x] = is_there ? from[at] : 0;
  }
  __syncthreads();
  for (int i = y; i < TILE; i += TILE_ROWS) {
    int r = row + (TO_ROWS ? i : x), h = head + (TO_ROWS ? x : i);
    if (h >= heads || r >= (TO_ROWS ? count : length)) continue;
    int64_t at = TO_ROWS ? (begin + r) * heads + h : (stats + h) * length + r;
    to[at] = tile[x][i];
  }
}

void start_transpose(bool to_rows, float *to, const float *from, const int32_t *begins, const int32_t *lengths, int64_t documents,
                     int64_t length, int64_t heads, Device *device) {
  if (documents == 0 || length == 0 || heads == 0) return;
  auto kernel = to_rows ? transpose_stats<true> : transpose_stats<false>;
  dim3 grid(blocks_for(length, TILE), blocks_for(heads, TILE), static_cast<unsigned>(documents));
  LAUNCH(device, kernel, grid, dim3(TILE * TILE_ROWS), 0, to, from, begins, lengths, static_cast<int>(length), static_cast<int>(heads));
}

}  // namespace

void attention_rows_of_stats(float *rows, const float *stats, const int32_t *begins, const int32_t *lengths, int64_t documents,
                             int64_t length, int64_t heads, Device *device) {
  start_transpose(true, rows, stats, begins, lengths, documents, length, heads, device);
}
void attention_stats_of_rows(float *stats, const float *rows, const int32_t *begins, const int32_t *lengths, int64_t documents,
                             int64_t length, int64_t heads, Device *device) {
  start_transpose(false, stats, rows, begins, lengths, documents, length, heads, device);
}

bool attention_is_even(const AttentionCall *call) {
  int64_t length = call->span_count > 0 ? call->spans->query_end - call->spans->query_begin : 0;
  for (int64_t i = 0; i < call->span_count; i++) {
    const AttentionSpan &span = call->spans[i];
    if (span.query_begin != i * length || span.query_end != (i + 1) * length || span.key_begin != i * length ||
        span.key_end != (i + 1) * length)
      return false;
  }
  return length > 0 && length % ATTENTION_EVEN == 0;
}

bool attention_judge(const AttentionTrial *trial, bool must_be_faster, const char **why) {
  const char *reason = NULL;
  if (!trial->is_run) reason = "it does not do this here";
  else if (!(trial->difference <= ATTENTION_TOLERANCE)) reason = "its results are not ours";
  else if (!trial->keeps_others) reason = "it writes rows that are no document's";
  else if (!trial->repeats) reason = "it does not give the same bits again";
  else if (must_be_faster && !(trial->other_ms < 0.95 * trial->own_ms)) reason = "it is not faster";
  if (why) *why = reason ? reason : must_be_faster ? "it agrees and is faster" : "it agrees";
  return !reason;
}

Status attention_open(Device *device) {
  const char *value = getenv("LORA_CUDA_ATTENTION");
  Mode mode = MODE_AUTO;
  if (!value || strcmp(value, "auto") == 0) mode = MODE_AUTO;
  else if (strcmp(value, "own") == 0) mode = MODE_OWN;
  else if (strcmp(value, "cudnn") == 0) mode = MODE_OTHER;
  else return status_fail(STATUS_USAGE, "LORA_CUDA_ATTENTION=%s: own, cudnn or auto is meant", value);
  device->attention = static_cast<AttentionChoices *>(memory_new(1, sizeof *device->attention));
  device->attention->mode = mode;
  return STATUS_OK;
}

void attention_close(Device *device) {
  if (!device->attention) return;
  if (device->attention->other) device->attention->other->close(device);
  free(device->attention);
}

// Flop of causal attention over the call's rows, forward and back.
static double flop_of(const AttentionCall &call) {
  double scores = 0;
  for (int64_t i = 0; i < call.span_count; i++) {
    double length = static_cast<double>(call.spans[i].query_end - call.spans[i].query_begin);
    scores += length * length / 2;
  }
  return 7 * 2 * scores * static_cast<double>(call.shape.heads * call.shape.head_size);
}

int64_t attention_reserve(const AttentionCall *call, int64_t calls, int64_t room, Device *device) {
  constexpr double WORTH_ASKING = 2e15;  // 20 s at 100 TFLOP/s, which an H100 reaches by our kernels; cuDNN takes 5 s to be ready
  AttentionChoices *choices = device->attention;
  if (choices->mode == MODE_AUTO && static_cast<double>(calls) * flop_of(*call) < WORTH_ASKING) choices->mode = MODE_OWN;
  const Verdict *verdict = verdict_on(*call, NULL, device);
  choices->is_reserved = true;
  choices->reserved = device->workspace_bytes[WORKSPACE_CUDNN];  // of the trial
  for (int pass = 0; pass < 2 && verdict; pass++) {
    int64_t bytes = verdict->takes[pass] ? choices->other->workspace_bytes(call, pass == 1, device) : 0;
    if (bytes > choices->reserved && bytes <= room / 8) choices->reserved = bytes;
  }
  return choices->reserved;
}

int64_t attention_room(Device *device) {
  const AttentionChoices *choices = device->attention;
  return choices->is_reserved ? choices->reserved : pool_available(device->pool) / 2;
}

#ifndef __CUDACC__
static const AttentionEngine *stand_in;
const AttentionEngine *attention_other_engine(Device *) { return stand_in; }
const AttentionEngine *attention_stand_in(const AttentionEngine *engine) {
  stand_in = engine;
  return &own_engine;
}
#endif

// Tiles are of heads of at most so much; no model of ours has larger ones.
static bool is_too_large(AttentionShape shape, Device *device) {
  enum { LARGEST_HEAD = 256 };
  if (shape.head_size <= LARGEST_HEAD && shape.value_size <= LARGEST_HEAD) return false;
  device_check(device, cudaErrorNotSupported, "attention with heads of more than 256");
  return true;
}

void cuda_attention_forward(void *o, float *lse, const void *q, const void *k, const void *v, FloatType type, const AttentionSpan *spans,
                            int64_t span_count, const int32_t *query_ends, AttentionShape shape, Backend *backend) {
  Device *device = device_of(backend);
  if (is_too_large(shape, device)) return;
  AttentionCall call = {};
  call.type = type, call.spans = spans, call.span_count = span_count, call.shape = shape;
  call.q = q, call.k = k, call.v = v, call.o = o, call.lse = lse;
  if (is_for_other(call, query_ends, false, device) && device->attention->other->forward(&call, device)) return;
  attention_forward_own(o, lse, q, k, v, type, spans, span_count, query_ends, shape, device);
}

void cuda_attention_backward(void *dq, void *dk, void *dv, float *scratch, const void *go, const void *o, const float *lse, const void *q,
                             const void *k, const void *v, FloatType type, const AttentionSpan *spans, int64_t span_count,
                             const int32_t *query_ends, AttentionShape shape, Backend *backend) {
  Device *device = device_of(backend);
  if (is_too_large(shape, device)) return;
  AttentionCall call = {};
  call.type = type, call.spans = spans, call.span_count = span_count, call.shape = shape;
  call.q = q, call.k = k, call.v = v, call.o = const_cast<void *>(o), call.lse = const_cast<float *>(lse);
  call.go = go, call.dq = dq, call.dk = dk, call.dv = dv, call.scratch = scratch;
  if (is_for_other(call, query_ends, true, device) && device->attention->other->backward(&call, device)) return;
  attention_backward_own(dq, dk, dv, scratch, go, o, lse, q, k, v, type, spans, span_count, query_ends, shape, device);
}
