import { beforeEach, describe, expect, it } from 'vitest';
import { makePlan } from '../../src/recover/mechanism.js';
import { microreset } from '../../src/recover/microreset/index.js';
import type { Step } from '../../src/recover/step.js';
import { readEntryFacts } from '../../src/xen/entry.js';
import { FakeXen } from '../support/fake-xen.js';
import { planWith } from './planning.js';

let fake: FakeXen;
beforeEach(() => {
  fake = new FakeXen();
  fake.setHypercall(0, 29);
  fake.setSlot(0, fake.symbol('lstar_enter') + 5n);
  fake.trap(0, { rip: 0n, rsp: fake.frame(0) - 0x200n });
  fake.enterXen(1, 'vcpu_wake');
  fake.put(fake.symbol('heap_lock'), 4, 0x0001_0000);
});

const plan = (without: string[] = []) => {
  const xen = fake.xen();
  return makePlan(microreset, xen, readEntryFacts(xen), { without: new Set(without) });
};

describe('makePlan', () => {
  it('makes a plan without problems of a failed machine, and every abandoned CPU goes somewhere', () => {
    const { problems, cpus, mechanism, edits } = plan();
    expect(problems).toEqual([]);
    expect(mechanism).toBe('microreset');
    expect(cpus.map(({ where, vcpu, abandoned, retried }) => ({ where, vcpu, abandoned, retried }))).toEqual([
      { where: 'xen', vcpu: 'd0v0', abandoned: true, retried: true },
      { where: 'xen', vcpu: 'd1v0', abandoned: true, retried: false },
    ]);
    const placed = edits.filter((edit) => edit.kind === 'registers' && edit.set.rip !== undefined);
    expect(placed.map((edit) => edit.kind === 'registers' && edit.cpu)).toEqual([0, 1]);
  });

  it('gives the same plan for the same view, whenever it is asked', () => {
    expect(plan()).toEqual(plan());
    const before = fake.xen().memory.bytes(fake.frame(0) - 0x1000n, 0x1000);
    plan();
    expect(fake.xen().memory.bytes(fake.frame(0) - 0x1000n, 0x1000)).toEqual(before);
  });

  it('records every step, in order, and the audit last', () => {
    const names = plan().steps.map((step) => step.name);
    expect(names).toEqual([...microreset.steps.map((step) => step.name), 'audit']);
    expect(new Set(names).size).toBe(names.length);
  });

  it('goes on with the other steps when one stumbles over damage, and says so', () => {
    const stumble: Step = {
      name: 'stumble',
      removes: 'nothing',
      source: 'this test',
      run: ({ xen }) => void xen.memory.u64(0xdead_0000n),
    };
    const xen = fake.xen();
    const steps = [stumble, ...microreset.steps];
    const made = makePlan({ name: 'test', steps }, xen, readEntryFacts(xen));
    expect(made.problems).toEqual([{ step: 'stumble', message: 'given up: Xen does not map 0xdead0000' }]);
    expect(made.steps[0]!.findings[0]).toMatch(/^given up: Xen does not map/);
    const fault: Step = { ...stumble, run: () => void (undefined as unknown as bigint[])[0] };
    expect(() => makePlan({ name: 'test', steps: [fault] }, xen, readEntryFacts(xen))).toThrow(TypeError);
  });

  it('refuses to plan where Xen’s list of domains leads nowhere', () => {
    fake.put(fake.symbol('domain_list'), 8, 0xdead_0000n);
    const { problems, edits } = plan();
    expect(problems[0]!.message).toMatch(/^what runs where cannot be told/);
    expect(edits).toEqual([]);
  });

  it('does not let a vCPU run on two CPUs, nor a CPU on page tables without Xen', () => {
    fake.set('cpu_info', fake.frame(1), 'current_vcpu', fake.dom0.address);
    fake.set('vcpu', fake.dom0.address, 'arch.cr3', 0x1f_f000);
    const messages = plan().problems.map(({ message }) => message);
    expect(messages).toContain('d0v0 would run on CPU 0 and CPU 1');
    expect(messages).toContain('CPU 0 would run on page tables that do not map Xen');
  });

  it('leaves steps out by name, and the audit finds what they would have repaired', () => {
    const ablated = plan(['static-locks']);
    expect(ablated.steps.map((step) => step.name)).not.toContain('static-locks');
    expect(ablated.problems).toEqual([{ step: 'audit', message: 'heap_lock would still be held' }]);
  });

  it('counts each step’s edits, and gives each edit its step and a reason', () => {
    const { steps, edits } = plan();
    for (const step of steps) {
      expect(
        edits.filter((edit) => edit.step === step.name),
        step.name,
      ).toHaveLength(step.edits);
    }
    expect(edits.filter((edit) => edit.reason === '')).toEqual([]);
  });

  it('says of every step what it removes and who described it', () => {
    for (const { name, removes, source } of microreset.steps) {
      expect(removes, name).not.toBe('');
      expect(source, name).not.toBe('');
    }
  });

  it('has a later step see what an earlier one changed', () => {
    let seen: number | undefined;
    const look: Step = {
      name: 'look',
      removes: '',
      source: '',
      run: ({ xen }) => {
        seen = xen.memory.u32(xen.symbol('heap_lock'));
      },
    };
    planWith(fake, ...microreset.steps.filter((step) => step.name === 'static-locks'), look);
    expect(seen).toBe(0);
  });
});

describe('the audit', () => {
  const problems = (...steps: Step[]): string[] => planWith(fake, ...steps).plan.problems.map(({ message }) => message);
  const step = (name: string): Step => microreset.steps.find((one) => one.name === name)!;

  it('names locks that would still be held, in globals and on the heap', () => {
    fake.put(fake.runQueue, 4, 0x0001_0000);
    expect(problems(step('place-cpus'))).toEqual(
      expect.arrayContaining(['heap_lock would still be held', 'run queue lock would still be held']),
    );
  });

  it('names heaps and run queues that would still be broken', () => {
    const timers = [fake.newTimer(0, 10), fake.newTimer(0, 5)];
    fake.setHeap(0, timers);
    fake.put(fake.fieldAt('csched2_runqueue_data', fake.runQueue, 'runq'), 8, 0);
    const found = problems(step('place-cpus'), step('static-locks'));
    expect(found).toContain('timer heap of CPU 0: slot 2 expires before its parent');
    expect(found).toContain('run queue 0: a link leads nowhere');
  });

  it('names CPUs without a place to go, and vCPUs that run nowhere', () => {
    fake.set('vcpu', fake.idle[1]!.address, 'is_running', 1);
    const found = problems(step('static-locks'));
    expect(found).toContain('CPU 0 has no place to go');
    expect(found).toContain('CPU 1 has no place to go');
    expect(found).toContain('d[IDLE]v1 would count as running and runs nowhere');
  });

  it('lets a plan pass that repairs all of it', () => {
    const timers = [fake.newTimer(0, 10), fake.newTimer(0, 5)];
    fake.setHeap(0, timers);
    fake.put(fake.fieldAt('csched2_runqueue_data', fake.runQueue, 'runq'), 8, 0);
    fake.set('vcpu', fake.idle[1]!.address, 'is_running', 1);
    fake.put(fake.runQueue, 4, 0x0001_0000);
    expect(plan().problems).toEqual([]);
  });
});
