/** A campaign on the real box, through the command line: two runs, and a supervisor that is killed between them. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { readCampaign } from '../../src/campaign/folder.js';
import { silent } from '../../src/common/progress.js';
import { openBox } from '../../src/testbed/box.js';
import { cacheFolder } from '../../src/testbed/paths.js';
import { DEFAULT_BOX } from '../../src/testbed/spec.js';

const PROGRAM = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const FILE = `name: two
runs: 2
seed: 20181
fault: {type: failstop}
trigger: {type: timer, delayMs: [50, 600], instructions: [0, 500]}
evidence: {keep: all}
`;
/** A slow or busy host needs most of it. */
const LIMIT_MS = 240_000;

let base: string;
beforeAll(async () => {
  mkdirSync(cacheFolder(), { recursive: true });
  base = mkdtempSync(join(tmpdir(), 'ninelives-campaign-box-'));
  // The snapshot is made here, where the limit is that of a boot.
  await (await openBox(DEFAULT_BOX, silent)).stop();
});
afterAll(() => rmSync(base, { recursive: true, force: true }));

const ninelives = (...words: string[]): ChildProcess =>
  spawn(process.execPath, [PROGRAM, ...words], { stdio: ['ignore', 'pipe', 'inherit'] });

function parentOf(pid: string): number {
  try {
    return Number(readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')[1]!.split(' ')[1]);
  } catch {
    return 0;
  }
}

const childrenOf = (pid: number): number[] =>
  readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && parentOf(name) === pid)
    .map(Number);

function isGone(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')[1]!.startsWith('Z');
  } catch {
    return true;
  }
}

describe('a campaign whose supervisor is killed', () => {
  it('leaves no worker and no QEMU, keeps what was done, and goes on', { timeout: 2 * LIMIT_MS }, async () => {
    const dir = join(base, 'two');
    writeFileSync(join(base, 'two.yaml'), FILE);
    const first = ninelives('campaign', 'run', join(base, 'two.yaml'), '--jobs', '1', '--out', dir, '--json');
    let said = '';
    first.stdout!.on('data', (data: Buffer) => {
      said += data.toString();
    });
    await vi.waitFor(() => expect(said).toContain('"event":"started","worker":0,"run":1'), LIMIT_MS);
    const workers = childrenOf(first.pid!);
    await vi.waitFor(() => expect(workers.flatMap(childrenOf)).toHaveLength(1), 10_000);
    const machines = workers.flatMap(childrenOf);
    first.kill('SIGKILL');
    await vi.waitFor(() => expect([...workers, ...machines].every(isGone)).toBe(true), 5000);
    expect(readCampaign(dir).records.map(({ run }) => run)).toEqual([0]);

    const second = ninelives('campaign', 'resume', dir, '--json');
    second.stdout!.resume();
    expect(await new Promise((resolve) => second.once('exit', resolve))).toBe(0);
    const { records, meta, damage } = readCampaign(dir);
    expect(records.map(({ run }) => run)).toEqual([0, 1]);
    expect(damage).toEqual([]);
    expect(meta.versions).toMatchObject({ xen: expect.stringMatching(/^4\.17/) as string });
    for (const record of records) {
      expect(record).toMatchObject({ outcome: 'detected', point: { what: 'program counter set to 0' } });
      expect(record.latencyMs).toBeGreaterThan(0);
      expect(record.outageMs).toBeGreaterThanOrEqual(record.latencyMs!);
      expect(record.evidence.filter((path) => path.endsWith('.capsule')).length).toBeGreaterThan(0);
      for (const path of record.evidence) expect(existsSync(join(dir, path)), path).toBe(true);
    }
    expect(readdirSync(tmpdir()).filter((name) => workers.some((pid) => name.startsWith(`ninelives-${pid}-`)))).toEqual(
      [],
    );
  });
});
