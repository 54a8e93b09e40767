/** What the sender outside the box says about the VMs that answer it. Does nothing for a box without one. */
import type { OutsideHost } from '../testbed/outside-host.js';
import { DEADLINE_MS, type Interval, judgeNetBench } from '../workload/netbench.js';
import { allWell, type VmVerdict } from '../workload/verdict.js';
import { type Mark, pingTable } from './ping-table.js';

export interface OutsideVerdict {
  /** The VMs, those affected that answered too seldom. */
  readonly vms: readonly VmVerdict[];
  /** Whether later answers can change it. */
  readonly decided: boolean;
  readonly isWell: boolean;
  /** The longest time without an answer around the last failure. */
  readonly outageMs?: number;
}

export class OutsideWatch {
  readonly #host: OutsideHost | undefined;
  readonly #slowdown: () => number;

  /** @param slowdown how many times slower than on a host of its own the box runs; an answer gets that much more time */
  constructor(host: OutsideHost | undefined, slowdown: () => number = () => 1) {
    this.#host = host;
    this.#slowdown = slowdown;
  }

  /** A ping that is not answered after this long is lost, in milliseconds of the host's clock. */
  get deadlineMs(): number {
    return DEADLINE_MS * this.#slowdown();
  }

  /** The machine is held by us, or let go: pings wait meanwhile. */
  held(held: boolean): void {
    if (held) this.#host?.pause();
    else this.#host?.resume();
  }

  /**
   * What the sender saw, for people: a table for each VM. Empty where there is no sender.
   * @param marks what happened otherwise
   * @param zeroMs where its times begin; performance.now()
   */
  table(failures: readonly Interval[], marks: readonly Mark[], zeroMs: number): string[] {
    const host = this.#host;
    if (host === undefined) return [];
    const both = (intervals: readonly Interval[], from: string, to: string): Mark[] =>
      intervals.flatMap(({ startMs, endMs }) => [
        { atMs: startMs, what: from },
        ...(endMs === undefined ? [] : [{ atMs: endMs, what: to }]),
      ]);
    const all = [
      ...both(failures, 'broken', 'resumed'),
      ...both(host.holds(), 'sender holds back', 'sender goes on'),
      ...marks,
    ];
    return host.neighbours.flatMap((name) => [`pings to ${name}`, ...pingTable(host.pings(name), all, zeroMs)]);
  }

  /** @param failures from each failure to the resumption of the machine */
  judge(vms: readonly VmVerdict[], failures: readonly Interval[]): OutsideVerdict {
    const host = this.#host;
    if (host === undefined) return { vms, decided: true, isWell: allWell(vms) };
    const nowMs = performance.now();
    const { deadlineMs } = this;
    const verdicts = new Map(
      host.neighbours.map((name) => [
        name,
        judgeNetBench(host.pings(name), { failures, holds: host.holds(), nowMs }, { deadlineMs }),
      ]),
    );
    const judged = vms.map((vm): VmVerdict => {
      const verdict = verdicts.get(vm.name);
      if (verdict === undefined || verdict.ok) return vm;
      const { worstWindow } = verdict;
      const worst = worstWindow === undefined ? '' : `: ${worstWindow.lost} of ${worstWindow.sent} in the worst second`;
      const reason = verdict.decided ? `pings from outside were lost${worst}` : `pings from outside got no answer yet`;
      return { ...vm, intact: false, reason: vm.reason === undefined ? reason : `${vm.reason}; ${reason}` };
    });
    const outages = [...verdicts.values()].flatMap(({ outageMs }) => outageMs ?? []);
    return {
      vms: judged,
      decided: [...verdicts.values()].every((verdict) => verdict.decided),
      isWell: allWell(judged),
      ...(outages.length === 0 ? {} : { outageMs: Math.max(...outages) }),
    };
  }
}
