#!/bin/busybox sh
# Init of PrivVM (dom0): Xen's tools, the AppVMs, the agent on the second serial port, and work of its own.
/bin/busybox mkdir -p /proc /sys /dev /run /tmp /var/log/xen/console /var/lib/xen /var/run/xen /run/xen
/bin/busybox --install -s /bin
export PATH=/bin:/usr/sbin:/usr/lib/xen-4.17/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mount -t tmpfs run /run
mkdir -p /run/xen /run/lock /dev/pts
mount -t devpts devpts /dev/pts
rm -rf /var/run && ln -s /run /var/run
. /etc/ninelives/box.conf

say() { echo "ninelives: dom0 $*"; }
up() { read -r seconds _ </proc/uptime; say "$* at ${seconds}s"; }

up 'kernel is up'
# The tools talk to xenstored in some hundred short questions, each of which wakes the other side. On one CPU that is a switch, across
# two emulated ones an interrupt through Xen to a CPU that its host may have put to sleep: xl create took three times as long. So all of
# them share the first CPU, and the work of dom0's own has the other.
tools='taskset 1' works=
[ -e /sys/devices/system/cpu/cpu1 ] && works='taskset 2'

setsid $works sh /etc/ninelives/work-files.sh dom0 dom0 "$MAGIC" "$CONSOLE_EVERY" "$BUSYBOX_SHA256" "$DOM0_PACE" </dev/null &
for module in $MODULES; do insmod /lib/modules/$module.ko || say "ERROR module $module"; done
[ ! -e /etc/ninelives/dom0-net.sh ] || sh /etc/ninelives/dom0-net.sh
mount -t xenfs xenfs /proc/xen
setsid $tools sh /etc/ninelives/agent.sh /dev/ttyS1 &

$tools xenstored --pid-file /run/xen/xenstored.pid || say 'ERROR xenstored'
tries=0
until xenstore-read / >/dev/null 2>&1 || [ $tries -ge 50 ]; do tries=$((tries + 1)); sleep 0.1; done
xen-init-dom0 >/dev/null || say 'ERROR xen-init-dom0'
$tools xenconsoled --log=guest --log-dir=/var/log/xen/console --pid-file=/run/xen/xenconsoled.pid || say 'ERROR xenconsoled'
# The kernel's side of XenStore, which answers for the backends of disks, belongs to the tools.
for thread in xenwatch xenbus; do $tools taskset -p 1 $(pidof $thread); done >/dev/null
# xl makes a UUID for each VM, and libuuid sleeps up to a second, several times, for a kernel that has no random numbers yet. Whoever
# reads /dev/random has the kernel gather some at once.
head -c 1 /dev/random >/dev/null
up 'toolstack is up'

for config in /etc/ninelives/vms/*.cfg; do
  [ -e "$config" ] || continue
  ($tools xl create -q "$config" || say "ERROR xl create $config"; up "created ${config##*/}") &
done
# What the AppVMs say goes on to Xen's console, for people, and to be there when dom0 is not. The verdict does not depend on it.
relay_consoles() {
  for config in /etc/ninelives/vms/*.cfg; do
    name=${config##*/}
    touch /var/log/xen/console/guest-${name%.cfg}.log
  done
  tail -F -n +1 /var/log/xen/console/guest-*.log 2>/dev/null
}
relay_consoles | while read -r line; do
  case $line in
    '') ;;
    '==> '*) vm=${line##*/guest-} vm=${vm%.log*} ;;
    ninelives:*) echo "$line" ;;
    *) echo "$vm says: $line" ;;
  esac
done &
while :; do wait; sleep 60; done
