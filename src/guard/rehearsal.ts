/**
 * Rehearsals: recoveries of failures that are made up, planned and dropped. A plan is made by code that the JavaScript engine has
 * to compile first, and every kind of damage has code of its own. So a healthy box is damaged in many ways, on paper: in an
 * overlay over a recording of it.
 */
import { formatRegisters, parseRegisters } from '../machine/registers.js';
import { MachineView } from '../machine/view.js';
import { RecordingView } from '../recover/capsule.js';
import { type Mechanism, makePlan } from '../recover/mechanism.js';
import { Overlay } from '../recover/overlay.js';
import type { Plan } from '../recover/plan.js';
import type { View } from '../x86/view.js';
import { listDomains, type Vcpu } from '../xen/domains.js';
import { FrameWords, pageInfo } from '../xen/frames.js';
import { heapLocks, staticLocks } from '../xen/locks.js';
import { PageTables } from '../xen/page-tables.js';
import { type CpuStack, cpuStack } from '../xen/stack.js';
import { timerQueue } from '../xen/timers.js';
import type { Xen } from '../xen/xen.js';
import type { Target } from './target.js';

/** What a rehearsal needs of a box. */
type Stage = Pick<Target, 'at' | 'facts'>;

/** How many rehearsals it takes until the time that a plan takes has settled (bench/recovery-latency). */
export const ENOUGH = 60;
/** Rehearsals that this process has made: what the engine has compiled serves every later guard as well. */
let rehearsed = 0;

/** Whether this process has rehearsed enough. */
export const isWarm = (): boolean => rehearsed >= ENOUGH;

/** A plan of the healthy box that looks at everything. @param view a recording of it */
export function rehearseThoroughly(target: Stage, view: View, mechanism: Mechanism): void {
  makePlan(mechanism, target.at(view), target.facts, { scope: 'everything' });
}

/**
 * A plan of the next made-up failure.
 * @param view a recording of the healthy box
 * @throws whatever planning throws: made-up damage may make no sense
 */
export function rehearse(target: Stage, view: View, mechanism: Mechanism): Plan {
  const turn = rehearsed++;
  const failure = makeUp(target, view, turn);
  return makePlan(mechanism, target.at(failure), target.facts, { now: () => performance.now() });
}

/** `TRAP_syscall` in `entry_vector`, and Xen's code selector. */
const TRAP_SYSCALL = 256;
const XEN_CS = 0xe008;
/** Bytes between the guest's frame and a made-up stack pointer. */
const DEPTH = 0x200n;
const TIMER_VECTOR = 0xfa;
const MMU_UPDATE = 1n;

/** Functions in which threads are dropped. */
const PLACES = ['do_mmu_update', 'schedule', '_get_page_type', 'timer_softirq_action', 'do_IRQ', 'do_event_channel_op'];

/**
 * A view of a box that has failed. It is of the very classes that a recovery sees: code that was compiled for others would be thrown
 * away at the first failure.
 */
function makeUp(target: Stage, base: View, turn: number): View {
  const cpus = Array.from({ length: base.cpuCount }, (_, cpu) => cpu);
  const paper = new Overlay(base);
  new Damage(target, paper, turn).inflict(cpus);
  const registers = cpus.map((cpu) => parseRegisters(formatRegisters(paper.registers(cpu))));
  const lapics = cpus.map((cpu) => {
    const state = base.lapic(cpu);
    return (cpu + turn) % 3 === 0 ? { ...state, inService: [TIMER_VECTOR] } : state;
  });
  const view = new MachineView(registers, lapics, { size: base.physicalSize, page: (frame) => paper.page(frame) });
  return turn % 4 === 3 ? new RecordingView(view) : view;
}

class Damage {
  readonly #target: Stage;
  readonly #view: Overlay;
  readonly #xen: Xen;
  readonly #turn: number;

  constructor(target: Stage, view: Overlay, turn: number) {
    this.#target = target;
    this.#view = view;
    this.#xen = target.at(view);
    this.#turn = turn;
  }

