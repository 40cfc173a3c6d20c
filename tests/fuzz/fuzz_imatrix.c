// Any bytes as an importance matrix, GGUF or .dat: refused with a message, or every value is there and a number.
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "formats/imatrix.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  ImportanceMatrix matrix;
  Status status = imatrix_parse(&matrix, "fuzz.imatrix", data, size);
  if (status != STATUS_OK && status != STATUS_BAD_INPUT) abort();
  for (int64_t i = 0; status == STATUS_OK && i < matrix.count; i++) {
    const ImatrixEntry *entry = &matrix.entries[i];
    for (int64_t e = 0; e < entry->experts; e++) {
      const float *means;
      if (imatrix_find(&means, &matrix, entry->name, entry->columns, e) != STATUS_OK) abort();
      for (int64_t column = 0; means && column < entry->columns; column++)
        if (!isfinite(means[column]) || means[column] < 0) abort();
    }
  }
  imatrix_close(&matrix);
  return 0;
}
