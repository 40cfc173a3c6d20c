// Times MPI's collectives as parallel/mpi calls them, for tests/tools/check_scaling.py; built there by mpicc.
//   collectives sum BYTES TIMES             MPI_Iallreduce of floats in place
//   collectives apart BYTES TIMES           the same, from one buffer into another
//   collectives gather BYTES TIMES          MPI_Iallgather in place; BYTES: of the whole
//   collectives beside BYTES TIMES SECONDS  the same, while this process computes for so long without a call of MPI
//   collectives asked BYTES TIMES SECONDS   the same, and MPI is asked each millisecond meanwhile
// A line for each time: the seconds of the slowest rank.
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void compute(double seconds, MPI_Request *request, int is_asked) {
  double start = MPI_Wtime(), asked = start;
  while (MPI_Wtime() - start < seconds) {
    if (!is_asked || MPI_Wtime() - asked < 1e-3) continue;
    int is_done;
    MPI_Test(request, &is_done, MPI_STATUS_IGNORE);
    asked = MPI_Wtime();
  }
}

int main(int argc, char **argv) {
  int rank, size;
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  if (argc < 4) return 2;
  const char *what = argv[1];
  int bytes = atoi(argv[2]), part = bytes / size;
  float *values = malloc((size_t)bytes + 64);
  float *others = malloc((size_t)bytes + 64);
  if (!values || !others) return 1;
  for (int i = 0; i < atoi(argv[3]); i++) {
    for (int j = 0; j < bytes / 4; j++) values[j] = 1;
    MPI_Request request;
    MPI_Barrier(MPI_COMM_WORLD);
    double seconds = MPI_Wtime();
    if (strcmp(what, "sum") == 0) MPI_Iallreduce(MPI_IN_PLACE, values, bytes / 4, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD, &request);
    else if (strcmp(what, "apart") == 0) MPI_Iallreduce(values, others, bytes / 4, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD, &request);
    else MPI_Iallgather(MPI_IN_PLACE, 0, MPI_BYTE, values, part, MPI_BYTE, MPI_COMM_WORLD, &request);
    if (argc > 4) compute(atof(argv[4]), &request, strcmp(what, "asked") == 0);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    seconds = MPI_Wtime() - seconds;
    MPI_Allreduce(MPI_IN_PLACE, &seconds, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    if (rank == 0) printf("%.6f\n", seconds);
  }
  MPI_Finalize();
  return 0;
}
