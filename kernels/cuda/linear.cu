// The products of kernels/linear.h with frozen weights:
//   forward   y_i = alpha_i x w_i^T + h_i b_i^T + bias_i + residual_i
//   backward  dx (+)= sum_i alpha_i dy_i w_i + dh_i a_i
// Few rows multiply within a kernel that dequantises (weights.h). More take panels of rows of w, dequantised into one of two places while the
// panel before is multiplied out of the other: forward they are so small that they stay in the second cache, and that the first, which is waited
// for, is soon there. A panel of rows is a piece of the sum backward, and every piece more moves all of dx twice in float32; so there they are as
// large as memory may be spent on them: at 2048 rows a whole matrix, written and read once, moves fewer bytes than two pieces whose sums go
// through memory. cuBLASLt adds a product to what the small terms gave before: y is rounded twice. dx of 16 bits is summed up in float32 and
// rounded once where there are several products.
// Where rows are to be by themselves (Backend.is_deterministic) a row's sums have one order for all numbers of rows: those of generation go
// row by row, those of prompts through panels and tiles of our own, which take a whole sum each.
#include "kernels/cuda/panels.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/weights.h"

namespace {

constexpr int64_t FORWARD_PANEL = 8 << 20, LARGEST_FORWARD_PANEL = 32 << 20, BACKWARD_PANEL = 64 << 20;
enum { NARROW = 128 };  // plain matrices of at most so many rows are factors of an adapter

bool is_plain(const Matrix *w) { return w->type == BLOCK_F32 || w->type == BLOCK_F16 || w->type == BLOCK_BF16; }
FloatType plain_type(const Matrix *w) { return w->type == BLOCK_F32 ? FLOAT_32 : w->type == BLOCK_BF16 ? FLOAT_BF16 : FLOAT_F16; }

FloatType shorter(FloatType a, FloatType b) { return a == FLOAT_32 ? b : a; }
// What operands are rounded to.
FloatType common_type(FloatType type, const Projection *projections, int count) {
  for (int i = 0; i < count; i++) {
    type = shorter(type, projections[i].y.type);
    if (projections[i].rank) type = shorter(type, projections[i].h.type);
  }
  return type;
}

// Panels. Rows first .. first + rows - 1 of a projection's w, where products can read them.
struct Panel {
  int projection;
  int64_t first, rows;
  const void *data;
  int64_t step;
};

bool is_read_in_place(const Matrix *w, FloatType type) { return is_plain(w) && plain_type(w) == type; }

// Of about equal panels, each of at most so many bytes where that is 16 rows.
int64_t panel_rows(const Matrix *w, FloatType type, int64_t bytes) {
  int64_t most = bytes / (round_up(w->columns, 8) * float_bytes(type)) / 16 * 16;
  most = most < 16 ? 16 : most;
  if (most >= w->rows) return most;
  int64_t even = round_up(blocks_for(w->rows, blocks_for(w->rows, most)), most >= 256 ? 128 : 16);  // whole tiles of products
  return even < most ? even : most;
}

// The dequantised panels of all projections, one after another.
struct PanelCursor {
  const Projection *projections;
  int count;
  FloatType type;
  int64_t bytes;
  int projection;
  int64_t first;

