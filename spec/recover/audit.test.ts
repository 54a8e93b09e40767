import { beforeEach, describe, expect, it } from 'vitest';
import { AUDIT, OF_ONE_REQUEST } from '../../src/recover/check.js';
import { makePlan } from '../../src/recover/mechanism.js';
import { microreset } from '../../src/recover/microreset/index.js';
import type { Plan } from '../../src/recover/plan.js';
import type { Step } from '../../src/recover/step.js';
import type { View } from '../../src/x86/view.js';
import { readEntryFacts } from '../../src/xen/entry.js';
import { FakeCredit } from '../support/fake-credit.js';
import { FakeEvents } from '../support/fake-events.js';
import { FakePageHeap } from '../support/fake-page-heap.js';
import { FakeXen } from '../support/fake-xen.js';
import { planWith } from './planning.js';

let fake: FakeXen;
beforeEach(() => {
  fake = new FakeXen();
});

/** Of a plan that changes nothing: every CPU is in its guest. */
const problems = (): string[] => planWith(fake).plan.problems.map(({ message }) => message);

/** Of the whole recovery, with a thread dropped on CPU 0. */
function recovered(): Plan {
  fake.enterXen(0, 'do_sched_op');
  const xen = fake.xen();
  return makePlan(microreset, xen, readEntryFacts(xen));
}

const WILD = 0xdead_0000n;
const rcuData = (): bigint => fake.perCpu('rcu_data', 0);

function newCallback(): bigint {
  const node = fake.new('rcu_head');
  fake.set('rcu_head', node, 'func', fake.symbol('_rcu_node_free'));
  return node;
}

interface Check {
  readonly what: string;
  readonly breakIt: () => void;
  readonly told: string | RegExp;
  /** Whether microreset repairs it, so that its plan passes. */
  readonly repaired: boolean;
}

