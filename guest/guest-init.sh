#!/bin/busybox sh
# Init of an AppVM: nothing but the work, restarted never: work that dies is a VM that is not intact.
/bin/busybox mkdir -p /proc /sys /dev /run /tmp
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev 2>/dev/null
mount -t tmpfs run /run
for word in $(cat /proc/cmdline); do
  case $word in
    ninelives.name=*) name=${word#*=} ;;
    ninelives.kind=*) kind=${word#*=} ;;
    ninelives.work=*) work=${word#*=} ;;
  esac
done
. /etc/ninelives/box.conf
echo "ninelives: $name ($kind, $work) is up"
for module in $MODULES; do insmod /lib/modules/$module.ko || echo "ninelives: $name ERROR module $module"; done
sh /etc/ninelives/work-$work.sh "$name" "$kind" "$MAGIC" "$CONSOLE_EVERY" "$BUSYBOX_SHA256"
echo "ninelives: $name ERROR its work ended with status $?"
while :; do sleep 3600; done
