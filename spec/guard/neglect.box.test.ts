/** A hypervisor that goes on and does not do its work is seen, and brought back: on a real box, and its VMs live. */
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import type { Guard } from '../../src/guard/guard.js';
import type { Target } from '../../src/guard/target.js';
import type { Box } from '../../src/testbed/box.js';
import { ACK_TYPE, guestLines, lineOf, pendingEois, pirqsOf } from '../../src/xen/interrupts.js';
import type { XenObject } from '../../src/xen/object.js';
import type { Xen } from '../../src/xen/xen.js';
import { lostVms, pin, sampleOf, useGuardedBox } from '../support/live-box.js';

const DETECTION_MS = 20_000;
const TRIES = 500;

let box: Box;
let target: Target;
let guard: Guard;
useGuardedBox(
  (...given) => {
    [box, target, guard] = given;
  },
  // What the damaged code does is to be seen, not the damage.
  () => ({ text: 'ignore' }),
);

/** Puts other code over the beginning of a function of Xen's. */
function change(name: string, code: readonly number[]): Promise<void> {
  const { memory } = target.xen;
  return box.machine.writePhysicalStub(memory.physicalAddress(target.xen.symbol(name)), Uint8Array.from(code));
}

/** Puts another byte into an instruction of a function of Xen's. */
function changeByte(name: string, instruction: readonly number[], at: number, byte: number): Promise<void> {
  const { memory } = target.xen;
  const code = Buffer.from(memory.bytes(target.xen.symbol(name), 512));
  const found = code.indexOf(Buffer.from(instruction));
  if (found < 0) throw new Error(`${name} has no such instruction`);
  const address = memory.physicalAddress(target.xen.symbol(name) + BigInt(found + at));
  return box.machine.writePhysicalStub(address, Uint8Array.of(byte));
}

/** Runs the machine until a CPU has had an interrupt of the highest class in service for ten looks, and leaves it frozen. */
async function runUntilDeaf(): Promise<void> {
  const looks = new Map<number, number>();
  for (let n = 0; n < TRIES; n++) {
    await box.machine.resume();
    await sleep(10);
    await box.machine.freeze();
    for (const [cpu, { inService }] of (await box.machine.lapics()).entries())
      looks.set(cpu, inService.some((vector) => vector >= 0xf0) ? (looks.get(cpu) ?? 0) + 1 : 0);
    if ([...looks.values()].some((count) => count >= 10)) return;
  }
  throw new Error('no CPU went deaf');
}

/** Interrupts that guests have in their hands, with the counts of their lines. */
const allNotes = (xen: Xen) =>
  Array.from({ length: xen.cpuCount }, (_, cpu) => pendingEois(xen, cpu))
    .flat()
    .map(({ irq }) => ({ irq, counted: lineOf(xen, irq)!.num('rl_cnt') }));

/** Has a guest be given an interrupt, and Xen forget that it is to acknowledge it: the guest's request finds nothing to do. */
async function loseAcknowledgement() {
  const { machine } = box;
  const line = [...guestLines(target.xen)].find(({ action }) => action.num('ack_type') === ACK_TYPE.eoi)!;
  const vector = line.line.num('arch.vector');
  const { id } = target.xen.view.lapic(0);
  for (let n = 0; n < TRIES; n++) {
    await machine.writePhysicalStub(0xfee0_0000 + (id << 12), Uint8Array.of(vector, 0, 0, 0));
    await machine.resume();
    await machine.freeze();
    const xen = target.at(await machine.capture());
    const note = allNotes(xen).find(({ irq }) => irq === line.irq);
    // Its mark is taken first when the guest acknowledges.
    if (note === undefined || !pirqsOf(xen, line).some((pirq) => pirq.bool('masked'))) continue;
    const clear = (object: XenObject, field: string): void =>
      machine.ram.write(xen.memory.physicalAddress(object.at(field)), Uint8Array.of(0));
    clear(line.action, 'in_flight');
    for (const pirq of pirqsOf(xen, line)) clear(pirq, 'masked');
    return note;
  }
  throw new Error('no interrupt was in a guest’s hands');
}

/** That the guard sees a hang, that one recovery is enough, and that it loses no VM. @param quietMs how long nothing must fail after it */
async function expectRecovered(before: ReturnType<typeof sampleOf>, { quietMs = 3000 } = {}): Promise<void> {
  const recovery = await guard.nextRecovery(DETECTION_MS);
  expect(recovery).toMatchObject({ result: 'resumed', failure: { kind: 'hang' } });
  expect(await guard.nextRecovery(quietMs)).toBeUndefined();
  expect(await lostVms(box, before)).toEqual([]);
}

