# Writes OUTPUT, a C string of the file PAGE, for server/page/page.h.
file(READ "${PAGE}" bytes HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
file(WRITE "${OUTPUT}" "#include \"server/page/page.h\"\n\nconst char page_html[] = {${bytes}0};\n")
