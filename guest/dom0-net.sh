#!/bin/sh
# dom0's network: a bridge between the emulated card, behind which the supervisor sits, and the AppVMs' interfaces. dom0 has no
# address of its own: it only passes frames on, as the backend of a real host does. `hotplug-vif.sh` adds the AppVMs.

# Nothing but the pings is to be on the wire.
echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6
brctl addbr xenbr0
# A new port forwards at once: there is no second way that could make a loop.
echo 0 >/sys/class/net/xenbr0/bridge/forward_delay
echo 0 >/sys/class/net/xenbr0/bridge/multicast_snooping
ip link set eth0 up && brctl addif xenbr0 eth0 && ip link set xenbr0 up || echo 'ninelives: dom0 ERROR no network card'
