/**
 * The whole of it on a real box: break Xen, recover it, and see who is alive. Every test begins from the box's snapshot.
 * How often a recovery succeeds is for campaigns to say.
 */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { runTrial } from '../../src/campaign/trial.js';
import { silent } from '../../src/common/progress.js';
import { Random } from '../../src/common/random.js';
import { Guard, type GuardEvent } from '../../src/guard/guard.js';
import type { Target } from '../../src/guard/target.js';
import { injectOnce, planInjection, type TriggerSpec } from '../../src/inject/index.js';
import { loadCapsule } from '../../src/recover/capsule.js';
import { makePlan } from '../../src/recover/mechanism.js';
import { microreset } from '../../src/recover/microreset/index.js';
import type { Plan } from '../../src/recover/plan.js';
import { type Box, openBox } from '../../src/testbed/box.js';
import { cacheFolder } from '../../src/testbed/paths.js';
import { DEFAULT_BOX } from '../../src/testbed/spec.js';
import { ChainOracle } from '../../src/workload/chain.js';
import { readEntryFacts } from '../../src/xen/entry.js';
import { freezeInXen, freshTarget, lostVms, sampleOf } from '../support/live-box.js';

const SEED = 500;
/** Failures in the trial test, of which one may be lost: a microreset that fails now and then is no broken test. */
const RUNS = 3;
const TRIGGER: TriggerSpec = { type: 'timer', delayMs: [50, 600], instructions: [0, 60], limitMs: 20_000 };
const RFLAGS_INTERRUPTS_OFF = 2;
const HLT = 0xf4;
/** Bytes of `machine_halt` up to its HLT, at least. */
const HALT_WITHIN = 0x40;
const JUMP_TO_ITSELF = [0xeb, 0xfe];

let box: Box;
let dir: string;
let target: Target;
beforeAll(async () => {
  mkdirSync(cacheFolder(), { recursive: true });
  dir = mkdtempSync(join(tmpdir(), 'ninelives-trial-'));
  box = await openBox(DEFAULT_BOX, silent);
});
afterAll(async () => {
  await box?.stop();
  rmSync(dir, { recursive: true, force: true });
});
beforeEach(async () => {
  target = await freshTarget(box);
});

/** A plan without what depends on the host's clock. */
const timeless = (plan: Plan) => ({ ...plan, steps: plan.steps.map((step) => ({ ...step, durationMs: 0 })) });

function replay(path: string): Plan {
  const capsule = loadCapsule(path);
  return makePlan(microreset, capsule.xen, readEntryFacts(capsule.xen));
}

/** Host time that the threads of the box's CPUs have waited for a processor of the host, in milliseconds. */
function hostWaitMs(): number {
  const { pid, threadIds } = box.machine;
  const waits = threadIds.map((id) =>
    Number(readFileSync(`/proc/${pid}/task/${id}/schedstat`, 'latin1').split(' ')[1]),
  );
  return waits.reduce((sum, wait) => sum + wait / 1e6, 0);
}

/** A place in Xen's text where the bytes are those of a jump to itself. */
function endlessLoop({ xen }: Target): bigint {
  const { address, size } = xen.profile.image.find(({ name }) => name === '.text')!;
  const at = Buffer.from(xen.memory.bytes(address, size)).indexOf(Buffer.from(JUMP_TO_ITSELF));
  expect(at).toBeGreaterThan(0);
  return address + BigInt(at);
}

/** Whether a process has ended; whoever inherited it may not have asked for its exit status yet. */
function isGone(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')[1]!.startsWith('Z');
  } catch {
    return true;
  }
}

describe('a trial', () => {
  it('recovers a hypervisor that was broken at a random instruction, and its VMs live', async () => {
    const verdicts: boolean[] = [];
    for (let run = 1; run <= RUNS; run++) {
      if (run > 1) await box.restore();
      const trial = await runTrial(box, target, {
        planned: planInjection(Random.forPart(SEED, run), { type: 'failstop' }, TRIGGER),
        oracle: new ChainOracle(),
        signal: new AbortController().signal,
        evidenceDir: mkdtempSync(join(dir, 'trial-')),
      });
      const [recovery] = trial.recoveries;
      expect(trial.failures[0]).toMatchObject({ kind: expect.stringMatching(/trap|bug|double/) as string });
      expect(recovery).toMatchObject({ result: 'resumed', plan: { problems: [] } });
      expect(recovery!.latencyMs).toBeGreaterThan(0);
      expect(trial.outageMs).toBeGreaterThanOrEqual(recovery!.latencyMs);
      expect(timeless(replay(recovery!.capsule!))).toEqual(timeless(recovery!.plan));
      if (trial.verdict.success)
        expect(trial.verdict.vms.filter((vm) => vm.alive && vm.intact).length).toBeGreaterThan(2);
      verdicts.push(trial.verdict.success);
    }
    expect(verdicts.filter(Boolean).length).toBeGreaterThanOrEqual(RUNS - 1);
  });
});

