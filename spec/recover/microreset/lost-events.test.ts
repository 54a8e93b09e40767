import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { eventChannels } from '../../../src/recover/microreset/event-channels.js';
import { newBucket } from '../../support/fake-channels.js';
import { FakeEvents, LINKED, MASKED, PENDING } from '../../support/fake-events.js';
import { FakeXen } from '../../support/fake-xen.js';
import { type Outcome, planWith } from '../planning.js';

const CHANNELS = 64;
const QUEUE = 7;
const VIRQ = 5;
const UNMAPPED = 0xffff_8302_0000_0000n;
let fake: FakeXen;
let events: FakeEvents;
let bucket: bigint;

beforeEach(() => {
  fake = new FakeXen();
  bucket = newBucket(fake, fake.hvm.domain, CHANNELS);
  for (let port = 1; port < CHANNELS; port++) use(port);
  events = new FakeEvents(fake, fake.hvm);
  fake.enterXen(0, 'evtchn_send');
});

const channel = (port: number): bigint => bucket + BigInt(port * fake.profile.struct('evtchn').size);

function use(port: number): void {
  fake.set('evtchn', channel(port), 'state', VIRQ);
  fake.set('evtchn', channel(port), 'priority', QUEUE);
}

const plan = (): Outcome => planWith(fake, eventChannels);
const told = ({ calls }: Outcome): unknown[] => calls.map((call) => [call.function, ...call.arguments]);
const LOOKS = ['vcpu_mark_events_pending', expect.anything()];

/** What a guest that takes off events sees: from the head in the control block, while they are linked. */
function guestTakes({ after }: Outcome, priority = QUEUE): number[] {
  const ports: number[] = [];
  let port = after.memory.u32(events.head(priority));
  while (port !== 0 && (after.memory.u32(events.word(port)) & LINKED) !== 0 && ports.length < CHANNELS) {
    ports.push(port);
    port = after.memory.u32(events.word(port)) & 0x1ffff;
  }
  return ports;
}

const tail = ({ after }: Outcome, priority = QUEUE): number =>
  after.object('evtchn_fifo_vcpu', events.state).num(`queue[${priority}].tail`);
const isReady = ({ after }: Outcome): boolean => (after.memory.u32(events.block) & (1 << QUEUE)) !== 0;

describe('events that hang in no queue', () => {
  it('are linked when they are pending: into an empty queue', () => {
    events.setWord(4, PENDING);
    events.setWord(9, PENDING);
    const outcome = plan();
    expect([guestTakes(outcome), tail(outcome), isReady(outcome)]).toEqual([[4, 9], 9, true]);
    expect(outcome.findings).toEqual([
      'event 4 of d1v0 hung in no queue; linked',
      'event 9 of d1v0 hung in no queue; linked',
    ]);
    expect(outcome.after.object('evtchn', channel(9)).num('fifo_lastq')).toBe(QUEUE);
    expect(told(outcome)).toEqual([LOOKS]);
  });

  it('are linked behind those that wait', () => {
    events.fill(QUEUE, [3, 12]);
    events.setWord(9, PENDING);
    const outcome = plan();
    expect([guestTakes(outcome), tail(outcome)]).toEqual([[3, 12, 9], 9]);
  });

  it('are linked anew when they say that they are, and the queue does not know', () => {
    events.fill(QUEUE, [3]);
    events.setWord(9, PENDING + LINKED + 5);
    expect(guestTakes(plan())).toEqual([3, 9]);
  });

  it('are linked anew when the queue has a last event that is none of its', () => {
    events.fill(QUEUE, [3, 12, 4]);
    events.set(`queue[${QUEUE}].tail`, 12);
    const outcome = plan();
    expect([guestTakes(outcome), tail(outcome)]).toEqual([[3, 12, 4], 4]);
  });

  it('leave the queue that ended with them', () => {
    events.set('queue[3].tail', 9);
    events.setWord(9, PENDING);
    const outcome = plan();
    expect([tail(outcome, 3), guestTakes(outcome)]).toEqual([0, [9]]);
  });

  it.each([
    ['masked', PENDING + MASKED],
    ['not pending', 0],
  ])('have their mark taken back when they are %s', (_, word) => {
    events.setWord(9, word + LINKED);
    const outcome = plan();
    expect(outcome.after.memory.u32(events.word(9))).toBe(word);
    expect(told(outcome)).toEqual([]);
  });

  it('are pending, and linked, when their word was written over, and masked when nobody uses them', () => {
    fake.set('evtchn', channel(11), 'state', 0);
    for (const [port, word] of [
      [9, 0xffff_82d0],
      [10, 0x4059_b2a0],
      [11, 0x4001_0000],
    ] as const)
      events.setWord(port, word);
    const outcome = plan();
    expect(guestTakes(outcome)).toEqual([9, 10]);
    expect(outcome.after.memory.u32(events.word(10))).toBe(PENDING + LINKED);
    expect(outcome.after.memory.u32(events.word(11))).toBe(MASKED);
    expect(outcome.findings).toContain('event 11 of d1: its word was written over');
  });

  it('stay as they are when nobody can tell what hangs in the queues', () => {
    events.fill(QUEUE, [3, 9]);
    for (let priority = 0; priority < 16; priority++) {
      const head = fake.fieldAt('evtchn_fifo_control_block', UNMAPPED, `head[${priority}]`);
      events.set(`queue[${priority}].head`, head);
    }
    events.set('control_block', UNMAPPED);
    events.setWord(10, PENDING);
    expect(plan().writes).toEqual([]);
  });

  it('stay as they are when nobody uses their channel, or they are masked', () => {
    fake.set('evtchn', channel(9), 'state', 0);
    events.setWord(9, PENDING);
    events.setWord(10, PENDING + MASKED);
    expect(plan().plan.edits).toEqual([]);
  });
});

