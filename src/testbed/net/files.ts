/** What a box with NetBench has beside what any other has. */
import type { Neighbour } from '../outside-host.js';
import type { BoxSpec } from '../spec.js';
import { CARD_MAC, guestStation, PREFIX_LENGTH } from './addresses.js';

/** Modules of dom0's kernel for its bridge, the emulated card and the backend, in the order in which they can be loaded. */
export const DOM0_NET_MODULES = ['llc', 'stp', 'bridge', 'e1000', 'xen-netback'] as const;

/** Name of QEMU's network backend, and so of its socket. */
export const CABLE = 'outside';

type Networked = Pick<BoxSpec, 'guests'>;

/** The VMs that answer a sender outside the box. */
export function neighboursOf({ guests }: Networked): Neighbour[] {
  return guests.flatMap(({ name, work }, i) => (work === 'netbench' ? [{ name, station: guestStation(i) }] : []));
}

/** What the kernel of VM `name` is told of its network (`work-netbench.sh` reads it); nothing where it has none. */
export function netKernelWords(spec: Networked, name: string): string {
  const station = stationOf(spec, name);
  return station === undefined ? '' : ` ninelives.address=${station.ip}/${PREFIX_LENGTH}`;
}

/** Lines for the xl configuration of VM `name`; none where it has no network. The hotplug script is `guest/hotplug-vif.sh`. */
export function vifLines(spec: Networked, name: string): string[] {
  const station = stationOf(spec, name);
  return station === undefined ? [] : [`vif=["mac=${station.mac},bridge=xenbr0"]`];
}

/** QEMU's options for the card, and the cable in it; none for a box in which nobody answers. */
export function cardOf(spec: Networked): { args: string[]; networks?: string[] } {
  if (neighboursOf(spec).length === 0) return { args: [] };
  return { args: ['-device', `e1000,netdev=${CABLE},mac=${CARD_MAC}`], networks: [CABLE] };
}

const stationOf = (spec: Networked, name: string): Neighbour['station'] | undefined =>
  neighboursOf(spec).find((neighbour) => neighbour.name === name)?.station;