const CHECKS: readonly Check[] = [
  {
    what: 'a list of tasklets that does not close',
    breakIt: () => fake.put(fake.perCpu('tasklet_list', 1), 8, WILD),
    told: 'tasklet_list of CPU 1: a link leads nowhere',
    repaired: true,
  },
  {
    what: 'a tasklet that nobody runs',
    breakIt: () => fake.set('tasklet', fake.symbol('notify_dom0_con_ring_tasklet'), 'is_running', 1),
    told: /^the tasklet .* would count as running$/,
    repaired: true,
  },
  {
    what: 'a timer that is being handled',
    breakIt: () => fake.set('timers', fake.perCpu('timers', 0), 'running', fake.newTimer(0, 5)),
    told: 'a timer of CPU 0 would count as being handled',
    repaired: true,
  },
  {
    what: 'an overflow list of timers that leads nowhere',
    breakIt: () => fake.set('timers', fake.perCpu('timers', 1), 'list', WILD),
    told: 'timers of CPU 1 that are on no heap: a link leads nowhere',
    repaired: true,
  },
  {
    what: 'a list of callbacks with another tail',
    breakIt: () => fake.set('rcu_data', rcuData(), 'nxtlist', newCallback()),
    told: 'callbacks of CPU 0: the tail of the nxt list is not its end',
    repaired: true,
  },
  {
    what: 'a callback that calls nothing',
    breakIt: () => {
      const node = newCallback();
      fake.set('rcu_head', node, 'func', 0x1234);
      fake.set('rcu_data', rcuData(), 'donelist', node);
      fake.set('rcu_data', rcuData(), 'donetail', node);
    },
    told: 'callbacks of CPU 0: the done list has no callback on it',
    repaired: true,
  },
  {
    what: 'fewer than no callbacks',
    breakIt: () => fake.set('rcu_data', rcuData(), 'qlen', -1),
    told: 'callbacks of CPU 0: their number is negative',
    repaired: true,
  },
  {
    what: 'a batch of callbacks that nobody starts',
    breakIt: () => fake.set('rcu_ctrlblk', fake.symbol('rcu_ctrlblk'), 'next_pending', 1),
    told: /^batch of callbacks: the next one was asked for/,
    repaired: true,
  },
  {
    what: 'a barrier for callbacks',
    breakIt: () => fake.put(fake.symbol('pending_count'), 4, 1),
    told: 'a barrier for callbacks would still be under way',
    repaired: true,
  },
  {
    what: 'a unit that is missing on the list of its run queue',
    breakIt: () => fake.link(fake.fieldAt('csched2_runqueue_data', fake.runQueue, 'svc')),
    told: 'd0v0 is not among the units of run queue 0',
    repaired: true,
  },
  {
    what: 'a list of units that does not close',
    breakIt: () => fake.put(fake.fieldAt('csched2_unit', fake.hvm.svc, 'rqd_elem'), 8, WILD),
    told: 'units of run queue 0: a link leads nowhere',
    repaired: true,
  },
  {
    what: 'a unit that runs and waits',
    breakIt: () =>
      fake.link(fake.fieldAt('csched2_runqueue_data', fake.runQueue, 'runq'), [
        fake.fieldAt('csched2_unit', fake.hvm.svc, 'runq_elem'),
      ]),
    told: 'd1v0 would run and wait on run queue 0',
    repaired: true,
  },
  {
    what: 'a list of run queues that does not close',
    breakIt: () => fake.put(fake.fieldAt('csched2_runqueue_data', fake.runQueue, 'rql') + 8n, 8, 0),
    told: 'run queues of credit2: a backward link differs from the forward one',
    repaired: true,
  },
  {
    what: 'a vCPU with the number of another one',
    breakIt: () => fake.set('vcpu', fake.hvm.address, 'vcpu_id', 3),
    told: 'd1v0: its number would be wrong',
    repaired: true,
  },
  {
    what: 'a vCPU whose next one is not there',
    breakIt: () => fake.set('vcpu', fake.dom0.address, 'next_in_list', WILD),
    told: 'd0v0: the next vCPU would be wrong',
    repaired: true,
  },
  {
    what: 'a domain that is paused less than never',
    breakIt: () => fake.set('domain', fake.hvm.domain, 'pause_count', -1),
    told: 'd1 would be paused -1 times',
    repaired: true,
  },
  {
    what: 'a vCPU whose pauses do not include the toolstack’s',
    breakIt: () => fake.set('vcpu', fake.hvm.address, 'controller_pause_count', 1),
    told: 'd1v0 would be paused 0 times, and 1 times by the toolstack alone',
    repaired: true,
  },
  {
    what: 'a domain with fewer than no pages',
    breakIt: () => fake.set('domain', fake.hvm.domain, 'tot_pages', -5),
    told: 'tot_pages of d1 would be -5',
    repaired: false,
  },
  {
    what: 'a tail that is no event',
    breakIt: () => new FakeEvents(fake, fake.hvm).set('queue[7].tail', 1024),
    told: 'event queue 7 of d1v0: its tail is no event',
    repaired: true,
  },
  {
    what: 'a queue whose head is elsewhere',
    breakIt: () => new FakeEvents(fake, fake.hvm).set('queue[7].head', WILD),
    told: 'event queue 7 of d1v0: its head is not in the control block',
    repaired: true,
  },
  {
    what: 'a queue with the number of another one',
    breakIt: () => new FakeEvents(fake, fake.hvm).set('queue[7].priority', 8),
    told: 'event queue 7 of d1v0: it has the number of another',
    repaired: true,
  },
  {
    what: 'an array of events that leads nowhere',
    breakIt: () => fake.set('evtchn_fifo_domain', new FakeEvents(fake, fake.hvm).array, 'event_array[0]', WILD),
    told: 'events of d1: page 0 of it leads nowhere',
    repaired: false,
  },
  {
    what: 'a line that does not lead to what its guest sees of it',
    breakIt: () => fake.put(fake.newGuestLine(10, 70).slot, 8, fake.alloc(128)),
    told: 'IRQ 10 does not lead to interrupt 70 of its guest',
    repaired: false,
  },
  {
    what: 'a line with a guest that is none',
    breakIt: () => fake.put(fake.fieldAt('irq_guest_action_t', fake.newGuestLine(10, 70).action, 'guest'), 8, WILD),
    told: 'IRQ 10 has a guest that is no domain',
    repaired: false,
  },
  {
    what: 'a CPU that does not know its number',
    breakIt: () => fake.set('cpu_info', fake.frame(1), 'processor_id', 0),
    told: 'CPU 1: its number would be wrong',
    repaired: true,
  },
  {
    what: 'a CPU that runs a thread of nobody',
    breakIt: () => fake.set('cpu_info', fake.frame(1), 'current_vcpu', WILD),
    told: 'CPU 1: whose thread it runs would be wrong',
    repaired: true,
  },
  {
    what: 'a CPU whose data are elsewhere by the table of all CPUs',
    breakIt: () => {
      fake.set('rcu_data', rcuData(), 'cpu', 0);
      fake.set('rcu_data', rcuData(), 'idle_timer.data', rcuData());
      fake.put(fake.symbol('__per_cpu_offset'), 8, fake.get('cpu_info', fake.frame(0), 'per_cpu_offset') + 1n);
    },
    told: 'CPU 0: where its data are, in the table of all CPUs, would be wrong',
    repaired: true,
  },
  {
    what: 'a CPU that counts itself out of an interrupt',
    breakIt: () => fake.set('irq_cpustat_t', fake.symbol('irq_stat'), '__local_irq_count', -1),
    told: '__local_irq_count of CPU 0 would be -1',
    repaired: true,
  },
  {
    what: 'a CPU with preemption off',
    breakIt: () => fake.put(fake.perCpu('__preempt_count', 1), 4, 2),
    told: '__preempt_count of CPU 1 would be 2',
    repaired: true,
  },
  {
    what: 'a CPU that reads under a lock',
    breakIt: () => fake.put(fake.perCpu('grant_rwlock', 1), 8, fake.dom0.domain),
    told: 'grant_rwlock of CPU 1 would still name a lock',
    repaired: true,
  },
  {
    what: 'CPUs that are asked to call a function',
    breakIt: () => fake.set('call_data_struct', fake.symbol('call_data'), 'selected', 2),
    told: 'a function that CPUs are asked to call would still be asked for',
    repaired: true,
  },
  {
    what: 'a stop of the machine',
    breakIt: () => fake.set('stopmachine_data', fake.symbol('stopmachine_data'), 'nr_cpus', 1),
    told: 'a stop of the machine would still be under way',
    repaired: true,
  },
];