  bool find() {
    while (projection < count && (is_read_in_place(projections[projection].w, type) || first >= projections[projection].w->rows))
      projection++, first = 0;
    return projection < count;
  }
  Panel take() {
    const Matrix *w = projections[projection].w;
    int64_t most = panel_rows(w, type, bytes), rows = w->rows - first < most ? w->rows - first : most;
    Panel panel = {projection, first, rows, NULL, round_up(w->columns, 8)};
    first += rows;
    return panel;
  }
};

struct PanelCount {
  int64_t in_place, dequantized;
};
PanelCount count_panels(const Projection *projections, int count, FloatType type, int64_t bytes) {
  PanelCursor cursor = {projections, count, type, bytes, 0, 0};
  PanelCount panels = {0, 0};
  for (int i = 0; i < count; i++) panels.in_place += is_read_in_place(projections[i].w, type);
  for (; cursor.find(); panels.dequantized++) cursor.take();
  return panels;
}

// use(panel) for every piece of the projections' w, in order.
template <typename Use>
void for_each_panel(const Projection *projections, int count, FloatType type, int64_t bytes, Device *device, Use use) {
  PanelCursor cursor = {projections, count, type, bytes, 0, 0};
  int64_t room = 0, panels = count_panels(projections, count, type, bytes).dequantized;
  for (int i = 0; i < count; i++) {
    const Matrix *w = projections[i].w;
    if (is_read_in_place(w, type)) continue;
    int64_t rows = panel_rows(w, type, bytes) < w->rows ? panel_rows(w, type, bytes) : w->rows;
    int64_t own = rows * round_up(w->columns, 8) * float_bytes(type);
    room = room > own ? room : own;
  }
  room = round_up(room, 256);
  char *places = NULL;
  if (room > 0) {
    places = static_cast<char *>(device_workspace(device, WORKSPACE_WEIGHTS, panels == 1 ? room : 2 * room));
    if (!places) return;
  }
  Panel dequantized[2];
  int next = 0;  // the first projection that has not been used
  auto use_in_place = [&](int end) {
    for (; next < end; next++)
      if (is_read_in_place(projections[next].w, type))
        use(Panel{next, 0, projections[next].w->rows, projections[next].w->data, projections[next].w->columns});
  };
  panels_in_turns(
      panels, device,
      [&](int place, cudaStream_t stream) {
        cursor.find();
        Panel panel = cursor.take();
        char *to = places + place * room;
        weights_dequantize(to, type, panel.step, 1, projections[panel.projection].w, panel.first, panel.rows, device, stream);
        panel.data = to;
        dequantized[place] = panel;
      },
      [&](int place) {
        use_in_place(dequantized[place].projection);
        use(dequantized[place]);
      });
  use_in_place(count);
}

Operand rows_of_k(Operand a, int64_t first) {
  a.data = static_cast<const char *>(a.data) + first * float_bytes(a.type);
  return a;
}

// c (+)= alpha a b^T.
void multiply(Rows c, int64_t m, int64_t n, int64_t k, float alpha, Operand a, Operand b, bool accumulate, Device *device) {
  if (blas_product(c, m, n, k, alpha, a, b, accumulate, device)) return;
  DenseProduct product = product_of(a.type, m);
  add_term(&product, a, b, k, alpha);
  add_output(&product, output_rows(c, n));
  product.outputs[0].accumulate = accumulate;
  product_run(product, device);
}

bool has_packets(Rows rows) { return is_aligned(rows.data) && rows.step * float_bytes(rows.type) % 16 == 0; }

bool is_same(Rows a, Rows b) { return a.data == b.data && a.step == b.step && a.type == b.type; }

// Forward.

int64_t forward_panel_bytes(const Matrix *w, int64_t n, FloatType type, const Device *device) {
  if (device->thresholds.forward_panel) return device->thresholds.forward_panel;
  int64_t tiles_down = blocks_for(n, 128), row_bytes = round_up(w->columns, 8) * float_bytes(type);
  int64_t full = blocks_for(device->processors, tiles_down) * 128 * row_bytes;  // a tile for every processor
  int64_t bytes = full > FORWARD_PANEL ? full : FORWARD_PANEL;
  return bytes < LARGEST_FORWARD_PANEL ? bytes : LARGEST_FORWARD_PANEL;
}

ProductOutput forward_output(const Projection *p, int64_t first, int64_t rows) {
  ProductOutput output = output_rows(rows_from(p->y, first), rows);
  if (p->bias) output.bias = p->bias + first;
  if (is_same(p->residual, p->y)) output.accumulate = true;
  else if (p->residual.data) output.added = rows_from(p->residual, first);
  return output;
}
Operand low_rows(const Projection *p, int64_t first) { return {p->low + first * p->rank, FLOAT_32, p->rank, true}; }

void forward_by_panels(const Projection *p, Operand x, int64_t n, Device *device) {
  const Matrix *w = p->w;
  int64_t bytes = forward_panel_bytes(w, n, x.type, device);
  bool is_split = has_packets(p->y) && (p->y.type == x.type || p->y.type == FLOAT_32) && has_blas(device);
  bool accumulate = p->residual.data != NULL || p->rank > 0 || p->bias;
  if (is_split && (p->rank > 0 || p->bias || (p->residual.data && !is_same(p->residual, p->y)))) {
    DenseProduct product = product_of(x.type, n);
    if (p->rank > 0) add_term(&product, operand_rows(p->h), low_rows(p, 0), p->rank, 1);
    add_output(&product, forward_output(p, 0, w->rows));
    product_run(product, device);
  }
  for_each_panel(p, 1, x.type, bytes, device, [&](const Panel &panel) {
    Operand b = {panel.data, x.type, panel.step, true};
    if (is_split) {
      multiply(rows_from(p->y, panel.first), n, panel.rows, w->columns, p->alpha, x, b, accumulate, device);
      return;
    }
    DenseProduct product = product_of(x.type, n);
    add_term(&product, x, b, w->columns, p->alpha);
    if (p->rank > 0) add_term(&product, operand_rows(p->h), low_rows(p, panel.first), p->rank, 1);
    add_output(&product, forward_output(p, panel.first, panel.rows));
    product_run(product, device);
  });
}

bool is_narrow(const Projection *p) { return is_plain(p->w) && p->w->rows <= NARROW && p->rank == 0; }

// Factors of several adapters for which x is read once.
void forward_narrow(const Projection *projections, int count, Operand x, int64_t n, Device *device) {
  DenseProduct product = product_of(x.type, n);
  ProductTerm &term = product.terms[product.term_count++];
  term.a = x, term.k = projections[0].w->columns, term.alpha = 1;
  for (int i = 0; i < count; i++) {
    const Matrix *w = projections[i].w;
    term.b[i] = {w->data, plain_type(w), w->columns, true};
    add_output(&product, forward_output(&projections[i], 0, w->rows));
    product.outputs[i].alpha = projections[i].alpha;
  }
  product_run(product, device);
}

bool is_fused(const Projection *p, Rows x, int64_t n, Device *device) {
  if (is_deterministic(device)) return false;
  if (n <= device->thresholds.gemv_rows) gemv_forward(p, x, n, device);
  else if (fused_fits(p->w) && x.type != FLOAT_32 && n <= device->thresholds.fused_rows) fused_forward(p, x, n, device);
  else return false;
  return true;
}

// Of generation. No product in 16 bits takes rows of float32, and a panel of floats is written and read: to read codes again for every four
// rows moves fewer bytes up to about so many.
enum { ROWS_IN_FLOAT = 32 };
bool goes_by_rows(const Projection *p, Rows x, int64_t n, const Device *device) {
  return is_deterministic(device) || (x.type == FLOAT_32 && n <= ROWS_IN_FLOAT && !is_read_in_place(p->w, FLOAT_32));
}

// `type`: what operands are rounded to.
void forward(const Projection *projections, int count, Rows rows, int64_t n, FloatType type, Device *device) {
  Operand x = {};
  for (int i = 0; i < count;) {
    const Projection *p = &projections[i++];
    if (p->w->rows == 0 || is_fused(p, rows, n, device)) continue;
    if (!x.data) x = operand_in_place(operand_rows(rows), type, n, p->w->columns, WORKSPACE_INPUT, device);
    if (!x.data) return;
    int narrow = is_narrow(p);
    while (narrow > 0 && narrow < PRODUCT_OUTPUTS && i < count && is_narrow(&projections[i])) narrow++, i++;
    if (narrow) forward_narrow(p, narrow, x, n, device);
    else forward_by_panels(p, x, n, device);
  }
}

// Backward.

// The low-rank terms, dh a of each.
void add_low_terms(DenseProduct *product, const Projection *projections, int count, int64_t columns) {
  for (int i = 0; i < count; i++)
    if (projections[i].rank > 0)
      add_term(product, operand_rows(projections[i].h), Operand{projections[i].low, FLOAT_32, columns, false}, projections[i].rank, 1);
}

struct Backward {
  Rows dx;
  const Projection *projections;
  int count;
  int64_t n, columns;
  FloatType type;
  bool accumulate;
  Device *device;
};

// dx (+)= the low-rank terms and `sums`, whose data may be NULL.
void backward_low(const Backward &b, Rows sums) {
  DenseProduct product = product_of(b.type, b.n);
  add_low_terms(&product, b.projections, b.count, b.columns);
  add_output(&product, output_rows(b.dx, b.columns));
  product.outputs[0].accumulate = b.accumulate, product.outputs[0].added = sums;
  product_run(product, b.device);
}

// The sum of all products with weights into `sums` (+)=.
void backward_weights(const Backward &b, Rows sums, bool accumulate, int64_t bytes) {
  int last = -1;
  Operand dy = {};
  for_each_panel(b.projections, b.count, b.type, bytes, b.device, [&](const Panel &panel) {
    const Projection *p = &b.projections[panel.projection];
    if (panel.projection != last) dy = operand_in_place(operand_rows(p->y), b.type, b.n, p->w->rows, WORKSPACE_INPUT, b.device);
    last = panel.projection;
    if (!dy.data) return;
    Operand w = {panel.data, b.type, panel.step, false};
    multiply(sums, b.n, b.columns, panel.rows, p->alpha, rows_of_k(dy, panel.first), w, accumulate, b.device);
    accumulate = true;
  });
}

// One product of this backend's own takes all terms.
void backward_at_once(const Backward &b, int64_t bytes) {
  DenseProduct product = product_of(b.type, b.n);
  add_low_terms(&product, b.projections, b.count, b.columns);
  for_each_panel(b.projections, b.count, b.type, bytes, b.device, [&](const Panel &panel) {
    const Projection *p = &b.projections[panel.projection];
    add_term(&product, operand_rows(p->y), Operand{panel.data, b.type, panel.step, false}, panel.rows, p->alpha);
  });
  add_output(&product, output_rows(b.dx, b.columns));
  product.outputs[0].accumulate = b.accumulate;
  product_run(product, b.device);
}

// A matrix by itself may take the room of two panels: in one piece, its products need no sums in float32 between them.
int64_t backward_panel_bytes(const Backward &b) {
  if (b.device->thresholds.backward_panel) return b.device->thresholds.backward_panel;
  PanelCount panels = count_panels(b.projections, b.count, b.type, 2 * BACKWARD_PANEL);
  return panels.in_place + panels.dequantized == 1 ? 2 * BACKWARD_PANEL : BACKWARD_PANEL;
}

void backward(const Backward &b) {
  int64_t bytes = backward_panel_bytes(b);
  PanelCount panels = count_panels(b.projections, b.count, b.type, bytes);
  int64_t ranks = 0;
  for (int i = 0; i < b.count; i++) ranks += b.projections[i].rank;
  bool is_blas = has_packets(b.dx) && (b.dx.type == b.type || b.dx.type == FLOAT_32) && has_blas(b.device);
  if (!is_blas && panels.dequantized <= 1) {
    backward_at_once(b, bytes);
  } else if (b.dx.type == FLOAT_32 || (panels.in_place + panels.dequantized == 1 && is_blas)) {
    if (ranks > 0) backward_low(b, Rows{});
    backward_weights(b, b.dx, b.accumulate || ranks > 0, bytes);
  } else {
    int64_t step = round_up(b.columns, 8);
    void *room = device_workspace(b.device, WORKSPACE_SUMS, b.n * step * static_cast<int64_t>(sizeof(float)));
    if (!room) return;
    Rows sums = {room, step, FLOAT_32};
    backward_weights(b, sums, false, bytes);
    backward_low(b, sums);
  }
}

// Blocks of 32 of x, rounded to 8 bits (kernels/backend.h): a warp each.
enum { ROUND_THREADS = 256 };
__global__ void __launch_bounds__(ROUND_THREADS) round_to_int8(float *out, Rows x, int64_t columns, int64_t blocks) {
  int64_t block = static_cast<int64_t>(blockIdx.x) * (ROUND_THREADS / WARP) + threadIdx.x / WARP;
  if (block >= blocks) return;
  int64_t at = block * INT8_BLOCK + threadIdx.x % WARP, from = at / columns * x.step + at % columns;
  float value = x.type == FLOAT_32     ? static_cast<const float *>(x.data)[from]
                : x.type == FLOAT_BF16 ? to_float(static_cast<const bf16 *>(x.data)[from])
                                       : to_float(static_cast<const fp16 *>(x.data)[from]);
  bool is_whole = __all_sync(0xffffffffu, isfinite(value));
  float largest = warp_max(fabsf(value)), scale = largest / 127, inverse = 127 / largest;
  float rounded = largest > INT8_SMALLEST ? scale * rintf(value * inverse) : 0;
  out[at] = is_whole ? rounded : __uint_as_float(0x7fc00000u);
}

}  // namespace

