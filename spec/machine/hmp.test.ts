import { describe, expect, it } from 'vitest';
import { parseHiddenRegisters, parseHostAddress, parseIoApic, parseLapic, parseRamMap } from '../../src/machine/hmp.js';

const line = (start: number, end: number, rest: string): string =>
  `  ${start.toString(16).padStart(16, '0')}-${(end - 1).toString(16).padStart(16, '0')} (prio 0, ${rest}`;

const GIB = 2 ** 30;

describe('monitor texts', () => {
  it('reads vectors in service and requested, with and without level mark', () => {
    const text =
      'dumping local APIC state for CPU 1 \n\nESR\t 0x00000000\nISR\t 49 251(level) \nIRR\t (none)\n\nAPR 0x00 TPR 0x20\n';
    expect(parseLapic(text, 5)).toEqual({ id: 5, inService: [49, 251], requested: [] });
  });

  it('reads the pins of an I/O interrupt controller', () => {
    const text = [
      'ioapic0: ver=0x20 id=0x00 sel=0x00',
      '  pin 0  0x0000000000010000 dest=0 vec=0   active-hi edge  masked fixed  physical',
      '  pin 4  0x00000000000000f1 dest=0 vec=241 active-hi edge         fixed  physical',
      '  pin 10 0x000000000000a041 dest=3 vec=65  active-lo level        lowest logical',
      '  IRR      10',
      '  Remote IRR 10 ',
      'pic1: irr=00 imr=8e isr=00 hprio=0 irq_base=70 rr_sel=0 elcr=0c fnm=0',
    ].join('\n');
    expect(parseIoApic(text)).toEqual([
      { pin: 0, vector: 0, masked: true, level: false, remoteIrr: false },
      { pin: 4, vector: 241, masked: false, level: false, remoteIrr: false },
      { pin: 10, vector: 65, masked: false, level: true, remoteIrr: true },
    ]);
  });

  it('finds the hole below 4 GiB, and smooths over the small ones below 1 MiB', () => {
    const map = [
      'FlatView #0',
      ' AS "cpu-smm-0", root: memory',
      line(0, GIB, 'ram): ram0'),
      'FlatView #1',
      ' AS "memory", root: system',
      ' Root memory region: system',
      line(0, 0xa0000, 'ram): ram0'),
      line(0xa0000, 0xc0000, 'i/o): vga-lowmem'),
      line(0xc0000, 0x100000, 'rom): ram0 @00000000000c0000'),
      line(0x100000, 3 * GIB, 'ram): ram0 @0000000000100000'),
      line(0xfee00000, 0xfee01000, 'i/o): apic-msi'),
      line(0xfffc0000, 4 * GIB, 'rom): pc.bios'),
      line(4 * GIB, 6 * GIB, 'ram): ram0 @00000000c0000000'),
    ].join('\n');
    expect(parseRamMap(map, 'ram0')).toEqual([
      { start: 0, end: 3 * GIB, offset: 0 },
      { start: 4 * GIB, end: 6 * GIB, offset: 3 * GIB },
    ]);
    expect(parseRamMap(map, 'other')).toEqual([]);
  });

  it('reads what the stub does not show of a CPU', () => {
    const text = [
      'RIP=ffff82d04020a1b2 RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1',
      'TR =e040 ffff83007bd4d040 00000067 00008b00 DPL=0 TSS64-busy',
      'GDT=     ffff83007bd45000 0000efff',
      'IDT=     ffff83007bd51000 00000fff',
    ].join('\n');
    expect(parseHiddenRegisters(text)).toEqual({
      halted: true,
      cpl: 0,
      gdt: { base: 0xffff83007bd45000n, limit: 0xefff },
      idt: { base: 0xffff83007bd51000n, limit: 0xfff },
      tr: { selector: 0xe040, base: 0xffff83007bd4d040n, limit: 0x67 },
    });
    expect(parseHiddenRegisters('unknown command')).toBeUndefined();
  });

  it('reads a host address, or says that there is none', () => {
    expect(parseHostAddress('Host virtual address for 0x1000 (ram0) is 0x7febb0001000')).toBe(0x7febb0001000n);
    expect(parseHostAddress('Memory at address 0xfee00000is not RAM')).toBeUndefined();
  });
});
