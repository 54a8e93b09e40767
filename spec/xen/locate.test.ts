import { beforeEach, describe, expect, it } from 'vitest';
import { isNinelivesError } from '../../src/common/errors.js';
import { PAGE_SIZE } from '../../src/x86/address.js';
import type { View } from '../../src/x86/view.js';
import { locateXen } from '../../src/xen/locate.js';
import { FAKE_BUILD, FakeXen } from '../support/fake-xen.js';

let fake: FakeXen;
beforeEach(() => {
  fake = new FakeXen();
});

function errorOf(view: View): { code: string; message: string } {
  try {
    locateXen(view);
  } catch (error) {
    if (isNinelivesError(error)) return { code: error.code, message: error.message };
    throw error;
  }
  throw new Error('it was located');
}

/** A view of the same machine in which a page is another. */
function replacing(frame: number, page: Uint8Array): View {
  return {
    cpuCount: fake.cpuCount,
    physicalSize: fake.physicalSize,
    registers: (cpu) => fake.registers(cpu),
    lapic: (cpu) => fake.lapic(cpu),
    page: (n) => (n === frame ? page : fake.page(n)),
    glance: (n) => (n === frame ? page : fake.page(n)),
  };
}

function notePage(): { frame: number; page: Uint8Array; at: number } {
  const note = fake.symbol('__note_gnu_build_id_start');
  const address = fake.xen().memory.physicalAddress(note);
  const frame = Math.floor(address / PAGE_SIZE);
  return { frame, page: Uint8Array.from(fake.page(frame)!), at: address % PAGE_SIZE };
}

describe('locateXen', () => {
  it('finds a Xen by the build-id in its memory and takes the profile of that build', () => {
    const xen = locateXen(fake);
    expect(xen.profile.buildId).toBe(FAKE_BUILD);
    expect(xen.memory.u64(xen.symbol('max_page'))).toBe(BigInt(fake.physicalSize / PAGE_SIZE));
  });

  it('takes the live image and not a copy that the boot loader left behind at a lower address', () => {
    const { frame, page } = notePage();
    const copyFrame = frame - (2 * 1024 * 1024) / PAGE_SIZE;
    fake.memory.write(copyFrame * PAGE_SIZE, page);
    const xen = locateXen(fake);
    expect(Math.floor(xen.memory.physicalAddress(fake.symbol('__note_gnu_build_id_start')) / PAGE_SIZE)).toBe(frame);
  });

  it('says which build-ids it found when there is no profile for any', () => {
    const { frame, page, at } = notePage();
    page.fill(0xab, at + 16, at + 36);
    const { code, message } = errorOf(replacing(frame, page));
    expect(code).toBe('NL_PROFILE_UNKNOWN');
    expect(message).toContain('ab'.repeat(20));
    expect(message).toContain(FAKE_BUILD);
  });

  it('says that there is no Xen where nothing carries a build-id', () => {
    const { frame } = notePage();
    expect(errorOf(replacing(frame, new Uint8Array(PAGE_SIZE))).code).toBe('NL_XEN_NOT_FOUND');
  });

  const broken: [what: string, breakIt: () => void, says: RegExp][] = [
    ['an idle vCPU is missing', () => fake.put(fake.symbol('idle_vcpu') + 8n, 8, 0), /idle_vcpu\[1\]/],
    ['an idle vCPU has another number', () => fake.set('vcpu', fake.idle[1]!.address, 'vcpu_id', 7), /number 7/],
    [
      'the idle domain has another id',
      () => fake.set('domain', fake.idle[0]!.domain, 'domain_id', 3),
      /idle domain has another id/,
    ],
    ['a stack is another CPU’s', () => fake.set('cpu_info', fake.frame(1), 'processor_id', 0), /stack of CPU 1/],
    ['a stack is not aligned', () => fake.put(fake.symbol('stack_base'), 8, fake.frame(0) & ~0xfffn), /CPU 0/],
    ['a per-CPU area differs', () => fake.set('cpu_info', fake.frame(0), 'per_cpu_offset', 64), /per-CPU area/],
    [
      'a CPU is scheduled by another',
      () => fake.set('sched_resource', fake.resources[1]!, 'master_cpu', 0),
      /CPU 1 is scheduled/,
    ],
    ['there is no domain', () => fake.put(fake.symbol('domain_list'), 8, 0), /no domain/],
    ['the first domain is not dom0', () => fake.set('domain', fake.dom0.domain, 'domain_id', 9), /not dom0/],
  ];
  it.each(broken)('refuses a profile that does not fit: %s', (_, breakIt, says) => {
    breakIt();
    const { code, message } = errorOf(fake);
    expect(code).toBe('NL_PROFILE_MISMATCH');
    expect(message).toMatch(says);
  });
});
