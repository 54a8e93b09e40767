#!/bin/sh
# BlkBench: creates, copies, reads, writes and removes files of random content, 1 MB large, on the VM's own disk (blkfront here,
# blkback and a RAM disk in dom0), with the VM's caching off: whole files by direct I/O, small ones synced and dropped from the cache.
# Each file is compared with a golden copy in the VM's memory. One step does a quarter of a round, so that life shows at short
# intervals, and takes the step's text for the chain to the disk and back.
. /etc/ninelives/report.sh

# A load, not only a sign of life: it rests less than other work.
rest_times=1 rest_least=5 rest_most=30

disk=/run/disk
golden=$dir/golden

mke2fs -F -b 4096 /dev/xvda >/dev/null 2>&1 || fail mke2fs
mkdir -p $disk
mount -t ext4 -o noatime /dev/xvda $disk || fail mount

# File to file, past the cache. Sizes are whole megabytes, so that direct I/O has no remainder.
to_disk() { dd if="$1" of="$2" bs=256k oflag=direct 2>/dev/null; }
from_disk() { dd if="$1" of="$2" bs=256k iflag=direct 2>/dev/null; }
on_disk() { dd if="$1" of="$2" bs=256k iflag=direct oflag=direct 2>/dev/null; }
is_golden() { cmp -s "$golden" "$1"; }

# Another file of random content for each round of writing, of which the golden copy stays in memory.
fresh_content() { dd if=/dev/urandom of=$golden bs=1M count=1 iflag=fullblock 2>/dev/null; }

fresh_content || fail urandom

while :; do
  step_begins
  case $((n & 3)) in
    1) to_disk $golden $disk/created || fail create ;;
    2) on_disk $disk/created $disk/copy || fail copy ;;
    3)
      from_disk $disk/copy $dir/read || fail read
      is_golden $dir/read || fail compare
      ;;
    0)
      rm $disk/created $disk/copy || fail remove
      fresh_content || fail urandom
      ;;
  esac
  chain_to $dir/text
  dd if=$dir/text of=$disk/text conv=fsync 2>/dev/null || fail sync
  echo 1 >/proc/sys/vm/drop_caches
  chain_from $disk/text
  step_ends
done
