#!/bin/busybox sh
# libxl calls this as `block add|remove` for each disk of a VM, with the path of the backend's node in XenStore in XENBUS_PATH.
# blkback waits for the number of the device, libxl for the word that all is done (Xen 4.17, docs/misc/block-scripts.txt).
# Every process that is made here is a good part of the time that the creation of a VM takes.
export PATH=/bin
[ "$1" = add ] || exit 0
device=$(xenstore-read "$XENBUS_PATH/params")
if IFS=: read -r major minor 2>/dev/null <"/sys/class/block/${device##*/}/dev"; then
  exec xenstore-write "$XENBUS_PATH/physical-device" "$(printf %x:%x "$major" "$minor")" \
    "$XENBUS_PATH/physical-device-path" "$device" "$XENBUS_PATH/hotplug-status" connected
fi
xenstore-write "$XENBUS_PATH/hotplug-error" "$device is no block device" "$XENBUS_PATH/hotplug-status" error
exit 1
