#!/bin/sh
# Work on small files, with processes, files and pages made on the way. One step:
#   1. write the known block into a file on tmpfs,
#   2. in every other step, copy that file with a process of its own,
#   3. hash the file or its copy, by another process.
# Beside that the VM checks itself: each exit status, every 8 steps the copy byte for byte.
. /etc/ninelives/report.sh

while :; do
  step_begins
  chain_to $dir/out
  hashed=$dir/out
  if [ $((n & 1)) -eq 0 ]; then
    hashed=$dir/in
    cp $dir/out $dir/in || fail copy
  fi
  chain_from $hashed
  [ $((n & 7)) -ne 0 ] || cmp -s $dir/out $dir/in || fail compare
  step_ends
done
