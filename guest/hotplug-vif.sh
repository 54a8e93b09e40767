#!/bin/busybox sh
# Puts an AppVM's backend interface on the bridge. libxl calls it with "online" or "offline" when the interface has come or is to
# go, and gives in the environment the interface's name (vif) and its place in xenstore (XENBUS_PATH): xl-network-configuration(5).
export PATH=/bin
case $1 in
  online)
    echo 1 >/proc/sys/net/ipv6/conf/$vif/disable_ipv6
    if ip link set "$vif" up && brctl addif xenbr0 "$vif"; then
      # netback connects to the frontend only after this.
      xenstore-write "$XENBUS_PATH/hotplug-status" connected
    else
      xenstore-write "$XENBUS_PATH/hotplug-error" 'cannot be put on the bridge' "$XENBUS_PATH/hotplug-status" error
    fi
    ;;
  offline)
    brctl delif xenbr0 "$vif" 2>/dev/null
    ip link set "$vif" down 2>/dev/null
    ;;
esac
exit 0
