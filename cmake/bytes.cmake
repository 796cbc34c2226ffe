# cmake -DINPUT=FILE -DOUTPUT=HEADER -DNAME=kName -P bytes.cmake: a file's bytes as a C++ array.
file(READ ${INPUT} bytes HEX)
string(REGEX REPLACE "(................................................................)" "\\1\n" bytes "${bytes}")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
file(WRITE ${OUTPUT} "// Made when the project is built.\n#pragma once\n#include <cstdint>\n\nnamespace retrovisor {\ninline constexpr uint8_t ${NAME}[] = {\n${bytes}};\n}  // namespace retrovisor\n")
