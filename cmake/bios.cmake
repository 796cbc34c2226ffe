# The BIOS services, vmm/boot/bios.asm, as an array in generated/vmm/boot/bios_bytes.h.
set(bios_dir ${CMAKE_BINARY_DIR}/generated/vmm/boot)
file(MAKE_DIRECTORY ${bios_dir})
file(GLOB bios_parts CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/vmm/boot/bios_*.inc)
add_custom_command(
  OUTPUT ${bios_dir}/bios_bytes.h
  COMMAND ${CMAKE_ASM_NASM_COMPILER} -f bin -Werror -I${CMAKE_SOURCE_DIR}/vmm/boot/ -o ${bios_dir}/bios.bin ${CMAKE_SOURCE_DIR}/vmm/boot/bios.asm
  COMMAND ${CMAKE_COMMAND} -DINPUT=${bios_dir}/bios.bin -DOUTPUT=${bios_dir}/bios_bytes.h -DNAME=kBiosBytes
          -P ${CMAKE_SOURCE_DIR}/cmake/bytes.cmake
  DEPENDS ${CMAKE_SOURCE_DIR}/vmm/boot/bios.asm ${bios_parts} ${CMAKE_SOURCE_DIR}/cmake/bytes.cmake
  COMMENT "Assembling the BIOS services"
  VERBATIM)
target_sources(rv_boot PRIVATE ${bios_dir}/bios_bytes.h)
target_include_directories(rv_boot SYSTEM PRIVATE ${CMAKE_BINARY_DIR}/generated)
