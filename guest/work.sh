#!/bin/sh
# The verifiable work of one VM: a checksum chain over file contents, with processes, files and pages made on the way.
#
#   work.sh NAME KIND MAGIC CONSOLE_EVERY BUSYBOX_SHA256
#
# State is (n, digest); digest 0 is the sha256 of "seed NAME\n". One step:
#   1. write "<digest> <n>\n" and the known block into a file on tmpfs,
#   2. in every other step, copy that file with a process of its own,
#   3. the next digest is the sha256 of the file or its copy, by another process.
# The supervisor computes the same chain by itself, so neither a lost nor a damaged byte goes unseen. Beside that the VM checks
# itself: each exit status, every 8 steps the copy byte for byte, every 64 steps the program that does all this.
#
# Between two steps the VM rests twice as long as the step took, within limits: so CPUs also fall idle and are woken, and the VMs of
# a box leave a small host, on which a step takes long, something for dom0's tools.
#
# The report is one line at the start of a page of this VM's own page cache (a file that is only ever overwritten in
# place), which the supervisor finds in the box's memory by its magic. It needs no device, no console and no other VM.
# Two files take turns, so that a machine frozen in the middle of one write still has the other report whole.
name=$1 kind=$2 magic=$3 every=$4 program=$5
dir=/run/work

mkdir -p $dir
for i in 0 1; do dd if=/dev/zero of=$dir/report$i bs=4096 count=1 2>/dev/null; done
block=$(cat /etc/ninelives/block)

mkfifo $dir/rest
exec 9<>$dir/rest

# Sets `now` to the VM's clock in hundredths of a second, without a process.
clock() {
  read -r now _ </proc/uptime
  now=${now%.*}${now#*.}
  while [ "${now#0}" != "$now" ]; do now=${now#0}; done
  now=${now:-0}
}

n=0 errors=0 note=-
digest=$(echo "seed $name" | sha256sum)
digest=${digest%% *}

fail() {
  errors=$((errors + 1))
  note=$1
  echo "ninelives: $name ERROR at step $n: $1" >/dev/console
}

report() {
  # "end" repeats n: a line that was cut off by the freeze does not carry it.
  printf '%s %s %s n=%d digest=%s errors=%d note=%s end=%d\n' "$magic" "$name" "$kind" "$n" "$digest" "$errors" "$note" "$n" \
    1<>$dir/report$((n & 1))
}

report
while :; do
  clock
  begin=$now
  n=$((n + 1))
  printf '%s %d\n%s\n' "$digest" "$n" "$block" >$dir/out || fail write
  hashed=$dir/out
  if [ $((n & 1)) -eq 0 ]; then
    hashed=$dir/in
    cp $dir/out $dir/in || fail copy
  fi
  sum=$(sha256sum <$hashed) || fail sha256sum
  digest=${sum%% *}
  [ ${#digest} -eq 64 ] || fail digest
  [ $((n & 7)) -ne 0 ] || cmp -s $dir/out $dir/in || fail compare
  if [ $((n & 63)) -eq 0 ]; then
    sum=$(sha256sum /bin/busybox)
    [ "${sum%% *}" = "$program" ] || fail program
  fi
  report
  [ $((n % every)) -ne 0 ] || echo "ninelives: $name n=$n errors=$errors"
  clock
  rest=$(( (now - begin) * 2 ))
  [ $rest -ge 15 ] || rest=15
  [ $rest -le 60 ] || rest=60
  hundredths=$((rest % 100 + 100))
  # Nobody writes into this pipe: a pause without a process.
  read -r -t $((rest / 100)).${hundredths#1} _ <&9
done
