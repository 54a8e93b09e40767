#!/bin/sh
# A load like the part of UnixBench that NiLiHype's evaluation took: hypercalls, and virtual memory above all. Debian's stress-ng
# does it, one short round of one stressor after the other with verification on, and as many processes as there are vCPUs. A
# status other than 0 is an error: a call that failed, a wrong content, a process that died.
. /etc/ninelives/report.sh

# A load, not only a sign of life: it rests less than other work.
rest_times=1 rest_least=5 rest_most=30

# Stressors, each with operations for a round of some tenths of a second on an emulated CPU:
#   vm, mmap, mremap: pages mapped, filled with patterns, read back, unmapped: page tables, TLB flushes
#   fork, vfork: address spaces made and pinned, copied, torn down
#   switch, pipe, futex: processes that wake each other: scheduling, timers, event channels
#   sigsegv, fault: exceptions, which Xen hands on to a PV guest
rounds='
vm 2 --vm-bytes 1m --vm-populate
switch 20
mmap 1 --mmap-bytes 1m
fork 2
pipe 50
fault 10
mremap 2 --mremap-bytes 1m
sigsegv 10
futex 20
vfork 3
'

while :; do
  echo "$rounds" >$dir/rounds
  while read -r stressor ops options; do
    [ -n "$stressor" ] || continue
    step_begins
    chain_to $dir/out
    stress-ng --quiet --verify --no-madvise --temp-path $dir --$stressor $cpus --$stressor-ops $ops $options >$dir/said 2>&1 </dev/null ||
      fail "$stressor-$?"
    chain_from $dir/out
    step_ends
  done <$dir/rounds
done
