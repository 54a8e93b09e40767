/**
 * One first recovery of a fresh process, for `recovery-latency`: prints its latency in milliseconds as JSON.
 *
 *     node dist-bench/recovery-cold.js CPUS MEMORY_MIB SEED warm|at-once
 */
import { Random } from '../dist/common/random.js';
import { microreset } from '../dist/recover/microreset/index.js';
import { Rig } from './support/rig.js';

const [cpus, memoryMiB, seed, when] = process.argv.slice(2);
await using rig = await Rig.open(Number(cpus), Number(memoryMiB));
const guard = await rig.guard(microreset);
if (when === 'warm') await guard.warm;
const measured = await rig.fail(microreset, new Random(BigInt(seed ?? 1)));
const { latencyMs, phases, plan } = measured?.recovery ?? {};
const steps = plan?.steps
  .filter(({ durationMs }) => durationMs > 0.5)
  .map(({ name, durationMs }) => [name, durationMs]);
console.log(JSON.stringify({ latencyMs, phases, steps }));
