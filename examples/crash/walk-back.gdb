# From the end of a recorded crash back to the instruction that crashed the kernel, and on to who asked for it. ./run-demo
# makes the recording (workload=crash); by hand, in build/demo:
#
#   ../release/retrovisor debug crash.trace
#   (gdb) source ../../examples/crash/walk-back.gdb
#
# The crash is `echo c > /proc/sysrq-trigger`: the kernel's sysrq_handle_crash calls panic. No address is written down here,
# since the kernel lies elsewhere in each recording. Where something is not as it should be, gdb ends with exit code 3.
set pagination off
set confirm off
set width 0

define must
  if !($arg0)
    echo walk-back.gdb: this should hold here, and does not: $arg0\n
    quit 3
  end
end

echo \n== continue: to the end of the recording\n
continue

echo \n== break panic, reverse-continue: back to where the panic began\n
break panic
reverse-continue
must $pc==(long)&panic
x/s $rdi

echo \n== reverse-stepi: the instruction that crashed the kernel, before it has run\n
reverse-stepi
x/3i $pc
# CALL with a 32-bit displacement: E8, and from behind it so far to the target.
must (*(char*)$pc&0xff)==0xe8&&$pc+5+*(int*)($pc+1)==(long)&panic
must (long)$pc>(long)&sysrq_handle_crash&&(long)$pc<(long)&sysrq_handle_crash+64
pipe monitor regs | head -n 6

echo \n== backtrace: exactly those who called, by the kernel's own unwind tables; the last is the program\n
backtrace

echo \n== break write_sysrq_trigger, reverse-continue: what was written to /proc/sysrq-trigger?\n
delete
break write_sysrq_trigger
reverse-continue
must $pc==(long)&write_sysrq_trigger
x/2xb $rsi

echo \n== watch it, reverse-continue: and who put that there? A program, about to store it\n
delete
watch -location *(char*)$rsi
reverse-continue
must ($cs&3)==3
x/i $pc
monitor position
delete
