# From the oops back to the store that caused it. build.sh and record.sh come first; then
#
#   retrovisor debug stray-write.trace -- -batch -x symbols.gdb -x find-the-writer.gdb
#
# as find.sh does. Nothing in here knows an address: each comes from the recorded crash.
set pagination off
set width 0

echo \n== the end of the recording\n
continue

echo \n== back to the fault: the last page fault (exception 14) before the panic\n
monitor break-on exception 14
reverse-continue
monitor break-on off
monitor position
x/i $pc
info symbol $pc
print/x $rax
print listener
print *listener

echo \n== listener->ops is no pointer; who wrote it?\n
watch -location listener->ops
reverse-continue

echo \n== the store\n
monitor position
x/i $pc
info symbol $pc
print meter
backtrace 2

echo \n== and whose memory is that? Back to where the meter was closed\n
delete
break meter_close
reverse-continue
monitor position
print calibration.meter
print calibration.meter->name
