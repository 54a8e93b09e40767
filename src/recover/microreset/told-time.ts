/**
 * A clock that was ahead is not mended by being set back. Guests were told its time, in the record that Xen keeps up to date for each
 * vCPU, and do not follow time back: Linux remembers the latest that it read (6.1, arch/x86/kernel/pvclock.c: `last_value`;
 * kernel/time/timekeeping.c), so that its time, and with it all of its timers, stands until Xen's has come so far. Seen with a code
 * fault in `get_s_time` that stored where it was to load: two guests were told times 18 and 10 minutes ahead, and stood.
 *
 * What a guest remembers cannot be reached. But Xen's clock can go on from the latest time that any was told: for that guest nothing
 * has happened, and for the others time has jumped ahead, as after a suspension. All that Xen itself has set by a wrong
 * clock is then in the past as well. The time of day at which Xen's clock was 0 is set back by as much.
 *
 * The records are guests' memory, and a guest may write what it likes there: none has the clock go farther than a CPU's went.
 */
import { clockOf, latest, TIME_TOLERANCE } from '../../xen/clocks.js';
import { ifReadable } from '../../xen/damage.js';
import { allVcpus } from '../../xen/domains.js';
import { credit2Units } from '../../xen/scheduler.js';
import { timerQueue } from '../../xen/timers.js';
import type { StepContext } from '../step.js';

const NS_PER_MS = 1_000_000n;
const NS_PER_S = 1_000_000_000n;
/** A day, in nanoseconds: a guest that was told more is not worth it that all others have their time jump so far. */
const LARGEST_JUMP = 86_400n * NS_PER_S;

/**
 * Has the clocks of Xen go on from the latest time that a guest was told; gives how far they jump, in nanoseconds.
 * @param nowNs the right time
 * @param furthestNs how far ahead the clock was that was off most
 */
export function goOnFromToldTime(context: StepContext, nowNs: bigint, furthestNs: bigint): bigint {
  const { plan } = context;
  const told = [...toldTimes(context)].map(({ name, timeNs }) => ({ name, aheadNs: timeNs - nowNs }));
  const ahead = told.filter(({ aheadNs }) => aheadNs > TIME_TOLERANCE && aheadNs <= furthestNs);
  const jumpNs = latest(ahead.map(({ aheadNs }) => aheadNs).filter((aheadNs) => aheadNs <= LARGEST_JUMP));
  if (jumpNs > 0n) advance(context, jumpNs);
  for (const { name, aheadNs } of ahead) {
    const seen = `${name} was told a time ${aheadNs / NS_PER_MS} ms ahead`;
    plan.found(aheadNs <= jumpNs ? seen : `${seen}: its own time stands until then`);
  }
  return jumpNs;
}

function* toldTimes({ xen, situation }: StepContext): Generator<{ name: string; timeNs: bigint }> {
  for (const { object, name, domain } of allVcpus(situation.domains)) {
    if (domain.kind === 'idle') continue;
    const timeNs = ifReadable(() => xen.object('vcpu_info', object.u64('vcpu_info')).i64('time.system_time'));
    if (timeNs !== undefined) yield { name, timeNs };
  }
}

/** The clocks of all CPUs, and the one by which they are calibrated (Xen 4.17, arch/x86/time.c). */
function advance({ plan, xen }: StepContext, byNs: bigint): void {
  const reason = 'time goes on from the latest that a guest was told';
  for (let cpu = 0; cpu < xen.cpuCount; cpu++) {
    const clock = clockOf(xen, cpu);
    for (const path of ['stamp.local_stime', 'stamp.master_stime'] as const)
      plan.set(clock, path, clock.i64(path) + byNs, reason);
  }
  const platform = xen.symbol('stime_platform_stamp');
  plan.write(platform, 8, xen.memory.i64(platform) + byNs, reason);
  const [seconds, nanoseconds] = [xen.symbol('wc_sec'), xen.symbol('wc_nsec')];
  const dayNs = xen.memory.u64(seconds) * NS_PER_S + BigInt(xen.memory.u32(nanoseconds)) - byNs;
  if (dayNs > 0n) {
    plan.write(seconds, 8, dayNs / NS_PER_S, reason);
    plan.write(nanoseconds, 4, dayNs % NS_PER_S, reason);
  }
  plan.found(`Xen's time goes on ${byNs / NS_PER_MS} ms ahead, where a guest has it`);
}

/**
 * Timers that a CPU set by a clock that was ahead expire at once; their handlers set them anew. The step `timers` puts the heap in
 * order.
 * @param nowNs the time that it has now
 * @param aheadNs how far ahead of that its clock was
 */
export function pullTimers({ plan, xen }: StepContext, cpu: number, nowNs: bigint, aheadNs: bigint): void {
  if (aheadNs <= TIME_TOLERANCE) return;
  let pulled = 0;
  for (const address of timerQueue(xen, cpu).slots) {
    if (!xen.memory.isMapped(address)) continue;
    const timer = xen.object('timer', address);
    if (timer.i64('expires') <= nowNs + aheadNs / 2n) continue;
    plan.set(timer, 'expires', nowNs, 'it was set by a clock that was ahead');
    pulled++;
  }
  if (pulled > 0) plan.found(`CPU ${cpu}: ${pulled} timers far ahead expire now`);
}

/**
 * Notes of when something began. Credit2 has each unit pay for what it has run since (Xen 4.17, common/sched/credit2.c: `start_time`):
 * hours would overflow its credit, and one that begins in hours pays nothing. A runstate that begins in hours is not counted, nor is
 * any that follows (common/sched/core.c: `vcpu_runstate_change`).
 * @param nowNs the right time, without the jump
 */
export function fixBeginnings({ plan, xen, situation }: StepContext, nowNs: bigint, jumpNs: bigint): void {
  for (const { vcpu, data } of credit2Units(xen, situation.domains)) {
    const start = data.i64('start_time');
    const isOff = start < nowNs || start > nowNs + TIME_TOLERANCE;
    plan.set(data, 'start_time', (isOff ? nowNs : start) + jumpNs, `${vcpu.name} pays from now on`);
  }
  for (const { object, name } of allVcpus(situation.domains)) {
    const hasBegun = object.i64('runstate.state_entry_time') <= nowNs + jumpNs + TIME_TOLERANCE;
    if (!hasBegun) plan.set(object, 'runstate.state_entry_time', nowNs + jumpNs, `${name} is what it is from now on`);
  }
}
