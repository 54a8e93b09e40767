import { beforeEach, describe, expect, it } from 'vitest';
import type { Failure } from '../../src/detect/failure.js';
import { classifyStop, failurePoints } from '../../src/detect/failure-points.js';
import { FakeXen } from '../support/fake-xen.js';

let fake: FakeXen;
beforeEach(() => {
  fake = new FakeXen();
});

/** CPU 0 stands at the first instruction of a function that `caller` called, with a frame of registers as argument. */
function stopAt(
  symbol: string,
  caller: string,
  frame: Readonly<Record<string, bigint | number>> = {},
): Failure | undefined {
  fake.enterXen(0, symbol, 0x300);
  const regs = fake.frame(0) - 0x200n;
  for (const [field, value] of Object.entries(frame)) fake.set('cpu_user_regs', regs, field, value);
  fake.registers(0).rdi = regs;
  fake.put(fake.registers(0).rsp, 8, fake.symbol(caller) + 0x20n);
  return classifyStop(fake.xen(), 0, 42);
}

describe('classifyStop', () => {
  it('takes a page fault in Xen for a failure and says where', () => {
    const failure = stopAt('show_execution_state', 'do_page_fault', {
      rip: fake.symbol('do_sched_op') + 4n,
      entry_vector: 14,
    });
    expect(failure).toEqual({
      kind: 'fatal-trap',
      cpu: 0,
      at: 'do_sched_op+0x4',
      summary: 'page fault in Xen at do_sched_op+0x4',
      detectedAtMs: 42,
    });
  });

  it('takes a BUG for one', () => {
    const failure = stopAt('show_execution_state', 'do_invalid_op', {
      rip: fake.symbol('vcpu_wake') + 9n,
      entry_vector: 6,
    });
    expect(failure).toMatchObject({ kind: 'bug', at: 'vcpu_wake+0x9' });
  });

  it('lets a WARN go on: its place is in Xen’s own table of them', () => {
    const place = fake.symbol('vcpu_wake') + 9n;
    const entry = fake.symbol('__stop_bug_frames_0') + 8n;
    fake.put(entry, 4, Number(place - entry) & 0xff_ffff);
    expect(stopAt('show_execution_state', 'do_invalid_op', { rip: place, entry_vector: 6 })).toBeUndefined();
    expect(stopAt('show_execution_state', 'do_invalid_op', { rip: place + 2n, entry_vector: 6 })).toMatchObject({
      kind: 'bug',
    });
  });

  it('lets a dump go on that was asked for', () => {
    expect(stopAt('show_execution_state', 'vcpu_wake')).toBeUndefined();
  });

  it.each([
    ['panic', 'panic'],
    ['fatal_trap', 'fatal-trap'],
    ['do_double_fault', 'double-fault'],
    ['machine_halt', 'halt'],
  ])('knows a stop at %s', (symbol, kind) => {
    expect(stopAt(symbol, 'vcpu_wake')).toMatchObject({ kind, cpu: 0 });
  });

  describe('of the halt of the machine', () => {
    /** Return addresses in these functions, one above the other, over that of `machine_halt`. */
    function haltBelow(...callers: string[]): Failure | undefined {
      fake.enterXen(0, 'machine_halt', 0x300);
      for (const [n, caller] of callers.entries()) {
        const returns = fake.symbol(caller) + 0x20n;
        fake.putBytes(returns - 5n, [0xe8, 0, 0, 0, 0]);
        fake.put(fake.registers(0).rsp + BigInt(8 * n), 8, returns);
      }
      return classifyStop(fake.xen(), 0, 42);
    }

    it('does not blame Xen where dom0 switches itself off', () => {
      expect(haltBelow('hwdom_shutdown', 'domain_shutdown', 'do_sched_op')).toBeUndefined();
    });

    it('blames Xen where dom0 did not ask for it', () => {
      const summary = 'Xen halts the machine for dom0, which did not ask for it';
      expect(haltBelow('hwdom_shutdown', 'domain_shutdown', 'asm_domain_crash_synchronous')).toEqual({
        kind: 'halt',
        cpu: 0,
        domain: 0,
        summary,
        detectedAtMs: 42,
      });
    });
  });

  it('sees a domain that Xen is about to crash', () => {
    expect(stopAt('show_execution_state', '__domain_crash')).toEqual({
      kind: 'domain-crash',
      cpu: 0,
      domain: 0,
      summary: 'Xen crashes d0',
      detectedAtMs: 42,
    });
  });

  it('sees nothing in a stop anywhere else', () => {
    expect(stopAt('vcpu_wake', 'do_page_fault')).toBeUndefined();
  });

  it('recognises every place that it has breakpoints set on', () => {
    for (const address of failurePoints(fake.xen())) {
      const { name } = fake.profile.resolve(address)!;
      expect(stopAt(name, 'do_page_fault', { rip: 0n, entry_vector: 14 }), name).toBeDefined();
    }
  });
});
