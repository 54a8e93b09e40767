/**
 * CPUs that do not get back to their guest although they get on: interrupts are taken, timers and softirqs handled, and vCPUs run, by
 * all that Xen notes. Seen with a code fault at the end of `check_wakeup_from_wait`, whose jump back went into the loop that follows it,
 * in which a CPU that is not to go on handles softirqs for ever: within a second no guest executed any more, for 20 s.
 *
 * A PV guest's registers stay in their frame at the top of its CPU's stack until it comes back, and right under them is the return address
 * of the call that the entry code makes: of a handler on the way in, of the handling of softirqs on the way out (Xen 4.17,
 * arch/x86/x86_64/entry.S). A guest that comes back writes both anew. So where neither changes while the CPU executes, it has not been
 * in its guest, or its guest does the same each time. One that does (it spins on the spot, or waits in hypercalls for another guest) is in its guest
 * or on its way in at some of the looks at the frozen machine, or of those before them: several are taken, and it has to execute between them.
 */
import type { CpuState } from '../xen/cpus.js';
import { idleVcpu } from '../xen/domains.js';
import type { EntryFacts } from '../xen/entry.js';
import { cpuStack } from '../xen/stack.js';
import type { Xen } from '../xen/xen.js';
import { haveOwnThreads } from './late-timers.js';
import { type CpuSample, type HangLimits, isStarved } from './watchdog.js';

export interface ReturnSample extends Pick<CpuSample, 'ranMs' | 'waitedMs'> {
  /**
   * Whose thread the CPU runs, with which registers its guest goes on, and the call that was made on the way to it. `undefined` of an idle CPU,
   * and where the last call from the entry code was one on the way in.
   */
  readonly wayOut: string | undefined;
}

export interface NoReturn {
  readonly cpu: number;
  readonly wayOut: string;
  /** Since when it has been on its way, in milliseconds of host time. */
  readonly stalledMs: number;
}

/** Far more than for a CPU that gets nothing done: on a slow host interrupts may keep a CPU from its guest for a while. */
const LIMITS: HangLimits = { ranMs: 500, passedMs: 1000 };
/** A CPU whose guest does the same all the time is suspected again so much later, in milliseconds. */
const AGAIN_MS = 5000;

interface Standing {
  readonly wayOut: string;
  readonly sinceMs: number;
  /** All samples as of the moment since which this CPU is on its way. */
  readonly atStart: readonly ReturnSample[];
}

/** The pure part: feed it samples, it says what is suspected. */
export class NoReturnWatch {
  readonly #isJudged: boolean;
  readonly #cpus = new Map<number, Standing>();
  readonly #suspectedMs = new Map<number, number>();

  /** @param threads of the CPUs: where QEMU gives them one in common, the time that it ran is nobody's own */
  constructor(threads: readonly number[]) {
    this.#isJudged = haveOwnThreads(threads);
  }

  /** @param nowMs host-monotonic milliseconds */
  observe(cpus: readonly ReturnSample[], nowMs: number): NoReturn | undefined {
    if (!this.#isJudged) return undefined;
    for (const [cpu, { wayOut }] of cpus.entries()) {
      if (wayOut === undefined) this.#cpus.delete(cpu);
      else if (this.#cpus.get(cpu)?.wayOut !== wayOut) this.#cpus.set(cpu, { wayOut, sinceMs: nowMs, atStart: cpus });
    }
    const found = [...this.#cpus].find(([cpu, standing]) => this.#isSuspect(cpu, standing, cpus, nowMs));
    if (found === undefined) return undefined;
    const [cpu, { wayOut, sinceMs }] = found;
    this.#suspectedMs.set(cpu, nowMs);
    return { cpu, wayOut, stalledMs: nowMs - sinceMs };
  }

  /** The machine was frozen, or recovered: CPUs are on their way anew. */
  pause(): void {
    this.#cpus.clear();
  }

  #isSuspect(cpu: number, { sinceMs, atStart }: Standing, cpus: readonly ReturnSample[], nowMs: number): boolean {
    if (nowMs - sinceMs < LIMITS.passedMs || cpus[cpu]!.ranMs - atStart[cpu]!.ranMs < LIMITS.ranMs) return false;
    if (nowMs - (this.#suspectedMs.get(cpu) ?? Number.NEGATIVE_INFINITY) < AGAIN_MS) return false;
    // What it waits for may be another CPU, which the host lets wait.
    return !cpus.some((other, n) => isStarved(other, atStart[n]!, LIMITS));
  }
}

/** Addresses of the words to look at. */
interface ReturnWords {
  readonly current: bigint;
  readonly idle: bigint;
  /** Of the return address; the guest's registers are right above it. */
  readonly slot: bigint;
}

function returnWords(xen: Xen, cpu: number): ReturnWords {
  const { info, guestFrame } = cpuStack(xen, cpu);
  return { current: info.at('current_vcpu'), idle: idleVcpu(xen, cpu), slot: guestFrame - 8n };
}

function wayOutOf(xen: Xen, { exitReturns }: EntryFacts, { current, idle, slot }: ReturnWords): string | undefined {
  const { memory } = xen;
  const vcpu = memory.u64(current);
  if (vcpu === idle || !exitReturns.has(memory.u64(slot))) return undefined;
  // Segment registers behind the frame are not saved there.
  const bytes = memory.bytes(slot, 8 + xen.profile.struct('cpu_user_regs').field('es').offset);
  return `${vcpu} ${Buffer.from(bytes).toString('latin1')}`;
}

/** Reads the words of a running machine that the watch looks at. */
export class ReturnSampler {
  readonly #xen: Xen;
  readonly #facts: EntryFacts;
  readonly #words: readonly ReturnWords[];

  constructor(xen: Xen, facts: EntryFacts) {
    this.#xen = xen;
    this.#facts = facts;
    this.#words = Array.from({ length: xen.cpuCount }, (_, cpu) => returnWords(xen, cpu));
  }

  /** @param times host time of the CPUs' threads */
  cpus(times: readonly Pick<CpuSample, 'ranMs' | 'waitedMs'>[]): ReturnSample[] {
    return this.#words.map((words, cpu) => {
      const { ranMs, waitedMs } = times[cpu]!;
      return { wayOut: wayOutOf(this.#xen, this.#facts, words), ranMs, waitedMs };
    });
  }
}

/** Whether a look at the frozen machine bears out what was suspected: the CPU is in that call, with the same guest to go back to. */
export function isOnItsWay(
  xen: Xen,
  facts: EntryFacts,
  { cpu, wayOut }: NoReturn,
  { where, current, registers, stack }: Pick<CpuState, 'where' | 'current' | 'registers' | 'stack'>,
): boolean {
  if (where !== 'xen' || current.domain.kind !== 'pv') return false;
  const isInCall = registers.rsp >= stack.base && registers.rsp < stack.guestFrame;
  return isInCall && wayOutOf(xen, facts, returnWords(xen, cpu)) === wayOut;
}
