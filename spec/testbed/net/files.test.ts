import { describe, expect, it } from 'vitest';
import { qemuArguments } from '../../../src/machine/spec.js';
import { machineSpecOf } from '../../../src/testbed/box.js';
import type { BoxFiles } from '../../../src/testbed/images.js';
import { guestStation } from '../../../src/testbed/net/addresses.js';
import { neighboursOf, netKernelWords, vifLines } from '../../../src/testbed/net/files.js';
import { setupSpec } from '../../../src/testbed/setups.js';
import { DEFAULT_BOX } from '../../../src/testbed/spec.js';
import { guestConfig } from '../../../src/testbed/vm-config.js';

const files: BoxFiles = {
  xen: '/xen',
  xenSymbols: '/syms',
  xenVersion: '4.17',
  kernel: '/linux',
  initramfs: '/dom0',
  hash: 'hash',
  magic: 'magic',
};
const withNet = setupSpec('3appvm', { guests: 'pv' });

describe('the network of a box', () => {
  it('is there only where a VM answers on it', () => {
    expect(neighboursOf(DEFAULT_BOX)).toEqual([]);
    const plain = machineSpecOf(DEFAULT_BOX, files);
    expect(plain.networks).toBeUndefined();
    expect(plain.args.join(' ')).not.toContain('e1000');
    expect(guestConfig(DEFAULT_BOX.guests[0]!, DEFAULT_BOX)).not.toContain('vif');
  });

  it('is a card of the machine with a socket in its folder', () => {
    const line = qemuArguments(machineSpecOf(withNet, files), '/run/box', '/ram', 'reset').join(' ');
    expect(line).toContain('-netdev stream,id=outside,server=on,addr.type=unix,addr.path=/run/box/outside.sock');
    expect(line).toContain('-device e1000,netdev=outside,mac=02:9e:00:00:00:02');
  });

  it('gives a VM with NetBench an address by its place, and an interface', () => {
    expect(neighboursOf(withNet)).toEqual([{ name: 'app2', station: guestStation(1) }]);
    expect(netKernelWords(withNet, 'app2')).toBe(' ninelives.address=10.9.0.17/24');
    expect(netKernelWords(withNet, 'app1')).toBe('');
    expect(vifLines(withNet, 'app2')).toEqual(['vif=["mac=00:16:3e:09:00:11,bridge=xenbr0"]']);
    expect(guestConfig(withNet.guests[1]!, withNet)).toContain('10.9.0.17/24');
  });

  it('has an address of its own for each place', () => {
    const all = Array.from({ length: 100 }, (_, i) => guestStation(i));
    expect(new Set(all.map(({ mac }) => mac)).size).toBe(100);
    expect(new Set(all.map(({ ip }) => ip)).size).toBe(100);
    for (const { mac } of all) expect(mac).toMatch(/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/);
  });
});