void cuda_linear_forward(const Projection *projections, int count, Rows x, int64_t n, Backend *backend) {
  if (n == 0 || count == 0) return;
  forward(projections, count, x, n, common_type(x.type, projections, count), device_of(backend));
}

void cuda_linear_forward_rows(const Projection *projections, int count, Rows x, int64_t n, Backend *backend) {
  Device *device = device_of(backend);
  for (int i = 0; i < count; i++) {
    if (goes_by_rows(&projections[i], x, n, device)) gemv_forward(&projections[i], x, n, device);
    else cuda_linear_forward(&projections[i], 1, x, n, backend);
  }
}

void cuda_linear_forward_int8(const Projection *projections, int count, Rows x, int64_t n, Backend *backend) {
  if (n == 0 || count == 0) return;
  Device *device = device_of(backend);
  int64_t columns = projections[0].w->columns, blocks = n * columns / INT8_BLOCK;
  float *rounded = NULL;
  for (int i = 0; i < count; i++) {
    if (!weights_have_integer_levels(projections[i].w)) continue;
    if (!rounded) {
      rounded = static_cast<float *>(device_workspace(device, WORKSPACE_INPUT, n * columns * static_cast<int64_t>(sizeof(float))));
      if (!rounded) return;
      LAUNCH(device, round_to_int8, blocks_for(blocks, ROUND_THREADS / WARP), ROUND_THREADS, 0, rounded, x, columns, blocks);
    }
    Rows levels = {rounded, columns, FLOAT_32};
    if (goes_by_rows(&projections[i], levels, n, device)) gemv_forward(&projections[i], levels, n, device);
    else forward(&projections[i], 1, levels, n, FLOAT_32, device);
  }
  for (int i = 0; i < count; i++)  // after the others, for their x may need the place of the rounded one
    if (!weights_have_integer_levels(projections[i].w)) cuda_linear_forward_rows(&projections[i], 1, x, n, backend);
}

void cuda_linear_backward(Rows dx, const Projection *projections, int count, int64_t n, bool accumulate, Backend *backend) {
  if (n == 0 || count == 0 || projections[0].w->columns == 0) return;
  backward(Backward{dx, projections, count, n, projections[0].w->columns, common_type(dx.type, projections, count), accumulate,
                    device_of(backend)});
}

int64_t linear_workspace_bytes(int64_t rows, int64_t columns) {
  return 2 * BACKWARD_PANEL + rows * columns * static_cast<int64_t>(sizeof(float) + sizeof(bf16));
}

void products_close(Device *device) {
  for (cudaEvent_t &event : device->panel_events) {
    if (event) cudaEventDestroy(event);
    event = NULL;
  }
}