  inflict(cpus: readonly number[]): void {
    const vcpus = listDomains(this.#xen).flatMap((domain) => domain.vcpus);
    const failed = this.#turn % cpus.length;
    const frames = this.#pageTables(vcpus);
    for (const cpu of cpus) {
      // A third of the CPUs stays where it is.
      if (cpu !== failed && (cpu + this.#turn) % 3 === 1) continue;
      const guests = vcpus.filter((vcpu) => vcpu.domain.kind !== 'idle');
      this.#enterXen(cpu, guests[(cpu + this.#turn) % guests.length], frames);
      if (cpu === failed) this.#trap(cpu);
    }
    this.#structures(vcpus, failed);
  }

  /** Has a CPU stand in Xen on behalf of a vCPU: in a hypercall where that is a PV guest's, else in an interrupt. */
  #enterXen(cpu: number, vcpu: Vcpu | undefined, frames: readonly bigint[]): void {
    const xen = this.#xen;
    const stack = cpuStack(xen, cpu);
    const place = xen.symbol(PLACES[(cpu + this.#turn) % PLACES.length]!) + 4n;
    const { hypercallReturns, bounceReturns } = this.#target.facts;
    const bounces = this.#turn % 5 === 0 ? [...bounceReturns.keys()] : [];
    const slot = bounces[cpu % bounces.length] ?? [...hypercallReturns][0]!;
    const frame = xen.object('cpu_user_regs', stack.guestFrame);
    if (vcpu !== undefined) {
      this.#copy(
        vcpu.object.at('arch.user_regs'),
        stack.guestFrame,
        xen.profile.struct('cpu_user_regs').field('es').offset,
      );
      this.#write(stack.info.at('current_vcpu'), 8, vcpu.address);
      this.#write(xen.perCpu('curr_vcpu', cpu), 8, vcpu.address);
    }
    if (vcpu?.domain.kind === 'pv') {
      this.#write(frame.at('entry_vector'), 4, TRAP_SYSCALL);
      this.#write(frame.at('rax'), 8, MMU_UPDATE);
      this.#write(stack.guestFrame - 8n, 8, slot);
    }
    for (const [n, value] of frames.entries()) this.#write(stack.guestFrame - 0x20n - BigInt(8 * n), 8, value);
    for (const [n, value] of [...this.#target.facts.frameReturns.keys()].slice(0, 8).entries()) {
      this.#write(stack.guestFrame - 0x80n - BigInt(8 * n), 8, value);
    }
    const rsp = stack.guestFrame - DEPTH;
    this.#view.setRegisters(cpu, { cs: XEN_CS, ss: 0, rip: place, rsp, rflags: 2, r12: frames[0] ?? 0n });
  }

  /** The trap that a failure causes: a frame of registers on the stack, under it the return address of the entry code. */
  #trap(cpu: number): void {
    const xen = this.#xen;
    const stack = cpuStack(xen, cpu);
    const [entry] = [...this.#target.facts.frameReturns].find(([, name]) => name === 'handle_exception_saved') ?? [0n];
    const frame = xen.object('cpu_user_regs', stack.guestFrame - DEPTH - BigInt(xen.sizeOf('cpu_user_regs')));
    this.#copy(stack.guestFrame, frame.address, xen.profile.struct('cpu_user_regs').field('rip').offset);
    this.#write(frame.at('cs'), 4, XEN_CS);
    this.#write(frame.at('rip'), 8, 0);
    this.#write(frame.at('rsp'), 8, this.#interrupted(stack));
    this.#write(frame.address - 8n, 8, entry);
    this.#view.setRegisters(cpu, { rip: xen.symbol('fatal_trap'), rsp: frame.address - 16n });
  }

  /** Half of the failures happen in an entry sequence, with the stack pointer at the guest's frame. */
  #interrupted(stack: CpuStack): bigint {
    return this.#turn % 2 === 0 ? stack.guestFrame : stack.guestFrame - DEPTH + 0x40n;
  }

  /**
   * A page table that is locked, one that is half validated, one with a reference too many, and a page that has one which no mapping
   * holds; as their descriptors' addresses.
   */
  #pageTables(vcpus: readonly Vcpu[]): bigint[] {
    const xen = this.#xen;
    const constant = (name: string): bigint => BigInt(xen.profile.constant(name));
    const words = new FrameWords(xen);
    const pages = new PageTables(xen, words);
    const tables = pages.inUse(vcpus.map((vcpu) => vcpu.domain));
    const pick = (level: 2 | 3, n: number): bigint | undefined => {
      const frame = [...tables[level]][(this.#turn + n) % Math.max(1, tables[level].size)];
      return frame === undefined ? undefined : pageInfo(xen, frame).address;
    };
    const layout = xen.profile.struct('page_info');
    const type = layout.field('u.inuse.type_info').offset;
    const count = layout.field('count_info').offset;
    const change = (address: bigint | undefined, to: (info: bigint) => bigint, at = type): void => {
      if (address !== undefined) this.#write(address + BigInt(at), 8, to(xen.memory.u64(address, at)));
    };
    const [locked, unvalidated, excess] = [pick(2, 0), pick(this.#turn % 2 === 0 ? 3 : 2, 1), pick(2, 2)];
    if (this.#turn % 2 === 0) change(locked, (info) => (info | constant('PGT_locked')) + 1n);
    if (this.#turn % 3 === 0) change(unvalidated, (info) => (info & constant('PGT_type_mask')) | 1n);
    if (this.#turn % 3 === 1) change(excess, (info) => info + 1n);
    const mapped = this.#turn % 3 === 2 ? this.#mappedPage(pages, words, tables[2]) : undefined;
    change(mapped, (info) => info + 1n);
    change(mapped, (info) => info + 1n, count);
    return [locked, unvalidated, excess, mapped].filter((address) => address !== undefined);
  }

  /** A page that a guest can write to, by the descriptor's address. */
  #mappedPage(pages: PageTables, words: FrameWords, above: ReadonlySet<number>): bigint | undefined {
    const writable = Number(BigInt(this.#xen.profile.constant('PGT_writable_page')) >> 61n);
    const [table] = [...pages.lowest(above)].slice(this.#turn);
    let found: number | undefined;
    if (table !== undefined)
      pages.eachChild(table, 1, 'referenced', (frame) => {
        if (frame < words.count && words.typeOf(frame) >>> 29 === writable) found ??= frame;
      });
    return found === undefined ? undefined : pageInfo(this.#xen, found).address;
  }

  /** Locks held, a timer cut off in its handler, a heap in disorder, vCPUs that say they run. */
  #structures(vcpus: readonly Vcpu[], failed: number): void {
    const xen = this.#xen;
    const locks = [...staticLocks(xen), ...heapLocks(xen, [...new Set(vcpus.map((vcpu) => vcpu.domain))])];
    for (let n = this.#turn % 7; n < locks.length; n += 97) {
      const { address } = locks[n]!;
      this.#write(address, 2, xen.memory.u16(address) + 1);
    }
    const queue = timerQueue(xen, failed);
    const [first] = queue.slots;
    if (this.#turn % 4 === 1 && first !== undefined) this.#write(queue.object.at('running'), 8, first);
    if (this.#turn % 4 === 2) this.#write(queue.heap, 2, Math.max(0, queue.size - 1));
    const vcpu = vcpus[this.#turn % vcpus.length]!;
    this.#write(vcpu.object.at('is_running'), 1, 1);
    if (this.#turn % 6 === 0) this.#write(xen.perCpu('curr_vcpu', failed), 8, vcpu.address);
    this.#write(xen.irqStat(failed).at('__local_irq_count'), 4, 1);
    const tasklet = 'arch.hvm.assert_evtchn_irq_tasklet.is_running';
    if (this.#turn % 4 === 3 && vcpu.domain.kind === 'hvm' && vcpu.object.has(tasklet))
      this.#write(vcpu.object.at(tasklet), 1, 1);
  }

  #copy(from: bigint, to: bigint, length: number): void {
    for (let n = 0; n < length; n += 8) this.#write(to + BigInt(n), 8, this.#xen.memory.u64(from, n));
  }

  #write(address: bigint, size: 1 | 2 | 4 | 8, value: bigint | number): void {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(BigInt.asUintN(64, BigInt(value)));
    this.#xen.memory.eachPart(address, size, (at, from, to) => this.#view.write(at, bytes.subarray(from, to)));
  }
}