describe('a queue that events hang in', () => {
  it('has its first event as its head, where that was not written', () => {
    events.fill(QUEUE, [3, 9]);
    fake.put(events.head(QUEUE), 4, 20);
    expect(guestTakes(plan())).toEqual([3, 9]);
  });

  it('gives all of it to a guest that was about to take off one in the middle', () => {
    events.fill(QUEUE, [3, 9, 12]);
    events.setWord(3, 0);
    events.setWord(7, PENDING);
    expect(guestTakes(plan())).toEqual([9, 12, 7]);
  });

  it('is said to be ready', () => {
    events.fill(QUEUE, [3, 9]);
    fake.set('evtchn_fifo_control_block', events.block, 'ready', 0);
    const outcome = plan();
    expect([isReady(outcome), told(outcome)]).toEqual([true, [LOOKS]]);
  });

  it('has its guest look, which was not told', () => {
    events.fill(QUEUE, [3, 9]);
    fake.put(fake.get('vcpu', fake.hvm.address, 'vcpu_info'), 1, 0);
    const outcome = plan();
    expect([outcome.writes, told(outcome)]).toEqual([[], [LOOKS]]);
  });

  it('is followed only once where its events lead in a circle', () => {
    events.fill(QUEUE, [3, 9]);
    events.setWord(9, PENDING + LINKED + 3);
    expect(plan().plan.edits).toEqual([]);
  });
});

/** A guest that takes off events as Linux does (drivers/xen/events/events_fifo.c): by a head of its own. */
class Guest {
  readonly handled = new Set<number>();
  readonly #words: number[];
  readonly #head: number;
  #ready: boolean;

  constructor({ after }: Outcome) {
    this.#words = Array.from({ length: CHANNELS }, (_, port) => after.memory.u32(events.word(port)));
    this.#head = after.memory.u32(events.head(QUEUE));
    this.#ready = (after.memory.u32(events.block) & (1 << QUEUE)) !== 0;
  }

  /** @param own its head, where it was taking off events; 0 otherwise */
  run(own: number): void {
    let head = own;
    let busy = own !== 0 || this.#takeReady();
    for (let n = 0; busy; n++) {
      if (n > 4 * CHANNELS) throw new Error('it never ends');
      const port = head === 0 ? this.#head : head;
      head = this.#handle(port);
      busy = head !== 0 || this.#takeReady();
    }
  }

  #takeReady(): boolean {
    const was = this.#ready;
    this.#ready = false;
    return was;
  }

  #handle(port: number): number {
    const word = this.#words[port] ?? 0;
    if ((word & PENDING) !== 0 && (word & MASKED) === 0) this.handled.add(port);
    this.#words[port] = word & MASKED;
    return (word & LINKED) === 0 ? 0 : word & 0x1ffff;
  }
}

it('has a guest handle every event, wherever it was frozen and whatever was lost', () => {
  const port = fc.integer({ min: 1, max: CHANNELS - 1 });
  const box = fc.record({
    waiting: fc.uniqueArray(port, { minLength: 1, maxLength: 8 }),
    taken: fc.nat(8),
    lost: fc.array(fc.record({ port, marks: fc.constantFrom(0, LINKED), next: fc.option(port, { nil: 0 }) }), {
      maxLength: 4,
    }),
    masked: fc.array(port, { maxLength: 3 }),
    tail: fc.option(port),
    head: fc.option(port),
    isReady: fc.boolean(),
    isTold: fc.boolean(),
  });
  fc.assert(
    fc.property(box, ({ waiting, taken, lost, masked, tail, head, isReady, isTold }) => {
      fake = new FakeXen();
      bucket = newBucket(fake, fake.hvm.domain, CHANNELS);
      for (let each = 1; each < CHANNELS; each++) use(each);
      events = new FakeEvents(fake, fake.hvm);
      fake.enterXen(0, 'evtchn_send');
      events.fill(QUEUE, waiting);
      const begun = waiting.slice(0, taken);
      const wanted = new Set(waiting.slice(taken));
      for (const each of begun) events.setWord(each, 0);
      for (const each of masked.filter((each) => !waiting.includes(each))) events.setWord(each, PENDING + MASKED);
      for (const { port: each, marks, next } of lost) {
        if (waiting.slice(taken).includes(each)) continue;
        events.setWord(each, PENDING + marks + (marks === 0 ? 0 : next));
        wanted.add(each);
      }
      if (tail !== null) events.set(`queue[${QUEUE}].tail`, tail);
      if (head !== null) fake.put(events.head(QUEUE), 4, head);
      if (!isReady || taken > 0) fake.set('evtchn_fifo_control_block', events.block, 'ready', 0);
      if (!isTold) fake.put(fake.get('vcpu', fake.hvm.address, 'vcpu_info'), 1, 0);

      const outcome = plan();
      const guest = new Guest(outcome);
      const own = taken > 0 ? (waiting[taken] ?? 0) : 0;
      if (own !== 0 || isTold || outcome.calls.length > 0) guest.run(own);
      expect([...wanted].filter((each) => !guest.handled.has(each))).toEqual([]);
    }),
    { numRuns: 100 },
  );
});