describe('the audit', () => {
  it('finds nothing in a Xen that is in order', () => {
    new FakeEvents(fake, fake.hvm).fill(7, [3, 9]);
    new FakePageHeap(fake);
    fake.newGuestLine(10, 70);
    expect(problems()).toEqual([]);
    expect(recovered().problems).toEqual([]);
  });

  it.each(CHECKS)('refuses $what, unless it is repaired', ({ breakIt, told, repaired }) => {
    breakIt();
    expect(problems()).toContainEqual(typeof told === 'string' ? told : expect.stringMatching(told));
    const left = recovered().problems.map(({ message }) => message);
    if (repaired) expect(left).toEqual([]);
    else expect(left).toContainEqual(told);
  });

  it('refuses a return of a PV guest that would be one to Xen, unless it is repaired', () => {
    fake.enterXen(0, 'do_sched_op');
    const told = 'd0v0 would go on with the privileges of Xen';
    fake.setFrame(0, { cs: 0 });
    expect(problems()).toContain(told);
    fake.setFrame(0, { cs: 0xe033 });
    expect(problems()).not.toContain(told);
    fake.setFrame(0, { cs: 0 });
    expect(recovered().problems).toEqual([]);
  });

  it('counts free memory', () => {
    new FakePageHeap(fake);
    const zones = fake.xen().memory.u64(fake.symbol('avail'));
    fake.put(zones + 8n * 13n, 8, -1);
    fake.put(fake.symbol('outstanding_claims'), 8, -3);
    expect(problems()).toEqual([
      'zone 13 would have -1 free pages',
      '2048 pages would be free, and -1 by the zones',
      '-3 pages would be claimed',
    ]);
  });

  it('follows what credit has of its units', () => {
    const credit = new FakeCredit(fake);
    expect(problems()).toEqual([]);
    fake.set('csched_dom', credit.sdom(fake.hvm), 'active_unit_count', 2);
    fake.put(credit.runq(0), 8, WILD);
    expect(problems()).toEqual([
      'units of d1 that use credit are miscounted',
      'run queue of CPU 0: a link leads nowhere',
    ]);
  });

  it('names interrupt lines whose table leads nowhere, or is said to be endless', () => {
    const why = 'locks of interrupt lines cannot be found: ';
    fake.put(fake.symbol('nr_irqs'), 4, 16);
    fake.put(fake.symbol('irq_desc'), 8, 0xdead_0000n);
    expect(problems()).toContain(`${why}the pointer to their table leads nowhere`);
    fake.put(fake.symbol('nr_irqs'), 4, 1_000_000);
    expect(problems()).toContain(`${why}there are 1000000 of them`);
  });

  it('names locks that cannot be found, since their owner leads nowhere', () => {
    fake.set('domain', fake.hvm.domain, 'grant_table', WILD);
    expect(problems()).toContain('locks of d1 grant table cannot be found: the pointer to it leads nowhere');
  });

  it('makes a problem of what it cannot read, and looks at everything else', () => {
    fake.set('domain', fake.hvm.domain, 'evtchn_fifo', WILD);
    fake.set('timers', fake.perCpu('timers', 0), 'heap', WILD);
    fake.put(fake.perCpu('__preempt_count', 1), 4, 2);
    const found = problems();
    expect(found).toContain('__preempt_count of CPU 1 would be 2');
    for (const part of ['timers', 'event queues'])
      expect(found).toContainEqual(expect.stringMatching(new RegExp(`^${part} cannot be read: Xen does not map`)));
  });
});

