# Writes OUTPUT, a C table {name, source} of the files TEMPLATES, for data/template/builtin.c.
set(code "#include \"data/template/builtin.h\"\n\nconst BuiltinTemplate builtin_templates[] = {\n")
foreach(path IN LISTS TEMPLATES)
  get_filename_component(name "${path}" NAME_WE)
  file(READ "${path}" bytes HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
  string(APPEND code "    {\"${name}\", (const char[]){${bytes}0}},\n")
endforeach()
file(WRITE "${OUTPUT}" "${code}    {0, 0}};\n")
