// Frozen matrices on their way to the device: arrays of a matrix lie in one block of the device's memory, each at a multiple of 256 bytes, and
// are written piece by piece of rows, which the CPU's threads repack (repack.cu).
#include "kernels/cuda/weights.h"

#include <stdlib.h>

#include "kernels/cuda/repack.h"

enum { ALIGNMENT = 256, PIECE_BYTES = 16 << 20 };

// What Matrix.data is for BLOCK_DEVICE.
struct DeviceMatrix {
  Weights weights;  // of the whole matrix
  void *block;  // NULL: somebody else's
};

static int64_t aligned(int64_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

// Arrays that are not by rows: sent as they are.
enum { WHOLE_BOOK, WHOLE_SCALES, WHOLE_NESTED, WHOLE_ZEROS, WHOLE_GROUP_OF, WHOLE_COUNT };
struct Whole {
  const void *host[WHOLE_COUNT];
  int64_t bytes[WHOLE_COUNT];
};

struct Upload {
  const Matrix *matrix;
  Form form;
  int64_t step[ARRAY_COUNT];
  Whole whole;
  int64_t array_at[ARRAY_COUNT], whole_at[WHOLE_COUNT];  // in the block
  int64_t bytes;
  float book[BOOK_NF4];
  uint8_t *block;
  Backend *backend;
  // The piece under way.
  uint8_t *piece;
  int64_t piece_at[ARRAY_COUNT], first, rows;
};

static void set_whole(Upload *upload, int which, const void *host, int64_t bytes) {
  upload->whole.host[which] = host;
  upload->whole.bytes[which] = bytes;
}

static void find_book(Upload *upload) {
  const Matrix *w = upload->matrix;
  if (w->type == BLOCK_NF4) {
    memcpy(upload->book, nf4_levels, sizeof nf4_levels);
    memcpy(upload->book + 16, nf4_scale_levels, sizeof nf4_scale_levels);
    set_whole(upload, WHOLE_BOOK, upload->book, sizeof upload->book);
  } else if (w->type == BLOCK_GROUPED) {
    if (w->grouped->levels) set_whole(upload, WHOLE_BOOK, w->grouped->levels, (4 << w->grouped->bits));
  } else if (form_traits[upload->form].book) {
    const int8_t *levels = w->type == BLOCK_MXFP4 ? mxfp4_book : iq4_book;
    for (int i = 0; i < 16; i++) upload->book[i] = levels[i];
    set_whole(upload, WHOLE_BOOK, upload->book, 16 * sizeof(float));
  }
}

// Scales of NF4 from the first block of 256 on that these rows need, and the first value's place there.
static void find_nf4(Upload *upload, Weights *weights) {
  const Matrix *w = upload->matrix;
  int64_t begin = w->first_row * w->columns, end = begin + w->rows * w->columns;
  int64_t nested = begin / NF4_BLOCK / NF4_NESTED_BLOCK, blocks = (end + NF4_BLOCK - 1) / NF4_BLOCK - nested * NF4_NESTED_BLOCK;
  weights->start = begin - nested * NF4_NESTED_BLOCK * NF4_BLOCK;
  weights->offset = w->nf4.offset;
  set_whole(upload, WHOLE_SCALES, w->nf4.scales + nested * NF4_NESTED_BLOCK, blocks);
  set_whole(upload, WHOLE_NESTED, w->nf4.nested_scales + nested,
            (blocks + NF4_NESTED_BLOCK - 1) / NF4_NESTED_BLOCK * (int64_t)sizeof(float));
}

static bool groups_are_even(const Grouped *g) {
  if (!g->group_of) return g->group % 16 == 0 || g->groups == 1;
  for (int64_t column = 0; column < g->columns; column++)
    if (g->group_of[column] != column / g->group) return false;
  return g->group % 16 == 0;
}

static void find_grouped(Upload *upload, Weights *weights) {
  const Matrix *w = upload->matrix;
  const Grouped *g = w->grouped;
  int64_t scale_bytes = g->scale_type == BLOCK_F32 ? 4 : 2;
  int64_t first = w->first_row / g->row_group, lines = w->rows ? (w->first_row + w->rows - 1) / g->row_group - first + 1 : 0;
  weights->groups = (int32_t)g->groups;
  weights->group = (int32_t)(g->groups == 1 ? w->columns : g->group);
  weights->row_group = (int32_t)(g->row_group < INT32_MAX ? g->row_group : INT32_MAX);
  weights->first_row = (int32_t)(w->first_row - first * g->row_group);
  weights->scale_type = g->scale_type;
  weights->rounding = g->rounding;
  weights->zero = (float)g->zero;
  weights->factor = g->factor;
  weights->is_even = groups_are_even(g);
  set_whole(upload, WHOLE_SCALES, static_cast<const uint8_t *>(g->scales) + first * g->groups * scale_bytes,
            lines * g->groups * scale_bytes);
  if (g->zeros) set_whole(upload, WHOLE_ZEROS, g->zeros + first * g->groups, lines * g->groups * (int64_t)sizeof *g->zeros);
  if (g->group_of && !weights->is_even) set_whole(upload, WHOLE_GROUP_OF, g->group_of, g->columns * (int64_t)sizeof *g->group_of);
}

static void lay_out(Upload *upload) {
  for (int i = 0; i < ARRAY_COUNT; i++) {
    upload->array_at[i] = upload->bytes;
    upload->bytes += aligned(upload->matrix->rows * upload->step[i]);
  }
  for (int i = 0; i < WHOLE_COUNT; i++) {
    upload->whole_at[i] = upload->bytes;
    upload->bytes += aligned(upload->whole.bytes[i]);
  }
}

static void set_pointers(Weights *weights, const Upload *upload) {
  const uint8_t *block = upload->block;
  const int64_t *at = upload->array_at, *whole_at = upload->whole_at, *bytes = upload->whole.bytes;
  bool by_rows = form_is_blocks(upload->form);
  weights->codes = block + at[ARRAY_CODES];
  weights->pairs = block + at[ARRAY_PAIRS];
  weights->bits = block + at[ARRAY_BITS];
  weights->scales = block + (by_rows ? at[ARRAY_SCALES] : whole_at[WHOLE_SCALES]);
  weights->unit_scales = block + at[ARRAY_UNIT_SCALES];
  weights->code_step = upload->step[ARRAY_CODES];
  weights->pair_step = upload->step[ARRAY_PAIRS];
  weights->bit_step = upload->step[ARRAY_BITS];
  weights->scale_step = upload->step[ARRAY_SCALES];
  weights->unit_scale_step = upload->step[ARRAY_UNIT_SCALES];
  weights->book = bytes[WHOLE_BOOK] ? reinterpret_cast<const float *>(block + whole_at[WHOLE_BOOK]) : NULL;
  weights->nested = reinterpret_cast<const float *>(block + whole_at[WHOLE_NESTED]);
  weights->zeros = bytes[WHOLE_ZEROS] ? reinterpret_cast<const int16_t *>(block + whole_at[WHOLE_ZEROS]) : NULL;
  weights->group_of = bytes[WHOLE_GROUP_OF] ? reinterpret_cast<const int32_t *>(block + whole_at[WHOLE_GROUP_OF]) : NULL;
}

enum { TASK_ROWS = 16 };

static void repack_task(void *argument, int64_t task, int) {
  const Upload *upload = static_cast<const Upload *>(argument);
  int64_t end = (task + 1) * TASK_ROWS < upload->rows ? (task + 1) * TASK_ROWS : upload->rows;
  for (int64_t row = task * TASK_ROWS; row < end; row++) {
    uint8_t *out[ARRAY_COUNT];
    for (int i = 0; i < ARRAY_COUNT; i++) out[i] = upload->piece + upload->piece_at[i] + row * upload->step[i];
    repack_row(out, upload->matrix, upload->form, upload->first + row);
  }
}

static void send_rows(Upload *upload, int64_t piece_rows) {
  for (int64_t first = 0; first < upload->matrix->rows; first += piece_rows) {
    int64_t at = 0;
    upload->first = first;
    upload->rows = upload->matrix->rows - first < piece_rows ? upload->matrix->rows - first : piece_rows;
    for (int i = 0; i < ARRAY_COUNT; i++) {
      upload->piece_at[i] = at;
      at += aligned(upload->rows * upload->step[i]);
    }
    pool_run(upload->backend->pool, (upload->rows + TASK_ROWS - 1) / TASK_ROWS, repack_task, upload);
    for (int i = 0; i < ARRAY_COUNT; i++)
      if (upload->step[i])
        upload->backend->upload(upload->block + upload->array_at[i] + first * upload->step[i], upload->piece + upload->piece_at[i],
                                upload->rows * upload->step[i], upload->backend);
  }
}

static int64_t plain_bytes(const Matrix *matrix) { return matrix->rows * block_row_bytes(matrix->type, matrix->columns); }

static Status upload_plain(Matrix *matrix, void *block, Backend *backend) {
  int64_t bytes = plain_bytes(matrix);
  if (!block) TRY(backend->allocate(&block, bytes, "base weights", backend));
  if (bytes) backend->upload(block, matrix->data, bytes, backend);
  matrix->data = block;
  return STATUS_OK;
}

static Status upload_arrays(Upload *upload, Matrix *matrix, void *given, const Weights *weights) {
  Backend *backend = upload->backend;
  int64_t row_bytes = 0, piece_rows;
  for (int i = 0; i < ARRAY_COUNT; i++) row_bytes += upload->step[i];
  piece_rows = row_bytes && PIECE_BYTES / row_bytes > 1 ? PIECE_BYTES / row_bytes : 1;
  if (piece_rows > matrix->rows) piece_rows = matrix->rows;
  void *block = given, *piece = NULL;
  TRY(memory_try(&piece, (size_t)(piece_rows * row_bytes + ARRAY_COUNT * ALIGNMENT), "weights on their way to the device"));
  Status status = given ? STATUS_OK : backend->allocate(&block, upload->bytes, "base weights", backend);
  if (status == STATUS_OK) {
    upload->block = static_cast<uint8_t *>(block);
    upload->piece = static_cast<uint8_t *>(piece);
    if (piece_rows) send_rows(upload, piece_rows);
    for (int i = 0; i < WHOLE_COUNT; i++)
      if (upload->whole.bytes[i])
        backend->upload(upload->block + upload->whole_at[i], upload->whole.host[i], upload->whole.bytes[i], backend);
    DeviceMatrix *device = static_cast<DeviceMatrix *>(memory_new(1, sizeof *device));
    device->weights = *weights;
    device->block = given ? NULL : block;
    set_pointers(&device->weights, upload);
    int64_t rows = matrix->rows, columns = matrix->columns;
    *matrix = Matrix{};
    matrix->type = BLOCK_DEVICE;
    matrix->rows = rows;
    matrix->columns = columns;
    matrix->data = device;
  }
  free(piece);
  return status;
}

// Where each of a quantised matrix's arrays lies.
static void plan_upload(Upload *upload, Weights *weights) {
  const Matrix *matrix = upload->matrix;
  weights->form = upload->form;
  weights->rows = matrix->rows;
  weights->columns = matrix->columns;
  find_book(upload);
  if (matrix->type == BLOCK_NF4) find_nf4(upload, weights);
  if (matrix->type == BLOCK_GROUPED) find_grouped(upload, weights);
  repack_steps(upload->step, upload->form, matrix->columns);
  lay_out(upload);
}

Status weights_upload(Matrix *matrix, void *block, Backend *backend) {
  Matrix host = *matrix;
  Upload upload = {};
  upload.matrix = &host;
  upload.backend = backend;
  upload.form = repack_form(matrix);
  if (upload.form == FORM_COUNT) return status_fail(STATUS_BAD_INPUT, "weights of this type cannot be kept on the device");
  if (form_is_plain(upload.form)) return upload_plain(matrix, block, backend);
  Weights weights = {};
  plan_upload(&upload, &weights);
  return upload_arrays(&upload, matrix, block, &weights);
}

int64_t weights_bytes(const Matrix *matrix) {
  Upload upload = {};
  Weights weights = {};
  upload.matrix = matrix;
  upload.form = repack_form(matrix);
  if (upload.form == FORM_COUNT) return 0;
  if (form_is_plain(upload.form)) return plain_bytes(matrix);
  plan_upload(&upload, &weights);
  return upload.bytes;
}

void weights_release(Matrix *matrix, Backend *backend) {
  if (matrix->type == BLOCK_DEVICE && matrix->data) {
    DeviceMatrix *device = static_cast<DeviceMatrix *>(const_cast<void *>(matrix->data));
    if (device->block) backend->release(device->block, backend);
    free(device);
  } else if (matrix->data) {
    backend->release(const_cast<void *>(matrix->data), backend);
  }
  matrix->data = NULL;
}

bool weights_have_integer_levels(const Matrix *w) {
  return w->type == BLOCK_DEVICE && form_is_blocks(static_cast<const DeviceMatrix *>(w->data)->weights.form);
}

static Weights plain_weights(const Matrix *w) {
  Weights weights = {};
  weights.form = w->type == BLOCK_F32 ? FORM_F32 : w->type == BLOCK_F16 ? FORM_F16 : FORM_BF16;
  weights.codes = static_cast<const uint8_t *>(w->data);
  weights.code_step = block_row_bytes(w->type, w->columns);
  weights.is_packed = is_aligned(w->data) && weights.code_step % 16 == 0;
  return weights;
}

Weights weights_of(const Matrix *w) {
  Weights weights = w->type == BLOCK_DEVICE ? static_cast<const DeviceMatrix *>(w->data)->weights : plain_weights(w);
  weights.rows = w->rows;
  weights.columns = w->columns;
  if (w->type == BLOCK_DEVICE) {
    weights.codes += w->first_row * weights.code_step;
    weights.pairs += w->first_row * weights.pair_step;
    weights.bits += w->first_row * weights.bit_step;
    weights.unit_scales += w->first_row * weights.unit_scale_step;
    if (form_is_blocks(weights.form)) weights.scales += w->first_row * weights.scale_step;
    weights.start += w->first_row * w->columns;
    weights.first_row += (int32_t)w->first_row;
  }
  return weights;
}
