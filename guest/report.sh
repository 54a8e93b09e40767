# What the work of every VM has in common; sourced by the scripts that do it:
#
#   work-WORK.sh NAME KIND MAGIC CONSOLE_EVERY BUSYBOX_SHA256 [PACE]
#
# Work goes in steps. State is (n, digest); digest 0 is the sha256 of "seed NAME\n", and each next one the sha256 of
# "<digest> <n>\n<block>\n" with the known block. The supervisor computes the same chain by itself, so neither a lost nor a damaged
# byte goes unseen, whatever else a step does. A script does, again and again:
#
#   step_begins; ...; chain_to FILE; ...; chain_from FILE; ...; step_ends       with `fail NOTE` for each check that fails
#
# The report is one line at the start of a page of this VM's own page cache (a file that is only ever overwritten in
# place), which the supervisor finds in the box's memory by its magic. It needs no device, no console and no other VM.
# Two files take turns, so that a machine frozen in the middle of one write still has the other report whole.
name=$1 kind=$2 magic=$3 every=$4 program=$5 pace=${6:-busy}
dir=/run/work

mkdir -p $dir
for i in 0 1; do dd if=/dev/zero of=$dir/report$i bs=4096 count=1 2>/dev/null; done
block=$(cat /etc/ninelives/block)

mkfifo $dir/rest
exec 9<>$dir/rest

# Between two steps the VM rests `rest_times` as long as the step took, within limits in hundredths of a second: so CPUs also fall
# idle and are woken, and the VMs of a box leave a small host, on which a step takes long, something for dom0's tools.
rest_times=2 rest_least=15 rest_most=60
[ "$pace" != light ] || rest_least=40

n=0 errors=0 note=-
digest=$(echo "seed $name" | sha256sum)
digest=${digest%% *}

# Sets `now` to the VM's clock in hundredths of a second, without a process.
clock() {
  read -r now _ </proc/uptime
  now=${now%.*}${now#*.}
  while [ "${now#0}" != "$now" ]; do now=${now#0}; done
  now=${now:-0}
}

# NOTE: a word on what failed. The supervisor counts, the console is for people.
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

step_begins() {
  clock
  begin=$now
  n=$((n + 1))
}

# Writes what the next digest is of.
chain_to() {
  printf '%s %d\n%s\n' "$digest" "$n" "$block" >"$1" || fail write
}

# The next digest is that of this file, which is to hold what `chain_to` wrote. Every other vCPU hashes it at the same time.
chain_from() {
  cpu=1
  while [ $cpu -lt $cpus ]; do
    taskset $(printf %x $((1 << cpu))) sha256sum <"$1" >$dir/sum$cpu &
    cpu=$((cpu + 1))
  done
  sum=$(taskset 1 sha256sum <"$1") || fail sha256sum
  digest=${sum%% *}
  [ ${#digest} -eq 64 ] || fail digest
  [ $cpus -gt 1 ] || return 0
  wait
  for other in $dir/sum*; do
    read -r found _ <"$other"
    [ "$found" = "$digest" ] || fail "${other##*/}"
  done
}
cpus=$(nproc)
if [ "$cpus" -eq 1 ] || [ "$kind" = dom0 ]; then
  # No need of a process that sets its CPU; and dom0's work has been given its own.
  cpus=1
  chain_from() {
    sum=$(sha256sum <"$1") || fail sha256sum
    digest=${sum%% *}
    [ ${#digest} -eq 64 ] || fail digest
  }
fi

step_ends() {
  if [ $((n & 63)) -eq 0 ]; then
    sum=$(sha256sum /bin/busybox)
    [ "${sum%% *}" = "$program" ] || fail program
  fi
  report
  [ $((n % every)) -ne 0 ] || echo "ninelives: $name n=$n errors=$errors"
  clock
  rest=$(( (now - begin) * rest_times ))
  [ $rest -ge $rest_least ] || rest=$rest_least
  [ $rest -le $rest_most ] || rest=$rest_most
  hundredths=$((rest % 100 + 100))
  # Nobody writes into this pipe: a pause without a process.
  read -r -t $((rest / 100)).${hundredths#1} _ <&9
}

report
