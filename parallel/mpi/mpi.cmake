# What runs of several processes need of MPI, as a shared object beside the program. LORA_MPI=AUTO: where Open MPI is found; OFF: not at all.
set(LORA_MPI AUTO CACHE STRING "runs of several processes by Open MPI: AUTO or OFF")
set_property(CACHE LORA_MPI PROPERTY STRINGS AUTO OFF)

if(LORA_MPI)
  pkg_check_modules(MPI IMPORTED_TARGET ompi-c)
  if(MPI_FOUND)
    add_library(lora_mpi SHARED ${CMAKE_SOURCE_DIR}/parallel/mpi/mpi.c)
    target_include_directories(lora_mpi PRIVATE ${CMAKE_SOURCE_DIR})
    target_compile_definitions(lora_mpi PRIVATE _DEFAULT_SOURCE _POSIX_C_SOURCE=200809L)
    target_link_libraries(lora_mpi PRIVATE PkgConfig::MPI)
    set_target_properties(lora_mpi PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
    add_dependencies(lora lora_mpi)  # who builds the program alone can start it by mpirun as well
    install(TARGETS lora_mpi LIBRARY DESTINATION lib/lora)
  else()
    message(STATUS "MPI: Open MPI was not found; the program is built for runs of one process")
  endif()
endif()