describe('the VMs of a hypervisor', () => {
  it('live when wake-ups were lost and CPUs slept', async () => {
    const before = sampleOf(box);
    // ret
    await change('csched2_unit_wake', [0xc3]);
    const recovery = await guard.nextRecovery(DETECTION_MS);
    const failure = { kind: 'hang', summary: expect.stringContaining('a vCPU that could run') as string };
    expect(recovery).toMatchObject({ result: 'resumed', failure });
    expect(await guard.nextRecovery(1000)).toBeUndefined();
    expect(await lostVms(box, before)).toEqual([]);
  });

  it('live when CPUs ran nobody, and their vCPUs passed for running', async () => {
    const before = sampleOf(box);
    // mov 0x108(%rsi),%eax becomes mov 0x10c(%rsi),%eax: none of a unit's vCPUs is found to be one that can run.
    await changeByte('schedule', [0x8b, 0x86, 0x08, 0x01, 0x00, 0x00], 2, 0x0c);
    await expectRecovered(before);
  });

  it('live when CPUs did nothing but softirqs that raise themselves', async () => {
    const before = sampleOf(box);
    // mov $1, %al; ret
    await change('rcu_pending', [0xb0, 1, 0xc3]);
    await expectRecovered(before, { quietMs: 1000 });
  });

  it('live when an interrupt stayed in a guest’s hands', async () => {
    const before = sampleOf(box);
    const line = await loseAcknowledgement();
    const recovery = await guard.nextRecovery(DETECTION_MS);
    const failure = { kind: 'hang', summary: expect.stringContaining('stayed in service') as string };
    expect(recovery).toMatchObject({ result: 'resumed', failure });
    expect(await guard.nextRecovery(1000)).toBeUndefined();
    await box.machine.freeze();
    const xen = target.at(await box.machine.capture());
    expect(allNotes(xen).filter(({ irq, counted }) => irq === line.irq && counted === line.counted)).toEqual([]);
    await guard.nextRecovery(100);
    expect(await lostVms(box, before)).toEqual([]);
  });

  it('live when no CPU set its timer any more', async () => {
    const before = sampleOf(box);
    // mov $1, %eax; ret
    await change('reprogram_timer', [0xb8, 1, 0, 0, 0, 0xc3]);
    const recovery = await guard.nextRecovery(DETECTION_MS);
    // A guest that goes on by itself has a CPU without interrupts: that may be seen in Xen first.
    const summary = expect.stringMatching(/a timer that was due|made no progress/) as string;
    expect(recovery).toMatchObject({ result: 'resumed', failure: { kind: 'hang', summary } });
    expect(await guard.nextRecovery(3000)).toBeUndefined();
    expect(await lostVms(box, before)).toEqual([]);
  });

  it('live when interrupts of timers came and led to nothing', async () => {
    const before = sampleOf(box);
    // ret
    await change('timer_softirq_action', [0xc3]);
    await expectRecovered(before);
  });

  it('live when time fell back with each calibration', async () => {
    const before = sampleOf(box);
    // shrd $0x20,%rdx,%rax becomes shrd $0x1f: time runs twice as fast, whatever the host's clock is.
    await changeByte('get_s_time', [0x48, 0x0f, 0xac, 0xd0, 0x20], 4, 0x1f);
    await expectRecovered(before);
  });

  it('live when they were told that it was later than it is', async () => {
    const before = sampleOf(box);
    // add 0x8(%rsi),%rax becomes add %rax,0x8(%rsi): each reading of the clock puts it forward.
    await changeByte('get_s_time', [0x48, 0x03, 0x46, 0x08], 1, 0x01);
    await expectRecovered(before);
  });

  it('live when they were parked, their time used up that has no end', async () => {
    const before = sampleOf(box);
    // mov 0x28(%rcx),%rax becomes mov 0x68(%rcx),%rax: not the time that a unit has, but a pointer, which is negative.
    await changeByte('burn_credits', [0x48, 0x8b, 0x41, 0x28], 3, 0x68);
    const recovery = await guard.nextRecovery(DETECTION_MS);
    const failure = { kind: 'hang', summary: expect.stringContaining('a vCPU that could run') as string };
    expect(recovery).toMatchObject({ result: 'resumed', failure });
    expect(recovery!.plan.steps.flatMap(({ findings }) => findings)).toContainEqual(
      expect.stringContaining('no longer waits for time'),
    );
    expect(await guard.nextRecovery(3000)).toBeUndefined();
    expect(await lostVms(box, before)).toEqual([]);
  });

  it('live when each interrupt was taken for another one, until all CPUs slept and could not be woken', async () => {
    const before = sampleOf(box);
    // mov 0x7c(%rdi),%r12d becomes mov 0x7e(%rdi),%r12d: no interrupt is acknowledged any more.
    await changeByte('do_IRQ', [0x44, 0x8b, 0x67, 0x7c], 3, 0x7e);
    await expectRecovered(before);
  });

  it('live when CPUs slept deaf, and the code was right again when they were found', async () => {
    const before = sampleOf(box);
    const { memory } = target.xen;
    const address = memory.physicalAddress(target.xen.symbol('do_IRQ'));
    const code = Uint8Array.from(memory.bytes(target.xen.symbol('do_IRQ'), 128));
    await changeByte('do_IRQ', [0x44, 0x8b, 0x67, 0x7c], 3, 0x7e);
    await runUntilDeaf();
    await box.machine.writePhysicalStub(address, code);
    await expectRecovered(before);
  });

  it('live when CPUs handled softirqs and did not go back to their guests', async () => {
    const before = sampleOf(box);
    // A CPU whose vCPUs take turns has another frame with each turn.
    await pin(box, { 'Domain-0': 0, app1: 1, app2: 2, app3: 3 });
    // pop %rbx; jmp becomes pop %rbx; loope: into the loop of a vCPU that is not to go on.
    await changeByte('check_wakeup_from_wait', [0x5b, 0xe9], 1, 0xe1);
    await expectRecovered(before);
  });

  it('are let be while nothing fails', async () => {
    const before = sampleOf(box);
    expect(await guard.nextRecovery(10_000)).toBeUndefined();
    expect(guard.failures).toBe(0);
    expect(await lostVms(box, before)).toEqual([]);
  });
});
