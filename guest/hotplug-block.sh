#!/bin/busybox sh
# Called by libxl as `block add|remove` for each disk of a VM, with the path of the backend's node in xenstore in XENBUS_PATH.
# blkback waits for the number of the device, libxl for the word that all is done (Xen 4.17, docs/misc/block-scripts.txt).
export PATH=/bin
case $1 in
  add)
    device=$(xenstore-read "$XENBUS_PATH/params")
    if [ -b "$device" ]; then
      xenstore-write "$XENBUS_PATH/physical-device" "$(stat -L -c %t:%T "$device")" \
        "$XENBUS_PATH/physical-device-path" "$device" "$XENBUS_PATH/hotplug-status" connected
    else
      xenstore-write "$XENBUS_PATH/hotplug-error" "$device is no block device" "$XENBUS_PATH/hotplug-status" error
      exit 1
    fi
    ;;
  remove) ;;
esac