describe('a step that gave up', () => {
  const stumbling = (name: string): Step => ({
    ...microreset.steps.find((step) => step.name === name)!,
    run: ({ xen }) => void xen.memory.u64(WILD),
  });
  const without = (name: string, breakIt?: () => void): Plan => {
    breakIt?.();
    fake.enterXen(0, 'do_sched_op');
    const xen = fake.xen();
    const steps = microreset.steps.map((step) => (step.name === name ? stumbling(name) : step));
    return makePlan({ name: 'test', steps }, xen, readEntryFacts(xen));
  };

  it('has the plan refused where nothing else tells whether it had something to repair', () => {
    expect(without('complete-frames').problems).toEqual([
      { step: 'complete-frames', message: 'given up: Xen does not map 0xdead0000' },
    ]);
  });

  it('is told, and no more, where the audit finds that nothing was to be repaired', () => {
    const plan = without('rcu');
    expect(plan.problems).toEqual([]);
    expect(plan.steps.find(({ name }) => name === 'rcu')!.findings[0]).toMatch(/^given up: /);
  });

  it('has the plan refused where the audit finds that something was', () => {
    const plan = without('per-cpu-state', () => fake.put(fake.perCpu('rcu_lock_cnt', 0), 4, 1));
    expect(plan.problems).toEqual([{ step: 'audit', message: 'rcu_lock_cnt of CPU 0 would be 1' }]);
  });

  it('is told, and no more, where at worst one guest’s request is made twice', () => {
    expect(without('grant-progress').problems).toEqual([]);
  });

  it('is one of microreset’s steps, wherever one is named', () => {
    const names = new Set(microreset.steps.map(({ name }) => name));
    const named = [...AUDIT.flatMap(({ answersFor = [] }) => answersFor), ...OF_ONE_REQUEST];
    expect(named.filter((name) => !names.has(name))).toEqual([]);
    expect(new Set(named).size).toBe(named.length);
  });
});

describe('a capsule that lacks a page', () => {
  /** The synthetic machine, without the page that holds what is at `address`. */
  function lacking(address: bigint): View {
    const gone = Math.floor(fake.xen().memory.physicalAddress(address) / 4096);
    let lacked = 0;
    return {
      cpuCount: fake.cpuCount,
      physicalSize: fake.physicalSize,
      get lacked() {
        return lacked;
      },
      registers: (cpu) => fake.registers(cpu),
      lapic: (cpu) => fake.lapic(cpu),
      page: (frame) => {
        if (frame !== gone) return fake.page(frame);
        lacked++;
        return undefined;
      },
      glance: (frame) => (frame === gone ? undefined : fake.page(frame)),
    };
  }

  it('cannot tell whether what is there is right, and the plan is not refused for it', () => {
    const block = new FakeEvents(fake, fake.hvm).array;
    fake.put(fake.perCpu('__preempt_count', 1), 4, 2);
    const xen = fake.xen(lacking(block));
    const plan = makePlan({ name: 'test', steps: [] }, xen, readEntryFacts(xen));
    expect(plan.problems).toEqual([{ step: 'audit', message: '__preempt_count of CPU 1 would be 2' }]);
    expect(plan.steps[0]!.findings).toContainEqual(
      expect.stringMatching(/^cannot be judged by this capsule: event queues cannot be read: /),
    );
  });
});
