/** FIFO event channels of a synthetic Xen (Xen 4.17, common/event_fifo.c). */
import { PAGE_SIZE } from '../../src/x86/address.js';
import type { FakeVcpu, FakeXen } from './fake-xen.js';

export const PENDING = 2 ** 31;
export const MASKED = 2 ** 30;
export const LINKED = 2 ** 29;
const EVENTS = 1024;

export class FakeEvents {
  /** `struct evtchn_fifo_domain` */
  readonly array: bigint;
  /** `struct evtchn_fifo_vcpu` */
  readonly state: bigint;
  /** `struct evtchn_fifo_control_block` */
  readonly block: bigint;
  readonly #fake: FakeXen;
  readonly #vcpu: FakeVcpu;
  readonly #words: bigint;

  /** Gives a vCPU's domain an array of 1024 events, and the vCPU its queues, all of them empty. */
  constructor(fake: FakeXen, vcpu: FakeVcpu) {
    this.#fake = fake;
    this.#vcpu = vcpu;
    this.array = fake.new('evtchn_fifo_domain');
    this.state = fake.new('evtchn_fifo_vcpu');
    this.block = fake.alloc(PAGE_SIZE, PAGE_SIZE);
    this.#words = fake.alloc(PAGE_SIZE, PAGE_SIZE);
    fake.set('domain', vcpu.domain, 'evtchn_fifo', this.array);
    fake.set('evtchn_fifo_domain', this.array, 'num_evtchns', EVENTS);
    fake.set('evtchn_fifo_domain', this.array, 'event_array[0]', this.#words);
    fake.set('vcpu', vcpu.address, 'evtchn_fifo', this.state);
    fake.set('evtchn_fifo_vcpu', this.state, 'control_block', this.block);
    for (let priority = 0; priority < 16; priority++) {
      this.set(`queue[${priority}].priority`, priority);
      this.set(`queue[${priority}].head`, this.head(priority));
    }
  }

  head(priority: number): bigint {
    return this.#fake.fieldAt('evtchn_fifo_control_block', this.block, `head[${priority}]`);
  }

  set(field: string, value: bigint | number): void {
    this.#fake.set('evtchn_fifo_vcpu', this.state, field, value);
  }

  /** Where the word of an event is. */
  word(port: number): bigint {
    return this.#words + BigInt(4 * port);
  }

  setWord(port: number, word: number): void {
    this.#fake.put(this.word(port), 4, word);
  }

  /** Has events wait in a queue, in this order, and the guest told so. */
  fill(priority: number, ports: readonly number[]): void {
    this.#fake.put(this.head(priority), 4, ports[0] ?? 0);
    for (const [n, port] of ports.entries()) this.setWord(port, PENDING + LINKED + (ports[n + 1] ?? 0));
    this.set(`queue[${priority}].tail`, ports.at(-1) ?? 0);
    if (ports.length === 0) return;
    const ready = this.#fake.get('evtchn_fifo_control_block', this.block, 'ready');
    this.#fake.set('evtchn_fifo_control_block', this.block, 'ready', ready | (1n << BigInt(priority)));
    this.#fake.put(this.#fake.get('vcpu', this.#vcpu.address, 'vcpu_info'), 1, 1);
  }
}
