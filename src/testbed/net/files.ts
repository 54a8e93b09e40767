/** What the images of a box with NetBench have beside those of any other. */
import type { CpioEntry } from '../cpio.js';
import type { Neighbour } from '../outside-host.js';
import type { BoxSpec } from '../spec.js';
import { ECHO_PORT, guestStation, PREFIX_LENGTH } from './addresses.js';
import { echoProgram } from './echo-program.js';

/** Modules of dom0 for its network, in the order in which they can be loaded; `dom0-net.sh` loads them. */
export const DOM0_NET_MODULES = ['llc', 'stp', 'bridge', 'e1000', 'xen-netback'] as const;
/** Of a guest with work `netbench`; `work-netbench.sh` loads it. */
export const GUEST_NET_MODULES = ['xen-netfront'] as const;
/** Where the modules are in Debian's kernel package, below its `kernel` folder. */
export const NET_MODULE_FOLDERS = [
  'net/llc',
  'net/802',
  'net/bridge',
  'drivers/net',
  'drivers/net/xen-netback',
  'drivers/net/ethernet/intel/e1000',
] as const;

/** The VMs that answer a sender outside the box. */
export function neighboursOf({ guests }: Pick<BoxSpec, 'guests'>): Neighbour[] {
  return guests.flatMap(({ name, work }, i) => (work === 'netbench' ? [{ name, station: guestStation(i) }] : []));
}

/** The echo service, in the guests' image. */
export const echoFile = (): CpioEntry => ({
  kind: 'file',
  path: 'bin/udp-echo',
  data: echoProgram(ECHO_PORT),
  executable: true,
});

/** What `work-netbench.sh` reads of the guest's kernel command line; nothing for other guests. */
export const netKernelWords = (neighbour: Neighbour | undefined): string =>
  neighbour === undefined ? '' : ` ninelives.address=${neighbour.station.ip}/${PREFIX_LENGTH}`;

/** Lines for the guest's xl configuration; none for other guests. */
export const vifLines = (neighbour: Neighbour | undefined): string[] =>
  neighbour === undefined ? [] : [`vif=["mac=${neighbour.station.mac},bridge=xenbr0,script=/etc/ninelives/vif.sh"]`];