describe('a guard', () => {
  it('declares a CPU hung that spins in Xen, and recovers it', async () => {
    const events: GuardEvent[] = [];
    const capsuleDir = mkdtempSync(join(dir, 'hang-'));
    const guard = await Guard.attach(target, { capsuleDir, onEvent: (event) => events.push(event) });
    const [cpu] = await freezeInXen(box, target);
    await box.machine.writeRegisters(cpu!, { rip: endlessLoop(target), rflags: RFLAGS_INTERRUPTS_OFF });
    const waited = hostWaitMs();
    const begun = performance.now();
    const recovery = await guard.nextRecovery(30_000);
    const slack = hostWaitMs() - waited;
    expect(recovery).toMatchObject({ result: 'resumed', failure: { kind: 'hang' } });
    expect(recovery!.failure.detectedAtMs - begun).toBeLessThan(300 + slack);
    expect(recovery!.failure.stalledMs).toBeGreaterThan(100);
    expect(events.filter((event) => event.kind === 'failure')).toHaveLength(1);
    expect(timeless(replay(recovery!.capsule!))).toEqual(timeless(recovery!.plan));
    guard.stop();
  });

  it('wakes a CPU that went to sleep with interrupts off', async () => {
    const guard = await Guard.attach(target);
    const before = sampleOf(box);
    const [cpu] = await freezeInXen(box, target);
    const halt = target.xen.symbol('machine_halt');
    const at = halt + BigInt(target.xen.memory.bytes(halt, HALT_WITHIN).indexOf(HLT));
    await box.machine.writeRegisters(cpu!, { rip: at, rflags: RFLAGS_INTERRUPTS_OFF });
    // A CPU that waits for what the sleeper holds may be noticed before it.
    expect(await guard.nextRecovery(30_000)).toMatchObject({ result: 'resumed', failure: { kind: 'hang' } });
    expect(await guard.nextRecovery(2000)).toBeUndefined();
    expect(await lostVms(box, before)).toEqual([]);
    guard.stop();
  });

  it('sees no failure in a healthy box, and leaves it running when it goes', async () => {
    const events: GuardEvent[] = [];
    const before = sampleOf(box);
    const guard = await Guard.attach(target, { onEvent: (event) => events.push(event) });
    expect(await guard.nextRecovery(3000)).toBeUndefined();
    expect(guard.failures).toBe(0);
    guard.stop();
    await guard.run();
    await box.machine.freeze();
    await box.machine.clearBreakpoints();
    await box.machine.resume();
    expect(box.machine.state).toBe('running');
    expect(await lostVms(box, before)).toEqual([]);
    expect(events.map((event) => event.kind).filter((kind) => kind !== 'false-alarm')).toEqual(['watching']);
  });

  it('says so when QEMU is killed in the middle of a recovery, and leaves nothing behind', async () => {
    const { pid } = box.machine;
    const { runtimeDir } = box;
    const guard = await Guard.attach(target, {
      beforeRecovery: async () => {
        process.kill(pid, 'SIGKILL');
        await vi.waitFor(() => expect(isGone(pid)).toBe(true), 5000);
      },
    });
    await injectOnce(target, new Random(SEED), { signal: new AbortController().signal });
    await expect(guard.nextRecovery(10_000)).rejects.toMatchObject({ code: 'NL_QEMU_EXITED' });
    await box.stop();
    expect(existsSync(runtimeDir)).toBe(false);
    await vi.waitFor(() => expect(isGone(pid)).toBe(true), 5000);
    expect(readdirSync('/dev/shm').filter((name) => name.includes(`-${process.pid}-`))).toEqual([]);
  });
});
