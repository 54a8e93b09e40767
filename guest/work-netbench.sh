#!/bin/sh
# NetBench's part in an AppVM: an echo service for UDP behind netfront, for the sender outside the box. Beside that the ordinary
# work at a light pace, so that the VM's life is seen in its memory too.
#
# Takes the arguments of `work-files.sh`; address and prefix length are on the kernel's command line.
for word in $(cat /proc/cmdline); do
  case $word in
    ninelives.address=*) address=${word#*=} ;;
  esac
done

answer_pings() {
  # A socket holds 208 KiB by default, and netfront counts a whole page for each small packet: some 40 of them. A guest whose CPU
  # the host did not run for half a second gets more than that at once, and would drop the rest.
  echo 8388608 >/proc/sys/net/core/rmem_default
  # Nothing but the pings is to be on the wire.
  echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6
  tries=0
  until [ -e /proc/sys/net/ipv4/conf/eth0 ] || [ $tries -ge 100 ]; do tries=$((tries + 1)); sleep 0.1; done
  ip addr add "$address" dev eth0 && ip link set eth0 up || echo "ninelives: $1 ERROR no network interface"
  while :; do
    /bin/udp-echo
    echo "ninelives: $1 ERROR its echo service ended with status $?"
    sleep 1
  done
}

answer_pings "$1" </dev/null &
set -- "$1" "$2" "$3" "$4" "$5" light
. /etc/ninelives/work-files.sh
